//! A start, from the plan to the guest that runs: admitted, applied, forked, let go, committed.

use std::time::{Duration, Instant};

use super::admit;
use super::apply::{Applied, Apply, journal_refusal, note};
use super::connection::ConnectionId;
use super::domain::{Domain, Phase};
use super::fault;
use super::journal::{self, Entry, Journal, ProcessRole};
use super::lease::ObjectId;
use super::places::Places;
use super::save::forget_part;
use super::server::{Server, refused};
use super::spawn::{Forked, Launching, Stage};
use super::undo;
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::{FileIdentity, LaunchPlan, Op};
use crate::privsep::password::Password;
use crate::privsep::request::{Refused, Reply, Started};
use crate::privsep::supervisor::Incoming;

impl Server {
    /// Admits and applies a plan. The reply comes when the guest runs, or when everything is undone. Passwords are passed on
    /// and forgotten.
    pub(super) fn start(
        &mut self,
        client: ConnectionId,
        plan: LaunchPlan,
        passwords: &[Password],
    ) -> Option<Reply> {
        if let Err(refusal) = admit::passwords(passwords) {
            return Some(refused(refusal));
        }
        if let Err(not) = admit::check(&plan, &self.settings, self.selinux) {
            let refused = Refused { refusal: *not.refusal, op: not.op, stderr: String::new() };
            return Some(Reply::Refused(Box::new(refused)));
        }
        if self.leases.domains() >= usize::try_from(self.settings.limits.domains).unwrap_or(usize::MAX) {
            let rule = format!("limits.domains is {}", self.settings.limits.domains);
            let name = plan.domain.name.to_string();
            let remedy = "stop another domain, or raise limits.domains";
            return Some(refused(Refusal::new(Layer::Policy, "start domain", name, rule, remedy)));
        }
        if let Err(refusal) = self.leaves_no_save(&plan) {
            return Some(refused(refusal));
        }
        if let Err(refusal) = self.leases.domain(&plan.domain) {
            return Some(refused(refusal));
        }
        // Its last end is none of this start's.
        self.past.retain(|(past, _)| *past != plan.domain.uuid);
        let mut journal = match Journal::begin(&self.journals, &plan, &self.boot) {
            Ok(journal) => journal,
            Err(error) => {
                self.leases.release(plan.domain.uuid);
                return Some(refused(journal_refusal(&error)));
            }
        };
        let mut out = Applied::default();
        let places = Places::of(&self.settings);
        let applied = Apply {
            settings: &self.settings,
            places: &places,
            leases: &mut self.leases,
            journal: &mut journal,
            launcher: &mut *self.launcher,
            domain: &plan.domain,
            ops: &plan.ops,
            passwords,
            out: &mut out,
        }
        .run();
        self.begun(client, plan, journal, out, applied)
    }

    fn begun(
        &mut self,
        client: ConnectionId,
        plan: LaunchPlan,
        journal: Journal,
        out: Applied,
        applied: Result<(), (usize, Refusal)>,
    ) -> Option<Reply> {
        let uuid = plan.domain.uuid;
        let loads = plan.ops.iter().find_map(|op| match op {
            Op::OpenSaved { saved, .. } => Some(Incoming::patience(saved.bytes)),
            _ => None,
        });
        let patience = Duration::from_secs(self.settings.limits.start_timeout);
        let patience = patience.saturating_add(loads.unwrap_or_default());
        let mut domain = Domain {
            plan,
            phase: Phase::Starting(Instant::now() + patience),
            ran: false,
            journal,
            undos: out.undos,
            launching: None,
            device_model: None,
            supervisor: None,
            link: None,
            heard: 0,
            helpers: out.helpers,
            channels: out.channels,
            restarted: Vec::new(),
            kept: out.slots,
            stderr: None,
            logs: out.logs,
            nvrams: out.nvrams.iter().map(|(_, _, id)| identity(*id)).collect(),
            started: Started {
                control: out.control,
                qemu_pid: 0,
                supervisor_pid: 0,
                degraded: out.degraded,
                listening: out.listening,
                cgroup: out.cgroup,
            },
            starter: Some(client),
            waiters: Vec::new(),
            failure: None,
            ended: None,
            exit: None,
            replaced: Vec::new(),
            plugs: Vec::new(),
            gone: Vec::new(),
            leftovers: Vec::new(),
            saving: None,
            given_up: Vec::new(),
            plug_again: None,
        };
        domain.launching = out.launching;
        if let Err((op, refusal)) = applied {
            domain.fail_at(op, refusal);
        }
        self.domains.insert(uuid, domain);
        None
    }

    /// Goes on with a domain whose processes have something to say, or are late.
    pub(super) fn launching(&mut self, uuid: DomainUuid) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        // A handful of messages at most: forked, ready, executed.
        while let Some(launching) = &mut domain.launching {
            let went = match launching.advance() {
                Ok(Stage::Waiting) => return,
                Ok(Stage::Ready(forked)) => journal::no_save_counts(&self.journals, uuid)
                    .map_err(|error| journal_refusal(&error))
                    .and_then(|given_up| {
                        domain.given_up = given_up;
                        let_go(&mut domain.journal, launching, forked)
                    }),
                Ok(Stage::Executed) => {
                    self.prepare_at = None;
                    domain.executed();
                    return;
                }
                Err(error) => Err(error.refusal()),
            };
            if let Err(refusal) = went {
                domain.fail_at(domain.plan.ops.len().saturating_sub(1), refusal);
            }
        }
    }

    /// Commits a start: from here on the domain stays.
    pub(super) fn running(&mut self, uuid: DomainUuid) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        if !matches!(domain.phase, Phase::Starting(_)) {
            return;
        }
        if let Err(refusal) = commit(domain) {
            domain.fail_with(refusal);
            return;
        }
        for id in undo::replaced(&domain.undos) {
            self.leases.release_object(uuid, id);
        }
        for (save, part) in std::mem::take(&mut domain.given_up) {
            forget_part(&self.settings, &save, &part);
        }
        domain.phase = Phase::Running;
        domain.ran = true;
        domain.logs.clear();
        if let Some(store) = &self.store {
            store.keep(uuid, &domain.lasting());
        }
        self.loaded(uuid);
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        if let Some(client) = domain.starter.take() {
            self.outbox.push_back((client, Reply::Started(domain.started.clone())));
        }
        tracing::info!(
            domain = %domain.plan.domain.name,
            qemu = domain.started.qemu_pid,
            supervisor = domain.started.supervisor_pid,
            "runs"
        );
    }
}

/// A file's key in the lease table, in the words of a plan.
pub(super) fn identity((device, inode): ObjectId) -> FileIdentity {
    FileIdentity { device, inode }
}

/// Writes both processes down, then lets the device model go.
fn let_go(journal: &mut Journal, launching: &Launching, forked: Forked) -> Result<(), Refusal> {
    note(journal, ProcessRole::Supervisor, forked.supervisor_pid)?;
    note(journal, ProcessRole::DeviceModel, forked.qemu_pid)?;
    launching.go().map_err(|error| error.refusal())
}

/// Gives logs their names and writes down that the guest runs.
fn commit(domain: &mut Domain) -> Result<(), Refusal> {
    fault::step("commit")?;
    for log in &domain.logs {
        log.put(&mut domain.journal, &mut domain.undos)?;
        fault::step("log named")?;
    }
    let running = Entry::Running { started: domain.started.clone(), cgroup: None };
    domain.journal.write(&running).map_err(|error| journal_refusal(&error))?;
    undo::drop_replaced(&domain.undos);
    Ok(())
}
