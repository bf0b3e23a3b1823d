//! A conversation with one domain's supervisor about one device, which never makes the labeller wait.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::super::connection::ConnectionId;
use super::super::domain::Domain;
use crate::base::DomainUuid;
use crate::privsep::plug::Gone;
use crate::privsep::supervisor::{Answer, Verb};
use crate::sys::{listen, memfd, scm};

/// How long a supervisor may take; its own limit is shorter.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest answer of a supervisor, in bytes.
const ANSWER_MAX: usize = 64 << 10;

/// A conversation with one supervisor about one device.
#[derive(Debug)]
pub(in crate::labeller) struct Talk {
    /// Who waits for its outcome.
    pub(super) client: Option<ConnectionId>,
    /// Whose supervisor.
    pub(super) uuid: DomainUuid,
    stream: UnixStream,
    input: Vec<u8>,
    until: Instant,
    /// Which device.
    pub(super) which: Gone,
    /// Whether it is plugged in, not taken out.
    pub(super) plugs: bool,
}

impl Talk {
    /// What to poll.
    pub(in crate::labeller) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// When it has lasted too long.
    pub(super) fn deadline(&self) -> Instant {
        self.until
    }

    /// Connects and asks. `text` goes as a sealed file before the descriptors.
    pub(super) fn begin(
        domain: &Domain,
        client: Option<ConnectionId>,
        verb: &Verb,
        which: Gone,
        text: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Self> {
        // A supervisor that lets its connections pile up is an error, not a standstill.
        let stream = listen::connect(&domain.started.control)?;
        let text = memfd::sealed("svirt-plug", text)?;
        let mut line = serde_json::to_vec(verb)?;
        line.push(b'\n');
        let all: Vec<BorrowedFd<'_>> = [text.as_fd()].into_iter().chain(fds.iter().copied()).collect();
        let sent = scm::send(stream.as_fd(), &line, &all)?;
        if sent < line.len() {
            (&stream).write_all(line.get(sent..).unwrap_or_default())?;
        }
        let (uuid, until, plugs) = (domain.plan.domain.uuid, Instant::now() + LIMIT, *verb == Verb::Plug);
        Ok(Self { client, uuid, stream, input: Vec::new(), until, which, plugs })
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
        if now >= self.until { Err("its supervisor does not answer".into()) } else { Ok(None) }
    }
}
