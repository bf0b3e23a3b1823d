//! What an earlier labeller left: domains that still run are taken over, everything else is taken back.

mod story;

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::domain::{Domain, Phase};
use super::journal::{self, ASIDE, Entry, Journal, Undo};
use super::launcher::Slots;
use super::lease::{Leases, ObjectId};
use super::save::{Saving, forget_part, is_there};
use super::server::Server;
use super::start::identity;
use super::{passt, undo};
use crate::base::{DomainUuid, Refusal};
use crate::privsep::op::{FdGrant, Op, UidRole};
use crate::privsep::supervisor::STDERR_FD;
use crate::sys::pidfd::{self, ProcessId};
use crate::sys::process::Child;
use story::Story;

/// How long a killed process may take to go.
const GOING: u16 = 5000;

impl Server {
    /// Reads every journal and acts on it. An error means that a journal cannot be understood.
    pub(super) fn recover(&mut self) -> io::Result<()> {
        let mut rest = Vec::new();
        for left in journal::left(&self.journals)? {
            let name = left.name.clone();
            let Some(story) = Story::read(left) else {
                // Not even its first line was written, so nothing was done.
                std::fs::remove_file(self.journals.join(name))?;
                continue;
            };
            // Those that run come first, so that what they share with the others is known.
            match self.still_runs(&story)? {
                Some(device_model) => self.adopt(story, device_model)?,
                None => rest.push(story),
            }
        }
        if let Some(store) = &mut self.store {
            store.forget_rest();
        }
        for story in rest {
            self.take_back(story)?;
        }
        self.restart_what_died();
        Ok(())
    }

    /// Starts again what ended while no labeller watched.
    fn restart_what_died(&mut self) {
        let domains = self.domains.iter();
        let died: Vec<(DomainUuid, bool, Vec<String>)> = domains
            .map(|(uuid, domain)| {
                let alone = domain.supervisor.is_none() && domain.stderr.is_some();
                (*uuid, alone, domain.lost_passts())
            })
            .collect();
        for (uuid, alone, passts) in died {
            if alone {
                self.replace_supervisor(uuid);
            }
            for alias in passts {
                self.restart_passt(uuid, &alias);
            }
        }
    }

    fn still_runs(&self, story: &Story) -> io::Result<Option<Child>> {
        if story.boot != self.boot || story.running.is_none() || story.name.starts_with(ASIDE) {
            return Ok(None);
        }
        match story.device_model {
            Some(id) => Ok(id.open()?.map(|pidfd| Child { pid: id.pid, pidfd })),
            None => Ok(None),
        }
    }

    fn adopt(&mut self, story: Story, device_model: Child) -> io::Result<()> {
        let uuid = story.plan.domain.uuid;
        let name = story.plan.domain.name.to_string();
        for refusal in adopt_leases(&mut self.leases, &story) {
            // It runs and holds what it holds; the table must at least not give it to a third.
            tracing::error!(name, %refusal, "two running domains hold the same");
        }
        let open = |id: ProcessId| -> io::Result<Option<Child>> {
            Ok(id.open()?.map(|pidfd| Child { pid: id.pid, pidfd }))
        };
        let supervisor = story.supervisor.map(open).transpose()?.flatten();
        let mut helpers = Vec::new();
        for (alias, id) in &story.helpers {
            helpers.extend(open(*id)?.map(|child| (alias.clone(), child)));
        }
        let Some(mut started) = story.running else { return Ok(()) };
        started.supervisor_pid = supervisor.as_ref().map_or(0, |child| child.pid);
        let stores = story.plan.ops.iter().filter_map(|op| match op {
            Op::OpenNvram { path, .. } => Some(path),
            _ => None,
        });
        let held = stores.filter_map(|path| story.held.iter().find(|(_, _, held)| held == path));
        let nvrams = held.map(|(id, ..)| identity(*id)).collect();
        let mut domain = Domain {
            journal: Journal::reopen(&self.journals, &story.name)?,
            plan: story.plan,
            phase: Phase::Running,
            ran: true,
            undos: story.undos,
            launching: None,
            device_model: Some(device_model),
            supervisor,
            link: None,
            heard: 0,
            helpers,
            channels: Vec::new(),
            restarted: Vec::new(),
            kept: Slots::new(),
            stderr: None,
            logs: Vec::new(),
            nvrams,
            started,
            starter: None,
            waiters: Vec::new(),
            failure: None,
            ended: None,
            exit: None,
            replaced: Vec::new(),
            plugs: story.plugs,
            gone: story.gone,
            leftovers: story.leftovers,
            saving: story.saving.map(|(save, part, counts)| match part {
                // An earlier version would have had to write the header yet: the guest goes on.
                Some(part) if counts && part.end.is_none() && is_there(&self.settings, &save, &part) => {
                    Saving::left(save, Some(part))
                }
                Some(part) => {
                    forget_part(&self.settings, &save, &part);
                    Saving::left(save, None)
                }
                None => Saving::left(save, None),
            }),
            given_up: Vec::new(),
            plug_again: None,
        };
        if story.plugging {
            // It was cut short; what comes now is not the plug's.
            domain.journal.write(&Entry::PlugApplied)?;
        }
        // What was put by first: a supervisor that was taken over may have anything under its numbers by now.
        if let Some(store) = &mut self.store {
            domain.take_back(store.take(uuid));
        }
        copy_from_supervisor(&mut domain);
        copy_from_passt(&mut domain);
        if let Some(store) = &self.store {
            store.keep(uuid, &domain.lasting());
        }
        if domain.supervisor.is_none() && domain.stderr.is_none() {
            tracing::error!(name, "runs on without a supervisor: its monitor ended with the last one");
        }
        tracing::info!(name, "still runs and is taken over");
        self.domains.insert(uuid, domain);
        if story.tuning {
            self.tune_back(uuid);
        }
        if !story.loaded {
            self.loaded(uuid);
        }
        Ok(())
    }

    /// Ends what is left of a domain's processes and takes the rest back.
    fn take_back(&mut self, story: Story) -> io::Result<()> {
        let uuid = story.plan.domain.uuid;
        let aside = story.name.starts_with(ASIDE);
        tracing::info!(domain = %story.plan.domain.name, "was left behind and is undone");
        if story.boot == self.boot && !aside {
            let helpers = story.helpers.iter().map(|(_, id)| *id);
            for id in story.device_model.into_iter().chain(story.supervisor).chain(helpers) {
                if let Some(process) = id.open()? {
                    end(&process)?;
                }
            }
            // Uids of the configured ranges belong to nobody else, so whatever has one is the domain's; but the
            // plan was written down before its uids were leased, and may name those of a domain that runs.
            let leased: Vec<u32> = self.leases.uids().into_iter().map(|(_, uid)| uid).collect();
            for uid in story.uids().filter(|uid| !leased.contains(uid)) {
                for pid in pidfd::of_uid(uid)? {
                    if let Ok(process) = pidfd::open(pid)
                        && pidfd::of_uid(uid)?.contains(&pid)
                    {
                        end(&process)?;
                    }
                }
            }
        }
        // What was set aside may be another start's by now, of the same domain even.
        let same = story.boot == self.boot;
        let free = same && !self.domains.contains_key(&uuid);
        let all = story.all_undos();
        let undos: Vec<Undo> = match aside {
            // No cgroup outlives a boot, and its hierarchy may not be there any more.
            false => all.filter(|undo| same || !matches!(undo, Undo::Cgroup { .. })).cloned().collect(),
            true => all.filter_map(|undo| late(undo, &self.leases, &story.bound, free)).collect(),
        };
        let ran = story.running.is_some();
        let mut failed = undo::all(uuid, &undos, ran, &mut self.leases, &mut *self.launcher);
        match &story.saving {
            Some((save, Some(part), true)) => failed += usize::from(!self.finish_left(uuid, save, part)),
            Some((save, Some(part), false)) => forget_part(&self.settings, save, part),
            _ => {}
        }
        let journal = Journal::reopen(&self.journals, &story.name)?;
        if failed == 0 {
            journal.remove();
        } else {
            journal.set_aside(failed);
        }
        Ok(())
    }
}

/// Takes everything that a running domain holds; what cannot be taken keeps nothing else from it, and is given back.
fn adopt_leases(leases: &mut Leases, story: &Story) -> Vec<Refusal> {
    let uuid = story.plan.domain.uuid;
    let mut clashes = Vec::new();
    let mut take = |taken: Result<(), Refusal>| clashes.extend(taken.err());
    take(leases.domain(&story.plan.domain));
    for op in &story.plan.ops {
        match op {
            Op::LeaseUid { role, uid } => take(leases.uid(uuid, *role, *uid)),
            Op::LeaseCategories { pair } => take(leases.pair(uuid, *pair)),
            Op::LeaseShare { identity, pair } => take(leases.share(uuid, identity, *pair)),
            _ => {}
        }
    }
    for uid in story.plug_uids() {
        take(leases.uid(uuid, UidRole::Helper, uid));
    }
    for (id, hold, path) in &story.held {
        take(leases.object(uuid, *id, *hold, path));
    }
    for undo in story.all_undos() {
        if let Undo::Label { path, id, before, after, .. } = undo {
            take(leases.label(uuid, *id, before.clone(), after, path).map(drop));
        }
    }
    clashes
}

/// How to undo an effect long after its domain's end; `None` where it is gone or somebody else's by now. `free` says that
/// the host has not booted since, and that the domain does not run again.
fn late(undo: &Undo, leases: &Leases, bound: &[(String, ObjectId)], free: bool) -> Option<Undo> {
    match undo {
        Undo::Label { .. } | Undo::Name { .. } | Undo::Swap { .. } => Some(undo.clone()),
        // A domain that runs may have given it to its own helper since.
        Undo::Owner { id, .. } | Undo::Shmem { id, .. } => (!leases.is_used(*id)).then(|| undo.clone()),
        // No interface outlives its domain's processes, and its number is not used again before the next boot.
        Undo::Plug { .. } => None,
        // Both are named after the domain.
        Undo::Cgroup { .. } | Undo::Profile => free.then(|| undo.clone()),
        // Another socket may have the name: only the very one is removed.
        Undo::Socket { path } => {
            let (_, id) = bound.iter().rev().find(|(of, _)| of == path)?;
            Some(Undo::Name { path: path.clone(), id: *id, keep_after_run: false })
        }
    }
}

fn end(process: &std::os::fd::OwnedFd) -> io::Result<()> {
    pidfd::kill(process)?;
    if pidfd::wait_ended(process, GOING)? {
        let _ = pidfd::reap(process);
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "a killed process does not end"))
}

/// Takes copies of the descriptors that a later supervisor needs, as far as they are not there, from the one that runs.
fn copy_from_supervisor(domain: &mut Domain) {
    let Some(supervisor) = &domain.supervisor else { return };
    let grants = domain.spawn().map(|spawn| spawn.supervisor.fds.clone()).unwrap_or_default();
    copy_missing(&mut domain.kept, &grants, &supervisor.pidfd);
    if domain.stderr.is_none() {
        domain.stderr = pidfd::copy_descriptor(&supervisor.pidfd, STDERR_FD).ok();
    }
}

fn copy_missing(kept: &mut Slots, grants: &[FdGrant], process: impl AsFd) {
    for grant in grants {
        if kept.contains_key(&grant.slot) {
            continue;
        }
        match pidfd::copy_descriptor(&process, grant.number) {
            Ok(fd) => drop(kept.insert(grant.slot.clone(), fd)),
            Err(error) => {
                tracing::warn!(slot = %grant.slot, %error, "cannot copy a supervisor's descriptor");
            }
        }
    }
}

/// Takes copies of the channels that another passt needs, as far as they are not there, from the ones that run.
fn copy_from_passt(domain: &mut Domain) {
    let missing = |alias: &str| domain.channels.iter().all(|(of, _)| of != alias);
    let passts = domain.helpers.iter().filter(|(alias, _)| missing(alias) && domain.passt(alias).is_some());
    let copied =
        passts.filter_map(|(alias, child)| match pidfd::copy_descriptor(&child.pidfd, passt::CHANNEL) {
            Ok(channel) => Some((alias.clone(), channel)),
            Err(error) => {
                tracing::warn!(alias, %error, "cannot copy a helper's channel");
                None
            }
        });
    let copied: Vec<_> = copied.collect();
    domain.channels.extend(copied);
}

/// Tries for a while to get the lock that one labeller has; the last one may just be going.
pub(super) fn retry<T>(mut get: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + Duration::from_secs(3);
    loop {
        match get() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::story::sample::{held, story};
    use super::*;
    use crate::base::Slot;
    use crate::labeller::lease::Hold;
    use crate::privsep::op::{Access, Sharing};

    #[test]
    fn a_clash_keeps_no_other_lease_from_a_domain_that_runs() {
        let own = Hold { access: Access::ReadWrite, sharing: Sharing::Exclusive };
        let mut leases = Leases::default();
        leases.object(DomainUuid(uuid::Uuid::from_u128(7)), (1, 2), own, "/clash").unwrap();
        let label = |id: ObjectId| {
            let (path, after) = ("/l".to_owned(), "after".to_owned());
            Entry::Intent(Undo::Label { path, id, before: None, after, first: true })
        };
        let story = story(vec![held("/clash", (1, 2)), held("/later", (3, 4)), label((3, 4))]);
        assert_eq!(adopt_leases(&mut leases, &story).len(), 1);
        assert!(leases.is_used((3, 4)));
        let other = DomainUuid(uuid::Uuid::from_u128(8));
        assert!(leases.object(other, (3, 4), own, "/later").is_err());
        assert!(leases.label(other, (3, 4), None, "another", "/l").is_err());
    }

    #[test]
    fn what_was_put_by_counts_more_than_what_a_supervisor_has_now() {
        let own = pidfd::open(crate::sys::process::own_pid()).unwrap();
        let ((stored, _), (theirs, _)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let inode = |fd: &dyn std::os::fd::AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
        let slots = ["monitor.peer", "control"].map(|name| Slot::new(name).unwrap());
        let grants = slots.clone().map(|slot| FdGrant { slot, number: theirs.as_raw_fd() });
        let [monitor, control] = &slots;
        let mut kept = Slots::from([(monitor.clone(), stored.try_clone().unwrap().into())]);
        copy_missing(&mut kept, &grants, &own);
        assert_eq!(kept.get(monitor).map(|fd| inode(fd)), Some(inode(&stored)));
        assert_eq!(kept.get(control).map(|fd| inode(fd)), Some(inode(&theirs)), "there is no other");
    }

    #[test]
    fn an_owner_that_was_set_aside_is_given_back_unless_the_file_is_in_use() {
        let owner = Undo::Owner { path: "/t".into(), id: (1, 2), mode: 0o600 };
        let mut leases = Leases::default();
        assert_eq!(late(&owner, &leases, &[], false), Some(owner.clone()));
        let hold = Hold { access: Access::ReadWrite, sharing: Sharing::Exclusive };
        leases.object(DomainUuid(uuid::Uuid::nil()), (1, 2), hold, "/t").unwrap();
        assert_eq!(late(&owner, &leases, &[], true), None);
    }

    #[test]
    fn what_is_named_after_a_domain_is_taken_back_unless_it_runs_again() {
        let leases = Leases::default();
        for undo in [Undo::Cgroup { directories: Vec::new() }, Undo::Profile] {
            assert_eq!(late(&undo, &leases, &[], true), Some(undo.clone()));
            assert_eq!(late(&undo, &leases, &[], false), None);
        }
    }

    #[test]
    fn of_a_socket_that_was_set_aside_only_the_very_one_is_removed() {
        let leases = Leases::default();
        let socket = Undo::Socket { path: "/s".into() };
        assert_eq!(late(&socket, &leases, &[], true), None, "never bound");
        let bound = [("/s".to_owned(), (1, 2)), ("/other".to_owned(), (3, 4))];
        let name = Undo::Name { path: "/s".into(), id: (1, 2), keep_after_run: false };
        assert_eq!(late(&socket, &leases, &bound, true), Some(name));
    }
}
