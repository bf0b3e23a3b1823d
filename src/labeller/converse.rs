//! One question to one domain's supervisor, and its answer; never makes the labeller wait.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::privsep::supervisor::{Answer, Verb};
use crate::sys::{listen, scm};

/// The longest answer of a supervisor, in bytes.
const ANSWER_MAX: usize = 64 << 10;

/// A question that was asked.
#[derive(Debug)]
pub(super) struct Conversation {
    stream: UnixStream,
    input: Vec<u8>,
    until: Option<Instant>,
}

impl Conversation {
    /// Connects and asks; the answer is due within `limit`, where there is one.
    pub(super) fn begin(
        control: &str,
        verb: &Verb,
        fds: &[BorrowedFd<'_>],
        limit: Option<Duration>,
    ) -> io::Result<Self> {
        // A supervisor that lets its connections pile up is an error, not a standstill.
        let stream = listen::connect(control)?;
        let mut line = serde_json::to_vec(verb)?;
        line.push(b'\n');
        let sent = scm::send(stream.as_fd(), &line, fds)?;
        if sent < line.len() {
            (&stream).write_all(line.get(sent..).unwrap_or_default())?;
        }
        Ok(Self { stream, input: Vec::new(), until: limit.map(|limit| Instant::now() + limit) })
    }

    /// What to poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// When it has lasted too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// The answer, if it is there; an error where none will come.
    pub(super) fn answer(&mut self, now: Instant) -> Result<Option<Answer>, String> {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("its supervisor went away".into()),
                Ok(length) => self.input.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
            if self.input.len() > ANSWER_MAX {
                return Err("its supervisor talks without end".into());
            }
        }
        if self.input.contains(&b'\n') {
            return serde_json::from_slice(&self.input).map(Some).map_err(|error| error.to_string());
        }
        if self.until.is_some_and(|until| now >= until) {
            return Err("its supervisor does not answer".into());
        }
        Ok(None)
    }
}
