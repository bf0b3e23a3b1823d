//! The confinement of a process that carries bytes between the few descriptors that it keeps: a child of the labeller's
//! that has nothing else of its parent's, no privilege, no file system, and no system call but those of its work.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use super::{cred, landlock, process, rlimit, seccomp};

/// Allowed with any argument: memory that is already the process's own, and its end.
const PLAIN: [libc::c_long; 5] =
    [libc::SYS_brk, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_munmap, libc::SYS_rt_sigreturn];

/// What a carrier does with its descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Allowed with any argument besides.
    plain: &'static [libc::c_long],
    /// Allowed on the descriptors that it keeps.
    on_kept: &'static [libc::c_long],
    /// On how many descriptors it waits at once: the kernel polls no more than a process may have.
    waits_on: u64,
}

impl Work {
    /// Reads, writes and copies parts of files, and what comes over a socket.
    pub const VOLUME: Self = Self {
        plain: &[],
        on_kept: &[
            libc::SYS_copy_file_range,
            libc::SYS_fallocate,
            libc::SYS_fdatasync,
            libc::SYS_fsync,
            libc::SYS_ftruncate,
            libc::SYS_ioctl,
            libc::SYS_lseek,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_read,
            libc::SYS_write,
        ],
        waits_on: 0,
    };

    /// Moves what comes through a pipe into a file, unseen, while a second descriptor may say that it is all.
    pub const STREAM: Self = Self {
        // A wait that a stop interrupted goes on by a call of its own.
        plain: &[libc::SYS_poll, libc::SYS_ppoll, libc::SYS_restart_syscall],
        on_kept: &[
            libc::SYS_fstatfs,
            libc::SYS_fsync,
            libc::SYS_ioctl,
            libc::SYS_pwrite64,
            libc::SYS_splice,
            libc::SYS_write,
        ],
        waits_on: 2,
    };
}

/// Confines a forked child for good: it keeps these descriptors, runs as `uid` where it may choose, makes no file longer
/// than `longest` bytes, and ends with `parent`.
pub fn confine(
    work: Work,
    kept: &[BorrowedFd<'_>],
    (uid, longest): (u32, u64),
    parent: i32,
) -> io::Result<()> {
    process::close_all_but(kept)?;
    for fd in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
        process::close_inherited(fd);
    }
    process::reset_signals()?;
    if cred::effective_uid() == 0 {
        cred::drop_bounding()?;
        cred::set_ids(uid, uid, &[])?;
    }
    cred::clear_capabilities()?;
    process::set_dumpable(false)?;
    // Behind the change of uid, which takes it back.
    process::die_with_parent(true)?;
    if !process::parent_is(parent) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    cred::set_no_new_privs()?;
    landlock::restrict_to_nothing()?;
    rlimit::set(rlimit::Kind::Fsize, Some(longest))?;
    for kind in [rlimit::Kind::Core, rlimit::Kind::Memlock, rlimit::Kind::Msgqueue, rlimit::Kind::Nproc] {
        rlimit::set(kind, Some(0))?;
    }
    rlimit::set(rlimit::Kind::Nofile, Some(work.waits_on))?;
    let kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    let on_kept: Vec<_> = work.on_kept.iter().map(|call| (*call, kept.as_slice())).collect();
    seccomp::load(&seccomp::only(&[&PLAIN, work.plain].concat(), &on_kept))
}
