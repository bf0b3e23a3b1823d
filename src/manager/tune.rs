//! What a domain is tuned to, while it runs and when it starts again.

use std::sync::PoisonError;

use super::{Definition, Impact, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::definition::Definition as Tree;
use crate::driver::tuned;
use crate::privsep::op::Op;
use crate::privsep::request::Described;

impl Definition {
    /// What runs of a definition that was started, with what it was tuned to since.
    pub(super) fn with_tuned(self, described: &Described) -> Self {
        let limits = described.plan.ops.iter().find_map(|op| match op {
            Op::Cgroup(limits) => Some(limits.tuning),
            _ => None,
        });
        let Some(tuning) = limits else { return self };
        if self.to_start().map_or(true, |domain| domain.tuning == tuning) {
            return self;
        }
        let edited = self.edited(|tree| {
            tree.set_tuning(&tuning);
            Ok(())
        });
        edited.unwrap_or(self)
    }
}

impl Manager {
    /// Changes what a domain is tuned to. What cannot be kept is not put into force either.
    pub fn tune(
        &self,
        uuid: DomainUuid,
        impact: Impact,
        edit: impl Fn(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = domain.job.lock().unwrap_or_else(PoisonError::into_inner);
        if impact.config {
            self.definition(&domain)?.edited(&edit)?;
        }
        if impact.live {
            let live = self.live(uuid)?;
            let lacks = || ManagerError::state("svirtd has no definition of what runs");
            let definition = live.definition.as_ref().ok_or_else(lacks)?;
            let limits = tuned(&definition.edited(&edit)?.to_start()?);
            self.core.labeller(&self.settings)?.tune(uuid, limits)?;
            self.replace_live(uuid, None, &edit)?;
        }
        if impact.config {
            self.edit(uuid, &edit)?;
        }
        Ok(())
    }
}
