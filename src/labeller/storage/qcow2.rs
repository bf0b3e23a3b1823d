//! An empty qcow2 image, as QEMU's `docs/interop/qcow2.txt` lays it out: header, refcounts, and tables.
//!
//! Only written, never read.

use std::io::{self, Write};

use crate::privsep::storage::{BackingFile, BackingFormat, Qcow2Version};

const CLUSTER_BITS: u32 = 16;
/// Bytes of one cluster.
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// What one entry of the L1 table covers: a cluster of 8-byte entries, each a cluster.
const PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
/// The longest name of a backing file; QEMU takes no longer one.
pub(super) const NAME_MAX: usize = 1023;
/// The largest image: its table has 2 MiB, and one block counts all of its clusters.
pub(super) const SIZE_MAX: u64 = 128 << 40;
/// Header of version 2.
const HEADER_2: u32 = 72;
/// Header of version 3 without optional fields.
const HEADER_3: u32 = 104;
/// The header extension that names the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// The largest image whose tables are all made at once: they have 160 MiB then.
pub(super) const PREALLOCATED_MAX: u64 = 1 << 40;
/// How many clusters one block of refcounts counts.
const PER_BLOCK: u64 = CLUSTER / 2;
/// An entry that stands for a cluster which nothing else refers to.
const COPIED: u64 = 1 << 63;

/// Where what lies, in clusters: the header, the refcount table, its blocks, the L1 table, the L2 tables, the data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    size: u64,
    entries: u64,
    blocks: u64,
    l1: u64,
    l2: u64,
    data: u64,
    version: Qcow2Version,
    lazy_refcounts: bool,
}

impl Layout {
    /// Of an image of `size` bytes; `preallocate` gives each of its clusters a place from the beginning.
    pub(super) fn new(size: u64, preallocate: bool, version: Qcow2Version, lazy_refcounts: bool) -> Self {
        let entries = size.div_ceil(PER_L1_ENTRY).max(1);
        let data = if preallocate { size.div_ceil(CLUSTER) } else { 0 };
        let l2 = data.div_ceil(CLUSTER / 8);
        let l1 = (entries * 8).div_ceil(CLUSTER);
        let mut layout = Self { size, entries, blocks: 1, l1, l2, data, version, lazy_refcounts };
        // Blocks count themselves too; each round adds fewer.
        while layout.blocks < layout.clusters().div_ceil(PER_BLOCK) {
            layout.blocks = layout.clusters().div_ceil(PER_BLOCK);
        }
        layout
    }

    /// All clusters of the file.
    fn clusters(self) -> u64 {
        2 + self.blocks + self.l1 + self.l2 + self.data
    }

    /// The length of the file in bytes.
    pub(super) fn length(self) -> u64 {
        // The end of the last table may be left away, as QEMU does.
        match self.l2 {
            0 => (2 + self.blocks) * CLUSTER + self.entries * 8,
            _ => self.clusters() * CLUSTER,
        }
    }

    /// Writes everything up to the data, which is a hole.
    pub(super) fn write(self, out: &mut impl Write, backing: Option<&BackingFile>) -> io::Result<()> {
        let first_l1 = 2 + self.blocks;
        let (first_l2, counted) = (first_l1 + self.l1, self.blocks * PER_BLOCK);
        let mut head = header(&self, first_l1 * CLUSTER, backing);
        head.resize(usize::try_from(CLUSTER).unwrap_or(0), 0);
        out.write_all(&head)?;
        table(out, 1, (0..self.blocks).map(|block| (2 + block) * CLUSTER))?;
        for cluster in 0..counted {
            out.write_all(&u16::from(cluster < self.clusters()).to_be_bytes())?;
        }
        table(out, self.l1, (0..self.l2).map(|l2| ((first_l2 + l2) * CLUSTER) | COPIED))?;
        let first_data = first_l2 + self.l2;
        table(out, self.l2, (0..self.data).map(|cluster| ((first_data + cluster) * CLUSTER) | COPIED))
    }
}

/// Writes entries, and zeros up to the end of so many clusters.
fn table(out: &mut impl Write, clusters: u64, entries: impl Iterator<Item = u64>) -> io::Result<()> {
    let places = clusters * CLUSTER / 8;
    let zeros = std::iter::repeat(0);
    for (entry, _) in entries.chain(zeros).zip(0..places) {
        out.write_all(&entry.to_be_bytes())?;
    }
    Ok(())
}

fn header(layout: &Layout, l1_table: u64, backing: Option<&BackingFile>) -> Vec<u8> {
    let Layout { size, entries, version, .. } = *layout;
    let length = if version == Qcow2Version::Two { HEADER_2 } else { HEADER_3 };
    let mut extensions = Vec::new();
    if let Some(backing) = backing {
        let format: &[u8] = match backing.format {
            BackingFormat::Qcow2 => b"qcow2\0\0\0",
            BackingFormat::Raw => b"raw\0\0\0\0\0",
        };
        let bytes = if backing.format == BackingFormat::Qcow2 { 5_u32 } else { 3 };
        extensions.extend(BACKING_FORMAT.to_be_bytes());
        extensions.extend(bytes.to_be_bytes());
        extensions.extend(format);
    }
    // The end of the extensions: type and length 0.
    extensions.extend([0; 8]);
    let name = backing.map_or("", |backing| backing.path.as_str());
    let behind = u64::from(length) + extensions.len() as u64;
    let mut out = b"QFI\xfb".to_vec();
    let u32s =
        |out: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|word| out.extend(word.to_be_bytes()));
    u32s(&mut out, &[version.number()]);
    out.extend(if name.is_empty() { 0 } else { behind }.to_be_bytes());
    u32s(&mut out, &[u32::try_from(name.len()).unwrap_or(0), CLUSTER_BITS]);
    out.extend(size.to_be_bytes());
    // No encryption; the L1 table.
    u32s(&mut out, &[0, u32::try_from(entries).unwrap_or(u32::MAX)]);
    out.extend(l1_table.to_be_bytes());
    // The refcount table, of one cluster.
    out.extend(CLUSTER.to_be_bytes());
    u32s(&mut out, &[1, 0]);
    // Snapshots.
    out.extend([0; 8]);
    if version == Qcow2Version::Three {
        // The sets of incompatible, compatible and automatically cleared features.
        out.extend([0; 8]);
        out.extend(u64::from(layout.lazy_refcounts).to_be_bytes());
        out.extend([0; 8]);
        // Refcounts of 16 bits.
        u32s(&mut out, &[4, length]);
    }
    out.extend(extensions);
    out.extend(name.as_bytes());
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_where_the_header_says() {
        let backing = BackingFile { path: "/images/base".into(), format: BackingFormat::Raw };
        let cases = [(0, 4), (512, 4), (PER_L1_ENTRY * 8192, 4), (PER_L1_ENTRY * 8193, 5), (SIZE_MAX, 35)];
        for (size, clusters) in cases {
            let layout = Layout::new(size, false, Qcow2Version::Three, false);
            let mut image = Vec::new();
            layout.write(&mut image, Some(&backing)).unwrap();
            assert_eq!(image.len() as u64, clusters * CLUSTER, "{size}");
            // The file ends with the last entry of its last table.
            let entries = size.div_ceil(PER_L1_ENTRY).max(1);
            assert_eq!(layout.length(), 3 * CLUSTER + entries * 8, "{size}");
            assert_eq!(image.get(24..32), Some(size.to_be_bytes().as_slice()));
            assert_eq!(image.get(104 + 24..104 + 24 + 12), Some(b"/images/base".as_slice()));
            let counts = image.get(2 << CLUSTER_BITS..3 << CLUSTER_BITS).unwrap_or_default();
            let counted = counts.chunks(2).take_while(|count| *count == [0, 1]).count();
            assert_eq!(counted as u64, clusters);
        }
    }

    #[test]
    fn both_versions_are_read_as_they_were_meant() {
        let backing = BackingFile { path: "/images/base".into(), format: BackingFormat::Qcow2 };
        for (version, number, lazy) in
            [(Qcow2Version::Two, 2, false), (Qcow2Version::Three, 3, false), (Qcow2Version::Three, 3, true)]
        {
            let layout = Layout::new(1 << 20, false, version, lazy);
            let mut image = Vec::new();
            layout.write(&mut image, Some(&backing)).unwrap();
            let header = crate::image::parse(&image, image.len() as u64).unwrap();
            let said = header.qcow2.unwrap();
            assert_eq!((said.version, said.lazy_refcounts, said.extended_l2), (number, lazy, false));
            assert_eq!((header.virtual_size, header.unknown_features), (1 << 20, 0));
            assert_eq!(header.backing_file.as_deref(), Some("/images/base"));
            assert_eq!(header.backing_format.as_deref(), Some("qcow2"));
        }
    }

    #[test]
    fn blocks_of_refcounts_count_themselves() {
        for size in [0, 1, CLUSTER, PER_BLOCK * CLUSTER, 3 * PER_BLOCK * CLUSTER + 1, PREALLOCATED_MAX] {
            let layout = Layout::new(size, true, Qcow2Version::Three, true);
            let needed = layout.clusters().div_ceil(PER_BLOCK);
            assert!(layout.blocks == needed && layout.blocks <= CLUSTER / 8, "{layout:?}");
            assert!(layout.data * CLUSTER >= size && layout.l2 * PER_L1_ENTRY >= size);
        }
    }
}
