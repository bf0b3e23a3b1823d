//! Which of the host's CPUs run what of a domain, while it runs and when it starts again.

use super::{Definition, Impact, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::definition::Definition as Tree;
use crate::privsep::op::Op;
use crate::privsep::placement::list;
use crate::privsep::request::Described;

/// What of a device model is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All that are no virtual CPUs.
    Emulator,
    /// One virtual CPU.
    Vcpu(u32),
}

impl Definition {
    /// What runs of a definition that was started, with the CPUs that it was given since.
    pub(super) fn with_pinned(self, described: &Described) -> Self {
        let Some(Op::Spawn(spawn)) = described.plan.ops.last() else { return self };
        let pins = &spawn.placement.pins;
        if self.to_start().map_or(true, |domain| domain.placement.pins == *pins) {
            return self;
        }
        let edited = self.edited(|tree| {
            tree.set_pins(pins);
            Ok(())
        });
        edited.unwrap_or(self)
    }
}

impl Manager {
    /// Has threads of a domain run on these CPUs of the host and on no others.
    pub fn pin(
        &self,
        uuid: DomainUuid,
        impact: Impact,
        threads: Threads,
        cpus: &[u32],
    ) -> Result<(), ManagerError> {
        let text = list(cpus);
        let edit = |tree: &mut Tree| -> Result<(), ManagerError> {
            match threads {
                Threads::Emulator => tree.set_emulator_pin(&text),
                Threads::Vcpu(vcpu) => tree.set_vcpu_pin(vcpu, &text),
            }
            Ok(())
        };
        let call = match threads {
            Threads::Emulator => "DomainPinEmulator",
            Threads::Vcpu(_) => "DomainPinVcpu",
        };
        self.place((uuid, call), impact, edit, |labeller, domain| labeller.pin(uuid, domain.placement.pins))
    }

    /// Moves a virtual CPU that was plugged in to the CPUs that it has by what runs.
    pub(super) fn pin_again(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        let definition = self.live(uuid)?.definition.clone();
        let pins = definition.map(|definition| definition.to_start()).transpose()?;
        match pins.map(|domain| domain.placement.pins).filter(|pins| !pins.is_none()) {
            Some(pins) => {
                let done = self.core.labeller(&self.settings)?.pin(uuid, pins);
                self.sure(uuid, done.map_err(Into::into))
            }
            None => Ok(()),
        }
    }
}
