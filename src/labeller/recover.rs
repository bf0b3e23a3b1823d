//! What an earlier labeller left: domains that still run are taken over, everything else is taken back.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::domain::{Domain, Phase};
use super::journal::{self, ASIDE, Entry, Journal, Left, Part, ProcessRole, Undo};
use super::launcher::Slots;
use super::lease::{Hold, Leases, ObjectId};
use super::plug::{Leftover, Plugged};
use super::save::{Saving, forget_part, is_there};
use super::server::Server;
use super::start::identity;
use super::{passt, tune, undo};
use crate::base::{DomainUuid, Refusal};
use crate::privsep::op::{FdGrant, LaunchPlan, Op, UidRole};
use crate::privsep::plug::Gone;
use crate::privsep::request::Started;
use crate::privsep::save::Save;
use crate::privsep::supervisor::STDERR_FD;
use crate::sys::pidfd::{self, ProcessId};
use crate::sys::process::Child;

/// How long a killed process may take to go.
const GOING: u16 = 5000;

/// A journal's content, sorted.
struct Story {
    name: String,
    boot: String,
    plan: LaunchPlan,
    undos: Vec<Undo>,
    held: Vec<((u64, u64), Hold, String)>,
    bound: Vec<(String, (u64, u64))>,
    device_model: Option<ProcessId>,
    supervisor: Option<ProcessId>,
    helpers: Vec<(String, ProcessId)>,
    running: Option<Started>,
    plugs: Vec<Plugged>,
    gone: Vec<Gone>,
    leftovers: Vec<Leftover>,
    /// Whether entries are those of the last plug.
    plugging: bool,
    /// The save that was going on, the name that its file got, and whether it counts.
    saving: Option<(Save, Option<Part>, bool)>,
    /// Whether what it was loaded from was given back.
    loaded: bool,
}

impl Story {
    fn read(left: Left) -> Option<Self> {
        let (boot, plan) = left.begin?;
        let mut story = Self {
            name: left.name,
            boot,
            plan,
            undos: Vec::new(),
            held: Vec::new(),
            bound: Vec::new(),
            device_model: None,
            supervisor: None,
            helpers: Vec::new(),
            running: None,
            plugs: Vec::new(),
            gone: Vec::new(),
            leftovers: Vec::new(),
            plugging: false,
            saving: None,
            loaded: false,
        };
        let mut held_by_plugs = Vec::new();
        for entry in left.entries {
            match entry {
                Entry::Begin { .. } => {}
                Entry::Bound { path, id } => story.bound.push((path, id)),
                Entry::PlugBegin { plug } => {
                    let (undos, held) = (Vec::new(), Vec::new());
                    story.plugs.push(Plugged { plug: *plug, undos, held, certain: false });
                    story.plugging = true;
                }
                Entry::PlugApplied => story.plugging = false,
                Entry::PlugDone { alias, medium } => {
                    story.plugging = false;
                    let which = Gone { alias, medium };
                    story.plugs.iter_mut().filter(|it| it.gone() == which).for_each(|it| it.certain = true);
                }
                Entry::Released { alias, medium } => story.released(&Gone { alias, medium }),
                Entry::Unplugged { alias, medium } => story.unplugged(&Gone { alias, medium }),
                Entry::Held { path, id, access, sharing } if story.plugging().is_some() => {
                    held_by_plugs.push((id, Hold { access, sharing }, path));
                    story.plugging().into_iter().for_each(|plugged| plugged.held.push(id));
                }
                Entry::Intent(undo) if story.plugging().is_some() => {
                    story.plugging().into_iter().for_each(|plugged| plugged.undos.push(undo.clone()));
                }
                Entry::Held { path, id, access, sharing } => {
                    story.held.push((id, Hold { access, sharing }, path));
                }
                Entry::Intent(undo) => story.undos.push(undo),
                Entry::SaveBegin { save } => story.saving = Some((*save, None, false)),
                Entry::SaveNamed(part) => story.saving.iter_mut().for_each(|it| it.1 = Some(part.clone())),
                Entry::SaveWritten => story.saving.iter_mut().for_each(|it| it.2 = true),
                Entry::SaveOver => story.saving = None,
                Entry::Loaded => story.loaded(),
                Entry::Process { role: ProcessRole::DeviceModel, id } => story.device_model = Some(id),
                Entry::Process { role: ProcessRole::Supervisor, id } => story.supervisor = Some(id),
                Entry::Process { role: ProcessRole::Helper(alias), id } => story.helpers.push((alias, id)),
                Entry::Tuned(limits) => tune::amend(&mut story.plan, limits),
                Entry::Running { started, cgroup } => {
                    story.running = Some(Started { cgroup: started.cgroup.clone().or(cgroup), ..started });
                }
            }
        }
        // Of what plugs held only what is there still.
        let left = story.leftovers.iter().filter(|left| !left.planned);
        for held in story.plugs.iter().map(|plugged| &plugged.held).chain(left.map(|left| &left.held)) {
            for id in held {
                story.held.extend(held_by_plugs.iter().find(|(held, ..)| held == id).cloned());
            }
        }
        Some(story)
    }

    /// What the domain was loaded from is no longer its own.
    fn loaded(&mut self) {
        self.loaded = true;
        let saved = self.plan.ops.iter().find_map(|op| match op {
            Op::OpenSaved { saved, .. } => Some((saved.identity.device, saved.identity.inode)),
            _ => None,
        });
        let Some(id) = saved else { return };
        self.held.retain(|(held, ..)| *held != id);
        self.undos.retain(|undo| !matches!(undo, Undo::Label { id: of, .. } if *of == id));
    }

    /// The device whose entries are being read.
    fn plugging(&mut self) -> Option<&mut Plugged> {
        self.plugs.last_mut().filter(|_| self.plugging)
    }

    fn released(&mut self, which: &Gone) {
        self.plugging = false;
        if let Some(at) = self.plugs.iter().position(|plugged| plugged.gone() == *which) {
            let plugged = self.plugs.remove(at);
            self.leftovers.push(Leftover::plugged(plugged));
        } else if !self.gone.contains(which) {
            let leftover = Leftover::planned(&self.plan, which, &self.gone, &mut self.undos);
            self.gone.push(which.clone());
            self.leftovers.push(leftover);
        }
    }

    fn unplugged(&mut self, which: &Gone) {
        let plugged = self.plugs.iter().any(|plugged| plugged.gone() == *which);
        if plugged || !self.leftovers.iter().any(|left| left.which == *which) {
            // Earlier versions wrote no other entry.
            self.released(which);
        }
        let Some(at) = self.leftovers.iter().position(|left| left.which == *which) else { return };
        let left = self.leftovers.remove(at);
        let held = left.held.iter().filter(|_| left.planned);
        for id in held {
            if let Some(at) = self.held.iter().position(|(held, ..)| held == id) {
                self.held.remove(at);
            }
        }
    }

    fn all_undos(&self) -> impl Iterator<Item = &Undo> {
        let plugged = self.plugs.iter().flat_map(|plugged| &plugged.undos);
        let left = self.leftovers.iter().flat_map(|left| &left.undos);
        self.undos.iter().chain(plugged).chain(left)
    }

    fn uids(&self) -> impl Iterator<Item = u32> {
        let planned = self.plan.ops.iter().filter_map(|op| match op {
            Op::LeaseUid { uid, .. } => Some(*uid),
            _ => None,
        });
        planned.chain(self.plug_uids())
    }

    /// Uids that are leased for what was plugged in, by what is there or not given back yet.
    fn plug_uids(&self) -> impl Iterator<Item = u32> {
        let plugged = self.plugs.iter().flat_map(|plugged| plugged.plug.uids());
        let left = self.leftovers.iter().filter(|left| !left.planned);
        plugged.chain(left.filter_map(|left| left.helper.as_ref().map(|(_, uid)| *uid)))
    }
}

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
                Some(part) if counts && is_there(&self.settings, &save, &part) => {
                    Saving::left(save, Some(part))
                }
                Some(part) => {
                    forget_part(&self.settings, &save, &part);
                    Saving::left(save, None)
                }
                None => Saving::left(save, None),
            }),
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
            Op::LeaseShare { identity, pair } => {
                take(leases.share(uuid, (identity.device, identity.inode), *pair));
            }
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

    use super::*;
    use crate::base::Slot;
    use crate::privsep::op::{Access, Sharing};

    fn story(entries: Vec<Entry>) -> Story {
        let domain = crate::base::DomainRef {
            name: crate::base::DomainName::new("a").unwrap(),
            uuid: DomainUuid(uuid::Uuid::nil()),
        };
        let plan = LaunchPlan { version: 1, domain, ops: Vec::new(), notes: Vec::new() };
        Story::read(Left { name: "a".into(), begin: Some(("boot".into(), plan)), entries }).unwrap()
    }

    fn held(path: &str, id: ObjectId) -> Entry {
        let (access, sharing) = (Access::ReadOnly, Sharing::Readers);
        Entry::Held { path: path.into(), id, access, sharing }
    }

    fn begin(alias: &str) -> Entry {
        let top = crate::privsep::plug::Top::Device { object: "{}".into() };
        let steps =
            crate::privsep::plug::PlugSteps { alias: alias.into(), sets: Vec::new(), nodes: Vec::new(), top };
        let plug =
            crate::privsep::plug::Plug { alias: alias.into(), ops: Vec::new(), steps, note: String::new() };
        Entry::PlugBegin { plug: Box::new(plug) }
    }

    #[test]
    fn a_cgroup_is_found_where_each_version_wrote_it() {
        let started = r#"{"control":"/c","qemu_pid":2,"supervisor_pid":1,"degraded":[],"listening":[]"#;
        for running in [
            format!(r#"{{"entry":"running","started":{started}}},"cgroup":"/g"}}"#),
            format!(r#"{{"entry":"running","started":{started},"cgroup":"/g"}}}}"#),
        ] {
            let found = story(vec![serde_json::from_str(&running).unwrap()]).running.unwrap();
            assert_eq!(found.cgroup.as_deref(), Some("/g"), "{running}");
        }
    }

    #[test]
    fn what_comes_after_a_plug_that_is_unsure_is_not_its_own() {
        let unsure = vec![begin("a"), held("/a", (1, 2)), Entry::PlugApplied];
        let later = vec![held("/later", (3, 4)), Entry::Intent(Undo::Profile)];
        let story = story([unsure, later].concat());
        assert_eq!(story.plugs.first().unwrap().held, [(1, 2)]);
        assert!(story.plugs.first().unwrap().undos.is_empty());
        assert_eq!(story.undos, [Undo::Profile]);
        assert_eq!(story.held.len(), 2);
    }

    #[test]
    fn what_was_let_go_and_not_given_back_is_held_and_not_there() {
        let gone = |alias: &str| Entry::Released { alias: alias.into(), medium: false };
        let entries = [begin("a"), held("/a", (1, 2)), Entry::Intent(Undo::Profile), gone("a"), gone("own")];
        let story_of = |more: &[Entry]| story([&entries[..], more].concat());
        let before = story_of(&[]);
        assert!(before.plugs.is_empty());
        assert_eq!(before.leftovers.iter().filter(|left| !left.planned).count(), 1);
        assert_eq!(before.gone, [Gone { alias: "own".into(), medium: false }]);
        assert_eq!((before.held.len(), before.all_undos().count()), (1, 1));
        let over = Entry::Unplugged { alias: "a".into(), medium: false };
        let after = story_of(&[over, Entry::Unplugged { alias: "own".into(), medium: false }]);
        assert!(after.leftovers.is_empty() && after.held.is_empty() && after.all_undos().count() == 0);
    }

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
