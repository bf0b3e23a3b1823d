//! Which operation must come before which, and what a plan must hold together.
//!
//! The planner keeps these rules and the labeller checks them again, since a plan may come from anybody.
//! Nothing here looks at policy (ranges, places, types): the labeller's own limits do.

use std::collections::{HashMap, HashSet};

use super::op::{DeviceNode, FdGrant, Op, Spawn, UidRole};
use super::share::ShareIdentity;
use super::supervisor::FIRST_PLAN_FD;
use crate::base::Slot;

/// Why a list of operations is no plan. Positions count from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A descriptor is given out twice.
    #[error("operation {at}: the descriptor {slot} is used twice")]
    SlotReused {
        /// Which operation.
        at: usize,
        /// Which descriptor.
        slot: Slot,
    },
    /// A descriptor that no earlier operation makes, or one of the wrong kind.
    #[error("operation {at}: no earlier operation makes {slot} for this use")]
    SlotUnknown {
        /// Which operation.
        at: usize,
        /// Which descriptor.
        slot: Slot,
    },
    /// A descriptor that no operation uses.
    #[error("the descriptor {0} is made and never used")]
    SlotUnused(Slot),
    /// An operation of an earlier stage after one of a later stage.
    #[error("operation {at}: {name} stands after an operation of a later stage")]
    Stage {
        /// Which operation.
        at: usize,
        /// Its name.
        name: &'static str,
    },
    /// Two of what there may be only one of.
    #[error("operation {at}: a second {name}")]
    Twice {
        /// Which operation.
        at: usize,
        /// Its name.
        name: &'static str,
    },
    /// A uid that the plan did not lease for this use.
    #[error("operation {at}: uid {uid} is not leased for this use")]
    UidUnleased {
        /// Which operation.
        at: usize,
        /// Which uid.
        uid: u32,
    },
    /// A uid is leased or used twice.
    #[error("operation {at}: uid {uid} is used twice")]
    UidReused {
        /// Which operation.
        at: usize,
        /// Which uid.
        uid: u32,
    },
    /// A number of a descriptor is too low or given twice.
    #[error("descriptor number {0} is reserved or used twice")]
    Number(i32),
    /// The plan does not end with its only `spawn`.
    #[error("the plan does not end with a spawn")]
    NoSpawn,
    /// More operations than any definition leads to.
    #[error("{0} operations are more than a plan may have")]
    TooMany(usize),
}

/// The most operations of a plan: 16 disks of 200 layers, each opened and labelled, with room for the rest.
pub const OPS_MAX: usize = 8192;

/// The stage of an operation; a plan goes through the stages in this order.
///
/// Leases come first so that everything after them is this domain's alone; labels come after every image is
/// open and locked, so that no label is changed on an image that turns out to be in use.
#[must_use]
pub fn stage(op: &Op) -> u8 {
    match op {
        Op::LeaseUid { .. } | Op::LeaseCategories { .. } | Op::LeaseShare { .. } => 0,
        Op::Cgroup(_) => 1,
        Op::OpenImage(_)
        | Op::OpenReadable { .. }
        | Op::OpenNvram { .. }
        | Op::OpenSaved { .. }
        | Op::MakeTap { .. }
        | Op::OpenShare { .. }
        | Op::OpenShmem { .. }
        | Op::OpenTap { .. }
        | Op::OpenVsock { .. }
        | Op::OpenTpmState { .. } => 2,
        Op::LabelSelinux { .. } | Op::LoadProfile { .. } => 3,
        Op::Channel { .. } | Op::Meeting { .. } => 4,
        Op::Pty { .. } | Op::Listen { .. } | Op::OpenLog { .. } => 5,
        Op::SpawnPasst { .. } | Op::SpawnSwtpm { .. } | Op::SpawnVirtiofsd(_) => 6,
        Op::Spawn(_) => 7,
    }
}

/// What a slot holds, and so who may be given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    ChannelEnd,
    Image,
    Outside,
    /// The listener of a meeting.
    Listener,
    Readable,
    /// A saved domain.
    Saved,
    /// A directory.
    Share,
    /// Memory of several guests.
    Shmem,
    /// A helper's state, and whose.
    State(u32),
    Tap,
    Vsock,
}

#[derive(Default)]
struct Checker {
    made: HashMap<Slot, Held>,
    used: HashSet<Slot>,
    labelled: HashSet<Slot>,
    leased: HashMap<u32, UidRole>,
    running: HashSet<u32>,
    once: HashSet<&'static str>,
    shared: HashSet<ShareIdentity>,
}

/// Checks the order of a plan and that its parts fit together.
pub fn check(ops: &[Op]) -> Result<(), OrderError> {
    if ops.len() > OPS_MAX {
        return Err(OrderError::TooMany(ops.len()));
    }
    let Some((Op::Spawn(_), _)) = ops.split_last() else { return Err(OrderError::NoSpawn) };
    let mut checker = Checker::default();
    let mut reached = 0;
    for (at, op) in ops.iter().enumerate() {
        let stage = stage(op);
        if stage < reached {
            return Err(OrderError::Stage { at, name: op.name() });
        }
        reached = stage;
        checker.step(at, op)?;
    }
    match checker.made.keys().find(|slot| !checker.used.contains(*slot)) {
        Some(slot) => Err(OrderError::SlotUnused(slot.clone())),
        None => Ok(()),
    }
}

impl Checker {
    fn step(&mut self, at: usize, op: &Op) -> Result<(), OrderError> {
        match op {
            Op::LeaseUid { role, uid } => match self.leased.insert(*uid, *role) {
                Some(_) => Err(OrderError::UidReused { at, uid: *uid }),
                None => Ok(()),
            },
            Op::LeaseCategories { .. } | Op::LoadProfile { .. } | Op::Cgroup(_) => self.only_once(at, op),
            Op::LeaseShare { identity, .. } => {
                // The range of every process depends on all of them, so a domain without a pair has none.
                let fresh = self.once.contains("lease-categories") && self.shared.insert(identity.clone());
                if fresh { Ok(()) } else { Err(OrderError::Twice { at, name: op.name() }) }
            }
            Op::OpenImage(image) => self.make(at, &image.slot, Held::Image),
            Op::OpenReadable { slot, .. } => self.make(at, slot, Held::Readable),
            Op::OpenNvram { slot, template, .. } => {
                self.take(at, template, &[Held::Readable])?;
                self.make(at, slot, Held::Image)
            }
            Op::OpenSaved { slot, .. } => {
                self.only_once(at, op)?;
                self.make(at, slot, Held::Saved)
            }
            Op::MakeTap { slot, .. } | Op::OpenTap { slot, .. } => self.make(at, slot, Held::Tap),
            Op::OpenVsock { slot, .. } => {
                self.only_once(at, op)?;
                self.make(at, slot, Held::Vsock)
            }
            Op::LabelSelinux { slot, .. } => {
                if !matches!(
                    self.made.get(slot),
                    Some(Held::Image | Held::Readable | Held::Saved | Held::Share | Held::State(_))
                ) {
                    return Err(OrderError::SlotUnknown { at, slot: slot.clone() });
                }
                if !self.labelled.insert(slot.clone()) {
                    return Err(OrderError::SlotReused { at, slot: slot.clone() });
                }
                Ok(())
            }
            Op::Pty { slot, peer } => {
                self.make(at, slot, Held::Outside)?;
                self.make(at, peer, Held::Outside)
            }
            Op::Channel { slot, peer } => {
                self.make(at, slot, Held::ChannelEnd)?;
                self.make(at, peer, Held::ChannelEnd)
            }
            Op::Listen { slot, .. } | Op::OpenLog { slot, .. } => self.make(at, slot, Held::Outside),
            Op::OpenShare { slot, .. } => self.make(at, slot, Held::Share),
            Op::OpenShmem { slot, .. } => self.make(at, slot, Held::Shmem),
            Op::Meeting { slot, peer } => {
                self.make(at, slot, Held::ChannelEnd)?;
                self.make(at, peer, Held::Listener)
            }
            Op::SpawnVirtiofsd(spawn) => {
                self.take(at, &spawn.slot, &[Held::Listener])?;
                self.take(at, &spawn.share, &[Held::Share])?;
                self.run_as(at, spawn.uid, UidRole::Helper)
            }
            Op::SpawnPasst { slot, uid, .. } => {
                self.take(at, slot, &[Held::ChannelEnd])?;
                self.run_as(at, *uid, UidRole::Helper)
            }
            Op::OpenTpmState { slot, uid, .. } => {
                if self.leased.get(uid) != Some(&UidRole::Helper) {
                    return Err(OrderError::UidUnleased { at, uid: *uid });
                }
                self.make(at, slot, Held::State(*uid))
            }
            Op::SpawnSwtpm { slot, state, uid, .. } => {
                self.take(at, slot, &[Held::ChannelEnd])?;
                self.take(at, state, &[Held::State(*uid)])?;
                self.run_as(at, *uid, UidRole::Helper)
            }
            Op::Spawn(spawn) => self.spawn(at, spawn),
        }
    }

    fn only_once(&mut self, at: usize, op: &Op) -> Result<(), OrderError> {
        if self.once.insert(op.name()) { Ok(()) } else { Err(OrderError::Twice { at, name: op.name() }) }
    }

    fn make(&mut self, at: usize, slot: &Slot, held: Held) -> Result<(), OrderError> {
        match self.made.insert(slot.clone(), held) {
            Some(_) => Err(OrderError::SlotReused { at, slot: slot.clone() }),
            None => Ok(()),
        }
    }

    /// Gives a slot to one process; no slot goes to two.
    fn take(&mut self, at: usize, slot: &Slot, kinds: &[Held]) -> Result<(), OrderError> {
        if !self.made.get(slot).is_some_and(|held| kinds.contains(held)) {
            return Err(OrderError::SlotUnknown { at, slot: slot.clone() });
        }
        if self.used.insert(slot.clone()) {
            Ok(())
        } else {
            Err(OrderError::SlotReused { at, slot: slot.clone() })
        }
    }

    fn run_as(&mut self, at: usize, uid: u32, role: UidRole) -> Result<(), OrderError> {
        if self.leased.get(&uid) != Some(&role) {
            return Err(OrderError::UidUnleased { at, uid });
        }
        if self.running.insert(uid) { Ok(()) } else { Err(OrderError::UidReused { at, uid }) }
    }

    fn grants(&mut self, at: usize, fds: &[FdGrant], first: i32, kinds: &[Held]) -> Result<(), OrderError> {
        let mut numbers = HashSet::new();
        for grant in fds {
            if grant.number < first || !numbers.insert(grant.number) {
                return Err(OrderError::Number(grant.number));
            }
            self.take(at, &grant.slot, kinds)?;
        }
        Ok(())
    }

    fn spawn(&mut self, at: usize, spawn: &Spawn) -> Result<(), OrderError> {
        if !self.once.insert("spawn") {
            return Err(OrderError::Twice { at, name: "spawn" });
        }
        self.run_as(at, spawn.confinement.uid, UidRole::Domain)?;
        self.run_as(at, spawn.supervisor.uid, UidRole::Supervisor)?;
        if spawn.confinement.gid != spawn.confinement.uid {
            return Err(OrderError::UidUnleased { at, uid: spawn.confinement.gid });
        }
        let kvm = spawn.confinement.root.devices.contains(&DeviceNode::Kvm);
        if let Some(group) = spawn.confinement.groups.get(usize::from(kvm)) {
            return Err(OrderError::UidUnleased { at, uid: *group });
        }
        self.grants(
            at,
            &spawn.fds,
            3,
            &[Held::ChannelEnd, Held::Image, Held::Readable, Held::Saved, Held::Tap, Held::Vsock],
        )?;
        self.grants(at, &spawn.supervisor.fds, FIRST_PLAN_FD, &[Held::ChannelEnd, Held::Outside])?;
        for file in &spawn.confinement.root.files {
            self.take(at, &file.slot, &[Held::Readable])?;
        }
        for share in &spawn.confinement.root.shares {
            self.take(at, &share.slot, &[Held::Share])?;
        }
        for shmem in &spawn.confinement.root.shmems {
            self.take(at, &shmem.slot, &[Held::Shmem])?;
        }
        let granted: HashSet<&Slot> = spawn.supervisor.fds.iter().map(|grant| &grant.slot).collect();
        let named = spawn.supervisor.consoles.iter().flat_map(|console| {
            std::iter::once(&console.channel)
                .chain(console.pty.iter().flat_map(|pty| [&pty.slot, &pty.peer]))
                .chain(&console.listen)
                .chain(&console.log)
        });
        for slot in named.chain(spawn.supervisor.vncs.iter().map(|vnc| &vnc.listen)) {
            if !granted.contains(slot) {
                return Err(OrderError::SlotUnknown { at, slot: slot.clone() });
            }
        }
        for name in ["monitor.peer", "control"] {
            if !granted.iter().any(|slot| slot.as_str() == name) {
                let slot = Slot::new(name).map_err(|_| OrderError::NoSpawn)?;
                return Err(OrderError::SlotUnknown { at, slot });
            }
        }
        Ok(())
    }
}
