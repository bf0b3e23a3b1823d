//! System calls that only an attacker makes, for `svirt probe`.
//!
//! Each is made with arguments that change nothing even where nothing stops it: a null pointer or an invalid
//! number that the kernel looks at only after every permission check has passed. [`Reached`] tells the two apart.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::libc::PTRACE_EVENT_EXEC;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, chmodat, mknodat, openat};

use super::{pidfd, process};

/// `O_PATH` of fcntl.h on x86-64, as an argument.
const O_PATH: usize = 0o10_000_000;

const NODE: &str = "node";

/// Whether a call got as far as its arguments.
pub type Reached = io::Result<()>;

/// A system call with no more than integers and null pointers.
fn call(number: libc::c_long, args: [usize; 5]) -> Result<i64, Errno> {
    let [a, b, c, d, e] = args;
    // SAFETY: every caller below passes integers, null pointers or pointers into its own stack frame; none of the
    // calls writes to memory through an argument, which the null pointers and invalid numbers ensure.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e) })
}

/// Turns the errors that mean "the arguments were looked at" into success.
fn reached(result: Result<i64, Errno>, signs: &[Errno]) -> Reached {
    match result {
        Ok(value) => {
            // A descriptor, where the call made one after all.
            if let Ok(fd) = i32::try_from(value)
                && fd > 2
            {
                let _ = nix::unistd::close(fd);
            }
            Ok(())
        }
        Err(errno) if signs.contains(&errno) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// bpf(2): makes an array map from a null attribute.
pub fn bpf() -> Reached {
    reached(call(libc::SYS_bpf, [0, 0, 72, 0, 0]), &[Errno::EFAULT, Errno::EINVAL])
}

/// chroot(2) to a null path.
pub fn chroot() -> Reached {
    // The path is copied before the capability is asked for, so a path that exists is needed.
    let path = c"/";
    reached(call(libc::SYS_chroot, [path.as_ptr().addr(), 0, 0, 0, 0]), &[])
}

/// clone3(2) with a null argument: no filter can see its flags.
pub fn clone3() -> Reached {
    reached(call(libc::SYS_clone3, [0, 64, 0, 0, 0]), &[Errno::EFAULT, Errno::EINVAL])
}

/// execve(2) of a shell that is told to do nothing. Only in [`in_traced_child`]: where the attacker is, the shell may
/// be anything.
pub fn exec_shell() -> Reached {
    let path = c"/bin/sh";
    let option = c"-c";
    let script = c"exit 0";
    let argv = [path.as_ptr(), option.as_ptr(), script.as_ptr(), std::ptr::null()];
    reached(call(libc::SYS_execve, [path.as_ptr().addr(), argv.as_ptr().addr(), 0, 0, 0]), &[])
}

/// finit_module(2) with a descriptor that is none.
pub fn finit_module() -> Reached {
    reached(
        call(libc::SYS_finit_module, [usize::MAX, 0, 0, 0, 0]),
        &[Errno::EBADF, Errno::EFAULT, Errno::EINVAL],
    )
}

/// io_uring_setup(2) with a null parameter block.
pub fn io_uring() -> Reached {
    reached(call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]), &[Errno::EFAULT, Errno::EINVAL])
}

/// kexec_file_load(2) with descriptors that are none.
pub fn kexec() -> Reached {
    reached(
        call(libc::SYS_kexec_file_load, [usize::MAX, usize::MAX, 0, 0, 0]),
        &[Errno::EBADF, Errno::EINVAL, Errno::EFAULT],
    )
}

/// keyctl(2): asks for the session keyring's number.
pub fn keyring() -> Reached {
    // KEYCTL_GET_KEYRING_ID of KEY_SPEC_PROCESS_KEYRING without making one.
    reached(call(libc::SYS_keyctl, [0, (-2_isize).cast_unsigned(), 0, 0, 0]), &[Errno::ENOKEY])
}

/// open_by_handle_at(2): opens the root directory by its handle, which it asked for just before.
pub fn open_by_handle() -> Reached {
    // struct file_handle: handle_bytes, handle_type, then up to MAX_HANDLE_SZ (128) bytes.
    let mut handle = [0_u32; 34];
    handle[0] = 128;
    let mut mount_id: libc::c_int = 0;
    let root = c"/";
    // SAFETY: the handle has room for the 128 bytes that its first field announces, and both outputs and the path
    // live over the call.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            root.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount_id,
            0,
        )
    })?;
    reached(
        call(
            libc::SYS_open_by_handle_at,
            [(-100_isize).cast_unsigned(), handle.as_ptr().addr(), O_PATH, 0, 0],
        ),
        &[],
    )
}

/// perf_event_open(2) of a kernel software event on every process of a CPU.
pub fn perf_event() -> Reached {
    // struct perf_event_attr, version 0 (64 bytes): type PERF_TYPE_SOFTWARE (1), size 64, config PERF_COUNT_SW_CPU_CLOCK.
    let mut attr = [0_u64; 8];
    attr[0] = 1 | (64 << 32);
    reached(
        call(libc::SYS_perf_event_open, [attr.as_ptr().addr(), usize::MAX, 0, usize::MAX, 0]),
        &[Errno::EINVAL, Errno::E2BIG],
    )
}

/// ptrace(2): seizes a process and lets it go at once.
pub fn ptrace_seize(pid: i32) -> Reached {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::ptrace::seize(pid, nix::sys::ptrace::Options::empty())?;
    Ok(())
}

/// process_vm_readv(2): reads one word of another process.
pub fn read_memory(pid: i32, address: usize) -> io::Result<u64> {
    let mut word = [0_u8; 8];
    let remote = nix::sys::uio::RemoteIoVec { base: address, len: word.len() };
    let pid = nix::unistd::Pid::from_raw(pid);
    let count = nix::sys::uio::process_vm_readv(pid, &mut [io::IoSliceMut::new(&mut word)], &[remote])?;
    if count < word.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(u64::from_ne_bytes(word))
}

/// Makes a System V shared memory segment of one page that only its owner may use.
pub fn shm_create() -> io::Result<i32> {
    let id = call(libc::SYS_shmget, [0, 4096, 0o1600, 0, 0])?;
    i32::try_from(id).map_err(io::Error::other)
}

/// Attaches a segment for reading and detaches it.
pub fn shm_attach(id: i32) -> Reached {
    let id = usize::try_from(id).map_err(io::Error::other)?;
    // SHM_RDONLY
    let address = call(libc::SYS_shmat, [id, 0, 0o10000, 0, 0])?;
    let address = usize::try_from(address).map_err(io::Error::other)?;
    call(libc::SYS_shmdt, [address, 0, 0, 0, 0])?;
    Ok(())
}

/// Removes a segment.
pub fn shm_remove(id: i32) -> Reached {
    let id = usize::try_from(id).map_err(io::Error::other)?;
    // IPC_RMID
    call(libc::SYS_shmctl, [id, 0, 0, 0, 0])?;
    Ok(())
}

/// Makes a node for a device on a file system that no path leads to, and returns its directory; open it with
/// [`open_device_node`]. It is gone with the descriptor.
pub fn device_node(kind: FileType, number: u64) -> io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    mknodat(&mount, NODE, kind, Mode::from_raw_mode(0o666), number)?;
    // Only device rules are to stand in the way, no file mode.
    chmodat(&mount, NODE, Mode::from_raw_mode(0o666), AtFlags::empty())?;
    Ok(mount)
}

/// Opens the node in a directory that [`device_node`] gave, for reading, and reads nothing.
pub fn open_device_node(directory: BorrowedFd<'_>) -> Reached {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(directory, NODE, flags, Mode::empty())?;
    Ok(())
}

/// userfaultfd(2) for faults of the kernel too.
pub fn userfaultfd() -> Reached {
    let flags = usize::try_from(libc::O_CLOEXEC).map_err(io::Error::other)?;
    reached(call(libc::SYS_userfaultfd, [flags, 0, 0, 0, 0]), &[])
}

/// Milliseconds after which a child is killed from outside.
const CHILD_MOST: u16 = 60_000;

/// How a child of [`in_child`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildEnd {
    /// It returned this number.
    Code(u8),
    /// A signal killed it.
    Signal(i32),
}

/// Runs `body` in a forked child and waits for it; the child never returns into the caller's code. One that does not
/// end in `CHILD_MOST` is killed: where it went, its own alarm may not reach it.
pub fn in_child(body: impl FnOnce() -> u8) -> io::Result<ChildEnd> {
    // A panic must not look like an errno.
    let caught = || i32::from(catch_unwind(AssertUnwindSafe(body)).unwrap_or(u8::MAX));
    let child = process::fork(caught)?;
    if !pidfd::wait_ended(&child.pidfd, CHILD_MOST)? {
        pidfd::kill(&child.pidfd)?;
    }
    let pid = nix::unistd::Pid::from_raw(child.pid);
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => {
                return Ok(ChildEnd::Code(u8::try_from(code).unwrap_or(u8::MAX)));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(ChildEnd::Signal(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Like [`in_child`], but no program runs: a child that executes one is killed before its first instruction, and
/// counts as one that returned 0.
pub fn in_traced_child(body: impl FnOnce() -> u8) -> io::Result<ChildEnd> {
    let child = process::fork(|| {
        let ready = ptrace::traceme().and_then(|()| raise(Signal::SIGSTOP));
        let caught = || if ready.is_ok() { body() } else { u8::MAX };
        i32::from(catch_unwind(AssertUnwindSafe(caught)).unwrap_or(u8::MAX))
    })?;
    let pid = Pid::from_raw(child.pid);
    let mut held = false;
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => {
                return Ok(ChildEnd::Code(u8::try_from(code).unwrap_or(u8::MAX)));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(ChildEnd::Signal(signal as i32)),
            Ok(WaitStatus::PtraceEvent(_, _, PTRACE_EVENT_EXEC)) => {
                child.end()?;
                return Ok(ChildEnd::Code(0));
            }
            Ok(WaitStatus::Stopped(_, Signal::SIGSTOP)) if !held => {
                held = true;
                // Without the tracer the child would go on.
                ptrace::setoptions(pid, Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACEEXEC)?;
                ptrace::cont(pid, None)?;
            }
            Ok(WaitStatus::Stopped(_, signal)) => ptrace::cont(pid, signal)?,
            Ok(WaitStatus::PtraceEvent(..)) => ptrace::cont(pid, None)?,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Lets a signal end this process after so many seconds, whatever it is doing.
pub fn alarm(seconds: u32) {
    // SAFETY: alarm(2) takes a number and touches no memory.
    unsafe { libc::alarm(seconds) };
}

/// Ends this process by a signal, whatever handler stands for it.
pub fn die_of(signal: i32) -> io::Result<()> {
    let signal = nix::sys::signal::Signal::try_from(signal)?;
    // A core dump would only be of our own making.
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)?;
    let action = nix::sys::signal::SigHandler::SigDfl;
    if !matches!(signal, nix::sys::signal::Signal::SIGKILL | nix::sys::signal::Signal::SIGSTOP) {
        // SAFETY: the default action installs no handler, so no code of ours runs in signal context.
        unsafe { nix::sys::signal::signal(signal, action) }?;
    }
    Ok(nix::sys::signal::raise(signal)?)
}
