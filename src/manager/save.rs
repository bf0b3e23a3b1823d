//! Domains that are saved, and that go on from there.
//!
//! The file itself is the labeller's. What is kept in it is a [`Note`]: the definition that ran, and whether it did.

use std::sync::{Arc, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::job::Job;
use super::lifecycle::{PAUSED_SAVE, RUNNING_SAVE_CANCELED};
use super::managed::Managed;
use super::table::{Live, State};
use super::{Definition, Domain, Lifecycle, Manager, ManagerError, StartFlags};
use crate::base::{DomainUuid, Files};
use crate::conf::definition::Strictness;
use crate::conf::identity;
use crate::driver::{Labeller, Machine};
use crate::privsep::save::{NOTE_MAX, Restore, Save, SavedAt, SavedOp};
use crate::privsep::supervisor::{Ended, SAVED, Verb};

/// The form of a note.
const NOTE: u32 = 1;

/// What a device model may write besides its guest's memory, in bytes: its video memory, firmware and state.
const BESIDES: u64 = 1 << 30;

/// The most that a domain's device model writes of it, in bytes: each page once, for the guest stands, with a head of its own.
pub(super) fn most(domain: &crate::conf::domain::Domain) -> u64 {
    let shared: u64 = domain.devices.shmems.iter().map(|shmem| shmem.size).fold(0, u64::saturating_add);
    let video = domain.devices.videos.iter().flat_map(|video| [video.ram, video.vram, video.vgamem]);
    let video = video.flatten().map(|kib| u64::from(kib) << 10).fold(0, u64::saturating_add);
    let memory = domain.memory.saturating_add(shared).saturating_add(video);
    memory.saturating_add(memory / 8).saturating_add(BESIDES)
}

/// What is kept of a saved domain besides its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    version: u32,
    /// The definition that ran, secrets and all.
    xml: String,
    /// Whether it runs again.
    running: bool,
    /// What headers of its images may name of the host, where somebody handed the definition in who may not name
    /// everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    files: Option<Vec<String>>,
}

impl Note {
    fn of(definition: &Definition, running: bool) -> Self {
        let files = definition.files().only().map(<[String]>::to_vec);
        Self { version: NOTE, xml: definition.text().to_owned(), running, files }
    }

    fn files(&self) -> Files {
        Files::new(self.files.clone(), Vec::new())
    }

    fn text(&self) -> Result<String, ManagerError> {
        let text = serde_json::to_string(self).map_err(|error| ManagerError::Failed(error.to_string()))?;
        if text.len() > NOTE_MAX {
            return Err(ManagerError::Failed(format!("the definition has more than {NOTE_MAX} bytes")));
        }
        Ok(text)
    }
}

/// One saved domain.
#[derive(Clone, Debug)]
pub struct SavedDomain {
    /// Which domain.
    pub uuid: DomainUuid,
    at: SavedAt,
    restore: Restore,
    note: Note,
}

/// A definition that a client hands in for what is saved.
#[derive(Clone, Copy, Debug)]
pub struct Handed<'a> {
    /// Its text.
    pub xml: &'a str,
    /// What it may name of the host that was not named before.
    pub files: &'a Files,
}

/// Whether a saved domain runs once it goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goes {
    /// As it was saved.
    #[default]
    AsBefore,
    /// It stands.
    Paused,
    /// It runs.
    Running,
}

impl Goes {
    fn on(self, before: bool) -> bool {
        match self {
            Self::AsBefore => before,
            Self::Paused => false,
            Self::Running => true,
        }
    }
}

impl SavedDomain {
    /// Its definition, not yet read whole: who may know of it is asked with its name.
    #[must_use]
    pub fn xml(&self) -> &str {
        &self.note.xml
    }

    /// Its definition.
    pub fn definition(&self) -> Result<Definition, ManagerError> {
        let definition = Definition::kept(&self.note.xml)?;
        if definition.uuid != self.uuid {
            return Err(ManagerError::Failed("its definition is another domain's".into()));
        }
        Ok(definition.with_files(self.note.files()))
    }
}

impl Manager {
    /// Looks at the saved domain in a file that a person named.
    pub fn saved_at(&self, path: &str) -> Result<SavedDomain, ManagerError> {
        self.look_at_saved(SavedAt::Path { path: path.into() })
    }

    /// Looks at what a domain's next start goes on from.
    pub fn managed_save_of(&self, uuid: DomainUuid) -> Result<SavedDomain, ManagerError> {
        if !self.has_managed_save(uuid)? {
            return Err(ManagerError::state("domain does not have managed save image"));
        }
        self.look_at_saved(SavedAt::Managed { uuid })
    }

    fn look_at_saved(&self, at: SavedAt) -> Result<SavedDomain, ManagerError> {
        let saved = self.core.labeller(&self.settings)?.saved(SavedOp::Look { at: at.clone() })?;
        let saved = saved.ok_or_else(|| ManagerError::Failed("svirt-labeller told nothing of it".into()))?;
        let note: Note = serde_json::from_str(&saved.note)
            .map_err(|error| ManagerError::Failed(format!("what is kept of it cannot be read: {error}")))?;
        if note.version != NOTE {
            return Err(ManagerError::Failed("it was saved by another version of svirt".into()));
        }
        if matches!(at, SavedAt::Managed { uuid } if uuid != saved.uuid) {
            return Err(ManagerError::Failed("another domain's image has taken its place; remove it".into()));
        }
        let restore = Restore { at: at.clone(), identity: saved.identity, bytes: saved.bytes };
        Ok(SavedDomain { uuid: saved.uuid, at, restore, note })
    }

    pub(super) fn managed(&self) -> MutexGuard<'_, Managed> {
        self.managed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_managed(&self, uuid: DomainUuid, there: bool) {
        self.managed().note(uuid, there);
    }

    /// Saves a domain into a file that a person named, with a changed definition where there is one. `user` is the uid
    /// that has it saved, and whose file it is counted as.
    pub fn save(
        &self,
        uuid: DomainUuid,
        path: &str,
        xml: Option<Handed<'_>>,
        (user, goes): (u32, Goes),
    ) -> Result<(), ManagerError> {
        self.save_to(uuid, SavedAt::Path { path: path.into() }, xml, (user, goes))
    }

    /// Saves a domain so that its next start goes on from there; for `user`, as above.
    pub fn managed_save(&self, uuid: DomainUuid, user: u32, goes: Goes) -> Result<(), ManagerError> {
        self.save_to(uuid, SavedAt::Managed { uuid }, None, (user, goes))
    }

    fn save_to(
        &self,
        uuid: DomainUuid,
        at: SavedAt,
        xml: Option<Handed<'_>>,
        (user, goes): (u32, Goes),
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let managed = matches!(at, SavedAt::Managed { .. });
        let call = if managed { "DomainManagedSave" } else { "DomainSave" };
        let _job = self.change(&domain.job, call)?;
        if managed && self.by_uuid(uuid)?.definition.is_none() {
            return Err(ManagerError::state("cannot do managed save for transient domain"));
        }
        let live = self.live(uuid)?;
        let before = live.state;
        let running = matches!(before, State::Running(_));
        let lacks = || ManagerError::state("svirtd has no definition of what runs");
        let current = live.definition.clone().ok_or_else(lacks)?;
        let mut labeller = self.core.labeller(&self.settings)?;
        let definition = match xml {
            Some(xml) => self.alike(&mut labeller, &current, xml)?,
            None => current.clone(),
        };
        self.check_machine(&mut labeller, &definition)?;
        let note = Note::of(&definition, goes.on(running)).text()?;
        let most = most(&current.to_start()?);
        self.begin_job(uuid, Job::save());
        let saved = labeller.save(uuid, Save { at, note, running, most, user });
        match saved {
            Ok(progress) => {
                if managed {
                    self.note_managed(uuid, true);
                }
                self.save_stopped(uuid, live.id);
                self.save_turned(uuid, progress.iterations);
                self.end_job(uuid, Some(progress));
                let ended =
                    Ended { code: None, signal: None, reason: Some(SAVED.into()), stderr: String::new() };
                self.ended(uuid, live.id, Some(&ended));
                Ok(())
            }
            Err(error) => {
                self.end_job(uuid, None);
                self.save_failed(uuid, &live, before);
                Err(error.into())
            }
        }
    }

    /// The guest stands, because it is being saved; the first to notice tells it.
    pub(super) fn save_stopped(&self, uuid: DomainUuid, id: i32) {
        let domain = {
            let mut table = self.table();
            let live = table.get(uuid).and_then(|domain| domain.live.as_mut()).filter(|live| live.id == id);
            let Some(live) = live.filter(|live| matches!(live.state, State::Running(_))) else { return };
            Arc::make_mut(live).state = State::Paused(PAUSED_SAVE);
            table.by_uuid(uuid)
        };
        if let Some(domain) = domain {
            self.tell(&domain, Lifecycle::Paused);
        }
    }

    /// A save is over: whether the guest goes on is asked, and where nobody answers its supervisor tells it yet.
    fn save_failed(&self, uuid: DomainUuid, live: &Live, before: State) {
        let goes_on = || {
            let status = self.core.control(&live.control, None).ok()?.status().ok()?;
            Some(status.state == "running")
        };
        if goes_on() == Some(false) {
            // It may go on between the question and this.
            self.save_stopped(uuid, live.id);
        }
        if goes_on() == Some(true) {
            self.save_undone(uuid, live.id, before);
        }
    }

    /// The guest goes on as before.
    pub(super) fn save_undone(&self, uuid: DomainUuid, id: i32, before: State) {
        let State::Running(_) = before else { return };
        let domain = {
            let mut table = self.table();
            let live = table.get(uuid).and_then(|domain| domain.live.as_mut()).filter(|live| live.id == id);
            let paused = State::Paused(PAUSED_SAVE);
            let Some(live) = live.filter(|live| live.state == paused) else { return };
            Arc::make_mut(live).state = State::Running(RUNNING_SAVE_CANCELED);
            table.by_uuid(uuid)
        };
        if let Some(domain) = domain {
            self.tell(&domain, Lifecycle::Unpaused);
        }
    }

    /// A person's definition of a guest that was or will be saved: the guest must not see that it was changed.
    fn alike(
        &self,
        labeller: &mut Labeller,
        current: &Definition,
        Handed { xml, files }: Handed<'_>,
    ) -> Result<Arc<Definition>, ManagerError> {
        let found = identity::read(xml).map_err(ManagerError::Malformed)?;
        if let Some(uuid) = found.uuid.filter(|uuid| *uuid != current.uuid) {
            let text = format!("Target domain uuid {uuid} does not match source {}", current.uuid);
            return Err(ManagerError::Config(text));
        }
        if found.name != current.name {
            let text =
                format!("Target domain name '{}' does not match source '{}'", found.name, current.name);
            return Err(ManagerError::Config(text));
        }
        let definition = Definition::read(xml, current.uuid, Strictness::Lenient, &self.choices)?;
        let definition = self.hold(definition, Some(current), files)?;
        let machine = |labeller: &mut Labeller, definition: &Definition| {
            let domain = (definition.to_start()?, definition.uuid);
            Ok::<_, ManagerError>(Machine::of(labeller, domain, &self.facts, &self.settings)?)
        };
        let (old, new) = (machine(labeller, current)?, machine(labeller, &definition)?);
        old.check(&new, "change the definition of", current.name.as_str())
            .map_err(|refusal| ManagerError::Driver(refusal.into()))?;
        Ok(Arc::new(definition))
    }

    /// Whether the definition leads to the very machine that runs: what came and went, or was changed while it ran, may
    /// have left it another one, and a guest that finds that is lost.
    fn check_machine(&self, labeller: &mut Labeller, definition: &Definition) -> Result<(), ManagerError> {
        let described = labeller.describe(definition.uuid)?;
        let domain = (definition.to_start()?, definition.uuid);
        let next = match Machine::of(labeller, domain, &self.facts, &self.settings) {
            Ok(next) => next,
            // A host that has changed may have what it lacks again by then.
            Err(error) if described.plugs.is_empty() && described.gone.is_empty() => {
                tracing::warn!(uuid = %definition.uuid, %error, "what is saved could not be started now");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        Machine::running(&described)
            .without_count()
            .check(&next.without_count(), "save", definition.name.as_str())
            .map_err(|refusal| ManagerError::Driver(refusal.into()))
    }

    /// Starts a domain from where it was saved. What it is defined as then, and what its images' headers name of the
    /// host, is among `files`, or was named before.
    pub fn restore(
        &self,
        saved: &SavedDomain,
        xml: Option<&str>,
        files: &Files,
        goes: Goes,
    ) -> Result<Domain, ManagerError> {
        let definition = match xml.map(|xml| Handed { xml, files }) {
            Some(xml) => self.alike(&mut self.core.labeller(&self.settings)?, &saved.definition()?, xml)?,
            None => {
                let definition = saved.definition()?;
                let files = definition.files().clone().and(files.clone());
                Arc::new(definition.with_files(files))
            }
        };
        let flags = StartFlags { paused: !goes.on(saved.note.running), ..StartFlags::default() };
        self.start_other(definition, flags, Some((saved.restore.clone(), goes == Goes::Paused)))
    }

    /// What a start of a persistent domain goes on from, and the definition that it runs with then.
    pub(super) fn to_go_on(
        &self,
        domain: &Domain,
        flags: &mut StartFlags,
    ) -> Result<Option<(Arc<Definition>, Restore)>, ManagerError> {
        let uuid = domain.uuid;
        if !self.has_managed_save(uuid)? {
            return Ok(None);
        }
        if flags.force_boot {
            self.drop_managed(uuid)?;
            return Ok(None);
        }
        let saved = match self.look_at_saved(SavedAt::Managed { uuid }) {
            Ok(saved) => saved,
            Err(error) if !self.still_managed(uuid)? => {
                tracing::info!(%uuid, %error, "its managed save is gone");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let definition = saved.definition()?;
        // Somebody else may have had the uuid before.
        if definition.name != domain.name {
            return Err(ManagerError::state(&format!(
                "its managed save is of a domain '{}': `virsh managedsave-remove` removes it",
                definition.name
            )));
        }
        flags.paused |= !saved.note.running;
        let files = domain.definition.as_ref().map_or_else(Files::none, |kept| kept.files.clone());
        let files = definition.files().clone().and(files);
        Ok(Some((Arc::new(definition.with_files(files)), saved.restore)))
    }

    /// Whether there is one, as the labeller says.
    pub(super) fn still_managed(&self, uuid: DomainUuid) -> Result<bool, ManagerError> {
        let mut labeller = self.core.labeller(&self.settings)?;
        let _one = self.surveying.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = self.managed().ask();
        let saved = labeller.survey()?.saved;
        let mut managed = self.managed();
        managed.replace(saved, asked);
        Ok(managed.contains(uuid))
    }

    /// The same, for what runs domains that cannot be saved too.
    fn managed_now(&self, uuid: DomainUuid) -> Result<bool, ManagerError> {
        match self.still_managed(uuid) {
            Err(ManagerError::Unsupported(_)) => Ok(false),
            other => other,
        }
    }

    fn drop_managed(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        self.core.labeller(&self.settings)?.saved(SavedOp::Remove { uuid })?;
        self.note_managed(uuid, false);
        Ok(())
    }

    /// Forgets what a domain's next start would go on from.
    pub fn remove_managed_save(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainManagedSaveRemove")?;
        if self.managed_now(uuid)? { self.drop_managed(uuid) } else { Ok(()) }
    }

    /// The same before its definition goes, where that is wanted; its job is held.
    pub(super) fn undefine_saved(&self, uuid: DomainUuid, wanted: bool) -> Result<(), ManagerError> {
        // What was known last, where nobody can be asked: nothing was saved since then either. Where nothing was ever known
        // an image may be there, from which whoever has the uuid next would start.
        let there = self.managed_now(uuid).or_else(|_| self.has_managed_save(uuid))?;
        match (there, wanted) {
            (false, _) => Ok(()),
            (true, true) => self.drop_managed(uuid),
            (true, false) => {
                Err(ManagerError::state("Refusing to undefine while domain managed save image exists"))
            }
        }
    }

    /// Gives a saved domain another definition, which its guest must not notice.
    pub fn redefine_saved(
        &self,
        saved: &SavedDomain,
        xml: Option<Handed<'_>>,
        goes: Goes,
    ) -> Result<(), ManagerError> {
        let mut labeller = self.core.labeller(&self.settings)?;
        let definition = match xml {
            // All of it was handed in, and so was what it may name.
            Some(xml) => self.alike(&mut labeller, &saved.definition()?, xml)?,
            None => Arc::new(saved.definition()?),
        };
        let note = Note::of(&definition, goes.on(saved.note.running)).text()?;
        labeller.saved(SavedOp::Note { at: saved.at.clone(), identity: saved.restore.identity, note })?;
        Ok(())
    }

    /// Ends the save that goes on; whoever asked for it hears that.
    pub fn abort_job(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        if self.job(uuid).is_none_or(|job| job.is_over()) {
            return Err(ManagerError::state("no job is active on the domain"));
        }
        self.core.order(&live.control, &Verb::AbortSave)?;
        Ok(())
    }
}
