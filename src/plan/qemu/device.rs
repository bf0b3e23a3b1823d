//! Interfaces, consoles, random numbers, balloon and video.

use super::{Args, Guest, Object};
use crate::base::DomainUuid;
use crate::conf::domain::{
    Boot, BootDevice, CharDevice, CharTarget, DiskDevice, Domain, Interface, InterfaceBackend,
    InterfaceModel, VideoModel,
};
use crate::plan::{PlanError, slots};

/// An x86 board's serial ports.
const SERIAL_MAX: usize = 4;

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
    consoles(args, guest.domain)?;
    for (index, rng) in devices.rngs.iter().enumerate() {
        args.json("-object", Object::new("qom-type", "rng-builtin").with("id", format!("objrng{index}")));
        args.json(
            "-device",
            Object::new("driver", "virtio-rng-pci")
                .with("rng", format!("objrng{index}"))
                .with("id", format!("rng{index}"))
                .maybe("max-bytes", rng.rate.map(|(bytes, _)| bytes))
                .maybe("period", rng.rate.map(|(_, period)| period)),
        );
    }
    if let Some(balloon) = devices.memballoon {
        args.json(
            "-device",
            Object::new("driver", "virtio-balloon-pci")
                .with("id", "balloon0")
                .maybe("deflate-on-oom", balloon.autodeflate)
                .maybe("free-page-reporting", balloon.free_page_reporting),
        );
    }
    video(args, guest.domain);
    Ok(())
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
        InterfaceBackend::Tap(_) => Object::new("type", "tap").with("id", id.clone()).with("fd", fd),
        InterfaceBackend::User => Object::new("type", "stream")
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
        .with("mac", mac(uuid, interface, index))
        .maybe("bootindex", boot);
    // Without network boot the option ROM is one file less to read.
    let object = if boot.is_none() { object.with("romfile", "") } else { object };
    args.json("-device", object);
    Ok(())
}

/// The definition's address, or one made from uuid and position, so that it stays over restarts.
fn mac(uuid: DomainUuid, interface: &Interface, index: usize) -> String {
    let bytes = interface.mac.unwrap_or_else(|| {
        let (high, low) = uuid.0.as_u64_pair();
        let mixed = crate::security::mix(high ^ low.rotate_left(32), index as u64).to_be_bytes();
        let [a, b, c, ..] = mixed;
        [0x52, 0x54, 0x00, a, b, c]
    });
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// Every serial port and console with libvirt's alias, in the order of the definition.
pub(in crate::plan) fn ports(domain: &Domain) -> impl Iterator<Item = (String, &CharDevice)> {
    let named = |name: &'static str| move |(index, device)| (format!("{name}{index}"), device);
    let serials = domain.devices.serials.iter().enumerate().map(named("serial"));
    serials.chain(domain.devices.consoles.iter().enumerate().map(named("console")))
}

fn consoles(args: &mut Args, domain: &Domain) -> Result<(), PlanError> {
    let mut serial = 0;
    let mut controller = false;
    for (alias, port) in ports(domain) {
        let fd = args.fd(slots::console(&alias, "")?);
        args.pair("-chardev", format!("socket,id=char{alias},fd={fd}"));
        match port.target {
            CharTarget::IsaSerial if serial == SERIAL_MAX => {
                return Err(PlanError::definition(
                    format!("{alias} (line {})", port.line),
                    "a machine has at most four serial ports",
                    "use a console of type virtio",
                ));
            }
            CharTarget::IsaSerial => {
                args.json(
                    "-device",
                    Object::new("driver", "isa-serial")
                        .with("chardev", format!("char{alias}"))
                        .with("id", alias)
                        .with("index", serial),
                );
                serial += 1;
            }
            CharTarget::VirtioConsole => {
                if !controller {
                    args.json(
                        "-device",
                        Object::new("driver", "virtio-serial-pci").with("id", "virtio-serial0"),
                    );
                    controller = true;
                }
                args.json(
                    "-device",
                    Object::new("driver", "virtconsole")
                        .with("bus", "virtio-serial0.0")
                        .with("chardev", format!("char{alias}"))
                        .with("id", alias),
                );
            }
        }
    }
    Ok(())
}

/// As libvirt: a graphical console without a `<video>` gets one.
fn video(args: &mut Args, domain: &Domain) {
    let devices = &domain.devices;
    let default = [VideoModel::Vga];
    let videos =
        if devices.videos.is_empty() && !devices.vncs.is_empty() { &default[..] } else { &devices.videos };
    for (index, model) in videos.iter().filter(|model| **model != VideoModel::None).enumerate() {
        let driver = match (model, index) {
            (VideoModel::Vga, 0) => "VGA",
            (VideoModel::Vga, _) => "secondary-vga",
            (_, 0) => "virtio-vga",
            _ => "virtio-gpu-pci",
        };
        args.json("-device", Object::new("driver", driver).with("id", format!("video{index}")));
    }
}
