//! What users write: domain XML in, a [`domain::Domain`] out, every refusal with its line. Pure.
#![forbid(unsafe_code)]

pub mod appliance;
pub mod capabilities;
pub mod cpu;
pub mod definition;
pub mod domain;
pub mod domain_capabilities;
pub mod domain_xml;
pub mod emulator;
pub mod facts;
pub mod identity;
pub mod metadata;
pub mod network;
pub mod storage;
pub mod sysinfo;
pub mod xml;

mod error;
mod password;

pub use error::{DefinitionError, DefinitionErrorKind, ErrorClass};
