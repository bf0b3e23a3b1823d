//! Character devices whose other end does not run.

use super::{Item, given};
use crate::conf::domain::BeyondWay;
use crate::conf::xml::walk::At;

/// A port that the guest sees: its bytes go through the supervisor, whatever their other end is.
pub(super) fn port(element: At<'_>) -> Vec<Item> {
    let kind = element.attribute("type").unwrap_or_default();
    let source = element.one("source");
    let runs = match kind {
        "pty" | "file" => true,
        // libvirt's default, and one that nobody connects to, is to listen.
        "unix" => source.and_then(|source| source.attribute("mode")) != Some("connect"),
        "spicevmc" => element.name() == "channel",
        _ => false,
    };
    if runs && element.name() != "parallel" {
        return Vec::new();
    }
    let mut items = Item::at(given(source, "path"), way(kind));
    if let Some(file) = given(element.one("log"), "file") {
        items.push(Item::new("its log", Some(file), BeyondWay::Supervisor));
    }
    items
}

fn way(kind: &str) -> BeyondWay {
    match kind {
        "dev" | "file" | "pipe" | "unix" => BeyondWay::Supervisor,
        "tcp" | "udp" => BeyondWay::Network,
        _ => BeyondWay::Nothing,
    }
}

/// A device whose bytes QEMU itself exchanges with a program outside.
pub(super) fn endpoint(element: At<'_>, kind: &str) -> Vec<Item> {
    let path = element.all("source").find_map(|source| given(Some(source), "path"));
    let way = match way(kind) {
        BeyondWay::Supervisor if kind == "unix" => BeyondWay::Connected,
        other => other,
    };
    Item::at(path, way)
}
