//! `<devices>`, and the kinds of devices that are small.

use super::cdev::{CHANNEL, CONSOLE, EGD, PARALLEL, REDIRDEV, REDIRFILTER, SERIAL, SMARTCARD};
use super::common::{
    ACPI, ADDRESS, ALIAS_NAME, ATS, IOMMU, PACKED, PAGE_PER_VQ, QUEUES, VIRTIO_DRIVER, VIRTIO_MODELS,
};
use super::disk::{CONTROLLER, DISK, FILESYSTEM, LEASE};
use super::display::{AUDIO, GRAPHICS, INPUT, SOUND, VIDEO};
use super::host::HOSTDEV;
use super::network::INTERFACE;
use super::storage::READONLY;
use super::value::{ANY, BYTE, CPUSET, FILE, LINE, ON_OFF, PATH, POSITIVE, UINT, UUID, WORD, YES_NO};
use super::{Element, Value, element, empty, flag, many, must, need, one, opt, or, size, text};

pub(super) static DEVICES: Element = element(
    "devices",
    &[],
    &[
        one(&EMULATOR),
        many(&DISK),
        many(&CONTROLLER),
        many(&LEASE),
        many(&FILESYSTEM),
        many(&INTERFACE),
        many(&SMARTCARD),
        many(&SERIAL),
        many(&PARALLEL),
        many(&CONSOLE),
        many(&CHANNEL),
        many(&INPUT),
        many(&TPM),
        many(&GRAPHICS),
        many(&SOUND),
        many(&AUDIO),
        many(&VIDEO),
        many(&HOSTDEV),
        many(&REDIRDEV),
        one(&REDIRFILTER),
        many(&HUB),
        many(&WATCHDOG),
        one(&MEMBALLOON),
        many(&RNG),
        one(&NVRAM_DEVICE),
        many(&PANIC),
        many(&SHMEM),
        many(&MEMORY_DEVICE),
        many(&IOMMU_DEVICE),
        one(&VSOCK),
        many(&CRYPTO),
        one(&PSTORE),
    ],
);

static EMULATOR: Element = text("emulator", &[], PATH);

static TPM: Element = element(
    "tpm",
    &[opt("model", Value::Word(&["tpm-tis", "tpm-crb", "tpm-spapr", "spapr-tpm-proxy"]))],
    &[must(&TPM_BACKEND), one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS)],
);
static TPM_BACKEND: Element = element(
    "backend",
    &[
        need("type", Value::Word(&["passthrough", "emulator", "external"])),
        opt("version", Value::Word(&["1.2", "2.0"])).when(&["emulator"]),
        opt("persistent_state", YES_NO).when(&["emulator"]),
        opt("debug", UINT).when(&["emulator"]),
    ],
    &[
        one(&TPM_DEVICE).when(&["passthrough"]),
        one(&TPM_ENCRYPTION).when(&["emulator"]),
        one(&TPM_STATE).when(&["emulator"]),
        one(&PCR_BANKS).when(&["emulator"]),
        one(&TPM_PROFILE).when(&["emulator"]),
        one(&TPM_SOCKET).when(&["external"]),
    ],
)
.switched("type");
static TPM_DEVICE: Element = empty("device", &[need("path", PATH)]);
static TPM_ENCRYPTION: Element = empty("encryption", &[need("secret", UUID)]);
static TPM_STATE: Element =
    empty("source", &[need("type", Value::Word(&["file", "dir"])), need("path", PATH)]);
static TPM_SOCKET: Element = empty(
    "source",
    &[need("type", Value::Word(&["unix"])), need("path", FILE), opt("mode", Value::Word(&["connect"]))],
);
static TPM_PROFILE: Element = empty(
    "profile",
    &[opt("source", LINE), opt("removeDisabled", Value::Word(&["check", "fips-host"])), opt("name", LINE)],
);
static PCR_BANKS: Element =
    element("active_pcr_banks", &[], &[one(&SHA1), one(&SHA256), one(&SHA384), one(&SHA512)]);
static SHA1: Element = flag("sha1");
static SHA256: Element = flag("sha256");
static SHA384: Element = flag("sha384");
static SHA512: Element = flag("sha512");

static HUB: Element =
    element("hub", &[need("type", Value::Word(&["usb"]))], &[one(&ALIAS_NAME), one(&ADDRESS)]);

static WATCHDOG: Element = element(
    "watchdog",
    &[
        need("model", Value::Word(&["i6300esb", "ib700", "diag288", "itco"])),
        or(
            "action",
            Value::Word(&["reset", "shutdown", "poweroff", "pause", "dump", "none", "inject-nmi"]),
            "reset",
        ),
    ],
    &[one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS)],
);

static MEMBALLOON: Element = element(
    "memballoon",
    &[
        need(
            "model",
            Value::Word(&["virtio", "virtio-transitional", "virtio-non-transitional", "xen", "none"]),
        ),
        opt("autodeflate", ON_OFF),
        opt("freePageReporting", ON_OFF),
    ],
    &[one(&STATS), one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS), one(&VIRTIO_DRIVER)],
);
static STATS: Element = empty("stats", &[need("period", UINT)]);

static RNG: Element = element(
    "rng",
    &[need("model", VIRTIO_MODELS)],
    &[
        one(&RATE),
        must(&EGD),
        must(&RNG_BACKEND),
        one(&VIRTIO_DRIVER),
        one(&ALIAS_NAME),
        one(&ACPI),
        one(&ADDRESS),
    ],
);
static RATE: Element = empty("rate", &[need("bytes", POSITIVE), opt("period", POSITIVE)]);
static RNG_BACKEND: Element = text("backend", &[need("model", Value::Word(&["random", "builtin"]))], ANY);

static NVRAM_DEVICE: Element = element("nvram", &[], &[one(&ALIAS_NAME), one(&ADDRESS)]);
static PANIC: Element = element(
    "panic",
    &[opt("model", Value::Word(&["isa", "pseries", "hyperv", "s390", "pvpanic"]))],
    &[one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS)],
);

static SHMEM: Element = element(
    "shmem",
    &[need("name", WORD), opt("role", Value::Word(&["master", "peer"]))],
    &[
        one(&SHMEM_MODEL),
        one(&SHMEM_SIZE),
        one(&SHMEM_SERVER),
        one(&SHMEM_MSI),
        one(&ALIAS_NAME),
        one(&ACPI),
        one(&ADDRESS),
    ],
);
static SHMEM_MODEL: Element =
    empty("model", &[need("type", Value::Word(&["ivshmem", "ivshmem-plain", "ivshmem-doorbell"]))]);
static SHMEM_SIZE: Element = size("size", "M", &[]);
static SHMEM_SERVER: Element = empty("server", &[opt("path", PATH)]);
static SHMEM_MSI: Element =
    empty("msi", &[opt("enabled", ON_OFF), opt("vectors", UINT), opt("ioeventfd", ON_OFF)]);

static MEMORY_DEVICE: Element = element(
    "memory",
    &[
        need("model", Value::Word(&["dimm", "nvdimm", "virtio-pmem", "virtio-mem", "sgx-epc"])),
        opt("access", Value::Word(&["shared", "private"])),
        opt("discard", YES_NO),
    ],
    &[
        one(&UUID_TEXT),
        one(&MEMORY_SOURCE),
        must(&MEMORY_TARGET),
        one(&ALIAS_NAME),
        one(&ACPI),
        one(&ADDRESS),
    ],
);
static UUID_TEXT: Element = text("uuid", &[], UUID);
static MEMORY_SOURCE: Element = element(
    "source",
    &[],
    &[one(&NODE_MASK), one(&PAGE_SIZE), one(&SOURCE_PATH), one(&ALIGN_SIZE), one(&PMEM)],
);
static NODE_MASK: Element = text("nodemask", &[], CPUSET);
static PAGE_SIZE: Element = size("pagesize", "KiB", &[]);
static SOURCE_PATH: Element = text("path", &[], PATH);
static ALIGN_SIZE: Element = size("alignsize", "KiB", &[]);
static PMEM: Element = flag("pmem");
static MEMORY_TARGET: Element = element(
    "target",
    &[opt("dynamicMemslots", YES_NO)],
    &[
        must(&TARGET_SIZE),
        one(&super::disk::TARGET_NODE),
        one(&TARGET_LABEL),
        one(&TARGET_BLOCK),
        one(&TARGET_REQUESTED),
        one(&TARGET_CURRENT).running(),
        one(&READONLY),
        one(&TARGET_ADDRESS),
    ],
);
static TARGET_SIZE: Element = size("size", "KiB", &[]);
static TARGET_LABEL: Element = element("label", &[], &[must(&TARGET_SIZE)]);
static TARGET_BLOCK: Element = size("block", "KiB", &[]);
static TARGET_REQUESTED: Element = size("requested", "KiB", &[]);
static TARGET_CURRENT: Element = size("current", "KiB", &[]);
static TARGET_ADDRESS: Element = empty("address", &[need("base", Value::Hex { digits: 1, max: u64::MAX })]);

static IOMMU_DEVICE: Element = element(
    "iommu",
    &[need("model", Value::Word(&["intel", "smmuv3", "virtio", "amd"]))],
    &[one(&IOMMU_DRIVER), one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS)],
);
static IOMMU_DRIVER: Element = empty(
    "driver",
    &[
        opt("intremap", ON_OFF),
        opt("caching_mode", ON_OFF),
        opt("eim", ON_OFF),
        opt("iotlb", ON_OFF),
        opt("aw_bits", BYTE),
        opt("dma_translation", ON_OFF),
        opt("xtsup", ON_OFF),
        opt("passthrough", ON_OFF),
        opt("granule", WORD),
        opt("pciBus", UINT),
    ],
);

static VSOCK: Element = element(
    "vsock",
    &[opt("model", VIRTIO_MODELS)],
    &[one(&CID), one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS), one(&VIRTIO_DRIVER)],
);
static CID: Element =
    empty("cid", &[opt("auto", YES_NO), opt("address", Value::Number { min: 3, max: u32::MAX as u64 })]);

static CRYPTO: Element = element(
    "crypto",
    &[need("model", Value::Word(&["virtio"])), need("type", Value::Word(&["qemu"]))],
    &[must(&CRYPTO_BACKEND), one(&CRYPTO_DRIVER), one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS)],
);
static CRYPTO_BACKEND: Element =
    empty("backend", &[need("model", Value::Word(&["builtin", "lkcf"])), QUEUES]);
static CRYPTO_DRIVER: Element = empty("driver", &[IOMMU, ATS, PACKED, PAGE_PER_VQ]);

static PSTORE: Element = element(
    "pstore",
    &[need("backend", Value::Word(&["acpi-erst"]))],
    &[must(&PSTORE_PATH), must(&PSTORE_SIZE), one(&ALIAS_NAME), one(&ADDRESS)],
);
static PSTORE_PATH: Element = text("path", &[], PATH);
static PSTORE_SIZE: Element = size("size", "KiB", &[]);
