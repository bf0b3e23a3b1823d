//! seccomp: loading filters, and answering the calls that one of them sends to its listener.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// One classic BPF instruction: code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// The most instructions that the kernel takes in one filter.
pub const INSTRUCTIONS_MAX: usize = 4096;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// The filter of a process that does one thing: it allows some calls with any arguments, and others where their first one
/// is one of a few descriptors. Everything else ends the process.
#[must_use]
pub fn only(plain: &[libc::c_long], on_fd: &[(libc::c_long, &[u32])]) -> Vec<Instruction> {
    let kill = (RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS);
    let allow = (RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
    let mut program =
        vec![(LOAD, 0, 0, ARCH), (JUMP_IF_EQUAL, 1, 0, AUDIT_ARCH_X86_64), kill, (LOAD, 0, 0, NR)];
    for call in plain {
        program.push((JUMP_IF_EQUAL, 0, 1, *call as u32));
        program.push(allow);
    }
    for (call, fds) in on_fd {
        // The kernel takes the descriptor from the low half, which is the first word on x86-64.
        let block = u8::try_from(fds.len() * 2 + 2).unwrap_or(0);
        program.push((JUMP_IF_EQUAL, 0, block, *call as u32));
        program.push((LOAD, 0, 0, FIRST_ARGUMENT));
        for fd in *fds {
            program.push((JUMP_IF_EQUAL, 0, 1, *fd));
            program.push(allow);
        }
        program.push(kill);
    }
    program.push(kill);
    program
}

/// Loads a filter for this thread. `no_new_privs` must be set.
pub fn load(program: &[Instruction]) -> io::Result<()> {
    set_mode_filter(program, 0).map(drop)
}

/// Loads a filter and returns its listener, which gets the calls that the filter notifies; close-on-exec.
///
/// Where the kernel can (5.19), a call that the listener has received is interrupted by a fatal signal only.
pub fn load_with_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    const NEW_LISTENER: libc::c_ulong = 1 << 3;
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let loaded = match set_mode_filter(program, NEW_LISTENER | WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_mode_filter(program, NEW_LISTENER),
        loaded => loaded,
    }?;
    // SAFETY: with NEW_LISTENER a success is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(loaded) })
}

fn set_mode_filter(program: &[Instruction], flags: libc::c_ulong) -> io::Result<libc::c_int> {
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `program` points at `len` instructions in `filter`, and both outlive the call; the kernel checks them.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(done).map_err(io::Error::other)
}

/// The receiving end of a filter's notifications.
#[derive(Debug)]
pub struct NotifyListener(OwnedFd);

/// What a listener has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A call waits.
    Call,
    /// None does now.
    Nothing,
    /// Nobody is left under the filter: no call comes any more, and the descriptor hangs up for good.
    Nobody,
}

/// One call that waits for an answer.
///
/// `pid` and the arguments are what the call said when it was made; pointers in them point into memory that the
/// caller can change, so nothing may be decided by what lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What the answer must name.
    pub id: u64,
    /// The calling thread in the listener's pid namespace, 0 where it has none there.
    pub pid: u32,
    /// `AUDIT_ARCH_…`
    pub arch: u32,
    /// The system call's number.
    pub nr: i32,
    /// Where it was made.
    pub instruction_pointer: u64,
    /// Its six arguments.
    pub args: [u64; 6],
}

impl NotifyListener {
    /// Wraps a listener that was received.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Lets the kernel run listener and caller in turn on one CPU (6.6), which makes an answer three times as fast.
    ///
    /// An older kernel says `EINVAL`; nothing but speed is lost.
    pub fn wake_synchronously(&self) -> io::Result<()> {
        const SYNC_WAKE_UP: libc::c_ulong = 1;
        // SAFETY: the descriptor is open, and this ioctl takes its flags by value.
        let done =
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes the next call; `None` where the caller was gone before it could be taken.
    ///
    /// Blocks while there is none. After the last caller has gone it fails on Linux 6.11 and
    /// blocks for ever on an older one: see [`Self::waiting`] first.
    pub fn recv(&self) -> io::Result<Option<Notification>> {
        // SAFETY: `seccomp_notif` is plain integers; the kernel demands that it be all zero.
        let mut raw: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and `raw` is a whole writable `seccomp_notif`.
        match unsafe { ioctl::receive(self.0.as_raw_fd(), &raw mut raw) } {
            Ok(_) => Ok(Some(Notification {
                id: raw.id,
                pid: raw.pid,
                arch: raw.data.arch,
                nr: raw.data.nr,
                instruction_pointer: raw.data.instruction_pointer,
                args: raw.data.args,
            })),
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a call waits, or comes within `pause`, which is shorter than a second.
    pub fn waiting(&self, pause: Duration) -> io::Result<Waiting> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() })) {
            Err(rustix::io::Errno::INTR) => return Ok(Waiting::Nothing),
            done => done?,
        };
        let [fd] = fds;
        let found = fd.revents();
        Ok(match (found.contains(PollFlags::IN), found.contains(PollFlags::HUP)) {
            (true, _) => Waiting::Call,
            (false, true) => Waiting::Nobody,
            (false, false) => Waiting::Nothing,
        })
    }

    /// Lets the call be made; `false` where its caller is gone.
    pub fn reply_continue(&self, id: u64) -> io::Result<bool> {
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        self.reply(libc::seccomp_notif_resp { id, val: 0, error: 0, flags })
    }

    /// Makes the call fail with `errno` (a positive number); `false` where its caller is gone.
    pub fn reply_errno(&self, id: u64, errno: i32) -> io::Result<bool> {
        self.reply(libc::seccomp_notif_resp { id, val: 0, error: -errno.abs(), flags: 0 })
    }

    fn reply(&self, mut response: libc::seccomp_notif_resp) -> io::Result<bool> {
        // SAFETY: the descriptor is open and `response` is a whole `seccomp_notif_resp`.
        match unsafe { ioctl::send(self.0.as_raw_fd(), &raw mut response) } {
            Ok(_) => Ok(true),
            Err(nix::errno::Errno::ENOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for NotifyListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<NotifyListener> for OwnedFd {
    fn from(listener: NotifyListener) -> Self {
        listener.0
    }
}

/// The ioctls of linux/seccomp.h.
#[allow(missing_docs)]
mod ioctl {
    nix::ioctl_readwrite!(receive, b'!', 0, libc::seccomp_notif);
    nix::ioctl_readwrite!(send, b'!', 1, libc::seccomp_notif_resp);
}
