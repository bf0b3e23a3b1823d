//! A server of one directory that a guest commands: a root of its own with its program, its libraries and that
//! directory, a user namespace where it has the few capabilities of a file server over nobody's files but the
//! guest's, no network, a filter that is a list of what it may do.
//!
//! ```text
//! new mount, pid, net, ipc, uts namespaces -> cgroup -> exec label -> root, /proc -> descriptors -> rlimits
//!   -> user namespace, ids -> capabilities -> no_new_privs -> Landlock -> filter -> exec
//! ```
//! The mounts belong to the host's user namespace, the process to another: it cannot change any of them.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use super::common::{self, Command};
use super::helper::Begun;
use super::report::{At, Failure, SpawnError, Step, Who};
use crate::labeller::cgroup::DomainCgroup;
use crate::labeller::root::PreparedRoot;
use crate::privsep::confinement::Rlimit;
use crate::sys::landlock::{self, Allow};
use crate::sys::mount::{self, MountLimits};
use crate::sys::namespace::{self, Namespaces};
use crate::sys::seccomp::Instruction;
use crate::sys::{apparmor, cred, process, rlimit, scm, seccomp, selinux};

/// Where the directory stands in the root.
pub const SHARE: &str = "/svirt/share";

/// One server to start.
#[derive(Debug)]
pub struct Jail<'a> {
    /// What is executed, by its path on the host and in the root.
    pub program: &'a Path,
    /// Arguments, the program's name first.
    pub argv: &'a [String],
    /// Its root.
    pub root: &'a PreparedRoot,
    /// The directory as a detached mount.
    pub share: BorrowedFd<'a>,
    /// The user namespace; its id 0 is the server's.
    pub users: BorrowedFd<'a>,
    /// The capabilities that it has there, by number.
    pub capabilities: &'a [u32],
    /// Descriptors and their numbers; what is not given of 0, 1 and 2 is `/dev/null`.
    pub fds: &'a [(BorrowedFd<'a>, i32)],
    /// The domain's cgroup.
    pub cgroup: Option<&'a DomainCgroup>,
    /// Resource limits.
    pub rlimits: &'a [Rlimit],
    /// The context that SELinux gives at exec.
    pub selinux_exec: Option<&'a str>,
    /// The profile that AppArmor gives at exec.
    pub apparmor_exec: Option<&'a str>,
    /// Its filter; it must allow `execve`.
    pub seccomp: &'a [Instruction],
    /// How long it may take to its exec.
    pub timeout: Duration,
}

/// Starts a server and returns once it has been executed.
pub fn jail(jail: &Jail<'_>) -> Result<process::Child, SpawnError> {
    let command = Command::new(&jail.program.display().to_string(), jail.argv, &[])?;
    let null = common::open_null()?;
    let rlimits = common::rlimits(jail.rlimits, &mut Vec::new());
    let own = |action| SpawnError::own(action, jail.program);
    let place = jail.root.tree();
    let tree = mount::clone_path(place).map_err(own("clone the minimal root of"))?;
    // SELinux changes no context at exec on a nosuid mount.
    let nosuid = jail.selinux_exec.is_none();
    let limits = MountLimits { nodev: true, noexec: false, nosuid, readonly: true };
    mount::limit(tree.as_fd(), limits).map_err(own("limit the minimal root of"))?;
    let (report, theirs) = scm::seqpacket_pair().map_err(own("make a socket for"))?;
    let plan = Plan { jail, command: &command, null: &null, rlimits: &rlimits, tree: &tree };
    let namespaces =
        Namespaces { ipc: true, mount: true, net: true, pid: true, uts: true, ..Namespaces::default() };
    let cgroup = jail.cgroup.and_then(DomainCgroup::unified);
    let child = namespace::clone(namespaces, cgroup, || {
        let mut kept = [theirs.as_raw_fd()];
        match plan.go(&mut kept) {
            Ok(never) => match never {},
            Err(failure) => common::failed(kept[0], Who::Helper, &failure),
        }
    })
    .map_err(own("fork"))?;
    drop(theirs);
    let begun = Begun { child, report, name: jail.program.display().to_string() };
    match begun.executed(jail.timeout) {
        Ok(()) => Ok(begun.child),
        Err(error) => {
            let _unkillable = begun.child.end();
            Err(error)
        }
    }
}

struct Plan<'a> {
    jail: &'a Jail<'a>,
    command: &'a Command,
    null: &'a OwnedFd,
    rlimits: &'a [(rlimit::Kind, Option<u64>)],
    tree: &'a OwnedFd,
}

impl Plan<'_> {
    fn go(&self, kept: &mut [RawFd; 1]) -> Result<std::convert::Infallible, Failure> {
        let jail = self.jail;
        process::new_session().at(Step::Prepare)?;
        process::reset_signals().at(Step::Prepare)?;
        for (name, file) in jail.cgroup.into_iter().flat_map(DomainCgroup::join_files) {
            // 0 is whoever writes.
            (&*file).write_all(b"0").at_object(Step::Cgroup, name)?;
        }
        namespace::unshare(Namespaces { cgroup: true, ..Namespaces::default() }).at(Step::Cgroup)?;
        if let Some(context) = jail.selinux_exec {
            selinux::set_exec_context(context).at_object(Step::ExecLabel, context)?;
        }
        if let Some(profile) = jail.apparmor_exec {
            apparmor::set_exec_profile(profile).at_object(Step::Profile, profile)?;
        }
        self.enter()?;
        process::set_umask(0o077);
        // The user namespace is needed after everything else was closed.
        let mut held = [kept[0], jail.users.as_raw_fd()];
        let mut placed: Vec<(RawFd, RawFd)> = (0..3)
            .filter(|number| jail.fds.iter().all(|(_, given)| given != number))
            .map(|number| (self.null.as_raw_fd(), number))
            .collect();
        placed.extend(jail.fds.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)));
        process::place_fds(&placed, &mut held).at(Step::Descriptors)?;
        kept[0] = held[0];
        self.confine(&held[1])?;
        let (argv, env) = (self.command.argv(), self.command.env());
        let source = process::exec(&self.command.program, &argv, &env);
        Err(Failure { step: Step::Exec, source, detail: String::new() })
    }

    fn enter(&self) -> Result<(), Failure> {
        mount::make_private().at_object(Step::Root, "private")?;
        let root =
            mount::attach_over(self.tree.as_fd(), self.jail.root.tree()).at_object(Step::Root, "attach")?;
        mount::attach(self.jail.share, root.as_fd(), SHARE.trim_start_matches('/'))
            .at_object(Step::Root, SHARE)?;
        mount::change_root(&root).at_object(Step::Root, "pivot")?;
        mount::processes("/proc", true).at_object(Step::Root, "/proc")
    }

    fn confine(&self, users: &RawFd) -> Result<(), Failure> {
        for (kind, value) in self.rlimits {
            rlimit::set(*kind, *value).at_object(Step::Rlimits, &format!("{kind:?}"))?;
        }
        let rules = rules(self.jail.program);
        let ruleset = common::ruleset(&rules, landlock::effective_abi(u32::MAX)).at(Step::LandlockRules)?;
        cred::clear_groups().at(Step::Ids)?;
        namespace::join_user(common::fd(users)).at(Step::Users)?;
        cred::become_mapped_root().at(Step::Ids)?;
        cred::keep_capabilities(self.jail.capabilities).at(Step::Capabilities)?;
        cred::set_no_new_privs().at(Step::Capabilities)?;
        ruleset.restrict_self().at(Step::Landlock)?;
        // It is close-on-exec, and the process is in it.
        seccomp::load(self.jail.seccomp).at(Step::Filter)
    }
}

/// Its program and libraries, what it asks of the kernel, and the share. `/proc/self/fd` it only enters.
fn rules(program: &Path) -> Vec<(&Path, Allow)> {
    let read = Allow { read_file: true, ..Allow::default() };
    let facts = [
        "/proc/sys/fs",
        "/proc/sys/kernel/cap_last_cap",
        "/proc/self/mountinfo",
        "/proc/self/status",
        "/proc/self/uid_map",
    ];
    let libraries = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"];
    let mut rules = vec![(program, Allow::PROGRAM), (Path::new(SHARE), Allow::TREE)];
    rules.extend(libraries.map(|path| (Path::new(path), Allow::PROGRAM)));
    rules.extend(facts.map(|path| (Path::new(path), read)));
    rules.retain(|(path, _)| path.exists());
    rules
}
