//! Domains that are nothing but memory, for people who write tools: libvirt's test driver.
//!
//! Everything of a domain's life happens and is told, and nothing runs. A guest obeys at once.

use std::time::Instant;

use super::{Begun, Core, Definition, Label, Manager, ManagerError, StartFlags, Wanted};
use crate::base::DomainUuid;
use crate::conf::definition::{Choices, Strictness};
use crate::driver::{Control, Labeller};
use crate::privsep::supervisor::{Ended, Verb};
use crate::settings::Settings;

/// The domain that runs from the beginning, as libvirt 9.0's `test:///default` has it.
const DEFAULT: &str = include_str!("test.xml");

/// Runs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Memory;

impl Core for Memory {
    fn start(&self, _wanted: &Wanted<'_>) -> Result<Begun, ManagerError> {
        let label =
            Label { model: "testSecurity", label: "libvirt-test".into(), image: None, enforcing: true };
        Ok(Begun { labels: vec![label], ..Begun::default() })
    }

    fn kill(&self, _uuid: DomainUuid, _settings: &Settings) -> Result<Option<Ended>, ManagerError> {
        Ok(Some(Ended { code: None, signal: Some(9), reason: None, stderr: String::new() }))
    }

    fn order(&self, _control: &str, verb: &Verb) -> Result<Option<Ended>, ManagerError> {
        match verb {
            Verb::Pause | Verb::Resume => Ok(None),
            Verb::Shutdown => {
                Ok(Some(Ended { code: Some(0), signal: None, reason: None, stderr: String::new() }))
            }
            _ => Err(lacks()),
        }
    }

    fn control(&self, _control: &str, _until: Option<Instant>) -> Result<Control, ManagerError> {
        Err(lacks())
    }

    fn labeller(&self, _settings: &Settings) -> Result<Labeller, ManagerError> {
        Err(lacks())
    }

    fn tells_between(&self) -> bool {
        false
    }

    fn opens_files(&self) -> bool {
        false
    }
}

fn lacks() -> ManagerError {
    ManagerError::Unsupported("the test driver has no device model that could do this".into())
}

impl Manager {
    /// Defines and starts the domain that the test driver has from the beginning.
    pub fn furnish(&self) -> Result<(), ManagerError> {
        // Its own uuid stands in it.
        let definition = Definition::read(
            DEFAULT,
            DomainUuid(uuid::Uuid::nil()),
            Strictness::Strict,
            &Choices::default(),
        )?;
        let uuid = self.define(definition, 0)?.uuid;
        self.start(uuid, StartFlags::default()).map(|_| ())
    }
}
