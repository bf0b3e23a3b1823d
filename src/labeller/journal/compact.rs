//! What of a journal says nothing any longer is left out: devices that came and went, helpers that others followed.
//!
//! What is left means the same to whoever reads it; the file is replaced as a whole, so that a crash leaves the old one
//! or the new one.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::{Entry, VERSION, parse, read_whole};
use crate::privsep::plug::Gone;

/// What the new file is called until it takes the old one's place.
fn new_name(name: &str) -> String {
    format!("{name}.new")
}

/// Removes what a crash left of a rewriting.
pub(super) fn clear(directory: &OwnedFd, name: &str) {
    let _ = fs::unlinkat(directory, new_name(name), AtFlags::empty());
}

/// Rewrites a journal without what is over; gives the new file, open to append to, and its length.
pub(super) fn rewrite(directory: &OwnedFd, name: &str) -> io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let old = File::from(fs::openat(directory, name, flags, Mode::empty())?);
    let (begin, entries) = parse(&read_whole(&old)?)?;
    let Some((boot, plan)) = begin else { return Err(io::ErrorKind::InvalidData.into()) };
    let begin = Entry::Begin { version: VERSION, boot, plan: Box::new(plan) };
    let mut text = Vec::new();
    for entry in [begin].iter().chain(&settled(entries)) {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    clear(directory, name);
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(fs::openat(directory, new_name(name), flags, Mode::from_raw_mode(0o600))?);
    let replaced = file
        .write_all(&text)
        .and_then(|()| file.sync_data())
        .and_then(|()| Ok(fs::renameat(directory, new_name(name), directory, name)?));
    if let Err(error) = replaced {
        clear(directory, name);
        return Err(error);
    }
    fs::fsync(directory)?;
    Ok((file, text.len() as u64))
}

fn is_save(entry: &Entry) -> bool {
    matches!(entry, Entry::SaveBegin { .. } | Entry::SaveNamed(_) | Entry::SaveWritten)
}

/// The entries that still say something.
fn settled(entries: Vec<Entry>) -> Vec<Entry> {
    // Each with the plug that it belongs to.
    let mut kept: Vec<(Option<Gone>, Entry)> = Vec::new();
    let mut plugging: Option<Gone> = None;
    for entry in entries {
        let of = match &entry {
            Entry::PlugBegin { plug } => {
                plugging = Some(plug.gone());
                plugging.clone()
            }
            Entry::PlugApplied => plugging.take(),
            Entry::PlugDone { alias, medium } | Entry::Released { alias, medium } => {
                plugging = None;
                Some(Gone { alias: alias.clone(), medium: *medium })
            }
            Entry::Unplugged { alias, medium } => {
                plugging = None;
                let gone = Gone { alias: alias.clone(), medium: *medium };
                let begins = |(of, entry): &(Option<Gone>, Entry)| {
                    matches!(entry, Entry::PlugBegin { .. }) && of.as_ref() == Some(&gone)
                };
                if kept.iter().any(begins) {
                    kept.retain(|(of, _)| of.as_ref() != Some(&gone));
                    continue;
                }
                // It was there from the start, and its going is all that is known of it.
                None
            }
            Entry::Process { role, .. } => {
                // The one before has ended.
                kept.retain(|(_, other)| !matches!(other, Entry::Process { role: same, .. } if same == role));
                None
            }
            Entry::Lifecycle(_) => {
                kept.retain(|(_, other)| !matches!(other, Entry::Lifecycle(_)));
                None
            }
            Entry::Tuning(_) => {
                kept.retain(|(_, other)| !matches!(other, Entry::Tuning(_)));
                None
            }
            Entry::Pinned(_) => {
                kept.retain(|(_, other)| !matches!(other, Entry::Pinned(_)));
                None
            }
            Entry::Tuned(_) => {
                kept.retain(|(_, other)| !matches!(other, Entry::Tuned(_) | Entry::Tuning(_)));
                None
            }
            Entry::Intent(_) | Entry::Held { .. } => plugging.clone(),
            Entry::SaveOver => {
                kept.retain(|(_, other)| !is_save(other));
                continue;
            }
            Entry::SaveBegin { .. } => {
                // The one before was taken back, whether or not that is said.
                kept.retain(|(_, other)| !is_save(other));
                None
            }
            Entry::Begin { .. }
            | Entry::Bound { .. }
            | Entry::Loaded
            | Entry::Running { .. }
            | Entry::SaveNamed(_)
            | Entry::SaveWritten => None,
        };
        kept.push((of, entry));
    }
    kept.into_iter().map(|(_, entry)| entry).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::labeller::journal::{Part, ProcessRole, Undo};
    use crate::privsep::op::{Access, Sharing};
    use crate::privsep::plug::{Plug, PlugSteps, Top};
    use crate::privsep::save::{Save, SavedAt};
    use crate::privsep::tuning::{Tuned, Tuning};
    use crate::sys::pidfd::ProcessId;

    pub(in crate::labeller::journal) fn plug(alias: &str) -> Plug {
        let top = Top::Medium { node: None, force: false };
        let steps = PlugSteps { alias: alias.into(), sets: Vec::new(), nodes: Vec::new(), top };
        Plug { alias: alias.into(), ops: Vec::new(), steps, note: String::new() }
    }

    fn held(path: &str) -> Entry {
        let (access, sharing) = (Access::ReadOnly, Sharing::Readers);
        Entry::Held { path: path.into(), id: (1, 2), access, sharing }
    }

    /// Everything that a plug and its end write.
    pub(in crate::labeller::journal) fn life(alias: &str) -> Vec<Entry> {
        let (alias, medium) = (alias.to_owned(), true);
        vec![
            Entry::PlugBegin { plug: Box::new(plug(&alias)) },
            held("of the plug"),
            Entry::Intent(Undo::Profile),
            Entry::PlugApplied,
            Entry::PlugDone { alias: alias.clone(), medium },
            Entry::Released { alias: alias.clone(), medium },
            Entry::Unplugged { alias, medium },
        ]
    }

    #[test]
    fn what_came_and_went_is_left_out_and_nothing_else() {
        let own = Entry::Unplugged { alias: "own".into(), medium: false };
        let mut entries = vec![held("start"), Entry::Intent(Undo::Profile), own];
        entries.extend(life("a"));
        entries.push(held("later"));
        let wanted = [&entries[..3], &[held("later")]].concat();
        assert_eq!(settled(entries), wanted);
    }

    #[test]
    fn a_save_that_was_taken_back_is_left_out_and_one_that_goes_on_stays() {
        let at = SavedAt::Path { path: "/saved/a".into() };
        let save = Box::new(Save { at, note: String::new(), running: true, most: 1, user: 0 });
        let part = Part::new("/saved/.a".into(), (1, 2), None);
        let goes_on = vec![Entry::SaveBegin { save }, Entry::SaveNamed(part), Entry::SaveWritten];
        let mut entries = goes_on.clone();
        entries.extend(goes_on.clone());
        entries.push(Entry::SaveOver);
        entries.extend(goes_on.clone());
        entries.extend(goes_on.clone());
        assert_eq!(settled(entries), goes_on);
    }

    #[test]
    fn a_plug_that_is_there_or_unsure_stays_whole() {
        for end in 1..=6 {
            let mut entries = life("a");
            entries.truncate(end);
            assert_eq!(settled(entries.clone()), entries);
        }
        // One that was cut short does not take what comes later with it.
        let mut entries = life("cut");
        entries.truncate(2);
        entries.extend(life("b"));
        entries.extend(life("cut").into_iter().skip(5));
        assert_eq!(settled(entries), []);
    }

    #[test]
    fn of_processes_the_last_one_counts() {
        let process =
            |role: &ProcessRole, pid| Entry::Process { role: role.clone(), id: ProcessId { pid, start: 1 } };
        let (passt, supervisor) = (ProcessRole::Helper("net0".into()), ProcessRole::Supervisor);
        let entries = vec![process(&passt, 1), process(&supervisor, 2), process(&passt, 3)];
        assert_eq!(settled(entries), [process(&supervisor, 2), process(&passt, 3)]);
    }

    #[test]
    fn of_limits_the_last_ones_count() {
        let limits = |memory_max| Tuned { memory_max, cpu_max: None, tuning: Tuning::default() };
        let (tuning, tuned) = (|most| Entry::Tuning(limits(most)), |most| Entry::Tuned(limits(most)));
        let all = vec![tuning(1), tuned(1), held("between"), tuning(2), tuned(2)];
        assert_eq!(settled(all.clone()), [held("between"), tuned(2)]);
        // And those that were only begun, whose ones before still hold.
        let begun = [all, vec![tuning(3), tuning(4)]].concat();
        assert_eq!(settled(begun), [held("between"), tuned(2), tuning(4)]);
    }
}
