//! The labeller's client: one request, one reply, over a unix stream.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::DriverError;
use crate::base::DomainUuid;
use crate::privsep::op::{FileIdentity, LaunchPlan};
use crate::privsep::plug::{Gone, Plug};
use crate::privsep::request::{Described, Probed, Reply, Request, Started, Survey};
use crate::privsep::storage::{StorageOp, Stored};
use crate::privsep::supervisor::Ended;
use crate::privsep::wire;
use crate::settings::Settings;

/// The name of the labeller's socket in the run directory.
const SOCKET: &str = "labeller.sock";

/// A connection to the labeller.
#[derive(Debug)]
pub struct Labeller {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Labeller {
    /// Where the configured labeller listens.
    #[must_use]
    pub fn path(settings: &Settings) -> PathBuf {
        Path::new(&settings.paths.run).join(SOCKET)
    }

    /// Connects to the configured labeller.
    pub fn connect(settings: &Settings) -> Result<Self, DriverError> {
        let path = Self::path(settings);
        let stream = UnixStream::connect(&path).map_err(|source| DriverError::Io {
            what: format!("to the labeller at {}", path.display()),
            source,
        })?;
        Ok(Self::from_stream(stream))
    }

    /// Speaks over a connection that there is already.
    #[must_use]
    pub fn from_stream(stream: UnixStream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Sends one request and waits for its reply; a refusal is an error, and so is a domain that is not there.
    pub fn call(&mut self, request: &Request) -> Result<Reply, DriverError> {
        let io = |source| DriverError::Io { what: "to the labeller".into(), source };
        self.stream.write_all(&wire::encode(request)?).map_err(io)?;
        let mut chunk = [0; 16 << 10];
        loop {
            // decode refuses a frame that is too long before it is read, so `pending` stays bounded.
            match wire::decode(&mut self.pending)? {
                Some(Reply::Refused(refused)) => return Err(DriverError::Refused(refused)),
                Some(Reply::NoDomain) => return Err(DriverError::NoDomain),
                Some(reply) => return Ok(reply),
                None => {}
            }
            let read = self.stream.read(&mut chunk).map_err(io)?;
            if read == 0 {
                return Err(DriverError::Protocol("to the labeller, which closed the connection".into()));
            }
            self.pending.extend(chunk.iter().take(read));
        }
    }

    /// A running domain's plan and processes.
    pub fn describe(&mut self, uuid: DomainUuid) -> Result<Described, DriverError> {
        match self.call(&Request::Describe { uuid })? {
            Reply::Described(described) => Ok(*described),
            other => Err(unexpected("describe", &other)),
        }
    }

    /// Kills a running domain and undoes its start.
    pub fn kill(&mut self, uuid: DomainUuid) -> Result<Ended, DriverError> {
        match self.call(&Request::Kill { uuid })? {
            Reply::Ended(ended) => Ok(ended),
            other => Err(unexpected("kill", &other)),
        }
    }

    /// Plugs a device into a running domain.
    pub fn plug(&mut self, uuid: DomainUuid, plug: Plug) -> Result<(), DriverError> {
        match self.call(&Request::Plug { uuid, plug: Box::new(plug) })? {
            Reply::Done => Ok(()),
            other => Err(unexpected("plug", &other)),
        }
    }

    /// Takes a device or its medium out; `false` where the guest was asked and has not let go yet.
    pub fn unplug(&mut self, uuid: DomainUuid, which: Gone, force: bool) -> Result<bool, DriverError> {
        match self.call(&Request::Unplug { uuid, which, force })? {
            Reply::Done => Ok(true),
            Reply::Pending => Ok(false),
            other => Err(unexpected("unplug", &other)),
        }
    }

    /// One image header, read in a confined process.
    pub fn probe(&mut self, path: &str) -> Result<Probed, DriverError> {
        match self.call(&Request::Probe { path: path.into() })? {
            Reply::Probed(probed) => Ok(probed),
            other => Err(unexpected("probe", &other)),
        }
    }

    /// Which directory a guest would mount.
    pub fn share(&mut self, path: &str) -> Result<FileIdentity, DriverError> {
        match self.call(&Request::Share { path: path.into() })? {
            Reply::Share(identity) => Ok(identity),
            other => Err(unexpected("share", &other)),
        }
    }

    /// Starts a domain; returns once the guest runs.
    pub fn start(&mut self, plan: LaunchPlan) -> Result<Started, DriverError> {
        match self.call(&Request::Start { plan: Box::new(plan) })? {
            Reply::Started(started) => Ok(started),
            other => Err(unexpected("start", &other)),
        }
    }

    /// Does something to files of a storage pool.
    pub fn storage(&mut self, op: StorageOp) -> Result<Stored, DriverError> {
        match self.call(&Request::Storage { op })? {
            Reply::Stored(stored) => Ok(stored),
            other => Err(unexpected("storage", &other)),
        }
    }

    /// What is leased and which domains there are.
    pub fn survey(&mut self) -> Result<Survey, DriverError> {
        match self.call(&Request::Survey)? {
            Reply::Survey(survey) => Ok(survey),
            other => Err(unexpected("survey", &other)),
        }
    }

    /// Waits until a domain has ended.
    pub fn wait(&mut self, uuid: DomainUuid) -> Result<Ended, DriverError> {
        match self.call(&Request::Wait { uuid })? {
            Reply::Ended(ended) => Ok(ended),
            other => Err(unexpected("wait", &other)),
        }
    }
}

fn unexpected(request: &str, reply: &Reply) -> DriverError {
    let name = match reply {
        Reply::Described(_) => "described",
        Reply::Done => "done",
        Reply::Pending => "pending",
        Reply::Ended(_) => "ended",
        Reply::NoDomain => "no domain",
        Reply::Probed(_) => "probed",
        Reply::Refused(_) => "refused",
        Reply::Share(_) => "share",
        Reply::Started(_) => "started",
        Reply::Stored(_) => "stored",
        Reply::Survey(_) => "survey",
    };
    DriverError::Protocol(format!("to the labeller, which answered {name} to {request}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn answering(bytes: Vec<u8>) -> Labeller {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            // In small pieces: a reply need not come in one read.
            for piece in bytes.chunks(3) {
                theirs.write_all(piece).unwrap();
            }
            let _ = theirs.read(&mut [0; 4096]);
        });
        Labeller::from_stream(ours)
    }

    #[test]
    fn a_reply_in_pieces_is_one_reply() {
        let survey = Survey { uids: vec![], ..Survey::default() };
        let mut labeller = answering(wire::encode(&Reply::Survey(survey.clone())).unwrap());
        assert_eq!(labeller.survey().unwrap(), survey);
    }

    #[test]
    fn another_reply_an_end_and_nonsense_are_errors() {
        let ended = Ended { code: Some(0), signal: None, reason: None, stderr: String::new() };
        let mut labeller = answering(wire::encode(&Reply::Ended(ended)).unwrap());
        assert!(matches!(labeller.survey(), Err(DriverError::Protocol(_))));
        assert!(matches!(
            answering(vec![0, 0]).survey(),
            Err(DriverError::Protocol(_) | DriverError::Io { .. })
        ));
        assert!(matches!(answering(vec![255, 255, 255, 255]).survey(), Err(DriverError::Wire(_))));
        assert!(matches!(answering(b"\0\0\0\x02{}".to_vec()).survey(), Err(DriverError::Wire(_))));
    }
}
