//! Processes by descriptor: a pid can be reused, a pidfd cannot.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// What identifies a process over restarts of svirt within one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: start time in clock ticks since boot.
    pub start: u64,
}

impl ProcessId {
    /// Reads the identity of a process that is held by a pidfd or is our own child.
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in field 2 may hold spaces and parentheses, so count from the last one.
        let after = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let start = after.split_whitespace().nth(19).and_then(|field| field.parse().ok());
        start.map(|start| Self { pid, start }).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// A pidfd of exactly this process, or `None` if it is gone (a zombie counts as gone).
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let fd = match open(self.pid) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The pidfd pins whichever process has the pid now; its start time says whether it is ours.
        match Self::of(self.pid) {
            Ok(now) if now == self && !has_ended(&fd)? => Ok(Some(fd)),
            _ => Ok(None),
        }
    }
}

/// A pidfd of whatever process has this pid now.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process has ended.
pub fn has_ended(fd: impl AsFd) -> io::Result<bool> {
    let mut polled = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
    Ok(nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO)? > 0)
}

/// Waits until the process has ended; `false` after the given time.
pub fn wait_ended(fd: impl AsFd, milliseconds: u16) -> io::Result<bool> {
    let mut polled = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLIN)];
    Ok(nix::poll::poll(&mut polled, milliseconds)? > 0)
}

/// Kills the process; one that is gone already counts as killed.
pub fn kill(fd: impl AsFd) -> io::Result<()> {
    match pidfd_send_signal(fd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited.
    Code(i32),
    /// A signal killed it.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(number) {
                Ok(signal) => write!(f, "was killed by {signal}"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
        }
    }
}

/// Reaps a child that has ended; `None` if it runs on or is nobody's child here.
#[must_use]
pub fn reap(fd: impl AsFd) -> Option<Exit> {
    let status = waitid(WaitId::PidFd(fd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok()??;
    status.exit_status().map(Exit::Code).or_else(|| status.terminating_signal().map(Exit::Signal))
}

/// Reaps every child of this thread that nobody waits for by name. `known` are left alone.
pub fn reap_orphans(known: &dyn Fn(i32) -> bool) {
    // Only kernels without CONFIG_PROC_CHILDREN have no such file.
    let Ok(children) = std::fs::read_to_string("/proc/thread-self/children") else {
        return reap_peeked(known);
    };
    for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| !known(*pid)) {
        let Some(pid) = Pid::from_raw(pid) else { continue };
        // One that runs on is no error, and one that is gone was somebody's.
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

fn reap_peeked(known: &dyn Fn(i32) -> bool) {
    while let Ok(Some(status)) = peek() {
        if known(status) {
            // Its owner reaps it; `peek` would show the same one again, so leave the rest for the next time.
            return;
        }
        let Some(pid) = Pid::from_raw(status) else { return };
        if waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).is_err() {
            return;
        }
    }
}

fn peek() -> io::Result<Option<i32>> {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::All, flags) {
        Ok(WaitStatus::StillAlive) => Ok(None),
        Ok(status) => Ok(status.pid().map(nix::unistd::Pid::as_raw)),
        Err(error) => Err(error.into()),
    }
}

/// A copy of another process's descriptor (`pidfd_getfd`); needs the right to trace it.
pub fn copy_descriptor(process: impl AsFd, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the pidfd is open for the whole call and no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_fd().as_raw_fd(), number, 0) };
    let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The boot that this kernel is in.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Pids of all processes with this uid in any of its four roles; one that has ended and is not reaped does not count.
pub fn of_uid(uid: u32) -> io::Result<Vec<i32>> {
    use std::os::unix::fs::MetadataExt;
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that is not dumpable has /proc/PID owned by root, so the status is read instead.
        let Ok(text) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let owner = entry.metadata().map(|found| found.uid()).unwrap_or(0);
        if text.lines().any(|line| line.starts_with("State:\tZ")) {
            continue;
        }
        let line = text.lines().find(|line| line.starts_with("Uid:")).unwrap_or("");
        let matches = line.split_whitespace().skip(1).any(|field| field.parse() == Ok(uid));
        if matches || owner == uid {
            pids.push(pid);
        }
    }
    Ok(pids)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::process;

    #[test]
    fn a_known_child_that_has_ended_hides_no_orphan() {
        let known = process::fork(|| 0).unwrap();
        let orphans = [process::fork(|| 0).unwrap(), process::fork(|| 0).unwrap()];
        for child in orphans.iter().chain([&known]) {
            while !wait_ended(&child.pidfd, 60_000).unwrap() {}
        }
        reap_orphans(&|pid| pid == known.pid);
        assert_eq!(reap(&known.pidfd), Some(Exit::Code(0)), "its owner reaps it");
        for orphan in &orphans {
            assert_eq!(reap(&orphan.pidfd), None, "nothing is left to reap");
        }
    }
}
