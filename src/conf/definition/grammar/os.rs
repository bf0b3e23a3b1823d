//! `<os>`, `<sysinfo>`, `<features>`, `<clock>` and `<pm>`.

use super::common::{NEEDED_STATE, STATE};
use super::value::{
    ADJUSTMENT, ANY, ENVIRONMENT, LINE, NAME, ON_OFF, PATH, SHORT, UINT, ULONG, WORD, YES_NO,
};
use super::{Element, Value, element, empty, flag, many, must, need, one, opt, or, size, text};

pub(super) static OS: Element = element(
    "os",
    &[opt("firmware", Value::Word(&["bios", "efi"]))],
    &[
        must(&OS_TYPE),
        one(&FIRMWARE),
        one(&INIT),
        many(&INIT_ARG),
        many(&INIT_ENV),
        one(&INIT_DIR),
        one(&INIT_USER),
        one(&INIT_GROUP),
        one(&LOADER),
        one(&NVRAM_SOURCE),
        one(&NVRAM),
        one(&VARSTORE),
        one(&KERNEL),
        one(&INITRD),
        one(&CMDLINE),
        one(&DTB),
        one(&SHIM),
        one(&ROOT),
        one(&ACPI_TABLES),
        many(&BOOT_DEVICE),
        one(&BOOT_MENU),
        one(&BIOS),
        one(&SMBIOS),
    ],
);
static OS_TYPE: Element = text(
    "type",
    &[opt("arch", WORD), opt("machine", WORD)],
    Value::Word(&["hvm", "xen", "linux", "xenpvh", "exe", "uml"]),
);
static FIRMWARE: Element = element("firmware", &[], &[many(&FIRMWARE_FEATURE)]);
static FIRMWARE_FEATURE: Element = empty("feature", &[need("enabled", YES_NO), need("name", WORD)]);
static INIT: Element = text("init", &[], PATH);
static INIT_ARG: Element = text("initarg", &[], ANY);
static INIT_ENV: Element = text("initenv", &[need("name", ENVIRONMENT)], ANY);
static INIT_DIR: Element = text("initdir", &[], PATH);
static INIT_USER: Element = text("inituser", &[], NAME);
static INIT_GROUP: Element = text("initgroup", &[], NAME);
const FIRMWARE_FORMAT: Value = Value::Word(&["raw", "qcow2"]);
static LOADER: Element = text(
    "loader",
    &[
        opt("readonly", YES_NO),
        opt("secure", YES_NO),
        opt("type", Value::Word(&["rom", "pflash"])),
        opt("stateless", YES_NO),
        opt("format", FIRMWARE_FORMAT),
    ],
    FIRMWARE_PATH,
);
/// A path, or nothing where the firmware is chosen by libvirt.
const FIRMWARE_PATH: Value = super::value::PATH_OR_NOTHING;
/// `<nvram>` with the path of a file.
pub static NVRAM: Element = text(
    "nvram",
    &[opt("template", PATH), opt("templateFormat", FIRMWARE_FORMAT), opt("format", FIRMWARE_FORMAT)],
    FIRMWARE_PATH,
);
/// With a type the place is an element, as for disks.
static NVRAM_SOURCE: Element = element(
    "nvram",
    &[
        need("type", super::storage::SOURCE_TYPES),
        opt("template", PATH),
        opt("templateFormat", FIRMWARE_FORMAT),
        opt("format", FIRMWARE_FORMAT),
    ],
    super::sourced!(;),
)
.switched("type");
static VARSTORE: Element = empty("varstore", &[opt("template", PATH), opt("path", PATH)]);
static KERNEL: Element = text("kernel", &[], PATH);
static INITRD: Element = text("initrd", &[], PATH);
static CMDLINE: Element = text("cmdline", &[], ANY);
static DTB: Element = text("dtb", &[], PATH);
static SHIM: Element = text("shim", &[], PATH);
static ROOT: Element = text("root", &[], PATH);
static ACPI_TABLES: Element = element("acpi", &[], &[many(&ACPI_TABLE)]);
static ACPI_TABLE: Element =
    text("table", &[need("type", Value::Word(&["slic", "msdm", "raw", "rawset"]))], PATH);
static BOOT_DEVICE: Element = empty("boot", &[need("dev", Value::Word(&["fd", "hd", "cdrom", "network"]))]);
static BOOT_MENU: Element = empty("bootmenu", &[need("enable", YES_NO), opt("timeout", SHORT)]);
static BIOS: Element =
    empty("bios", &[opt("useserial", YES_NO), opt("rebootTimeout", Value::Signed { min: -1, max: 65_535 })]);
static SMBIOS: Element = empty("smbios", &[need("mode", Value::Word(&["emulate", "host", "sysinfo"]))]);

pub(super) static SYSINFO: Element = element(
    "sysinfo",
    &[need("type", Value::Word(&["smbios", "fwcfg"]))],
    &[
        one(&SYSINFO_BIOS).when(&["smbios"]),
        one(&SYSINFO_SYSTEM).when(&["smbios"]),
        many(&SYSINFO_BOARD).when(&["smbios"]),
        one(&SYSINFO_CHASSIS).when(&["smbios"]),
        one(&OEM_STRINGS).when(&["smbios"]),
        many(&FW_CFG).when(&["fwcfg"]),
    ],
)
.switched("type");
macro_rules! entries {
    ($static:ident, $entry:ident, $name:literal, $words:expr) => {
        static $static: Element = element($name, &[], &[many(&$entry)]);
        static $entry: Element = text("entry", &[need("name", Value::Word($words))], ANY);
    };
}
entries!(SYSINFO_BIOS, BIOS_ENTRY, "bios", &["vendor", "version", "date", "release"]);
entries!(
    SYSINFO_SYSTEM,
    SYSTEM_ENTRY,
    "system",
    &["manufacturer", "product", "version", "serial", "uuid", "sku", "family",]
);
entries!(
    SYSINFO_BOARD,
    BOARD_ENTRY,
    "baseBoard",
    &["manufacturer", "product", "version", "serial", "asset", "location",]
);
entries!(SYSINFO_CHASSIS, CHASSIS_ENTRY, "chassis", &["manufacturer", "version", "serial", "asset", "sku"]);
static OEM_STRINGS: Element = element("oemStrings", &[], &[many(&OEM_ENTRY)]);
static OEM_ENTRY: Element = text("entry", &[], ANY);
static FW_CFG: Element = text("entry", &[need("name", LINE), opt("file", PATH)], ANY);

pub(super) static FEATURES: Element = element(
    "features",
    &[],
    &[
        one(&ACPI_FLAG),
        one(&APIC),
        one(&PAE),
        one(&HAP),
        one(&VIRIDIAN),
        one(&PRIVNET),
        one(&HYPERV),
        one(&KVM),
        one(&PVSPINLOCK),
        one(&PMU),
        one(&VMPORT),
        one(&GIC),
        one(&SMM),
        one(&IOAPIC),
        one(&HPT),
        one(&VMCOREINFO),
        one(&HTM),
        one(&NESTED_HV),
        one(&MSRS),
        one(&CCF_ASSIST),
        one(&XEN),
        one(&CFPC),
        one(&SBBC),
        one(&IBS),
        one(&TCG),
        one(&ASYNC_TEARDOWN),
        one(&RAS),
        one(&PS2),
        one(&AIA),
    ],
);
static PAE: Element = flag("pae");
static ACPI_FLAG: Element = flag("acpi");
static APIC: Element = empty("apic", &[opt("eoi", ON_OFF)]);
static HAP: Element = empty("hap", STATE);
static VIRIDIAN: Element = flag("viridian");
static PRIVNET: Element = flag("privnet");
macro_rules! states {
    ($states:expr; $($static:ident $name:literal),* $(,)?) => { $(static $static: Element = empty($name, $states);)* };
}
states!(STATE; PVSPINLOCK "pvspinlock", PMU "pmu", VMPORT "vmport", PS2 "ps2", VMCOREINFO "vmcoreinfo");
states!(NEEDED_STATE; RELAXED "relaxed", VAPIC "vapic", VPINDEX "vpindex", RUNTIME "runtime", SYNIC "synic", RESET "reset", FREQUENCIES "frequencies", REENLIGHTENMENT "reenlightenment", IPI "ipi", EVMCS "evmcs", AVIC "avic", EMSR_BITMAP "emsr_bitmap", XMM_INPUT "xmm_input", DIRECT "direct", EXTENDED "extended", HIDDEN "hidden", HINT_DEDICATED "hint-dedicated", POLL_CONTROL "poll-control", PV_IPI "pv-ipi", E820_HOST "e820_host", HTM "htm", NESTED_HV "nested-hv", CCF_ASSIST "ccf-assist", RAS "ras");
static HYPERV: Element = element(
    "hyperv",
    &[or("mode", Value::Word(&["passthrough", "custom", "host-model"]), "custom")],
    &[
        one(&RELAXED),
        one(&VAPIC),
        one(&SPINLOCKS),
        one(&VPINDEX),
        one(&RUNTIME),
        one(&SYNIC),
        one(&STIMER),
        one(&RESET),
        one(&VENDOR_ID),
        one(&FREQUENCIES),
        one(&REENLIGHTENMENT),
        one(&TLBFLUSH),
        one(&IPI),
        one(&EVMCS),
        one(&AVIC),
        one(&EMSR_BITMAP),
        one(&XMM_INPUT),
    ],
);
static SPINLOCKS: Element = empty(
    "spinlocks",
    &[opt("state", ON_OFF), opt("retries", Value::Number { min: 0xfff, max: u32::MAX as u64 })],
);
static STIMER: Element = element("stimer", NEEDED_STATE, &[one(&DIRECT)]);
static TLBFLUSH: Element = element("tlbflush", NEEDED_STATE, &[one(&DIRECT), one(&EXTENDED)]);
static VENDOR_ID: Element = empty("vendor_id", &[need("state", ON_OFF), opt("value", LINE)]);
static KVM: Element = element(
    "kvm",
    &[],
    &[one(&HIDDEN), one(&HINT_DEDICATED), one(&POLL_CONTROL), one(&PV_IPI), one(&DIRTY_RING)],
);
static DIRTY_RING: Element = empty("dirty-ring", &[need("state", ON_OFF), opt("size", UINT)]);
static XEN: Element = element("xen", &[], &[one(&E820_HOST), one(&XEN_PASSTHROUGH)]);
static XEN_PASSTHROUGH: Element =
    empty("passthrough", &[need("state", ON_OFF), opt("mode", Value::Word(&["sync_pt", "share_pt"]))]);
static SMM: Element = element("smm", STATE, &[one(&TSEG)]);
static TSEG: Element = size("tseg", "MiB", &[]);
static IOAPIC: Element = empty("ioapic", &[need("driver", Value::Word(&["kvm", "qemu"]))]);
static GIC: Element = empty("gic", &[opt("version", Value::Word(&["2", "3", "host"]))]);
static HPT: Element = element(
    "hpt",
    &[opt("resizing", Value::Word(&["enabled", "disabled", "required"]))],
    &[one(&MAX_PAGE_SIZE)],
);
static MAX_PAGE_SIZE: Element = size("maxpagesize", "KiB", &[]);
static MSRS: Element = empty("msrs", &[need("unknown", Value::Word(&["ignore", "fault"]))]);
static CFPC: Element = empty("cfpc", &[need("value", Value::Word(&["broken", "workaround", "fixed"]))]);
static SBBC: Element = empty("sbbc", &[need("value", Value::Word(&["broken", "workaround", "fixed"]))]);
static IBS: Element = empty(
    "ibs",
    &[need("value", Value::Word(&["broken", "workaround", "fixed-ibs", "fixed-ccd", "fixed-na"]))],
);
static TCG: Element = element("tcg", &[], &[one(&TB_CACHE)]);
static TB_CACHE: Element = size("tb-cache", "MiB", &[]);
static ASYNC_TEARDOWN: Element = empty("async-teardown", &[opt("enabled", YES_NO)]);
static AIA: Element = empty("aia", &[need("value", Value::Word(&["none", "aplic", "aplic-imsic"]))]);

pub(super) static CLOCK: Element = element(
    "clock",
    &[
        need("offset", Value::Word(&["utc", "localtime", "variable", "timezone", "absolute"])),
        opt("adjustment", ADJUSTMENT).when(&["utc", "localtime", "variable"]),
        opt("basis", Value::Word(&["utc", "localtime"])).when(&["variable"]),
        need("timezone", LINE).when(&["timezone"]),
        need("start", ULONG).when(&["absolute"]),
    ],
    &[many(&TIMER)],
)
.switched("offset");
static TIMER: Element = element(
    "timer",
    &[
        need(
            "name",
            Value::Word(&["platform", "pit", "rtc", "hpet", "tsc", "kvmclock", "hypervclock", "armvtimer"]),
        ),
        opt("present", YES_NO),
        opt("tickpolicy", Value::Word(&["delay", "catchup", "merge", "discard"])),
        opt("track", Value::Word(&["boot", "guest", "wall", "realtime"])),
        opt("frequency", ULONG),
        opt("mode", Value::Word(&["auto", "native", "emulate", "paravirt", "smpsafe"])),
    ],
    &[one(&CATCHUP)],
);
static CATCHUP: Element = empty("catchup", &[opt("threshold", UINT), opt("slew", UINT), opt("limit", UINT)]);

pub(super) static PM: Element = element("pm", &[], &[one(&SUSPEND_MEMORY), one(&SUSPEND_DISK)]);
static SUSPEND_MEMORY: Element = empty("suspend-to-mem", &[opt("enabled", YES_NO)]);
static SUSPEND_DISK: Element = empty("suspend-to-disk", &[opt("enabled", YES_NO)]);

const ACTIONS: Value = Value::Word(&["destroy", "restart", "rename-restart", "preserve"]);
pub(super) static ON_POWEROFF: Element = text("on_poweroff", &[], ACTIONS);
pub(super) static ON_REBOOT: Element = text("on_reboot", &[], ACTIONS);
pub(super) static ON_CRASH: Element = text(
    "on_crash",
    &[],
    Value::Word(&[
        "destroy",
        "restart",
        "rename-restart",
        "preserve",
        "coredump-destroy",
        "coredump-restart",
    ]),
);
pub(super) static ON_LOCKFAILURE: Element =
    text("on_lockfailure", &[], Value::Word(&["poweroff", "restart", "pause", "ignore"]));

pub(super) static PERF: Element = element("perf", &[], &[many(&PERF_EVENT)]);
static PERF_EVENT: Element = empty("event", &[need("name", WORD), need("enabled", YES_NO)]);
