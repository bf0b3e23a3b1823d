//! One policy for everybody who asks, which can be replaced while they do.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Identity, Permission, Policy, Subject};
use crate::base::Files;

/// A policy that can be replaced. Every clone is the same one.
#[derive(Clone, Debug)]
pub struct SharedPolicy(Arc<RwLock<Policy>>);

impl From<Policy> for SharedPolicy {
    fn from(policy: Policy) -> Self {
        Self(Arc::new(RwLock::new(policy)))
    }
}

impl SharedPolicy {
    /// Whether somebody may do something; see [`Policy::allows`].
    #[must_use]
    pub fn allows(&self, who: &Identity, permission: Permission, subject: Option<Subject<'_>>) -> bool {
        let policy = self.0.read().unwrap_or_else(PoisonError::into_inner);
        policy.allows(who, permission, subject)
    }

    /// Whether there is anything on which somebody may do something; see [`Policy::allows_somewhere`].
    #[must_use]
    pub fn allows_somewhere(&self, who: &Identity, permission: Permission) -> bool {
        let policy = self.0.read().unwrap_or_else(PoisonError::into_inner);
        policy.allows_somewhere(who, permission)
    }

    /// Which files a definition may name; see [`Policy::files`].
    #[must_use]
    pub fn files(&self, who: &Identity, permission: Permission, subject: Subject<'_>) -> Files {
        let policy = self.0.read().unwrap_or_else(PoisonError::into_inner);
        policy.files(who, permission, subject)
    }

    /// From now on, this is what is asked.
    pub fn replace(&self, policy: Policy) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}
