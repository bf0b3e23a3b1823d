//! How much of a file system the saved domains and dumps of one client may take. Whose a file is stands in an attribute that
//! only root reads and writes; what earlier versions wrote, and what root saved, counts for nobody.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Dir, FileType, OFlags, Stat, fstat, fstatvfs};

use super::apply::kernel;
use super::server::Server;
use crate::base::{Layer, Refusal};
use crate::settings::Save;
use crate::sys::{path, xattr};

/// The most files of one client on a file system. Each save and each dump looks at all files of the places, so no client
/// may make those many.
const FILES_MAX: usize = 1024;

/// What one file may have, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// The uid, where there is a limit on it.
    user: Option<u32>,
    /// The device of its file system.
    device: u64,
    /// The most bytes.
    pub(super) most: u64,
}

impl Share {
    /// No more than this is needed of it.
    pub(super) fn at_most(self, most: u64) -> Self {
        Self { most: self.most.min(most), ..self }
    }

    /// Notes on a file whose it is. To be done before it has a name.
    pub(super) fn mark(&self, file: &File, path: &str) -> Result<(), Refusal> {
        let Some(user) = self.user else { return Ok(()) };
        xattr::set_user(file, user).map_err(|error| {
            let remedy = "have the place for it on a file system with extended attributes, such as ext4 or xfs, or set save.percent_per_user to 100";
            kernel("note whose is", path, &error, remedy)
        })
    }
}

impl Server {
    /// How much of a file system one more file of a client's may take; with what those have that are being written.
    pub(super) fn share(&self, user: u32, directory: impl AsFd, path: &str) -> Result<Share, Refusal> {
        let io =
            |error: io::Error| kernel("look at the file system of", path, &error, "see the kernel's log");
        let device = fstat(&directory).map_err(|error| io(error.into()))?.st_dev;
        let percent = self.settings.save.percent_per_user;
        if user == 0 || percent >= 100 {
            return Ok(Share { user: None, device, most: u64::MAX });
        }
        let room = fstatvfs(&directory).map_err(|error| io(error.into()))?;
        let whole = room.f_blocks.saturating_mul(room.f_frsize) / 100 * u64::from(percent);
        let begun = self.domains.values().filter_map(|domain| domain.saving.as_ref()?.share());
        let begun = begun.chain(self.dumps.iter().map(|dumping| dumping.share));
        let begun = begun.filter(|share| (share.user, share.device) == (Some(user), device));
        let begun = begun.fold(Held::default(), |begun, share| begun.and(share.most));
        let has = held(&self.settings.save, user, device);
        match has.room(begun, whole) {
            Ok(most) => Ok(Share { user: Some(user), device, most }),
            Err(full) => {
                let rule = format!("uid {user} {}", full.rule(percent));
                Err(Refusal::new(Layer::Policy, "write", path, rule, full.remedy()))
            }
        }
    }
}

/// What files a client has on a file system, or has begun there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    files: usize,
    bytes: u64,
}

/// Why a client gets no more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Bytes { whole: u64, has: u64, on_its_way: bool },
    Files { has: usize },
}

impl Held {
    fn and(self, bytes: u64) -> Self {
        Self { files: self.files.saturating_add(1), bytes: self.bytes.saturating_add(bytes) }
    }

    /// How many bytes one more file may take, of so many that all may.
    fn room(self, begun: Self, whole: u64) -> Result<u64, Full> {
        let has = self.bytes.saturating_add(begun.bytes);
        let files = self.files.saturating_add(begun.files);
        match whole.saturating_sub(has) {
            0 => Err(Full::Bytes { whole, has, on_its_way: begun.bytes > 0 }),
            _ if files >= FILES_MAX => Err(Full::Files { has: files }),
            most => Ok(most),
        }
    }
}

impl Full {
    fn rule(self, percent: u32) -> String {
        match self {
            Self::Bytes { whole, has, on_its_way } => format!(
                "may have {} MiB of saved domains and dumps on its file system, {percent} % of it, and has {} MiB{}",
                whole >> 20,
                has >> 20,
                if on_its_way { ", some of them for what is being written" } else { "" }
            ),
            Self::Files { has } => {
                format!("may have {FILES_MAX} saved domains and dumps on its file system, and has {has}")
            }
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Bytes { .. } => "remove some of them, or raise save.percent_per_user",
            Self::Files { .. } => {
                "remove some of them, or have root save it, whose files are not counted; save.percent_per_user = 100 \
                 lifts all limits"
            }
        }
    }
}

/// What a client has on one file system, in all the places. What cannot be read counts for nobody, since its client is
/// not known and the others must be able to go on; the log tells of it.
fn held(save: &Save, user: u32, device: u64) -> Held {
    let mut seen = Vec::new();
    let mut held = Held::default();
    for place in save.places.iter().chain([&save.managed, &save.dumps]) {
        let counted = opened(place).and_then(|(directory, stat)| {
            let id = (stat.st_dev, stat.st_ino);
            if stat.st_dev == device && !seen.contains(&id) {
                seen.push(id);
                count(&directory, user, place, &mut held)?;
            }
            Ok(())
        });
        match counted {
            Err(error) if error.kind() != io::ErrorKind::NotFound => unread(place, &error),
            _ => {}
        }
    }
    held
}

fn unread(path: &str, error: &io::Error) {
    tracing::warn!(path, %error, "what is there counts for nobody's save.percent_per_user: it cannot be read");
}

fn opened(place: &str) -> io::Result<(OwnedFd, Stat)> {
    let directory = path::reopen(path::directory(place)?, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let stat = fstat(&directory)?;
    Ok((directory, stat))
}

/// Adds what a client has in a directory.
fn count(directory: &OwnedFd, user: u32, place: &str, held: &mut Held) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown) {
            continue;
        }
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        match size(directory, name, user) {
            Ok(size) => *held = size.map_or(*held, |bytes| held.and(bytes)),
            // It has gone since.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => unread(&format!("{place}/{}", name.to_string_lossy().escape_debug()), &error),
        }
    }
    Ok(())
}

/// How many bytes a file takes; `None` where it is not the client's.
fn size(directory: &OwnedFd, name: &OsStr, user: u32) -> io::Result<Option<u64>> {
    let file = path::open_in(directory, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
    if xattr::user(&file)? != Some(user) {
        return Ok(None);
    }
    let blocks = u64::try_from(fstat(&file)?.st_blocks).unwrap_or(0);
    Ok(Some(blocks.saturating_mul(512)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_count_for_whoever_saved_them_and_each_directory_once() {
        if !rustix::process::getuid().is_root() {
            return eprintln!("skipped: needs root");
        }
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("{}/{name}", room.path().display());
        let mut save = Save { places: vec![at("a"), at("b"), at("none")], ..Save::default() };
        (save.managed, save.dumps) = (at("managed"), at("b"));
        for directory in ["a", "b", "managed"] {
            std::fs::create_dir(at(directory)).unwrap();
        }
        let file = |name: &str, user: Option<u32>| {
            std::fs::write(at(name), [7; 1 << 16]).unwrap();
            let file = File::open(at(name)).unwrap();
            let device = fstat(&file).unwrap().st_dev;
            Share { user, device, most: 1 }.mark(&file, name).unwrap();
            device
        };
        file("a/1", Some(7));
        file("b/1", Some(7));
        file("b/2", Some(8));
        file("managed/1", Some(7));
        let device = file("managed/2", None);
        // Nobody is held up by what is no file, or no directory.
        std::os::unix::fs::symlink("nowhere", at("a/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("a/socket")).unwrap();
        std::fs::write(at("none"), "").unwrap();
        let held = |user, device| {
            let held = held(&save, user, device);
            (held.files, held.bytes)
        };
        assert_eq!((held(7, device), held(8, device)), ((3, 3 << 16), (1, 1 << 16)));
        assert_eq!((held(9, device), held(7, device + 1)), ((0, 0), (0, 0)));
    }

    #[test]
    fn a_client_has_no_more_files_than_it_may_and_holds_up_none_other() {
        let many = |files| Held { files, bytes: 1 << 20 };
        let begun = Held::default().and(1 << 20);
        assert_eq!(many(FILES_MAX - 2).room(begun, 5 << 20), Ok(3 << 20));
        let full = many(FILES_MAX - 1).room(begun, 5 << 20).unwrap_err();
        assert_eq!(full.rule(25), "may have 1024 saved domains and dumps on its file system, and has 1024");
        assert!(full.remedy().starts_with("remove some of them"));
        let full = many(1).room(begun, 2 << 20).unwrap_err();
        assert!(full.rule(25).ends_with("has 2 MiB, some of them for what is being written"));
        assert_eq!(full.remedy(), "remove some of them, or raise save.percent_per_user");
        assert_eq!(Held::default().room(Held::default(), 1), Ok(1), "whatever others have");
    }
}
