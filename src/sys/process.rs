//! Processes: forking one, preparing it, replacing its program; `pidfd` holds it and waits for its end.
//!
//! A process is only ever named by a pidfd here; its number is for reports. What runs in a forked child
//! runs alone: callers are single-threaded, or do nothing in the child that needs a lock of another thread.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::fcntl::AtFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, Signal};

use super::pidfd;

/// The exit status of a forked child whose code panicked.
pub const PANICKED: i32 = 101;

/// A process that this one started.
#[derive(Debug)]
pub struct Child {
    /// Its number in this process's pid namespace, for reports.
    pub pid: i32,
    /// What it is held by.
    pub pidfd: OwnedFd,
}

impl Child {
    /// Kills the process if it still runs and waits until it has ended, at most 2 s; reaps it if it is a child.
    pub fn end(&self) -> io::Result<()> {
        pidfd::kill(&self.pidfd)?;
        if !pidfd::wait_ended(&self.pidfd, 2000)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let _reaped = pidfd::reap(&self.pidfd);
        Ok(())
    }
}

/// Whether `fd` becomes readable (or hangs up) within `timeout`.
pub fn readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    ready(fd, PollFlags::IN, timeout)
}

/// Writes everything before `deadline`, to a pipe or socket that nobody else writes to: it becomes non-blocking.
pub fn write_all_by(fd: BorrowedFd<'_>, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if !ready(fd, PollFlags::OUT, left)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads to the end, but at most `most` bytes and not past `deadline`.
pub fn read_to_end_by(fd: BorrowedFd<'_>, most: usize, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; most.clamp(1, 65_536)];
    while bytes.len() < most {
        if !readable(fd, deadline.saturating_duration_since(Instant::now()))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match rustix::io::read(fd, &mut chunk[..]) {
            Ok(0) => break,
            Ok(count) => bytes.extend(chunk.iter().take(count.min(most - bytes.len()))),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

fn ready(fd: BorrowedFd<'_>, flags: PollFlags, timeout: Duration) -> io::Result<bool> {
    let limit = Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    loop {
        let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
        match poll(&mut fds, Some(&limit)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Forks; the child runs `body`, exits with what it returns, and never comes back here.
pub fn fork(body: impl FnOnce() -> i32) -> io::Result<Child> {
    // SAFETY: fork has no memory precondition. The child runs `body` and `_exit`s, so no frame of the caller is
    // returned into twice; glibc's own fork keeps its allocator usable in the child.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => run_and_exit(body),
        pid => held(pid),
    }
}

/// A child by its pidfd; one that cannot be held so is ended, because nobody would watch it.
fn held(pid: i32) -> io::Result<Child> {
    pidfd::open(pid).map(|pidfd| Child { pid, pidfd }).inspect_err(|_| {
        // Our own child that nobody has waited for: the number is still its.
        let own = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(own, None);
    })
}

/// Runs `body` in a forked child and leaves without running destructors or exit handlers.
pub(crate) fn run_and_exit(body: impl FnOnce() -> i32) -> ! {
    let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED);
    // SAFETY: `_exit` takes any status and does not return.
    unsafe { libc::_exit(code) }
}

/// Closes a descriptor that a forked child inherited and that its code neither uses nor drops.
pub fn close_inherited(fd: BorrowedFd<'_>) {
    // SAFETY: close reads no memory. The object that owns the descriptor belongs to a frame of the parent, which
    // the child never returns into, so nothing closes or uses the number again.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Closes everything but standard input, output and error in a forked child that uses nothing else of its parent's.
pub fn close_all_inherited() -> io::Result<()> {
    // SAFETY: close_range reads no memory. Objects that own these descriptors belong to frames of the parent, which the
    // child never returns into, so nothing closes or uses the numbers again.
    match unsafe { libc::syscall(libc::SYS_close_range, 3u32, libc::c_uint::MAX, 0u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives every signal its default action and blocks none: an ignored `SIGPIPE` or a mask would survive exec.
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 {
        // SAFETY: `SIG_DFL` installs no handler; numbers that cannot be changed (SIGKILL, SIGSTOP, glibc's own)
        // only give an error, which is of no interest.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Asks for `SIGKILL` when the parent dies, or takes that back. Cleared by the kernel when the uid changes.
pub fn die_with_parent(yes: bool) -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(yes.then_some(Signal::KILL))?)
}

/// Whether `pid` is this process's parent still.
#[must_use]
pub fn parent_is(pid: i32) -> bool {
    rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get() == pid)
}

/// This process's number.
#[must_use]
pub fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Makes this process the one that orphaned descendants are given to.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Refuses ptrace and core dumps of this process from its own uid; an exec undoes it.
pub fn set_dumpable(yes: bool) -> io::Result<()> {
    let behavior = if yes { DumpableBehavior::Dumpable } else { DumpableBehavior::NotDumpable };
    Ok(rustix::process::set_dumpable_behavior(behavior)?)
}

/// Makes this process, and what it starts, the first to go where memory runs out.
pub fn offer_to_oom_killer() -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", "1000")
}

/// Starts a new session without a controlling terminal.
pub fn new_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Sets the file mode mask.
pub fn set_umask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
}

/// Replaces this process's program; returns only the error.
#[must_use]
pub fn exec(program: &CStr, argv: &[&CStr], env: &[&CStr]) -> io::Error {
    match nix::unistd::execve(program, argv, env) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// The same with the program named by descriptor, so that no directory above it needs to be searchable.
#[must_use]
pub fn exec_fd(program: BorrowedFd<'_>, argv: &[&CStr], env: &[&CStr]) -> io::Error {
    match nix::unistd::execveat(program, c"", argv, env, AtFlags::AT_EMPTY_PATH) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// Closes every descriptor from 3 on but a few, for a forked child that uses those alone: what its parent holds must not
/// live as long as the child does.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let number = |fd: &BorrowedFd<'_>| libc::c_uint::try_from(fd.as_raw_fd()).ok();
    let mut kept: Vec<libc::c_uint> =
        kept.iter().map(number).collect::<Option<_>>().ok_or(io::ErrorKind::InvalidInput)?;
    kept.sort_unstable();
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first > last {
            return Ok(());
        }
        // SAFETY: close_range reads no memory. The objects that own the descriptors belong to frames of the parent, which
        // the child never returns into, so nothing closes or uses the numbers again.
        let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let mut first = 3;
    for kept in kept {
        if let Some(last) = kept.checked_sub(1) {
            close(first, last)?;
        }
        first = first.max(kept.saturating_add(1));
    }
    close(first, libc::c_uint::MAX)
}

/// Gives this process exactly the descriptors of `placed`: (descriptor now, number after exec).
///
/// Every other descriptor is marked close-on-exec, the present numbers of the placed ones included. `kept` are
/// descriptors that must stay usable until exec; where one stands on a planned number its new number is returned
/// in its place.
///
/// For a process that is about to exec and that forgets every descriptor object it holds.
pub fn place_fds(placed: &[(RawFd, RawFd)], kept: &mut [RawFd]) -> io::Result<()> {
    let targets: std::collections::BTreeSet<RawFd> = placed.iter().map(|(_, number)| *number).collect();
    let base = targets.last().map_or(3, |last| last.saturating_add(1)).max(3);
    let mut moved = std::collections::BTreeMap::new();
    let sources = placed.iter().map(|(fd, _)| *fd).chain(kept.iter().copied());
    for fd in sources.filter(|fd| targets.contains(fd)) {
        if let std::collections::btree_map::Entry::Vacant(entry) = moved.entry(fd) {
            // SAFETY: F_DUPFD_CLOEXEC reads no memory; it takes a free number only.
            entry.insert(check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, base) })?);
        }
    }
    for fd in kept.iter_mut() {
        *fd = moved.get(fd).copied().unwrap_or(*fd);
    }
    mark_all_cloexec()?;
    for (fd, number) in placed {
        let fd = moved.get(fd).copied().unwrap_or(*fd);
        // SAFETY: dup2 reads no memory. What stood on `number` is closed: the caller, about to exec, has promised
        // to use no descriptor object any more, and what is needed was moved out of the way above.
        check(unsafe { libc::dup2(fd, *number) })?;
    }
    Ok(())
}

/// Leaves the terminal and its session, with nothing on the standard descriptors.
///
/// For a forked child that runs under another uid: whoever gets hold of such a process gets what it has open.
pub fn leave_terminal() -> io::Result<()> {
    place_on_null(&[], &mut [])
}

/// The same, and executes a program that gets `given` as number 3 and no other descriptor. `last` is done before
/// the exec, when nothing of ours but the program can be reached through this process's descriptors any more.
///
/// For a forked child that uses no descriptor object any more. Returns only the error.
#[must_use]
pub fn exec_apart(
    program: BorrowedFd<'_>,
    argv: &[&CStr],
    env: &[&CStr],
    given: BorrowedFd<'_>,
    last: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Error {
    let mut program = [program.as_raw_fd()];
    let [number] = match place_on_null(&[(given.as_raw_fd(), 3)], &mut program) {
        Ok(()) => program,
        Err(error) => return error,
    };
    match last(borrow(&3)) {
        Ok(()) => exec_fd(borrow(&number), argv, env),
        Err(error) => error,
    }
}

fn place_on_null(more: &[(RawFd, RawFd)], kept: &mut [RawFd]) -> io::Result<()> {
    new_session()?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    let null = std::os::fd::IntoRawFd::into_raw_fd(null);
    let placed: Vec<(RawFd, RawFd)> =
        (0..3).map(|number| (null, number)).chain(more.iter().copied()).collect();
    place_fds(&placed, kept)
}

/// Marks every descriptor from 3 on close-on-exec.
fn mark_all_cloexec() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: close_range with CLOEXEC changes flags of descriptors only and reads no memory.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Borrows a descriptor by number, for a process between [`place_fds`] and exec; a number that is not open gives
/// EBADF at its use.
#[must_use]
pub fn borrow(fd: &RawFd) -> BorrowedFd<'_> {
    let fd = if *fd < 0 { 0 } else { *fd };
    // SAFETY: the number is not -1. The caller is the only thread and closes nothing between here and exec.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn who_never_reads_and_who_never_ends_hold_nobody_up() {
        let (reading, writing) = std::io::pipe().unwrap();
        let soon = || Instant::now() + Duration::from_millis(50);
        let error = write_all_by(writing.as_fd(), &[7; 1 << 20], soon()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = read_to_end_by(reading.as_fd(), 1 << 20, soon()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "what was written is there, and no end");
    }

    #[test]
    fn what_is_written_is_read_up_to_the_most() {
        let (reading, writing) = std::io::pipe().unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        write_all_by(writing.as_fd(), b"abcdef", later).unwrap();
        drop(writing);
        assert_eq!(read_to_end_by(reading.as_fd(), 4, later).unwrap(), b"abcd");
        assert_eq!(read_to_end_by(reading.as_fd(), 9, later).unwrap(), b"ef");
    }

    #[test]
    fn of_what_a_child_inherits_one_descriptor_stays() {
        let (reading, writing) = std::io::pipe().unwrap();
        let child = fork(|| {
            let is_open = |fd: BorrowedFd<'_>| rustix::fs::fcntl_getfl(fd).is_ok();
            let closed = close_all_but(&[writing.as_fd()]).is_ok();
            i32::from(!(closed && is_open(writing.as_fd()) && !is_open(reading.as_fd())))
        });
        let child = child.unwrap();
        assert!(pidfd::wait_ended(&child.pidfd, 60_000).unwrap());
        assert_eq!(pidfd::reap(&child.pidfd), Some(pidfd::Exit::Code(0)));
    }
}
