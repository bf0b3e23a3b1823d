//! The one loop of the labeller: it waits for clients, supervisors and the ends of processes, and answers.
//!
//! Single-threaded on purpose: tables need no locks, and a request sees them whole.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use super::connection::{Connection, ConnectionId, Turn};
use super::domain::{Domain, Phase};
use super::dump::Dumping;
use super::launcher::Launcher;
use super::lease::Leases;
use super::plug::Talk;
use super::probe::{PROBES_MAX, Probe, Spare};
use super::save::Saving;
use super::spawn::Launching;
use super::storage::{Job, Worker};
use super::store::Store;
use super::tune::Tune;
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::request::{Refused, Reply};
use crate::privsep::supervisor::Ended;
use crate::privsep::wire::FRAME_MAX;
use crate::settings::Settings;
use crate::sys::{listen, packet, pidfd};

/// Clients at once.
const CLIENTS_MAX: usize = 512;
/// Connections that are taken before others get their turn: everybody on the host may try to connect.
const ACCEPTED_AT_ONCE: usize = 64;
/// Bytes that all clients together may have in flight; the longest request of 16 of them.
const HELD_MAX: usize = 16 * FRAME_MAX;
/// Reports of one supervisor: a whole life has five.
const REPORTS_MAX: u32 = 32;
/// How often at most a refused client is worth a line in the log.
const COMPLAINT: Duration = Duration::from_secs(10);
/// How long an on-demand labeller stays with nothing to do.
const LINGER: Duration = Duration::from_secs(5);

/// Everything that the labeller holds.
pub(super) struct Server {
    /// The configuration.
    pub(super) settings: Settings,
    /// Whether the kernel runs SELinux.
    pub(super) selinux: bool,
    /// This boot.
    pub(super) boot: String,
    /// Where journals are.
    pub(super) journals: PathBuf,
    /// Where svirt's programs are.
    pub(super) libexec: PathBuf,
    /// What is in use.
    pub(super) leases: Leases,
    /// Domains by uuid.
    pub(super) domains: BTreeMap<DomainUuid, Domain>,
    /// Who starts processes.
    pub(super) launcher: Box<dyn Launcher>,
    /// Image probes.
    pub(super) probes: Vec<Probe>,
    /// The image probe that waits for the next question.
    pub(super) spare_probe: Option<Spare>,
    /// Until when no other one is made: whoever asked about an image is about to ask for more.
    pub(super) prepare_at: Option<Instant>,
    /// Conversations about devices that are plugged.
    pub(super) talks: Vec<Talk>,
    /// Domains that are given other limits.
    pub(super) tunes: Vec<Tune>,
    /// Domains whose memory is written down.
    pub(super) dumps: Vec<Dumping>,
    /// What is done to volumes.
    pub(super) jobs: Vec<Job>,
    /// Who carries what volumes hold.
    pub(super) carriers: Vec<Worker>,
    /// What domains' next starts go on from.
    pub(super) managed: super::saved::Managed,
    /// Clients.
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    /// How the last domains have ended, the latest at the back.
    pub(super) past: VecDeque<(DomainUuid, Ended)>,
    /// Replies that are due.
    pub(super) outbox: VecDeque<(ConnectionId, Reply)>,
    /// When a refused client was last logged, and how many have been refused since.
    pub(super) complained: (Option<Instant>, u64),
    /// The next connection's number.
    pub(super) next: u64,
    /// Whether to leave once nothing is left to do.
    pub(super) on_demand: bool,
    /// Where descriptors outlive this labeller.
    pub(super) store: Option<Store>,
    /// Since when nothing is left to do.
    pub(super) idle: Option<Instant>,
}

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Client(ConnectionId),
    Link(DomainUuid),
    Listener,
    Probe(usize),
    /// A supervisor that was asked about a device.
    Plug,
    /// One that was asked to save its guest or to dump its memory, or whoever brings that to the disk.
    Save,
    /// Whoever sets limits.
    Tune,
    /// Who does something to a volume.
    Job,
    /// What a domain's new processes say.
    Launch(DomainUuid),
    /// One of a domain's processes.
    Process(DomainUuid),
    Signal,
}

impl Server {
    /// Serves until a signal or, on demand, until there is nothing left to do.
    pub(super) fn run(&mut self, listener: &UnixListener, signals: &SignalFd) -> std::io::Result<()> {
        self.prepare_ahead();
        loop {
            let ready = self.wait(listener, signals)?;
            let mut stop = false;
            for (token, flags) in ready {
                match token {
                    Token::Listener => self.accept(listener),
                    Token::Signal => stop |= self.signals(signals),
                    Token::Client(id) => self.client(id, flags),
                    Token::Link(uuid) => self.link(uuid),
                    Token::Launch(uuid) => self.launching(uuid),
                    Token::Process(uuid) => self.processes(uuid),
                    Token::Job | Token::Probe(_) | Token::Plug | Token::Save | Token::Tune => {}
                }
            }
            self.advance();
            self.prepare_ahead();
            if stop || self.is_idle_enough() {
                return Ok(());
            }
        }
    }

    fn wait(&self, listener: &UnixListener, signals: &SignalFd) -> std::io::Result<Vec<(Token, PollFlags)>> {
        let mut tokens = vec![Token::Listener, Token::Signal];
        let mut fds: Vec<PollFd<'_>> = vec![
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        let mut add = |token, fd, flags| {
            tokens.push(token);
            fds.push(PollFd::new(fd, flags));
        };
        for (id, connection) in &self.connections {
            add(Token::Client(*id), connection.fd(), connection.interest());
        }
        for (uuid, domain) in &self.domains {
            if let Some(link) = &domain.link {
                add(Token::Link(*uuid), link.as_fd(), PollFlags::POLLIN);
            }
            if let Some(launching) = &domain.launching {
                add(Token::Launch(*uuid), launching.fd(), PollFlags::POLLIN);
            }
            for fd in domain.saving.iter().flat_map(Saving::fds) {
                add(Token::Save, fd, PollFlags::POLLIN);
            }
            let helpers = domain.helpers.iter().map(|(_, child)| child);
            let processes = domain.device_model.iter().chain(&domain.supervisor).chain(helpers);
            for process in processes {
                add(Token::Process(*uuid), process.pidfd.as_fd(), PollFlags::POLLIN);
            }
        }
        for (at, probe) in self.probes.iter().enumerate() {
            add(Token::Probe(at), probe.fd(), PollFlags::POLLIN);
        }
        for talk in &self.talks {
            add(Token::Plug, talk.fd(), PollFlags::POLLIN);
        }
        for fd in self.dumps.iter().flat_map(Dumping::fds) {
            add(Token::Save, fd, PollFlags::POLLIN);
        }
        for job in &self.jobs {
            add(Token::Job, job.fd(), PollFlags::POLLIN);
        }
        for tune in &self.tunes {
            add(Token::Tune, tune.fd(), PollFlags::POLLIN);
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = fds.iter().zip(tokens).filter_map(|(fd, token)| {
            let flags = fd.revents().filter(|flags| !flags.is_empty())?;
            Some((token, flags))
        });
        Ok(ready.collect())
    }

    fn timeout(&self) -> PollTimeout {
        let domains = self.domains.values().filter_map(Domain::deadline);
        let clients = self.connections.values().filter_map(Connection::deadline);
        let probes = self.probes.iter().map(|probe| probe.deadline);
        let idle = self.idle.map(|since| since + LINGER);
        let Some(next) = domains
            .chain(clients)
            .chain(probes)
            .chain(idle)
            .chain(self.prepare_at)
            .chain(self.plug_deadline())
            .chain(self.save_deadline())
            .chain(self.tunes.iter().filter_map(Tune::deadline))
            .min()
        else {
            return PollTimeout::NONE;
        };
        // Rounded up, so that the deadline has passed when the wait ends.
        let left = next.saturating_duration_since(Instant::now()).as_millis() + 1;
        u16::try_from(left).map_or(PollTimeout::MAX, PollTimeout::from)
    }

    fn accept(&mut self, listener: &UnixListener) {
        for _ in 0..ACCEPTED_AT_ONCE {
            let Ok((stream, _)) = listener.accept() else { return };
            let admitted = match listen::peer(&stream) {
                Ok((uid, pid)) => {
                    let known = uid == 0 || uid == self.settings.uids.frontend;
                    if !known {
                        self.complain(uid, pid);
                    }
                    known
                }
                Err(error) => {
                    tracing::warn!(%error, "refused a client without credentials");
                    false
                }
            };
            if !admitted {
                continue;
            }
            if self.connections.len() >= CLIENTS_MAX {
                tracing::warn!("refused a client: {CLIENTS_MAX} are connected");
                continue;
            }
            if let Ok(connection) = Connection::new(stream) {
                self.connections.insert(ConnectionId(self.next), connection);
                self.next += 1;
            }
        }
    }

    /// Logs a client that is refused, but no more often than is of use: whoever may connect could fill the disk.
    fn complain(&mut self, uid: u32, pid: i32) {
        let (last, more) = &mut self.complained;
        if last.is_some_and(|last| last.elapsed() < COMPLAINT) {
            *more += 1;
            return;
        }
        tracing::warn!(uid, pid, others = *more, "refused a client: neither root nor uids.frontend");
        self.complained = (Some(Instant::now()), 0);
    }

    /// Reads the waiting signals; true if one of them means to stop.
    fn signals(&mut self, signals: &SignalFd) -> bool {
        let mut stop = false;
        while let Ok(Some(signal)) = signals.read_signal() {
            match i32::try_from(signal.ssi_signo) {
                Ok(libc::SIGTERM | libc::SIGINT) => stop = true,
                Ok(libc::SIGCHLD) => self.reap_orphans(),
                _ => {}
            }
        }
        if stop {
            tracing::info!(domains = self.domains.len(), "leaving; domains go on");
        }
        stop
    }

    fn reap_orphans(&mut self) {
        let mut known: Vec<i32> = self.probes.iter().map(Probe::pid).collect();
        known.extend(self.tunes.iter().map(Tune::pid).chain(self.dumps.iter().map(Dumping::pid)));
        known.extend(self.jobs.iter().map(Job::pid).chain(self.carriers.iter().map(Worker::pid)));
        for domain in self.domains.values() {
            let helpers = domain.helpers.iter().map(|(_, child)| child);
            let children = domain.device_model.iter().chain(&domain.supervisor).chain(helpers);
            known.extend(children.map(|child| child.pid));
            known.extend(domain.launching.iter().flat_map(Launching::pids));
            known.extend(domain.saving.as_ref().and_then(Saving::child));
        }
        pidfd::reap_orphans(&|pid| known.contains(&pid));
    }

    fn client(&mut self, id: ConnectionId, flags: PollFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if flags.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL) {
            self.close(id);
            return;
        }
        if connection.is_busy() {
            // The client went away while its request was being worked on.
            if flags.contains(PollFlags::POLLHUP) {
                self.close(id);
            }
            return;
        }
        if flags.contains(PollFlags::POLLOUT) && !connection.write() {
            self.close(id);
            return;
        }
        let turn = if flags.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
            connection.read()
        } else {
            connection.next()
        };
        if self.holds_too_much() {
            tracing::warn!("closed a client: all together send more than {HELD_MAX} bytes at once");
            self.close(id);
            return;
        }
        self.turn(id, turn);
        // Before the next client is heard: replies that wait together may be as many as clients, and as long as plans.
        self.deliver();
    }

    /// Whether all clients together hold more than they may.
    fn holds_too_much(&self) -> bool {
        self.connections.values().map(Connection::held).sum::<usize>() > HELD_MAX
    }

    fn turn(&mut self, id: ConnectionId, turn: Turn) {
        match turn {
            Turn::Close => self.close(id),
            Turn::Nothing => {}
            Turn::Request(request) => {
                if let Some(reply) = self.request(id, *request) {
                    self.outbox.push_back((id, reply));
                }
            }
        }
    }

    /// Forgets a client. A start that nobody waits for any longer is taken back.
    fn close(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        // What nobody waits for is taken back: a copy has no name yet.
        self.jobs.retain(|job| job.client() != id);
        for domain in self.domains.values_mut() {
            domain.waiters.retain(|waiter| *waiter != id);
            if domain.starter == Some(id) {
                domain.starter = None;
                domain.fail_with(Refusal::new(
                    Layer::Policy,
                    "start domain",
                    domain.plan.domain.name.to_string(),
                    "whoever asked for it went away before it ran",
                    "",
                ));
            }
        }
    }

    fn link(&mut self, uuid: DomainUuid) {
        // A handful at a time, so that a supervisor that talks a lot cannot hold everybody up.
        for _ in 0..16 {
            let Some(domain) = self.domains.get_mut(&uuid) else { return };
            let Some(link) = &domain.link else { return };
            let received = packet::receive(link);
            if matches!(received, Ok(packet::Received::Nothing)) {
                return;
            }
            domain.heard += 1;
            let report = match received {
                Ok(packet::Received::Packet(bytes)) => serde_json::from_slice(&bytes).ok(),
                Ok(packet::Received::End) => {
                    domain.link = None;
                    return;
                }
                _ => None,
            };
            match report {
                Some(report) if domain.heard <= REPORTS_MAX => self.report(uuid, report),
                _ => {
                    domain.distrust();
                    return;
                }
            }
        }
    }

    fn processes(&mut self, uuid: DomainUuid) {
        // What a supervisor said before it left counts more than that it left.
        self.link(uuid);
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        for alias in domain.reap_helpers() {
            self.restart_passt(uuid, &alias);
        }
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        if domain.reap() {
            self.replace_supervisor(uuid);
        }
    }

    /// Everything that does not wait for a descriptor: deadlines, ends, probes, replies.
    fn advance(&mut self) {
        let now = Instant::now();
        self.advance_probes(now);
        self.advance_launches(now);
        self.advance_plugs(now);
        self.store.iter().for_each(Store::complain);
        self.advance_saves(now);
        self.advance_dumps(now);
        self.advance_tunes(now);
        self.advance_jobs();
        for domain in self.domains.values_mut() {
            domain.settle(now);
            if matches!(domain.phase, Phase::Ending(_)) {
                domain.reap_helpers();
                domain.reap();
            }
        }
        let alone = self.domains.iter().filter(|(_, domain)| domain.replace_at().is_some_and(|at| now >= at));
        let alone: Vec<DomainUuid> = alone.map(|(uuid, _)| *uuid).collect();
        for uuid in alone {
            self.replace_supervisor(uuid);
        }
        // A cgroup cannot be removed while somebody writes its limits: the kernel would have the labeller wait for that.
        let over =
            self.domains.iter().filter(|(uuid, domain)| domain.is_over() && !self.is_being_tuned(**uuid));
        let over: Vec<DomainUuid> = over.map(|(uuid, _)| *uuid).collect();
        for uuid in over {
            // It may have spoken and ended since its socket was read: how the device model ended is known from there alone.
            self.link(uuid);
            self.finish(uuid);
        }
        self.deliver();
        let late = self.connections.iter().filter(|(_, c)| c.deadline().is_some_and(|at| now >= at));
        let late: Vec<ConnectionId> = late.map(|(id, _)| *id).collect();
        for id in late {
            self.close(id);
        }
    }

    /// A start whose processes are silent for too long ends.
    fn advance_launches(&mut self, now: Instant) {
        let late = self.domains.iter().filter(|(_, domain)| {
            domain.launching.as_ref().is_some_and(|launching| now >= launching.deadline())
        });
        let late: Vec<DomainUuid> = late.map(|(uuid, _)| *uuid).collect();
        for uuid in late {
            self.launching(uuid);
        }
    }

    fn advance_probes(&mut self, now: Instant) {
        let mut running = Vec::with_capacity(self.probes.len());
        for mut probe in std::mem::take(&mut self.probes) {
            self.outbox.extend(probe.advance(now).map(|reply| (probe.client, reply)));
            if !probe.is_over() {
                running.push(probe);
            }
        }
        self.probes = running;
    }

    /// Sends replies; a client that has asked for more meanwhile is heard at once.
    fn deliver(&mut self) {
        while let Some((id, reply)) = self.outbox.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let answered = connection.answer(&reply);
            // Those who asked first and do not read keep what they have; they have little time for that.
            if answered && connection.held() > 0 && self.holds_too_much() {
                tracing::warn!("closed a client: all together leave more than {HELD_MAX} bytes unread");
                self.close(id);
                continue;
            }
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if answered {
                let turn = connection.next();
                self.turn(id, turn);
            } else {
                self.close(id);
            }
        }
    }

    fn is_idle_enough(&mut self) -> bool {
        let busy = !self.domains.is_empty()
            || !self.connections.is_empty()
            || !self.probes.is_empty()
            || !self.carriers.is_empty();
        if !self.on_demand || busy {
            self.idle = None;
            return false;
        }
        let since = *self.idle.get_or_insert_with(Instant::now);
        since.elapsed() >= LINGER
    }

    /// Room for one more probe.
    pub(super) fn has_room_for_probe(&self) -> bool {
        self.probes.iter().filter(|probe| probe.is_asked()).count() < PROBES_MAX
    }
}

/// A refusal as a reply.
pub(super) fn refused(refusal: Refusal) -> Reply {
    Reply::Refused(Box::new(Refused { refusal, op: None, stderr: String::new() }))
}

/// A signalfd for what concerns the labeller; the signals themselves are blocked.
pub(super) fn signals() -> std::io::Result<SignalFd> {
    use nix::sys::signal::{SigSet, Signal};
    use nix::sys::signalfd::SfdFlags;
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Says on a descriptor that the socket listens.
pub(super) fn say_ready(fd: &OwnedFd) -> std::io::Result<()> {
    let fd: BorrowedFd<'_> = fd.as_fd();
    nix::unistd::write(fd, b"\n")?;
    Ok(())
}
