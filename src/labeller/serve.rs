//! What each request does, and what supervisors' reports and processes' ends lead to.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::connection::ConnectionId;
use super::domain::{Domain, Phase};
use super::journal::{Entry, ProcessRole};
use super::launcher::{HelperLabels, LaunchRequest, Launcher};
use super::places::Places;
use super::probe::{Probe, Spare};
use super::save::Kept;
use super::server::{Server, refused};
use super::{passt, pin, undo};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::apparmor::{ProfilePart, part_name, profile_name};
use crate::privsep::op::FileIdentity;
use crate::privsep::request::{Refused, Reply, Request, Survey};
use crate::privsep::supervisor::{Ended, Report, SAVED};
use crate::sys::listen;
use crate::sys::pidfd::ProcessId;
use crate::sys::process::Child;

/// Ends that are remembered for those who ask a moment too late.
const PAST_MAX: usize = 64;
/// How long what follows a question about an image may take to come, or whoever plugged a device to hear of it, before
/// what is needed next is prepared.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Does what is asked; no reply yet where one has to wait.
    pub(super) fn request(&mut self, client: ConnectionId, request: Request) -> Option<Reply> {
        match request {
            Request::Describe { uuid } => {
                Some(self.domains.get(&uuid).map_or(Reply::NoDomain, Domain::describe))
            }
            Request::Dump { uuid, dump } => self.dump(client, uuid, &dump),
            Request::Kill { uuid } => {
                let Some(domain) = self.domains.get_mut(&uuid) else { return Some(self.past(uuid)) };
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
            Request::Lifecycle { uuid, lifecycle } => Some(self.note_lifecycle(uuid, lifecycle)),
            Request::Pin { uuid, pins } => Some(self.pin(uuid, pins)),
            Request::Plug { uuid, plug } => self.plug(client, uuid, *plug),
            Request::Unplug { uuid, which, force } => self.unplug(Some(client), uuid, which, force),
            Request::Probe { path } => self.probe(client, &path),
            Request::Share { path } => {
                let found = Places::of(&self.settings).open_share(&path);
                Some(found.map_or_else(refused, |(_, found)| {
                    let (device, inode) = found.id();
                    Reply::Share(FileIdentity { device, inode })
                }))
            }
            Request::Save { uuid, save } => self.save(client, uuid, *save),
            Request::Saved { op } => Some(self.saved(&op).unwrap_or_else(refused)),
            Request::Start { plan, passwords } => self.start(client, *plan, &passwords),
            Request::Storage { op } => self.storage(client, op),
            Request::Tune { uuid, limits } => self.tune(client, uuid, limits),
            Request::Survey => Some(Reply::Survey(Survey {
                uids: self.leases.uids(),
                pairs: self.leases.pairs(),
                shares: self.leases.shares(),
                crossings: self.leases.crossings(),
                domains: self.domains.values().filter(|domain| domain.ran).map(Domain::status).collect(),
                saved: self.managed_saves(),
            })),
            Request::Wait { uuid } => {
                let Some(domain) = self.domains.get_mut(&uuid) else { return Some(self.past(uuid)) };
                domain.waiters.push(client);
                None
            }
        }
    }

    /// How a domain has ended that is not there any more: whoever asks may have found it a moment ago.
    fn past(&self, uuid: DomainUuid) -> Reply {
        let ended = self.past.iter().rev().find(|(past, _)| *past == uuid);
        ended.map_or(Reply::NoDomain, |(_, ended)| Reply::Ended(ended.clone()))
    }

    fn probe(&mut self, client: ConnectionId, path: &str) -> Option<Reply> {
        self.let_go();
        if !self.has_room_for_probe() {
            let remedy = "try again in a moment";
            return Some(refused(Refusal::new(Layer::Policy, "probe", path, "too many probes run", remedy)));
        }
        let places = Places::of(&self.settings);
        let spare = self.spare_probe.take();
        // One question is followed by a start or a plug; where others follow it, another probe is made beside each.
        self.prepare_at = spare.is_some().then(|| Instant::now() + PAUSE);
        match Probe::start(client, path, &places, spare, || self.begin_probe()) {
            Ok(probe) => {
                self.probes.push(probe);
                None
            }
            Err(refusal) => Some(refused(refusal)),
        }
    }

    /// Has image probes end that have answered.
    fn let_go(&self) {
        self.probes.iter().for_each(Probe::let_go);
    }

    fn begin_probe(&self) -> Result<Spare, Refusal> {
        Spare::begin(&self.libexec.join("svirt-imageprobe"), self.settings.uids.imageprobe)
    }

    /// Prepares what can be prepared ahead while nobody waits: not before what follows a question has come, and not while
    /// a start's processes are on their way to their programs, or a device on its. While a device model starts, nobody
    /// needs the labeller.
    /// What fails here fails again, and is told, when it is needed.
    pub(super) fn prepare_ahead(&mut self) {
        if self.prepare_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.prepare_at = None;
        if !self.talks.is_empty() || self.domains.values().any(|domain| domain.launching.is_some()) {
            return;
        }
        self.let_go();
        self.launcher.idle();
        if self.spare_probe.is_none() {
            self.spare_probe = self.begin_probe().ok();
        }
    }

    /// What a supervisor says.
    pub(super) fn report(&mut self, uuid: DomainUuid, report: Report) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let name = domain.plan.domain.name.to_string();
        match report {
            Report::Greeted => {
                tracing::debug!(name, "the monitor answers");
                // All virtual CPUs are there, and none has run yet.
                if let Err(refusal) = pin::begin(domain) {
                    domain.fail_with(refusal);
                }
            }
            Report::Sealed { notifications } => tracing::debug!(name, notifications, "the gate is shut"),
            Report::Running => self.running(uuid),
            Report::Failed { refusal, stderr } => {
                if matches!(domain.phase, Phase::Starting(_)) {
                    tracing::info!(name, refusal = clip(&refusal.to_string()), "a start failed");
                    domain.fail(Refused { refusal, op: None, stderr });
                } else {
                    tracing::warn!(name, refusal = clip(&refusal.to_string()), "a supervisor failed");
                }
            }
            Report::KillWanted => domain.kill(),
            Report::Ended(ended) => {
                tell_end(&name, &ended);
                domain.ended = Some(ended);
                if domain.ran {
                    domain.end();
                }
                domain.order_leave();
            }
        }
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
        let profile = domain.is_profiled().then(|| profile_name(uuid));
        // QEMU has its displays' passwords.
        let request = LaunchRequest {
            domain: &domain.plan.domain,
            spawn,
            slots: &domain.kept,
            profile,
            passwords: &[],
        };
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

    /// Starts another passt on the channel of one that died; where that cannot be, the network is gone for good and QEMU
    /// is told so by the end of the channel.
    pub(super) fn restart_passt(&mut self, uuid: DomainUuid, alias: &str) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let name = domain.plan.domain.name.to_string();
        let Some(at) = domain.channels.iter().position(|(of, _)| of == alias) else {
            tracing::error!(name, alias, "its network is gone: the channel ended with the last passt");
            return;
        };
        let (_, channel) = domain.channels.swap_remove(at);
        let quiet = passt::quiet(channel.as_fd());
        // A power-off looks so: passt ends with QEMU's end of the channel, a moment before QEMU itself.
        if quiet.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof) {
            tracing::debug!(name, alias, "passt has ended with QEMU's end of its channel");
            return;
        }
        let started = if domain.may_restart(Instant::now()) {
            quiet
                .map_err(|error| error.to_string())
                .and_then(|()| start_passt(&mut *self.launcher, domain, alias, &channel))
        } else {
            Err(TOO_OFTEN.into())
        };
        match started {
            Ok(child) => {
                tracing::warn!(
                    name,
                    alias,
                    pid = child.pid,
                    "passt died, and another one serves its network"
                );
                domain.channels.push((alias.to_owned(), channel));
                domain.helpers.push((alias.to_owned(), child));
            }
            Err(error) => {
                tracing::error!(name, alias, error, "its network is gone: passt died");
                // QEMU sees no end of the channel while anybody has a copy.
                drop(channel);
                if let Some(store) = &self.store {
                    store.keep(uuid, &domain.lasting());
                }
            }
        }
    }

    /// Takes a domain back of which nothing runs any longer, and answers whoever waits for that.
    pub(super) fn finish(&mut self, uuid: DomainUuid) {
        let Some(mut domain) = self.domains.remove(&uuid) else { return };
        // Somebody else may close a copy later than the next start wants the port.
        domain.kept.values().for_each(listen::stop);
        domain.kept.clear();
        domain.channels.clear();
        if let Some(store) = self.store.as_ref().filter(|_| domain.ran) {
            store.forget(&[uuid]);
        }
        self.end_talks(uuid);
        for plugged in std::mem::take(&mut domain.plugs) {
            domain.undos.extend(plugged.undos);
        }
        for leftover in std::mem::take(&mut domain.leftovers) {
            domain.undos.extend(leftover.undos);
        }
        let kept = self.finish_save(&mut domain);
        let failed = undo::all(uuid, &domain.undos, domain.ran, &mut self.leases, &mut *self.launcher)
            + usize::from(kept == Kept::Not);
        self.leases.release(uuid);
        if failed == 0 {
            domain.journal.remove();
        } else {
            domain.journal.set_aside(failed);
        }
        let mut ended = domain.ending();
        // A device model may say of itself what it likes.
        ended.reason = ended.reason.filter(|reason| reason != SAVED);
        if kept == Kept::Whole {
            ended.reason = Some(SAVED.into());
        }
        if let (Some(client), Some(failure)) = (domain.starter, domain.failure.take()) {
            self.outbox.push_back((client, Reply::Refused(Box::new(failure))));
        }
        for client in domain.waiters {
            self.outbox.push_back((client, Reply::Ended(ended.clone())));
        }
        let (code, signal) = (ended.code, ended.signal);
        tracing::info!(domain = %domain.plan.domain.name, ?code, ?signal, "is undone");
        if domain.ran {
            self.past.retain(|(past, _)| *past != uuid);
            self.past.push_back((uuid, ended));
            if self.past.len() > PAST_MAX {
                self.past.pop_front();
            }
        }
    }
}

/// Why a passt is not started again.
const TOO_OFTEN: &str = "it died too often within a minute";

fn start_passt(
    launcher: &mut dyn Launcher,
    domain: &mut Domain,
    alias: &str,
    channel: &OwnedFd,
) -> Result<Child, String> {
    let (uid, label) = domain.passt(alias).ok_or("the plan has none")?;
    let profile = domain.is_profiled().then(|| part_name(domain.plan.domain.uuid, ProfilePart::Passt));
    let labels = HelperLabels { selinux: label, apparmor: profile.as_deref() };
    let child = launcher
        .passt(&domain.plan.domain, channel, uid, labels, domain.cgroups())
        .map_err(|refusal| refusal.to_string())?;
    let noted = ProcessId::of(child.pid).and_then(|id| {
        domain.journal.write(&Entry::Process { role: ProcessRole::Helper(alias.to_owned()), id })
    });
    if let Err(error) = noted {
        tracing::error!(alias, %error, "cannot note a helper in the journal");
    }
    Ok(child)
}

/// The log is the only place that keeps what a device model said last: nobody may be waiting for its end.
fn tell_end(name: &str, ended: &Ended) {
    let Ended { code, signal, stderr, .. } = ended;
    // By SIGKILL ends whoever is destroyed.
    let died = code.is_some_and(|code| code != 0) || signal.is_some_and(|signal| signal != libc::SIGKILL);
    let said = last_words(stderr);
    if died {
        tracing::warn!(name, ?code, ?signal, said, "the device model has died");
    } else {
        tracing::info!(name, ?code, ?signal, said, "the device model has ended");
    }
}

/// The longest text of others that a line of the log has, in characters.
const WORDS_MAX: usize = 1000;

/// Words of others for the log: one line, and not without end.
fn clip(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect()
}

/// The end of what a program said: why it ended is there, warnings of its start are not.
fn last_words(said: &str) -> String {
    let said = said.trim_end();
    let skipped = said.chars().count().saturating_sub(WORDS_MAX);
    clip(&said.chars().skip(skipped).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_the_last_and_one_line() {
        assert_eq!(last_words("warning: old\nassertion \x1bfailed\n\n"), "warning: old assertion  failed");
        let long = format!("{}\u{e9}the end\n", "x".repeat(5000));
        let words = last_words(&long);
        assert!(words.ends_with("x\u{e9}the end") && words.chars().count() == WORDS_MAX, "{words}");
        assert_eq!(last_words(""), "");
    }
}
