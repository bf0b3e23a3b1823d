//! `<sysinfo type='fwcfg'>`: values and files that the guest's firmware finds by name.

use std::collections::BTreeMap;

use super::scalar::path_attribute;
use super::view::{Read, View};
use crate::conf::domain::{FwCfg, FwCfgSource};

/// QEMU's `FW_CFG_MAX_FILE_PATH` less its closing NUL.
const NAME_MAX: usize = 55;
/// QEMU's own entries take up to half of its 32 (`FW_CFG_FILE_SLOTS_DFLT`).
const ENTRIES_MAX: usize = 16;
/// Bytes of one value as QEMU's argument has it, which fits the kernel's 128 KiB with room to spare; more belongs into a
/// file.
const TEXT_MAX: usize = 64 << 10;
/// Bytes of all values together, of the 1 MiB that a start's arguments may have.
const TEXTS_MAX: usize = 256 << 10;

/// Every entry, in order.
pub(super) fn entries(root: View<'_>) -> Read<Vec<FwCfg>> {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut entries, mut files, mut texts): (Vec<FwCfg>, usize, usize) = (Vec::new(), 0, 0);
    for sysinfo in root.all("sysinfo") {
        sysinfo.required("type")?;
        if !sysinfo.word("type", &[("fwcfg", true), ("smbios", false)])?.unwrap_or(true) {
            continue;
        }
        sysinfo.only(&["type"], &["entry"])?;
        for view in sysinfo.all("entry") {
            let entry = entry(view)?;
            let name = view.required("name")?;
            if let Some(first) = seen.insert(name, view.line()) {
                return Err(view.duplicate(format!("entry {name}"), first));
            }
            files += usize::from(matches!(entry.source, FwCfgSource::File(_)));
            if let FwCfgSource::Text(text) = &entry.source {
                texts = texts.saturating_add(argument_bytes(text));
                if texts > TEXTS_MAX {
                    let what =
                        format!("values of more than {TEXTS_MAX} bytes together, commas counted twice");
                    return Err(view.contradiction(what, "put some of them into files, and name those"));
                }
            }
            entries.push(entry);
            if entries.len() > ENTRIES_MAX || files > FwCfg::FILES_MAX {
                let most = format!("more than {ENTRIES_MAX} entries, or {} with a file", FwCfg::FILES_MAX);
                return Err(view.contradiction(most, "put several values into one entry"));
            }
        }
    }
    Ok(entries)
}

/// The length of a value among QEMU's arguments, where a comma is written twice.
fn argument_bytes(text: &str) -> usize {
    text.len() + text.bytes().filter(|byte| *byte == b',').count()
}

fn entry(view: View<'_>) -> Read<FwCfg> {
    let text = view.leaf(&["file", "name"])?;
    let name = view.required("name")?;
    let plain = name.len() <= NAME_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
    let part = name.strip_prefix("opt/").filter(|rest| !rest.is_empty());
    if part.is_none() || !plain {
        let expected = format!("a name of at most {NAME_MAX} printable characters that begins with opt/");
        return Err(view.value("attribute name of <entry>", name, expected));
    }
    // The firmware's own switches: QEMU and OVMF keep these two for themselves, and libvirt refuses them too.
    if part.is_some_and(|rest| rest.starts_with("ovmf/") || rest.starts_with("org.qemu/")) {
        let remedy = "use a name of your own, such as opt/com.example/name";
        return Err(view.contradiction(format!("the name {name} is reserved"), remedy));
    }
    let source = match (view.attribute("file").is_some(), text.trim().is_empty()) {
        (true, true) => FwCfgSource::File(path_attribute(view, "file")?),
        (false, false) if argument_bytes(&text) > TEXT_MAX => {
            let what = format!("a value of more than {TEXT_MAX} bytes, commas counted twice");
            return Err(view.contradiction(what, "put it into a file, and name that"));
        }
        (false, false) => FwCfgSource::Text(text.into_owned()),
        (false, true) => return Err(view.missing("text or attribute file of <entry>")),
        (true, false) => {
            return Err(view.contradiction("an <entry> has a value and a file", "remove one of the two"));
        }
    };
    Ok(FwCfg { name: name.to_owned(), source, line: view.line() })
}
