//! QEMU's image locks, taken from outside of QEMU: open-file-description locks at its bytes.
//!
//! QEMU, qemu-img and svirt agree on these bytes (block/file-posix.c: `RAW_LOCK_PERM_BASE` 100 and
//! `RAW_LOCK_SHARED_BASE` 200, one byte for each block permission). A user of a permission read-locks byte
//! 100+n; who does not let others have it read-locks 200+n; each then looks whether the other's byte is held.
//! The lock belongs to the description: it lives as long as any copy of the descriptor does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};

/// `BLK_PERM_CONSISTENT_READ`, `BLK_PERM_WRITE`, `BLK_PERM_WRITE_UNCHANGED`, `BLK_PERM_RESIZE`.
const PERM_BITS: i64 = 4;
const PERM_BASE: i64 = 100;
const SHARED_BASE: i64 = 200;
const READ: u8 = 0b0001;
const ALL: u8 = 0b1111;
/// Writing and resizing, the two that a lone writer or a reader of stable data keeps from others.
const CHANGING: u8 = 0b1010;

/// What is held, and what is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLock {
    /// Permissions in use.
    used: u8,
    /// Permissions that nobody else may have.
    unshared: u8,
}

impl ImageLock {
    /// The lock of an image that is opened in this way.
    #[must_use]
    pub fn new(writes: bool, others_write: bool) -> Self {
        Self { used: if writes { ALL } else { READ }, unshared: if others_write { 0 } else { CHANGING } }
    }

    fn own_bytes(self) -> impl Iterator<Item = i64> {
        bits(self.used).map(|n| PERM_BASE + n).chain(bits(self.unshared).map(|n| SHARED_BASE + n))
    }

    fn counterparts(self) -> impl Iterator<Item = i64> {
        bits(self.used).map(|n| SHARED_BASE + n).chain(bits(self.unshared).map(|n| PERM_BASE + n))
    }
}

fn bits(set: u8) -> impl Iterator<Item = i64> {
    (0..PERM_BITS).filter(move |n| set >> n & 1 == 1)
}

fn one_byte(kind: i32, start: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or(0),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or(0),
        l_start: start,
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes the lock on this very description. `WouldBlock` means that another program uses the image.
pub fn take(fd: impl AsFd, lock: ImageLock) -> io::Result<()> {
    let fd = fd.as_fd();
    for byte in lock.own_bytes() {
        let range = one_byte(libc::F_RDLCK, byte);
        match fcntl(fd, FcntlArg::F_OFD_SETLK(&range)) {
            Ok(_) => {}
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => return Err(error.into()),
        }
    }
    for byte in lock.counterparts() {
        let mut range = one_byte(libc::F_WRLCK, byte);
        fcntl(fd, FcntlArg::F_OFD_GETLK(&mut range))?;
        if i32::from(range.l_type) != libc::F_UNLCK {
            return Err(io::ErrorKind::WouldBlock.into());
        }
    }
    Ok(())
}

/// Whether another description holds a lock of a user of the image: some program has it open, if only for reading.
pub fn used_elsewhere(fd: impl AsFd) -> io::Result<bool> {
    let mut range = one_byte(libc::F_WRLCK, PERM_BASE);
    range.l_len = SHARED_BASE + PERM_BITS - PERM_BASE;
    fcntl(fd.as_fd(), FcntlArg::F_OFD_GETLK(&mut range))?;
    Ok(i32::from(range.l_type) != libc::F_UNLCK)
}

/// libvirt's own lock of whoever changes labels: one byte that neither QEMU nor an image's data has to do with.
const METADATA_BYTE: i64 = 1;

/// Takes libvirt's lock on an object's labels, held as long as the descriptor; `None` where the object cannot be
/// opened for writing, which the lock needs. `WouldBlock` means that somebody changes them now.
pub fn metadata(fd: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let Ok(own) = super::path::reopen(fd, rustix::fs::OFlags::RDWR) else { return Ok(None) };
    match fcntl(own.as_fd(), FcntlArg::F_OFD_SETLK(&one_byte(libc::F_WRLCK, METADATA_BYTE))) {
        Ok(_) => Ok(Some(own)),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Err(io::ErrorKind::WouldBlock.into()),
        Err(error) => Err(error.into()),
    }
}

/// Takes a whole-file lock that ends with the process and its children's copies; `WouldBlock` if another holds it.
pub fn whole_file(fd: impl AsFd) -> io::Result<()> {
    rustix::fs::flock(fd, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    Ok(())
}

/// Pids that hold locks on an object, from `/proc/locks`; descriptions' locks have none there, so this may be empty.
#[must_use]
pub fn holders(fd: impl AsFd) -> Vec<i32> {
    let Ok(found) = super::path::Found::of(&fd) else { return Vec::new() };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(text) = std::fs::read_to_string("/proc/locks") else { return Vec::new() };
    let mut pids: Vec<i32> = text
        .lines()
        .filter(|line| line.split(' ').any(|word| word.ends_with(&format!(":{}", found.inode))))
        .filter_map(|line| line.split_whitespace().nth(4)?.parse().ok())
        .filter(|pid| *pid > 0 && *pid != own)
        .collect();
    pids.dedup();
    pids
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_qemus() {
        let bytes = |w, o| ImageLock::new(w, o).own_bytes().collect::<Vec<_>>();
        assert_eq!(bytes(true, false), [100, 101, 102, 103, 201, 203]);
        assert_eq!(bytes(false, false), [100, 201, 203]);
        assert_eq!(bytes(true, true), [100, 101, 102, 103]);
        assert_eq!(bytes(false, true), [100]);
    }

    #[test]
    fn a_reader_is_seen_by_others_and_not_by_itself() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || std::fs::File::open(file.path()).unwrap();
        let (one, two) = (open(), open());
        assert!(!used_elsewhere(&two).unwrap());
        take(&one, ImageLock::new(false, false)).unwrap();
        assert!(used_elsewhere(&two).unwrap() && !used_elsewhere(&one).unwrap());
        drop(one);
        assert!(!used_elsewhere(&two).unwrap());
    }

    #[test]
    fn who_excludes_whom() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let works = |a: (bool, bool), b: (bool, bool)| {
            let open = || std::fs::OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
            let (one, two) = (open(), open());
            take(&one, ImageLock::new(a.0, a.1)).unwrap();
            take(&two, ImageLock::new(b.0, b.1)).is_ok()
        };
        assert!(!works((true, false), (true, false)));
        assert!(!works((true, false), (false, false)));
        assert!(!works((false, false), (true, false)));
        assert!(works((false, false), (false, false)));
        assert!(works((true, true), (true, true)));
        assert!(!works((true, true), (true, false)));
        assert!(!works((true, true), (false, false)));
        assert!(works((true, true), (false, true)));
    }

    #[test]
    fn a_copy_keeps_the_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || std::fs::OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
        let one = open();
        take(&one, ImageLock::new(true, false)).unwrap();
        let copy = one.try_clone().unwrap();
        drop(one);
        assert!(take(open(), ImageLock::new(true, false)).is_err());
        drop(copy);
        take(open(), ImageLock::new(true, false)).unwrap();
    }
}
