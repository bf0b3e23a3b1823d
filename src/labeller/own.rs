//! What the labeller gives up before it hears anybody: capabilities and system calls that it never needs.

use std::io;

use caps::Capability;

use crate::filter::own;
use crate::sys::{enter, mount, process, rlimit, seccomp};

/// What is kept, and why. Everything else leaves the bounding set, so that no child can have it either.
const KEPT: [(Capability, &str); 12] = [
    (Capability::CAP_CHOWN, "gives logs, ptys and a minimal root's files their owners"),
    (
        Capability::CAP_DAC_OVERRIDE,
        "opens images that belong to their users, below directories closed to others",
    ),
    (Capability::CAP_FOWNER, "labels images that belong to others, and sets modes of what it gave away"),
    (Capability::CAP_KILL, "ends processes that have their own uids"),
    (Capability::CAP_MAC_ADMIN, "puts back labels that the loaded policy does not know"),
    (Capability::CAP_NET_ADMIN, "attaches to tap devices and sets up loopback in a new network namespace"),
    (Capability::CAP_SETGID, "gives each process its gid"),
    (Capability::CAP_SETPCAP, "empties the bounding set of what it starts"),
    (Capability::CAP_SETUID, "gives each process its uid"),
    (
        Capability::CAP_SYS_ADMIN,
        "mounts, namespaces, security attributes, filters without no_new_privs, device rules",
    ),
    (Capability::CAP_SYS_NICE, "moves threads of device models, which have their own uids, to other CPUs"),
    (Capability::CAP_SYS_PTRACE, "copies descriptors of a supervisor that outlived a labeller"),
];

/// Confines this process. A mount namespace of its own comes first: minimal roots are mounted in it alone.
///
/// The filter is `labels/seccomp/svirt-labeller.toml`. `io_uring` says whether any domain may ask for that.
pub(super) fn confine(io_uring: bool) -> io::Result<()> {
    let program = own::labeller(io_uring).map_err(io::Error::other)?;
    let program: Vec<seccomp::Instruction> = program.0.iter().map(|i| (i.0, i.1, i.2, i.3)).collect();
    process::set_umask(0);
    // Started on demand it would keep a directory of somebody else's busy.
    std::env::set_current_dir("/")?;
    // A deep chain has hundreds of layers, each one a descriptor; the shell's soft limit is 1024.
    raise_descriptors()?;
    // For domains with <locked/> memory; every other one gets 0. Where it cannot be had, such a start says so.
    let _lower = rlimit::set(rlimit::Kind::Memlock, None);
    mount::enter_slave_namespace()?;
    process::become_subreaper()?;
    keep_capabilities()?;
    // Without no_new_privs: a device model's SELinux context comes by a transition at exec, and CAP_SYS_ADMIN
    // allows the filter all the same.
    seccomp::load(&program)
}

/// Lets this process have as many descriptors as it may.
pub(super) fn raise_descriptors() -> io::Result<()> {
    rlimit::set(rlimit::Kind::Nofile, rlimit::hard(rlimit::Kind::Nofile))
}

/// Gives up every capability that no labeller needs.
pub(super) fn keep_capabilities() -> io::Result<()> {
    let mask = KEPT.iter().fold(0, |mask, (capability, _)| mask | capability.bitmask());
    enter::bounding(mask)?;
    enter::permitted(mask)
}
