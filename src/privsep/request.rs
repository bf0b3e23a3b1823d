//! What the unprivileged part asks of the labeller, and what it gets back.

use serde::{Deserialize, Serialize};

use super::dump::Dump;
use super::op::{FileIdentity, ImageKind, LaunchPlan, UidRole};
use super::password::Password;
use super::placement::Pins;
use super::plug::{Gone, Plug};
use super::save::{Progress, Save, Saved, SavedOp};
use super::share::ShareIdentity;
use super::storage::{StorageOp, Stored};
use super::supervisor::{Ended, Lifecycle};
use super::tuning::Tuned;
use crate::base::{CategoryPair, DomainRef, DomainUuid, Refusal};

/// The rule of whatever is refused because the domain does not run, or no longer.
pub const NOT_RUNNING: &str = "no such domain runs";

/// One request; each gets one [`Reply`], `Wait` when its domain ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Tells a running domain's plan and processes.
    Describe {
        /// Which.
        uuid: DomainUuid,
    },
    /// Writes a running domain's memory into a file; the reply comes when it is whole.
    Dump {
        /// Which.
        uuid: DomainUuid,
        /// How.
        dump: Box<Dump>,
    },
    /// Kills a running domain and undoes its start.
    Kill {
        /// Which.
        uuid: DomainUuid,
    },
    /// Notes what becomes of a running domain when its guest powers off, reboots or crashes, for whoever follows its
    /// supervisor; this one was told already.
    Lifecycle {
        /// Which.
        uuid: DomainUuid,
        /// All three.
        lifecycle: Lifecycle,
    },
    /// Gives the threads of a running domain's device model other CPUs.
    Pin {
        /// Which.
        uuid: DomainUuid,
        /// Which ones.
        pins: Pins,
    },
    /// Plugs a device into a running domain.
    Plug {
        /// Which.
        uuid: DomainUuid,
        /// What.
        plug: Box<Plug>,
    },
    /// Reads one image header in a confined process of its own.
    Probe {
        /// Absolute path; it must lie in a configured place.
        path: String,
    },
    /// Tells which directory a guest would mount.
    Share {
        /// Absolute path; it must lie in a configured place.
        path: String,
    },
    /// Saves a running domain into a file and ends it; the reply comes when it is saved, or goes on.
    Save {
        /// Which.
        uuid: DomainUuid,
        /// How.
        save: Box<Save>,
    },
    /// Looks at a saved domain, or changes what is kept of it.
    Saved {
        /// What.
        op: Box<SavedOp>,
    },
    /// Starts a domain.
    Start {
        /// The plan.
        plan: Box<LaunchPlan>,
        /// What its displays ask of those who come to them. Kept by nobody: they go to the supervisor, and no further.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        passwords: Vec<Password>,
    },
    /// Does something to files of a storage pool.
    Storage {
        /// What.
        op: StorageOp,
    },
    /// Tells what is leased and which domains there are.
    Survey,
    /// Takes a device, or its medium, out of a running domain.
    Unplug {
        /// Which domain.
        uuid: DomainUuid,
        /// What of it.
        which: Gone,
        /// Whether a guest that holds a tray shut is not asked.
        force: bool,
    },
    /// Gives a running domain other limits.
    Tune {
        /// Which.
        uuid: DomainUuid,
        /// Which ones.
        limits: Tuned,
    },
    /// Waits until a domain has ended.
    Wait {
        /// Which.
        uuid: DomainUuid,
    },
}

/// The answer to one [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// To `Describe`.
    Described(Box<Described>),
    /// To `Dump`, `Lifecycle`, `Pin`, `Plug`, `Tune` and `Unplug`: it is written, noted, there, in force, or gone. To `Saved`, where
    /// nothing is told.
    Done,
    /// To `Wait` and `Kill`.
    Ended(Ended),
    /// To `Describe`, `Kill` and `Wait`: no domain with this uuid is there, or not any longer.
    NoDomain,
    /// To `Unplug`: the guest was asked, and has not let go yet.
    Pending,
    /// To `Probe`.
    Probed(Probed),
    /// The request was refused or failed; nothing of it stays.
    Refused(Box<Refused>),
    /// To `Share`.
    Share(FileIdentity),
    /// To `Saved`, where a file is looked at.
    Saved(Box<Saved>),
    /// To `Save`: it is in its file, and no longer runs.
    SavedWhole(Box<Progress>),
    /// To `Start`: the guest runs.
    Started(Started),
    /// To `Storage`.
    Stored(Stored),
    /// To `Survey`.
    Survey(Survey),
}

/// A failed request, with what the device model said where it got so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// Which operation of the plan, counted from 0, where one failed.
    pub op: Option<usize>,
    /// The last lines of QEMU's standard error, or empty.
    pub stderr: String,
}

/// One image header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probed {
    /// Which file it was.
    pub identity: FileIdentity,
    /// What kind of object it was.
    pub kind: ImageKind,
    /// What the header says, exactly as the confined process wrote it: JSON of `image::Header`. Not to be trusted.
    pub header: String,
}

/// A start that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// The control socket.
    pub control: String,
    /// Pid of the device model.
    pub qemu_pid: i32,
    /// Pid of the supervisor.
    pub supervisor_pid: i32,
    /// Layers that the host has only in part, by name.
    pub degraded: Vec<String>,
    /// Listening addresses by slot, where the labeller or the kernel chose.
    pub listening: Vec<(String, String)>,
    /// The cgroup that holds the domain, relative to the cgroup mount, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// What is taken and what runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// Leased uids.
    pub uids: Vec<(UidRole, u32)>,
    /// Category pairs that belong to one domain each.
    pub pairs: Vec<CategoryPair>,
    /// Images that several domains write, directories that guests mount and memory that they share, each with its pair.
    pub shares: Vec<(ShareIdentity, CategoryPair)>,
    /// Pairs that nobody may have, because a domain with shared images dominates them.
    pub crossings: Vec<CategoryPair>,
    /// Domains.
    pub domains: Vec<DomainStatus>,
    /// Domains whose next start goes on from where they were saved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub saved: Vec<DomainUuid>,
}

/// One domain in a survey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainStatus {
    /// Which.
    pub domain: DomainRef,
    /// Pid of the device model.
    pub qemu_pid: i32,
    /// Pid of the supervisor, 0 while there is none.
    pub supervisor_pid: i32,
    /// The control socket.
    pub control: String,
}

/// A running domain with the plan that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Described {
    /// Status as in a survey.
    pub status: DomainStatus,
    /// The plan as it was applied.
    pub plan: LaunchPlan,
    /// Pids of helpers by alias.
    pub helpers: Vec<(String, i32)>,
    /// Which files its UEFI variables are in; the plan cannot know, where one is new.
    pub nvrams: Vec<FileIdentity>,
    /// Layers that the host has only in part, by name.
    pub degraded: Vec<String>,
    /// The cgroup that holds the domain, relative to the cgroup mount, where there is one.
    pub cgroup: Option<String>,
    /// The directories that its cgroup was made in, one a hierarchy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroups: Vec<String>,
    /// What was plugged in since, and is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugs: Vec<Plug>,
    /// What of the plan was taken out since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<Gone>,
}
