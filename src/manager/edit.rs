//! Changes to what a domain is defined as, by calls that name a single thing of it.

use super::definition::refused;
use super::{Definition, Manager, ManagerError};
use crate::base::{DomainUuid, Files};
use crate::conf::definition::Definition as Tree;

/// What a domain would be defined as, once something of it was changed.
struct Changed {
    definition: Definition,
    autostart: bool,
    owner: u32,
}

/// Adds a device.
pub(super) fn add_device(tree: &mut Tree, device: &str) -> Result<(), ManagerError> {
    *tree = tree.with_device(device).map_err(refused)?;
    Ok(())
}

impl Manager {
    /// Changes what a persistent domain is defined as; what runs of it goes on as it is.
    pub fn edit(
        &self,
        uuid: DomainUuid,
        edit: impl FnOnce(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        self.edit_within(uuid, &Files::ALL, edit)
    }

    /// The same for whoever may name `files` alone, and hands in something that has any: from then on its images' headers
    /// are held to these as well.
    pub(super) fn edit_within(
        &self,
        uuid: DomainUuid,
        files: &Files,
        edit: impl FnOnce(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        let name = self.by_uuid(uuid)?.name;
        let _reserved = self.reserve(uuid, &name);
        let Changed { definition, autostart, owner } = self.changed(uuid, files, edit)?;
        self.commit(vec![definition.to_keep(autostart, owner)])?;
        let kept = self.keep(definition, owner);
        self.table().define(uuid, Some(kept));
        Ok(())
    }

    /// Refuses what [`Manager::edit`] would refuse, and changes nothing. Whoever changes what runs too asks this first, so
    /// that a call which fails has done nothing.
    pub(super) fn may_edit(
        &self,
        uuid: DomainUuid,
        edit: impl FnOnce(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        self.may_edit_within(uuid, &Files::ALL, edit)
    }

    /// Refuses what [`Manager::edit_within`] would refuse, and changes nothing.
    pub(super) fn may_edit_within(
        &self,
        uuid: DomainUuid,
        files: &Files,
        edit: impl FnOnce(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        self.changed(uuid, files, edit).map(drop)
    }

    /// What a persistent domain would be defined as.
    fn changed(
        &self,
        uuid: DomainUuid,
        files: &Files,
        edit: impl FnOnce(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<Changed, ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let Some(kept) = &domain.definition else {
            return Err(ManagerError::state("transient domains do not have any persistent config"));
        };
        let owner = kept.owner;
        let definition = self.definition(&domain)?.edited(|tree| {
            edit(tree)?;
            tree.choose(&self.choices);
            Ok(())
        })?;
        let files = definition.files().clone().and(files.clone());
        let definition = definition.with_files(files);
        self.weigh(uuid, true, owner, definition.texts().bytes())?;
        Ok(Changed { definition, autostart: domain.autostart, owner })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conf::definition::TypedCpus;
    use crate::conf::facts::HostFacts;
    use crate::manager::testing::Deaf;
    use crate::manager::{Impact, Memory, StartFlags, Threads};
    use crate::settings::Settings;

    const XML: &str = "<domain type='qemu'><name>a</name><uuid>6e5a1b3c-8a41-4c1b-9d8e-2f6f0e6b7a10</uuid>\
        <memory>65536</memory><currentMemory>1024</currentMemory><vcpu>4</vcpu>\
        <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><disk type='file' device='disk'>\
        <driver name='qemu' type='raw'/><source file='/a'/><target dev='vda' bus='virtio'/></disk>\
        <memballoon model='virtio'/></devices></domain>";
    const DISK: &str = "<disk type='file'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>";
    const INTERFACE: &str = "<interface type='user'><model type='virtio'/></interface>";

    /// A manager of a domain that runs and belongs to a user, who may keep so many bytes.
    fn manager(bytes: u64) -> (Manager, DomainUuid) {
        let (mut settings, facts) = (Settings::default(), HostFacts::default());
        settings.daemon.definition_bytes_per_user = bytes;
        let manager = Manager::new(settings, facts, Box::new(Memory), None, Arc::new(Deaf), |_, _| {});
        let uuid = manager.define(Definition::kept(XML).unwrap(), 1000).unwrap().uuid;
        manager.start(uuid, StartFlags::default()).unwrap();
        (manager, uuid)
    }

    #[test]
    fn what_runs_has_whole_mebibytes_and_what_is_kept_says_what_it_said() {
        let manager = |xml: &str| {
            let (settings, facts) = (Settings::default(), HostFacts::default());
            let manager = Manager::new(settings, facts, Box::new(Memory), None, Arc::new(Deaf), |_, _| {});
            let uuid = manager.define(Definition::kept(xml).unwrap(), 1000).unwrap().uuid;
            manager.start(uuid, StartFlags::default()).unwrap();
            let live = manager.by_uuid(uuid).unwrap().live.unwrap();
            let runs = live.definition.clone().unwrap();
            assert_eq!(runs.to_start().unwrap().memory, runs.memory);
            (kept(&manager, uuid), live.text.view(true).to_owned(), runs.memory, runs.current_memory)
        };
        let odd = XML.replace("65536", "100001").replace("<currentMemory>1024</currentMemory>", "");
        let (kept, text, most, current) = manager(&odd);
        assert!(kept.contains("<memory unit='KiB'>100001</memory>"), "{kept}");
        assert!(text.contains("<memory unit='KiB'>100352</memory>"), "{text}");
        assert!(text.contains("<currentMemory unit='KiB'>100352</currentMemory>"), "{text}");
        assert_eq!((most, current), (100_352 << 10, 100_352 << 10));
        let (_, _, most, current) = manager(&XML.replace("65536", "100001"));
        assert_eq!((most, current), (100_352 << 10, 1024 << 10));
        let cells = "<cpu><numa><cell id='1' cpus='1' memory='50000' unit='KiB'/><cell id='0' cpus='0' \
                     memory='50001' unit='KiB'/></numa></cpu><os>";
        let (kept, text, most, _) = manager(&odd.replace("<os>", cells));
        assert!(kept.contains("memory='50001'") && kept.contains(">100001</memory>"), "{kept}");
        assert_eq!(text.matches("memory='50176' unit='KiB'").count(), 2, "{text}");
        assert_eq!(most, 100_352 << 10);
        // Each of them is rounded, and their sum is what it has.
        let cells = cells.replace("50000", "50177").replace("50001", "50175");
        let (_, _, most, _) = manager(&odd.replace("100001", "100352").replace("<os>", &cells));
        assert_eq!(most, (51_200 + 50_176) << 10);
    }

    #[test]
    fn an_empty_drive_is_limited_without_its_device_model() {
        let drive = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk><memballoon";
        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, Box::new(Memory), None, Arc::new(Deaf), |_, _| {});
        let definition = Definition::kept(&XML.replace("<memballoon", drive)).unwrap();
        let uuid = manager.define(definition, 1000).unwrap().uuid;
        manager.start(uuid, StartFlags::default()).unwrap();
        let live = Impact { live: true, config: false, force: false };
        let limit = |target: &str| {
            manager.throttle(uuid, live, target, |old| {
                let mut new = old.clone();
                new.limits[4] = 7;
                Ok(new)
            })
        };
        limit("sda").unwrap();
        let text = manager.by_uuid(uuid).unwrap().live.unwrap().text.view(true).to_owned();
        assert!(text.contains("<read_iops_sec>7</read_iops_sec>"), "{text}");
        assert!(limit("vda").unwrap_err().to_string().contains("has no device model"));
    }

    fn kept(manager: &Manager, uuid: DomainUuid) -> String {
        manager.definition(&manager.by_uuid(uuid).unwrap()).unwrap().text().to_owned()
    }

    /// What becomes of each change of both what runs and what is kept. Nothing can be done to what runs here.
    fn refusals(manager: &Manager, uuid: DomainUuid) -> Vec<(&'static str, String)> {
        let both = Impact { live: true, config: true, force: false };
        let all = Files::ALL;
        let tune = |tree: &mut Tree| {
            tree.tune("cputune", "shares", Some("512"));
            Ok(())
        };
        let last = TypedCpus::parse("3").unwrap();
        [
            ("attach disk", manager.attach(uuid, DISK, both, &all)),
            ("attach interface", manager.attach(uuid, INTERFACE, both, &all)),
            ("balloon", manager.set_balloon_period(uuid, both, 7)),
            ("lifecycle", manager.set_lifecycle(uuid, both, "on_crash", "preserve")),
            ("memory", manager.set_memory(uuid, both, 32768 << 10)),
            ("pin", manager.pin(uuid, both, Threads::Vcpu(0), &[0])),
            ("these vcpus", manager.set_these_vcpus(uuid, both, &last, false)),
            ("throttle", {
                manager.throttle(uuid, both, "vda", |old| {
                    let mut new = old.clone();
                    new.limits[0] = 1 << 20;
                    Ok(new)
                })
            }),
            ("tune", manager.tune(uuid, both, tune)),
            ("vcpus", manager.set_vcpus(uuid, both, 3)),
        ]
        .map(|(what, done)| (what, done.unwrap_err().to_string()))
        .into()
    }

    #[test]
    fn what_cannot_be_kept_is_not_done_to_what_runs_and_the_other_way_round() {
        let (free, uuid) = manager(1 << 20);
        let before = kept(&free, uuid);
        for (what, refused) in refusals(&free, uuid) {
            assert!(refused.contains("has no device model"), "{what}: {refused}");
            assert_eq!(kept(&free, uuid), before, "{what}");
        }
        // Not a byte more than it has.
        let bytes = free.by_uuid(uuid).unwrap().definition.unwrap().bytes;
        let (full, uuid) = manager(bytes);
        for (what, refused) in refusals(&full, uuid) {
            assert!(refused.contains("uid 1000 may keep"), "{what}: {refused}");
        }
    }
}
