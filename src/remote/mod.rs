//! Packets in, answers out: decodes a call, asks whether the caller may, does it, encodes the answer.
//!
//! The only module that knows both libvirt's wire and svirt's domains. Reads no socket: `server` hands it packets
//! and takes the bytes away. Handlers reach domains only through `call::Call`, which checks permissions first.
#![forbid(unsafe_code)]

mod call;
mod connect;
mod dispatch;
mod domain;
mod empty;
mod error;
mod event;
mod lifecycle;
mod needs;
mod node;
mod session;
mod stats;

pub use dispatch::{Console, Outcome, StreamPacket};
pub use event::Events;
pub use node::{Node, READ};
pub use session::{Outbox, Session};

use std::sync::Arc;

use crate::access::Policy;
use crate::manager::Manager;

/// What every call needs.
#[derive(Debug)]
pub struct Service {
    manager: Arc<Manager>,
    policy: Policy,
    node: Node,
}

impl Service {
    /// Serves these domains to whoever the policy lets in.
    #[must_use]
    pub fn new(manager: Arc<Manager>, policy: Policy, node: Node) -> Self {
        Self { manager, policy, node }
    }
}
