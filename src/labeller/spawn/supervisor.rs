//! The supervisor's way from the labeller's fork to its exec: `S`.
//!
//! It keeps the host's root and namespaces, and of the file system only what a program and its libraries need;
//! the program gives up the rest once it runs.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::common::{self, Command, Fds};
use super::report::{At, Failure, SpawnError, Step, Who};
use crate::base::DomainRef;
use crate::privsep::apparmor::{ProfilePart, part_name};
use crate::privsep::helper::SUPERVISOR_LIMITS;
use crate::privsep::password::Password;
use crate::privsep::supervisor::{
    BOOTSTRAP_FD, Bootstrap, FIRST_PLAN_FD, HANDOFF_FD, LABELLER_FD, PIDFD, STDERR_FD, SupervisorSpec,
};
use crate::sys::landlock::{self, Allow};
use crate::sys::{apparmor, memfd, process, rlimit, selinux};

/// Everything that a supervisor's process needs, made before the fork.
pub(super) struct Supervisor<'a> {
    command: Command,
    program: OwnedFd,
    bootstrap: Bootstrap,
    selinux: Option<&'a str>,
    apparmor: Option<String>,
    placed: Vec<(RawFd, RawFd)>,
    rules: Vec<(PathBuf, Allow)>,
    null: OwnedFd,
}

/// What it watches the device model through.
pub(super) struct Watched<'a> {
    pub(super) pid: i32,
    pub(super) pidfd: BorrowedFd<'a>,
    pub(super) stderr: BorrowedFd<'a>,
    /// Where the listener will come from; a supervisor that takes over has none.
    pub(super) handoff: Option<BorrowedFd<'a>>,
    /// Its end of the socket to the labeller.
    pub(super) labeller: BorrowedFd<'a>,
}

impl<'a> Supervisor<'a> {
    /// Prepares one that starts a device model, with the passwords of its displays; or without any one that takes over.
    pub(super) fn prepare(
        path: &Path,
        domain: &DomainRef,
        spec: &'a SupervisorSpec,
        (fds, profiled): (&Fds, bool),
        passwords: Option<&[Password]>,
    ) -> Result<Self, SpawnError> {
        let text = path.display().to_string();
        let argv = ["svirt-supervisor".to_owned(), domain.name.as_str().to_owned()];
        let mut rules = common::library_rules();
        rules.push((path.to_path_buf(), Allow::PROGRAM));
        Ok(Self {
            command: Command::new(&text, &argv, &[])?,
            program: common::open_program(path)?,
            bootstrap: Bootstrap {
                domain: domain.clone(),
                spec: spec.clone(),
                takeover: passwords.is_none(),
                qemu_pid: 0,
                passwords: passwords.unwrap_or_default().to_vec(),
            },
            selinux: spec.selinux_label.as_deref(),
            apparmor: profiled.then(|| part_name(domain.uuid, ProfilePart::Supervisor)),
            placed: common::grants(fds, &spec.fds, FIRST_PLAN_FD)?,
            rules,
            null: common::open_null()?,
        })
    }

    /// Runs in the fork; returns its exit status where exec did not happen.
    pub(super) fn run(&self, report: BorrowedFd<'_>, watched: &Watched<'_>) -> i32 {
        let mut kept = [report.as_raw_fd(), self.program.as_raw_fd()];
        match self.go(&mut kept, watched) {
            Ok(never) => match never {},
            Err(failure) => common::failed(kept[0], Who::Supervisor, &failure),
        }
    }

    fn go(&self, kept: &mut [RawFd; 2], watched: &Watched<'_>) -> Result<std::convert::Infallible, Failure> {
        let bootstrap = Bootstrap { qemu_pid: watched.pid, ..self.bootstrap.clone() };
        let text = serde_json::to_vec(&bootstrap).map_err(std::io::Error::other).at(Step::Bootstrap)?;
        let bootstrap = memfd::sealed("svirt-bootstrap", &text).at(Step::Bootstrap)?;
        if let Some(context) = self.selinux {
            selinux::set_exec_context(context).at_object(Step::ExecLabel, context)?;
        }
        if let Some(profile) = &self.apparmor {
            apparmor::set_exec_profile(profile).at_object(Step::Profile, profile)?;
        }
        process::set_umask(0o077);
        let null = self.null.as_raw_fd();
        let mut placed = self.placed.clone();
        placed.extend([(null, 0), (null, 1), (null, 2)]);
        placed.extend([
            (bootstrap.as_raw_fd(), BOOTSTRAP_FD),
            (watched.labeller.as_raw_fd(), LABELLER_FD),
            (watched.pidfd.as_raw_fd(), PIDFD),
            (watched.stderr.as_raw_fd(), STDERR_FD),
        ]);
        placed.extend(watched.handoff.map(|handoff| (handoff.as_raw_fd(), HANDOFF_FD)));
        process::place_fds(&placed, kept).at(Step::Descriptors)?;
        // Its number may be another descriptor's by now.
        std::mem::forget(bootstrap);
        let mut limits = common::rlimits(SUPERVISOR_LIMITS, &mut Vec::new());
        limits.push((rlimit::Kind::Fsize, rlimit::hard(rlimit::Kind::Fsize)));
        let abi = landlock::effective_abi(u32::MAX);
        let uid = self.bootstrap.spec.uid;
        common::give_up((uid, uid, &[]), &limits, || common::ruleset(&self.rules, abi), true)?;
        let (argv, env) = (self.command.argv(), self.command.env());
        Err(Failure {
            step: Step::Exec,
            source: process::exec_fd(process::borrow(&kept[1]), &argv, &env),
            detail: String::new(),
        })
    }

    pub(super) fn program(&self) -> String {
        self.command.program.to_string_lossy().into_owned()
    }
}
