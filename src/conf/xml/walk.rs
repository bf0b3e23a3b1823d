//! A lenient walk through a document: what is asked for is found, everything else is passed over. For XML that
//! describes, such as another host's capabilities; what is *run* is read strictly, by the domain's own reader.

use std::borrow::Cow;

use super::{Document, Element, ElementId, Node};

/// One element.
#[derive(Clone, Copy, Debug)]
pub struct At<'d> {
    document: &'d Document<'d>,
    id: ElementId,
}

impl<'d> At<'d> {
    /// The root.
    #[must_use]
    pub fn root(document: &'d Document<'d>) -> Self {
        Self { document, id: document.root() }
    }

    /// Its place in the document.
    #[must_use]
    pub fn id(self) -> ElementId {
        self.id
    }

    /// The name without its prefix.
    #[must_use]
    pub fn name(self) -> &'d str {
        self.element().map_or("", |element| element.name.local)
    }

    /// The namespace of the name.
    #[must_use]
    pub fn namespace(self) -> Option<&'d str> {
        self.document.namespace(&self.element()?.name)
    }

    /// Where it starts, from 1.
    #[must_use]
    pub fn line(self) -> u32 {
        self.element().map_or(0, |element| element.line)
    }

    /// The element as it was read.
    #[must_use]
    pub fn element(self) -> Option<&'d Element<'d>> {
        self.document.element(self.id)
    }

    /// Where it stands; same-named siblings are numbered from 1 as in XPath.
    #[must_use]
    pub fn path(self) -> String {
        self.document.path(self.id)
    }

    /// An attribute in no namespace.
    #[must_use]
    pub fn attribute(self, name: &str) -> Option<&'d str> {
        let attributes = &self.element()?.attributes;
        attributes
            .iter()
            .find(|a| a.name.namespace.is_none() && a.name.local == name)
            .map(|a| a.value.as_ref())
    }

    /// The local names of all attributes.
    pub fn attributes(self) -> impl Iterator<Item = &'d str> {
        let attributes = self.element().map(|element| element.attributes.as_slice());
        attributes.unwrap_or_default().iter().map(|attribute| attribute.name.local)
    }

    /// The text directly inside.
    #[must_use]
    pub fn text(self) -> Cow<'d, str> {
        let nodes = self.element().map(|element| element.children.as_slice());
        let mut texts = nodes.unwrap_or_default().iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_ref()),
            _ => None,
        });
        let first = texts.next().unwrap_or_default();
        texts.fold(Cow::Borrowed(first), |joined, more| joined + more)
    }

    /// The elements directly inside.
    pub fn elements(self) -> impl Iterator<Item = Self> {
        let nodes = self.element().map(|element| element.children.as_slice());
        nodes.unwrap_or_default().iter().filter_map(move |node| match node {
            Node::Element(id) => Some(Self { document: self.document, id: *id }),
            _ => None,
        })
    }

    /// The elements directly inside with that name and namespace.
    pub fn named(self, namespace: Option<&'static str>, name: &'static str) -> impl Iterator<Item = Self> {
        self.elements().filter(move |inner| inner.name() == name && inner.namespace() == namespace)
    }

    /// The elements directly inside with that name and no namespace.
    pub fn all(self, name: &'static str) -> impl Iterator<Item = Self> {
        self.named(None, name)
    }

    /// The first of them.
    #[must_use]
    pub fn one(self, name: &'static str) -> Option<Self> {
        self.all(name).next()
    }
}
