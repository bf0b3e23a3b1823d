//! Directories that the guest mounts: as mounts of their own, whose owner is shown as whoever serves them.

use std::os::fd::AsFd as _;

use rustix::fs::OFlags;

use super::{Apply, kernel, note};
use crate::base::{Layer, Refusal, Slot};
use crate::labeller::journal::ProcessRole;
use crate::labeller::launcher::HelperLabels;
use crate::privsep::apparmor::ProfilePart;
use crate::privsep::op::{Access, FileIdentity, Op, SpawnVirtiofsd};
use crate::sys::mount::{self, MountLimits};
use crate::sys::namespace::{self, IdRange};
use crate::sys::path;

impl Apply<'_> {
    /// What the slot then holds is a detached mount, which one process attaches in a root of its own.
    pub(super) fn open_share(
        &mut self,
        slot: &Slot,
        path: &str,
        access: Access,
        identity: FileIdentity,
    ) -> Result<(), Refusal> {
        let (directory, found) = self.places.open_share(path)?;
        if found.id() != (identity.device, identity.inode) {
            let rule = "another directory has taken its place since the plan was made";
            let remedy = "start again; if it happens again, look who renames it";
            return Err(Refusal::new(Layer::Policy, "share", path, rule, remedy));
        }
        let error =
            |error: std::io::Error| kernel("mount the directory", path, &error, "look at its file system");
        let mounted = mount::clone_fd(directory.as_fd()).map_err(error)?;
        let readonly = access == Access::ReadOnly;
        let limits = MountLimits { nodev: true, noexec: true, nosuid: true, readonly };
        mount::limit(mounted.as_fd(), limits).map_err(error)?;
        let Some(uid) = self.server_of(slot) else {
            return Err(Refusal::new(Layer::Policy, "share", path, "nobody serves it", "plan again"));
        };
        // Guests' own users are the same on the disk and in the mount.
        let guests = self.settings.uids.guests;
        let others: IdRange = (guests.first, guests.first, guests.count);
        let owned = |owner: u32| {
            let all = [(owner, uid, 1), others];
            all.into_iter().filter(|(_, _, count)| *count > 0).collect::<Vec<_>>()
        };
        let users = namespace::new_user(&owned(found.uid), &owned(found.gid))
            .map_err(|error| kernel("make a user namespace for", path, &error, ""))?;
        mount::map_owners(mounted.as_fd(), users.as_fd()).map_err(|error| unmapped(path, &error))?;
        if self.is_labelled(slot) {
            let object = path::reopen(&directory, OFlags::RDONLY | OFlags::DIRECTORY).map_err(error)?;
            self.out.directories.push((slot.clone(), path.to_owned(), found.id(), object));
        }
        self.keep(slot, mounted)
    }

    /// The uid of the process that a share is for.
    fn server_of(&self, share: &Slot) -> Option<u32> {
        self.ops.iter().find_map(|op| match op {
            Op::SpawnVirtiofsd(spawn) if spawn.share == *share => Some(spawn.uid),
            Op::Spawn(spawn) if spawn.confinement.root.shares.iter().any(|one| one.slot == *share) => {
                Some(spawn.confinement.uid)
            }
            _ => None,
        })
    }

    pub(super) fn virtiofsd(&mut self, spawn: &SpawnVirtiofsd) -> Result<(), Refusal> {
        let (Some(listener), Some(share)) =
            (self.out.slots.get(&spawn.slot), self.out.slots.get(&spawn.share))
        else {
            let rule = "its descriptors are not open";
            return Err(Refusal::new(Layer::Policy, "start virtiofsd for", &*spawn.alias, rule, ""));
        };
        let profile = self.part(ProfilePart::Virtiofsd);
        let labels = HelperLabels { selinux: spawn.selinux_label.as_deref(), apparmor: profile.as_deref() };
        let child = self.launcher.virtiofsd(self.domain, spawn, (listener, share), labels)?;
        let noted = note(self.journal, ProcessRole::Helper(spawn.alias.clone()), child.pid);
        self.out.helpers.push((spawn.alias.clone(), child));
        noted?;
        self.out.slots.remove(&spawn.slot);
        self.out.slots.remove(&spawn.share);
        Ok(())
    }
}

fn unmapped(path: &str, error: &std::io::Error) -> Refusal {
    let remedy = match error.raw_os_error() {
        Some(libc::EINVAL) => {
            "its file system, or this kernel for it, has no mapped owners: ext4, xfs and btrfs have since Linux 5.19, tmpfs since 6.3"
        }
        Some(libc::EPERM) => "only the system's svirt can map owners: share directories with qemu:///system",
        _ => "look at its file system",
    };
    kernel("map the owners of", path, error, remedy)
}
