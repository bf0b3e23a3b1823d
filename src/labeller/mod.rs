//! The privileged process.
#![forbid(unsafe_code)]

mod admit;
pub mod cgroup;
mod fault;
mod journal;
mod lease;
mod places;
pub mod root;
pub mod spawn;
