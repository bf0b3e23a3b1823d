//! What of a running domain changes while it runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Definition;
use super::change::ChangeLock;
use crate::conf::definition::Running;
use crate::privsep::plug::Gone;

/// What changed since the start, and what its text is made from when it does.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    /// How much memory the guest has, in bytes, where that was ever changed.
    pub balloon: Option<u64>,
    /// Whether the guest's agent is there.
    pub agent: bool,
    /// Whether a person has asked its monitor something by hand.
    pub tainted: bool,
    /// Held by whoever asks that agent.
    pub(super) asking: Arc<ChangeLock>,
    /// Virtual CPUs that the guest was asked to let go and had not when it was looked last.
    pub(super) leaving: BTreeSet<u32>,
    /// What was taken out and QEMU has not let go of yet.
    pub(super) kept: Vec<Gone>,
    /// How often it was heard to run, to stand or to crash: what was asked before that is older.
    pub(super) heard: u64,
    /// What it was started with, where that has changed since.
    pub(super) started: Option<Arc<Definition>>,
    /// What was made for it when it started.
    pub(super) running: Running,
}
