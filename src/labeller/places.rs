//! Which files domains may have: images, boot files, logs and sockets, by the directories that lead to them.
//!
//! Owns the rules of place and the opening of what they admit. A path is walked once (`sys::path`); every rule
//! looks at the open object and at the directories of that walk, and the object is then opened for real through
//! its own descriptor, so nothing that happens to the names afterwards matters.
//!
//! Who can swap a file: whoever may write its directory. So the directory must belong to root or to the file's
//! owner, and nobody else may write it (unless it is sticky); otherwise the file that a plan was made for and
//! the one that is opened could be two, and a hard link could bring somebody else's file here.

mod closed;
mod known;

use std::cell::OnceCell;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::slice;

use rustix::fs::OFlags;

use self::known::{Known, directory_id, not_told_apart};
use super::lease::ObjectId;
use crate::base::{Layer, Refusal};
use crate::privsep::op::{Access, FileIdentity, ImageKind, OpenImage};
use crate::settings::Settings;
use crate::sys::path::{self, Found, Resolved, WalkError};

/// Never handed out, whatever place they turn up in (a bind mount, a hard link).
const NEVER: [&str; 4] = ["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/svirt/svirt.toml"];

/// The configured places: each list is looked up, by device and inode, when it is first asked for, and once. A value is
/// made for each request.
#[derive(Debug)]
pub(super) struct Places<'a> {
    settings: &'a Settings,
    relabelable: OnceCell<Known>,
    readable: OnceCell<Known>,
    own: OnceCell<Known>,
    /// Where directories that guests mount lie.
    shares: OnceCell<Known>,
    /// Device numbers of listed block devices.
    blocks: OnceCell<Vec<u64>>,
}

/// In which kind of place something lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlaceKind {
    /// Its label may be set.
    Relabelable,
    /// It may be read.
    Readable,
}

/// An image or boot file that the rules admit, open.
#[derive(Debug)]
pub(super) struct Opened {
    /// The open description that a device model gets.
    pub(super) fd: OwnedFd,
    /// Its key in the lease table.
    pub(super) id: ObjectId,
    /// Where it lies.
    pub(super) place: PlaceKind,
}

/// Something that the rules admit, not yet opened for real.
#[derive(Debug)]
pub(super) struct Candidate {
    resolved: Resolved,
    /// Which file it is.
    pub(super) identity: FileIdentity,
    /// What it is.
    pub(super) kind: ImageKind,
    place: PlaceKind,
}

impl<'a> Places<'a> {
    /// Those of this configuration; a directory that is not there admits nothing.
    pub(super) fn of(settings: &'a Settings) -> Self {
        Self {
            settings,
            relabelable: OnceCell::new(),
            readable: OnceCell::new(),
            own: OnceCell::new(),
            shares: OnceCell::new(),
            blocks: OnceCell::new(),
        }
    }

    /// It admits: less is relabelled without one that is not known.
    fn relabelable(&self) -> &Known {
        self.relabelable.get_or_init(|| Known::of(&self.settings.images.relabelable))
    }

    /// It admits: less is read without one that is not known.
    fn readable(&self) -> &Known {
        self.readable.get_or_init(|| Known::of(&self.settings.images.readable))
    }

    /// Variables, TPM states, saved domains and definitions are files of one domain each, which no other may name as its
    /// disk. It keeps away: nothing is opened while one of them is not known.
    fn own(&self) -> &Known {
        let settings = self.settings;
        let own = [
            &settings.paths.run,
            &settings.paths.state,
            &settings.paths.cache,
            &settings.images.nvram,
            &settings.tpm.state,
            &settings.daemon.store,
            &settings.save.managed,
            &settings.save.dumps,
        ];
        // No region gets where others made a link, and whoever made it must not keep domains from their images.
        let shmem = &settings.shmem.place;
        let linked = || matches!(path::resolve(shmem), Err(WalkError::ForeignLink(_)));
        self.own.get_or_init(|| {
            let shmem = Some(shmem).filter(|place| directory_id(place).is_ok() || !linked());
            Known::of(own.into_iter().chain(shmem).chain(&settings.save.places))
        })
    }

    /// It does both: it admits directories that guests mount, and keeps away links that guests may have made.
    fn shares(&self) -> &Known {
        self.shares.get_or_init(|| Known::of(&self.settings.shares.places))
    }

    /// It admits: a device that cannot be looked up is none that is listed.
    fn blocks(&self) -> &[u64] {
        let rdev = |path: &String| {
            let found = path::resolve(path).ok()?.found;
            found.is(libc::S_IFBLK).then_some(found.rdev)
        };
        self.blocks.get_or_init(|| self.settings.images.block_devices.iter().filter_map(rdev).collect())
    }

    /// Whether device models or their helpers run under this uid.
    fn is_in_ranges(&self, uid: u32) -> bool {
        let uids = &self.settings.uids;
        [uids.domains, uids.helpers, uids.supervisors, uids.guests].iter().any(|range| range.contains(uid))
    }

    /// Opens an image exactly as the plan says.
    pub(super) fn open_image(&self, image: &OpenImage) -> Result<Opened, Refusal> {
        let candidate = self.admit_image(&image.path)?;
        let refuse = |rule: &str, remedy: &str| Err(refusal(&image.path, rule, remedy));
        if candidate.kind != image.kind {
            return refuse("the plan was made for another kind of object", "plan again");
        }
        if candidate.identity != image.identity {
            return refuse(
                "another file has taken its place since the plan was made",
                "start again; if it happens again, look who writes that directory",
            );
        }
        if image.access == Access::ReadWrite {
            if candidate.place == PlaceKind::Readable {
                return refuse(
                    "images.readable: files there are read-only",
                    "declare the disk <readonly/>, or move the image to a directory of images.relabelable",
                );
            }
            if candidate.kind == ImageKind::File && candidate.resolved.found.links > 1 {
                return refuse(
                    "it has more than one hard link",
                    "copy it: another name of the same file may belong to somebody else",
                );
            }
        }
        let mut flags = if image.access == Access::ReadWrite { OFlags::RDWR } else { OFlags::RDONLY };
        if image.direct {
            flags |= OFlags::DIRECT;
        }
        candidate.open(&image.path, flags)
    }

    /// Opens a boot file read-only.
    pub(super) fn open_readable(&self, path: &str) -> Result<Opened, Refusal> {
        let candidate = self.admit_image(path)?;
        if candidate.kind != ImageKind::File {
            return Err(refusal(path, "is no regular file", "name a file"));
        }
        candidate.open(path, OFlags::RDONLY)
    }

    /// Opens anything that could be an image for the probe, which reads its header.
    pub(super) fn open_for_probe(&self, path: &str) -> Result<(OwnedFd, FileIdentity, ImageKind), Refusal> {
        let candidate = self.admit_image(path)?;
        let (identity, kind) = (candidate.identity, candidate.kind);
        Ok((candidate.open(path, OFlags::RDONLY)?.fd, identity, kind))
    }

    /// Resolves a path. Guests make links in what they mount, and some of those are root's on the host: no such link
    /// is followed.
    fn resolve(&self, path: &str) -> Result<Resolved, Refusal> {
        let resolved = path::resolve(path).map_err(|error| walk_refusal(path, &error))?;
        let before = &resolved.before_links;
        if !before.is_empty() && self.shares().keeps(path, before.iter().copied())? {
            let rule = "leads through a symbolic link in a directory of shares.places, which a guest could have made";
            return Err(refusal(path, rule, "name the file or directory itself"));
        }
        Ok(resolved)
    }

    /// Opens a directory that a guest may mount, without following a link that others than root could have made.
    pub(super) fn open_share(&self, path: &str) -> Result<(OwnedFd, Found), Refusal> {
        let resolved = self.resolve(path)?;
        let found = resolved.found;
        if !found.is(libc::S_IFDIR) {
            return Err(refusal(path, "is no directory", "share the directory that holds it"));
        }
        let chain = || resolved.directories.iter().chain([&found]).map(Found::id);
        if self.own().keeps(path, chain())? {
            return Err(refusal(path, "lies in one of svirt's own directories", ""));
        }
        if !self.shares().admits(chain()) {
            return Err(refusal(
                path,
                "lies in no directory of shares.places",
                "move it to one of them, or add its directory to shares.places",
            ));
        }
        self.keeps_closed(path, &resolved)?;
        if self.is_in_ranges(found.uid) || self.is_in_ranges(found.gid) {
            return Err(refusal(
                path,
                "belongs to a uid or gid of svirt's own ranges",
                "chown it to root or to a user",
            ));
        }
        Ok((resolved.fd, found))
    }

    fn admit_image(&self, path: &str) -> Result<Candidate, Refusal> {
        let resolved = self.resolve(path)?;
        let found = resolved.found;
        if found.is(libc::S_IFBLK) {
            return self.admit_block(path, resolved);
        }
        if !found.is(libc::S_IFREG) {
            let rule = format!("is {}, neither a regular file nor a listed block device", kind_of(&found));
            return Err(refusal(path, &rule, "name a regular file"));
        }
        let place = self.place(path, &resolved)?;
        self.admit_file(path, &resolved)?;
        let identity = FileIdentity { device: found.device, inode: found.inode };
        Ok(Candidate { resolved, identity, kind: ImageKind::File, place })
    }

    fn admit_block(&self, path: &str, resolved: Resolved) -> Result<Candidate, Refusal> {
        if !self.blocks().contains(&resolved.found.rdev) {
            return Err(refusal(
                path,
                "images.block_devices does not list this block device",
                "add its path to images.block_devices in the configuration",
            ));
        }
        let identity = FileIdentity { device: resolved.found.rdev, inode: 0 };
        Ok(Candidate { resolved, identity, kind: ImageKind::Block, place: PlaceKind::Relabelable })
    }

    fn place(&self, path: &str, resolved: &Resolved) -> Result<PlaceKind, Refusal> {
        let chain = || resolved.directories.iter().map(Found::id);
        if self.own().keeps(path, chain())? {
            return Err(refusal(path, "lies in one of svirt's own directories", ""));
        }
        if self.relabelable().admits(chain()) {
            return Ok(PlaceKind::Relabelable);
        }
        if self.readable().admits(chain()) {
            return Ok(PlaceKind::Readable);
        }
        // For the message alone: links of root's are followed, and the place is that of where they lead.
        let real = std::fs::read_link(format!("/proc/self/fd/{}", resolved.fd.as_raw_fd())).ok();
        let leads = real.filter(|real| real.as_os_str() != path);
        let leads = leads.map_or_else(String::new, |real| format!("leads to {}, which ", real.display()));
        Err(refusal(
            path,
            &format!("{leads}lies in no directory of images.relabelable or images.readable"),
            "move it to one of them, or add its directory to the configuration",
        ))
    }

    fn admit_file(&self, path: &str, resolved: &Resolved) -> Result<(), Refusal> {
        let found = resolved.found;
        let refuse = |rule: &str, remedy: &str| Err(refusal(path, rule, remedy));
        if found.mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            return refuse("is set-uid or set-gid", "an image is no program: chmod ug-s it");
        }
        if never(found.id()) {
            return refuse("is one of the host's own secrets", "");
        }
        if self.is_in_ranges(found.uid) {
            return refuse(
                "belongs to a uid of the device models, which could change its mode",
                "chown it to root or to its user",
            );
        }
        let Some(parent) = resolved.directories.last() else {
            return refuse("has no directory", "");
        };
        let owned = parent.uid == 0 || parent.uid == found.uid;
        if !owned || (parent.mode & 0o022 != 0 && parent.mode & libc::S_ISVTX == 0) {
            return refuse(
                "its directory can be written by others than root and the file's owner, who could swap it",
                "chown the directory to root or the file's owner, and chmod go-w it",
            );
        }
        let harmless = found.uid == 0 && found.mode & 0o004 != 0 && parent.only_root_writes();
        if found.links > 1 && !(found.mode & 0o022 == 0 && harmless) {
            return refuse(
                "has more than one hard link",
                "copy it: another name of the same file may belong to somebody else",
            );
        }
        Ok(())
    }

    /// Opens a directory of images: one that is only read, or one in which files are made and removed.
    pub(super) fn pool(&self, path: &str, change: bool) -> Result<Resolved, Refusal> {
        let resolved = self.resolve(path)?;
        let chain = || resolved.directories.iter().chain([&resolved.found]).map(Found::id);
        if self.own().keeps(path, chain())? {
            return Err(refusal(path, "lies in one of svirt's own directories", "choose another directory"));
        }
        if !self.relabelable().admits(chain()) && (change || !self.readable().admits(chain())) {
            let rule = match change {
                true => "lies in no directory of images.relabelable",
                false => "lies in no directory of images.relabelable or images.readable",
            };
            return Err(refusal(path, rule, "use one of them, or add it to the configuration"));
        }
        if !resolved.found.is(libc::S_IFDIR) {
            return Err(refusal(path, "is no directory", "name a directory"));
        }
        // Who may rename what is in it could have another file removed.
        if change && !resolved.found.only_root_writes() {
            let remedy = "chown the directory to root and chmod go-w it";
            return Err(refusal(path, "others than root can write it", remedy));
        }
        Ok(resolved)
    }

    /// Resolves the directory of a log or a socket and checks that it lies in a place where only root writes.
    pub(super) fn directory_of(&self, path: &str, use_: DirectoryUse) -> Result<(OwnedFd, String), Refusal> {
        let settings = self.settings;
        // Looked up each time: some of them are made when they are needed.
        let (places, setting) = match use_ {
            DirectoryUse::Dumps => (slice::from_ref(&settings.save.dumps), "save.dumps"),
            DirectoryUse::Logs => (settings.console.logs.as_slice(), "console.logs"),
            DirectoryUse::ManagedSaves => (slice::from_ref(&settings.save.managed), "save.managed"),
            DirectoryUse::Nvram => (slice::from_ref(&settings.images.nvram), "images.nvram"),
            DirectoryUse::Saves => (settings.save.places.as_slice(), "save.places"),
            DirectoryUse::Shmem => (slice::from_ref(&settings.shmem.place), "shmem.place"),
            DirectoryUse::Sockets => (settings.console.sockets.as_slice(), "console.sockets"),
            DirectoryUse::Tpm => (slice::from_ref(&settings.tpm.state), "tpm.state"),
        };
        let known = Known::of(places);
        let split = path.rsplit_once('/').filter(|_| path::is_plain(path));
        let Some((directory, name)) = split else {
            return Err(refusal(path, "is no plain absolute path", "write it without `..`, `.` and `//`"));
        };
        let outside = || {
            let remedy = format!("use one of them, or add its directory to {setting}");
            refusal(path, &format!("lies in no directory of {setting}"), &remedy)
        };
        let below = |place: &String| {
            let rest = directory.strip_prefix(place.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let resolved = match path::resolve(directory) {
            Ok(resolved) => resolved,
            // What is there and what is not elsewhere is not told.
            Err(_)
                if matches!(use_, DirectoryUse::Dumps | DirectoryUse::Saves) && !places.iter().any(below) =>
            {
                return Err(outside());
            }
            Err(error) => return Err(walk_refusal(directory, &error)),
        };
        if !known.admits(resolved.directories.iter().chain([&resolved.found]).map(Found::id)) {
            return Err(outside());
        }
        if use_ == DirectoryUse::Saves && Some(resolved.found.id()) == apart(path, &settings.save.managed)? {
            return Err(refusal(path, "lies in save.managed", "choose a directory of save.places"));
        }
        self.keeps_dumps_apart(path, &resolved, use_)?;
        if !resolved.found.is(libc::S_IFDIR) || !resolved.found.only_root_writes() {
            return Err(refusal(
                path,
                "its directory can be written by others than root",
                "chown the directory to root and chmod go-w it",
            ));
        }
        Ok((resolved.fd, name.to_owned()))
    }

    /// Refuses a directory that is both for saved domains and for dumps, by a link or a mount: what a device model wrote
    /// there could be read as a saved domain.
    fn keeps_dumps_apart(&self, path: &str, resolved: &Resolved, use_: DirectoryUse) -> Result<(), Refusal> {
        let save = &self.settings.save;
        let others: Vec<(&str, &String)> = match use_ {
            DirectoryUse::Dumps => {
                let saves = save.places.iter().map(|place| ("save.places", place));
                saves.chain([("save.managed", &save.managed)]).collect()
            }
            DirectoryUse::ManagedSaves | DirectoryUse::Saves => vec![("save.dumps", &save.dumps)],
            _ => return Ok(()),
        };
        let chain = resolved.directories.iter().chain([&resolved.found]);
        for (setting, other) in others {
            if apart(path, other)?.is_some_and(|id| chain.clone().any(|dir| dir.id() == id)) {
                let rule =
                    format!("lies in {other} of {setting} as well: dumps and saved domains are kept apart");
                return Err(refusal(path, &rule, "choose another directory, or correct that setting"));
            }
        }
        Ok(())
    }
}

/// What a directory is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirectoryUse {
    /// Dumped memory.
    Dumps,
    /// Console logs.
    Logs,
    /// Domains whose next start goes on from there.
    ManagedSaves,
    /// UEFI variables.
    Nvram,
    /// Saved domains.
    Saves,
    /// TPMs' states.
    Tpm,
    /// Memory of several guests.
    Shmem,
    /// Unix consoles.
    Sockets,
}

impl Candidate {
    fn open(self, path: &str, flags: OFlags) -> Result<Opened, Refusal> {
        let fd = path::reopen(&self.resolved.fd, flags).map_err(|error| {
            let remedy = match error.raw_os_error() {
                Some(libc::EINVAL) => "the file system has no O_DIRECT: use cache='writeback'",
                Some(libc::EROFS) => "the file system is read-only: declare the disk <readonly/>",
                Some(libc::EPERM) => "it may be immutable: `lsattr` shows that, `chattr -i` ends it",
                Some(libc::ETXTBSY) => "it is a program that runs",
                _ => "look at its owner and mode, and at the file system's",
            };
            Refusal::new(Layer::Kernel, "open", path, error.to_string(), remedy)
        })?;
        Ok(Opened { fd, id: (self.identity.device, self.identity.inode), place: self.place })
    }
}

/// Which directory a place is that a path must not lie in; refused where that is not known.
fn apart(path: &str, place: &str) -> Result<Option<ObjectId>, Refusal> {
    directory_id(place).map_err(|why| not_told_apart(path, place, &why))
}

fn never(id: (u64, u64)) -> bool {
    use std::os::unix::fs::MetadataExt;
    NEVER.iter().any(|path| std::fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == id))
}

fn kind_of(found: &Found) -> &'static str {
    match found.mode & libc::S_IFMT {
        libc::S_IFDIR => "a directory",
        libc::S_IFIFO => "a FIFO",
        libc::S_IFCHR => "a character device",
        libc::S_IFSOCK => "a socket",
        _ => "no file",
    }
}

fn refusal(path: &str, rule: &str, remedy: &str) -> Refusal {
    Refusal::new(Layer::Policy, "use", path, rule, remedy)
}

/// What a failed walk means to a person.
pub(super) fn walk_refusal(path: &str, error: &WalkError) -> Refusal {
    match error {
        WalkError::Kernel(_, error) if error.kind() == std::io::ErrorKind::NotFound => {
            Refusal::new(Layer::Kernel, "open", path, "no such file", "check the path in the definition")
        }
        WalkError::Kernel(_, error) => {
            Refusal::new(Layer::Kernel, "open", path, error.to_string(), "check the path in the definition")
        }
        WalkError::ForeignLink(_) => refusal(
            path,
            &error.to_string(),
            "name the file itself; links count only where root alone may write them",
        ),
        WalkError::NotPlain(_) | WalkError::TooLong(_) => {
            refusal(path, &error.to_string(), "write the path without `..`, `.`, `//` and loops")
        }
    }
}
