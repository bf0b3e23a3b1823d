//! The journal of one domain: what was done, written before it is done, so that it can be undone by a labeller
//! that was not there.
//!
//! One file a domain, one JSON line an entry, appended with one write each. It reaches the disk (`fsync`) only
//! before an effect that outlives a crash of the host: a label, a new name. What lives in the kernel alone
//! (processes, cgroups, sockets in a directory that a boot empties) goes with it.
//!
//! It is bounded: what is over and done with is left out when it has grown ([`compact`]), and an entry that would make
//! it longer than can be read back is refused. Nothing is ever read in part.

mod compact;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::lease::ObjectId;
use crate::base::DomainUuid;
use crate::privsep::op::{Access, LaunchPlan, Sharing};
use crate::privsep::placement::Pins;
use crate::privsep::plug::Plug;
use crate::privsep::request::Started;
use crate::privsep::save::Save;
use crate::privsep::supervisor::Lifecycle;
use crate::privsep::tuning::Tuned;
use crate::sys::pidfd::ProcessId;

/// The longest journal, in bytes: none grows beyond it, and a longer one is not read.
const JOURNAL_MAX: u64 = 64 << 20;
/// What of that is not for new plugs, so that whatever is plugged in can always be done with: the entries of the plug
/// with the most layers, and all others of a domain.
const ROOM: u64 = 16 << 20;
/// The length from which on it is worth a look what can be left out.
const COMPACT_FROM: u64 = 1 << 20;
/// The form of the entries.
const VERSION: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Entry {
    /// The first one.
    Begin {
        /// The form of the entries.
        version: u32,
        /// The kernel's boot id.
        boot: String,
        /// What is about to be applied.
        plan: Box<LaunchPlan>,
    },
    /// Something is about to be done, and this undoes it.
    Intent(Undo),
    /// A socket's name now holds this object.
    Bound {
        /// Its path.
        path: String,
        /// Device and inode.
        id: ObjectId,
    },
    /// A file or device is in use.
    Held {
        /// Its path, for messages.
        path: String,
        /// Device and inode.
        id: ObjectId,
        /// How it is used.
        access: Access,
        /// Who else may.
        sharing: Sharing,
    },
    /// A device is about to be plugged in; intents and holds from here on are its own.
    PlugBegin {
        /// What.
        plug: Box<Plug>,
    },
    /// Everything that the plug opens and labels is written down, or it was refused: intents and holds from here on
    /// are not its own. Journals of earlier versions have none.
    PlugApplied,
    /// It is there.
    PlugDone {
        /// Its alias.
        alias: String,
        /// Whether it is a medium.
        medium: bool,
    },
    /// QEMU has let a device go, or never had it; what it held is about to be given back. Journals of earlier versions
    /// have none.
    Released {
        /// Its alias.
        alias: String,
        /// Whether it is a medium.
        medium: bool,
    },
    /// A device was taken out, or was not plugged in after all; what it held was given back.
    Unplugged {
        /// Its alias.
        alias: String,
        /// Whether it is a medium.
        medium: bool,
    },
    /// Other things become of the domain than it was started with, when its guest powers off, reboots or crashes.
    Lifecycle(Lifecycle),
    /// The threads of the device model have other CPUs than it was started with.
    Pinned(Pins),
    /// The domain is about to be given other limits. Journals of earlier versions have none.
    Tuning(Tuned),
    /// The domain has other limits than it was started with, or again those that it had; in journals of earlier versions
    /// it may only have been about to be given them.
    Tuned(Tuned),
    /// The domain is about to be saved.
    SaveBegin {
        /// How.
        save: Box<Save>,
    },
    /// Everything is written, into a file that is about to get a name for the meantime.
    SaveNamed(Part),
    /// It has that name: from here on the domain is ended and the file finished.
    SaveWritten,
    /// The save was taken back, and the guest goes on.
    SaveOver,
    /// The guest was loaded; the file that it was saved in is not needed any longer.
    Loaded,
    /// A process runs for the domain.
    Process {
        /// What it is.
        role: ProcessRole,
        /// Which.
        id: ProcessId,
    },
    /// The start succeeded.
    Running {
        /// What the client was told.
        started: Started,
        /// The cgroup, in journals of earlier versions.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cgroup: Option<String>,
    },
}

/// A saved domain that lacks its own name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// The name that it has meanwhile.
    pub(super) path: String,
    /// Which file.
    pub(super) id: ObjectId,
    /// The file that had its name before; journals of earlier versions have none.
    #[serde(default)]
    pub(super) replaces: Option<ObjectId>,
    /// Its length in bytes, in journals of earlier versions, which wrote the header last: such a file has none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<u64>,
    /// What its label was before, in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
}

impl Part {
    /// One that has its header.
    pub(super) fn new(path: String, id: ObjectId, replaces: Option<ObjectId>) -> Self {
        Self { path, id, replaces, end: None, label: None }
    }
}

/// What a process is to the domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ProcessRole {
    /// The device model.
    DeviceModel,
    /// A helper, by alias.
    Helper(String),
    /// The supervisor.
    Supervisor,
}

/// How to undo one effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Undo {
    /// Remove the domain's cgroup.
    Cgroup {
        /// Its directory in each hierarchy, for a labeller that runs in another cgroup; journals of earlier versions
        /// have none.
        #[serde(default)]
        directories: Vec<PathBuf>,
    },
    /// Take the domain's AppArmor profile out of the kernel.
    Profile,
    /// Put a label back, if it still is the one that was set.
    Label {
        /// The image.
        path: String,
        /// Which object that was.
        id: ObjectId,
        /// What it was.
        before: Option<String>,
        /// What was set.
        after: String,
        /// Whether nobody else had set one: what then stands on the object in libvirt's form is svirt's.
        #[serde(default)]
        first: bool,
    },
    /// Give a file back to root, if the name still holds that file.
    Owner {
        /// The path.
        path: String,
        /// Which file.
        id: ObjectId,
        /// Its permission bits before: who owned it meanwhile may have changed them.
        #[serde(default = "private")]
        mode: u32,
    },
    /// Remove the name of memory that several domains share, if no other one uses it.
    Shmem {
        /// The path.
        path: String,
        /// Which file.
        id: ObjectId,
    },
    /// Remove a new file's name, if it still holds that file.
    Name {
        /// The path.
        path: String,
        /// Which file.
        id: ObjectId,
        /// Whether the name stays once the domain ran.
        keep_after_run: bool,
    },
    /// Put the file back that another one has taken the name of; once the guest ran, drop it.
    Swap {
        /// The name.
        path: String,
        /// The name that the old file has meanwhile.
        aside: String,
        /// The new file.
        new: ObjectId,
        /// The old file.
        old: ObjectId,
    },
    /// Take a tap device off its bridge, if the name still is that interface. It vanishes with its last descriptor.
    Plug {
        /// The interface.
        interface: String,
        /// Its number.
        index: u32,
        /// The bridge.
        bridge: String,
    },
    /// Remove a socket's name.
    Socket {
        /// The path.
        path: String,
    },
}

/// The permission bits of files that svirt makes.
fn private() -> u32 {
    0o600
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    directory: OwnedFd,
    name: String,
    /// How long it is, in bytes.
    size: u64,
    /// Whether a write failed in the middle of a line.
    torn: bool,
    /// The length at which it is looked at next.
    compact_at: u64,
    /// How long it may become.
    most: u64,
}

/// The start of the names of journals that are kept only for what could not be undone.
pub(super) const ASIDE: &str = "left-";

fn file_name(uuid: DomainUuid) -> String {
    format!("{uuid}.json-lines")
}

impl Journal {
    /// Starts a journal; there must be none for this domain.
    pub(super) fn begin(directory: &Path, plan: &LaunchPlan, boot: &str) -> io::Result<Self> {
        let name = file_name(plan.domain.uuid);
        let directory = open_directory(directory)?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&directory, name.as_str(), flags, Mode::from_raw_mode(0o600))?);
        let mut journal = Self::of(file, directory, name, 0);
        let begin = Entry::Begin { version: VERSION, boot: boot.to_owned(), plan: Box::new(plan.clone()) };
        if let Err(error) = journal.write(&begin) {
            journal.remove();
            return Err(error);
        }
        Ok(journal)
    }

    fn of(file: File, directory: OwnedFd, name: String, size: u64) -> Self {
        let compact_at = COMPACT_FROM.max(2 * size);
        Self { file, directory, name, size, torn: false, compact_at, most: JOURNAL_MAX }
    }

    /// Opens an existing journal to go on with it. A last line without its end is taken off.
    pub(super) fn reopen(directory: &Path, name: &str) -> io::Result<Self> {
        let directory = open_directory(directory)?;
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&directory, name, flags, Mode::empty())?);
        let text = read_whole(&file)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1) as u64;
        file.set_len(whole)?;
        compact::clear(&directory, name);
        Ok(Self::of(file, directory, name.to_owned(), whole))
    }

    /// Has no room from here on.
    #[cfg(test)]
    pub(super) fn fill(&mut self, full: bool) {
        self.most = if full { self.size } else { JOURNAL_MAX };
    }

    /// Appends one entry with one write. One that there is no room for is refused; nothing of it is written then.
    pub(super) fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let length = line.len() as u64;
        if self.torn {
            self.file.set_len(self.size)?;
            self.torn = false;
        }
        if self.size + length > self.compact_at {
            self.shorten();
        }
        let most = match entry {
            Entry::PlugBegin { .. } => self.most.saturating_sub(ROOM),
            _ => self.most,
        };
        if self.size + length > most {
            let text = format!(
                "the journal of the domain is full ({} bytes): stop it and start it again",
                self.size
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        if let Err(error) = self.file.write_all(&line) {
            // A piece of a line would make the next one unreadable.
            self.torn = self.file.set_len(self.size).is_err();
            return Err(error);
        }
        self.size += length;
        Ok(())
    }

    /// Leaves out what is over. A journal that cannot be rewritten stays as it is.
    fn shorten(&mut self) {
        match compact::rewrite(&self.directory, &self.name) {
            Ok((file, size)) => {
                tracing::debug!(journal = self.name, before = self.size, after = size, "was shortened");
                (self.file, self.size) = (file, size);
            }
            Err(error) => tracing::error!(journal = self.name, %error, "cannot shorten a journal"),
        }
        self.compact_at = COMPACT_FROM.max(2 * self.size);
    }

    /// Brings everything to the disk, the journal's own name too.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        fs::fsync(&self.directory)?;
        Ok(())
    }

    /// Keeps what could not be undone for the next labeller to try, out of the way of the domain's next start.
    pub(super) fn set_aside(&self, failed: usize) {
        if self.name.starts_with(ASIDE) {
            return;
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = format!("{ASIDE}{}-{}", now.as_nanos(), self.name);
        tracing::error!(journal = name, left = failed, "keeps what could not be undone");
        if let Err(error) = fs::renameat(&self.directory, self.name.as_str(), &self.directory, name.as_str())
        {
            tracing::error!(journal = self.name, %error, "cannot set a journal aside");
        }
    }

    /// Removes the journal: nothing is left to undo.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::unlinkat(&self.directory, self.name.as_str(), AtFlags::empty()) {
            tracing::error!(journal = self.name, %error, "cannot remove a journal");
        }
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::open(path, flags, Mode::empty())?)
}

/// Has nobody finish an unfinished save of a domain that is being started again: what it holds is older than what the guest
/// does from here on. The journals that were set aside say that it is over; the files are told, and stay until the guest runs:
/// where it never does, they still fit its disks.
pub(super) fn no_save_counts(directory: &Path, uuid: DomainUuid) -> io::Result<Vec<(Save, Part)>> {
    let end = file_name(uuid);
    let mut given_up = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if name.starts_with(ASIDE) && name.ends_with(&end) {
            let mut journal = Journal::reopen(directory, &name)?;
            let (_, entries) = parse(&read_whole(&File::open(directory.join(&name))?)?)?;
            let Some((save, part)) = unfinished(entries) else { continue };
            journal.write(&Entry::SaveOver)?;
            journal.sync()?;
            tracing::warn!(
                journal = name,
                path = part.path,
                "an unfinished save is given up: the domain is started; should that fail, the file stays, and can be restored once it is renamed"
            );
            given_up.push((save, part));
        }
    }
    Ok(given_up)
}

/// The save that counts and was not finished.
fn unfinished(entries: Vec<Entry>) -> Option<(Save, Part)> {
    let (mut begun, mut named, mut counts) = (None, None, false);
    for entry in entries {
        match entry {
            Entry::SaveBegin { save } => (begun, named, counts) = (Some(*save), None, false),
            Entry::SaveNamed(part) => named = Some(part),
            Entry::SaveWritten => counts = true,
            Entry::SaveOver => (begun, named, counts) = (None, None, false),
            _ => {}
        }
    }
    begun.zip(named).filter(|_| counts)
}

/// A journal as an earlier labeller left it.
#[derive(Debug)]
pub(super) struct Left {
    /// The file's name.
    pub(super) name: String,
    /// Boot id and plan; absent where not even the first line reached the file.
    pub(super) begin: Option<(String, LaunchPlan)>,
    /// The entries after the first.
    pub(super) entries: Vec<Entry>,
}

impl Left {
    /// The domain's supervisors and device model: its helpers may have namespaces of their own.
    pub(super) fn processes(&self) -> impl Iterator<Item = ProcessId> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Process { role: ProcessRole::Supervisor | ProcessRole::DeviceModel, id } => Some(*id),
            _ => None,
        })
    }
}

/// Reads every journal of a directory. One that cannot be understood is an error: guessing could leave a label.
pub(super) fn left(directory: &Path) -> io::Result<Vec<Left>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.ends_with(".json-lines") {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(fs::open(entry.path(), flags, Mode::empty())?);
            let wrong = |error: &dyn std::fmt::Display| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {error}"))
            };
            let text = read_whole(&file).map_err(|error| wrong(&error))?;
            let (begin, entries) = parse(&text).map_err(|error| wrong(&error))?;
            all.push(Left { name, begin, entries });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// The whole text of a journal, or an error: what is missing from the end of one could be a label that stays for ever.
fn read_whole(file: &File) -> io::Result<String> {
    let mut text = String::new();
    let read = file.take(JOURNAL_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > JOURNAL_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("is longer than {JOURNAL_MAX} bytes"),
        ));
    }
    Ok(text)
}

type Parsed = (Option<(String, LaunchPlan)>, Vec<Entry>);

/// Reads the text of a journal; a last line without its end was never acted upon and does not count.
fn parse(text: &str) -> Result<Parsed, serde_json::Error> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut lines = whole.lines().map(serde_json::from_str::<Entry>);
    let begin = match lines.next() {
        None => return Ok((None, Vec::new())),
        Some(Ok(Entry::Begin { version: VERSION, boot, plan })) => (boot, *plan),
        Some(Ok(_)) => return Err(serde::de::Error::custom("the first entry is no begin of this version")),
        Some(Err(error)) => return Err(error),
    };
    Ok((Some(begin), lines.collect::<Result<_, _>>()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::base::{DomainName, DomainRef};

    fn plan() -> LaunchPlan {
        let domain =
            DomainRef { name: DomainName::new("a").unwrap(), uuid: DomainUuid(uuid::Uuid::from_u128(7)) };
        LaunchPlan { version: 1, domain, ops: Vec::new(), notes: Vec::new() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), &plan(), "boot").unwrap();
        assert!(Journal::begin(dir.path(), &plan(), "boot").is_err(), "one journal a domain");
        let label =
            Undo::Label { path: "/i".into(), id: (1, 2), before: None, after: "x".into(), first: true };
        journal.write(&Entry::Intent(label.clone())).unwrap();
        let cgroup = Undo::Cgroup { directories: vec!["/sys/fs/cgroup/a/svirt-b".into()] };
        journal.write(&Entry::Intent(cgroup.clone())).unwrap();
        journal.sync().unwrap();
        let left = left(dir.path()).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].begin, Some(("boot".into(), plan())));
        assert_eq!(left[0].entries, [Entry::Intent(label), Entry::Intent(cgroup)]);
        journal.remove();
        assert!(super::left(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_torn_last_line_does_not_count_and_a_torn_middle_is_an_error() {
        let begin = Entry::Begin { version: 1, boot: "b".into(), plan: Box::new(plan()) };
        let begin = serde_json::to_string(&begin).unwrap();
        let cgroup = r#"{"entry":"intent","undo":"cgroup"}"#;
        let without = Entry::Intent(Undo::Cgroup { directories: Vec::new() });
        assert_eq!(
            parse(&format!("{begin}\n{cgroup}\n")).unwrap().1,
            [without],
            "as earlier versions wrote it"
        );
        assert_eq!(parse("").unwrap(), (None, vec![]));
        assert_eq!(parse(&begin).unwrap(), (None, vec![]));
        assert_eq!(parse(&format!("{begin}\n{cgroup}\n{{\"en")).unwrap().1.len(), 1);
        assert!(parse(&format!("{begin}\n{{\"en\n{cgroup}\n")).is_err());
        assert!(parse(&format!("{cgroup}\n{begin}\n")).is_err());
    }

    #[test]
    fn saves_of_earlier_versions_are_understood() {
        let begin = Entry::Begin { version: 1, boot: "b".into(), plan: Box::new(plan()) };
        let begin = serde_json::to_string(&begin).unwrap();
        let old = [
            r#"{"entry":"save-begin","save":{"at":{"file":"managed","uuid":"00000000-0000-0000-0000-000000000007"},"note":"n","running":true}}"#,
            r#"{"entry":"save-named","path":"/saved/.a","id":[1,2],"end":2097157,"label":null,"replaces":[1,3]}"#,
            r#"{"entry":"save-written"}"#,
        ];
        let entries = parse(&format!("{begin}\n{}\n", old.join("\n"))).unwrap().1;
        let Some((save, part)) = unfinished(entries) else { panic!("nothing is unfinished") };
        assert_eq!((save.note.as_str(), save.most), ("n", 0));
        assert_eq!((part.replaces, part.end), (Some((1, 3)), Some(2_097_157)), "it has no header");
        let labelled = r#"{"entry":"save-named","path":"/saved/.a","id":[1,2],"end":5,"label":"a:b:c:s0"}"#;
        assert_eq!(parse(&format!("{begin}\n{labelled}\n")).unwrap().1.len(), 1);
    }

    #[test]
    fn a_journal_is_bounded_and_never_read_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), &plan(), "boot").unwrap();
        journal.most = ROOM + 1000;
        let held = Entry::Held {
            path: "x".repeat(300),
            id: (1, 2),
            access: Access::ReadOnly,
            sharing: Sharing::Readers,
        };
        let plug = Entry::PlugBegin { plug: Box::new(compact::tests::plug("a")) };
        journal.write(&plug).unwrap();
        journal.write(&held).unwrap();
        journal.write(&held).unwrap();
        assert_eq!(journal.write(&plug).unwrap_err().kind(), io::ErrorKind::StorageFull);
        journal.write(&held).unwrap();
        journal.most = 100;
        assert_eq!(journal.write(&held).unwrap_err().kind(), io::ErrorKind::StorageFull);
        let read = left(dir.path()).unwrap();
        assert_eq!(read[0].entries.len(), 4, "what was refused is not there");

        journal.file.set_len(JOURNAL_MAX + 1).unwrap();
        let told = left(dir.path()).unwrap_err().to_string();
        assert!(told.contains("is longer than"), "{told}");
        assert!(Journal::reopen(dir.path(), &journal.name).is_err());
    }

    #[test]
    fn one_goes_on_after_a_line_without_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::begin(dir.path(), &plan(), "boot").unwrap();
        (&journal.file).write_all(b"{\"entry\":\"unpl").unwrap();
        let mut journal = Journal::reopen(dir.path(), &journal.name).unwrap();
        let gone = Entry::Unplugged { alias: "a".into(), medium: false };
        journal.write(&gone).unwrap();
        assert_eq!(left(dir.path()).unwrap()[0].entries, [gone]);
    }

    #[test]
    fn an_unfinished_save_of_a_domain_that_is_started_again_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), &plan(), "boot").unwrap();
        let at = crate::privsep::save::SavedAt::Managed { uuid: plan().domain.uuid };
        let save = Box::new(Save { at, note: String::new(), running: true, most: 1, user: 0 });
        journal.write(&Entry::SaveBegin { save: save.clone() }).unwrap();
        let part = Part::new("/saved/.a".into(), (1, 2), None);
        journal.write(&Entry::SaveNamed(part.clone())).unwrap();
        journal.write(&Entry::SaveWritten).unwrap();
        journal.set_aside(1);
        let last = || left(dir.path()).unwrap().remove(0).entries.pop();
        let no_save_counts = |uuid| no_save_counts(dir.path(), uuid).unwrap();
        assert_eq!(no_save_counts(DomainUuid(uuid::Uuid::from_u128(8))), []);
        assert_eq!(last(), Some(Entry::SaveWritten), "another domain");
        assert_eq!(no_save_counts(plan().domain.uuid), [(*save, part)]);
        assert_eq!(last(), Some(Entry::SaveOver));
        // Once, and not at each start from then on.
        let length = left(dir.path()).unwrap()[0].entries.len();
        assert_eq!(no_save_counts(plan().domain.uuid), []);
        assert_eq!(left(dir.path()).unwrap()[0].entries.len(), length);
    }

    #[test]
    fn plugs_that_come_and_go_do_not_make_it_grow() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), &plan(), "boot").unwrap();
        let stays = Entry::PlugBegin { plug: Box::new(compact::tests::plug("stays")) };
        journal.write(&stays).unwrap();
        let done = Entry::PlugDone { alias: "stays".into(), medium: true };
        journal.write(&done).unwrap();
        for _ in 0..20_000 {
            for entry in compact::tests::life("comes") {
                journal.write(&entry).unwrap();
            }
        }
        let length = std::fs::metadata(dir.path().join(&journal.name)).unwrap().len();
        assert!(length == journal.size && length < 2 * COMPACT_FROM, "{length}");
        let entries = left(dir.path()).unwrap().remove(0).entries;
        assert_eq!(entries[..2], [stays, done]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
