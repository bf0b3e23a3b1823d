//! What QEMU has let go of: what it held is given back, again and again until nothing is left of it.
//!
//! Until then its leases stay, so that nobody gets a file that still has this domain's label.

use std::time::{Duration, Instant};

use super::super::domain::{Domain, Phase};
use super::super::journal::{Entry, Undo};
use super::super::lease::ObjectId;
use super::super::server::Server;
use super::super::undo;
use super::split_own;
use crate::base::DomainUuid;
use crate::privsep::plug::Gone;

/// How soon what could not be undone is tried again; each further time takes twice as long.
const AGAIN: Duration = Duration::from_secs(2);
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
    /// Whether the domain was started with it.
    pub(in crate::labeller) planned: bool,
    /// When that is tried next.
    at: Instant,
    /// How long the time after that.
    wait: Duration,
}

impl Leftover {
    /// One that is given back at once.
    pub(in crate::labeller) fn new(
        which: Gone,
        undos: Vec<Undo>,
        held: Vec<ObjectId>,
        planned: bool,
    ) -> Self {
        Self { which, undos, held, planned, at: Instant::now(), wait: AGAIN }
    }
}

impl Server {
    /// QEMU has let go: gives back what the device held, and restores what was labelled for it.
    pub(super) fn take_back_plug(&mut self, uuid: DomainUuid, which: &Gone) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let Some(leftover) = release(domain, which) else { return };
        // Once that is written no later labeller believes it to be plugged in.
        let entry = Entry::Released { alias: which.alias.clone(), medium: which.medium };
        if let Err(error) = domain.journal.write(&entry) {
            tracing::error!(domain = %domain.plan.domain.name, %error, "cannot note what was let go");
        }
        domain.leftovers.push(leftover);
        self.give_back(uuid, which);
    }

    fn give_back(&mut self, uuid: DomainUuid, which: &Gone) {
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        let Some(at) = domain.leftovers.iter().position(|it| it.which == *which) else { return };
        let mut leftover = domain.leftovers.remove(at);
        leftover.undos = undo::rest(uuid, &leftover.undos, true, &mut self.leases, &mut *self.launcher);
        if !leftover.undos.is_empty() {
            leftover.at = Instant::now() + leftover.wait;
            leftover.wait = (leftover.wait * 2).min(AGAIN_MOST);
            domain.leftovers.push(leftover);
            return;
        }
        for id in leftover.held {
            self.leases.release_object(uuid, id);
        }
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
        return Some(Leftover::new(which.clone(), plugged.undos, plugged.held, false));
    }
    if domain.gone.contains(which) {
        return None;
    }
    let (undos, held) = split_own(&domain.plan, which, &domain.gone, &mut domain.undos);
    domain.gone.push(which.clone());
    Some(Leftover::new(which.clone(), undos, held, true))
}
