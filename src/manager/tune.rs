//! What a domain is tuned to, while it runs and when it starts again.

use super::{Definition, Impact, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::definition::Definition as Tree;
use crate::conf::domain::Domain;
use crate::driver::{DriverError, Labeller, tuned};
use crate::privsep::ask::Ask;
use crate::privsep::op::Op;
use crate::privsep::request::Described;
use crate::privsep::supervisor::{Lifecycle, LifecycleAction};

impl Definition {
    /// What runs of a definition that was started, with what it was tuned to since.
    pub(super) fn with_tuned(self, described: &Described) -> Self {
        let limits = described.plan.ops.iter().find_map(|op| match op {
            Op::Cgroup(limits) => Some(limits.tuning),
            _ => None,
        });
        let Some(tuning) = limits else { return self };
        let Some(Op::Spawn(spawn)) = described.plan.ops.last() else { return self };
        let lifecycle = spawn.supervisor.lifecycle;
        if self.to_start().map_or(true, |domain| domain.tuning == tuning && actions(&domain) == lifecycle) {
            return self;
        }
        let edited = self.edited(|tree| {
            tree.set_tuning(&tuning);
            let Lifecycle { on_poweroff, on_reboot, on_crash } = lifecycle;
            for (event, action) in
                [("on_poweroff", on_poweroff), ("on_reboot", on_reboot), ("on_crash", on_crash)]
            {
                tree.set_action(event, word(action));
            }
            Ok(())
        });
        edited.unwrap_or(self)
    }
}

/// What becomes of a domain by its definition.
pub(super) fn actions(domain: &Domain) -> Lifecycle {
    Lifecycle { on_poweroff: domain.on_poweroff, on_reboot: domain.on_reboot, on_crash: domain.on_crash }
}

/// Refuses what would end a guest that is to start again: where a reboot ends it, QEMU takes each reset for one, its
/// firmware's at the start too.
fn restarts(lifecycle: Lifecycle) -> Result<(), ManagerError> {
    use LifecycleAction::Restart;
    let again = lifecycle.on_poweroff == Restart || lifecycle.on_crash == Restart;
    if again && lifecycle.on_reboot != Restart {
        let text = "'restart' for on_poweroff or on_crash needs on_reboot='restart'";
        return Err(ManagerError::Operation(text.into()));
    }
    Ok(())
}

fn word(action: LifecycleAction) -> &'static str {
    match action {
        LifecycleAction::Destroy => "destroy",
        LifecycleAction::Preserve => "preserve",
        LifecycleAction::Restart => "restart",
    }
}

impl Manager {
    /// Sets what becomes of a domain when its guest powers off, reboots or crashes.
    pub fn set_lifecycle(
        &self,
        uuid: DomainUuid,
        impact: Impact,
        event: &str,
        action: &str,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainSetLifecycleAction")?;
        let edit = |tree: &mut Tree| -> Result<(), ManagerError> {
            tree.set_action(event, action);
            Ok(())
        };
        if impact.config {
            // What could not be started is not kept.
            restarts(actions(&self.kept(&domain)?.edited(edit)?.to_start()?))?;
            self.may_edit(uuid, edit)?;
        }
        if impact.live {
            let live = self.live(uuid)?;
            let lacks = || ManagerError::state("svirtd has no definition of what runs");
            let definition = live.definition.as_ref().ok_or_else(lacks)?;
            let now = actions(&definition.edited(edit)?.to_start()?);
            restarts(now)?;
            self.act_by(uuid, actions(&definition.to_start()?), now)?;
            self.replace_live(uuid, None, edit)?;
        }
        if impact.config {
            self.edit(uuid, edit)?;
        }
        Ok(())
    }

    /// Has QEMU and its supervisor act by other actions. They are noted before that, as what holds for every supervisor
    /// that follows: whoever is lost in between has promised nobody what a successor would not do.
    fn act_by(&self, uuid: DomainUuid, before: Lifecycle, lifecycle: Lifecycle) -> Result<(), ManagerError> {
        let mut labeller = self.core.labeller(&self.settings)?;
        labeller.note_lifecycle(uuid, lifecycle)?;
        let asked = self.sure(uuid, self.ask(uuid, Ask::SetLifecycle { lifecycle }));
        if let Err(ManagerError::Driver(DriverError::Refusal(_))) = &asked
            && let Err(error) = labeller.note_lifecycle(uuid, before)
        {
            tracing::error!(%uuid, %error, "actions that QEMU refused are noted for the supervisors that follow");
        }
        asked.map(drop)
    }

    /// Notes where a domain's memory lies, in what runs and in what is kept. A device model is told when it starts: of what
    /// runs only what is so already may be noted.
    pub fn note_numa(
        &self,
        uuid: DomainUuid,
        impact: Impact,
        mode: Option<&str>,
        nodes: Option<&str>,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainSetNumaParameters")?;
        let edit = |tree: &mut Tree| -> Result<(), ManagerError> {
            tree.set_numa(mode, nodes);
            Ok(())
        };
        // What cannot be done to the one is not done to the other either.
        let edited = if impact.live { Some(self.edited_live(uuid, edit)?) } else { None };
        if impact.config {
            self.edit(uuid, edit)?;
        }
        edited.map_or(Ok(()), |edited| self.put_live(uuid, edited))
    }

    /// Changes what a domain is tuned to.
    pub fn tune(
        &self,
        uuid: DomainUuid,
        impact: Impact,
        edit: impl Fn(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        let call = "DomainSetSchedulerParameters";
        self.place((uuid, call), impact, edit, |labeller, domain| labeller.tune(uuid, tuned(&domain)))
    }

    /// Changes something of a definition that the labeller puts into force. What cannot be kept is not put into force
    /// either.
    pub(super) fn place(
        &self,
        (uuid, call): (DomainUuid, &'static str),
        impact: Impact,
        edit: impl Fn(&mut Tree) -> Result<(), ManagerError>,
        force: impl FnOnce(&mut Labeller, Domain) -> Result<(), DriverError>,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, call)?;
        if impact.config {
            self.may_edit(uuid, &edit)?;
        }
        if impact.live {
            let live = self.live(uuid)?;
            let lacks = || ManagerError::state("svirtd has no definition of what runs");
            let definition = live.definition.as_ref().ok_or_else(lacks)?;
            let now = definition.edited(&edit)?.to_start()?;
            let done = force(&mut self.core.labeller(&self.settings)?, now);
            self.sure(uuid, done.map_err(Into::into))?;
            self.replace_live(uuid, None, &edit)?;
        }
        if impact.config {
            self.edit(uuid, &edit)?;
        }
        Ok(())
    }
}
