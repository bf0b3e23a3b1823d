//! The kept form of one element: what the grammar knows of it, in the grammar's order.

use super::grammar::{Attribute, Element, fits};

/// An element of a definition.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) grammar: &'static Element,
    /// Its line in what was read; 0 for what was added.
    pub(super) line: u32,
    /// The values, with their places in the grammar's list, sorted by them.
    attributes: Vec<(usize, String)>,
    /// The text; a size's number without its unit.
    pub(super) text: String,
    /// The children, with their places in the grammar's list, sorted by them.
    children: Vec<(usize, Node)>,
    pub(super) foreign: Vec<Foreign>,
}

/// An element of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) namespace: String,
    pub(super) xml: String,
}

/// Lines are where something stood, not what it says.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.grammar, other.grammar)
            && self.attributes == other.attributes
            && self.text == other.text
            && self.children == other.children
            && self.foreign == other.foreign
    }
}

impl Eq for Node {}

impl Node {
    pub(super) fn new(grammar: &'static Element, line: u32) -> Self {
        Self {
            grammar,
            line,
            attributes: Vec::new(),
            text: String::new(),
            children: Vec::new(),
            foreign: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.grammar.name
    }

    /// The word of the attribute that decides what else may stand.
    pub(super) fn switch(&self) -> Option<&str> {
        self.grammar.switch.and_then(|name| self.attribute(name))
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes().find(|(attribute, _)| attribute.name == name).map(|(_, value)| value)
    }

    pub(super) fn attributes(&self) -> impl Iterator<Item = (&'static Attribute, &str)> {
        self.attributes
            .iter()
            .filter_map(|(at, value)| Some((self.grammar.attributes.get(*at)?, value.as_str())))
    }

    pub(super) fn children(&self) -> impl Iterator<Item = &Node> {
        self.children.iter().map(|(_, child)| child)
    }

    pub(super) fn children_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.children.iter_mut().map(|(_, child)| child)
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &Node> {
        self.children().filter(move |child| child.name() == name)
    }

    pub(super) fn child(&self, name: &str) -> Option<&Node> {
        self.all(name).next()
    }

    pub(super) fn child_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.children_mut().find(|child| child.name() == name)
    }

    /// The node at the end of a path of names, the first of each.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| node.child(name))
    }

    /// Puts a value at a place of the grammar's list.
    pub(super) fn put(&mut self, at: usize, value: String) {
        match self.attributes.binary_search_by_key(&at, |(at, _)| *at) {
            Ok(found) => {
                if let Some(old) = self.attributes.get_mut(found) {
                    old.1 = value;
                }
            }
            Err(found) => self.attributes.insert(found, (at, value)),
        }
    }

    /// Sets an attribute; one that the grammar does not have here is left out.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        let switch = self.switch();
        let at = self.grammar.attributes.iter().position(|a| a.name == name && fits(a.when, switch));
        if let Some(at) = at {
            self.put(at, value.into());
        }
    }

    /// Sets an attribute where there is none.
    pub(super) fn fill(&mut self, name: &str, value: &str) {
        if self.attribute(name).is_none() {
            self.set(name, value);
        }
    }

    pub(super) fn remove_attribute(&mut self, name: &str) {
        let attributes = self.grammar.attributes;
        self.attributes.retain(|(at, _)| attributes.get(*at).is_none_or(|a| a.name != name));
    }

    /// Puts a child behind those of its place.
    pub(super) fn push(&mut self, at: usize, child: Node) {
        let behind = self.children.partition_point(|(other, _)| *other <= at);
        self.children.insert(behind, (at, child));
    }

    /// Adds a child of that name, empty, behind its like, and hands it out; nothing where the grammar has none.
    pub(super) fn add(&mut self, name: &str) -> Option<&mut Node> {
        let at = self.slot(name)?;
        self.insert(self.children.partition_point(|(other, _)| *other <= at), at)
    }

    /// The same, before its like.
    pub(super) fn add_first(&mut self, name: &str) -> Option<&mut Node> {
        let at = self.slot(name)?;
        self.insert(self.children.partition_point(|(other, _)| *other < at), at)
    }

    /// The same, behind the last child that `like` tells, or behind its like where there is none.
    pub(super) fn add_behind(&mut self, name: &str, like: impl Fn(&Node) -> bool) -> Option<&mut Node> {
        let at = self.slot(name)?;
        let last = self.children.iter().rposition(|(other, child)| *other == at && like(child));
        let position =
            last.map_or_else(|| self.children.partition_point(|(other, _)| *other <= at), |at| at + 1);
        self.insert(position, at)
    }

    fn slot(&self, name: &str) -> Option<usize> {
        let switch = self.switch();
        self.grammar.children().iter().position(|c| c.element.name == name && fits(c.when, switch))
    }

    fn insert(&mut self, position: usize, at: usize) -> Option<&mut Node> {
        let grammar = self.grammar.children().get(at)?.element;
        self.children.insert(position, (at, Node::new(grammar, self.line)));
        self.children.get_mut(position).map(|(_, child)| child)
    }

    /// The first child of that name, added if there is none.
    pub(super) fn ensure(&mut self, name: &str) -> Option<&mut Node> {
        if self.child(name).is_none() {
            return self.add(name);
        }
        self.child_mut(name)
    }

    /// Takes over a copy of a child of another element, where the grammar has the same here.
    pub(super) fn adopt(&mut self, child: &Node) {
        let switch = self.switch();
        let places = self.grammar.children();
        let same = |grammar: &'static Element| std::ptr::eq(grammar, child.grammar);
        if let Some(at) = places.iter().position(|place| same(place.element) && fits(place.when, switch)) {
            self.push(at, child.clone());
        }
    }

    /// Keeps the children that `keep` wants.
    pub(super) fn retain(&mut self, keep: impl Fn(&Node) -> bool) {
        self.children.retain(|(_, child)| keep(child));
    }

    pub(super) fn remove_children(&mut self, name: &str) {
        self.retain(|child| child.name() != name);
    }

    /// Puts every child into order, as after reading.
    pub(super) fn append(&mut self, at: usize, child: Node) {
        self.children.push((at, child));
    }

    /// Puts the children of that name into this order among themselves; those of one key stay as they are.
    pub(super) fn order<K: Ord>(&mut self, name: &str, key: impl Fn(&Node) -> K) {
        let first = self.children.iter().position(|(_, child)| child.name() == name).unwrap_or(0);
        let count = self.all(name).count();
        if let Some(all) = self.children.get_mut(first..first + count) {
            all.sort_by_cached_key(|(_, child)| key(child));
        }
    }

    /// Puts the first child of that name that `which` tells at a place among those of its name.
    pub(super) fn put_at(&mut self, name: &str, which: impl Fn(&Node) -> bool, place: usize) {
        let first = self.children.iter().position(|(_, child)| child.name() == name).unwrap_or(0);
        let Some(from) = self.all(name).position(which).map(|at| first + at) else { return };
        let child = self.children.remove(from);
        let last = first + self.all(name).count();
        self.children.insert((first + place).min(last), child);
    }

    pub(super) fn sort(&mut self) {
        self.children.sort_by_key(|(at, _)| *at);
    }
}
