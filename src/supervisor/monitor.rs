//! The one connection to QEMU's monitor: bytes in and out, descriptors out.
//!
//! QEMU reads the next commands while it executes one, but keeps only the last descriptors that came, and takes them when
//! it executes the command that they are for. It also looks at them after each byte that it reads, in another thread than
//! the one that takes them, without a lock. So nothing at all follows a command with a descriptor until QEMU has answered
//! it, whoever sends it; [`Monitor`] holds everything else back.

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
    /// What a display asks of those who come, before anybody can.
    StartPassword,
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
    /// The state of a guest that a client wants to be reset, with the client's number.
    Reset(u64),
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

/// A command that waits for its answer.
#[derive(Debug)]
struct Sent {
    purpose: Purpose,
    /// Whether a descriptor goes with it.
    hands: bool,
}

/// What is written at once: some bytes, or the last byte of a command and its descriptor.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
}

/// The connection.
#[derive(Debug)]
pub(super) struct Monitor {
    socket: OwnedFd,
    session: Session<Sent>,
    decoder: Decoder,
    out: VecDeque<Piece>,
    /// Whether QEMU has a descriptor and has not answered its command.
    handing: bool,
}

impl Monitor {
    /// A connection of a QEMU that just starts, or of one that another supervisor talked to. That one may have handed over
    /// a descriptor, too: commands are sent once everything of its is answered.
    #[must_use]
    pub(super) fn new(socket: OwnedFd, takeover: bool) -> Self {
        let mut out = VecDeque::new();
        let (session, decoder) = if takeover {
            let (session, bytes) = Session::takeover(&format!("s{}-", std::process::id()));
            out.push_back(Piece { bytes, fd: None });
            (session, Decoder::in_the_middle())
        } else {
            (Session::fresh(), Decoder::new())
        };
        Self { socket, session, decoder, out, handing: false }
    }

    /// What to poll.
    #[must_use]
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether something waits to be written that may be.
    #[must_use]
    pub(super) fn wants_to_write(&self) -> bool {
        !self.out.is_empty() && !self.handing
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
        self.queue(execute, arguments, purpose, fd)?;
        self.write()
    }

    /// The same for one that is written together with what follows.
    pub(super) fn queue(
        &mut self,
        execute: &str,
        arguments: &Value,
        purpose: Purpose,
        fd: Option<OwnedFd>,
    ) -> Result<(), MonitorError> {
        let mut bytes = self.session.command(execute, arguments, Sent { purpose, hands: fd.is_some() })?;
        // QEMU makes two system calls for a descriptor that it has, with every byte that it reads; it executes at the last.
        let last = fd.and_then(|fd| Some(Piece { bytes: vec![bytes.pop()?], fd: Some(fd) }));
        self.push(bytes);
        self.out.extend(last);
        Ok(())
    }

    fn push(&mut self, more: Vec<u8>) {
        match self.out.back_mut() {
            Some(Piece { bytes, fd: None }) => bytes.extend(more),
            _ => self.out.push_back(Piece { bytes: more, fd: None }),
        }
    }

    /// Writes what the socket takes.
    pub(super) fn write(&mut self) -> Result<(), MonitorError> {
        while !self.handing
            && let Some(Piece { bytes, fd }) = self.out.front_mut()
        {
            let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            match scm::send(self.socket.as_fd(), bytes, &fds) {
                Ok(sent) => {
                    bytes.drain(..sent.min(bytes.len()));
                    if bytes.is_empty() {
                        self.handing = fd.is_some();
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
        let (session, handing) = (&mut self.session, &mut self.handing);
        let mut greeted = None;
        let mut wrong = None;
        let fed = self.decoder.feed(bytes, |message| {
            if wrong.is_some() {
                return;
            }
            match session.receive(message) {
                Ok(Heard::Greeted { send, version }) => {
                    greeted = Some(send);
                    heard.push(Heard::Greeted { send: Vec::new(), version });
                }
                Ok(Heard::Reply { purpose: Sent { hands: true, .. }, .. }) if !*handing => {
                    wrong = Some(QmpError::Unexpected("reply to a command that waits to be sent".into()));
                }
                Ok(Heard::Reply { purpose: Sent { purpose, hands }, outcome }) => {
                    *handing &= !hands;
                    heard.push(Heard::Reply { purpose, outcome });
                }
                Ok(Heard::Ready) => heard.push(Heard::Ready),
                Ok(Heard::Event(event)) => heard.push(Heard::Event(event)),
                Ok(Heard::Foreign) => {}
                Err(error) => wrong = Some(error),
            }
        });
        if let Some(send) = greeted {
            self.push(send);
        }
        self.write()?;
        match (wrong, fed) {
            (Some(error), _) | (None, Err(error)) => Err(error.into()),
            (None, Ok(())) => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A monitor that is ready, and QEMU's end of it.
    fn ready() -> (Monitor, OwnedFd) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut qemu = (Monitor::new(ours.into(), false), OwnedFd::from(theirs));
        let version = r#"{"qemu": {"micro": 0, "minor": 2, "major": 7}}"#;
        let greeting = format!(r#"{{"QMP": {{"version": {version}, "capabilities": ["oob"]}}}}"#);
        says(&mut qemu, &greeting).unwrap();
        let (text, _) = hears(&qemu.1);
        assert!(text.contains(r#""enable":["oob"]"#) && text.ends_with(r#""id":0}"#), "{text}");
        says(&mut qemu, r#"{"return": {}, "id": 0}"#).unwrap();
        assert!(qemu.0.is_ready());
        qemu
    }

    fn says((monitor, qemu): &mut (Monitor, OwnedFd), line: &str) -> Result<usize, MonitorError> {
        scm::send(qemu.as_fd(), format!("{line}\n").as_bytes(), &[]).unwrap();
        let mut heard = Vec::new();
        monitor.read(&mut heard).map(|()| heard.len())
    }

    /// All that came, and after how many bytes each descriptor did.
    fn hears(qemu: &OwnedFd) -> (String, Vec<usize>) {
        let (mut text, mut fds) = (Vec::new(), Vec::new());
        // As QEMU does: with each byte comes what was sent with it.
        let mut byte = [0; 1];
        while let Ok((1, came)) = scm::recv(qemu.as_fd(), &mut byte) {
            text.push(byte[0]);
            fds.extend(came.iter().map(|_| text.len()));
        }
        (String::from_utf8(text).unwrap(), fds)
    }

    fn command(monitor: &mut Monitor, name: &str, hands: bool) {
        let fd = hands.then(|| OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        monitor.command(name, &Value::Null, Purpose::Lifecycle, fd).unwrap();
    }

    #[test]
    fn nothing_follows_a_descriptor_before_it_is_taken() {
        let mut qemu = ready();
        for (name, hands) in
            [("a", false), ("b", true), ("c", false), ("d", false), ("e", true), ("f", false)]
        {
            command(&mut qemu.0, name, hands);
        }
        let (text, fds) = hears(&qemu.1);
        assert_eq!(text, r#"{"execute":"a","id":1}{"execute":"b","id":2}"#);
        // It comes with the last byte, not before.
        assert_eq!(fds, [text.len()]);
        assert!(!qemu.0.wants_to_write(), "a poll would be answered at once, for ever");
        // Another's answer does not say that it was taken.
        assert_eq!(says(&mut qemu, r#"{"return": {}, "id": 1}"#).unwrap(), 1);
        assert_eq!(hears(&qemu.1).0, "");
        // A refusal does.
        let refused = r#"{"error": {"class": "GenericError", "desc": "no"}, "id": 2}"#;
        assert_eq!(says(&mut qemu, refused).unwrap(), 1);
        let (text, fds) = hears(&qemu.1);
        assert_eq!(text, r#"{"execute":"c","id":3}{"execute":"d","id":4}{"execute":"e","id":5}"#);
        assert_eq!(fds, [text.len()]);
        for id in 3..6 {
            assert_eq!(hears(&qemu.1).0, "");
            says(&mut qemu, &format!(r#"{{"return": {{}}, "id": {id}}}"#)).unwrap();
        }
        assert_eq!(hears(&qemu.1), (r#"{"execute":"f","id":6}"#.into(), vec![]));
    }

    #[test]
    fn nobody_answers_what_was_not_sent() {
        let mut qemu = ready();
        command(&mut qemu.0, "a", true);
        command(&mut qemu.0, "b", true);
        let both = "{\"return\": {}, \"id\": 1}\n{\"return\": {}, \"id\": 2}";
        assert!(matches!(says(&mut qemu, both), Err(MonitorError::Protocol(QmpError::Unexpected(_)))));
    }

    #[test]
    fn a_predecessor_is_waited_for() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut qemu = (Monitor::new(ours.into(), true), OwnedFd::from(theirs));
        qemu.0.write().unwrap();
        let (mut text, mut byte) = (Vec::new(), [0; 1]);
        while let Ok((1, _)) = scm::recv(qemu.1.as_fd(), &mut byte) {
            text.push(byte[0]);
        }
        let id = format!("s{}-0", std::process::id());
        assert_eq!(
            text,
            [b"\xff\n", format!(r#"{{"execute":"query-status","id":"{id}"}}"#).as_bytes()].concat()
        );
        for foreign in [
            r#"{"return": {}, "id": 38}"#,
            r#"{"return": {}, "id": "s1-0"}"#,
            r#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#,
        ] {
            assert_eq!(says(&mut qemu, foreign).unwrap(), 0);
            let early = qemu.0.command("getfd", &json!({}), Purpose::Lifecycle, None);
            assert!(early.is_err() && hears(&qemu.1).0.is_empty());
        }
        says(&mut qemu, &format!(r#"{{"return": {{}}, "id": "{id}"}}"#)).unwrap();
        command(&mut qemu.0, "a", true);
        assert_eq!(hears(&qemu.1).1.len(), 1);
    }

    proptest! {
        /// Commands come in the order in which they were sent, and nothing comes while a descriptor is on its way.
        #[test]
        fn one_descriptor_is_on_its_way(commands in proptest::collection::vec((any::<bool>(), 0..3usize), 1..30)) {
            let mut qemu = ready();
            let (mut text, mut executed) = (String::new(), 0);
            let mut waiting = std::collections::VecDeque::new();
            let turns = commands.iter().map(|(hands, answers)| (Some(*hands), *answers));
            for (at, (hands, answers)) in turns.chain([(None, 3 * commands.len())]).enumerate() {
                if let Some(hands) = hands {
                    command(&mut qemu.0, &format!("c{at}"), hands);
                }
                for turn in 0..=answers {
                    let (came, fds) = hears(&qemu.1);
                    prop_assert!(fds.is_empty() || fds == [came.len()], "{fds:?} in {came}");
                    let handing = waiting.iter().any(|hands| *hands);
                    prop_assert!(came.is_empty() || !handing, "{came} came while a descriptor was on its way");
                    text.push_str(&came);
                    let read = executed + waiting.len();
                    let whole = came.matches("execute").count();
                    waiting.extend(commands[read..read + whole].iter().map(|(hands, _)| *hands));
                    if turn < answers && let Some(_) = waiting.pop_front() {
                        executed += 1;
                        says(&mut qemu, &format!(r#"{{"return": {{}}, "id": {executed}}}"#)).unwrap();
                    }
                }
            }
            prop_assert_eq!(executed, commands.len());
            let all: String =
                (0..executed).map(|at| format!(r#"{{"execute":"c{at}","id":{}}}"#, at + 1)).collect();
            prop_assert_eq!(text, all);
        }
    }
}
