//! What takes long: which one goes on for a domain, and how the last one went. No I/O but one question to QEMU.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::{Manager, ManagerError, What};
use crate::base::DomainUuid;
use crate::privsep::ask::Ask;
use crate::privsep::save::Progress;

/// The most jobs whose outcome is remembered.
const KEPT_MAX: usize = 1024;

/// The most turns that are told at once: a guest that stands takes two or three, and a device model may say what it likes.
const TURNS_MAX: i32 = 8;

/// One job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    began: Instant,
    /// Whether memory is written down for a person, which QEMU counts elsewhere.
    dump: bool,
    /// The last turn through the memory that somebody was told of.
    turn: i32,
    /// How it went, where it is over.
    over: Option<Progress>,
}

/// The jobs by domain.
pub(super) type Jobs = Mutex<HashMap<DomainUuid, Job>>;

impl Job {
    /// A save that begins.
    pub(super) fn save() -> Self {
        Self { began: Instant::now(), dump: false, turn: 0, over: None }
    }

    /// A dump that begins.
    pub(super) fn dump() -> Self {
        Self { dump: true, ..Self::save() }
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }
}

impl Manager {
    fn jobs<T>(&self, look: impl FnOnce(&mut HashMap<DomainUuid, Job>) -> T) -> T {
        look(&mut self.jobs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn job(&self, uuid: DomainUuid) -> Option<Job> {
        self.jobs(|jobs| jobs.get(&uuid).copied())
    }

    pub(super) fn begin_job(&self, uuid: DomainUuid, job: Job) {
        self.jobs(|jobs| {
            if jobs.len() >= KEPT_MAX {
                jobs.retain(|_, job| !job.is_over());
            }
            jobs.insert(uuid, job);
        });
    }

    /// Forgets how the last one went, where there is no such domain any longer: the next of this uuid is another one, and may
    /// be somebody else's.
    pub(super) fn forget_job(&self, uuid: DomainUuid) {
        if self.by_uuid(uuid).is_err() {
            self.jobs(|jobs| jobs.retain(|other, job| *other != uuid || !job.is_over()));
        }
    }

    /// It is over: with how it went, or without anything that is worth keeping.
    pub(super) fn end_job(&self, uuid: DomainUuid, progress: Option<Progress>) {
        let over = self.jobs(|jobs| {
            let job = jobs.remove(&uuid)?;
            let elapsed = u64::try_from(job.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let over = Progress { elapsed, ..progress? };
            jobs.insert(uuid, Job { over: Some(over), ..job });
            Some(over)
        });
        if let (Some(progress), Ok(domain)) = (over, self.by_uuid(uuid)) {
            self.tell_what(&domain, What::JobCompleted(progress));
        }
        self.forget_job(uuid);
    }

    /// A guest that is saved is at this turn through its memory; each one that nobody was told of is told, in turn. QEMU tells
    /// of them by itself, and how many there were when it is done, which may be heard of before.
    pub(super) fn save_turned(&self, uuid: DomainUuid, turn: u64) {
        let turn = i32::try_from(turn).unwrap_or(i32::MAX).min(i32::MAX - 1);
        let untold = self.jobs(|jobs| {
            let job = jobs.get_mut(&uuid).filter(|job| !job.is_over() && !job.dump)?;
            let untold = job.turn.max(turn.saturating_sub(TURNS_MAX)) + 1..=turn;
            job.turn = job.turn.max(turn);
            Some(untold)
        });
        if let (Some(untold), Ok(domain)) = (untold, self.by_uuid(uuid)) {
            untold.for_each(|turn| self.tell_what(&domain, What::MigrationIteration(turn)));
        }
    }

    /// How far the job is that goes on.
    pub fn progress(&self, uuid: DomainUuid) -> Result<Option<Progress>, ManagerError> {
        let Some(job) = self.job(uuid).filter(|job| !job.is_over()) else { return Ok(None) };
        let elapsed = u64::try_from(job.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if job.dump {
            return Ok(Some(Progress { elapsed, ..Progress::default() }));
        }
        // One that has just begun, or is over this moment, has nothing to say yet.
        let said = self.ask(uuid, Ask::Migration).map(|answer| Progress::of(&answer)).unwrap_or_default();
        Ok(Some(Progress { elapsed, ..said }))
    }

    /// Whether what goes on is a dump.
    #[must_use]
    pub fn is_dumping(&self, uuid: DomainUuid) -> bool {
        self.job(uuid).is_some_and(|job| job.dump && !job.is_over())
    }

    /// How the last one went; it is forgotten unless it is to be kept.
    #[must_use]
    pub fn completed(&self, uuid: DomainUuid, keep: bool) -> Option<Progress> {
        self.jobs(|jobs| {
            let over = jobs.get(&uuid)?.over?;
            if !keep {
                jobs.remove(&uuid);
            }
            Some(over)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Files;
    use crate::conf::facts::HostFacts;
    use crate::manager::testing::Deaf;
    use crate::manager::{Definition, Leaves, Memory, StartFlags};
    use crate::settings::Settings;

    const XML: &str = "<domain type='qemu'><name>a</name><uuid>6e5a1b3c-8a41-4c1b-9d8e-2f6f0e6b7a10</uuid>\
        <memory>65536</memory><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>";

    #[test]
    fn what_is_known_of_a_job_goes_with_the_domain() {
        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, Box::new(Memory), None, Arc::new(Deaf), |_, _| {});
        let define = || manager.define(Definition::kept(XML).unwrap(), 1000).unwrap().uuid;
        let uuid = define();
        let saved = || {
            manager.begin_job(uuid, Job::save());
            manager.end_job(uuid, Some(Progress::default()));
        };
        saved();
        assert!(manager.completed(uuid, true).is_some());
        manager.undefine(uuid, Leaves::default()).unwrap();
        define();
        assert!(manager.completed(uuid, true).is_none());
        // What runs without a definition is the same domain until it ends.
        manager.start(uuid, StartFlags::default()).unwrap();
        saved();
        manager.undefine(uuid, Leaves::default()).unwrap();
        assert!(manager.completed(uuid, true).is_some());
        manager.destroy(uuid).unwrap();
        saved();
        manager
            .start_transient(Definition::kept(XML).unwrap().with_files(Files::ALL), StartFlags::default())
            .unwrap();
        assert!(manager.completed(uuid, true).is_none());
    }
}
