//! One serial port or console: QEMU's socket on one side; scrollback, log, pty and clients on the other.
//!
//! The guest is never made to wait. Output is read as fast as it comes into a ring of [`SCROLLBACK`] bytes, and every
//! reader only remembers a position in it: one that falls behind by more than the ring loses the oldest bytes, and no
//! reader costs memory. Input is the other way round: while QEMU does not take it, clients are not read.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::termios;
use rustix::io::Errno;
use rustix::pty::ptsname;

use super::handed::{Handed, nonblocking};
use super::log::Log;
use super::ring::Ring;
use crate::base::Refusal;
use crate::privsep::supervisor::ConsoleSpec;

/// Output that is kept per console, in bytes.
pub(super) const SCROLLBACK: usize = 64 << 10;
/// Input that waits for QEMU, in bytes.
const INPUT_MAX: usize = 4096;
/// Clients of a listening socket at once.
const CLIENTS_MAX: usize = 8;
/// Bytes that are read from QEMU in one turn, so that one noisy console does not hold up the others.
const TURN: usize = 16 << 10;

/// Who reads and writes a console.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// A client of the control socket; one at a time.
    Control,
    /// The controlling side of a pty. The other side is held open, so that nobody's absence is no hang-up.
    Pty(Peer),
    /// A client of the console's own socket.
    Unix,
}

/// The terminal side of a pty.
#[derive(Debug)]
struct Peer(OwnedFd);

impl PartialEq for Peer {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Peer {}

/// One reader and writer.
#[derive(Debug)]
struct Outlet {
    id: u64,
    fd: OwnedFd,
    kind: Kind,
    at: u64,
}

/// What of a console can be polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The socket to QEMU.
    Channel,
    /// The listening socket.
    Listener,
    /// One reader and writer.
    Outlet(u64),
}

/// One console.
#[derive(Debug)]
pub(super) struct Console {
    /// libvirt's alias.
    pub(super) alias: String,
    /// The pty's path, where there is one.
    pub(super) pty_path: Option<String>,
    channel: Option<OwnedFd>,
    listener: Option<OwnedFd>,
    log: Option<Log>,
    ring: Ring,
    outlets: Vec<Outlet>,
    input: Vec<u8>,
    next: u64,
}

impl Console {
    /// Takes the console's descriptors; must happen before paths are closed to this process.
    pub(super) fn new(spec: &ConsoleSpec, handed: &mut Handed) -> Result<Self, Refusal> {
        let mut console = Self {
            alias: spec.alias.clone(),
            pty_path: None,
            channel: Some(nonblocking(handed.slot(spec.channel.as_str())?)?),
            listener: handed.optional(spec.listen.as_ref())?.map(nonblocking).transpose()?,
            log: handed.optional(spec.log.as_ref())?.map(Log::new).transpose()?,
            ring: Ring::new(SCROLLBACK),
            outlets: Vec::new(),
            input: Vec::new(),
            next: 0,
        };
        if let Some(pty) = &spec.pty {
            let fd = nonblocking(handed.slot(pty.slot.as_str())?)?;
            console.pty_path = ptsname(&fd, Vec::new()).ok().and_then(|path| path.into_string().ok());
            console.add(fd, Kind::Pty(Peer(handed.slot(pty.peer.as_str())?)), 0);
        }
        Ok(console)
    }

    fn add(&mut self, fd: OwnedFd, kind: Kind, at: u64) {
        self.outlets.push(Outlet { id: self.next, fd, kind, at });
        self.next += 1;
    }

    /// Calls `ask` with what to poll: part, descriptor, whether for reading, whether for writing.
    pub(super) fn interests<'a>(&'a self, mut ask: impl FnMut(Part, &'a OwnedFd, bool, bool)) {
        if let Some(channel) = &self.channel {
            ask(Part::Channel, channel, true, !self.input.is_empty());
        }
        if let Some(listener) = &self.listener {
            ask(Part::Listener, listener, true, false);
        }
        let hears = self.input.len() < INPUT_MAX && self.channel.is_some();
        for outlet in &self.outlets {
            ask(Part::Outlet(outlet.id), &outlet.fd, hears, outlet.at < self.ring.end());
        }
    }

    /// Does what a part that polled ready allows.
    pub(super) fn ready(&mut self, part: Part) {
        match part {
            Part::Channel => {
                self.read_channel(TURN);
                self.write_channel();
            }
            Part::Listener => self.accept(),
            Part::Outlet(id) => self.read_outlet(id),
        }
        self.flush();
    }

    /// Reads what QEMU left behind and writes what readers take at once; whether nothing is left to write.
    pub(super) fn finish(&mut self) -> bool {
        // QEMU is gone, so the socket holds at most its own buffer.
        self.read_channel(1 << 20);
        self.channel = None;
        self.flush()
    }

    /// Whether every reader but ptys, which nobody may read, has everything.
    fn flush(&mut self) -> bool {
        let ring = &self.ring;
        self.outlets.retain_mut(|outlet| outlet.write(ring));
        self.outlets.iter().all(|outlet| matches!(outlet.kind, Kind::Pty(_)) || outlet.at >= ring.end())
    }

    fn read_channel(&mut self, most: usize) {
        let mut buffer = [0; 4096];
        let mut read = 0;
        while read < most {
            let Some(channel) = &self.channel else { return };
            match rustix::io::read(channel, &mut buffer) {
                Ok(0) => self.channel = None,
                Ok(length) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    self.ring.push(bytes);
                    if let Some(log) = &mut self.log {
                        log.write(bytes, &self.ring);
                    }
                    read += length;
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.channel = None,
            }
        }
    }

    fn write_channel(&mut self) {
        while let (Some(channel), false) = (&self.channel, self.input.is_empty()) {
            match crate::sys::scm::send(channel.as_fd(), &self.input, &[]) {
                Ok(length) => {
                    self.input.drain(..length.min(self.input.len()));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => self.input.clear(),
            }
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let Ok(client) = rustix::net::accept_with(listener, flags) else { return };
        let clients = self.outlets.iter().filter(|outlet| outlet.kind == Kind::Unix).count();
        // One more than allowed is closed at once rather than left waiting.
        if clients < CLIENTS_MAX {
            let at = self.ring.end();
            self.add(client, Kind::Unix, at);
        }
    }

    fn read_outlet(&mut self, id: u64) {
        let Some(index) = self.outlets.iter().position(|outlet| outlet.id == id) else { return };
        let mut buffer = [0; INPUT_MAX];
        let room = INPUT_MAX.saturating_sub(self.input.len());
        let Some(buffer) = buffer.get_mut(..room) else { return };
        let Some(outlet) = self.outlets.get(index) else { return };
        let terminal = matches!(outlet.kind, Kind::Pty(_));
        if room == 0 {
            // Only a hang-up is reported then.
            if !terminal {
                self.drop_if_gone(index);
            }
            return;
        }
        match rustix::io::read(&outlet.fd, &mut *buffer) {
            Ok(0) | Err(Errno::CONNRESET | Errno::PIPE | Errno::IO) if !terminal => {
                self.outlets.swap_remove(index);
            }
            Ok(length) => {
                self.input.extend_from_slice(buffer.get(..length).unwrap_or_default());
                self.write_channel();
            }
            Err(_) => {}
        }
    }

    fn drop_if_gone(&mut self, index: usize) {
        let Some(outlet) = self.outlets.get(index) else { return };
        let mut polled = [rustix::event::PollFd::new(&outlet.fd, rustix::event::PollFlags::empty())];
        let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if matches!(rustix::event::poll(&mut polled, Some(&none)), Ok(1..)) {
            self.outlets.swap_remove(index);
        }
    }

    /// Makes a connection of the control socket a reader and writer, beginning with the scrollback.
    ///
    /// `greeting` goes out first; `typed` is what the client sent after its request. Without `force` a client that
    /// has the console keeps it, and the new connection is given back.
    pub(super) fn attach(
        &mut self,
        fd: OwnedFd,
        greeting: &[u8],
        typed: &[u8],
        force: bool,
    ) -> Result<(), OwnedFd> {
        let holder = self.outlets.iter().position(|outlet| outlet.kind == Kind::Control);
        match holder {
            Some(_) if !force => return Err(fd),
            Some(index) => drop(self.outlets.swap_remove(index)),
            None => {}
        }
        // Its buffer is empty, so a greeting that does not fit at once means that the client is gone.
        if rustix::net::send(&fd, greeting, rustix::net::SendFlags::NOSIGNAL) != Ok(greeting.len()) {
            return Ok(());
        }
        let room = INPUT_MAX.saturating_sub(self.input.len());
        self.input.extend_from_slice(typed.get(..room).unwrap_or(typed));
        self.add(fd, Kind::Control, self.ring.start());
        self.write_channel();
        self.flush();
        Ok(())
    }
}

impl Outlet {
    /// Writes what is due; `false` if the reader is gone.
    fn write(&mut self, ring: &Ring) -> bool {
        if self.at < ring.start() {
            if let Kind::Pty(Peer(peer)) = &self.kind {
                // What the terminal still holds is older than what was lost.
                let _ = termios::tcflush(peer, termios::FlushArg::TCIFLUSH);
            }
            self.at = ring.start();
        }
        loop {
            let due = ring.from(self.at);
            if due.is_empty() {
                return true;
            }
            let written = match self.kind {
                Kind::Pty(_) => rustix::io::write(&self.fd, due),
                _ => rustix::net::send(&self.fd, due, rustix::net::SendFlags::NOSIGNAL),
            };
            match written {
                Ok(0) | Err(Errno::AGAIN) => return true,
                Ok(length) => self.at += length as u64,
                Err(Errno::INTR) => {}
                Err(_) => return matches!(self.kind, Kind::Pty(_)),
            }
        }
    }
}
