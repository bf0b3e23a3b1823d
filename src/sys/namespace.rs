//! Namespaces: starting a process in new ones, joining a prepared one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sched::CloneFlags;

use super::process::{Child, run_and_exit};

/// Which namespaces are new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Cgroup.
    pub cgroup: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Mounts.
    pub mount: bool,
    /// Network.
    pub net: bool,
    /// Process numbers; the new process is number 1.
    pub pid: bool,
    /// Host name.
    pub uts: bool,
}

impl Namespaces {
    fn flags(self) -> CloneFlags {
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWCGROUP, self.cgroup);
        flags.set(CloneFlags::CLONE_NEWIPC, self.ipc);
        flags.set(CloneFlags::CLONE_NEWNS, self.mount);
        flags.set(CloneFlags::CLONE_NEWNET, self.net);
        flags.set(CloneFlags::CLONE_NEWPID, self.pid);
        flags.set(CloneFlags::CLONE_NEWUTS, self.uts);
        flags
    }
}

/// Starts `body` in a child process with new namespaces and, if given, inside a version 2 cgroup.
///
/// Goes past glibc's fork: only for a process with one thread.
pub fn clone(
    namespaces: Namespaces,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> io::Result<Child> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: `clone_args` is plain integers; all zero is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(namespaces.flags().bits().cast_unsigned()) | libc::CLONE_PIDFD as u64;
    args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    }
    // SAFETY: `args` is a whole `clone_args` that outlives the call and `pidfd` is writable. Without CLONE_VM the
    // child has its own copy of the memory; it runs `body` and leaves, so no frame is returned into twice. The
    // caller has one thread, so no lock is held by a thread that the child lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => run_and_exit(body),
        pid => {
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid: i32::try_from(pid).map_err(io::Error::other)?, pidfd })
        }
    }
}

/// Moves this thread into new namespaces (not the pid namespace, which only children can enter).
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    Ok(nix::sched::unshare(namespaces.flags())?)
}

/// Makes a user namespace for this process, which must have one thread; nobody is anybody there yet.
pub fn unshare_user() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?)
}

/// Moves this thread into a network namespace.
pub fn join_net(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// Makes a network namespace with nothing in it but a loopback that is down.
pub fn new_net() -> io::Result<OwnedFd> {
    let made = made_inside(Namespaces { net: true, ..Namespaces::default() }, || {
        Ok(vec![std::fs::File::open("/proc/thread-self/ns/net")?.into()])
    });
    made?.pop().ok_or_else(|| io::Error::other("no namespace was handed over"))
}

/// What a child makes in new namespaces of its own. The caller stays where it is: whoever has capabilities in a user
/// namespace alone has no way back into the host's network (setns(2)).
pub(super) fn made_inside(
    namespaces: Namespaces,
    make: impl FnOnce() -> io::Result<Vec<OwnedFd>>,
) -> io::Result<Vec<OwnedFd>> {
    let (ours, theirs) = super::scm::seqpacket_pair()?;
    let child = super::process::fork(|| {
        let sent = match unshare(namespaces).and_then(|()| make()) {
            Ok(made) => {
                let made: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
                super::scm::send(theirs.as_fd(), MADE, &made)
            }
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(libc::EIO);
                super::scm::send(theirs.as_fd(), &number.to_ne_bytes(), &[])
            }
        };
        i32::from(sent.is_err())
    })?;
    drop(theirs);
    let mut word = [0; size_of::<i32>()];
    let said = super::scm::recv(ours.as_fd(), &mut word);
    child.end()?;
    match said? {
        (length, made) if length == MADE.len() => Ok(made),
        (length, _) if length == word.len() => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(word))),
        _ => Err(io::Error::other("whoever was to make it has ended")),
    }
}

/// Comes with what was made; an error's number is longer.
const MADE: &[u8] = b"+";

/// One line of a user namespace's map: the first id inside, the first outside, how many.
pub type IdRange = (u32, u32, u32);

/// Makes a user namespace that maps exactly these uids and gids.
///
/// A child that does nothing else makes it and is ended again; whoever maps ids that are not its own needs
/// `CAP_SETUID` and `CAP_SETGID` (user_namespaces(7)).
pub fn new_user(uids: &[IdRange], gids: &[IdRange]) -> io::Result<OwnedFd> {
    let (ours, theirs) = super::scm::pipe()?;
    let child = super::process::fork(|| {
        let made = nix::sched::unshare(CloneFlags::CLONE_NEWUSER).is_ok();
        let _told = rustix::io::write(&theirs, if made { b"+" } else { b"-" });
        loop {
            nix::unistd::pause();
        }
    })?;
    drop(theirs);
    let made = mapped(&ours, child.pid, [("uid_map", uids), ("gid_map", gids)]);
    let ended = child.end();
    let made = made?;
    ended?;
    Ok(made)
}

fn mapped(said: &OwnedFd, pid: i32, maps: [(&str, &[IdRange]); 2]) -> io::Result<OwnedFd> {
    let mut word = [0];
    let length = rustix::io::read(said, &mut word)?;
    if length == 0 || word != *b"+" {
        return Err(io::Error::other("no user namespace can be made"));
    }
    for (name, ids) in maps {
        let line = |(inside, outside, count): &IdRange| format!("{inside} {outside} {count}\n");
        let map: String = ids.iter().map(line).collect();
        std::fs::write(format!("/proc/{pid}/{name}"), &map)?;
    }
    Ok(std::fs::File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// Moves this process into a user namespace, or that of a process by its pidfd (setns(2)), where it then has every
/// capability.
pub fn join_user(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::sched::setns(namespace, CloneFlags::CLONE_NEWUSER)?)
}

/// Sets the host name of this process's UTS namespace.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(nix::unistd::sethostname(name)?)
}
