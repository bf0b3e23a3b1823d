//! Image headers: raw bytes in, a [`Header`] out. Pure; runs only inside `svirt-imageprobe`.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// What one image header says. Everything in it was written by whoever wrote the image, a guest included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// `qcow2` where the magic says so, else `raw`.
    pub format: String,
    /// The size that a guest sees, in bytes.
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
}
