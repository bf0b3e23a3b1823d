//! The command line that a definition comes to. Nothing is opened, asked or started for it.

use super::DriverError;
use super::start::{Begin, draw, prepare_unread};
use crate::base::{Layer, Refusal};
use crate::conf::domain::Domain;
use crate::conf::facts::HostFacts;
use crate::plan::chain::{Found, Prober};
use crate::privsep::op::{FileIdentity, Op};
use crate::privsep::request::Survey;
use crate::settings::Settings;

/// Looks at no file: disks have the layers that the definition names.
struct Unread;

fn unread(path: &str) -> Refusal {
    let rule = "nothing is opened to write a command line";
    Refusal::new(Layer::Policy, "read", path.to_owned(), rule, "start the domain")
}

impl Prober for Unread {
    fn probe(&mut self, path: &str) -> Result<Found, Refusal> {
        Err(unread(path))
    }

    fn directory(&mut self, path: &str) -> Result<FileIdentity, Refusal> {
        Err(unread(path))
    }
}

/// Variables of an environment, and arguments, the program first.
pub type CommandLine = (Vec<(String, String)>, Vec<String>);

/// The environment and the arguments of the device model that this domain would be started as. Descriptors stand in them
/// by their numbers: whoever has not opened them cannot run it.
pub fn command_line(
    domain: Domain,
    host: &HostFacts,
    settings: &Settings,
) -> Result<CommandLine, DriverError> {
    let (prepared, _) = prepare_unread(domain, settings, &mut Unread);
    let plan = prepared.plan(host, settings, &Survey::default(), draw(), Begin::default())?;
    match plan.ops.into_iter().next_back() {
        Some(Op::Spawn(spawn)) => Ok((spawn.env, spawn.argv)),
        _ => Err(DriverError::Protocol("the plan starts no device model".into())),
    }
}
