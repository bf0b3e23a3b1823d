//! What of a running domain changes while it runs.

/// What changed since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// How much memory the guest has, in bytes, where that was ever changed.
    pub balloon: Option<u64>,
    /// Whether the guest's agent is there.
    pub agent: bool,
}
