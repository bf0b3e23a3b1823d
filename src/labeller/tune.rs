//! Limits of a domain that runs: admitted as those of a start are, written down, then set.
//!
//! A child sets those on memory, for that lasts as long as the domain makes it last; the loop watches it. What could not
//! be set whole is set back in the same way, by the next labeller where this one dies on the way.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::admit;
use super::apply::journal_refusal;
use super::connection::ConnectionId;
use super::domain::{Domain, Phase};
use super::fault;
use super::journal::Entry;
use super::server::{Server, refused};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::{CgroupLimits, LaunchPlan, Op};
use crate::privsep::request::{NOT_RUNNING, Reply};
use crate::privsep::supervisor::Lifecycle;
use crate::privsep::tuning::Tuned;
use crate::sys::pidfd::{self, Exit};
use crate::sys::process::Child;

/// How long limits may take to be in force; both ways together are shorter than a client waits.
const SET_BY: Duration = Duration::from_secs(10);
const OPERATION: &str = "tune";

/// A domain that is given other limits.
#[derive(Debug)]
pub(super) struct Tune {
    uuid: DomainUuid,
    /// Who waits for it.
    client: Option<ConnectionId>,
    child: Child,
    /// When the child is killed; nothing once it was.
    until: Option<Instant>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// These are set.
    Setting(Tuned),
    /// The old ones are set again, because of this.
    Back(Refusal),
}

impl Tune {
    fn begun(uuid: DomainUuid, client: Option<ConnectionId>, child: Child, stage: Stage) -> Self {
        Self { uuid, client, child, until: Some(Instant::now() + SET_BY), stage }
    }

    /// What to poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// The child.
    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }

    /// When it has lasted too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    fn kill(&mut self) {
        self.until = None;
        if let Err(error) = pidfd::kill(&self.child.pidfd) {
            tracing::error!(domain = %self.uuid, %error, "cannot kill who sets its limits");
        }
    }
}

impl Server {
    /// Gives a running domain other limits on processors and memory; its other ones stay. The reply comes when they are
    /// in force.
    pub(super) fn tune(&mut self, client: ConnectionId, uuid: DomainUuid, limits: Tuned) -> Option<Reply> {
        match self.begin_tune(client, uuid, limits) {
            Ok(true) => None,
            Ok(false) => Some(Reply::Done),
            Err(refusal) => Some(refused(refusal)),
        }
    }

    /// Notes a running domain's lifecycle actions for the supervisors that follow.
    pub(super) fn note_lifecycle(&mut self, uuid: DomainUuid, lifecycle: Lifecycle) -> Reply {
        let Some(domain) = self.domains.get_mut(&uuid).filter(|domain| domain.phase == Phase::Running) else {
            return refused(not_running(uuid));
        };
        if let Err(error) = domain.journal.write(&Entry::Lifecycle(lifecycle)) {
            return refused(journal_refusal(&error));
        }
        amend_lifecycle(&mut domain.plan, lifecycle);
        Reply::Done
    }

    /// Whether somebody writes the limits of its cgroup.
    pub(super) fn is_being_tuned(&self, uuid: DomainUuid) -> bool {
        self.tunes.iter().any(|tune| tune.uuid == uuid)
    }

    /// Whether there was anything to begin.
    fn begin_tune(&mut self, client: ConnectionId, uuid: DomainUuid, limits: Tuned) -> Result<bool, Refusal> {
        let busy = self.is_being_tuned(uuid);
        let Some(domain) = self.domains.get_mut(&uuid).filter(|domain| domain.phase == Phase::Running) else {
            return Err(not_running(uuid));
        };
        if busy {
            let rule = "it is being given other limits";
            let name = domain.plan.domain.name.to_string();
            return Err(Refusal::new(Layer::Policy, OPERATION, name, rule, "try again in a moment"));
        }
        let mut plan = domain.plan.clone();
        amend(&mut plan, limits);
        let Some(wanted) = cgroup(&plan) else { return Ok(false) };
        admit::cgroup(wanted, &self.settings)?;
        fault::step("tune")?;
        // First: whoever reads it, and not that the domain has them, sets the old ones again.
        domain.journal.write(&Entry::Tuning(limits)).map_err(|error| journal_refusal(&error))?;
        let begun = self.launcher.tune_cgroup(uuid, domain.cgroups(), wanted);
        match begun.and_then(|child| fault::step("tuning").map(|()| child)) {
            Ok(child) => {
                self.tunes.push(Tune::begun(uuid, Some(client), child, Stage::Setting(limits)));
                Ok(true)
            }
            // Some may be in force.
            Err(refusal) => match self.set_back(uuid, Some(client), refusal) {
                Ok(tune) => {
                    self.tunes.push(tune);
                    Ok(true)
                }
                Err(refusal) => Err(refusal),
            },
        }
    }

    /// Begins to set the limits again that hold by the plan; gives the refusal back where that cannot be.
    fn set_back(
        &mut self,
        uuid: DomainUuid,
        client: Option<ConnectionId>,
        refusal: Refusal,
    ) -> Result<Tune, Refusal> {
        let Some(domain) = self.domains.get_mut(&uuid).filter(|domain| domain.phase == Phase::Running) else {
            return Err(refusal);
        };
        let Some(old) = cgroup(&domain.plan).cloned() else { return Err(refusal) };
        let name = &domain.plan.domain.name;
        match self.launcher.tune_cgroup(uuid, domain.cgroups(), &old) {
            Ok(child) => Ok(Tune::begun(uuid, client, child, Stage::Back(refusal))),
            Err(error) => {
                tracing::error!(domain = %name, %error, "cannot set its old limits again");
                Err(refusal)
            }
        }
    }

    /// Begins to set the limits again that a domain has, where an earlier labeller ended while it set other ones.
    pub(super) fn tune_back(&mut self, uuid: DomainUuid) {
        let rule = "the labeller ended while it set them";
        let refusal = Refusal::new(Layer::Cgroup, OPERATION, uuid.to_string(), rule, "set them again");
        // Why not was told.
        let tune = self.set_back(uuid, None, refusal).ok();
        self.tunes.extend(tune);
    }

    /// Goes on with those whose child has ended, and ends those that last too long.
    pub(super) fn advance_tunes(&mut self, now: Instant) {
        for mut tune in std::mem::take(&mut self.tunes) {
            if pidfd::has_ended(&tune.child.pidfd).unwrap_or(true) {
                self.tuned(tune);
                continue;
            }
            let runs = self.domains.get(&tune.uuid).is_some_and(|domain| domain.phase == Phase::Running);
            if tune.until.is_some_and(|until| now >= until || !runs) {
                tune.kill();
            }
            self.tunes.push(tune);
        }
    }

    /// The child has ended.
    fn tuned(&mut self, tune: Tune) {
        let Tune { uuid, client, child, until, stage } = tune;
        let done = match pidfd::reap(&child.pidfd) {
            Some(Exit::Code(0)) => Ok(()),
            _ if !self.domains.get(&uuid).is_some_and(|domain| domain.phase == Phase::Running) => {
                Err(not_running(uuid))
            }
            exit => Err(unset(uuid, exit, until.is_none())),
        };
        let domain = self.domains.get_mut(&uuid);
        let done = match (&stage, done, domain) {
            (Stage::Setting(limits), Ok(()), Some(domain)) => has_others(domain, *limits),
            (Stage::Back(_), Ok(()), Some(domain)) => has_its_own(domain),
            (_, done, _) => done,
        };
        let reply = match (stage, done) {
            (Stage::Setting(_), Ok(())) => Reply::Done,
            (Stage::Setting(_), Err(refusal)) => match self.set_back(uuid, client, refusal) {
                Ok(tune) => return self.tunes.push(tune),
                Err(refusal) => refused(refusal),
            },
            (Stage::Back(refusal), done) => {
                if let Err(error) = done {
                    tracing::error!(domain = %uuid, %error, "cannot set its old limits again");
                }
                refused(refusal)
            }
        };
        self.outbox.extend(client.map(|client| (client, reply)));
    }
}

fn not_running(uuid: DomainUuid) -> Refusal {
    Refusal::new(Layer::Policy, OPERATION, uuid.to_string(), NOT_RUNNING, "start it first")
}

/// Other limits are in force, and noted; where that cannot be, they do not stay.
fn has_others(domain: &mut Domain, limits: Tuned) -> Result<(), Refusal> {
    domain.journal.write(&Entry::Tuned(limits)).map_err(|error| journal_refusal(&error))?;
    fault::noted("tuned");
    amend(&mut domain.plan, limits);
    tracing::info!(domain = %domain.plan.domain.name, "has other limits");
    Ok(())
}

/// The old limits are in force again.
fn has_its_own(domain: &mut Domain) -> Result<(), Refusal> {
    let Some(old) = cgroup(&domain.plan) else { return Ok(()) };
    let tuned = Tuned { memory_max: old.memory_max, cpu_max: old.cpu_max, tuning: old.tuning };
    domain.journal.write(&Entry::Tuned(tuned)).map_err(|error| journal_refusal(&error))?;
    tracing::info!(domain = %domain.plan.domain.name, "has its limits again");
    Ok(())
}

/// Why the limits on memory are not in force.
fn unset(uuid: DomainUuid, exit: Option<Exit>, killed: bool) -> Refusal {
    let rule = match exit {
        Some(Exit::Code(code)) => io::Error::from_raw_os_error(code).to_string(),
        _ if killed => format!("the domain did not come below them within {} s", SET_BY.as_secs()),
        Some(exit) => format!("who set them {exit}"),
        None => "who set them is gone".to_owned(),
    };
    let remedy = "give it more than it uses, or less memory first (setmem)";
    Refusal::new(Layer::Cgroup, "set the memory limits of", uuid.to_string(), rule, remedy)
}

/// The limits of a plan.
fn cgroup(plan: &LaunchPlan) -> Option<&CgroupLimits> {
    plan.ops.iter().find_map(|op| match op {
        Op::Cgroup(limits) => Some(limits),
        _ => None,
    })
}

/// What a plan would have been with these actions.
pub(super) fn amend_lifecycle(plan: &mut LaunchPlan, lifecycle: Lifecycle) {
    for op in &mut plan.ops {
        if let Op::Spawn(spawn) = op {
            spawn.supervisor.lifecycle = lifecycle;
        }
    }
}

/// What a plan would have been with these limits.
pub(super) fn amend(plan: &mut LaunchPlan, limits: Tuned) {
    let Tuned { memory_max, cpu_max, tuning } = limits;
    for op in &mut plan.ops {
        if let Op::Cgroup(limits) = op {
            (limits.memory_max, limits.cpu_max, limits.tuning) = (memory_max, cpu_max, tuning);
        }
    }
}
