//! A document through the grammar: every element and attribute finds its place, or is refused or reported.

use std::borrow::Cow;

use super::foreign;
use super::grammar::{Attribute, Body, Child, DOMAIN, Element, QEMU_NAMESPACE, Times, Value, fits, value};
use super::isolation;
use super::node::{Foreign, Node};
use super::{Strictness, Warning};
use crate::conf::error::clip;
use crate::conf::xml::{
    Attribute as XmlAttribute, Document, Element as XmlElement, ElementId, Node as XmlNode,
};
use crate::conf::{DefinitionError, DefinitionErrorKind};

/// The most elements directly inside one element; keeps whatever compares siblings cheap.
pub(super) const MAX_CHILDREN: usize = 1024;
/// The most warnings that are kept.
const MAX_WARNINGS: usize = 100;

type Read<T> = Result<T, DefinitionError>;

/// Reads a whole document.
pub(super) fn domain(document: &Document<'_>, strictness: Strictness) -> Read<(Node, Vec<Warning>)> {
    let mut reader = Reader { document, strictness, warnings: Vec::new() };
    let id = document.root();
    let name = document.element(id).map(|root| (root.name.local, document.namespace(&root.name)));
    if name != Some(("domain", None)) {
        let value = name.map(|(name, _)| format!("<{}>", clip(name))).unwrap_or_default();
        return Err(reader.bad(id, "the root element", &value, "<domain>"));
    }
    let node = reader.node(id, &DOMAIN)?;
    Ok((node, reader.warnings))
}

struct Reader<'d, 'i> {
    document: &'d Document<'i>,
    strictness: Strictness,
    warnings: Vec<Warning>,
}

impl<'d, 'i> Reader<'d, 'i> {
    /// Reads one element; the depth is bounded by the document's.
    fn node(&mut self, id: ElementId, grammar: &'static Element) -> Read<Node> {
        let Some(element) = self.document.element(id) else { return Ok(Node::new(grammar, 0)) };
        let mut node = Node::new(grammar, element.line);
        self.attributes(id, element, &mut node)?;
        match &grammar.body {
            Body::Children(_) => self.children(id, element, &mut node)?,
            Body::Foreign => self.foreign(id, element, &mut node)?,
            Body::Size(unit) => node.text = self.size(id, element, unit)?,
            Body::Text(value) => {
                let text = self.leaf(id, element)?;
                node.text = self.value(id, value, || format!("<{}>", grammar.name), &text)?;
            }
        }
        Ok(node)
    }

    /// The switch first, since the others depend on it.
    fn attributes(&mut self, id: ElementId, element: &'d XmlElement<'i>, node: &mut Node) -> Read<()> {
        let grammar = node.grammar;
        let word = grammar.switch.and_then(|name| plain(element, name).or_else(|| default(grammar, name)));
        for attribute in &element.attributes {
            let name = attribute.name.local;
            let foreign = attribute.name.namespace.is_some();
            if !foreign && name == "unit" && matches!(grammar.body, Body::Size(_)) {
                continue;
            }
            let known = || grammar.attributes.iter().enumerate().filter(|(_, a)| !foreign && a.name == name);
            match known().find(|(_, a)| a.when.is_empty() || fits(a.when, word)) {
                Some((_, known)) if known.live => {}
                Some((at, known)) => {
                    let what = || format!("attribute {name} of <{}>", grammar.name);
                    node.put(at, self.value(id, &known.value, what, &attribute.value)?);
                }
                None => self.unknown_attribute(id, node, attribute, word, known().next().is_some())?,
            }
        }
        self.absent(id, node, word)
    }

    /// Fills in defaults, and misses what must stand.
    fn absent(&self, id: ElementId, node: &mut Node, word: Option<&str>) -> Read<()> {
        let grammar = node.grammar;
        for (at, attribute) in grammar.attributes.iter().enumerate() {
            if !fits(attribute.when, word) || node.attribute(attribute.name).is_some() {
                continue;
            }
            if let Some(default) = attribute.default {
                node.put(at, default.to_owned());
            } else if attribute.required {
                let what = format!("attribute {} of <{}>", attribute.name, grammar.name);
                return Err(self.missing(id, what));
            }
        }
        Ok(())
    }

    fn children(&mut self, id: ElementId, element: &'d XmlElement<'i>, node: &mut Node) -> Read<()> {
        let places = node.grammar.children();
        let mut first: Vec<(&'static str, u32)> = Vec::new();
        for (count, child) in elements(element).enumerate() {
            if count >= MAX_CHILDREN {
                let what = format!("an element of more than {MAX_CHILDREN} in <{}>", node.name());
                let error = self.error(child, DefinitionErrorKind::Unsupported(what));
                return Err(DefinitionError { remedy: "make it fewer".into(), ..error });
            }
            let Some((at, place)) = self.place(child, node)? else { continue };
            let name = place.element.name;
            let line = self.line(child);
            if place.times != Times::Many {
                if let Some((_, line)) = first.iter().find(|(other, _)| *other == name) {
                    return Err(self.duplicate(child, format!("<{name}>"), *line));
                }
                first.push((name, line));
            }
            let kept = self.node(child, place.element)?;
            if !place.live && !generated(&kept) && !self.was_of_what_ran(child, &kept) {
                node.append(at, kept);
            }
        }
        node.sort();
        self.no_text(id, element)?;
        let absent = places.iter().find(|place| {
            let name = place.element.name;
            place.times == Times::Once && fits(place.when, node.switch()) && node.child(name).is_none()
        });
        absent.map_or(Ok(()), |place| {
            Err(self.missing(id, format!("<{}> of <{}>", place.element.name, node.name())))
        })
    }

    /// Whether an element said nothing but what belongs to a running domain, such as the terminal's name in `<source>`.
    fn was_of_what_ran(&self, id: ElementId, kept: &Node) -> bool {
        let live = |name: &str| kept.grammar.attributes.iter().any(|known| known.live && known.name == name);
        let said = self.document.element(id).map_or(&[][..], |element| &element.attributes);
        let nothing_left = kept.attributes().next().is_none() && kept.children().next().is_none();
        nothing_left
            && kept.text.is_empty()
            && !said.is_empty()
            && said.iter().all(|one| live(one.name.local))
    }

    /// The place of a child: the first of its name that goes with the parent's switch and whose own attributes are
    /// there, else the last of them.
    fn place(&mut self, child: ElementId, parent: &Node) -> Read<Option<(usize, &'static Child)>> {
        let Some(element) = self.document.element(child) else { return Ok(None) };
        let namespace = self.document.namespace(&element.name);
        let named = |grammar: &Element| {
            let (local, qemu) = grammar.local();
            local == element.name.local && namespace == qemu.then_some(QEMU_NAMESPACE)
        };
        let places = parent.grammar.children().iter().enumerate();
        let known: Vec<(usize, &'static Child)> = places.filter(|(_, place)| named(place.element)).collect();
        let fitting = known.iter().filter(|(_, place)| fits(place.when, parent.switch()));
        let complete = |place: &Child| {
            let says =
                |a: &Attribute| plain(element, a.name).is_some_and(|text| a.value.read(text).is_some());
            place.element.attributes.iter().all(|a| !a.required || says(a))
        };
        let found =
            fitting.clone().find(|(_, place)| complete(place)).or_else(|| fitting.clone().next_back());
        match found {
            Some(found) => Ok(Some(*found)),
            None => {
                self.unknown_element(child, parent, !known.is_empty())?;
                Ok(None)
            }
        }
    }

    fn foreign(&mut self, id: ElementId, element: &'d XmlElement<'i>, node: &mut Node) -> Read<()> {
        for child in elements(element) {
            let Some(inner) = self.document.element(child) else { continue };
            let Some(namespace) = self.document.namespace(&inner.name) else {
                let what = format!("<{}> without a namespace in <{}>", clip(inner.name.local), node.name());
                self.report(child, DefinitionErrorKind::Unknown { what, nearest: None })?;
                continue;
            };
            if node.foreign.iter().any(|other| other.namespace == namespace) {
                let what =
                    format!("a second element of the namespace {} in <{}>", clip(namespace), node.name());
                self.report(child, DefinitionErrorKind::Unknown { what, nearest: None })?;
                continue;
            }
            let xml = foreign::text(self.document, child);
            node.foreign.push(Foreign { namespace: namespace.to_owned(), xml });
        }
        self.no_text(id, element)
    }

    /// A size in the unit in which libvirt writes it, rounded up.
    fn size(&mut self, id: ElementId, element: &'d XmlElement<'i>, unit: &str) -> Read<String> {
        let text = self.leaf(id, element)?;
        let given = plain(element, "unit");
        let tag = format!("<{}>", clip(element.name.local));
        let Some(factor) = given.map_or(Some(1024), value::unit) else {
            let what = format!("attribute unit of {tag}");
            return Err(self.bad(id, what, given.unwrap_or_default(), "a unit such as KiB, MiB or GiB"));
        };
        let factor = if given.is_none() && unit != "KiB" && unit != "MiB" { scale(unit) } else { factor };
        let bytes = value::decimal(value::trim(&text)).and_then(|number| number.checked_mul(factor));
        // QEMU's sizes are signed.
        match bytes.filter(|bytes| i64::try_from(*bytes).is_ok()) {
            Some(bytes) => Ok(bytes.div_ceil(scale(unit)).to_string()),
            None => Err(self.bad(id, tag, &text, "a size below 8 EiB")),
        }
    }

    fn value(&self, id: ElementId, value: &Value, what: impl FnOnce() -> String, text: &str) -> Read<String> {
        match value.read(text) {
            Some(text) => Ok(text.into_owned()),
            None => Err(self.bad(id, what(), text, value.expected())),
        }
    }

    /// The text of an element that has no others inside.
    fn leaf(&mut self, id: ElementId, element: &'d XmlElement<'i>) -> Read<Cow<'d, str>> {
        for child in elements(element) {
            let parent = clip(element.name.local);
            let name = self.document.element(child).map_or("", |inner| inner.name.local);
            let what = format!("<{}> in <{parent}>", clip(name));
            if let Some(loss) = isolation::loss(&parent, name) {
                return Err(self.weakening(child, what, loss));
            }
            self.report(child, DefinitionErrorKind::Unknown { what, nearest: None })?;
        }
        let _ = id;
        Ok(text(element))
    }

    /// Reports text between elements.
    fn no_text(&mut self, id: ElementId, element: &'d XmlElement<'i>) -> Read<()> {
        if text(element).chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n')) {
            return Ok(());
        }
        let what = format!("text in <{}>", clip(element.name.local));
        self.report(id, DefinitionErrorKind::Unknown { what, nearest: None })
    }

    fn unknown_attribute(
        &mut self,
        id: ElementId,
        node: &Node,
        attribute: &XmlAttribute<'_>,
        word: Option<&str>,
        misplaced: bool,
    ) -> Read<()> {
        let name = attribute.name.local;
        let mut what = format!("attribute {} of <{}>", clip(name), node.name());
        let mut nearest = None;
        if misplaced {
            what = with_word(what, node.grammar, word);
        } else {
            let known = node.grammar.attributes.iter().filter(|a| fits(a.when, word));
            nearest = closest(name, known.map(|a: &Attribute| a.name));
        }
        self.unknown(id, node.name(), name, what, nearest)
    }

    fn unknown_element(&mut self, child: ElementId, parent: &Node, misplaced: bool) -> Read<()> {
        let Some(element) = self.document.element(child) else { return Ok(()) };
        let name = element.name.local;
        let mut what = format!("<{}> in <{}>", clip(name), parent.name());
        if element.name.namespace.is_some() {
            what = format!("<{}:{}> in <{}>", clip(element.name.prefix), clip(name), parent.name());
        }
        let mut nearest = None;
        if misplaced {
            what = with_word(what, parent.grammar, parent.switch());
        } else {
            nearest = closest(name, parent.grammar.children().iter().map(|child| child.element.local().0));
        }
        self.unknown(child, parent.name(), name, what, nearest)
    }

    fn unknown(
        &mut self,
        id: ElementId,
        parent: &str,
        name: &str,
        what: String,
        nearest: Option<&'static str>,
    ) -> Read<()> {
        if self.strictness == Strictness::Lenient
            && let Some(loss) = isolation::loss(parent, name)
        {
            return Err(self.weakening(id, what, loss));
        }
        self.report(id, DefinitionErrorKind::Unknown { what, nearest })
    }

    /// Refuses under validation, else warns.
    fn report(&mut self, id: ElementId, kind: DefinitionErrorKind) -> Read<()> {
        if self.strictness == Strictness::Strict {
            return Err(self.error(id, kind));
        }
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(Warning { line: self.line(id), path: self.document.path(id).into(), kind });
        }
        Ok(())
    }

    fn line(&self, id: ElementId) -> u32 {
        self.document.element(id).map_or(0, |element| element.line)
    }

    fn error(&self, id: ElementId, kind: DefinitionErrorKind) -> DefinitionError {
        let remedy = kind.remedy().into();
        DefinitionError { line: self.line(id), path: self.document.path(id).into(), kind, remedy }
    }

    fn weakening(&self, id: ElementId, what: String, loss: &'static str) -> DefinitionError {
        self.error(id, DefinitionErrorKind::Weakening { what, loss })
    }

    fn bad(
        &self,
        id: ElementId,
        what: impl Into<String>,
        value: &str,
        expected: impl Into<String>,
    ) -> DefinitionError {
        self.error(id, DefinitionErrorKind::value(what, value, expected))
    }

    fn missing(&self, id: ElementId, what: String) -> DefinitionError {
        self.error(id, DefinitionErrorKind::Missing(what))
    }

    fn duplicate(&self, id: ElementId, what: String, first: u32) -> DefinitionError {
        self.error(id, DefinitionErrorKind::Duplicate { what, first })
    }
}

/// What libvirt makes itself when a domain runs, and ignores in a definition.
fn generated(node: &Node) -> bool {
    node.name() == "alias" && !node.attribute("name").is_some_and(|name| name.starts_with("ua-"))
}

fn with_word(what: String, grammar: &Element, word: Option<&str>) -> String {
    let switch = grammar.switch.unwrap_or("type");
    word.map_or_else(
        || format!("{what} without {switch}"),
        |word| format!("{what} with {switch}='{}'", clip(word)),
    )
}

fn scale(unit: &str) -> u64 {
    match unit {
        "bytes" => 1,
        "KiB" => 1024,
        _ => 1 << 20,
    }
}

fn default(grammar: &'static Element, name: &str) -> Option<&'static str> {
    grammar.attributes.iter().find(|a| a.name == name).and_then(|a| a.default)
}

fn plain<'d>(element: &'d XmlElement<'_>, name: &str) -> Option<&'d str> {
    let found = element.attributes.iter().find(|a| a.name.namespace.is_none() && a.name.local == name);
    found.map(|attribute| attribute.value.as_ref())
}

fn elements(element: &XmlElement<'_>) -> impl Iterator<Item = ElementId> {
    element.children.iter().filter_map(|node| match node {
        XmlNode::Element(id) => Some(*id),
        _ => None,
    })
}

/// All text directly inside, joined over comments.
fn text<'d>(element: &'d XmlElement<'_>) -> Cow<'d, str> {
    let mut texts = element.children.iter().filter_map(|node| match node {
        XmlNode::Text(text) => Some(text.as_ref()),
        _ => None,
    });
    let first = texts.next().unwrap_or_default();
    texts.fold(Cow::Borrowed(first), |joined, more| joined + more)
}

/// The known name that is meant, most likely.
fn closest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_lowercase();
    known
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
