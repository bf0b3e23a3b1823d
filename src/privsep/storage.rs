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
    /// Makes a new file; one of that name is never touched.
    Create {
        /// Absolute path.
        path: String,
        /// What is in it.
        content: Content,
        /// Permission bits.
        mode: u32,
    },
    /// Tells of one file.
    Look {
        /// Absolute path.
        path: String,
    },
    /// Hands a file over, open.
    Open {
        /// Absolute path.
        path: String,
        /// Whether it is to be written: then no domain and no other program may use it, until it is closed.
        write: bool,
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
    /// An empty qcow2 image of version 3 with clusters of 64 KiB.
    Qcow2 {
        /// What a guest sees, in bytes; a multiple of 512.
        size: u64,
        /// Whether each cluster has a place from the beginning; the places are holes.
        preallocate: bool,
        /// Whether refcounts may be written late, and repaired after a crash.
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
    /// To `Look` and `Create`.
    File(FileState),
    /// To `Open`: its descriptor comes with this.
    Opened,
    /// To `Scan`.
    Scanned(Box<Scanned>),
    /// To `Variables`: whether they were there.
    Variables {
        /// Whether they were.
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
