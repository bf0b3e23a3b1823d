//! `<hostdev>`: devices of the host in the guest.

use super::common::{ACPI, ADDRESS, ALIAS_NAME, BOOT, HOST_PCI, ROM};
use super::network::{NET_IP, NET_ROUTE, TEAMING};
use super::storage::{AUTH, INITIATOR, READONLY, SHAREABLE};
use super::value::{DEVICE, HOST, LINE, ON_OFF, PATH, PORT, UINT, ULONG, UUID, WORD, YES_NO};
use super::{Element, Value, element, empty, many, must, need, one, opt, or, text};

pub(super) static HOSTDEV: Element = element(
    "hostdev",
    &[
        or("mode", Value::Word(&["subsystem", "capabilities"]), "subsystem"),
        need("type", Value::Word(&["usb", "pci", "scsi", "scsi_host", "mdev", "storage", "misc", "net"])),
        opt("managed", YES_NO).when(&["usb", "pci", "scsi", "scsi_host", "mdev"]),
        opt("sgio", Value::Word(&["filtered", "unfiltered"])).when(&["scsi"]),
        opt("rawio", YES_NO).when(&["scsi"]),
        opt("model", super::common::VIRTIO_MODELS).when(&["scsi_host"]),
        need("model", Value::Word(&["vfio-pci", "vfio-ccw", "vfio-ap"])).when(&["mdev"]),
        opt("display", ON_OFF).when(&["mdev", "pci"]),
        opt("ramfb", ON_OFF).when(&["mdev", "pci"]),
    ],
    &[
        one(&HOSTDEV_DRIVER),
        must(&USB_SOURCE).when(&["usb"]),
        must(&PCI_SOURCE).when(&["pci"]),
        must(&ISCSI_SOURCE).when(&["scsi"]),
        must(&SCSI_SOURCE).when(&["scsi"]),
        must(&SCSI_HOST_SOURCE).when(&["scsi_host"]),
        must(&MDEV_SOURCE).when(&["mdev"]),
        must(&STORAGE_SOURCE).when(&["storage"]),
        must(&MISC_SOURCE).when(&["misc"]),
        must(&NET_SOURCE).when(&["net"]),
        many(&NET_IP).when(&["net"]),
        many(&NET_ROUTE).when(&["net"]),
        one(&TEAMING),
        one(&READONLY),
        one(&SHAREABLE),
        one(&BOOT),
        one(&ALIAS_NAME),
        one(&ROM),
        one(&ACPI),
        one(&ADDRESS),
    ],
)
.switched("type");

static HOSTDEV_DRIVER: Element = empty(
    "driver",
    &[opt("name", Value::Word(&["kvm", "vfio", "xen"])), opt("model", WORD), opt("iommufd", YES_NO)],
);

const VENDOR_ID: Value = Value::Hex { digits: 4, max: 0xffff };
pub(super) static HOST_VENDOR: Element = empty("vendor", &[need("id", VENDOR_ID)]);
pub(super) static HOST_PRODUCT: Element = empty("product", &[need("id", VENDOR_ID)]);
/// The host's address of an interface that is passed through.
pub(super) static HOST_USB: Element = element(
    "address",
    &[
        need("type", Value::Word(&["pci", "usb"])),
        or("domain", Value::Hex { digits: 4, max: 0xffff }, "0x0000").when(&["pci"]),
        opt("bus", Value::Hex { digits: 2, max: 255 }).when(&["pci"]),
        opt("slot", Value::Hex { digits: 2, max: 31 }).when(&["pci"]),
        opt("function", Value::Hex { digits: 1, max: 7 }).when(&["pci"]),
        opt("multifunction", ON_OFF).when(&["pci"]),
        opt("bus", UINT).when(&["usb"]),
        opt("device", UINT).when(&["usb"]),
    ],
    &[],
)
.switched("type");

static USB_SOURCE: Element = element(
    "source",
    &[
        opt("startupPolicy", Value::Word(&["mandatory", "requisite", "optional"])),
        opt("guestReset", Value::Word(&["off", "uninitialized", "on"])),
    ],
    &[one(&HOST_VENDOR), one(&HOST_PRODUCT), one(&USB_ADDRESS)],
);
static USB_ADDRESS: Element = empty("address", &[need("bus", UINT), need("device", UINT)]);
static PCI_SOURCE: Element = element("source", &[opt("writeFiltering", YES_NO)], &[must(&HOST_PCI)]);
static ISCSI_SOURCE: Element = element(
    "source",
    &[need("protocol", Value::Word(&["iscsi"])), need("name", LINE)],
    &[many(&ISCSI_HOST), one(&AUTH), one(&INITIATOR)],
);
/// libvirt does not write the protocol of an adapter.
static SCSI_SOURCE: Element = element(
    "source",
    &[opt("protocol", Value::Word(&["adapter"])).running()],
    &[must(&ADAPTER), must(&SCSI_ADDRESS)],
);
static ISCSI_HOST: Element = empty("host", &[need("name", HOST), opt("port", PORT)]);
static ADAPTER: Element = empty("adapter", &[need("name", WORD)]);
static SCSI_ADDRESS: Element =
    empty("address", &[need("bus", UINT), need("target", UINT), need("unit", ULONG)]);
static SCSI_HOST_SOURCE: Element =
    empty("source", &[need("protocol", Value::Word(&["vhost"])), need("wwpn", LINE)]);
static MDEV_SOURCE: Element = element("source", &[], &[must(&MDEV_ADDRESS)]);
static MDEV_ADDRESS: Element = empty("address", &[need("uuid", UUID)]);
static STORAGE_SOURCE: Element = element("source", &[], &[must(&STORAGE_BLOCK)]);
static STORAGE_BLOCK: Element = text("block", &[], PATH);
static MISC_SOURCE: Element = element("source", &[], &[must(&MISC_CHAR)]);
static MISC_CHAR: Element = text("char", &[], PATH);
static NET_SOURCE: Element = element("source", &[], &[must(&NET_INTERFACE)]);
static NET_INTERFACE: Element = text("interface", &[], DEVICE);
