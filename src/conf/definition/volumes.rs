//! Disks that are named as volumes of storage pools.
//!
//! A kept definition names pool and volume; what runs has the file that the volume was at that moment.

use super::node::Node;
use super::{Definition, write};

/// A volume as a disk names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeName {
    /// The disk's target.
    pub target: String,
    /// The pool.
    pub pool: String,
    /// The volume's name in it.
    pub volume: String,
    /// Whether the guest only reads it.
    pub readonly: bool,
    /// How an iSCSI pool is to give it, where that is said.
    pub mode: Option<String>,
}

impl Definition {
    /// The volumes that its disks name, in order.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeName> {
        let disks = self.root.child("devices").into_iter().flat_map(|devices| devices.all("disk"));
        disks.filter_map(volume).collect()
    }

    /// Puts a file in the place of each volume, as `file` tells; what else is said of the source stays. An error of `file`
    /// leaves a definition that is changed in part.
    pub fn put_files<E>(&mut self, file: impl Fn(&VolumeName) -> Result<String, E>) -> Result<(), E> {
        let disks = self.root.child_mut("devices").into_iter().flat_map(Node::children_mut);
        for disk in disks.filter(|device| device.name() == "disk") {
            let Some(volume) = volume(disk) else { continue };
            let path = file(&volume)?;
            let Some(before) = disk.child("source").cloned() else { continue };
            disk.remove_children("source");
            disk.set("type", "file");
            let Some(source) = disk.ensure("source") else { continue };
            source.set("file", path);
            if let Some(policy) = before.attribute("startupPolicy") {
                source.set("startupPolicy", policy);
            }
            before.children().for_each(|child| source.adopt(child));
        }
        Ok(())
    }

    /// Its first disk, as an element of its own.
    #[must_use]
    pub fn first_disk(&self) -> Option<String> {
        self.root.child("devices")?.child("disk").map(write::element)
    }
}

fn volume(disk: &Node) -> Option<VolumeName> {
    if disk.attribute("type") != Some("volume") {
        return None;
    }
    let source = disk.child("source")?;
    Some(VolumeName {
        target: disk.child("target")?.attribute("dev")?.to_owned(),
        pool: source.attribute("pool")?.to_owned(),
        volume: source.attribute("volume")?.to_owned(),
        readonly: disk.child("readonly").is_some(),
        mode: source.attribute("mode").map(str::to_owned),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::conf::definition::{Strictness, View};

    #[test]
    fn a_file_takes_the_place_of_a_volume_and_its_labels_stay() {
        let xml = "<domain type='qemu'><name>a</name><memory>1024</memory>\
            <metadata><disk xmlns='urn:other' type='no'></disk></metadata><os><type>hvm</type></os><devices>\
            <disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>\
            <source pool='p' volume='v'><seclabel model='dac' relabel='no'/></source><target dev='vda' bus='virtio'/></disk>\
            <disk type='file'><source file='/a'/><target dev='vdb' bus='virtio'/></disk></devices></domain>";
        let (mut tree, _) = Definition::parse(xml.as_bytes(), Strictness::Strict).unwrap();
        let volume = VolumeName {
            target: "vda".into(),
            pool: "p".into(),
            volume: "v".into(),
            readonly: false,
            mode: None,
        };
        assert_eq!(tree.volumes(), [volume]);
        let refused = tree.clone().put_files(|_| Err("no"));
        assert_eq!(refused, Err("no"));
        tree.put_files(|volume| Ok::<_, ()>(format!("/{}/{}", volume.pool, volume.volume))).unwrap();
        assert_eq!(tree.volumes(), []);
        let disk = tree.first_disk().unwrap();
        assert!(disk.starts_with("<disk type='file' device='disk'>") && disk.contains("/p/v"), "{disk}");
        assert!(disk.trim_end().ends_with("</disk>") && !disk.contains("/a"), "{disk}");
        let text = tree.format(View { secure: true, migratable: false });
        assert!(text.contains("<source file='/p/v'>") && text.contains("<source file='/a'/>"), "{text}");
        assert!(text.contains("<seclabel model='dac' relabel='no'/>") && !text.contains("pool="), "{text}");
        let sources = tree.domain().unwrap().devices.disks.into_iter().map(|disk| disk.source.unwrap());
        assert_eq!(sources.map(|source| source.path).collect::<Vec<_>>(), ["/p/v", "/a"]);
    }
}
