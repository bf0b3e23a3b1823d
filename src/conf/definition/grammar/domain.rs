//! `<domain>` itself.

use super::common::LABEL_TEXT;
use super::cpu::CPU;
use super::devices::DEVICES;
use super::disk::THROTTLE_GROUP;
use super::os::{CLOCK, FEATURES, ON_CRASH, ON_LOCKFAILURE, ON_POWEROFF, ON_REBOOT, OS, PERF, PM, SYSINFO};
use super::qemu::{CAPABILITIES, COMMANDLINE, DEPRECATION, OVERRIDE};
use super::tune::{
    BLKIOTUNE, BOOTLOADER, BOOTLOADER_ARGS, CPUTUNE, CURRENT_MEMORY, DEFAULT_IOTHREAD, ID_MAP, IOTHREAD_IDS,
    IOTHREADS, MAX_MEMORY, MEMORY, MEMORY_BACKING, MEMTUNE, NUMATUNE, RESOURCE, VCPU, VCPU_LIST,
};
use super::value::{ANY, HEX_POLICY, LABEL, LINE, MODEL, ON_OFF, POSITIVE, UINT, UUID, YES_NO};
use super::{Body, Element, Value, element, empty, many, must, need, one, opt, text};

/// The root of a definition.
pub static DOMAIN: Element = element(
    "domain",
    &[
        need(
            "type",
            Value::Word(&[
                "kvm",
                "qemu",
                "test",
                "xen",
                "lxc",
                "uml",
                "openvz",
                "vmware",
                "hyperv",
                "vbox",
                "phyp",
                "parallels",
                "bhyve",
                "vz",
                "hvf",
                "kqemu",
            ]),
        ),
        opt("id", POSITIVE).running(),
    ],
    &[
        must(&NAME),
        one(&UUID_TEXT),
        one(&GENERATION),
        one(&HARDWARE_UUID),
        one(&TITLE),
        one(&DESCRIPTION),
        one(&METADATA),
        one(&MAX_MEMORY),
        one(&MEMORY),
        one(&CURRENT_MEMORY),
        one(&BLKIOTUNE),
        one(&MEMTUNE),
        one(&MEMORY_BACKING),
        one(&VCPU),
        one(&VCPU_LIST),
        one(&IOTHREADS),
        one(&IOTHREAD_IDS),
        one(&DEFAULT_IOTHREAD),
        one(&CPUTUNE),
        one(&NUMATUNE),
        one(&RESOURCE),
        many(&SYSINFO),
        one(&BOOTLOADER),
        one(&BOOTLOADER_ARGS),
        must(&OS),
        one(&ID_MAP),
        one(&THROTTLE_GROUPS),
        one(&FEATURES),
        one(&CPU),
        one(&CLOCK),
        one(&ON_POWEROFF),
        one(&ON_REBOOT),
        one(&ON_CRASH),
        one(&ON_LOCKFAILURE),
        one(&PM),
        one(&PERF),
        one(&DEVICES),
        many(&SECLABEL),
        one(&KEYWRAP),
        one(&LAUNCH_SECURITY),
        one(&COMMANDLINE),
        one(&CAPABILITIES),
        one(&DEPRECATION),
        one(&OVERRIDE),
    ],
);

static NAME: Element = text("name", &[], LINE);
static UUID_TEXT: Element = text("uuid", &[], UUID);
static HARDWARE_UUID: Element = text("hwuuid", &[], UUID);
static GENERATION: Element = text("genid", &[], super::value::UUID_OR_NOTHING);
static TITLE: Element = text("title", &[], LINE);
static DESCRIPTION: Element = text("description", &[], ANY);
static METADATA: Element = Element { name: "metadata", switch: None, attributes: &[], body: Body::Foreign };
static THROTTLE_GROUPS: Element = element("throttlegroups", &[], &[many(&THROTTLE_GROUP)]);

/// `<seclabel>` of the domain; what stands inside depends on the type, which the rules check.
static SECLABEL: Element = element(
    "seclabel",
    &[opt("type", Value::Word(&["dynamic", "static", "none"])), opt("model", MODEL), opt("relabel", YES_NO)],
    &[one(&LABEL_TEXT), one(&IMAGE_LABEL), one(&BASE_LABEL)],
);
static IMAGE_LABEL: Element = text("imagelabel", &[], LABEL);
static BASE_LABEL: Element = text("baselabel", &[], LABEL);

static KEYWRAP: Element = element("keywrap", &[], &[many(&WRAP_CIPHER)]);
static WRAP_CIPHER: Element =
    empty("cipher", &[need("name", Value::Word(&["aes", "dea"])), need("state", ON_OFF)]);

static LAUNCH_SECURITY: Element = element(
    "launchSecurity",
    &[
        need("type", Value::Word(&["sev", "sev-snp", "s390-pv", "tdx"])),
        opt("kernelHashes", YES_NO).when(&["sev", "sev-snp"]),
        opt("authorKey", YES_NO).when(&["sev-snp"]),
        opt("vcek", YES_NO).when(&["sev-snp"]),
    ],
    &[
        one(&CBIT_POS).when(&["sev", "sev-snp"]),
        one(&REDUCED_BITS).when(&["sev", "sev-snp"]),
        one(&POLICY).when(&["sev", "sev-snp", "tdx"]),
        one(&DH_CERT).when(&["sev"]),
        one(&SESSION).when(&["sev"]),
        one(&VISIBLE_WORKAROUNDS).when(&["sev-snp"]),
        one(&ID_BLOCK).when(&["sev-snp"]),
        one(&ID_AUTH).when(&["sev-snp"]),
        one(&HOST_DATA).when(&["sev-snp"]),
        one(&MR_CONFIG).when(&["tdx"]),
        one(&MR_OWNER).when(&["tdx"]),
        one(&MR_OWNER_CONFIG).when(&["tdx"]),
        one(&QUOTE).when(&["tdx"]),
    ],
)
.switched("type");
static CBIT_POS: Element = text("cbitpos", &[], UINT);
static REDUCED_BITS: Element = text("reducedPhysBits", &[], UINT);
static POLICY: Element = text("policy", &[], HEX_POLICY);
static DH_CERT: Element = text("dhCert", &[], ANY);
static SESSION: Element = text("session", &[], ANY);
static VISIBLE_WORKAROUNDS: Element = text("guestVisibleWorkarounds", &[], ANY);
static ID_BLOCK: Element = text("idBlock", &[], ANY);
static ID_AUTH: Element = text("idAuth", &[], ANY);
static HOST_DATA: Element = text("hostData", &[], ANY);
static MR_CONFIG: Element = text("mrConfigId", &[], ANY);
static MR_OWNER: Element = text("mrOwner", &[], ANY);
static MR_OWNER_CONFIG: Element = text("mrOwnerConfig", &[], ANY);
static QUOTE: Element = empty("quoteGenerationService", &[opt("path", super::value::PATH)]);
