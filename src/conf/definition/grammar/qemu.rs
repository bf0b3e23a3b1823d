//! QEMU's own options, in a namespace of their own.

use super::value::{ALIAS, ANY, ENVIRONMENT, LINE, WORD};
use super::{Element, Value, element, empty, many, need, one, opt};

pub(super) static COMMANDLINE: Element = element("qemu:commandline", &[], &[many(&ARG), many(&ENV)]);
static ARG: Element = empty("qemu:arg", &[need("value", ANY)]);
static ENV: Element = empty("qemu:env", &[need("name", ENVIRONMENT), opt("value", ANY)]);

pub(super) static CAPABILITIES: Element = element("qemu:capabilities", &[], &[many(&ADD), many(&DEL)]);
static ADD: Element = empty("qemu:add", &[need("capability", WORD)]);
static DEL: Element = empty("qemu:del", &[need("capability", WORD)]);

pub(super) static DEPRECATION: Element =
    empty("qemu:deprecation", &[need("behavior", Value::Word(&["none", "omit", "reject", "crash"]))]);

pub(super) static OVERRIDE: Element = element("qemu:override", &[], &[many(&OVERRIDE_DEVICE)]);
static OVERRIDE_DEVICE: Element = element("qemu:device", &[need("alias", ALIAS)], &[one(&FRONTEND)]);
static FRONTEND: Element = element("qemu:frontend", &[], &[many(&PROPERTY)]);
static PROPERTY: Element = empty(
    "qemu:property",
    &[
        need("name", LINE),
        need("type", Value::Word(&["string", "signed", "unsigned", "bool", "remove"])),
        opt("value", ANY),
    ],
);
