//! What the unprivileged part asks the labeller to do to files of storage pools: a closed list, each inside the
//! configured places.

use serde::{Deserialize, Serialize};

use crate::base::DomainUuid;

/// The most files of one directory that are told.
pub const FILES_MAX: usize = 10_000;

/// One operation on a pool's directory or on a file in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "storage", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StorageOp {
    /// Makes a directory, unless it is there.
    BuildDirectory {
        /// Absolute path.
        path: String,
        /// Permission bits of a new one.
        mode: u32,
    },
    /// Hands over one end of a socket over which what a file holds is read or written, in the frames of `privsep::contents`.
    /// Where it is written no domain and no other program may use it, until the socket is closed.
    Contents {
        /// Absolute path.
        path: String,
        /// Which bytes.
        part: Part,
        /// Which way they go.
        passage: Passage,
    },
    /// Makes a new file of what another one holds, which nobody may write meanwhile.
    Copy {
        /// Absolute path of the other one.
        from: String,
        /// Absolute path; a file of that name is never touched.
        path: String,
        /// How.
        copy: Copied,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a new file; one of that name is never touched.
    Create {
        /// Absolute path.
        path: String,
        /// What is in it.
        content: Content,
        /// Permission bits.
        mode: u32,
    },
    /// Gives a qcow2 image that no domain uses a larger size.
    Grow {
        /// Absolute path.
        path: String,
        /// What a guest sees from then on, in bytes; a multiple of 512.
        size: u64,
    },
    /// Tells of one file.
    Look {
        /// Absolute path.
        path: String,
    },
    /// Removes a file that no domain uses.
    Remove {
        /// Absolute path.
        path: String,
    },
    /// Removes an empty directory.
    RemoveDirectory {
        /// Absolute path.
        path: String,
    },
    /// Gives a file that no domain uses another size.
    Resize {
        /// Absolute path.
        path: String,
        /// In bytes.
        size: u64,
        /// Whether the room for all of it is taken at once.
        allocate: bool,
    },
    /// Tells of a directory and what is in it.
    Scan {
        /// Absolute path.
        path: String,
    },
    /// Says whether a domain's TPM of either version has a state.
    TpmState {
        /// Whose.
        uuid: DomainUuid,
        /// What becomes of it.
        fate: Fate,
    },
    /// Says whether a domain's own store of UEFI variables is there, in the directory of such stores. Another domain's
    /// is as one that is not there.
    Variables {
        /// Absolute path.
        path: String,
        /// Whose.
        uuid: DomainUuid,
        /// What becomes of it.
        fate: Fate,
    },
    /// Overwrites a file that no domain uses with zeros. One that has holes gives all of its room back.
    Wipe {
        /// Absolute path.
        path: String,
    },
}

impl StorageOp {
    /// Whether it takes as long as a disk does.
    #[must_use]
    pub fn is_long(&self) -> bool {
        matches!(self, Self::Copy { .. } | Self::Wipe { .. })
    }
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// From which byte on.
    pub offset: u64,
    /// How many of them; 0 for all that there are, or that may be.
    pub length: u64,
}

/// Which way what a volume holds goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "passage", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Passage {
    /// Out of the file.
    Down {
        /// Whether holes are told and not sent.
        sparse: bool,
    },
    /// Into the file.
    Up,
}

/// How a file is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// What a guest sees of the copy, in bytes, where that is more than of the other one.
    pub size: u64,
    /// Whether it is a qcow2 image, and not raw bytes.
    pub qcow2: bool,
    /// Whether the room for all of it is taken at once.
    pub allocate: bool,
    /// Whether the file system is to share the blocks of both, and nothing else will do.
    pub reflink: bool,
}

/// What becomes of a store that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Nothing.
    Stays,
    /// Nothing, but it is refused what [`Fate::Goes`] would be refused.
    CouldGo,
    /// It is removed; none is that a domain uses.
    Goes,
}

/// What a new file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Content {
    /// An empty qcow2 image with clusters of 64 KiB.
    Qcow2 {
        /// The version of its header.
        version: Qcow2Version,
        /// What a guest sees, in bytes; a multiple of 512.
        size: u64,
        /// Whether each cluster has a place from the beginning; the places are holes.
        preallocate: bool,
        /// Whether refcounts may be written late, and repaired after a crash; not of version 2.
        lazy_refcounts: bool,
        /// What it is a layer above.
        backing: Option<BackingFile>,
    },
    /// Zeros.
    Raw {
        /// In bytes.
        size: u64,
        /// How many bytes from the beginning on take room at once.
        allocation: u64,
    },
}

/// Versions of a qcow2 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qcow2Version {
    /// Of QEMU before 1.1.
    #[serde(rename = "2")]
    Two,
    /// With features, and clusters of zeros.
    #[serde(rename = "3")]
    Three,
}

impl Qcow2Version {
    /// As it stands in the header.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// The layer below a new image. It is only named, never opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackingFile {
    /// Absolute path.
    pub path: String,
    /// Its format.
    pub format: BackingFormat,
}

/// Formats of layers below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackingFormat {
    /// qcow2
    Qcow2,
    /// Raw bytes.
    Raw,
}

/// The answer to one [`StorageOp`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stored", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Stored {
    /// It is done.
    Done,
    /// To `Copy`, `Create` and `Look`.
    File(FileState),
    /// To `Contents`: the socket comes with this.
    Opened,
    /// To `Scan`.
    Scanned(Box<Scanned>),
    /// To `TpmState` and `Variables`.
    There {
        /// Whether it was there.
        there: bool,
    },
}

/// A directory and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scanned {
    /// The directory itself; its name is empty.
    pub directory: FileState,
    /// Bytes of its file system.
    pub capacity: u64,
    /// Bytes of them that ordinary users may still take.
    pub available: u64,
    /// Regular files and directories in it, at most [`FILES_MAX`], by name. Nothing else is told.
    pub files: Vec<FileState>,
}

/// What the kernel says of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileState {
    /// Its name in its directory.
    pub name: String,
    /// Whether it is a directory; else it is a regular file.
    pub directory: bool,
    /// Its length in bytes.
    pub size: u64,
    /// Bytes that it takes.
    pub allocated: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last read, as seconds and nanoseconds since 1970.
    pub accessed: (i64, u32),
    /// Last write.
    pub modified: (i64, u32),
    /// Last change of the inode.
    pub changed: (i64, u32),
}
