//! Directories that no guest may mount, and whether the one of shared memory is root's alone to make.

use super::{Places, refusal, walk_refusal};
use crate::base::Refusal;
use crate::settings::Settings;
use crate::sys::path::{self, Resolved, WalkError};

impl Places<'_> {
    /// Refuses a directory that holds one of those which are not for guests, or lies in one. Of one that is not there the
    /// directory counts in which it would be made.
    pub(super) fn keeps_closed(&self, path: &str, share: &Resolved) -> Result<(), Refusal> {
        let found = share.found;
        let shmem = &self.settings.shmem.place;
        for closed in &paths(self.settings) {
            // No region gets there, and whoever put a link in its place must not keep guests from their directories.
            if closed == shmem && self.shmem_is_roots().is_err() {
                continue;
            }
            let mut nearest = closed.as_str();
            let other = loop {
                match path::resolve(nearest) {
                    Ok(other) => break other,
                    Err(WalkError::Kernel(_, error)) if error.kind() == std::io::ErrorKind::NotFound => {
                        let above = nearest.rsplit_once('/').map_or("", |(above, _)| above);
                        nearest = if above.is_empty() { "/" } else { above };
                    }
                    Err(error) => {
                        let rule =
                            format!("cannot be told apart from {closed}, which is not for guests: {error}");
                        return Err(refusal(path, &rule, "correct that setting"));
                    }
                }
            };
            let above = other.directories.iter().chain([&other.found]).any(|dir| dir.id() == found.id());
            let inside = || share.directories.iter().chain([&found]).any(|dir| dir.id() == other.found.id());
            if above || (nearest == closed && inside()) {
                let rule = format!("holds, or lies in, {closed}, which is not for guests");
                return Err(refusal(path, &rule, "share another directory"));
            }
        }
        Ok(())
    }

    /// Refuses a place of shared memory that somebody else than root could make, or put another one in the place of.
    pub(in crate::labeller) fn shmem_is_roots(&self) -> Result<(), Refusal> {
        let place = &self.settings.shmem.place;
        let mut nearest = place.as_str();
        let holder = loop {
            match path::resolve(nearest) {
                Ok(there) if nearest == place => break there.directories.last().copied(),
                // It would be made there.
                Ok(there) => break Some(there.found),
                Err(WalkError::Kernel(_, error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    match nearest.rsplit_once('/') {
                        Some((above, _)) if !above.is_empty() => nearest = above,
                        // Nobody but root writes the root of all.
                        _ => return Ok(()),
                    }
                }
                Err(error) => return Err(walk_refusal(nearest, &error)),
            }
        };
        if holder.is_some_and(|holder| holder.is(libc::S_IFDIR) && holder.only_root_writes()) {
            return Ok(());
        }
        let rule = "shmem.place lies in a directory that others than root can write, who could make it first";
        Err(refusal(place, rule, "choose a directory below paths.run in [shmem]"))
    }
}

/// What a share that holds one of these would open: other domains' disks, states, sockets and svirt's own files.
fn paths(settings: &Settings) -> Vec<String> {
    let images = &settings.images;
    let one = [
        &settings.paths.run,
        &settings.paths.state,
        &settings.paths.cache,
        &images.nvram,
        &settings.save.managed,
        &settings.save.dumps,
    ];
    let more = [&settings.tpm.state, &settings.shmem.place, &settings.daemon.store, &settings.paths.libexec];
    one.into_iter()
        .chain(more)
        .chain(&images.relabelable)
        .chain(&images.readable)
        .chain(&settings.save.places)
        .chain(&settings.console.sockets)
        .chain(&settings.console.logs)
        .filter(|path| !path.is_empty())
        .cloned()
        .chain(["/etc", "/proc", "/sys", "/dev", "/boot", "/usr"].map(ToOwned::to_owned))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

    use super::*;

    #[test]
    fn a_link_in_the_place_of_shared_memory_stops_that_alone() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for name in ["open", "share"] {
            fs::create_dir(at(name)).unwrap();
        }
        let mut settings = Settings::default();
        settings.shares.places = vec![at("share")];
        settings.shmem.place = at("open/svirt");
        let places = Places::of(&settings);
        let mode = |mode| fs::set_permissions(at("open"), Permissions::from_mode(mode)).unwrap();
        let is_roots = || {
            places.open_share(&at("share")).unwrap();
            places.shmem_is_roots()
        };
        is_roots().unwrap();
        mode(0o1777);
        assert!(is_roots().unwrap_err().rule.contains("could make it first"));
        symlink("/nowhere", at("open/svirt")).unwrap();
        lchown(at("open/svirt"), Some(12_345), Some(12_345)).unwrap();
        is_roots().unwrap_err();
        mode(0o755);
        is_roots().unwrap_err();
        fs::remove_file(at("open/svirt")).unwrap();
        fs::create_dir(at("open/svirt")).unwrap();
        is_roots().unwrap();
        mode(0o777);
        is_roots().unwrap_err();
        // A link of root's counts, and so does who may write where it leads.
        settings.shmem.place = at("link");
        symlink(at("open/svirt"), at("link")).unwrap();
        let places = Places::of(&settings);
        places.shmem_is_roots().unwrap_err();
        mode(0o755);
        places.shmem_is_roots().unwrap();
    }
}
