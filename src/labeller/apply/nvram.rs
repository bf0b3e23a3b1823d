//! A domain's store of UEFI variables or of its TPM: the file that it has, or a new one.
//!
//! A new file has no name until the guest runs, so that a start that fails leaves nothing behind.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, fchown};

use rustix::fs::OFlags;

use super::{Apply, NewLog, kernel, lock_refusal};
use crate::base::{DomainUuid, Layer, Refusal, Slot};
use crate::labeller::journal::Undo;
use crate::labeller::lease::{Hold, ObjectId};
use crate::labeller::places::DirectoryUse;
use crate::privsep::nvram::named_for;
use crate::privsep::op::{Access, Sharing};
use crate::sys::lock;
use crate::sys::path::{self, Found};
use crate::sys::xattr::{self, OWNER};

/// The largest store, in bytes; those that ship have half a MiB.
const SIZE_MAX: u64 = 16 << 20;
/// What is copied at once, in bytes.
const CHUNK: usize = 64 << 10;

impl Apply<'_> {
    pub(super) fn open_nvram(&mut self, slot: &Slot, path: &str, template: &Slot) -> Result<(), Refusal> {
        let place = self.settings.images.nvram.as_str();
        let id = self.open_store(slot, path, (place, DirectoryUse::Nvram), Some(template), None)?;
        self.out.nvrams.push((slot.clone(), path.to_owned(), id));
        Ok(())
    }

    /// A TPM's state belongs to the one process that may open it by name, through its own descriptor.
    pub(super) fn open_tpm_state(&mut self, slot: &Slot, path: &str, uid: u32) -> Result<(), Refusal> {
        let place = self.settings.tpm.state.as_str();
        let id = self.open_store(slot, path, (place, DirectoryUse::Tpm), None, Some(uid))?;
        self.out.states.push((slot.clone(), path.to_owned(), id));
        Ok(())
    }

    /// Opens and locks a file of the domain's own in a directory of svirt's, or makes it.
    fn open_store(
        &mut self,
        slot: &Slot,
        path: &str,
        (place, use_): (&str, DirectoryUse),
        template: Option<&Slot>,
        owner: Option<u32>,
    ) -> Result<ObjectId, Refusal> {
        let error = |error: io::Error| kernel("open", path, &error, "look at its directory");
        DirBuilder::new().recursive(true).mode(0o700).create(place).map_err(error)?;
        let (directory, name) = self.places.directory_of(path, use_)?;
        let there = match path::look(&directory, name.as_ref()) {
            Ok(found) => Some(found),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => None,
            Err(other) => return Err(error(other)),
        };
        let fd = match (&there, template) {
            (Some(found), None) => existing(&directory, &name, path, found)?,
            (Some(found), Some(_)) => {
                let fd = existing(&directory, &name, path, found)?;
                self.check_owner(&fd, path)?;
                fd
            }
            (None, Some(template)) => {
                let fd = self.copied(&directory, path, template)?;
                self.mark_owner(&fd, path)?;
                fd
            }
            (None, None) => path::nameless(&directory, 0o600, OFlags::RDWR).map_err(error)?,
        };
        let found = Found::of(&fd).map_err(error)?;
        let id = found.id();
        self.hold(id, Hold { access: Access::ReadWrite, sharing: Sharing::Exclusive }, path)?;
        lock::take(&fd, lock::ImageLock::new(true, false))
            .map_err(|error| lock_refusal(path, &fd, &error))?;
        let mode = found.mode & 0o777;
        let back = owner.map(|_| Undo::Owner { path: path.to_owned(), id, mode });
        if there.is_none() {
            let file = fd.try_clone().map_err(error)?;
            let path = path.to_owned();
            self.out.logs.push(NewLog {
                directory,
                name,
                path,
                file,
                replaces: false,
                named: back.into_iter().collect(),
            });
        } else if let Some(back) = back {
            self.intent(back)?;
            self.sync()?;
        }
        if let Some(uid) = owner {
            fchown(&fd, Some(uid), Some(uid)).map_err(error)?;
        }
        self.keep(slot, fd)?;
        Ok(id)
    }

    /// Variables are those of one domain, by their name or by the mark that they got when they were made: a client may
    /// name any file of the directory.
    fn check_owner(&self, fd: &OwnedFd, path: &str) -> Result<(), Refusal> {
        let uuid = self.domain.uuid;
        let owned = owned_by(fd, path, uuid);
        if owned.map_err(|error| kernel("read the owner of", path, &error, "look at its file system"))? {
            return Ok(());
        }
        let rule = "neither its name nor its mark says that it is this domain's";
        let remedy = format!(
            "leave <nvram> empty; if the file is meant for this domain alone: setfattr -n {OWNER} -v {uuid} {path}"
        );
        Err(Refusal::new(Layer::Policy, "open the UEFI variables", path, rule, remedy))
    }

    fn mark_owner(&self, fd: &OwnedFd, path: &str) -> Result<(), Refusal> {
        let uuid = self.domain.uuid;
        if named_for(path) == Some(uuid) {
            return Ok(());
        }
        let remedy = "leave <nvram> empty, or let images.nvram lie on a file system with extended attributes";
        xattr::set_owner(fd, &uuid.to_string())
            .map_err(|error| kernel("mark the owner of", path, &error, remedy))
    }

    /// A new file with what the template holds.
    fn copied(&self, directory: &OwnedFd, path: &str, template: &Slot) -> Result<OwnedFd, Refusal> {
        let Some(template) = self.out.slots.get(template) else {
            return Err(Refusal::new(
                Layer::Policy,
                "copy UEFI variables to",
                path,
                "the template is not open",
                "",
            ));
        };
        let error = |error: io::Error| {
            kernel(
                "copy UEFI variables to",
                path,
                &error,
                "see that images.nvram has room and can be written",
            )
        };
        let from = File::from(template.try_clone().map_err(error)?);
        let size = from.metadata().map_err(error)?.len();
        if size == 0 || size > SIZE_MAX {
            let rule = format!("a template has at most {SIZE_MAX} bytes, and this one has {size}");
            return Err(Refusal::new(
                Layer::Policy,
                "copy UEFI variables to",
                path,
                rule,
                "name another template",
            ));
        }
        let to = File::from(path::nameless(directory, 0o600, OFlags::RDWR).map_err(error)?);
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < size {
            let length = from.read_at(&mut buffer, at).map_err(error)?;
            if length == 0 {
                break;
            }
            to.write_all_at(buffer.get(..length).unwrap_or_default(), at).map_err(error)?;
            at += length as u64;
        }
        to.sync_all().map_err(error)?;
        Ok(to.into())
    }
}

/// Whether UEFI variables are this domain's.
pub(in crate::labeller) fn owned_by(fd: &OwnedFd, path: &str, uuid: DomainUuid) -> io::Result<bool> {
    match named_for(path) {
        Some(owner) => Ok(owner == uuid),
        None => Ok(xattr::owner(fd)?.is_some_and(|owner| owner == uuid.to_string())),
    }
}

/// The file that is there: root's alone, under this one name.
fn existing(directory: &OwnedFd, name: &str, path: &str, found: &Found) -> Result<OwnedFd, Refusal> {
    let refuse =
        |rule: &str| Err(Refusal::new(Layer::Policy, "open", path, rule, "remove it, or name another file"));
    if !found.is(libc::S_IFREG) || found.links > 1 || found.uid != 0 {
        return refuse("is not a regular file of root with one name");
    }
    let error = |error: io::Error| kernel("open", path, &error, "look at its mode");
    let fd = path::open_in(directory, name.as_ref(), OFlags::RDWR).map_err(error)?;
    if Found::of(&fd).map_err(error)?.id() != found.id() {
        return refuse("it was replaced meanwhile");
    }
    Ok(fd)
}
