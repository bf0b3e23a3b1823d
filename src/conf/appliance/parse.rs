//! XML to an [`Appliance`]. Every element says what may stand in it; anything else is refused with its line.

use super::{Appliance, ApplianceError, Boot, Drive, Security, Start, StorageDisk};
use crate::base::DomainName;
use crate::conf::error::clip;
use crate::conf::xml::Document;
use crate::conf::xml::walk::At;

/// The most boot descriptors, drives, disks, interfaces, labels.
const LIST_MAX: usize = 64;
/// The longest text.
const TEXT_MAX: usize = 4096;

type Read<T> = Result<T, ApplianceError>;

fn wrong(at: At<'_>, what: impl Into<String>) -> ApplianceError {
    ApplianceError::Content { line: at.line(), what: what.into() }
}

pub(super) fn appliance(xml: &[u8]) -> Read<Appliance> {
    let document = Document::parse(xml)?;
    let root = At::root(&document);
    if root.name() != "image" || root.namespace().is_some() {
        return Err(wrong(root, "the root element is not <image>"));
    }
    only(root, &[], &["name", "label", "description", "domain", "storage"])?;
    let name = text(need(root, "name")?)?;
    let name = DomainName::new(name.as_str()).map_err(|error| wrong(root, format!("<name>: {error}")))?;
    let storage = one(root, "storage")?.map(storage).transpose()?.unwrap_or_default();
    let domain = need(root, "domain")?;
    only(domain, &[], &["boot", "devices"])?;
    let boots = list(domain, "boot", |at| boot(at, &storage))?;
    if boots.is_empty() {
        return Err(wrong(domain, "<boot> is missing"));
    }
    let devices = need(domain, "devices")?;
    only(devices, &[], &["vcpu", "memory", "interface", "graphics"])?;
    let interfaces = list(devices, "interface", |at| only(at, &[], &[]))?;
    let graphics = one(devices, "graphics")?;
    graphics.map(|at| only(at, &["type"], &[])).transpose()?;
    Ok(Appliance {
        name,
        label: optional(root, "label")?,
        description: optional(root, "description")?,
        boots,
        vcpus: one(devices, "vcpu")?.map(|at| number(at, 4096)).transpose()?.map_or(1, |n| n as u32),
        // 1 EiB is more than any host has.
        memory: number(need(devices, "memory")?, 1 << 50)?,
        interfaces: interfaces.len() as u32,
        graphics: graphics.is_some(),
        storage,
    })
}

/// Refuses attributes and elements that are not listed.
fn only(at: At<'_>, attributes: &[&str], elements: &[&str]) -> Read<()> {
    if let Some(name) = at.attributes().find(|name| !attributes.contains(name)) {
        return Err(wrong(at, format!("<{}> has the unknown attribute {}", at.name(), clip(name))));
    }
    match at.elements().find(|inner| inner.namespace().is_some() || !elements.contains(&inner.name())) {
        Some(inner) => Err(wrong(inner, format!("<{}> in <{}> is unknown", clip(inner.name()), at.name()))),
        None => Ok(()),
    }
}

fn one<'d>(at: At<'d>, name: &'static str) -> Read<Option<At<'d>>> {
    let mut found = at.all(name);
    let first = found.next();
    match found.next() {
        Some(second) => Err(wrong(second, format!("a second <{name}>"))),
        None => Ok(first),
    }
}

fn need<'d>(at: At<'d>, name: &'static str) -> Read<At<'d>> {
    one(at, name)?.ok_or_else(|| wrong(at, format!("<{name}> is missing in <{}>", at.name())))
}

fn list<'d, T>(at: At<'d>, name: &'static str, mut read: impl FnMut(At<'d>) -> Read<T>) -> Read<Vec<T>> {
    let mut all = Vec::new();
    for inner in at.all(name) {
        if all.len() >= LIST_MAX {
            return Err(wrong(inner, format!("more than {LIST_MAX} times <{name}>")));
        }
        all.push(read(inner)?);
    }
    Ok(all)
}

/// The text of an element that holds nothing else.
fn text(at: At<'_>) -> Read<String> {
    only(at, &[], &[])?;
    plain(at, at.text().trim())
}

fn plain(at: At<'_>, text: &str) -> Read<String> {
    if text.is_empty() || text.len() > TEXT_MAX {
        return Err(wrong(at, format!("<{}> is empty, or longer than {TEXT_MAX} bytes", at.name())));
    }
    Ok(text.to_owned())
}

fn optional(at: At<'_>, name: &'static str) -> Read<Option<String>> {
    one(at, name)?.map(text).transpose()
}

fn attribute(at: At<'_>, name: &str) -> Read<String> {
    let found = at.attribute(name);
    plain(at, found.ok_or_else(|| wrong(at, format!("<{}> has no {name}", at.name())))?)
}

fn number(at: At<'_>, most: u64) -> Read<u64> {
    let text = text(at)?;
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| wrong(at, format!("<{}>{}: not a number of 1 to {most}", at.name(), clip(&text))))
}

/// A file below the appliance's own directory.
fn file(at: At<'_>, text: String) -> Read<String> {
    let good = text.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !text.chars().any(char::is_control);
    if good { Ok(text) } else { Err(wrong(at, format!("{:?} is no file below the appliance", clip(&text)))) }
}

fn storage(at: At<'_>) -> Read<Vec<StorageDisk>> {
    only(at, &[], &["disk"])?;
    list(at, "disk", |disk| {
        // A checksum is the distributor's business: it says nothing of the host.
        only(disk, &["file", "use", "size", "format", "id"], &["checksum"])?;
        let word = |name: &str, default: &str| disk.attribute(name).unwrap_or(default).to_owned();
        let usage = word("use", "system");
        if !["system", "user", "scratch"].contains(&usage.as_str()) {
            return Err(wrong(disk, format!("use='{}' is unknown", clip(&usage))));
        }
        Ok(StorageDisk { file: file(disk, attribute(disk, "file")?)?, format: word("format", "raw"), usage })
    })
}

fn boot(at: At<'_>, storage: &[StorageDisk]) -> Read<Boot> {
    only(at, &["type"], &["guest", "os", "drive"])?;
    let kind = attribute(at, "type")?;
    if !["hvm", "xen"].contains(&kind.as_str()) {
        return Err(wrong(at, format!("type='{}' is unknown", clip(&kind))));
    }
    let guest = need(at, "guest")?;
    only(guest, &[], &["arch", "features", "seclabel"])?;
    let features = one(guest, "features")?;
    let features = features.map(|inner| {
        only(inner, &[], &["acpi", "apic", "pae", "viridian"])?;
        inner
            .elements()
            .map(|feature| {
                only(feature, &["state"], &[])?;
                Ok((feature.name().to_owned(), feature.attribute("state") != Some("off")))
            })
            .collect::<Read<Vec<_>>>()
    });
    let features = features.transpose()?.unwrap_or_default();
    Ok(Boot {
        kind,
        arch: text(need(guest, "arch")?)?,
        features: features.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect(),
        security: list(guest, "seclabel", security)?,
        start: one(at, "os")?.map(start).transpose()?.unwrap_or(Start::Device("hd".into())),
        drives: list(at, "drive", |inner| drive(inner, storage))?,
    })
}

fn start(at: At<'_>) -> Read<Start> {
    only(at, &[], &["loader", "kernel", "initrd", "cmdline"])?;
    let named =
        |name| -> Read<Option<String>> { one(at, name)?.map(|inner| file(inner, text(inner)?)).transpose() };
    if let Some(kernel) = named("kernel")? {
        return Ok(Start::Kernel { kernel, initrd: named("initrd")?, cmdline: optional(at, "cmdline")? });
    }
    let Some(loader) = one(at, "loader")? else { return Ok(Start::Device("hd".into())) };
    only(loader, &["dev"], &[])?;
    match loader.attribute("dev") {
        Some(device @ ("hd" | "cdrom")) => Ok(Start::Device(device.to_owned())),
        Some(other) => Err(wrong(loader, format!("dev='{}' is unknown", clip(other)))),
        None => Ok(Start::Program(plain(loader, loader.text().trim())?)),
    }
}

fn drive(at: At<'_>, storage: &[StorageDisk]) -> Read<Drive> {
    only(at, &["disk", "target"], &[])?;
    let file = attribute(at, "disk")?;
    let disk = storage.iter().position(|disk| disk.file == file);
    let target = attribute(at, "target")?;
    let letters = target.bytes().all(|b| b.is_ascii_lowercase()) && (3..=8).contains(&target.len());
    if !letters {
        return Err(wrong(at, format!("target='{}' is no disk", clip(&target))));
    }
    let disk = disk.ok_or_else(|| wrong(at, format!("<storage> has no disk {:?}", clip(&file))))?;
    Ok(Drive { disk, target })
}

fn security(at: At<'_>) -> Read<Security> {
    only(at, &["model"], &["doi", "enforcing", "label"])?;
    let enforcing = match optional(at, "enforcing")?.as_deref() {
        None | Some("yes") => true,
        Some("no") => false,
        Some(_) => return Err(wrong(at, "<enforcing> is neither yes nor no")),
    };
    let word = |inner: At<'_>, text: String| {
        if text.len() <= 256 && !text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            Ok(text)
        } else {
            Err(wrong(inner, format!("<{}> has blanks, or more than 256 bytes", inner.name())))
        }
    };
    let dois = list(at, "doi", |inner| word(inner, text(inner)?))?;
    let label = optional(at, "label")?;
    if label.is_some() && dois.is_empty() {
        return Err(wrong(at, "a <label> without a <doi> means nothing"));
    }
    Ok(Security { model: word(at, attribute(at, "model")?)?, dois, enforcing, label })
}
