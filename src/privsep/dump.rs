//! A guest's memory that is written down for a person to look at.

use serde::{Deserialize, Serialize};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dump {
    /// Absolute path of a file that is not there yet, below `save.dumps`.
    pub path: String,
    /// How it is written.
    pub format: DumpFormat,
    /// The most that the device model may write, in bytes.
    pub most: u64,
    /// The uid that has it written, whose files are counted; 0 is not held to any limit.
    pub user: u32,
}

/// How memory is written, in QEMU's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DumpFormat {
    /// An ELF file.
    Elf,
    /// kdump's, compressed with lzo.
    KdumpLzo,
    /// kdump's, compressed with snappy.
    KdumpSnappy,
    /// kdump's, compressed with zlib.
    KdumpZlib,
    /// A crash dump of Windows.
    WinDmp,
}
