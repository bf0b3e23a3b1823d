//! Names of saved domains: the one for the meantime, by which a file counts though its guest still stands, and its own.

use std::io;

use rustix::fs::{AtFlags, RenameFlags};

use super::{Saving, refuse};
use crate::base::{DomainUuid, Refusal};
use crate::labeller::apply::{journal_refusal, kernel};
use crate::labeller::domain::Domain;
use crate::labeller::fault;
use crate::labeller::journal::{Entry, Part};
use crate::labeller::lease::ObjectId;
use crate::labeller::places::Places;
use crate::labeller::saved::{Spot, sync_directory};
use crate::privsep::save::{Save, SavedAt};
use crate::settings::Settings;
use crate::sys::path;

/// A file that is there is replaced only by a later save of the same domain. Tells which one that is.
pub(super) fn may_replace(
    settings: &Settings,
    places: &Places<'_>,
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

/// Gives the file a name for the meantime; from then on it counts, and the guest does not.
pub(super) fn name(settings: &Settings, domain: &mut Domain, saving: &Saving) -> Result<Part, Refusal> {
    // What it replaces may have changed since the save began, and when the guest is gone it is too late to say no.
    let replaces = may_replace(settings, &Places::of(settings), &saving.save.at, domain.plan.domain.uuid)?;
    let lost = || refuse("save", "the domain", "its file is not open", "save it again");
    let target = saving.file.as_ref().ok_or_else(lost)?;
    let io = |error: io::Error| kernel("name", &target.spot.path, &error, "look at its directory");
    let name = format!(".{}.{}.saving", short(&target.spot.name), target.id.1);
    let (directory, _) = target.spot.path.rsplit_once('/').unwrap_or_default();
    let part = Part::new(format!("{directory}/{name}"), target.id, replaces);
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
pub(in crate::labeller) fn is_there(settings: &Settings, save: &Save, part: &Part) -> bool {
    let Ok(spot) = Spot::find(settings, &Places::of(settings), &save.at) else { return false };
    let meanwhile = part.path.rsplit_once('/').map(|(_, name)| name).unwrap_or_default();
    let mut names = [meanwhile, spot.name.as_str()].into_iter();
    names.any(|name| path::look(&spot.directory, name.as_ref()).is_ok_and(|found| found.id() == part.id))
}

/// Removes the name that a file had meanwhile, and with it the file.
pub(in crate::labeller) fn forget_part(settings: &Settings, save: &Save, part: &Part) {
    let places = Places::of(settings);
    let Ok(spot) = Spot::find(settings, &places, &save.at) else { return };
    let Some((_, name)) = part.path.rsplit_once('/') else { return };
    if let Err(error) = path::unlink_if(&spot.directory, name.as_ref(), part.id)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = part.path, %error, "cannot remove half of a save");
    }
}

/// The device model is gone: the file gets its name.
pub(super) fn finish(settings: &Settings, uuid: DomainUuid, save: &Save, part: &Part) -> Result<(), Refusal> {
    fault::step("save finish")?;
    let places = Places::of(settings);
    let spot = Spot::find(settings, &places, &save.at)?;
    if part.end.is_some() {
        let rule = format!("{} was written by an earlier version of svirt, and has no header yet", part.path);
        let remedy = "start that version once, or remove the file";
        return Err(refuse("finish", &spot.path, &rule, remedy));
    }
    let remedy = format!(
        "it is {} meanwhile, whole; the next svirt-labeller tries again. To keep it, rename it before the domain is started: that gives it up, and removes it once the guest runs",
        part.path
    );
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

/// A labeller that died after the file had its name left nothing to do.
fn finished(spot: Spot, id: ObjectId, missing: io::Error) -> Result<(), Refusal> {
    let path = spot.path.clone();
    match spot.open() {
        Ok(Some(opened)) if opened.found.id() == id => Ok(()),
        _ => Err(kernel("finish", &path, &missing, "what was saved is gone")),
    }
}
