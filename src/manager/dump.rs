//! A running guest's memory that is written down, and what becomes of the guest afterwards.

use std::sync::Arc;

use super::job::Job;
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
    /// Writes a running domain's memory into a file that a person named. `user` is the uid whose file it is counted as.
    pub fn dump(
        &self,
        uuid: DomainUuid,
        (path, user): (&str, u32),
        format: DumpFormat,
        then: Afterwards,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainCoreDump")?;
        let live = self.live(uuid)?;
        let id = live.id;
        let lacks = || ManagerError::state("svirtd has no definition of what runs");
        let definition = live.definition.as_ref().ok_or_else(lacks)?;
        let most = most(&definition.to_start()?);
        let mut labeller = self.core.labeller(&self.settings)?;
        self.begin_job(uuid, Job::dump());
        let dumped = labeller.dump(uuid, Dump { path: path.into(), format, most, user });
        self.end_job(uuid, None);
        dumped?;
        match then {
            Afterwards::GoesOn => {}
            Afterwards::Reset => {
                self.core.order(&live.control, &Verb::Ask(Ask::Reset))?;
                self.stand_after_crash(uuid, id);
            }
            Afterwards::Ends => {
                if let Some(live) = self.table().get(uuid).and_then(|domain| domain.live.as_mut())
                    && live.id == id
                {
                    Arc::make_mut(live).crashes = true;
                }
                let ended = self.core.kill(uuid, &self.settings)?;
                self.ended(uuid, id, ended.as_ref());
            }
        }
        Ok(())
    }
}
