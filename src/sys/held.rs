//! Names in a root directory that somebody else made, looked up with rights that this somebody has not.
//!
//! A name may lead anywhere there: to a device that reacts to being opened, a FIFO, a socket of the host. So it is
//! first held without being opened, through no link of any kind; and what is held is opened only if it is what was
//! meant. `proc` is a procfs of the caller's own, opened before it went there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags};

/// Holds what a name leads to; a link on the way, or something else than `wanted`, is [`io::ErrorKind::Unsupported`].
pub fn hold(path: &str, wanted: FileType) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let other = |what| io::Error::new(io::ErrorKind::Unsupported, what);
    match fs::openat2(CWD, path, flags, Mode::empty(), how) {
        Ok(held) if FileType::from_raw_mode(fs::fstat(&held)?.st_mode) == wanted => Ok(held),
        Ok(_) => Err(other("the name holds another kind of object")),
        Err(rustix::io::Errno::LOOP) => Err(other("the name leads through a link")),
        Err(error) => Err(error.into()),
    }
}

/// Opens what is held, and no name.
fn open_held(proc: BorrowedFd<'_>, held: &OwnedFd, flags: OFlags) -> io::Result<OwnedFd> {
    let name = format!("thread-self/fd/{}", held.as_raw_fd());
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(fs::openat(proc, name, flags, Mode::empty())?)
}

/// Opens what is held for reading, with the rights that the caller has by now and no directory in the way.
pub fn open_again(proc: BorrowedFd<'_>, held: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let name = format!("thread-self/fd/{}", held.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(fs::openat(proc, name, flags, Mode::empty())?)
}

/// Opens a regular file.
pub fn regular(proc: BorrowedFd<'_>, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    open_held(proc, &hold(path, FileType::RegularFile)?, flags)
}

/// Opens the block device of this number for reading, and no other.
pub fn block_device(proc: BorrowedFd<'_>, path: &str, number: u64) -> io::Result<OwnedFd> {
    let held = hold(path, FileType::BlockDevice)?;
    if fs::fstat(&held)?.st_rdev != number {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the name holds another device"));
    }
    open_held(proc, &held, OFlags::RDONLY)
}

/// Makes a file in a directory and removes it.
pub fn make_file(directory: &str, name: &str) -> io::Result<()> {
    let directory = hold(directory, FileType::Directory)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(&directory, name, flags, Mode::from_raw_mode(0o600))?;
    Ok(fs::unlinkat(&directory, name, fs::AtFlags::empty())?)
}

/// Connects to a socket. Leaves the working directory in `proc`.
pub fn connect(proc: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let held = hold(path, FileType::Socket)?;
    rustix::process::fchdir(proc)?;
    UnixStream::connect(format!("thread-self/fd/{}", held.as_fd().as_raw_fd())).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_what_was_meant_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let proc = std::fs::File::open("/proc").unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("file"), "x").unwrap();
        symlink("file", at("link")).unwrap();
        symlink(".", at("up")).unwrap();
        nix::unistd::mkfifo(at("fifo").as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(regular(proc.as_fd(), &at("file"), OFlags::RDONLY).is_ok());
        for name in ["link", "up/file", "fifo"] {
            let error = regular(proc.as_fd(), &at(name), OFlags::RDONLY).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{name}: {error}");
        }
        for device in ["/dev/null", "/proc/self/exe"] {
            assert_eq!(
                regular(proc.as_fd(), device, OFlags::RDONLY).unwrap_err().kind(),
                io::ErrorKind::Unsupported
            );
        }
        let absent = regular(proc.as_fd(), &at("absent"), OFlags::RDONLY).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        assert!(block_device(proc.as_fd(), &at("file"), 0).is_err());
        make_file(&at(""), "made").unwrap();
        assert!(!dir.path().join("made").exists());
        assert!(make_file(&at("up"), "made").is_err());
    }
}
