//! A larger size for a qcow2 image: what of its header and of its first table is written for that.
//!
//! Only what needs no new cluster: the first table has room up to the end of its last one, which at clusters of 64 KiB is
//! enough for 4 TiB. Everything that is read was written by whoever wrote the image; what is written lies in the header, or
//! where the header says that the first table is.

use std::ops::Range;

use super::qcow2::{u32_at, u64_at};

/// Where the header says the guest's size, the encryption and the entries of the first table, one behind the other.
const SIZE_AT: u64 = 24;
/// Dirty and corrupt, of the incompatible features; the others mean that tables or data lie elsewhere or are larger.
const COMPRESSION: u64 = 1 << 3;
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
/// Bitmaps, of the features that a writer who does not know them clears.
const BITMAPS: u64 = 1;
/// The most bytes of the first table, as QEMU has it.
const TABLE_MAX: u64 = 32 << 20;

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    cleared: Range<u64>,
    size: u64,
    entries: u32,
}

/// Why an image does not grow here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoGrowth {
    /// It has bitmaps, which are as long as the image.
    #[error("it has bitmaps")]
    Bitmaps,
    /// It was not closed, or is damaged.
    #[error("it is marked as dirty or corrupt")]
    Damaged,
    /// Its guest's size would get smaller.
    #[error("it would get smaller")]
    Smaller,
    /// Its header lies.
    #[error("its header is damaged")]
    Header,
    /// It is encrypted, has its data elsewhere, or has features that nobody here knows.
    #[error("it is encrypted, has an external data file, or has features that svirt does not know")]
    Features,
    /// It has no room for more.
    #[error("its first table has no room for that size")]
    Room,
    /// It has snapshots, whose sizes differ then.
    #[error("it has internal snapshots")]
    Snapshots,
    /// It is none.
    #[error("it is no qcow2 image of version 2 or 3")]
    Version,
}

impl NoGrowth {
    const ALL: [Self; 8] = [
        Self::Bitmaps,
        Self::Damaged,
        Self::Smaller,
        Self::Header,
        Self::Features,
        Self::Room,
        Self::Snapshots,
        Self::Version,
    ];

    /// A small number for it.
    #[must_use]
    pub fn code(self) -> u8 {
        Self::ALL.iter().position(|why| *why == self).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
    }

    /// The one with this number.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

impl Growth {
    /// What gives the image that begins with `head` and whose file has `length` bytes the size `wanted`, a multiple of 512;
    /// nothing where it has that size.
    pub fn new(head: &[u8], length: u64, wanted: u64) -> Result<Option<Self>, NoGrowth> {
        let word = |at| u32_at(head, at).map_err(|_| NoGrowth::Header);
        let long = |at| u64_at(head, at).map_err(|_| NoGrowth::Header);
        let version = word(4).unwrap_or(0);
        if !head.starts_with(b"QFI\xfb") || !(2..=3).contains(&version) {
            return Err(NoGrowth::Version);
        }
        let features = if version == 3 { long(72)? } else { 0 };
        let cleared_by_others = if version == 3 { long(88)? } else { 0 };
        let cluster = super::qcow2::cluster_size(head).ok_or(NoGrowth::Header)? as u64;
        let (size, entries, table) = (long(24)?, word(36)?, long(40)?);
        match () {
            () if wanted == size => return Ok(None),
            () if wanted < size => return Err(NoGrowth::Smaller),
            () if !wanted.is_multiple_of(512) || i64::try_from(wanted).is_err() => {
                return Err(NoGrowth::Room);
            }
            () if features & (DIRTY | CORRUPT) != 0 => return Err(NoGrowth::Damaged),
            () if word(32)? != 0 || features & !COMPRESSION != 0 => return Err(NoGrowth::Features),
            () if cleared_by_others & BITMAPS != 0 => return Err(NoGrowth::Bitmaps),
            () if word(60)? != 0 => return Err(NoGrowth::Snapshots),
            () => {}
        }
        // An entry of the first table stands for a cluster of entries of eight bytes, each of which stands for a cluster.
        let per_entry = (cluster / 8).checked_mul(cluster).ok_or(NoGrowth::Header)?;
        let (had, needed) = (u64::from(entries), wanted.div_ceil(per_entry));
        let room = (had * 8).next_multiple_of(cluster) / 8;
        // An entry that stands behind the old end would be of something else.
        if table < cluster
            || !table.is_multiple_of(cluster)
            || table >= length
            || had < size.div_ceil(per_entry)
        {
            return Err(NoGrowth::Header);
        }
        if needed > room || needed * 8 > TABLE_MAX {
            return Err(NoGrowth::Room);
        }
        let first = size.div_ceil(per_entry);
        let entries = u32::try_from(needed.max(had)).map_err(|_| NoGrowth::Room)?;
        let place =
            |entry: u64| entry.checked_mul(8).and_then(|at| table.checked_add(at)).ok_or(NoGrowth::Header);
        let from = place(had.max(first).min(u64::from(entries)))?;
        Ok(Some(Self { cleared: from..place(entries.into())?, size: wanted, entries }))
    }

    /// Where zeros go, before anything else is written.
    #[must_use]
    pub fn cleared(&self) -> Range<u64> {
        self.cleared.clone()
    }

    /// Where the last bytes go, and which.
    #[must_use]
    pub fn header(&self) -> (u64, [u8; 16]) {
        let mut bytes = [0; 16];
        let (size, rest) = bytes.split_at_mut(8);
        size.copy_from_slice(&self.size.to_be_bytes());
        if let Some(entries) = rest.get_mut(4..) {
            entries.copy_from_slice(&self.entries.to_be_bytes());
        }
        (SIZE_AT, bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const CLUSTER: u64 = 1 << 16;
    /// What one entry stands for.
    const ENTRY: u64 = CLUSTER / 8 * CLUSTER;

    /// A header of version 3 whose first table is in the fourth cluster.
    fn head(size: u64, entries: u32) -> Vec<u8> {
        let mut head = vec![0; 4096];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        head[20..24].copy_from_slice(&16_u32.to_be_bytes());
        head[24..32].copy_from_slice(&size.to_be_bytes());
        head[36..40].copy_from_slice(&entries.to_be_bytes());
        head[40..48].copy_from_slice(&(3 * CLUSTER).to_be_bytes());
        head
    }

    #[test]
    fn what_is_written_is_the_size_and_entries_that_are_empty() {
        let grown = |size, entries, wanted| Growth::new(&head(size, entries), 4 * CLUSTER, wanted).unwrap();
        assert_eq!(grown(ENTRY, 1, ENTRY), None);
        let within = grown(512, 1, ENTRY).unwrap();
        assert!(within.cleared().is_empty());
        assert_eq!(within.header().1[..8], ENTRY.to_be_bytes());
        let more = grown(ENTRY, 1, 3 * ENTRY + 512).unwrap();
        assert_eq!(more.cleared(), 3 * CLUSTER + 8..3 * CLUSTER + 32);
        assert_eq!((more.header().0, &more.header().1[8..]), (24, &[0, 0, 0, 0, 0, 0, 0, 4][..]));
        // Up to the end of the table's cluster.
        let all = grown(0, 1, 8192 * ENTRY).unwrap();
        assert_eq!(all.cleared(), 3 * CLUSTER + 8..4 * CLUSTER);
    }

    #[test]
    fn what_is_no_plain_image_does_not_grow() {
        let refused = |change: fn(&mut Vec<u8>), wanted| {
            let mut head = head(ENTRY, 1);
            change(&mut head);
            Growth::new(&head, 4 * CLUSTER, wanted).unwrap_err()
        };
        let more = 2 * ENTRY;
        assert_eq!(refused(|_| {}, 512), NoGrowth::Smaller);
        assert_eq!(refused(|_| {}, more + 1), NoGrowth::Room);
        assert_eq!(refused(|_| {}, 8193 * ENTRY), NoGrowth::Room);
        assert_eq!(refused(|_| {}, u64::MAX - 511), NoGrowth::Room);
        assert_eq!(refused(|head| head[0] = 0, more), NoGrowth::Version);
        assert_eq!(refused(|head| head.truncate(90), more), NoGrowth::Header);
        assert_eq!(refused(|head| head[7] = 4, more), NoGrowth::Version);
        assert_eq!(refused(|head| head[23] = 40, more), NoGrowth::Header);
        assert_eq!(refused(|head| head[35] = 1, more), NoGrowth::Features);
        assert_eq!(refused(|head| head[39] = 0, more), NoGrowth::Header);
        // The first table over the header, off its place, and behind the end of the file.
        assert_eq!(refused(|head| head[45] = 0, more), NoGrowth::Header);
        assert_eq!(refused(|head| head[47] = 8, more), NoGrowth::Header);
        assert_eq!(refused(|head| head[45] = 9, more), NoGrowth::Header);
        assert_eq!(refused(|head| head[63] = 1, more), NoGrowth::Snapshots);
        assert_eq!(refused(|head| head[79] = 1, more), NoGrowth::Damaged);
        assert_eq!(refused(|head| head[79] = 4, more), NoGrowth::Features);
        assert_eq!(refused(|head| head[95] = 1, more), NoGrowth::Bitmaps);
        for why in NoGrowth::ALL {
            assert_eq!(NoGrowth::of(why.code()), Some(why));
        }
        assert_eq!(NoGrowth::of(99), None);
    }
}
