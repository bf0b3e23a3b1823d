//! What many devices have: where they sit, their names, boot order, ROM, virtio options, label overrides.

use super::value::{
    ALIAS, ANY, BYTE, LABEL, MODEL, ON_OFF, PATH, POSITIVE, SHORT, UINT, USB_PORT, UUID, YES_NO,
};
use super::{Attribute, Element, Value, element, empty, need, one, opt, or, text};

/// `<alias>`: libvirt's own belong to a running domain, a user's begin with `ua-`.
pub(super) static ALIAS_NAME: Element = empty("alias", &[need("name", ALIAS)]);

const DRIVE_NUMBER: Value = Value::Number { min: 0, max: 99_999 };
const PCI_SLOT: Value = Value::Hex { digits: 2, max: 31 };
const PCI_FUNCTION: Value = Value::Hex { digits: 1, max: 7 };
const PCI_BUS: Value = Value::Hex { digits: 2, max: 255 };
const PCI_DOMAIN: Value = Value::Hex { digits: 4, max: 0xffff };

/// `<address>` of a device in the guest.
pub(super) static ADDRESS: Element = element(
    "address",
    &[
        need(
            "type",
            Value::Word(&[
                "pci",
                "drive",
                "virtio-serial",
                "ccid",
                "usb",
                "isa",
                "dimm",
                "ccw",
                "spapr-vio",
                "virtio-mmio",
                "unassigned",
            ]),
        ),
        or("domain", PCI_DOMAIN, "0x0000").when(&["pci"]),
        or("bus", PCI_BUS, "0x00").when(&["pci"]),
        or("slot", PCI_SLOT, "0x00").when(&["pci"]),
        or("function", PCI_FUNCTION, "0x0").when(&["pci"]),
        opt("multifunction", ON_OFF).when(&["pci"]),
        or("controller", DRIVE_NUMBER, "0").when(&["drive", "virtio-serial", "ccid"]),
        or("bus", DRIVE_NUMBER, "0").when(&["drive", "virtio-serial"]),
        or("target", DRIVE_NUMBER, "0").when(&["drive"]),
        or("unit", DRIVE_NUMBER, "0").when(&["drive"]),
        or("slot", DRIVE_NUMBER, "0").when(&["ccid"]),
        opt("port", DRIVE_NUMBER).when(&["virtio-serial"]),
        or("bus", BYTE, "0").when(&["usb"]),
        opt("port", USB_PORT).when(&["usb"]),
        opt("device", UINT).when(&["usb"]),
        opt("iobase", Value::Hex { digits: 1, max: 0xffff }).when(&["isa"]),
        opt("irq", Value::Hex { digits: 1, max: 15 }).when(&["isa"]),
        opt("slot", UINT).when(&["dimm"]),
        opt("base", Value::Hex { digits: 1, max: u64::MAX }).when(&["dimm"]),
        opt("cssid", Value::Hex { digits: 1, max: 0xfe }).when(&["ccw"]),
        opt("ssid", Value::Hex { digits: 1, max: 3 }).when(&["ccw"]),
        opt("devno", Value::Hex { digits: 4, max: 0xffff }).when(&["ccw"]),
        opt("reg", Value::Hex { digits: 8, max: u32::MAX as u64 }).when(&["spapr-vio"]),
    ],
    &[one(&ZPCI).when(&["pci"])],
)
.switched("type");

static ZPCI: Element = empty(
    "zpci",
    &[
        opt("uid", Value::Hex { digits: 4, max: 0xffff }),
        opt("fid", Value::Hex { digits: 8, max: u32::MAX as u64 }),
    ],
);

/// `<address>` of a PCI device of the host.
pub(super) static HOST_PCI: Element = empty(
    "address",
    &[
        opt("type", Value::Word(&["pci"])),
        or("domain", PCI_DOMAIN, "0x0000"),
        need("bus", PCI_BUS),
        need("slot", PCI_SLOT),
        need("function", PCI_FUNCTION),
        opt("multifunction", ON_OFF),
    ],
);

pub(super) static BOOT: Element = empty("boot", &[need("order", POSITIVE), opt("loadparm", ANY)]);
pub(super) static ACPI: Element = empty("acpi", &[need("index", UINT)]);
pub(super) static ROM: Element =
    empty("rom", &[opt("enabled", YES_NO), opt("bar", ON_OFF), opt("file", PATH)]);

pub(super) const VIRTIO_MODELS: Value =
    Value::Word(&["virtio", "virtio-transitional", "virtio-non-transitional"]);

/// Every virtio device's options of its transport.
pub(super) const IOMMU: Attribute = opt("iommu", ON_OFF);
pub(super) const ATS: Attribute = opt("ats", ON_OFF);
pub(super) const PACKED: Attribute = opt("packed", ON_OFF);
pub(super) const PAGE_PER_VQ: Attribute = opt("page_per_vq", ON_OFF);

/// `<driver>` of a virtio device without options of its own.
pub(super) static VIRTIO_DRIVER: Element = empty("driver", &[IOMMU, ATS, PACKED, PAGE_PER_VQ]);

/// `<seclabel>` in a `<source>`.
pub(super) static DEVICE_LABEL: Element = element(
    "seclabel",
    &[opt("model", MODEL), opt("labelskip", Value::Word(&["yes"])).running(), opt("relabel", YES_NO)],
    &[one(&LABEL_TEXT)],
);

pub(super) static LABEL_TEXT: Element = text("label", &[], LABEL);

pub(super) static RECONNECT: Element = empty("reconnect", &[need("enabled", YES_NO), opt("timeout", UINT)]);

pub(super) static SECRET: Element =
    empty("secret", &[opt("type", super::value::WORD), opt("uuid", UUID), opt("usage", ANY)]);

pub(super) static AUDIO_LINK: Element = empty("audio", &[need("id", BYTE)]);

pub(super) const FAMILY: Value = Value::Word(&["ipv4", "ipv6"]);

/// The states of a switch that is an element of its own: `<pmu state='off'/>`.
pub(super) const NEEDED_STATE: &[Attribute] = &[need("state", ON_OFF)];
/// The same, where libvirt takes its absence for `on`.
pub(super) const STATE: &[Attribute] = &[opt("state", ON_OFF)];

pub(super) const QUEUES: Attribute = opt("queues", POSITIVE);
pub(super) const QUEUE_SIZE: Attribute = opt("queue_size", SHORT);
