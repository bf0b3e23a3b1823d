//! One client's socket. The kernel wakes the daemon when there is something to read; that there is room to write again
//! it tells only while something waits for that, for each answer that a client takes would be one more wake-up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{SendFlags, Shutdown};

use crate::sys::handed::Handed;
use crate::sys::scm;
use crate::sys::watched::Watched;

/// The most bytes of one reading.
const CHUNK: usize = 16 << 10;

/// A client's socket.
#[derive(Debug)]
pub(super) struct Socket(Watched);

/// What came with bytes.
#[derive(Debug)]
pub(super) enum Brought {
    /// No descriptor.
    Nothing,
    /// One that there is no room for.
    Lost,
    /// This one.
    One(Handed),
}

/// The one who writes what could not be sent at once.
#[derive(Debug)]
pub(super) struct Writer(Arc<Socket>);

impl Socket {
    /// Takes a socket that does not block.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self(Watched::readable(stream.into())?))
    }

    /// Reads what is there, and a descriptor that comes with it where `room` has room for one; others the kernel drops. 0 is
    /// the end. What is read into is on the stack, so that an idle client costs none.
    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        room: impl Fn() -> Option<Handed>,
        take: impl FnOnce(&[u8], Brought),
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_readable(context))?;
            let mut chunk = [0; CHUNK];
            let room = room();
            match scm::receive(self.0.as_fd(), &mut chunk, usize::from(room.is_some())) {
                Ok(received) => {
                    let count = received.bytes;
                    // Less than there was room for is all that there was, unless a message with descriptors ended it:
                    // what comes later is told anew.
                    if count < CHUNK && received.fds.is_empty() && !received.cut {
                        ready.clear_ready();
                    }
                    let brought = match room.zip(received.fds.into_iter().next()) {
                        Some((room, fd)) => Brought::One(room.with(fd)),
                        None if received.cut => Brought::Lost,
                        None => Brought::Nothing,
                    };
                    take(chunk.get(..count).unwrap_or_default(), brought);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes what is taken at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }
}

/// Writes what is taken at once, with a descriptor where there is one.
fn send(socket: &Socket, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    match fd {
        Some(fd) => scm::send(socket.0.as_fd(), bytes, &[fd]),
        None => socket.try_write(bytes),
    }
}

impl Writer {
    /// Writes to this socket.
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self(socket)
    }

    /// Writes some of the bytes, once there is room. A descriptor goes with the first of them.
    pub(super) async fn write(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        // Of one descriptor only one thing can be waited for; another one of the same socket stands for the other.
        let mut room = None;
        loop {
            match send(&self.0, bytes, fd) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                done => return done,
            }
            let waited = match &mut room {
                Some(room) => room,
                None => {
                    let other = rustix::io::fcntl_dupfd_cloexec(&self.0.0, 0)?;
                    room.insert(Watched::writable(other)?)
                }
            };
            waited.room().await?.clear_ready();
        }
    }

    /// Says that nothing comes any more.
    pub(super) fn finish(&self) {
        // Whoever has gone need not be told.
        let _ = rustix::net::shutdown(&self.0.0, Shutdown::Write);
    }
}
