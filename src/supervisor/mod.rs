//! One process per domain: the only client of QEMU's monitor, keeper of the phase gate and of the consoles.
//!
//! ```text
//! labeller ──bootstrap, orders──▶ ┌────────────┐ ──QMP──▶ QEMU
//!          ◀──────reports──────── │ supervisor │ ◀──launch-only calls (seccomp listener)── QEMU
//! clients  ──verbs, consoles───▶  └────────────┘ ◀──consoles, standard error──▶ QEMU
//! ```
//!
//! Owns the order of a start (the gate shuts before `cont`), the monitor, consoles with their logs, and listening sockets.
//! Never opens a path, starts a program or does anything for another domain. It outlives the labeller and svirt; if it
//! dies, the guest goes on with the gate shut, and a replacement takes over.
#![forbid(unsafe_code)]

mod ask;
mod console;
mod control;
mod dump;
mod ending;
pub mod gate;
mod handed;
mod hear;
pub mod launch;
mod log;
mod monitor;
mod own;
mod picture;
mod plug;
mod ring;
mod save;
mod serve;
mod tell;
mod verbs;
mod vnc;

use std::os::fd::OwnedFd;

use crate::base::Refusal;
use crate::privsep::supervisor::Report;
use crate::sys::packet;
use serve::Server;

/// Runs one supervisor from its inherited descriptors; returns the exit code.
///
/// Must be the first thing that the process does: the descriptors are claimed by number.
#[must_use]
pub fn run() -> u8 {
    let Ok(labeller) = handed::labeller() else {
        eprintln!("svirt-supervisor is started by svirt-labeller and has no other use");
        return 2;
    };
    let handed = match handed::receive(labeller) {
        Ok(handed) => handed,
        Err((refusal, labeller)) => return give_up(&labeller, refusal),
    };
    let spec = handed.bootstrap.spec.clone();
    let mut server = match Server::new(handed) {
        Ok(server) => server,
        Err((refusal, labeller)) => return give_up(&labeller, refusal),
    };
    if let Err(refusal) = own::confine(&spec) {
        server.fail(refusal);
        return 1;
    }
    drop(spec);
    match server.run() {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn give_up(labeller: &OwnedFd, refusal: Refusal) -> u8 {
    if let Ok(packet) = serde_json::to_vec(&Report::Failed { refusal, stderr: String::new() }) {
        // Nobody else can be told.
        let _ = packet::send(labeller, &packet);
    }
    1
}
