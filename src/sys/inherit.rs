//! Descriptors that a process was started with, under numbers that its launcher chose.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Numbers that were claimed already; each may have one owner only.
static CLAIMED: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes ownership of an inherited descriptor and makes it close-on-exec.
///
/// Each number can be claimed once, and only in a process that has opened nothing itself before: call it first of all.
pub fn claim(number: RawFd) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut claimed = CLAIMED.lock().map_err(|_| io::ErrorKind::Other)?;
    if claimed.contains(&number) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // SAFETY: F_SETFD takes no memory; a number that is not open gives EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    claimed.push(number);
    // SAFETY: the descriptor is open, came from the launcher, and `CLAIMED` lets nobody wrap it twice; the caller
    // upholds that this process had opened nothing under that number itself.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
