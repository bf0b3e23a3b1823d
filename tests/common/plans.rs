//! The definitions of `tests/golden`, the host and the images that they are planned for.

use svirt::base::{Files, Layer, Refusal};
use svirt::conf::domain::Beyond;
use svirt::conf::domain_xml;
use svirt::conf::facts::{AppArmorFacts, Emulator, FirmwareFile, HostFacts, SelinuxFacts};
use svirt::image::Header;
use svirt::plan::chain::{self, Found, Prober};
use svirt::plan::{Inputs, build, labels};
use svirt::privsep::op::{FileIdentity, ImageKind, LaunchPlan};
use svirt::privsep::request::Survey;
use svirt::security::decide::Model;
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
    ("/var/lib/svirt/images/a[b]{c}*.raw", ImageKind::File, "raw", None),
    ("/var/lib/svirt/boot/base.raw", ImageKind::File, "raw", None),
    ("/var/lib/libvirt/images/over.qcow2", ImageKind::File, "qcow2", Some("/var/lib/svirt/boot/base.raw")),
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
            qcow2: None,
        };
        Ok(Found { identity, kind, header })
    }

    fn directory(&mut self, path: &str) -> Result<FileIdentity, Refusal> {
        Ok(svirt::plan::inventory::made_up(path))
    }
}

/// As Debian's ovmf describes it.
fn firmwares() -> Vec<FirmwareFile> {
    let file = |code: &str, vars: &str, features: &[&str]| FirmwareFile {
        code: format!("/usr/share/OVMF/{code}"),
        template: format!("/usr/share/OVMF/{vars}"),
        machines: vec!["pc-i440fx-*".into(), "pc-q35-*".into()],
        features: features.iter().map(|word| (*word).to_owned()).collect(),
    };
    let secure = ["enrolled-keys", "requires-smm", "secure-boot"];
    vec![
        file("OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd", &secure),
        file("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", &[]),
    ]
}

/// A host with everything; SELinux except for the one definition that asks for none.
pub fn host(name: &str) -> HostFacts {
    HostFacts {
        kernel_release: "6.1.0-49-amd64".into(),
        landlock_abi: 2,
        selinux: (!name.starts_with("selinux-none")).then_some(SelinuxFacts { enforcing: true }),
        apparmor: (name == "apparmor").then_some(AppArmorFacts { enforcing: true }),
        kvm: true,
        kvm_group: Some(108),
        modules: Vec::new(),
        firmwares: firmwares(),
        emulators: vec![Emulator { path: "/usr/bin/qemu-system-x86_64".into(), version: (7, 2, 22) }],
        cpus: 2,
        memory: 8 << 30,
        virtiofsds: vec!["/usr/lib/qemu/virtiofsd".into()],
        hugepages: vec![(2 << 20, 512), (1 << 30, 0)],
        ..HostFacts::default()
    }
}

/// The defaults, with a tap device and a block device.
pub fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.network.taps = vec!["tap-*".into()];
    settings.images.block_devices = vec!["/dev/vg/guest".into()];
    settings
}

/// What each of `models` does with each resource of one definition.
#[allow(dead_code, reason = "not every test asks for it")]
pub fn labels_of(path: &std::path::Path, models: &[Model]) -> Result<Vec<labels::Row>, Refusal> {
    with_inputs(path, |inputs, beyond| labels::plan(inputs, beyond, models).map_err(|error| error.refusal()))
}

/// The plan of one golden definition.
#[allow(dead_code, reason = "not every test asks for it")]
pub fn of(name: &str) -> Result<LaunchPlan, Refusal> {
    let path = format!("{GOLDEN}/{name}.xml");
    with_inputs(path.as_ref(), |inputs, beyond| {
        assert!(beyond.is_empty(), "{name}: {beyond:?} do not run");
        build(inputs).map_err(|error| error.refusal())
    })
}

fn with_inputs<T>(
    path: &std::path::Path,
    make: impl FnOnce(&Inputs<'_>, &[Beyond]) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let xml = std::fs::read(path).unwrap();
    let (domain, beyond) = domain_xml::parse_beyond(&xml).map_err(Refusal::from)?;
    let settings = settings();
    let chains = domain
        .devices
        .disks
        .iter()
        .map(|disk| chain::resolve(disk, settings.limits.chain_depth, &Files::ALL, &mut Store))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.refusal())?;
    let shares: Vec<_> =
        domain.devices.filesystems.iter().map(|one| Store.directory(&one.source).unwrap()).collect();
    let inputs = Inputs {
        domain: &domain,
        uuid: domain.uuid.unwrap(),
        host: &host(path.file_stem().unwrap().to_str().unwrap()),
        settings: &settings,
        chains: &chains,
        shares: &shares,
        survey: &Survey::default(),
        seed: 1,
        paused: false,
        restore: None,
    };
    make(&inputs, &beyond)
}
