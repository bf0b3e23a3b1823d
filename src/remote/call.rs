//! One call: its arguments, and the only way from it to a domain, which asks for permission first.

use std::sync::Arc;
use std::time::Instant;

use super::domain;
use super::error::{Code, Failure, From};
use super::needs::{Need, needs};
use super::session::Session;
use super::{Kind, Node, Service, View};
use crate::access::{Object, Permission, Subject, Verb};
use crate::base::{DomainName, DomainUuid, Files};
use crate::conf::definition::Strictness;
use crate::conf::identity;
use crate::driver::{self, DriverError};
use crate::manager::{Definition, Domain, Manager, ManagerError, SavedDomain, StartFlags};
use crate::rpc::{self, Decode, Decoder, Encode, Encoder, Procedure};

/// One call of the remote program.
pub(super) struct Call<'a> {
    service: &'a Service,
    view: Arc<View>,
    pub(super) session: &'a Session,
    pub(super) procedure: Procedure,
    payload: &'a [u8],
    /// Whether it is on a thread that may wait.
    waits: bool,
}

/// What a handler answers: the encoded results.
pub(super) type Answer = Result<Vec<u8>, Failure>;

/// A domain on which this call's permissions were checked.
pub(super) struct Target<'a> {
    manager: &'a Manager,
    /// When the call came; a guest's agent has one time for all that a call asks it.
    pub(super) since: Instant,
    /// The domain, as it was when the call came.
    pub(super) domain: Domain,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        service: &'a Service,
        session: &'a Session,
        procedure: Procedure,
        payload: &'a [u8],
    ) -> Self {
        let view = session.view().unwrap_or_else(|| service.first.clone());
        Self { service, view, session, procedure, payload, waits: false }
    }

    /// The same on a thread that may wait.
    pub(super) fn waiting(self) -> Self {
        Self { waits: true, ..self }
    }

    /// The arguments. What stands behind them is ignored, as libvirt ignores it.
    pub(super) fn arguments<T: Decode<'a>>(&self) -> Result<T, Failure> {
        Ok(Decoder::new(self.payload).take()?)
    }

    /// The results.
    pub(super) fn answer(&self, results: &impl Encode) -> Answer {
        let mut to = Encoder::new();
        to.put(results).map_err(|error| {
            Failure::new(Code::Rpc, From::Rpc, format!("the answer does not fit a message: {error}"))
        })?;
        Ok(to.into_bytes())
    }

    /// Refuses flags other than these.
    pub(super) fn only_flags(&self, flags: u32, known: u32) -> Result<(), Failure> {
        match flags & !known {
            0 => Ok(()),
            unknown => Err(Failure::flags(unknown, self.procedure)),
        }
    }

    /// The host.
    pub(super) fn node(&self) -> &Node {
        &self.view.node
    }

    /// What is served.
    pub(super) fn service(&self) -> &'a Service {
        self.service
    }

    /// Which view the client has opened.
    pub(super) fn kind(&self) -> Kind {
        self.view.kind
    }

    /// What is known of domains.
    pub(super) fn manager(&self) -> &Manager {
        &self.view.manager
    }

    /// The same, for what goes on after the call was taken.
    pub(super) fn shared_manager(&self) -> Arc<Manager> {
        self.view.manager.clone()
    }

    /// What the host was when the daemon started.
    pub(super) fn facts(&self) -> &crate::conf::facts::HostFacts {
        self.view.manager.facts()
    }

    /// The configuration.
    pub(super) fn settings(&self) -> &crate::settings::Settings {
        self.view.manager.settings()
    }

    /// Whether the caller may do something to a domain.
    fn may(&self, permission: Permission, domain: Option<(&DomainName, DomainUuid)>) -> bool {
        let subject = domain.map(|(name, uuid)| Subject { name: name.as_str(), uuid });
        self.service.policy.allows(&self.session.identity, permission, subject)
    }

    /// What this call needs on objects of one kind, with these flags.
    fn needed(&self, connect: bool, flags: u32) -> impl Iterator<Item = Permission> {
        let of_kind = move |need: &&Need| (need.permission.object == Object::Connect) == connect;
        needs(self.procedure)
            .iter()
            .filter(of_kind)
            .filter(move |need| need.when.holds(flags))
            .map(|n| n.permission)
    }

    fn denied(&self, permission: Permission) -> Failure {
        let uid = self.session.identity.uid;
        Failure::new(
            Code::AccessDenied,
            From::Access,
            format!(
                "no rule gives uid {uid} the permission {permission}; an administrator can add one to the rules' file"
            ),
        )
    }

    /// Checks what the call needs of the connection itself.
    pub(super) fn permit_connect(&self) -> Result<(), Failure> {
        match self.needed(true, 0).find(|permission| !self.may(*permission, None)) {
            Some(permission) => Err(self.denied(permission)),
            None => Ok(()),
        }
    }

    /// Checks what the call needs of a domain once it has another name.
    pub(super) fn permit_name(&self, name: &DomainName, uuid: DomainUuid) -> Result<(), Failure> {
        match self.needed(false, 0).find(|permission| !self.may(*permission, Some((name, uuid)))) {
            Some(permission) => Err(self.denied(permission)),
            None => Ok(()),
        }
    }

    /// Checks what the call needs of one domain; one that the caller may not even see does not exist for it.
    fn permit(&self, domain: &Domain, flags: u32, unseen: impl FnOnce() -> Failure) -> Result<(), Failure> {
        let on = Some((&domain.name, domain.uuid));
        if !self.may(Permission { object: Object::Domain, verb: Verb::Getattr }, on) {
            return Err(unseen());
        }
        self.read_only(flags)?;
        match self.needed(false, flags).find(|permission| !self.may(*permission, on)) {
            Some(permission) => Err(self.denied(permission)),
            None => Ok(()),
        }
    }

    /// The storage pools.
    pub(super) fn pools(&self) -> &crate::storage::Pools {
        &self.view.pools
    }

    /// The same, for what goes on after the call was taken.
    pub(super) fn shared_pools(&self) -> Arc<crate::storage::Pools> {
        self.view.pools.clone()
    }

    /// Checks what the call needs of something that is no domain; what the caller may not see does not exist for it.
    pub(super) fn permit_on(
        &self,
        object: Object,
        flags: u32,
        unseen: impl FnOnce() -> Failure,
    ) -> Result<(), Failure> {
        if !self.sees(object) {
            return Err(unseen());
        }
        self.permit_new(flags)
    }

    /// Checks what the call needs in order to make something that is no domain.
    pub(super) fn permit_new(&self, flags: u32) -> Result<(), Failure> {
        self.read_only(flags)?;
        match self.needed(false, flags).find(|permission| !self.may(*permission, None)) {
            Some(permission) => Err(self.denied(permission)),
            None => Ok(()),
        }
    }

    /// Whether the caller may know of objects of a kind.
    pub(super) fn sees(&self, object: Object) -> bool {
        self.may(Permission { object, verb: Verb::Getattr }, None)
    }

    /// Refuses what a read-only connection may not do with these flags.
    pub(super) fn read_only(&self, flags: u32) -> Result<(), Failure> {
        let read_only = self.session.opened().unwrap_or(true);
        if read_only && !self.procedure.read_only().allows(flags) {
            return Err(Failure::read_only(self.procedure));
        }
        Ok(())
    }

    /// The domain of a reference, for a call with these flags.
    pub(super) fn domain(&self, reference: &rpc::Domain<'_>, flags: u32) -> Result<Target<'_>, Failure> {
        let uuid = DomainUuid(uuid::Uuid::from_bytes(reference.uuid));
        let missing = || Failure::no_domain(uuid, reference.name);
        let domain = self.view.manager.by_uuid(uuid).map_err(|_| missing())?;
        self.permit(&domain, flags, missing)?;
        let domain = if self.view.manager.is_left(uuid) && !domain::says_what_is_left(self.procedure) {
            self.view.manager.settle(uuid, self.waits)?;
            let domain = self.view.manager.by_uuid(uuid).map_err(|_| missing())?;
            // Another one may have its uuid by now.
            self.permit(&domain, flags, missing)?;
            domain
        } else {
            domain
        };
        Ok(Target { manager: &self.view.manager, since: Instant::now(), domain })
    }

    /// The domain that is looked up.
    pub(super) fn look_up(
        &self,
        find: impl FnOnce(&Manager) -> Result<Domain, crate::manager::ManagerError>,
        unseen: impl FnOnce() -> crate::manager::ManagerError,
    ) -> Result<Domain, Failure> {
        let domain = find(&self.view.manager)?;
        self.permit(&domain, 0, || unseen().into())?;
        Ok(domain)
    }

    /// Every domain on which the caller has a permission.
    pub(super) fn visible(&self, verb: Verb) -> Vec<Domain> {
        let permission = Permission { object: Object::Domain, verb };
        let mut all = self.view.manager.all();
        all.retain(|domain| self.may(permission, Some((&domain.name, domain.uuid))));
        all
    }

    /// Reads a definition, once it is known that the caller may hand in one of its name.
    fn definition(&self, xml: &str, flags: u32, strict: bool) -> Result<Definition, Failure> {
        let found = identity::read(xml).map_err(|text| Failure::new(Code::Xml, From::Domain, text))?;
        let manager = &self.view.manager;
        // A definition without a uuid is that of the domain with its name, where there is one.
        let uuid = found.uuid.or_else(|| manager.by_name(found.name.as_str()).ok().map(|domain| domain.uuid));
        let uuid = uuid.unwrap_or_else(crate::manager::draw_uuid);
        let on = Some((&found.name, uuid));
        if let Some(permission) = self.needed(false, flags).find(|permission| !self.may(*permission, on)) {
            return Err(self.denied(permission));
        }
        let strictness = if strict { Strictness::Strict } else { Strictness::Lenient };
        let (definition, files) =
            (manager.read(xml, uuid, strictness)?, self.files(&found.name, uuid, flags));
        // Another domain's uuid vouches for nothing.
        let before = manager.by_uuid(uuid).ok().filter(|domain| domain.name == found.name);
        let before = before.filter(|domain| !files.is_all() && domain.definition.is_some());
        let before = before.map(|domain| manager.definition(&domain)).transpose()?;
        Ok(manager.hold(definition, before.as_deref(), &files)?)
    }

    /// What the definition of a domain may name of the host, as this call hands it in: each permission that the call
    /// needs must give it.
    pub(super) fn files(&self, name: &DomainName, uuid: DomainUuid, flags: u32) -> Files {
        let (identity, policy) = (&self.session.identity, &self.service.policy);
        let subject = Subject { name: name.as_str(), uuid };
        let given = self.needed(false, flags).map(|permission| policy.files(identity, permission, subject));
        given.fold(Files::ALL, Files::and)
    }

    /// The saved domain in a file, once it is known that the caller may do this to it. Whoever may not do it to every
    /// domain learns from a refusal neither whether the file is there nor what is in it.
    pub(super) fn saved(&self, path: &str, flags: u32) -> Result<SavedDomain, Failure> {
        self.read_only(flags)?;
        let (identity, policy) = (&self.session.identity, &self.service.policy);
        // Nobody is asked to look for somebody who may not do it to any domain.
        if let Some(none) = self.needed(false, flags).find(|one| !policy.allows_somewhere(identity, *one)) {
            return Err(self.denied(none));
        }
        let found = self.settings().save.holds(path).then(|| self.view.manager.saved_at(path));
        let (saved, failure) = match found {
            Some(Ok(saved)) => (Some(saved), None),
            Some(Err(error)) => (None, Some(error)),
            None => {
                (None, Some(ManagerError::Argument(format!("'{path}' lies in no directory of save.places"))))
            }
        };
        let found =
            saved.as_ref().and_then(|saved| Some((identity::read(saved.xml()).ok()?.name, saved.uuid)));
        let on = found.as_ref().map(|(name, uuid)| (name, *uuid));
        if self.needed(false, flags).any(|permission| !self.may(permission, on)) {
            return Err(self.denied_file(path));
        }
        match (saved, failure) {
            (Some(saved), _) => Ok(saved),
            (None, error) => Err(error.map_or_else(|| self.denied_file(path), Into::into)),
        }
    }

    fn denied_file(&self, path: &str) -> Failure {
        let uid = self.session.identity.uid;
        let text = format!("'{path}' is no saved domain with which a rule allows uid {uid} to do this");
        Failure::new(Code::AccessDenied, From::Access, text)
    }

    /// Defines a domain.
    pub(super) fn define(&self, xml: &str, flags: u32, strict: bool) -> Result<Domain, Failure> {
        let definition = self.definition(xml, flags, strict)?;
        let owner = self.session.identity.uid;
        self.view.manager.define(definition, owner).map_err(|error| self.unseen(error))
    }

    /// Starts a domain from a definition.
    pub(super) fn create(
        &self,
        xml: &str,
        flags: u32,
        strict: bool,
        start: StartFlags,
    ) -> Result<Domain, Failure> {
        let definition = self.definition(xml, flags, strict)?;
        let drawn = identity::read(xml).is_ok_and(|found| found.uuid.is_none())
            && self.view.manager.by_uuid(definition.uuid).is_err();
        if drawn && let Some(store) = definition.nvram()? {
            return Err(ManagerError::from(DriverError::from(driver::without_uuid(&store))).into());
        }
        self.view.manager.start_transient(definition, start).map_err(|error| self.unseen(error))
    }

    /// What a handler answers, or an error that names no domain that the caller may not see.
    pub(super) fn run(&self, handler: fn(&Self) -> Answer) -> Answer {
        handler(self).map_err(|failure| self.told(failure))
    }

    /// An error as the caller may know it: in full, where the caller sees the domain that it names.
    pub(super) fn told(&self, failure: Failure) -> Failure {
        match &failure.hides {
            Some(hidden) if self.sees_domain(hidden.holder) => Failure { hides: None, ..failure },
            _ => failure,
        }
    }

    fn sees_domain(&self, uuid: DomainUuid) -> bool {
        let getattr = Permission { object: Object::Domain, verb: Verb::Getattr };
        match self.view.manager.by_uuid(uuid) {
            Ok(other) => self.may(getattr, Some((&other.name, other.uuid))),
            // One that is not known here is seen by whoever sees every domain.
            Err(_) => self.may(getattr, None),
        }
    }

    /// The error, without naming a domain that the caller may not see.
    pub(super) fn unseen(&self, error: ManagerError) -> Failure {
        let (by, neutral) = match &error {
            ManagerError::NameTaken { name, by } => (*by, format!("the name '{name}' is in use")),
            ManagerError::UuidTaken { uuid, .. } => (*uuid, format!("the uuid {uuid} is in use")),
            _ => return error.into(),
        };
        if self.sees_domain(by) {
            return error.into();
        }
        Failure::new(Code::OperationFailed, From::Qemu, neutral)
    }
}

impl Target<'_> {
    /// The manager, and which domain of it.
    pub(super) fn parts(&self) -> (&Manager, DomainUuid) {
        (self.manager, self.domain.uuid)
    }
}

/// A domain as a reply refers to it.
pub(super) fn reference(domain: &Domain) -> rpc::Domain<'_> {
    rpc::Domain { name: domain.name.as_str(), uuid: domain.uuid.0.into_bytes(), id: domain.id() }
}
