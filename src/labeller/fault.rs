//! Faults on purpose, for tests: in a debug build `SVIRT_FAULT=fail:N` makes the N-th step of a start fail, and
//! `kill:N` ends the labeller there with SIGKILL. In a release build nothing of it is there.
//!
//! A step is each point before and after a journalled effect; the test walks N upward until a start succeeds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::{Layer, Refusal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Fail(usize),
    Kill(usize),
    None,
}

static STEPS: AtomicUsize = AtomicUsize::new(0);
static FAULT: OnceLock<Fault> = OnceLock::new();

fn fault() -> Fault {
    if !cfg!(debug_assertions) {
        return Fault::None;
    }
    *FAULT.get_or_init(|| {
        let text = std::env::var("SVIRT_FAULT").unwrap_or_default();
        match text.split_once(':').map(|(kind, n)| (kind, n.parse())) {
            Some(("fail", Ok(n))) => Fault::Fail(n),
            Some(("kill", Ok(n))) => Fault::Kill(n),
            _ => Fault::None,
        }
    })
}

/// One step of a start; fails or kills if this is the chosen one.
pub(super) fn step(name: &str) -> Result<(), Refusal> {
    let fault = fault();
    if fault == Fault::None {
        return Ok(());
    }
    let now = STEPS.fetch_add(1, Ordering::Relaxed);
    kill_if(fault == Fault::Kill(now), name);
    if fault == Fault::Fail(now) {
        return Err(Refusal::new(
            Layer::Kernel,
            "pass the injected fault at",
            name,
            format!("fail:{now}"),
            "",
        ));
    }
    Ok(())
}

/// What was done is noted, and nobody was told of it yet.
pub(super) fn noted(name: &str) {
    undo_step(name);
}

/// One step of an undo, which cannot fail but can be cut short.
pub(super) fn undo_step(name: &str) {
    let fault = fault();
    if fault != Fault::None {
        let now = STEPS.fetch_add(1, Ordering::Relaxed);
        kill_if(fault == Fault::Kill(now), name);
    }
}

fn kill_if(chosen: bool, name: &str) {
    if chosen {
        tracing::warn!(step = name, "killing this process, as SVIRT_FAULT asks");
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
