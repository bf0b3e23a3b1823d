//! Memory that several guests share: the region that other domains use already, or a new one of zeros.
//!
//! It is a file that everybody could open in a directory that nobody but root can enter, so only a mount of it leads
//! to it. It goes with the last domain that uses it: what is found and nobody uses was left by a crash, and no later
//! domain gets to see what is in it.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;

use rustix::fs::{Dir, FallocateFlags, OFlags};

use super::{Apply, kernel};
use crate::base::{Layer, Refusal, Slot};
use crate::labeller::journal::Undo;
use crate::labeller::lease::Hold;
use crate::labeller::places::DirectoryUse;
use crate::privsep::op::{Access, Sharing};
use crate::sys::path::{self, Found};
use crate::sys::xattr;

impl Apply<'_> {
    pub(super) fn open_shmem(
        &mut self,
        slot: &Slot,
        name: &str,
        size: u64,
        label: Option<&str>,
    ) -> Result<(), Refusal> {
        let place = self.settings.shmem.place.trim_end_matches('/').to_owned();
        let path = format!("{place}/{name}");
        let error = |error: io::Error| {
            kernel("make the shared memory", &path, &error, "see that shmem.place has room")
        };
        self.places.shmem_is_roots()?;
        DirBuilder::new().recursive(true).mode(0o700).create(&place).map_err(error)?;
        let (directory, name) = self.places.directory_of(&path, DirectoryUse::Shmem)?;
        if Found::of(&directory).map_err(error)?.mode & 0o077 != 0 {
            let rule = "others than root may enter its directory, and so open it";
            return Err(Refusal::new(
                Layer::Policy,
                "make the shared memory",
                &*path,
                rule,
                format!("chmod 700 {place}"),
            ));
        }
        let fd = match path::look(&directory, name.as_ref()) {
            Ok(found) if self.leases.is_used(found.id()) => {
                let fd = joined(&directory, &name, &path, (size, label))?;
                let id = Found::of(&fd).map_err(error)?.id();
                self.intent(Undo::Shmem { path: path.clone(), id })?;
                fd
            }
            Ok(left) => {
                path::unlink_if(&directory, name.as_ref(), left.id()).map_err(error)?;
                self.new_shmem(&directory, &name, &path, (size, label))?
            }
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                self.new_shmem(&directory, &name, &path, (size, label))?
            }
            Err(other) => return Err(error(other)),
        };
        let id = Found::of(&fd).map_err(error)?.id();
        self.hold(id, Hold { access: Access::ReadWrite, sharing: Sharing::Writers }, &path)?;
        self.keep(slot, fd)
    }

    /// Refuses a region for which `shmem.total` has no room. What nobody has a lease on is removed when its name is used.
    fn has_room(&self, directory: &OwnedFd, path: &str, size: u64) -> Result<(), Refusal> {
        let limits = &self.settings.shmem;
        let taken = taken(directory, limits.size, |id| self.leases.is_used(id))
            .map_err(|error| kernel("count the shared memory", path, &error, "look at its directory"))?;
        if taken.saturating_add(size) <= limits.total {
            return Ok(());
        }
        let rule = format!("shmem.total is {} bytes, of which other regions have {taken}", limits.total);
        let remedy = "stop the domains of another region, or raise total in [shmem]";
        Err(Refusal::new(Layer::Configuration, "make the shared memory", path, rule, remedy))
    }

    fn new_shmem(
        &mut self,
        directory: &OwnedFd,
        name: &str,
        path: &str,
        (size, label): (u64, Option<&str>),
    ) -> Result<OwnedFd, Refusal> {
        let error = |error: io::Error| {
            kernel("make the shared memory", path, &error, "see that shmem.place has room for all of it")
        };
        let fd = path::nameless(directory, 0o666, OFlags::RDWR).map_err(error)?;
        self.has_room(directory, path, size)?;
        // All of it now: a guest that finds no room later would be killed where it stands.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, size).map_err(|e| error(e.into()))?;
        // Before anybody can find it. Nothing puts it back: the file goes with its last domain.
        if label.is_some() {
            xattr::set_selinux_label(&fd, label).map_err(|error| unlabelled(path, &error))?;
        }
        let id = Found::of(&fd).map_err(error)?.id();
        self.intent(Undo::Shmem { path: path.to_owned(), id })?;
        self.sync()?;
        path::link(&fd, directory, name.as_ref()).map_err(error)?;
        // Only what was opened by a name can be mounted (ENOENT: d_set_mounted wants no unlinked root).
        joined(directory, name, path, (size, label))
    }
}

/// Bytes of the regions in a directory that `counts`, each of at most `most`.
fn taken(directory: &OwnedFd, most: u64, counts: impl Fn((u64, u64)) -> bool) -> io::Result<u64> {
    let readable = path::reopen(directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut taken: u64 = 0;
    for entry in Dir::read_from(&readable)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name == "." || name == ".." {
            continue;
        }
        match path::look(directory, &name) {
            // Its domains can make it larger: with that they must not keep others from theirs.
            Ok(found) if counts(found.id()) => taken = taken.saturating_add(found.size.min(most)),
            Ok(_) => {}
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// The region that another domain uses, of the same size and with the same label.
fn joined(
    directory: &OwnedFd,
    name: &str,
    path: &str,
    (size, label): (u64, Option<&str>),
) -> Result<OwnedFd, Refusal> {
    let error = |error: io::Error| kernel("open the shared memory", path, &error, "look at its directory");
    let fd = path::open_in(directory, name.as_ref(), OFlags::RDWR).map_err(error)?;
    let found = Found::of(&fd).map_err(error)?;
    if !found.is(libc::S_IFREG) || found.uid != 0 || found.links != 1 {
        let rule = "is no file of root with one name";
        return Err(Refusal::new(Layer::Policy, "open the shared memory", path, rule, "remove it"));
    }
    if found.size != size {
        let rule =
            format!("the domains that use it gave it {} bytes, and this one asks for {size}", found.size);
        let remedy = "write the same <size> in all of their definitions";
        return Err(Refusal::new(Layer::Lease, "open the shared memory", path, rule, remedy));
    }
    if label.is_some() {
        let now = xattr::selinux_label(&fd).map_err(|error| unlabelled(path, &error))?;
        if now.as_deref() != label {
            let rule = format!("somebody else gave it the label {}", now.as_deref().unwrap_or("of nothing"));
            let remedy = "stop the domains that use it, so that it is made anew";
            return Err(Refusal::new(Layer::Selinux, "open the shared memory", path, rule, remedy));
        }
    }
    Ok(fd)
}

fn unlabelled(path: &str, error: &io::Error) -> Refusal {
    let remedy = "load svirt's policy module, and mount a file system of shmem.place with rootcontext=system_u:object_r:svirt_shmem_store_t:s0";
    Refusal::new(Layer::Selinux, "label the shared memory", path, error.to_string(), remedy)
}
