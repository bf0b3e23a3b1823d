//! The qcow2 header, versions 2 and 3: QEMU's `docs/interop/qcow2.txt`, and the limits of `block/qcow2.c`.

use super::{Header, Qcow2};

/// Versions 2 and 3 begin alike up to here.
const V2_LENGTH: usize = 72;
/// The least that version 3 fills.
const V3_LENGTH: usize = 104;
/// QEMU takes clusters from 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// QEMU's longest backing file name in bytes.
const BACKING_MAX: usize = 1023;
/// QEMU's longest recorded format in bytes.
const FORMAT_MAX: usize = 15;
/// The longest data file name that is repeated, in bytes: the kernel's longest path.
const DATA_FILE_MAX: usize = 4095;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// Dirty, corrupt, external data file, compression type, extended L2 entries.
const KNOWN_FEATURES: u64 = 0x1f;
const FEATURE_DATA_FILE: u64 = 1 << 2;
const FEATURE_EXTENDED_L2: u64 = 1 << 4;
/// A compatible feature.
const FEATURE_LAZY_REFCOUNTS: u64 = 1;

/// How a header lies about its own layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The backing file's name lies outside the first cluster, or over the header.
    #[error("the backing file name lies outside its place")]
    BackingPlace,
    /// The backing file's name is longer than QEMU takes.
    #[error("the backing file name has {0} bytes, more than {BACKING_MAX}")]
    BackingTooLong(usize),
    /// Clusters of a size that QEMU does not take.
    #[error("a cluster of 2^{0} bytes")]
    ClusterBits(u32),
    /// An unknown kind of encryption.
    #[error("the encryption method {0} is unknown")]
    Encryption(u32),
    /// A header extension reaches beyond its place.
    #[error("a header extension reaches beyond its place")]
    ExtensionPlace,
    /// A header extension stands twice.
    #[error("a header extension stands twice")]
    ExtensionTwice,
    /// The header says a length that it cannot have.
    #[error("the header has {0} bytes")]
    HeaderLength(u32),
    /// A name is empty, too long, not UTF-8, or contains control characters.
    #[error("a name in the header is not text")]
    Name,
    /// More than the largest file.
    #[error("the guest's disk has {0} bytes")]
    Size(u64),
    /// The image ends inside its header.
    #[error("the image ends inside its header")]
    Truncated,
    /// A version that nobody here knows.
    #[error("the version {0} is unknown")]
    Version(u32),
}

pub(super) fn u32_at(head: &[u8], at: usize) -> Result<u32, ImageError> {
    let end = at.checked_add(4).ok_or(ImageError::Truncated)?;
    let bytes = head.get(at..end).and_then(|bytes| bytes.try_into().ok()).ok_or(ImageError::Truncated)?;
    Ok(u32::from_be_bytes(bytes))
}

pub(super) fn u64_at(head: &[u8], at: usize) -> Result<u64, ImageError> {
    let end = at.checked_add(8).ok_or(ImageError::Truncated)?;
    let bytes = head.get(at..end).and_then(|bytes| bytes.try_into().ok()).ok_or(ImageError::Truncated)?;
    Ok(u64::from_be_bytes(bytes))
}

/// Bytes of the first cluster, which holds the whole header; `None` for anything but a qcow2 with a sane size.
pub(super) fn cluster_size(head: &[u8]) -> Option<usize> {
    if super::magic::name(head) != Some("qcow2") {
        return None;
    }
    let bits = u32_at(head, 20).ok().filter(|bits| CLUSTER_BITS.contains(bits))?;
    1_usize.checked_shl(bits)
}

/// Reads a header whose magic is right.
pub(super) fn parse(head: &[u8]) -> Result<Header, ImageError> {
    let version = u32_at(head, 4)?;
    if !(2..=3).contains(&version) {
        return Err(ImageError::Version(version));
    }
    let bits = u32_at(head, 20)?;
    let cluster = cluster_size(head).ok_or(ImageError::ClusterBits(bits))?;
    let first = head.get(..head.len().min(cluster)).unwrap_or_default();
    let virtual_size = u64_at(first, 24)?;
    if i64::try_from(virtual_size).is_err() {
        return Err(ImageError::Size(virtual_size));
    }
    let method = u32_at(first, 32)?;
    if method > 2 {
        return Err(ImageError::Encryption(method));
    }
    if first.len() < V2_LENGTH {
        return Err(ImageError::Truncated);
    }
    let ([features, compatible], length) =
        if version == 2 { ([0; 2], V2_LENGTH) } else { version_3(first, cluster)? };
    let backing = backing_place(first, length, cluster)?;
    let end = backing.map_or(cluster, |(offset, _)| offset);
    let extensions = extensions(first, length, end)?;
    let backing_file = match backing {
        Some((offset, size)) => {
            let name = offset.checked_add(size).and_then(|end| first.get(offset..end));
            Some(text(name.ok_or(ImageError::Truncated)?, BACKING_MAX)?)
        }
        None => None,
    };
    Ok(Header {
        format: "qcow2".to_owned(),
        virtual_size,
        backing_file,
        backing_format: extensions.backing_format,
        data_file: extensions.data_file,
        needs_data_file: features & FEATURE_DATA_FILE != 0,
        encrypted: method != 0,
        unknown_features: features & !KNOWN_FEATURES,
        qcow2: Some(Qcow2 {
            version,
            lazy_refcounts: compatible & FEATURE_LAZY_REFCOUNTS != 0,
            extended_l2: features & FEATURE_EXTENDED_L2 != 0,
        }),
    })
}

/// The incompatible and the compatible features, and the header's own length.
fn version_3(first: &[u8], cluster: usize) -> Result<([u64; 2], usize), ImageError> {
    let features = [u64_at(first, 72)?, u64_at(first, 80)?];
    let said = u32_at(first, 100)?;
    let length = usize::try_from(said).map_err(|_| ImageError::HeaderLength(said))?;
    if length < V3_LENGTH || length > cluster {
        return Err(ImageError::HeaderLength(said));
    }
    Ok((features, length))
}

/// Where the backing file's name stands; `None` where there is none.
fn backing_place(first: &[u8], length: usize, cluster: usize) -> Result<Option<(usize, usize)>, ImageError> {
    let offset = u64_at(first, 8)?;
    let size = usize::try_from(u32_at(first, 16)?).map_err(|_| ImageError::BackingPlace)?;
    if offset == 0 {
        return Ok(None);
    }
    let offset = usize::try_from(offset).map_err(|_| ImageError::BackingPlace)?;
    if offset < length || offset > cluster {
        return Err(ImageError::BackingPlace);
    }
    if size > BACKING_MAX {
        return Err(ImageError::BackingTooLong(size));
    }
    if offset.checked_add(size).is_none_or(|end| end > cluster) {
        return Err(ImageError::BackingPlace);
    }
    // A place for a name of no bytes is what `qemu-img rebase -b ""` leaves.
    Ok(if size == 0 { None } else { Some((offset, size)) })
}

/// What the header extensions say, as far as anybody asks.
#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    data_file: Option<String>,
}

/// Walks the extensions between the header and `end`; each fills a multiple of 8 bytes.
fn extensions(first: &[u8], length: usize, end: usize) -> Result<Extensions, ImageError> {
    let mut found = Extensions::default();
    let mut at = length;
    // Where less than one extension's head is left, QEMU stops as well.
    while at.checked_add(8).is_some_and(|head| head <= end) {
        if at >= first.len() {
            // The file ends here, and what a file does not hold reads as zeros: the end marker.
            return Ok(found);
        }
        let kind = u32_at(first, at)?;
        if kind == EXTENSION_END {
            return Ok(found);
        }
        let size = u32_at(first, at.saturating_add(4))?;
        let size = usize::try_from(size).map_err(|_| ImageError::ExtensionPlace)?;
        let start = at.saturating_add(8);
        let stop = start.checked_add(size).filter(|stop| *stop <= end).ok_or(ImageError::ExtensionPlace)?;
        let data = first.get(start..stop).ok_or(ImageError::Truncated)?;
        match kind {
            EXTENSION_BACKING_FORMAT => once(&mut found.backing_format, text(data, FORMAT_MAX)?)?,
            EXTENSION_DATA_FILE => once(&mut found.data_file, text(data, DATA_FILE_MAX)?)?,
            _ => {}
        }
        at = stop.checked_next_multiple_of(8).ok_or(ImageError::ExtensionPlace)?;
    }
    Ok(found)
}

fn once(place: &mut Option<String>, value: String) -> Result<(), ImageError> {
    if place.is_some() {
        return Err(ImageError::ExtensionTwice);
    }
    *place = Some(value);
    Ok(())
}

/// A name: UTF-8 without control characters. QEMU would read one with a NUL up to there, and we the whole.
fn text(bytes: &[u8], longest: usize) -> Result<String, ImageError> {
    let name = std::str::from_utf8(bytes).map_err(|_| ImageError::Name)?;
    if name.is_empty() || name.len() > longest || name.chars().any(char::is_control) {
        return Err(ImageError::Name);
    }
    Ok(name.to_owned())
}
