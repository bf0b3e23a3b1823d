//! The schema of definitions: it is the grammar's, everything written validates, and libvirt's own schema agrees.
#![cfg(feature = "frontend")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/schema.rs"]
mod schema;

use std::path::Path;

use svirt::conf::definition::{self, Definition, Running, RunningLabel, Strictness, View};

const SECURE: View = View { secure: true, migratable: false };

/// Every definition among the tests' data that is one.
fn definitions() -> Vec<(String, Definition)> {
    let mut found = Vec::new();
    for directory in ["data/domain", "data/virt-install", "data/virt-install-5.0", "golden"] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "xml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let (definition, _) = Definition::parse(text.as_bytes(), Strictness::Lenient)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                found.push((path.display().to_string(), definition));
            }
        }
    }
    assert!(found.len() > 100);
    found
}

/// To write it anew: `svirt schema > xml-schemas/domain.rng`.
#[test]
fn the_schema_in_the_repository_is_the_grammars() {
    let kept = std::fs::read_to_string(schema::own("domain.rng")).unwrap();
    assert!(kept == definition::schema::domain(), "`svirt schema > xml-schemas/domain.rng`");
}

#[test]
fn what_is_written_is_good_by_both_schemas() {
    let running = Running {
        id: 7,
        labels: vec![
            RunningLabel {
                model: "selinux".into(),
                label: "system_u:system_r:svirt_t:s0:c1,c2".into(),
                imagelabel: Some("system_u:object_r:svirt_image_t:s0:c1,c2".into()),
            },
            RunningLabel { model: "dac".into(), label: "+70000:+70000".into(), imagelabel: None },
        ],
        terminals: vec![("serial0".into(), "/dev/pts/3".into())],
        listening: [
            ("vnc:0", "127.0.0.1:5900"),
            ("net0", "vnet3"),
            ("loader", "/usr/share/OVMF/OVMF_CODE_4M.fd"),
            ("nvram", "/var/lib/svirt/nvram/a.fd"),
            ("nvram-template", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ]
        .map(|(slot, what)| (slot.into(), what.into()))
        .into(),
        interfaces: Vec::new(),
        disks: vec![],
    };
    let libvirt = schema::libvirt("domain.rng");
    for (name, definition) in definitions() {
        let mut texts = vec![definition.format(SECURE)];
        // Two validators, twice, take their time: the most varied of them will do for running domains.
        if ["debian.xml", "vnc.xml", "hardware.xml"].iter().any(|varied| name.ends_with(varied)) {
            texts.push(definition.format_running(&running, SECURE));
        }
        for text in texts {
            let complaints = schema::complaints(&schema::own("domain.rng"), &text);
            assert!(complaints.is_empty(), "{name}: {complaints:?}\n{text}");
            // libvirt 9.0 knows no NVMe disks and no panic device on PCI, and its schema no alias of a smartcard, which its own
            // driver writes.
            let beyond = text.contains("nvme")
                || text.contains("<panic model='pvpanic'")
                || (text.contains("<smartcard") && text.contains("id='7'"));
            if let Some(libvirt) = libvirt.as_ref().filter(|_| !beyond) {
                let complaints = schema::complaints(libvirt, &text);
                assert!(complaints.is_empty(), "{name}, libvirt's: {complaints:?}\n{text}");
            }
        }
    }
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let whole = |devices: &str| {
        format!(
            "<domain type='kvm'><name>a</name><memory>1024</memory><os><type>hvm</type></os><devices>{devices}</devices></domain>"
        )
    };
    let target = "<target dev='vda'/>";
    for (devices, good) in [
        (format!("<disk><source file='/a'/>{target}</disk>"), true),
        (format!("<disk type='block'><source dev='/dev/a'/>{target}</disk>"), true),
        (format!("<disk type='block'><source file='/a'/>{target}</disk>"), false),
        (format!("<disk><source file='/a'/>{target}<flavour/></disk>"), false),
        (format!("<disk><source file='/a' flavour='1'/>{target}</disk>"), false),
        (format!("<disk><source file='/a'/>{target}{target}</disk>"), false),
        ("<disk><source file='/a'/></disk>".to_owned(), false),
        ("<channel type='unix'><target type='virtio' name='a'/></channel>".to_owned(), true),
        ("<channel type='unix'><target type='virtio' port='1'/></channel>".to_owned(), false),
        ("<rng model='virtio'><backend model='builtin'/></rng>".to_owned(), true),
        ("<rng model='virtio'/>".to_owned(), false),
        ("<input type='mouse' bus='serial'/>".to_owned(), false),
    ] {
        let xml = whole(&devices);
        assert_eq!(schema::complaints(&schema::own("domain.rng"), &xml).is_empty(), good, "{xml}");
        assert_eq!(Definition::parse(xml.as_bytes(), Strictness::Strict).is_ok(), good, "{xml}");
    }
}
