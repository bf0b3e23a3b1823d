//! The control socket: who may speak, bounded lines in, one answer each, time limits.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags, accept_with, send};

use crate::base::{Layer, Refusal};
use crate::privsep::ask::Happening;
use crate::privsep::supervisor::{Answer, Verb};
use crate::sys::scm;

/// Connections at once; one more is closed.
const CLIENTS_MAX: usize = 16;
/// Beyond those, for root alone, so that the domain's own clients cannot keep it from stopping the domain.
const FOR_ROOT: usize = 4;
/// The longest request in bytes.
const LINE_MAX: usize = 4096;
/// How long a connection may take to say a whole request.
const SPEAK_LIMIT: Duration = Duration::from_secs(10);
/// Bytes that a listener may leave unread before it is let go.
const UNHEARD_MAX: usize = 256 << 10;
/// How long a client may take over something long that it asked for.
const TAKE_LIMIT: Duration = Duration::from_secs(120);
/// A listener has no limit of time, nor has a save.
const FOR_GOOD: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How long a client waits for QEMU; its main loop can be busy with a disk.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What a connection is doing.
#[derive(Debug)]
enum State {
    /// Speaking.
    Reading,
    /// Waiting for the answer with this ticket.
    Waiting(u64, Verb),
    /// Being told something; nothing more is heard.
    Closing,
    /// Being told whatever happens.
    Listening,
}

#[derive(Debug)]
struct Client {
    id: u64,
    socket: OwnedFd,
    line: Vec<u8>,
    out: Vec<u8>,
    state: State,
    deadline: Instant,
    /// Whether it is nobody who may speak.
    stranger: bool,
    /// Whether it is root, whose descriptors are taken.
    root: bool,
    /// The descriptors that came with what it says.
    fds: Vec<OwnedFd>,
}

/// The listening socket and its connections.
#[derive(Debug)]
pub(super) struct Control {
    listener: OwnedFd,
    allowed: Vec<u32>,
    clients: Vec<Client>,
    next: u64,
}

/// A whole request.
#[derive(Debug)]
pub(super) struct Request {
    /// The connection.
    pub(super) client: u64,
    /// What it asks.
    pub(super) verb: Verb,
    /// What root handed over with it.
    pub(super) fds: Vec<OwnedFd>,
    /// Whether root asks.
    pub(super) root: bool,
}

impl Control {
    /// Serves a socket that listens already to root and to these uids.
    #[must_use]
    pub(super) fn new(listener: OwnedFd, allowed: Vec<u32>) -> Self {
        Self { listener, allowed, clients: Vec::new(), next: 0 }
    }

    /// Calls `ask` with what to poll: connection (none for the listener), descriptor, reading, writing.
    pub(super) fn interests<'a>(&'a self, mut ask: impl FnMut(Option<u64>, &'a OwnedFd, bool, bool)) {
        ask(None, &self.listener, true, false);
        for client in &self.clients {
            let reads = matches!(client.state, State::Reading) && client.line.len() < LINE_MAX;
            ask(Some(client.id), &client.socket, reads, !client.out.is_empty());
        }
    }

    /// Takes a new connection, if its peer may speak.
    pub(super) fn accept(&mut self, now: Instant) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = accept_with(&self.listener, flags) else { return };
        let Ok(peer) = getsockopt(&socket, PeerCredentials) else { return };
        let is_root = peer.uid() == 0;
        let stranger = !is_root && !self.allowed.contains(&peer.uid());
        // Everybody may connect, so strangers have places of their own and take nobody else's.
        let most = if is_root { CLIENTS_MAX + FOR_ROOT } else { CLIENTS_MAX };
        if self.clients.iter().filter(|client| client.stranger == stranger).count() >= most {
            return;
        }
        let id = self.ticket();
        let mut client = Client {
            id,
            socket,
            line: Vec::new(),
            out: Vec::new(),
            state: State::Reading,
            deadline: now + SPEAK_LIMIT,
            stranger,
            root: is_root,
            fds: Vec::new(),
        };
        if stranger {
            client.say(&Answer::Refused(refuse_stranger(peer.uid())));
            client.state = State::Closing;
            client.flush();
        }
        self.clients.push(client);
    }

    fn ticket(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Reads from a connection and writes to it; a whole request, if there is one.
    pub(super) fn ready(&mut self, id: u64) -> Option<Request> {
        let index = self.clients.iter().position(|client| client.id == id)?;
        let client = self.clients.get_mut(index)?;
        if !client.flush() || (matches!(client.state, State::Closing) && client.out.is_empty()) {
            self.clients.swap_remove(index);
            return None;
        }
        match client.read() {
            Ok(verb) => {
                let root = client.root;
                verb.map(|verb| Request { client: id, verb, fds: std::mem::take(&mut client.fds), root })
            }
            Err(Some(answer)) => {
                client.say(&answer);
                client.state = State::Closing;
                client.flush();
                None
            }
            Err(None) => {
                self.clients.swap_remove(index);
                None
            }
        }
    }

    /// Makes a connection wait, and gives the ticket under which its answer will come.
    pub(super) fn wait(&mut self, id: u64, verb: Verb, now: Instant) -> u64 {
        let ticket = self.ticket();
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.state = State::Waiting(ticket, verb);
            client.deadline = now + ANSWER_LIMIT;
        }
        ticket
    }

    /// The same for what takes as long as it takes.
    pub(super) fn wait_for_good(&mut self, id: u64, verb: Verb, now: Instant) -> u64 {
        let ticket = self.wait(id, verb, now);
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.deadline = now + FOR_GOOD;
        }
        ticket
    }

    /// What the connection with this ticket asked, if it still waits.
    #[must_use]
    pub(super) fn waiting(&self, ticket: u64) -> Option<(u64, Verb)> {
        self.clients.iter().find_map(|client| match &client.state {
            State::Waiting(waits, verb) if *waits == ticket => Some((client.id, verb.clone())),
            _ => None,
        })
    }

    /// Connections that wait for the answer to a verb.
    #[must_use]
    pub(super) fn waiting_for(&self, wanted: &Verb) -> Vec<u64> {
        let waits = |client: &&Client| matches!(&client.state, State::Waiting(_, verb) if verb == wanted);
        self.clients.iter().filter(waits).map(|client| client.id).collect()
    }

    /// Answers a connection, which may then ask the next thing.
    pub(super) fn answer(&mut self, id: u64, answer: &Answer, now: Instant) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.say(answer);
            client.state = State::Reading;
            client.deadline = now + SPEAK_LIMIT;
            client.flush();
        }
    }

    /// Answers a connection with something long behind the answer, and ends it once all is taken.
    pub(super) fn deliver(&mut self, id: u64, answer: &Answer, bytes: Vec<u8>, now: Instant) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.say(answer);
            client.out.extend(bytes);
            client.state = State::Closing;
            client.deadline = now + TAKE_LIMIT;
            client.flush();
        }
    }

    /// Bytes that wait for somebody to take them.
    #[must_use]
    pub(super) fn unread(&self) -> usize {
        self.clients.iter().map(|client| client.out.len()).sum()
    }

    /// Makes a connection hear whatever happens from now on.
    pub(super) fn listen(&mut self, id: u64, now: Instant) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.say(&Answer::Done);
            client.state = State::Listening;
            client.deadline = now + FOR_GOOD;
            client.flush();
        }
    }

    /// Tells every listener; one that does not read is let go.
    pub(super) fn tell(&mut self, happening: &Happening) {
        for client in self.clients.iter_mut().filter(|client| matches!(client.state, State::Listening)) {
            client.line_of(happening);
            client.flush();
        }
        let deaf =
            |client: &Client| matches!(client.state, State::Listening) && client.out.len() > UNHEARD_MAX;
        self.clients.retain(|client| !deaf(client));
    }

    /// Gives a connection away, with what it said after its request.
    pub(super) fn take(&mut self, id: u64) -> Option<(OwnedFd, Vec<u8>)> {
        let index = self.clients.iter().position(|client| client.id == id)?;
        let client = self.clients.swap_remove(index);
        Some((client.socket, client.line))
    }

    /// Takes a connection back to tell it one thing.
    pub(super) fn dismiss(&mut self, socket: OwnedFd, answer: &Answer, now: Instant) {
        let id = self.ticket();
        let deadline = now + SPEAK_LIMIT;
        let state = State::Closing;
        let (line, out) = (Vec::new(), Vec::new());
        let fds = Vec::new();
        let mut client = Client { id, socket, line, out, state, deadline, stranger: false, root: false, fds };
        client.say(answer);
        client.flush();
        self.clients.push(client);
    }

    /// When the next connection's time is over.
    #[must_use]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.clients
            .iter()
            .filter(|client| !matches!(client.state, State::Listening))
            .map(|c| c.deadline)
            .min()
    }

    /// Ends what took too long: one that waits is told, any other is closed.
    pub(super) fn expire(&mut self, now: Instant) {
        for client in &mut self.clients {
            if client.deadline <= now && matches!(client.state, State::Waiting(..)) {
                client.say(&Answer::Refused(late()));
                client.state = State::Closing;
                client.deadline = now + SPEAK_LIMIT;
                client.flush();
            }
        }
        self.clients.retain(|client| client.deadline > now);
    }

    /// Whether every answer is out.
    #[must_use]
    pub(super) fn is_flushed(&self) -> bool {
        self.clients.iter().all(|client| client.out.is_empty())
    }
}

impl Client {
    fn say(&mut self, answer: &Answer) {
        self.line_of(answer);
    }

    fn line_of(&mut self, said: &impl serde::Serialize) {
        if serde_json::to_writer(&mut self.out, said).is_ok() {
            self.out.push(b'\n');
        }
    }

    /// `false` if the peer is gone.
    fn flush(&mut self) -> bool {
        while !self.out.is_empty() {
            match send(&self.socket, &self.out, SendFlags::NOSIGNAL) {
                Ok(length) => {
                    self.out.drain(..length.min(self.out.len()));
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads more; the first whole request. An error ends the connection, with an answer if there is one.
    fn read(&mut self) -> Result<Option<Verb>, Option<Answer>> {
        if !matches!(self.state, State::Reading) {
            return self.still_there().map(|()| None);
        }
        let mut buffer = [0; LINE_MAX];
        let room = LINE_MAX.saturating_sub(self.line.len());
        let room = buffer.get_mut(..room).unwrap_or_default();
        let read = if self.root {
            scm::recv(self.socket.as_fd(), room).map(|(length, fds)| {
                self.fds.extend(fds);
                length
            })
        } else {
            rustix::io::read(&self.socket, room).map_err(Into::into)
        };
        match read {
            Ok(0) => return Err(None),
            Ok(length) => self.line.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return Err(None),
        }
        if self.fds.len() > scm::FDS_MAX {
            return Err(Some(malformed("it brings too many descriptors")));
        }
        let Some(end) = self.line.iter().position(|&byte| byte == b'\n') else {
            return if self.line.len() >= LINE_MAX {
                Err(Some(malformed("it has no end")))
            } else {
                Ok(None)
            };
        };
        let rest = self.line.split_off(end + 1);
        let line = std::mem::replace(&mut self.line, rest);
        serde_json::from_slice(&line).map(Some).map_err(|error| Some(malformed(&error.to_string())))
    }

    /// A hang-up while it waits: the poll says so although nothing is read.
    fn still_there(&self) -> Result<(), Option<Answer>> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if matches!(poll(&mut polled, Some(&now)), Ok(1..)) { Err(None) } else { Ok(()) }
    }
}

fn malformed(rule: &str) -> Answer {
    Answer::Refused(Refusal::new(
        Layer::Policy,
        "understand",
        "a request to the supervisor",
        rule,
        "use a svirt of the version that started the domain",
    ))
}

fn late() -> Refusal {
    Refusal::new(
        Layer::DeviceModel,
        "wait for",
        "QEMU's answer",
        format!("nothing came for {} seconds", ANSWER_LIMIT.as_secs()),
        "a disk or the device model hangs; `svirt stop --force` ends the domain without it",
    )
}

fn refuse_stranger(uid: u32) -> Refusal {
    Refusal::new(
        Layer::Policy,
        "use",
        "the supervisor's control socket",
        format!("uid {uid} is neither root nor one of the domain's clients"),
        "ask svirt instead, which knows who may do what",
    )
}
