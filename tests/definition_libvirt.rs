//! libvirt's own driver for tests as the oracle: what it writes, svirt writes the same way.
#![cfg(feature = "frontend")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;

use svirt::conf::definition::{Definition, Strictness, View};

/// What libvirt makes of a definition, or nothing where it cannot be asked.
fn libvirt(definition: &Path, name: &str) -> Option<String> {
    let script = format!("define {}; dumpxml --inactive --security-info {name}", definition.display());
    let output = Command::new("virsh").args(["-q", "-c", "test:///default"]).arg(script).output();
    let Ok(output) = output else {
        println!("skipped: needs virsh (Debian: libvirt-clients)");
        return None;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(text[text.find("<domain").unwrap()..].trim_end().to_owned())
}

/// Without what the driver for tests leaves to the one for QEMU, and an element that it closes in an odd way.
fn comparable(text: &str) -> String {
    let mut text = text.replace(">\n    </redirdev>", "/>");
    // The order before libvirt 9.1.
    text = text.replace(" secure='no' type='pflash'", " type='pflash' secure='no'");
    text = text.replace("<driver name='qemu' type='raw'/>", "<driver name='qemu'/>");
    for filled in [" check='none'", " check='partial'", " migratable='on'", " type='isa-serial'"] {
        text = text.replace(filled, "");
    }
    text.trim_end().to_owned()
}

#[test]
fn what_libvirt_writes_is_written_the_same_way() {
    let directory = tempfile::tempdir().unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let written =
        ["virt-install", "virt-install-5.0"].map(|tool| std::fs::read_dir(data.join(tool)).unwrap());
    for entry in written.into_iter().flatten() {
        let path = entry.unwrap().path();
        // What Debian 12's library does not know yet.
        if path.file_stem().is_some_and(|stem| ["disk-nvme", "net-passt"].iter().any(|new| stem == *new)) {
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        // It has no other type, and knows nothing of QEMU's own options.
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("<domain type=\"kvm\"", "<domain type=\"test\"");
        let text = text.replace("<domain type=\"qemu\"", "<domain type=\"test\"");
        let file = directory.path().join(path.file_name().unwrap());
        std::fs::write(&file, &text).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let Some(theirs) = libvirt(&file, name) else { return };
        let (definition, _) = Definition::parse(theirs.as_bytes(), Strictness::Strict)
            .unwrap_or_else(|error| panic!("{name}: {error}\n{theirs}"));
        let ours = definition.format(View { secure: true, migratable: false });
        assert_eq!(comparable(&ours), comparable(&theirs), "{name}");
    }
}
