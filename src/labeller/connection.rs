//! One client: frames in, one reply for each, in order, within bounds.
//!
//! The next request is read only once the last one is answered, so a client never has more than one outstanding
//! and replies need no numbers. A client that is slow, silent or talks too much harms only itself.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use crate::privsep::request::{Reply, Request};
use crate::privsep::wire;
use crate::sys::scm;

/// How long half a request, or an answer that is not read, is borne.
const STALLED: Duration = Duration::from_secs(10);
/// How long a client may be silent between requests.
const IDLE: Duration = Duration::from_secs(300);
/// Bytes that are read before others get their turn.
const TURN: usize = 256 << 10;

/// Which connection; numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ConnectionId(pub(super) u64);

/// A connected client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// What goes with the first byte of the next answer.
    handed: Option<OwnedFd>,
    /// Whether a request is being worked on.
    busy: bool,
    /// Whether the client has closed its sending side.
    ended: bool,
    since: Instant,
}

/// What came of reading.
#[derive(Debug)]
pub(super) enum Turn {
    /// The client is gone or talks nonsense.
    Close,
    /// Nothing yet.
    Nothing,
    /// A whole request.
    Request(Box<Request>),
}

impl Connection {
    /// Takes a client over.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let since = Instant::now();
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Self { stream, input, output, handed: None, busy: false, ended: false, since })
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        if self.busy {
            // Only whether the client goes away.
            flags |= PollFlags::POLLHUP;
        } else if self.output.is_empty() {
            flags |= PollFlags::POLLIN;
        }
        if !self.output.is_empty() {
            flags |= PollFlags::POLLOUT;
        }
        flags
    }

    /// For polling.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Bytes that are held for the client.
    pub(super) fn held(&self) -> usize {
        self.input.len() + self.output.len()
    }

    /// Whether a request is being worked on.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Reads what is there, at most one turn's worth.
    pub(super) fn read(&mut self) -> Turn {
        let mut chunk = [0; 16 << 10];
        let mut read = 0;
        while read < TURN && !self.ended {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    read += length;
                    if self.input.is_empty() {
                        self.since = Instant::now();
                    }
                    self.input.extend(chunk.iter().take(length));
                    // No frame is longer, so what is beyond belongs to requests that have to wait anyway.
                    if self.input.len() > wire::FRAME_MAX + 4 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Turn::Close,
            }
        }
        self.next()
    }

    /// The next request of what was read before.
    pub(super) fn next(&mut self) -> Turn {
        if self.busy || !self.output.is_empty() {
            return Turn::Nothing;
        }
        match wire::decode(&mut self.input) {
            Ok(Some(request)) => {
                self.busy = true;
                Turn::Request(Box::new(request))
            }
            Ok(None) if self.ended => Turn::Close,
            Ok(None) => Turn::Nothing,
            Err(error) => {
                // The error repeats the client's words, which may be as long as a frame.
                let error: String = error.to_string().chars().take(200).collect();
                tracing::warn!(error, "a client talks nonsense");
                Turn::Close
            }
        }
    }

    /// Notes what the answer to the request brings.
    pub(super) fn hand(&mut self, file: Option<OwnedFd>) {
        self.handed = file;
    }

    /// Answers the request. `false` if the connection is to be closed.
    pub(super) fn answer(&mut self, reply: &Reply) -> bool {
        self.busy = false;
        self.since = Instant::now();
        match wire::encode(reply) {
            Ok(frame) => {
                self.output.extend(frame);
                self.write()
            }
            Err(error) => {
                tracing::error!(%error, "a reply does not fit a frame");
                false
            }
        }
    }

    /// Writes what is waiting. `false` if the connection is to be closed.
    pub(super) fn write(&mut self) -> bool {
        while !self.output.is_empty() {
            let written = match &self.handed {
                Some(file) => scm::send(self.stream.as_fd(), &self.output, &[file.as_fd()]),
                None => self.stream.write(&self.output),
            };
            match written {
                Ok(0) => return false,
                Ok(length) => {
                    self.handed = None;
                    drop(self.output.drain(..length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// When the client has been borne long enough; never while its request is being worked on.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let stalled = !self.input.is_empty() || !self.output.is_empty();
        (!self.busy).then(|| self.since + if stalled { STALLED } else { IDLE })
    }
}
