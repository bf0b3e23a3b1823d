//! What a supervisor is told at its start, and what it says to the labeller and to its clients.

use serde::{Deserialize, Serialize};

use super::ask::Ask;
use super::confinement::SeccompProgram;
use super::dump::DumpFormat;
use super::op::FdGrant;
use super::password::Password;
use super::save::Progress;
use super::throttle::Throttle;
use crate::base::{DomainRef, Refusal, Slot};

/// The part of a plan that the supervisor reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisorSpec {
    /// Its own uid and gid.
    pub uid: u32,
    /// Its own SELinux label, where SELinux is on.
    pub selinux_label: Option<String>,
    /// Its own filter, loaded by itself once it runs.
    pub seccomp: SeccompProgram,
    /// The descriptors that it gets, by slot. The monitor is the slot `monitor.peer`,
    /// the control socket the slot `control`.
    pub fds: Vec<FdGrant>,
    /// Serial ports and consoles.
    pub consoles: Vec<ConsoleSpec>,
    /// Graphical consoles.
    pub vncs: Vec<VncSpec>,
    /// Whether the guest stays paused after the start (the gate is sealed all the same).
    pub start_paused: bool,
    /// What the guest goes on from, where it was saved before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incoming: Option<Incoming>,
    /// How much memory in bytes the guest is asked to keep from the beginning, where that is less than it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<u64>,
    /// Network interfaces, by their aliases, whose link is down from the beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links_down: Vec<String>,
    /// How much disks may do from the beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttles: Vec<Throttle>,
    /// What QEMU is told when the guest powers off, reboots or crashes; needed to read events.
    pub lifecycle: Lifecycle,
    /// Uids that may use the control socket, besides root.
    pub clients: Vec<u32>,
}

/// A saved guest that QEMU loads once the gate is shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incoming {
    /// The number of QEMU's own descriptor of the stream.
    pub fd: i32,
    /// Bytes of it.
    pub bytes: u64,
}

/// The longest that a guest may take to load, whatever is in its file: 56 GiB at the speed of [`Incoming::patience`], and 703
/// GiB at 100 MiB a second.
pub const PATIENCE_MAX: std::time::Duration = std::time::Duration::from_secs(2 * 60 * 60);

impl Incoming {
    /// How much longer a start takes that loads so much, at a slow disk's speed; [`PATIENCE_MAX`] at most.
    #[must_use]
    pub fn patience(bytes: u64) -> std::time::Duration {
        std::time::Duration::from_secs(bytes / (8 << 20)).min(PATIENCE_MAX)
    }
}

/// Why nothing can be asked of a device model any longer: it may have ended, which the labeller knows.
pub const MONITOR_LOST: &str = "the monitor is lost: QEMU closed it, broke the protocol or does not answer";

/// The longest picture of a display, in bytes.
pub const PICTURE_MAX: usize = 16 << 20;

/// The word by which a saved domain's end is known from any other one, in [`Ended::reason`].
pub const SAVED: &str = "saved";

/// QEMU's word for an end that a guest's panic led to, in [`Ended::reason`].
pub const PANICKED: &str = "guest-panic";

/// What happens to the domain on a guest's own request or fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifecycle {
    /// On power-off.
    pub on_poweroff: LifecycleAction,
    /// On reboot.
    pub on_reboot: LifecycleAction,
    /// On crash (a panic that the guest reports).
    pub on_crash: LifecycleAction,
}

impl Lifecycle {
    /// What QEMU itself does by these (`-action`, `set-action`). Where it cannot tell what is wanted, it stops the guest
    /// and the supervisor does the rest.
    #[must_use]
    pub fn actions(self) -> [(&'static str, &'static str); 3] {
        let leaves = |action| action == LifecycleAction::Destroy;
        let reboot = if self.on_reboot == LifecycleAction::Restart { "reset" } else { "shutdown" };
        let stays = self.on_reboot == LifecycleAction::Preserve;
        let shutdown = if leaves(self.on_poweroff) && !stays { "poweroff" } else { "pause" };
        let panic = if leaves(self.on_crash) { "shutdown" } else { "pause" };
        [("reboot", reboot), ("shutdown", shutdown), ("panic", panic)]
    }
}

/// libvirt's words for lifecycle actions that run today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LifecycleAction {
    /// The domain ends.
    Destroy,
    /// The domain stays, stopped, for inspection.
    Preserve,
    /// The guest starts again in the same process.
    Restart,
}

/// One serial port or console and where its bytes go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleSpec {
    /// libvirt's alias, such as `serial0`; clients ask for it by this name.
    pub alias: String,
    /// The channel end towards QEMU.
    pub channel: Slot,
    /// Its pty, if it has one.
    pub pty: Option<PtySpec>,
    /// A listening unix socket, if it has one.
    pub listen: Option<Slot>,
    /// A file that output is appended to, if there is one.
    pub log: Option<Slot>,
}

/// Both sides of a pseudo terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PtySpec {
    /// The controlling side.
    pub slot: Slot,
    /// The terminal itself, held open so that the last client's leaving is no hang-up.
    pub peer: Slot,
}

/// What a graphical console speaks, in QEMU's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Graphics {
    /// SPICE.
    Spice,
    /// VNC.
    Vnc,
}

impl Graphics {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Spice => "spice",
            Self::Vnc => "vnc",
        }
    }
}

/// One VNC or SPICE server: the supervisor accepts and hands each connection to QEMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VncSpec {
    /// The listening socket.
    pub listen: Slot,
    /// What is spoken there.
    pub protocol: Graphics,
    /// The most connections at once.
    pub max_clients: u32,
}

/// What the supervisor finds in its bootstrap descriptor ([`BOOTSTRAP_FD`]), written by the labeller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// Whom it serves.
    pub domain: DomainRef,
    /// The plan's part.
    pub spec: SupervisorSpec,
    /// Whether it takes over a running domain: there is no gate, and nothing is sealed or continued.
    pub takeover: bool,
    /// Pid of the device model in the labeller's pid namespace, for reports only.
    pub qemu_pid: i32,
    /// What QEMU's displays are told to ask of those who come to them, before anybody can; nothing at a takeover.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passwords: Vec<Password>,
}

/// The bootstrap: a sealed memfd with a JSON [`Bootstrap`].
pub const BOOTSTRAP_FD: i32 = 3;
/// A `SOCK_SEQPACKET` socket to the labeller; carries JSON [`Report`]s out and [`Order`]s in.
pub const LABELLER_FD: i32 = 4;
/// A `SOCK_SEQPACKET` socket on which the device model's launcher sends the seccomp listener (SCM_RIGHTS),
/// at a fresh start only.
pub const HANDOFF_FD: i32 = 5;
/// A pidfd of the device model.
pub const PIDFD: i32 = 6;
/// QEMU's standard error, the reading end of a pipe; the supervisor keeps the last bytes.
pub const STDERR_FD: i32 = 7;
/// The first number that the plan may give to a supervisor's own descriptors.
pub const FIRST_PLAN_FD: i32 = 10;

/// Supervisor to labeller, one packet each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// QEMU answered its greeting and capabilities.
    Greeted,
    /// The gate is shut for good; how many calls went through it.
    Sealed {
        /// Notifications that were let through.
        notifications: u64,
    },
    /// The guest runs (or stays paused, where that was asked).
    Running,
    /// The start failed; the labeller kills and undoes.
    Failed {
        /// Why.
        refusal: Refusal,
        /// The last lines of QEMU's standard error.
        stderr: String,
    },
    /// Somebody asked for the end of the domain without the guest's consent.
    KillWanted,
    /// QEMU is gone.
    Ended(Ended),
}

/// How a device model ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Exit code, where it exited.
    pub code: Option<i32>,
    /// Signal number, where it was killed.
    pub signal: Option<i32>,
    /// The reason that QEMU gave in its SHUTDOWN event, such as `guest-shutdown`.
    pub reason: Option<String>,
    /// The last lines of its standard error.
    pub stderr: String,
}

/// Labeller to supervisor, one packet each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Leave; the device model is gone or will be killed.
    Leave,
}

/// Client to supervisor over the control socket: one JSON line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Verb {
    /// Ends the save or dump that goes on; the guest goes on too.
    AbortSave,
    /// Asks something of QEMU itself.
    Ask(Ask),
    /// Attaches to a console: after [`Answer::Attached`] the connection carries raw bytes both ways.
    Console {
        /// Which; the first one if absent.
        alias: Option<String>,
        /// Whether to take it from another client.
        force: bool,
    },
    /// Ends QEMU at once (QMP `quit`).
    Destroy,
    /// Hands this connection to QEMU as a client of one of its displays: after [`Answer::Attached`] it speaks that.
    Display {
        /// Which kind of display.
        protocol: Graphics,
        /// Whether QEMU asks it for no password.
        skip_auth: bool,
    },
    /// Root only: has QEMU write the guest's memory into the descriptor that comes with it.
    Dump {
        /// How it is written.
        format: DumpFormat,
    },
    /// Hears from now on what happens: after [`Answer::Done`] each line is a [`Happening`](super::ask::Happening).
    Listen,
    /// Stops the virtual CPUs.
    Pause,
    /// Root only: plugs a device in. The first descriptor that comes with it is a memory file with JSON
    /// [`PlugSteps`](super::plug::PlugSteps), the others those of its sets.
    Plug,
    /// Lets the virtual CPUs go on.
    Resume,
    /// Root only: stops the guest and has QEMU write it into the descriptor that comes with it.
    Save,
    /// Takes a picture: after [`Answer::Picture`] its bytes come, a PNG, and then the end.
    Screenshot {
        /// The display's device, such as `video0`.
        device: String,
        /// Which head of it, from 0.
        head: u32,
    },
    /// Asks the guest to power off.
    Shutdown,
    /// Tells the state.
    Status,
    /// Root only: takes a device out. With it comes a memory file with JSON
    /// [`UnplugSteps`](super::plug::UnplugSteps).
    Unplug,
    /// Root only: takes back whatever there is of a save.
    Unsave {
        /// Whether the guest goes on.
        resume: bool,
    },
}

/// Supervisor to client: one JSON line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// The console's bytes follow.
    Attached {
        /// Which console.
        alias: String,
    },
    /// Done.
    Done,
    /// The guest was asked, and has not answered yet.
    Pending,
    /// The picture follows.
    Picture {
        /// Its length.
        bytes: u64,
    },
    /// Not done.
    Refused(Refusal),
    /// What QEMU returned, as it said it.
    Returned {
        /// JSON; it comes from a device model that may be taken over.
        value: serde_json::Value,
    },
    /// The guest is written, and stands.
    Saved(Progress),
    /// The state.
    Status(Status),
}

/// What a supervisor knows of its domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// QEMU's run state, such as `running` or `paused`.
    pub state: String,
    /// Whether the gate is shut.
    pub sealed: bool,
    /// Calls let through the gate before it was shut.
    pub notifications: u64,
    /// Calls refused by the shut gate: system call number and count.
    pub refused: Vec<(i32, u64)>,
    /// Consoles by alias, with the pty's path where there is one.
    pub consoles: Vec<(String, Option<String>)>,
}

/// What the shut gate counts as one when it has counted enough kinds of calls.
pub const OTHER_CALLS: i32 = -1;

/// A refused call's name, where its number has one.
#[must_use]
pub fn call_name(number: i32) -> String {
    if number == OTHER_CALLS {
        return "other calls".into();
    }
    let known = usize::try_from(number).ok().and_then(syscalls::Sysno::new);
    known.map_or_else(|| format!("call {number}"), |call| call.name().to_owned())
}
