//! `svirt probe` on a QEMU that nobody confined, beside one that was only given a uid: root only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use svirt::inspect;
use svirt::probe::catalogue::Targets;
use svirt::probe::decoy::{Decoy, Dress};
use svirt::probe::matrix::{self, Outcome, Row, Verdict};
use svirt::probe::place::{Layer, Place};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const UID: u32 = 1_915_000_001;

/// A QEMU without a guest, as a stock manager would start it: a uid, and QEMU's own sandbox.
struct Bare(Child);

impl Bare {
    fn start() -> Self {
        let child = Command::new(QEMU)
            .args([
                "-M",
                "none",
                "-nodefaults",
                "-display",
                "none",
                "-S",
                "-sandbox",
                "on,obsolete=deny,spawn=deny",
            ])
            .args(["-monitor", "none", "-serial", "none"])
            .env_clear()
            .uid(UID)
            .gid(UID)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let bare = Self(child);
        // The sandbox is loaded late in QEMU's start.
        for _ in 0..200 {
            let status = std::fs::read_to_string(format!("/proc/{}/status", bare.0.id())).unwrap();
            if status.contains("Seccomp:\t2") {
                return bare;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("QEMU did not load its sandbox");
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn row<'a>(rows: &'a [Row], id: &str) -> &'a Row {
    rows.iter().find(|row| row.id == id).unwrap()
}

#[test]
fn an_unconfined_qemu_reaches_its_neighbour_and_a_sandbox_stops_little() {
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new(QEMU).exists() {
        eprintln!("skipped: needs root and {QEMU}");
        return;
    }
    let bare = Bare::start();
    let place = Place::open("qemu", bare.pid(), None).unwrap();
    let facts = &place.facts;
    assert_eq!(facts.status.uids, [UID; 4]);
    assert_eq!(facts.status.capabilities.effective, 0);
    let filters = facts.filters.as_ref().expect("root reads filters");
    assert!(!filters.is_empty() && filters.iter().all(|filter| !filter.0.is_empty()));
    assert!(facts.namespaces.values().all(|namespace| namespace.host));

    assert!(place.has(Layer::Seccomp) && !place.has(Layer::Landlock) && !place.has(Layer::Namespaces));
    let directory = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    // A stock manager gives every guest the same uid, so the neighbour has it too.
    let program = std::fs::File::open(env!("CARGO_BIN_EXE_svirt")).unwrap();
    let decoy = Decoy::new(directory.path(), UID, &Dress::default(), &program).unwrap();
    nothing_of_roots(decoy.targets().neighbour_pid);
    let targets = Targets { manager_file: Some("/etc/shadow".into()), ..decoy.targets().clone() };
    let (rows, untried) = matrix::run(&place, &targets).unwrap();
    assert_eq!(untried, []);
    for row in &rows {
        println!("{:28} control {:?} placed {:?} by {:?}", row.id, row.control, row.placed, row.stopped_by);
    }

    // What the same uid opens up, and what the sandbox lets through.
    for id in [
        "neighbour-image-read",
        "neighbour-image-write",
        "neighbour-memory",
        "neighbour-environ",
        "neighbour-signal",
        "neighbour-monitor",
        "neighbour-shared-memory",
        "host-files",
        "host-loopback",
    ] {
        assert_eq!(row(&rows, id).verdict, Verdict::Through, "{id}");
    }
    // What the uid and the empty capability sets stop, each proven by its control.
    for id in ["host-shadow", "host-chroot", "host-open-by-handle", "host-packet-socket", "manager-state"] {
        assert_eq!(row(&rows, id).verdict, Verdict::Stopped, "{id}");
        assert!(!row(&rows, id).stopped_by.is_empty(), "{id}");
    }
    assert_eq!(row(&rows, "host-exec").placed, Outcome::Killed(31), "spawn=deny kills");
    assert_eq!(row(&rows, "manager-socket").verdict, Verdict::Unproven, "nothing to aim at");
    assert!(matches!(place.facts.pid, pid if pid == bare.pid()));

    // Nothing was disturbed: the same process, the same descriptors, no tracer.
    let after = inspect::read::process("qemu", bare.pid()).unwrap();
    assert_eq!(after.fds, place.facts.fds);
    assert_eq!(after.status, place.facts.status);
    let left = decoy.targets().image.clone();
    drop(decoy);
    assert!(!std::path::Path::new(&left).exists());
}

/// Whoever has the neighbour's uid can take its descriptors and its memory: nothing of root's is there, and the process
/// itself can do nothing.
fn nothing_of_roots(pid: i32) {
    let facts = inspect::read::process("neighbour", pid).unwrap();
    let found: Vec<_> =
        facts.fds.iter().map(|fd| (fd.number, fd.target.split(':').next().unwrap())).collect();
    assert_eq!(found, [(0, "/dev/null"), (1, "/dev/null"), (2, "/dev/null")]);
    assert_eq!(facts.status.uids, [UID; 4]);
    assert_eq!((facts.status.capabilities.permitted, facts.status.seccomp_mode), (0, 2));
    let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(environ, "SECRET=the neighbour's\0");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
    assert_eq!(session, pid.to_string(), "a session without a terminal");
}

/// A process that has put a program of its own in the shell's place, in its own mount namespace.
#[test]
fn nothing_of_the_targets_is_executed() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (trap, marker) = (directory.path().join("trap"), directory.path().join("marker"));
    std::fs::write(&trap, format!("#!/bin/bash\nid > {}\n", marker.display())).unwrap();
    std::fs::set_permissions(&trap, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let target = Command::new("unshare")
        .args(["--mount", "bash", "-c", "mount --bind \"$0\" /bin/sh && exec -a ready sleep 60"])
        .arg(&trap)
        .spawn()
        .unwrap();
    let target = Bare(target);
    let ready = || std::fs::read(format!("/proc/{}/cmdline", target.pid())).unwrap().starts_with(b"ready");
    while !ready() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let place = Place::open("qemu", target.pid(), None).unwrap();
    assert!(place.has(Layer::Namespaces));
    let (rows, _) = matrix::run(&place, &Targets::default()).unwrap();
    let exec = row(&rows, "host-exec");
    assert_eq!((exec.control, exec.placed), (Outcome::Through, Outcome::Through));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!marker.exists(), "the target's shell ran");
}
