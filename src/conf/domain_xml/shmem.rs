//! `<shmem>`.

use std::collections::BTreeMap;

use super::address;
use super::scalar::{alias, memory_or, option_name};
use super::view::{Read, View};
use crate::conf::domain::Shmem;

const MIB: u64 = 1 << 20;
/// libvirt's default.
const SIZE: u64 = 4 * MIB;
/// The most of one domain; the minimal root has a place for each.
const MAX: usize = 8;

/// Every region, in order.
pub(super) fn shmems(devices: View<'_>) -> Read<Vec<Shmem>> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut all = Vec::new();
    for view in devices.all("shmem") {
        let shmem = shmem(view)?;
        if let Some(first) = seen.insert(shmem.name.clone(), shmem.line) {
            return Err(view.duplicate(format!("shared memory {}", shmem.name), first));
        }
        all.push(shmem);
        if all.len() > MAX {
            return Err(view.contradiction(format!("more than {MAX} <shmem>"), "remove some of them"));
        }
    }
    Ok(all)
}

fn shmem(view: View<'_>) -> Read<Shmem> {
    view.only(&["name", "role"], &["address", "alias", "model", "size"])?;
    alias(view)?;
    let model = view.one("model")?.ok_or_else(|| view.missing("<model> of <shmem>"))?;
    model.only(&["type"], &[])?;
    model.required("type")?;
    // The others need a server outside, and its sockets.
    model.word("type", &[("ivshmem-plain", ())])?;
    let size = match view.one("size")? {
        None => SIZE,
        Some(size) => {
            let bytes = memory_or(size, "MiB")?;
            if bytes < MIB || !bytes.is_power_of_two() {
                return Err(size.value("<size>", &size.leaf(&["unit"])?, "a power of two of at least 1 MiB"));
            }
            bytes
        }
    };
    Ok(Shmem {
        name: option_name(view, "attribute name of <shmem>", view.required("name")?)?,
        master: view.word("role", &[("master", true), ("peer", false)])?,
        size,
        address: address::pci(view)?,
        line: view.line(),
    })
}
