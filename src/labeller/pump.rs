//! What a device model writes, brought into a file by a process that does nothing else.
//!
//! ```text
//! QEMU ─pipe─▶ pump ─▶ file            QEMU has no descriptor of the file
//! labeller: "no more comes" ─▶ pump    it takes the rest, does what comes last, brings all of it to the disk, ends
//! ```
//!
//! The pump has the two pipes and the file, and nothing else of the labeller's, whose lock and sockets the next one needs;
//! it is confined as a carrier of volumes is (`sys::carrier`), and ends with the labeller. It looks at no byte, and what
//! does not fit ends it: the device model then finds the pipe closed.

use std::fs::File;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::pipe::{SpliceFlags, splice};

use crate::base::{Layer, Refusal};
use crate::sys::carrier::{self, Work};
use crate::sys::pidfd::{self, Exit};
use crate::sys::process::{self, Child};

use super::apply::kernel;
use super::room;

/// What is taken at once, in bytes, and the room of the pipe where the host allows as much.
const CHUNK: usize = 1 << 20;
/// EIO, for what has no number.
const IO: u8 = 5;
/// Codes of its own, above the kernel's that it passes on: more came than there may be, nothing came for too long, and less
/// than the reserve is free.
const TOO_MUCH: u8 = 101;
const QUIET: u8 = 102;
const FULL: u8 = 103;
/// Whose it is may have no more.
const SHARE: u8 = 104;

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
    /// The most of them that there can be.
    pub(super) most: u64,
    /// The most of them that whose it is may have.
    pub(super) share: u64,
    /// What stays free on its file system, in bytes.
    pub(super) reserve: u64,
    /// How long may nothing come, where there is a limit.
    pub(super) quiet: Option<Duration>,
    /// The uid of who brings them there.
    pub(super) uid: u32,
}

/// Why it ends before everything is written.
#[derive(Debug)]
enum Wrong {
    Kernel(io::Error),
    Own(u8),
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<rustix::io::Errno> for Wrong {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Kernel(error.into())
    }
}

impl Wrong {
    fn code(&self) -> u8 {
        match self {
            Self::Own(code) => *code,
            Self::Kernel(error) => {
                let code = error.raw_os_error().and_then(|code| u8::try_from(code).ok());
                code.filter(|code| (1..100).contains(code)).unwrap_or(IO)
            }
        }
    }
}

impl Pump {
    /// Begins; what is given back is what the device model writes to. `last` is done with the end of what it wrote; it
    /// may not allocate.
    pub(super) fn begin(
        to: Sink<'_>,
        last: impl FnOnce(&File, u64) -> io::Result<()>,
    ) -> io::Result<(Self, OwnedFd)> {
        let (from, writer) = io::pipe()?;
        let (told, control) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        // Written as a file is: it has no call for more.
        let told = File::from(OwnedFd::from(told));
        // Slower with less.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, CHUNK);
        let parent = process::own_pid();
        let child = process::fork(|| {
            let written = || -> Result<(), Wrong> {
                let kept = [from.as_fd(), told.as_fd(), to.file.as_fd()];
                // One byte more than there may be is enough to know.
                let longest = to.at.saturating_add(to.most).saturating_add(1);
                carrier::confine(Work::STREAM, &kept, (to.uid, longest), parent)?;
                let end = take(&from, &told, to)?;
                last(to.file, end)?;
                Ok(to.file.sync_all()?)
            };
            match written() {
                Ok(()) => 0,
                Err(wrong) => {
                    // Its end says the same.
                    let _ = (&told).write_all(&[wrong.code()]);
                    wrong.code().into()
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
    let (rule, remedy) = match u8::try_from(code) {
        Ok(TOO_MUCH) => (
            "its device model wrote more than a guest of its size has",
            "try again; if it happens once more, do not trust that guest",
        ),
        Ok(QUIET) => (
            "its device model wrote nothing for minutes",
            "see what holds it up, such as a disk that does not answer, and try again",
        ),
        Ok(FULL) => (
            "its file system has only the room left that svirt's journals or definitions need",
            "remove files there, or have the place for these files on a file system of its own",
        ),
        Ok(SHARE) => (
            "whoever had it written has as much of its file system as saved domains and dumps of one uid may take",
            "remove some of them, or raise save.percent_per_user",
        ),
        _ => {
            let error = io::Error::from_raw_os_error(code);
            return kernel("write", path, &error, "see that its file system has room");
        }
    };
    Refusal::new(Layer::Policy, "write", path, rule, remedy)
}

impl Drop for Pump {
    /// Whoever still writes to it finds the pipe closed. It is reaped with the orphans.
    fn drop(&mut self) {
        if let Err(error) = pidfd::kill(&self.child.pidfd) {
            tracing::error!(pid = self.child.pid, %error, "cannot end who writes a file");
        }
    }
}

/// Takes everything until it is told that no more comes, and tells where that ends. What is on its way at that moment is
/// the last that is taken: whoever writes could otherwise have it go on for as long as there is room.
fn take(from: &PipeReader, told: &File, to: Sink<'_>) -> Result<u64, Wrong> {
    let (mut at, end) = (to.at, to.at.saturating_add(to.most.min(to.share)));
    let (mut left, mut closed) = (None, false);
    while left != Some(0) {
        if left.is_none() && process::readable(told.as_fd(), Duration::ZERO)? {
            left = Some(rustix::io::ioctl_fionread(from)?);
            continue;
        }
        if left.is_none() && (closed || !process::readable(from.as_fd(), Duration::ZERO)?) {
            wait(from, told, closed, to.quiet)?;
            continue;
        }
        if !room::keeps(to.file, to.reserve)? {
            return Err(Wrong::Own(FULL));
        }
        // One byte more than there may be is enough to know, and readable is the end, too.
        let most = left.unwrap_or(u64::MAX).min(end.saturating_add(1) - at);
        let most = usize::try_from(most).unwrap_or(CHUNK).min(CHUNK);
        match splice(from, None, to.file, Some(&mut at), most, SpliceFlags::empty()) {
            Ok(0) if left.is_some() => break,
            Ok(0) => closed = true,
            Ok(_) if at > end => return Err(Wrong::Own(if to.share < to.most { SHARE } else { TOO_MUCH })),
            Ok(taken) => left = left.map(|left| left.saturating_sub(taken as u64)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(at)
}

/// Waits until there is something, or it is told that no more comes.
fn wait(from: &PipeReader, told: &File, closed: bool, quiet: Option<Duration>) -> Result<(), Wrong> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(told, PollFlags::IN), PollFd::new(from, PollFlags::IN)];
    let polled = if closed { fds.get_mut(..1) } else { fds.get_mut(..) };
    let limit = quiet.map(|quiet| Timespec {
        tv_sec: quiet.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: quiet.subsec_nanos().into(),
    });
    match poll(polled.unwrap_or_default(), limit.as_ref()) {
        Ok(0) => Err(Wrong::Own(QUIET)),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
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
        begun(|to| Sink { most, ..to })
    }

    fn begun(change: impl FnOnce(Sink<'_>) -> Sink<'_>) -> (File, Pump, File) {
        let file = tempfile::tempfile().unwrap();
        let (most, share) = (u64::MAX, u64::MAX);
        let to = change(Sink { file: &file, at: 4, most, share, reserve: 0, quiet: None, uid: 65_534 });
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

        let (file, pump, mut writer) = begun(|to| Sink { most: 10, share: 5, ..to });
        writer.write_all(b"012345").unwrap();
        let rule = ended(&pump).unwrap_err();
        assert!(rule.contains("of one uid may take"), "{rule}");
        assert!(read(file).len() <= 10);
    }

    #[test]
    fn who_writes_on_does_not_keep_it_from_ending() {
        let (file, mut pump, mut writer) = pump(u64::MAX);
        writer.write_all(b"all").unwrap();
        let on = std::thread::spawn(move || while writer.write_all(&[0; 4096]).is_ok() {});
        pump.no_more().unwrap();
        assert_eq!(ended(&pump), Ok(()));
        on.join().unwrap();
        assert_eq!(read(file)[4..7], *b"all");
    }

    #[test]
    fn who_writes_nothing_and_who_takes_the_last_room_end_it() {
        let (_, pump, writer) = begun(|to| Sink { quiet: Some(Duration::from_millis(10)), ..to });
        let rule = ended(&pump).unwrap_err();
        assert!(rule.contains("wrote nothing"), "{rule}");
        drop(writer);

        let (file, pump, mut writer) = begun(|to| Sink { reserve: u64::MAX, ..to });
        writer.write_all(b"0123").unwrap();
        let rule = ended(&pump).unwrap_err();
        assert!(rule.contains("room left"), "{rule}");
        assert!(read(file).is_empty());
    }

    #[test]
    fn it_has_no_other_calls_and_makes_no_longer_file() {
        let begin = |last: fn(&File, u64) -> io::Result<()>| {
            let file = tempfile::tempfile().unwrap();
            let to =
                Sink { file: &file, at: 4, most: 10, share: u64::MAX, reserve: 0, quiet: None, uid: 65_534 };
            let (mut pump, _writer) = Pump::begin(to, last).unwrap();
            pump.no_more().unwrap();
            (ended(&pump), file)
        };
        // A file is opened, and its own one is read: the filter ends it.
        let opens = |_: &File, _| File::open("/").map(drop);
        let reads = |file: &File, _| std::os::unix::fs::FileExt::read_at(file, &mut [0], 0).map(drop);
        for last in [opens as fn(&File, u64) -> io::Result<()>, reads] {
            assert_eq!(begin(last).0.unwrap_err(), "who writes it was killed");
        }
        assert_eq!(begin(|file, _| std::os::unix::fs::FileExt::write_all_at(file, b"x", 14)).0, Ok(()));
        let (ended, file) = begin(|file, _| std::os::unix::fs::FileExt::write_all_at(file, b"x", 15));
        assert_eq!((ended.unwrap_err().as_str(), read(file).len()), ("who writes it was killed", 0));
    }

    #[test]
    fn it_is_nobody_and_has_its_three_descriptors() {
        let (_file, pump, _writer) = pump(10);
        let of = |what: &str| format!("/proc/{}/{what}", pump.child.pid);
        let status = || std::fs::read_to_string(of("status")).unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while !status().contains("\nSeccomp:\t2\n") && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        let status = status();
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!((line("Seccomp:"), line("NoNewPrivs:")), ("2".into(), "1".into()));
        assert_eq!((line("CapEff:"), line("CapPrm:")), ("0".repeat(16), "0".repeat(16)));
        if rustix::process::getuid().is_root() {
            assert_eq!((line("Uid:"), line("Groups:")), ("65534 65534 65534 65534".into(), String::new()));
            assert_eq!(line("CapBnd:"), "0".repeat(16));
            assert_eq!(std::fs::read_dir(of("fd")).unwrap().count(), 3);
        }
    }
}
