//! `<os firmware>`, `<firmware>`, `<loader>` and `<nvram>`.

use super::scalar::{path, path_attribute};
use super::view::{Read, View};
use crate::conf::domain::Firmware;

/// UEFI firmware, or `None` for the machine's own.
pub(super) fn firmware(os: View<'_>) -> Read<Option<Firmware>> {
    let efi = os.word("firmware", &[("bios", false), ("efi", true)])?;
    let children = ["firmware", "loader", "nvram"];
    let mut found = None;
    for name in children {
        if let Some(view) = os.one(name)? {
            found.get_or_insert(view);
        }
    }
    let Some(first) = found else {
        return Ok((efi == Some(true)).then(|| Firmware::automatic(os.line())));
    };
    if efi == Some(false) {
        let what = format!("{} stands beside firmware='bios'", first.tag());
        return Err(first.contradiction(what, "write firmware='efi', or remove it"));
    }
    let (loader, secure) = loader(os)?;
    if efi.is_none() && loader.is_none() {
        let what = format!("{} without a <loader>", first.tag());
        return Err(first.contradiction(what, "write <os firmware='efi'>, or name a <loader>"));
    }
    if efi.is_some() && loader.is_some() {
        return Err(first.contradiction(
            "firmware='efi' looks for a <loader>, and one is named",
            "remove the attribute, or the <loader>",
        ));
    }
    let (secure_boot, enrolled_keys) = features(os)?;
    let (nvram, template) = nvram(os)?;
    Ok(Some(Firmware { loader, secure, secure_boot, enrolled_keys, nvram, template, line: first.line() }))
}

fn features(os: View<'_>) -> Read<(Option<bool>, Option<bool>)> {
    let Some(view) = os.one("firmware")? else { return Ok((None, None)) };
    view.only(&[], &["feature"])?;
    let (mut secure_boot, mut enrolled_keys) = (None, None);
    for feature in view.all("feature") {
        feature.only(&["enabled", "name"], &[])?;
        feature.required("name")?;
        feature.required("enabled")?;
        let on = feature.switch("enabled", "yes", "no")?;
        match feature.word("name", &[("enrolled-keys", false), ("secure-boot", true)])? {
            Some(true) => secure_boot = on,
            _ => enrolled_keys = on,
        }
    }
    if secure_boot == Some(false) && enrolled_keys == Some(true) {
        return Err(view.contradiction(
            "enrolled keys without secure boot mean nothing",
            "enable secure-boot, or disable enrolled-keys",
        ));
    }
    Ok((secure_boot, enrolled_keys))
}

fn loader(os: View<'_>) -> Read<(Option<String>, Option<bool>)> {
    let Some(view) = os.one("loader")? else { return Ok((None, None)) };
    let text = view.leaf(&["format", "readonly", "secure", "type"])?;
    view.fixed("format", &["raw"])?;
    view.fixed("readonly", &["yes"])?;
    let secure = view.switch("secure", "yes", "no")?;
    view.fixed("type", &["pflash"])?;
    if text.trim().is_empty() {
        return Ok((None, secure));
    }
    // libvirt's default is a ROM, which has no variables.
    view.required("type")?;
    Ok((Some(path(view, "<loader>", text.trim())?), secure))
}

fn nvram(os: View<'_>) -> Read<(Option<String>, Option<String>)> {
    let Some(view) = os.one("nvram")? else { return Ok((None, None)) };
    let template = match view.attribute("template") {
        Some(_) => Some(path_attribute(view, "template")?),
        None => None,
    };
    for name in ["format", "templateFormat"] {
        view.fixed(name, &["raw"])?;
    }
    let attributes = ["format", "template", "templateFormat", "type"];
    if let Some(source) = view.one("source")? {
        view.only(&attributes, &["source"])?;
        view.fixed("type", &["file"])?;
        source.only(&["file"], &[])?;
        return Ok((Some(path_attribute(source, "file")?), template));
    }
    let text = view.leaf(&attributes)?;
    if view.attribute("type").is_some() {
        return Err(view.missing("<source> of <nvram>"));
    }
    let file = text.trim();
    Ok((if file.is_empty() { None } else { Some(path(view, "<nvram>", file)?) }, template))
}
