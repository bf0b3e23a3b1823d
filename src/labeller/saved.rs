//! Files of saved domains: found, read as far as their header goes, given another note, removed.
//!
//! Such a file belongs to root, has one name, and lies where only root writes. The note in its header is its owner's:
//! it is passed on and not looked at. QEMU's stream behind it is never read here.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, OFlags};

use super::apply::kernel;
use super::places::{DirectoryUse, Places};
use super::server::Server;
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::{FileIdentity, LaunchPlan, Op};
use crate::privsep::request::Reply;
use crate::privsep::save::{Header, NOTE_MAX, Restore, SLOT, STREAM_AT, Saved, SavedAt, SavedOp};
use crate::settings::Settings;
use crate::sys::path::{self, Found};

/// The most managed ones that are told.
const MANAGED_MAX: usize = 65_536;
/// How the name of a managed one ends.
const SUFFIX: &str = ".save";

/// Where a saved domain is or will be.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) directory: OwnedFd,
    pub(super) name: String,
    pub(super) path: String,
}

/// One that is there, open for reading.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) spot: Spot,
    pub(super) file: File,
    pub(super) found: Found,
    /// In which slot its header stands.
    pub(super) slot: usize,
    pub(super) header: Header,
}

/// The managed ones, as the directory was when it was last read.
#[derive(Debug, Default)]
pub(super) struct Managed {
    stamp: Option<(u64, u64, i64, i64)>,
    uuids: BTreeSet<DomainUuid>,
}

impl Spot {
    /// As [`Spot::find`], and makes a configured directory that is not there.
    pub(super) fn make(settings: &Settings, places: &Places<'_>, at: &SavedAt) -> Result<Self, Refusal> {
        let (path, use_) = Self::path(settings, at);
        Self::make_directory(settings, &path)?;
        Self::at(places, path, use_)
    }

    /// Where memory is dumped, apart from saved domains; makes the configured directory if it is not there.
    pub(super) fn dump(settings: &Settings, places: &Places<'_>, path: &str) -> Result<Self, Refusal> {
        Self::make_directory(settings, path)?;
        Self::at(places, path.to_owned(), DirectoryUse::Dumps)
    }

    fn make_directory(settings: &Settings, path: &str) -> Result<(), Refusal> {
        let parent = path.rsplit_once('/').map(|(parent, _)| parent).unwrap_or_default();
        let save = &settings.save;
        let mut configured = save.places.iter().chain([&save.managed, &save.dumps]);
        if let Some(place) = configured.find(|place| place.trim_end_matches('/') == parent) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(place)
                .map_err(|error| kernel("make the directory", place, &error, "look at the one above it"))?;
        }
        Ok(())
    }

    fn path(settings: &Settings, at: &SavedAt) -> (String, DirectoryUse) {
        match at {
            SavedAt::Managed { uuid } => {
                let place = settings.save.managed.trim_end_matches('/');
                (format!("{place}/{uuid}{SUFFIX}"), DirectoryUse::ManagedSaves)
            }
            SavedAt::Path { path } => (path.clone(), DirectoryUse::Saves),
        }
    }

    /// Finds the directory. Nothing is made: whoever only looks changes nothing.
    pub(super) fn find(settings: &Settings, places: &Places<'_>, at: &SavedAt) -> Result<Self, Refusal> {
        let (path, use_) = Self::path(settings, at);
        Self::at(places, path, use_)
    }

    fn at(places: &Places<'_>, path: String, use_: DirectoryUse) -> Result<Self, Refusal> {
        let (directory, name) = places.directory_of(&path, use_)?;
        // Names that begin so are those of saves that go on.
        if name.starts_with('.') {
            let rule = "its name begins with a dot";
            return Err(Refusal::new(Layer::Policy, "use", path, rule, "choose another name"));
        }
        Ok(Self { directory, name, path })
    }

    /// The directory's identity and the name in it; the same for all paths that lead there.
    pub(super) fn place(&self) -> Option<((u64, u64), &str)> {
        Some((Found::of(&self.directory).ok()?.id(), &self.name))
    }

    /// Opens what is there and reads its header; nothing where nothing is there.
    pub(super) fn open(self) -> Result<Option<Opened>, Refusal> {
        let Self { directory, name, path } = &self;
        let io = |error: io::Error| kernel("open the saved domain", path, &error, "look at its directory");
        let found = match path::look(directory, name.as_ref()) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let refuse = |rule: &str| {
            let remedy = "name a file that svirt saved, and leave it root's: chown root, chmod 600";
            Err(Refusal::new(Layer::Policy, "use the saved domain", path.clone(), rule, remedy))
        };
        if !found.is(libc::S_IFREG) || found.uid != 0 || found.links > 1 || found.mode & 0o022 != 0 {
            return refuse("it is not a regular file of root with one name that nobody else can write");
        }
        let file = File::from(path::open_in(directory, name.as_ref(), OFlags::RDONLY).map_err(io)?);
        if Found::of(&file).map_err(io)?.id() != found.id() {
            return refuse("it was replaced meanwhile");
        }
        let slots = [slot(&file, 0).map_err(io)?, slot(&file, 1).map_err(io)?];
        match Header::newest([&slots[0], &slots[1]], found.size) {
            Ok((slot, header)) => Ok(Some(Opened { spot: self, file, found, slot, header })),
            Err(error) => refuse(&error.to_string()),
        }
    }

    /// The same where one has to be there.
    pub(super) fn must_open(self) -> Result<Opened, Refusal> {
        let path = self.path.clone();
        self.open()?.ok_or_else(|| {
            Refusal::new(Layer::Kernel, "open the saved domain", path, "no such file", "check its name")
        })
    }
}

/// What stands in one slot; short at the end of the file.
fn slot(file: &File, number: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; SLOT];
    let mut read = 0;
    while read < SLOT {
        let room = bytes.get_mut(read..).unwrap_or_default();
        match file.read_at(room, number * SLOT as u64 + read as u64) {
            Ok(0) => break,
            Ok(length) => read += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes a header into one slot and brings it to the disk.
fn write_header(file: &File, slot: usize, header: &Header) -> io::Result<()> {
    let bytes = header.encode().ok_or(io::ErrorKind::FileTooLarge)?;
    file.write_all_at(&bytes, (slot * SLOT) as u64)?;
    file.sync_all()
}

/// Whether a note fits.
pub(super) fn check_note(note: &str, path: &str) -> Result<(), Refusal> {
    if note.len() <= NOTE_MAX {
        return Ok(());
    }
    let rule = format!("its definition has more than {NOTE_MAX} bytes");
    Err(Refusal::new(Layer::Policy, "save", path, rule, "make the definition shorter"))
}

impl Opened {
    pub(super) fn identity(&self) -> FileIdentity {
        FileIdentity { device: self.found.device, inode: self.found.inode }
    }

    fn told(self) -> Saved {
        let (identity, bytes) = (self.identity(), self.found.size.saturating_sub(STREAM_AT));
        Saved { uuid: self.header.uuid, identity, bytes, note: self.header.note }
    }
}

/// Opens what a domain is to go on from, at its stream.
pub(super) fn open_stream(
    settings: &Settings,
    places: &Places<'_>,
    (uuid, saved): (DomainUuid, &Restore),
) -> Result<(OwnedFd, Found, String), Refusal> {
    let opened = Spot::find(settings, places, &saved.at)?.must_open()?;
    let refuse = |rule: &str, remedy: &str| {
        Err(Refusal::new(Layer::Policy, "go on from", opened.spot.path.clone(), rule, remedy))
    };
    if opened.header.uuid != uuid {
        return refuse("it is another domain's memory", "restore that domain");
    }
    if opened.identity() != saved.identity || opened.found.size.saturating_sub(STREAM_AT) != saved.bytes {
        return refuse("another file has taken its place since it was looked at", "try again");
    }
    let io = |error: io::Error| kernel("go on from", &opened.spot.path, &error, "look at its file system");
    // An open file of its own: where it is read from is nobody else's.
    let stream = path::reopen(&opened.file, OFlags::RDONLY).map_err(io)?;
    rustix::fs::seek(&stream, rustix::fs::SeekFrom::Start(STREAM_AT)).map_err(|error| io(error.into()))?;
    Ok((stream, opened.found, opened.spot.path))
}

impl Server {
    /// Looks at a saved domain, or changes what is kept of it.
    pub(super) fn saved(&mut self, op: &SavedOp) -> Result<Reply, Refusal> {
        let places = Places::of(&self.settings);
        let spot = |at: &SavedAt| Spot::find(&self.settings, &places, at);
        match op {
            SavedOp::Look { at } => Ok(Reply::Saved(Box::new(spot(at)?.must_open()?.told()))),
            SavedOp::Note { at, identity, note } => {
                let opened = spot(at)?.must_open()?;
                check_note(note, &opened.spot.path)?;
                self.leases.unused(opened.found.id(), "change", &opened.spot.path)?;
                if opened.identity() != *identity {
                    let rule = "another file has taken its place since it was looked at";
                    return Err(Refusal::new(Layer::Policy, "change", opened.spot.path, rule, "try again"));
                }
                let io = |error: io::Error| {
                    kernel("change", &opened.spot.path, &error, "see that its file system has room")
                };
                let file = path::reopen(&opened.file, OFlags::RDWR).map(File::from).map_err(io)?;
                let generation = opened.header.generation.saturating_add(1);
                let header = Header { generation, note: note.clone(), ..opened.header.clone() };
                write_header(&file, 1 - opened.slot, &header).map_err(io)?;
                Ok(Reply::Done)
            }
            SavedOp::Remove { uuid } => {
                self.remove_managed(*uuid)?;
                Ok(Reply::Done)
            }
        }
    }

    /// Removes what a domain's next start would go on from; none being there is no error.
    pub(super) fn remove_managed(&mut self, uuid: DomainUuid) -> Result<(), Refusal> {
        let there = std::fs::symlink_metadata(&self.settings.save.managed);
        if there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let places = Places::of(&self.settings);
        let spot = Spot::find(&self.settings, &places, &SavedAt::Managed { uuid })?;
        let io = |error: io::Error| kernel("remove", &spot.path, &error, "look at its directory");
        let found = match path::look(&spot.directory, spot.name.as_ref()) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io(error)),
        };
        if found.is(libc::S_IFDIR) {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        self.leases.unused(found.id(), "remove", &spot.path)?;
        self.managed.forget();
        rustix::fs::unlinkat(&spot.directory, spot.name.as_str(), AtFlags::empty())
            .map_err(|error| io(error.into()))?;
        sync_directory(&spot.directory).map_err(io)
    }

    /// Refuses a start that would leave a managed save behind: the guest would write its disks, and the next start would go
    /// on from memory that does not know of it. Looks at the directory itself, so that no client's knowledge counts.
    pub(super) fn leaves_no_save(&self, plan: &LaunchPlan) -> Result<(), Refusal> {
        let uuid = plan.domain.uuid;
        let managed = SavedAt::Managed { uuid };
        let goes_on = |op: &Op| matches!(op, Op::OpenSaved { saved, .. } if saved.at == managed);
        if plan.ops.iter().any(goes_on) {
            return Ok(());
        }
        let path = format!("{}/{uuid}{SUFFIX}", self.settings.save.managed.trim_end_matches('/'));
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                let remedy = "correct save.managed";
                Err(kernel("look for a managed save at", &path, &error, remedy))
            }
            Ok(_) => {
                let rule = format!("it has a managed save, {path}, which this start would not go on from");
                let remedy = "go on from it with virsh start, or drop it first: virsh managedsave-remove, or virsh start --force-boot";
                Err(Refusal::new(Layer::Policy, "start domain", plan.domain.name.to_string(), rule, remedy))
            }
        }
    }

    /// The domains whose next start goes on from where they were saved.
    pub(super) fn managed_saves(&mut self) -> Vec<DomainUuid> {
        self.managed.refresh(Path::new(&self.settings.save.managed));
        self.managed.uuids.iter().copied().collect()
    }
}

/// Makes a directory's change durable. An `O_PATH` descriptor cannot be synced.
pub(super) fn sync_directory(directory: &OwnedFd) -> io::Result<()> {
    let directory = path::reopen(directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
    Ok(rustix::fs::fsync(directory)?)
}

impl Managed {
    /// What is known is old: two changes may have one time.
    pub(super) fn forget(&mut self) {
        self.stamp = None;
    }

    /// Reads the directory, unless it is as it was.
    fn refresh(&mut self, directory: &Path) {
        use std::os::unix::fs::MetadataExt as _;
        let stamp = std::fs::metadata(directory)
            .ok()
            .map(|found| (found.dev(), found.ino(), found.mtime(), found.mtime_nsec()));
        if stamp == self.stamp {
            return;
        }
        let entries = std::fs::read_dir(directory).into_iter().flatten().take(MANAGED_MAX);
        let uuid = |entry: io::Result<std::fs::DirEntry>| {
            entry.ok()?.file_name().to_str()?.strip_suffix(SUFFIX)?.parse().ok().map(DomainUuid)
        };
        self.uuids = entries.filter_map(uuid).collect();
        self.stamp = stamp;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_looks_like_a_saved_domain_is_none() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().to_str().unwrap().to_owned();
        let mut settings = Settings::default();
        settings.save.places = vec![format!("{root}/saved"), format!("{root}/both")];
        settings.save.managed = format!("{root}/managed");
        settings.save.dumps = format!("{root}/dumps");
        let header = Header {
            uuid: DomainUuid(uuid::Uuid::nil()),
            generation: 1,
            end: STREAM_AT + 5,
            note: "{}".into(),
        };
        for directory in ["saved", "dumps", "managed"] {
            DirBuilder::new().mode(0o700).create(format!("{root}/{directory}")).unwrap();
            let file = File::create(format!("{root}/{directory}/forged")).unwrap();
            file.set_len(STREAM_AT + 5).unwrap();
            write_header(&file, 0, &header).unwrap();
        }
        std::os::unix::fs::symlink("dumps", format!("{root}/both")).unwrap();
        let places = Places::of(&settings);
        let at = |path: &str| SavedAt::Path { path: format!("{root}/{path}") };
        if rustix::process::getuid().is_root() {
            let saved = Spot::find(&settings, &places, &at("saved/forged")).unwrap().must_open().unwrap();
            assert_eq!(saved.header, header, "it is a good forgery");
        }
        for path in ["dumps/forged", "both/forged"] {
            let rule = Spot::find(&settings, &places, &at(path)).unwrap_err().rule;
            assert!(rule.contains("save.places") || rule.contains("save.dumps"), "{path}: {rule}");
        }
        // Nor is one written among them.
        for path in ["saved/new", "managed/new", "elsewhere/new"] {
            let refusal = Spot::dump(&settings, &places, &format!("{root}/{path}")).unwrap_err();
            assert!(refusal.to_string().contains("save.dumps"), "{refusal}");
        }
        settings.save.places.pop();
        let places = Places::of(&settings);
        let dump = Spot::dump(&settings, &places, &format!("{root}/dumps/new"));
        assert!(dump.is_ok() || !rustix::process::getuid().is_root());
        settings.save.dumps = format!("{root}/both");
        settings.save.places = vec![format!("{root}/dumps")];
        let places = Places::of(&settings);
        let rule = Spot::dump(&settings, &places, &format!("{root}/both/new")).unwrap_err().rule;
        assert!(rule.contains("kept apart"), "{rule}");
        let rule = Spot::find(&settings, &places, &at("dumps/new")).unwrap_err().rule;
        assert!(rule.contains("kept apart"), "{rule}");
    }

    #[test]
    fn looking_makes_nothing_and_tells_nothing_of_other_places() {
        let room = tempfile::tempdir().unwrap();
        let root = room.path().to_str().unwrap().to_owned();
        let mut settings = Settings::default();
        settings.save.places = vec![format!("{root}/saved")];
        settings.save.managed = format!("{root}/managed");
        std::fs::create_dir(format!("{root}/other")).unwrap();
        let places = Places::of(&settings);
        let rule = |path: &str| {
            let at = SavedAt::Path { path: format!("{root}/{path}") };
            Spot::find(&settings, &places, &at).unwrap_err().rule
        };
        assert_eq!(rule("other/a"), rule("missing/a"));
        assert_eq!(rule("missing/a"), "lies in no directory of save.places");
        assert_eq!(rule("saved/a"), "no such file");
        let managed = SavedAt::Managed { uuid: DomainUuid(uuid::Uuid::nil()) };
        assert!(Spot::find(&settings, &places, &managed).is_err());
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
    }
}
