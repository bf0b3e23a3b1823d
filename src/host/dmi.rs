//! What the host's firmware says of the machine, as far as the kernel lets everybody read it: no serial numbers.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::conf::sysinfo::Sysinfo;

/// Where the kernel has it.
const DMI: &str = "/sys/class/dmi/id";
/// The longest value, in bytes.
const VALUE_MAX: u64 = 256;

/// libvirt's elements and entries, and the kernel's files behind them.
const SECTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "bios",
        &[
            ("vendor", "bios_vendor"),
            ("version", "bios_version"),
            ("date", "bios_date"),
            ("release", "bios_release"),
        ],
    ),
    (
        "system",
        &[
            ("manufacturer", "sys_vendor"),
            ("product", "product_name"),
            ("version", "product_version"),
            ("serial", "product_serial"),
            ("uuid", "product_uuid"),
            ("sku", "product_sku"),
            ("family", "product_family"),
        ],
    ),
    (
        "baseBoard",
        &[
            ("manufacturer", "board_vendor"),
            ("product", "board_name"),
            ("version", "board_version"),
            ("serial", "board_serial"),
            ("asset", "board_asset_tag"),
        ],
    ),
    (
        "chassis",
        &[
            ("manufacturer", "chassis_vendor"),
            ("version", "chassis_version"),
            ("serial", "chassis_serial"),
            ("asset", "chassis_asset_tag"),
        ],
    ),
];

/// Reads it; `None` where the host has none.
pub(super) fn read() -> Option<Sysinfo> {
    below(Path::new(DMI))
}

fn below(directory: &Path) -> Option<Sysinfo> {
    let section = |(name, files): &(&'static str, &[(&'static str, &str)])| {
        let entry = |(name, file): &(&'static str, &str)| Some((*name, value(&directory.join(file))?));
        (*name, files.iter().filter_map(entry).collect::<Vec<_>>())
    };
    let sections: Vec<_> = SECTIONS.iter().map(section).filter(|(_, entries)| !entries.is_empty()).collect();
    (!sections.is_empty()).then_some(Sysinfo { sections })
}

/// A value, unless the kernel keeps it for root or it is empty.
fn value(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    if file.metadata().ok()?.permissions().mode() & 0o004 == 0 {
        return None;
    }
    let mut bytes = Vec::new();
    file.by_ref().take(VALUE_MAX).read_to_end(&mut bytes).ok()?;
    let text: String = String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_everybody_may_read_is_told_and_serial_numbers_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        assert_eq!(below(directory.path()), None);
        write("bios_vendor", "A & B\n", 0o444);
        write("bios_version", " \n", 0o444);
        write("product_serial", "secret\n", 0o400);
        write("product_name", &"x".repeat(5000), 0o444);
        let xml = below(directory.path()).unwrap().to_xml();
        let name = "x".repeat(256);
        let wanted = format!(
            "<sysinfo type='smbios'>\n  <bios>\n    <entry name='vendor'>A &amp; B</entry>\n  </bios>\n  <system>\n    \
             <entry name='product'>{name}</entry>\n  </system>\n</sysinfo>\n"
        );
        assert_eq!(xml, wanted);
    }
}
