//! A running guest's memory that is written down, and what becomes of the guest afterwards.

use std::sync::PoisonError;

use super::save::most;
use super::{Manager, ManagerError};
use crate::base::DomainUuid;
use crate::privsep::ask::Ask;
use crate::privsep::dump::{Dump, DumpFormat};
use crate::privsep::supervisor::Verb;

/// What becomes of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It goes on as before.
    GoesOn,
    /// It is reset.
    Reset,
    /// It is ended, as one that crashed.
    Ends,
}

impl Manager {
    /// Writes a running domain's memory into a file that a person named.
    pub fn dump(
        &self,
        uuid: DomainUuid,
        path: &str,
        format: DumpFormat,
        then: Afterwards,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = domain.job.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live(uuid)?;
        let lacks = || ManagerError::state("svirtd has no definition of what runs");
        let definition = live.definition.as_ref().ok_or_else(lacks)?;
        let most = most(&definition.to_start()?);
        self.core.labeller(&self.settings)?.dump(uuid, Dump { path: path.into(), format, most })?;
        match then {
            Afterwards::GoesOn => {}
            Afterwards::Reset => {
                self.core.order(&live.control, &Verb::Ask(Ask::Reset))?;
            }
            Afterwards::Ends => {
                let ended = self.core.kill(uuid, &self.settings)?;
                self.ended(uuid, live.id, ended.as_ref());
            }
        }
        Ok(())
    }
}
