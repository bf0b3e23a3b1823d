//! What a process that is being confined tells the labeller before it execs, and how that reads to a person.
//!
//! One `SOCK_SEQPACKET` socket, closed by exec: its end without a failure means that everybody got that far.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::base::{Layer, Refusal, Slot};
use crate::sys::scm;

/// A step between fork and exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Session, signals, parent-death signal.
    Prepare,
    /// Forking the device model into its namespaces.
    Clone,
    /// Entering the cgroup and its namespace.
    Cgroup,
    /// Entering the network namespace.
    Network,
    /// The context for the next exec.
    ExecLabel,
    /// The AppArmor profile for the next exec.
    Profile,
    /// Mounts and the change of root.
    Root,
    /// Placing the descriptors.
    Descriptors,
    /// The NUMA nodes that memory is taken from.
    Memory,
    /// Resource limits.
    Rlimits,
    /// Emptying the bounding set.
    BoundingSet,
    /// Making the Landlock ruleset.
    LandlockRules,
    /// Groups, gid and uid.
    Ids,
    /// Entering the user namespace.
    Users,
    /// Emptying the other capability sets and setting `no_new_privs`.
    Capabilities,
    /// Applying the Landlock ruleset.
    Landlock,
    /// The labeller's own filter.
    Floor,
    /// Waiting for the labeller's word.
    Go,
    /// The plan's filter.
    Filter,
    /// Sending the listener to the supervisor.
    Handoff,
    /// Writing what the supervisor reads first.
    Bootstrap,
    /// Executing the program.
    Exec,
}

impl Step {
    const ALL: [Self; 22] = [
        Self::Prepare,
        Self::Clone,
        Self::Cgroup,
        Self::Network,
        Self::ExecLabel,
        Self::Profile,
        Self::Root,
        Self::Descriptors,
        Self::Memory,
        Self::Rlimits,
        Self::BoundingSet,
        Self::LandlockRules,
        Self::Ids,
        Self::Users,
        Self::Capabilities,
        Self::Landlock,
        Self::Floor,
        Self::Go,
        Self::Filter,
        Self::Handoff,
        Self::Bootstrap,
        Self::Exec,
    ];

    /// What is done, as it reads after "cannot".
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Clone => "make the namespaces of",
            Self::Cgroup => "enter the cgroup of",
            Self::Network => "enter the network namespace of",
            Self::ExecLabel => "ask for the SELinux context of",
            Self::Profile => "ask for the AppArmor profile of",
            Self::Root => "build the root directory of",
            Self::Descriptors => "place the descriptors of",
            Self::Memory => "choose the NUMA nodes of",
            Self::Rlimits => "set the resource limits of",
            Self::BoundingSet => "empty the capability bounding set of",
            Self::LandlockRules => "make the Landlock rules of",
            Self::Users => "enter the user namespace of",
            Self::Ids => "set the uid and gid of",
            Self::Capabilities => "empty the capability sets of",
            Self::Landlock => "apply the Landlock rules of",
            Self::Floor => "load svirt's own filter of",
            Self::Go => "hear from the labeller about",
            Self::Filter => "load the filter of",
            Self::Handoff => "hand over the listener of the filter of",
            Self::Bootstrap => "write the instructions of",
            Self::Exec => "execute",
        }
    }

    fn layer(self) -> Layer {
        match self {
            Self::Prepare | Self::Descriptors | Self::Go | Self::Bootstrap | Self::Exec | Self::Memory => {
                Layer::Kernel
            }
            Self::Clone | Self::Network | Self::Root | Self::Users => Layer::Namespace,
            Self::Cgroup => Layer::Cgroup,
            Self::ExecLabel => Layer::Selinux,
            Self::Profile => Layer::Apparmor,
            Self::Rlimits => Layer::Rlimit,
            Self::BoundingSet | Self::Capabilities => Layer::Capability,
            Self::LandlockRules | Self::Landlock => Layer::Landlock,
            Self::Ids => Layer::Dac,
            Self::Floor | Self::Filter | Self::Handoff => Layer::Seccomp,
        }
    }

    /// The smallest change that would help.
    fn remedy(self, errno: Option<i32>) -> &'static str {
        match (self, errno) {
            (Self::Exec, Some(libc::ENOENT)) => {
                "the program, or the dynamic loader that it names, is not there; install it or correct the setting"
            }
            (Self::Exec, Some(libc::EACCES)) => {
                "the program must be executable for everybody, and under SELinux an entry point of the asked type"
            }
            (Self::Exec, Some(libc::EPERM)) => {
                "under SELinux the policy must allow nnp_transition to the asked type; load svirt's policy module"
            }
            (Self::Exec, Some(libc::ENOSYS)) => {
                "the supervisor ended before it could let the start through; its messages say why"
            }
            (Self::ExecLabel, _) => "check that SELinux runs and that the type is in the loaded policy",
            (Self::Memory, Some(libc::EINVAL)) => "<numatune> names a node that this host has not",
            (Self::Rlimits, _) => "raise the labeller's own limit in its unit file",
            (Self::BoundingSet | Self::Ids | Self::Clone | Self::Network | Self::Root, Some(libc::EPERM)) => {
                "the labeller needs CAP_SYS_ADMIN, CAP_SETPCAP, CAP_SETUID and CAP_SETGID; check its unit file"
            }
            (Self::LandlockRules, _) => "a path of the rules is missing in the minimal root",
            _ => "this is not a matter of the definition; the kernel's error tells more",
        }
    }
}

/// Which process failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Who {
    /// The device model.
    DeviceModel,
    /// The supervisor.
    Supervisor,
    /// A helper or the image probe.
    Helper,
}

/// Why a process was not started. Nothing of it runs any more.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A step in the new process failed.
    #[error("cannot {} {program}: {source}", step.text())]
    Step {
        /// In which process.
        who: Who,
        /// Which.
        step: Step,
        /// What was to be executed.
        program: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
        /// On what object, if the step has several.
        detail: String,
    },
    /// A descriptor that the plan names was not opened.
    #[error("no descriptor in slot {0}")]
    MissingSlot(Slot),
    /// A descriptor's number is reserved, given twice, or above the limit.
    #[error("descriptor number {0} cannot be given")]
    BadNumber(i32),
    /// Text with a NUL byte.
    #[error("an argument of {0} contains a NUL byte")]
    Nul(String),
    /// The processes did not get as far as exec in time.
    #[error("{0} was not executed in time")]
    Timeout(String),
    /// A process was gone without a word.
    #[error("{0} ended before it was executed")]
    Died(String),
    /// The labeller's part failed.
    #[error("cannot {action}: {source}")]
    Labeller {
        /// What it did.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
        /// On what.
        path: PathBuf,
    },
}

impl SpawnError {
    /// The labeller's own part failed.
    pub(in crate::labeller) fn own(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Labeller { action, source, path }
    }

    /// What a person is told.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Step { step, program, source, detail, .. } => {
                let rule = if detail.is_empty() { source.to_string() } else { format!("{detail}: {source}") };
                let remedy = step.remedy(source.raw_os_error());
                Refusal::new(step.layer(), step.text(), program, rule, remedy)
            }
            Self::MissingSlot(slot) => {
                let rule = "no operation before it opens this descriptor";
                Refusal::new(Layer::Policy, "start a process with the descriptor", slot.as_str(), rule, PLAN)
            }
            Self::BadNumber(number) => {
                let rule = "numbers are unique, not reserved, and below the limit of open files";
                Refusal::new(Layer::Policy, "give a process the descriptor", number.to_string(), rule, PLAN)
            }
            Self::Nul(program) => {
                Refusal::new(Layer::Policy, "pass the arguments of", program, "one contains a NUL byte", PLAN)
            }
            Self::Timeout(program) => {
                let remedy = "raise limits.start_timeout if the host is that slow";
                Refusal::new(Layer::Kernel, "execute", program, "limits.start_timeout has passed", remedy)
            }
            Self::Died(program) => {
                let remedy = "look for a kill by the kernel (out of memory, audit) in its log";
                Refusal::new(Layer::Kernel, "execute", program, "it ended without a word", remedy)
            }
            Self::Labeller { action, source, path } => {
                let remedy = "this is not a matter of the definition; the kernel's error tells more";
                Refusal::new(Layer::Kernel, *action, path.display().to_string(), source.to_string(), remedy)
            }
        }
    }
}

const PLAN: &str = "the plan is wrong: report it with the output of `svirt plan`";

/// A failed step, on its way out of the new process.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) source: io::Error,
    pub(super) detail: String,
}

/// Names the step at which a call failed.
pub(super) trait At<T> {
    fn at(self, step: Step) -> Result<T, Failure>;
    fn at_object(self, step: Step, detail: &str) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.at_object(step, "")
    }

    fn at_object(self, step: Step, detail: &str) -> Result<T, Failure> {
        self.map_err(|source| Failure { step, source, detail: detail.to_owned() })
    }
}

/// What arrives from the new processes.
#[derive(Debug)]
pub(super) enum News {
    /// The device model was forked: its pid and pidfd.
    Forked(i32, OwnedFd),
    /// The device model has confined itself and waits.
    Ready,
    /// A step failed.
    Failed(Who, Failure),
    /// Every sender has executed its program, or is gone.
    End,
}

const FORKED: u8 = 1;
const READY: u8 = 2;
const FAILED: u8 = 3;

/// Tells that the device model was forked.
pub(super) fn send_forked(socket: BorrowedFd<'_>, pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let [a, b, c, d] = pid.to_le_bytes();
    scm::send(socket, &[FORKED, a, b, c, d], &[pidfd]).map(drop)
}

/// Tells that the device model waits for the word.
pub(super) fn send_ready(socket: BorrowedFd<'_>) -> io::Result<()> {
    scm::send(socket, &[READY], &[]).map(drop)
}

/// Tells a failure; if even that fails, the end of the connection has to do.
pub(super) fn send_failure(socket: BorrowedFd<'_>, who: Who, failure: &Failure) {
    let errno = failure.source.raw_os_error().unwrap_or(0);
    let mut packet = vec![FAILED, who as u8, failure.step as u8];
    packet.extend(errno.to_le_bytes());
    packet.extend(failure.detail.bytes().take(256));
    if errno == 0 {
        packet.extend(format!(" {}", failure.source).bytes().take(256));
    }
    let _lost = scm::send(socket, &packet, &[]);
}

/// Receives what comes next.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<News> {
    let mut buffer = [0; 1024];
    let (length, fds) = match scm::recv(socket, &mut buffer) {
        // A sender that ended with unread data in its own queue.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(News::End),
        received => received?,
    };
    match (buffer.get(..length).unwrap_or_default(), fds.into_iter().next()) {
        ([], _) => Ok(News::End),
        ([FORKED, a, b, c, d], Some(pidfd)) => Ok(News::Forked(i32::from_le_bytes([*a, *b, *c, *d]), pidfd)),
        ([READY], _) => Ok(News::Ready),
        ([FAILED, who, step, a, b, c, d, detail @ ..], _) => {
            let errno = i32::from_le_bytes([*a, *b, *c, *d]);
            let detail = String::from_utf8_lossy(detail).into_owned();
            failure(*who, *step, errno, detail).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn failure(who: u8, step: u8, errno: i32, detail: String) -> Option<News> {
    let who = [Who::DeviceModel, Who::Supervisor, Who::Helper].into_iter().find(|w| *w as u8 == who)?;
    let step = Step::ALL.into_iter().find(|s| *s as u8 == step)?;
    let source = if errno == 0 { io::Error::other("not done") } else { io::Error::from_raw_os_error(errno) };
    Some(News::Failed(who, Failure { step, source, detail }))
}
