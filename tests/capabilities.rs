//! What the host tells of itself: good by svirt's schemas and by libvirt's, read back unchanged, and true: whatever a
//! domain may ask for is planned.
#![cfg(feature = "frontend")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

#[path = "common/schema.rs"]
mod schema;

use svirt::conf::capabilities::Capabilities;
use svirt::conf::domain_capabilities::{DomainCapabilities, Wanted};
use svirt::conf::facts::FirmwareFile;
use svirt::host::{self, Inventory, View};
use svirt::settings::Settings;

fn inventory() -> (Inventory, Settings, tempfile::TempDir) {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut settings = Settings::default();
    settings.paths.cache = directory.path().join("cache").to_str().unwrap().into();
    settings.selinux.doi = vec!["engineering.example.com.".into(), "0".into()];
    settings.dac.doi = vec!["0".into(), "a<b>&'\"".into()];
    (host::inventory(&settings, true), settings, directory)
}

/// The XML without svirt's two additions, as libvirt knows it.
fn without_additions(xml: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in xml.lines() {
        let starts = line.starts_with("    <seclabel ") || line.starts_with("    <svirt:confinement ");
        inside |= starts;
        if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
        if line == "    </seclabel>" || line == "    </svirt:confinement>" {
            inside = false;
        }
    }
    kept
}

#[test]
fn host_xml_is_good_by_both_schemas_and_reads_back() {
    let (inventory, settings, _directory) = inventory();
    for view in [View::System, View::Session, View::Test] {
        let all = inventory.capabilities(view, &settings).unwrap();
        let xml = all.to_xml();
        assert_eq!(schema::complaints(&schema::own("capabilities.rng"), &xml), Vec::<String>::new(), "{xml}");
        assert_eq!(Capabilities::parse(xml.as_bytes()), Ok(all), "{view:?}");
        if let Some(libvirt) = schema::libvirt("capability.rng") {
            let plain = without_additions(&xml);
            assert!(plain.len() < xml.len() && plain.contains("<secmodel>"));
            assert_eq!(schema::complaints(&libvirt, &plain), Vec::<String>::new(), "{plain}");
        }
    }
}

#[test]
fn the_schema_refuses_what_svirt_does_not_write() {
    let (inventory, settings, _directory) = inventory();
    let xml = inventory.capabilities(View::System, &settings).unwrap().to_xml();
    for (good, bad) in [
        ("<enforcing>yes</enforcing>", "<enforcing>maybe</enforcing>"),
        ("<enforcing>yes</enforcing>", ""),
        ("<seclabel model='dac'>", "<seclabel model='dac' type='static'>"),
        ("</host>", "<extra/></host>"),
        ("<iommu support=", "<iommu support='x' s="),
    ] {
        assert!(xml.contains(good), "{good} is not in\n{xml}");
        let wrong = xml.replacen(good, bad, 1);
        assert!(!schema::complaints(&schema::own("capabilities.rng"), &wrong).is_empty(), "{bad}");
    }
}

#[test]
fn an_older_libvirt_host_is_read_too() {
    let xml = b"<capabilities><host><cpu><arch>x86_64</arch><model>Westmere</model></cpu>\
        <secmodel><model>selinux</model><doi>0</doi><baselabel type='kvm'>system_u:system_r:svirt_t:s0</baselabel></secmodel>\
        <secmodel><model>dac</model><doi>0</doi></secmodel></host>\
        <guest><os_type>xen</os_type><arch name='i686'/></guest></capabilities>";
    let host = Capabilities::parse(xml).unwrap();
    assert_eq!(host.host.security.len(), 2);
    assert!(host.security("selinux").unwrap().enforcing, "libvirt does not say: taken for enforcing");
    assert!(host.guests.is_empty());
    for wrong in ["<domain/>", "<capabilities/>", "<capabilities><host><uuid>x</uuid></host></capabilities>"]
    {
        assert!(Capabilities::parse(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

fn domain_capabilities(machine: &str) -> Option<DomainCapabilities> {
    let (inventory, settings, _directory) = inventory();
    if inventory.emulators.is_empty() {
        println!("skipped: needs qemu-system-x86_64");
        return None;
    }
    let wanted = Wanted { machine: Some(machine), virt: Some("qemu"), ..Wanted::default() };
    Some(DomainCapabilities::new(&inventory.emulators, wanted, false, settings.limits.vcpus).unwrap())
}

#[test]
fn domain_capabilities_are_good_by_both_schemas() {
    for machine in ["q35", "pc"] {
        let Some(all) = domain_capabilities(machine) else { return };
        assert!(all.machine.starts_with("pc-") && all.max_vcpus > 0, "{all:?}");
        let xml = all.to_xml();
        assert_eq!(
            schema::complaints(&schema::own("domaincapabilities.rng"), &xml),
            Vec::<String>::new(),
            "{xml}"
        );
        if let Some(libvirt) = schema::libvirt("domaincaps.rng") {
            assert_eq!(schema::complaints(&libvirt, &xml), Vec::<String>::new(), "{xml}");
        }
        let firmware = FirmwareFile {
            code: "/usr/share/OVMF/code.fd".into(),
            template: "/usr/share/OVMF/vars.fd".into(),
            machines: vec!["pc-q35-*".into()],
            features: vec![],
        };
        assert_eq!(firmware.runs_on(&all.machine), machine == "q35");
        let with = DomainCapabilities { firmwares: vec![firmware.code], ..all.clone() }.to_xml();
        assert!(with.contains("<value>efi</value>"), "{with}");
        assert_eq!(
            schema::complaints(&schema::own("domaincapabilities.rng"), &with),
            Vec::<String>::new(),
            "{with}"
        );
        if let Some(libvirt) = schema::libvirt("domaincaps.rng") {
            assert_eq!(schema::complaints(&libvirt, &with), Vec::<String>::new(), "{with}");
        }
        assert_eq!(all.admits("disk", "bus", "ide"), machine == "pc");
        assert!(all.admits("disk", "bus", "virtio") && !all.admits("disk", "bus", "fdc"));
    }
}

#[test]
fn what_cannot_be_described_is_refused_with_the_reason() {
    let (inventory, _, _directory) = inventory();
    if inventory.emulators.is_empty() {
        println!("skipped: needs qemu-system-x86_64");
        return;
    }
    let default = Wanted::default();
    for wanted in [
        Wanted { machine: Some("isapc"), ..default },
        Wanted { arch: Some("riscv64"), ..default },
        Wanted { virt: Some("kvm"), ..default },
        Wanted { virt: Some("xen"), ..default },
        Wanted { emulator: Some("/bin/true"), ..default },
    ] {
        let refusal = DomainCapabilities::new(&inventory.emulators, wanted, false, 8).unwrap_err();
        assert!(!refusal.remedy.is_empty(), "{refusal}");
    }
}

/// A definition with one device that the enumeration admits.
fn definition(machine: &str, kind: &str, name: &str, value: &str) -> Option<String> {
    let disk = |bus: &str, device: &str| {
        let target = match bus {
            "virtio" => "vda",
            "ide" => "hda",
            "nvme" => "nvme0n1",
            _ => "sda",
        };
        format!(
            "<disk type='file' device='{device}'><driver name='qemu' type='raw'/><source file='/var/lib/svirt/images/a.img'/><target dev='{target}' bus='{bus}'/></disk>"
        )
    };
    let spice = "<graphics type='spice' autoport='yes'/>";
    let usb = "<controller type='usb' model='qemu-xhci'/>";
    let devices = match (kind, name) {
        ("disk", "bus") => disk(value, "disk"),
        ("disk", "diskDevice") if value == "disk" => disk("virtio", "disk"),
        ("disk", "diskDevice") => disk("sata", value),
        ("disk", "model") => disk("virtio", "disk"),
        ("graphics", "type") => format!("<graphics type='{value}' autoport='yes'/>"),
        ("video", "modelType") => format!("<video><model type='{value}'/></video>"),
        ("rng", "model") => format!("<rng model='{value}'><backend model='builtin'/></rng>"),
        ("rng", "backendModel") if value == "random" => {
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>".to_owned()
        }
        ("tpm", "model") => format!("<tpm model='{value}'><backend type='emulator' version='2.0'/></tpm>"),
        ("tpm", "backendModel") => {
            format!("<tpm model='tpm-crb'><backend type='{value}' version='2.0'/></tpm>")
        }
        ("tpm", "backendVersion") => {
            format!("<tpm model='tpm-crb'><backend type='emulator' version='{value}'/></tpm>")
        }
        ("redirdev", "bus") => format!("{spice}{usb}<redirdev bus='{value}' type='spicevmc'/>"),
        ("channel", "type") if value == "spicevmc" => {
            format!(
                "{spice}<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>"
            )
        }
        ("channel", "type") => {
            format!(
                "<channel type='{value}'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
            )
        }
        ("rng", "backendModel") => format!("<rng model='virtio'><backend model='{value}'/></rng>"),
        _ => return None,
    };
    Some(format!(
        "<domain type='qemu'><name>a</name><memory>65536</memory><os><type machine='{machine}'>hvm</type></os><devices>{devices}</devices></domain>"
    ))
}

#[test]
fn what_a_domain_may_ask_for_is_accepted() {
    for machine in ["q35", "pc"] {
        let Some(all) = domain_capabilities(machine) else { return };
        let mut tried = 0;
        for device in &all.devices {
            for (name, values) in &device.enums {
                for value in values {
                    let Some(xml) = definition(machine, device.kind, name, value) else {
                        panic!("{} {name} {value}: the test knows no definition with it", device.kind);
                    };
                    let parsed = svirt::conf::domain_xml::parse(xml.as_bytes());
                    assert!(
                        parsed.is_ok(),
                        "{} {name} {value} is promised and refused: {parsed:?}",
                        device.kind
                    );
                    tried += 1;
                }
            }
        }
        assert!(tried > 8, "only {tried}");
    }
}

#[test]
fn svirts_metadata_has_a_schema_that_agrees_with_its_reader() {
    let around = |inside: &str| {
        format!(
            "<domain type='qemu'><name>a</name><memory>65536</memory><os><type>hvm</type></os><metadata>{inside}</metadata></domain>"
        )
    };
    let xmlns = "xmlns:svirt='urn:svirt:domain:1'";
    let long = format!(
        "<svirt:domain {xmlns}><svirt:seclabel model='dac' doi='{}'/></svirt:domain>",
        "x".repeat(257)
    );
    for (inside, good) in [
        (format!("<svirt:domain {xmlns}/>"), true),
        (
            format!(
                "<svirt:domain {xmlns}>\n<svirt:seclabel model='selinux' doi='engineering.example.com.'/>\n</svirt:domain>"
            ),
            true,
        ),
        (format!("<svirt:domain {xmlns}><svirt:seclabel doi='0' model='dac'/></svirt:domain>"), true),
        (format!("<svirt:domain {xmlns}><svirt:seclabel model='dac'/></svirt:domain>"), false),
        (format!("<svirt:domain {xmlns}><svirt:seclabel model='dac' doi='a b'/></svirt:domain>"), false),
        (
            format!(
                "<svirt:domain {xmlns}><svirt:seclabel model='dac' doi='0'>x</svirt:seclabel></svirt:domain>"
            ),
            false,
        ),
        (format!("<svirt:domain {xmlns}><svirt:profile/></svirt:domain>"), false),
        (format!("<svirt:domain {xmlns} strict='yes'/>"), false),
        (long, false),
    ] {
        let complaints = schema::complaints(&schema::own("metadata.rng"), &inside);
        assert_eq!(complaints.is_empty(), good, "{inside}: {complaints:?}");
        let read = svirt::conf::domain_xml::parse(around(&inside).as_bytes());
        assert_eq!(read.is_ok(), good, "{inside}: {read:?}");
    }
}
