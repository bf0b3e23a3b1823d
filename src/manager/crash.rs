//! What becomes of a domain whose guest has panicked and that `<on_crash>` does not end.

use std::sync::Arc;

use super::happen::PAUSED_CRASHED;
use super::table::State;
use super::{Domain, Lifecycle, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::privsep::ask::Ask;

/// libvirt's reason: it goes on after a crash.
const RUNNING_CRASHED: i32 = 9;

impl Manager {
    /// Resets the guest; one that has panicked stands until somebody lets it go on.
    pub fn reset(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        // Not while its memory is written down: QEMU would not survive that.
        let _job = self.change(&domain.job, "DomainReset")?;
        let id = self.live(uuid)?.id;
        self.ask(uuid, Ask::Reset)?;
        self.stand_after_crash(uuid, id);
        Ok(())
    }

    /// Notes of a guest that has panicked that it only stands now.
    pub(super) fn stand_after_crash(&self, uuid: DomainUuid, id: i32) {
        self.after_crash(uuid, id, State::Paused(PAUSED_CRASHED));
    }

    /// A guest's virtual CPUs go on: after a panic, because its supervisor has reset it as `<on_crash>` says.
    pub(super) fn revived(&self, uuid: DomainUuid, id: i32) {
        if let Some(domain) = self.after_crash(uuid, id, State::Running(RUNNING_CRASHED)) {
            self.tell(&domain, Lifecycle::Unpaused);
        }
    }

    /// Takes that back: whoever wanted it to go on was told that it does not.
    pub(super) fn crashed_still(&self, uuid: DomainUuid, id: i32) {
        let mut table = self.table();
        let live = table.get(uuid).and_then(|domain| domain.live.as_mut());
        let stands = State::Paused(PAUSED_CRASHED);
        if let Some(live) = live.filter(|live| live.id == id && live.state == stands) {
            Arc::make_mut(live).state = State::Crashed;
        }
    }

    /// Notes what follows a crash; nothing where nothing has crashed.
    fn after_crash(&self, uuid: DomainUuid, id: i32, state: State) -> Option<Domain> {
        let mut table = self.table();
        let live = table.get(uuid)?.live.as_mut()?;
        if live.id != id || live.state != State::Crashed {
            return None;
        }
        Arc::make_mut(live).state = state;
        table.by_uuid(uuid)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::conf::definition::Strictness;
    use crate::conf::facts::HostFacts;
    use crate::manager::testing::{Heard, Played};
    use crate::manager::{Core, Memory, StartFlags, What};
    use crate::privsep::ask::Happening;
    use crate::privsep::supervisor::{Ended, PANICKED};
    use crate::settings::Settings;

    fn runs() -> (Manager, Arc<Heard>, DomainUuid, i32) {
        runs_by(Box::new(Memory))
    }

    fn runs_by(core: Box<dyn Core>) -> (Manager, Arc<Heard>, DomainUuid, i32) {
        let heard = Arc::new(Heard::default());
        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, core, None, heard.clone(), |_, _| {});
        let xml = "<domain type='test'><name>a</name><memory>1024</memory><os><type>hvm</type></os></domain>";
        let uuid = DomainUuid(uuid::Uuid::from_u128(9));
        manager.define(manager.read(xml, uuid, Strictness::Strict).unwrap(), 0).unwrap();
        manager.start(uuid, StartFlags::default()).unwrap();
        let id = manager.live(uuid).unwrap().id;
        heard.taken();
        (manager, heard, uuid, id)
    }

    #[test]
    fn a_guest_that_panicked_goes_on_once_whoever_lets_it() {
        let (manager, heard, uuid, id) = runs();
        let state = || manager.live(uuid).unwrap().state;
        let step = What::Lifecycle;
        // By its supervisor, as its definition says.
        manager.happened(uuid, id, Happening::Panicked);
        assert_eq!(state(), State::Crashed);
        manager.happened(uuid, id, Happening::Stopped);
        manager.happened(uuid, id, Happening::Reset);
        assert_eq!(state(), State::Crashed);
        manager.happened(uuid, id, Happening::Resumed);
        assert_eq!(state(), State::Running(RUNNING_CRASHED));
        manager.happened(uuid, id, Happening::Resumed);
        let expected = [step(Lifecycle::Panicked), What::Reboot, step(Lifecycle::Unpaused)];
        assert_eq!(heard.taken(), expected);

        // By a person: what the supervisor tells of it comes before or after.
        manager.happened(uuid, id, Happening::Panicked);
        manager.suspend(uuid).unwrap();
        assert_eq!(state(), State::Crashed);
        assert!(manager.shutdown(uuid).is_err());
        manager.stand_after_crash(uuid, id);
        manager.happened(uuid, id, Happening::Resumed);
        assert_eq!(state(), State::Paused(PAUSED_CRASHED));
        manager.resume(uuid).unwrap();
        manager.happened(uuid, id, Happening::Resumed);
        assert_eq!(heard.taken(), [step(Lifecycle::Panicked), step(Lifecycle::Unpaused)]);
    }

    #[test]
    fn a_guest_that_panicked_and_may_not_go_on_is_still_crashed() {
        let (manager, heard, uuid, id) = runs_by(Box::new(Played {
            order: Box::new(|_| Err(ManagerError::state("refused"))),
            ..Played::default()
        }));
        manager.happened(uuid, id, Happening::Panicked);
        assert!(manager.resume(uuid).is_err());
        assert_eq!(manager.live(uuid).unwrap().state, State::Crashed);
        assert_eq!(heard.taken(), [What::Lifecycle(Lifecycle::Panicked)]);
    }

    #[test]
    fn an_end_by_a_panic_is_a_crash() {
        let (manager, heard, uuid, id) = runs();
        manager.happened(uuid, id, Happening::Panicked);
        let reason = Some(PANICKED.to_owned());
        let ended = Ended { code: Some(0), signal: None, reason, stderr: String::new() };
        manager.ended(uuid, id, Some(&ended));
        let told = [Lifecycle::Panicked, Lifecycle::StoppedCrashed].map(What::Lifecycle);
        assert_eq!(heard.taken(), told);
    }
}
