//! The `svirt` program: reads the command line, runs one command, prints what a person needs.
//!
//! Started as root it opens what only root can open, makes sure that a labeller runs, and gives up every
//! privilege before it parses anything that somebody else wrote.
#![forbid(unsafe_code)]

mod appliance;
pub mod args;
mod attach;
mod capabilities;
mod config;
mod console;
mod definition;
mod deposit;
mod domain;
pub mod exit;
mod inspect;
mod label;
mod labeller;
mod list;
pub mod output;
mod pages;
mod plan;
mod privilege;
mod probe;
mod run;
mod stop;
mod terminal;
mod validate;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};
use exit::Failure;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    // clap prints usage errors itself and ends with 2, help and version with 0.
    let args = Args::parse();
    output::choose(args.color);
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure);
            ExitCode::from(failure.code() as u8)
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Capabilities(wanted) => capabilities::run(wanted, &config::load(&args.config)?, args.quiet),
        Command::CheckAppliance(wanted) => appliance::run(wanted, &config::load(&args.config)?, args.quiet),
        Command::DomCapabilities(wanted) => {
            capabilities::domain(wanted, &config::load(&args.config)?, args.quiet)
        }
        Command::Completions(wanted) => pages::completions(wanted),
        Command::Config(command) => config::run(command, &args.config, args.quiet),
        Command::Format(wanted) => validate::format(wanted, &args.config, args.quiet),
        Command::Inspect(wanted) => inspect::run(wanted, &config::load(&args.config)?),
        Command::Console(wanted) => console::run(wanted, &args.config, args.quiet),
        Command::Label(args::Label::Translate(wanted)) => label::translate(wanted, &args.config),
        Command::Label(args::Label::Plan(wanted)) => label::plan(wanted, &args.config),
        Command::List(list) => list::run(list, &args.config),
        Command::Man(wanted) => pages::man(wanted),
        Command::Plan(wanted) => plan::run(wanted, &args.config),
        Command::Run(wanted) => run::run(wanted, &args.config, args.quiet),
        Command::Schema => validate::schema(),
        Command::Stop(stop) => stop::run(stop, &args.config, args.quiet),
        Command::Validate(wanted) => validate::run(wanted, &args.config, args.quiet),
        Command::Neighbour { label } => probe::neighbour(label.as_deref()),
        Command::Probe(wanted) => probe::run(wanted, &config::load(&args.config)?),
    }
}
