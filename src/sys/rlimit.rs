//! Resource limits, soft and hard alike.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A resource that can be limited; values are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `RLIMIT_CORE`, bytes.
    Core,
    /// `RLIMIT_CPU`, seconds.
    Cpu,
    /// `RLIMIT_FSIZE`, bytes.
    Fsize,
    /// `RLIMIT_MEMLOCK`, bytes.
    Memlock,
    /// `RLIMIT_MSGQUEUE`, bytes.
    Msgqueue,
    /// `RLIMIT_NOFILE`, descriptors.
    Nofile,
    /// `RLIMIT_NPROC`, threads of the uid.
    Nproc,
}

impl Kind {
    fn resource(self) -> Resource {
        match self {
            Self::Core => Resource::Core,
            Self::Cpu => Resource::Cpu,
            Self::Fsize => Resource::Fsize,
            Self::Memlock => Resource::Memlock,
            Self::Msgqueue => Resource::Msgqueue,
            Self::Nofile => Resource::Nofile,
            Self::Nproc => Resource::Nproc,
        }
    }
}

/// The hard limit of this process; `None` is unlimited.
#[must_use]
pub fn hard(kind: Kind) -> Option<u64> {
    getrlimit(kind.resource()).maximum
}

/// Sets soft and hard limit of this process; `None` is unlimited.
pub fn set(kind: Kind, value: Option<u64>) -> io::Result<()> {
    Ok(setrlimit(kind.resource(), Rlimit { current: value, maximum: value })?)
}
