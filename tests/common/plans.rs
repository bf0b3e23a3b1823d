//! The definitions of `tests/golden`, the host and the images that they are planned for.

use svirt::base::{Layer, Refusal};
use svirt::conf::domain_xml;
use svirt::conf::facts::{Emulator, HostFacts, SelinuxFacts};
use svirt::image::Header;
use svirt::plan::chain::{self, Found, Prober};
use svirt::plan::{Inputs, build};
use svirt::privsep::op::{FileIdentity, ImageKind, LaunchPlan};
use svirt::privsep::request::Survey;
use svirt::settings::Settings;

/// Where definitions and plans lie.
pub const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// Path, kind, format, backing file.
type Image = (&'static str, ImageKind, &'static str, Option<&'static str>);

const IMAGES: &[Image] = &[
    ("/var/lib/svirt/images/plain.raw", ImageKind::File, "raw", None),
    ("/var/lib/svirt/images/shared.raw", ImageKind::File, "raw", None),
    ("/var/lib/svirt/images/top.qcow2", ImageKind::File, "qcow2", Some("mid.qcow2")),
    ("/var/lib/svirt/images/mid.qcow2", ImageKind::File, "qcow2", Some("/var/lib/svirt/images/base.raw")),
    ("/var/lib/svirt/images/base.raw", ImageKind::File, "raw", None),
    ("/var/lib/libvirt/boot/install.iso", ImageKind::File, "raw", None),
    ("/dev/vg/guest", ImageKind::Block, "raw", None),
];

/// The image store of the golden definitions.
pub struct Store;

impl Prober for Store {
    fn probe(&mut self, path: &str) -> Result<Found, Refusal> {
        let at = IMAGES.iter().position(|image| image.0 == path);
        let at = at.ok_or_else(|| Refusal::new(Layer::Kernel, "open", path, "ENOENT", "create it"))?;
        let (_, kind, format, backing) = IMAGES[at];
        let below = backing.and_then(|name| IMAGES.iter().find(|image| image.0.ends_with(name)));
        let identity = match kind {
            ImageKind::File => FileIdentity { device: 2049, inode: 100 + at as u64 },
            ImageKind::Block => FileIdentity { device: 64768, inode: 0 },
        };
        let header = Header {
            format: format.into(),
            virtual_size: 1 << 30,
            backing_file: backing.map(Into::into),
            backing_format: below.map(|image| image.2.into()),
            data_file: None,
            needs_data_file: false,
            encrypted: false,
            unknown_features: 0,
        };
        Ok(Found { identity, kind, header })
    }
}

/// A host with everything; SELinux except for the one definition that asks for none.
pub fn host(name: &str) -> HostFacts {
    HostFacts {
        kernel_release: "6.1.0-49-amd64".into(),
        landlock_abi: 2,
        selinux: (name != "selinux-none").then_some(SelinuxFacts { enforcing: true }),
        kvm: true,
        kvm_group: Some(108),
        emulators: vec![Emulator { path: "/usr/bin/qemu-system-x86_64".into(), version: (7, 2, 22) }],
        cpus: 2,
        memory: 8 << 30,
    }
}

/// The defaults, with a tap device and a block device.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.network.taps = vec!["tap-*".into()];
    settings.images.block_devices = vec!["/dev/vg/guest".into()];
    settings
}

/// The plan of one golden definition.
pub fn of(name: &str) -> Result<LaunchPlan, Refusal> {
    let xml = std::fs::read(format!("{GOLDEN}/{name}.xml")).unwrap();
    let domain = domain_xml::parse(&xml).map_err(Refusal::from)?;
    let settings = settings();
    let chains = domain
        .devices
        .disks
        .iter()
        .map(|disk| chain::resolve(disk, settings.limits.chain_depth, &mut Store))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.refusal())?;
    let inputs = Inputs {
        domain: &domain,
        uuid: domain.uuid.unwrap(),
        host: &host(name),
        settings: &settings,
        chains: &chains,
        survey: &Survey::default(),
        seed: 1,
        paused: false,
    };
    build(&inputs).map_err(|error| error.refusal())
}
