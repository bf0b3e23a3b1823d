//! Devices that are kept and do not run: what they name of the host, so that their labels can be planned, and the
//! definition without them.
//!
//! Lenient on purpose: whether such an element is well written `conf::definition` says, and a start refuses it by
//! name. No start comes here.

mod device;
mod port;

use std::collections::BTreeMap;

use crate::conf::domain::{Beyond, BeyondWay, DeviceLabel};
use crate::conf::xml::walk::At;
use crate::conf::xml::{Document, ElementId};

/// One resource of an element, before it has a name of its own.
struct Item {
    what: String,
    path: Option<String>,
    way: BeyondWay,
}

impl Item {
    fn new(what: impl Into<String>, path: Option<String>, way: BeyondWay) -> Self {
        Self { what: what.into(), path, way }
    }

    fn bare(way: BeyondWay) -> Vec<Self> {
        vec![Self::new("", None, way)]
    }

    fn at(path: Option<String>, way: BeyondWay) -> Vec<Self> {
        vec![Self::new("", path, way)]
    }
}

/// Takes out of a document what does not run, and tells what it asks of the host.
pub(super) fn take(document: &mut Document<'_>) -> Vec<Beyond> {
    let mut found = Found::default();
    let root = At::root(document);
    for element in root.elements().filter(|element| element.namespace().is_none()) {
        found.top(element);
    }
    let Found { taken, all, .. } = found;
    for id in taken {
        document.detach(id);
    }
    all
}

#[derive(Default)]
struct Found<'d> {
    taken: Vec<ElementId>,
    all: Vec<Beyond>,
    /// How many elements of each name came before.
    counted: BTreeMap<&'d str, usize>,
}

impl<'d> Found<'d> {
    fn top(&mut self, element: At<'d>) {
        match element.name() {
            "devices" => element.elements().for_each(|device| self.device(device)),
            "launchSecurity" => {
                let sev = element.attribute("type").is_some_and(|kind| kind.starts_with("sev"));
                let items = if sev {
                    Item::at(Some("/dev/sev".into()), BeyondWay::Public)
                } else {
                    Item::bare(BeyondWay::Nothing)
                };
                self.add(element, "launchSecurity", element, items);
            }
            "memoryBacking" => {
                let file = element.one("source").filter(|source| source.attribute("type") == Some("file"));
                if let Some(source) = file {
                    self.add(source, "memoryBacking", source, Item::bare(BeyondWay::File));
                }
            }
            "os" => {
                let tables = element.one("acpi").into_iter().flat_map(|acpi| acpi.all("table"));
                for (index, table) in tables.enumerate() {
                    let name = format!("ACPI table {index}");
                    self.add(table, &name, table, Item::at(text(table), BeyondWay::File));
                }
                if let Some(acpi) = element.one("acpi") {
                    self.taken.push(acpi.id());
                }
                if let Some(shim) = element.one("shim") {
                    self.add(shim, "shim", shim, Item::at(text(shim), BeyondWay::File));
                }
            }
            _ => {}
        }
    }

    fn device(&mut self, element: At<'d>) {
        let count = self.counted.entry(element.name()).or_default();
        let name = format!("{} {count}", element.name());
        *count += 1;
        let items = device::items(element);
        if items.is_empty() {
            for (part, items) in device::parts(element) {
                self.add(part, &name, element, items);
            }
        } else {
            self.add(element, &name, element, items);
        }
    }

    /// `taken` goes, `owner` says how it is used.
    fn add(&mut self, taken: At<'d>, name: &str, owner: At<'d>, items: Vec<Item>) {
        self.taken.push(taken.id());
        let boot = matches!(taken.name(), "shim" | "table");
        for Item { what, path, way } in items {
            let name = if what.is_empty() { name.to_owned() } else { format!("{name}, {what}") };
            self.all.push(Beyond {
                name,
                path,
                line: taken.line(),
                way,
                readonly: boot || owner.one("readonly").is_some() || taken.name() == "smartcard",
                shareable: owner.one("shareable").is_some(),
                seclabels: owner.one("source").map(labels).unwrap_or_default(),
            });
        }
    }
}

fn text(element: At<'_>) -> Option<String> {
    let text = element.text();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn given(element: Option<At<'_>>, attribute: &str) -> Option<String> {
    element?.attribute(attribute).map(ToOwned::to_owned)
}

/// Overrides as libvirt reads them: `relabel='no'`, or a label.
fn labels(source: At<'_>) -> Vec<DeviceLabel> {
    let label = |view: At<'_>| DeviceLabel {
        model: view.attribute("model").map(ToOwned::to_owned),
        label: view.one("label").and_then(text).filter(|_| view.attribute("relabel") != Some("no")),
    };
    source.all("seclabel").map(label).collect()
}
