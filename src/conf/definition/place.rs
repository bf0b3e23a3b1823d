//! Where a definition has its disks.

use super::Definition;
use super::node::Node;

impl Definition {
    /// The target of the disk at a place: the PCI address of its own or of its controller, or on a bus of many disks the
    /// bus, target and unit. Guests name disks so.
    #[must_use]
    pub fn disk_at(&self, bus: &str, pci: Option<[u32; 4]>, place: [u32; 3]) -> Option<&str> {
        let is = |disk: &&Node| {
            let Some(address) = disk.child("address") else { return false };
            match address.switch() {
                Some("pci") => pci
                    .is_some_and(|pci| numbers(address, ["domain", "bus", "slot", "function"]) == Some(pci)),
                Some("drive") => {
                    let own = disk.child("target").and_then(|target| target.attribute("bus"));
                    own == Some(bus) && numbers(address, ["bus", "target", "unit"]) == Some(place)
                }
                _ => false,
            }
        };
        let found = self.root.child("devices")?.all("disk").find(is)?;
        found.child("target")?.attribute("dev")
    }
}

/// Attributes as libvirt writes them, in hexadecimal or not.
fn numbers<const N: usize>(address: &Node, names: [&str; N]) -> Option<[u32; N]> {
    let number = |name: &str| {
        let text = address.attribute(name).unwrap_or("0").trim();
        match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    };
    let found: Option<Vec<u32>> = names.into_iter().map(number).collect();
    found?.try_into().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::conf::definition::{Definition, Strictness};

    #[test]
    fn a_disk_is_found_by_where_it_is() {
        let disk = |dev: &str, bus: &str, address: &str| {
            format!(
                "<disk type='file' device='disk'><source file='/{dev}'/><target dev='{dev}' bus='{bus}'/>\
                 <address {address}/></disk>"
            )
        };
        let xml = format!(
            "<domain type='qemu'><name>a</name><memory>1024</memory><os><type>hvm</type></os><devices>{}{}</devices></domain>",
            disk("vda", "virtio", "type='pci' domain='0x0000' bus='0x02' slot='0x0a' function='0x0'"),
            disk("sdb", "sata", "type='drive' controller='0' bus='0' target='0' unit='1'"),
        );
        let (one, _) = Definition::parse(xml.as_bytes(), Strictness::Strict).unwrap();
        assert_eq!(one.disk_at("virtio", Some([0, 2, 10, 0]), [0; 3]), Some("vda"));
        assert_eq!(one.disk_at("sata", Some([0, 31, 2, 0]), [0, 0, 1]), Some("sdb"));
        assert_eq!(one.disk_at("scsi", None, [0, 0, 1]), None);
        assert_eq!(one.disk_at("virtio", None, [0; 3]), None);
    }
}
