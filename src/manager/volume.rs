//! Disks that name volumes of storage pools: what they are for a domain that starts, or a disk that is plugged in.
//!
//! What is kept names pool and volume; which file that is, is found out anew each time it is used.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Definition, DiskName, Domain, Manager, ManagerError};
use crate::base::Files;
use crate::conf::definition::{Definition as Tree, VolumeName};

/// Who knows the volumes of pools.
pub trait Volumes: Send + Sync {
    /// The file of a volume.
    fn file(&self, pool: &str, volume: &str) -> Result<String, ManagerError>;
}

/// Why the file of a disk's volume is not known, by the disk's target.
pub(super) type Unknown = BTreeMap<String, ManagerError>;

/// Below this, each volume has a name that is no file's: what stands here, QEMU is never given.
const STAND_IN: &str = "/proc/volumes";

/// How a kept text says that a disk, or a file system, is a volume.
const VOLUME: &str = "type='volume'";

impl Definition {
    /// The volumes that its disks name.
    pub(super) fn volumes(&self) -> Result<Vec<VolumeName>, ManagerError> {
        if !self.text().contains(VOLUME) {
            return Ok(Vec::new());
        }
        Ok(self.tree()?.volumes())
    }

    /// The same with a made-up file in the place of each volume, the same one for the same volume; `None` where it names
    /// none. Files are held to a list by it, so that all that a disk says is looked at: its layers, labels and who shares it.
    pub(super) fn standing_in(&self) -> Result<Option<Self>, ManagerError> {
        if self.volumes()?.is_empty() {
            return Ok(None);
        }
        self.edited(|tree| tree.put_files(|volume| Ok(stand_in(volume)))).map(Some)
    }
}

/// One part of the path for each name, whatever is in them.
fn stand_in(VolumeName { pool, volume, .. }: &VolumeName) -> String {
    let part = |name: &str| name.replace('%', "%25").replace('/', "%2F");
    format!("{STAND_IN}/{}/{}", part(pool), part(volume))
}

/// The refusal of a path that stands in for a volume: the domain had that volume, but for another use.
pub(super) fn not_as_it_was(domain: &str, path: &str) -> Option<ManagerError> {
    let (pool, volume) = path.strip_prefix(STAND_IN)?.strip_prefix('/')?.split_once('/')?;
    let name = |part: &str| part.replace("%2F", "/").replace("%25", "%");
    Some(ManagerError::Denied(format!(
        "domain '{domain}' may not use the volume '{}' of pool '{}' in another way than before: whoever is held to a list \
         of files leaves the labels of such a disk, and who shares it, as they are; hand it in as it was, or have an \
         administrator change it",
        name(volume),
        name(pool)
    )))
}

/// Refuses what stands in for a volume whose file is not known as a file of whoever may name only some: the domain that it
/// is added to seems to have had it.
pub(super) fn no_stand_in(
    definition: &Definition,
    image: Option<&str>,
    files: &Files,
) -> Result<(), ManagerError> {
    let image = image.filter(|_| !files.is_all());
    image.and_then(|path| not_as_it_was(definition.name.as_str(), path)).map_or(Ok(()), Err)
}

impl Manager {
    /// Lets definitions name the volumes that these know.
    #[must_use]
    pub fn with_volumes(self, volumes: Arc<dyn Volumes>) -> Self {
        Self { volumes: Some(volumes), ..self }
    }

    /// The same definition with the files of the volumes that it names.
    pub(super) fn resolved(&self, definition: Arc<Definition>) -> Result<Arc<Definition>, ManagerError> {
        let Some(volumes) = &self.volumes else { return Ok(definition) };
        if definition.volumes()?.is_empty() {
            return Ok(definition);
        }
        let with = definition.edited(|tree| tree.put_files(|volume| file(&**volumes, volume)))?;
        Ok(Arc::new(with))
    }

    /// What a domain is defined as, with the files of the volumes that it names. Where a file is not known, perhaps since
    /// its pool is inactive, a made-up one stands in: what else a domain has can be looked at and changed, and the next
    /// start says what is wrong.
    pub(super) fn kept(&self, domain: &Domain) -> Result<Arc<Definition>, ManagerError> {
        Ok(self.as_far_as_known(self.definition(domain)?)?.0)
    }

    /// The disks that a domain has, of what runs or is kept, with their files. One whose volume is not found, perhaps since
    /// its pool is inactive, has none.
    pub fn disks(&self, domain: &Domain) -> Result<Vec<DiskName>, ManagerError> {
        let (definition, unknown) = self.as_far_as_known(self.current(domain)?)?;
        Ok(named_disks(&definition, &unknown)?.collect())
    }

    /// The disk of a kept definition that a client names by target or path. Only its own volume needs to be found.
    pub fn kept_disk(&self, domain: &Domain, name: &str) -> Result<DiskName, ManagerError> {
        let (definition, mut unknown) = self.as_far_as_known(self.definition(domain)?)?;
        let disk = super::live::named(named_disks(&definition, &unknown)?, name)?;
        unknown.remove(&disk.target).map_or(Ok(disk), Err)
    }

    /// A definition with the file of each volume, and a made-up one for each that is not found; with it the targets of
    /// those disks, and why.
    pub(super) fn as_far_as_known(
        &self,
        definition: Arc<Definition>,
    ) -> Result<(Arc<Definition>, Unknown), ManagerError> {
        let Some(volumes) = &self.volumes else { return Ok((definition, Unknown::new())) };
        if definition.volumes()?.is_empty() {
            return Ok((definition, Unknown::new()));
        }
        let unknown = RefCell::new(Unknown::new());
        let with = definition.edited(|tree| {
            tree.put_files(|volume| {
                let found = file(&**volumes, volume);
                Ok(found.unwrap_or_else(|error| {
                    unknown.borrow_mut().insert(volume.target.clone(), error);
                    stand_in(volume)
                }))
            })
        })?;
        Ok((Arc::new(with), unknown.into_inner()))
    }

    /// Puts the file of each volume in its place that a client's disk names; `false` where it names none.
    pub(super) fn put_volumes(&self, disk: &mut Tree, files: &Files) -> Result<bool, ManagerError> {
        let named = disk.volumes();
        let Some(volumes) = self.volumes.as_ref().filter(|_| !named.is_empty()) else { return Ok(false) };
        may_name(&named, files)?;
        disk.put_files(|volume| file(&**volumes, volume))?;
        Ok(true)
    }

    /// Refuses a definition that names a volume which was not in the one before it, of whoever may name only some files:
    /// rules for those give nothing on pools.
    pub(super) fn hold_volumes(
        &self,
        definition: &Definition,
        before: Option<&Definition>,
        files: &Files,
    ) -> Result<(), ManagerError> {
        if files.is_all() {
            return Ok(());
        }
        let mut named = definition.volumes()?;
        let before = before.map(Definition::volumes).transpose()?.unwrap_or_default();
        named.retain(|volume| !before.contains(volume));
        may_name(&named, files)
    }
}

/// The disks of a definition; those whose file is not known have none.
fn named_disks(
    definition: &Definition,
    unknown: &Unknown,
) -> Result<impl Iterator<Item = DiskName>, ManagerError> {
    Ok(definition.disks()?.into_iter().map(|disk| match unknown.contains_key(&disk.target) {
        true => DiskName { source: None, ..disk },
        false => disk,
    }))
}

fn may_name(volumes: &[VolumeName], files: &Files) -> Result<(), ManagerError> {
    match volumes.first().filter(|_| !files.is_all()) {
        None => Ok(()),
        Some(VolumeName { target, pool, volume, .. }) => Err(ManagerError::Denied(format!(
            "disk '{target}' may not be the volume '{volume}' of pool '{pool}': whoever is held to a list of files names \
             no pools; name the volume's file, with type='file'"
        ))),
    }
}

fn file(volumes: &dyn Volumes, named: &VolumeName) -> Result<String, ManagerError> {
    if named.mode.is_some() {
        let text = "disk source mode is only valid when storage pool is of iscsi type";
        return Err(ManagerError::Malformed(text.into()));
    }
    volumes.file(&named.pool, &named.volume)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::base::DomainUuid;
    use crate::conf::facts::HostFacts;
    use crate::driver::outside;
    use crate::manager::testing::Deaf;
    use crate::manager::{Impact, Memory, StartFlags};
    use crate::settings::Settings;

    const PLAIN: &str = "<driver name='qemu' type='raw'/><source pool='p/q' volume='v%'/>";
    const LAYER: &str =
        "<backingStore type='file'><format type='raw'/><source file='/srv/b/b-1.img'/></backingStore>";

    fn domain(disk: &str) -> Definition {
        Definition::kept(&format!(
            "<domain type='qemu'><name>a</name><uuid>6e5a1b3c-8a41-4c1b-9d8e-2f6f0e6b7a10</uuid><memory>65536</memory>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{disk}</devices></domain>"
        ))
        .unwrap()
    }

    fn volume(inside: &str) -> Definition {
        domain(&format!("<disk type='volume' device='disk'>{inside}<target dev='vda' bus='virtio'/></disk>"))
    }

    fn found(now: &Definition, before: &Definition) -> Option<String> {
        let (now, before) = (now.standing_in().unwrap().unwrap(), before.standing_in().unwrap().unwrap());
        let hosts = (&HostFacts::default(), &Settings::default());
        let found = outside((now.text(), now.uuid), Some(before.text()), &Files::none(), hosts).unwrap();
        found.map(|(_, path)| path)
    }

    #[test]
    fn what_else_a_volume_says_is_looked_at_like_a_file() {
        let plain = volume(PLAIN);
        assert_eq!(found(&plain, &plain), None);
        let qcow2 = PLAIN.replace("raw", "qcow2");
        // Its header is held to the list at a start.
        assert_eq!(found(&volume(&qcow2), &plain), None);
        let layered = volume(&format!("{qcow2}{LAYER}"));
        assert_eq!(found(&layered, &plain).as_deref(), Some("/srv/b/b-1.img"));
        assert_eq!(found(&layered, &layered), None);
        let stood_in = "/proc/volumes/p%2Fq/v%25";
        let label = "<seclabel model='dac' relabel='no'/></source>";
        for inside in [format!("{PLAIN}<shareable/>"), PLAIN.replace("v%'/>", &format!("v%'>{label}"))] {
            assert_eq!(found(&volume(&inside), &plain).as_deref(), Some(stood_in), "{inside}");
        }
        let refused = not_as_it_was("a", stood_in).unwrap().to_string();
        assert!(refused.contains("volume 'v%' of pool 'p/q'"), "{refused}");
        assert!(
            not_as_it_was("a", "/proc/volumes").is_none() && not_as_it_was("a", "/srv/b/b-1.img").is_none()
        );
        let file = domain("<disk type='file'><source file='/x'/><target dev='vda' bus='virtio'/></disk>");
        assert!(file.standing_in().unwrap().is_none());
    }

    /// Knows of one pool that it is active.
    struct Active(&'static str);

    impl Volumes for Active {
        fn file(&self, pool: &str, volume: &str) -> Result<String, ManagerError> {
            let why = || ManagerError::Operation(format!("storage pool '{pool}' is not active"));
            (pool == self.0).then(|| format!("/srv/{pool}/{volume}")).ok_or_else(why)
        }
    }

    /// A manager with a domain that has a volume of an active pool, one of an inactive one, and a file.
    fn manager() -> (Manager, DomainUuid) {
        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, Box::new(Memory), None, Arc::new(Deaf), |_, _| {});
        let manager = manager.with_volumes(Arc::new(Active("on")));
        let disk = |kind: &str, source: &str, target: &str| {
            format!(
                "<disk type='{kind}' device='disk'><driver name='qemu' type='raw'/><source {source}/>\
                 <target dev='{target}' bus='virtio'/></disk>"
            )
        };
        let disks = [
            disk("volume", "pool='off' volume='a'", "vda"),
            disk("volume", "pool='on' volume='b'", "vdb"),
            disk("file", "file='/srv/c'", "vdc"),
        ];
        let definition = domain(&disks.concat());
        let uuid = definition.uuid;
        manager.define(definition, 0).unwrap();
        (manager, uuid)
    }

    #[test]
    fn one_pool_that_is_inactive_hides_no_other_disk() {
        let (manager, uuid) = manager();
        let domain = manager.by_uuid(uuid).unwrap();
        let file = |name: &str| manager.kept_disk(&domain, name).map(|disk| disk.source.unwrap());
        assert_eq!(file("vdb").unwrap(), "/srv/on/b");
        assert_eq!(file("/srv/c").unwrap(), "/srv/c");
        assert!(file("vda").unwrap_err().to_string().contains("pool 'off' is not active"));
        assert!(file("/proc/volumes/off/a").is_err());
        let image = |name: &str| manager.image(&domain, name).map(|image| image.unwrap().path);
        assert_eq!(image("vdc").unwrap(), "/srv/c");
        assert!(image("vda").unwrap_err().to_string().contains("pool 'off' is not active"));
        let all = manager.disks(&domain).unwrap().into_iter().map(|disk| disk.source);
        assert_eq!(all.collect::<Vec<_>>(), [None, Some("/srv/on/b".into()), Some("/srv/c".into())]);
    }

    #[test]
    fn one_pool_that_is_inactive_keeps_nobody_from_changing_what_is_kept() {
        let (manager, uuid) = manager();
        let config = Impact { live: false, config: true, force: false };
        let disk = |source: &str, target: &str| {
            format!("<disk type='file'><source file='{source}'/><target dev='{target}' bus='virtio'/></disk>")
        };
        manager.attach(uuid, &disk("/srv/d", "vdd"), config, &Files::ALL).unwrap();
        manager.set_lifecycle(uuid, config, "on_poweroff", "destroy").unwrap();
        manager.throttle(uuid, config, "vda", |old| Ok(old.clone())).unwrap();
        let text = manager.definition(&manager.by_uuid(uuid).unwrap()).unwrap().text().to_owned();
        assert!(text.contains("<source pool='off' volume='a'/>") && text.contains("/srv/d"), "{text}");
        // What is brought is looked for, as libvirt does.
        let brought =
            disk("", "vde").replace("'file'", "'volume'").replace("file=''", "pool='off' volume='e'");
        let refused = manager.attach(uuid, &brought, config, &Files::ALL).unwrap_err().to_string();
        assert!(refused.contains("pool 'off' is not active"), "{refused}");
        // Nobody puts a file in the place of what stands in, or starts without the volume.
        let none = Files::none();
        let refused = manager.update(uuid, &disk("/proc/volumes/off/a", "vda"), config, &none).unwrap_err();
        assert!(refused.to_string().contains("volume 'a' of pool 'off'"), "{refused}");
        let refused = manager.start(uuid, StartFlags::default()).unwrap_err().to_string();
        assert!(refused.contains("pool 'off' is not active"), "{refused}");
    }
}
