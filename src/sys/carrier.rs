//! The confinement of a process that carries bytes between the few descriptors that it keeps: a child of the labeller's
//! that has nothing else of its parent's, no privilege, no file system, and no system call but those of its work.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use super::{cred, landlock, process, rlimit, seccomp};

/// Allowed with any argument: memory that is already the process's own, and its end.
const PLAIN: [libc::c_long; 5] =
    [libc::SYS_brk, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_munmap, libc::SYS_rt_sigreturn];

/// Allowed on the descriptors that it keeps.
const ON_KEPT: [libc::c_long; 11] = [
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
];

/// Confines a forked child for good: it keeps these descriptors, runs as `uid` where it may choose, makes no file longer
/// than `longest` bytes, and ends with `parent`.
pub fn confine(kept: &[BorrowedFd<'_>], uid: u32, longest: u64, parent: i32) -> io::Result<()> {
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
    for kind in [
        rlimit::Kind::Core,
        rlimit::Kind::Memlock,
        rlimit::Kind::Msgqueue,
        rlimit::Kind::Nofile,
        rlimit::Kind::Nproc,
    ] {
        rlimit::set(kind, Some(0))?;
    }
    let kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    let on_kept = ON_KEPT.map(|call| (call, kept.as_slice()));
    seccomp::load(&seccomp::only(&PLAIN, &on_kept))
}
