//! Which filter fragments a definition asks for.

use crate::conf::domain::{Domain, InterfaceBackend, IoMode, SourceKind, VideoModel, VirtType};
use crate::profile::{Part, Selection};

/// The fragments of one definition.
///
/// Serial ports, consoles, channels, VNC, user networks and the monitor are all connected sockets. Balloon, rng, USB,
/// input, sound without a back-end, watchdogs, PCI ports, cdrom drives and every video but QXL need nothing that the
/// base does not have: they are memory and timers.
#[must_use]
pub fn select(domain: &Domain) -> Selection {
    let mut parts = Selection::from([Part::Base, Part::Launcher, Part::Socket]);
    parts.insert(match domain.virt {
        VirtType::Kvm => Part::AccelKvm,
        VirtType::Qemu => Part::AccelTcg,
    });
    if domain.os.firmware.is_some() {
        // The variables are an image.
        parts.insert(Part::DiskFile);
    }
    for disk in &domain.devices.disks {
        // An empty cdrom drive has no image, and a medium may be put in later: the fragment is the same.
        parts.insert(Part::DiskFile);
        if disk.source.as_ref().is_some_and(on_block_device) {
            parts.insert(Part::DiskBlock);
        }
        match disk.io {
            Some(IoMode::IoUring) => parts.insert(Part::DiskIoUring),
            Some(IoMode::Native) => parts.insert(Part::DiskNativeAio),
            Some(IoMode::Threads) | None => false,
        };
    }
    let tap = |backend: &InterfaceBackend| {
        matches!(backend, InterfaceBackend::Bridge { .. } | InterfaceBackend::Tap(_))
    };
    if domain.devices.interfaces.iter().any(|interface| tap(&interface.backend)) {
        parts.insert(Part::NetTap);
    }
    let backing = &domain.memory_backing;
    let shared = domain.cpu.numa.iter().any(|node| node.is_shared(backing));
    if backing.has_descriptor() || shared || backing.locked {
        parts.insert(Part::Memory);
    }
    let devices = &domain.devices;
    if devices.spice.is_some() {
        parts.insert(Part::Spice);
    }
    if devices.vsock.is_some() {
        parts.insert(Part::Vsock);
    }
    let qxl = devices.videos.iter().any(|video| video.model == VideoModel::Qxl);
    let served = |served: bool| devices.filesystems.iter().any(|one| one.virtiofs().is_some() == served);
    if served(false) {
        parts.insert(Part::NineP);
    }
    if qxl || devices.spice.is_some() || devices.tpm.is_some() || served(true) {
        parts.insert(Part::Socketpair);
    }
    parts
}

/// Only the top layer is written, so only it is discarded.
fn on_block_device(source: &crate::conf::domain::DiskSource) -> bool {
    source.kind == SourceKind::Block
}
