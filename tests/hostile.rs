//! What a taken-over front end, or anybody on the host, tries against the labeller. Needs root.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used, missing_docs)]

mod labeller_rig;

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use labeller_rig::{Rig, eventually, possible, rule};
use svirt::privsep::op::{LaunchPlan, Op};
use svirt::privsep::request::Request;
use svirt::privsep::wire;

/// The same plan with the uids of another one.
fn with_uids_of(mut plan: LaunchPlan, victim: &LaunchPlan) -> LaunchPlan {
    plan.ops.retain(|op| !matches!(op, Op::LeaseUid { .. }));
    let mut ops: Vec<Op> =
        victim.ops.iter().filter(|op| matches!(op, Op::LeaseUid { .. })).cloned().collect();
    ops.append(&mut plan.ops);
    let (Some(Op::Spawn(theirs)), Some(Op::Spawn(mine))) = (victim.ops.last(), ops.last_mut()) else {
        panic!("no spawn")
    };
    mine.confinement.uid = theirs.confinement.uid;
    mine.confinement.gid = theirs.confinement.gid;
    mine.supervisor.uid = theirs.supervisor.uid;
    plan.ops = ops;
    plan
}

#[test]
fn a_crash_during_a_start_with_foreign_uids_ends_no_foreign_domain() {
    if !possible() || !cfg!(debug_assertions) {
        println!("skipped: needs root, QEMU and a debug build");
        return;
    }
    let mut rig = Rig::new();
    let (image, other) = (rig.image("a.raw"), rig.image("b.raw"));
    for image in [&image, &other] {
        rig.set_label(image, "system_u:object_r:was_t:s0");
    }
    rig.serve("");
    let victim = rig.plan(1, &image);
    let uuid = victim.domain.uuid;
    let started =
        rig.client().start(victim.clone()).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    rig.end_labeller("-KILL");
    // Dies once the plan is in the journal and before anything is leased.
    rig.serve("kill:0");
    assert!(rig.client().start(with_uids_of(rig.plan(2, &other), &victim)).is_err());
    eventually("the labeller is dead", || rig.labeller_is_dead());
    rig.labeller = None;
    rig.serve("");
    let status =
        rig.client().describe(uuid).unwrap_or_else(|_| panic!("it was killed:\n{}", rig.log())).status;
    assert_eq!(status.qemu_pid, started.qemu_pid);
    assert!(Path::new(&format!("/proc/{}/fd", started.qemu_pid)).exists());
    rig.client().kill(uuid).unwrap();
    rig.assert_nothing_leased();
}

/// Everything below a directory that others than root may write.
fn writable(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.mode() & 0o022 != 0 && !meta.file_type().is_socket() && !meta.is_symlink() {
            found.push(path.clone());
        }
        if meta.is_dir() {
            writable(&path, found);
        }
    }
}

#[test]
fn nothing_that_svirt_makes_can_be_written_by_others() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("a.raw");
    rig.set_label(&image, "system_u:object_r:was_t:s0");
    rig.settings.paths.cache = rig.text("cache");
    std::fs::write(rig.path("svirt.toml"), toml::to_string(&rig.settings).unwrap()).unwrap();
    rig.serve("");
    let mut plan = rig.plan(1, &image);
    let Some(Op::Spawn(spawn)) = plan.ops.last_mut() else { panic!("no spawn") };
    // Asks for the least that a plan can ask for.
    spawn.confinement.rlimits.clear();
    spawn.confinement.landlock.abi = 0;
    let uuid = plan.domain.uuid;
    let started = rig.client().start(plan).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    let mut found = Vec::new();
    for name in ["run", "state", "cache", "log", "sockets"] {
        writable(&rig.path(name), &mut found);
    }
    let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", started.qemu_pid)).unwrap();
    for line in cgroup.lines().filter(|line| line.contains("svirt-")) {
        let (controllers, path) = line.split_once(':').unwrap().1.split_once(':').unwrap();
        for mount in [format!("/sys/fs/cgroup/{controllers}"), "/sys/fs/cgroup/unified".to_owned()] {
            if let Ok(meta) = std::fs::metadata(format!("{mount}{path}"))
                && meta.mode() & 0o022 != 0
            {
                found.push(format!("{mount}{path}").into());
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", rig.pid())).unwrap(), Path::new("/"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", started.qemu_pid)).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    rig.client().kill(uuid).unwrap();
}

#[test]
fn strangers_and_greedy_clients_cost_little() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.serve("");
    let socket = rig.path("run/labeller.sock");
    // Whether each of a stranger's many tries was refused for want of permission.
    let closed = || {
        let child = svirt::sys::process::fork(|| {
            svirt::sys::cred::set_ids(65_534, 65_534, &[]).unwrap();
            let denied = std::io::ErrorKind::PermissionDenied;
            let tries = (0..2000).map(|_| UnixStream::connect(&socket).is_err_and(|e| e.kind() == denied));
            i32::from(tries.filter(|refused| *refused).count() == 2000)
        })
        .unwrap();
        assert!(svirt::sys::pidfd::wait_ended(&child.pidfd, 20_000).unwrap());
        svirt::sys::pidfd::reap(&child.pidfd) == Some(svirt::sys::pidfd::Exit::Code(1))
    };
    assert!(closed(), "the socket's mode keeps strangers out");
    // Whoever gets past the mode is turned away by the credentials, and not each with a line of the log.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(!closed());
    assert!(rig.client().survey().is_ok());
    let complaints = rig.log().matches("refused a client").count();
    assert!((1..=3).contains(&complaints), "{complaints} lines");

    // Each sends a frame that never ends; together they may not fill the memory.
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_write_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let mut frame = vec![b' '; 4 << 20];
        frame[..4].copy_from_slice(&(4_u32 << 20).to_be_bytes());
        let _ = client.write_all(&frame);
        clients.push(client);
    }
    assert!(rig.client().survey().is_ok());
    assert!(peak_mib(&rig) < 160, "{} MiB", peak_mib(&rig));
}

fn peak_mib(rig: &Rig) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    peak.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn answers_that_nobody_reads_are_bounded() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.serve("");
    let mut plan = rig.plan(1, &rig.image("a.img"));
    plan.notes = vec!["x".repeat(3 << 20)];
    let uuid = plan.domain.uuid;
    rig.client().start(plan).unwrap();
    let frame = wire::encode(&Request::Describe { uuid }).unwrap();
    let clients: Vec<UnixStream> =
        (0..200).map(|_| UnixStream::connect(rig.path("run/labeller.sock")).unwrap()).collect();
    // All ask before the labeller hears the first one.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(rig.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    for mut client in &clients {
        let _ = client.write_all(&frame);
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    // As long as nobody else reads, there is room for nobody: that passes with them.
    eventually("the labeller to close a client", || rig.log().contains("bytes unread"));
    assert!(peak_mib(&rig) < 300, "{} MiB", peak_mib(&rig));
    drop(clients);
    // It may hear of the next one before it has heard that all of these have gone.
    eventually("room for an answer", || rig.client().survey().is_ok());
    rig.client().kill(uuid).unwrap();
}
