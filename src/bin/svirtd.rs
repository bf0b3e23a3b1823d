//! `svirtd`: the daemon that clients of libvirt's talk to. See `svirt::server`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use svirt::daemon::Program;
use svirt::server::{Options, run};

const USAGE: &str = "\
Usage: svirtd [--config FILE] [--ready-fd N]

Serves libvirt's clients (virsh, virt-install, the libraries) at svirt-sock in the run
directory. Started as root, it gives that up before it reads what anybody sent. It needs
a running svirt-labeller, which is the part that starts and ends domains.

  --config FILE   configuration (/etc/svirt/svirt.toml)
  --ready-fd N    write a newline to this descriptor once clients are served

Sockets are taken over from systemd (LISTEN_FDS), and systemd is told when clients are
served (NOTIFY_SOCKET). SVIRT_LOG chooses what is logged, such as debug.";

fn main() -> ExitCode {
    let program = Program { name: "svirtd", usage: USAGE };
    match program.begin(|_, _| Ok(false)) {
        Ok(common) => {
            let options = Options { config: common.config, ready: common.ready };
            program.end(run(options).map(|()| ExitCode::SUCCESS))
        }
        Err(code) => code,
    }
}
