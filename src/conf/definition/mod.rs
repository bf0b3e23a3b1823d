//! A whole domain definition, kept: libvirt's domain XML in, the same in libvirt's order and style out.
//!
//! Owns what a definition may say, with libvirt's defaults, and what of it is shown to whom. What of it *runs* is
//! [`Definition::domain`]'s answer: a definition that this host cannot start is kept and shown all the same.
//! Nothing is dropped silently: what libvirt's grammar does not have is refused or reported.

mod assign;
mod defaults;
mod edit;
mod foreign;
pub mod grammar;
mod graphics;
mod isolation;
mod labels;
mod metadata;
mod node;
mod nvram;
mod pins;
mod place;
mod read;
mod rules;
mod running;
pub mod schema;
mod tune;
mod volumes;
mod write;

use std::fmt;

use super::domain::Domain;
use super::xml::Document;
use super::{DefinitionError, DefinitionErrorKind, domain_xml};
use crate::base::{DomainName, DomainUuid};
use node::Node;

pub use assign::Choices;
pub use graphics::{Asked, DisplayChange};
pub use metadata::{MetadataError, fuzz_metadata};
pub use pins::{TypedCpus, VcpuPins, cpus};
pub use running::{Running, RunningLabel};
pub use tune::DISK_TUNING;
pub use volumes::VolumeName;

/// The namespace of svirt's own facts in `<metadata>`.
pub const SVIRT_NAMESPACE: &str = "urn:svirt:domain:1";

/// What becomes of names that libvirt's grammar does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Reported and left out, as libvirt does without its validate flag; refused where that would weaken isolation.
    Lenient,
    /// Refused, as with libvirt's validate flag.
    Strict,
}

/// Something of a definition that is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Line in the definition, from 1.
    pub line: u32,
    /// The element, such as `/domain/devices/disk[2]/target`.
    pub path: Box<str>,
    /// What is wrong.
    pub kind: DefinitionErrorKind,
}

/// What a reader of a definition sees. The flags of libvirt's `virDomainGetXMLDesc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Passwords are shown.
    pub secure: bool,
    /// What older receivers of a migration refuse is left out: labels of the models `dac` and `none` that svirt
    /// added by itself.
    pub migratable: bool,
}

/// A definition in its canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    root: Node,
    name: DomainName,
    uuid: Option<DomainUuid>,
}

impl Definition {
    /// Reads a definition, fills in libvirt's defaults and checks the rules between elements. Time and memory are
    /// bounded whatever stands in `xml`.
    pub fn parse(xml: &[u8], strictness: Strictness) -> Result<(Self, Vec<Warning>), DefinitionError> {
        let document = Document::parse(xml)?;
        let schema = |error: DefinitionError| match strictness {
            Strictness::Lenient => error,
            Strictness::Strict => error.of_schema(),
        };
        let (mut root, mut warnings) = read::domain(&document, strictness).map_err(schema)?;
        let dropped = labels::normalise(&mut root).map_err(schema)?;
        if let (Strictness::Strict, Some(first)) = (strictness, dropped.first()) {
            return Err(schema(first.clone().into_error()));
        }
        warnings.extend(dropped);
        labels::compare(&root)?;
        defaults::fill(&mut root, &mut warnings);
        rules::check(&root)?;
        let name = rules::name(&root)?;
        let uuid = rules::uuid(&root);
        Ok((Self { root, name, uuid }, warnings))
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &DomainName {
        &self.name
    }

    /// The uuid, where the definition has one.
    #[must_use]
    pub fn uuid(&self) -> Option<DomainUuid> {
        self.uuid
    }

    /// Gives the definition another name.
    pub fn rename(&mut self, name: DomainName) {
        if let Some(node) = self.root.ensure("name") {
            node.text = name.as_str().to_owned();
        }
        self.name = name;
    }

    /// Gives the definition a uuid, as is done when it is defined without one.
    pub fn set_uuid(&mut self, uuid: DomainUuid) {
        if let Some(node) = self.root.ensure("uuid") {
            node.text = uuid.to_string();
        }
        self.uuid = Some(uuid);
    }

    /// The element of that namespace in `<metadata>`, as it was written.
    #[must_use]
    pub fn metadata(&self, namespace: &str) -> Option<&str> {
        let metadata = self.root.child("metadata")?;
        metadata
            .foreign
            .iter()
            .find(|foreign| foreign.namespace == namespace)
            .map(|foreign| foreign.xml.as_str())
    }

    /// The definition as it is kept: what the domain's next start will follow.
    #[must_use]
    pub fn format(&self, view: View) -> String {
        write::domain(&self.root, view, false)
    }

    /// Whether it holds passwords, which only a secure view shows.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        write::has_secrets(&self.root)
    }

    /// The definition of a running domain, with what was made for it.
    #[must_use]
    pub fn format_running(&self, running: &Running, view: View) -> String {
        let mut root = self.root.clone();
        running::fill(&mut root, running, view);
        write::domain(&root, view, true)
    }

    /// What a start needs; refuses by name what this version keeps and does not run. The lines of a refusal are
    /// those of [`format`](Self::format).
    pub fn domain(&self) -> Result<Domain, DefinitionError> {
        domain_xml::parse(self.format(View { secure: true, migratable: false }).as_bytes())
    }
}

impl Warning {
    fn into_error(self) -> DefinitionError {
        let remedy = "remove it, or write it as libvirt's schema has it".into();
        DefinitionError { line: self.line, path: self.path, kind: self.kind, remedy }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}, in {}: left out", self.kind, self.line, self.path)
    }
}

/// Reads whatever is given, and holds what is accepted to its promises; for fuzzers and the replay of their corpus.
pub fn fuzz_definition(data: &[u8]) {
    for strictness in [Strictness::Lenient, Strictness::Strict] {
        match Definition::parse(data, strictness) {
            // A value that is lowered is told of either way, and holds.
            Ok((definition, _)) => {
                let text = definition.format(View { secure: true, migratable: false });
                let again = Definition::parse(text.as_bytes(), Strictness::Strict);
                assert!(again.is_ok_and(|(again, _)| again == definition), "{text}");
            }
            Err(error) => assert!(!error.remedy.is_empty() && error.line > 0, "{error}"),
        }
    }
}
