//! How each operation is undone. The labeller derives its undo from the operation and from what it found
//! before; this is the same rule as a value, for people and for the proof that it is an exact inverse.

use std::fmt;

use crate::base::{CategoryPair, Slot};
use crate::privsep::op::{ListenAt, Op};

/// The inverse of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Descriptors are closed; an image's lock ends with its last one.
    Close {
        /// Which.
        slots: Vec<Slot>,
        /// Whether a lock goes with it.
        locked: bool,
    },
    /// A process is killed and waited for.
    Kill {
        /// What it is.
        process: &'static str,
    },
    /// A pair is free again.
    ReleaseCategories(CategoryPair),
    /// The share in an image's pair is given back; the pair is free when the last domain's is.
    ReleaseShare(CategoryPair),
    /// A uid is free again, once no process has it.
    ReleaseUid(u32),
    /// The cgroup is emptied and removed.
    RemoveCgroup,
    /// The name goes with the last domain that uses the memory.
    RemoveShmem(Slot),
    /// The profile is taken out of the kernel.
    RemoveProfile,
    /// The label that was found goes back.
    RestoreLabel(Slot),
    /// The tap device is taken off its bridge and vanishes with its last descriptor.
    Unplug {
        /// Which.
        slot: Slot,
        /// Off which bridge.
        bridge: String,
    },
    /// The socket's name is removed and the socket closed.
    Unbind {
        /// Which.
        slot: Slot,
        /// The name, where it has one that is told.
        path: Option<String>,
    },
}

impl Undo {
    /// What undoes `op`. Starting the device model is undone by ending all its processes.
    #[must_use]
    pub fn of(op: &Op) -> Self {
        let close = |slots: &[&Slot]| Self::Close {
            slots: slots.iter().map(|s| (*s).clone()).collect(),
            locked: false,
        };
        match op {
            Op::LeaseUid { uid, .. } => Self::ReleaseUid(*uid),
            Op::LeaseCategories { pair } => Self::ReleaseCategories(*pair),
            Op::LeaseShare { pair, .. } => Self::ReleaseShare(*pair),
            Op::Cgroup(_) => Self::RemoveCgroup,
            Op::OpenImage(image) => Self::Close { slots: vec![image.slot.clone()], locked: true },
            Op::OpenNvram { slot, .. } => Self::Close { slots: vec![slot.clone()], locked: true },
            Op::OpenReadable { slot, .. }
            | Op::OpenSaved { slot, .. }
            | Op::OpenTap { slot, .. }
            | Op::OpenVsock { slot, .. }
            | Op::OpenLog { slot, .. } => close(&[slot]),
            Op::MakeTap { slot, bridge, .. } => Self::Unplug { slot: slot.clone(), bridge: bridge.clone() },
            Op::LoadProfile { .. } => Self::RemoveProfile,
            Op::LabelSelinux { slot, .. } => Self::RestoreLabel(slot.clone()),
            Op::Channel { slot, peer } | Op::Pty { slot, peer } => close(&[slot, peer]),
            Op::Listen { slot, at } => Self::Unbind {
                slot: slot.clone(),
                path: match at {
                    ListenAt::Unix { path } => Some(path.clone()),
                    ListenAt::Control | ListenAt::Tcp { .. } => None,
                },
            },
            Op::OpenShare { slot, .. } => close(&[slot]),
            Op::OpenShmem { slot, .. } => Self::RemoveShmem(slot.clone()),
            Op::Meeting { slot, peer } => close(&[slot, peer]),
            Op::SpawnVirtiofsd(_) => Self::Kill { process: "virtiofsd" },
            Op::OpenTpmState { slot, .. } => Self::Close { slots: vec![slot.clone()], locked: true },
            Op::SpawnSwtpm { .. } => Self::Kill { process: "swtpm" },
            Op::SpawnPasst { .. } => Self::Kill { process: "passt" },
            Op::Spawn(_) => Self::Kill { process: "the device model and its supervisor" },
        }
    }
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close { locked: true, .. } => f.write_str("close it, which ends the lock"),
            Self::Close { .. } => f.write_str("close it"),
            Self::Kill { process } => write!(f, "kill {process} and wait for the end"),
            Self::ReleaseCategories(pair) => write!(f, "give {pair} back"),
            Self::ReleaseShare(pair) => write!(f, "give the share in {pair} back"),
            Self::ReleaseUid(uid) => write!(f, "give {uid} back once no process has it"),
            Self::RemoveCgroup => f.write_str("kill what is in it and remove it"),
            Self::RemoveProfile => f.write_str("take it out of the kernel"),
            Self::RemoveShmem(_) => f.write_str("close it, and remove it if no other domain uses it"),
            Self::RestoreLabel(_) => f.write_str("put back the label that was found"),
            Self::Unplug { bridge, .. } => {
                write!(f, "take it off {bridge}; it vanishes with its last descriptor")
            }
            Self::Unbind { path: Some(path), .. } => write!(f, "close it and remove {path}"),
            Self::Unbind { path: None, .. } => f.write_str("close it"),
        }
    }
}
