//! Elements of other programs as text: what stands in them comes out as it went in, line breaks and all.

use crate::conf::xml::{Document, Element, ElementId, NamespaceId, Node};

/// One element with all that is in it, well-formed on its own: prefixes that an outer element declared are declared
/// on it.
pub(super) fn text(document: &Document<'_>, id: ElementId) -> String {
    let mut out = String::new();
    let mut outer = Vec::new();
    wanted(document, id, &mut Vec::new(), &mut outer);
    write(document, id, &outer, &Naming::AsItIs, &mut out);
    out
}

/// The same, the outermost element in a namespace under a prefix; `None` where that element declares the prefix itself.
pub(super) fn with_prefix(
    document: &Document<'_>,
    id: ElementId,
    prefix: &str,
    namespace: &str,
) -> Option<String> {
    let element = document.element(id)?;
    if element.declarations.iter().any(|(declared, _)| *declared == prefix) {
        return None;
    }
    let mut out = String::new();
    write(document, id, &[], &Naming::Under { prefix, namespace }, &mut out);
    Some(out)
}

/// The same, elements of a namespace without their prefix, and without its declaration where no attribute needs it.
pub(super) fn without_prefix(document: &Document<'_>, id: ElementId, namespace: &str) -> String {
    let mut out = String::new();
    let needed = attributes_use(document, id, namespace);
    let naming = if needed { Naming::AsItIs } else { Naming::Without { namespace } };
    write(document, id, &[], &naming, &mut out);
    out
}

/// Whether an attribute is of a namespace. The depth is the reader's.
fn attributes_use(document: &Document<'_>, id: ElementId, namespace: &str) -> bool {
    let Some(element) = document.element(id) else { return false };
    element.attributes.iter().any(|attribute| document.namespace(&attribute.name) == Some(namespace))
        || element.children.iter().any(|node| match node {
            Node::Element(child) => attributes_use(document, *child, namespace),
            _ => false,
        })
}

/// How elements are named.
enum Naming<'n> {
    /// As they are.
    AsItIs,
    /// The outermost one is put into a namespace, under a prefix that is declared there.
    Under { prefix: &'n str, namespace: &'n str },
    /// Those of a namespace have no prefix, and none is declared for it.
    Without { namespace: &'n str },
}

type Declaration<'d> = (&'d str, Option<NamespaceId>);

/// The prefixes that are used in an element and declared in none of it. The depth is the reader's.
fn wanted<'d>(
    document: &'d Document<'_>,
    id: ElementId,
    inner: &mut Vec<&'d str>,
    outer: &mut Vec<Declaration<'d>>,
) {
    let Some(element) = document.element(id) else { return };
    let scope = inner.len();
    inner.extend(element.declarations.iter().map(|(prefix, _)| *prefix));
    let names = std::iter::once(&element.name).chain(element.attributes.iter().map(|a| &a.name));
    for name in names {
        let plain_attribute = name.prefix.is_empty() && name.namespace.is_none();
        let known = inner.contains(&name.prefix) || outer.iter().any(|(prefix, _)| *prefix == name.prefix);
        if !known && !plain_attribute && name.prefix != "xml" {
            outer.push((name.prefix, name.namespace));
        }
    }
    for node in &element.children {
        if let Node::Element(child) = node {
            wanted(document, *child, inner, outer);
        }
    }
    inner.truncate(scope);
}

fn write(
    document: &Document<'_>,
    id: ElementId,
    outer: &[Declaration<'_>],
    naming: &Naming<'_>,
    out: &mut String,
) {
    let Some(element) = document.element(id) else { return };
    let name = match naming {
        Naming::Under { prefix, .. } => qualified(prefix, element.name.local),
        Naming::Without { namespace } if document.namespace(&element.name) == Some(namespace) => {
            element.name.local.to_owned()
        }
        _ => qualified(element.name.prefix, element.name.local),
    };
    out.push('<');
    out.push_str(&name);
    if let Naming::Under { prefix, namespace } = naming {
        declare(prefix, namespace, out);
    }
    declarations(document, element, outer, naming, out);
    let naming = if let Naming::Under { .. } = naming { &Naming::AsItIs } else { naming };
    for attribute in &element.attributes {
        out.push(' ');
        out.push_str(&qualified(attribute.name.prefix, attribute.name.local));
        out.push_str("=\"");
        escape(&attribute.value, true, out);
        out.push('"');
    }
    if element.children.is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    for node in &element.children {
        match node {
            Node::Comment(text) => marks(out, "<!--", text, "-->"),
            Node::Element(child) => write(document, *child, &[], naming, out),
            Node::Instruction(text) => marks(out, "<?", text, "?>"),
            Node::Text(text) => escape(text, false, out),
        }
    }
    marks(out, "</", &name, ">");
}

fn declarations(
    document: &Document<'_>,
    element: &Element<'_>,
    outer: &[Declaration<'_>],
    naming: &Naming<'_>,
    out: &mut String,
) {
    for (prefix, namespace) in element.declarations.iter().chain(outer) {
        let uri = namespace.and_then(|id| document.namespace_by_id(id)).unwrap_or_default();
        if !matches!(naming, Naming::Without { namespace } if *namespace == uri) {
            declare(prefix, uri, out);
        }
    }
}

fn declare(prefix: &str, uri: &str, out: &mut String) {
    out.push_str(if prefix.is_empty() { " xmlns" } else { " xmlns:" });
    marks(out, prefix, "=\"", "");
    escape(uri, true, out);
    out.push('"');
}

fn qualified(prefix: &str, local: &str) -> String {
    if prefix.is_empty() { local.to_owned() } else { format!("{prefix}:{local}") }
}

fn marks(out: &mut String, before: &str, text: &str, after: &str) {
    out.push_str(before);
    out.push_str(text);
    out.push_str(after);
}

/// As libxml2 writes: quotes only in attributes, and there also what a reader would turn into a blank.
fn escape(text: &str, attribute: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#13;"),
            '"' if attribute => out.push_str("&quot;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            c => out.push(c),
        }
    }
}
