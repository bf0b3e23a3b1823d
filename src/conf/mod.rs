//! What users write: domain XML in, a [`domain::Domain`] out, every refusal with its line. Pure.
#![forbid(unsafe_code)]

pub mod domain;
pub mod facts;
