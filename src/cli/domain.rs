//! What the commands on running domains share: being root, the survey, a domain by name or uuid, its supervisor.

use std::path::Path;
use std::time::{Duration, Instant};

use super::exit::Failure;
use super::labeller::{ensure, failure, running};
use super::{config, privilege};
use crate::driver::{Control, DriverError, Labeller};
use crate::privsep::request::{DomainStatus, Survey};
use crate::privsep::supervisor::Status;
use crate::settings::Settings;

/// A labeller, with this process no longer privileged.
pub(super) struct Host {
    /// The connection; `None` where no labeller runs and none has left a domain behind.
    pub(super) labeller: Option<Labeller>,
}

impl Host {
    /// Connects, and drops privilege. `command` is what a caller who is not root should type.
    pub(super) fn open(config: &Path, command: &str) -> Result<Self, Failure> {
        if !privilege::is_root() {
            return Err(Failure::needs_root(command));
        }
        let settings = config::load(config)?;
        // Domains go on when a labeller is killed: the next one takes them over, and only it knows them.
        let mut labeller = if has_left(&settings) { Some(ensure(&settings, config)?) } else { None };
        privilege::drop_all(&settings)?;
        if labeller.is_none() {
            labeller = running(&settings)?;
        }
        Ok(Self { labeller })
    }

    /// Every running domain.
    pub(super) fn survey(&mut self) -> Result<Survey, Failure> {
        match &mut self.labeller {
            None => Ok(Survey::default()),
            Some(labeller) => labeller.survey().map_err(|error| failure(&error)),
        }
    }

    /// The running domain with this name or uuid, and the labeller that knows it.
    pub(super) fn find(&mut self, name: &str) -> Result<(&mut Labeller, DomainStatus), Failure> {
        let found = find(&self.survey()?.domains, name).cloned();
        match (&mut self.labeller, found) {
            (Some(labeller), Some(found)) => Ok((labeller, found)),
            _ => Err(Failure::no_domain(name)),
        }
    }
}

/// Whether there is a journal, and so a domain that may run.
fn has_left(settings: &Settings) -> bool {
    std::fs::read_dir(Path::new(&settings.paths.state).join("journal"))
        .is_ok_and(|mut entries| entries.next().is_some())
}

/// By name first: a name may look like somebody else's uuid, and names are what people type.
fn find<'a>(domains: &'a [DomainStatus], name: &str) -> Option<&'a DomainStatus> {
    domains
        .iter()
        .find(|status| status.domain.name.as_str() == name)
        .or_else(|| domains.iter().find(|status| status.domain.uuid.to_string() == name.to_ascii_lowercase()))
}

/// Connects to a domain's supervisor.
pub(super) fn control(status: &DomainStatus) -> Result<Control, Failure> {
    Control::connect(&status.control).map_err(|error| failure(&error))
}

/// How long a supervisor has for its state where it is one of many things to show. One that is stopped or taken over shall
/// not hold up what is known of the rest; one on a host that is far too busy shall not be called so.
const SOON: Duration = Duration::from_secs(5);

/// What a supervisor says of its domain, or that it does not say it soon.
pub(super) fn ask_soon(status: &DomainStatus) -> Result<Status, DriverError> {
    Control::connect_by(&status.control, Instant::now() + SOON)?.status()
}
