//! Names and numbers that identify a domain and the resources of its plan.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest domain name in bytes; libvirt's file names and our sockets allow no more.
const NAME_MAX: usize = 255;

/// A domain's name: 1 to 255 bytes of UTF-8 without `/` or control characters, not `.` or `..`. Copies share its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(Arc<str>);

/// Why a string cannot name a domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("the name is empty")]
    Empty,
    /// The name is `.` or `..`, or contains `/`.
    #[error("the name {0:?} could be taken for a path")]
    Path(String),
    /// The name contains a control character.
    #[error("the name {0:?} contains a control character")]
    Control(String),
    /// The name is longer than 255 bytes.
    #[error("the name has {0} bytes, more than 255")]
    TooLong(usize),
}

impl DomainName {
    /// What a name is, as it follows `which is not` and `give it`.
    pub const RULE: &str =
        "a name of 1 to 255 bytes without `/` and control characters, other than `.` and `..`";

    /// Checks and wraps a name.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > NAME_MAX {
            return Err(NameError::TooLong(name.len()));
        }
        if name == "." || name == ".." || name.contains('/') {
            return Err(NameError::Path(name));
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::Control(name));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DomainName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A domain's uuid; printed in lower case with hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainUuid(pub uuid::Uuid);

impl fmt::Display for DomainUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// What identifies a domain to every process of svirt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainRef {
    /// Name, for people.
    pub name: DomainName,
    /// Uuid, for paths and tables.
    pub uuid: DomainUuid,
}

/// The name of a descriptor inside one plan, such as `disk:vda:0` or `monitor`.
///
/// At most 64 bytes of `[A-Za-z0-9:._-]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot(String);

impl Slot {
    /// Checks and wraps a slot name.
    pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > 64 {
            return Err(NameError::TooLong(name.len()));
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b":._-".contains(&b)) {
            return Err(NameError::Control(name));
        }
        Ok(Self(name))
    }

    /// The slot's name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Slot {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> Self {
        slot.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
