//! svirt labels and confines the device models of a hypervisor.
//!
//! `docs/architecture.md` draws the processes and the flow of a start; `tests/layering.rs` holds the
//! import table that the modules below keep to. Only [`sys`] contains unsafe code.

pub mod base;
pub mod filter;
pub mod privsep;
pub mod settings;
pub mod sys;

pub mod daemon;
pub mod labeller;

pub mod image;
pub mod qmp;
pub mod supervisor;

#[cfg(feature = "frontend")]
pub mod access;
#[cfg(feature = "frontend")]
pub mod cli;
#[cfg(feature = "frontend")]
pub mod conf;
#[cfg(feature = "frontend")]
pub mod confine;
#[cfg(feature = "frontend")]
pub mod driver;
#[cfg(feature = "frontend")]
pub mod host;
#[cfg(feature = "frontend")]
pub mod inspect;
#[cfg(feature = "frontend")]
pub mod manager;
#[cfg(feature = "frontend")]
pub mod plan;
#[cfg(feature = "frontend")]
pub mod probe;
#[cfg(feature = "frontend")]
pub mod profile;
#[cfg(feature = "frontend")]
pub mod remote;
#[cfg(feature = "frontend")]
pub mod rpc;
#[cfg(feature = "frontend")]
pub mod security;
#[cfg(feature = "frontend")]
pub mod server;
#[cfg(feature = "frontend")]
pub mod storage;
#[cfg(feature = "frontend")]
pub mod store;
