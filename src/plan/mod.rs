//! A start as one value: what is opened, labelled, leased and executed, in order, with its undo and its reason.
//! Pure: host, leases, chains and the seed are arguments. Never applies anything; the labeller does.
#![forbid(unsafe_code)]

mod build;
pub mod chain;
mod doi;
mod error;
pub mod firmware;
mod images;
pub mod inventory;
pub mod labels;
mod limits;
mod network;
#[cfg(test)]
mod order_tests;
pub mod plug;
mod ports;
#[cfg(test)]
mod props;
pub mod qemu;
pub mod render;
mod reserve;
pub mod shares;
mod shmem;
mod slots;
#[cfg(test)]
pub(crate) mod testing;
pub mod undo;

use crate::conf::domain::{Disk, DiskBus, Interface};
use crate::privsep::throttle::{DiskTuning, Throttle};

pub use build::{Inputs, build};
pub use error::PlanError;
pub use firmware::stores;
pub use limits::tuned;
pub use render::render;

/// The address of an interface that the definition gives none, by its place among them.
#[must_use]
pub fn interface_mac(uuid: crate::base::DomainUuid, interface: &Interface, index: usize) -> [u8; 6] {
    qemu::mac(uuid, interface, index)
}

/// How much each disk may do that has limits, by what QEMU calls its device. QEMU limits no empty drive: a medium that is put
/// in is.
#[must_use]
pub fn throttles(disks: &[Disk]) -> Vec<Throttle> {
    let limited =
        disks.iter().enumerate().filter(|(_, disk)| !disk.tuning.is_none() && disk.source.is_some());
    limited.filter_map(|(at, disk)| throttle(disks, at, disk.tuning.clone())).collect()
}

/// What a disk is to do from now on, by what QEMU calls its device: where that has another one inside, the inner one has
/// the image.
#[must_use]
pub fn throttle(disks: &[Disk], at: usize, tuning: DiskTuning) -> Option<Throttle> {
    let alias = qemu::disk_alias(disks, at)?;
    let device = match disks.get(at)?.bus {
        DiskBus::Virtio => format!("/machine/peripheral/{alias}/virtio-backend"),
        DiskBus::Usb => format!("/machine/peripheral/{alias}/{alias}.0/legacy[0]"),
        DiskBus::Ide | DiskBus::Nvme | DiskBus::Sata | DiskBus::Scsi => alias,
    };
    Some(Throttle { device, tuning })
}

/// The alias of each disk by its target, as libvirt makes them; QEMU knows the devices by the same.
#[must_use]
pub fn disk_aliases(disks: &[Disk]) -> Vec<(String, String)> {
    let named = |(index, disk): (usize, &Disk)| Some((disk.target.clone(), qemu::disk_alias(disks, index)?));
    disks.iter().enumerate().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::domain::ImageFormat;

    #[test]
    fn a_start_limits_no_empty_drive() {
        let mut disks =
            [testing::disk("vda", "/a", ImageFormat::Raw), testing::disk("vdb", "/b", ImageFormat::Raw)];
        for disk in &mut disks {
            disk.tuning.limits[0] = 7;
        }
        assert_eq!(throttles(&disks).len(), 2);
        disks[0].source = None;
        let devices: Vec<String> = throttles(&disks).into_iter().map(|one| one.device).collect();
        assert_eq!(devices, ["/machine/peripheral/virtio-disk1/virtio-backend"]);
    }
}
