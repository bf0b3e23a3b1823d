//! A strict, bounded XML reader: bytes in, a [`Document`] out, borrowed from the input. [`mod@write`] is the way back.
//!
//! Owns the tree and its limits. It keeps elements, attributes in order, text, comments and processing
//! instructions, and knows the line of every element. It never expands anything but the five predefined
//! entities and character references, never sees a DTD, and neither builds nor drops recursively.
//! quick-xml cuts the input into tokens; everything that it lets through and XML 1.0 or its namespaces
//! forbid is refused here. `tests/xml.rs` holds it against roxmltree.

mod build;
mod token;
pub mod walk;
pub mod write;

use std::borrow::Cow;

/// The longest document in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// The deepest nesting; a `<backingStore>` nests once a layer, and 200 layers run.
pub const MAX_DEPTH: usize = 256;
/// The most elements.
pub const MAX_ELEMENTS: usize = 100_000;
/// The most texts, comments and processing instructions.
pub const MAX_NODES: usize = 400_000;
/// The most attributes of one element, namespace declarations among them.
pub const MAX_ATTRIBUTES: usize = 128;
/// The most attributes of all elements.
pub const MAX_ALL_ATTRIBUTES: usize = 200_000;
/// The most namespace declarations in scope at one place.
pub const MAX_BINDINGS: usize = 64;

/// One document.
#[derive(Debug)]
pub struct Document<'a> {
    elements: Vec<Element<'a>>,
    namespaces: Vec<Cow<'a, str>>,
}

/// One element.
#[derive(Debug)]
pub struct Element<'a> {
    /// Its name.
    pub name: Name<'a>,
    /// The line of its start tag, from 1.
    pub line: u32,
    /// The element around it; `None` for the root.
    pub parent: Option<ElementId>,
    /// Attributes in order, without namespace declarations.
    pub attributes: Vec<Attribute<'a>>,
    /// The prefixes that it declares, empty for the default namespace, and what they stand for.
    pub declarations: Vec<(&'a str, Option<NamespaceId>)>,
    /// What stands inside, in order.
    pub children: Vec<Node<'a>>,
}

/// The place of an element in its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementId(u32);

/// One attribute.
#[derive(Debug)]
pub struct Attribute<'a> {
    /// Its name; without a prefix it is in no namespace.
    pub name: Name<'a>,
    /// Its value, normalised: references resolved, white space turned into spaces.
    pub value: Cow<'a, str>,
}

/// A name, its prefix resolved.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// What stands before the colon; empty without one.
    pub prefix: &'a str,
    /// What stands after the colon.
    pub local: &'a str,
    /// The namespace, as [`Document::namespace`] knows it.
    pub namespace: Option<NamespaceId>,
}

/// The place of a namespace in its document; two ids may mean the same one.
#[derive(Clone, Copy, Debug)]
pub struct NamespaceId(u32);

/// Something inside an element.
#[derive(Debug)]
pub enum Node<'a> {
    /// `<!--…-->`
    Comment(&'a str),
    /// An element.
    Element(ElementId),
    /// `<?…?>`
    Instruction(&'a str),
    /// Character data: text, references and CDATA sections that touch each other are one.
    Text(Cow<'a, str>),
}

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}, line {line}")]
pub struct XmlError {
    /// Where, from 1.
    pub line: u32,
    /// Why.
    pub kind: XmlErrorKind,
}

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlErrorKind {
    /// A name, an attribute or its quotes.
    #[error("an attribute is malformed: {0}")]
    Attribute(&'static str),
    /// `--` inside a comment, or no end.
    #[error("a comment is malformed")]
    Comment,
    /// A character that XML 1.0 does not allow, NUL among them.
    #[error("the character U+{0:04X} is not allowed")]
    Control(u32),
    /// The XML declaration.
    #[error("the XML declaration is malformed, or not in the first place")]
    Declaration,
    /// `<!DOCTYPE`
    #[error("a document type declaration is refused, whatever it says")]
    Doctype,
    /// The same attribute twice.
    #[error("the attribute {0} stands twice")]
    DuplicateAttribute(String),
    /// Anything but UTF-8.
    #[error("the encoding is not UTF-8")]
    Encoding,
    /// An entity that nobody declared.
    #[error("the entity &{0}; is unknown")]
    Entity(String),
    /// A name with a character that names cannot have.
    #[error("{0:?} is not a name")]
    Name(String),
    /// A namespace declaration or prefix.
    #[error("the namespace prefix {0:?} is unbound or reserved")]
    Prefix(String),
    /// A processing instruction.
    #[error("a processing instruction is malformed")]
    Instruction,
    /// No root, a second one, or text outside of it.
    #[error("there must be one root element and nothing but comments around it")]
    Root,
    /// A tag that does not end, or ends another element.
    #[error("not well-formed: {0}")]
    Syntax(String),
    /// `]]>` or a stray `&` in text.
    #[error("the text contains {0}, which must be escaped")]
    Text(&'static str),
    /// More than [`MAX_DEPTH`] levels.
    #[error("elements nest deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// More than [`MAX_BYTES`].
    #[error("the document is longer than {MAX_BYTES} bytes")]
    TooLarge,
    /// More of something than this reader takes.
    #[error("there are too many {0}")]
    TooMany(&'static str),
}

impl<'a> Document<'a> {
    /// Reads a document. Time and memory are bounded by the limits above, whatever stands in `input`.
    pub fn parse(input: &'a [u8]) -> Result<Self, XmlError> {
        let text = token::characters(input)?;
        build::Builder::new(text).run()
    }

    /// The root element.
    #[must_use]
    pub fn root(&self) -> ElementId {
        ElementId(0)
    }

    /// An element by its id. An id of another document may name no element here.
    #[must_use]
    pub fn element(&self, id: ElementId) -> Option<&Element<'a>> {
        self.elements.get(usize::try_from(id.0).ok()?)
    }

    /// How many elements there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there is no element; never so for a document that was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// Takes an element with all that stands inside out of what walks see; the root stays.
    pub fn detach(&mut self, id: ElementId) {
        let Some(parent) = self.element(id).and_then(|element| element.parent) else { return };
        let parent = usize::try_from(parent.0).ok().and_then(|at| self.elements.get_mut(at));
        if let Some(parent) = parent {
            parent.children.retain(|node| !matches!(node, Node::Element(child) if *child == id));
        }
    }

    /// Where an element stands, as `/domain/devices/disk[2]`; siblings of one name are numbered from 1.
    #[must_use]
    pub fn path(&self, id: ElementId) -> String {
        let mut steps = Vec::new();
        let mut at = Some(id);
        while let Some(current) = at {
            let Some(element) = self.element(current) else { break };
            let local = crate::conf::error::clip(element.name.local);
            let position =
                element.parent.map_or(0, |parent| self.position(parent, current, element.name.local));
            steps.push(if position == 0 { local } else { format!("{local}[{position}]") });
            at = element.parent;
        }
        steps.iter().rev().fold(String::new(), |path, step| path + "/" + step)
    }

    /// The place of a child among those of its name, or 0 where it is the only one.
    fn position(&self, parent: ElementId, child: ElementId, name: &str) -> usize {
        let children = self.element(parent).map(|element| element.children.as_slice()).unwrap_or_default();
        let mut siblings = children.iter().filter_map(|node| match node {
            Node::Element(id) => self.element(*id).is_some_and(|e| e.name.local == name).then_some(*id),
            _ => None,
        });
        let position = siblings.by_ref().position(|id| id == child).unwrap_or(0);
        if position == 0 && siblings.next().is_none() { 0 } else { position.saturating_add(1) }
    }

    /// A namespace by its place.
    #[must_use]
    pub fn namespace_by_id(&self, id: NamespaceId) -> Option<&str> {
        self.namespaces.get(usize::try_from(id.0).ok()?).map(AsRef::as_ref)
    }

    /// The namespace of a name of this document.
    #[must_use]
    pub fn namespace(&self, name: &Name<'_>) -> Option<&str> {
        let id = name.namespace?;
        self.namespaces.get(usize::try_from(id.0).ok()?).map(AsRef::as_ref)
    }
}

/// Reads whatever is given; for fuzzers and the replay of their corpus.
pub fn fuzz_xml(data: &[u8]) {
    if let Ok(document) = Document::parse(data) {
        assert!(!document.is_empty() && document.len() <= MAX_ELEMENTS);
    }
}
