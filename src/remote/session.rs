//! One client: who it is, whether it has opened the connection, and what it wants to hear of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Kind, View};
use crate::access::Identity;
use crate::base::DomainUuid;

/// The most event registrations of one client.
const CALLBACKS_MAX: usize = 1024;
/// The most registrations for the same event of the same domain, or of all: each one is sent every such event.
/// Libraries of libvirt's register once.
const SAME_MAX: usize = 8;

/// Where bytes for one client go. Never waits.
pub trait Outbox: Send + Sync + std::fmt::Debug {
    /// Takes the bytes of one event.
    fn event(&self, packet: Vec<u8>);
}

/// One client.
#[derive(Debug)]
pub struct Session {
    /// Its number among all clients.
    pub id: u64,
    pub(super) identity: Identity,
    read_only_socket: bool,
    pub(super) outbox: Arc<dyn Outbox>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What it has opened, and whether read-only.
    opened: Option<(Arc<View>, bool)>,
    keepalive: bool,
    /// Whether the client has gone.
    gone: bool,
    callbacks: Vec<Callback>,
    last_callback: i32,
}

/// Something that a client wants to hear of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Callback {
    /// Its number; none where it is of the old form, which has no numbers.
    pub(super) id: Option<i32>,
    /// Which kind of event.
    pub(super) event: i32,
    /// Of which domain only.
    pub(super) domain: Option<DomainUuid>,
}

impl Session {
    /// A client that has connected and said nothing yet.
    #[must_use]
    pub fn new(id: u64, identity: Identity, read_only_socket: bool, outbox: Arc<dyn Outbox>) -> Self {
        Self { id, identity, read_only_socket, outbox, state: Mutex::default() }
    }

    /// Whose client it is.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.identity.uid
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a view; false where one is open already.
    pub(super) fn open(&self, view: Arc<View>, read_only: bool) -> bool {
        let mut state = self.state();
        let first = state.opened.is_none();
        state.opened.get_or_insert((view, read_only || self.read_only_socket));
        first
    }

    /// Whether it is open, and then whether read-only.
    pub(super) fn opened(&self) -> Option<bool> {
        self.state().opened.as_ref().map(|(_, read_only)| *read_only)
    }

    /// What it has opened.
    pub(super) fn view(&self) -> Option<Arc<View>> {
        self.state().opened.as_ref().map(|(view, _)| view.clone())
    }

    /// The client has gone; what still runs for it finds out.
    pub fn leave(&self) {
        self.state().gone = true;
    }

    /// Whether the client has gone.
    pub(super) fn has_gone(&self) -> bool {
        self.state().gone
    }

    /// The client answers pings.
    pub(super) fn answers_pings(&self) {
        self.state().keepalive = true;
    }

    /// Whether the client may be pinged.
    #[must_use]
    pub fn may_be_pinged(&self) -> bool {
        self.state().keepalive
    }

    /// Registers; the number, or `None` where there are too many.
    pub(super) fn register(&self, event: i32, domain: Option<DomainUuid>) -> Option<i32> {
        let mut state = self.state();
        let same = |callback: &&Callback| (callback.event, callback.domain) == (event, domain);
        let as_many = state.callbacks.iter().filter(same).count();
        if state.callbacks.len() >= CALLBACKS_MAX || (event >= 0 && as_many >= SAME_MAX) {
            return None;
        }
        let id = state.last_callback;
        state.last_callback = id.checked_add(1)?;
        state.callbacks.push(Callback { id: Some(id), event, domain });
        Some(id)
    }

    /// Registers in the old form, for a kind of event of every domain; false where that is so already.
    pub(super) fn register_old(&self, event: i32) -> bool {
        let mut state = self.state();
        let is_new = !state.callbacks.iter().any(|callback| (callback.id, callback.event) == (None, event));
        if is_new {
            state.callbacks.push(Callback { id: None, event, domain: None });
        }
        is_new
    }

    /// Takes a registration of the old form back; false where there is none.
    pub(super) fn deregister_old(&self, event: i32) -> bool {
        self.take_back(|callback| (callback.id, callback.event) == (None, event))
    }

    /// Takes a registration back; false where there is none.
    pub(super) fn deregister(&self, id: i32) -> bool {
        self.take_back(|callback| callback.id == Some(id))
    }

    fn take_back(&self, which: impl Fn(&Callback) -> bool) -> bool {
        let mut state = self.state();
        let before = state.callbacks.len();
        state.callbacks.retain(|callback| !which(callback));
        state.callbacks.len() < before
    }

    /// Registrations for one kind of event of one domain of a view, by their numbers.
    pub(super) fn interested(&self, kind: Kind, event: i32, domain: DomainUuid) -> Vec<Option<i32>> {
        let state = self.state();
        if state.opened.as_ref().is_none_or(|(view, _)| view.kind != kind) {
            return Vec::new();
        }
        let wants = |callback: &&Callback| {
            callback.event == event && callback.domain.is_none_or(|wanted| wanted == domain)
        };
        state.callbacks.iter().filter(wants).map(|callback| callback.id).collect()
    }
}
