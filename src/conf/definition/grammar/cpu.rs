//! `<cpu>`, with its topology, features and NUMA cells.

use super::value::{CPUSET, LINE, ON_OFF, POSITIVE, UINT, ULONG, UNIT, WORD, YES_NO};
use super::{Element, Value, element, empty, many, must, need, one, opt, or, text};

pub(super) static CPU: Element = element(
    "cpu",
    &[
        opt("mode", Value::Word(&["custom", "host-model", "host-passthrough", "maximum"])),
        opt("match", Value::Word(&["minimum", "exact", "strict"])),
        opt("check", Value::Word(&["none", "partial", "full"])),
        opt("migratable", ON_OFF),
        opt("deprecated_features", ON_OFF),
    ],
    &[
        one(&CPU_MODEL),
        one(&CPU_VENDOR),
        one(&TOPOLOGY),
        one(&CPU_CACHE),
        one(&MAX_ADDRESS),
        many(&CPU_FEATURE),
        one(&NUMA),
    ],
);
static CPU_MODEL: Element = text(
    "model",
    &[opt("fallback", Value::Word(&["allow", "forbid"])), opt("vendor_id", LINE)],
    super::value::ANY,
);
static CPU_VENDOR: Element = text("vendor", &[], LINE);
static MAX_ADDRESS: Element = empty(
    "maxphysaddr",
    &[need("mode", Value::Word(&["emulate", "passthrough"])), opt("bits", POSITIVE), opt("limit", POSITIVE)],
);
static TOPOLOGY: Element = empty(
    "topology",
    &[
        need("sockets", POSITIVE),
        or("dies", POSITIVE, "1"),
        opt("clusters", POSITIVE),
        need("cores", POSITIVE),
        need("threads", POSITIVE),
    ],
);
static CPU_CACHE: Element = empty(
    "cache",
    &[
        opt("level", Value::Number { min: 1, max: 3 }),
        need("mode", Value::Word(&["emulate", "passthrough", "disable"])),
    ],
);
static CPU_FEATURE: Element = empty(
    "feature",
    &[opt("policy", Value::Word(&["force", "require", "optional", "disable", "forbid"])), need("name", WORD)],
);

static NUMA: Element = element("numa", &[], &[many(&CELL), one(&INTERCONNECTS)]);
static CELL: Element = element(
    "cell",
    &[
        opt("id", UINT),
        opt("cpus", CPUSET),
        need("memory", ULONG),
        or("unit", UNIT, "KiB"),
        opt("memAccess", Value::Word(&["shared", "private"])),
        opt("discard", YES_NO),
    ],
    &[one(&DISTANCES), many(&CELL_CACHE)],
);
static DISTANCES: Element = element("distances", &[], &[many(&SIBLING)]);
static SIBLING: Element =
    empty("sibling", &[need("id", UINT), need("value", Value::Number { min: 10, max: 255 })]);
static CELL_CACHE: Element = element(
    "cache",
    &[
        need("level", UINT),
        need("associativity", Value::Word(&["none", "direct", "full"])),
        need("policy", Value::Word(&["none", "writeback", "writethrough"])),
    ],
    &[must(&CACHE_SIZE), must(&CACHE_LINE)],
);
static CACHE_SIZE: Element = empty("size", &[need("value", UINT), need("unit", UNIT)]);
static CACHE_LINE: Element = empty("line", &[need("value", UINT), need("unit", UNIT)]);
static INTERCONNECTS: Element = element("interconnects", &[], &[many(&LATENCY), many(&BANDWIDTH)]);
const ACCESS: Value = Value::Word(&["access", "read", "write"]);
static LATENCY: Element = empty(
    "latency",
    &[
        need("initiator", UINT),
        need("target", UINT),
        opt("cache", UINT),
        need("type", ACCESS),
        need("value", POSITIVE),
    ],
);
static BANDWIDTH: Element = empty(
    "bandwidth",
    &[
        need("initiator", UINT),
        need("target", UINT),
        opt("cache", UINT),
        need("type", ACCESS),
        need("value", POSITIVE),
        or("unit", UNIT, "KiB"),
    ],
);
