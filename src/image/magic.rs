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
    ("iso", 32_769, b"CD001"),
];

/// Where some formats say the size that a guest sees.
enum SizeAt {
    Little(usize),
    Big(usize),
    /// In sectors of 512 bytes.
    Sectors(usize),
    /// The rest of the file, from so many sectors on.
    Behind(usize),
}

/// The size that a guest sees, in bytes, where the header says it.
pub(super) fn size(name: &str, head: &[u8], file_size: u64) -> Option<u64> {
    let place = match name {
        "luks" => SizeAt::Behind(104),
        "qcow" => SizeAt::Big(24),
        "qed" => SizeAt::Little(48),
        "vdi" => SizeAt::Little(368),
        "vmdk" if head.starts_with(b"KDMV") => SizeAt::Sectors(12),
        "vpc" => SizeAt::Big(40),
        _ => return None,
    };
    let long = |at: usize| head.get(at..)?.first_chunk::<8>().copied();
    match place {
        SizeAt::Little(at) => Some(u64::from_le_bytes(long(at)?)),
        SizeAt::Big(at) => Some(u64::from_be_bytes(long(at)?)),
        SizeAt::Sectors(at) => u64::from_le_bytes(long(at)?).checked_mul(512),
        SizeAt::Behind(at) => {
            let first = head.get(at..)?.first_chunk::<4>().copied()?;
            file_size.checked_sub(u64::from(u32::from_be_bytes(first)) * 512)
        }
    }
}

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
