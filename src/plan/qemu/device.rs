//! Interfaces, random numbers, balloon and video.

use super::pci::{Fit, Plug};
use super::{Args, Guest, Object, chardev};
use crate::base::DomainUuid;
use crate::conf::domain::{
    Boot, BootDevice, DiskDevice, Domain, Interface, InterfaceBackend, InterfaceModel, Video, VideoModel,
};
use crate::conf::network;
use crate::plan::{PlanError, slots};

/// Which device the firmware tries when; from each device's own `<boot order>`, else from `<boot dev>`.
pub(super) struct BootOrder {
    disks: Vec<Option<u32>>,
    interfaces: Vec<Option<u32>>,
}

impl BootOrder {
    pub(super) fn of(domain: &Domain) -> Self {
        let devices = &domain.devices;
        let mut order = Self {
            disks: devices.disks.iter().map(|disk| disk.boot_order).collect(),
            interfaces: devices.interfaces.iter().map(|interface| interface.boot_order).collect(),
        };
        let own = order.disks.iter().chain(&order.interfaces).any(Option::is_some);
        let Boot::Devices(kinds) = &domain.os.boot else { return order };
        if own {
            return order;
        }
        let default = [BootDevice::Hd];
        let kinds = if kinds.is_empty() { &default[..] } else { kinds };
        for (index, kind) in (1..).zip(kinds) {
            let disk = |device| devices.disks.iter().position(|disk| disk.device == device);
            let place = match kind {
                BootDevice::Cdrom => disk(DiskDevice::Cdrom).and_then(|at| order.disks.get_mut(at)),
                BootDevice::Hd => disk(DiskDevice::Disk).and_then(|at| order.disks.get_mut(at)),
                BootDevice::Network => order.interfaces.first_mut(),
            };
            if let Some(place) = place {
                *place = Some(index);
            }
        }
        order
    }

    pub(super) fn disk(&self, at: usize) -> Option<u32> {
        self.disks.get(at).copied().flatten()
    }

    fn interface(&self, at: usize) -> Option<u32> {
        self.interfaces.get(at).copied().flatten()
    }
}

pub(super) fn add(args: &mut Args, guest: &Guest<'_>, boot: &BootOrder) -> Result<(), PlanError> {
    let devices = &guest.domain.devices;
    for (index, interface) in devices.interfaces.iter().enumerate() {
        net(args, guest.uuid, interface, index, boot.interface(index))?;
    }
    chardev::add(args, guest.domain)?;
    for (index, rng) in devices.rngs.iter().enumerate() {
        args.json("-object", Object::new("qom-type", "rng-builtin").with("id", format!("objrng{index}")));
        let object = Object::new("driver", "virtio-rng-pci")
            .with("rng", format!("objrng{index}"))
            .with("id", format!("rng{index}"))
            .maybe("max-bytes", rng.rate.map(|(bytes, _)| bytes))
            .maybe("period", rng.rate.map(|(_, period)| period));
        args.pci(object, Plug::new(format!("rng{index}"), rng.address, Fit::Express, 0));
    }
    if let Some(balloon) = devices.memballoon {
        let object = Object::new("driver", "virtio-balloon-pci")
            .with("id", "balloon0")
            .maybe("deflate-on-oom", balloon.autodeflate)
            .maybe("free-page-reporting", balloon.free_page_reporting)
            .maybe("guest-stats-polling-interval", balloon.period);
        args.pci(object, Plug::new("balloon0", balloon.address, Fit::Express, 0));
    }
    video(args, guest.domain)
}

fn net(
    args: &mut Args,
    uuid: DomainUuid,
    interface: &Interface,
    index: usize,
    boot: Option<u32>,
) -> Result<(), PlanError> {
    let fd = args.fd(slots::net(index)?).to_string();
    let id = format!("hostnet{index}");
    let backend = match &interface.backend {
        InterfaceBackend::Bridge { .. } | InterfaceBackend::Tap(_) => {
            Object::new("type", "tap").with("id", id.clone()).with("fd", fd)
        }
        InterfaceBackend::DefaultNetwork { .. } | InterfaceBackend::User => Object::new("type", "stream")
            .with("id", id.clone())
            .with("server", false)
            .nested("addr", Object::new("type", "fd").with("str", fd)),
    };
    args.json("-netdev", backend);
    let driver = match interface.model {
        InterfaceModel::E1000 => "e1000",
        InterfaceModel::E1000e => "e1000e",
        InterfaceModel::Rtl8139 => "rtl8139",
        InterfaceModel::Virtio => "virtio-net-pci",
    };
    let object = Object::new("driver", driver)
        .with("netdev", id)
        .with("id", format!("net{index}"))
        .with("mac", network::text(mac(uuid, interface, index)))
        .maybe("host_mtu", interface.mtu.filter(|_| interface.model == InterfaceModel::Virtio))
        .maybe("bootindex", boot);
    // Without network boot the option ROM is one file less to read.
    let object = if boot.is_none() { object.with("romfile", "") } else { object };
    let fit = match interface.model {
        InterfaceModel::E1000 | InterfaceModel::Rtl8139 => Fit::Fixed,
        InterfaceModel::E1000e | InterfaceModel::Virtio => Fit::Express,
    };
    args.pci(object, Plug::new(format!("net{index}"), interface.address, fit, interface.line));
    Ok(())
}

/// The definition's address, or one that stays over restarts.
pub(in crate::plan) fn mac(uuid: DomainUuid, interface: &Interface, index: usize) -> [u8; 6] {
    interface.mac.unwrap_or_else(|| network::mac(uuid, index))
}

/// As libvirt: a graphical console without a `<video>` gets one.
fn video(args: &mut Args, domain: &Domain) -> Result<(), PlanError> {
    let devices = &domain.devices;
    let default = [Video::new(VideoModel::Vga)];
    let graphics = !devices.vncs.is_empty() || devices.spice.is_some();
    let none = devices.videos.is_empty() && graphics;
    let videos = if none { &default[..] } else { &devices.videos };
    let shown = videos.iter().filter(|video| video.model != VideoModel::None);
    for (index, video) in shown.enumerate() {
        let id = format!("video{index}");
        let driver = match (video.model, index) {
            (VideoModel::Bochs, _) => "bochs-display",
            (VideoModel::Cirrus, _) => "cirrus-vga",
            (VideoModel::Qxl, 0) => "qxl-vga",
            (VideoModel::Qxl, _) => "qxl",
            (VideoModel::Vga, 0) => "VGA",
            (VideoModel::Vga, _) => "secondary-vga",
            (_, 0) => "virtio-vga",
            _ => "virtio-gpu-pci",
        };
        let heads = (video.heads > 1).then_some(video.heads);
        let mebibytes = |kib: Option<u32>| kib.map(|kib| kib / 1024);
        let bytes = |kib: Option<u32>| kib.map(|kib| u64::from(kib) * 1024);
        let object = Object::new("driver", driver).with("id", id.clone()).maybe("max_outputs", heads);
        let object = match video.model {
            VideoModel::Bochs => object.maybe("vgamem", bytes(video.vram)),
            VideoModel::Qxl => object
                .maybe("ram_size", bytes(video.ram))
                .maybe("vram_size", bytes(video.vram))
                .maybe("vgamem_mb", mebibytes(video.vgamem)),
            // It has no other sizes than 4, 8 and 16 MiB.
            VideoModel::Cirrus => {
                object.maybe("vgamem_mb", mebibytes(video.vram).map(|size| size.clamp(4, 16)))
            }
            _ => object.maybe("vgamem_mb", mebibytes(video.vram)),
        };
        args.pci(object, Plug::new(id, video.address, Fit::Fixed, video.line));
    }
    Ok(())
}
