//! Changing this thread's own security context without an exec.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};

/// Takes on a context at once (the kernel's `attr/current`; SELinux asks for `dyntransition` and `setcurrent`).
///
/// `proc` is a procfs opened before the caller went where there is none: `thread-self` in it still names the caller.
pub fn take_on(proc: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, "thread-self/attr/current", flags, Mode::empty())?;
    rustix::io::write(file.as_fd(), label.as_bytes())?;
    Ok(())
}
