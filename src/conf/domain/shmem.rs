//! Memory that several guests share.

use serde::Serialize;

use super::PciAddress;

/// `<shmem>` with `<model type='ivshmem-plain'/>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shmem {
    /// `name`: domains that write the same one share the region.
    pub name: String,
    /// `role`: whether the region's content goes along when the guest moves to another host (`master`).
    pub master: Option<bool>,
    /// `<size>` in bytes, a power of two; 4 MiB where absent, as in libvirt.
    pub size: u64,
    /// `<address>`
    pub address: Option<PciAddress>,
    /// Line of the element in the definition.
    pub line: u32,
}
