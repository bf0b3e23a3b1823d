//! Who may do what to which object: identities, permissions in libvirt's words, roles, rules. Denies what no rule
//! allows. Pure: the caller says who asks, and reads the rules' file.
#![forbid(unsafe_code)]

mod permission;
mod rules;
mod shared;

pub use permission::{Object, Permission, Role, Verb};
pub use rules::{Policy, RulesError};
pub use shared::SharedPolicy;

use crate::base::DomainUuid;

/// Who asks, by the kernel's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Uid of the process at the other end when it connected.
    pub uid: u32,
    /// Its gid.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its pid, for the log only.
    pub pid: i32,
}

/// A domain, as far as a decision depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its uuid.
    pub uuid: DomainUuid,
}
