//! Character devices: `<serial>`, `<parallel>`, `<console>`, `<channel>`, `<smartcard>`, `<redirdev>`, and the
//! backends of `<rng>` and `<tpm>` that are such devices.

use super::common::{ACPI, ADDRESS, ALIAS_NAME, BOOT, DEVICE_LABEL, RECONNECT};
use super::value::{ANY, DIRECTORY, FILE, HOST, IP, LINE, ON_OFF, PATH, PORT, UINT, YES_NO};
use super::{Attribute, Element, Value, element, empty, many, must, need, one, opt, text};

/// The kinds of character devices.
const TYPES: Value = Value::Word(&[
    "pty",
    "null",
    "vc",
    "dev",
    "file",
    "pipe",
    "stdio",
    "udp",
    "tcp",
    "unix",
    "spicevmc",
    "spiceport",
    "nmdm",
    "qemu-vdagent",
    "dbus",
]);
const TYPE: Attribute = need("type", TYPES);
const TTY: Attribute = opt("tty", PATH).running();

/// The sources that go with the type, the protocol and the log; then what is given.
macro_rules! chardev {
    ($($after:expr),* $(,)?) => {
        &[
            one(&PTY_SOURCE).when(&["pty"]),
            must(&DEV_SOURCE).when(&["dev", "pipe"]),
            must(&FILE_SOURCE).when(&["file"]),
            one(&UNIX_SOURCE).when(&["unix"]),
            must(&TCP_SOURCE).when(&["tcp"]),
            many(&UDP_SOURCE).when(&["udp"]),
            must(&PORT_SOURCE).when(&["spiceport", "dbus"]),
            must(&NMDM_SOURCE).when(&["nmdm"]),
            one(&AGENT_SOURCE).when(&["qemu-vdagent"]),
            one(&PROTOCOL).when(&["tcp"]),
            one(&LOG),
            $($after,)*
        ]
    };
}

static PTY_SOURCE: Element = element("source", &[opt("path", PATH).running()], &[many(&DEVICE_LABEL)]);
static DEV_SOURCE: Element = element("source", &[need("path", PATH)], &[many(&DEVICE_LABEL)]);
static FILE_SOURCE: Element =
    element("source", &[need("path", FILE), opt("append", ON_OFF)], &[many(&DEVICE_LABEL)]);
static UNIX_SOURCE: Element = element(
    "source",
    &[opt("mode", Value::Word(&["bind", "connect"])), opt("path", FILE)],
    &[one(&RECONNECT), many(&DEVICE_LABEL)],
);
static TCP_SOURCE: Element = element(
    "source",
    &[
        need("mode", Value::Word(&["bind", "connect"])),
        need("host", HOST),
        need("service", LINE),
        opt("tls", YES_NO),
    ],
    &[one(&RECONNECT)],
);
static UDP_SOURCE: Element = empty(
    "source",
    &[need("mode", Value::Word(&["bind", "connect"])), opt("host", HOST), opt("service", LINE)],
);
static PORT_SOURCE: Element = empty("source", &[need("channel", LINE)]);
static NMDM_SOURCE: Element = empty("source", &[need("master", PATH), need("slave", PATH)]);
static AGENT_SOURCE: Element = element("source", &[], &[one(&AGENT_CLIPBOARD), one(&AGENT_MOUSE)]);
static AGENT_CLIPBOARD: Element = empty("clipboard", &[need("copypaste", YES_NO)]);
static AGENT_MOUSE: Element = empty("mouse", &[need("mode", Value::Word(&["server", "client"]))]);
static PROTOCOL: Element =
    empty("protocol", &[need("type", Value::Word(&["raw", "telnet", "telnets", "tls"]))]);
static LOG: Element = empty("log", &[need("file", PATH), opt("append", ON_OFF)]);

pub(super) static SERIAL: Element = element(
    "serial",
    &[TYPE, TTY],
    chardev!(one(&SERIAL_TARGET), one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS)),
)
.switched("type");
static SERIAL_TARGET: Element = element(
    "target",
    &[
        opt(
            "type",
            Value::Word(&[
                "isa-serial",
                "usb-serial",
                "pci-serial",
                "spapr-vio-serial",
                "system-serial",
                "sclp-serial",
                "isa-debug",
            ]),
        ),
        opt("port", UINT),
    ],
    &[one(&SERIAL_MODEL)],
);
static SERIAL_MODEL: Element = empty(
    "model",
    &[need(
        "name",
        Value::Word(&[
            "isa-serial",
            "usb-serial",
            "pci-serial",
            "spapr-vty",
            "pl011",
            "16550a",
            "sclpconsole",
            "sclplmconsole",
            "isa-debugcon",
        ]),
    )],
);

pub(super) static PARALLEL: Element = element(
    "parallel",
    &[TYPE, TTY],
    chardev!(one(&PARALLEL_TARGET), one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS)),
)
.switched("type");
static PARALLEL_TARGET: Element = empty("target", &[opt("type", super::value::WORD), opt("port", UINT)]);

pub(super) static CONSOLE: Element = element(
    "console",
    &[TYPE, TTY],
    chardev!(one(&CONSOLE_TARGET), one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS)),
)
.switched("type");
static CONSOLE_TARGET: Element = empty(
    "target",
    &[
        opt("type", Value::Word(&["serial", "virtio", "xen", "uml", "lxc", "openvz", "sclp", "sclplm"])),
        opt("port", UINT),
    ],
);

pub(super) static CHANNEL: Element =
    element("channel", &[TYPE], chardev!(must(&CHANNEL_TARGET), one(&ALIAS_NAME), one(&ACPI), one(&ADDRESS)))
        .switched("type");
static CHANNEL_TARGET: Element = empty(
    "target",
    &[
        need("type", Value::Word(&["virtio", "guestfwd", "xen"])),
        opt("address", IP).when(&["guestfwd"]),
        opt("port", PORT).when(&["guestfwd"]),
        opt("name", LINE).when(&["virtio", "xen"]),
        opt("state", Value::Word(&["connected", "disconnected"])).running(),
    ],
)
.switched("type");

pub(super) static SMARTCARD: Element = element(
    "smartcard",
    &[need("mode", Value::Word(&["host", "host-certificates", "passthrough"])), opt("type", TYPES)],
    &[
        many(&CERTIFICATE).when(&["host-certificates"]),
        one(&DATABASE).when(&["host-certificates"]),
        many(&ANY_SOURCE).when(&["passthrough"]),
        one(&PROTOCOL).when(&["passthrough"]),
        one(&LOG).when(&["passthrough"]),
        one(&ALIAS_NAME),
        one(&ACPI),
        one(&ADDRESS),
    ],
)
.switched("mode");
static CERTIFICATE: Element = text("certificate", &[], LINE);
static DATABASE: Element = text("database", &[], DIRECTORY);
/// The source of a device whose own type does not decide alone.
static ANY_SOURCE: Element = element(
    "source",
    &[
        opt("mode", Value::Word(&["bind", "connect"])),
        opt("path", FILE),
        opt("host", HOST),
        opt("service", LINE),
        opt("channel", LINE),
        opt("append", ON_OFF),
        opt("tls", YES_NO),
    ],
    &[one(&RECONNECT), many(&DEVICE_LABEL)],
);

pub(super) static REDIRDEV: Element = element(
    "redirdev",
    &[need("bus", Value::Word(&["usb"])), TYPE],
    chardev!(one(&BOOT), one(&ALIAS_NAME), one(&ADDRESS)),
)
.switched("type");

/// `<backend model='egd'>` of a random number generator.
pub(super) static EGD: Element =
    element("backend", &[need("model", Value::Word(&["egd"])), TYPE], chardev!()).switched("type");

pub(super) static REDIRFILTER: Element = element("redirfilter", &[], &[many(&USB_RULE)]);
static USB_RULE: Element = empty(
    "usbdev",
    &[opt("class", ANY), opt("vendor", ANY), opt("product", ANY), opt("version", ANY), need("allow", YES_NO)],
);
