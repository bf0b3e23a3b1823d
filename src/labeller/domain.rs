//! One domain, from the first operation of its start to the last of its undo.
//!
//! ```text
//!             refused or failed
//!  Starting ---------------------+
//!     | supervisor: Running      v
//!     v      device model ends  Ending -- every process gone --> undone, answered
//!  Running ----------------------^
//!     ^  | supervisor ends
//!     +--+ a replacement takes the monitor over; passt is started again on the same channel
//! ```
//!
//! Owns the processes' pidfds and the descriptors that a later supervisor needs. Decides nothing about policy.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::apply::NewLog;
use super::connection::ConnectionId;
use super::journal::{Journal, Part, Undo};
use super::launcher::Slots;
use super::plug::{Leftover, Plugged};
use super::save::Saving;
use super::spawn::Launching;
use super::store::Name;
use crate::base::{Layer, Refusal};
use crate::privsep::apparmor::DEGRADED;
use crate::privsep::op::{FileIdentity, LaunchPlan, Op, Spawn};
use crate::privsep::plug::Gone;
use crate::privsep::request::{Described, DomainStatus, Refused, Reply, Started};
use crate::privsep::save::Save;
use crate::privsep::supervisor::{Ended, Order};
use crate::sys::packet;
use crate::sys::pidfd::{self, Exit};
use crate::sys::process::Child;

/// How long a supervisor may take to say how the device model ended, and to leave.
const FAREWELL: Duration = Duration::from_millis(1500);
/// How many supervisors are started for one domain within [`REPLACE_WITHIN`]; a further one waits until then.
const REPLACE_MOST: usize = 5;
const REPLACE_WITHIN: Duration = Duration::from_secs(60);

/// Where a domain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Until the supervisor says that the guest runs, at most until then.
    Starting(Instant),
    /// The guest runs.
    Running,
    /// Processes are leaving; from then on they are killed.
    Ending(Instant),
}

/// One domain.
#[derive(Debug)]
pub(super) struct Domain {
    /// The plan as it was admitted.
    pub(super) plan: LaunchPlan,
    /// Where it stands.
    pub(super) phase: Phase,
    /// Whether the guest ever ran.
    pub(super) ran: bool,
    /// Its journal.
    pub(super) journal: Journal,
    /// How to take it back.
    pub(super) undos: Vec<Undo>,
    /// Both processes, until their programs are executed.
    pub(super) launching: Option<Launching>,
    /// The device model, until it has ended.
    pub(super) device_model: Option<Child>,
    /// The supervisor, while there is one.
    pub(super) supervisor: Option<Child>,
    /// Packets from and to the supervisor.
    pub(super) link: Option<OwnedFd>,
    /// Packets that came from this supervisor.
    pub(super) heard: u32,
    /// Helpers that have not ended.
    pub(super) helpers: Vec<(String, Child)>,
    /// Copies of the channel ends that passts have, by alias; without one there can be no other passt.
    pub(super) channels: Vec<(String, OwnedFd)>,
    /// When passts were started again.
    pub(super) restarted: Vec<Instant>,
    /// What a later supervisor gets.
    pub(super) kept: Slots,
    /// The device model's standard error, for a later supervisor.
    pub(super) stderr: Option<OwnedFd>,
    /// Logs without a name yet.
    pub(super) logs: Vec<NewLog>,
    /// Files with its UEFI variables.
    pub(super) nvrams: Vec<FileIdentity>,
    /// What the start answers.
    pub(super) started: Started,
    /// Who asked for the start and has no answer yet.
    pub(super) starter: Option<ConnectionId>,
    /// Who waits for the end.
    pub(super) waiters: Vec<ConnectionId>,
    /// Why the start failed.
    pub(super) failure: Option<Refused>,
    /// How the supervisor says it ended.
    pub(super) ended: Option<Ended>,
    /// How the kernel says the device model ended, where it was our child.
    pub(super) exit: Option<Exit>,
    /// When supervisors were replaced.
    pub(super) replaced: Vec<Instant>,
    /// What was plugged in.
    pub(super) plugs: Vec<Plugged>,
    /// What of the plan was taken out.
    pub(super) gone: Vec<Gone>,
    /// What QEMU has let go of and is not given back yet.
    pub(super) leftovers: Vec<Leftover>,
    /// The save that goes on.
    pub(super) saving: Option<Saving>,
    /// Unfinished saves of it from before, which fit its disks until it runs.
    pub(super) given_up: Vec<(Save, Part)>,
    /// When what could not be taken out is tried again.
    pub(super) plug_again: Option<Instant>,
}

impl Domain {
    /// The last operation's content.
    pub(super) fn spawn(&self) -> Option<&Spawn> {
        match self.plan.ops.last() {
            Some(Op::Spawn(spawn)) => Some(spawn),
            _ => None,
        }
    }

    /// Whether the profiles that the plan names were loaded: nothing of AppArmor was degraded then.
    pub(super) fn is_profiled(&self) -> bool {
        self.plan.ops.iter().any(|op| matches!(op, Op::LoadProfile { .. }))
            && !self.started.degraded.iter().any(|layer| layer.starts_with(DEGRADED))
    }

    /// The directories of its cgroup, where the journal has them.
    pub(super) fn cgroups(&self) -> &[PathBuf] {
        let known = self.undos.iter().find_map(|undo| match undo {
            Undo::Cgroup { directories } => Some(directories.as_slice()),
            _ => None,
        });
        known.unwrap_or_default()
    }

    /// As it stands in a survey.
    pub(super) fn status(&self) -> DomainStatus {
        DomainStatus {
            domain: self.plan.domain.clone(),
            qemu_pid: self.device_model.as_ref().map_or(0, |child| child.pid),
            supervisor_pid: self.supervisor.as_ref().map_or(0, |child| child.pid),
            control: self.started.control.clone(),
        }
    }

    /// The answer to `Describe`.
    pub(super) fn describe(&self) -> Reply {
        Reply::Described(Box::new(Described {
            status: self.status(),
            plan: self.plan.clone(),
            helpers: self.helpers.iter().map(|(alias, child)| (alias.clone(), child.pid)).collect(),
            nvrams: self.nvrams.clone(),
            degraded: self.started.degraded.clone(),
            cgroup: self.started.cgroup.clone(),
            // A hierarchy may have no part in it: it has none of the controllers that were asked for.
            cgroups: self
                .cgroups()
                .iter()
                .filter(|dir| dir.is_dir())
                .map(|dir| dir.display().to_string())
                .collect(),
            plugs: self.plugs.iter().filter(|plugged| plugged.certain).map(|it| it.plug.clone()).collect(),
            gone: self.gone.clone(),
        }))
    }

    /// Takes over both processes, whose programs are executed.
    pub(super) fn executed(&mut self) {
        let Some(launched) = self.launching.take().and_then(Launching::launched) else { return };
        self.started.qemu_pid = launched.qemu.pid;
        self.started.supervisor_pid = launched.supervisor.pid;
        self.started.degraded.extend(launched.degraded);
        self.device_model = Some(launched.qemu);
        self.supervisor = Some(launched.supervisor);
        self.link = Some(launched.control);
        self.stderr = Some(launched.stderr);
    }

    /// Marks the start as failed at an operation of its plan, counted from 0.
    pub(super) fn fail_at(&mut self, op: usize, refusal: Refusal) {
        tracing::info!(domain = %self.plan.domain.name, op, %refusal, "a start failed");
        // Locks end with the descriptors, before anything is told.
        self.kept.clear();
        self.logs.clear();
        self.fail(Refused { refusal, op: Some(op), stderr: String::new() });
    }

    /// Marks the start as failed; the first reason counts.
    pub(super) fn fail(&mut self, refused: Refused) {
        if !self.ran {
            self.failure.get_or_insert(refused);
        }
        if let Some(launching) = self.launching.take() {
            launching.abandon();
        }
        self.order_leave();
        self.kill();
        self.phase = Phase::Ending(Instant::now());
        self.settle(Instant::now());
    }

    /// Fails the start with a refusal that concerns no operation.
    pub(super) fn fail_with(&mut self, refusal: Refusal) {
        self.fail(Refused { refusal, op: None, stderr: String::new() });
    }

    /// Kills the device model; the rest follows.
    pub(super) fn kill(&mut self) {
        if let Some(child) = &self.device_model {
            kill(child);
        }
    }

    /// Goes over to ending: helpers are killed, the supervisor gets a moment to say how it went.
    pub(super) fn end(&mut self) {
        if !matches!(self.phase, Phase::Ending(_)) {
            self.phase = Phase::Ending(Instant::now() + FAREWELL);
        }
        self.kill();
        for (_, helper) in &self.helpers {
            kill(helper);
        }
    }

    /// Ends a supervisor that talks nonsense or without end: it is not svirt's any more. Another one takes over.
    pub(super) fn distrust(&mut self) {
        tracing::error!(domain = %self.plan.domain.name, "its supervisor talks nonsense and is killed");
        self.link = None;
        self.supervisor.iter().for_each(kill);
    }

    /// Tells the supervisor to leave.
    pub(super) fn order_leave(&mut self) {
        if let (Some(link), Ok(order)) = (&self.link, serde_json::to_vec(&Order::Leave)) {
            let _ = packet::send(link, &order);
        }
    }

    /// What was done for what it has now: by the plan, but for what has gone, and for what was plugged in.
    fn ops(&self) -> impl Iterator<Item = &Op> {
        let gone = |of: &str| self.gone.iter().any(|gone| !gone.medium && gone.alias == of);
        let planned = self.plan.ops.iter();
        let planned = planned.filter(move |op| !matches!(op, Op::SpawnPasst { alias, .. } if gone(alias)));
        planned.chain(self.plugs.iter().flat_map(|plugged| &plugged.plug.ops))
    }

    /// How a passt is started: its uid and label.
    pub(super) fn passt(&self, of: &str) -> Option<(u32, Option<&str>)> {
        self.ops().find_map(|op| match op {
            Op::SpawnPasst { alias, uid, selinux_label, .. } if alias == of => {
                Some((*uid, selinux_label.as_deref()))
            }
            _ => None,
        })
    }

    /// Notes the helpers that have ended, and names the passts that a running guest has lost.
    pub(super) fn reap_helpers(&mut self) -> Vec<String> {
        let mut lost = Vec::new();
        self.helpers.retain(|(alias, helper)| {
            let ended = pidfd::has_ended(&helper.pidfd).unwrap_or(true);
            if ended {
                let exit = pidfd::reap(&helper.pidfd);
                tracing::info!(domain = %self.plan.domain.name, alias, ?exit, "a helper has ended");
                lost.push(alias.clone());
            }
            !ended
        });
        // With the device model its helpers end, too.
        let lives = self.phase == Phase::Running
            && self
                .device_model
                .as_ref()
                .is_some_and(|child| !pidfd::has_ended(&child.pidfd).unwrap_or(true));
        lost.retain(|alias| lives && self.passt(alias).is_some());
        lost
    }

    /// Notes a process that has ended. `true` if the supervisor is to be replaced.
    pub(super) fn reap(&mut self) -> bool {
        let gone = |child: &Child| pidfd::has_ended(&child.pidfd).unwrap_or(true);
        if self.device_model.as_ref().is_some_and(gone) {
            self.exit = self.device_model.take().and_then(|child| pidfd::reap(&child.pidfd));
            self.device_model_ended();
        }
        let mut replace = false;
        if self.supervisor.as_ref().is_some_and(gone) {
            let exit = self.supervisor.take().and_then(|child| pidfd::reap(&child.pidfd));
            tracing::info!(domain = %self.plan.domain.name, ?exit, "a supervisor has ended");
            match self.phase {
                Phase::Starting(_) => self.fail_with(Refusal::new(
                    Layer::DeviceModel,
                    "start domain",
                    self.plan.domain.name.to_string(),
                    format!("its supervisor {} before the guest ran", how(exit)),
                    "look at the labeller's log",
                )),
                Phase::Running => replace = self.device_model.is_some(),
                Phase::Ending(_) => {}
            }
        }
        replace
    }

    fn device_model_ended(&mut self) {
        match self.phase {
            // The supervisor knows what the device model said; it has a moment to tell.
            Phase::Starting(until) => {
                self.phase = Phase::Starting(until.min(Instant::now() + FAREWELL));
                if self.supervisor.is_none() {
                    self.fail_with(self.early_end());
                }
            }
            Phase::Running => self.end(),
            Phase::Ending(_) => {}
        }
    }

    fn early_end(&self) -> Refusal {
        Refusal::new(
            Layer::DeviceModel,
            "start domain",
            self.plan.domain.name.to_string(),
            format!("the device model {} before the guest ran", how(self.exit)),
            "look at the labeller's log",
        )
    }

    /// What another supervisor and another passt would need.
    pub(super) fn lasting(&self) -> Vec<(Name, BorrowedFd<'_>)> {
        let slots = self.kept.iter().map(|(slot, fd)| (Name::Slot(slot.clone()), fd.as_fd()));
        let channels = self.channels.iter().map(|(alias, fd)| (Name::Channel(alias.clone()), fd.as_fd()));
        let stderr = self.stderr.iter().map(|fd| (Name::Stderr, fd.as_fd()));
        slots.chain(channels).chain(stderr).collect()
    }

    /// Takes what an earlier labeller kept, as far as it is not there.
    pub(super) fn take_back(&mut self, kept: Vec<(Name, OwnedFd)>) {
        for (name, fd) in kept {
            match name {
                Name::Channel(alias) if self.channels.iter().all(|(of, _)| *of != alias) => {
                    self.channels.push((alias, fd));
                }
                Name::Channel(_) => {}
                Name::Slot(slot) => {
                    self.kept.entry(slot).or_insert(fd);
                }
                Name::Stderr => {
                    self.stderr.get_or_insert(fd);
                }
            }
        }
    }

    /// The passts that should run and do not.
    pub(super) fn lost_passts(&self) -> Vec<String> {
        let planned = self.ops().filter_map(|op| match op {
            Op::SpawnPasst { alias, .. } => Some(alias),
            _ => None,
        });
        planned.filter(|alias| self.helpers.iter().all(|(of, _)| of != *alias)).cloned().collect()
    }

    /// Whether another supervisor may be started now; keeps count.
    pub(super) fn may_replace(&mut self, now: Instant) -> bool {
        once_more(&mut self.replaced, now)
    }

    /// The same of a passt: one that dies all the time is a guest's doing, which shall not have as many tries as it likes.
    pub(super) fn may_restart(&mut self, now: Instant) -> bool {
        once_more(&mut self.restarted, now)
    }

    /// When a domain that has lost too many supervisors may have another one.
    pub(super) fn replace_at(&self) -> Option<Instant> {
        // Without the last one's descriptors there is nothing to take over.
        let possible = self.phase == Phase::Running
            && self.device_model.is_some()
            && self.supervisor.is_none()
            && self.stderr.is_some();
        let first = self.replaced.first().filter(|_| possible)?;
        Some(*first + REPLACE_WITHIN)
    }

    /// Enforces what is due at this time.
    pub(super) fn settle(&mut self, now: Instant) {
        match self.phase {
            Phase::Starting(until) if now >= until => {
                let refusal = if self.device_model.is_none() {
                    self.early_end()
                } else {
                    Refusal::new(
                        Layer::DeviceModel,
                        "start domain",
                        self.plan.domain.name.to_string(),
                        "the guest did not run within limits.start_timeout",
                        "raise limits.start_timeout if the host is slow",
                    )
                };
                self.fail_with(refusal);
            }
            Phase::Ending(until) => {
                for (_, helper) in &self.helpers {
                    kill(helper);
                }
                if now >= until {
                    self.kill();
                    if let Some(supervisor) = &self.supervisor {
                        kill(supervisor);
                    }
                }
            }
            _ => {}
        }
    }

    /// When [`Domain::settle`] has something to do next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting(until) => {
                Some(self.launching.as_ref().map_or(until, |it| until.min(it.deadline())))
            }
            Phase::Running => self.replace_at(),
            // Past the moment everything was killed; a look now and then, should a process be slow to go.
            Phase::Ending(until) => Some(until.max(Instant::now() + Duration::from_millis(100))),
        }
    }

    /// Whether nothing of it runs any longer.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ending(_))
            && self.device_model.is_none()
            && self.supervisor.is_none()
            && self.helpers.is_empty()
    }

    /// How it ended, from everybody who knows.
    pub(super) fn ending(&self) -> Ended {
        let mut ended = self.ended.clone().unwrap_or(Ended {
            code: None,
            signal: None,
            reason: None,
            stderr: String::new(),
        });
        if ended.code.is_none() && ended.signal.is_none() {
            match self.exit {
                Some(Exit::Code(code)) => ended.code = Some(code),
                Some(Exit::Signal(signal)) => ended.signal = Some(signal),
                None => {}
            }
        }
        ended
    }
}

fn how(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "ended".into(), |exit| exit.to_string())
}

/// Counts one more among those of the last [`REPLACE_WITHIN`], if there may be one.
fn once_more(times: &mut Vec<Instant>, now: Instant) -> bool {
    times.retain(|at| now.duration_since(*at) < REPLACE_WITHIN);
    if times.len() >= REPLACE_MOST {
        return false;
    }
    times.push(now);
    true
}

fn kill(child: &Child) {
    if let Err(error) = pidfd::kill(&child.pidfd) {
        tracing::error!(pid = child.pid, %error, "cannot kill a process");
    }
}
