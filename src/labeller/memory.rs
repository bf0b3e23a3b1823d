//! The attributes of `remember`, read and written through a descriptor under libvirt's own lock.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use super::fault;
use super::remember::{Attributes, Back, Memory};
use crate::sys::xattr::{self, Remembered};
use crate::sys::{boot, lock};

/// How often the lock is asked for, and how long each time: libvirt holds it while it labels one file.
const TRIES: usize = 50;
const WAIT: Duration = Duration::from_millis(10);

/// When the host booted; 0 where it cannot be told, which no record matches.
fn booted() -> u64 {
    static BOOTED: OnceLock<u64> = OnceLock::new();
    *BOOTED.get_or_init(|| boot::time().unwrap_or(0))
}

fn read(fd: impl AsFd) -> io::Result<Attributes> {
    let fd = fd.as_fd();
    Ok(Attributes {
        label: xattr::remembered(fd, Remembered::Label)?,
        count: xattr::remembered(fd, Remembered::Count)?,
        boot: xattr::remembered(fd, Remembered::Boot)?,
        mark: xattr::remembered(fd, Remembered::Mark)?,
    })
}

/// What stands on an object.
pub(super) fn look(fd: impl AsFd) -> io::Result<Memory> {
    Ok(read(fd)?.read(booted()))
}

/// Counts svirt in as a user of an object whose label is `now`. Where the file system or a container keeps no
/// such attributes, the journal is the only memory.
pub(super) fn take(fd: impl AsFd, now: Option<&str>) -> io::Result<()> {
    let _lock = locked(fd.as_fd())?;
    let found = read(fd.as_fd())?;
    let new = found.take(booted(), now);
    if new == found {
        return Ok(());
    }
    let set = |which, value: &Option<String>| xattr::set_remembered(fd.as_fd(), which, value.as_deref());
    // The count is what makes the rest count.
    let written = set(Remembered::Label, &new.label)
        .and_then(|()| set(Remembered::Boot, &new.boot))
        .and_then(|()| set(Remembered::Count, &new.count));
    match written {
        Err(error) if is_unsupported(&error) => return Ok(()),
        other => other?,
    }
    fault::step("counted").map_err(|refusal| io::Error::other(refusal.to_string()))?;
    set(Remembered::Mark, &new.mark)
}

/// Takes svirt out of the users; `restore` puts a label back while the lock is held, if svirt was the last one.
/// What the object tells of its first label goes before what the journal does.
pub(super) fn give_back(
    fd: impl AsFd,
    alone: bool,
    restore: impl FnOnce(Option<Option<String>>) -> io::Result<()>,
) -> io::Result<()> {
    let _lock = locked(fd.as_fd())?;
    let found = read(fd.as_fd())?;
    let (new, back) = found.give_back(booted(), alone);
    if let Back::Restore(label) = back {
        restore(label)?;
    }
    if new == found {
        return Ok(());
    }
    let set = |which, value: &Option<String>| xattr::set_remembered(fd.as_fd(), which, value.as_deref());
    if new.count.is_some() {
        set(Remembered::Mark, &new.mark)?;
        fault::undo_step("mark");
        return set(Remembered::Count, &new.count);
    }
    set(Remembered::Count, &None)?;
    fault::undo_step("count");
    set(Remembered::Boot, &None)?;
    set(Remembered::Label, &None)?;
    set(Remembered::Mark, &None)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM))
}

/// libvirt's lock around the attributes; `None` where the object cannot be opened for writing, and so not locked.
fn locked(fd: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut tries = 0;
    loop {
        match lock::metadata(fd.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES => {
                tries += 1;
                std::thread::sleep(WAIT);
            }
            other => return other,
        }
    }
}
