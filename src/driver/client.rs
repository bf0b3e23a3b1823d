//! The labeller's client: one request, one reply, over a unix stream.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{DriverError, stream};
use crate::base::DomainUuid;
use crate::privsep::dump::Dump;
use crate::privsep::op::{FileIdentity, LaunchPlan, Op};
use crate::privsep::password::Password;
use crate::privsep::placement::Pins;
use crate::privsep::plug::{Gone, Plug};
use crate::privsep::request::{Described, Probed, Reply, Request, Started, Survey};
use crate::privsep::save::{Progress, Save, Saved, SavedOp};
use crate::privsep::storage::{Fate, Part, Passage, StorageOp, Stored};
use crate::privsep::supervisor::{Ended, Incoming, Lifecycle};
use crate::privsep::tuning::Tuned;
use crate::privsep::wire;
use crate::settings::Settings;

/// The name of the labeller's socket in the run directory.
const SOCKET: &str = "labeller.sock";

/// How long the labeller may take over what it can answer at once, were it not for others who asked before.
const SOON: Duration = Duration::from_secs(30);
/// The same for what waits for a guest or its processes.
const LATER: Duration = Duration::from_secs(90);
/// The same for files of any size.
const LONG: Duration = Duration::from_secs(600);
/// How often it is asked whether somebody still waits.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// A connection to the labeller.
#[derive(Debug)]
pub struct Labeller {
    stream: UnixStream,
    pending: Vec<u8>,
    /// The descriptor that came last, until it is taken.
    brought: Option<OwnedFd>,
    /// How long a guest may take to run.
    start: Duration,
    /// What was asked ahead, in order, and is not answered yet.
    ahead: VecDeque<Request>,
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
        let name = path.to_string_lossy();
        let stream = stream::connect(&name, Instant::now() + SOON)
            .map_err(|source| failed(format!("to the labeller at {name}"), source, SOON))?;
        let start = Duration::from_secs(settings.limits.start_timeout);
        Ok(Self { start, ..Self::from_stream(stream) })
    }

    /// Speaks over a connection that there is already.
    #[must_use]
    pub fn from_stream(stream: UnixStream) -> Self {
        Self { stream, pending: Vec::new(), brought: None, start: LONG, ahead: VecDeque::new() }
    }

    /// How long a request may take; `None` where it is about waiting. Whatever the labeller does itself has limits that
    /// are shorter, so nothing is given up that would have come to an end.
    fn patience(&self, request: &Request) -> Option<Duration> {
        match request {
            Request::Describe { .. } | Request::Probe { .. } | Request::Share { .. } | Request::Survey => {
                Some(SOON)
            }
            Request::Kill { .. }
            | Request::Lifecycle { .. }
            | Request::Pin { .. }
            | Request::Plug { .. }
            | Request::Saved { .. }
            | Request::Tune { .. }
            | Request::Unplug { .. } => Some(LATER),
            Request::Start { plan, .. } => {
                let loads = plan.ops.iter().find_map(|op| match op {
                    Op::OpenSaved { saved, .. } => Some(Incoming::patience(saved.bytes)),
                    _ => None,
                });
                Some((self.start + LATER).saturating_add(loads.unwrap_or_default()))
            }
            Request::Storage { op } if op.is_long() => None,
            Request::Storage { .. } => Some(LONG),
            // A guest's memory takes as long as the disk does.
            Request::Dump { .. } | Request::Save { .. } | Request::Wait { .. } => None,
        }
    }

    /// Sends one request and waits for its reply; a refusal is an error, and so is a domain that is not there.
    pub fn call(&mut self, request: &Request) -> Result<Reply, DriverError> {
        self.call_meanwhile(request, || {})
    }

    /// The same; `meanwhile` is done between request and reply.
    fn call_meanwhile(&mut self, request: &Request, meanwhile: impl FnOnce()) -> Result<Reply, DriverError> {
        let patience = self.patience(request);
        self.call_by(request, patience.map(|patience| Instant::now() + patience), meanwhile)
            .map_err(|error| self.given_up(error, patience.unwrap_or_default()))
    }

    /// The same for as long as its reply is wanted; the labeller takes back what nobody waits for. It has to take the request
    /// itself within a time.
    fn call_while(
        &mut self,
        request: &Request,
        within: Duration,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Reply, DriverError> {
        let sent = self.begin(request, Some(Instant::now() + within));
        sent.map_err(|error| self.given_up(error, within))?;
        let soon = || Some(Instant::now() + ASKED_AGAIN);
        let mut reply = self.reply_by(soon());
        while matches!(&reply, Err(CallError::Stream(error)) if error.kind() == ErrorKind::TimedOut)
            && wanted()
        {
            reply = self.reply_by(soon());
        }
        reply.map_err(|error| self.given_up(error, ASKED_AGAIN))
    }

    /// Why there is no reply, and none will come.
    fn given_up(&self, error: CallError, patience: Duration) -> DriverError {
        match error {
            CallError::Stream(source) => {
                // What comes after all is nobody's answer any more.
                let _gone = self.stream.shutdown(Shutdown::Both);
                failed("to the labeller".into(), source, patience)
            }
            CallError::Driver(error) => error,
        }
    }

    fn call_by(
        &mut self,
        request: &Request,
        until: Option<Instant>,
        meanwhile: impl FnOnce(),
    ) -> Result<Reply, CallError> {
        self.begin(request, until)?;
        meanwhile();
        self.reply_by(until)
    }

    /// Sees to it that the next reply is the one to this request: it was asked ahead, or is sent now. What was asked ahead
    /// and is not wanted any more is passed over.
    fn begin(&mut self, request: &Request, until: Option<Instant>) -> Result<(), CallError> {
        while let Some(asked) = self.ahead.pop_front() {
            if asked == *request {
                return Ok(());
            }
            match self.reply_by(until) {
                Ok(_) | Err(CallError::Driver(DriverError::Refused(_) | DriverError::NoDomain)) => {}
                Err(error) => return Err(error),
            }
        }
        self.send(request, until)
    }

    /// Sends a request that is called later: the labeller works on it meanwhile, and takes one after the other.
    fn ask_ahead(&mut self, request: Request) -> Result<(), DriverError> {
        let sent = self.send(&request, Some(Instant::now() + SOON));
        sent.map_err(|error| self.given_up(error, SOON))?;
        self.ahead.push_back(request);
        Ok(())
    }

    fn send(&self, request: &Request, until: Option<Instant>) -> Result<(), CallError> {
        Ok(stream::write(&self.stream, &wire::encode(request)?, until)?)
    }

    fn reply_by(&mut self, until: Option<Instant>) -> Result<Reply, CallError> {
        let mut chunk = [0; 16 << 10];
        loop {
            // decode refuses a frame that is too long before it is read, so `pending` stays bounded.
            match wire::decode(&mut self.pending)? {
                Some(Reply::Refused(refused)) => return Err(DriverError::Refused(refused).into()),
                Some(Reply::NoDomain) => return Err(DriverError::NoDomain.into()),
                Some(reply) => return Ok(reply),
                None => {}
            }
            let (read, fds) = stream::receive(&self.stream, &mut chunk, until)?;
            self.brought = fds.into_iter().next().or(self.brought.take());
            if read == 0 {
                let closed = "to the labeller, which closed the connection";
                return Err(DriverError::Protocol(closed.into()).into());
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

    /// Asks ahead for what [`describe`](Self::describe) and [`probe`](Self::probe) tell when they are called.
    pub fn look_ahead(&mut self, uuid: DomainUuid, image: Option<&str>) -> Result<(), DriverError> {
        self.ask_ahead(Request::Describe { uuid })?;
        image.map_or(Ok(()), |path| self.ask_ahead(Request::Probe { path: path.into() }))
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
        self.plug_meanwhile(uuid, plug, || {})
    }

    /// The same; `meanwhile` is done while the labeller and QEMU are at it.
    pub fn plug_meanwhile(
        &mut self,
        uuid: DomainUuid,
        plug: Plug,
        meanwhile: impl FnOnce(),
    ) -> Result<(), DriverError> {
        match self.call_meanwhile(&Request::Plug { uuid, plug: Box::new(plug) }, meanwhile)? {
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

    /// Notes a running domain's lifecycle actions.
    pub fn note_lifecycle(&mut self, uuid: DomainUuid, lifecycle: Lifecycle) -> Result<(), DriverError> {
        match self.call(&Request::Lifecycle { uuid, lifecycle })? {
            Reply::Done => Ok(()),
            other => Err(unexpected("lifecycle", &other)),
        }
    }

    /// Gives the threads of a running domain other CPUs.
    pub fn pin(&mut self, uuid: DomainUuid, pins: Pins) -> Result<(), DriverError> {
        match self.call(&Request::Pin { uuid, pins })? {
            Reply::Done => Ok(()),
            other => Err(unexpected("pin", &other)),
        }
    }

    /// Gives a running domain other limits.
    pub fn tune(&mut self, uuid: DomainUuid, limits: Tuned) -> Result<(), DriverError> {
        match self.call(&Request::Tune { uuid, limits })? {
            Reply::Done => Ok(()),
            other => Err(unexpected("tune", &other)),
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

    /// Saves a running domain; returns once it is in its file and has ended.
    pub fn save(&mut self, uuid: DomainUuid, save: Save) -> Result<Progress, DriverError> {
        match self.call(&Request::Save { uuid, save: Box::new(save) })? {
            Reply::SavedWhole(progress) => Ok(*progress),
            other => Err(unexpected("save", &other)),
        }
    }

    /// Writes a running domain's memory into a file; returns once that is whole.
    pub fn dump(&mut self, uuid: DomainUuid, dump: Dump) -> Result<(), DriverError> {
        match self.call(&Request::Dump { uuid, dump: Box::new(dump) })? {
            Reply::Done => Ok(()),
            other => Err(unexpected("dump", &other)),
        }
    }

    /// Looks at a saved domain, or changes what is kept of it; what it is, where it is looked at.
    pub fn saved(&mut self, op: SavedOp) -> Result<Option<Saved>, DriverError> {
        match self.call(&Request::Saved { op: Box::new(op) })? {
            Reply::Saved(saved) => Ok(Some(*saved)),
            Reply::Done => Ok(None),
            other => Err(unexpected("saved", &other)),
        }
    }

    /// Starts a domain; returns once the guest runs.
    pub fn start(&mut self, plan: LaunchPlan) -> Result<Started, DriverError> {
        self.start_with(plan, Vec::new())
    }

    /// The same of one whose displays have passwords, which are in no plan.
    pub fn start_with(&mut self, plan: LaunchPlan, passwords: Vec<Password>) -> Result<Started, DriverError> {
        match self.call(&Request::Start { plan: Box::new(plan), passwords })? {
            Reply::Started(started) => Ok(started),
            other => Err(unexpected("start", &other)),
        }
    }

    /// Does something to files of a storage pool that may take long, for as long as somebody wants it.
    pub fn storage_while(&mut self, op: StorageOp, wanted: &dyn Fn() -> bool) -> Result<Stored, DriverError> {
        match self.call_while(&Request::Storage { op }, LONG, wanted)? {
            Reply::Stored(stored) => Ok(stored),
            other => Err(unexpected("storage", &other)),
        }
    }

    /// Does something to files of a storage pool.
    pub fn storage(&mut self, op: StorageOp) -> Result<Stored, DriverError> {
        match self.call(&Request::Storage { op })? {
            Reply::Stored(stored) => Ok(stored),
            other => Err(unexpected("storage", &other)),
        }
    }

    /// Whether a domain's own store of UEFI variables is there, or was before it was removed.
    pub fn variables(&mut self, path: String, uuid: DomainUuid, fate: Fate) -> Result<bool, DriverError> {
        match self.storage(StorageOp::Variables { path, uuid, fate })? {
            Stored::There { there } => Ok(there),
            other => Err(unexpected("variables", &Reply::Stored(other))),
        }
    }

    /// Whether a domain's TPM has a state, or had one before it was removed.
    pub fn tpm_state(&mut self, uuid: DomainUuid, fate: Fate) -> Result<bool, DriverError> {
        match self.storage(StorageOp::TpmState { uuid, fate })? {
            Stored::There { there } => Ok(there),
            other => Err(unexpected("TPM's state", &Reply::Stored(other))),
        }
    }

    /// Opens the way to what a file of a storage pool holds.
    pub fn open_contents(
        &mut self,
        path: &str,
        part: Part,
        passage: Passage,
    ) -> Result<UnixStream, DriverError> {
        self.brought = None;
        match self.storage(StorageOp::Contents { path: path.to_owned(), part, passage })? {
            Stored::Opened => self.brought.take().map(UnixStream::from).ok_or_else(|| {
                DriverError::Protocol("to the labeller, which answered without the socket".into())
            }),
            other => Err(DriverError::Protocol(format!("to the labeller, which answered {other:?}"))),
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

    /// Whether a domain has ended, or does so until then. The connection is for nothing else afterwards.
    #[must_use]
    pub fn has_ended(mut self, uuid: DomainUuid, until: Instant) -> bool {
        let answer = self.call_by(&Request::Wait { uuid }, Some(until), || {});
        matches!(answer, Ok(Reply::Ended(_)) | Err(CallError::Driver(DriverError::NoDomain)))
    }
}

/// What can go wrong in between.
enum CallError {
    Stream(io::Error),
    Driver(DriverError),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

impl<E: Into<DriverError>> From<E> for CallError {
    fn from(error: E) -> Self {
        Self::Driver(error.into())
    }
}

fn failed(what: String, source: io::Error, patience: Duration) -> DriverError {
    match source.kind() {
        ErrorKind::TimedOut => DriverError::Stalled(patience),
        _ => DriverError::Io { what, source },
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
        Reply::Saved(_) => "saved",
        Reply::SavedWhole(_) => "saved whole",
        Reply::Started(_) => "started",
        Reply::Stored(_) => "stored",
        Reply::Survey(_) => "survey",
    };
    DriverError::Protocol(format!("to the labeller, which answered {name} to {request}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::privsep::op::ImageKind;
    use crate::sys::listen;

    #[test]
    fn a_labeller_that_is_stopped_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let opened = std::fs::File::open(directory.path()).unwrap();
        let _listens = listen::unix(&opened, SOCKET, 0o600).unwrap();
        let path = directory.path().join(SOCKET).to_str().unwrap().to_owned();
        let soon = || Instant::now() + Duration::from_millis(50);
        let mut labeller = Labeller::from_stream(stream::connect(&path, soon()).unwrap());
        let CallError::Stream(error) = labeller.call_by(&Request::Survey, Some(soon()), || {}).unwrap_err()
        else {
            panic!("it answered")
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let mut waiting = Vec::new();
        let full = loop {
            match stream::connect(&path, soon()) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        let refusal = failed("x".into(), full, SOON).refusal();
        assert!(refusal.remedy.contains("kill -CONT"), "{refusal}");
    }

    #[test]
    fn what_was_asked_ahead_is_taken_by_whoever_wants_it() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut labeller = Labeller::from_stream(ours);
        let uuid = DomainUuid(uuid::Uuid::nil());
        let mut say = |reply: &Reply| theirs.write_all(&wire::encode(reply).unwrap()).unwrap();
        let probed = |inode| Probed {
            identity: FileIdentity { device: 1, inode },
            kind: ImageKind::File,
            header: String::new(),
        };
        labeller.look_ahead(uuid, Some("/a")).unwrap();
        say(&Reply::NoDomain);
        say(&Reply::Probed(probed(2)));
        assert!(matches!(labeller.describe(uuid), Err(DriverError::NoDomain)));
        assert_eq!(labeller.probe("/a").unwrap().identity.inode, 2);
        // Nobody takes the answers of these for another's.
        labeller.look_ahead(uuid, Some("/a")).unwrap();
        say(&Reply::NoDomain);
        say(&Reply::Probed(probed(3)));
        say(&Reply::Probed(probed(4)));
        assert_eq!(labeller.probe("/b").unwrap().identity.inode, 4);
        say(&Reply::Done);
        let mut meanwhile = false;
        labeller.call_meanwhile(&Request::Survey, || meanwhile = true).unwrap();
        assert!(meanwhile && labeller.ahead.is_empty());
    }

    #[test]
    fn only_waiting_has_no_limit() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let labeller = Labeller::from_stream(ours);
        let uuid = DomainUuid(uuid::Uuid::nil());
        assert_eq!(labeller.patience(&Request::Wait { uuid }), None);
        assert_eq!(labeller.patience(&Request::Kill { uuid }), Some(LATER));
    }

    #[test]
    fn what_nobody_wants_any_longer_is_not_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut labeller = Labeller::from_stream(ours);
        let op = || StorageOp::Wipe { path: "/a".into() };
        let asked = std::cell::Cell::new(0);
        let wanted = || {
            asked.set(asked.get() + 1);
            if asked.get() == 2 {
                theirs
                    .try_clone()
                    .unwrap()
                    .write_all(&wire::encode(&Reply::Stored(Stored::Done)).unwrap())
                    .unwrap();
            }
            asked.get() != 4
        };
        assert_eq!(labeller.storage_while(op(), &wanted).unwrap(), Stored::Done);
        assert_eq!(asked.get(), 2);
        labeller.storage_while(op(), &wanted).unwrap_err();
        assert_eq!(asked.get(), 4);
        // The labeller sees that it has gone.
        theirs.read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn a_request_that_the_labeller_does_not_take_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 4096]).is_ok() {}
        ours.set_nonblocking(false).unwrap();
        let within = Duration::from_millis(50);
        let wanted = || -> bool { panic!("nothing was asked yet") };
        let given_up = Labeller::from_stream(ours).call_while(&Request::Survey, within, &wanted);
        assert!(matches!(given_up, Err(DriverError::Stalled(after)) if after == within));
    }

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
    fn a_domain_has_ended_once_the_labeller_says_so() {
        let uuid = DomainUuid(uuid::Uuid::from_u128(1));
        let ended = Ended { code: Some(0), signal: None, reason: None, stderr: String::new() };
        let soon = || Instant::now() + SOON;
        for (reply, is) in [(Reply::Ended(ended), true), (Reply::NoDomain, true), (Reply::Done, false)] {
            assert_eq!(answering(wire::encode(&reply).unwrap()).has_ended(uuid, soon()), is, "{reply:?}");
        }
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(!Labeller::from_stream(ours).has_ended(uuid, Instant::now() + Duration::from_millis(10)));
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
