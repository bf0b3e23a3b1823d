//! One definition, as its owner wrote it, and the views of it that clients get.
//!
//! What the owner wrote is kept as it is; only its uuid is written in where it has none, and a live view says the
//! domain's number.

use crate::base::{DomainName, DomainUuid};
use crate::conf::domain::Domain;
use crate::conf::{domain_xml, identity};

use super::ManagerError;

/// A definition that was read whole and found good.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its uuid, drawn where the text had none.
    pub uuid: DomainUuid,
    /// Its name.
    pub name: DomainName,
    /// `<title>`
    pub title: Option<String>,
    /// `<description>`
    pub description: Option<String>,
    /// Most memory in bytes.
    pub memory: u64,
    /// Memory in bytes.
    pub current_memory: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// The text, with the uuid in it.
    xml: String,
}

/// Which view of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// What the next start uses.
    Inactive,
    /// What runs, under this number.
    Live(i32),
}

impl Definition {
    /// Reads a definition. `uuid` is the one to use where the text has none.
    pub fn read(xml: &str, uuid: DomainUuid) -> Result<Self, ManagerError> {
        let (found, domain) = whole(xml)?;
        let (uuid, xml) = match found.uuid {
            Some(uuid) => (uuid, xml.to_owned()),
            None => (uuid, with_uuid(xml, uuid)?),
        };
        Ok(Self {
            uuid,
            name: found.name,
            title: domain.title,
            description: domain.description,
            memory: domain.memory,
            current_memory: domain.current_memory,
            vcpus: domain.vcpus,
            xml,
        })
    }

    /// The text as it is kept.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.xml
    }

    /// What is started.
    pub(super) fn to_start(&self) -> Result<Domain, ManagerError> {
        Ok(whole(&self.xml)?.1)
    }

    /// What a client reads.
    #[must_use]
    pub fn view(&self, view: View) -> String {
        match view {
            View::Inactive => self.xml.clone(),
            View::Live(id) => with_id(&self.xml, id).unwrap_or_else(|| self.xml.clone()),
        }
    }
}

/// The whole definition, which must have the identity that a quick look found.
fn whole(xml: &str) -> Result<(identity::Identity, Domain), ManagerError> {
    let found = identity::read(xml).map_err(ManagerError::Malformed)?;
    let domain = domain_xml::parse(xml.as_bytes())
        .map_err(|error| ManagerError::Definition(Box::new(error.into())))?;
    if domain.name != found.name || domain.uuid != found.uuid {
        return Err(ManagerError::Malformed("name or uuid can be read in two ways".into()));
    }
    Ok((found, domain))
}

/// Where the root's start tag ends: before `>` or `/>`.
fn root_tag(xml: &str) -> Option<(usize, usize)> {
    let start = xml.find("<domain")?;
    let mut quote = None;
    for (at, byte) in xml.bytes().enumerate().skip(start) {
        match (quote, byte) {
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            (None, b'>') => return Some((start, at)),
            _ => {}
        }
    }
    None
}

fn with_uuid(xml: &str, uuid: DomainUuid) -> Result<String, ManagerError> {
    let end = root_tag(xml).and_then(|(_, end)| xml.split_at_checked(end + 1));
    let (head, tail) = end.ok_or_else(|| ManagerError::Malformed("there is no <domain> tag".into()))?;
    Ok(format!("{head}\n  <uuid>{uuid}</uuid>{tail}"))
}

fn with_id(xml: &str, id: i32) -> Option<String> {
    let (start, end) = root_tag(xml)?;
    if xml.get(start..end)?.contains(" id=") {
        return None;
    }
    let (head, tail) = xml.split_at_checked(end)?;
    Some(format!("{head} id='{id}'{tail}"))
}
