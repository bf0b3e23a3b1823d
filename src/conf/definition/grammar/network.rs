//! `<interface>`.

use super::common::{
    ACPI, ADDRESS, ALIAS_NAME, ATS, BOOT, FAMILY, IOMMU, PACKED, PAGE_PER_VQ, RECONNECT, ROM,
};
use super::host::{HOST_PRODUCT, HOST_USB, HOST_VENDOR};
use super::storage::BACKEND_DOMAIN;
use super::value::{
    ALIAS, BYTE, DEVICE, FILE, HOST, IP, LINE, MAC, ON_OFF, PATH, PORT, POSITIVE, SHORT, UINT, UUID, WORD,
    YES_NO,
};
use super::{Element, Value, element, empty, many, must, need, one, opt, or, text};

pub(super) static INTERFACE: Element = element(
    "interface",
    &[
        need(
            "type",
            Value::Word(&[
                "user",
                "ethernet",
                "vhostuser",
                "server",
                "client",
                "mcast",
                "network",
                "bridge",
                "internal",
                "direct",
                "hostdev",
                "udp",
                "vdpa",
                "null",
                "vds",
            ]),
        ),
        opt("managed", YES_NO).when(&["hostdev"]),
        opt("trustGuestRxFilters", YES_NO),
    ],
    &[
        one(&MAC_ADDRESS),
        one(&USER_SOURCE).when(&["user"]),
        one(&ETHERNET_SOURCE).when(&["ethernet"]),
        must(&NETWORK_SOURCE).when(&["network"]),
        must(&BRIDGE_SOURCE).when(&["bridge"]),
        must(&DIRECT_SOURCE).when(&["direct"]),
        must(&SOCKET_SOURCE).when(&["server", "client", "mcast", "udp"]),
        must(&VHOST_USER_SOURCE).when(&["vhostuser"]),
        must(&INTERNAL_SOURCE).when(&["internal"]),
        must(&VDPA_SOURCE).when(&["vdpa"]),
        must(&HOSTDEV_SOURCE).when(&["hostdev"]),
        must(&VDS_SOURCE).when(&["vds"]),
        one(&VLAN),
        one(&VIRTUAL_PORT),
        one(&BANDWIDTH),
        one(&PORT_ISOLATION),
        many(&NET_IP),
        many(&NET_ROUTE),
        many(&PORT_FORWARD).when(&["user", "vhostuser"]),
        one(&SCRIPT),
        one(&DOWN_SCRIPT),
        one(&BACKEND_DOMAIN),
        one(&NET_TARGET),
        one(&NET_GUEST),
        one(&NET_MODEL),
        one(&NET_DRIVER),
        one(&BACKEND),
        one(&FILTER_REF),
        one(&TUNE),
        one(&TEAMING),
        one(&LINK),
        one(&MTU),
        one(&COALESCE),
        one(&BOOT),
        one(&ALIAS_NAME),
        one(&ROM),
        one(&ACPI),
        one(&ADDRESS),
    ],
)
.switched("type");

static MAC_ADDRESS: Element = empty(
    "mac",
    &[
        need("address", MAC),
        opt("type", Value::Word(&["generated", "static"])),
        opt("check", YES_NO),
        opt("currentAddress", MAC).running(),
    ],
);
static USER_SOURCE: Element = empty("source", &[opt("dev", DEVICE)]);
static ETHERNET_SOURCE: Element = element("source", &[], &[many(&NET_IP), many(&NET_ROUTE)]);
static NETWORK_SOURCE: Element = empty(
    "source",
    &[
        need("network", LINE),
        opt("portgroup", DEVICE),
        opt("portid", UUID).running(),
        opt("bridge", DEVICE).running(),
    ],
);
static BRIDGE_SOURCE: Element =
    empty("source", &[need("bridge", DEVICE), opt("macTableManager", Value::Word(&["kernel", "libvirt"]))]);
static DIRECT_SOURCE: Element = empty(
    "source",
    &[need("dev", DEVICE), or("mode", Value::Word(&["vepa", "bridge", "private", "passthrough"]), "vepa")],
);
static SOCKET_SOURCE: Element =
    element("source", &[opt("address", HOST), need("port", PORT)], &[one(&LOCAL)]);
static LOCAL: Element = empty("local", &[opt("address", HOST), need("port", PORT)]);
static VHOST_USER_SOURCE: Element = element(
    "source",
    &[
        opt("type", Value::Word(&["unix"])),
        opt("path", PATH),
        opt("mode", Value::Word(&["server", "client"])),
        opt("dev", DEVICE),
    ],
    &[one(&RECONNECT)],
);
static INTERNAL_SOURCE: Element = empty("source", &[need("name", DEVICE)]);
static VDPA_SOURCE: Element = empty("source", &[need("dev", PATH)]);
static HOSTDEV_SOURCE: Element =
    element("source", &[opt("missing", YES_NO)], &[one(&HOST_VENDOR), one(&HOST_PRODUCT), must(&HOST_USB)]);
static VDS_SOURCE: Element = empty(
    "source",
    &[need("switchid", UUID), need("portid", UINT), need("portgroupid", LINE), need("connectionid", UINT)],
);

static VLAN: Element = element("vlan", &[opt("trunk", Value::Word(&["yes"]))], &[many(&VLAN_TAG)]);
static VLAN_TAG: Element = empty(
    "tag",
    &[
        need("id", Value::Number { min: 0, max: 4095 }),
        opt("nativeMode", Value::Word(&["tagged", "untagged"])),
    ],
);
static VIRTUAL_PORT: Element = element(
    "virtualport",
    &[opt("type", Value::Word(&["802.1Qbg", "802.1Qbh", "openvswitch", "midonet"]))],
    &[one(&VIRTUAL_PORT_PARAMETERS)],
);
static VIRTUAL_PORT_PARAMETERS: Element = empty(
    "parameters",
    &[
        opt("managerid", BYTE),
        opt("typeid", UINT),
        opt("typeidversion", BYTE),
        opt("instanceid", UUID),
        opt("interfaceid", UUID),
        opt("profileid", LINE),
    ],
);
pub(super) static NET_IP: Element = empty(
    "ip",
    &[
        need("address", IP),
        opt("family", FAMILY),
        opt("prefix", Value::Number { min: 0, max: 128 }),
        opt("peer", IP),
    ],
);
pub(super) static NET_ROUTE: Element = empty(
    "route",
    &[
        opt("family", FAMILY),
        need("address", IP),
        opt("netmask", IP),
        opt("prefix", Value::Number { min: 0, max: 128 }),
        need("gateway", IP),
        opt("metric", POSITIVE),
    ],
);
static PORT_FORWARD: Element = element(
    "portForward",
    &[need("proto", Value::Word(&["tcp", "udp"])), opt("address", IP), opt("dev", DEVICE)],
    &[many(&RANGE)],
);
static RANGE: Element =
    empty("range", &[need("start", SHORT), opt("end", SHORT), opt("to", SHORT), opt("exclude", YES_NO)]);
static BANDWIDTH: Element =
    element("bandwidth", &[opt("classID", POSITIVE)], &[one(&INBOUND), one(&OUTBOUND)]);
static INBOUND: Element = empty(
    "inbound",
    &[opt("average", POSITIVE), opt("peak", POSITIVE), opt("floor", POSITIVE), opt("burst", POSITIVE)],
);
static OUTBOUND: Element =
    empty("outbound", &[opt("average", POSITIVE), opt("peak", POSITIVE), opt("burst", POSITIVE)]);
static SCRIPT: Element = empty("script", &[need("path", FILE)]);
static DOWN_SCRIPT: Element = empty("downscript", &[need("path", FILE)]);
static NET_TARGET: Element = empty("target", &[opt("dev", DEVICE), opt("managed", YES_NO)]);
static NET_GUEST: Element = empty("guest", &[opt("dev", DEVICE), opt("actual", DEVICE).running()]);
static NET_MODEL: Element = empty("model", &[need("type", WORD)]);
static NET_DRIVER: Element = element(
    "driver",
    &[
        opt("name", Value::Word(&["qemu", "vhost", "vfio", "kvm", "xen"])),
        opt("txmode", Value::Word(&["iothread", "timer"])),
        opt("ioeventfd", ON_OFF),
        opt("event_idx", ON_OFF),
        opt("queues", POSITIVE),
        opt("rx_queue_size", POSITIVE),
        opt("tx_queue_size", POSITIVE),
        opt("rss", ON_OFF),
        opt("rss_hash_report", ON_OFF),
        opt("model", WORD),
        IOMMU,
        ATS,
        PACKED,
        PAGE_PER_VQ,
    ],
    &[one(&HOST_OFFLOAD), one(&GUEST_OFFLOAD)],
);
static HOST_OFFLOAD: Element = empty(
    "host",
    &[
        opt("csum", ON_OFF),
        opt("gso", ON_OFF),
        opt("tso4", ON_OFF),
        opt("tso6", ON_OFF),
        opt("ecn", ON_OFF),
        opt("ufo", ON_OFF),
        opt("mrg_rxbuf", ON_OFF),
    ],
);
static GUEST_OFFLOAD: Element = empty(
    "guest",
    &[opt("csum", ON_OFF), opt("tso4", ON_OFF), opt("tso6", ON_OFF), opt("ecn", ON_OFF), opt("ufo", ON_OFF)],
);
static BACKEND: Element = empty(
    "backend",
    &[
        opt("type", Value::Word(&["default", "passt"])),
        opt("tap", PATH),
        opt("vhost", PATH),
        opt("logFile", PATH),
        opt("hostname", HOST),
        opt("fqdn", HOST),
    ],
);
static FILTER_REF: Element = element("filterref", &[need("filter", ALIAS)], &[many(&FILTER_PARAMETER)]);
static FILTER_PARAMETER: Element = empty("parameter", &[need("name", WORD), need("value", HOST)]);
static LINK: Element = empty("link", &[need("state", Value::Word(&["up", "down"]))]);
static TUNE: Element = element("tune", &[], &[one(&SNDBUF)]);
static SNDBUF: Element = text("sndbuf", &[], UINT);
static MTU: Element = empty("mtu", &[need("size", SHORT)]);
static COALESCE: Element = element("coalesce", &[], &[one(&COALESCE_RX)]);
static COALESCE_RX: Element = element("rx", &[], &[one(&COALESCE_FRAMES)]);
static COALESCE_FRAMES: Element = empty("frames", &[opt("max", UINT)]);
static PORT_ISOLATION: Element = empty("port", &[need("isolated", YES_NO)]);
pub(super) static TEAMING: Element =
    empty("teaming", &[need("type", Value::Word(&["persistent", "transient"])), opt("persistent", ALIAS)]);
