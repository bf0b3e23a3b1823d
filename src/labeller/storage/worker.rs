//! A process that does the work on what a volume holds: it looks at bytes that guests and clients wrote, and takes as
//! long as a disk does, so it has the files of one piece of work and nothing else (`sys::carrier`).

use std::io;
use std::os::fd::BorrowedFd;

use crate::privsep::contents::{DATA_MAX, HEAD, Why};
use crate::sys::carrier::{self, Work};
use crate::sys::pidfd::{self, Exit};
use crate::sys::process::{self, Child};

/// Exit code of what is said in another way.
const OTHER: u8 = 100;

/// The process. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::labeller) struct Worker {
    child: Child,
}

/// Under which confinement it works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Its uid.
    pub(super) uid: u32,
    /// The longest file that it may make, in bytes.
    pub(super) longest: u64,
}

/// Room for a frame, made before allocating becomes impossible.
pub(super) type Buffer = [u8];

impl Worker {
    /// Begins: `work` has these descriptors and a buffer, and may not allocate. An error of it is the process's exit code.
    pub(super) fn begin<E: Into<u8>>(
        bounds: Bounds,
        kept: &[BorrowedFd<'_>],
        work: impl FnOnce(&mut Buffer) -> Result<(), E>,
    ) -> io::Result<Self> {
        let parent = process::own_pid();
        let child = process::fork(|| {
            let mut buffer = vec![0; HEAD + DATA_MAX];
            let confined = carrier::confine(Work::VOLUME, kept, (bounds.uid, bounds.longest), parent);
            let done = confined.map_err(code).and_then(|()| work(&mut buffer).map_err(Into::into));
            done.map_or_else(i32::from, |()| 0)
        })?;
        Ok(Self { child })
    }

    /// What to poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.child.pidfd)
    }

    /// Its number.
    pub(in crate::labeller) fn pid(&self) -> i32 {
        self.child.pid
    }

    /// How it ended, where it has: with its code, or killed.
    pub(super) fn ended(&self) -> Option<Option<u8>> {
        if !pidfd::has_ended(&self.child.pidfd).unwrap_or(true) {
            return None;
        }
        Some(match pidfd::reap(&self.child.pidfd) {
            Some(Exit::Code(code)) => u8::try_from(code).ok(),
            _ => None,
        })
    }
}

impl Drop for Worker {
    /// It is reaped with the orphans.
    fn drop(&mut self) {
        if let Err(error) = pidfd::kill(&self.child.pidfd) {
            tracing::error!(pid = self.child.pid, %error, "cannot end who works on a volume");
        }
    }
}

/// The kernel's error as an exit code.
pub(super) fn code(error: io::Error) -> u8 {
    match Why::from(error) {
        Why::Kernel(code) => {
            u8::try_from(code).ok().filter(|code| (1..OTHER).contains(code)).unwrap_or(OTHER)
        }
        _ => OTHER,
    }
}
