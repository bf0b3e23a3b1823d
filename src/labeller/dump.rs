//! A running guest's memory that is written down: by QEMU into a pipe, by a [`Pump`] into a file without a name, which gets
//! its name when it is whole. Nothing is journalled: whoever dies on the way leaves a guest that goes on and no file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::apply::kernel;
use super::connection::ConnectionId;
use super::converse::Conversation;
use super::domain::Phase;
use super::places::Places;
use super::pump::{Pump, Sink};
use super::quota::Share;
use super::room;
use super::saved::{Spot, sync_directory};
use super::server::{Server, refused};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::dump::Dump;
use crate::privsep::request::{NOT_RUNNING, Reply};
use crate::privsep::supervisor::{Answer, Verb};
use crate::sys::path::{self, Found};

/// How long may QEMU write nothing: before the first byte it waits for its disks.
const QUIET: Duration = Duration::from_secs(300);

/// One that goes on.
#[derive(Debug)]
pub(super) struct Dumping {
    uuid: DomainUuid,
    client: ConnectionId,
    spot: Spot,
    file: File,
    /// What it may have.
    pub(super) share: Share,
    pump: Pump,
    /// What the supervisor says; nothing once it has said that QEMU is done.
    talk: Option<Conversation>,
}

impl Dumping {
    /// What to poll.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.talk.iter().map(Conversation::fd).chain([self.pump.fd()])
    }

    /// The process that writes the file.
    pub(super) fn pid(&self) -> i32 {
        self.pump.pid()
    }

    /// Goes on as far as it can; whether it is over.
    fn advance(&mut self, now: Instant) -> Result<bool, Refusal> {
        if let Some(ended) = self.pump.ended(&self.spot.path) {
            ended?;
            return match self.talk {
                None => self.name().map(|()| true),
                Some(_) => Err(refuse(&self.spot.path, "who writes it ended too early", "try again")),
            };
        }
        let Some(talk) = &mut self.talk else { return Ok(false) };
        match talk.answer(now) {
            Ok(None) => Ok(false),
            Ok(Some(Answer::Done)) => {
                self.talk = None;
                let told = self.pump.no_more();
                told.map_err(|error| kernel("write", &self.spot.path, &error, "try again"))?;
                Ok(false)
            }
            Ok(Some(Answer::Refused(refusal))) => Err(self.pump.refusal(&self.spot.path).unwrap_or(refusal)),
            Ok(Some(other)) => {
                let rule = format!("its supervisor answered {other:?}");
                Err(refuse(&self.spot.path, &rule, "use svirt programs of one version"))
            }
            Err(rule) => Err(refuse(&self.spot.path, &rule, "try again in a moment")),
        }
    }

    fn name(&self) -> Result<(), Refusal> {
        let io = |error: io::Error| kernel("name", &self.spot.path, &error, "choose another name");
        let Spot { directory, name, .. } = &self.spot;
        path::link(&self.file, directory, name.as_ref()).map_err(io)?;
        sync_directory(directory).map_err(|error| {
            // An error means that there is no file.
            if let Ok(found) = Found::of(&self.file) {
                let _ = path::unlink_if(directory, name.as_ref(), found.id());
            }
            io(error)
        })
    }
}

fn refuse(path: &str, rule: &str, remedy: &str) -> Refusal {
    Refusal::new(Layer::Policy, "dump memory to", path, rule, remedy)
}

impl Server {
    /// Begins to write a guest's memory down. The reply comes when that is over.
    pub(super) fn dump(&mut self, client: ConnectionId, uuid: DomainUuid, dump: &Dump) -> Option<Reply> {
        match self.begin_dump(client, uuid, dump) {
            Ok(dumping) => {
                tracing::info!(%uuid, path = dumping.spot.path, "its memory is written down");
                self.dumps.push(dumping);
                None
            }
            Err(refusal) => Some(refused(refusal)),
        }
    }

    fn begin_dump(&self, client: ConnectionId, uuid: DomainUuid, dump: &Dump) -> Result<Dumping, Refusal> {
        let domain = self.domains.get(&uuid).filter(|domain| domain.phase == Phase::Running);
        let domain = domain.ok_or_else(|| refuse(&dump.path, NOT_RUNNING, "start it first"))?;
        if domain.saving.is_some()
            || self.is_being_dumped(uuid)
            || self.talks.iter().any(|it| it.uuid == uuid)
        {
            return Err(refuse(&dump.path, "the domain is busy", "try again in a moment"));
        }
        let spot = Spot::dump(&self.settings, &Places::of(&self.settings), &dump.path)?;
        match path::look(&spot.directory, spot.name.as_ref()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(kernel("dump memory to", &spot.path, &error, "look at its directory")),
            Ok(_) => {
                let remedy = "choose another name, or remove that file";
                return Err(refuse(&spot.path, "something has this name", remedy));
            }
        }
        // The later one would find the name taken when all of its memory is written.
        let place = spot.place();
        if place.is_some() && self.dumps.iter().any(|dumping| dumping.spot.place() == place) {
            let rule = "another domain's memory is being written to this name";
            return Err(refuse(&spot.path, rule, "choose another name"));
        }
        let reserve = room::reserve(&self.settings, &spot.directory, &spot.path)?;
        let share = self.share(dump.user, &spot.directory, &spot.path)?;
        let io = |error: io::Error| {
            kernel("make the file", &spot.path, &error, "see that its file system has room, and O_TMPFILE")
        };
        let file = File::from(path::nameless(&spot.directory, 0o600, OFlags::RDWR).map_err(io)?);
        share.mark(&file, &spot.path)?;
        let most = room::most(&domain.plan, &self.settings, dump.most);
        let uid = self.settings.uids.imageprobe;
        let to = Sink { file: &file, at: 0, most, share: share.most, reserve, quiet: Some(QUIET), uid };
        let (pump, stream) = Pump::begin(to, |_, _| Ok(())).map_err(io)?;
        let verb = Verb::Dump { format: dump.format };
        let talk = Conversation::begin(&domain.started.control, &verb, &[stream.as_fd()], None)
            .map_err(|error| kernel("reach", "the domain's supervisor", &error, "try again in a moment"))?;
        Ok(Dumping { uuid, client, spot, file, share: share.at_most(most), pump, talk: Some(talk) })
    }

    /// Whether a domain's memory is being written down.
    pub(super) fn is_being_dumped(&self, uuid: DomainUuid) -> bool {
        self.dumps.iter().any(|dumping| dumping.uuid == uuid)
    }

    /// Goes on with all of them.
    pub(super) fn advance_dumps(&mut self, now: Instant) {
        for mut dumping in std::mem::take(&mut self.dumps) {
            let reply = match dumping.advance(now) {
                Ok(false) => {
                    self.dumps.push(dumping);
                    continue;
                }
                Ok(true) => Reply::Done,
                Err(refusal) => refused(refusal),
            };
            self.outbox.push_back((dumping.client, reply));
        }
    }
}
