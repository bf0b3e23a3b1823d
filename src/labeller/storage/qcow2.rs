//! An empty qcow2 image, as QEMU's `docs/interop/qcow2.txt` lays it out: header, refcounts, and an L1 table of zeros.
//!
//! Only written, never read.

use crate::privsep::storage::{BackingFile, BackingFormat};

const CLUSTER_BITS: u32 = 16;
/// Bytes of one cluster.
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// What one entry of the L1 table covers: a cluster of 8-byte entries, each a cluster.
const PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
/// The longest name of a backing file; QEMU takes no longer one.
pub(super) const NAME_MAX: usize = 1023;
/// The largest image: its table has 2 MiB, and one block counts all of its clusters.
pub(super) const SIZE_MAX: u64 = 128 << 40;
/// Header of version 3 without optional fields.
const HEADER: u32 = 104;
/// The header extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// The bytes of an image of `size` bytes up to the end of its L1 table.
///
/// Clusters: the header, the refcount table, the one refcount block, the L1 table.
pub(super) fn image(size: u64, backing: Option<&BackingFile>) -> Vec<u8> {
    let entries = size.div_ceil(PER_L1_ENTRY).max(1);
    let clusters = 3 + (entries * 8).div_ceil(CLUSTER);
    let mut out = header(size, entries, backing);
    let at = |out: &mut Vec<u8>, cluster: u64| out.resize(usize::try_from(cluster * CLUSTER).unwrap_or(0), 0);
    at(&mut out, 1);
    out.extend((2 * CLUSTER).to_be_bytes());
    at(&mut out, 2);
    for _ in 0..clusters {
        out.extend(1_u16.to_be_bytes());
    }
    at(&mut out, clusters);
    out
}

fn header(size: u64, entries: u64, backing: Option<&BackingFile>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(backing) = backing {
        let format: &[u8] = match backing.format {
            BackingFormat::Qcow2 => b"qcow2\0\0\0",
            BackingFormat::Raw => b"raw\0\0\0\0\0",
        };
        let length = if backing.format == BackingFormat::Qcow2 { 5_u32 } else { 3 };
        extensions.extend(BACKING_FORMAT.to_be_bytes());
        extensions.extend(length.to_be_bytes());
        extensions.extend(format);
    }
    // The end of the extensions: type and length 0.
    extensions.extend([0; 8]);
    let name = backing.map_or("", |backing| backing.path.as_str());
    let behind = u64::from(HEADER) + extensions.len() as u64;
    let mut out = b"QFI\xfb".to_vec();
    let u32s =
        |out: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|word| out.extend(word.to_be_bytes()));
    u32s(&mut out, &[3]);
    out.extend(if name.is_empty() { 0 } else { behind }.to_be_bytes());
    u32s(&mut out, &[u32::try_from(name.len()).unwrap_or(0), CLUSTER_BITS]);
    out.extend(size.to_be_bytes());
    // No encryption; the L1 table.
    u32s(&mut out, &[0, u32::try_from(entries).unwrap_or(u32::MAX)]);
    out.extend((3 * CLUSTER).to_be_bytes());
    // The refcount table, of one cluster.
    out.extend(CLUSTER.to_be_bytes());
    u32s(&mut out, &[1, 0]);
    // Snapshots, and the three sets of features.
    out.extend([0; 8 + 3 * 8]);
    // Refcounts of 16 bits.
    u32s(&mut out, &[4, HEADER]);
    out.extend(extensions);
    out.extend(name.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_where_the_header_says() {
        let backing = BackingFile { path: "/images/base".into(), format: BackingFormat::Raw };
        for (size, clusters) in
            [(0, 4), (512, 4), (PER_L1_ENTRY * 8192, 4), (PER_L1_ENTRY * 8193, 5), (SIZE_MAX, 35)]
        {
            let image = image(size, Some(&backing));
            assert_eq!(image.len() as u64, clusters * CLUSTER, "{size}");
            assert_eq!(image.get(24..32), Some(size.to_be_bytes().as_slice()));
            assert_eq!(image.get(104 + 24..104 + 24 + 12), Some(b"/images/base".as_slice()));
            let counts = image.get(2 << CLUSTER_BITS..3 << CLUSTER_BITS).unwrap_or_default();
            let counted = counts.chunks(2).take_while(|count| *count == [0, 1]).count();
            assert_eq!(counted as u64, clusters);
        }
    }
}
