//! Packets in, answers out: decodes a call, asks whether the caller may, does it, encodes the answer.
//!
//! The only module that knows both libvirt's wire and svirt's domains. Reads no socket: `server` hands it packets
//! and takes the bytes away. Handlers reach domains only through `call::Call`, which checks permissions first.
#![forbid(unsafe_code)]

mod agent;
mod block;
mod call;
mod connect;
mod counters;
mod cpu;
mod dispatch;
mod display;
mod domain;
mod dump;
mod empty;
mod error;
mod event;
mod guest;
mod info;
mod interface;
mod keys;
mod lifecycle;
mod live;
mod measure;
mod messages;
mod metadata;
mod native;
mod needs;
mod network;
mod node;
mod pages;
mod pin;
mod plug;
mod pretend;
mod save;
mod session;
mod stats;
mod storage;
mod transfer;
mod tune;
mod tuning;
mod usage;
mod view;
mod volume;

pub use dispatch::{Console, Outcome, Port, StreamPacket};
pub use display::Relay;
pub use event::{Events, ViewEvents};
pub use node::{Node, READ};
pub use session::{Outbox, Session};
pub use transfer::{Piece, Sink, Source, Transfer, Way};
pub use view::{Kind, View};

use std::sync::Arc;

use crate::access::SharedPolicy;

/// What every call needs.
#[derive(Debug)]
pub struct Service {
    /// What a connection that is not open yet stands before.
    first: Arc<View>,
    others: Vec<Arc<View>>,
    policy: SharedPolicy,
    absent: Option<(Kind, String)>,
}

impl Service {
    /// Serves these views to whoever the policy lets in.
    #[must_use]
    pub fn new(first: View, others: Vec<View>, policy: SharedPolicy) -> Self {
        let others = others.into_iter().map(Arc::new).collect();
        Self { first: Arc::new(first), others, policy, absent: None }
    }

    /// Says why there is no view of a kind, to whoever opens it.
    #[must_use]
    pub fn without(mut self, kind: Kind, why: String) -> Self {
        self.absent = Some((kind, why));
        self
    }

    /// Why there is no view of this URI, where that is known.
    fn absent(&self, uri: &str) -> Option<&str> {
        self.absent.as_ref().filter(|(kind, _)| kind.uri() == uri).map(|(_, why)| why.as_str())
    }

    /// Every view.
    pub fn views(&self) -> impl Iterator<Item = &Arc<View>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// A connection is over: what was started to end with it does.
    pub fn connection_ended(&self, id: u64) {
        for view in self.views() {
            view.manager.connection_ended(id);
        }
    }
}
