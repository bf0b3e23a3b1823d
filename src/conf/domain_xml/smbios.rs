//! `<smbios mode='sysinfo'>` with `<sysinfo type='smbios'>`: what the guest's firmware says of the machine.

use super::view::{Read, View};
use crate::conf::domain::SmbiosTable;

/// Bytes of one value: an SMBIOS string has no length of its own, and QEMU's argument has to fit with all others.
const TEXT_MAX: usize = 1024;
/// The most values of all tables together.
const VALUES_MAX: usize = 64;

/// An element, its table's number, and its entries with QEMU's names for them.
type Table = (&'static str, u8, &'static [(&'static str, &'static str)]);

/// In the order of their numbers (SMBIOS 3.4, 7.1 to 7.4).
const TABLES: [Table; 4] = [
    ("bios", 0, &[("vendor", "vendor"), ("version", "version"), ("date", "date"), ("release", "release")]),
    (
        "system",
        1,
        &[
            ("manufacturer", "manufacturer"),
            ("product", "product"),
            ("version", "version"),
            ("serial", "serial"),
            ("uuid", "uuid"),
            ("sku", "sku"),
            ("family", "family"),
        ],
    ),
    (
        "baseBoard",
        2,
        &[
            ("manufacturer", "manufacturer"),
            ("product", "product"),
            ("version", "version"),
            ("serial", "serial"),
            ("asset", "asset"),
            ("location", "location"),
        ],
    ),
    (
        "chassis",
        3,
        &[
            ("manufacturer", "manufacturer"),
            ("version", "version"),
            ("serial", "serial"),
            ("asset", "asset"),
            ("sku", "sku"),
        ],
    ),
];
/// OEM strings.
const OEM: u8 = 11;

/// The tables that differ from QEMU's own; none where nobody asks for them.
pub(super) fn tables(root: View<'_>) -> Read<Vec<SmbiosTable>> {
    let mode = root.one("os")?.map(|os| os.one("smbios")).transpose()?.flatten();
    let wanted = match mode {
        None => false,
        Some(mode) => {
            mode.only(&["mode"], &[])?;
            mode.required("mode")?;
            mode.word("mode", &[("emulate", false), ("sysinfo", true)])?.unwrap_or(false)
        }
    };
    let mut tables = Vec::new();
    let mut given = false;
    for sysinfo in root.all("sysinfo").filter(|view| view.attribute("type") == Some("smbios")) {
        given = true;
        sysinfo.only(&["type"], &["baseBoard", "bios", "chassis", "oemStrings", "system"])?;
        for (name, number, entries) in TABLES {
            for view in sysinfo.all(name) {
                tables.push(table(root, view, number, entries)?);
            }
        }
        if let Some(view) = sysinfo.one("oemStrings")? {
            view.only(&[], &["entry"])?;
            let values = view.all("entry").map(|entry| value(entry, &[]).map(|text| ("value", text)));
            tables.push(SmbiosTable { number: OEM, values: values.collect::<Read<_>>()? });
        }
    }
    if let Some(mode) = mode.filter(|_| wanted && !given) {
        return Err(mode.contradiction(
            "mode='sysinfo' without a <sysinfo type='smbios'>",
            "add the <sysinfo>, or remove the <smbios>",
        ));
    }
    if tables.iter().map(|table| table.values.len()).sum::<usize>() > VALUES_MAX {
        return Err(root.unsupported(format!("more than {VALUES_MAX} entries of <sysinfo type='smbios'>")));
    }
    tables.retain(|table| !table.values.is_empty());
    Ok(if wanted { tables } else { Vec::new() })
}

fn table(
    root: View<'_>,
    view: View<'_>,
    number: u8,
    known: &[(&'static str, &'static str)],
) -> Read<SmbiosTable> {
    view.only(&[], &["entry"])?;
    let mut values: Vec<(&'static str, String)> = Vec::new();
    for entry in view.all("entry") {
        entry.required("name")?;
        let Some(name) = entry.word("name", known)? else { continue };
        if values.iter().any(|(other, _)| *other == name) {
            return Err(entry.duplicate(format!("entry {name}"), view.line()));
        }
        let text = value(entry, &["name"])?;
        match (number, name) {
            (1, "uuid") => same_uuid(root, entry, &text)?,
            (0, "release") => release(entry, &text)?,
            _ => {}
        }
        values.push((name, text));
    }
    Ok(SmbiosTable { number, values })
}

fn value(entry: View<'_>, attributes: &[&str]) -> Read<String> {
    let text = entry.leaf(attributes)?;
    if text.is_empty() || text.len() > TEXT_MAX || text.chars().any(char::is_control) {
        return Err(entry.value("<entry>", &text, format!("one line of 1 to {TEXT_MAX} bytes")));
    }
    Ok(text.into_owned())
}

/// A guest that finds two uuids cannot tell which is its own.
fn same_uuid(root: View<'_>, entry: View<'_>, text: &str) -> Read<()> {
    let own = root.one("uuid")?.map(|view| view.leaf(&[])).transpose()?;
    let read = |text: &str| text.trim().parse::<uuid::Uuid>().ok();
    let Some(given) = read(text) else { return Err(entry.value("<entry>", text, "a uuid")) };
    match own.is_some_and(|own| read(&own) == Some(given)) {
        true => Ok(()),
        false => Err(entry.contradiction(
            "the uuid of <system> is not the domain's",
            "give both the same, or leave this one out: the guest finds the domain's then",
        )),
    }
}

/// QEMU takes two numbers of a byte each.
fn release(entry: View<'_>, text: &str) -> Read<()> {
    let parts = text.split_once('.').map(|(major, minor)| (major.parse::<u8>(), minor.parse::<u8>()));
    match parts {
        Some((Ok(_), Ok(_))) => Ok(()),
        _ => Err(entry.value("<entry>", text, "two numbers from 0 to 255, such as 1.0")),
    }
}
