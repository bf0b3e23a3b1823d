//! Starts processes that hold nothing: the supervisor, under it the device model, and helpers.
//!
//! ```text
//! labeller -- fork --> S -- clone3 --> Q       S: svirt-supervisor, Q: the device model
//!    ^  |              |               |
//!    |  +--- go -------|-------------->|       only after the labeller has written both pids down
//!    +--- failures, Q's pidfd, ready --+       one socket that exec closes
//!                      |<-- listener --+       the filter's, over the handoff socket
//! ```
//! Owns the order of the steps between fork and exec. Decides nothing: what is applied stands in the plan, and
//! what is not a choice (empty capability sets, `no_new_privs`, new namespaces, the floor filter) stands here.

mod answer;
mod common;
mod floor;
mod helper;
mod jail;
mod model;
mod report;
mod supervisor;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

pub use answer::{Question, ask};
pub use common::Fds;
pub use helper::{Begun, Helper, begin, helper};
pub use jail::{Jail, SHARE, jail};
pub use report::{SpawnError, Step, Who};

use self::model::Model;
use self::report::News;
use self::supervisor::{Supervisor, Watched};
use super::cgroup::DomainCgroup;
use super::root::PreparedRoot;
use crate::base::DomainRef;
use crate::privsep::op::Spawn;
use crate::privsep::password::Password;
use crate::privsep::supervisor::SupervisorSpec;
use crate::sys::process::{self, Child};
use crate::sys::{namespace, scm};

/// A start: what to start, with what.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Whose.
    pub domain: &'a DomainRef,
    /// The plan's operation.
    pub spawn: &'a Spawn,
    /// What the plan has opened. The caller keeps the objects and closes its copies when it likes.
    pub fds: &'a Fds,
    /// The AppArmor profile of the device model, where one was loaded; the supervisor's was then, too.
    pub profile: Option<&'a str>,
    /// The minimal root of this emulator.
    pub root: &'a PreparedRoot,
    /// The domain's cgroup, where there is one.
    pub cgroup: Option<&'a DomainCgroup>,
    /// A network namespace made ahead ([`spare_net`]); without one a new one is made during the start.
    pub net: Option<OwnedFd>,
    /// `svirt-supervisor`.
    pub supervisor: &'a Path,
    /// What the displays ask of those who come to them, for the supervisor alone.
    pub passwords: &'a [Password],
    /// How long both may take to their exec.
    pub timeout: Duration,
}

/// A device model that was executed, and its supervisor.
#[derive(Debug)]
pub struct Launched {
    /// The device model; not the labeller's child until its supervisor ends.
    pub qemu: Child,
    /// The supervisor.
    pub supervisor: Child,
    /// The labeller's end of the supervisor's socket.
    pub control: OwnedFd,
    /// The reading end of the device model's standard error, kept for a supervisor that takes over.
    pub stderr: OwnedFd,
    /// Layers that are weaker than the plan asks, by name.
    pub degraded: Vec<String>,
}

/// The pids of a start that has not been let go yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forked {
    /// The device model.
    pub qemu_pid: i32,
    /// The supervisor.
    pub supervisor_pid: i32,
}

/// Forks a supervisor and its device model, and returns at once.
///
/// Both confine themselves while the caller goes on; [`Launching::advance`] says how far they are. If the labeller
/// dies before it says [`Launching::go`], nothing runs.
pub fn launch(launch: Launch<'_>) -> Result<Launching, SpawnError> {
    let mut degraded = launch.cgroup.map_or_else(Vec::new, |cgroup| cgroup.unenforced().to_vec());
    let Launch { domain, spawn, fds, profile, root, cgroup, net, supervisor, passwords, timeout } = launch;
    let model = Model::prepare(spawn, (fds, profile), root, cgroup, net, &mut degraded)?;
    let supervisor = Supervisor::prepare(
        supervisor,
        domain,
        &spawn.supervisor,
        (fds, profile.is_some()),
        Some(passwords),
    )?;
    let sockets = Sockets::make(&spawn.program)?;
    let child = fork_both(&model, &supervisor, &sockets)
        .map_err(SpawnError::own("fork the supervisor of", &spawn.program))?;
    let Sockets { report: (report, _), control: (control, _), stderr: (stderr, _), .. } = sockets.keep_ours();
    Ok(Launching {
        report,
        control,
        stderr,
        degraded,
        deadline: Instant::now() + timeout,
        qemu: None,
        supervisor: child,
        ready: false,
        program: spawn.program.clone(),
        supervisor_program: supervisor.program(),
    })
}

/// A running device model that has lost its supervisor.
#[derive(Debug)]
pub struct Takeover<'a> {
    /// Whose.
    pub domain: &'a DomainRef,
    /// The supervisor's part of the plan.
    pub spec: &'a SupervisorSpec,
    /// The descriptors of `spec`.
    pub fds: &'a Fds,
    /// Whether the domain's AppArmor profiles were loaded.
    pub profiled: bool,
    /// The device model's pid.
    pub qemu_pid: i32,
    /// The device model's pidfd.
    pub qemu: BorrowedFd<'a>,
    /// [`Launched::stderr`].
    pub stderr: BorrowedFd<'a>,
    /// `svirt-supervisor`.
    pub supervisor: &'a Path,
    /// How long it may take to its exec.
    pub timeout: Duration,
}

/// Starts another supervisor over a running device model; returns it and the labeller's end of its socket.
pub fn take_over(takeover: &Takeover<'_>) -> Result<(Child, OwnedFd), SpawnError> {
    let Takeover { domain, spec, fds, supervisor, .. } = *takeover;
    let prepared = Supervisor::prepare(supervisor, domain, spec, (fds, takeover.profiled), None)?;
    let pair = || scm::seqpacket_pair().map_err(SpawnError::own("make a socket for", supervisor));
    let ((ours, theirs), (control, peer)) = (pair()?, pair()?);
    let child = process::fork(|| {
        let detached = process::new_session().and_then(|()| process::reset_signals());
        if detached.is_err() {
            return 126;
        }
        let watched = Watched {
            pid: takeover.qemu_pid,
            pidfd: takeover.qemu,
            stderr: takeover.stderr,
            handoff: None,
            labeller: peer.as_fd(),
        };
        prepared.run(theirs.as_fd(), &watched)
    })
    .map_err(SpawnError::own("fork", supervisor))?;
    drop((theirs, peer));
    let name = supervisor.display().to_string();
    let problem = match advance(ours.as_fd(), Instant::now() + takeover.timeout, &|_| name.clone()) {
        Ok(Progress::End) => return Ok((child, control)),
        Ok(_) => SpawnError::Died(name),
        Err(error) => error,
    };
    let _unkillable = child.end();
    Err(problem)
}

/// Makes a network namespace ahead of a start, which it makes shorter by 0.4 ms.
pub fn spare_net() -> std::io::Result<OwnedFd> {
    namespace::new_net()
}

/// Both ends of everything that a start needs.
struct Sockets {
    report: (OwnedFd, Option<OwnedFd>),
    control: (OwnedFd, Option<OwnedFd>),
    handoff: Option<(OwnedFd, OwnedFd)>,
    stderr: (OwnedFd, Option<OwnedFd>),
}

impl Sockets {
    fn make(program: &str) -> Result<Self, SpawnError> {
        let pair = || scm::seqpacket_pair().map_err(SpawnError::own("make a socket for", program));
        let (report, control, handoff) = (pair()?, pair()?, pair()?);
        let stderr = scm::pipe().map_err(SpawnError::own("make a pipe for", program))?;
        Ok(Self {
            report: (report.0, Some(report.1)),
            control: (control.0, Some(control.1)),
            handoff: Some(handoff),
            stderr: (stderr.0, Some(stderr.1)),
        })
    }

    /// Closes what belongs to the children.
    fn keep_ours(self) -> Self {
        Self {
            report: (self.report.0, None),
            control: (self.control.0, None),
            handoff: None,
            stderr: (self.stderr.0, None),
        }
    }
}

/// Forks `S`, which clones `Q`.
fn fork_both(model: &Model<'_>, supervisor: &Supervisor<'_>, sockets: &Sockets) -> std::io::Result<Child> {
    let missing = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let report = sockets.report.1.as_ref().ok_or_else(missing)?;
    let labeller = sockets.control.1.as_ref().ok_or_else(missing)?;
    let errors = sockets.stderr.1.as_ref().ok_or_else(missing)?;
    let handoff = sockets.handoff.as_ref().ok_or_else(missing)?;
    let parent = process::own_pid();
    process::fork(|| {
        // As long as a child holds the labeller's end, the labeller's death does not show.
        process::close_inherited(sockets.report.0.as_fd());
        process::close_inherited(sockets.control.0.as_fd());
        let detached = process::new_session()
            .and_then(|()| process::reset_signals())
            .and_then(|()| process::die_with_parent(true));
        if detached.is_err() || !process::parent_is(parent) {
            return 126;
        }
        let cloned = namespace::clone(model.namespaces(), model.cgroup_dir(), || {
            // The same for the supervisor's end: Q must see that nobody will take its listener.
            process::close_inherited(handoff.0.as_fd());
            model.run(report.as_fd(), handoff.1.as_fd(), errors.as_fd())
        });
        let qemu = match cloned {
            Ok(qemu) => qemu,
            Err(source) => {
                let failure = report::Failure { step: Step::Clone, source, detail: String::new() };
                report::send_failure(report.as_fd(), Who::DeviceModel, &failure);
                return 127;
            }
        };
        if report::send_forked(report.as_fd(), qemu.pid, qemu.pidfd.as_fd()).is_err() {
            return 126;
        }
        let watched = Watched {
            pid: qemu.pid,
            pidfd: qemu.pidfd.as_fd(),
            stderr: sockets.stderr.0.as_fd(),
            handoff: Some(handoff.0.as_fd()),
            labeller: labeller.as_fd(),
        };
        supervisor.run(report.as_fd(), &watched)
    })
}

/// A start under way, as the labeller sees it.
#[derive(Debug)]
pub struct Launching {
    report: OwnedFd,
    control: OwnedFd,
    stderr: OwnedFd,
    degraded: Vec<String>,
    deadline: Instant,
    qemu: Option<Child>,
    supervisor: Child,
    ready: bool,
    program: String,
    supervisor_program: String,
}

/// How far a start is.
#[derive(Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing new.
    Waiting,
    /// Both exist, and the device model has confined itself: it waits for [`Launching::go`]. What the caller writes
    /// down first is what a crash of the labeller leaves behind.
    Ready(Forked),
    /// Both programs are executed: [`Launching::launched`].
    Executed,
}

/// What a start has come to.
#[derive(Debug)]
enum Progress {
    /// `Q` exists.
    Forked(Child),
    /// `Q` waits for the word.
    Ready,
    /// Nobody can report any more.
    End,
}

/// Waits for the next thing that a new process says.
fn advance(
    report: BorrowedFd<'_>,
    deadline: Instant,
    names: &dyn Fn(Who) -> String,
) -> Result<Progress, SpawnError> {
    let own = |action| SpawnError::own(action, names(Who::DeviceModel));
    let left = deadline.saturating_duration_since(Instant::now());
    if !process::readable(report, left).map_err(own("wait for"))? {
        return Err(SpawnError::Timeout(names(Who::DeviceModel)));
    }
    match report::receive(report).map_err(own("hear from"))? {
        News::Forked(pid, pidfd) => Ok(Progress::Forked(Child { pid, pidfd })),
        News::Ready => Ok(Progress::Ready),
        News::End => Ok(Progress::End),
        News::Failed(who, failure) => Err(SpawnError::Step {
            who,
            step: failure.step,
            program: names(who),
            source: failure.source,
            detail: failure.detail,
        }),
    }
}

impl Launching {
    /// What to poll for reading.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// When [`Launching::advance`] gives up.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The pids that are known: those of the supervisor and, once it is told, of the device model.
    pub fn pids(&self) -> impl Iterator<Item = i32> {
        std::iter::once(self.supervisor.pid).chain(self.qemu.as_ref().map(|child| child.pid))
    }

    /// Takes the next thing that the new processes say, without waiting. After an error: [`Launching::abandon`].
    pub fn advance(&mut self) -> Result<Stage, SpawnError> {
        let died = || SpawnError::Died(self.program.clone());
        let now = Instant::now();
        let heard = process::readable(self.report.as_fd(), Duration::ZERO)
            .map_err(SpawnError::own("wait for", &self.program))?;
        if !heard && now < self.deadline {
            return Ok(Stage::Waiting);
        }
        let names = |who| match who {
            Who::Supervisor => self.supervisor_program.clone(),
            Who::DeviceModel | Who::Helper => self.program.clone(),
        };
        // What is there is taken even after the deadline: it may say why it took so long.
        match (advance(self.report.as_fd(), now, &names)?, self.ready, &self.qemu) {
            (Progress::Forked(child), _, None) => self.qemu = Some(child),
            (Progress::Ready, false, _) => self.ready = true,
            // A supervisor that has ended already has said why on its own socket.
            (Progress::End, true, Some(_)) => return Ok(Stage::Executed),
            _ => return Err(died()),
        }
        match &self.qemu {
            Some(qemu) if self.ready => {
                Ok(Stage::Ready(Forked { qemu_pid: qemu.pid, supervisor_pid: self.supervisor.pid }))
            }
            _ => Ok(Stage::Waiting),
        }
    }

    /// Lets the device model go on to its exec.
    pub fn go(&self) -> Result<(), SpawnError> {
        let sent = scm::send(self.report.as_fd(), b"go", &[]);
        sent.map(drop).map_err(SpawnError::own("let go", &self.program))
    }

    /// The two processes; `None` before [`Stage::Executed`].
    #[must_use]
    pub fn launched(self) -> Option<Launched> {
        let Self { control, stderr, degraded, qemu, supervisor, .. } = self;
        Some(Launched { qemu: qemu?, supervisor, control, stderr, degraded })
    }

    /// Leaves nothing running. A device model that could not be named yet ends by itself: nobody says go.
    pub fn abandon(self) {
        if let Some(qemu) = &self.qemu {
            let _unkillable = qemu.end();
        }
        let _unkillable = self.supervisor.end();
    }
}
