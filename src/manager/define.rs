//! Definitions come, change, and go.

use super::{Definition, Domain, Lifecycle, Manager, ManagerError};
use crate::base::{DomainName, DomainUuid};
use crate::conf::definition::Strictness;
use crate::driver::stores;
use crate::privsep::storage::Fate;
use crate::store::Change;

/// The most definitions: a list of more is no message of libvirt's.
const DEFINITIONS_MAX: u64 = 16_384;

/// What of a domain stays when its definition goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaves {
    /// Whether a managed save may not go with it.
    pub managed_save: bool,
    /// Whether its UEFI variables stay; nobody said where there are none.
    pub variables: Option<bool>,
    /// Whether its TPM's state stays; where nobody said, the definition does.
    pub tpm: Option<bool>,
}

impl Manager {
    /// Defines a domain, or defines it anew; what runs of it goes on as it was started. `owner` is the uid that handed
    /// it in, whose definitions are counted and weighed.
    pub fn define(&self, definition: Definition, owner: u32) -> Result<Domain, ManagerError> {
        let (uuid, name) = (definition.uuid, definition.name.clone());
        let _reserved = self.reserve(uuid, &name);
        let before = self.admit(uuid, &name)?;
        let anew = before.as_ref().is_some_and(|domain| domain.definition.is_some());
        let bytes = definition.texts().bytes();
        self.weigh(uuid, anew, owner, bytes)?;
        let autostart = before.is_some_and(|domain| domain.autostart);
        self.commit(vec![definition.to_keep(autostart, owner)])?;
        let kept = self.keep(definition, owner);
        let domain = {
            let mut table = self.table();
            let domain = table.entry(uuid, &name).clone();
            table.define(uuid, Some(kept)).cloned().unwrap_or(domain)
        };
        self.tell(&domain, if anew { Lifecycle::Updated } else { Lifecycle::Added });
        Ok(domain)
    }

    /// Reads a client's definition as it is kept, or started: with all that was left to be chosen. `uuid` is the one to
    /// use where the text has none.
    pub fn read(
        &self,
        xml: &str,
        uuid: DomainUuid,
        strictness: Strictness,
    ) -> Result<Definition, ManagerError> {
        Definition::read(xml, uuid, strictness, &self.choices)
    }

    /// Whether name and uuid are free, or the same domain's; that domain.
    pub(super) fn admit(&self, uuid: DomainUuid, name: &DomainName) -> Result<Option<Domain>, ManagerError> {
        let table = self.table();
        if let Some(domain) = table.by_uuid(uuid) {
            if domain.name == *name {
                return Ok(Some(domain));
            }
            return Err(ManagerError::UuidTaken { uuid, by: domain.name });
        }
        match table.by_name(name.as_str()) {
            None => Ok(None),
            Some(other) => Err(ManagerError::NameTaken { name: name.clone(), by: other.uuid }),
        }
    }

    /// Whether one more definition, or a longer one, is within the limits.
    pub(super) fn weigh(
        &self,
        uuid: DomainUuid,
        anew: bool,
        owner: u32,
        bytes: u64,
    ) -> Result<(), ManagerError> {
        let table = self.table();
        if !anew && table.definitions() >= DEFINITIONS_MAX {
            return Err(ManagerError::Limit(format!(
                "{DEFINITIONS_MAX} definitions are all that libvirt can list"
            )));
        }
        if owner == 0 {
            return Ok(());
        }
        let (count, held) = table.owned(owner, uuid);
        let daemon = &self.settings.daemon;
        let limit = |what: &str, setting: &str, limit: u64| {
            Err(ManagerError::Limit(format!("uid {owner} may keep {limit} {what} (daemon.{setting})")))
        };
        if count >= u64::from(daemon.definitions_per_user) {
            return limit("definitions", "definitions_per_user", daemon.definitions_per_user.into());
        }
        if held.saturating_add(bytes) > daemon.definition_bytes_per_user {
            let bytes = daemon.definition_bytes_per_user;
            return limit("bytes of definitions", "definition_bytes_per_user", bytes);
        }
        Ok(())
    }

    /// Forgets a definition; what runs goes on, and is gone when it ends.
    pub fn undefine(&self, uuid: DomainUuid, leaves: Leaves) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        // A save that goes on ends with an image that whoever has the uuid next would start from.
        let _job = self.change(&domain.job, "DomainUndefine")?;
        let _reserved = self.reserve(uuid, &domain.name);
        // It may have been defined anew before.
        let domain = self.by_uuid(uuid)?;
        if domain.definition.is_none() {
            return Err(ManagerError::state("cannot undefine transient domain"));
        }
        let managed_save = !leaves.managed_save;
        // Nothing goes before it is known that all of it may; and the definition goes last, since whoever has the uuid
        // next would have what stayed.
        self.check_variables(&domain, leaves.variables)?;
        let forgets = self.forgets_tpm(&domain, leaves.tpm)?;
        if forgets {
            self.tpm_state(uuid, Fate::CouldGo)?;
        }
        self.undefine_saved(uuid, managed_save)?;
        if forgets {
            self.tpm_state(uuid, Fate::Goes)?;
        }
        if leaves.variables == Some(false) {
            self.variables(&domain, Fate::Goes)?;
        }
        self.commit(vec![Change::Undefine(uuid)])?;
        let mut table = self.table();
        let Some(domain) = table.define(uuid, None) else { return Ok(()) };
        domain.autostart = false;
        let domain = domain.clone();
        table.tidy(uuid);
        drop(table);
        self.forget_job(uuid);
        self.tell(&domain, Lifecycle::Undefined);
        Ok(())
    }

    /// Whether somebody said what becomes of a domain's UEFI variables, where it has some, and whether that can be done.
    fn check_variables(&self, domain: &Domain, keep: Option<bool>) -> Result<(), ManagerError> {
        let fate = match keep {
            Some(true) => return Ok(()),
            Some(false) => Fate::CouldGo,
            None => Fate::Stays,
        };
        if self.variables(domain, fate)? && keep.is_none() {
            let text =
                "cannot undefine domain with nvram: say what becomes of it, with --nvram or --keep-nvram";
            return Err(ManagerError::state(text));
        }
        Ok(())
    }

    /// Whether a domain's TPM loses its state with the definition: as somebody said, or else unless the definition has it
    /// kept or the guest runs.
    fn forgets_tpm(&self, domain: &Domain, keep: Option<bool>) -> Result<bool, ManagerError> {
        Ok(match (keep, self.definition(domain)?.tree()?.tpm_persists()) {
            (Some(keep), _) => !keep,
            (None, Some(false)) => !domain.may_run(),
            (None, _) => false,
        })
    }

    /// Whether a domain's TPM has a state, or had one before it was removed.
    fn tpm_state(&self, uuid: DomainUuid, fate: Fate) -> Result<bool, ManagerError> {
        match self.core.labeller(&self.settings) {
            Ok(mut labeller) => Ok(labeller.tpm_state(uuid, fate)?),
            // Where domains are nothing but memory.
            Err(ManagerError::Unsupported(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether UEFI variables of a domain's own are there, or were before they were removed.
    fn variables(&self, domain: &Domain, fate: Fate) -> Result<bool, ManagerError> {
        let tree = self.definition(domain)?.tree()?;
        let mut labeller = match self.core.labeller(&self.settings) {
            Ok(labeller) => labeller,
            // Where domains are nothing but memory.
            Err(ManagerError::Unsupported(_)) => return Ok(false),
            // One that has none need not wait for somebody who could say so.
            Err(_) if !tree.has_uefi() => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut there = false;
        for path in stores(tree.nvram(), domain.uuid, &self.settings) {
            there |= labeller.variables(path, domain.uuid, fate)?;
        }
        Ok(there)
    }

    /// Sets whether a persistent domain is started when the host is.
    pub fn set_autostart(&self, uuid: DomainUuid, autostart: bool) -> Result<(), ManagerError> {
        let name = self.by_uuid(uuid)?.name;
        let _reserved = self.reserve(uuid, &name);
        if self.by_uuid(uuid)?.definition.is_none() {
            return Err(ManagerError::state("cannot set autostart for transient domain"));
        }
        self.commit(vec![Change::Autostart(uuid, autostart)])?;
        if let Some(domain) = self.table().get(uuid) {
            domain.autostart = autostart;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conf::facts::HostFacts;
    use crate::manager::Memory;
    use crate::manager::testing::Deaf;
    use crate::settings::Settings;

    #[test]
    fn an_undefinition_waits_for_a_save_that_goes_on() {
        const UUID: &str = "1b4e28ba-2fa1-4d2e-883f-0016d3cca427";
        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, Box::new(Memory), None, Arc::new(Deaf), |_, _| {});
        let xml = format!(
            "<domain type='test'><name>a</name><uuid>{UUID}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"
        );
        let uuid = DomainUuid(UUID.parse().unwrap());
        let read = manager.read(&xml, uuid, Strictness::Strict).unwrap();
        let job = manager.define(read, 0).unwrap().job;
        std::thread::scope(|scope| {
            let held = manager.change(&job, "DomainSave").unwrap();
            let (tell, told) = std::sync::mpsc::channel();
            let manager = &manager;
            scope.spawn(move || tell.send(manager.undefine(uuid, Leaves::default())).unwrap());
            // It cannot be seen to wait; what it would do without that is done long before.
            assert!(told.recv_timeout(std::time::Duration::from_millis(300)).is_err());
            assert!(manager.by_uuid(uuid).is_ok());
            drop(held);
            told.recv().unwrap().unwrap();
        });
        assert!(manager.by_uuid(uuid).is_err());
    }

    #[test]
    fn a_name_and_a_uuid_belong_to_one_domain_however_they_are_written() {
        const UUID: &str = "1b4e28ba-2fa1-4d2e-883f-0016d3cca427";
        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, Box::new(Memory), None, Arc::new(Deaf), |_, _| {});
        let define = |name: &str, uuid: &str| {
            let xml = format!(
                "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory><os><type>hvm</type></os></domain>"
            );
            let drawn = DomainUuid(uuid::Uuid::from_u128(9));
            let read = manager.read(&xml, drawn, Strictness::Strict)?;
            manager.define(read, 0).map(|domain| domain.uuid.to_string())
        };
        assert_eq!(define("admin", UUID).unwrap(), UUID);
        for same in [UUID.to_uppercase(), UUID.replace('-', ""), format!(" {UUID}\n")] {
            assert_eq!(define("admin", &same).unwrap(), UUID, "{same}");
            // Neither a name that only looks the same, nor one in other case, may take its uuid.
            for other in ["\u{430}dmin", "Admin", "admin\u{200b}", "b"] {
                let error = define(other, &same).unwrap_err();
                assert!(matches!(error, ManagerError::UuidTaken { .. }), "{other} {same}: {error}");
            }
        }
        let other = "2b4e28ba-2fa1-4d2e-883f-0016d3cca427";
        assert!(matches!(define("admin", other).unwrap_err(), ManagerError::NameTaken { .. }));
        assert_eq!(define("\u{430}dmin", other).unwrap(), other);
        assert_eq!(manager.by_name("admin").unwrap().uuid.to_string(), UUID);
    }
}
