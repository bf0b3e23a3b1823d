//! Reading the seccomp filters of another process.
//!
//! `PTRACE_SECCOMP_GET_FILTER` (ptrace(2)) needs `CAP_SYS_ADMIN`, a kernel with checkpoint/restore, and a caller
//! that runs under no filter itself. The target is stopped for as long as the copy takes and goes on afterwards.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::seccomp::Instruction;

/// `PTRACE_SECCOMP_GET_FILTER` of linux/ptrace.h; neither libc nor nix names it.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;

/// The most filters that are read of one process; the kernel's own limit on their total size is lower in practice.
const FILTERS_MAX: usize = 64;

/// The longest program that seccomp takes (`BPF_MAXINSNS`).
const INSTRUCTIONS_MAX: usize = 4096;

/// How long a thread may take to stop.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// A stopped thread that goes on when this is dropped.
struct Seized(Pid);

impl Seized {
    /// Attaches without side effects and stops the thread.
    fn stop(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid);
        ptrace::seize(pid, Options::empty())?;
        let seized = Self(pid);
        ptrace::interrupt(pid)?;
        // One that sleeps where no signal reaches it, as a parent in vfork, may never stop.
        let until = Instant::now() + STOPS_WITHIN;
        while waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))? == WaitStatus::StillAlive {
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(seized)
    }
}

impl Drop for Seized {
    fn drop(&mut self) {
        // A thread that died meanwhile is detached already.
        let _ = ptrace::detach(self.0, None);
    }
}

/// The seccomp programs of a thread, oldest first.
pub fn seccomp_filters(pid: i32) -> io::Result<Vec<Vec<Instruction>>> {
    let seized = Seized::stop(pid)?;
    let mut programs = Vec::new();
    for index in 0..FILTERS_MAX {
        match filter(seized.0, index) {
            Ok(program) => programs.push(program),
            Err(Errno::ENOENT) => break,
            // The thread has no filter at all.
            Err(Errno::EINVAL) if index == 0 => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(programs)
}

/// One program of a stopped thread.
fn filter(pid: Pid, index: usize) -> Result<Vec<Instruction>, Errno> {
    let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; INSTRUCTIONS_MAX];
    // SAFETY: the buffer holds BPF_MAXINSNS instructions, the most that the kernel writes, and lives over the call;
    // the thread is ours and stopped, which `Seized` upholds.
    let count = unsafe { libc::ptrace(PTRACE_SECCOMP_GET_FILTER, pid.as_raw(), index, program.as_mut_ptr()) };
    let count = usize::try_from(Errno::result(count)?).unwrap_or(0);
    program.truncate(count);
    Ok(program.into_iter().map(|insn| (insn.code, insn.jt, insn.jf, insn.k)).collect())
}
