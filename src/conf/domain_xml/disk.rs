//! `<disk>`: the guest's side, and the chain of images below it.

use super::address;
use super::scalar::{alias, boot_order, number, path_attribute};
use super::seclabel::device_labels;
use super::view::{Read, View};
use crate::conf::domain::{
    Backing, CacheMode, Disk, DiskBus, DiskDevice, DiskSource, ImageFormat, IoMode, PciAddress, SourceKind,
    UsbPort,
};
use crate::privsep::throttle::{DISK_LIMITS, DiskTuning};

/// The most layers of one disk in a definition, the top one among them.
const MAX_LAYERS: usize = 200;

const KINDS: &[(&str, SourceKind)] = &[("block", SourceKind::Block), ("file", SourceKind::File)];
const FORMATS: &[(&str, ImageFormat)] = &[("qcow2", ImageFormat::Qcow2), ("raw", ImageFormat::Raw)];

/// All `<disk>`s.
pub(super) fn disks(devices: View<'_>) -> Read<Vec<Disk>> {
    let mut disks: Vec<Disk> = Vec::new();
    for view in devices.all("disk") {
        let disk = disk(view)?;
        if let Some(first) = disks.iter().find(|other| other.target == disk.target) {
            return Err(view.duplicate(format!("target {}", disk.target), first.line));
        }
        let group = disk.tuning.group.as_deref();
        if group.is_some() && disks.iter().any(|other| other.tuning.group.as_deref() == group) {
            // Each of them would change what the others may do.
            return Err(
                view.unsupported(format!("several disks in the group '{}'", group.unwrap_or_default()))
            );
        }
        disks.push(disk);
    }
    Ok(disks)
}

fn disk(view: View<'_>) -> Read<Disk> {
    view.only(
        &["device", "type"],
        &[
            "address",
            "alias",
            "backingStore",
            "boot",
            "driver",
            "iotune",
            "readonly",
            "serial",
            "shareable",
            "source",
            "target",
        ],
    )?;
    alias(view)?;
    let devices = [("cdrom", DiskDevice::Cdrom), ("disk", DiskDevice::Disk)];
    let device = view.word("device", &devices)?.unwrap_or(DiskDevice::Disk);
    let driver = driver(view)?;
    let source = source(view, device, driver.format)?;
    let (target, bus) = target(view)?;
    let (address, unit, port) = place(view, bus)?;
    let disk = Disk {
        device,
        source,
        target,
        bus,
        readonly: view.flag("readonly")? || device == DiskDevice::Cdrom,
        shareable: view.flag("shareable")?,
        cache: driver.cache,
        io: driver.io,
        discard: driver.discard,
        serial: serial(view, bus)?,
        boot_order: boot_order(view)?,
        address,
        unit,
        port,
        tuning: tuning(view)?,
        line: view.line(),
    };
    check(view, &disk, driver.format)?;
    Ok(disk)
}

/// `<iotune>`: what the disk may do.
fn tuning(disk: View<'_>) -> Read<DiskTuning> {
    let mut tuning = DiskTuning::default();
    let Some(view) = disk.one("iotune")? else { return Ok(tuning) };
    let names: Vec<&str> = DISK_LIMITS.iter().map(|(name, _)| *name).chain(["group_name"]).collect();
    view.only(&[], &names)?;
    for (limit, (name, _)) in tuning.limits.iter_mut().zip(DISK_LIMITS) {
        let Some(one) = view.one(name)? else { continue };
        let text = one.leaf(&[])?;
        *limit = number(&text).ok_or_else(|| one.value(one.tag(), &text, "a number".to_owned()))?;
    }
    if let Some(group) = view.one("group_name")? {
        tuning.group = Some(group.leaf(&[])?.into_owned()).filter(|group| !group.is_empty());
    }
    tuning
        .check()
        .and_then(|()| tuning.check_bursts())
        .map_err(|rule| view.contradiction(rule, "change the limits, or take them out"))?;
    Ok(tuning)
}

/// The `<address>` that fits the bus.
fn place(view: View<'_>, bus: DiskBus) -> Read<(Option<PciAddress>, Option<u32>, Option<UsbPort>)> {
    Ok(match bus {
        DiskBus::Virtio | DiskBus::Nvme => (address::pci(view)?, None, None),
        DiskBus::Usb => (None, None, address::usb(view)?),
        DiskBus::Ide => {
            let channel = address::channel(view)?;
            let unit = address::drive(view)?.map(|unit| channel.saturating_mul(2).saturating_add(unit));
            (None, unit, None)
        }
        DiskBus::Sata | DiskBus::Scsi => (None, address::drive(view)?, None),
    })
}

/// libvirt's rules between the parts of one disk.
fn check(view: View<'_>, disk: &Disk, format: ImageFormat) -> Read<()> {
    if disk.shareable && format != ImageFormat::Raw {
        return Err(view.contradiction(
            "a <shareable/> disk must be raw: nobody coordinates the metadata of other formats",
            "use a raw image, or remove <shareable/>",
        ));
    }
    if disk.io == Some(IoMode::Native) && !matches!(disk.cache, CacheMode::Directsync | CacheMode::None) {
        return Err(view.contradiction(
            "io='native' needs cache='none' or cache='directsync'",
            "add cache='none' to <driver>",
        ));
    }
    if disk.device == DiskDevice::Cdrom && matches!(disk.bus, DiskBus::Virtio | DiskBus::Nvme) {
        return Err(view.contradiction("a cdrom cannot be on this bus", "use bus='sata' or bus='scsi'"));
    }
    Ok(())
}

/// `<driver>` of a disk.
struct Driver {
    format: ImageFormat,
    cache: CacheMode,
    io: Option<IoMode>,
    discard: bool,
}

fn driver(disk: View<'_>) -> Read<Driver> {
    let default = Driver { format: ImageFormat::Raw, cache: CacheMode::Default, io: None, discard: false };
    let Some(view) = disk.one("driver")? else { return Ok(default) };
    view.only(&["cache", "discard", "io", "name", "type"], &[])?;
    view.fixed("name", &["qemu"])?;
    let caches = [
        ("default", CacheMode::Default),
        ("directsync", CacheMode::Directsync),
        ("none", CacheMode::None),
        ("unsafe", CacheMode::Unsafe),
        ("writeback", CacheMode::Writeback),
        ("writethrough", CacheMode::Writethrough),
    ];
    let modes = [("io_uring", IoMode::IoUring), ("native", IoMode::Native), ("threads", IoMode::Threads)];
    Ok(Driver {
        format: view.word("type", FORMATS)?.unwrap_or(default.format),
        cache: view.word("cache", &caches)?.unwrap_or(default.cache),
        io: view.word("io", &modes)?,
        discard: view.word("discard", &[("ignore", false), ("unmap", true)])?.unwrap_or(false),
    })
}

/// The top image with everything that the definition says below it.
fn source(disk: View<'_>, device: DiskDevice, format: ImageFormat) -> Read<Option<DiskSource>> {
    let kind = disk.word("type", KINDS)?.unwrap_or(SourceKind::File);
    let element = disk.one("source")?;
    // An empty <source/> of a cdrom is an empty tray.
    let empty = |view: &View<'_>| view.attribute("file").is_none() && view.attribute("dev").is_none();
    match element.filter(|view| device == DiskDevice::Disk || !empty(view)) {
        Some(view) => {
            let mut top = layer(view, kind, format)?;
            top.backing = backing(disk, format)?;
            Ok(Some(top))
        }
        None if device == DiskDevice::Cdrom => {
            if let Some(view) = element {
                view.only(&[], &[])?;
            }
            match disk.one("backingStore")? {
                Some(stray) => {
                    Err(stray
                        .contradiction("a <backingStore> below no <source>", "remove the <backingStore>"))
                }
                None => Ok(None),
            }
        }
        None => Err(disk.missing("<source> of <disk>")),
    }
}

/// One `<source>`, with nothing said of what is below.
fn layer(view: View<'_>, kind: SourceKind, format: ImageFormat) -> Read<DiskSource> {
    let name = match kind {
        SourceKind::Block => "dev",
        SourceKind::File => "file",
    };
    view.only(&[name, "index"], &["seclabel"])?;
    Ok(DiskSource {
        kind,
        path: path_attribute(view, name)?,
        format,
        backing: Backing::Unspecified,
        seclabels: device_labels(view)?,
    })
}

/// The chain of `<backingStore>`s, read downwards without recursion and joined upwards.
fn backing(disk: View<'_>, format: ImageFormat) -> Read<Backing> {
    let mut layers: Vec<DiskSource> = Vec::new();
    let mut at = disk.one("backingStore")?;
    let mut above = format;
    let mut lowest = Backing::Unspecified;
    while let Some(view) = at {
        view.only(&["index", "type"], &["backingStore", "format", "source"])?;
        let Some(source) = view.one("source")? else {
            terminator(view)?;
            lowest = Backing::None;
            break;
        };
        if above == ImageFormat::Raw {
            return Err(view.contradiction(
                "a raw image has nothing below it",
                "remove the <backingStore>, or say the format of the image above it",
            ));
        }
        if layers.len() + 1 >= MAX_LAYERS {
            return Err(view.unsupported(format!("more than {MAX_LAYERS} layers of one disk")));
        }
        let format = view.one("format")?.ok_or_else(|| view.missing("<format> of <backingStore>"))?;
        format.only(&["type"], &[])?;
        format.required("type")?;
        above = format.word("type", FORMATS)?.unwrap_or(ImageFormat::Raw);
        let kind = view.word("type", KINDS)?.unwrap_or(SourceKind::File);
        layers.push(layer(source, kind, above)?);
        at = view.one("backingStore")?;
    }
    Ok(layers.into_iter().rev().fold(lowest, |below, mut layer| {
        layer.backing = below;
        Backing::Layer(Box::new(layer))
    }))
}

/// `<backingStore/>` ends a chain and says nothing else.
fn terminator(view: View<'_>) -> Read<()> {
    if view.attribute("type").is_some() || view.one("format")?.is_some() {
        return Err(view.missing("<source> of <backingStore>"));
    }
    view.only(&["index"], &[])
}

/// The guest's name of the disk: two letters of the bus and one to three that count.
fn target(disk: View<'_>) -> Read<(String, DiskBus)> {
    let view = disk.one("target")?.ok_or_else(|| disk.missing("<target> of <disk>"))?;
    view.only(&["bus", "dev"], &[])?;
    let name = view.required("dev")?;
    let defaults = [("hd", DiskBus::Ide), ("sd", DiskBus::Scsi), ("vd", DiskBus::Virtio)];
    let default = defaults.iter().find_map(|(prefix, bus)| Some((name.strip_prefix(prefix)?, *bus)));
    let counted = default.filter(|(letters, _)| {
        (1..=3).contains(&letters.len()) && letters.bytes().all(|byte| byte.is_ascii_lowercase())
    });
    let number = name.strip_prefix("nvme").and_then(|rest| rest.strip_suffix("n1"));
    if number.is_some_and(|n| (1..=2).contains(&n.len()) && n.bytes().all(|byte| byte.is_ascii_digit())) {
        view.fixed("bus", &["nvme"])?;
        return Ok((name.to_owned(), DiskBus::Nvme));
    }
    let Some((_, default)) = counted else {
        return Err(view.value("attribute dev of <target>", name, "a name such as vda, sda, hda or nvme0n1"));
    };
    let buses = [
        ("ide", DiskBus::Ide),
        ("nvme", DiskBus::Nvme),
        ("sata", DiskBus::Sata),
        ("scsi", DiskBus::Scsi),
        ("usb", DiskBus::Usb),
        ("virtio", DiskBus::Virtio),
    ];
    Ok((name.to_owned(), view.word("bus", &buses)?.unwrap_or(default)))
}

/// The serial number that the guest reads: libvirt's characters, and no more than the bus carries.
fn serial(disk: View<'_>, bus: DiskBus) -> Read<Option<String>> {
    let Some(view) = disk.one("serial")? else { return Ok(None) };
    let text = view.leaf(&[])?;
    let longest = if bus == DiskBus::Scsi { 36 } else { 20 };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-. _".contains(&byte);
    if text.is_empty() || text.len() > longest || !text.bytes().all(allowed) {
        let expected = format!("1 to {longest} letters, digits, '+', '-', '.', '_' and spaces");
        return Err(view.value("<serial>", &text, expected));
    }
    Ok(Some(text.into_owned()))
}
