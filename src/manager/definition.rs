//! One definition as it is kept, and the views of it that clients get.
//!
//! What is kept is the canonical text, and of what it says only what lists and statistics ask for: the tree behind
//! it is read again when a domain is started, and stays read while it runs.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::base::{DomainName, DomainUuid, Files, Refusal};
use crate::conf::definition::{Choices, Definition as Tree, Running, Strictness, View};
use crate::conf::domain::Domain;
use crate::conf::{DefinitionError, DefinitionErrorKind, domain_xml, identity};
pub use crate::store::Text;
use crate::store::{self, Change};

use super::ManagerError;

pub(super) const SECURE: View = View { secure: true, migratable: false };
const PUBLIC: View = View { secure: false, migratable: false };
/// How a summary is written; one that was written otherwise is made anew from its text.
const SUMMARY: u32 = 2;
/// Of how long a text what was read stays, in bytes: virt-install's longest has 8 KiB.
const READ_MAX: u64 = 256 << 10;

/// What lists and statistics ask of a definition: all of it that stays in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its uuid, drawn where the text had none.
    pub uuid: DomainUuid,
    /// Its name.
    pub name: DomainName,
    /// Most memory in bytes.
    pub memory: u64,
    /// Memory in bytes.
    pub current_memory: u64,
    /// Virtual CPUs that it may have.
    pub vcpus: u32,
    /// Virtual CPUs that it has.
    pub current_vcpus: u32,
}

/// A summary as it is stored beside its uuid.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    name: DomainName,
    memory: u64,
    current_memory: u64,
    vcpus: u32,
    current_vcpus: u32,
}

impl Summary {
    /// As it is stored.
    #[must_use]
    pub fn stored(&self) -> String {
        let Self { name, memory, current_memory, vcpus, current_vcpus, .. } = self.clone();
        let stored = Stored { version: SUMMARY, name, memory, current_memory, vcpus, current_vcpus };
        // What cannot be written is made anew when it is read.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// One that was stored; `None` where its text has to be read instead.
    #[must_use]
    pub fn kept(uuid: DomainUuid, stored: &str) -> Option<Self> {
        let Stored { version, name, memory, current_memory, vcpus, current_vcpus } =
            serde_json::from_str(stored).ok()?;
        (version == SUMMARY).then_some(Self { uuid, name, memory, current_memory, vcpus, current_vcpus })
    }
}

/// A definition that was read whole and found good. Dereferences to its summary.
#[derive(Clone, Debug)]
pub struct Definition {
    summary: Arc<Summary>,
    text: Text,
    files: Files,
    /// Only of what runs, which is asked again and again.
    read: Option<Arc<Read>>,
}

/// What was read of a text already: many times as long as that.
#[derive(Debug, Default)]
struct Read {
    tree: OnceLock<Tree>,
    domain: OnceLock<Domain>,
}

impl Deref for Definition {
    type Target = Summary;

    fn deref(&self) -> &Summary {
        &self.summary
    }
}

impl Definition {
    /// Reads a client's definition and writes down what it leaves to be chosen. `uuid` is the one to use where the text
    /// has none.
    pub fn read(
        xml: &str,
        uuid: DomainUuid,
        strictness: Strictness,
        choices: &Choices,
    ) -> Result<Self, ManagerError> {
        let found = identity::read(xml).map_err(ManagerError::Malformed)?;
        let (mut tree, warnings) = Tree::parse(xml.as_bytes(), strictness).map_err(refused)?;
        if *tree.name() != found.name || tree.uuid() != found.uuid {
            return Err(ManagerError::Malformed("name or uuid can be read in two ways".into()));
        }
        for warning in warnings {
            tracing::info!(domain = %found.name, %warning, "of a definition");
        }
        if tree.uuid().is_none() {
            tree.set_uuid(uuid);
        }
        tree.choose(choices);
        tree.check_passwords().map_err(refused)?;
        Self::of(&tree, uuid)
    }

    /// The same with everything written down that was left to be chosen.
    pub(super) fn chosen(&self, choices: &Choices) -> Result<Option<Self>, ManagerError> {
        let mut tree = self.tree()?;
        if !tree.choose(choices) {
            return Ok(None);
        }
        Self::of(&tree, self.uuid).map(|chosen| Some(chosen.with_files(self.files.clone())))
    }

    /// Reads a definition that was kept.
    pub fn kept(xml: &str) -> Result<Self, ManagerError> {
        let (tree, _) = Tree::parse(xml.as_bytes(), Strictness::Lenient).map_err(refused)?;
        let uuid = tree.uuid().ok_or_else(|| ManagerError::Malformed("it has no uuid".into()))?;
        Self::of(&tree, uuid)
    }

    /// What was stored, which is not read again.
    #[must_use]
    pub fn stored(summary: Arc<Summary>, text: Text) -> Self {
        Self { summary, text, files: Files::none(), read: None }
    }

    /// The same, whose images' headers may name these files.
    #[must_use]
    pub fn with_files(self, files: Files) -> Self {
        Self { files, ..self }
    }

    /// What whoever handed it in may name of the host: none, where nobody has said so.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// What keeps it, for whoever handed it in.
    pub(super) fn to_keep(&self, autostart: bool, owner: u32) -> Change {
        Change::Define(store::Definition {
            uuid: self.uuid,
            summary: self.summary().stored(),
            text: self.texts().clone(),
            autostart,
            owner,
            files: self.files.only().map(<[String]>::to_vec),
        })
    }

    /// The row of what was started with it, by which a later daemon finds that again; `files` is what it may name now.
    pub(super) fn row(&self, id: i32, listening: Vec<(String, String)>, files: &Files) -> store::Live {
        let files = files.only().map(<[String]>::to_vec);
        store::Live { uuid: self.uuid, id, xml: self.text().to_owned(), listening, files }
    }

    fn of(tree: &Tree, uuid: DomainUuid) -> Result<Self, ManagerError> {
        let text =
            Text { public: tree.has_secrets().then(|| tree.format(PUBLIC)), secure: tree.format(SECURE) };
        let number = |name| tree.text(name).and_then(|text| text.parse::<u64>().ok());
        let memory = number("memory").unwrap_or(0).saturating_mul(1024);
        let current = number("currentMemory").map(|kibibytes| kibibytes.saturating_mul(1024));
        let vcpus = number("vcpu").and_then(|count| u32::try_from(count).ok()).unwrap_or(1);
        let summary = Summary {
            uuid: tree.uuid().unwrap_or(uuid),
            name: tree.name().clone(),
            memory,
            current_memory: current.unwrap_or(memory),
            vcpus,
            current_vcpus: tree.current_vcpus(),
        };
        Ok(Self { summary: summary.into(), text, files: Files::none(), read: None })
    }

    /// What is known of it without its text.
    #[must_use]
    pub fn summary(&self) -> &Arc<Summary> {
        &self.summary
    }

    /// The text as it is kept.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text.secure
    }

    /// The texts as they are kept.
    #[must_use]
    pub fn texts(&self) -> &Text {
        &self.text
    }

    /// `<title>`
    #[must_use]
    pub fn title(&self) -> Option<String> {
        self.value("title")
    }

    /// `<description>`
    #[must_use]
    pub fn description(&self) -> Option<String> {
        self.value("description")
    }

    fn value(&self, name: &str) -> Option<String> {
        self.as_tree().ok()?.text(name).map(str::to_owned)
    }

    /// The tree behind the text, to change it.
    pub(super) fn tree(&self) -> Result<Tree, ManagerError> {
        self.as_tree().map(Cow::into_owned)
    }

    fn as_tree(&self) -> Result<Cow<'_, Tree>, ManagerError> {
        let kept = self.read.as_ref().map(|read| &read.tree);
        if let Some(tree) = kept.and_then(OnceLock::get) {
            return Ok(Cow::Borrowed(tree));
        }
        let (tree, _) = Tree::parse(self.text().as_bytes(), Strictness::Lenient).map_err(refused)?;
        Ok(match kept {
            Some(kept) => Cow::Borrowed(kept.get_or_init(|| tree)),
            None => Cow::Owned(tree),
        })
    }

    /// The same for what runs: what is read of it stays, but of a text that is longer than any machine needs.
    #[must_use]
    pub fn to_run(&self) -> Self {
        Self { read: (self.text.bytes() <= READ_MAX).then(Arc::default), ..self.clone() }
    }

    /// Reads what is asked of a definition that runs, before anybody asks.
    pub(super) fn read_ahead(&self) {
        let _ = (self.as_tree(), self.to_start());
    }

    /// What is started.
    pub(super) fn to_start(&self) -> Result<Domain, ManagerError> {
        self.domain().map(Cow::into_owned)
    }

    /// The same, to look at.
    pub(super) fn domain(&self) -> Result<Cow<'_, Domain>, ManagerError> {
        let kept = self.read.as_ref().map(|read| &read.domain);
        if let Some(domain) = kept.and_then(OnceLock::get) {
            return Ok(Cow::Borrowed(domain));
        }
        let domain = domain_xml::parse(self.text().as_bytes()).map_err(refused)?;
        Ok(match kept {
            Some(kept) => Cow::Borrowed(kept.get_or_init(|| domain)),
            None => Cow::Owned(domain),
        })
    }

    /// The same with as much memory as its start gives it.
    pub(super) fn aligned(self: Arc<Self>) -> Result<Arc<Self>, ManagerError> {
        const MIB: u64 = 1 << 20;
        if self.memory.is_multiple_of(MIB) && !self.text().contains("<cell ") {
            return Ok(self);
        }
        // What cannot be read is refused by the start.
        let Ok(domain) = self.to_start() else { return Ok(self) };
        let aligned = self.edited(|tree| {
            tree.set_memory_of(&domain);
            Ok(())
        })?;
        Ok(Arc::new(aligned))
    }

    /// The same with something changed, held to all rules again.
    pub(super) fn edited(
        &self,
        edit: impl FnOnce(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<Self, ManagerError> {
        let mut tree = self.tree()?;
        edit(&mut tree)?;
        let text = tree.format(SECURE);
        let (tree, _) = Tree::parse(text.as_bytes(), Strictness::Lenient).map_err(refused)?;
        self.becomes(tree)
    }

    /// The same as what `with` makes of it, which was read whole and so held to all rules.
    pub(super) fn with(
        &self,
        with: impl FnOnce(&Tree) -> Result<Tree, DefinitionError>,
    ) -> Result<Self, ManagerError> {
        self.becomes(with(&*self.as_tree()?).map_err(refused)?)
    }

    /// The same with one more device, which is given as libvirt's clients give it.
    pub(super) fn with_device(&self, xml: &str) -> Result<Self, ManagerError> {
        self.becomes(Tree::with_device_in(self.text(), xml).map_err(refused)?)
    }

    fn becomes(&self, tree: Tree) -> Result<Self, ManagerError> {
        let edited = Self::of(&tree, self.uuid)?.with_files(self.files.clone());
        if self.read.is_none() {
            return Ok(edited);
        }
        let edited = edited.to_run();
        if let Some(read) = &edited.read {
            // What was read of a canonical text is what would be read again.
            let _ = read.tree.set(tree);
        }
        Ok(edited)
    }

    /// The file that it names for its UEFI variables.
    pub fn nvram(&self) -> Result<Option<String>, ManagerError> {
        Ok(self.as_tree()?.nvram().map(str::to_owned))
    }

    /// What a client reads of what is kept.
    #[must_use]
    pub fn view(&self, secure: bool) -> &str {
        self.text.view(secure)
    }

    /// What older receivers of a migration understand.
    pub fn migratable(&self) -> Result<String, ManagerError> {
        Ok(self.as_tree()?.format(View { secure: true, migratable: true }))
    }

    /// The text of what runs.
    #[must_use]
    pub(super) fn running(&self, running: &Running) -> Text {
        match self.as_tree() {
            Ok(tree) => {
                let disks = self.disks().unwrap_or_default();
                let disks = disks.into_iter().map(|disk| (disk.target, disk.alias)).collect();
                let running = Running { disks, ..running.clone() };
                let text = |view| tree.format_running(&running, view);
                Text { public: tree.has_secrets().then(|| text(PUBLIC)), secure: text(SECURE) }
            }
            // What is kept was read before.
            Err(_) => self.text.clone(),
        }
    }
}

pub(super) fn refused(error: DefinitionError) -> ManagerError {
    match error.kind {
        DefinitionErrorKind::Xml(_) => ManagerError::Malformed(error.to_string()),
        _ => ManagerError::Definition(Box::new(Refusal::from(error))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='qemu'><name>a</name><title>T</title><memory unit='MiB'>64</memory>\
        <vcpu>2</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>\
        <devices><graphics type='vnc' passwd='secret'/></devices></domain>";

    #[test]
    fn what_is_kept_says_the_same_again() {
        let uuid = DomainUuid(uuid::Uuid::from_u128(7));
        let read = Definition::read(XML, uuid, Strictness::Lenient, &Choices::default()).unwrap();
        assert_eq!((read.uuid, read.memory, read.current_memory, read.vcpus), (uuid, 64 << 20, 64 << 20, 2));
        assert_eq!((read.title().as_deref(), read.description()), (Some("T"), None));
        assert_eq!(Summary::kept(uuid, &read.summary().stored()).as_ref(), Some(&**read.summary()));
        for strange in ["", "{}", &read.summary().stored().replace("\"version\":2", "\"version\":1")] {
            assert_eq!(Summary::kept(uuid, strange), None, "{strange}");
        }
        let again = Definition::kept(read.text()).unwrap();
        assert_eq!((again.text(), again.uuid), (read.text(), uuid));
        assert!(read.view(true).contains("secret") && !read.view(false).contains("secret"));
        let running = Running { id: 5, ..Running::default() };
        assert!(read.running(&running).view(false).contains("id='5'"));
        assert!(
            Definition::read("<domain><name>a</na", uuid, Strictness::Lenient, &Choices::default()).is_err()
        );
    }
}
