//! What happens to domains, as it is told to whoever listens.

use super::Domain;
use crate::privsep::save::Progress;

/// Something happened to a domain.
#[derive(Clone, Debug)]
pub struct Event {
    /// The domain, as it was then.
    pub domain: Domain,
    /// What.
    pub what: What,
}

/// What happened to a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Its guest's agent came or went.
    Agent {
        /// Whether it is there.
        connected: bool,
        /// libvirt's number for how that is known: 1 the domain started, 2 the channel.
        reason: i32,
    },
    /// It has this much memory now, in bytes.
    Balloon(u64),
    /// Something was written to a disk's image at the place that was watched, or behind it.
    BlockThreshold {
        /// `<target dev>`
        target: String,
        /// The image.
        path: Option<String>,
        /// The place, in bytes.
        threshold: u64,
        /// How far behind it the writing ended, in bytes.
        excess: u64,
    },
    /// A device of this alias was added.
    DeviceAdded(String),
    /// A device of this alias stays, although somebody asked for its removal.
    DeviceKept(String),
    /// A device of this alias is gone.
    DeviceRemoved(String),
    /// Reading or writing a disk failed.
    IoError {
        /// The disk's alias.
        alias: String,
        /// The image.
        path: String,
        /// What was done about it.
        action: String,
        /// Whether the host has no room left.
        no_space: bool,
    },
    /// What took long is over, and went so.
    JobCompleted(Progress),
    /// A step of its life.
    Lifecycle(Lifecycle),
    /// QEMU goes through its memory for the so-manieth time, from 1.
    MigrationIteration(i32),
    /// What is said about it changed.
    Metadata {
        /// virDomainMetadataType: 0 the description, 1 the title, 2 an element.
        kind: i32,
        /// The element's namespace.
        namespace: Option<String>,
    },
    /// The guest put itself to sleep on disk.
    PmSuspendDisk,
    /// The guest put itself to sleep in memory.
    PmSuspend,
    /// The guest woke up.
    PmWakeup,
    /// The guest was reset.
    Reboot,
    /// The guest set its clock, which is now ahead by so many seconds.
    RtcChange(i64),
    /// A tray moved.
    Tray {
        /// The device's alias.
        alias: String,
        /// Whether it is open.
        open: bool,
    },
    /// A watchdog went off, and this was done.
    Watchdog(String),
}

/// A step of a domain's life; the pairs of numbers are libvirt's event and detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// Defined for the first time.
    Added,
    /// Defined anew.
    Updated,
    /// Defined no longer.
    Undefined,
    /// It has another name from now on; told of it as it was.
    RenamedFrom,
    /// It has this name from now on.
    RenamedTo,
    /// Its virtual CPUs go on, for the first time.
    Running,
    /// It was started.
    Booted,
    /// It goes on from where it was saved.
    Restored,
    /// The guest has panicked.
    Panicked,
    /// It stands, because somebody asked for it.
    Paused,
    /// It stands, because it stood when it was saved.
    PausedRestored,
    /// It stands, because a disk failed.
    PausedIoError,
    /// It stands, because its watchdog went off.
    PausedWatchdog,
    /// It goes on, because somebody asked for it.
    Unpaused,
    /// It goes on from where it was saved.
    UnpausedRestored,
    /// The guest has powered off.
    PoweredOff,
    /// It is being ended from outside.
    Ending,
    /// It is gone after the guest powered off.
    StoppedShutdown,
    /// It is gone because somebody ended it.
    StoppedDestroyed,
    /// It is gone as one that crashed, after its memory was dumped.
    StoppedCrashed,
    /// It is gone because it was saved.
    StoppedSaved,
    /// It is gone because its device model failed.
    StoppedFailed,
}

impl Lifecycle {
    /// Whether it is a step that only a device model tells of, on the way to another one.
    pub(super) fn is_between(self) -> bool {
        matches!(self, Self::Running | Self::PoweredOff | Self::Ending)
    }

    /// libvirt's event number and detail.
    #[must_use]
    pub fn numbers(self) -> (i32, i32) {
        match self {
            Self::Added => (0, 0),
            Self::Updated => (0, 1),
            Self::RenamedTo => (0, 2),
            Self::Undefined => (1, 0),
            Self::RenamedFrom => (1, 1),
            Self::Booted => (2, 0),
            Self::Restored => (2, 2),
            Self::Paused => (3, 0),
            Self::PausedIoError => (3, 2),
            Self::PausedWatchdog => (3, 3),
            Self::PausedRestored => (3, 4),
            Self::Panicked => (8, 0),
            Self::Running | Self::Unpaused => (4, 0),
            Self::UnpausedRestored => (4, 2),
            Self::StoppedShutdown => (5, 0),
            Self::StoppedDestroyed => (5, 1),
            Self::StoppedCrashed => (5, 2),
            Self::StoppedSaved => (5, 4),
            Self::StoppedFailed => (5, 5),
            Self::PoweredOff => (6, 1),
            Self::Ending => (6, 2),
        }
    }
}

/// Whoever listens. Must not wait: it is called with the domain's own work held up.
pub trait Sink: Send + Sync {
    /// Something happened.
    fn tell(&self, event: &Event);
}
