//! A domain's store of UEFI variables or of its TPM: the file that it has, or a new one.
//!
//! A new file has no name until the guest runs, so that a start that fails leaves nothing behind.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, fchown};

use rustix::fs::OFlags;

use super::{Apply, NewLog, kernel, lock_refusal};
use crate::base::{Layer, Refusal, Slot};
use crate::labeller::journal::Undo;
use crate::labeller::lease::{Hold, ObjectId};
use crate::labeller::places::DirectoryUse;
use crate::privsep::op::{Access, Sharing};
use crate::sys::lock;
use crate::sys::path::{self, Found};

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
            (Some(found), _) => existing(&directory, &name, path, found)?,
            (None, Some(template)) => self.copied(&directory, path, template)?,
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
