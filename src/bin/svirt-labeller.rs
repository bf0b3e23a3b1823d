//! `svirt-labeller`: the privileged process. See `svirt::labeller`.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use svirt::labeller::{Options, guarded, run};
use svirt::sys::inherit;

const USAGE: &str = "\
Usage: svirt-labeller [--config FILE] [--socket PATH] [--on-demand] [--ready-fd N]

Applies start plans for svirt: the only part that runs as root. It listens on PATH
(labeller.sock in the run directory) for root and for the uid of uids.frontend.

  --config FILE   configuration (/etc/svirt/svirt.toml)
  --socket PATH   where to listen
  --on-demand     leave some seconds after the last domain and client are gone, and
                  until then start another one whenever this one is killed
  --ready-fd N    write a newline to this descriptor once the socket listens

SVIRT_LOG chooses what is logged, such as debug or svirt::labeller=trace.";

/// Standard error, one line an event: what clients and supervisors said may be in it, and neither ends the line nor
/// reaches the terminal of who reads the log.
struct Log;

impl Write for Log {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let plain = |c: char| if c.is_control() && c != '\t' { ' ' } else { c };
    let mut line: String = text.trim_end_matches('\n').chars().map(plain).collect();
    line.push('\n');
    line.into_bytes()
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SVIRT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Log).with_ansi(false).init();
    let options = match options(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("svirt-labeller: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let served = if options.on_demand { guarded(options) } else { run(options).map(|()| 0) };
    match served {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("svirt-labeller: {error}");
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
            "--socket" => options.socket = Some(PathBuf::from(value()?)),
            "--on-demand" => options.on_demand = true,
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

#[cfg(test)]
mod tests {
    #[test]
    fn an_event_is_one_harmless_line() {
        let line = super::one_line("a\x1b[2J\0b\nERROR forged\u{9b}1m\n".as_bytes());
        assert_eq!(line, b"a [2J b ERROR forged 1m\n");
    }
}
