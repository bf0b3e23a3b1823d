//! What stands behind one URI: a driver's name, a host, and domains of its own.

use std::sync::Arc;

use super::Node;
use crate::manager::Manager;
use crate::storage::Pools;

/// Which of libvirt's drivers a view is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `qemu:///session`
    Session,
    /// `qemu:///system`
    System,
    /// `test:///default`
    Test,
}

impl Kind {
    /// The URI that a client opens.
    #[must_use]
    pub fn uri(self) -> &'static str {
        match self {
            Self::Session => "qemu:///session",
            Self::System => "qemu:///system",
            Self::Test => "test:///default",
        }
    }

    /// The driver's name, as libvirt's clients compare it.
    pub(super) fn driver(self) -> &'static str {
        match self {
            Self::Session | Self::System => "QEMU",
            Self::Test => "TEST",
        }
    }

    /// What the driver says that its guests are.
    pub(super) fn os_type(self) -> &'static str {
        match self {
            Self::Session | Self::System => "hvm",
            Self::Test => "linux",
        }
    }
}

/// One view.
#[derive(Debug)]
pub struct View {
    pub(super) kind: Kind,
    pub(super) manager: Arc<Manager>,
    pub(super) node: Node,
    pub(super) pools: Arc<Pools>,
}

impl View {
    /// A host and the domains on it.
    #[must_use]
    pub fn new(kind: Kind, manager: Arc<Manager>, node: Node) -> Self {
        let pools = Arc::new(Pools::none(manager.settings().clone()));
        Self { kind, manager, node, pools }
    }

    /// With storage pools.
    #[must_use]
    pub fn with_pools(self, pools: Arc<Pools>) -> Self {
        Self { pools, ..self }
    }

    /// The URI that it is opened by.
    #[must_use]
    pub fn uri(&self) -> &'static str {
        self.kind.uri()
    }

    /// How many domains it has.
    #[must_use]
    pub fn domains(&self) -> usize {
        self.manager.all().len()
    }
}
