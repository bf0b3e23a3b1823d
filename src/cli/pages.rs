//! `svirt completions` and `svirt man`: both made from the one definition of the command line.

use std::io::Write as _;

use clap::CommandFactory as _;

use super::args::{Args, Completions, Man};
use super::exit::{Code, Failure};

/// Prints a completion script.
pub(super) fn completions(wanted: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(wanted.shell, &mut Args::command(), "svirt", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}

/// Prints a manual page in roff.
pub(super) fn man(wanted: &Man) -> Result<(), Failure> {
    let mut command = Args::command();
    // Gives every subcommand its full name, such as `svirt-run`.
    command.build();
    let command = match &wanted.command {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| Failure::Plain {
            code: Code::Usage,
            message: format!("there is no subcommand {name:?}"),
            remedy: "`svirt --help` lists them".into(),
        })?,
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(std::io::stdout().lock().write_all(&page)?)
}
