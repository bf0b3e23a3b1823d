//! `svirt console`: attaches to a console of a running domain.

use std::path::Path;

use super::args::Console;
use super::attach::{self, Detached};
use super::domain::{Host, control};
use super::exit::{Code, Failure};
use super::labeller::failure;
use super::output;

/// Runs `svirt console`.
pub(super) fn run(wanted: &Console, config: &Path, quiet: bool) -> Result<(), Failure> {
    let mut host = Host::open(config, &format!("svirt console {}", wanted.domain))?;
    let signals = attach::signals()?;
    let (_, status) = host.find(&wanted.domain)?;
    let (alias, stream, early) =
        control(&status)?.console(wanted.alias.clone(), wanted.force).map_err(|error| failure(&error))?;
    let greeting = if quiet {
        String::new()
    } else {
        format!("attached to {alias} of {}; ^] leaves it", status.domain.name)
    };
    let end = attach::attach(&stream, &greeting, &early, &signals, None, false)?;
    match end {
        Detached::Escape | Detached::Closed => {
            if !quiet && attach::interactive() {
                output::note("left the console");
            }
            Ok(())
        }
        Detached::Interrupt => Err(Failure::Ended(Code::Interrupted, String::new())),
        Detached::Terminate => Err(Failure::Ended(Code::Terminated, String::new())),
    }
}
