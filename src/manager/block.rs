//! What becomes of a disk of a domain that runs, besides its coming and going.

use serde_json::Value;

use super::{Definition, Impact, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::definition::Definition as Tree;
use crate::conf::domain::{Disk, DiskDevice, DiskSource, ImageFormat, IoMode};
use crate::driver::throttle;
use crate::privsep::ask::{Ask, STORAGE};
use crate::privsep::throttle::{DISK_LIMITS, DiskTuning, Throttle};

/// What an image's size is a multiple of, in bytes.
const SECTOR: u64 = 512;

/// The disk that a client names by target or path.
fn place(disks: &[Disk], name: &str) -> Option<usize> {
    let is =
        |disk: &Disk| disk.target == name || disk.source.as_ref().is_some_and(|source| source.path == name);
    disks.iter().position(is)
}

/// What QEMU says each disk may do, by target.
fn told(answer: &Value) -> Vec<(String, DiskTuning)> {
    let one = |entry: &Value| {
        let inserted = entry.get("inserted")?;
        let target = inserted.get("node-name")?.as_str()?.strip_suffix("-0-format")?.to_owned();
        let limits = DISK_LIMITS.map(|(_, name)| inserted.get(name).and_then(Value::as_u64).unwrap_or(0));
        // Without a name of its own a disk's group has its device's, which is a path or an alias.
        let own = entry.get("qdev").and_then(Value::as_str);
        let group = inserted.get("group").and_then(Value::as_str).filter(|group| own != Some(group));
        let mut tuning = DiskTuning { limits, group: group.map(str::to_owned) };
        tuning.forget_lengths();
        tuning.check().and_then(|()| tuning.check_bursts()).is_ok().then_some((target, tuning))
    };
    answer.as_array().into_iter().flatten().filter_map(one).collect()
}

impl Definition {
    /// What runs of a definition that was started, with what its disks may do since.
    /// `answer` is what QEMU says of them.
    pub(super) fn with_throttles(self, answer: Option<&Value>) -> Self {
        let (Some(answer), Ok(domain)) = (answer, self.to_start()) else { return self };
        let disks = domain.devices.disks;
        let is_other = |(target, now): &(String, DiskTuning)| {
            let disk = disks.iter().find(|disk| disk.target == *target);
            disk.is_some_and(|disk| {
                let mut before = disk.tuning.clone();
                before.forget_lengths();
                before != *now
            })
        };
        let changed: Vec<(String, DiskTuning)> = told(answer).into_iter().filter(is_other).collect();
        if changed.is_empty() {
            return self;
        }
        let edited = self.edited(|tree| {
            changed.iter().for_each(|(target, tuning)| tree.set_disk_tuning(target, tuning));
            Ok(())
        });
        // What no domain could have is not believed: every later call reads it.
        edited.ok().filter(|edited| edited.to_start().is_ok()).unwrap_or(self)
    }
}

/// A disk of a definition with other limits.
struct Throttled {
    target: String,
    tuning: DiskTuning,
    throttle: Option<Throttle>,
    /// Whether it is a drive without a medium.
    empty: bool,
}

impl Throttled {
    fn new(
        definition: &Definition,
        name: &str,
        missing: String,
        change: impl Fn(&DiskTuning) -> Result<DiskTuning, ManagerError>,
    ) -> Result<Self, ManagerError> {
        let disks = definition.to_start()?.devices.disks;
        let found = place(&disks, name).and_then(|at| Some((at, disks.get(at)?)));
        let (at, disk) = found.ok_or(ManagerError::Argument(missing))?;
        let tuning = change(&disk.tuning)?;
        let shared = |other: &&Disk| other.target != disk.target && other.tuning.group == tuning.group;
        if let (Some(group), Some(other)) = (&tuning.group, disks.iter().find(shared)) {
            let text = format!(
                "disk '{}' is in the group '{group}'; disks that share limits are not supported",
                other.target
            );
            return Err(ManagerError::Operation(text));
        }
        Ok(Self {
            target: disk.target.clone(),
            throttle: throttle(&disks, at, tuning.clone()),
            tuning,
            empty: disk.source.is_none(),
        })
    }

    fn edit(&self, tree: &mut Tree) -> Result<(), ManagerError> {
        tree.set_disk_tuning(&self.target, &self.tuning);
        Ok(())
    }
}

/// Whether a device model that was started so has the system calls for how this disk waits: they are decided at a start.
pub(super) fn may_wait_so(started: &crate::conf::domain::Domain, disk: &Disk) -> Result<(), ManagerError> {
    let word = match disk.io {
        Some(IoMode::Native) => "native",
        Some(IoMode::IoUring) => "io_uring",
        Some(IoMode::Threads) | None => return Ok(()),
    };
    if started.devices.disks.iter().any(|other| other.io == disk.io) {
        return Ok(());
    }
    Err(ManagerError::Operation(format!(
        "disk '{}' has io='{word}', and the domain was started without such a disk, so without the system calls for it; \
         leave io out, or start the domain with one",
        disk.target
    )))
}

impl Manager {
    /// The image of the disk that a client names by target or path, of what runs or is kept; `None` where there is no such
    /// disk.
    pub fn image(&self, domain: &super::Domain, name: &str) -> Result<Option<DiskSource>, ManagerError> {
        let (definition, mut unknown) = self.as_far_as_known(self.current(domain)?)?;
        let mut disks = definition.to_start()?.devices.disks;
        let Some(at) = place(&disks, name) else { return Ok(None) };
        if let Some(error) = disks.get(at).and_then(|disk| unknown.remove(&disk.target)) {
            return Err(error);
        }
        let none = || format!("disk '{name}' does not currently have a source assigned");
        disks.swap_remove(at).source.map(Some).ok_or_else(|| ManagerError::Argument(none()))
    }

    /// Changes how much a disk may do: `change` makes the new limits of the old ones.
    pub fn throttle(
        &self,
        uuid: DomainUuid,
        impact: Impact,
        name: &str,
        change: impl Fn(&DiskTuning) -> Result<DiskTuning, ManagerError>,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainSetBlockIoTune")?;
        let missing = format!("missing persistent configuration for disk '{name}'");
        let kept = match impact.config {
            true => Some(Throttled::new(&*self.kept(&domain)?, name, missing, &change)?),
            false => None,
        };
        // What cannot be kept is not done to what runs either.
        if let Some(kept) = &kept {
            self.may_edit(uuid, |tree| kept.edit(tree))?;
        }
        if impact.live {
            let live = self.live(uuid)?;
            let lacks = || ManagerError::state("svirtd has no definition of what runs");
            let definition = live.definition.as_ref().ok_or_else(lacks)?;
            let missing = format!("disk '{name}' not found in domain");
            let now = Throttled::new(definition, name, missing, &change)?;
            if !now.empty {
                let lacks = || ManagerError::state("it has no such disk");
                self.limit(uuid, now.throttle.clone().ok_or_else(lacks)?)?;
            }
            self.replace_live(uuid, None, |tree| now.edit(tree))?;
        }
        if let Some(kept) = kept {
            self.edit(uuid, |tree| kept.edit(tree))?;
        }
        Ok(())
    }

    /// Tells QEMU what a disk may do; it takes no such word of an empty drive.
    pub(super) fn limit(&self, uuid: DomainUuid, throttle: Throttle) -> Result<(), ManagerError> {
        self.sure(uuid, self.ask(uuid, Ask::Throttle { throttle: Box::new(throttle) })).map(drop)
    }

    /// Has QEMU tell once when something is written to a disk's image at this place or behind it, in bytes; 0 for nowhere.
    pub fn watch_block(&self, uuid: DomainUuid, name: &str, bytes: u64) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        // Another disk may not take the name of this one meanwhile.
        let _job = self.change(&domain.job, "DomainSetBlockThreshold")?;
        let live = self.live(uuid)?;
        let disks = live.definition.as_ref().map(|definition| definition.disks()).transpose()?;
        let disk = disks.into_iter().flatten().find(|disk| disk.target == name);
        let missing = || ManagerError::Argument(format!("failed to find disk '{name}'"));
        let disk = disk.ok_or_else(missing)?;
        disk.medium()?;
        self.ask(uuid, Ask::BlockThreshold { node: format!("{}{STORAGE}", disk.target), bytes })?;
        Ok(())
    }

    /// Gives a disk another size, in bytes; the guest sees it at once.
    pub fn resize_block(&self, uuid: DomainUuid, name: &str, bytes: u64) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        // Another disk may not take the name of this one meanwhile.
        let _job = self.change(&domain.job, "DomainBlockResize")?;
        let live = self.live(uuid)?;
        let definition = live.definition.as_ref();
        let definition =
            definition.ok_or_else(|| ManagerError::state("svirtd has no definition of what runs"))?;
        let disks = definition.to_start()?.devices.disks;
        let missing = || ManagerError::Argument(format!("disk '{name}' was not found in the domain config"));
        let disk = place(&disks, name).and_then(|at| disks.get(at)).ok_or_else(missing)?;
        let fixed =
            || ManagerError::Operation(format!("can't resize empty or readonly disk '{}'", disk.target));
        let source = disk.source.as_ref().ok_or_else(fixed)?;
        if disk.readonly || disk.device == DiskDevice::Cdrom {
            return Err(fixed());
        }
        if disk.shareable {
            let text = "can't resize shareable disk '{}': other domains may use it; stop them, and resize its volume";
            return Err(ManagerError::Operation(text.replace("{}", &disk.target)));
        }
        // As libvirt does: qcow2 counts in sectors.
        let bytes = match source.format {
            ImageFormat::Qcow2 => bytes.checked_next_multiple_of(SECTOR),
            ImageFormat::Raw => Some(bytes),
        };
        let bytes = bytes.ok_or_else(|| ManagerError::Argument("the size is out of its bounds".into()))?;
        self.settings.limits.admit_volume(bytes).map_err(ManagerError::Operation)?;
        self.ask(uuid, Ask::BlockResize { node: format!("{}-0-format", disk.target), bytes })?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_are_read_back_from_what_qemu_tells() {
        let own = "/machine/peripheral/a/virtio-backend";
        let disk = |node: &str, group: &str| {
            json!({ "qdev": own, "inserted": { "node-name": node, "bps": 5, "bps_max": 50, "bps_max_length": 1,
                "iops": 9, "iops_size": 7, "group": group } })
        };
        let answer = json!([disk("vda-0-format", "g"), disk("vdb-0-format", own), { "qdev": "x" }]);
        let found = told(&answer);
        let limits: Vec<(usize, u64)> =
            found[0].1.limits.iter().copied().enumerate().filter(|(_, limit)| *limit > 0).collect();
        assert_eq!(limits, [(0, 5), (3, 9), (6, 50), (18, 7)]);
        let groups: Vec<_> =
            found.iter().map(|(target, it)| (target.as_str(), it.group.as_deref())).collect();
        assert_eq!(groups, [("vda", Some("g")), ("vdb", None)]);
    }
}
