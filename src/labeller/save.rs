//! A domain that is saved: QEMU writes it into a pipe, a [`Pump`] brings that into a file without a name, which gets its name
//! last.
//!
//! ```text
//! journal: begin ─▶ QEMU writes ─▶ header, on the disk ─▶ named for the meantime ─▶ journal: written ─▶ killed, gone
//!     │                 │                  │                                                                │
//!     └─────────────────┴──────────────────┴─▶ taken back: the guest goes on, no file                  its own name
//! ```
//!
//! Whoever dies on the way: before "written" the guest goes on and the file, which has no name, is gone; after it the next
//! labeller ends the domain and gives the file its name. The device model never has the file, so nothing that a guest could
//! write is ever read as a header; dumps, which it writes from the first byte on, lie where no saved domain is looked for.

mod finish;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, OFlags};

use super::apply::{journal_refusal, kernel};
use super::connection::ConnectionId;
use super::converse::Conversation;
use super::domain::{Domain, Phase};
use super::fault;
use super::journal::{Entry, Part, Undo};
use super::lease::{Hold, ObjectId};
use super::places::Places;
use super::pump::{Pump, Sink};
use super::quota::Share;
use super::room;
use super::saved::{Spot, check_note};
use super::server::{Server, refused};
use super::undo;
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::{Access, Op, Sharing};
use crate::privsep::request::{NOT_RUNNING, Reply};
use crate::privsep::save::{Header, Progress, STREAM_AT, Save, SavedAt};
use crate::privsep::supervisor::{Answer, Ended, SAVED, Verb};
use crate::settings::Settings;
use crate::sys::path::{self, Found};
use finish::{finish, may_replace, name};
pub(super) use finish::{forget_part, is_there};

/// How soon a guest that should go on is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a supervisor may take to have it go on.
const BACK: Duration = Duration::from_secs(60);
/// How long it is tried; longer than a guest may be without a supervisor whose supervisors keep ending.
const BACK_WITHIN: Duration = Duration::from_secs(120);

/// The save of one domain.
#[derive(Debug)]
pub(super) struct Saving {
    save: Save,
    client: Option<ConnectionId>,
    file: Option<Target>,
    stage: Stage,
}

/// The file that QEMU writes.
#[derive(Debug)]
struct Target {
    spot: Spot,
    file: File,
    id: ObjectId,
    /// What it may have.
    share: Share,
}

#[derive(Debug)]
enum Stage {
    /// QEMU writes.
    Writing(Conversation, Pump),
    /// What it wrote is brought to the disk.
    Syncing(Pump, Progress),
    /// It is taken back.
    Back { refusal: Refusal, talk: Option<Conversation>, again: Instant, until: Instant },
    /// It was taken back, and the journal does not say so yet.
    Over { refusal: Refusal, again: Instant },
    /// It is written, and the device model is killed.
    Written(Part, Progress),
}

/// What became of a save when its domain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// There was none, or it was not far enough.
    Nothing,
    /// It is whole, but has not got its name.
    Not,
    /// It is whole.
    Whole,
}

impl Saving {
    /// One that an earlier labeller left.
    pub(super) fn left(save: Save, part: Option<Part>) -> Self {
        let refusal = refuse("save", "the domain", "svirt-labeller ended meanwhile", "save it again");
        let stage = match part {
            Some(part) => Stage::Written(part, Progress::default()),
            None => Stage::back(refusal),
        };
        Self { save, client: None, file: None, stage }
    }

    /// Notes that a save was taken back. What is left to do where that cannot be noted: a later labeller would have a guest
    /// go on whom its owner has paused since.
    fn over(domain: &mut Domain, save: Save, refusal: &Refusal) -> Option<Self> {
        let error = domain.journal.write(&Entry::SaveOver).err()?;
        tracing::error!(name = %domain.plan.domain.name, %error, "cannot note that a save was taken back");
        let stage = Stage::Over { refusal: refusal.clone(), again: Instant::now() + AGAIN };
        Some(Self { save, client: None, file: None, stage })
    }

    /// What to poll.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let talk = match &self.stage {
            Stage::Writing(talk, _) | Stage::Back { talk: Some(talk), .. } => Some(talk.fd()),
            _ => None,
        };
        talk.into_iter().chain(self.pump().map(Pump::fd))
    }

    /// The process that brings it to the disk.
    pub(super) fn child(&self) -> Option<i32> {
        self.pump().map(Pump::pid)
    }

    /// What its file may have, while that has no name.
    pub(super) fn share(&self) -> Option<Share> {
        self.file.as_ref().map(|target| target.share)
    }

    fn pump(&self) -> Option<&Pump> {
        match &self.stage {
            Stage::Writing(_, pump) | Stage::Syncing(pump, _) => Some(pump),
            _ => None,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Writing(talk, _) => talk.deadline(),
            Stage::Back { talk: Some(talk), until, .. } => talk.deadline().map(|at| at.min(*until)),
            Stage::Back { talk: None, again, .. } | Stage::Over { again, .. } => Some(*again),
            Stage::Syncing(..) | Stage::Written(..) => None,
        }
    }
}

impl Stage {
    fn back(refusal: Refusal) -> Self {
        let now = Instant::now();
        Self::Back { refusal, talk: None, again: now, until: now + BACK_WITHIN }
    }
}

fn refuse(operation: &str, object: &str, rule: &str, remedy: &str) -> Refusal {
    Refusal::new(Layer::Policy, operation, object, rule, remedy)
}

impl Server {
    /// Begins to save a running domain. The reply comes when that is over.
    pub(super) fn save(&mut self, client: ConnectionId, uuid: DomainUuid, save: Save) -> Option<Reply> {
        self.begin_save(client, uuid, save).err().map(refused)
    }

    fn begin_save(&mut self, client: ConnectionId, uuid: DomainUuid, save: Save) -> Result<(), Refusal> {
        let busy = self.talks.iter().any(|talk| talk.uuid == uuid) || self.is_being_dumped(uuid);
        let domain = self.domains.get(&uuid).filter(|domain| domain.phase == Phase::Running);
        let Some(domain) = domain else {
            return Err(refuse("save", &uuid.to_string(), NOT_RUNNING, "start it first"));
        };
        let name = domain.plan.domain.name.to_string();
        if busy || domain.saving.is_some() {
            let rule = if busy {
                "a device is on its way, or its memory is written down"
            } else {
                "it is being saved"
            };
            return Err(refuse("save", &name, rule, "try again in a moment"));
        }
        let places = Places::of(&self.settings);
        let spot = Spot::make(&self.settings, &places, &save.at)?;
        check_note(&save.note, &spot.path)?;
        self.nobody_else_saves_to(&spot, &save.at)?;
        may_replace(&self.settings, &places, &save.at, uuid)?;
        let reserve = room::reserve(&self.settings, &spot.directory, &spot.path)?;
        let most = room::most(&domain.plan, &self.settings, save.most);
        let share = self.share(save.user, &spot.directory, &spot.path)?.at_most(most);
        let target = Target::new(spot, share)?;
        let hold = Hold { access: Access::ReadWrite, sharing: Sharing::Exclusive };
        let Some(domain) = self.domains.get_mut(&uuid) else {
            return Err(refuse("save", &name, NOT_RUNNING, "start it first"));
        };
        self.leases.object(uuid, target.id, hold, &target.spot.path)?;
        let begun = begin(domain, &save, &target, (self.settings.uids.imageprobe, most, reserve));
        let stage = match begun {
            Ok((talk, pump)) => Stage::Writing(talk, pump),
            Err(refusal) => {
                self.leases.release_object(uuid, target.id);
                drop(target);
                domain.saving = Saving::over(domain, save, &refusal);
                return Err(refusal);
            }
        };
        tracing::info!(name, path = target.spot.path, "is being saved");
        domain.saving = Some(Saving { save, client: Some(client), file: Some(target), stage });
        Ok(())
    }

    /// Two domains that are saved to one name: the later one would find it taken when its guest is gone.
    fn nobody_else_saves_to(&self, spot: &Spot, at: &SavedAt) -> Result<(), Refusal> {
        let place = spot.place();
        let same = |other: &Saving| {
            let theirs = other.file.as_ref().and_then(|target| target.spot.place());
            other.save.at == *at || (place.is_some() && theirs == place)
        };
        if self.domains.values().filter_map(|domain| domain.saving.as_ref()).any(same) {
            let rule = "another domain is being saved to this name";
            return Err(refuse("save to", &spot.path, rule, "choose another name"));
        }
        Ok(())
    }

    /// When [`Server::advance_saves`] has something to do next.
    pub(super) fn save_deadline(&self) -> Option<Instant> {
        self.domains.values().filter_map(|domain| domain.saving.as_ref()?.deadline()).min()
    }

    /// Goes on with every save.
    pub(super) fn advance_saves(&mut self, now: Instant) {
        let saved = self.domains.iter().filter(|(_, domain)| domain.saving.is_some());
        let saved: Vec<DomainUuid> = saved.map(|(uuid, _)| *uuid).collect();
        for uuid in saved {
            let Some(domain) = self.domains.get_mut(&uuid).filter(|domain| domain.phase == Phase::Running)
            else {
                continue;
            };
            let Some(mut saving) = domain.saving.take() else { continue };
            match advance(&self.settings, domain, &mut saving, now) {
                Ok(()) => domain.saving = Some(saving),
                Err(refusal) => self.save_failed(uuid, saving, refusal),
            }
        }
    }

    /// The guest goes on, and there is no file.
    fn save_failed(&mut self, uuid: DomainUuid, saving: Saving, refusal: Refusal) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        // First of all, for it may be what the journal has no room for.
        if let Some(target) = saving.file {
            self.leases.release_object(uuid, target.id);
            drop(target);
        }
        domain.saving = Saving::over(domain, saving.save, &refusal);
        tracing::info!(name = %domain.plan.domain.name, %refusal, "was not saved");
        if let Some(client) = saving.client {
            self.outbox.push_back((client, refused(refusal)));
        }
    }

    /// The domain has ended: finishes a file that is written, and answers whoever waits for it.
    pub(super) fn finish_save(&mut self, domain: &mut Domain) -> Kept {
        let Some(saving) = domain.saving.take() else { return Kept::Nothing };
        let (kept, reply) = match saving.stage {
            Stage::Written(part, progress) => {
                drop(saving.file);
                match finish(&self.settings, domain.plan.domain.uuid, &saving.save, &part) {
                    Ok(()) => (Kept::Whole, Reply::SavedWhole(Box::new(progress))),
                    Err(refusal) => {
                        tracing::error!(name = %domain.plan.domain.name, %refusal, "is saved but for its name");
                        (Kept::Not, refused(refusal))
                    }
                }
            }
            _ => {
                let name = domain.plan.domain.name.to_string();
                let rule = "it ended while it was being saved";
                let remedy = "the log of svirt-labeller has what its device model said last";
                (Kept::Nothing, refused(refuse("save", &name, rule, remedy)))
            }
        };
        self.managed.forget();
        if let Some(client) = saving.client {
            self.outbox.push_back((client, reply));
        }
        kept
    }

    /// Finishes the file of a domain that an earlier labeller saved and that is gone; whether nothing is left to do.
    pub(super) fn finish_left(&mut self, uuid: DomainUuid, save: &Save, part: &Part) -> bool {
        let finished = finish(&self.settings, uuid, save, part);
        match &finished {
            Ok(()) => {
                // Whoever asks how it has ended hears that it was saved.
                let reason = Some(SAVED.into());
                self.past
                    .push_back((uuid, Ended { code: None, signal: None, reason, stderr: String::new() }));
            }
            Err(refusal) => tracing::error!(%uuid, %refusal, "is saved but for its name"),
        }
        finished.is_ok()
    }

    /// A guest that was loaded runs: what it was loaded from is given back, or removed where its next start would go on
    /// from there again.
    pub(super) fn loaded(&mut self, uuid: DomainUuid) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let saved = domain.plan.ops.iter().find_map(|op| match op {
            Op::OpenSaved { saved, .. } => Some(saved.clone()),
            _ => None,
        });
        let Some(saved) = saved else { return };
        let id = (saved.identity.device, saved.identity.inode);
        let of_it = |undo: &Undo| matches!(undo, Undo::Label { id: of, .. } if *of == id);
        let (undos, rest) = std::mem::take(&mut domain.undos).into_iter().partition(of_it);
        domain.undos = rest;
        let undos: Vec<Undo> = undos;
        undo::all(uuid, &undos, true, &mut self.leases, &mut *self.launcher);
        self.leases.release_object(uuid, id);
        if let SavedAt::Managed { uuid } = saved.at
            && let Err(refusal) = self.remove_managed(uuid)
        {
            tracing::error!(%uuid, %refusal, "the next start would go on from an old state");
        }
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        if let Err(error) = domain.journal.write(&Entry::Loaded) {
            tracing::error!(%uuid, %error, "cannot note that a guest was loaded");
        }
    }
}

impl Target {
    fn new(spot: Spot, share: Share) -> Result<Self, Refusal> {
        let io = |error: io::Error| {
            kernel("make the file", &spot.path, &error, "see that its file system has room, and O_TMPFILE")
        };
        let file = File::from(path::nameless(&spot.directory, 0o600, OFlags::RDWR).map_err(io)?);
        // Room for the header, so that no memory is written for nothing where there is none.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, STREAM_AT)
            .map_err(|error| io(error.into()))?;
        share.mark(&file, &spot.path)?;
        let id = Found::of(&file).map_err(io)?.id();
        Ok(Self { spot, file, id, share })
    }
}

fn begin(
    domain: &mut Domain,
    save: &Save,
    target: &Target,
    (uid, most, reserve): (u32, u64, u64),
) -> Result<(Conversation, Pump), Refusal> {
    let entry = Entry::SaveBegin { save: Box::new(save.clone()) };
    domain.journal.write(&entry).map_err(|error| journal_refusal(&error))?;
    fault::step("save")?;
    let (uuid, note) = (domain.plan.domain.uuid, save.note.clone());
    let io = |error: io::Error| kernel("begin to write", &target.spot.path, &error, "try again in a moment");
    // Made here: who writes it makes nothing.
    let header = Header { uuid, generation: 1, end: 0, note }.encode();
    let mut header = header.ok_or_else(|| io(io::ErrorKind::FileTooLarge.into()))?;
    let last = |file: &File, end| {
        Header::put_end(&mut header, end);
        file.write_all_at(&header, 0)
    };
    let share = target.share.most;
    let to = Sink { file: &target.file, at: STREAM_AT, most, share, reserve, quiet: None, uid };
    let (pump, stream) = Pump::begin(to, last).map_err(io)?;
    let talk = Conversation::begin(&domain.started.control, &Verb::Save, &[stream.as_fd()], None)
        .map_err(|error| kernel("reach", "the domain's supervisor", &error, "try again in a moment"))?;
    Ok((talk, pump))
}

/// Goes on as far as it can. An error: it is taken back, and the guest goes on.
fn advance(
    settings: &Settings,
    domain: &mut Domain,
    saving: &mut Saving,
    now: Instant,
) -> Result<(), Refusal> {
    let path = saving.file.as_ref().map(|target| target.spot.path.as_str()).unwrap_or_default();
    match &mut saving.stage {
        Stage::Writing(talk, pump) => {
            // Why nothing more is taken says more than that QEMU could not write.
            if let Some(ended) = pump.ended(path) {
                let early = || refuse("write", path, "who writes it ended too early", "save it again");
                back(saving, ended.err().unwrap_or_else(early));
                return Ok(());
            }
            match talk.answer(now) {
                Ok(None) => {}
                Ok(Some(Answer::Saved(progress))) => written(saving, progress),
                // The guest goes on already, or could not: the supervisor knows, and says so when it is asked again.
                Ok(Some(Answer::Refused(refusal))) => {
                    let why = pump.refusal(path).unwrap_or(refusal);
                    back(saving, why);
                }
                Ok(Some(other)) => back(saving, unexpected(&other)),
                Err(rule) => {
                    back(saving, refuse("save", "the domain", &rule, "try again in a moment"));
                }
            }
            Ok(())
        }
        Stage::Syncing(pump, progress) => {
            let progress = *progress;
            let Some(ended) = pump.ended(path) else { return Ok(()) };
            match ended.and_then(|()| name(settings, domain, saving)) {
                Ok(part) => {
                    saving.stage = Stage::Written(part, progress);
                    saving.file = None;
                    domain.kill();
                }
                Err(refusal) => back(saving, refusal),
            }
            Ok(())
        }
        Stage::Back { refusal, talk, again, until } => {
            if now >= *until {
                return Err(stands(refusal));
            }
            take_back(domain, saving.save.running, (refusal, talk, again), now)
        }
        Stage::Over { refusal, again } if *again <= now => Err(refusal.clone()),
        Stage::Over { .. } => Ok(()),
        Stage::Written(..) => {
            domain.kill();
            Ok(())
        }
    }
}

/// QEMU has written everything.
fn written(saving: &mut Saving, progress: Progress) {
    let Saving { file: Some(target), stage, .. } = saving else { return };
    let path = target.spot.path.clone();
    // What comes in its place is not kept.
    let before =
        std::mem::replace(stage, Stage::back(refuse("save", &path, "it was given up", "save it again")));
    let Stage::Writing(_, mut pump) = before else { return };
    match pump.no_more() {
        Ok(()) => *stage = Stage::Syncing(pump, progress),
        Err(error) => *stage = Stage::back(kernel("write", &path, &error, "save it again")),
    }
}

/// Why a save failed whose guest does not go on either.
fn stands(refusal: &Refusal) -> Refusal {
    let rule = format!("{}, and the guest does not go on: it stands", refusal.rule);
    let remedy = format!("{}; try `virsh resume`, or end it with `virsh destroy`", refusal.remedy);
    Refusal { rule, remedy, ..refusal.clone() }
}

fn unexpected(answer: &Answer) -> Refusal {
    let rule = format!("its supervisor answered {answer:?}");
    refuse("save", "the domain", &rule, "use svirt programs of one version")
}

fn back(saving: &mut Saving, refusal: Refusal) {
    saving.stage = Stage::back(refusal);
}

/// Has the guest go on, for as long as that takes.
fn take_back(
    domain: &Domain,
    resume: bool,
    (refusal, talk, again): (&Refusal, &mut Option<Conversation>, &mut Instant),
    now: Instant,
) -> Result<(), Refusal> {
    if let Some(open) = talk {
        match open.answer(now) {
            Ok(None) => return Ok(()),
            Ok(Some(Answer::Done)) => return Err(refusal.clone()),
            other => {
                tracing::warn!(name = %domain.plan.domain.name, ?other, "does not go on yet");
                *talk = None;
                *again = now + AGAIN;
            }
        }
    }
    if *again > now {
        return Ok(());
    }
    *again = now + AGAIN;
    let verb = Verb::Unsave { resume };
    match Conversation::begin(&domain.started.control, &verb, &[], Some(BACK)) {
        Ok(open) => *talk = Some(open),
        Err(error) => tracing::warn!(name = %domain.plan.domain.name, %error, "does not go on yet"),
    }
    Ok(())
}
