//! A strict view on one element: whoever reads it names everything that may stand in it, and the rest is
//! refused by name. Nothing of a definition is skipped because nobody looked for it.

use std::borrow::Cow;

use crate::conf::error::clip;
use crate::conf::xml::{Document, ElementId, Node};
use crate::conf::{DefinitionError, DefinitionErrorKind};

/// The most elements directly inside one element; keeps whatever compares siblings cheap.
const MAX_CHILDREN: usize = 1024;

/// What reading returns.
pub(super) type Read<T> = Result<T, DefinitionError>;

/// One element of a definition.
#[derive(Clone, Copy)]
pub(super) struct View<'d> {
    document: &'d Document<'d>,
    id: ElementId,
}

impl<'d> View<'d> {
    pub(super) fn root(document: &'d Document<'d>) -> Self {
        Self { document, id: document.root() }
    }

    pub(super) fn name(self) -> &'d str {
        self.document.element(self.id).map_or("", |element| element.name.local)
    }

    pub(super) fn line(self) -> u32 {
        self.document.element(self.id).map_or(0, |element| element.line)
    }

    /// Whether the element is in no namespace, as all of libvirt's own are.
    fn plain(self) -> bool {
        self.document.element(self.id).is_some_and(|e| self.document.namespace(&e.name).is_none())
    }

    /// The name as written, in angle brackets.
    pub(super) fn tag(self) -> String {
        let Some(element) = self.document.element(self.id) else { return String::new() };
        let colon = if element.name.prefix.is_empty() { "" } else { ":" };
        clip(&format!("<{}{colon}{}>", element.name.prefix, element.name.local))
    }

    fn children(self) -> impl Iterator<Item = View<'d>> {
        let nodes = self.document.element(self.id).map(|element| element.children.as_slice());
        nodes.unwrap_or_default().iter().filter_map(move |node| match node {
            Node::Element(id) => Some(View { document: self.document, id: *id }),
            _ => None,
        })
    }

    /// Refuses every attribute and child that is not listed, and text beside the children.
    pub(super) fn only(self, attributes: &[&str], children: &[&str]) -> Read<()> {
        self.only_attributes(attributes)?;
        if let Some(child) = self.children().find(|c| !c.plain() || !children.contains(&c.name())) {
            return Err(child.unsupported(child.tag()));
        }
        if let Some(child) = self.children().nth(MAX_CHILDREN) {
            return Err(child.unsupported(format!("more than {MAX_CHILDREN} elements in {}", self.tag())));
        }
        if self.text().chars().any(|c| !c.is_ascii_whitespace()) {
            return Err(self.unsupported(format!("text in {}", self.tag())));
        }
        Ok(())
    }

    /// Refuses every attribute that is not listed and every child; the text is for the caller.
    pub(super) fn leaf(self, attributes: &[&str]) -> Read<Cow<'d, str>> {
        self.only_attributes(attributes)?;
        if let Some(child) = self.children().next() {
            return Err(child.unsupported(child.tag()));
        }
        Ok(self.text())
    }

    fn only_attributes(self, known: &[&str]) -> Read<()> {
        let attributes = self.document.element(self.id).map(|element| element.attributes.as_slice());
        for attribute in attributes.unwrap_or_default() {
            if attribute.name.namespace.is_some() || !known.contains(&attribute.name.local) {
                let what = format!("attribute {} of {}", clip(attribute.name.local), self.tag());
                return Err(self.unsupported(what));
            }
        }
        Ok(())
    }

    /// All text directly inside, joined over comments.
    fn text(self) -> Cow<'d, str> {
        let nodes = self.document.element(self.id).map(|element| element.children.as_slice());
        let mut texts = nodes.unwrap_or_default().iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_ref()),
            _ => None,
        });
        let first = texts.next().unwrap_or_default();
        texts.fold(Cow::Borrowed(first), |joined, more| joined + more)
    }

    /// An attribute in no namespace.
    pub(super) fn attribute(self, name: &str) -> Option<&'d str> {
        let element = self.document.element(self.id)?;
        let found = element.attributes.iter().find(|a| a.name.namespace.is_none() && a.name.local == name);
        found.map(|attribute| attribute.value.as_ref())
    }

    /// An attribute that must be there.
    pub(super) fn required(self, name: &str) -> Read<&'d str> {
        self.attribute(name).ok_or_else(|| self.missing(format!("attribute {name} of {}", self.tag())))
    }

    /// The child of that name; a second one is refused.
    pub(super) fn one(self, name: &str) -> Read<Option<View<'d>>> {
        let mut found = self.all(name);
        let first = found.next();
        match (first, found.next()) {
            (Some(first), Some(second)) => Err(second.duplicate(second.tag(), first.line())),
            _ => Ok(first),
        }
    }

    /// Every child of that name, in order.
    pub(super) fn all(self, name: &str) -> impl Iterator<Item = View<'d>> {
        self.children().filter(move |child| child.plain() && child.name() == name)
    }

    /// Whether `<name/>` stands inside, bare.
    pub(super) fn flag(self, name: &str) -> Read<bool> {
        match self.one(name)? {
            None => Ok(false),
            Some(flag) => flag.only(&[], &[]).map(|()| true),
        }
    }

    /// Reads an attribute's word from a closed list: `Unsupported` for one that is not in it.
    pub(super) fn word<T: Copy>(self, name: &str, words: &[(&str, T)]) -> Read<Option<T>> {
        let Some(word) = self.attribute(name) else { return Ok(None) };
        match words.iter().find(|(known, _)| *known == word) {
            Some((_, value)) => Ok(Some(*value)),
            None => Err(self.unsupported_among(
                format!("{name}='{}' of {}", clip(word), self.tag()),
                words.iter().map(|(known, _)| *known),
            )),
        }
    }

    /// Refuses an attribute unless it says what svirt does anyway.
    pub(super) fn fixed(self, name: &str, values: &[&str]) -> Read<()> {
        let words: Vec<(&str, ())> = values.iter().map(|value| (*value, ())).collect();
        self.word(name, &words).map(|_| ())
    }

    /// An attribute with `yes` or `no`, or `on` or `off`.
    pub(super) fn switch(self, name: &str, on: &str, off: &str) -> Read<Option<bool>> {
        let Some(word) = self.attribute(name) else { return Ok(None) };
        if word == on {
            Ok(Some(true))
        } else if word == off {
            Ok(Some(false))
        } else {
            Err(self.value(format!("attribute {name} of {}", self.tag()), word, format!("{on} or {off}")))
        }
    }

    /// Where the element stands; same-named siblings are numbered from 1 as in XPath.
    fn path(self) -> String {
        self.document.path(self.id)
    }

    pub(super) fn error(self, kind: DefinitionErrorKind, remedy: impl Into<Box<str>>) -> DefinitionError {
        DefinitionError { line: self.line(), path: self.path().into(), kind, remedy: remedy.into() }
    }

    pub(super) fn contradiction(
        self,
        what: impl Into<String>,
        remedy: impl Into<Box<str>>,
    ) -> DefinitionError {
        self.error(DefinitionErrorKind::Contradiction(what.into()), remedy)
    }

    pub(super) fn duplicate(self, what: impl Into<String>, first: u32) -> DefinitionError {
        self.error(
            DefinitionErrorKind::Duplicate { what: what.into(), first },
            "remove one of the two, or give it a value of its own",
        )
    }

    pub(super) fn missing(self, what: impl Into<String>) -> DefinitionError {
        let what = what.into();
        let remedy = format!("add {what}");
        self.error(DefinitionErrorKind::Missing(what), remedy)
    }

    pub(super) fn unsupported(self, what: impl Into<String>) -> DefinitionError {
        let remedy = if self.name() == "address" {
            "remove the <address>: svirt places devices itself, in the order of the definition"
        } else {
            "remove it, if the guest can do without; docs/domain-xml.md lists what runs"
        };
        self.error(DefinitionErrorKind::Unsupported(what.into()), remedy)
    }

    pub(super) fn unsupported_among<'w>(
        self,
        what: impl Into<String>,
        instead: impl Iterator<Item = &'w str>,
    ) -> DefinitionError {
        let words: Vec<&str> = instead.collect();
        let remedy = format!("use {}", words.join(" or "));
        self.error(DefinitionErrorKind::Unsupported(what.into()), remedy)
    }

    pub(super) fn value(
        self,
        what: impl Into<String>,
        value: &str,
        expected: impl Into<String>,
    ) -> DefinitionError {
        let expected = expected.into();
        let remedy = format!("give it {expected}");
        self.error(DefinitionErrorKind::Value { what: what.into(), value: clip(value), expected }, remedy)
    }
}
