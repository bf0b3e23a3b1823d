//! A client of one domain's supervisor: a verb and an answer, each one JSON line.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::DriverError;
use crate::privsep::ask::Ask;
use crate::privsep::supervisor::{Answer, Status, Verb};

/// The longest answer in bytes.
const ANSWER_MAX: u64 = 1 << 20;
/// How long a supervisor may take over an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects to a control socket, by the path that a survey told.
    pub fn connect(path: &str) -> Result<Self, DriverError> {
        let io = |source| DriverError::Io { what: format!("to the supervisor at {path}"), source };
        let stream = UnixStream::connect(path).map_err(io)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends one verb and reads its answer; a refusal is an error.
    pub fn call(&mut self, verb: &Verb) -> Result<Answer, DriverError> {
        let io = |source| DriverError::Io { what: "to the supervisor".into(), source };
        let mut line = serde_json::to_vec(verb).map_err(crate::privsep::wire::WireError::from)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(io)?;
        let mut answer = Vec::new();
        (&mut self.stream).take(ANSWER_MAX).read_until(b'\n', &mut answer).map_err(io)?;
        if answer.last() != Some(&b'\n') {
            return Err(DriverError::Protocol("to the supervisor, whose answer did not end".into()));
        }
        match serde_json::from_slice(&answer).map_err(crate::privsep::wire::WireError::from)? {
            Answer::Refused(refusal) => Err(refusal.into()),
            answer => Ok(answer),
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
                let io = |source| DriverError::Io { what: "to the supervisor".into(), source };
                stream.set_read_timeout(None).map_err(io)?;
                stream.set_write_timeout(None).map_err(io)?;
                Ok((alias, stream, early))
            }
            other => Err(DriverError::Protocol(format!("to the supervisor, which answered {other:?}"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

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
}
