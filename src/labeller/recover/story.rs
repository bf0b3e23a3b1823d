//! What a domain's journal tells, entry by entry: what it had at its start, what came and went since, and what was being
//! done when the last entry was written.
//!
//! Pure: it reads entries and looks at nothing else. What follows from them is decided by whoever recovers.

use super::super::journal::{Entry, Left, Part, ProcessRole, Undo};
use super::super::lease::{Hold, ObjectId};
use super::super::plug::{Leftover, Plugged};
use super::super::{pin, tune, undo};
use crate::privsep::op::{LaunchPlan, Op};
use crate::privsep::plug::Gone;
use crate::privsep::request::Started;
use crate::privsep::save::Save;
use crate::sys::pidfd::ProcessId;

/// A journal's content, sorted.
pub(super) struct Story {
    pub(super) name: String,
    pub(super) boot: String,
    pub(super) plan: LaunchPlan,
    pub(super) undos: Vec<Undo>,
    pub(super) held: Vec<((u64, u64), Hold, String)>,
    pub(super) bound: Vec<(String, (u64, u64))>,
    pub(super) device_model: Option<ProcessId>,
    pub(super) supervisor: Option<ProcessId>,
    pub(super) helpers: Vec<(String, ProcessId)>,
    pub(super) running: Option<Started>,
    pub(super) plugs: Vec<Plugged>,
    pub(super) gone: Vec<Gone>,
    pub(super) leftovers: Vec<Leftover>,
    /// Whether entries are those of the last plug.
    pub(super) plugging: bool,
    /// The save that was going on, the name that its file got, and whether it counts.
    pub(super) saving: Option<(Save, Option<Part>, bool)>,
    /// Whether what it was loaded from was given back.
    pub(super) loaded: bool,
    /// Whether it was being given other limits than the plan has.
    pub(super) tuning: bool,
}

impl Story {
    /// Reads entries in the order in which they were written; `None` where not even the first one was.
    pub(super) fn read(left: Left) -> Option<Self> {
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
            tuning: false,
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
                Entry::Lifecycle(lifecycle) => tune::amend_lifecycle(&mut story.plan, lifecycle),
                Entry::Pinned(pins) => pin::amend(&mut story.plan, pins),
                Entry::Tuning(_) => story.tuning = true,
                Entry::Tuned(limits) => {
                    story.tuning = false;
                    tune::amend(&mut story.plan, limits);
                }
                Entry::Running { started, cgroup } => {
                    story.running = Some(Started { cgroup: started.cgroup.clone().or(cgroup), ..started });
                    let replaced: Vec<ObjectId> = undo::replaced(&story.undos).collect();
                    story.held.retain(|(held, ..)| !replaced.contains(held));
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

    /// Effects of the start, then of what was plugged in, by what is there or not given back yet.
    pub(super) fn all_undos(&self) -> impl Iterator<Item = &Undo> {
        let plugged = self.plugs.iter().flat_map(|plugged| &plugged.undos);
        let left = self.leftovers.iter().flat_map(|left| &left.undos);
        self.undos.iter().chain(plugged).chain(left)
    }

    /// Every uid that was leased for it.
    pub(super) fn uids(&self) -> impl Iterator<Item = u32> {
        let planned = self.plan.ops.iter().filter_map(|op| match op {
            Op::LeaseUid { uid, .. } => Some(*uid),
            _ => None,
        });
        planned.chain(self.plug_uids())
    }

    /// Uids that are leased for what was plugged in, by what is there or not given back yet.
    pub(super) fn plug_uids(&self) -> impl Iterator<Item = u32> {
        let plugged = self.plugs.iter().flat_map(|plugged| plugged.plug.uids());
        let left = self.leftovers.iter().filter(|left| !left.planned);
        plugged.chain(left.filter_map(|left| left.helper.as_ref().map(|(_, uid)| *uid)))
    }
}

/// Journals that tests write.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod sample {
    use super::*;
    use crate::base::{DomainName, DomainRef, DomainUuid};
    use crate::privsep::op::{Access, Sharing};

    pub(in crate::labeller::recover) fn story(entries: Vec<Entry>) -> Story {
        let domain = DomainRef { name: DomainName::new("a").unwrap(), uuid: DomainUuid(uuid::Uuid::nil()) };
        let plan = LaunchPlan { version: 1, domain, ops: Vec::new(), notes: Vec::new() };
        Story::read(Left { name: "a".into(), begin: Some(("boot".into(), plan)), entries }).unwrap()
    }

    pub(in crate::labeller::recover) fn held(path: &str, id: ObjectId) -> Entry {
        let (access, sharing) = (Access::ReadOnly, Sharing::Readers);
        Entry::Held { path: path.into(), id, access, sharing }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::sample::{held, story};
    use super::*;

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
    fn a_log_that_was_replaced_is_held_until_the_guest_runs() {
        let (path, aside) = ("/l".to_owned(), "/.l.svirt".to_owned());
        let swap = Undo::Swap { path, aside, new: (1, 3), old: (1, 2) };
        let mut entries = vec![held("/l", (1, 2)), held("/l", (1, 3)), Entry::Intent(swap)];
        let held_by = |entries: &[Entry]| -> Vec<ObjectId> {
            story(entries.to_vec()).held.iter().map(|(id, ..)| *id).collect()
        };
        assert_eq!(held_by(&entries), [(1, 2), (1, 3)]);
        let running = r#"{"entry":"running","started":{"control":"/c","qemu_pid":2,"supervisor_pid":1,"degraded":[],"listening":[]}}"#;
        entries.push(serde_json::from_str(running).unwrap());
        assert_eq!(held_by(&entries), [(1, 3)]);
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
}
