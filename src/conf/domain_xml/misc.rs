//! `<rng>`, `<memballoon>`, and what libvirt writes of devices that every machine has.

use super::address;
use super::scalar::{alias, number_attribute};
use super::view::{Read, View};
use crate::conf::domain::{MemBalloon, Rng, RngBackend};

/// What libvirt adds where a definition has no `<memballoon>`.
pub(super) const DEFAULT_BALLOON: MemBalloon =
    MemBalloon { autodeflate: None, free_page_reporting: None, period: None, address: None };

/// `<rng>`
pub(super) fn rng(view: View<'_>) -> Read<Rng> {
    view.only(&["model"], &["address", "alias", "backend", "rate"])?;
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
    Ok(Rng { rate, address: address::pci(view)?, backend: kind })
}

/// `<memballoon>`
pub(super) fn memballoon(devices: View<'_>) -> Read<Option<MemBalloon>> {
    let Some(view) = devices.one("memballoon")? else { return Ok(Some(DEFAULT_BALLOON)) };
    view.only(&["autodeflate", "freePageReporting", "model"], &["address", "alias", "stats"])?;
    view.required("model")?;
    alias(view)?;
    let virtio = view.word("model", &[("none", false), ("virtio", true)])?.unwrap_or(true);
    let balloon = MemBalloon {
        autodeflate: view.switch("autodeflate", "on", "off")?,
        free_page_reporting: view.switch("freePageReporting", "on", "off")?,
        period: period(view)?,
        address: address::pci(view)?,
    };
    if !virtio && balloon != DEFAULT_BALLOON {
        return Err(view.contradiction("model='none' has no options", "remove the options"));
    }
    Ok(virtio.then_some(balloon))
}

/// `<stats period>`, in seconds; 0 is never.
fn period(balloon: View<'_>) -> Read<Option<u32>> {
    let Some(stats) = balloon.one("stats")? else { return Ok(None) };
    stats.only(&["period"], &[])?;
    let seconds = number_attribute::<u32>(stats, "period", 0)?;
    if seconds.is_some_and(|seconds| i32::try_from(seconds).is_err()) {
        let text = stats.attribute("period").unwrap_or_default();
        return Err(stats.value("attribute period of <stats>", text, "a number of seconds up to 2147483647"));
    }
    Ok(seconds.filter(|seconds| *seconds > 0))
}
