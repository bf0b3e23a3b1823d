//! How much of a file system the saved domains and dumps of one client may take. Whose a file is stands in an attribute that
//! only root reads and writes; what earlier versions wrote, and what root saved, counts for nobody.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{OFlags, fstat, fstatvfs};

use super::apply::kernel;
use super::server::Server;
use crate::base::{Layer, Refusal};
use crate::settings::Save;
use crate::sys::{path, xattr};

/// The most files of a directory that are looked at; who has more of them than that gets no more room.
const FILES_MAX: usize = 65_536;

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
        let begun: u64 = begun.map(|share| share.most).fold(0, u64::saturating_add);
        let has = held(&self.settings.save, user, device).map_err(io)?;
        let most = whole.saturating_sub(has).saturating_sub(begun);
        if most > 0 {
            return Ok(Share { user: Some(user), device, most });
        }
        let on_its_way = if begun > 0 { ", some of them for what is being written" } else { "" };
        let rule = format!(
            "uid {user} may have {} MiB of saved domains and dumps on its file system, {percent} % of it, and has {} MiB{on_its_way}",
            whole >> 20,
            has.saturating_add(begun) >> 20
        );
        let remedy = "remove some of them, or raise save.percent_per_user";
        Err(Refusal::new(Layer::Policy, "write", path, rule, remedy))
    }
}

/// How many bytes files of a client have on one file system, in all the places.
fn held(save: &Save, user: u32, device: u64) -> io::Result<u64> {
    let mut seen = Vec::new();
    let mut bytes = 0_u64;
    for place in save.places.iter().chain([&save.managed, &save.dumps]) {
        let found = match std::fs::metadata(place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        let id = (found.dev(), found.ino());
        if found.dev() != device || seen.contains(&id) {
            continue;
        }
        seen.push(id);
        let directory = path::directory(place)?;
        for (count, entry) in std::fs::read_dir(place)?.enumerate() {
            if count >= FILES_MAX {
                return Ok(u64::MAX);
            }
            let name = entry?.file_name();
            // It may have gone since.
            let Ok(file) = path::open_in(&directory, &name, OFlags::RDONLY | OFlags::NONBLOCK) else {
                continue;
            };
            if xattr::user(&file)? == Some(user) {
                let blocks = u64::try_from(fstat(&file)?.st_blocks).unwrap_or(0);
                bytes = bytes.saturating_add(blocks.saturating_mul(512));
            }
        }
    }
    Ok(bytes)
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
        let held = |user, device| held(&save, user, device).unwrap();
        assert_eq!((held(7, device), held(8, device)), (3 << 16, 1 << 16));
        assert_eq!((held(9, device), held(7, device + 1)), (0, 0));
    }
}
