//! Which domains there are. No I/O.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};

use super::change::ChangeLock;
use super::{Definition, Runtime, Summary, Text};
use crate::base::{DomainName, DomainUuid, Files};

/// One domain, as it was at one moment.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its uuid.
    pub uuid: DomainUuid,
    /// Its name.
    pub name: DomainName,
    /// What it is defined as, where it is persistent.
    pub definition: Option<Kept>,
    /// Whether it is started when the host is.
    pub autostart: bool,
    /// What runs.
    pub live: Option<Arc<Live>>,
    /// The number of a start of which it is not known yet whether it still runs.
    pub left: Option<i32>,
    /// How it ended, while nothing runs: libvirt's reason for being shut off.
    pub ended: i32,
    /// How long its agent may take for what a call asks it, where somebody has said so: seconds, or -2 for as long as
    /// anybody waits for one, or -1 for what is usual. Kept while the daemon runs, and in what is noted of what runs.
    pub agent_timeout: Option<i32>,
    /// Held by whoever changes what runs; one and the same for its uuid while anybody has it.
    pub(super) job: Arc<ChangeLock>,
}

/// A definition that is kept: what lists ask for is here, and its text in the store.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What is known of it without its text.
    pub summary: Arc<Summary>,
    /// All of it, where no store keeps its text.
    pub(super) whole: Option<Arc<Definition>>,
    /// The uid that handed it in.
    pub(super) owner: u32,
    /// How long its texts are.
    pub(super) bytes: u64,
    /// What it may name of the host.
    pub(super) files: Files,
}

impl std::ops::Deref for Kept {
    type Target = Summary;

    fn deref(&self) -> &Summary {
        &self.summary
    }
}

/// What runs of a domain.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its number.
    pub id: i32,
    /// What it was started with; `None` where somebody else started it.
    pub definition: Option<Arc<Definition>>,
    /// Whether its virtual CPUs run.
    pub state: State,
    /// The socket of its supervisor.
    pub control: String,
    /// The definition as it runs; empty where somebody else started it.
    pub text: Text,
    /// Its labels, the first model first.
    pub labels: Vec<Label>,
    /// Its cgroup below the mount, where there is one.
    pub cgroup: Option<String>,
    /// Consoles and their terminals.
    pub consoles: Vec<(String, Option<String>)>,
    /// The connection whose end is also its own.
    pub autodestroy: Option<u64>,
    /// Whether somebody is ending it.
    pub ending: bool,
    /// Whether its end counts as a crash, whoever brings it about.
    pub crashes: bool,
    /// Where its displays listen, its tap devices and its vsock's number, by the names of the plan; and what was noted
    /// since: how links were put (`link:net0` is `down`), and how long its agent may take (`agent-timeout`).
    pub listening: Vec<(String, String)>,
    /// What changed since it started.
    pub runtime: Runtime,
}

/// What a live domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being started: no client sees it yet.
    Starting,
    /// Its virtual CPUs run; libvirt's number for why.
    Running(i32),
    /// They stand; libvirt's number for why.
    Paused(i32),
    /// They stand, because the guest has panicked.
    Crashed,
}

/// The label that one model gave a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// `selinux`, `apparmor` or `dac`.
    pub model: &'static str,
    /// The label, in the model's own words.
    pub label: String,
    /// The label of the images, where they are relabelled.
    pub image: Option<String>,
    /// Whether the kernel refuses what the label does not allow.
    pub enforcing: bool,
}

impl Domain {
    /// Whether it runs, paused or not.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.running().is_some()
    }

    /// What runs, once it does.
    #[must_use]
    pub fn running(&self) -> Option<&Arc<Live>> {
        self.live.as_ref().filter(|live| live.state != State::Starting)
    }

    /// Whether it runs as far as anybody knows: it does, or it did when an earlier daemon was told last.
    #[must_use]
    pub fn may_run(&self) -> bool {
        self.is_active() || self.left.is_some()
    }

    /// Its number while it runs, or may, else -1.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.running().map(|live| live.id).or(self.left).unwrap_or(-1)
    }

    /// What it is now: what it runs with, else what it is defined as, else what it is being started with.
    #[must_use]
    pub fn current(&self) -> Option<&Summary> {
        let runs = self.running().and_then(|live| live.definition.as_deref()).map(|whole| &**whole);
        runs.or(self.definition.as_deref()).or_else(|| self.starting().map(|whole| &***whole))
    }

    /// What it is being started with, while it is and nothing else is known of it.
    pub(super) fn starting(&self) -> Option<&Arc<Definition>> {
        let live = self.live.as_ref().filter(|live| live.state == State::Starting)?;
        live.definition.as_ref().filter(|_| self.definition.is_none())
    }
}

/// All domains.
#[derive(Debug, Default)]
pub(super) struct Table {
    domains: BTreeMap<DomainUuid, Domain>,
    names: HashMap<String, DomainUuid>,
    ids: HashMap<i32, DomainUuid>,
    /// How many definitions each uid has handed in, and their bytes; nobody that has none.
    held: HashMap<u32, (u64, u64)>,
    /// Jobs that somebody holds, or waits for, of domains that there are not.
    jobs: HashMap<DomainUuid, Weak<ChangeLock>>,
    /// What has ended since somebody began to find out what runs.
    ended: Option<HashSet<DomainUuid>>,
    last_id: i32,
}

impl Table {
    pub(super) fn all(&self) -> Vec<Domain> {
        self.domains.values().cloned().collect()
    }

    pub(super) fn by_uuid(&self, uuid: DomainUuid) -> Option<Domain> {
        self.domains.get(&uuid).cloned()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Domain> {
        self.by_uuid(*self.names.get(name)?)
    }

    pub(super) fn by_id(&self, id: i32) -> Option<Domain> {
        self.by_uuid(*self.ids.get(&id)?).filter(Domain::may_run)
    }

    /// The domain with this uuid, new and of this name where there is none.
    pub(super) fn entry(&mut self, uuid: DomainUuid, name: &DomainName) -> &mut Domain {
        let job = self.jobs.remove(&uuid).and_then(|job| job.upgrade());
        let names = &mut self.names;
        self.domains.entry(uuid).or_insert_with(|| {
            // Only here: one that there is keeps its name, and a second one would outlive it.
            names.insert(name.to_string(), uuid);
            let job = job.unwrap_or_default();
            Domain {
                uuid,
                name: name.clone(),
                definition: None,
                autostart: false,
                live: None,
                left: None,
                ended: 0,
                agent_timeout: None,
                job,
            }
        })
    }

    /// Who changes what runs of it holds this, whether there is such a domain or not: whoever began something before it
    /// was forgotten and came again is still to be waited for.
    pub(super) fn job(&mut self, uuid: DomainUuid) -> Arc<ChangeLock> {
        if let Some(domain) = self.domains.get(&uuid) {
            return domain.job.clone();
        }
        if let Some(job) = self.jobs.get(&uuid).and_then(Weak::upgrade) {
            return job;
        }
        let job = Arc::default();
        self.jobs.retain(|_, job| job.strong_count() > 0);
        self.jobs.insert(uuid, Arc::downgrade(&job));
        job
    }

    /// Notes what a domain is defined as, or that it no longer is. The one place where that changes, for it is counted.
    pub(super) fn define(&mut self, uuid: DomainUuid, kept: Option<Kept>) -> Option<&mut Domain> {
        let domain = self.domains.get_mut(&uuid)?;
        if let Some(before) = &domain.definition
            && let Entry::Occupied(mut held) = self.held.entry(before.owner)
        {
            let (count, bytes) = *held.get();
            if count > 1 {
                held.insert((count - 1, bytes.saturating_sub(before.bytes)));
            } else {
                held.remove();
            }
        }
        if let Some(kept) = &kept {
            let (count, bytes) = self.held.entry(kept.owner).or_default();
            *count = count.saturating_add(1);
            *bytes = bytes.saturating_add(kept.bytes);
        }
        domain.definition = kept;
        Some(domain)
    }

    /// How many definitions there are.
    pub(super) fn definitions(&self) -> u64 {
        self.held.values().map(|(count, _)| count).sum()
    }

    /// How many definitions one uid has handed in, and their bytes, without those of one domain.
    pub(super) fn owned(&self, owner: u32, but: DomainUuid) -> (u64, u64) {
        let (count, bytes) = self.held.get(&owner).copied().unwrap_or_default();
        let without = self.domains.get(&but).and_then(|domain| domain.definition.as_ref());
        match without.filter(|kept| kept.owner == owner) {
            Some(kept) => (count.saturating_sub(1), bytes.saturating_sub(kept.bytes)),
            None => (count, bytes),
        }
    }

    /// Domains that are to end with a connection.
    pub(super) fn bound_to(&self, connection: u64) -> Vec<Domain> {
        let bound = |live: &Arc<Live>| live.autodestroy == Some(connection);
        self.domains.values().filter(|domain| domain.live.as_ref().is_some_and(bound)).cloned().collect()
    }

    /// Gives a domain another name, and a definition that says so. Returns it as it is now.
    pub(super) fn rename(&mut self, uuid: DomainUuid, name: &DomainName, kept: Kept) -> Option<Domain> {
        let domain = self.domains.get_mut(&uuid)?;
        self.names.remove(domain.name.as_str());
        self.names.insert(name.to_string(), uuid);
        domain.name = name.clone();
        self.define(uuid, Some(kept)).cloned()
    }

    /// A domain to change.
    pub(super) fn get(&mut self, uuid: DomainUuid) -> Option<&mut Domain> {
        self.domains.get_mut(&uuid)
    }

    /// A number that no domain has had.
    pub(super) fn next_id(&mut self) -> i32 {
        self.last_id = self.last_id.saturating_add(1);
        self.last_id
    }

    /// Notes that it is not known whether this start of a domain runs, or that it is known now. One that is neither defined
    /// nor runs is forgotten then.
    pub(super) fn leave(&mut self, uuid: DomainUuid, id: Option<i32>) {
        // Nobody else gets its number, whether it can be shown or not.
        self.last_id = self.last_id.max(id.unwrap_or(0));
        let Some(domain) = self.domains.get_mut(&uuid) else { return };
        if let Some(before) = std::mem::replace(&mut domain.left, id) {
            self.ids.remove(&before);
        }
        if let Some(id) = id {
            self.ids.insert(id, uuid);
        }
        self.tidy(uuid);
    }

    /// Notes what runs.
    pub(super) fn set_live(&mut self, uuid: DomainUuid, live: Live) {
        self.last_id = self.last_id.max(live.id);
        self.ids.insert(live.id, uuid);
        if let Some(domain) = self.domains.get_mut(&uuid) {
            // What an earlier daemon was told of it.
            domain.agent_timeout = live.agent_timeout().or(domain.agent_timeout);
            if let Some(left) = domain.left.take_if(|left| *left != live.id) {
                self.ids.remove(&left);
            }
            domain.left = None;
            domain.live = Some(Arc::new(live));
        }
    }

    /// Notes that nothing runs any longer; a domain that is not defined either is forgotten. Returns it as it was.
    ///
    /// `None` where not this very start of it runs.
    pub(super) fn take_live(&mut self, uuid: DomainUuid, id: i32, ended: i32) -> Option<Domain> {
        let domain = self.domains.get_mut(&uuid)?;
        let before = domain.clone();
        domain.live.take_if(|live| live.id == id)?;
        domain.ended = ended;
        if domain.left != Some(id) {
            self.ids.remove(&id);
        }
        if let Some(ended) = &mut self.ended {
            ended.insert(uuid);
        }
        self.tidy(uuid);
        Some(before)
    }

    /// From now on what ends is noted, for somebody who is about to be told what runs.
    pub(super) fn note_ends(&mut self) {
        self.ended = Some(HashSet::new());
    }

    /// Whether it has ended since then: what was told may be older.
    pub(super) fn has_ended(&self, uuid: DomainUuid) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.contains(&uuid))
    }

    /// Nobody asks any longer.
    pub(super) fn forget_ends(&mut self) {
        self.ended = None;
    }

    /// Forgets a domain that is neither defined nor runs.
    pub(super) fn tidy(&mut self, uuid: DomainUuid) {
        let Some(domain) = self.domains.get(&uuid) else { return };
        if domain.definition.is_none() && domain.live.is_none() && domain.left.is_none() {
            let (name, job) = (domain.name.to_string(), Arc::downgrade(&domain.job));
            self.jobs.insert(uuid, job);
            self.domains.remove(&uuid);
            self.jobs.retain(|_, job| job.strong_count() > 0);
            if self.names.get(&name) == Some(&uuid) {
                self.names.remove(&name);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    pub(in crate::manager) fn live(id: i32, state: State) -> Live {
        Live {
            id,
            definition: None,
            state,
            control: String::new(),
            text: Text::default(),
            labels: vec![],
            cgroup: None,
            consoles: vec![],
            autodestroy: None,
            ending: false,
            crashes: false,
            listening: vec![],
            runtime: Runtime::default(),
        }
    }

    fn kept(uuid: DomainUuid, owner: u32, bytes: u64) -> Kept {
        let name = DomainName::new("a").unwrap();
        let summary = Summary { uuid, name, memory: 0, current_memory: 0, vcpus: 1, current_vcpus: 1 };
        Kept { summary: summary.into(), whole: None, owner, bytes, files: Files::ALL }
    }

    #[test]
    fn what_each_uid_has_handed_in_is_counted_as_it_changes() {
        let mut table = Table::default();
        let uuids = [1, 2, 3, 4].map(|number| DomainUuid(uuid::Uuid::from_u128(number)));
        let others = DomainUuid(uuid::Uuid::from_u128(9));
        for (uuid, name) in uuids.into_iter().zip(["a", "b", "c", "d"]) {
            table.entry(uuid, &DomainName::new(name).unwrap());
            table.define(uuid, Some(kept(uuid, 7, 10)));
        }
        assert_eq!(
            (table.definitions(), table.owned(7, others), table.owned(8, others)),
            (4, (4, 40), (0, 0))
        );
        assert_eq!((table.owned(7, uuids[0]), table.owned(8, uuids[0])), ((3, 30), (0, 0)));
        // Somebody else's from now on; longer; under another name; defined no longer.
        table.define(uuids[0], Some(kept(uuids[0], 8, 5)));
        table.define(uuids[1], Some(kept(uuids[1], 7, 100)));
        table.rename(uuids[2], &DomainName::new("z").unwrap(), kept(uuids[2], 7, 11)).unwrap();
        table.define(uuids[3], None);
        assert_eq!(
            (table.definitions(), table.owned(7, others), table.owned(8, others)),
            (3, (2, 111), (1, 5))
        );
        assert!(
            table.define(others, Some(kept(others, 7, 1))).is_none(),
            "one that is not there is not counted"
        );
        for uuid in uuids {
            table.define(uuid, None);
            table.tidy(uuid);
        }
        assert!(table.held.is_empty() && table.domains.is_empty());
    }

    #[test]
    fn a_job_is_the_same_one_while_anybody_holds_it() {
        let (mut table, uuid) = (Table::default(), DomainUuid(uuid::Uuid::from_u128(1)));
        let name = DomainName::new("a").unwrap();
        let job = table.entry(uuid, &name).job.clone();
        table.tidy(uuid);
        assert!(table.by_uuid(uuid).is_none());
        assert!(Arc::ptr_eq(&job, &table.entry(uuid, &name).job), "whoever has begun with it is waited for");
        drop(job);
        table.tidy(uuid);
        assert!(table.jobs.is_empty(), "what nobody holds is not kept");
        let first = table.job(uuid);
        assert!(table.by_uuid(uuid).is_none() && Arc::ptr_eq(&first, &table.job(uuid)));
        assert!(Arc::ptr_eq(&first, &table.entry(uuid, &name).job), "that of one that came meanwhile");
    }

    #[test]
    fn what_is_being_started_is_known_by_what_it_is_started_with() {
        let (mut table, uuid) = (Table::default(), DomainUuid(uuid::Uuid::from_u128(1)));
        let name = DomainName::new("a").unwrap();
        let xml = format!(
            "<domain type='test'><name>a</name><uuid>{uuid}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"
        );
        let definition = Arc::new(Definition::kept(&xml).unwrap());
        table.entry(uuid, &name);
        table.set_live(uuid, Live { definition: Some(definition.clone()), ..live(1, State::Starting) });
        let starting = table.by_uuid(uuid).unwrap();
        assert_eq!((starting.id(), starting.current().unwrap().name.as_str()), (-1, "a"));
        // One that is kept too is that until it runs.
        table.define(uuid, Some(kept(uuid, 0, 1)));
        assert!(table.by_uuid(uuid).unwrap().starting().is_none());
    }

    #[test]
    fn the_number_of_what_is_left_is_nobody_elses() {
        let mut table = Table::default();
        table.leave(DomainUuid(uuid::Uuid::from_u128(1)), Some(7));
        assert!(table.next_id() > 7);
    }

    #[test]
    fn what_is_left_is_there_until_it_is_known_what_became_of_it() {
        let (mut table, uuid) = (Table::default(), DomainUuid(uuid::Uuid::from_u128(1)));
        for found in [true, false] {
            table.entry(uuid, &DomainName::new("a").unwrap());
            table.leave(uuid, Some(7));
            table.tidy(uuid);
            let domain = table.by_id(7).unwrap();
            assert!(domain.may_run() && !domain.is_active() && table.next_id() > 7);
            if found {
                table.set_live(uuid, live(7, State::Running(1)));
                assert!(table.by_id(7).unwrap().is_active() && table.by_uuid(uuid).unwrap().left.is_none());
                table.take_live(uuid, 7, 2).unwrap();
            } else {
                table.leave(uuid, None);
            }
            assert!(table.by_uuid(uuid).is_none() && table.by_id(7).is_none());
        }
    }

    #[test]
    fn an_end_is_noted_while_somebody_is_told_what_runs() {
        let (mut table, uuid) = (Table::default(), DomainUuid(uuid::Uuid::from_u128(1)));
        for asked in [false, true] {
            table.entry(uuid, &DomainName::new("a").unwrap());
            table.set_live(uuid, live(1, State::Running(1)));
            if asked {
                table.note_ends();
            }
            table.take_live(uuid, 1, 2).unwrap();
            assert_eq!(table.has_ended(uuid), asked);
        }
        table.forget_ends();
        assert!(!table.has_ended(uuid));
    }

    #[test]
    fn a_domain_has_one_name_whatever_it_is_called_later() {
        let (mut table, uuid) = (Table::default(), DomainUuid(uuid::Uuid::from_u128(1)));
        table.entry(uuid, &DomainName::new("a").unwrap());
        table.entry(uuid, &DomainName::new("b").unwrap());
        assert!(table.by_name("b").is_none());
        table.tidy(uuid);
        assert!(table.by_name("a").is_none() && table.names.is_empty());
    }

    #[test]
    fn a_domain_that_neither_runs_nor_is_defined_is_forgotten() {
        let (mut table, uuid) = (Table::default(), DomainUuid(uuid::Uuid::from_u128(1)));
        let name = DomainName::new("a").unwrap();
        table.entry(uuid, &name);
        let id = table.next_id();
        table.set_live(uuid, live(id, State::Starting));
        assert!(table.by_id(id).is_none(), "nobody sees it before it runs");
        assert_eq!(table.by_name("a").unwrap().id(), -1);
        table.set_live(uuid, live(id, State::Running(1)));
        assert_eq!(table.by_id(id).unwrap().uuid, uuid);
        assert!(table.take_live(uuid, id + 1, 2).is_none(), "another start's end is not this one's");
        assert_eq!(table.take_live(uuid, id, 2).unwrap().id(), id);
        assert!(table.by_uuid(uuid).is_none() && table.by_name("a").is_none() && table.by_id(id).is_none());
        assert_eq!(table.next_id(), id + 1);
    }
}
