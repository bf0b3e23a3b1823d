//! `<seclabel>` of a domain and of a disk's image, by the rules of libvirt 12.8 for new definitions.
//!
//! Differences, on purpose: a label must name its model, since which one is the host's first is nothing that a
//! pure reader knows, and too long texts are refused, where libvirt drops them silently.

use super::view::{Read, View};
use crate::conf::DefinitionErrorKind;
use crate::conf::domain::{Backing, DeviceLabel, DiskSource, Domain, SecLabel, SecLabelKind};

/// The longest label in bytes.
const LABEL_MAX: usize = 4096;
/// The models that a definition may name.
const MODELS: &[(&str, ())] = &[("apparmor", ()), ("dac", ()), ("none", ()), ("selinux", ())];

/// The words of `<seclabel type>`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dynamic,
    None,
    Static,
}

/// All labels of the domain, one a model.
pub(super) fn domain_labels(root: View<'_>) -> Read<Vec<SecLabel>> {
    let mut labels: Vec<SecLabel> = Vec::new();
    for view in root.all("seclabel") {
        let label = domain_label(view)?;
        if let Some(first) = labels.iter().find(|other| other.model == label.model) {
            return Err(view.duplicate(format!("<seclabel> of model {}", label.model), first.line));
        }
        labels.push(label);
    }
    Ok(labels)
}

fn domain_label(view: View<'_>) -> Read<SecLabel> {
    view.only(&["model", "relabel", "type"], &["baselabel", "imagelabel", "label"])?;
    let model = view.required("model")?;
    view.word("model", MODELS)?;
    let kind = kind(view)?;
    let relabel = view.switch("relabel", "yes", "no")?;
    // The model none is of type none, whatever else stands there, and cannot relabel.
    let kind = if model == "none" { Kind::None } else { kind };
    let kind = match kind {
        Kind::Dynamic if relabel == Some(false) => {
            return Err(label_request(view, "a dynamic label must relabel", "remove relabel='no'"));
        }
        // libvirt prints label and imagelabel of a running domain and ignores them in a new definition.
        Kind::Dynamic => SecLabelKind::Dynamic { baselabel: label_text(view, "baselabel")? },
        Kind::None if relabel == Some(true) && model != "none" => {
            return Err(label_request(view, "type none cannot relabel", "remove relabel='yes'"));
        }
        Kind::None => {
            view.only(&["model", "relabel", "type"], &[])?;
            SecLabelKind::None
        }
        Kind::Static => {
            if let Some(base) = view.one("baselabel")? {
                return Err(base.contradiction("a static label has no <baselabel>", "remove the <baselabel>"));
            }
            SecLabelKind::Static {
                label: label_text(view, "label")?
                    .ok_or_else(|| view.missing("<label> of <seclabel type='static'>"))?,
                imagelabel: label_text(view, "imagelabel")?,
                relabel: relabel.unwrap_or(false),
            }
        }
    };
    Ok(SecLabel { model: model.to_owned(), kind, line: view.line() })
}

/// Dynamic without a type, as the manual always said and libvirt 12.8 does.
fn kind(view: View<'_>) -> Read<Kind> {
    match view.attribute("type") {
        None | Some("dynamic") => Ok(Kind::Dynamic),
        Some("none") => Ok(Kind::None),
        Some("static") => Ok(Kind::Static),
        Some(other) => {
            Err(view.value("attribute type of <seclabel>", other, "one of dynamic, static and none"))
        }
    }
}

fn label_request(view: View<'_>, what: &str, remedy: &str) -> crate::conf::DefinitionError {
    view.error(DefinitionErrorKind::LabelRequest(what.to_owned()), remedy)
}

/// A label's text: 1 to 4096 bytes, without control characters.
fn label_text(view: View<'_>, name: &str) -> Read<Option<String>> {
    let Some(element) = view.one(name)? else { return Ok(None) };
    let text = element.leaf(&[])?;
    if text.is_empty() || text.len() > LABEL_MAX || text.chars().any(char::is_control) {
        let expected = format!("a label of 1 to {LABEL_MAX} bytes");
        return Err(element.value(element.tag(), &text, expected));
    }
    Ok(Some(text.into_owned()))
}

/// The labels of one `<source>`, one a model.
pub(super) fn device_labels(source: View<'_>) -> Read<Vec<DeviceLabel>> {
    let mut labels: Vec<DeviceLabel> = Vec::new();
    for view in source.all("seclabel") {
        let label = device_label(view)?;
        if labels.iter().any(|other| other.model == label.model) {
            return Err(view.duplicate("<seclabel> of this model", source.line()));
        }
        labels.push(label);
    }
    Ok(labels)
}

fn device_label(view: View<'_>) -> Read<DeviceLabel> {
    view.only(&["model", "relabel"], &["label"])?;
    view.word("model", &[("dac", ()), ("selinux", ())])?;
    let relabel = view.switch("relabel", "yes", "no")?.unwrap_or(true);
    let label = label_text(view, "label")?;
    match (relabel, label.is_some()) {
        (true, false) => Err(view.missing("<label> of <seclabel>")),
        (false, true) => {
            Err(view.contradiction("relabel='no' and a <label> exclude each other", "remove one of the two"))
        }
        _ => Ok(DeviceLabel { model: view.attribute("model").map(str::to_owned), label }),
    }
}

/// Whether each override of an image goes with the domain's label of its model.
pub(super) fn check_overrides(root: View<'_>, domain: &Domain) -> Read<()> {
    for disk in &domain.devices.disks {
        let mut at = disk.source.as_ref();
        while let Some(source) = at {
            if let Some(what) = refused_override(&domain.seclabels, source) {
                let mut error = label_request(root, &what, "remove the override, or let the domain relabel");
                error.line = disk.line;
                return Err(error);
            }
            at = match &source.backing {
                Backing::Layer(below) => Some(below),
                Backing::None | Backing::Unspecified => None,
            };
        }
    }
    Ok(())
}

fn refused_override(labels: &[SecLabel], source: &DiskSource) -> Option<String> {
    for own in &source.seclabels {
        for label in labels.iter().filter(|label| own.model.as_ref().is_none_or(|m| *m == label.model)) {
            let refused = match &label.kind {
                SecLabelKind::Dynamic { .. } => false,
                // What libvirt 12.8 lets pass: an override that asks for nothing either.
                SecLabelKind::None => own.label.is_some(),
                SecLabelKind::Static { relabel, .. } => !relabel,
            };
            if refused {
                let model = &label.model;
                return Some(format!(
                    "the image {} has a <seclabel>, and the domain's label of model {model} does not relabel",
                    source.path
                ));
            }
        }
    }
    None
}
