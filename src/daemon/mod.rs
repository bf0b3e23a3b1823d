//! What svirt's daemons have in common as programs: their options, their log, and how they end. It knows nothing of
//! what they do.
#![forbid(unsafe_code)]

mod log;

use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use lexopt::{Arg, Error, Parser, ValueExt};

use crate::sys::inherit;

/// Exit code of a command line that cannot be read.
const USAGE: u8 = 2;

/// The options that every daemon has.
#[derive(Debug, Default)]
pub struct Common {
    /// `--config FILE`: the configuration, if not the default one.
    pub config: Option<String>,
    /// `--ready-fd N`: gets a newline once clients are served.
    pub ready: Option<OwnedFd>,
}

/// One daemon as a program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name, in front of what it says.
    pub name: &'static str,
    /// What `--help` prints.
    pub usage: &'static str,
}

impl Program {
    /// Sends the log to standard error, and reads the arguments. `own` takes those that only this daemon has, and
    /// says whether it knows one by its long name. Where there is nothing to serve, the exit code.
    ///
    /// Call it first of all: an inherited descriptor is taken by its number.
    pub fn begin(
        self,
        own: impl FnMut(&str, &mut Parser) -> Result<bool, Error>,
    ) -> Result<Common, ExitCode> {
        log::to_stderr();
        match options(Parser::from_env(), own) {
            Ok(Some(common)) => Ok(common),
            Ok(None) => {
                println!("{}", self.usage);
                Err(ExitCode::SUCCESS)
            }
            Err(error) => {
                eprintln!("{}: {error}\n{}", self.name, self.usage);
                Err(ExitCode::from(USAGE))
            }
        }
    }

    /// The exit code for how it ended; says what went wrong.
    pub fn end<E: Display>(self, served: Result<ExitCode, E>) -> ExitCode {
        served.unwrap_or_else(|error| {
            eprintln!("{}: {error}", self.name);
            ExitCode::FAILURE
        })
    }
}

/// Reads all arguments; `None` where help was asked for.
fn options(
    mut arguments: Parser,
    mut own: impl FnMut(&str, &mut Parser) -> Result<bool, Error>,
) -> Result<Option<Common>, Error> {
    let mut common = Common::default();
    while let Some(argument) = arguments.next()? {
        let name = match argument {
            Arg::Long(name) => name.to_owned(),
            Arg::Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        };
        match name.as_str() {
            "config" => common.config = Some(arguments.value()?.string()?),
            "ready-fd" => common.ready = Some(claim(&arguments.value()?.string()?)?),
            "help" => return Ok(None),
            name if own(name, &mut arguments)? => {}
            name => return Err(Error::UnexpectedOption(format!("--{name}"))),
        }
    }
    Ok(Some(common))
}

fn claim(number: &str) -> Result<OwnedFd, Error> {
    let parsed = number.parse().map_err(|_| format!("{number:?} is no descriptor"))?;
    Ok(inherit::claim(parsed).map_err(|error| format!("descriptor {number}: {error}"))?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> (Result<Option<Common>, String>, Vec<String>) {
        let mut seen = Vec::new();
        let own = |name: &str, arguments: &mut Parser| {
            if name == "own" {
                seen.push(arguments.value()?.string()?);
            }
            Ok(name == "own")
        };
        let read = options(Parser::from_args(words), own).map_err(|error| error.to_string());
        (read, seen)
    }

    #[test]
    fn common_options_and_own_ones_stand_in_any_order() {
        let (common, own) = read(&["--own", "a", "--config=f", "--own=b"]);
        assert_eq!(common.unwrap().unwrap().config.as_deref(), Some("f"));
        assert_eq!(own, ["a", "b"]);
        assert!(read(&["--own", "a", "-h"]).0.unwrap().is_none());
        assert!(read(&["--help", "--nonsense"]).0.unwrap().is_none());
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (words, named) in [
            (&["--nonsense"][..], "--nonsense"),
            (&["-x"], "-x"),
            (&["word"], "word"),
            (&["--config"], "--config"),
            (&["--own"], "--own"),
            (&["--ready-fd", "none"], "\"none\" is no descriptor"),
            (&["--ready-fd", "1"], "descriptor 1"),
        ] {
            let said = read(words).0.unwrap_err();
            assert!(said.contains(named), "{words:?}: {said}");
        }
    }
}
