//! Domains, hosts and image stores for the tests of this module.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;

use super::chain::{Found, Prober};
use crate::base::{DomainName, DomainUuid, Layer, Refusal};
use crate::conf::domain::*;
use crate::conf::facts::{Emulator, HostFacts, SelinuxFacts};
use crate::image::Header;
use crate::privsep::op::{FileIdentity, ImageKind};
use crate::privsep::supervisor::LifecycleAction;

pub(crate) const IMAGES: &str = "/var/lib/svirt/images";

pub(crate) fn uuid(n: u128) -> DomainUuid {
    DomainUuid(uuid::Uuid::from_u128(n))
}

pub(crate) fn host(selinux: bool) -> HostFacts {
    HostFacts {
        kernel_release: "6.1.0".into(),
        landlock_abi: 2,
        selinux: selinux.then_some(SelinuxFacts { enforcing: true }),
        kvm_group: None,
        kvm: true,
        firmwares: vec![],
        emulators: vec![Emulator { path: "/usr/bin/qemu-system-x86_64".into(), version: (7, 2, 22) }],
        cpus: 2,
        memory: 8 << 30,
        ..HostFacts::default()
    }
}

pub(crate) fn domain(name: &str) -> Domain {
    Domain {
        virt: VirtType::Qemu,
        name: DomainName::new(name).unwrap(),
        uuid: None,
        title: None,
        description: None,
        memory: 64 << 20,
        current_memory: 64 << 20,
        memory_backing: MemoryBacking::default(),
        tuning: Default::default(),
        placement: Default::default(),
        vcpus: 1,
        current_vcpus: None,
        os: Os { machine: "q35".into(), boot: Boot::Devices(vec![]), menu: None, firmware: None },
        fw_cfg: vec![],
        smbios: vec![],
        features: Features { acpi: true, apic: true, pae: false, smm: None, vmport: None, vmcoreinfo: false },
        cpu: Cpu { mode: CpuMode::Default, topology: None, features: vec![], numa: vec![] },
        clock: Clock { offset: ClockOffset::Utc, timers: vec![] },
        on_poweroff: LifecycleAction::Destroy,
        on_reboot: LifecycleAction::Restart,
        on_crash: LifecycleAction::Destroy,
        pm: PowerManagement::default(),
        devices: Devices {
            memballoon: Some(MemBalloon {
                autodeflate: None,
                free_page_reporting: None,
                period: None,
                address: None,
            }),
            ..Devices::default()
        },
        seclabels: vec![],
        metadata: Default::default(),
    }
}

pub(crate) fn source(path: &str, format: ImageFormat) -> DiskSource {
    DiskSource {
        kind: SourceKind::File,
        path: path.into(),
        format,
        backing: Backing::Unspecified,
        seclabels: vec![],
    }
}

pub(crate) fn disk(target: &str, path: &str, format: ImageFormat) -> Disk {
    Disk {
        device: DiskDevice::Disk,
        source: Some(source(path, format)),
        target: target.into(),
        bus: DiskBus::Virtio,
        readonly: false,
        shareable: false,
        cache: CacheMode::Default,
        io: None,
        discard: false,
        serial: None,
        boot_order: None,
        address: None,
        unit: None,
        tuning: crate::privsep::throttle::DiskTuning::default(),
        port: None,
        line: 9,
    }
}

/// Files by path; the position in the order of making is the inode.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store(pub(crate) HashMap<String, Found>);

impl Store {
    pub(crate) fn add(&mut self, path: &str, backing: Option<(&str, Option<&str>)>, qcow2: bool) {
        let header = Header {
            format: if qcow2 { "qcow2" } else { "raw" }.into(),
            virtual_size: 1 << 20,
            backing_file: backing.map(|(name, _)| name.into()),
            backing_format: backing.and_then(|(_, format)| format.map(Into::into)),
            data_file: None,
            needs_data_file: false,
            encrypted: false,
            unknown_features: 0,
            qcow2: None,
        };
        let identity = FileIdentity { device: 1, inode: self.0.len() as u64 + 2 };
        self.0.insert(path.into(), Found { identity, kind: ImageKind::File, header });
    }
}

impl Prober for Store {
    fn probe(&mut self, path: &str) -> Result<Found, Refusal> {
        self.0
            .get(path)
            .cloned()
            .ok_or_else(|| Refusal::new(Layer::Kernel, "open", path, "ENOENT", "create it"))
    }

    fn directory(&mut self, path: &str) -> Result<FileIdentity, Refusal> {
        Ok(crate::plan::inventory::made_up(path))
    }
}
