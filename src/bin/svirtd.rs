//! `svirtd`: the daemon that clients of libvirt's talk to. See `svirt::server`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use svirt::server::{Options, run};
use svirt::sys::inherit;

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
    let filter = tracing_subscriber::EnvFilter::try_from_env("SVIRT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let options = match options(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("svirtd: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("svirtd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the arguments; `None` where help was asked for.
fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options::default();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--config" => options.config = Some(value()?),
            "--ready-fd" => {
                let number = value()?;
                let number = number.parse().map_err(|_| format!("{number:?} is no descriptor"))?;
                let fd = inherit::claim(number).map_err(|error| format!("descriptor {number}: {error}"))?;
                options.ready = Some(fd);
            }
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("what is {other:?}?")),
        }
    }
    Ok(Some(options))
}
