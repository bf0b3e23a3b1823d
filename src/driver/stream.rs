//! Speaking over a unix stream to somebody who may be stopped, or hostile: everything ends by a given time, with
//! `TimedOut`.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::sys::{listen, scm};

/// How often one with too many waiting connections is tried again.
const AGAIN: Duration = Duration::from_millis(20);

/// Connects. Whoever takes no connections lets them pile up, and then the kernel would make callers wait for good.
pub(super) fn connect(path: &str, until: Instant) -> io::Result<UnixStream> {
    loop {
        match listen::connect(path) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(AGAIN.min(left(until)?));
            }
            Ok(stream) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes everything; without `until` it may take for good.
pub(super) fn write(mut stream: &UnixStream, mut bytes: &[u8], until: Option<Instant>) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(until.map(left).transpose()?)?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(error) if is_again(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is there next; 0 is the end.
pub(super) fn read(mut stream: &UnixStream, buffer: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
    loop {
        stream.set_read_timeout(until.map(left).transpose()?)?;
        match stream.read(buffer) {
            Err(error) if is_again(&error) => {}
            other => return other,
        }
    }
}

/// The same, with the descriptors that come along.
pub(super) fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    until: Option<Instant>,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    loop {
        stream.set_read_timeout(until.map(left).transpose()?)?;
        match scm::recv(stream.as_fd(), buffer) {
            Err(error) if is_again(&error) => {}
            other => return other,
        }
    }
}

/// What is left of the time, which is an error once nothing is.
pub(super) fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A timeout is for [`left`] to tell.
pub(super) fn is_again(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
