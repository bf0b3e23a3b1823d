//! Ends on purpose, for tests: in a debug build `SVIRT_STORE_FAULT=N` aborts the daemon at the N-th step of its changes.
//! In a release build nothing of it is there.
//!
//! A step is each point before, inside and after a commit; the test walks N upward until a whole life gets through.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

static STEPS: AtomicUsize = AtomicUsize::new(0);
static FAULT: OnceLock<Option<usize>> = OnceLock::new();

/// One step; the last one if this is the chosen one.
pub(super) fn step() {
    if !cfg!(debug_assertions) {
        return;
    }
    let chosen = FAULT.get_or_init(|| std::env::var("SVIRT_STORE_FAULT").ok()?.parse().ok());
    if chosen.is_some() && *chosen == Some(STEPS.fetch_add(1, Ordering::Relaxed)) {
        std::process::abort();
    }
}
