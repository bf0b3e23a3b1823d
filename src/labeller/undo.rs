//! Takes back what a start did, last first, exactly and as often as need be.
//!
//! Each step looks first whether what it is about to take back is still what svirt made: a label that somebody
//! changed meanwhile, or a file that is not the one that was labelled, is left alone and reported.

use std::io;

use rustix::fs::{Mode, OFlags};

use super::fault;
use super::journal::Undo;
use super::launcher::Launcher;
use super::lease::{Leases, ObjectId};
use super::{memory, profile};
use crate::base::DomainUuid;
use crate::sys::path::{self, Found, WalkError};
use crate::sys::{tap, xattr};

/// Takes everything back and says how much could not be. `ran` says whether the guest had run, so that its logs stay.
pub(super) fn all(
    uuid: DomainUuid,
    undos: &[Undo],
    ran: bool,
    leases: &mut Leases,
    launcher: &mut dyn Launcher,
) -> usize {
    rest(uuid, undos, ran, leases, launcher).len()
}

/// Takes everything back and gives what could not be, to be tried again.
pub(super) fn rest(
    uuid: DomainUuid,
    undos: &[Undo],
    ran: bool,
    leases: &mut Leases,
    launcher: &mut dyn Launcher,
) -> Vec<Undo> {
    let mut failed = Vec::new();
    for undo in undos.iter().rev() {
        fault::undo_step("undo");
        let done = match undo {
            Undo::Cgroup { directories } => {
                launcher.remove_cgroup(uuid, directories).map_err(|error| error.to_string())
            }
            Undo::Profile => profile::remove(uuid).map_err(|error| error.to_string()),
            Undo::Label { path, id, before, after, first } => {
                if leases.release_label(uuid, *id) {
                    let restored = restore_label(path, *id, before.as_deref(), after, *first);
                    if restored.is_err() {
                        // It is still on the object, and nobody else's to put back.
                        let _ = leases.label(uuid, *id, before.clone(), after, path);
                    }
                    restored
                } else {
                    Ok(())
                }
            }
            Undo::Owner { path, id, mode } => {
                restore_owner(path, *id, *mode).map_err(|error| error.to_string())
            }
            Undo::Shmem { id, .. } if leases.is_used_by_others(uuid, *id) => Ok(()),
            Undo::Shmem { path, id } => remove_name(path, Some(*id)).map_err(|error| error.to_string()),
            Undo::Name { keep_after_run: true, .. } if ran => Ok(()),
            Undo::Name { path, id, .. } => remove_name(path, Some(*id)).map_err(|error| error.to_string()),
            Undo::Swap { path, aside, new, old } => {
                swap_back(path, aside, *new, *old, ran).map_err(|error| error.to_string())
            }
            Undo::Plug { interface, index, bridge } => {
                tap::unplug(interface, bridge, *index).map_err(|error| error.to_string())
            }
            Undo::Socket { path } => remove_name(path, None).map_err(|error| error.to_string()),
        };
        if let Err(error) = done {
            tracing::error!(domain = %uuid, ?undo, error, "cannot undo");
            failed.push(undo.clone());
        }
    }
    // In the order of doing.
    failed.reverse();
    failed
}

/// Drops the files that new logs have taken the names of: the guest runs, and they are not needed again.
pub(super) fn drop_replaced(undos: &[Undo]) {
    for undo in undos {
        if let Undo::Swap { aside, old, .. } = undo
            && let Err(error) = remove_name(aside, Some(*old))
        {
            tracing::warn!(aside, %error, "cannot remove a log that was replaced");
        }
    }
}

/// Those files. Their domain holds them no longer: the file system may give their numbers to others at once.
pub(super) fn replaced(undos: &[Undo]) -> impl Iterator<Item = ObjectId> {
    undos.iter().filter_map(|undo| match undo {
        Undo::Swap { old, .. } => Some(*old),
        _ => None,
    })
}

/// Puts a label back on the very object that was labelled, if it still has the label that was set.
fn restore_label(
    path: &str,
    id: ObjectId,
    before: Option<&str>,
    after: &str,
    first: bool,
) -> Result<(), String> {
    let identity = |found: &Found| if found.is(libc::S_IFBLK) { (found.rdev, 0) } else { found.id() };
    // It is the identity that makes it the right one; the walk is for links, and to say what is wrong.
    let object = match path::find_known(path) {
        Ok((fd, found)) if identity(&found) == id => fd,
        _ => {
            let resolved = match path::resolve(path) {
                Ok(resolved) => resolved,
                Err(WalkError::Kernel(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(format!("{path} is gone: if it was moved, relabel it by hand to {before:?}"));
                }
                Err(error) => return Err(error.to_string()),
            };
            if identity(&resolved.found) != id {
                return Err(format!(
                    "{path} is another file now; the one that was labelled should have {before:?}"
                ));
            }
            resolved.fd
        }
    };
    let fd = path::reopen(&object, OFlags::RDONLY).map_err(|error| format!("{path}: {error}"))?;
    let restore = |remembered: Option<Option<String>>| {
        let current = xattr::selinux_label(&fd)?;
        let before = remembered.unwrap_or_else(|| before.map(str::to_owned));
        if current.as_deref() == Some(after) {
            return xattr::set_selinux_label(&fd, before.as_deref());
        }
        if current != before {
            tracing::warn!(path, ?current, "somebody changed this label meanwhile; it stays");
        }
        Ok(())
    };
    memory::give_back(&fd, first, restore).map_err(|error| format!("{path}: {error}"))
}

/// Gives a file back to root with the mode that it had; one that is gone or another by now is nobody's business.
fn restore_owner(path: &str, id: ObjectId, mode: u32) -> io::Result<()> {
    match path::resolve(path) {
        Ok(found) if found.found.id() == id => {
            let file = path::reopen(&found.fd, OFlags::RDONLY)?;
            // Closed while it changes hands: neither owner's mode is meant for the other's.
            rustix::fs::fchmod(&file, Mode::empty())?;
            std::os::unix::fs::fchown(&file, Some(0), Some(0))?;
            Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))?)
        }
        _ => Ok(()),
    }
}

/// Gives a file its name back, or drops it if the guest ran and the new one stays.
fn swap_back(path: &str, aside: &str, new: ObjectId, old: ObjectId, ran: bool) -> io::Result<()> {
    if ran {
        return remove_name(aside, Some(old));
    }
    let (Some((directory, name)), Some((_, hidden))) = (path.rsplit_once('/'), aside.rsplit_once('/')) else {
        return Ok(());
    };
    let directory = path::resolve(directory).map_err(io::Error::other)?.fd;
    let is = |name: &str, id| path::look(&directory, name.as_ref()).is_ok_and(|found| found.id() == id);
    if is(name, new) && is(hidden, old) {
        path::exchange(&directory, hidden.as_ref(), name.as_ref())?;
    }
    remove_name(aside, Some(new))
}

/// Removes a name that svirt made: the given file, or a socket.
fn remove_name(path: &str, id: Option<ObjectId>) -> io::Result<()> {
    let Some((directory, name)) = path.rsplit_once('/') else { return Ok(()) };
    let directory = match path::resolve(directory) {
        Ok(resolved) => resolved.fd,
        Err(WalkError::Kernel(_, error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io::Error::other(error)),
    };
    let found = match path::look(&directory, name.as_ref()) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let ours = id.map_or(found.is(libc::S_IFSOCK) && found.uid == 0, |id| found.id() == id);
    if ours {
        path::unlink_if(&directory, name.as_ref(), found.id())?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_file_comes_back_with_owner_and_mode() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state");
        std::fs::write(&file, "x").unwrap();
        let path = file.to_str().unwrap();
        let found = std::fs::metadata(&file).unwrap();
        std::os::unix::fs::chown(&file, Some(1_915_000_009), Some(1_915_000_009)).unwrap();
        // What the meanwhile owner may do.
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o6777)).unwrap();
        restore_owner(path, (found.dev(), found.ino()), 0o640).unwrap();
        let now = std::fs::metadata(&file).unwrap();
        assert_eq!((now.uid(), now.gid(), now.mode() & 0o7777), (0, 0, 0o640));
        restore_owner(path, (found.dev(), found.ino() + 1), 0o600).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o640, "another file is left alone");
    }
}
