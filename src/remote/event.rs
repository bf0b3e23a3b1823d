//! Who hears of what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Kind;
use super::call::{Answer, Call};
use super::error::{Code, Failure, From};
use super::messages;
use super::session::Session;
use crate::access::{Object, Permission, SharedPolicy, Subject, Verb};
use crate::base::DomainUuid;
use crate::manager::{Event, Sink};
use crate::rpc::{self, Header, Packet, Procedure, Program, XdrError};
use crate::storage;

/// The kinds of domain events that there are, up to libvirt 11.
const EVENTS: i32 = 28;
/// The serial that stock daemons put into events.
const SERIAL: u32 = 1;

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::ConnectDomainEventCallbackDeregisterAny => deregister,
        P::ConnectDomainEventCallbackRegisterAny => register,
        P::ConnectDomainEventDeregister => |call| old(call, LIFECYCLE, Session::deregister_old),
        P::ConnectDomainEventDeregisterAny => |call| old(call, call.arguments()?, Session::deregister_old),
        P::ConnectDomainEventRegister => |call| old(call, LIFECYCLE, Session::register_old),
        P::ConnectDomainEventRegisterAny => |call| old(call, call.arguments()?, Session::register_old),
        P::ConnectStoragePoolEventRegisterAny => register_pool,
        // Networks, node devices and secrets: nothing ever happens to what there is none of.
        P::ConnectNetworkEventRegisterAny
        | P::ConnectNodeDeviceEventRegisterAny
        | P::ConnectSecretEventRegisterAny => register_silent,
        P::ConnectNetworkEventDeregisterAny
        | P::ConnectStoragePoolEventDeregisterAny
        | P::ConnectNodeDeviceEventDeregisterAny
        | P::ConnectSecretEventDeregisterAny => deregister,
        _ => return None,
    })
}

fn register(call: &Call<'_>) -> Answer {
    let (event, domain): (i32, Option<rpc::Domain<'_>>) = call.arguments()?;
    if !(0..EVENTS).contains(&event) {
        return Err(Failure::new(Code::Internal, From::Rpc, format!("unsupported event ID {event}")));
    }
    let domain = domain.map(|reference| call.domain(&reference, 0)).transpose()?;
    number(call, call.session.register(event, domain.map(|target| target.domain.uuid)))
}

fn register_silent(call: &Call<'_>) -> Answer {
    let event: i32 = call.arguments()?;
    if !(0..=1).contains(&event) {
        return Err(Failure::new(Code::Internal, From::Rpc, format!("unsupported event ID {event}")));
    }
    number(call, call.session.register(-1, None))
}

/// virDomainEventID: what the oldest calls are about, and how many kinds the old ones know.
const LIFECYCLE: i32 = 0;
const OLD_EVENTS: i32 = 16;

/// Registrations of the old form: one for each kind of event, of every domain, without a number.
fn old(call: &Call<'_>, event: i32, change: fn(&Session, i32) -> bool) -> Answer {
    use Procedure as P;
    let wrong = |text| Err(Failure::new(Code::Internal, From::Rpc, text));
    if !(0..OLD_EVENTS).contains(&event) {
        return wrong(format!("unsupported event ID {event}"));
    }
    let registers =
        matches!(call.procedure, P::ConnectDomainEventRegister | P::ConnectDomainEventRegisterAny);
    if !change(call.session, event) {
        let state = if registers { "already" } else { "not" };
        return wrong(format!("domain event {event} {state} registered"));
    }
    match call.procedure {
        // libvirt's daemon leaves the word that these have at 0.
        P::ConnectDomainEventRegister | P::ConnectDomainEventDeregister => call.answer(&0_i32),
        _ => call.answer(&()),
    }
}

/// Kinds of events of pools are numbered apart from those of domains.
const POOL_EVENTS: i32 = 1000;
const POOL_LIFECYCLE: i32 = 0;
const POOL_REFRESH: i32 = 1;

fn register_pool(call: &Call<'_>) -> Answer {
    let (event, pool): (i32, Option<(&str, [u8; 16])>) = call.arguments()?;
    if !(0..=POOL_REFRESH).contains(&event) {
        return Err(Failure::new(Code::Internal, From::Rpc, format!("unsupported event ID {event}")));
    }
    let pool = pool.map(|(_, uuid)| DomainUuid(uuid::Uuid::from_bytes(uuid)));
    number(call, call.session.register(POOL_EVENTS + event, pool))
}

fn number(call: &Call<'_>, id: Option<i32>) -> Answer {
    let many = || Failure::new(Code::OperationFailed, From::Rpc, "too many event registrations");
    call.answer(&id.ok_or_else(many)?)
}

fn deregister(call: &Call<'_>) -> Answer {
    let id: i32 = call.arguments()?;
    if !call.session.deregister(id) {
        return Err(Failure::new(Code::Internal, From::Rpc, format!("callback {id} not registered")));
    }
    call.answer(&())
}

/// Passes what happens on to every client that wants it and may know of it.
#[derive(Debug)]
pub struct Events {
    policy: SharedPolicy,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
}

impl Events {
    /// Nobody listens yet.
    #[must_use]
    pub fn new(policy: SharedPolicy) -> Self {
        Self { policy, sessions: Mutex::default() }
    }

    /// A client has come.
    pub fn add(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.insert(session.id, session.clone());
    }

    /// A client has gone.
    pub fn remove(&self, id: u64) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn may_know(&self, session: &Session, name: &str, uuid: DomainUuid) -> bool {
        let permission = Permission { object: Object::Domain, verb: Verb::Getattr };
        self.policy.allows(&session.identity, permission, Some(Subject { name, uuid }))
    }
}

/// Passes on what happens in one view.
#[derive(Debug)]
pub struct ViewEvents(pub Arc<Events>, pub Kind);

impl Sink for ViewEvents {
    fn tell(&self, event: &Event) {
        self.0.tell(self.1, event);
    }
}

impl Events {
    fn tell(&self, kind: Kind, event: &Event) {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let domain = &event.domain;
        for message in messages::of(&event.what) {
            for session in sessions.values() {
                let callbacks = session.interested(kind, message.event, domain.uuid);
                if callbacks.is_empty() || !self.may_know(session, domain.name.as_str(), domain.uuid) {
                    continue;
                }
                for callback in callbacks {
                    let Some(procedure) = message.procedure(callback) else { continue };
                    let header = Header::event(Program::Remote, procedure.number(), SERIAL);
                    let body = message.body(callback, domain);
                    if let Ok(packet) =
                        body.and_then(|body| Packet::raw(&header, &body).ok().ok_or(XdrError::Value))
                    {
                        session.outbox.event(packet);
                    }
                }
            }
        }
    }
}

impl storage::Sink for ViewEvents {
    fn tell(&self, event: &storage::Event) {
        self.0.tell_pool(self.1, event);
    }
}

impl Events {
    fn tell_pool(&self, kind: Kind, event: &storage::Event) {
        let permission = Permission { object: Object::StoragePool, verb: Verb::Getattr };
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let step = event.what.number();
        let (which, procedure) = match step {
            Some(_) => (POOL_LIFECYCLE, Procedure::StoragePoolEventLifecycle),
            None => (POOL_REFRESH, Procedure::StoragePoolEventRefresh),
        };
        let header = Header::event(Program::Remote, procedure.number(), SERIAL);
        let pool = (event.name.as_str(), event.uuid.into_bytes());
        for session in sessions.values() {
            let callbacks = session.interested(kind, POOL_EVENTS + which, DomainUuid(event.uuid));
            if callbacks.is_empty() || !self.policy.allows(&session.identity, permission, None) {
                continue;
            }
            for callback in callbacks.into_iter().flatten() {
                let packet = match step {
                    Some(step) => Packet::bytes(&header, &(callback, pool, step, 0_i32)),
                    None => Packet::bytes(&header, &(callback, pool)),
                };
                if let Ok(packet) = packet {
                    session.outbox.event(packet);
                }
            }
        }
    }
}
