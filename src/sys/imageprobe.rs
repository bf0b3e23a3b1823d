//! The confinement of `svirt-imageprobe`: what is left to it is reading descriptor 0 and writing descriptor 1.

use std::io;

use super::seccomp::{self, Instruction};
use super::{cred, landlock, process, rlimit};

/// Seconds of CPU time; a header takes less than a millisecond.
const CPU_SECONDS: u64 = 5;

/// Allowed with any argument: memory that is already the process's own, waiting, and its end.
const PLAIN: [libc::c_long; 7] = [
    libc::SYS_brk,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_munmap,
    libc::SYS_ppoll,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
];

/// Allowed on one descriptor only.
const ON_FD: [(libc::c_long, &[u32]); 2] = [(libc::SYS_pread64, &[0]), (libc::SYS_write, &[1])];

/// The filter: everything else ends the process.
#[must_use]
pub fn filter() -> Vec<Instruction> {
    seccomp::only(&PLAIN, &ON_FD)
}

/// Confines this process for good; an error names the step that failed.
pub fn confine() -> Result<(), (&'static str, io::Error)> {
    prepare()?;
    seal()
}

/// Everything that leaves a socket for the image open: no files, no privilege, no limits to speak of.
pub fn prepare() -> Result<(), (&'static str, io::Error)> {
    let step = |name| move |error| (name, error);
    close_others().map_err(step("close the other descriptors"))?;
    process::set_dumpable(false).map_err(step("become non-dumpable"))?;
    if cred::effective_uid() == 0 {
        cred::drop_bounding().map_err(step("empty the bounding set"))?;
    }
    cred::clear_capabilities().map_err(step("drop the capabilities"))?;
    cred::set_no_new_privs().map_err(step("set no_new_privs"))?;
    landlock::restrict_to_nothing().map_err(step("enter Landlock"))?;
    for kind in [
        rlimit::Kind::Core,
        rlimit::Kind::Fsize,
        rlimit::Kind::Memlock,
        rlimit::Kind::Msgqueue,
        rlimit::Kind::Nproc,
    ] {
        rlimit::set(kind, Some(0)).map_err(step("set the resource limits"))?;
    }
    rlimit::set(rlimit::Kind::Cpu, Some(CPU_SECONDS)).map_err(step("set the resource limits"))
}

/// Takes, from a process that is prepared, everything but reading descriptor 0 and writing descriptor 1.
pub fn seal() -> Result<(), (&'static str, io::Error)> {
    let step = |name| move |error| (name, error);
    rlimit::set(rlimit::Kind::Nofile, Some(0)).map_err(step("set the resource limits"))?;
    seccomp::load(&filter()).map_err(step("load the system call filter"))
}

/// Closes every descriptor but the standard ones.
///
/// For a process that holds no descriptor object yet: the probe calls it first of all.
fn close_others() -> io::Result<()> {
    // SAFETY: close_range reads no memory. No object in this process owns a descriptor from 3 on: `confine` is
    // called by the probe's main before it opens anything, and the runtime opens none.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, libc::c_uint::MAX, 0u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
