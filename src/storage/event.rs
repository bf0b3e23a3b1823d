//! What happens to pools, as it is told to whoever listens.

use uuid::Uuid;

/// Something happened to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// What.
    pub what: Happened,
}

/// What happens to pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Its directory was made.
    Created,
    /// It is defined.
    Defined,
    /// Its directory was removed.
    Deleted,
    /// Its volumes were looked at again.
    Refreshed,
    /// It is active.
    Started,
    /// It is active no longer.
    Stopped,
    /// It is defined no longer.
    Undefined,
}

impl Happened {
    /// libvirt's number among the steps of a pool's life; a refresh is none.
    #[must_use]
    pub fn number(self) -> Option<i32> {
        match self {
            Self::Defined => Some(0),
            Self::Undefined => Some(1),
            Self::Started => Some(2),
            Self::Stopped => Some(3),
            Self::Created => Some(4),
            Self::Deleted => Some(5),
            Self::Refreshed => None,
        }
    }
}

/// Whoever listens. Must not wait.
pub trait Sink: Send + Sync {
    /// Something happened.
    fn tell(&self, event: &Event);
}
