//! `<disk>`, `<controller>`, `<lease>` and `<filesystem>`.

use super::common::{
    ACPI, ADDRESS, ALIAS_NAME, ATS, BOOT, IOMMU, PACKED, PAGE_PER_VQ, QUEUE_SIZE, QUEUES, VIRTIO_MODELS,
};
use super::storage::{
    AUTH, BACKEND_DOMAIN, BACKING_STORE, ENCRYPTION, FORMATS, METADATA_CACHE, MIRROR, READONLY, SHAREABLE,
    SOURCE_TYPES,
};
use super::value::{
    ANY, BYTE, DIRECTORY, FILE, HOST, LINE, OCTAL, ON_OFF, PATH, POSITIVE, PRINTABLE, SERIAL, TARGET, UINT,
    ULONG, USB_PORT, WORD, WWN, YES_NO,
};
use super::{Element, Value, element, empty, many, must, need, one, opt, or, size, text};

pub(super) static DISK: Element = element(
    "disk",
    &[
        or("type", SOURCE_TYPES, "file"),
        or("device", Value::Word(&["disk", "cdrom", "floppy", "lun"]), "disk"),
        opt("model", VIRTIO_MODELS),
        opt("rawio", YES_NO),
        opt("sgio", Value::Word(&["filtered", "unfiltered"])),
        opt("snapshot", Value::Word(&["no", "internal", "external", "manual"])),
    ],
    super::sourced!(
        one(&DRIVER),
        one(&AUTH);
        one(&BACKING_STORE),
        one(&BACKEND_DOMAIN),
        one(&GEOMETRY),
        one(&BLOCK_IO),
        one(&MIRROR).running(),
        must(&DISK_TARGET),
        one(&IOTUNE),
        one(&THROTTLE_FILTERS),
        one(&READONLY),
        one(&SHAREABLE),
        one(&TRANSIENT),
        one(&DISK_SERIAL),
        one(&WWN_TEXT),
        one(&VENDOR),
        one(&PRODUCT),
        one(&ENCRYPTION),
        one(&BOOT),
        one(&ALIAS_NAME),
        one(&ACPI),
        one(&ADDRESS)
    ),
)
.switched("type");

static DRIVER: Element = element(
    "driver",
    &[
        opt("name", WORD),
        opt("type", FORMATS),
        opt("cache", Value::Word(&["default", "none", "writeback", "writethrough", "directsync", "unsafe"])),
        opt("error_policy", Value::Word(&["stop", "report", "ignore", "enospace"])),
        opt("rerror_policy", Value::Word(&["stop", "report", "ignore"])),
        opt("io", Value::Word(&["native", "threads", "io_uring"])),
        opt("ioeventfd", ON_OFF),
        opt("event_idx", ON_OFF),
        opt("copy_on_read", ON_OFF),
        opt("discard", Value::Word(&["unmap", "ignore"])),
        opt("iothread", POSITIVE),
        opt("detect_zeroes", Value::Word(&["off", "on", "unmap"])),
        opt("discard_no_unref", ON_OFF),
        QUEUES,
        QUEUE_SIZE,
        IOMMU,
        ATS,
        PACKED,
        PAGE_PER_VQ,
    ],
    &[one(&IOTHREADS), one(&STATISTICS), one(&METADATA_CACHE)],
);
static IOTHREADS: Element = element("iothreads", &[], &[many(&IOTHREAD)]);
static IOTHREAD: Element = element("iothread", &[need("id", POSITIVE)], &[many(&IOTHREAD_QUEUE)]);
static IOTHREAD_QUEUE: Element = empty("queue", &[need("id", UINT)]);
static STATISTICS: Element = element("statistics", &[], &[many(&STATISTIC), one(&LATENCY_HISTOGRAM)]);
static STATISTIC: Element = empty("statistic", &[need("interval", POSITIVE)]);
static LATENCY_HISTOGRAM: Element = element("latency-histogram", &[opt("type", WORD)], &[many(&BIN)]);
static BIN: Element = empty("bin", &[need("start", ULONG)]);

static DISK_TARGET: Element = empty(
    "target",
    &[
        need("dev", TARGET),
        opt("bus", Value::Word(&["ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd", "nvme"])),
        opt("tray", Value::Word(&["open", "closed"])),
        opt("removable", ON_OFF),
        opt("rotation_rate", POSITIVE),
        opt("dpofua", ON_OFF),
    ],
);

static GEOMETRY: Element = empty(
    "geometry",
    &[
        need("cyls", POSITIVE),
        need("heads", POSITIVE),
        need("secs", POSITIVE),
        opt("trans", Value::Word(&["auto", "none", "lba"])),
    ],
);
static BLOCK_IO: Element = empty(
    "blockio",
    &[
        opt("logical_block_size", POSITIVE),
        opt("physical_block_size", POSITIVE),
        opt("discard_granularity", UINT),
    ],
);
static TRANSIENT: Element = empty("transient", &[opt("shareBacking", YES_NO)]);
static DISK_SERIAL: Element = text("serial", &[], SERIAL);
static WWN_TEXT: Element = text("wwn", &[], WWN);
static VENDOR: Element = text("vendor", &[], PRINTABLE);
static PRODUCT: Element = text("product", &[], PRINTABLE);

static THROTTLE_FILTERS: Element = element("throttlefilters", &[], &[many(&THROTTLE_FILTER)]);
static THROTTLE_FILTER: Element = empty("throttlefilter", &[need("group", LINE)]);

macro_rules! amounts {
    ($($static:ident $name:literal),* $(,)?) => { $(static $static: Element = text($name, &[], ULONG);)* };
}
amounts!(
    TOTAL_BYTES "total_bytes_sec",
    READ_BYTES "read_bytes_sec",
    WRITE_BYTES "write_bytes_sec",
    TOTAL_IOPS "total_iops_sec",
    READ_IOPS "read_iops_sec",
    WRITE_IOPS "write_iops_sec",
    TOTAL_BYTES_MAX "total_bytes_sec_max",
    READ_BYTES_MAX "read_bytes_sec_max",
    WRITE_BYTES_MAX "write_bytes_sec_max",
    TOTAL_IOPS_MAX "total_iops_sec_max",
    READ_IOPS_MAX "read_iops_sec_max",
    WRITE_IOPS_MAX "write_iops_sec_max",
    SIZE_IOPS "size_iops_sec",
    TOTAL_BYTES_LENGTH "total_bytes_sec_max_length",
    READ_BYTES_LENGTH "read_bytes_sec_max_length",
    WRITE_BYTES_LENGTH "write_bytes_sec_max_length",
    TOTAL_IOPS_LENGTH "total_iops_sec_max_length",
    READ_IOPS_LENGTH "read_iops_sec_max_length",
    WRITE_IOPS_LENGTH "write_iops_sec_max_length",
);
pub(super) static GROUP_NAME: Element = text("group_name", &[], LINE);

macro_rules! throttle {
    ($static:ident, $name:literal) => {
        pub(super) static $static: Element = element(
            $name,
            &[],
            &[
                one(&TOTAL_BYTES),
                one(&READ_BYTES),
                one(&WRITE_BYTES),
                one(&TOTAL_IOPS),
                one(&READ_IOPS),
                one(&WRITE_IOPS),
                one(&TOTAL_BYTES_MAX),
                one(&READ_BYTES_MAX),
                one(&WRITE_BYTES_MAX),
                one(&TOTAL_IOPS_MAX),
                one(&READ_IOPS_MAX),
                one(&WRITE_IOPS_MAX),
                one(&SIZE_IOPS),
                one(&GROUP_NAME),
                one(&TOTAL_BYTES_LENGTH),
                one(&READ_BYTES_LENGTH),
                one(&WRITE_BYTES_LENGTH),
                one(&TOTAL_IOPS_LENGTH),
                one(&READ_IOPS_LENGTH),
                one(&WRITE_IOPS_LENGTH),
            ],
        );
    };
}
throttle!(IOTUNE, "iotune");
throttle!(THROTTLE_GROUP, "throttlegroup");

pub(super) static CONTROLLER: Element = element(
    "controller",
    &[
        need(
            "type",
            Value::Word(&[
                "ide",
                "fdc",
                "scsi",
                "sata",
                "virtio-serial",
                "ccid",
                "usb",
                "pci",
                "xenbus",
                "isa",
                "nvme",
            ]),
        ),
        opt("index", UINT),
        opt("model", Value::Word(&["piix3", "piix4", "ich6"])).when(&["ide"]),
        opt(
            "model",
            Value::Word(&[
                "auto",
                "buslogic",
                "lsilogic",
                "lsisas1068",
                "vmpvscsi",
                "ibmvscsi",
                "virtio-scsi",
                "lsisas1078",
                "virtio-transitional",
                "virtio-non-transitional",
                "ncr53c90",
                "dc390",
                "am53c974",
            ]),
        )
        .when(&["scsi"]),
        opt("model", VIRTIO_MODELS).when(&["virtio-serial"]),
        opt(
            "model",
            Value::Word(&[
                "piix3-uhci",
                "piix4-uhci",
                "ehci",
                "ich9-ehci1",
                "ich9-uhci1",
                "ich9-uhci2",
                "ich9-uhci3",
                "vt82c686b-uhci",
                "pci-ohci",
                "nec-xhci",
                "qemu-xhci",
                "qusb1",
                "qusb2",
                "none",
            ]),
        )
        .when(&["usb"]),
        opt(
            "model",
            Value::Word(&[
                "pci-root",
                "pcie-root",
                "pci-bridge",
                "dmi-to-pci-bridge",
                "pcie-root-port",
                "pcie-switch-upstream-port",
                "pcie-switch-downstream-port",
                "pci-expander-bus",
                "pcie-expander-bus",
                "pcie-to-pci-bridge",
            ]),
        )
        .when(&["pci"]),
        opt("ports", UINT).when(&["usb", "virtio-serial"]),
        opt("vectors", UINT).when(&["virtio-serial"]),
        opt("maxGrantFrames", UINT).when(&["xenbus"]),
        opt("maxEventChannels", UINT).when(&["xenbus"]),
    ],
    &[
        one(&CONTROLLER_MODEL).when(&["pci"]),
        one(&CONTROLLER_TARGET).when(&["pci"]),
        one(&CONTROLLER_DRIVER),
        one(&CONTROLLER_SERIAL).when(&["nvme"]),
        one(&ALIAS_NAME),
        one(&MASTER).when(&["usb"]),
        one(&ACPI),
        one(&ADDRESS),
        one(&PCI_HOLE).when(&["pci"]),
    ],
)
.switched("type");

static CONTROLLER_MODEL: Element = empty("model", &[need("name", WORD)]);
static CONTROLLER_TARGET: Element = element(
    "target",
    &[
        opt("chassisNr", BYTE),
        opt("chassis", BYTE),
        opt("port", Value::Hex { digits: 1, max: 255 }),
        opt("busNr", BYTE),
        opt("index", BYTE),
        opt("hotplug", ON_OFF),
        opt("memReserve", ULONG),
    ],
    &[one(&TARGET_NODE)],
);
pub(super) static TARGET_NODE: Element = text("node", &[], UINT);
static CONTROLLER_DRIVER: Element = element(
    "driver",
    &[
        opt("queues", UINT),
        opt("cmd_per_lun", UINT),
        opt("max_sectors", UINT),
        opt("ioeventfd", ON_OFF),
        opt("iothread", POSITIVE),
        IOMMU,
        ATS,
        PACKED,
        PAGE_PER_VQ,
    ],
    &[one(&IOTHREADS)],
);
static CONTROLLER_SERIAL: Element = text("serial", &[], SERIAL);
static MASTER: Element = empty("master", &[need("startport", USB_PORT)]);
static PCI_HOLE: Element = size("pcihole64", "KiB", &[]);

pub(super) static LEASE: Element =
    element("lease", &[], &[one(&LOCKSPACE), must(&LEASE_KEY), must(&LEASE_TARGET)]);
static LOCKSPACE: Element = text("lockspace", &[], LINE);
static LEASE_KEY: Element = text("key", &[], LINE);
static LEASE_TARGET: Element = empty("target", &[need("path", PATH), opt("offset", ULONG)]);

pub(super) static FILESYSTEM: Element = element(
    "filesystem",
    &[
        or("type", Value::Word(&["mount", "block", "file", "template", "ram", "bind", "volume"]), "mount"),
        opt("accessmode", Value::Word(&["passthrough", "mapped", "squash"])),
        opt("model", VIRTIO_MODELS),
        opt("multidevs", Value::Word(&["default", "remap", "forbid", "warn"])),
        opt("fmode", OCTAL),
        opt("dmode", OCTAL),
    ],
    &[
        one(&FS_DRIVER),
        one(&FS_BINARY).when(&["mount"]),
        one(&FS_ID_MAP).when(&["mount"]),
        must(&FS_DIRECTORY).when(&["mount", "bind"]),
        must(&FS_BLOCK).when(&["block"]),
        must(&FS_FILE).when(&["file"]),
        must(&FS_TEMPLATE).when(&["template"]),
        must(&FS_RAM).when(&["ram"]),
        must(&FS_VOLUME).when(&["volume"]),
        must(&FS_TARGET),
        one(&READONLY),
        one(&BOOT),
        one(&ALIAS_NAME),
        one(&ACPI),
        one(&ADDRESS),
        one(&SPACE_HARD),
        one(&SPACE_SOFT),
    ],
)
.switched("type");
static FS_DRIVER: Element = empty(
    "driver",
    &[
        opt("type", Value::Word(&["path", "handle", "loop", "nbd", "ploop", "virtiofs", "mtp"])),
        opt("format", FORMATS),
        opt("wrpolicy", Value::Word(&["immediate"])),
        opt("queue", SHORT_QUEUE),
        IOMMU,
        ATS,
        PACKED,
        PAGE_PER_VQ,
    ],
);
const SHORT_QUEUE: Value = Value::Number { min: 0, max: 65_535 };
static FS_BINARY: Element = element(
    "binary",
    &[opt("path", PATH), opt("xattr", ON_OFF)],
    &[one(&FS_CACHE), one(&FS_SANDBOX), one(&FS_LOCK), one(&FS_POOL), one(&FS_OPEN_FILES)],
);
static FS_CACHE: Element =
    empty("cache", &[need("mode", Value::Word(&["none", "always", "metadata", "auto"]))]);
static FS_SANDBOX: Element = empty("sandbox", &[need("mode", Value::Word(&["namespace", "chroot"]))]);
static FS_LOCK: Element = empty("lock", &[opt("posix", ON_OFF), opt("flock", ON_OFF)]);
static FS_POOL: Element = empty("thread_pool", &[need("size", UINT)]);
static FS_OPEN_FILES: Element = empty("openfiles", &[need("max", POSITIVE)]);
static FS_ID_MAP: Element = element("idmap", &[], &[many(&FS_UID), many(&FS_GID)]);
static FS_UID: Element = empty("uid", &[need("start", UINT), need("target", UINT), need("count", UINT)]);
static FS_GID: Element = empty("gid", &[need("start", UINT), need("target", UINT), need("count", UINT)]);
static FS_DIRECTORY: Element = empty("source", &[opt("dir", DIRECTORY), opt("socket", PATH)]);
static FS_BLOCK: Element = empty("source", &[need("dev", PATH)]);
static FS_FILE: Element = empty("source", &[need("file", FILE)]);
static FS_TEMPLATE: Element = empty("source", &[need("name", HOST)]);
static FS_RAM: Element = empty("source", &[need("usage", ULONG), opt("units", super::value::UNIT)]);
static FS_VOLUME: Element = empty("source", &[need("pool", LINE), need("volume", LINE)]);
static FS_TARGET: Element = empty("target", &[need("dir", ANY)]);
static SPACE_HARD: Element = size("space_hard_limit", "bytes", &[]);
static SPACE_SOFT: Element = size("space_soft_limit", "bytes", &[]);
