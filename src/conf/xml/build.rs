//! Builds the tree from quick-xml's tokens, with a stack of its own instead of recursion.

use std::borrow::Cow;

use quick_xml::events::Event;
use quick_xml::reader::Reader;

use super::token;
use super::{
    Attribute, Document, Element, ElementId, MAX_ALL_ATTRIBUTES, MAX_BINDINGS, MAX_DEPTH, MAX_ELEMENTS,
    MAX_NODES, Name, NamespaceId, Node, XmlError, XmlErrorKind,
};

const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";
const XMLNS_NAMESPACE: &str = "http://www.w3.org/2000/xmlns/";

/// An element whose end tag has not come yet.
struct Open {
    id: ElementId,
    /// How many declarations were in scope outside of it.
    bindings: usize,
}

/// The state between two tokens.
pub(super) struct Builder<'a> {
    input: &'a str,
    document: Document<'a>,
    open: Vec<Open>,
    bindings: Vec<(&'a str, Option<NamespaceId>)>,
    /// The line of the token that is being read, and the byte up to which lines were counted.
    line: u32,
    counted: usize,
    nodes: usize,
    attributes: usize,
}

impl<'a> Builder<'a> {
    pub(super) fn new(input: &'a str) -> Self {
        Self {
            input,
            document: Document { elements: Vec::new(), namespaces: vec![Cow::Borrowed(XML_NAMESPACE)] },
            open: Vec::new(),
            bindings: vec![("xml", Some(NamespaceId(0)))],
            line: 1,
            counted: 0,
            nodes: 0,
            attributes: 0,
        }
    }

    /// Reads all tokens.
    pub(super) fn run(mut self) -> Result<Document<'a>, XmlError> {
        match self.tokens() {
            Ok(()) => Ok(self.document),
            Err(kind) => Err(XmlError { line: self.line, kind }),
        }
    }

    fn tokens(&mut self) -> Result<(), XmlErrorKind> {
        let mut reader = Reader::from_str(self.input);
        loop {
            let start = offset(reader.buffer_position());
            self.count_lines(start);
            let event = match reader.read_event() {
                Ok(event) => event,
                Err(error) => {
                    self.count_lines(offset(reader.error_position()));
                    return Err(XmlErrorKind::Syntax(crate::conf::error::clip(&error.to_string())));
                }
            };
            let end = offset(reader.buffer_position());
            let raw = self.input.get(start..end).unwrap_or_default();
            match event {
                Event::Start(_) => self.start(inside(raw, "<", ">")?)?,
                Event::Empty(_) => {
                    self.start(inside(raw, "<", "/>")?)?;
                    self.end();
                }
                Event::End(_) => self.end(),
                Event::Text(_) => self.text(raw)?,
                Event::GeneralRef(_) => {
                    let c = token::reference(inside(raw, "&", ";")?)?;
                    self.characters(Cow::Owned(c.to_string()))?;
                }
                Event::CData(_) => {
                    self.characters(token::line_ends(inside(raw, "<![CDATA[", "]]>")?))?;
                }
                Event::Comment(_) => self.comment(raw)?,
                Event::Decl(_) if start == 0 => declaration(inside(raw, "<?xml", "?>")?)?,
                Event::Decl(_) => return Err(XmlErrorKind::Declaration),
                Event::PI(_) => self.instruction(inside(raw, "<?", "?>")?)?,
                Event::DocType(_) => return Err(XmlErrorKind::Doctype),
                Event::Eof => return self.finish(),
            }
        }
    }

    fn finish(&self) -> Result<(), XmlErrorKind> {
        if !self.open.is_empty() {
            return Err(XmlErrorKind::Syntax("the document ends inside an element".to_owned()));
        }
        if self.document.elements.is_empty() { Err(XmlErrorKind::Root) } else { Ok(()) }
    }

    fn count_lines(&mut self, to: usize) {
        let passed = self.input.as_bytes().get(self.counted..to).unwrap_or_default();
        self.line = self.line.saturating_add(token::newlines(passed));
        self.counted = self.counted.max(to);
    }

    fn start(&mut self, tag: &'a str) -> Result<(), XmlErrorKind> {
        if self.open.is_empty() && !self.document.elements.is_empty() {
            return Err(XmlErrorKind::Root);
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(XmlErrorKind::TooDeep);
        }
        if self.document.elements.len() >= MAX_ELEMENTS {
            return Err(XmlErrorKind::TooMany("elements"));
        }
        let (name, rest) = tag.split_at(tag.find(token::is_space).unwrap_or(tag.len()));
        let raw = token::attributes(rest)?;
        self.attributes = self.attributes.saturating_add(raw.len());
        if self.attributes > MAX_ALL_ATTRIBUTES {
            return Err(XmlErrorKind::TooMany("attributes"));
        }
        let bindings = self.bindings.len();
        let plain = self.declarations(raw)?;
        let attributes = self.resolve_attributes(plain)?;
        let name = self.resolve(name, true)?;
        let index = u32::try_from(self.document.elements.len()).unwrap_or(u32::MAX);
        let id = ElementId(index);
        let parent = self.open.last().map(|open| open.id);
        self.document.elements.push(Element {
            name,
            line: self.line,
            parent,
            attributes,
            declarations: self.bindings.get(bindings..).unwrap_or_default().to_vec(),
            children: Vec::new(),
        });
        self.append(Node::Element(id));
        self.open.push(Open { id, bindings });
        Ok(())
    }

    fn end(&mut self) {
        if let Some(open) = self.open.pop() {
            self.bindings.truncate(open.bindings);
        }
    }

    /// Takes namespace declarations out of the attributes and into scope.
    fn declarations(
        &mut self,
        raw: Vec<(&'a str, Cow<'a, str>)>,
    ) -> Result<Vec<(&'a str, Cow<'a, str>)>, XmlErrorKind> {
        let mut plain = Vec::with_capacity(raw.len());
        let outside = self.bindings.len();
        for (name, value) in raw {
            let prefix = match name.strip_prefix("xmlns") {
                Some("") => "",
                Some(rest) if rest.starts_with(':') => rest.trim_start_matches(':'),
                _ => {
                    plain.push((name, value));
                    continue;
                }
            };
            if name != "xmlns" {
                token::qualified_name(name)?;
            }
            if self.bindings.iter().skip(outside).any(|(other, _)| *other == prefix) {
                return Err(XmlErrorKind::DuplicateAttribute(crate::conf::error::clip(name)));
            }
            self.declare(prefix, value)?;
        }
        Ok(plain)
    }

    fn declare(&mut self, prefix: &'a str, uri: Cow<'a, str>) -> Result<(), XmlErrorKind> {
        let reserved = prefix == "xmlns"
            || (prefix == "xml") != (uri == XML_NAMESPACE)
            || uri == XMLNS_NAMESPACE
            || (uri.is_empty() && !prefix.is_empty());
        if reserved {
            return Err(XmlErrorKind::Prefix(crate::conf::error::clip(prefix)));
        }
        if self.bindings.len() >= MAX_BINDINGS {
            return Err(XmlErrorKind::TooMany("namespace declarations"));
        }
        let id = if uri.is_empty() {
            None
        } else {
            let index = u32::try_from(self.document.namespaces.len()).unwrap_or(u32::MAX);
            self.document.namespaces.push(uri);
            Some(NamespaceId(index))
        };
        self.bindings.push((prefix, id));
        Ok(())
    }

    fn resolve(&self, name: &'a str, element: bool) -> Result<Name<'a>, XmlErrorKind> {
        let (prefix, local) = token::qualified_name(name)?;
        if prefix.is_empty() && !element {
            return Ok(Name { prefix, local, namespace: None });
        }
        let bound = self.bindings.iter().rev().find(|(other, _)| *other == prefix);
        match bound {
            Some((_, namespace)) => Ok(Name { prefix, local, namespace: *namespace }),
            None if prefix.is_empty() => Ok(Name { prefix, local, namespace: None }),
            None => Err(XmlErrorKind::Prefix(crate::conf::error::clip(prefix))),
        }
    }

    fn resolve_attributes(
        &self,
        plain: Vec<(&'a str, Cow<'a, str>)>,
    ) -> Result<Vec<Attribute<'a>>, XmlErrorKind> {
        let mut resolved: Vec<Attribute<'a>> = Vec::with_capacity(plain.len());
        for (raw, value) in plain {
            let name = self.resolve(raw, false)?;
            let namespace = self.document.namespace(&name);
            let twice = resolved.iter().any(|other| {
                other.name.local == name.local && self.document.namespace(&other.name) == namespace
            });
            if twice {
                return Err(XmlErrorKind::DuplicateAttribute(crate::conf::error::clip(raw)));
            }
            resolved.push(Attribute { name, value });
        }
        Ok(resolved)
    }

    fn text(&mut self, raw: &'a str) -> Result<(), XmlErrorKind> {
        if raw.contains("]]>") {
            return Err(XmlErrorKind::Text("]]>"));
        }
        if self.open.is_empty() {
            let blank = raw.chars().all(token::is_space);
            return if blank { Ok(()) } else { Err(XmlErrorKind::Root) };
        }
        self.characters(token::line_ends(raw))
    }

    /// Adds character data, joined to such that stands right before it.
    fn characters(&mut self, text: Cow<'a, str>) -> Result<(), XmlErrorKind> {
        if self.open.is_empty() {
            return Err(XmlErrorKind::Root);
        }
        if let Some(Node::Text(before)) = self.innermost().and_then(|element| element.children.last_mut()) {
            before.to_mut().push_str(&text);
            return Ok(());
        }
        self.count_node()?;
        self.append(Node::Text(text));
        Ok(())
    }

    fn comment(&mut self, raw: &'a str) -> Result<(), XmlErrorKind> {
        let content = inside(raw, "<!--", "-->")?;
        if content.contains("--") || content.ends_with('-') {
            return Err(XmlErrorKind::Comment);
        }
        self.count_node()?;
        self.append(Node::Comment(content));
        Ok(())
    }

    fn instruction(&mut self, content: &'a str) -> Result<(), XmlErrorKind> {
        let target = content.split(token::is_space).next().unwrap_or_default();
        if token::plain_name(target).is_err() || target.eq_ignore_ascii_case("xml") {
            return Err(XmlErrorKind::Instruction);
        }
        self.count_node()?;
        self.append(Node::Instruction(content));
        Ok(())
    }

    fn count_node(&mut self) -> Result<(), XmlErrorKind> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > MAX_NODES { Err(XmlErrorKind::TooMany("texts and comments")) } else { Ok(()) }
    }

    fn innermost(&mut self) -> Option<&mut Element<'a>> {
        let index = usize::try_from(self.open.last()?.id.0).ok()?;
        self.document.elements.get_mut(index)
    }

    /// Adds a node to the innermost open element; comments around the root belong to none and are left out.
    fn append(&mut self, node: Node<'a>) {
        if let Some(element) = self.innermost() {
            element.children.push(node);
        }
    }
}

fn offset(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// What stands between a token's marks.
fn inside<'a>(raw: &'a str, before: &str, after: &str) -> Result<&'a str, XmlErrorKind> {
    raw.strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after))
        .ok_or_else(|| XmlErrorKind::Syntax("a token without its marks".to_owned()))
}

/// Checks `version`, then `encoding` and `standalone` where they stand.
fn declaration(content: &str) -> Result<(), XmlErrorKind> {
    let attributes = token::attributes(content).map_err(|_| XmlErrorKind::Declaration)?;
    let mut rest = attributes.iter().peekable();
    let version = rest.next().filter(|(name, _)| *name == "version");
    if !version.is_some_and(|(_, value)| value == "1.0" || value == "1.1") {
        return Err(XmlErrorKind::Declaration);
    }
    if let Some((_, encoding)) = rest.next_if(|(name, _)| *name == "encoding")
        && !["utf-8", "us-ascii"].iter().any(|known| known.eq_ignore_ascii_case(encoding))
    {
        return Err(XmlErrorKind::Encoding);
    }
    rest.next_if(|(name, value)| *name == "standalone" && (value == "yes" || value == "no"));
    if rest.next().is_some() { Err(XmlErrorKind::Declaration) } else { Ok(()) }
}
