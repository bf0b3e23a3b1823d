//! What the labeller gives up before it hears anybody: capabilities and system calls that it never needs.

use std::io;

use caps::Capability;

use crate::sys::{enter, mount, process, seccomp};

/// What is kept, and why. Everything else leaves the bounding set, so that no child can have it either.
const KEPT: [(Capability, &str); 12] = [
    (Capability::CAP_CHOWN, "gives a minimal root's files and a pty their owner"),
    (Capability::CAP_DAC_OVERRIDE, "opens images that belong to their users, for writing"),
    (Capability::CAP_DAC_READ_SEARCH, "reaches images below directories that are closed to others"),
    (Capability::CAP_FOWNER, "sets modes in its own directories whoever owns them"),
    (Capability::CAP_KILL, "ends processes that have their own uids"),
    (Capability::CAP_MAC_ADMIN, "writes labels that the loaded policy does not know yet"),
    (Capability::CAP_NET_ADMIN, "attaches to tap devices and sets up loopback in a new network namespace"),
    (Capability::CAP_SETGID, "gives each process its gid"),
    (Capability::CAP_SETPCAP, "empties the bounding set of what it starts"),
    (Capability::CAP_SETUID, "gives each process its uid"),
    (Capability::CAP_SYS_ADMIN, "mounts, namespaces, security.selinux attributes"),
    (Capability::CAP_SYS_PTRACE, "copies descriptors of a supervisor that outlived a labeller"),
];

/// Kept beside those: raising a hard limit for a device model that locks its memory.
const KEPT_FOR_LIMITS: Capability = Capability::CAP_SYS_RESOURCE;

/// Never needed, here or in anything that is started from here: refused with EPERM. Filters stack, so each
/// device model's own is at least as strict.
const REFUSED: [libc::c_long; 19] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_process_vm_writev,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
];

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// Confines this process. A mount namespace of its own comes first: minimal roots are mounted in it alone.
pub(super) fn confine() -> io::Result<()> {
    process::set_umask(0);
    mount::enter_slave_namespace()?;
    process::become_subreaper()?;
    let kept = KEPT.iter().map(|(capability, _)| *capability).chain([KEPT_FOR_LIMITS]);
    let mask = kept.fold(0, |mask, capability| mask | capability.bitmask());
    enter::bounding(mask)?;
    enter::permitted(mask)?;
    // Without no_new_privs: a device model's SELinux context comes by a transition at exec, and CAP_SYS_ADMIN
    // allows the filter all the same.
    seccomp::load(&baseline())
}

fn baseline() -> Vec<seccomp::Instruction> {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    const EPERM: u32 = 0x0005_0000 | 1;
    let mut program =
        vec![(LOAD, 0, 0, 4), (EQUAL, 1, 0, ARCH), (RETURN, 0, 0, KILL_PROCESS), (LOAD, 0, 0, 0)];
    for number in REFUSED.iter().filter_map(|number| u32::try_from(*number).ok()) {
        program.extend([(EQUAL, 0, 1, number), (RETURN, 0, 0, EPERM)]);
    }
    program.push((RETURN, 0, 0, ALLOW));
    program
}
