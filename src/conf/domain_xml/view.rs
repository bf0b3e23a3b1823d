//! A strict view on one element: whoever reads it names everything that may stand in it, and the rest is
//! refused by name. Nothing of a definition is skipped because nobody looked for it.

use std::borrow::Cow;

use crate::conf::error::clip;
use crate::conf::xml::Document;
use crate::conf::xml::walk::At;
use crate::conf::{DefinitionError, DefinitionErrorKind};

/// The most elements directly inside one element; keeps whatever compares siblings cheap.
const MAX_CHILDREN: usize = 1024;

/// What reading returns.
pub(super) type Read<T> = Result<T, DefinitionError>;

/// One element of a definition.
#[derive(Clone, Copy)]
pub(super) struct View<'d>(At<'d>);

impl<'d> View<'d> {
    pub(super) fn root(document: &'d Document<'d>) -> Self {
        Self(At::root(document))
    }

    pub(super) fn name(self) -> &'d str {
        self.0.name()
    }

    pub(super) fn line(self) -> u32 {
        self.0.line()
    }

    /// Whether the element is in no namespace, as all of libvirt's own are.
    fn plain(self) -> bool {
        self.0.element().is_some() && self.0.namespace().is_none()
    }

    /// The name as written, in angle brackets.
    pub(super) fn tag(self) -> String {
        let Some(element) = self.0.element() else { return String::new() };
        let colon = if element.name.prefix.is_empty() { "" } else { ":" };
        clip(&format!("<{}{colon}{}>", element.name.prefix, element.name.local))
    }

    fn children(self) -> impl Iterator<Item = View<'d>> {
        self.0.elements().map(View)
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
        let attributes = self.0.element().map(|element| element.attributes.as_slice());
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
        self.0.text()
    }

    /// An attribute in no namespace.
    pub(super) fn attribute(self, name: &str) -> Option<&'d str> {
        self.0.attribute(name)
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

    pub(super) fn error(self, kind: DefinitionErrorKind, remedy: impl Into<Box<str>>) -> DefinitionError {
        DefinitionError { line: self.line(), path: self.0.path().into(), kind, remedy: remedy.into() }
    }

    pub(super) fn contradiction(
        self,
        what: impl Into<String>,
        remedy: impl Into<Box<str>>,
    ) -> DefinitionError {
        self.error(DefinitionErrorKind::Contradiction(what.into()), remedy)
    }

    /// An error that has the same remedy wherever it is found.
    fn usual(self, kind: DefinitionErrorKind) -> DefinitionError {
        let remedy = kind.remedy();
        self.error(kind, remedy)
    }

    pub(super) fn duplicate(self, what: impl Into<String>, first: u32) -> DefinitionError {
        self.usual(DefinitionErrorKind::Duplicate { what: what.into(), first })
    }

    pub(super) fn missing(self, what: impl Into<String>) -> DefinitionError {
        self.usual(DefinitionErrorKind::Missing(what.into()))
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
        self.usual(DefinitionErrorKind::value(what, value, expected))
    }
}
