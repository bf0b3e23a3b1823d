//! The supervisor's one loop: what it holds, what it polls, and when it leaves.
//!
//! One thread. The gate is served first in every turn, because a call of the device model waits for it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::console::{Console, Part};
use super::control::Control;
use super::dump::Dumping;
use super::ending::{self, STDERR_KEPT};
use super::gate::{Book, Gate};
use super::handed::{Handed, nonblocking};
use super::launch::{Input, Launch, Step};
use super::monitor::Monitor;
use super::picture::Pictures;
use super::plug::{Held, Plugging};
use super::ring::Ring;
use super::save::Saving;
use super::vnc::Vncs;
use crate::base::{Layer, Refusal};
use crate::privsep::ask::Ask;
use crate::privsep::supervisor::{Answer, Incoming, Lifecycle, Order, Report, Verb};
use crate::privsep::throttle::Throttle;
use crate::sys::packet::{self, Received};
use crate::sys::seccomp::NotifyListener;
use crate::sys::{pidfd, scm};

/// How long a start may take from the hand-off to `cont`; 20 of them at once under emulation need a few seconds.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long clients wait at a takeover; a QEMU that is busy for longer shows as one without monitor until it answers.
const RESYNC_LIMIT: Duration = Duration::from_secs(10);
/// How long after its monitor closed QEMU may take to end, before that alone is the failure.
const DYING_LIMIT: Duration = Duration::from_secs(1);
/// How long readers may take to get the last output after QEMU has ended.
const LINGER: Duration = Duration::from_millis(250);
/// Calls that are answered in one turn, so that a device model that makes them without end starves nobody.
const GATE_TURN: usize = 64;

/// Everything that one supervisor holds.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) lifecycle: Lifecycle,
    labeller: Option<OwnedFd>,
    reports: VecDeque<Vec<u8>>,
    handoff: Option<OwnedFd>,
    pidfd: OwnedFd,
    stderr: Option<OwnedFd>,
    said: Ring,
    pub(super) gate: Gate,
    pub(super) launch: Launch,
    /// What the guest is to keep of its memory from the beginning, in bytes.
    pub(super) balloon: Option<u64>,
    /// The interfaces whose cable is out from the beginning, until QEMU was told.
    pub(super) links_down: Vec<String>,
    /// How much disks may do from the beginning.
    pub(super) throttles: Vec<Throttle>,
    /// Passwords of displays that QEMU has not been told yet.
    pub(super) passwords: VecDeque<Ask>,
    pub(super) monitor: Option<Monitor>,
    pub(super) consoles: Vec<Console>,
    pub(super) vncs: Vncs,
    pub(super) control: Control,
    /// QEMU's reason for its end.
    pub(super) reason: Option<String>,
    /// Pictures of its displays.
    pub(super) pictures: Pictures,
    /// The device that is being plugged.
    pub(super) plugging: Option<Plugging>,
    /// What QEMU keeps open of devices and media that are gone.
    pub(super) kept_open: Vec<Held>,
    /// The save that goes on.
    pub(super) saving: Option<Saving>,
    /// The dump that goes on.
    pub(super) dumping: Option<Dumping>,
    /// Whether the last save left a guest standing that was to go on; nothing where none is known of.
    pub(super) owes_cont: Option<bool>,
    /// When QEMU is asked again whether it has loaded the guest.
    pub(super) load_look: Option<Instant>,
    /// Whether the next power-off of the guest is the first half of a reboot.
    pub(super) rebooting: bool,
    start_by: Option<Instant>,
    /// Until when clients wait for a monitor that is taken over.
    resync_by: Option<Instant>,
    /// What is told if the start runs into its limit.
    lost: Option<Refusal>,
    /// When QEMU must be gone after a `quit`.
    pub(super) kill_at: Option<Instant>,
    /// When this process leaves at the latest.
    leave_by: Option<Instant>,
}

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Gate,
    Handoff,
    Monitor,
    Pidfd,
    Labeller,
    Stderr,
    Control(Option<u64>),
    Console(usize, Part),
    Vnc(usize),
}

impl Server {
    /// Puts everything in its place. Nothing is heard or said yet.
    pub(super) fn new(mut handed: Handed) -> Result<Self, (Refusal, OwnedFd)> {
        match Self::parts(&mut handed) {
            Ok((monitor, control, consoles, vncs)) => {
                Ok(Self::assemble(handed, monitor, control, consoles, vncs))
            }
            Err(refusal) => Err((refusal, handed.labeller)),
        }
    }

    fn parts(handed: &mut Handed) -> Result<(OwnedFd, OwnedFd, Vec<Console>, Vncs), Refusal> {
        let monitor = nonblocking(handed.slot("monitor.peer")?)?;
        let control = nonblocking(handed.slot("control")?)?;
        let specs = handed.bootstrap.spec.consoles.clone();
        let consoles = specs.iter().map(|spec| Console::new(spec, handed)).collect::<Result<_, _>>()?;
        let mut listeners = Vec::new();
        for spec in handed.bootstrap.spec.vncs.clone() {
            let listener = nonblocking(handed.slot(spec.listen.as_str())?)?;
            listeners.push((listener, spec.protocol, spec.max_clients));
        }
        Ok((monitor, control, consoles, Vncs::new(listeners)))
    }

    fn assemble(
        handed: Handed,
        monitor: OwnedFd,
        control: OwnedFd,
        consoles: Vec<Console>,
        vncs: Vncs,
    ) -> Self {
        let Handed { bootstrap, labeller, handoff, pidfd, stderr, .. } = handed;
        let takeover = bootstrap.takeover;
        let incoming = bootstrap.spec.incoming;
        let longer = incoming.map_or(Duration::ZERO, |incoming| Incoming::patience(incoming.bytes));
        Self {
            lifecycle: bootstrap.spec.lifecycle,
            labeller: Some(labeller),
            reports: VecDeque::new(),
            handoff,
            pidfd,
            stderr,
            said: Ring::new(STDERR_KEPT),
            gate: Gate::new(if takeover { Book::shut() } else { Book::default() }),
            balloon: bootstrap.spec.balloon.filter(|_| incoming.is_none()),
            links_down: bootstrap.spec.links_down,
            throttles: if takeover { Vec::new() } else { bootstrap.spec.throttles },
            passwords: super::ask::passwords(if takeover { Vec::new() } else { bootstrap.passwords }),
            launch: if takeover {
                Launch::over()
            } else {
                Launch::new(bootstrap.spec.start_paused, incoming.map(|it| it.fd))
            },
            monitor: Some(Monitor::new(monitor, takeover)),
            consoles,
            vncs,
            control: Control::new(control, bootstrap.spec.clients),
            reason: None,
            rebooting: false,
            pictures: Pictures::new(),
            plugging: None,
            kept_open: Vec::new(),
            saving: None,
            dumping: None,
            owes_cont: None,
            load_look: None,
            start_by: (!takeover).then(|| Instant::now() + START_LIMIT + longer),
            resync_by: takeover.then(|| Instant::now() + RESYNC_LIMIT),
            lost: None,
            kill_at: None,
            leave_by: None,
        }
    }

    /// Serves until QEMU has ended or the labeller says so.
    pub(super) fn run(&mut self) -> std::io::Result<()> {
        self.write_monitor();
        loop {
            let ready = self.poll()?;
            for token in ready {
                self.handle(token);
            }
            self.tick(Instant::now());
            if self.may_leave() {
                return Ok(());
            }
        }
    }

    fn interests<'a>(&'a self) -> Vec<(Token, BorrowedFd<'a>, PollFlags)> {
        let flags = |read: bool, write: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, read);
            flags.set(PollFlags::OUT, write);
            flags
        };
        let mut found = Vec::with_capacity(12);
        let mut add = |token, fd: BorrowedFd<'a>, read, write| found.push((token, fd, flags(read, write)));
        if self.leave_by.is_none() {
            if let Some(fd) = self.gate.fd() {
                add(Token::Gate, fd, true, false);
            }
            if let Some(fd) = &self.handoff {
                add(Token::Handoff, fd.as_fd(), true, false);
            }
            if let Some(monitor) = &self.monitor {
                add(Token::Monitor, monitor.fd().as_fd(), true, monitor.wants_to_write());
            }
            if let Some(fd) = &self.stderr {
                add(Token::Stderr, fd.as_fd(), true, false);
            }
            if self.launch.step() == Step::Running && self.monitor.as_ref().is_some_and(Monitor::is_ready) {
                self.vncs.interests(|index, fd| add(Token::Vnc(index), fd.as_fd(), true, false));
            }
            add(Token::Pidfd, self.pidfd.as_fd(), true, false);
        }
        if let Some(fd) = &self.labeller {
            add(Token::Labeller, fd.as_fd(), true, !self.reports.is_empty());
        }
        for (index, console) in self.consoles.iter().enumerate() {
            console.interests(|part, fd, read, write| {
                add(Token::Console(index, part), fd.as_fd(), read, write);
            });
        }
        if !self.resynchronising() {
            self.control.interests(|client, fd, read, write| {
                add(Token::Control(client), fd.as_fd(), read, write);
            });
        }
        found
    }

    /// Whether the monitor of a predecessor is not in step yet; clients wait for that.
    fn resynchronising(&self) -> bool {
        self.resync_by.is_some() && self.monitor.as_ref().is_some_and(|monitor| !monitor.is_ready())
    }

    fn poll(&self) -> std::io::Result<Vec<Token>> {
        let interests = self.interests();
        let mut fds: Vec<PollFd<'_>> =
            interests.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let wait = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let wait = wait.map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        });
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = fds.iter().zip(&interests).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.map(|(_, (token, ..))| *token).collect())
    }

    fn deadline(&self) -> Option<Instant> {
        let plugging = self.plugging.as_ref().and_then(Plugging::deadline);
        let saving = self.saving.as_ref().and_then(Saving::deadline).or(self.load_look);
        let own = [self.start_by, self.resync_by, self.kill_at, self.leave_by];
        let dumping = self.dumping.as_ref().and_then(Dumping::deadline);
        own.into_iter()
            .chain([self.control.deadline(), plugging, saving, dumping, self.pictures.deadline()])
            .flatten()
            .min()
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Gate => {
                // A listener whose device model is gone hangs up; the pidfd tells the rest.
                if self.gate.answer(GATE_TURN).is_err() {
                    self.gate.close();
                }
            }
            Token::Handoff => self.hand_off(),
            Token::Monitor => self.hear(),
            Token::Pidfd => self.ended(),
            Token::Labeller => self.labeller_ready(),
            Token::Stderr => self.read_stderr(),
            Token::Control(None) => self.control.accept(Instant::now()),
            Token::Control(Some(client)) => {
                if let Some(request) = self.control.ready(client) {
                    self.request(request);
                }
            }
            Token::Console(index, part) => {
                if let Some(console) = self.consoles.get_mut(index) {
                    console.ready(part);
                }
            }
            Token::Vnc(index) => self.vnc_ready(index),
        }
    }

    fn hand_off(&mut self) {
        let Some(socket) = &self.handoff else { return };
        let mut buffer = [0; 64];
        match scm::recv(socket.as_fd(), &mut buffer) {
            Ok((_, fds)) => {
                self.handoff = None;
                let mut fds = fds.into_iter();
                // Without a descriptor the launcher ended before it had one; QEMU's end will say why.
                let (Some(fd), None) = (fds.next(), fds.next()) else {
                    return self.dying("its launcher sent no seccomp listener");
                };
                self.gate.install(NotifyListener::new(fd));
                self.advance(Input::Listener);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.handoff = None;
                self.dying(&format!("the seccomp listener did not arrive: {error}"));
            }
        }
    }

    /// Something of the device model is gone: it has a moment to end and say why by that.
    pub(super) fn dying(&mut self, rule: &str) {
        if matches!(self.launch.step(), Step::Running | Step::Failed) {
            return;
        }
        let soon = Instant::now() + DYING_LIMIT;
        self.start_by = Some(self.start_by.map_or(soon, |by| by.min(soon)));
        self.lost.get_or_insert_with(|| {
            Refusal::new(
                Layer::DeviceModel,
                "start",
                "the device model",
                rule,
                "look at what it said on standard error",
            )
        });
    }

    /// The start has failed. The gate shuts too: nobody is to make launch calls any more.
    pub(super) fn fail(&mut self, refusal: Refusal) {
        self.gate.book.seal();
        self.launch.fail();
        self.start_by = None;
        let stderr = self.said.text();
        self.report(&Report::Failed { refusal, stderr });
    }

    /// The start is over and well.
    pub(super) fn started(&mut self) {
        self.start_by = None;
        self.report(&Report::Running);
    }

    pub(super) fn report(&mut self, report: &Report) {
        if self.labeller.is_none() {
            return;
        }
        if let Ok(packet) = serde_json::to_vec(report) {
            self.reports.push_back(packet);
        }
        self.send_reports();
    }

    fn send_reports(&mut self) {
        while let (Some(socket), Some(packet)) = (&self.labeller, self.reports.front()) {
            match packet::send(socket, packet) {
                Ok(()) => {
                    self.reports.pop_front();
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => self.labeller_gone(),
            }
        }
    }

    fn labeller_ready(&mut self) {
        self.send_reports();
        let Some(socket) = &self.labeller else { return };
        match packet::receive(socket) {
            Ok(Received::Packet(bytes)) => {
                if let Ok(Order::Leave) = serde_json::from_slice(&bytes) {
                    self.leave();
                }
            }
            Ok(Received::Nothing) => {}
            Ok(Received::End | Received::TooLong) | Err(_) => self.labeller_gone(),
        }
    }

    /// The guest goes on without a labeller; a start that nobody waits for does not.
    fn labeller_gone(&mut self) {
        self.labeller = None;
        self.reports.clear();
        if self.launch.step() != Step::Running {
            self.leave();
        }
    }

    /// Whether somebody can still be asked to kill.
    pub(super) fn has_labeller(&self) -> bool {
        self.labeller.is_some()
    }

    fn read_stderr(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..64 {
            let Some(fd) = &self.stderr else { return };
            match rustix::io::read(fd, &mut buffer) {
                Ok(length) if length > 0 => self.said.push(buffer.get(..length).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                _ => self.stderr = None,
            }
        }
    }

    /// QEMU is gone: takes what it left behind, tells, and lets readers finish.
    fn ended(&mut self) {
        if self.monitor.is_some() {
            self.hear();
        }
        self.read_stderr();
        let exit = pidfd::reap(&self.pidfd);
        if !matches!(self.launch.step(), Step::Running | Step::Failed) {
            let refusal = ending::early_end(exit, &self.said.text(), &self.gate.book.refused());
            self.fail(refusal);
        }
        let ended = ending::ended(exit, self.reason.take(), self.said.text());
        self.report(&Report::Ended(ended));
        let now = Instant::now();
        for client in self.control.waiting_for(&Verb::Destroy) {
            self.control.answer(client, &Answer::Done, now);
        }
        self.leave();
    }

    fn leave(&mut self) {
        self.gate.close();
        self.monitor = None;
        self.kill_at = None;
        self.start_by = None;
        self.leave_by = Some(Instant::now() + LINGER);
    }

    fn may_leave(&mut self) -> bool {
        let Some(by) = self.leave_by else { return false };
        let mut consoles = true;
        for console in &mut self.consoles {
            consoles &= console.finish();
        }
        let all = consoles && self.control.is_flushed() && self.reports.is_empty();
        all || by <= Instant::now()
    }

    fn tick(&mut self, now: Instant) {
        if self.start_by.is_some_and(|by| by <= now) {
            let refusal = self.lost.take().unwrap_or_else(|| too_slow(self.launch.step()));
            self.fail(refusal);
        }
        if self.resync_by.is_some_and(|by| by <= now) || self.monitor.as_ref().is_some_and(Monitor::is_ready)
        {
            self.resync_by = None;
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.report(&Report::KillWanted);
        }
        self.plug_tick(now);
        self.picture_tick(now);
        self.save_tick(now);
        self.dump_tick(now);
        self.load_tick(now);
        self.control.expire(now);
    }
}

fn too_slow(step: Step) -> Refusal {
    Refusal::new(
        Layer::DeviceModel,
        "start",
        "the device model",
        format!("it is at step {step:?} after {} seconds", START_LIMIT.as_secs()),
        "look at the host's load and at what it said on standard error",
    )
}
