//! Why something did not happen to a domain, in libvirt's distinctions.

use std::time::Duration;

use crate::base::{DomainName, DomainUuid, Refusal};
use crate::driver::DriverError;
use crate::store::StoreError;

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The labeller cannot be asked; nothing was.
    #[error("{}", .0.refusal())]
    Away(DriverError),
    /// The guest's agent does not answer.
    #[error("{0}")]
    AgentSilent(String),
    /// The domain has no channel for an agent.
    #[error("{0}")]
    NoAgent(String),
    /// Another call has changed the domain for so long that nobody waits for it any longer.
    #[error("{call} has been changing the domain for {} s", .lasts.as_secs())]
    Busy {
        /// That call, by its name in libvirt's protocol.
        call: &'static str,
        /// How long it has lasted.
        lasts: Duration,
    },
    /// It did not work out.
    #[error("{0}")]
    Failed(String),
    /// There is no such device.
    #[error("{0}")]
    NoDevice(String),
    /// Something else than a definition that the caller said is wrong.
    #[error("{0}")]
    Argument(String),
    /// Values that do not go together, or not with what there is.
    #[error("{0}")]
    Config(String),
    /// A value that QEMU does not take.
    #[error("{0}")]
    Value(String),
    /// The caller's rules do not give it.
    #[error("{0}")]
    Denied(String),
    /// The definition is refused.
    #[error("{0}")]
    Definition(Box<Refusal>),
    /// The labeller, a supervisor or the device model refused or failed.
    #[error("{}", .0.refusal())]
    Driver(#[from] DriverError),
    /// The guest did not do its part in time, and may do it yet.
    #[error("{0}")]
    Late(String),
    /// What is named cannot be changed so.
    #[error("{0}")]
    Operation(String),
    /// There are as many as are allowed.
    #[error("{0}")]
    Limit(String),
    /// The definition cannot be read at all.
    #[error("{0}")]
    Malformed(String),
    /// The name is another domain's.
    #[error("domain '{name}' already exists with uuid {by}")]
    NameTaken {
        /// The name.
        name: DomainName,
        /// Whose it is.
        by: DomainUuid,
    },
    /// No domain with this number runs.
    #[error("no domain with matching id {0}")]
    NoId(i32),
    /// There is no such storage pool.
    #[error("{0}")]
    NoPool(String),
    /// There is no such volume.
    #[error("{0}")]
    NoVolume(String),
    /// There is no domain of this name.
    #[error("no domain with matching name '{0}'")]
    NoName(String),
    /// There is no domain with this uuid.
    #[error("no domain with matching uuid '{0}'")]
    NoUuid(DomainUuid),
    /// The domain's state does not allow it.
    #[error("{0}")]
    State(String),
    /// The store failed; nothing was changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What runs these domains lacks it.
    #[error("{0}")]
    Unsupported(String),
    /// The uuid is another domain's.
    #[error("domain '{by}' is already defined with uuid {uuid}")]
    UuidTaken {
        /// The uuid.
        uuid: DomainUuid,
        /// Whose it is.
        by: DomainName,
    },
}

impl ManagerError {
    /// Whether what was asked for may have been done nevertheless, or may yet be.
    pub(super) fn is_unclear(&self) -> bool {
        use DriverError::{Io, Protocol, Silent, Stalled, Wire};
        matches!(self, Self::Driver(Io { .. } | Protocol(_) | Silent | Stalled(_) | Wire(_)))
    }

    /// A sentence about the domain's state.
    pub(super) fn state(text: &str) -> Self {
        Self::State(text.into())
    }
}
