//! Who is told, and what runs domains, in tests of the manager.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::{Begun, Core, Event, ManagerError, Memory, Sink, Wanted, What};
use crate::base::DomainUuid;
use crate::driver::{Control, Labeller};
use crate::privsep::supervisor::{Ended, Verb};
use crate::settings::Settings;

/// Hears nothing.
pub(super) struct Deaf;

impl Sink for Deaf {
    fn tell(&self, _event: &Event) {}
}

/// Remembers what it hears.
#[derive(Default)]
pub(super) struct Heard(Mutex<Vec<What>>);

impl Heard {
    /// What was heard since this was asked last.
    pub(super) fn taken(&self) -> Vec<What> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sink for Heard {
    fn tell(&self, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.what.clone());
    }
}

type Orders = dyn Fn(&Verb) -> Result<Option<Ended>, ManagerError> + Send + Sync;
type Reaches = dyn Fn(Option<Instant>) -> Result<Control, ManagerError> + Send + Sync;
type Asks = dyn Fn() -> Result<Labeller, ManagerError> + Send + Sync;

/// Nothing but memory, but for whoever is played.
pub(super) struct Played {
    /// A supervisor that is ordered something.
    pub(super) order: Box<Orders>,
    /// The way to a supervisor.
    pub(super) control: Box<Reaches>,
    /// The way to a labeller.
    pub(super) labeller: Box<Asks>,
}

impl Default for Played {
    fn default() -> Self {
        Self {
            order: Box::new(|verb| Memory.order("", verb)),
            control: Box::new(|until| Memory.control("", until)),
            labeller: Box::new(|| Memory.labeller(&Settings::default())),
        }
    }
}

impl Core for Played {
    fn start(&self, wanted: &Wanted<'_>) -> Result<Begun, ManagerError> {
        Memory.start(wanted)
    }

    fn kill(&self, uuid: DomainUuid, settings: &Settings) -> Result<Option<Ended>, ManagerError> {
        Memory.kill(uuid, settings)
    }

    fn order(&self, _control: &str, verb: &Verb) -> Result<Option<Ended>, ManagerError> {
        (self.order)(verb)
    }

    fn control(&self, _control: &str, until: Option<Instant>) -> Result<Control, ManagerError> {
        (self.control)(until)
    }

    fn labeller(&self, _settings: &Settings) -> Result<Labeller, ManagerError> {
        (self.labeller)()
    }

    fn tells_between(&self) -> bool {
        false
    }

    fn opens_files(&self) -> bool {
        false
    }
}
