//! A domain that is saved: its supervisor has QEMU write it into a file without a name, which gets its name last.
//!
//! ```text
//! journal: begin ─▶ QEMU writes ─▶ on the disk ─▶ named for the meantime ─▶ journal: written ─▶ killed, gone
//!     │                 │               │                                                           │
//!     └─────────────────┴───────────────┴─▶ taken back: the guest goes on, no file      header ─▶ its own name
//! ```
//!
//! Whoever dies on the way: before "written" the guest goes on and the file, which has no name, is gone; after it the next
//! labeller ends the domain and finishes the file. The header is written when the device model is gone, over whatever
//! that left in its place, so nothing that a guest could write is ever read as one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, RenameFlags, SeekFrom};

use super::apply::{journal_refusal, kernel};
use super::connection::ConnectionId;
use super::converse::Conversation;
use super::domain::{Domain, Phase};
use super::fault;
use super::journal::{Entry, Part, Undo};
use super::lease::{Hold, ObjectId};
use super::places::Places;
use super::saved::{Spot, check_note, sync_directory, write_header};
use super::server::{Server, refused};
use super::undo;
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::{Access, Op, Sharing};
use crate::privsep::request::Reply;
use crate::privsep::save::{Header, Progress, STREAM_AT, Save, SavedAt};
use crate::privsep::supervisor::{Answer, Ended, SAVED, Verb};
use crate::settings::Settings;
use crate::sys::lock;
use crate::sys::path::{self, Found};
use crate::sys::pidfd::{self, Exit};
use crate::sys::process::{self, Child};
use crate::sys::xattr;

/// How soon a guest that should go on is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a file may still be open for writing in a process that is on its way to its own program.
const WRITTEN: Duration = Duration::from_secs(1);
/// How long a supervisor may take to have it go on.
const BACK: Duration = Duration::from_secs(60);

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
    /// Its label before it was the domain's.
    label: Option<String>,
}

#[derive(Debug)]
enum Stage {
    /// QEMU writes.
    Writing(Conversation),
    /// A child brings it to the disk.
    Syncing(Child, Progress),
    /// It is taken back.
    Back { refusal: Refusal, talk: Option<Conversation>, again: Instant },
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
            None => Stage::Back { refusal, talk: None, again: Instant::now() },
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
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::Writing(talk) | Stage::Back { talk: Some(talk), .. } => Some(talk.fd()),
            Stage::Syncing(child, _) => Some(child.pidfd.as_fd()),
            Stage::Back { talk: None, .. } | Stage::Over { .. } | Stage::Written(..) => None,
        }
    }

    /// The child that brings it to the disk.
    pub(super) fn child(&self) -> Option<i32> {
        match &self.stage {
            Stage::Syncing(child, _) => Some(child.pid),
            _ => None,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Writing(talk) => talk.deadline(),
            Stage::Back { talk: Some(talk), .. } => talk.deadline(),
            Stage::Back { talk: None, again, .. } | Stage::Over { again, .. } => Some(*again),
            Stage::Syncing(..) | Stage::Written(..) => None,
        }
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
        let busy = self.talks.iter().any(|talk| talk.uuid == uuid);
        let domain = self.domains.get(&uuid).filter(|domain| domain.phase == Phase::Running);
        let Some(domain) = domain else {
            return Err(refuse("save", &uuid.to_string(), "no such domain runs", "start it first"));
        };
        let name = domain.plan.domain.name.to_string();
        if busy || domain.saving.is_some() {
            let rule = if busy { "a device is on its way" } else { "it is being saved" };
            return Err(refuse("save", &name, rule, "try again in a moment"));
        }
        let places = Places::read(&self.settings);
        let spot = Spot::make(&self.settings, &places, &save.at)?;
        check_note(&save.note, &spot.path)?;
        self.nobody_else_saves_to(&spot, &save.at)?;
        may_replace(&self.settings, &places, &save.at, uuid)?;
        let context = if self.selinux { image_context(domain, &self.settings) } else { None };
        let target = Target::new(spot, context.as_deref())?;
        let hold = Hold { access: Access::ReadWrite, sharing: Sharing::Exclusive };
        let Some(domain) = self.domains.get_mut(&uuid) else {
            return Err(refuse("save", &name, "no such domain runs", "start it first"));
        };
        self.leases.object(uuid, target.id, hold, &target.spot.path)?;
        let begun = begin(domain, &save, &target);
        let stage = match begun {
            Ok(talk) => Stage::Writing(talk),
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
                (Kept::Nothing, refused(refuse("save", &name, rule, "see why it ended")))
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

/// A file that is there is replaced only by a later save of the same domain. Tells which one that is.
fn may_replace(
    settings: &Settings,
    places: &Places,
    at: &SavedAt,
    uuid: DomainUuid,
) -> Result<Option<ObjectId>, Refusal> {
    let spot = Spot::find(settings, places, at)?;
    let path = spot.path.clone();
    if matches!(at, SavedAt::Managed { .. }) {
        return match path::look(&spot.directory, spot.name.as_ref()) {
            Ok(found) => Ok(Some(found.id())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(kernel("save to", &path, &error, "look at its directory")),
        };
    }
    match spot.open() {
        Ok(None) => Ok(None),
        Ok(Some(opened)) if opened.header.uuid == uuid => Ok(Some(opened.found.id())),
        _ => {
            let rule = "something else has this name, and it is no saved image of this domain";
            Err(refuse("save to", &path, rule, "choose another name, or remove that file"))
        }
    }
}

/// The context that the domain may write.
fn image_context(domain: &Domain, settings: &Settings) -> Option<String> {
    let context = domain.spawn()?.confinement.selinux_exec.as_deref()?;
    let range = context.splitn(4, ':').nth(3)?;
    Some(format!("system_u:object_r:{}:{range}", settings.selinux.image_type))
}

impl Target {
    fn new(spot: Spot, context: Option<&str>) -> Result<Self, Refusal> {
        let io = |error: io::Error| {
            kernel("make the file", &spot.path, &error, "see that its file system has room, and O_TMPFILE")
        };
        let file = File::from(path::nameless(&spot.directory, 0o600, OFlags::RDWR).map_err(io)?);
        // Room for the header, so that it can be written when nothing may fail any more.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, STREAM_AT)
            .map_err(|error| io(error.into()))?;
        let mut label = None;
        if let Some(context) = context {
            label = xattr::selinux_label(&file).map_err(io)?;
            xattr::set_selinux_label(&file, Some(context)).map_err(io)?;
        }
        let id = Found::of(&file).map_err(io)?.id();
        // It is written by this very descriptor; without leases that could not be told when the guest is gone.
        let reading = path::reopen(&file, OFlags::RDONLY).map_err(io)?;
        let tells = lock::nobody_writes(&reading).map(|nobody| !nobody);
        if !tells.is_ok_and(|tells| tells) {
            let rule = "its file system has no leases, which say whether anybody writes a file";
            return Err(refuse("save to", &spot.path, rule, "choose a directory on a local file system"));
        }
        Ok(Self { spot, file, id, label })
    }

    /// What QEMU writes through: it cannot read, and where it writes is nobody else's.
    fn stream(&self) -> io::Result<OwnedFd> {
        let fd = path::reopen(&self.file, OFlags::WRONLY)?;
        rustix::fs::seek(&fd, SeekFrom::Start(STREAM_AT))?;
        Ok(fd)
    }
}

fn begin(domain: &mut Domain, save: &Save, target: &Target) -> Result<Conversation, Refusal> {
    let entry = Entry::SaveBegin { save: Box::new(save.clone()) };
    domain.journal.write(&entry).map_err(|error| journal_refusal(&error))?;
    fault::step("save")?;
    let talk = target
        .stream()
        .and_then(|fd| Conversation::begin(&domain.started.control, &Verb::Save, &[fd.as_fd()], None));
    talk.map_err(|error| kernel("reach", "the domain's supervisor", &error, "try again in a moment"))
}

/// Goes on as far as it can. An error: it is taken back, and the guest goes on.
fn advance(
    settings: &Settings,
    domain: &mut Domain,
    saving: &mut Saving,
    now: Instant,
) -> Result<(), Refusal> {
    match &mut saving.stage {
        Stage::Writing(talk) => {
            match talk.answer(now) {
                Ok(None) => {}
                Ok(Some(Answer::Saved(progress))) => saved(saving, progress),
                // The guest goes on already, or could not: the supervisor knows, and says so when it is asked again.
                Ok(Some(Answer::Refused(refusal))) => back(saving, refusal),
                Ok(Some(other)) => back(saving, unexpected(&other)),
                Err(rule) => {
                    back(saving, refuse("save", "the domain", &rule, "try again in a moment"));
                }
            }
            Ok(())
        }
        Stage::Syncing(child, progress) => {
            let progress = *progress;
            if !pidfd::has_ended(&child.pidfd).unwrap_or(true) {
                return Ok(());
            }
            let written = match pidfd::reap(&child.pidfd) {
                Some(Exit::Code(0)) => name(settings, domain, saving),
                other => Err(unsynced(other)),
            };
            match written {
                Ok(part) => {
                    saving.stage = Stage::Written(part, progress);
                    saving.file = None;
                    domain.kill();
                }
                Err(refusal) => back(saving, refusal),
            }
            Ok(())
        }
        Stage::Back { refusal, talk, again } => {
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

/// QEMU has written everything: another process brings it to the disk, for that takes as long as it takes.
fn saved(saving: &mut Saving, progress: Progress) {
    let Some(target) = &saving.file else { return };
    match apart(&target.file, || target.file.sync_all()) {
        Ok(child) => saving.stage = Stage::Syncing(child, progress),
        Err(error) => back(saving, kernel("bring to the disk", "the saved domain", &error, "try again")),
    }
}

/// Does in another process what takes as long as it takes. That has the file and nothing else of the labeller's, whose lock
/// and sockets the next one needs, and it ends with it.
fn apart(file: &File, work: impl FnOnce() -> io::Result<()>) -> io::Result<Child> {
    let parent = process::own_pid();
    let alone = || {
        process::close_all_but(file.as_fd())?;
        process::reset_signals()?;
        process::die_with_parent(true)?;
        if process::parent_is(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    };
    process::fork(|| match alone().and_then(|()| work()) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().filter(|code| (1..200).contains(code)).unwrap_or(libc::EIO),
    })
}

fn unsynced(exit: Option<Exit>) -> Refusal {
    let error = match exit {
        Some(Exit::Code(code)) => io::Error::from_raw_os_error(code),
        _ => io::ErrorKind::Interrupted.into(),
    };
    kernel("bring to the disk", "the saved domain", &error, "see that its file system has room")
}

fn unexpected(answer: &Answer) -> Refusal {
    let rule = format!("its supervisor answered {answer:?}");
    refuse("save", "the domain", &rule, "use svirt programs of one version")
}

fn back(saving: &mut Saving, refusal: Refusal) {
    saving.stage = Stage::Back { refusal, talk: None, again: Instant::now() };
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

/// Gives the file a name for the meantime; from then on it counts, and the guest does not.
fn name(settings: &Settings, domain: &mut Domain, saving: &Saving) -> Result<Part, Refusal> {
    // What it replaces may have changed since the save began, and when the guest is gone it is too late to say no.
    let replaces = may_replace(settings, &Places::read(settings), &saving.save.at, domain.plan.domain.uuid)?;
    let lost = || refuse("save", "the domain", "its file is not open", "save it again");
    let target = saving.file.as_ref().ok_or_else(lost)?;
    let io = |error: io::Error| kernel("name", &target.spot.path, &error, "look at its directory");
    let end = Found::of(&target.file).map_err(io)?.size;
    let name = format!(".{}.{}.saving", short(&target.spot.name), target.id.1);
    let (directory, _) = target.spot.path.rsplit_once('/').unwrap_or_default();
    let (path, label) = (format!("{directory}/{name}"), target.label.clone());
    let part = Part { path, id: target.id, end, label, replaces };
    let noted = domain.journal.write(&Entry::SaveNamed(part.clone())).and_then(|()| domain.journal.sync());
    noted.map_err(|error| journal_refusal(&error))?;
    fault::step("save named")?;
    path::link(&target.file, &target.spot.directory, name.as_ref()).map_err(io)?;
    let mut written = || -> Result<(), Refusal> {
        fault::step("save linked")?;
        sync_directory(&target.spot.directory).map_err(io)?;
        let noted = domain.journal.write(&Entry::SaveWritten).and_then(|()| domain.journal.sync());
        noted.map_err(|error| journal_refusal(&error))
    };
    if let Err(refusal) = written() {
        // "Written" may stand there though it is not on the disk. What comes after it counts.
        let again = Entry::SaveBegin { save: Box::new(saving.save.clone()) };
        let begun = domain.journal.write(&again);
        if let Err(error) = begun.and_then(|()| domain.journal.write(&Entry::SaveNamed(part))) {
            tracing::error!(%error, "cannot note that a save was taken back");
        }
        let _ = rustix::fs::unlinkat(&target.spot.directory, name.as_str(), AtFlags::empty());
        return Err(refusal);
    }
    Ok(part)
}

/// A name that leaves room for what is added to it.
fn short(name: &str) -> &str {
    let end = (0..=name.len().min(200)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    name.get(..end).unwrap_or_default()
}

/// Whether the file is there that the journal speaks of, under the name that it has meanwhile or its own.
pub(super) fn is_there(settings: &Settings, save: &Save, part: &Part) -> bool {
    let Ok(spot) = Spot::find(settings, &Places::read(settings), &save.at) else { return false };
    let meanwhile = part.path.rsplit_once('/').map(|(_, name)| name).unwrap_or_default();
    let mut names = [meanwhile, spot.name.as_str()].into_iter();
    names.any(|name| path::look(&spot.directory, name.as_ref()).is_ok_and(|found| found.id() == part.id))
}

/// Removes the name that a file had meanwhile, and with it the file.
pub(super) fn forget_part(settings: &Settings, save: &Save, part: &Part) {
    let places = Places::read(settings);
    let Ok(spot) = Spot::find(settings, &places, &save.at) else { return };
    let Some((_, name)) = part.path.rsplit_once('/') else { return };
    if let Err(error) = path::unlink_if(&spot.directory, name.as_ref(), part.id)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = part.path, %error, "cannot remove half of a save");
    }
}

/// Nobody writes the file any longer: it gets its header, its label and its name.
fn finish(settings: &Settings, uuid: DomainUuid, save: &Save, part: &Part) -> Result<(), Refusal> {
    fault::step("save finish")?;
    let places = Places::read(settings);
    let spot = Spot::find(settings, &places, &save.at)?;
    let remedy = format!("it is {} meanwhile; the next svirt-labeller tries again", part.path);
    let io = |error: io::Error| kernel("finish", &spot.path, &error, &remedy);
    let name = part.path.rsplit_once('/').map(|(_, name)| name).unwrap_or_default();
    let found = match path::look(&spot.directory, name.as_ref()) {
        // It had its name already.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return finished(spot, part.id, error),
        other => other.map_err(io)?,
    };
    if found.id() != part.id {
        return Err(refuse("finish", &spot.path, "another file has taken the place of what was written", ""));
    }
    if !is_left_alone(&spot, name).map_err(io)? {
        let rule = "some process still has it open for writing, and could make another guest of it";
        return Err(refuse("finish", &part.path, rule, "look which one, end it, and restart svirt-labeller"));
    }
    let file = File::from(path::open_in(&spot.directory, name.as_ref(), OFlags::RDWR).map_err(io)?);
    // What the device model wrote after it said that it had done is not of the guest.
    rustix::fs::ftruncate(&file, part.end).map_err(|error| io(error.into()))?;
    let header = Header { uuid, generation: 1, end: part.end, note: save.note.clone() };
    // The device model could have left a header of its own in the other slot.
    blank(&file).map_err(io)?;
    write_header(&file, 0, &header).map_err(io)?;
    fault::step("save header")?;
    if let Some(label) = &part.label {
        xattr::set_selinux_label(&file, Some(label)).map_err(io)?;
    }
    let (from, to) = (name, spot.name.as_str());
    let replaced = may_replace(settings, &places, &save.at, uuid)
        .map_err(|refusal| Refusal { remedy: remedy.clone(), ..refusal })?;
    // A later save of the domain may have taken the name since, if this is not the first try.
    if replaced.is_some() && replaced != part.replaces {
        return Err(refuse("finish", &spot.path, "another file has taken its name since", &remedy));
    }
    let flags = if replaced.is_none() { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
    rustix::fs::renameat_with(&spot.directory, from, &spot.directory, to, flags)
        .map_err(|error| io(error.into()))?;
    fault::step("save renamed")?;
    sync_directory(&spot.directory).map_err(io)
}

/// Whether nobody writes the file any longer. The device model could have handed its descriptor to somebody, and that one
/// outlives it. Whoever has none gets none: the file is root's alone. What a child of the labeller's own inherited is
/// closed when that executes its program.
fn is_left_alone(spot: &Spot, name: &str) -> io::Result<bool> {
    let until = Instant::now() + WRITTEN;
    loop {
        let reading = path::open_in(&spot.directory, name.as_ref(), OFlags::RDONLY)?;
        if lock::nobody_writes(&reading)? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A labeller that died after the file had its name left nothing to do.
fn finished(spot: Spot, id: ObjectId, missing: io::Error) -> Result<(), Refusal> {
    let path = spot.path.clone();
    match spot.open() {
        Ok(Some(opened)) if opened.found.id() == id => Ok(()),
        _ => Err(kernel("finish", &path, &missing, "what was saved is gone")),
    }
}

/// Makes sure that no header stands in either slot.
fn blank(file: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let zeros = vec![0; 4096];
    for slot in 0..2_u64 {
        file.write_all_at(&zeros, slot * STREAM_AT / 2)?;
    }
    Ok(())
}
