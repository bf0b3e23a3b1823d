//! A client of one domain's supervisor: a verb and an answer, each one JSON line.

use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{DriverError, stream};
use crate::privsep::ask::Ask;
use crate::privsep::supervisor::{Answer, Graphics, PICTURE_MAX, Status, Verb};

/// The longest answer in bytes.
const ANSWER_MAX: usize = 1 << 20;
/// The longest answer that is read byte by byte.
const LINE_MAX: usize = 16 << 10;
/// How long a supervisor may take over connecting, and over one request with its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Until when a supervisor may take.
#[derive(Clone, Copy, Debug)]
enum Limit {
    /// So long for each request.
    Each(Duration),
    /// Until then for everything.
    All(Instant),
}

impl Limit {
    fn until(self) -> Instant {
        match self {
            Self::Each(patience) => Instant::now() + patience,
            Self::All(until) => until,
        }
    }
}

/// A picture of a display, a PNG, as its supervisor sends it.
#[derive(Debug)]
pub struct Picture {
    /// Where its bytes come from.
    pub stream: BufReader<UnixStream>,
    /// How many are still to come.
    pub left: u64,
}

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
    limit: Limit,
}

impl Control {
    /// Connects to a control socket, by the path that a survey told; each request has 30 s for its answer.
    pub fn connect(path: &str) -> Result<Self, DriverError> {
        Self::limited(path, Limit::Each(PATIENCE))
    }

    /// The same, for someone who waits no longer than until then, whatever is asked.
    pub fn connect_by(path: &str, until: Instant) -> Result<Self, DriverError> {
        Self::limited(path, Limit::All(until))
    }

    fn limited(path: &str, limit: Limit) -> Result<Self, DriverError> {
        let stream = stream::connect(path, limit.until())
            .map_err(|source| failed(format!("to the supervisor at {path}"), source))?;
        Ok(Self { stream: BufReader::new(stream), limit })
    }

    /// Sends one verb and reads its answer; a refusal is an error.
    pub fn call(&mut self, verb: &Verb) -> Result<Answer, DriverError> {
        let until = self.limit.until();
        let mut line = serde_json::to_vec(verb).map_err(crate::privsep::wire::WireError::from)?;
        line.push(b'\n');
        stream::write(self.stream.get_ref(), &line, Some(until)).map_err(io)?;
        let answer = self.hear(until)?;
        match serde_json::from_slice(&answer).map_err(crate::privsep::wire::WireError::from)? {
            Answer::Refused(refusal) => Err(refusal.into()),
            answer => Ok(answer),
        }
    }

    /// One line. Its end is due then, however often a piece of it comes.
    fn hear(&mut self, until: Instant) -> Result<Vec<u8>, DriverError> {
        let mut answer = Vec::new();
        loop {
            self.stream.get_ref().set_read_timeout(Some(stream::left(until).map_err(io)?)).map_err(io)?;
            let piece = match self.stream.fill_buf() {
                Ok(piece) => piece,
                Err(error) if stream::is_again(&error) => continue,
                Err(error) => return Err(io(error)),
            };
            let end = piece.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let taken = end.unwrap_or(piece.len());
            answer.extend(piece.iter().take(taken));
            self.stream.consume(taken);
            if end.is_some() {
                return Ok(answer);
            }
            if taken == 0 || answer.len() > ANSWER_MAX {
                return Err(DriverError::Protocol("to the supervisor, whose answer did not end".into()));
            }
        }
    }

    /// Asks for something that is only done or refused: pause, resume, shutdown, destroy.
    pub fn order(&mut self, verb: &Verb) -> Result<(), DriverError> {
        match self.call(verb)? {
            Answer::Done => Ok(()),
            other => Err(DriverError::Protocol(format!("to the supervisor, which answered {other:?}"))),
        }
    }

    /// Asks QEMU something; what it returned, or nothing where it only did it.
    pub fn ask(&mut self, ask: Ask) -> Result<serde_json::Value, DriverError> {
        match self.call(&Verb::Ask(ask))? {
            Answer::Done => Ok(serde_json::Value::Null),
            Answer::Returned { value } => Ok(value),
            other => Err(DriverError::Protocol(format!("to the supervisor, which answered {other:?}"))),
        }
    }

    /// The domain's state.
    pub fn status(&mut self) -> Result<Status, DriverError> {
        match self.call(&Verb::Status)? {
            Answer::Status(status) => Ok(status),
            other => Err(DriverError::Protocol(format!("to the supervisor, which answered {other:?}"))),
        }
    }

    /// Takes a picture of one head of a display's device.
    pub fn picture(mut self, device: String, head: u32) -> Result<Picture, DriverError> {
        match self.call(&Verb::Screenshot { device, head })? {
            Answer::Picture { bytes } if bytes <= PICTURE_MAX as u64 => {
                let stream = self.stream;
                stream.get_ref().set_read_timeout(Some(PATIENCE)).map_err(io)?;
                Ok(Picture { stream, left: bytes })
            }
            other => Err(DriverError::Protocol(format!("to the supervisor, which answered {other:?}"))),
        }
    }

    /// Makes this connection one to a display. What comes over it is the display's from its first byte on.
    pub fn display(self, protocol: Graphics, skip_auth: bool) -> Result<UnixStream, DriverError> {
        let until = self.limit.until();
        let mut line = serde_json::to_vec(&Verb::Display { protocol, skip_auth })
            .map_err(crate::privsep::wire::WireError::from)?;
        line.push(b'\n');
        let stream = self.stream.into_inner();
        stream::write(&stream, &line, Some(until)).map_err(io)?;
        // Byte by byte: what stands behind the answer is not ours to read.
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while answer.last() != Some(&b'\n') {
            if answer.len() > LINE_MAX || stream::read(&stream, &mut byte, Some(until)).map_err(io)? == 0 {
                return Err(DriverError::Protocol("to the supervisor, whose answer did not end".into()));
            }
            answer.extend(byte);
        }
        match serde_json::from_slice(&answer).map_err(crate::privsep::wire::WireError::from)? {
            Answer::Refused(refusal) => Err(refusal.into()),
            Answer::Attached { .. } => {
                stream.set_read_timeout(None).map_err(io)?;
                stream.set_write_timeout(None).map_err(io)?;
                Ok(stream)
            }
            other => Err(DriverError::Protocol(format!("to the supervisor, which answered {other:?}"))),
        }
    }

    /// Attaches to a console: its alias, the stream that now carries its bytes, and those that came already.
    pub fn console(
        mut self,
        alias: Option<String>,
        force: bool,
    ) -> Result<(String, UnixStream, Vec<u8>), DriverError> {
        match self.call(&Verb::Console { alias, force })? {
            Answer::Attached { alias } => {
                let early = self.stream.buffer().to_vec();
                let stream = self.stream.into_inner();
                stream.set_read_timeout(None).map_err(io)?;
                stream.set_write_timeout(None).map_err(io)?;
                Ok((alias, stream, early))
            }
            other => Err(DriverError::Protocol(format!("to the supervisor, which answered {other:?}"))),
        }
    }
}

fn io(source: io::Error) -> DriverError {
    failed("to the supervisor".into(), source)
}

fn failed(what: String, source: io::Error) -> DriverError {
    match source.kind() {
        ErrorKind::TimedOut => DriverError::Silent,
        _ => DriverError::Io { what, source },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::sys::listen;

    fn supervisor(answer: &'static [u8]) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control").to_str().unwrap().to_owned();
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            reader.read_until(b'\n', &mut Vec::new()).unwrap();
            reader.get_mut().write_all(answer).unwrap();
        });
        (directory, path)
    }

    #[test]
    fn console_bytes_behind_the_answer_are_kept() {
        let (_kept, path) = supervisor(b"{\"answer\":\"attached\",\"alias\":\"serial0\"}\nlogin: ");
        let (alias, mut stream, mut early) = Control::connect(&path).unwrap().console(None, false).unwrap();
        stream.read_to_end(&mut early).unwrap();
        assert_eq!((alias.as_str(), early.as_slice()), ("serial0", &b"login: "[..]));
    }

    #[test]
    fn refusals_and_broken_answers_are_errors() {
        let (_kept, path) = supervisor(
            b"{\"answer\":\"refused\",\"layer\":\"policy\",\"operation\":\"a\",\"object\":\"b\",\"rule\":\"c\",\"remedy\":\"\"}\n",
        );
        assert!(matches!(Control::connect(&path).unwrap().order(&Verb::Pause), Err(DriverError::Refusal(_))));
        let (_kept, path) = supervisor(b"{\"answer\":\"done\"}");
        assert!(matches!(
            Control::connect(&path).unwrap().order(&Verb::Pause),
            Err(DriverError::Protocol(_))
        ));
        assert!(matches!(Control::connect("/nonexistent/control"), Err(DriverError::Io { .. })));
    }

    #[test]
    fn an_answer_that_comes_byte_by_byte_has_one_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control").to_str().unwrap().to_owned();
        let listener = UnixListener::bind(&path).unwrap();
        let slow = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Without end: each byte comes well within the limit.
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut control = Control::connect_by(&path, Instant::now() + Duration::from_millis(300)).unwrap();
        assert!(matches!(control.status(), Err(DriverError::Silent)));
        drop(control);
        slow.join().unwrap();
    }

    #[test]
    fn a_supervisor_that_takes_nothing_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let opened = std::fs::File::open(directory.path()).unwrap();
        let _listens = listen::unix(&opened, "control", 0o600).unwrap();
        let path = directory.path().join("control").to_str().unwrap().to_owned();
        let by = || Instant::now() + Duration::from_millis(200);
        let mut waiting = Vec::new();
        // Until the kernel has no more places for those that wait: then not even connecting ends.
        let full = loop {
            match Control::connect_by(&path, by()) {
                Ok(control) => waiting.push(control),
                Err(error) => break error,
            }
        };
        assert!(matches!(full, DriverError::Silent), "{full}");
        waiting.truncate(1);
        waiting[0].limit = Limit::All(by());
        assert!(matches!(waiting[0].order(&Verb::Shutdown), Err(DriverError::Silent)));
    }
}
