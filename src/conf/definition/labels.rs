//! `<seclabel>` by the rules of libvirt 12.8 for new definitions: of the domain, and of each image and channel.
//!
//! Difference, on purpose: a text or a model name that is too long is refused, where libvirt drops it.

use super::Warning;
use super::node::Node;
use crate::conf::error::clip;
use crate::conf::{DefinitionError, DefinitionErrorKind};

type Checked = Result<(), DefinitionError>;

/// Where something stands.
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) path: String,
}

impl Place {
    pub(super) fn error(&self, kind: DefinitionErrorKind, remedy: &str) -> DefinitionError {
        DefinitionError {
            line: self.line.max(1),
            path: self.path.as_str().into(),
            kind,
            remedy: remedy.into(),
        }
    }

    fn request(&self, what: impl Into<String>, remedy: &str) -> DefinitionError {
        self.error(DefinitionErrorKind::LabelRequest(what.into()), remedy)
    }

    fn missing(&self, what: &str) -> DefinitionError {
        self.error(DefinitionErrorKind::Missing(what.to_owned()), &format!("add {what}"))
    }

    fn second(&self, model: Option<&str>, first: u32) -> DefinitionError {
        let what = match model {
            Some(model) => format!("<seclabel> of model {}", clip(model)),
            None => "<seclabel> without a model".to_owned(),
        };
        self.error(DefinitionErrorKind::Duplicate { what, first }, "keep one <seclabel> a model")
    }

    pub(super) fn contradiction(&self, what: impl Into<String>, remedy: &str) -> DefinitionError {
        self.error(DefinitionErrorKind::Contradiction(what.into()), remedy)
    }

    fn dropped(&self, what: &str) -> Warning {
        let kind = DefinitionErrorKind::Unknown { what: what.to_owned(), nearest: None };
        Warning { line: self.line.max(1), path: self.path.as_str().into(), kind }
    }
}

/// Brings every label into its canonical form; says what it left out because it means nothing.
pub(super) fn normalise(root: &mut Node) -> Result<Vec<Warning>, DefinitionError> {
    let mut dropped = Vec::new();
    let mut place = numbered(root);
    for label in root.children_mut().filter(|child| child.name() == "seclabel") {
        domain_label(label, &place(label), &mut dropped)?;
    }
    for name in ["devices", "os"] {
        if let Some(node) = root.child_mut(name) {
            below(node, &format!("/domain/{name}"), &mut dropped)?;
        }
    }
    Ok(dropped)
}

/// The rules among labels: one a model, and overrides only where the domain relabels.
pub(super) fn compare(root: &Node) -> Checked {
    let mut seen: Vec<(Option<&str>, u32)> = Vec::new();
    let mut place = numbered(root);
    for label in root.all("seclabel") {
        let model = label.attribute("model");
        let place = place(label);
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == model) {
            return Err(place.second(model, *first));
        }
        seen.push((model, label.line));
    }
    let several = root.all("seclabel").nth(1).is_some();
    let mut place = numbered(root);
    for label in root.all("seclabel") {
        let place = place(label);
        // Only where it asks for nothing of its own can the host's first model be meant.
        let own = label.attribute("type") == Some("static") || label.child("baselabel").is_some();
        if label.attribute("model").is_none() && (several || own) {
            return Err(place.missing("attribute model of <seclabel>"));
        }
    }
    let overall: Vec<Overall> = root.all("seclabel").map(Overall::of).collect();
    for name in ["devices", "os"] {
        if let Some(node) = root.child(name) {
            overrides(node, &format!("/domain/{name}"), &overall)?;
        }
    }
    Ok(())
}

/// Says of each `<seclabel>` of the domain, in turn, where it stands.
fn numbered(root: &Node) -> impl FnMut(&Node) -> Place + use<> {
    let several = root.all("seclabel").nth(1).is_some();
    let mut index = 0_usize;
    move |label| {
        index = index.saturating_add(1);
        let path = if several { format!("/domain/seclabel[{index}]") } else { "/domain/seclabel".into() };
        Place { line: label.line, path }
    }
}

fn domain_label(label: &mut Node, place: &Place, dropped: &mut Vec<Warning>) -> Checked {
    let no_model = label.attribute("model") == Some("none");
    // Dynamic without a type, as the manual always said and libvirt 12.8 does; the model none is of type none.
    let kind = if no_model { "none" } else { label.attribute("type").unwrap_or("dynamic") }.to_owned();
    let relabel = label.attribute("relabel").map(|word| word == "yes");
    if no_model && relabel == Some(true) && label.attribute("type") == Some("none") {
        dropped.push(place.dropped("relabel='yes' of <seclabel type='none'>"));
    }
    match kind.as_str() {
        "dynamic" if relabel == Some(false) => {
            return Err(place.request("a dynamic label must relabel", "remove relabel='no'"));
        }
        "dynamic" => {
            // They belong to a running domain.
            label.remove_children("label");
            label.remove_children("imagelabel");
            label.fill("relabel", "yes");
        }
        "none" if relabel == Some(true) && !no_model => {
            return Err(place.request("type none cannot relabel", "remove relabel='yes'"));
        }
        "none" => {
            for name in ["label", "imagelabel", "baselabel"] {
                if label.child(name).is_some() {
                    dropped.push(place.dropped(&format!("<{name}> in <seclabel type='none'>")));
                    label.remove_children(name);
                }
            }
            label.remove_attribute("relabel");
        }
        _ => {
            if label.child("label").is_none() {
                return Err(place.missing("<label> of <seclabel type='static'>"));
            }
            if label.child("baselabel").is_some() {
                dropped.push(place.dropped("<baselabel> in <seclabel type='static'>"));
                label.remove_children("baselabel");
            }
            label.fill("relabel", "no");
        }
    }
    label.set("type", kind);
    Ok(())
}

/// Every override in an element and below; the depth is the reader's.
fn below(node: &mut Node, path: &str, dropped: &mut Vec<Warning>) -> Checked {
    let mut empty = false;
    for child in node.children_mut() {
        let path = format!("{path}/{}", child.name());
        if child.name() == "seclabel" {
            let place = Place { line: child.line, path };
            empty |= !device_label(child, &place, dropped)?;
        } else {
            below(child, &path, dropped)?;
        }
    }
    if empty {
        node.retain(|child| child.name() != "seclabel" || asks(child));
    }
    Ok(())
}

/// Whether an override asks for anything.
fn asks(label: &Node) -> bool {
    label.child("label").is_some() || label.attribute("relabel").is_some()
}

fn device_label(
    label: &mut Node,
    place: &Place,
    dropped: &mut Vec<Warning>,
) -> Result<bool, DefinitionError> {
    let labels = label.child("label").is_some();
    match label.attribute("relabel") {
        Some("no") if labels => {
            let kind = DefinitionErrorKind::Value {
                what: "attribute relabel of <seclabel>".into(),
                value: "no".into(),
                expected: "yes, beside a <label>".into(),
            };
            return Err(place.error(kind, "remove relabel='no' or the <label>"));
        }
        Some("yes") if !labels => return Err(place.missing("<label> of <seclabel>")),
        // libvirt writes what it means.
        None if labels => label.set("relabel", "yes"),
        None => dropped.push(place.dropped("a <seclabel> that asks for nothing")),
        _ => {}
    }
    Ok(asks(label))
}

/// What of the domain's label decides about overrides.
struct Overall<'n> {
    model: Option<&'n str>,
    none: bool,
    relabels: bool,
}

impl<'n> Overall<'n> {
    fn of(label: &'n Node) -> Self {
        Self {
            model: label.attribute("model"),
            none: label.attribute("type") == Some("none"),
            relabels: label.attribute("relabel") == Some("yes"),
        }
    }

    /// Whether an override of that model stands against it. One that asks for no label may stand beside type none.
    fn refuses(&self, model: Option<&str>, labels: bool) -> bool {
        let same = model.is_none() || self.model.is_none() || self.model == model;
        same && if self.none { labels } else { !self.relabels }
    }
}

/// Holds the overrides in an element and below against each other and the domain's labels.
fn overrides(node: &Node, path: &str, overall: &[Overall<'_>]) -> Checked {
    let mut seen: Vec<(&str, u32)> = Vec::new();
    for child in node.children() {
        let path = format!("{path}/{}", child.name());
        if child.name() != "seclabel" {
            overrides(child, &path, overall)?;
            continue;
        }
        let place = Place { line: child.line, path };
        let model = child.attribute("model");
        if overall.iter().any(|overall| overall.refuses(model, child.child("label").is_some())) {
            let what = "the <seclabel> of a device, and the domain's label of its model does not relabel";
            return Err(place.request(what, "remove the override, or let the domain relabel"));
        }
        // libvirt keeps several without a model.
        let Some(model) = model else { continue };
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == model) {
            return Err(place.second(Some(model), *first));
        }
        seen.push((model, child.line));
    }
    Ok(())
}
