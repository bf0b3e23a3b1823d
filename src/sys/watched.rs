//! A descriptor of which the runtime tells when it can be read, or when it can be written, and nothing else of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A descriptor that the current runtime watches.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Watches for something to read.
    pub fn readable(fd: OwnedFd) -> io::Result<Self> {
        Self::watch(fd, Interest::READABLE)
    }

    /// Watches for room to write.
    pub fn writable(fd: OwnedFd) -> io::Result<Self> {
        Self::watch(fd, Interest::WRITABLE)
    }

    fn watch(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: the descriptor is open, its only owner is what is made here, which gives nobody an exclusive
        // reference to it: it stays open, and the same one, for as long as it is watched.
        let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
        Ok(Self(watched?))
    }

    /// Ready once there may be something to read.
    pub fn poll_readable(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<AsyncFdReadyGuard<'_, OwnedFd>>> {
        self.0.poll_read_ready(context)
    }

    /// Waits until there may be room to write.
    pub async fn room(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.writable().await
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
