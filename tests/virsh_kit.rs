//! What conformance kits and other people's clients do that nothing else here does: definitions of few words, media by
//! attaching, tuning.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod e2e_rig;
mod virsh_rig;

use virsh_rig::{Host, virsh_possible};

/// As short as kits write it: libvirt's own choices are all that it has.
fn few_words(host: &Host, name: &str, head: &str, devices: &str) -> String {
    let file = host.rig.text(&format!("{name}.xml"));
    let text = format!(
        "<domain type='qemu'><name>{name}</name><memory>65536</memory>{head}<os><type>hvm</type></os><features><acpi/></features>\
         <devices>{devices}</devices></domain>"
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn a_domain_of_few_words_takes_disks_and_media() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let (extra, first, second) =
        (host.rig.raw("extra.raw", 4), host.rig.raw("first.raw", 1), host.rig.raw("second.raw", 2));
    let device = |name: &str, device: &str, source: &str, target: &str| {
        let source = if source.is_empty() { String::new() } else { format!("<source file='{source}'/>") };
        let text = format!("<disk type='file' device='{device}'>{source}<target dev='{target}'/></disk>");
        let file = host.rig.text(name);
        std::fs::write(&file, &text).unwrap();
        (file, text)
    };
    let (_, drive) = device("drive", "cdrom", &first, "hdc");
    host.says(&["create", &few_words(&host, "few", "", &drive)]);
    let shown = || host.says(&["dumpxml", "few"]);
    assert!(shown().contains("machine='pc"), "{}", shown());
    // Where libvirt's own choice of a machine has PCI slots, a disk has one.
    host.says(&["attach-device", "few", &device("extra", "disk", &extra, "vdb").0]);
    assert!(shown().contains(&extra) && shown().contains("dev='vdb'"), "{}", shown());
    // The call for media is younger than drives: attaching is the old way.
    host.says(&["attach-device", "few", &device("other", "cdrom", &second, "hdc").0]);
    assert!(shown().contains(&second) && !shown().contains(&first), "{}", shown());
    host.says(&["attach-device", "few", &device("empty", "cdrom", "", "hdc").0]);
    assert!(!shown().contains(&second), "{}", shown());
    host.says(&["attach-device", "few", &device("back", "cdrom", &first, "hdc").0]);
    assert!(shown().contains(&first), "{}", shown());
    let taken = host.complains(&["attach-device", "few", &device("taken", "disk", &extra, "vdb").0]);
    assert!(taken.contains("target vdb already exists"), "{taken}");
    host.says(&["destroy", "few"]);
    assert!(host.complains(&["domstate", "few"]).contains("failed to get domain 'few'"));
}
