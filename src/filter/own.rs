//! The ceiling over every fragment, the labeller's floor under every device model, and svirt's own filters.
//!
//! They are here, not in `profile`, because the labeller needs them and imports no more than it must. The image
//! probe's filter is code (`sys::imageprobe`): four dozen instructions that no file should change.

use std::sync::OnceLock;

use syscalls::Sysno;

use super::compile::{CompileError, compile};
use super::fragment::{Fragment, FragmentError};
use super::model::{CeilingError, Filter};
use crate::privsep::confinement::SeccompProgram;

const CEILING: &str = include_str!("../../labels/seccomp/ceiling.toml");
const FLOOR: &str = include_str!("../../labels/seccomp/floor.toml");
const LABELLER: &str = include_str!("../../labels/seccomp/svirt-labeller.toml");
const LABELLER_NO_IO_URING: &str = include_str!("../../labels/seccomp/svirt-labeller-no-io-uring.toml");
const FRONTEND: &str = include_str!("../../labels/seccomp/svirt-frontend.toml");
const SVIRTD: &str = include_str!("../../labels/seccomp/svirtd.toml");
const VIRTIOFSD: &str = include_str!("../../labels/seccomp/svirt-virtiofsd.toml");
const SUPERVISOR: &str = include_str!("../../labels/seccomp/svirt-supervisor.toml");

/// Why a filter that ships with svirt cannot be made; a test keeps this from happening.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// A rule allows what the ceiling never allows.
    #[error(transparent)]
    Ceiling(#[from] CeilingError),
    /// The program is too long.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A file under `labels/seccomp` is wrong.
    #[error(transparent)]
    Fragment(#[from] FragmentError),
}

/// What no fragment may ever allow, with what such a call gets; read once.
pub fn ceiling() -> Result<&'static Fragment, FragmentError> {
    static READ: OnceLock<Fragment> = OnceLock::new();
    Fragment::once(&READ, CEILING)
}

/// The calls of the ceiling.
#[must_use]
pub fn ceiling_calls(ceiling: &Fragment) -> Vec<Sysno> {
    ceiling.rules.iter().flat_map(|rule| rule.calls.iter().copied()).collect()
}

/// The labeller's own filter under every device model and helper: it allows what it does not name, kills or
/// refuses what the ceiling names, refuses new namespaces and set-uid files, and kills i386 and x32 calls.
///
/// It is loaded last before (or just after) the plan's filter, when mounts and ids are done; `execve`, threads and
/// loading another filter still work. Filters stack, the strictest answer counts.
pub fn floor() -> Result<SeccompProgram, OwnError> {
    denying(&[FLOOR])
}

/// The labeller's own filter, which everything that it starts inherits: it allows what it does not name, for mounts,
/// namespaces and ids are its trade, and what QEMU, the supervisor, the image probe and passt need must pass too.
///
/// `io_uring` says whether any domain may ask for it.
pub fn labeller(io_uring: bool) -> Result<SeccompProgram, OwnError> {
    Ok(compile(&labeller_filter(io_uring)?)?)
}

fn labeller_filter(io_uring: bool) -> Result<Filter, FragmentError> {
    let mut filter = Filter::allowing_known();
    Fragment::parse(LABELLER)?.add_to(&mut filter);
    if !io_uring {
        Fragment::parse(LABELLER_NO_IO_URING)?.add_to(&mut filter);
    }
    filter.normalise();
    Ok(filter)
}

/// The filter of the part that parses: it allows what it does not name.
pub fn frontend() -> Result<SeccompProgram, OwnError> {
    denying(&[FRONTEND])
}

/// The daemon's filter: that of the part that parses, and nothing that makes a socket of another kind or binds one.
pub fn svirtd() -> Result<SeccompProgram, OwnError> {
    denying(&[FRONTEND, SVIRTD])
}

/// The supervisor's filter, an allow-list. Loaded by the supervisor itself, once everything is open.
pub fn supervisor() -> Result<SeccompProgram, OwnError> {
    Ok(compile(&supervisor_filter()?)?)
}

/// virtiofsd's filter, an allow-list that is loaded before its exec in place of the floor: it enters a directory that
/// becomes its root, which the floor kills.
pub fn virtiofsd() -> Result<SeccompProgram, OwnError> {
    let mut filter = Filter::default();
    Fragment::parse(VIRTIOFSD)?.add_to(&mut filter);
    let own = [Sysno::chroot, Sysno::unshare];
    let others: Vec<Sysno> =
        ceiling_calls(ceiling()?).into_iter().filter(|call| !own.contains(call)).collect();
    filter.check_ceiling(&others)?;
    filter.normalise();
    Ok(compile(&filter)?)
}

fn supervisor_filter() -> Result<Filter, OwnError> {
    let ceiling = ceiling()?;
    let mut filter = Filter::default();
    Fragment::parse(SUPERVISOR)?.add_to(&mut filter);
    filter.check_ceiling(&ceiling_calls(ceiling))?;
    ceiling.add_to(&mut filter);
    filter.normalise();
    Ok(filter)
}

fn denying(texts: &[&str]) -> Result<SeccompProgram, OwnError> {
    let ceiling = ceiling()?;
    let mut filter = Filter::allowing();
    for text in texts {
        Fragment::parse(text)?.add_to(&mut filter);
    }
    filter.check_ceiling(&ceiling_calls(ceiling))?;
    ceiling.add_to(&mut filter);
    filter.normalise();
    Ok(compile(&filter)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::filter::judge;

    #[test]
    fn the_daemon_makes_no_socket_but_unix_ones() {
        let judgement = judge(&svirtd().unwrap()).unwrap();
        for call in ["read", "write", "accept4", "connect", "futex", "epoll_wait", "pwrite64", "fdatasync"] {
            assert!(judgement.allowed.iter().any(|name| name == call), "{call}");
        }
        for call in ["bind", "listen", "execve", "rename", "mkdir", "kill", "setuid"] {
            assert!(!judgement.allowed.iter().any(|name| name == call), "{call}");
        }
        assert!(judgement.allowed_conditionally.iter().any(|name| name == "socket"));
    }

    #[test]
    fn the_floor_leaves_a_launch_alone() {
        let judgement = judge(&floor().unwrap()).unwrap();
        for call in ["execve", "seccomp", "mkdirat", "mmap", "sendmsg", "socket"] {
            assert!(judgement.allowed.iter().any(|name| name == call), "{call}");
        }
        for call in ["mount", "ptrace", "bpf", "setns", "unshare", "open_by_handle_at", "kexec_load"] {
            assert!(judgement.kill.iter().any(|name| name == call), "{call}");
        }
        let by_argument = ["open", "clone", "creat", "chmod", "fchmod", "openat", "fchmodat"];
        assert_eq!(judgement.allowed_conditionally, by_argument);
        let mut filter = Filter::allowing();
        Fragment::parse(FLOOR).unwrap().add_to(&mut filter);
        let eval = |call: Sysno, args: [u64; 6]| {
            filter.eval(crate::filter::ARCH_X86_64, call.id() as u32, &args) == crate::filter::Action::Allow
        };
        let create = u64::from((libc::O_CREAT | libc::O_WRONLY).cast_unsigned());
        assert!(
            eval(Sysno::openat, [5, 1, create, 0o1644, 0, 0]) && eval(Sysno::open, [1, 0, 0o7777, 0, 0, 0])
        );
        assert!(
            !eval(Sysno::openat, [5, 1, create, 0o4755, 0, 0])
                && !eval(Sysno::open, [1, create, 0o2755, 0, 0, 0])
        );
        assert!(
            eval(Sysno::fchmod, [5, 0o1777, 0, 0, 0, 0]) && !eval(Sysno::fchmod, [5, 0o4755, 0, 0, 0, 0])
        );
        assert!(judgement.i386_killed && judgement.x32_refused && !judgement.newer_refused);
    }

    #[test]
    fn the_labeller_reaches_no_kernel_and_no_process() {
        let judgement = judge(&labeller(false).unwrap()).unwrap();
        let (eperm, enosys) = (judgement.errno.get(&1).unwrap(), judgement.errno.get(&38).unwrap());
        for call in ["ptrace", "process_vm_writev", "kexec_load", "init_module", "open_by_handle_at", "mknod"]
        {
            assert!(eperm.iter().any(|name| name == call), "{call}");
        }
        assert!(enosys.iter().any(|name| name == "io_uring_setup"));
        assert_eq!(judgement.allowed_conditionally, ["bpf"]);
        for call in ["mount", "pivot_root", "setns", "unshare", "clone3", "execve", "seccomp", "fsetxattr"] {
            assert!(judgement.allowed.iter().any(|name| name == call), "{call}");
        }
        assert!(judgement.i386_killed && judgement.x32_refused && judgement.newer_refused);
        assert!(judge(&labeller(true).unwrap()).unwrap().allowed.iter().any(|name| name == "io_uring_setup"));
    }

    #[test]
    fn the_labeller_leaves_its_supervisors_what_they_may_do() {
        let (below, above) = (labeller_filter(false).unwrap(), supervisor_filter().unwrap());
        for call in Sysno::iter().map(|call| call.id() as u32) {
            if above.eval(crate::filter::ARCH_X86_64, call, &[0; 6]) == crate::filter::Action::Allow {
                let under = below.eval(crate::filter::ARCH_X86_64, call, &[0; 6]);
                assert_eq!(under, crate::filter::Action::Allow, "call {call}");
            }
        }
    }

    #[test]
    fn virtiofsd_makes_no_namespace_no_device_and_no_set_uid_file() {
        let program = virtiofsd().unwrap();
        let judgement = judge(&program).unwrap();
        for call in [
            "mount",
            "setns",
            "mknodat",
            "socket",
            "connect",
            "bind",
            "ptrace",
            "open_by_handle_at",
            "bpf",
            "kill",
        ] {
            let ways = [&judgement.allowed, &judgement.allowed_conditionally, &judgement.launch];
            assert!(!ways.iter().any(|list| list.iter().any(|name| name == call)), "{call}");
        }
        let mut filter = Filter::default();
        Fragment::parse(VIRTIOFSD).unwrap().add_to(&mut filter);
        let eval = |call: Sysno, args: [u64; 6]| {
            filter.eval(crate::filter::ARCH_X86_64, call.id() as u32, &args) == crate::filter::Action::Allow
        };
        let create = u64::from((libc::O_CREAT | libc::O_WRONLY).cast_unsigned());
        assert!(eval(Sysno::openat, [5, 1, create, 0o644, 0, 0]));
        assert!(!eval(Sysno::openat, [5, 1, create, 0o4755, 0, 0]));
        assert!(!eval(Sysno::openat, [5, 1, u64::from(libc::O_TMPFILE.cast_unsigned()), 0o4755, 0, 0]));
        assert!(
            eval(Sysno::fchmodat, [5, 1, 0o1777, 0, 0, 0]) && !eval(Sysno::fchmodat, [5, 1, 0o2755, 0, 0, 0])
        );
        assert!(
            eval(Sysno::unshare, [0x200, 0, 0, 0, 0, 0])
                && !eval(Sysno::unshare, [0x1000_0000, 0, 0, 0, 0, 0])
        );
    }

    #[test]
    fn the_supervisor_opens_and_executes_nothing() {
        let judgement = judge(&supervisor().unwrap()).unwrap();
        for call in ["execve", "openat", "open", "socket", "bind", "connect", "fork", "ptrace", "chmod"] {
            let ways = [&judgement.allowed, &judgement.allowed_conditionally, &judgement.launch];
            assert!(!ways.iter().any(|list| list.iter().any(|name| name == call)), "{call}");
        }
        assert!(judgement.launch.is_empty() && judgement.newer_refused);
    }

    #[test]
    fn the_front_end_starts_nothing() {
        let judgement = judge(&frontend().unwrap()).unwrap();
        let refused = judgement.errno.get(&1).unwrap();
        for call in ["execve", "fork", "setuid", "fsetxattr"] {
            assert!(refused.iter().any(|name| name == call), "{call}");
        }
        assert!(judgement.allowed.iter().any(|name| name == "openat"));
    }
}
