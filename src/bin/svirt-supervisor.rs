//! Watches over one domain's device model. Started by svirt-labeller with fixed descriptors, never by hand.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    svirt::supervisor::run().into()
}
