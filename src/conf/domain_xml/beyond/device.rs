//! Each kind of device that does not run, and what it would need.

use super::{Item, given, port, text};
use crate::conf::domain::BeyondWay;
use crate::conf::xml::walk::At;

const CONTAINERS: &str = "it is for containers, which svirt does not run";
const SOUND: &str = "whoever may open the host's sound hears what is said before it";
const WINDOW: &str = "a window belongs to a person's session, which a device model has no way into";
const LEGACY: &str = "without VFIO the device would write wherever it wants in the host's memory";

/// What an element asks of the host; empty for one that runs, or that the reader judges.
pub(super) fn items(element: At<'_>) -> Vec<Item> {
    let kind = element.attribute("type").unwrap_or_default();
    match element.name() {
        "hostdev" => hostdev(element, kind),
        "disk" => disk(element, kind),
        "interface" => interface(element, kind),
        "filesystem" => match (kind, element.one("source").and_then(|source| source.attribute("socket"))) {
            ("" | "mount", None) => Vec::new(),
            ("" | "mount", Some(socket)) => Item::at(Some(socket.to_owned()), BeyondWay::Connected),
            _ => Item::bare(BeyondWay::Refused(CONTAINERS)),
        },
        "serial" | "parallel" | "console" | "channel" => port::port(element),
        "redirdev" if kind != "spicevmc" => port::endpoint(element, kind),
        "smartcard" => smartcard(element, kind),
        "rng" => rng(element),
        "tpm" => tpm(element),
        "input" => match kind {
            "passthrough" => Item::at(given(element.one("source"), "evdev"), BeyondWay::Node),
            "evdev" => Item::at(given(element.one("source"), "dev"), BeyondWay::Node),
            _ => Vec::new(),
        },
        "memory" => memory(element),
        "shmem" => shmem(element),
        "graphics" => match kind {
            "egl-headless" => render_node(element.one("gl")),
            "dbus" => Item::at(given(Some(element), "address"), BeyondWay::Connected),
            "rdp" | "sdl" | "desktop" => Item::bare(BeyondWay::Refused(WINDOW)),
            _ => Vec::new(),
        },
        "audio" if !matches!(kind, "none" | "spice") => Item::bare(BeyondWay::Refused(SOUND)),
        "pstore" => Item::at(element.one("path").and_then(text), BeyondWay::File),
        "lease" => Item::bare(BeyondWay::Refused("svirt holds the locks of images itself")),
        "panic" if matches!(element.attribute("model"), None | Some("isa" | "pvpanic")) => Vec::new(),
        "panic" | "iommu" | "hub" | "crypto" | "nvram" => Item::bare(BeyondWay::Nothing),
        _ => Vec::new(),
    }
}

/// What inside of a device that runs does not.
pub(super) fn parts(element: At<'_>) -> Vec<(At<'_>, Vec<Item>)> {
    let mut parts = Vec::new();
    let reservations = element.one("source").and_then(|source| source.one("reservations"));
    if let Some(reservations) = reservations.filter(|_| element.name() == "disk") {
        let path = given(reservations.one("source"), "path");
        parts.push((reservations, vec![Item::new("its reservations", path, BeyondWay::Connected)]));
    }
    let gl = element.one("gl").filter(|gl| gl.attribute("enable") == Some("yes"));
    if let Some(gl) = gl.filter(|_| element.name() == "graphics") {
        parts.push((gl, render_node(Some(gl))));
    }
    parts
}

fn render_node(gl: Option<At<'_>>) -> Vec<Item> {
    vec![Item::new("its render node", given(gl, "rendernode"), BeyondWay::Public)]
}

/// The group of a device, and what makes a container of groups.
fn vfio(what: String) -> Vec<Item> {
    vec![
        Item::new(format!("{what}, its group"), None, BeyondWay::Node),
        Item::new("VFIO itself", Some("/dev/vfio/vfio".into()), BeyondWay::Public),
    ]
}

fn pci(address: Option<At<'_>>) -> String {
    let part = |name: &'static str| {
        let text = given(address, name).unwrap_or_default();
        u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_default()
    };
    format!("pci {:04x}:{:02x}:{:02x}.{:x}", part("domain"), part("bus"), part("slot"), part("function"))
}

fn usb(source: Option<At<'_>>) -> Item {
    let address = source.and_then(|source| source.one("address"));
    let number = |name| given(address, name).and_then(|text| text.parse::<u32>().ok());
    if let (Some(bus), Some(device)) = (number("bus"), number("device")) {
        let path = format!("/dev/bus/usb/{bus:03}/{device:03}");
        return Item::new(format!("usb {bus}.{device}"), Some(path), BeyondWay::Node);
    }
    let id = |name| given(source.and_then(|source| source.one(name)), "id").unwrap_or_default();
    let plain = |text: String| text.trim_start_matches("0x").to_owned();
    Item::new(format!("usb {}:{}", plain(id("vendor")), plain(id("product"))), None, BeyondWay::Node)
}

fn hostdev(element: At<'_>, kind: &str) -> Vec<Item> {
    let source = element.one("source");
    let address = source.and_then(|source| source.one("address"));
    if element.attribute("mode") == Some("capabilities") {
        let inside = source.and_then(|source| source.elements().next());
        return Item::at(inside.and_then(text), BeyondWay::Refused(CONTAINERS));
    }
    match kind {
        "usb" => vec![usb(source)],
        "pci" => match given(element.one("driver"), "name").as_deref() {
            Some("kvm" | "xen") => vec![Item::new(pci(address), None, BeyondWay::Refused(LEGACY))],
            _ => vfio(pci(address)),
        },
        "mdev" => vfio(format!("mdev {}", given(address, "uuid").unwrap_or_default())),
        "scsi" if given(source, "protocol").as_deref() == Some("iscsi") => {
            vec![Item::new("scsi over the network", None, BeyondWay::Network)]
        }
        "scsi" => {
            let adapter = given(source.and_then(|source| source.one("adapter")), "name").unwrap_or_default();
            let part = |name| given(address, name).unwrap_or_default();
            let what = format!("scsi {adapter}:{}:{}:{}", part("bus"), part("target"), part("unit"));
            vec![Item::new(what, None, BeyondWay::Descriptor)]
        }
        "scsi_host" => vec![Item::new("vhost-scsi", Some("/dev/vhost-scsi".into()), BeyondWay::Handed)],
        _ => Item::bare(BeyondWay::Refused(CONTAINERS)),
    }
}

fn disk(element: At<'_>, kind: &str) -> Vec<Item> {
    let source = element.one("source");
    match kind {
        "network" => Item::bare(BeyondWay::Network),
        "nvme" => vfio(pci(source.and_then(|source| source.one("address")))),
        "vhostuser" => Item::at(given(source, "path"), BeyondWay::Connected),
        "vhostvdpa" => Item::at(given(source, "dev"), BeyondWay::Descriptor),
        "dir" => {
            let rule = "QEMU would walk through a directory by name: use a <filesystem>";
            Item::at(given(source, "dir"), BeyondWay::Refused(rule))
        }
        "volume" => Item::bare(BeyondWay::Descriptor),
        _ if matches!(element.attribute("device"), Some("floppy" | "lun")) => {
            Item::at(given(source, "file").or(given(source, "dev")), BeyondWay::Descriptor)
        }
        _ => Vec::new(),
    }
}

fn interface(element: At<'_>, kind: &str) -> Vec<Item> {
    let source = element.one("source");
    match kind {
        "vhostuser" => Item::at(given(source, "path"), BeyondWay::Connected),
        "vdpa" => Item::at(given(source, "dev"), BeyondWay::Descriptor),
        "hostdev" => vfio(pci(source.and_then(|source| source.one("address")))),
        "direct" => vec![Item::new("a macvtap", None, BeyondWay::Handed)],
        "network" if given(source, "network").as_deref() != Some("default") => Item::bare(BeyondWay::Handed),
        "ethernet" if given(element.one("target"), "managed").as_deref() != Some("no") => {
            Item::bare(BeyondWay::Handed)
        }
        "server" | "client" | "mcast" | "udp" => Item::bare(BeyondWay::Network),
        "internal" | "null" | "vds" => Item::bare(BeyondWay::Nothing),
        _ => Vec::new(),
    }
}

fn smartcard(element: At<'_>, kind: &str) -> Vec<Item> {
    match element.attribute("mode") {
        Some("passthrough") => port::endpoint(element, kind),
        Some("host-certificates") => {
            let database = element.one("database").and_then(text);
            Item::at(Some(database.unwrap_or_else(|| "/etc/pki/nssdb".into())), BeyondWay::File)
        }
        _ => Item::bare(BeyondWay::Nothing),
    }
}

fn rng(element: At<'_>) -> Vec<Item> {
    let Some(backend) = element.one("backend") else { return Vec::new() };
    match backend.attribute("model") {
        Some("egd") => port::endpoint(backend, backend.attribute("type").unwrap_or_default()),
        Some("random") => match text(backend) {
            Some(path) if !matches!(path.as_str(), "/dev/random" | "/dev/urandom") => {
                Item::at(Some(path), BeyondWay::Handed)
            }
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn tpm(element: At<'_>) -> Vec<Item> {
    let Some(backend) = element.one("backend") else { return Vec::new() };
    match backend.attribute("type") {
        Some("passthrough") => {
            let path = given(backend.one("device"), "path").unwrap_or_else(|| "/dev/tpm0".into());
            let name = path.rsplit('/').next().unwrap_or_default();
            let cancel = format!("/sys/class/tpm/{name}/device/cancel");
            vec![
                Item::new("", Some(path), BeyondWay::Descriptor),
                Item::new("to cancel its commands", Some(cancel), BeyondWay::Descriptor),
            ]
        }
        Some("external") => Item::at(given(backend.one("source"), "path"), BeyondWay::Connected),
        _ => Vec::new(),
    }
}

fn memory(element: At<'_>) -> Vec<Item> {
    match element.attribute("model") {
        Some("nvdimm" | "virtio-pmem") => {
            let path = element.one("source").and_then(|source| source.one("path"));
            Item::at(path.and_then(text), BeyondWay::File)
        }
        Some("sgx-epc") => vec![
            Item::new("enclave pages", Some("/dev/sgx_vepc".into()), BeyondWay::Public),
            Item::new("provisioning", Some("/dev/sgx_provision".into()), BeyondWay::Public),
        ],
        _ => Item::bare(BeyondWay::Nothing),
    }
}

fn shmem(element: At<'_>) -> Vec<Item> {
    match element.one("model").and_then(|model| model.attribute("type")) {
        Some("ivshmem-plain") => Vec::new(),
        Some("ivshmem-doorbell") => Item::at(given(element.one("server"), "path"), BeyondWay::Connected),
        _ => Item::bare(BeyondWay::Refused("QEMU has no such device any more: write ivshmem-plain")),
    }
}
