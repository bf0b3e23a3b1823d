//! The boundary between a manager and what runs its domains.

use std::time::Instant;

use super::{Definition, Label, ManagerError};
use crate::conf::facts::HostFacts;
use crate::driver::{Control, Labeller};
use crate::privsep::save::Restore;
use crate::privsep::supervisor::{Ended, Verb};
use crate::settings::Settings;

/// What is to be started, and on which host.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What it is defined as.
    pub definition: &'a Definition,
    /// Its number.
    pub id: i32,
    /// Whether its virtual CPUs stay stopped.
    pub paused: bool,
    /// What it goes on from, where it was saved.
    pub restore: Option<&'a Restore>,
    /// The host.
    pub facts: &'a HostFacts,
    /// The configuration.
    pub settings: &'a Settings,
}

/// What was started.
#[derive(Clone, Debug, Default)]
pub struct Begun {
    /// By what [`Core::control`] finds it again.
    pub control: String,
    /// Its labels, the first model first.
    pub labels: Vec<Label>,
    /// Its cgroup below the mount, where there is one.
    pub cgroup: Option<String>,
    /// Consoles and their terminals.
    pub consoles: Vec<(String, Option<String>)>,
    /// Where its displays listen, its tap devices and its vsock's number, by the names of the plan.
    pub listening: Vec<(String, String)>,
}

/// What runs the domains of one view. Called on threads that may wait, and from several at once; the manager sees to it
/// that starts and changes of one domain come one after another.
pub trait Core: Send + Sync {
    /// Starts a domain; returns once its guest runs.
    fn start(&self, wanted: &Wanted<'_>) -> Result<Begun, ManagerError>;

    /// Ends a domain without asking its guest; `None` where it was gone already.
    fn kill(&self, uuid: crate::base::DomainUuid, settings: &Settings)
    -> Result<Option<Ended>, ManagerError>;

    /// Has something done that is done or refused. How the domain ended, where that ended it at once.
    fn order(&self, control: &str, verb: &Verb) -> Result<Option<Ended>, ManagerError>;

    /// Whoever looks after a running domain, for what only a device model can do: each request has its time, or all
    /// have together until then.
    fn control(&self, control: &str, until: Option<Instant>) -> Result<Control, ManagerError>;

    /// Who opens and labels what is plugged into a running domain.
    fn labeller(&self, settings: &Settings) -> Result<Labeller, ManagerError>;

    /// Whether a start and an end are told in several steps, as a device model goes through them.
    fn tells_between(&self) -> bool;

    /// Whether anything of the host is opened that a definition names.
    fn opens_files(&self) -> bool;
}
