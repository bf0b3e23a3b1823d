//! A domain's device model without svirt: the same program, arguments and descriptors.
#![allow(unreachable_pub, reason = "each benchmark compiles it for itself")]

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use svirt::privsep::op::{Access, LaunchPlan, Op, Spawn};
use svirt::sys::process;

/// The same arguments without svirt.
pub struct Bare {
    child: process::Child,
    _peers: Vec<OwnedFd>,
}

impl Bare {
    /// Starts the device model of a plan and waits until its guest runs.
    pub fn start(plan: &LaunchPlan) -> Self {
        let mut slots: std::collections::BTreeMap<&str, OwnedFd> = std::collections::BTreeMap::new();
        let mut peers = Vec::new();
        let mut monitor = None;
        let mut spawn: Option<&Spawn> = None;
        for op in &plan.ops {
            match op {
                Op::OpenImage(image) => {
                    let write = image.access == Access::ReadWrite;
                    let file = std::fs::OpenOptions::new().read(true).write(write).open(&image.path).unwrap();
                    slots.insert(image.slot.as_str(), file.into());
                }
                Op::Channel { slot, peer } => {
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    slots.insert(slot.as_str(), theirs.into());
                    if peer.as_str() == "monitor.peer" {
                        monitor = Some(ours);
                    } else {
                        peers.push(ours.into());
                    }
                }
                Op::Spawn(found) => spawn = Some(found),
                _ => {}
            }
        }
        let spawn = spawn.unwrap();
        let program = std::ffi::CString::new(spawn.program.as_str()).unwrap();
        let argv: Vec<_> =
            spawn.argv.iter().map(|word| std::ffi::CString::new(word.as_str()).unwrap()).collect();
        let placed: Vec<(RawFd, RawFd)> =
            spawn.fds.iter().map(|grant| (slots[grant.slot.as_str()].as_raw_fd(), grant.number)).collect();
        let child = process::fork(|| {
            process::place_fds(&placed, &mut []).unwrap();
            let argv: Vec<&std::ffi::CStr> = argv.iter().map(std::ffi::CString::as_c_str).collect();
            eprintln!("{}", process::exec(&program, &argv, &[c"LC_ALL=C"]));
            1
        })
        .unwrap();
        drop(slots);
        run_guest(monitor.unwrap());
        Self { child, _peers: peers }
    }

    /// Ends it.
    pub fn stop(self) {
        self.child.end().unwrap();
    }
}

/// Greeting, capabilities, `cont`, as a supervisor does it.
fn run_guest(monitor: UnixStream) {
    let mut lines = BufReader::new(monitor.try_clone().unwrap()).lines();
    let mut monitor = monitor;
    assert!(lines.next().unwrap().unwrap().contains("QMP"));
    for command in ["qmp_capabilities", "cont"] {
        writeln!(monitor, "{{\"execute\":\"{command}\"}}").unwrap();
        while !lines.next().unwrap().unwrap().contains("\"return\"") {}
    }
}
