//! Disks and media that come to a domain and leave it.

use std::sync::Arc;

use super::definition::refused;
use super::edit::add_device;
use super::given::Given;
use super::shown::{Put, Shown};
use super::table::Live;
use super::{Definition, Manager, ManagerError, What, interface};
use crate::base::{DomainUuid, Files};
use crate::conf::definition::Definition as Tree;
use crate::conf::domain::{Disk, DiskBus, DiskDevice, Domain, target_place};
use crate::driver::{Labeller, Plugging, plan_plug};
use crate::privsep::plug::{Gone, Plug};
use crate::privsep::request::Described;

/// Bytes of a path, with the one that ends it (`PATH_MAX` of the kernel).
const PATH_MAX: usize = 4096;

/// A disk or a medium that is planned.
pub(super) struct Ready {
    pub(super) plug: Plug,
    /// What runs, with it as the last disk.
    domain: Domain,
    /// What the labeller said of it.
    described: Described,
}

/// What a change concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Impact {
    /// What runs.
    pub live: bool,
    /// What is kept.
    pub config: bool,
    /// Whether the guest is not asked.
    pub force: bool,
}

impl Definition {
    /// What runs of a definition that was started, after what was plugged in and out since.
    pub(super) fn with_plugged(self, described: &Described) -> Self {
        if described.plugs.is_empty() && described.gone.is_empty() {
            return self;
        }
        let targets: Vec<(String, String)> =
            self.disks().into_iter().flatten().map(|disk| (disk.alias, disk.target)).collect();
        let edited = self.edited(|tree| {
            interface::without_gone(tree, described);
            for gone in &described.gone {
                let Some((_, target)) = targets.iter().find(|(alias, _)| *alias == gone.alias) else {
                    continue;
                };
                if gone.medium {
                    tree.eject(target);
                } else {
                    tree.remove_disk(target);
                }
            }
            for plug in &described.plugs {
                let known = targets.iter().find(|(alias, _)| *alias == plug.alias);
                let with = match known {
                    Some((_, target)) => tree.with_medium(target, &plug.note),
                    None => tree.with_device(&plug.note),
                };
                *tree = with.map_err(refused)?;
            }
            Ok(())
        });
        // Nobody can tell then what it is; what it was started with is the best answer.
        edited.unwrap_or(self)
    }
}

fn wrong(text: impl Into<String>) -> ManagerError {
    ManagerError::Argument(text.into())
}

/// How a client's disk comes into a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comes {
    /// As one more.
    New,
    /// In the place of one that there is.
    Instead,
    /// As the medium of a drive that there is.
    Medium,
}

/// Refuses a target that is taken, or that is to be replaced and is not there.
fn may_be(definition: &Definition, target: &str, comes: Comes) -> Result<(), ManagerError> {
    let taken = definition.domain()?.devices.disks.iter().any(|disk| disk.target == target);
    match comes {
        Comes::New if taken => Err(ManagerError::Failed(format!("target {target} already exists"))),
        Comes::Instead | Comes::Medium if !taken => Err(wrong(format!("target {target} not found"))),
        _ => Ok(()),
    }
}

/// The one disk that a client gives, as part of a definition.
fn described(
    definition: &Definition,
    given: &Given,
    comes: Comes,
) -> Result<(Definition, Disk), ManagerError> {
    let target = given.target.as_str();
    may_be(definition, target, comes)?;
    let with = match comes {
        Comes::New => definition.with_device(&given.xml)?,
        Comes::Instead => definition.with(|tree| tree.with_disk(target, &given.xml))?,
        Comes::Medium => definition.with(|tree| tree.with_medium(target, &given.xml))?,
    };
    let disk = with.domain()?.devices.disks.iter().find(|disk| disk.target == target).cloned();
    disk.map(|disk| (with, disk)).ok_or_else(|| wrong("the device is no disk that can be plugged"))
}

impl Manager {
    /// Adds a disk or an interface; of the host it names what is among `files`.
    pub fn attach(
        &self,
        uuid: DomainUuid,
        xml: &str,
        impact: Impact,
        files: &Files,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainAttachDevice")?;
        if interface::is_interface(xml) {
            // One that can be added names no file.
            return self.attach_interface(uuid, xml, impact);
        }
        let given = self.given(xml, files)?;
        // What cannot be kept is not plugged in either.
        if impact.config {
            self.described(&*self.kept(&domain)?, &given, Comes::New, files)?;
            self.may_edit_within(uuid, files, |tree| add_device(tree, xml))?;
        }
        // A medium for a drive that is there: what clients did before there was a call for it, and some still do.
        if impact.live && self.has_drive(uuid, &given)? {
            self.change_medium(uuid, &given, impact.force, files)?;
        } else if impact.live {
            self.plug(uuid, &given, files)?;
        }
        if impact.config {
            self.edit_within(uuid, files, |tree| add_device(tree, xml))?;
        }
        Ok(())
    }

    /// The one disk that a client gives, as part of a definition; of the host it names what is among `files`.
    pub(super) fn described(
        &self,
        definition: &Definition,
        given: &Given,
        comes: Comes,
        files: &Files,
    ) -> Result<(Definition, Disk), ManagerError> {
        super::volume::no_stand_in(definition, given.image.as_deref(), files)?;
        let (with, disk) = described(definition, given, comes)?;
        Ok((self.hold(with, Some(definition), files)?, disk))
    }

    /// Takes a disk out.
    pub fn detach(&self, uuid: DomainUuid, target: &str, impact: Impact) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainDetachDevice")?;
        let missing = || ManagerError::NoDevice(format!("no target device {target}"));
        let without = |tree: &mut Tree| {
            if !tree.disk_targets().any(|(_, disk)| disk == target) {
                return Err(missing());
            }
            tree.remove_disk(target);
            Ok(())
        };
        // What cannot be kept is not done to what runs either.
        if impact.config {
            self.may_edit(uuid, without)?;
        }
        if impact.live {
            self.detach_live(uuid, target, impact.force)?;
        }
        if impact.config {
            self.edit(uuid, without)?;
        }
        Ok(())
    }

    fn detach_live(&self, uuid: DomainUuid, target: &str, force: bool) -> Result<(), ManagerError> {
        let missing = || ManagerError::NoDevice(format!("no target device {target}"));
        let live = self.live(uuid)?;
        let definition = live.definition.as_ref().ok_or_else(missing)?;
        let alias =
            definition.disks()?.into_iter().find(|disk| disk.target == target).ok_or_else(missing)?.alias;
        let disks = definition.to_start()?.devices.disks;
        let disk = disks.into_iter().find(|disk| disk.target == target).ok_or_else(missing)?;
        if !matches!(disk.bus, DiskBus::Virtio | DiskBus::Scsi | DiskBus::Usb) {
            return Err(ManagerError::Unsupported("disks on this bus cannot be hot unplugged".into()));
        }
        if disk.device == DiskDevice::Cdrom && disk.source.is_some() {
            self.eject(uuid, target, &alias, force)?;
        }
        let which = Gone { alias, medium: false };
        if self.unplug(uuid, which.clone(), force)? {
            self.unplugged(uuid, &which.alias);
        }
        Ok(())
    }

    /// Has the labeller take a device or a medium out; `false` where the guest was only asked for it.
    pub(super) fn unplug(&self, uuid: DomainUuid, which: Gone, force: bool) -> Result<bool, ManagerError> {
        let mut labeller = self.core.labeller(&self.settings)?;
        let gone = self.sure(uuid, labeller.unplug(uuid, which.clone(), force).map_err(Into::into))?;
        self.note_kept(uuid, which, !gone);
        Ok(gone)
    }

    /// Notes whether QEMU has something yet that was taken out: of a guest that stands it lets nothing go, and when it goes
    /// on that is asked for again.
    pub(super) fn note_kept(&self, uuid: DomainUuid, which: Gone, kept: bool) {
        let mut table = self.table();
        let Some(live) = table.get(uuid).and_then(|domain| domain.live.as_mut()) else { return };
        if kept || live.runtime.kept.contains(&which) {
            let all = &mut Arc::make_mut(live).runtime.kept;
            all.retain(|other| *other != which);
            all.extend(kept.then_some(which));
        }
    }

    /// Reads the layers of a disk, or of a drive's medium, for what runs, and plans it.
    pub(super) fn plan(
        &self,
        labeller: &mut Labeller,
        uuid: DomainUuid,
        given: &Given,
        (comes, force): (Comes, bool),
        files: &Files,
    ) -> Result<Ready, ManagerError> {
        let medium = comes == Comes::Medium;
        let live = self.live(uuid)?;
        let lacks = || ManagerError::state("svirtd has no definition of what runs");
        let definition = live.definition.as_ref().ok_or_else(lacks)?;
        may_be(definition, &given.target, comes)?;
        // The labeller is at it while the definition is read. What is no path of the host's it need not hear of.
        let image = given.image.as_deref().filter(|image| files.has(image) && image.len() < PATH_MAX);
        labeller.look_ahead(uuid, image)?;
        let (_, disk) = self.described(definition, given, comes, files)?;
        if !medium && !disk.tuning.is_none() {
            let text = "a disk is plugged in without <iotune>; blkdeviotune limits it then";
            return Err(ManagerError::Operation(text.into()));
        }
        let started = self.started(uuid)?;
        super::block::may_wait_so(&started, &disk)?;
        let described = labeller.describe(uuid)?;
        let domain = everything(started, &*definition.domain()?, disk);
        let plugging = Plugging { domain: &domain, uuid, described: &described, medium, force, files };
        let (mut plug, place) = plan_plug(labeller, &plugging, &self.facts, &self.settings)?;
        let address = if medium { None } else { address(domain.devices.disks.last(), place) };
        plug.note = placed(Tree::device(&given.xml).map_err(refused)?, address);
        Ok(Ready { plug, domain, described })
    }

    /// Plugs a disk into what runs.
    fn plug(&self, uuid: DomainUuid, given: &Given, files: &Files) -> Result<(), ManagerError> {
        let mut labeller = self.core.labeller(&self.settings)?;
        let Ready { plug, domain, described } =
            self.plan(&mut labeller, uuid, given, (Comes::New, false), files)?;
        let (alias, note) = (plug.alias.clone(), plug.note.clone());
        let plugging =
            Plugging { domain: &domain, uuid, described: &described, medium: false, force: false, files };
        let brought = self.bring_controller(&mut labeller, &plugging)?;
        let shown = |live: &Live| live.shown(None, |definition| definition.with_device(&note));
        let put = self.put_in(&mut labeller, uuid, plug, files, shown);
        if put.is_err() && brought {
            self.take_controller_back(uuid);
        }
        self.show_put(uuid, put?, shown)?;
        if let Ok(domain) = self.by_uuid(uuid) {
            self.tell_what(&domain, What::DeviceAdded(alias));
        }
        Ok(())
    }

    /// Has the labeller plug in what was planned, which is held to these files from then on. How the domain is shown with it
    /// is found out while QEMU is at it.
    pub(super) fn put_in(
        &self,
        labeller: &mut Labeller,
        uuid: DomainUuid,
        plug: Plug,
        files: &Files,
        shown: impl Fn(&Live) -> Result<Option<Shown>, ManagerError>,
    ) -> Result<Put, ManagerError> {
        self.hold_live(uuid, files)?;
        let before = self.live(uuid)?;
        let mut found = Ok(None);
        let plugged = labeller.plug_meanwhile(uuid, plug, || found = shown(&before));
        self.sure(uuid, plugged.map_err(Into::into))?;
        Ok(Put { before, shown: found })
    }

    /// What the domain was started with.
    pub(super) fn started(&self, uuid: DomainUuid) -> Result<Domain, ManagerError> {
        let live = self.live(uuid)?;
        let started = live.runtime.started.as_ref().or(live.definition.as_ref());
        started.ok_or_else(|| ManagerError::state("svirtd has no definition of what runs"))?.to_start()
    }

    /// A device is gone from a domain: it is not shown any longer, and everybody hears of it.
    pub(super) fn unplugged(&self, uuid: DomainUuid, alias: &str) {
        let Ok(live) = self.live(uuid) else { return };
        if self.controller_gone(uuid, alias) {
            // Nobody was told that it came.
            return;
        }
        if !self.interface_gone(uuid, &live, alias) {
            let disks =
                live.definition.as_ref().and_then(|definition| definition.disks().ok()).unwrap_or_default();
            let Some(disk) = disks.into_iter().find(|disk| disk.alias == alias) else { return };
            let removed = self.replace_live(uuid, None, |tree| {
                tree.remove_disk(&disk.target);
                Ok(())
            });
            if let Err(error) = removed {
                tracing::error!(%uuid, alias, %error, "a device that is gone is still shown");
            }
        }
        if let Ok(domain) = self.by_uuid(uuid) {
            self.tell_what(&domain, What::DeviceRemoved(alias.to_owned()));
        }
    }

    /// A guest has let a device go, perhaps long after it was asked: what the device held is given back.
    pub(super) fn released(&self, uuid: DomainUuid, alias: &str) {
        let Ok(live) = self.live(uuid) else { return };
        let disks =
            live.definition.as_ref().and_then(|definition| definition.disks().ok()).unwrap_or_default();
        let known =
            live.interface_aliases().iter().any(|other| other == alias) || Self::is_brought(&live, alias);
        if !known && !disks.iter().any(|disk| disk.alias == alias) {
            return;
        }
        // Whoever waits for it already does the rest, and if it is somebody else, that is found out.
        let Some(domain) = self.by_uuid(uuid).ok() else { return };
        let Some(_job) = domain.job.try_take("DomainDetachDevice") else { return self.doubt(uuid) };
        let which = Gone { alias: alias.to_owned(), medium: false };
        match self.unplug(uuid, which, false) {
            Ok(true) => self.unplugged(uuid, alias),
            Ok(false) => {}
            Err(error) => tracing::warn!(%uuid, alias, %error, "what a device held is not given back yet"),
        }
    }
}

/// Everything that has or had a place in the machine: what was started, what was plugged in, and last the new disk.
fn everything(started: Domain, now: &Domain, disk: Disk) -> Domain {
    let mut all = started;
    for plugged in &now.devices.disks {
        if !all.devices.disks.iter().any(|known| known.target == plugged.target) {
            all.devices.disks.push(plugged.clone());
        }
    }
    all.devices.disks.retain(|known| known.target != disk.target);
    all.devices.disks.push(disk);
    all
}

/// Where a disk is that was planned: on a port, or behind the SCSI controller.
fn address(disk: Option<&Disk>, place: Option<(u8, u8)>) -> Option<String> {
    let unit = || {
        let disk = disk.filter(|disk| disk.bus == DiskBus::Scsi)?;
        disk.unit.or_else(|| target_place(&disk.target))
    };
    let drive = |unit| format!("<address type='drive' controller='0' bus='0' target='0' unit='{unit}'/>");
    place.map(|(bus, slot)| pci_address(bus, slot)).or_else(|| unit().map(drive))
}

/// The address of a device on a port.
pub(super) fn pci_address(bus: u8, slot: u8) -> String {
    format!("<address type='pci' domain='0x0000' bus='{bus:#04x}' slot='{slot:#04x}' function='0x0'/>")
}

/// A disk's XML with its place, so that it is the same whatever comes and goes after it.
fn placed(xml: &str, address: Option<String>) -> String {
    let (Some(address), Some(end)) = (address, xml.rfind("</disk>")) else { return xml.to_owned() };
    if xml.contains("<address") {
        return xml.to_owned();
    }
    let (before, after) = xml.split_at(end);
    format!("{before}{address}{after}")
}
