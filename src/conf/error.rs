//! Why a definition is refused: where, what, and what to write instead. Holds text of the definition, clipped.

use std::fmt;

use super::xml::{XmlError, XmlErrorKind};
use crate::base::{Layer, Refusal};

/// The most bytes of a user's text that an error repeats.
const CLIP: usize = 120;

/// One refusal of a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DefinitionError {
    /// Line in the definition, from 1.
    pub line: u32,
    /// The element, such as `/domain/devices/disk[2]/target`; empty where the document is not well-formed.
    pub path: Box<str>,
    /// What is wrong.
    pub kind: DefinitionErrorKind,
    /// The smallest change that would be accepted.
    pub remedy: Box<str>,
}

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionErrorKind {
    /// Two things that each are fine cannot both hold.
    #[error("{0}")]
    Contradiction(String),
    /// Something that may stand once stands again.
    #[error("{what} is a duplicate of the one in line {first}")]
    Duplicate {
        /// What, such as `target vda`.
        what: String,
        /// The line of the first one.
        first: u32,
    },
    /// A `<seclabel>` asks for a combination that no host can give (libvirt's VIR_ERR_CONFIG_UNSUPPORTED).
    #[error("{0}")]
    LabelRequest(String),
    /// Something required is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// Any of the others, found while the definition was held against the schema.
    #[error("{0}")]
    Schema(Box<Self>),
    /// A name that libvirt's grammar does not have in this place.
    #[error("{what} is unknown here{}", nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean {n}?")))]
    Unknown {
        /// Which element or attribute.
        what: String,
        /// The known name that looks most like it.
        nearest: Option<&'static str>,
    },
    /// Something that would be ignored, and without which the domain were isolated less than it asks.
    #[error("{what} is unknown here, and without it {loss}")]
    Weakening {
        /// Which element or attribute.
        what: String,
        /// What would be lost.
        loss: &'static str,
    },
    /// Valid libvirt perhaps, but not run by this version.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A value that does not parse or lies outside its range.
    #[error("{what} has the value {value:?}, which is not {expected}")]
    Value {
        /// Which element or attribute.
        what: String,
        /// What stands there.
        value: String,
        /// What may stand there.
        expected: String,
    },
    /// The document is not well-formed, or beyond the reader's limits.
    #[error("{0}")]
    Xml(XmlErrorKind),
}

/// The classes of libvirt's errors for definitions; clients tell refusals apart by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// `VIR_ERR_CONFIG_UNSUPPORTED`: well said, and impossible.
    ConfigUnsupported,
    /// `VIR_ERR_XML_DETAIL`: two of what may stand once.
    XmlDetail,
    /// `VIR_ERR_XML_ERROR`: a value or an element that is wrong or missing.
    XmlError,
    /// `VIR_ERR_XML_INVALID_SCHEMA`: not as the schema has it.
    XmlInvalidSchema,
}

impl DefinitionErrorKind {
    /// Which of libvirt's errors it is.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Contradiction(_)
            | Self::LabelRequest(_)
            | Self::Unsupported(_)
            | Self::Weakening { .. } => ErrorClass::ConfigUnsupported,
            Self::Duplicate { what, .. } if what.starts_with("<seclabel>") => ErrorClass::XmlDetail,
            Self::Duplicate { .. } | Self::Missing(_) | Self::Value { .. } | Self::Xml(_) => {
                ErrorClass::XmlError
            }
            Self::Schema(_) | Self::Unknown { .. } => ErrorClass::XmlInvalidSchema,
        }
    }
}

impl DefinitionErrorKind {
    /// What to do about those that always have the same remedy; the others' depends on where they are found.
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::Duplicate { .. } => "remove one of the two, or give it a value of its own".into(),
            Self::Missing(what) => format!("add {what}"),
            Self::Value { expected, .. } => format!("give it {expected}"),
            Self::Weakening { .. } => "remove it, or put it where libvirt's schema has it".into(),
            _ => "remove it, or write it as libvirt's schema has it".into(),
        }
    }

    /// A value that is not what was expected; only its beginning is kept.
    pub(super) fn value(what: impl Into<String>, value: &str, expected: impl Into<String>) -> Self {
        Self::Value { what: what.into(), value: clip(value), expected: expected.into() }
    }
}

impl DefinitionError {
    /// The same, as found against the schema; what is no XML at all stays what it is.
    pub(super) fn of_schema(self) -> Self {
        let kind = match self.kind {
            kind @ (DefinitionErrorKind::Schema(_) | DefinitionErrorKind::Unknown { .. }) => kind,
            kind => DefinitionErrorKind::Schema(Box::new(kind)),
        };
        Self { kind, ..self }
    }
}

/// `text`, cut at a character boundary.
pub(super) fn clip(text: &str) -> String {
    if text.len() <= CLIP {
        return text.to_owned();
    }
    let end = (0..=CLIP).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}...", text.get(..end).unwrap_or_default())
}

impl fmt::Display for DefinitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.kind, self.line)?;
        if self.path.is_empty() { Ok(()) } else { write!(f, ", in {}", self.path) }
    }
}

impl From<XmlError> for DefinitionError {
    fn from(error: XmlError) -> Self {
        let remedy = match error.kind {
            XmlErrorKind::TooDeep | XmlErrorKind::TooLarge | XmlErrorKind::TooMany(_) => {
                "make the definition smaller; docs/domain-xml.md lists the limits"
            }
            XmlErrorKind::Doctype | XmlErrorKind::Entity(_) => "write the text itself instead of the entity",
            _ => "make the definition well-formed XML 1.0 in UTF-8; xmllint shows the place",
        };
        Self {
            line: error.line,
            path: Box::default(),
            kind: DefinitionErrorKind::Xml(error.kind),
            remedy: remedy.into(),
        }
    }
}

impl From<DefinitionError> for Refusal {
    fn from(error: DefinitionError) -> Self {
        Self::new(Layer::Definition, "read", "the domain definition", error.to_string(), error.remedy)
    }
}
