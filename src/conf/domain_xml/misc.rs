//! `<rng>`, `<memballoon>`, and what libvirt writes of devices that every machine has.

use super::scalar::{alias, number_attribute};
use super::view::{Read, View};
use crate::conf::domain::{MemBalloon, Rng, RngBackend};

/// What libvirt adds where a definition has no `<memballoon>`.
pub(super) const DEFAULT_BALLOON: MemBalloon = MemBalloon { autodeflate: None, free_page_reporting: None };

/// `<rng>`
pub(super) fn rng(view: View<'_>) -> Read<Rng> {
    view.only(&["model"], &["alias", "backend", "rate"])?;
    view.required("model")?;
    view.fixed("model", &["virtio"])?;
    alias(view)?;
    let rate = match view.one("rate")? {
        None => None,
        Some(rate) => {
            rate.only(&["bytes", "period"], &[])?;
            rate.required("bytes")?;
            let bytes = number_attribute::<u32>(rate, "bytes", 1)?.unwrap_or(1);
            let period = number_attribute::<u32>(rate, "period", 1)?.unwrap_or(1000);
            Some((u64::from(bytes), u64::from(period)))
        }
    };
    let backend = view.one("backend")?.ok_or_else(|| view.missing("<backend> of <rng>"))?;
    let text = backend.leaf(&["model"])?;
    backend.required("model")?;
    let words = [("builtin", RngBackend::Builtin), ("random", RngBackend::Random)];
    let kind = backend.word("model", &words)?.unwrap_or(RngBackend::Builtin);
    let known: &[&str] = match kind {
        RngBackend::Builtin => &[""],
        RngBackend::Random => &["", "/dev/random", "/dev/urandom"],
    };
    if !known.contains(&text.trim()) {
        let what = format!("<backend> '{}'", crate::conf::error::clip(&text));
        return Err(backend.unsupported_among(what, ["/dev/urandom"].into_iter()));
    }
    Ok(Rng { rate, backend: kind })
}

/// `<memballoon>`
pub(super) fn memballoon(devices: View<'_>) -> Read<Option<MemBalloon>> {
    let Some(view) = devices.one("memballoon")? else { return Ok(Some(DEFAULT_BALLOON)) };
    view.only(&["autodeflate", "freePageReporting", "model"], &["alias"])?;
    view.required("model")?;
    alias(view)?;
    let virtio = view.word("model", &[("none", false), ("virtio", true)])?.unwrap_or(true);
    let balloon = MemBalloon {
        autodeflate: view.switch("autodeflate", "on", "off")?,
        free_page_reporting: view.switch("freePageReporting", "on", "off")?,
    };
    if !virtio && balloon != DEFAULT_BALLOON {
        return Err(view.contradiction("model='none' has no options", "remove the options"));
    }
    Ok(virtio.then_some(balloon))
}

/// Accepts what the machine has anyway, or what stands for nothing; refuses every option of it.
pub(super) fn inert(devices: View<'_>) -> Read<()> {
    for view in devices.all("controller") {
        controller(view)?;
    }
    for view in devices.all("input") {
        view.only(&["bus", "type"], &["alias"])?;
        view.required("type")?;
        view.fixed("type", &["keyboard", "mouse"])?;
        view.required("bus")?;
        view.fixed("bus", &["ps2"])?;
        alias(view)?;
    }
    for view in devices.all("audio") {
        view.only(&["id", "type"], &[])?;
        view.required("type")?;
        view.fixed("type", &["none"])?;
    }
    Ok(())
}

/// A controller that the devices of its kind bring with them: the first of its type, without options.
fn controller(view: View<'_>) -> Read<()> {
    view.only(&["index", "model", "type"], &["alias"])?;
    alias(view)?;
    view.fixed("index", &["0"])?;
    view.required("type")?;
    view.fixed("type", &["ide", "pci", "sata", "scsi", "usb", "virtio-serial"])?;
    let models: &[&str] = match view.attribute("type") {
        Some("pci") => &["pci-root", "pcie-root"],
        Some("scsi") => &["virtio-scsi"],
        Some("usb") => &["none"],
        _ => &[],
    };
    if models.is_empty() && view.attribute("model").is_some() {
        return Err(view.unsupported("attribute model of this <controller>"));
    }
    view.fixed("model", models)
}
