//! What applying a plan needs of whoever starts processes: one narrow door, so that the bookkeeping of a start
//! and the confinement of its processes can be read, and tested, apart.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::spawn::Launching;
use crate::base::{DomainRef, DomainUuid, Refusal, Slot};
use crate::privsep::op::{CgroupLimits, Spawn, SpawnVirtiofsd, TpmVersion};
use crate::privsep::password::Password;
use crate::sys::process::Child;

/// Descriptors by slot.
pub(super) type Slots = BTreeMap<Slot, OwnedFd>;

/// What a helper is executed under.
#[derive(Clone, Copy, Debug)]
pub(super) struct HelperLabels<'a> {
    /// Its SELinux context.
    pub(super) selinux: Option<&'a str>,
    /// Its AppArmor profile.
    pub(super) apparmor: Option<&'a str>,
}

/// What a device model and its supervisor are started from.
pub(super) struct LaunchRequest<'a> {
    /// Whose.
    pub(super) domain: &'a DomainRef,
    /// What.
    pub(super) spawn: &'a Spawn,
    /// With which descriptors; they stay open here.
    pub(super) slots: &'a Slots,
    /// The AppArmor profile that the device model is executed under, where one was loaded; the supervisor has one then, too.
    pub(super) profile: Option<String>,
    /// What the displays of a start ask of those who come to them, for the supervisor alone.
    pub(super) passwords: &'a [Password],
}

/// Starts processes and makes cgroups.
pub(super) trait Launcher {
    /// Where the domain's cgroup would be made, in each hierarchy.
    fn cgroup_directories(&self, uuid: DomainUuid) -> Vec<PathBuf>;

    /// Makes the domain's cgroup with its limits; its path below the cgroup mount, where the host has one to give,
    /// and what it lacks.
    fn make_cgroup(
        &mut self,
        uuid: DomainUuid,
        limits: &CgroupLimits,
    ) -> Result<(Option<String>, Vec<String>), Refusal>;

    /// Begins to give the domain's cgroup other limits: the child that does ends with 0 or an error's number.
    /// `directories` are those that it was made in.
    fn tune_cgroup(
        &mut self,
        uuid: DomainUuid,
        directories: &[PathBuf],
        limits: &CgroupLimits,
    ) -> Result<Child, Refusal>;

    /// Kills what is left in the domain's cgroup and removes it; none being there is no error. `directories` are those
    /// that it was made in, where they are known.
    fn remove_cgroup(&mut self, uuid: DomainUuid, directories: &[PathBuf]) -> std::io::Result<()>;

    /// What a supervisor executes.
    fn supervisor(&self) -> &Path;

    /// Starts passt on a channel end. `cgroup` are the directories of the running domain's; a start has just made it.
    fn passt(
        &mut self,
        domain: &DomainRef,
        channel: &OwnedFd,
        uid: u32,
        labels: HelperLabels<'_>,
        cgroup: &[PathBuf],
    ) -> Result<Child, Refusal>;

    /// Starts swtpm on a channel end, with its state.
    fn swtpm(
        &mut self,
        domain: &DomainRef,
        descriptors: (&OwnedFd, &OwnedFd),
        uid: u32,
        version: TpmVersion,
        labels: HelperLabels<'_>,
    ) -> Result<Child, Refusal>;

    /// Starts virtiofsd on a listener, with the mount of the directory that it serves.
    fn virtiofsd(
        &mut self,
        domain: &DomainRef,
        spawn: &SpawnVirtiofsd,
        files: (&OwnedFd, &OwnedFd),
        labels: HelperLabels<'_>,
    ) -> Result<Child, Refusal>;

    /// Forks the supervisor and under it the device model, and does not wait for them.
    fn launch(&mut self, request: &LaunchRequest<'_>) -> Result<Launching, Refusal>;

    /// Starts a supervisor over a device model that runs.
    fn take_over(
        &mut self,
        request: &LaunchRequest<'_>,
        device_model: &Child,
        stderr: Option<&OwnedFd>,
    ) -> Result<(Child, OwnedFd), Refusal>;

    /// Prepares what can be prepared ahead while nobody waits.
    fn idle(&mut self);
}
