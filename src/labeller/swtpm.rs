//! How swtpm is started: one channel to QEMU and one file, both as descriptors. It makes no names, listens nowhere
//! and loads a filter of its own on top of the floor.

use crate::privsep::op::TpmVersion;

/// The descriptor of the channel in swtpm.
pub(super) const CHANNEL: i32 = 3;
/// The descriptor of its state.
pub(super) const STATE: i32 = 4;

/// swtpm's arguments. It ends when QEMU closes its end of the channel.
pub(super) fn argv(version: TpmVersion) -> Vec<String> {
    let state = format!("backend-uri=file:///proc/self/fd/{STATE}");
    let control = format!("type=unixio,clientfd={CHANNEL}");
    let tpm2 = (version == TpmVersion::V2_0).then_some("--tpm2");
    let words =
        ["--tpmstate", &state, "--ctrl", &control, "--terminate", "--seccomp", "action=kill"].into_iter();
    ["swtpm", "socket"].into_iter().chain(tpm2).chain(words).map(ToOwned::to_owned).collect()
}
