//! Title, description and other programs' elements of a domain, and its name.

use super::event::What;
use super::{Definition, Domain, Lifecycle, Manager, ManagerError};
use crate::base::{DomainName, DomainUuid};
use crate::conf::definition::{Definition as Tree, MetadataError, SVIRT_NAMESPACE};

/// One thing of a domain that says something about it and changes nothing of what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata<'a> {
    /// `<description>`
    Description,
    /// The element of this namespace in `<metadata>`.
    Element(&'a str),
    /// `<title>`
    Title,
}

impl Metadata<'_> {
    fn read(self, definition: &Definition) -> Result<Option<String>, ManagerError> {
        Ok(match self {
            Self::Description => definition.description(),
            Self::Element(namespace) => definition.tree()?.metadata_element(namespace),
            Self::Title => definition.title(),
        })
    }

    fn write(self, tree: &mut Tree, key: &str, text: Option<&str>) -> Result<(), ManagerError> {
        match self {
            Self::Description => tree.set_description(text),
            Self::Element(namespace) => {
                let element = text.map(|text| (key, text));
                tree.set_metadata(namespace, element).map_err(|error| match error {
                    MetadataError::Xml(_) => ManagerError::Malformed(error.to_string()),
                    _ => ManagerError::Argument(error.to_string()),
                })?;
            }
            Self::Title => tree.set_title(text),
        }
        Ok(())
    }

    fn event(self) -> What {
        let (kind, namespace) = match self {
            Self::Description => (0, None),
            Self::Title => (1, None),
            Self::Element(namespace) => (2, Some(namespace.to_owned())),
        };
        What::Metadata { kind, namespace }
    }
}

impl Manager {
    /// The whole definition of what runs, or of what is kept.
    pub fn tree(&self, domain: &Domain, kept: bool) -> Result<Tree, ManagerError> {
        if kept { self.definition(domain)?.tree() } else { self.current(domain)?.tree() }
    }

    /// Reads it of what runs, or of what is kept.
    pub fn metadata(
        &self,
        domain: &Domain,
        kept: bool,
        what: Metadata<'_>,
    ) -> Result<Option<String>, ManagerError> {
        what.read(&*if kept { self.definition(domain)? } else { self.current(domain)? })
    }

    /// Sets it, or removes it, of what runs and of what is kept. `key` is the prefix of an element.
    pub fn set_metadata(
        &self,
        uuid: DomainUuid,
        (live, config): (bool, bool),
        what: Metadata<'_>,
        key: &str,
        text: Option<&str>,
    ) -> Result<(), ManagerError> {
        if live && what == Metadata::Element(SVIRT_NAMESPACE) {
            let text = "svirt's own facts are followed at a start; use --config alone";
            return Err(ManagerError::state(text));
        }
        // Nothing is plugged in meanwhile.
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainSetMetadata")?;
        // What cannot be done to the one is not done to the other either.
        let edit = |tree: &mut Tree| what.write(tree, key, text);
        let edited = if live { Some(self.edited_live(uuid, edit)?) } else { None };
        if config {
            self.edit(uuid, edit)?;
        }
        if let Some(edited) = edited {
            self.put_live(uuid, edited)?;
        }
        if let Ok(domain) = self.by_uuid(uuid) {
            self.tell_what(&domain, what.event());
        }
        Ok(())
    }

    /// Gives a persistent domain that does not run another name.
    pub fn rename(&self, uuid: DomainUuid, name: &DomainName) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainRename")?;
        let _reserved = self.reserve(uuid, name);
        let before = self.by_uuid(uuid)?;
        let Some(kept) = &before.definition else {
            return Err(ManagerError::state("cannot rename a transient domain"));
        };
        if before.live.is_some() {
            return Err(ManagerError::state("cannot rename active domain"));
        }
        if self.has_managed_save(uuid)? {
            return Err(ManagerError::state("domain with a managed saved state can't be renamed"));
        }
        if before.name == *name {
            return Err(ManagerError::state("Can't rename domain to itself"));
        }
        if self.by_name(name.as_str()).is_ok() {
            return Err(ManagerError::state(&format!("domain with name '{name}' already exists")));
        }
        let owner = kept.owner;
        let mut tree = self.definition(&before)?.tree()?;
        tree.rename(name.clone());
        let definition =
            Definition::kept(&tree.format(super::definition::SECURE))?.with_files(kept.files.clone());
        self.weigh(uuid, true, owner, definition.texts().bytes())?;
        self.commit(vec![definition.to_keep(before.autostart, owner)])?;
        let kept = self.keep(definition, owner);
        let after = self.table().rename(uuid, name, kept);
        self.tell(&before, Lifecycle::RenamedFrom);
        if let Some(after) = after {
            self.tell(&after, Lifecycle::RenamedTo);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::conf::definition::Strictness;
    use crate::conf::facts::HostFacts;
    use crate::manager::{Event, Memory, Sink, StartFlags};
    use crate::settings::Settings;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(String, What)>>);

    impl Sink for Heard {
        fn tell(&self, event: &Event) {
            self.0.lock().unwrap().push((event.domain.name.to_string(), event.what.clone()));
        }
    }

    fn manager() -> (Manager, Arc<Heard>, DomainUuid) {
        let heard = Arc::new(Heard::default());
        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, Box::new(Memory), None, heard.clone(), |_, _| {});
        let xml = "<domain type='test'><name>a</name><memory>1024</memory><os><type>hvm</type></os></domain>";
        let uuid = DomainUuid(uuid::Uuid::from_u128(9));
        let read = manager.read(xml, uuid, Strictness::Strict).unwrap();
        manager.define(read, 0).unwrap();
        (manager, heard, uuid)
    }

    #[test]
    fn what_runs_and_what_is_kept_are_two() {
        let (manager, heard, uuid) = manager();
        manager.start(uuid, StartFlags::default()).unwrap();
        let read = |kept| manager.metadata(&manager.by_uuid(uuid).unwrap(), kept, Metadata::Title).unwrap();
        manager.set_metadata(uuid, (true, false), Metadata::Title, "", Some("now")).unwrap();
        assert_eq!((read(false).as_deref(), read(true)), (Some("now"), None));
        let shown = manager.by_uuid(uuid).unwrap().live.unwrap().text.view(false).to_owned();
        assert!(shown.contains("<title>now</title>") && shown.contains("id='1'"), "{shown}");
        manager.set_metadata(uuid, (true, true), Metadata::Title, "", Some("both")).unwrap();
        assert_eq!((read(false).as_deref(), read(true).as_deref()), (Some("both"), Some("both")));
        let element = Metadata::Element("urn:x");
        assert!(manager.set_metadata(uuid, (true, true), element, "k", Some("<a")).is_err());
        manager.set_metadata(uuid, (false, true), element, "k", Some("<a/>")).unwrap();
        let own = Metadata::Element(SVIRT_NAMESPACE);
        assert!(manager.set_metadata(uuid, (true, false), own, "s", Some("<x/>")).is_err());
        let told = heard.0.lock().unwrap();
        let last = told.last().map(|(_, what)| what.clone());
        assert_eq!(last, Some(What::Metadata { kind: 2, namespace: Some("urn:x".into()) }));
    }

    #[test]
    fn another_name_is_the_same_domain() {
        let (manager, heard, uuid) = manager();
        let name = DomainName::new("b").unwrap();
        manager.set_autostart(uuid, true).unwrap();
        manager.start(uuid, StartFlags::default()).unwrap();
        assert!(manager.rename(uuid, &name).is_err(), "it runs");
        manager.destroy(uuid).unwrap();
        manager.rename(uuid, &name).unwrap();
        assert!(manager.by_name("a").is_err());
        let found = manager.by_name("b").unwrap();
        assert!(found.uuid == uuid && found.autostart);
        assert!(manager.definition(&found).unwrap().text().contains("<name>b</name>"));
        assert!(manager.rename(uuid, &name).is_err(), "that is its name");
        let told: Vec<_> = heard.0.lock().unwrap().iter().rev().take(2).cloned().collect();
        let expected = [("b", Lifecycle::RenamedTo), ("a", Lifecycle::RenamedFrom)];
        assert_eq!(told, expected.map(|(name, step)| (name.to_owned(), What::Lifecycle(step))));
    }
}
