//! One process's directory in procfs, held open so that a reused pid is never read by mistake.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Stat};

/// The most bytes that are read of one procfs file; a target may make its mount table long.
const FILE_MAX: u64 = 4 << 20;
/// The most entries that are listed of one procfs directory.
const ENTRIES_MAX: usize = 65_536;

/// `/proc/PID`, opened. Reads fail with `ESRCH` once the process is gone.
#[derive(Debug)]
pub struct ProcDir {
    directory: OwnedFd,
}

impl ProcDir {
    /// Opens the directory of a process.
    pub fn open(pid: i32) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
        Ok(Self { directory })
    }

    /// Reads a file below the directory, at most 4 MiB; bytes that are no UTF-8 are replaced.
    pub fn read(&self, name: impl AsRef<Path>) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.directory, name.as_ref(), flags, Mode::empty())?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(FILE_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads a symbolic link below the directory without following it.
    pub fn link(&self, name: impl AsRef<Path>) -> io::Result<String> {
        let target = rustix::fs::readlinkat(&self.directory, name.as_ref(), Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).to_string_lossy().into_owned())
    }

    /// Follows a magic link below the directory and tells what it leads to.
    pub fn stat(&self, name: impl AsRef<Path>) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.directory, name.as_ref(), AtFlags::empty())?)
    }

    /// Names in a directory below, such as `fd` or `task`, sorted as numbers where they are.
    pub fn list(&self, name: &str) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, name, flags, Mode::empty())?;
        let mut names: Vec<String> = Dir::read_from(directory.as_fd())?
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != "." && name != "..")
            .take(ENTRIES_MAX)
            .collect();
        names.sort_by_key(|name| (name.parse::<u64>().unwrap_or(u64::MAX), name.clone()));
        Ok(names)
    }
}
