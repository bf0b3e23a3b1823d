//! Helpers and one-shots: one confined process that keeps the host's root.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::common::{self, Command};
use super::report::{At, Failure, SpawnError, Step, Who};
use super::{Progress, advance};
use crate::labeller::cgroup::DomainCgroup;
use crate::privsep::confinement::{Rlimit, SeccompProgram};
use crate::sys::landlock::{self, Allow};
use crate::sys::namespace::{self, Namespaces};
use crate::sys::{apparmor, process, rlimit, scm, seccomp, selinux};

/// One process to start. Its capability sets are empty and `no_new_privs` is set, whatever stands here.
#[derive(Debug)]
pub struct Helper<'a> {
    /// What is executed; by descriptor, so that only the file itself must be executable for the uid.
    pub program: &'a Path,
    /// Arguments, the program's name first.
    pub argv: &'a [String],
    /// The whole environment.
    pub env: &'a [(String, String)],
    /// Uid, and gid of the same number.
    pub uid: u32,
    /// Descriptors and their numbers; what is not given of 0, 1 and 2 is `/dev/null`.
    pub fds: &'a [(BorrowedFd<'a>, i32)],
    /// Paths beyond program and libraries that Landlock lets it reach; `None` loads no Landlock rules and no floor
    /// filter, for a helper that makes its own mounts and namespaces.
    pub reach: Option<&'a [(&'a Path, Allow)]>,
    /// The domain's cgroup, which it starts in.
    pub cgroup: Option<&'a DomainCgroup>,
    /// Resource limits.
    pub rlimits: &'a [Rlimit],
    /// New namespaces; a new pid namespace comes with the fork, in which the process is number 1, and sees nobody else.
    pub namespaces: Namespaces,
    /// The context that SELinux gives at exec.
    pub selinux_exec: Option<&'a str>,
    /// The AppArmor profile that it is executed under.
    pub apparmor_exec: Option<&'a str>,
    /// A filter, loaded last; it must allow `execveat`.
    pub seccomp: Option<&'a SeccompProgram>,
    /// Whether it is killed when the labeller ends.
    pub die_with_labeller: bool,
    /// How long it may take to its exec.
    pub timeout: Duration,
}

/// A helper on its way to its exec.
#[derive(Debug)]
pub struct Begun {
    /// The process.
    pub child: process::Child,
    pub(super) report: OwnedFd,
    pub(super) name: String,
}

/// Forks a helper and does not wait for it.
pub fn begin(helper: &Helper<'_>) -> Result<Begun, SpawnError> {
    let command = Command::new(&helper.program.display().to_string(), helper.argv, helper.env)?;
    let program = common::open_program(helper.program)?;
    let null = common::open_null()?;
    let rlimits = common::rlimits(helper.rlimits, &mut Vec::new());
    let (report, theirs) =
        scm::seqpacket_pair().map_err(SpawnError::own("make a socket for", helper.program))?;
    let labeller = process::own_pid();
    let body = || {
        let plan = Plan { helper, command: &command, null: &null, rlimits: &rlimits, labeller };
        let mut kept = [theirs.as_raw_fd(), program.as_raw_fd()];
        match plan.go(&mut kept) {
            Ok(never) => match never {},
            Err(failure) => common::failed(kept[0], Who::Helper, &failure),
        }
    };
    // Moving a process later takes the kernel many times as long as starting it there.
    let pid = Namespaces { pid: helper.namespaces.pid, ..Namespaces::default() };
    let child = match helper.cgroup {
        Some(cgroup) => namespace::clone(pid, cgroup.unified(), body),
        None if pid.pid => namespace::clone(pid, None, body),
        None => process::fork(body),
    }
    .map_err(SpawnError::own("fork", helper.program))?;
    Ok(Begun { child, report, name: helper.program.display().to_string() })
}

/// Starts a helper and returns once it has been executed.
pub fn helper(helper: &Helper<'_>) -> Result<process::Child, SpawnError> {
    let begun = begin(helper)?;
    match begun.executed(helper.timeout) {
        Ok(()) => Ok(begun.child),
        Err(error) => {
            let _unkillable = begun.child.end();
            Err(error)
        }
    }
}

impl Begun {
    /// Waits at most so long for the exec; an error is the step that failed on the way there.
    pub fn executed(&self, timeout: Duration) -> Result<(), SpawnError> {
        match advance(self.report.as_fd(), Instant::now() + timeout, &|_| self.name.clone())? {
            Progress::End => Ok(()),
            _ => Err(SpawnError::Died(self.name.clone())),
        }
    }
}

struct Plan<'a> {
    helper: &'a Helper<'a>,
    command: &'a Command,
    null: &'a OwnedFd,
    rlimits: &'a [(rlimit::Kind, Option<u64>)],
    labeller: i32,
}

impl Plan<'_> {
    fn go(&self, kept: &mut [RawFd; 2]) -> Result<std::convert::Infallible, Failure> {
        let helper = self.helper;
        process::new_session().at(Step::Prepare)?;
        process::reset_signals().at(Step::Prepare)?;
        for (name, file) in helper.cgroup.into_iter().flat_map(DomainCgroup::join_files) {
            // 0 is whoever writes.
            (&*file).write_all(b"0").at_object(Step::Cgroup, name)?;
        }
        let others = Namespaces { pid: false, ..helper.namespaces };
        if others != Namespaces::default() {
            namespace::unshare(others).at(Step::Clone)?;
        }
        if let Some(context) = helper.selinux_exec {
            selinux::set_exec_context(context).at_object(Step::ExecLabel, context)?;
        }
        if let Some(profile) = helper.apparmor_exec {
            apparmor::set_exec_profile(profile).at_object(Step::Profile, profile)?;
        }
        process::set_umask(0o077);
        let mut placed: Vec<(RawFd, RawFd)> = (0..3)
            .filter(|number| helper.fds.iter().all(|(_, given)| given != number))
            .map(|number| (self.null.as_raw_fd(), number))
            .collect();
        placed.extend(helper.fds.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)));
        process::place_fds(&placed, kept).at(Step::Descriptors)?;
        self.confine()?;
        if helper.die_with_labeller {
            // After the ids, whose change clears it.
            process::die_with_parent(true).at(Step::Prepare)?;
            if !process::parent_is(self.labeller) {
                return Err(std::io::Error::from_raw_os_error(libc::ESRCH)).at(Step::Prepare);
            }
        }
        let (argv, env) = (self.command.argv(), self.command.env());
        if let Some(filter) = helper.seccomp {
            seccomp::load(&common::instructions(filter)).at(Step::Filter)?;
        }
        let source = process::exec_fd(process::borrow(&kept[1]), &argv, &env);
        Err(Failure { step: Step::Exec, source, detail: String::new() })
    }

    fn confine(&self) -> Result<(), Failure> {
        let helper = self.helper;
        let abi = helper.reach.map_or(0, |_| landlock::effective_abi(u32::MAX));
        let ruleset = || {
            let mut rules = common::library_rules();
            rules.push((helper.program.to_path_buf(), Allow::PROGRAM));
            rules.extend(
                helper.reach.unwrap_or_default().iter().map(|(path, allow)| (path.to_path_buf(), *allow)),
            );
            common::ruleset(&rules, abi)
        };
        common::give_up((helper.uid, helper.uid, &[]), self.rlimits, ruleset, helper.reach.is_some())
    }
}
