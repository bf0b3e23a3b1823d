//! The kept form as XML, in libvirt's order and style.

use std::fmt::Display;

use super::View;
use super::grammar::{Body, QEMU_NAMESPACE};
use super::node::Node;
use crate::conf::xml::write::Writer;

/// Writes a whole definition; `live` shows what belongs to a running domain.
pub(super) fn domain(root: &Node, view: View, live: bool) -> String {
    let mut writer = Writer::new();
    let secret = view.secure || view.migratable;
    node(&mut writer, root, &Shown { secret, live });
    writer.finish()
}

/// Writes one element of it as what is kept, secrets too.
pub(super) fn element(element: &Node) -> String {
    let mut writer = Writer::new();
    node(&mut writer, element, &Shown { secret: true, live: false });
    writer.finish()
}

/// Whether there is anything that only a secure view shows.
pub(super) fn has_secrets(node: &Node) -> bool {
    node.attributes().any(|(attribute, _)| attribute.secret) || node.children().any(has_secrets)
}

struct Shown {
    secret: bool,
    live: bool,
}

/// Writes one element; the depth is that of a document which was read.
fn node(writer: &mut Writer, node: &Node, shown: &Shown) {
    let mut attributes: Vec<(&str, &dyn Display)> = Vec::with_capacity(8);
    let values: Vec<_> = node
        .attributes()
        .filter(|(attribute, _)| (!attribute.live || shown.live) && (!attribute.secret || shown.secret))
        .collect();
    attributes.extend(values.iter().map(|(attribute, value)| (attribute.name, value as &dyn Display)));
    if node.name() == "domain" && node.children().any(|child| child.grammar.local().1) {
        attributes.push(("xmlns:qemu", &QEMU_NAMESPACE));
    }
    if let Body::Size(unit) = &node.grammar.body {
        attributes.push(("unit", unit));
    }
    match node.grammar.body {
        Body::Children(_) => writer.within(node.name(), &attributes, |writer| {
            for child in node.children() {
                self::node(writer, child, shown);
            }
        }),
        Body::Foreign => writer.within(node.name(), &attributes, |writer| {
            for foreign in &node.foreign {
                writer.verbatim(&foreign.xml);
            }
        }),
        Body::Size(_) | Body::Text(_) if node.text.is_empty() => writer.empty(node.name(), &attributes),
        Body::Size(_) | Body::Text(_) => writer.text(node.name(), &attributes, &node.text),
    }
}
