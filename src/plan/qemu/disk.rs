//! Disks: a file node and a format node for each layer, and the device over the top one.

use super::device::BootOrder;
use super::machine::{Board, board};
use super::pci::{Fit, Plug};
use super::usb::Ports;
use super::{Args, Guest, Object};
use crate::conf::domain::{
    CacheMode, ControllerModel, Disk, DiskBus, DiskDevice, Domain, ImageFormat, IoMode, target_place,
};
use crate::plan::chain::{Chain, Layer};
use crate::plan::{PlanError, slots};
use crate::privsep::op::ImageKind;

/// QEMU's names of nodes have at most 31 characters; with `-199-storage` this leaves 19.
const TARGET_MAX: usize = 16;

pub(super) fn add(
    args: &mut Args,
    guest: &Guest<'_>,
    boot: &BootOrder,
    ports: &mut Ports,
) -> Result<(), PlanError> {
    let disks = &guest.domain.devices.disks;
    controllers(args, guest)?;
    for (index, disk) in disks.iter().enumerate() {
        let chain = guest.chains.get(index).filter(|chain| chain.target == disk.target).ok_or_else(|| {
            PlanError::definition(
                format!("disk {}", disk.target),
                "its layers were not read",
                "this is a defect of svirt; please report it",
            )
        })?;
        check(disk)?;
        nodes(args, disk, chain)?;
        let top = (!chain.layers.is_empty()).then(|| node(&disk.target, 0, "format"));
        let object = place(guest, disk, index, ports)?
            .maybe("drive", top)
            .maybe("bootindex", boot.disk(index))
            .maybe("serial", serial(disk));
        device(args, guest, disk, index, object);
    }
    Ok(())
}

fn check(disk: &Disk) -> Result<(), PlanError> {
    let object = || format!("disk {} (line {})", disk.target, disk.line);
    if disk.target.len() > TARGET_MAX || !disk.target.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(PlanError::definition(
            object(),
            "its target is no short name of letters and digits",
            "write <target dev='vda'>",
        ));
    }
    if disk.io == Some(IoMode::Native) && !is_direct(disk) {
        return Err(PlanError::definition(
            object(),
            "io='native' needs a cache mode without the page cache",
            "write cache='none' or cache='directsync'",
        ));
    }
    if disk.device == DiskDevice::Disk && disk.readonly && matches!(disk.bus, DiskBus::Ide | DiskBus::Sata) {
        return Err(PlanError::definition(
            object(),
            "an IDE or SATA disk cannot be read-only in QEMU",
            "use the virtio or scsi bus, or device='cdrom'",
        ));
    }
    if disk.device == DiskDevice::Cdrom && matches!(disk.bus, DiskBus::Virtio | DiskBus::Nvme | DiskBus::Usb)
    {
        return Err(PlanError::definition(
            object(),
            "a cdrom sits on the sata, scsi or ide bus",
            "write bus='sata'",
        ));
    }
    Ok(())
}

/// Whether the disk's descriptors bypass the page cache; QEMU 10 refuses a descriptor opened otherwise.
pub(in crate::plan) fn is_direct(disk: &Disk) -> bool {
    matches!(disk.cache, CacheMode::None | CacheMode::Directsync)
}

/// Whether the guest may write to the disk.
pub(in crate::plan) fn is_writable(disk: &Disk) -> bool {
    !disk.readonly && disk.device == DiskDevice::Disk
}

fn node(target: &str, depth: usize, part: &str) -> String {
    format!("{target}-{depth}-{part}")
}

/// From the bottom up: a node must be there before another one names it.
fn nodes(args: &mut Args, disk: &Disk, chain: &Chain) -> Result<(), PlanError> {
    for (depth, layer) in chain.layers.iter().enumerate().rev() {
        let file = args.fdset(slots::layer(&disk.target, depth)?);
        args.json("-blockdev", file_node(disk, layer, depth, &file));
        args.json("-blockdev", format_node(disk, layer, depth, depth + 1 < chain.layers.len()));
    }
    Ok(())
}

/// QEMU's defaults are left out: two hundred layers must fit into one command line.
fn with_cache(disk: &Disk, object: Object) -> Object {
    if !is_direct(disk) && disk.cache != CacheMode::Unsafe {
        return object;
    }
    let cache = Object::new("direct", is_direct(disk)).with("no-flush", disk.cache == CacheMode::Unsafe);
    object.nested("cache", cache)
}

fn file_node(disk: &Disk, layer: &Layer, depth: usize, file: &str) -> Object {
    let driver = if layer.kind == ImageKind::Block { "host_device" } else { "file" };
    let aio = match disk.io {
        Some(IoMode::IoUring) => Some("io_uring"),
        Some(IoMode::Native) => Some("native"),
        Some(IoMode::Threads) => Some("threads"),
        None => None,
    };
    // svirt holds the locks: QEMU's own break on descriptions that it shares with a set, and can abort it.
    let object = Object::new("driver", driver)
        .with("node-name", node(&disk.target, depth, "storage"))
        .with("filename", file)
        .with("locking", "off")
        .maybe("aio", aio);
    let object = match (depth, is_writable(disk)) {
        (0, true) => object.with("read-only", false),
        (0, false) => object.with("read-only", true),
        // A job that commits into this layer may get a writable descriptor later.
        _ => object.with("auto-read-only", true),
    };
    let object = if disk.discard { object.with("discard", "unmap") } else { object };
    with_cache(disk, object)
}

fn format_node(disk: &Disk, layer: &Layer, depth: usize, has_backing: bool) -> Object {
    let driver = match layer.format {
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Raw => "raw",
    };
    let object = Object::new("driver", driver)
        .with("node-name", node(&disk.target, depth, "format"))
        .with("read-only", depth > 0 || !is_writable(disk))
        .with("file", node(&disk.target, depth, "storage"));
    let object = match layer.format {
        // Always named, or null: without it QEMU follows the path in the header.
        ImageFormat::Qcow2 => {
            object.with("backing", has_backing.then(|| node(&disk.target, depth + 1, "format")))
        }
        ImageFormat::Raw => object,
    };
    let object = if disk.discard { object.with("discard", "unmap") } else { object };
    with_cache(disk, object)
}

fn controllers(args: &mut Args, guest: &Guest<'_>) -> Result<(), PlanError> {
    let devices = &guest.domain.devices;
    let named = devices.controllers.iter().find(|controller| controller.model == ControllerModel::Sata);
    let needed = named.is_some() || devices.disks.iter().any(|disk| disk.bus == DiskBus::Sata);
    if needed && board(&guest.domain.os.machine)? == Board::I440fx {
        let object = Object::new("driver", "ahci").with("id", "sata0");
        let (address, line) = named.map_or((None, 0), |controller| (controller.address, controller.line));
        args.pci(object, Plug::new("sata0", address, Fit::Fixed, line));
    }
    Ok(())
}

/// The driver, the bus and the alias of a disk's device.
fn place(guest: &Guest<'_>, disk: &Disk, index: usize, ports: &mut Ports) -> Result<Object, PlanError> {
    let cdrom = disk.device == DiskDevice::Cdrom;
    let refuse = |rule: &str, remedy: &str| {
        PlanError::definition(format!("disk {} (line {})", disk.target, disk.line), rule, remedy)
    };
    let unit = || {
        disk.unit.or_else(|| target_place(&disk.target)).ok_or_else(|| {
            refuse("its target does not tell a place on the bus", "write a target such as sda or vda")
        })
    };
    let board = board(&guest.domain.os.machine)?;
    Ok(match disk.bus {
        DiskBus::Virtio => Object::new("driver", "virtio-blk-pci")
            .with("id", numbered(guest, index))
            .maybe("num-queues", queues(guest.domain)),
        DiskBus::Nvme => Object::new("driver", "nvme").with("id", numbered(guest, index)),
        DiskBus::Usb => {
            let id = numbered(guest, index);
            let port = ports.next(disk.port, &id, disk.line)?;
            Object::new("driver", "usb-storage").with("id", id).with("bus", "usb.0").with("port", port)
        }
        DiskBus::Scsi => {
            let unit = unit()?;
            Object::new("driver", if cdrom { "scsi-cd" } else { "scsi-hd" })
                .with("bus", "scsi0.0")
                .with("channel", 0)
                .with("scsi-id", 0)
                .with("lun", unit)
                .with("id", numbered(guest, index))
        }
        DiskBus::Sata => {
            let unit = unit()?;
            if unit > 5 {
                return Err(refuse(
                    "a SATA controller has six ports, sda to sdf",
                    "use the virtio or scsi bus",
                ));
            }
            let bus = if board == Board::Q35 { format!("ide.{unit}") } else { format!("sata0.{unit}") };
            Object::new("driver", if cdrom { "ide-cd" } else { "ide-hd" })
                .with("bus", bus)
                .with("id", numbered(guest, index))
        }
        DiskBus::Ide => {
            let unit = unit()?;
            if board == Board::Q35 {
                return Err(refuse("a q35 machine has no IDE bus", "write bus='sata'"));
            }
            if unit > 3 {
                return Err(refuse(
                    "an IDE controller has four places, hda to hdd",
                    "use the virtio or scsi bus",
                ));
            }
            Object::new("driver", if cdrom { "ide-cd" } else { "ide-hd" })
                .with("bus", format!("ide.{}", unit / 2))
                .with("unit", unit % 2)
                .with("id", numbered(guest, index))
        }
    })
}

/// How many queues a virtio disk or its controller has: one for each virtual CPU that there may be. QEMU would count those
/// that are there at its start, and a guest that was saved once more had come could never be restored.
pub(super) fn queues(domain: &Domain) -> Option<u32> {
    (domain.vcpus > 1).then_some(domain.vcpus)
}

/// What the definition says, or for an NVMe controller, which must have one, the target's name.
fn serial(disk: &Disk) -> Option<String> {
    let named = || (disk.bus == DiskBus::Nvme).then(|| disk.target.clone());
    disk.serial.clone().or_else(named)
}

fn device(args: &mut Args, guest: &Guest<'_>, disk: &Disk, index: usize, object: Object) {
    let object = if disk.device == DiskDevice::Disk {
        let through = matches!(disk.cache, CacheMode::Writethrough | CacheMode::Directsync);
        let object = object.with("write-cache", if through { "off" } else { "on" });
        if disk.shareable { object.with("share-rw", true) } else { object }
    } else {
        object
    };
    match disk.bus {
        DiskBus::Virtio | DiskBus::Nvme => {
            let id = numbered(guest, index);
            args.pci(object, Plug::new(id, disk.address, Fit::Express, disk.line));
        }
        _ => args.json("-device", object),
    }
}

/// libvirt's alias of a disk, which is also QEMU's id of the device; by its target, so that another disk's going
/// or coming changes none.
pub(in crate::plan) fn alias(disks: &[Disk], index: usize) -> Option<String> {
    let disk = disks.get(index)?;
    let before = || disks.iter().take(index).filter(|other| other.bus == disk.bus);
    let place = disk.unit.or_else(|| target_place(&disk.target));
    let number = match target_place(&disk.target) {
        // Two targets of one place, such as vda and sda, both on virtio.
        Some(place) if before().any(|other| target_place(&other.target) == Some(place)) => {
            format!("-{}", disk.target)
        }
        Some(place) => place.to_string(),
        None if disks.iter().any(|other| other.bus == disk.bus && target_place(&other.target).is_some()) => {
            format!("-{}", disk.target)
        }
        None => before().count().to_string(),
    };
    Some(match (disk.bus, place) {
        (DiskBus::Nvme, _) => format!("nvme{number}"),
        (DiskBus::Usb, _) => format!("usb-disk{number}"),
        (DiskBus::Virtio, _) => format!("virtio-disk{number}"),
        (DiskBus::Scsi, place) => format!("scsi0-0-0-{}", place?),
        (DiskBus::Sata, place) => format!("sata0-0-{}", place?),
        (DiskBus::Ide, place) => format!("ide0-{}-{}", place? / 2, place? % 2),
    })
}

fn numbered(guest: &Guest<'_>, index: usize) -> String {
    // Only disks whose place is needed have none, and that was refused before.
    alias(&guest.domain.devices.disks, index).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::testing;

    #[test]
    fn no_two_disks_of_a_bus_have_one_alias() {
        let disk = |bus, target: &str| Disk { bus, ..testing::disk(target, "/a", ImageFormat::Raw) };
        for targets in
            [["nvme0n1", "vda", "vdb"], ["vda", "sda", "nvme0n1"], ["nvme1n1", "nvme0n1", "nvme2n1"]]
        {
            let disks = targets.map(|target| disk(DiskBus::Nvme, target));
            let all: std::collections::BTreeSet<_> = (0..3).map(|at| alias(&disks, at).unwrap()).collect();
            assert_eq!(all.len(), 3, "{all:?}");
        }
    }
}
