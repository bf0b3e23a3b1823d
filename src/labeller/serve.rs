//! What each request does, and what supervisors' reports and processes' ends lead to.

use std::time::{Duration, Instant};

use super::admit;
use super::apply::{Applied, Apply, journal_refusal};
use super::connection::ConnectionId;
use super::domain::{Domain, Phase};
use super::fault;
use super::journal::{Entry, Journal, ProcessRole};
use super::launcher::LaunchRequest;
use super::places::Places;
use super::probe::Probe;
use super::server::{Server, refused};
use super::undo;
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::LaunchPlan;
use crate::privsep::request::{Refused, Reply, Request, Started, Survey};
use crate::privsep::supervisor::Report;
use crate::sys::pidfd::ProcessId;

impl Server {
    /// Does what is asked; no reply yet where one has to wait.
    pub(super) fn request(&mut self, client: ConnectionId, request: Request) -> Option<Reply> {
        match request {
            Request::Describe { uuid } => {
                Some(self.domains.get(&uuid).map_or_else(|| unknown(uuid), Domain::describe))
            }
            Request::Kill { uuid } => {
                let Some(domain) = self.domains.get_mut(&uuid) else { return Some(unknown(uuid)) };
                domain.waiters.push(client);
                if matches!(domain.phase, Phase::Starting(_)) {
                    domain.fail_with(Refusal::new(
                        Layer::Policy,
                        "start domain",
                        domain.plan.domain.name.to_string(),
                        "somebody killed it",
                        "",
                    ));
                } else {
                    domain.kill();
                }
                None
            }
            Request::Probe { path } => self.probe(client, &path),
            Request::Start { plan } => self.start(client, *plan),
            Request::Survey => Some(Reply::Survey(Survey {
                uids: self.leases.uids(),
                pairs: self.leases.pairs(),
                domains: self.domains.values().filter(|domain| domain.ran).map(Domain::status).collect(),
            })),
            Request::Wait { uuid } => {
                let Some(domain) = self.domains.get_mut(&uuid) else { return Some(unknown(uuid)) };
                domain.waiters.push(client);
                None
            }
        }
    }

    fn probe(&mut self, client: ConnectionId, path: &str) -> Option<Reply> {
        if !self.has_room_for_probe() {
            let remedy = "try again in a moment";
            return Some(refused(Refusal::new(Layer::Policy, "probe", path, "too many probes run", remedy)));
        }
        let program = self.libexec.join("svirt-imageprobe");
        let places = Places::read(&self.settings);
        match Probe::start(client, path, &program, self.settings.uids.imageprobe, &places) {
            Ok(probe) => {
                self.probes.push(probe);
                None
            }
            Err(refusal) => Some(refused(refusal)),
        }
    }

    /// Admits and applies a plan. The reply comes when the guest runs, or when everything is undone.
    fn start(&mut self, client: ConnectionId, plan: LaunchPlan) -> Option<Reply> {
        if let Err(not) = admit::check(&plan, &self.settings, self.selinux) {
            let refused = Refused { refusal: not.refusal, op: not.op, stderr: String::new() };
            return Some(Reply::Refused(Box::new(refused)));
        }
        if self.leases.domains() >= usize::try_from(self.settings.limits.domains).unwrap_or(usize::MAX) {
            let rule = format!("limits.domains is {}", self.settings.limits.domains);
            let name = plan.domain.name.to_string();
            let remedy = "stop another domain, or raise limits.domains";
            return Some(refused(Refusal::new(Layer::Policy, "start domain", name, rule, remedy)));
        }
        if let Err(refusal) = self.leases.domain(&plan.domain) {
            return Some(refused(refusal));
        }
        let mut journal = match Journal::begin(&self.journals, &plan, &self.boot) {
            Ok(journal) => journal,
            Err(error) => {
                self.leases.release(plan.domain.uuid);
                return Some(refused(journal_refusal(&error)));
            }
        };
        let mut out = Applied::default();
        let places = Places::read(&self.settings);
        let applied = Apply {
            settings: &self.settings,
            places: &places,
            leases: &mut self.leases,
            journal: &mut journal,
            launcher: &mut *self.launcher,
            plan: &plan,
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
        let patience = Duration::from_secs(self.settings.limits.start_timeout);
        let mut domain = Domain {
            plan,
            phase: Phase::Starting(Instant::now() + patience),
            ran: false,
            journal,
            undos: out.undos,
            device_model: None,
            supervisor: None,
            link: None,
            heard: 0,
            helpers: out.helpers,
            kept: out.slots,
            stderr: None,
            logs: out.logs,
            started: Started {
                control: out.control,
                qemu_pid: 0,
                supervisor_pid: 0,
                degraded: out.degraded,
                listening: out.listening,
            },
            cgroup: out.cgroup,
            starter: Some(client),
            waiters: Vec::new(),
            failure: None,
            ended: None,
            exit: None,
            replaced: Vec::new(),
        };
        if let Some(launched) = out.launched {
            domain.started.qemu_pid = launched.device_model.pid;
            domain.started.supervisor_pid = launched.supervisor.pid;
            domain.device_model = Some(launched.device_model);
            domain.supervisor = Some(launched.supervisor);
            domain.link = Some(launched.link);
            domain.stderr = launched.stderr;
        }
        if let Err((op, refusal)) = applied {
            tracing::info!(domain = %domain.plan.domain.name, op, %refusal, "a start failed");
            // Locks end with the descriptors, before anything is told.
            domain.kept.clear();
            domain.logs.clear();
            domain.fail(Refused { refusal, op: Some(op), stderr: String::new() });
        }
        self.domains.insert(uuid, domain);
        None
    }

    /// What a supervisor says.
    pub(super) fn report(&mut self, uuid: DomainUuid, report: Report) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let name = domain.plan.domain.name.to_string();
        match report {
            Report::Greeted => tracing::debug!(name, "the monitor answers"),
            Report::Sealed { notifications } => tracing::debug!(name, notifications, "the gate is shut"),
            Report::Running => self.running(uuid),
            Report::Failed { refusal, stderr } => {
                if matches!(domain.phase, Phase::Starting(_)) {
                    tracing::info!(name, refusal = clip(&refusal), "a start failed");
                    domain.fail(Refused { refusal, op: None, stderr });
                } else {
                    tracing::warn!(name, refusal = clip(&refusal), "a supervisor failed");
                }
            }
            Report::KillWanted => domain.kill(),
            Report::Ended(ended) => {
                tracing::info!(name, code = ?ended.code, signal = ?ended.signal, "the device model has ended");
                domain.ended = Some(ended);
                if domain.ran {
                    domain.end();
                }
                domain.order_leave();
            }
        }
    }

    /// Commits a start: from here on the domain stays.
    fn running(&mut self, uuid: DomainUuid) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        if !matches!(domain.phase, Phase::Starting(_)) {
            return;
        }
        if let Err(refusal) = commit(domain) {
            domain.fail_with(refusal);
            return;
        }
        domain.phase = Phase::Running;
        domain.ran = true;
        domain.logs.clear();
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

    /// Starts another supervisor over a device model that goes on.
    pub(super) fn replace_supervisor(&mut self, uuid: DomainUuid) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let name = domain.plan.domain.name.to_string();
        if !domain.may_replace(Instant::now()) {
            tracing::error!(name, "its supervisors keep ending; the guest goes on without one for a minute");
            return;
        }
        let (Some(spawn), Some(device_model)) = (domain.spawn(), &domain.device_model) else { return };
        let request = LaunchRequest { domain: &domain.plan.domain, spawn, slots: &domain.kept };
        match self.launcher.take_over(&request, device_model, domain.stderr.as_ref()) {
            Ok((child, link)) => {
                tracing::info!(name, pid = child.pid, "another supervisor takes over");
                let noted = ProcessId::of(child.pid).and_then(|id| {
                    domain.journal.write(&Entry::Process { role: ProcessRole::Supervisor, id })
                });
                if let Err(error) = noted {
                    tracing::error!(name, %error, "cannot note the supervisor in the journal");
                }
                domain.started.supervisor_pid = child.pid;
                domain.supervisor = Some(child);
                domain.link = Some(link);
                domain.heard = 0;
            }
            Err(refusal) => tracing::error!(name, %refusal, "no other supervisor could be started"),
        }
    }

    /// Takes a domain back of which nothing runs any longer, and answers whoever waits for that.
    pub(super) fn finish(&mut self, uuid: DomainUuid) {
        let Some(mut domain) = self.domains.remove(&uuid) else { return };
        domain.kept.clear();
        let failed = undo::all(uuid, &domain.undos, domain.ran, &mut self.leases, &mut *self.launcher);
        self.leases.release(uuid);
        if failed == 0 {
            domain.journal.remove();
        } else {
            domain.journal.set_aside(failed);
        }
        let ended = domain.ending();
        if let (Some(client), Some(failure)) = (domain.starter, domain.failure.take()) {
            self.outbox.push_back((client, Reply::Refused(Box::new(failure))));
        }
        for client in domain.waiters {
            self.outbox.push_back((client, Reply::Ended(ended.clone())));
        }
        let (code, signal) = (ended.code, ended.signal);
        tracing::info!(domain = %domain.plan.domain.name, ?code, ?signal, "is undone");
    }
}

/// Gives logs their names and writes down that the guest runs.
fn commit(domain: &mut Domain) -> Result<(), Refusal> {
    fault::step("commit")?;
    for log in &domain.logs {
        log.put(&mut domain.journal, &mut domain.undos)?;
        fault::step("log named")?;
    }
    let running = Entry::Running { started: domain.started.clone(), cgroup: domain.cgroup.clone() };
    domain.journal.write(&running).map_err(|error| journal_refusal(&error))?;
    super::undo::drop_replaced(&domain.undos);
    Ok(())
}

/// A supervisor's words for the log: one line, and not without end.
fn clip(refusal: &Refusal) -> String {
    let text = refusal.to_string();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

fn unknown(uuid: DomainUuid) -> Reply {
    let remedy = "`svirt list` shows the domains that run";
    refused(Refusal::new(Layer::Lease, "find domain", uuid.to_string(), "no such domain runs", remedy))
}
