//! Memory that several guests share.

use super::pci::{Fit, Plug};
use super::{Args, Guest, Object};
use crate::plan::shmem;
use crate::privsep::confinement::RootShmem;

pub(super) fn add(args: &mut Args, guest: &Guest<'_>) {
    for (index, one) in guest.domain.devices.shmems.iter().enumerate() {
        let id = shmem::alias(index);
        let memory = format!("shmmem-{id}");
        let object = Object::new("qom-type", "memory-backend-file")
            .with("id", memory.clone())
            .with("mem-path", RootShmem::path(u8::try_from(index).unwrap_or(u8::MAX)))
            .with("size", one.size)
            .with("share", true);
        args.json("-object", object);
        let device = Object::new("driver", "ivshmem-plain")
            .with("id", id.clone())
            .with("memdev", memory)
            .maybe("master", one.master.map(|master| if master { "on" } else { "off" }));
        args.pci(device, Plug::new(id, one.address, Fit::Fixed, one.line));
    }
}
