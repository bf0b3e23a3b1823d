//! The one connection to QEMU's monitor: bytes in and out, descriptors out.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use serde_json::Value;

use crate::privsep::supervisor::Lifecycle;
use crate::qmp::{Decoder, Heard, QmpError, Session};
use crate::sys::scm;

/// Bytes that are read in one turn.
const TURN: usize = 64 << 10;

/// Why the monitor is lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum MonitorError {
    /// QEMU closed it.
    #[error("QEMU closed its monitor")]
    Closed,
    /// The socket failed.
    #[error("the monitor's socket failed: {0}")]
    Io(#[from] std::io::Error),
    /// QEMU does not keep to the protocol.
    #[error("QEMU broke the monitor protocol: {0}")]
    Protocol(#[from] QmpError),
}

/// What a command was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The state at a start.
    StartStatus,
    /// What the guest is to keep of its memory, before it runs.
    StartBalloon,
    /// A cable that is out before it runs.
    StartLink,
    /// What a disk may do, before the guest runs.
    StartThrottle,
    /// The first `cont`.
    StartContinue,
    /// The beginning of a load.
    StartLoad,
    /// Whether a load is over.
    StartLoaded,
    /// Number of a client that waits for the answer.
    Client(u64),
    /// The same for one that asked for other lifecycle actions, with these.
    Actions(u64, Lifecycle),
    /// Ticket of whoever waits for a picture.
    Picture(u64),
    /// The same, while QEMU gets the file for pictures.
    PictureFile(u64),
    /// The list of VNC clients.
    VncList,
    /// The descriptor of a VNC connection.
    VncDescriptor,
    /// The hand-over of that connection.
    VncAdd,
    /// The domain's lifecycle actions; nobody waits.
    Lifecycle,
    /// A step of plugging a device, with the row's ticket.
    Plug(u64),
    /// The next step of saving the guest.
    Save,
    /// The next step of writing its memory down.
    Dump,
}

/// The connection.
#[derive(Debug)]
pub(super) struct Monitor {
    socket: OwnedFd,
    session: Session<Purpose>,
    decoder: Decoder,
    out: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

impl Monitor {
    /// A connection of a QEMU that just starts, or of one that another supervisor talked to.
    #[must_use]
    pub(super) fn new(socket: OwnedFd, takeover: bool) -> Self {
        let mut out = VecDeque::new();
        let (session, decoder) = if takeover {
            let (session, bytes) = Session::takeover(&format!("s{}-", std::process::id()));
            out.push_back((bytes, None));
            (session, Decoder::in_the_middle())
        } else {
            (Session::fresh(), Decoder::new())
        };
        Self { socket, session, decoder, out }
    }

    /// What to poll.
    #[must_use]
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether something waits to be written.
    #[must_use]
    pub(super) fn wants_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether commands may be sent.
    #[must_use]
    pub(super) fn is_ready(&self) -> bool {
        self.session.is_ready()
    }

    /// Sends a command, with a descriptor where it takes one.
    pub(super) fn command(
        &mut self,
        execute: &str,
        arguments: &Value,
        purpose: Purpose,
        fd: Option<OwnedFd>,
    ) -> Result<(), MonitorError> {
        let line = self.session.command(execute, arguments, purpose)?;
        self.out.push_back((line, fd));
        self.write()
    }

    /// Writes what the socket takes.
    pub(super) fn write(&mut self) -> Result<(), MonitorError> {
        while let Some((bytes, fd)) = self.out.front_mut() {
            let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            match scm::send(self.socket.as_fd(), bytes, &fds) {
                Ok(sent) => {
                    // The descriptor went with the first byte.
                    *fd = None;
                    bytes.drain(..sent.min(bytes.len()));
                    if bytes.is_empty() {
                        self.out.pop_front();
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what is there. What was heard before an error counts.
    pub(super) fn read(&mut self, heard: &mut Vec<Heard<Purpose>>) -> Result<(), MonitorError> {
        let mut buffer = [0; 4096];
        let mut read = 0;
        while read < TURN {
            let length = match rustix::io::read(&self.socket, &mut buffer) {
                Ok(0) => return Err(MonitorError::Closed),
                Ok(length) => length,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(std::io::Error::from(error).into()),
            };
            read += length;
            self.take(buffer.get(..length).unwrap_or_default(), heard)?;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], heard: &mut Vec<Heard<Purpose>>) -> Result<(), MonitorError> {
        let (session, out) = (&mut self.session, &mut self.out);
        let mut wrong = None;
        let fed = self.decoder.feed(bytes, |message| {
            if wrong.is_some() {
                return;
            }
            match session.receive(message) {
                Ok(Heard::Greeted { send, version }) => {
                    out.push_back((send, None));
                    heard.push(Heard::Greeted { send: Vec::new(), version });
                }
                Ok(Heard::Foreign) => {}
                Ok(other) => heard.push(other),
                Err(error) => wrong = Some(error),
            }
        });
        self.write()?;
        match (wrong, fed) {
            (Some(error), _) | (None, Err(error)) => Err(error.into()),
            (None, Ok(())) => Ok(()),
        }
    }
}
