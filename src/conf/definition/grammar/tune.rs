//! Memory, processors and their tuning.

use super::value::{ANY, CPUSET, LINE, ON_OFF, PATH, POSITIVE, SHORT, UINT, ULONG, UNIT, WORD, YES_NO};
use super::{Element, Value, element, empty, flag, many, must, need, one, opt, or, size, text};

pub(super) static MEMORY: Element = size("memory", "KiB", &[opt("dumpCore", ON_OFF)]);
pub(super) static CURRENT_MEMORY: Element = size("currentMemory", "KiB", &[]);
pub(super) static MAX_MEMORY: Element = size("maxMemory", "KiB", &[opt("slots", POSITIVE)]);

pub(super) static MEMORY_BACKING: Element = element(
    "memoryBacking",
    &[],
    &[
        one(&HUGEPAGES),
        one(&NO_SHARE),
        one(&LOCKED),
        one(&BACKING_SOURCE),
        one(&BACKING_ACCESS),
        one(&ALLOCATION),
        one(&DISCARD),
    ],
);
static HUGEPAGES: Element = element("hugepages", &[], &[many(&PAGE)]);
static PAGE: Element = empty("page", &[need("size", ULONG), or("unit", UNIT, "KiB"), opt("nodeset", CPUSET)]);
static NO_SHARE: Element = flag("nosharepages");
static LOCKED: Element = flag("locked");
static BACKING_SOURCE: Element =
    empty("source", &[need("type", Value::Word(&["file", "anonymous", "memfd"]))]);
static BACKING_ACCESS: Element = empty("access", &[need("mode", Value::Word(&["shared", "private"]))]);
static ALLOCATION: Element =
    empty("allocation", &[opt("mode", Value::Word(&["immediate", "ondemand"])), opt("threads", POSITIVE)]);
static DISCARD: Element = flag("discard");

const VCPUS: Value = Value::Number { min: 1, max: 65_535 };
pub(super) static VCPU: Element = text(
    "vcpu",
    &[opt("placement", Value::Word(&["static", "auto"])), opt("cpuset", CPUSET), opt("current", VCPUS)],
    VCPUS,
);
pub(super) static VCPU_LIST: Element = element("vcpus", &[], &[many(&VCPU_ENTRY)]);
static VCPU_ENTRY: Element = empty(
    "vcpu",
    &[need("id", UINT), need("enabled", YES_NO), opt("hotpluggable", YES_NO), opt("order", POSITIVE)],
);
pub(super) static IOTHREADS: Element = text("iothreads", &[], UINT);
pub(super) static IOTHREAD_IDS: Element = element("iothreadids", &[], &[many(&IOTHREAD_ID)]);
static IOTHREAD_ID: Element = element(
    "iothread",
    &[need("id", POSITIVE), opt("thread_pool_min", UINT), opt("thread_pool_max", UINT)],
    &[one(&IOTHREAD_POLL)],
);
static IOTHREAD_POLL: Element = empty("poll", &[opt("max", UINT), opt("grow", UINT), opt("shrink", UINT)]);
pub(super) static DEFAULT_IOTHREAD: Element =
    empty("defaultiothread", &[opt("thread_pool_min", UINT), opt("thread_pool_max", UINT)]);

const WEIGHTS: Value = Value::Number { min: 100, max: 1000 };
pub(super) static BLKIOTUNE: Element = element("blkiotune", &[], &[one(&WEIGHT), many(&BLKIO_DEVICE)]);
static WEIGHT: Element = text("weight", &[], WEIGHTS);
static BLKIO_DEVICE: Element = element(
    "device",
    &[],
    &[
        must(&BLKIO_PATH),
        one(&WEIGHT),
        one(&BLKIO_READ_IOPS),
        one(&BLKIO_WRITE_IOPS),
        one(&BLKIO_READ_BYTES),
        one(&BLKIO_WRITE_BYTES),
    ],
);
static BLKIO_PATH: Element = text("path", &[], PATH);
static BLKIO_READ_IOPS: Element = text("read_iops_sec", &[], UINT);
static BLKIO_WRITE_IOPS: Element = text("write_iops_sec", &[], UINT);
static BLKIO_READ_BYTES: Element = text("read_bytes_sec", &[], ULONG);
static BLKIO_WRITE_BYTES: Element = text("write_bytes_sec", &[], ULONG);

pub(super) static MEMTUNE: Element =
    element("memtune", &[], &[one(&HARD_LIMIT), one(&SOFT_LIMIT), one(&MIN_GUARANTEE), one(&SWAP_LIMIT)]);
static HARD_LIMIT: Element = size("hard_limit", "KiB", &[]);
static SOFT_LIMIT: Element = size("soft_limit", "KiB", &[]);
static MIN_GUARANTEE: Element = size("min_guarantee", "KiB", &[]);
static SWAP_LIMIT: Element = size("swap_hard_limit", "KiB", &[]);

pub(super) static CPUTUNE: Element = element(
    "cputune",
    &[],
    &[
        one(&SHARES),
        one(&PERIOD),
        one(&QUOTA),
        one(&GLOBAL_PERIOD),
        one(&GLOBAL_QUOTA),
        one(&EMULATOR_PERIOD),
        one(&EMULATOR_QUOTA),
        one(&IOTHREAD_PERIOD),
        one(&IOTHREAD_QUOTA),
        many(&VCPU_PIN),
        one(&EMULATOR_PIN),
        many(&IOTHREAD_PIN),
        one(&EMULATOR_SCHED),
        many(&VCPU_SCHED),
        many(&IOTHREAD_SCHED),
        many(&CACHETUNE),
        many(&MEMORYTUNE),
    ],
);
const PERIODS: Value = Value::Number { min: 1000, max: 1_000_000 };
const QUOTAS: Value = Value::Signed { min: -1, max: 17_592_186_044_415 };
static SHARES: Element = text("shares", &[], Value::Number { min: 1, max: 262_144 });
static PERIOD: Element = text("period", &[], PERIODS);
static QUOTA: Element = text("quota", &[], QUOTAS);
static GLOBAL_PERIOD: Element = text("global_period", &[], PERIODS);
static GLOBAL_QUOTA: Element = text("global_quota", &[], QUOTAS);
static EMULATOR_PERIOD: Element = text("emulator_period", &[], PERIODS);
static EMULATOR_QUOTA: Element = text("emulator_quota", &[], QUOTAS);
static IOTHREAD_PERIOD: Element = text("iothread_period", &[], PERIODS);
static IOTHREAD_QUOTA: Element = text("iothread_quota", &[], QUOTAS);
static VCPU_PIN: Element = empty("vcpupin", &[need("vcpu", SHORT), need("cpuset", CPUSET)]);
static EMULATOR_PIN: Element = empty("emulatorpin", &[need("cpuset", CPUSET)]);
static IOTHREAD_PIN: Element = empty("iothreadpin", &[need("iothread", POSITIVE), need("cpuset", CPUSET)]);
const SCHEDULERS: Value = Value::Word(&["batch", "idle", "fifo", "rr"]);
static VCPU_SCHED: Element =
    empty("vcpusched", &[need("vcpus", CPUSET), need("scheduler", SCHEDULERS), opt("priority", SHORT)]);
static IOTHREAD_SCHED: Element = empty(
    "iothreadsched",
    &[need("iothreads", CPUSET), need("scheduler", SCHEDULERS), opt("priority", SHORT)],
);
static EMULATOR_SCHED: Element =
    empty("emulatorsched", &[need("scheduler", SCHEDULERS), opt("priority", SHORT)]);
static CACHETUNE: Element = element(
    "cachetune",
    &[need("vcpus", CPUSET), opt("id", WORD).running()],
    &[many(&TUNE_CACHE), many(&CACHE_MONITOR)],
);
static TUNE_CACHE: Element = empty(
    "cache",
    &[
        need("id", UINT),
        need("level", UINT),
        need("type", Value::Word(&["both", "code", "data"])),
        need("size", ULONG),
        or("unit", UNIT, "B"),
    ],
);
static CACHE_MONITOR: Element = empty("monitor", &[need("level", UINT), need("vcpus", CPUSET)]);
static MEMORYTUNE: Element =
    element("memorytune", &[need("vcpus", CPUSET)], &[many(&TUNE_NODE), many(&MEMORY_MONITOR)]);
static TUNE_NODE: Element = empty("node", &[need("id", UINT), need("bandwidth", UINT)]);
static MEMORY_MONITOR: Element = empty("monitor", &[need("vcpus", CPUSET)]);

const NUMA_MODES: Value = Value::Word(&["strict", "preferred", "interleave", "restrictive"]);
pub(super) static NUMATUNE: Element = element("numatune", &[], &[one(&NUMA_MEMORY), many(&MEMNODE)]);
static NUMA_MEMORY: Element = empty(
    "memory",
    &[
        or("mode", NUMA_MODES, "strict"),
        opt("placement", Value::Word(&["static", "auto"])),
        opt("nodeset", CPUSET),
    ],
);
static MEMNODE: Element =
    empty("memnode", &[need("cellid", UINT), need("mode", NUMA_MODES), need("nodeset", CPUSET)]);

pub(super) static RESOURCE: Element = element("resource", &[], &[one(&PARTITION), one(&FIBRE_CHANNEL)]);
static PARTITION: Element = text("partition", &[], PATH);
static FIBRE_CHANNEL: Element = empty("fibrechannel", &[need("appid", LINE)]);

pub(super) static ID_MAP: Element = element("idmap", &[], &[many(&ID_UID), many(&ID_GID)]);
static ID_UID: Element = empty("uid", &[need("start", UINT), need("target", UINT), need("count", UINT)]);
static ID_GID: Element = empty("gid", &[need("start", UINT), need("target", UINT), need("count", UINT)]);

pub(super) static BOOTLOADER: Element = text("bootloader", &[], PATH);
pub(super) static BOOTLOADER_ARGS: Element = text("bootloader_args", &[], ANY);
