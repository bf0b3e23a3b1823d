//! `<seclabel>` by the rules of libvirt 12.8 for new definitions: of the domain, and of each image and channel.
//!
//! Differences, on purpose: too long texts are refused where libvirt drops them, and so is a label of a device that
//! says neither a label nor `relabel='no'`, as libvirt's own schema has it.

use super::node::Node;
use crate::conf::error::clip;
use crate::conf::{DefinitionError, DefinitionErrorKind};

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

    pub(super) fn request(&self, what: impl Into<String>, remedy: &str) -> DefinitionError {
        self.error(DefinitionErrorKind::LabelRequest(what.into()), remedy)
    }

    fn missing(&self, what: &str) -> DefinitionError {
        self.error(DefinitionErrorKind::Missing(what.to_owned()), &format!("add {what}"))
    }

    pub(super) fn contradiction(&self, what: impl Into<String>, remedy: &str) -> DefinitionError {
        self.error(DefinitionErrorKind::Contradiction(what.into()), remedy)
    }
}

/// Brings every label into its canonical form.
pub(super) fn normalise(root: &mut Node) -> Result<(), DefinitionError> {
    let count = root.all("seclabel").count();
    for (index, label) in root.children_mut().filter(|child| child.name() == "seclabel").enumerate() {
        let path =
            if count > 1 { format!("/domain/seclabel[{}]", index + 1) } else { "/domain/seclabel".into() };
        let place = Place { line: label.line, path };
        domain_label(label, &place, count > 1)?;
    }
    models(root)?;
    let overall: Vec<Overall> = root.all("seclabel").map(Overall::of).collect();
    if let Some(devices) = root.child_mut("devices") {
        device(devices, "/domain/devices", &overall)?;
    }
    if let Some(os) = root.child_mut("os") {
        device(os, "/domain/os", &overall)?;
    }
    Ok(())
}

fn domain_label(label: &mut Node, place: &Place, several: bool) -> Result<(), DefinitionError> {
    let model = label.attribute("model").map(str::to_owned);
    if model.is_none() && several {
        return Err(place.missing("attribute model of <seclabel>"));
    }
    // Dynamic without a type, as the manual always said and libvirt 12.8 does; the model none is of type none.
    let given =
        if model.as_deref() == Some("none") { "none" } else { label.attribute("type").unwrap_or("dynamic") };
    let kind = given.to_owned();
    let relabel = label.attribute("relabel").map(|word| word == "yes");
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
        "none" if relabel == Some(true) && model.as_deref() != Some("none") => {
            return Err(place.request("type none cannot relabel", "remove relabel='yes'"));
        }
        "none" => {
            for name in ["label", "imagelabel", "baselabel"] {
                label.remove_children(name);
            }
            label.remove_attribute("relabel");
        }
        _ => {
            if label.child("label").is_none() {
                return Err(place.missing("<label> of <seclabel type='static'>"));
            }
            if label.child("baselabel").is_some() {
                return Err(
                    place.contradiction("a static label has no <baselabel>", "remove the <baselabel>")
                );
            }
            // libvirt makes it from the label when the domain starts.
            label.remove_children("imagelabel");
            label.fill("relabel", "no");
        }
    }
    label.set("type", kind);
    Ok(())
}

/// One label a model.
fn models(root: &Node) -> Result<(), DefinitionError> {
    let mut seen: Vec<(&str, u32)> = Vec::new();
    for (index, label) in root.all("seclabel").enumerate() {
        let Some(model) = label.attribute("model") else { continue };
        if let Some((_, first)) = seen.iter().find(|(other, _)| *other == model) {
            let place = Place { line: label.line, path: format!("/domain/seclabel[{}]", index + 1) };
            let what = format!("<seclabel> of model {}", clip(model));
            let kind = DefinitionErrorKind::Duplicate { what, first: *first };
            return Err(place.error(kind, "keep one <seclabel> a model"));
        }
        seen.push((model, label.line));
    }
    Ok(())
}

/// What of the domain's label decides about overrides.
struct Overall {
    model: Option<String>,
    none: bool,
    relabels: bool,
}

impl Overall {
    fn of(label: &Node) -> Self {
        Self {
            model: label.attribute("model").map(str::to_owned),
            none: label.attribute("type") == Some("none"),
            relabels: label.attribute("relabel") == Some("yes"),
        }
    }

    /// Whether an override of that model stands against it. One that asks for nothing may stand beside type none.
    fn refuses(&self, model: Option<&str>, labels: bool) -> bool {
        let same = model.is_none() || self.model.is_none() || self.model.as_deref() == model;
        same && if self.none { labels } else { !self.relabels }
    }
}

/// Checks the overrides in an element and below; the depth is the reader's.
fn device(node: &mut Node, path: &str, overall: &[Overall]) -> Result<(), DefinitionError> {
    let mut seen: Vec<(Option<String>, u32)> = Vec::new();
    let mut count = 0_usize;
    for child in node.children_mut() {
        count = count.saturating_add(1);
        if child.name() != "seclabel" {
            let below = format!("{path}/{}", child.name());
            device(child, &below, overall)?;
            continue;
        }
        let place = Place { line: child.line, path: format!("{path}/seclabel") };
        device_label(child, &place, overall)?;
        let model = child.attribute("model").map(str::to_owned);
        // libvirt keeps several without a model.
        if let Some((_, first)) = seen.iter().find(|(other, _)| other.is_some() && *other == model) {
            let what = format!("<seclabel> of model {}", clip(model.as_deref().unwrap_or_default()));
            let kind = DefinitionErrorKind::Duplicate { what, first: *first };
            return Err(place.error(kind, "keep one <seclabel> a model"));
        }
        seen.push((model, child.line));
    }
    Ok(())
}

fn device_label(label: &mut Node, place: &Place, overall: &[Overall]) -> Result<(), DefinitionError> {
    let relabel = label.attribute("relabel") != Some("no");
    let labels = label.child("label").is_some();
    if relabel && !labels {
        return Err(place.missing("<label> of <seclabel>"));
    }
    if !relabel && labels {
        let what = "relabel='no' and a <label> exclude each other";
        return Err(place.contradiction(what, "remove one of the two"));
    }
    if overall.iter().any(|overall| overall.refuses(label.attribute("model"), labels)) {
        let what = "the <seclabel> of an image, and the domain's label of its model does not relabel";
        return Err(place.request(what, "remove the override, or let the domain relabel"));
    }
    // libvirt writes `relabel` only where it says no.
    if relabel {
        label.remove_attribute("relabel");
    }
    Ok(())
}
