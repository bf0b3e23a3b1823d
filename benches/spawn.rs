//! What confinement adds to a spawn: a bare fork and exec, the launcher, and bubblewrap, alternating in one run.
//!
//! The program is one that leaves at once, so that what is measured is the way to exec and the end of
//! the process. The launcher's rows hold all of a start: supervisor and device model forked, all layers, both executed.
//! Needs root and bubblewrap. `cargo bench --bench spawn`
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, clippy::expect_used, clippy::panic)]

#[path = "../tests/launch_rig/mod.rs"]
mod launch_rig;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use svirt::base::{DomainName, DomainRef, DomainUuid};
use svirt::labeller::root::{PreparedRoot, RootStore};
use svirt::labeller::spawn::{self, Fds, Launch, Launched};
use svirt::privsep::confinement::{
    BpfInsn, Confinement, LandlockAccess, LandlockRule, LandlockSpec, Rlimit, RlimitKind, RootSpec,
    SeccompProgram,
};
use svirt::privsep::op::{DeviceNode, Spawn};
use svirt::privsep::supervisor::{Lifecycle, LifecycleAction, SupervisorSpec};
use svirt::sys::{mount, pidfd};

const PROGRAM: &str = "/usr/bin/true";
const ROUNDS: usize = 201;

fn plan() -> Spawn {
    // 150 comparisons that never match: a filter of the size that plans have.
    let mut filter = vec![BpfInsn(0x20, 0, 0, 0)];
    filter.extend((0..150).map(|number| BpfInsn(0x15, 0, 0, 0x1000_0000 + number)));
    filter.push(BpfInsn(0x06, 0, 0, 0x7fff_0000));
    let allow = SeccompProgram(vec![BpfInsn(0x06, 0, 0, 0x7fff_0000)]);
    let all = vec![LandlockAccess::Execute, LandlockAccess::ReadDir, LandlockAccess::ReadFile];
    Spawn {
        program: PROGRAM.into(),
        argv: vec!["true".into()],
        env: vec![],
        fds: vec![],
        confinement: Confinement {
            uid: 1_911_100_000,
            gid: 1_911_100_000,
            groups: Vec::new(),
            root: RootSpec {
                files: vec![],
                devices: vec![DeviceNode::Null, DeviceNode::Urandom],
                shares: vec![],
                shmems: vec![],
            },
            landlock: LandlockSpec { abi: 7, rules: vec![LandlockRule { path: "/".into(), access: all }] },
            rlimits: vec![Rlimit { resource: RlimitKind::Core, value: Some(0) }],
            selinux_exec: None,
            seccomp: SeccompProgram(filter),
        },
        placement: svirt::privsep::placement::Placement::default(),
        supervisor: SupervisorSpec {
            uid: 1_921_100_000,
            selinux_label: None,
            seccomp: allow,
            fds: vec![],
            consoles: vec![],
            vncs: vec![],
            start_paused: true,
            incoming: None,
            balloon: None,
            links_down: Vec::new(),
            throttles: Vec::new(),
            lifecycle: Lifecycle {
                on_poweroff: LifecycleAction::Destroy,
                on_reboot: LifecycleAction::Restart,
                on_crash: LifecycleAction::Destroy,
            },
            clients: vec![],
        },
    }
}

/// One whole start; the supervisor, which waits to be killed, is returned.
fn launcher(plan: &Spawn, root: &PreparedRoot, supervisor: &Path, net: Option<OwnedFd>) -> Launched {
    let domain = DomainRef { name: DomainName::new("bench").unwrap(), uuid: DomainUuid(uuid::Uuid::nil()) };
    let launch = Launch {
        passwords: &[],
        profile: None,
        domain: &domain,
        spawn: plan,
        fds: &Fds::new(),
        root,
        cgroup: None,
        net,
        supervisor,
        timeout: Duration::from_secs(10),
    };
    let launched = launch_rig::launch(launch, &mut |_| Ok(()));
    let launched = launched.unwrap_or_else(|error| panic_with(&error.refusal().to_string()));
    assert!(pidfd::wait_ended(&launched.qemu.pidfd, 5000).unwrap());
    launched
}

fn panic_with(text: &str) -> ! {
    eprintln!("{text}");
    std::process::exit(1);
}

fn quiet(command: &mut Command) -> Option<Launched> {
    let status =
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.unwrap().success());
    None
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    if std::env::args().next().is_some_and(|name| name == "svirt-supervisor") {
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let tools = [PROGRAM, "/usr/bin/bwrap"].iter().all(|path| Path::new(path).exists());
    if !nix::unistd::geteuid().is_root() || !tools {
        println!("skipped: needs root, {PROGRAM} and /usr/bin/bwrap (bubblewrap)");
        return;
    }
    // As the labeller does it.
    mount::enter_slave_namespace().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let root = RootStore::open(dir.path(), 1_900_000_001).unwrap().prepare(Path::new(PROGRAM)).unwrap();
    // This program again: it waits to be killed, so that it outlives the other as a supervisor does.
    let supervisor = std::env::current_exe().unwrap();
    let plan = plan();
    let tree = root.tree().display().to_string();
    let bwrap = ["--unshare-all", "--ro-bind", &tree, "/", "--dev-bind", "/dev/null", "/dev/null"];
    let bwrap_end = ["--cap-drop", "ALL", "--new-session", "--die-with-parent", PROGRAM];
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let spare = spawn::spare_net().unwrap();
        // The supervisor's end is no part of a spawn.
        let mut timed = |row: usize, run: &mut dyn FnMut() -> Option<Launched>| {
            let start = Instant::now();
            let launched = run();
            times[row].push(start.elapsed());
            launched.into_iter().for_each(|launched| launched.supervisor.end().unwrap());
        };
        timed(0, &mut || quiet(&mut Command::new(PROGRAM)));
        let mut spare = Some(spare);
        timed(1, &mut || Some(launcher(&plan, &root, &supervisor, spare.take())));
        timed(2, &mut || Some(launcher(&plan, &root, &supervisor, None)));
        timed(3, &mut || quiet(Command::new("/usr/bin/bwrap").args(bwrap).args(bwrap_end)));
    }
    let [bare, prepared, fresh, bubblewrap] = times.each_mut().map(|row| median(row));
    println!("median of {ROUNDS} spawns, alternating; added is over the bare one");
    let added = |time: Duration| time.saturating_sub(bare).as_secs_f64() * 1e3;
    let rows =
        [("bare", bare), ("launcher, spare net", prepared), ("launcher", fresh), ("bubblewrap", bubblewrap)];
    for (name, time) in rows {
        let ratio = added(time) / added(bubblewrap);
        let total = time.as_secs_f64() * 1e3;
        println!("{name:<22}{total:>8.2} ms  added {:>6.2} ms  of bubblewrap's {ratio:>5.2}", added(time));
    }
}
