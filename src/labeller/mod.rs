//! The privileged process.
#![forbid(unsafe_code)]

mod admit;
mod fault;
mod journal;
mod lease;
mod places;
