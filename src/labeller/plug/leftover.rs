//! What QEMU has let go of: what it held is given back, again and again until nothing is left of it.
//!
//! Until then its leases stay, so that nobody gets a file that still has this domain's label.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::super::domain::{Domain, Phase};
use super::super::journal::{Entry, Journal, Undo};
use super::super::lease::ObjectId;
use super::super::server::Server;
use super::super::undo;
use super::{Plugged, split_own};
use crate::base::DomainUuid;
use crate::privsep::op::{LaunchPlan, Op};
use crate::privsep::plug::Gone;
use crate::sys::pidfd;
use crate::sys::process::Child;

/// How soon what could not be undone is tried again; each further time takes twice as long.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a killed helper may take to end before it is left for the next time, in milliseconds.
const GOING: u16 = 300;
/// The longest that becomes.
const AGAIN_MOST: Duration = Duration::from_secs(300);

/// A device that QEMU has let go of, and what it held.
#[derive(Clone, Debug)]
pub(in crate::labeller) struct Leftover {
    /// Which.
    pub(in crate::labeller) which: Gone,
    /// How to take back what is left of it.
    pub(in crate::labeller) undos: Vec<Undo>,
    /// Files and devices that it holds.
    pub(in crate::labeller) held: Vec<ObjectId>,
    /// The passt of an interface, and its uid; ended first.
    pub(in crate::labeller) helper: Option<(String, u32)>,
    /// Whether the domain was started with it.
    pub(in crate::labeller) planned: bool,
    /// Whether the journal has that QEMU let go of it. Before that nothing is given back: a later labeller would believe
    /// that the domain holds what somebody else has by then.
    noted: bool,
    /// When that is tried next.
    at: Instant,
    /// How long the time after that.
    wait: Duration,
}

impl Leftover {
    /// What was plugged in. It is given back at once.
    pub(in crate::labeller) fn plugged(plugged: Plugged) -> Self {
        let helper = passt(&plugged.plug.alias, plugged.plug.ops.iter());
        Self::new(plugged.gone(), plugged.undos, plugged.held, helper, false)
    }

    /// What the domain was started with; what it used is taken out of what the end would take back.
    pub(in crate::labeller) fn planned(
        plan: &LaunchPlan,
        which: &Gone,
        gone: &[Gone],
        undos: &mut Vec<Undo>,
    ) -> Self {
        let (undos, held) = split_own(plan, which, gone, undos);
        let helper = passt(&which.alias, plan.ops.iter()).filter(|_| !which.medium);
        Self::new(which.clone(), undos, held, helper, true)
    }

    fn new(
        which: Gone,
        undos: Vec<Undo>,
        held: Vec<ObjectId>,
        helper: Option<(String, u32)>,
        planned: bool,
    ) -> Self {
        Self { which, undos, held, helper, planned, noted: true, at: Instant::now(), wait: AGAIN }
    }

    /// Has it tried again later.
    fn put_off(&mut self) {
        self.at = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(AGAIN_MOST);
    }

    /// Writes down that QEMU has let go, unless that is there; `false` where it cannot be, and is tried again later.
    fn note(&mut self, journal: &mut Journal) -> bool {
        let Gone { alias, medium } = self.which.clone();
        if !self.noted {
            match journal.write(&Entry::Released { alias, medium }) {
                Ok(()) => self.noted = true,
                Err(error) => {
                    tracing::error!(alias = self.which.alias, %error, "cannot note what was let go");
                    self.put_off();
                }
            }
        }
        self.noted
    }
}

impl Server {
    /// QEMU has let go: gives back what the device held, and restores what was labelled for it.
    pub(super) fn take_back_plug(&mut self, uuid: DomainUuid, which: &Gone) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let Some(mut leftover) = release(domain, which) else { return };
        leftover.noted = false;
        domain.leftovers.push(leftover);
        self.give_back(uuid, which);
    }

    fn give_back(&mut self, uuid: DomainUuid, which: &Gone) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let Some(at) = domain.leftovers.iter().position(|it| it.which == *which) else { return };
        // Once that is written no later labeller believes it to be plugged in.
        if !domain.leftovers.get_mut(at).is_some_and(|leftover| leftover.note(&mut domain.journal)) {
            return;
        }
        let mut leftover = domain.leftovers.remove(at);
        let ended = leftover.helper.as_ref().is_none_or(|(alias, uid)| end_helper(domain, alias, *uid));
        leftover.undos = undo::rest(uuid, &leftover.undos, true, &mut self.leases, &mut *self.launcher);
        if !ended || !leftover.undos.is_empty() {
            leftover.put_off();
            domain.leftovers.push(leftover);
            return;
        }
        for id in leftover.held {
            self.leases.release_object(uuid, id);
        }
        if let Some((_, uid)) = leftover.helper.filter(|_| !leftover.planned) {
            self.leases.release_uid(uuid, uid);
        }
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let entry = Entry::Unplugged { alias: which.alias.clone(), medium: which.medium };
        if let Err(error) = domain.journal.write(&entry) {
            tracing::error!(domain = %domain.plan.domain.name, %error, "cannot note what was taken out");
        }
        tracing::info!(domain = %domain.plan.domain.name, alias = which.alias, "a device is gone");
    }

    /// Tries again what could not be given back.
    pub(super) fn give_back_due(&mut self, now: Instant) {
        let running = self.domains.iter().filter(|(_, domain)| domain.phase == Phase::Running);
        let due = running.flat_map(|(uuid, domain)| {
            domain.leftovers.iter().filter(|it| it.at <= now).map(|it| (*uuid, it.which.clone()))
        });
        let due: Vec<(DomainUuid, Gone)> = due.collect();
        for (uuid, which) in due {
            self.give_back(uuid, &which);
        }
    }

    /// When [`Server::give_back_due`] has something to do next.
    pub(super) fn give_back_deadline(&self) -> Option<Instant> {
        let running = self.domains.values().filter(|domain| domain.phase == Phase::Running);
        running.flat_map(|domain| &domain.leftovers).map(|it| it.at).min()
    }
}

/// Takes a device out of what the domain has; `None` where that is known already.
fn release(domain: &mut Domain, which: &Gone) -> Option<Leftover> {
    if let Some(at) = domain.plugs.iter().position(|plugged| plugged.gone() == *which) {
        let plugged = domain.plugs.remove(at);
        return Some(Leftover::plugged(plugged));
    }
    if domain.gone.contains(which) {
        return None;
    }
    let leftover = Leftover::planned(&domain.plan, which, &domain.gone, &mut domain.undos);
    domain.gone.push(which.clone());
    Some(leftover)
}

/// The passt of an interface with this alias.
fn passt<'a>(of: &str, mut ops: impl Iterator<Item = &'a Op>) -> Option<(String, u32)> {
    ops.find_map(|op| match op {
        Op::SpawnPasst { alias, uid, .. } if alias == of => Some((alias.clone(), *uid)),
        _ => None,
    })
}

/// Ends the passt of an interface that is gone, and whatever else has its uid, which is the interface's alone; `false`
/// where something does not end.
fn end_helper(domain: &mut Domain, alias: &str, uid: u32) -> bool {
    domain.channels.retain(|(of, _)| of != alias);
    let (ended, rest) = std::mem::take(&mut domain.helpers).into_iter().partition(|(of, _)| of == alias);
    domain.helpers = rest;
    let ended: Vec<(String, Child)> = ended;
    let children = ended.into_iter().map(|(_, child)| child.pidfd);
    // A labeller that was killed may have had no time to write it down.
    let others = pidfd::of_uid(uid).unwrap_or_default().into_iter().filter_map(|pid| {
        let process = pidfd::open(pid).ok()?;
        // Its number may have become another one's in between.
        pidfd::of_uid(uid).ok()?.contains(&pid).then_some(process)
    });
    let all: Vec<OwnedFd> = children.chain(others).collect();
    let mut over = true;
    for process in &all {
        let _ = pidfd::kill(process);
        over &= pidfd::wait_ended(process, GOING).unwrap_or(false);
        let _ = pidfd::reap(process);
    }
    over
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::base::{DomainName, DomainRef};

    #[test]
    fn what_cannot_be_written_down_is_tried_again_later() {
        let directory = tempfile::tempdir().unwrap();
        let uuid = DomainUuid(uuid::Uuid::nil());
        let domain = DomainRef { name: DomainName::new("a").unwrap(), uuid };
        let plan = LaunchPlan { version: 1, domain, ops: Vec::new(), notes: Vec::new() };
        let mut journal = Journal::begin(directory.path(), &plan, "boot").unwrap();
        let which = Gone { alias: "disk0".into(), medium: false };
        let mut leftover = Leftover::new(which, Vec::new(), Vec::new(), None, false);
        leftover.noted = false;
        journal.fill(true);
        assert!(!leftover.note(&mut journal) && leftover.at > Instant::now() && leftover.wait == 2 * AGAIN);
        journal.fill(false);
        assert!(leftover.note(&mut journal));
        let text = || std::fs::read_dir(directory.path()).unwrap().flatten().map(|it| it.path());
        let text = || text().map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>();
        assert_eq!(text().matches("released").count(), 1);
        journal.fill(true);
        assert!(leftover.note(&mut journal) && text().matches("released").count() == 1, "once is enough");
    }
}
