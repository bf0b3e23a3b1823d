//! What a device model writes, brought into a file by a process that does nothing else.
//!
//! ```text
//! QEMU ─pipe─▶ pump ─▶ file            QEMU has no descriptor of the file
//! labeller: "no more comes" ─▶ pump    it takes the rest, does what comes last, brings all of it to the disk, ends
//! ```
//!
//! The pump has the two pipes and the file, and nothing else of the labeller's, whose lock and sockets the next one needs,
//! and no capability; it ends with the labeller. It looks at no byte, and what does not fit ends it: the device model then finds the pipe
//! closed.

use std::fs::File;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::pipe::{SpliceFlags, splice};

use crate::base::{Layer, Refusal};
use crate::sys::cred;
use crate::sys::pidfd::{self, Exit};
use crate::sys::process::{self, Child};

use super::apply::kernel;

/// What is taken at once, in bytes, and the room of the pipe where the host allows as much.
const CHUNK: usize = 1 << 20;
/// EIO, for what has no number.
const IO: u8 = 5;

/// The process.
#[derive(Debug)]
pub(super) struct Pump {
    child: Child,
    /// It is told that no more comes, and says why it ends before QEMU can notice.
    control: UnixStream,
}

/// Where the bytes go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sink<'a> {
    /// Open for writing.
    pub(super) file: &'a File,
    /// Where the first one goes.
    pub(super) at: u64,
    /// The most of them.
    pub(super) most: u64,
}

impl Pump {
    /// Begins; what is given back is what the device model writes to. `last` is done with the end of what it wrote.
    pub(super) fn begin(
        to: Sink<'_>,
        last: impl FnOnce(&File, u64) -> io::Result<()>,
    ) -> io::Result<(Self, OwnedFd)> {
        let (from, writer) = io::pipe()?;
        let (told, control) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        // Slower with less.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, CHUNK);
        let parent = process::own_pid();
        let child = process::fork(|| {
            let alone = || {
                process::close_all_but(&[from.as_fd(), told.as_fd(), to.file.as_fd()])?;
                process::reset_signals()?;
                cred::clear_capabilities()?;
                process::die_with_parent(true)?;
                if process::parent_is(parent) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
            };
            let done = alone().and_then(|()| take(&from, &told, to));
            let done = done.and_then(|end| last(to.file, end)).and_then(|()| to.file.sync_all());
            match done {
                Ok(()) => 0,
                Err(error) => {
                    let code = error.raw_os_error().and_then(|code| u8::try_from(code).ok());
                    let code = code.filter(|code| (1..100).contains(code)).unwrap_or(IO);
                    // Its end says the same.
                    let _ = (&told).write_all(&[code]);
                    code.into()
                }
            }
        })?;
        Ok((Self { child, control }, writer.into()))
    }

    /// No more comes than what is on its way.
    pub(super) fn no_more(&mut self) -> io::Result<()> {
        self.control.write_all(b".")
    }

    /// What to poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// The process.
    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }

    /// How it ended, where it has: everything is in the file and on the disk, or why not.
    pub(super) fn ended(&self, path: &str) -> Option<Result<(), Refusal>> {
        if !pidfd::has_ended(&self.child.pidfd).unwrap_or(true) {
            return None;
        }
        Some(match pidfd::reap(&self.child.pidfd) {
            Some(Exit::Code(0)) => Ok(()),
            Some(Exit::Code(code)) => Err(why(path, code)),
            _ => {
                let rule = "who writes it was killed";
                Err(Refusal::new(Layer::Kernel, "write", path, rule, "try again"))
            }
        })
    }

    /// Why it takes nothing more, where it has said so, ended or not: QEMU says only that its pipe is closed.
    pub(super) fn refusal(&self, path: &str) -> Option<Refusal> {
        let mut code = [0];
        let read = (&self.control).read(&mut code).ok()?;
        code.first().filter(|_| read > 0).map(|code| why(path, i32::from(*code)))
    }
}

/// Why a file could not be written.
fn why(path: &str, code: i32) -> Refusal {
    if code == libc::EFBIG {
        let rule = "its device model wrote more than a guest of its size has";
        let remedy = "try again; if it happens once more, do not trust that guest";
        return Refusal::new(Layer::Policy, "write", path, rule, remedy);
    }
    kernel("write", path, &io::Error::from_raw_os_error(code), "see that its file system has room")
}

impl Drop for Pump {
    /// Whoever still writes to it finds the pipe closed. It is reaped with the orphans.
    fn drop(&mut self) {
        if let Err(error) = pidfd::kill(&self.child.pidfd) {
            tracing::error!(pid = self.child.pid, %error, "cannot end who writes a file");
        }
    }
}

/// Takes everything until it is told that no more comes, and tells where that ends.
fn take(from: &PipeReader, told: &UnixStream, to: Sink<'_>) -> io::Result<u64> {
    let (mut at, end) = (to.at, to.at.saturating_add(to.most));
    let (mut over, mut closed) = (false, false);
    loop {
        if closed || !process::readable(from.as_fd(), Duration::ZERO)? {
            if over {
                return Ok(at);
            }
            over = wait(from, told, closed)?;
            continue;
        }
        // One byte more than there may be is enough to know, and readable is the end, too.
        let room = usize::try_from(end.saturating_add(1) - at).unwrap_or(CHUNK).min(CHUNK);
        match splice(from, None, to.file, Some(&mut at), room, SpliceFlags::empty()) {
            Ok(0) => closed = true,
            Ok(_) if at > end => return Err(io::Error::from_raw_os_error(libc::EFBIG)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until there is something, or it is told that no more comes, which it tells.
fn wait(from: &PipeReader, told: &UnixStream, closed: bool) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(told, PollFlags::IN), PollFd::new(from, PollFlags::IN)];
    let polled = if closed { fds.get_mut(..1) } else { fds.get_mut(..) };
    match poll(polled.unwrap_or_default(), None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(fds.first().is_some_and(|fd| !fd.revents().is_empty()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ended(pump: &Pump) -> Result<(), String> {
        assert!(pidfd::wait_ended(&pump.child.pidfd, 30_000).unwrap());
        pump.ended("/saved").unwrap().map_err(|refusal| refusal.rule)
    }

    fn pump(most: u64) -> (File, Pump, File) {
        let file = tempfile::tempfile().unwrap();
        let to = Sink { file: &file, at: 4, most };
        let (pump, writer) = Pump::begin(to, |file, end| {
            use std::os::unix::fs::FileExt as _;
            file.write_all_at(&u32::try_from(end).unwrap().to_be_bytes(), 0)
        })
        .unwrap();
        (file, pump, File::from(writer))
    }

    fn read(mut file: File) -> Vec<u8> {
        use std::io::{Read as _, Seek as _};
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_before_it_was_told_is_in_the_file() {
        // Closed by its writer or not, and longer than the pipe.
        for (length, closes) in [(0, true), (1, false), (3_000_000, true), (3_000_000, false)] {
            let (file, mut pump, mut writer) = pump(u64::MAX);
            let bytes: Vec<u8> = (0..length).map(|at: u32| at.to_be_bytes()[3]).collect();
            writer.write_all(&bytes).unwrap();
            let writer = (!closes).then_some(writer);
            pump.no_more().unwrap();
            assert_eq!(ended(&pump), Ok(()));
            drop(writer);
            let found = read(file);
            assert_eq!(found[..4], (4 + length).to_be_bytes());
            assert!(found[4..] == bytes, "{length}");
        }
    }

    #[test]
    fn what_is_too_much_ends_it_and_the_writer_finds_the_pipe_closed() {
        let (file, mut exact, mut writer) = pump(10);
        writer.write_all(b"0123456789").unwrap();
        exact.no_more().unwrap();
        assert_eq!(ended(&exact), Ok(()));
        assert_eq!(read(file).len(), 14);

        let (file, pump, mut writer) = pump(10);
        let written = std::iter::repeat_with(|| writer.write_all(&[0; 4096])).find_map(Result::err);
        assert_eq!(written.unwrap().kind(), io::ErrorKind::BrokenPipe);
        let rule = ended(&pump).unwrap_err();
        assert!(rule.contains("more than a guest of its size"), "{rule}");
        assert!(read(file).len() <= 15);
    }
}
