//! Where an image lies: `<source>` of every type, the chain below it, formats and encryption.

use super::common::{DEVICE_LABEL, HOST_PCI, RECONNECT, SECRET};
use super::value::{ANY, DIRECTORY, FILE, HOST, LINE, NAME, PATH, PORT, POSITIVE, UINT, ULONG, WORD, YES_NO};
use super::{Attribute, Child, Element, Value, element, empty, flag, many, must, need, one, opt, size, text};

pub(super) const SOURCE_TYPES: Value =
    Value::Word(&["file", "block", "dir", "network", "volume", "nvme", "vhostuser", "vhostvdpa"]);

pub(super) const FORMATS: Value = Value::Word(&[
    "raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhd", "luks", "dir", "bochs", "cloop", "dmg",
    "iso", "fat", "ploop", "cow", "aio",
]);

const POLICY: Attribute = opt("startupPolicy", Value::Word(&["mandatory", "requisite", "optional"]));
const INDEX: Attribute = opt("index", UINT).running();
const FD_GROUP: Attribute = opt("fdgroup", LINE);

const LABELS: Child = many(&DEVICE_LABEL);
const SLICED: Child = one(&SLICES);
const PRIVATE: Child = one(&PRIVATE_DATA).running();

pub(super) static SOURCE_FILE: Element = element(
    "source",
    &[opt("file", FILE), FD_GROUP, POLICY, INDEX],
    &[SLICED, LABELS, one(&RESERVATIONS), one(&ENCRYPTION), PRIVATE, one(&DATA_STORE)],
);
pub(super) static SOURCE_BLOCK: Element = element(
    "source",
    &[opt("dev", FILE), FD_GROUP, POLICY, INDEX],
    &[SLICED, LABELS, one(&RESERVATIONS), one(&ENCRYPTION), PRIVATE, one(&DATA_STORE)],
);
pub(super) static SOURCE_DIR: Element = element("source", &[need("dir", DIRECTORY), POLICY, INDEX], &[]);
pub(super) static SOURCE_VOLUME: Element = element(
    "source",
    &[need("pool", LINE), need("volume", LINE), opt("mode", Value::Word(&["host", "direct"])), POLICY, INDEX],
    &[SLICED, LABELS, one(&RESERVATIONS), one(&ENCRYPTION)],
);
pub(super) static SOURCE_NVME: Element = element(
    "source",
    &[need("type", Value::Word(&["pci"])), need("managed", YES_NO), need("namespace", POSITIVE), INDEX],
    &[must(&HOST_PCI), SLICED, one(&ENCRYPTION), one(&DATA_STORE)],
);
pub(super) static SOURCE_VHOST_USER: Element =
    element("source", &[need("type", Value::Word(&["unix"])), need("path", PATH), INDEX], &[one(&RECONNECT)]);
pub(super) static SOURCE_VDPA: Element = element("source", &[need("dev", PATH), INDEX], &[]);
pub(super) static SOURCE_NETWORK: Element = element(
    "source",
    &[
        need(
            "protocol",
            Value::Word(&[
                "nbd", "gluster", "rbd", "iscsi", "http", "https", "ftps", "ftp", "sheepdog", "tftp", "vxhs",
                "nfs", "ssh",
            ]),
        ),
        opt("name", ANY),
        opt("query", ANY),
        opt("tls", YES_NO),
        opt("tlsHostname", HOST),
        POLICY,
        INDEX,
    ],
    &[
        many(&STORAGE_HOST),
        one(&SNAPSHOT),
        one(&CONFIG),
        one(&INITIATOR),
        SLICED,
        one(&SSL),
        one(&COOKIES),
        one(&READAHEAD),
        one(&TIMEOUT),
        one(&KNOWN_HOSTS),
        one(&AUTH),
        one(&IDENTITY),
        one(&RESERVATIONS),
        one(&ENCRYPTION),
        one(&RECONNECT_DELAY),
        one(&DATA_STORE),
    ],
);

static STORAGE_HOST: Element = empty(
    "host",
    &[
        opt("name", HOST),
        opt("port", PORT),
        opt("transport", Value::Word(&["tcp", "rdma", "unix"])),
        opt("socket", PATH),
    ],
);
static SNAPSHOT: Element = empty("snapshot", &[need("name", LINE)]);
static CONFIG: Element = empty("config", &[need("file", PATH)]);
pub(super) static AUTH: Element = element("auth", &[need("username", LINE)], &[must(&SECRET)]);
pub(super) static INITIATOR: Element = element("initiator", &[], &[must(&IQN)]);
static IQN: Element = empty("iqn", &[need("name", LINE)]);
static SSL: Element = empty("ssl", &[need("verify", YES_NO)]);
static COOKIES: Element = element("cookies", &[], &[many(&COOKIE)]);
static COOKIE: Element = text("cookie", &[need("name", LINE)], LINE);
static READAHEAD: Element = empty("readahead", &[need("size", POSITIVE)]);
static TIMEOUT: Element = empty("timeout", &[need("seconds", POSITIVE)]);
static RECONNECT_DELAY: Element =
    empty("reconnect", &[opt("enabled", YES_NO), opt("timeout", UINT), opt("delay", UINT)]);
static IDENTITY: Element = empty(
    "identity",
    &[
        opt("user", NAME),
        opt("group", NAME),
        opt("username", NAME),
        opt("keyfile", PATH),
        opt("agentsock", PATH),
    ],
);
static KNOWN_HOSTS: Element = empty("knownHosts", &[need("path", PATH)]);
static SLICES: Element = element("slices", &[], &[must(&SLICE)]);
static SLICE: Element =
    empty("slice", &[need("type", Value::Word(&["storage"])), need("offset", ULONG), need("size", ULONG)]);
static PRIVATE_DATA: Element =
    Element { name: "privateData", switch: None, attributes: &[], body: super::Body::Foreign };

static RESERVATIONS: Element = element(
    "reservations",
    &[need("managed", YES_NO), opt("migration", YES_NO)],
    &[one(&RESERVATIONS_SOURCE)],
);
static RESERVATIONS_SOURCE: Element = element(
    "source",
    &[need("type", Value::Word(&["unix"])), opt("path", PATH), need("mode", Value::Word(&["client"]))],
    &[one(&RECONNECT)],
);

pub(super) static ENCRYPTION: Element = element(
    "encryption",
    &[
        need("format", Value::Word(&["default", "qcow", "luks", "luks2", "luks-any"])),
        opt("engine", Value::Word(&["qemu", "librbd"])),
    ],
    &[many(&SECRET), one(&CIPHER), one(&IVGEN)],
);
static CIPHER: Element =
    empty("cipher", &[need("name", WORD), need("size", POSITIVE), opt("mode", WORD), opt("hash", WORD)]);
static IVGEN: Element = empty("ivgen", &[need("name", WORD), opt("hash", WORD)]);

static DATA_STORE: Element =
    element("dataStore", &[need("type", SOURCE_TYPES)], super::sourced!(must(&FORMAT); )).switched("type");

pub(super) static FORMAT: Element = element("format", &[need("type", FORMATS)], &[one(&METADATA_CACHE)]);
pub(super) static METADATA_CACHE: Element = element("metadata_cache", &[], &[must(&MAX_SIZE)]);
static MAX_SIZE: Element = size("max_size", "bytes", &[]);

/// `<backingStore>`: one layer; without anything the end of the chain.
pub(super) static BACKING_STORE: Element = element(
    "backingStore",
    &[opt("type", SOURCE_TYPES), opt("index", UINT).running()],
    super::sourced!(one(&FORMAT); one(&BACKING_STORE)),
)
.switched("type");

pub(super) static MIRROR: Element = element(
    "mirror",
    &[
        opt("type", SOURCE_TYPES),
        opt("file", FILE),
        opt("format", FORMATS),
        opt("job", Value::Word(&["copy", "active-commit"])),
        opt("ready", Value::Word(&["yes", "abort", "pivot"])),
    ],
    super::sourced!(one(&FORMAT); one(&BACKING_STORE)),
)
.switched("type");

pub(super) static BACKEND_DOMAIN: Element = empty("backenddomain", &[need("name", LINE)]);
pub(super) static READONLY: Element = flag("readonly");
pub(super) static SHAREABLE: Element = flag("shareable");
