//! What supervisors say that happened, and what it means for the table and for whoever listens.

use std::sync::Arc;

use super::table::{Live, State};
use super::{DiskName, Domain, Lifecycle, Manager, What};
use crate::base::DomainUuid;
use crate::privsep::ask::{Happening, STORAGE};

/// libvirt's reasons for a state.
pub(super) const PAUSED_IO_ERROR: i32 = 5;
pub(super) const PAUSED_WATCHDOG: i32 = 6;
pub(super) const PAUSED_CRASHED: i32 = 10;
/// libvirt's number for an agent that its channel tells of.
const AGENT_CHANNEL: i32 = 2;

impl Manager {
    /// Something happened to the domain that runs under this number.
    pub fn happened(&self, uuid: DomainUuid, id: i32, happening: Happening) {
        if let Happening::Port { alias, .. } = &happening
            && self.agent_alias(uuid).ok().as_ref() != Some(alias)
        {
            return;
        }
        let domain = {
            let mut table = self.table();
            let Some(live) = table.get(uuid).and_then(|domain| domain.live.as_mut()) else { return };
            if live.id != id {
                return;
            }
            if matches!(
                happening,
                Happening::IoError { .. }
                    | Happening::Panicked
                    | Happening::Resumed
                    | Happening::Stopped
                    | Happening::Watchdog { .. }
            ) {
                Arc::make_mut(live).runtime.heard += 1;
            }
            let noted = note(live, &happening);
            let Some(domain) = noted.then(|| table.by_uuid(uuid)).flatten() else { return };
            domain
        };
        let state = domain.running().map(|live| live.state);
        match &happening {
            Happening::Stopped if self.job(uuid).is_some_and(|job| !job.is_over()) => {
                return self.save_stopped(uuid, id);
            }
            Happening::MigrationPass { pass } => return self.save_turned(uuid, *pass),
            Happening::Resumed => {
                self.revived(uuid, id);
                // A save that was taken back without whoever asked for it.
                if domain.running().is_some_and(|live| !live.runtime.kept.is_empty()) {
                    self.doubt(uuid);
                }
                self.save_undone(uuid, id, State::Running(0));
                // One that stood for a reason that nobody here knows, or was let go on behind everybody's back.
                if self.live(uuid).is_ok_and(|live| matches!(live.state, State::Paused(_))) {
                    self.look(uuid, id);
                }
                return;
            }
            Happening::Stopped if matches!(state, Some(State::Running(_))) => return self.look(uuid, id),
            _ => {}
        }
        if let Happening::DeviceDeleted { alias } = &happening {
            if let Some(number) = alias.strip_prefix("vcpu").and_then(|number| number.parse().ok()) {
                return self.released_vcpu(uuid, id, number);
            }
            return self.released(uuid, alias);
        }
        for what in told(&domain, happening) {
            self.tell_what(&domain, what);
        }
    }
}

/// Keeps what changed; false where nothing did, so that there is nothing to tell.
fn note(live: &mut Arc<Live>, happening: &Happening) -> bool {
    let paused = |live: &mut Arc<Live>, reason| Arc::make_mut(live).state = State::Paused(reason);
    match happening {
        Happening::Port { connected, .. } => {
            let before = std::mem::replace(&mut Arc::make_mut(live).runtime.agent, *connected);
            return before != *connected;
        }
        Happening::Balloon { actual } => Arc::make_mut(live).runtime.balloon = Some(*actual),
        Happening::IoError { action, .. } if action == "stop" => paused(live, PAUSED_IO_ERROR),
        Happening::Watchdog { action } if action == "pause" => paused(live, PAUSED_WATCHDOG),
        Happening::Panicked => Arc::make_mut(live).state = State::Crashed,
        _ => {}
    }
    true
}

/// In libvirt's order: the cause, then the step of life that it led to.
fn told(domain: &Domain, happening: Happening) -> Vec<What> {
    let mut all = Vec::with_capacity(2);
    match happening {
        Happening::Port { connected, .. } => all.push(What::Agent { connected, reason: AGENT_CHANNEL }),
        Happening::Balloon { actual } => all.push(What::Balloon(actual)),
        Happening::BlockThreshold { node, threshold, excess } => {
            all.extend(watched(domain, &node).map(|(target, path)| What::BlockThreshold {
                target,
                path,
                threshold,
                excess,
            }));
        }
        Happening::DeviceDeleted { .. }
        | Happening::MigrationPass { .. }
        | Happening::Resumed
        | Happening::Stopped => {}
        Happening::DeviceKept { alias } => all.push(What::DeviceKept(alias)),
        Happening::IoError { alias, action, no_space } => {
            let stops = action == "stop";
            let path = image(domain, &alias);
            all.push(What::IoError { alias, path, action, no_space });
            all.extend(stops.then_some(What::Lifecycle(Lifecycle::PausedIoError)));
        }
        Happening::Panicked => all.push(What::Lifecycle(Lifecycle::Panicked)),
        Happening::Suspended => all.push(What::PmSuspend),
        Happening::SuspendedToDisk => all.push(What::PmSuspendDisk),
        Happening::Woke => all.push(What::PmWakeup),
        Happening::Reset => all.push(What::Reboot),
        Happening::RtcChange { offset } => all.push(What::RtcChange(offset)),
        Happening::Tray { alias, open } => all.push(What::Tray { alias, open }),
        Happening::Watchdog { action } => {
            let stops = action == "pause";
            all.push(What::Watchdog(action));
            all.extend(stops.then_some(What::Lifecycle(Lifecycle::PausedWatchdog)));
        }
    }
    all
}

/// The image of a disk, by its alias; empty where it has none.
fn image(domain: &Domain, alias: &str) -> String {
    let disk = disks(domain).find(|disk| disk.alias == alias);
    disk.and_then(|disk| disk.source).unwrap_or_default()
}

/// Target and image of the disk that this node is the image of.
fn watched(domain: &Domain, node: &str) -> Option<(String, Option<String>)> {
    let target = node.strip_suffix(STORAGE)?;
    disks(domain).find(|disk| disk.target == target).map(|disk| (disk.target, disk.source))
}

fn disks(domain: &Domain) -> impl Iterator<Item = DiskName> {
    let definition = domain.running().and_then(|live| live.definition.as_ref());
    definition.and_then(|definition| definition.disks().ok()).into_iter().flatten()
}
