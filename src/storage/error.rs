//! Why something about storage pools was not done.

use uuid::Uuid;

use crate::conf::storage::StorageXmlError;
use crate::driver::DriverError;
use crate::store::StoreError;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The format, or svirt, has no such call.
    #[error("{0}")]
    Lacks(String),
    /// The labeller refused or failed.
    #[error("{}", .0.refusal())]
    Driver(#[from] DriverError),
    /// There is a volume of that name.
    #[error("storage volume '{0}' exists already")]
    Exists(String),
    /// A copy would have the name of another volume.
    #[error("storage volume name '{0}' already in use.")]
    Taken(String),
    /// An argument makes no sense here.
    #[error("{0}")]
    Argument(String),
    /// The format has no such thing.
    #[error("{0}")]
    Operation(String),
    /// It clashes with what there is.
    #[error("{0}")]
    Conflict(String),
    /// What an image holds could not be read.
    #[error("cannot read '{path}': {error}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// A pool that is kept nowhere cannot be autostarted.
    #[error("pool has no config file")]
    Transient,
    /// No pool has this name.
    #[error("no storage pool with matching name '{0}'")]
    NoPoolName(String),
    /// No pool has this directory.
    #[error("no storage pool with matching target path '{0}'")]
    NoPoolPath(String),
    /// No pool has this uuid.
    #[error("no storage pool with matching uuid '{0}'")]
    NoPoolUuid(Uuid),
    /// There is no such volume.
    #[error("no storage vol with matching {0} '{1}'")]
    NoVolume(&'static str, String),
    /// The pool's state does not allow it.
    #[error("{0}")]
    State(String),
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// svirt has no such thing.
    #[error("{0}")]
    Unsupported(String),
    /// The definition says something that it cannot.
    #[error("{0}")]
    Xml(#[from] StorageXmlError),
}
