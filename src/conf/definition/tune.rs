//! What a definition asks of the host's schedulers.

use super::Definition;
use super::node::Node;
use crate::privsep::throttle::{DISK_LIMITS, DiskTuning};
use crate::privsep::tuning::Tuning;

/// The values of `<iotune>`: libvirt's names for them in calls are those of the elements.
pub const DISK_TUNING: &[&str] = &[
    "total_bytes_sec",
    "read_bytes_sec",
    "write_bytes_sec",
    "total_iops_sec",
    "read_iops_sec",
    "write_iops_sec",
    "total_bytes_sec_max",
    "read_bytes_sec_max",
    "write_bytes_sec_max",
    "total_iops_sec_max",
    "read_iops_sec_max",
    "write_iops_sec_max",
    "size_iops_sec",
    "group_name",
    "total_bytes_sec_max_length",
    "read_bytes_sec_max_length",
    "write_bytes_sec_max_length",
    "total_iops_sec_max_length",
    "read_iops_sec_max_length",
    "write_iops_sec_max_length",
];

impl Definition {
    /// The text of the element at a path of names below `<domain>`; a size is in the grammar's unit.
    #[must_use]
    pub fn tuned(&self, path: &[&str]) -> Option<&str> {
        self.root.at(path).map(|node| node.text.trim()).filter(|text| !text.is_empty())
    }

    /// Sets the text of the element at a path of names below `<domain>`, a size in the grammar's unit, or takes the
    /// element out, and those around it that are empty then.
    pub fn tune(&mut self, parent: &str, name: &str, value: Option<&str>) {
        if let Some(text) = value
            && let Some(node) = self.root.ensure(parent).and_then(|parent| parent.ensure(name))
        {
            text.clone_into(&mut node.text);
        } else if let Some(node) = self.root.child_mut(parent) {
            node.remove_children(name);
            if node.children().next().is_none() {
                self.root.remove_children(parent);
            }
        }
    }

    /// Sets all that a domain as a whole can be tuned by, and takes out what there is no value for.
    pub fn set_tuning(&mut self, tuning: &Tuning) {
        let kibibytes = |bytes: Option<u64>| bytes.map(|bytes| (bytes / 1024).to_string());
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let signed = |value: Option<i64>| value.map(|value| value.to_string());
        for (parent, name, value) in [
            ("cputune", "shares", number(tuning.shares)),
            ("cputune", "period", number(tuning.period)),
            ("cputune", "quota", signed(tuning.quota)),
            ("cputune", "global_period", number(tuning.global_period)),
            ("cputune", "global_quota", signed(tuning.global_quota)),
            ("memtune", "hard_limit", kibibytes(tuning.hard_limit)),
            ("memtune", "soft_limit", kibibytes(tuning.soft_limit)),
            ("blkiotune", "weight", number(tuning.io_weight)),
        ] {
            self.tune(parent, name, value.as_deref());
        }
    }

    /// An attribute of the element at a path of names below `<domain>`.
    #[must_use]
    pub fn tuned_by(&self, path: &[&str], attribute: &str) -> Option<&str> {
        self.root.at(path).and_then(|node| node.attribute(attribute))
    }

    /// One value of each `<device>` of `<blkiotune>` that has it, as libvirt's calls write them: path, value, path, …
    #[must_use]
    pub fn device_tuning(&self, value: &str) -> String {
        let devices = self.root.child("blkiotune").into_iter().flat_map(|tune| tune.all("device"));
        let pair = |device: &Node| {
            let (path, value) = (device.child("path")?, device.child(value)?);
            Some(format!("{},{}", path.text.trim(), value.text.trim()))
        };
        devices.filter_map(pair).collect::<Vec<_>>().join(",")
    }

    /// Sets the limits of the disk with this target, and takes out those that are none.
    pub fn set_disk_tuning(&mut self, target: &str, tuning: &DiskTuning) {
        let is = |node: &&mut Node| {
            node.name() == "disk" && node.child("target").and_then(|it| it.attribute("dev")) == Some(target)
        };
        let Some(devices) = self.root.child_mut("devices") else { return };
        let Some(disk) = devices.children_mut().find(is) else { return };
        disk.remove_children("iotune");
        let Some(tune) = (!tuning.is_none()).then(|| disk.ensure("iotune")).flatten() else { return };
        let limits = DISK_LIMITS.iter().zip(tuning.limits).filter(|(_, limit)| *limit > 0);
        let limits = limits.map(|((name, _), limit)| (*name, limit.to_string()));
        for (name, text) in limits.chain(tuning.group.clone().map(|group| ("group_name", group))) {
            if let Some(node) = tune.ensure(name) {
                node.text = text;
            }
        }
    }

    /// What [`DISK_TUNING`] names of the disk with this target or source, in its order; `None` where there is none.
    #[must_use]
    pub fn disk_tuning(&self, disk: &str) -> Option<Vec<Option<&str>>> {
        let is = |node: &&Node| {
            let target = node.child("target").and_then(|target| target.attribute("dev"));
            let source = node.child("source").and_then(|source| {
                source.attributes().find(|(attribute, _)| matches!(attribute.name, "file" | "dev"))
            });
            target == Some(disk) || source.is_some_and(|(_, path)| path == disk)
        };
        let found = self.root.child("devices")?.all("disk").find(is)?;
        let tune = found.child("iotune");
        let value = |name: &&str| tune.and_then(|tune| tune.child(name)).map(|node| node.text.trim());
        Some(DISK_TUNING.iter().map(value).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::conf::definition::Strictness;

    #[test]
    fn what_is_asked_is_found_and_nothing_else() {
        let xml = "<domain type='test'><name>a</name><memory>1024</memory>\
            <blkiotune><weight>200</weight><device><path>/dev/a</path><weight>300</weight></device>\
            <device><path>/dev/b</path><read_iops_sec>7</read_iops_sec></device></blkiotune>\
            <memtune><hard_limit unit='MiB'>2</hard_limit></memtune><cputune><shares>512</shares></cputune>\
            <numatune><memory mode='interleave' nodeset='0-1'/></numatune><os><type>hvm</type></os>\
            <devices><disk type='file' device='disk'><source file='/a'/><target dev='vda'/>\
            <iotune><total_iops_sec>9</total_iops_sec></iotune></disk></devices></domain>";
        let (one, _) = Definition::parse(xml.as_bytes(), Strictness::Strict).unwrap();
        assert_eq!(one.tuned(&["cputune", "shares"]), Some("512"));
        assert_eq!(one.tuned(&["memtune", "hard_limit"]), Some("2048"));
        assert_eq!(one.tuned(&["memtune", "soft_limit"]), None);
        assert_eq!(one.tuned_by(&["numatune", "memory"], "mode"), Some("interleave"));
        assert_eq!(one.device_tuning("weight"), "/dev/a,300");
        assert_eq!(one.device_tuning("read_iops_sec"), "/dev/b,7");
        assert_eq!(one.disk_tuning("vdb"), None);
        let mut limited = one.clone();
        let mut tuning = DiskTuning { group: Some("g".into()), ..DiskTuning::default() };
        (tuning.limits[0], tuning.limits[6]) = (5, 50);
        limited.set_disk_tuning("vda", &tuning);
        let named = |it: &Definition, name: &str| {
            let at = DISK_TUNING.iter().position(|other| *other == name).unwrap();
            it.disk_tuning("vda").unwrap().get(at).copied().flatten().map(str::to_owned)
        };
        assert_eq!(named(&limited, "total_bytes_sec_max").as_deref(), Some("50"));
        assert_eq!(named(&limited, "group_name").as_deref(), Some("g"));
        assert_eq!(named(&limited, "total_iops_sec"), None);
        limited.set_disk_tuning("vda", &DiskTuning::default());
        assert!(limited.disk_tuning("vda").unwrap().iter().all(Option::is_none));
        let mut other = one.clone();
        other.set_tuning(&Tuning { quota: Some(-1), hard_limit: Some(4 << 20), ..Tuning::default() });
        assert_eq!(other.tuned(&["cputune", "shares"]), None);
        assert_eq!(other.tuned(&["cputune", "quota"]), Some("-1"));
        assert_eq!(other.tuned(&["memtune", "hard_limit"]), Some("4096"));
        other.set_tuning(&Tuning::default());
        assert!(other.root.child("cputune").is_none() && other.root.child("memtune").is_none());
        for name in ["vda", "/a"] {
            let tuning = one.disk_tuning(name).unwrap();
            let set: Vec<_> = DISK_TUNING.iter().zip(&tuning).filter(|(_, value)| value.is_some()).collect();
            assert_eq!(set, [(&"total_iops_sec", &Some("9"))]);
        }
    }
}
