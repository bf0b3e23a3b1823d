//! What the device model, the supervisor and the helpers have in common on their way to exec.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::report::{At, Failure, SpawnError, Step};
use super::{floor, report};
use crate::base::Slot;
use crate::privsep::confinement::{LandlockAccess, LandlockSpec, Rlimit, RlimitKind, SeccompProgram};
use crate::privsep::op::FdGrant;
use crate::sys::landlock::{self, Allow, Prepared};
use crate::sys::seccomp::{self, Instruction};
use crate::sys::{cred, rlimit};

/// A table of the descriptors that a plan opened.
pub type Fds = std::collections::BTreeMap<Slot, OwnedFd>;

/// Program text as exec wants it, made before the fork.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    pub(super) fn new(program: &str, argv: &[String], env: &[(String, String)]) -> Result<Self, SpawnError> {
        let c = |text: &str| CString::new(text).map_err(|_| SpawnError::Nul(program.to_owned()));
        // Every way to a fork leads through here, and no child shall compile the floor anew.
        floor::program().map_err(SpawnError::own("compile the floor filter under", program))?;
        Ok(Self {
            program: c(program)?,
            argv: argv.iter().map(|argument| c(argument)).collect::<Result<_, _>>()?,
            env: env.iter().map(|(name, value)| c(&format!("{name}={value}"))).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn argv(&self) -> Vec<&CStr> {
        self.argv.iter().map(CString::as_c_str).collect()
    }

    pub(super) fn env(&self) -> Vec<&CStr> {
        self.env.iter().map(CString::as_c_str).collect()
    }
}

/// Opens a program to be executed by descriptor, so that the directories above it need not be searchable by its uid.
pub(super) fn open_program(path: &Path) -> Result<OwnedFd, SpawnError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| SpawnError::own("open the program", path)(error.into()))
}

pub(super) fn open_null() -> Result<OwnedFd, SpawnError> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| SpawnError::own("open", "/dev/null")(error.into()))
}

/// Turns a plan's grants into (descriptor, number), checking the numbers.
pub(super) fn grants(fds: &Fds, grants: &[FdGrant], first: RawFd) -> Result<Vec<(RawFd, RawFd)>, SpawnError> {
    let limit = rlimit::hard(rlimit::Kind::Nofile).and_then(|l| i32::try_from(l).ok()).unwrap_or(i32::MAX);
    let mut seen = std::collections::BTreeSet::new();
    grants
        .iter()
        .map(|grant| {
            if grant.number < first || grant.number >= limit || !seen.insert(grant.number) {
                return Err(SpawnError::BadNumber(grant.number));
            }
            let fd = fds.get(&grant.slot).ok_or_else(|| SpawnError::MissingSlot(grant.slot.clone()))?;
            Ok((fd.as_raw_fd(), grant.number))
        })
        .collect()
}

/// Lowers what the labeller's own hard limits do not allow, and names it.
pub(super) fn rlimits(wanted: &[Rlimit], degraded: &mut Vec<String>) -> Vec<(rlimit::Kind, Option<u64>)> {
    let mut limits = Vec::new();
    for limit in wanted {
        let kind = kind(limit.resource);
        let possible = match (limit.value, rlimit::hard(kind)) {
            // Locked memory needs all that it asks for, so a lower limit of the labeller's refuses the start.
            (None, _) if limit.resource == RlimitKind::Memlock => None,
            (Some(value), Some(hard)) => Some(value.min(hard)),
            (value, hard) => value.or(hard),
        };
        if possible != limit.value {
            let text = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
            degraded.push(format!(
                "rlimit {kind:?}: {} instead of {}, the labeller's own hard limit",
                text(possible),
                text(limit.value)
            ));
        }
        limits.push((kind, possible));
    }
    limits
}

fn kind(kind: RlimitKind) -> rlimit::Kind {
    match kind {
        RlimitKind::Core => rlimit::Kind::Core,
        RlimitKind::Fsize => rlimit::Kind::Fsize,
        RlimitKind::Memlock => rlimit::Kind::Memlock,
        RlimitKind::Msgqueue => rlimit::Kind::Msgqueue,
        RlimitKind::Nofile => rlimit::Kind::Nofile,
        RlimitKind::Nproc => rlimit::Kind::Nproc,
    }
}

/// A plan's Landlock rules as `sys` takes them.
pub(super) fn landlock_rules(spec: &LandlockSpec) -> Vec<(String, Allow)> {
    let allow = |access: &[LandlockAccess]| Allow {
        execute: access.contains(&LandlockAccess::Execute),
        ioctl_dev: access.contains(&LandlockAccess::IoctlDev),
        read_dir: access.contains(&LandlockAccess::ReadDir),
        read_file: access.contains(&LandlockAccess::ReadFile),
        truncate: access.contains(&LandlockAccess::Names),
        write_file: access.contains(&LandlockAccess::WriteFile),
        names: access.contains(&LandlockAccess::Names),
    };
    spec.rules.iter().map(|rule| (rule.path.clone(), allow(&rule.access))).collect()
}

pub(super) fn instructions(program: &SeccompProgram) -> Vec<Instruction> {
    program.0.iter().map(|insn| (insn.0, insn.1, insn.2, insn.3)).collect()
}

/// Reading and executing where programs and their libraries lie, for a process that keeps the host's root.
pub(super) fn library_rules() -> Vec<(std::path::PathBuf, Allow)> {
    ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"]
        .iter()
        .map(std::path::PathBuf::from)
        .filter(|path| path.exists())
        .map(|path| (path, Allow::PROGRAM))
        .collect()
}

/// Gives up every privilege: the order is what each step still needs of the ones after it.
pub(super) fn give_up(
    (uid, gid, groups): (u32, u32, &[u32]),
    limits: &[(rlimit::Kind, Option<u64>)],
    ruleset: impl FnOnce() -> std::io::Result<Prepared>,
    floor: bool,
) -> Result<(), Failure> {
    for (kind, value) in limits {
        rlimit::set(*kind, *value).at_object(Step::Rlimits, &format!("{kind:?}"))?;
    }
    cred::drop_bounding().at(Step::BoundingSet)?;
    // Opens the rules' paths, which need not be searchable for the new uid.
    let ruleset = ruleset().at(Step::LandlockRules)?;
    cred::set_ids(uid, gid, groups).at(Step::Ids)?;
    cred::clear_capabilities().at(Step::Capabilities)?;
    cred::set_no_new_privs().at(Step::Capabilities)?;
    ruleset.restrict_self().at(Step::Landlock)?;
    if floor {
        seccomp::load(floor::program().at(Step::Floor)?).at(Step::Floor)?;
    }
    Ok(())
}

/// Landlock for a process that has the ABI, or none.
pub(super) fn ruleset(rules: &[(impl AsRef<Path>, Allow)], abi: u32) -> std::io::Result<Prepared> {
    landlock::prepare(abi, rules)
}

/// Reports a failure and gives the exit status.
pub(super) fn failed(socket: RawFd, who: report::Who, failure: &Failure) -> i32 {
    report::send_failure(crate::sys::process::borrow(&socket), who, failure);
    127
}

/// Borrowed, for `sys` calls after the descriptors were placed.
pub(super) fn fd(raw: &RawFd) -> BorrowedFd<'_> {
    crate::sys::process::borrow(raw)
}
