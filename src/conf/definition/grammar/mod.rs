//! The grammar of libvirt's domain XML as data: every element, its attributes, its children, in the order in
//! which libvirt writes them.
//!
//! Owns what a definition may contain. The reader, the writer and the RELAX NG schema all walk these tables, so
//! none of them can know an element that the others do not. Says nothing of what runs.

/// Children of an element whose `type` says where an image lies: those before `<source>`, those after.
macro_rules! sourced {
    ($($before:expr),*; $($after:expr),*) => {{
        use $crate::conf::definition::grammar::{one, storage};
        &[
            $($before,)*
            one(&storage::SOURCE_FILE).when(&["file"]),
            one(&storage::SOURCE_BLOCK).when(&["block"]),
            one(&storage::SOURCE_DIR).when(&["dir"]),
            one(&storage::SOURCE_NETWORK).when(&["network"]),
            one(&storage::SOURCE_VOLUME).when(&["volume"]),
            one(&storage::SOURCE_NVME).when(&["nvme"]),
            one(&storage::SOURCE_VHOST_USER).when(&["vhostuser"]),
            one(&storage::SOURCE_VDPA).when(&["vhostvdpa"]),
            $($after,)*
        ]
    }};
}
use sourced;

mod cdev;
mod common;
mod cpu;
mod devices;
mod disk;
mod display;
mod domain;
mod host;
mod network;
mod os;
mod qemu;
mod storage;
mod tune;
pub mod value;

pub use domain::DOMAIN;
pub use os::NVRAM;
pub use value::Value;

/// The namespace of QEMU's own options.
pub const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// One element.
#[derive(Debug)]
pub struct Element {
    /// Its name as it is written; `qemu:` stands before those of [`QEMU_NAMESPACE`], the others are in none.
    pub name: &'static str,
    /// The attribute that decides which others may stand; entries with `when` name its words.
    pub switch: Option<&'static str>,
    /// Attributes in the order in which libvirt writes them.
    pub attributes: &'static [Attribute],
    /// What stands inside.
    pub body: Body,
}

/// What stands inside an element.
#[derive(Debug)]
pub enum Body {
    /// Elements, in the order in which libvirt writes them; none for an empty list.
    Children(&'static [Child]),
    /// Elements of other programs, kept as they are.
    Foreign,
    /// A memory size with the attribute `unit`, written in the given unit.
    Size(&'static str),
    /// Text.
    Text(Value),
}

/// One attribute.
#[derive(Debug)]
pub struct Attribute {
    /// Its name.
    pub name: &'static str,
    /// What it may say.
    pub value: Value,
    /// Whether it must stand.
    pub required: bool,
    /// What libvirt writes where it is absent.
    pub default: Option<&'static str>,
    /// Whether it belongs to a running domain, and is ignored in a definition.
    pub live: bool,
    /// Whether it is shown only to those who may see secrets.
    pub secret: bool,
    /// The words of the element's switch with which it may stand; all if empty.
    pub when: &'static [&'static str],
}

/// A place for a child.
#[derive(Debug)]
pub struct Child {
    /// What stands there.
    pub element: &'static Element,
    /// How often.
    pub times: Times,
    /// Whether it belongs to a running domain, and is ignored in a definition.
    pub live: bool,
    /// The words of the parent's switch with which it may stand; all if empty.
    pub when: &'static [&'static str],
}

/// How often a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Any number.
    Many,
    /// Once.
    Once,
    /// Once or not at all.
    Optional,
}

impl Element {
    /// Makes `attribute` the switch.
    const fn switched(mut self, attribute: &'static str) -> Self {
        self.switch = Some(attribute);
        self
    }

    /// The places for children; none where there is text.
    #[must_use]
    pub fn children(&self) -> &'static [Child] {
        match self.body {
            Body::Children(children) => children,
            Body::Foreign | Body::Size(_) | Body::Text(_) => &[],
        }
    }

    /// The name without prefix, and whether it is in [`QEMU_NAMESPACE`].
    #[must_use]
    pub fn local(&self) -> (&'static str, bool) {
        match self.name.strip_prefix("qemu:") {
            Some(local) => (local, true),
            None => (self.name, false),
        }
    }
}

impl Attribute {
    const fn running(mut self) -> Self {
        self.live = true;
        self
    }

    const fn hidden(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn when(mut self, words: &'static [&'static str]) -> Self {
        self.when = words;
        self
    }
}

impl Child {
    const fn running(mut self) -> Self {
        self.live = true;
        self
    }

    const fn when(mut self, words: &'static [&'static str]) -> Self {
        self.when = words;
        self
    }
}

/// Whether an entry with these words may stand while the switch says `word`.
#[must_use]
pub fn fits(when: &[&str], word: Option<&str>) -> bool {
    when.is_empty() || word.is_some_and(|word| when.contains(&word))
}

// The words in which the tables are written.

const fn element(
    name: &'static str,
    attributes: &'static [Attribute],
    children: &'static [Child],
) -> Element {
    Element { name, switch: None, attributes, body: Body::Children(children) }
}

const fn empty(name: &'static str, attributes: &'static [Attribute]) -> Element {
    element(name, attributes, &[])
}

const fn flag(name: &'static str) -> Element {
    element(name, &[], &[])
}

const fn text(name: &'static str, attributes: &'static [Attribute], value: Value) -> Element {
    Element { name, switch: None, attributes, body: Body::Text(value) }
}

const fn size(name: &'static str, unit: &'static str, attributes: &'static [Attribute]) -> Element {
    Element { name, switch: None, attributes, body: Body::Size(unit) }
}

const fn opt(name: &'static str, value: Value) -> Attribute {
    Attribute { name, value, required: false, default: None, live: false, secret: false, when: &[] }
}

const fn need(name: &'static str, value: Value) -> Attribute {
    Attribute { required: true, ..opt(name, value) }
}

const fn or(name: &'static str, value: Value, default: &'static str) -> Attribute {
    Attribute { default: Some(default), ..opt(name, value) }
}

const fn one(element: &'static Element) -> Child {
    Child { element, times: Times::Optional, live: false, when: &[] }
}

const fn must(element: &'static Element) -> Child {
    Child { element, times: Times::Once, live: false, when: &[] }
}

const fn many(element: &'static Element) -> Child {
    Child { element, times: Times::Many, live: false, when: &[] }
}
