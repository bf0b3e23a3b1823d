//! Image headers: raw bytes in, a [`Header`] out. Pure; runs only inside `svirt-imageprobe`.
//!
//! Everything that is read was written by whoever wrote the image, a guest included. A header that lies about
//! its own layout becomes an [`ImageError`]; what it names is reported and never followed here.
#![forbid(unsafe_code)]

mod growth;
mod magic;
mod qcow2;

use serde::{Deserialize, Serialize};

pub use growth::{Growth, NoGrowth};
pub use qcow2::ImageError;

/// Bytes of an image's beginning that are read first; enough for every format's magic and most headers.
pub const HEAD: usize = 64 << 10;
/// The most bytes that a header may fill: the largest qcow2 cluster.
pub const HEAD_MAX: usize = 2 << 20;

/// What one image header says. Everything in it was written by whoever wrote the image, a guest included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// `qcow2` where the magic says so; another format's name for its magic, such as `vmdk` or `luks`;
    /// `damaged qcow2 (…)` for a header that lies about its layout; else `raw`.
    pub format: String,
    /// The size that a guest sees, in bytes; for formats whose header is not read for it, the size of the file.
    pub virtual_size: u64,
    /// The backing file's name, as it stands in the header.
    pub backing_file: Option<String>,
    /// The backing file's format, where the header records it.
    pub backing_format: Option<String>,
    /// The external data file's name, where the header asks for one.
    pub data_file: Option<String>,
    /// Whether the header asks for an external data file at all.
    pub needs_data_file: bool,
    /// Whether the image is encrypted.
    pub encrypted: bool,
    /// Incompatible feature bits that nobody here knows; such an image is refused.
    pub unknown_features: u64,
    /// What a qcow2 header says of itself.
    pub qcow2: Option<Qcow2>,
}

/// What a qcow2 header says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qcow2 {
    /// 2 or 3, which QEMU calls the compatibility levels 0.10 and 1.1.
    pub version: u32,
    /// Whether refcounts may be written late.
    pub lazy_refcounts: bool,
    /// Whether clusters are allocated in parts.
    pub extended_l2: bool,
}

impl Header {
    /// A header of which only the format's name is known.
    fn named(format: &str, size: u64) -> Self {
        Self {
            format: format.to_owned(),
            virtual_size: size,
            backing_file: None,
            backing_format: None,
            data_file: None,
            needs_data_file: false,
            encrypted: format == "luks",
            unknown_features: 0,
            qcow2: None,
        }
    }
}

/// What `svirt-imageprobe` writes: a header, or why it read none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// No header was read.
    Failed(Failure),
    /// What the header says.
    Header(Header),
}

/// Why the probe read no header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "failure", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Failure {
    /// The answer is no JSON of this kind: the probe died, or was taken over by the image.
    #[error("the image probe gave no answer that makes sense")]
    Answer,
    /// The probe could not confine itself, and so did not look at the image.
    #[error("the image probe could not confine itself: {step}")]
    Confinement {
        /// Which step, with the kernel's error.
        step: String,
    },
    /// Descriptor 0 is not what the probe accepts.
    #[error("the image probe was given {what}")]
    Descriptor {
        /// What it is.
        what: String,
    },
    /// The kernel refused a read.
    #[error("the image cannot be read: {error}")]
    Read {
        /// The kernel's error.
        error: String,
    },
}

/// How many bytes from the beginning [`parse`] needs, once it has seen the first [`HEAD`].
#[must_use]
pub fn needed(head: &[u8]) -> usize {
    qcow2::cluster_size(head).map_or(HEAD, |cluster| cluster.clamp(HEAD, HEAD_MAX))
}

/// Reads a header. `head` is the beginning of the image, [`needed`] bytes or all that there is; `file_size` is the
/// size of the file or device in bytes.
pub fn parse(head: &[u8], file_size: u64) -> Result<Header, ImageError> {
    match magic::name(head) {
        Some("qcow2") => qcow2::parse(head),
        Some(other) => Ok(Header::named(other, magic::size(other, head, file_size).unwrap_or(file_size))),
        None => Ok(Header::named("raw", file_size)),
    }
}

/// Reads a header, and reports a damaged one as a format of its own: a guest may write what it likes onto a raw
/// disk, and must not keep its next start from happening.
#[must_use]
pub fn describe(head: &[u8], file_size: u64) -> Header {
    parse(head, file_size)
        .unwrap_or_else(|error| Header::named(&format!("damaged qcow2 ({error})"), file_size))
}

/// Reads what the probe wrote. Nothing in it may be trusted.
pub fn read_answer(json: &[u8]) -> Result<Header, Failure> {
    match serde_json::from_slice(json) {
        Ok(Answer::Header(header)) => Ok(header),
        Ok(Answer::Failed(failure)) => Err(failure),
        Err(_) => Err(Failure::Answer),
    }
}

/// Reads whatever is given; for fuzzers and the replay of their corpus.
pub fn fuzz_image(data: &[u8]) {
    let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
    let wanted = needed(data);
    assert!((HEAD..=HEAD_MAX).contains(&wanted));
    let header = describe(data, size);
    assert!(header.backing_file.as_ref().is_none_or(|name| !name.is_empty() && name.len() <= 1023));
    assert!(!header.format.is_empty());
    if let Ok(Some(growth)) = Growth::new(data, size, 1 << 40) {
        // It writes the header, and within what the header says is the first table.
        let cleared = growth.cleared();
        assert!(
            cleared.start >= 512 && cleared.start <= cleared.end && cleared.end - cleared.start <= 32 << 20
        );
    }
    let _ = read_answer(data);
}
