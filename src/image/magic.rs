//! Formats by their magic; the values are those of QEMU's drivers and libvirt's storage_source.c.

/// Name, offset in bytes, and what stands there.
const MAGICS: &[(&str, usize, &[u8])] = &[
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk DescriptorFile"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("qed", 0, b"QED\0"),
    ("luks", 0, b"LUKS\xba\xbe"),
    ("parallels", 0, b"WithoutFreeSpace"),
    ("parallels", 0, b"WithouFreSpacExt"),
    ("bochs", 0, b"Bochs Virtual HD Image"),
    ("cloop", 0, b"#!/bin/sh\n#V2.0 Format\n"),
    ("cow", 0, b"OOOM"),
];

/// The format that the magic names, if there is one.
pub(super) fn name(head: &[u8]) -> Option<&'static str> {
    if let Some(version) = head.strip_prefix(b"QFI\xfb") {
        return Some(if version.starts_with(&[0, 0, 0, 1]) { "qcow" } else { "qcow2" });
    }
    let found = MAGICS
        .iter()
        .find(|(_, offset, magic)| head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)));
    found.map(|(name, _, _)| *name)
}
