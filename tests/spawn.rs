//! Starts real QEMU under the real supervisor through the launcher, and reads from the kernel what holds it.
//!
//! Needs root and Debian's QEMU; says so where it is skipped.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used, missing_docs)]

mod launch_rig;

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use svirt::base::{DomainName, DomainRef, DomainUuid, Slot};
use svirt::labeller::cgroup::{CgroupHost, DomainCgroup};
use svirt::labeller::root::{PreparedRoot, RootStore};
use svirt::labeller::spawn::{self, Fds, Forked, Launch, Launched, SpawnError, Step, Takeover};
use svirt::privsep::confinement::{
    BpfInsn, Confinement, LandlockAccess, LandlockRule, LandlockSpec, Rlimit, RlimitKind, RootFile,
    RootPlace, RootSpec, SeccompProgram,
};
use svirt::privsep::op::{CgroupLimits, DeviceNode, FdGrant, Spawn};
use svirt::privsep::supervisor::{Lifecycle, LifecycleAction, Report, SupervisorSpec};
use svirt::sys::{pidfd, process, scm};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const SUPERVISOR: &str = env!("CARGO_BIN_EXE_svirt-supervisor");
const MONITOR: i32 = 20;
const TIMEOUT: Duration = Duration::from_secs(20);

/// One start's world; everything is under a directory of its own.
struct Rig {
    dir: tempfile::TempDir,
    domain: DomainRef,
    spawn: Spawn,
    fds: Fds,
    root: PreparedRoot,
}

fn slot(name: &str) -> Slot {
    Slot::new(name).unwrap()
}

fn able() -> bool {
    let able = nix::unistd::geteuid().is_root() && Path::new(QEMU).exists();
    if !able {
        eprintln!("skipped: needs root and {QEMU}");
    }
    able
}

/// Everything is allowed; `execve` goes to the listener.
fn notify_exec() -> SeccompProgram {
    let execve = u32::try_from(libc::SYS_execve).unwrap();
    SeccompProgram(vec![
        BpfInsn(0x20, 0, 0, 0),
        BpfInsn(0x15, 0, 1, execve),
        BpfInsn(0x06, 0, 0, 0x7fc0_0000),
        BpfInsn(0x06, 0, 0, 0x7fff_0000),
    ])
}

fn confinement(uid: u32) -> Confinement {
    let rule =
        |path: &str, access: &[LandlockAccess]| LandlockRule { path: path.into(), access: access.to_vec() };
    use LandlockAccess::{Execute, ReadDir, ReadFile, WriteFile};
    Confinement {
        uid,
        gid: uid,
        groups: Vec::new(),
        root: RootSpec {
            files: vec![RootFile { slot: slot("kernel"), place: RootPlace::Kernel }],
            devices: vec![DeviceNode::Null, DeviceNode::Urandom],
            shares: vec![],
            shmems: vec![],
        },
        landlock: LandlockSpec {
            abi: 7,
            rules: vec![rule("/", &[Execute, ReadDir, ReadFile]), rule("/dev/null", &[ReadFile, WriteFile])],
        },
        rlimits: vec![
            Rlimit { resource: RlimitKind::Core, value: Some(0) },
            Rlimit { resource: RlimitKind::Nofile, value: Some(512) },
        ],
        selinux_exec: None,
        seccomp: notify_exec(),
    }
}

fn supervisor_spec(uid: u32) -> SupervisorSpec {
    SupervisorSpec {
        uid,
        selinux_label: None,
        seccomp: SeccompProgram(vec![BpfInsn(0x06, 0, 0, 0x7fff_0000)]),
        fds: vec![
            FdGrant { slot: slot("monitor.peer"), number: 10 },
            FdGrant { slot: slot("control"), number: 11 },
        ],
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
        clients: vec![0],
    }
}

impl Rig {
    /// `uid` must be no other test's.
    fn new(uid: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let uuid = uuid::Uuid::from_u64_pair(u64::from(uid), u64::from(std::process::id()));
        let name = DomainName::new(format!("spawn-{uid}")).unwrap();
        let (monitor, peer) = scm::stream_pair().unwrap();
        let kernel = dir.path().join("kernel");
        fs::write(&kernel, b"kernel\n").unwrap();
        let control = UnixListener::bind(dir.path().join("control")).unwrap();
        let fds = Fds::from([
            (slot("monitor"), monitor),
            (slot("monitor.peer"), peer),
            (slot("control"), control.into()),
            (slot("kernel"), fs::File::open(&kernel).unwrap().into()),
        ]);
        let argv =
            ["qemu", "-machine", "q35", "-accel", "tcg", "-m", "64", "-nodefaults", "-S", "-display", "none"];
        let argv =
            argv.into_iter().chain(["-chardev", "socket,id=mon,fd=20", "-mon", "chardev=mon,mode=control"]);
        let root = RootStore::open(dir.path(), 1_900_000_001).unwrap().prepare(Path::new(QEMU)).unwrap();
        Self {
            dir,
            domain: DomainRef { name, uuid: DomainUuid(uuid) },
            spawn: Spawn {
                program: QEMU.into(),
                argv: argv.map(str::to_owned).collect(),
                env: vec![("LC_ALL".into(), "C".into())],
                fds: vec![FdGrant { slot: slot("monitor"), number: MONITOR }],
                confinement: confinement(uid),
                placement: svirt::privsep::placement::Placement::default(),
                supervisor: supervisor_spec(uid + 10_000_000),
            },
            fds,
            root,
        }
    }

    fn launch(
        &self,
        cgroup: Option<&DomainCgroup>,
        net: Option<OwnedFd>,
        before_go: &mut dyn FnMut(Forked) -> io::Result<()>,
    ) -> Result<Launched, SpawnError> {
        let launch = Launch {
            passwords: &[],
            profile: None,
            domain: &self.domain,
            spawn: &self.spawn,
            fds: &self.fds,
            root: &self.root,
            cgroup,
            net,
            supervisor: Path::new(SUPERVISOR),
            timeout: TIMEOUT,
        };
        launch_rig::launch(launch, before_go)
    }
}

/// Reports until one that is wanted; a failed start fails the test with its reason.
fn until(control: &OwnedFd, wanted: impl Fn(&Report) -> bool) {
    loop {
        assert!(process::readable(control.as_fd(), TIMEOUT).unwrap(), "the supervisor is silent");
        let mut buffer = vec![0; 1 << 16];
        let (length, _) = scm::recv(control.as_fd(), &mut buffer).unwrap();
        assert!(length > 0, "the supervisor is gone");
        let report: Report = serde_json::from_slice(&buffer[..length]).unwrap();
        if wanted(&report) {
            return;
        }
        assert!(!matches!(report, Report::Failed { .. } | Report::Ended(_)), "{report:?}");
    }
}

fn field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn stop(launched: &Launched) {
    launched.qemu.end().unwrap();
    launched.supervisor.end().unwrap();
}

fn assert_unprivileged(pid: i32, uid: u32) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(pid, set), "0000000000000000", "{set} of {pid}");
    }
    assert_eq!(field(pid, "NoNewPrivs"), "1");
    assert_eq!(field(pid, "Seccomp"), "2");
    assert_eq!(field(pid, "Uid"), [uid; 4].map(|u| u.to_string()).join(" "));
    assert_eq!(field(pid, "Gid"), [uid; 4].map(|u| u.to_string()).join(" "));
    assert_eq!(field(pid, "Groups"), "");
}

fn open_fds(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut numbers: Vec<i32> =
        entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn a_device_model_holds_only_what_the_plan_gives() {
    if !able() {
        return;
    }
    let rig = Rig::new(1_911_000_001);
    let mut told = None;
    let launched = rig
        .launch(None, Some(spawn::spare_net().unwrap()), &mut |forked| {
            // Confined already, and not executed yet.
            assert_unprivileged(forked.qemu_pid, 1_911_000_001);
            assert_ne!(fs::read_link(format!("/proc/{}/exe", forked.qemu_pid)).unwrap(), Path::new(QEMU));
            told = Some(forked);
            Ok(())
        })
        .unwrap();
    until(&launched.control, |report| matches!(report, Report::Greeted));
    let (qemu, supervisor) = (launched.qemu.pid, launched.supervisor.pid);
    assert_eq!(told, Some(Forked { qemu_pid: qemu, supervisor_pid: supervisor }));
    assert_eq!(fs::read_link(format!("/proc/{qemu}/exe")).unwrap(), Path::new(QEMU));
    assert_unprivileged(qemu, 1_911_000_001);
    assert_unprivileged(supervisor, 1_921_000_001);
    assert_eq!(field(qemu, "Seccomp_filters"), "2");
    for kind in ["pid", "mnt", "ipc", "uts", "net", "cgroup"] {
        let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(link(&qemu.to_string()), link("self"), "{kind} namespace");
    }
    let mounts = fs::read_to_string(format!("/proc/{qemu}/mountinfo")).unwrap();
    let places: Vec<&str> = mounts.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    assert_eq!(places, ["/", "/dev/null", "/dev/urandom", "/svirt/kernel"], "{mounts}");
    assert!(mounts.lines().all(|line| line.split(' ').nth(5).unwrap().starts_with("ro,")), "{mounts}");
    // What QEMU opens itself (epoll, eventfd, signalfd) is anonymous; files and sockets are the plan's only.
    for number in open_fds(qemu) {
        let target = fs::read_link(format!("/proc/{qemu}/fd/{number}")).unwrap();
        let known = [0, 1, 2, MONITOR].contains(&number);
        assert!(known || target.to_string_lossy().starts_with("anon_inode:"), "{number} is {target:?}");
    }
    assert_eq!(open_fds(supervisor).into_iter().filter(|n| *n < 10).collect::<Vec<_>>()[..3], [0, 1, 2]);
    let limits = fs::read_to_string(format!("/proc/{qemu}/limits")).unwrap();
    assert!(limits.lines().any(|l| l.starts_with("Max open files") && l.contains("512 ")), "{limits}");
    assert!(launched.degraded.iter().all(|name| !name.contains("rlimit")), "{:?}", launched.degraded);
    stop(&launched);
}

#[test]
fn a_guest_outlives_its_supervisor_and_another_takes_over() {
    if !able() {
        return;
    }
    process::become_subreaper().unwrap();
    let rig = Rig::new(1_911_000_002);
    let launched = rig.launch(None, None, &mut |_| Ok(())).unwrap();
    until(&launched.control, |report| matches!(report, Report::Running));
    launched.supervisor.end().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!pidfd::has_ended(&launched.qemu.pidfd).unwrap(), "the guest must go on");
    let takeover = Takeover {
        profiled: false,
        domain: &rig.domain,
        spec: &rig.spawn.supervisor,
        fds: &rig.fds,
        qemu_pid: launched.qemu.pid,
        qemu: launched.qemu.pidfd.as_fd(),
        stderr: launched.stderr.as_fd(),
        supervisor: Path::new(SUPERVISOR),
        timeout: TIMEOUT,
    };
    let (second, control) = spawn::take_over(&takeover).unwrap();
    assert_unprivileged(second.pid, 1_921_000_002);
    // It speaks to the same monitor: QEMU answers what the state is.
    let mut client = UnixStream::connect(rig.dir.path().join("control")).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    client.write_all(b"{\"verb\":\"status\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).unwrap();
    assert!(answer.contains("\"sealed\":true") && answer.contains("\"state\":\"p"), "{answer}");
    launched.qemu.end().unwrap();
    until(&control, |report| matches!(report, Report::Ended(_)));
    second.end().unwrap();
}

#[test]
fn a_failing_step_is_named_and_leaves_nothing() {
    if !able() {
        return;
    }
    let mut rig = Rig::new(1_911_000_003);
    rig.spawn
        .confinement
        .landlock
        .rules
        .push(LandlockRule { path: "/not/there".into(), access: vec![LandlockAccess::ReadFile] });
    let error = rig.launch(None, None, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, SpawnError::Step { step: Step::LandlockRules, .. }), "{error:?}");
    assert_eq!(error.refusal().layer, svirt::base::Layer::Landlock);
    rig.spawn.confinement.landlock.rules.pop();
    rig.spawn.program = "/usr/bin/no-such-program".into();
    let error = rig.launch(None, None, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, SpawnError::Step { step: Step::Exec, .. }), "{error:?}");
    rig.spawn.program = QEMU.into();
    rig.spawn.confinement.selinux_exec = Some("system_u:system_r:svirt_guest_t:s0".into());
    if !svirt::sys::selinux::running() {
        let error = rig.launch(None, None, &mut |_| Ok(())).unwrap_err();
        assert!(matches!(error, SpawnError::Step { step: Step::ExecLabel, .. }), "{error:?}");
    }
    rig.spawn.confinement.selinux_exec = None;
    let error = rig.launch(None, None, &mut |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
    assert!(matches!(error, SpawnError::Labeller { .. }), "{error:?}");
    assert_nobody(&[1_911_000_003, 1_921_000_003]);
}

/// Waits until no process has one of the uids.
fn assert_nobody(uids: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left: Vec<i32> = uids.iter().flat_map(|uid| alive(*uid)).collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still there: {left:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn alive(uid: u32) -> Vec<i32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&format!("Uid:\t{uid}\t")) && !status.contains("State:\tZ")
    })
    .collect()
}

#[test]
fn a_labeller_that_dies_before_go_leaves_nothing() {
    if !able() {
        return;
    }
    let rig = Rig::new(1_911_000_004);
    let labeller = process::fork(|| {
        let _never = rig.launch(None, None, &mut |_| {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
            Ok(())
        });
        0
    })
    .unwrap();
    assert!(pidfd::wait_ended(&labeller.pidfd, 20_000).unwrap());
    assert_eq!(pidfd::reap(&labeller.pidfd), Some(pidfd::Exit::Signal(9)));
    assert_nobody(&[1_911_000_004, 1_921_000_004]);
}

#[test]
fn a_labeller_killed_at_any_time_before_go_leaves_nothing() {
    if !able() {
        return;
    }
    let rig = Rig::new(1_911_000_005);
    for delay in (0..12).map(|step| Duration::from_micros(step * 400)) {
        let labeller = process::fork(|| {
            let _never = rig.launch(None, None, &mut |_| {
                std::thread::sleep(TIMEOUT);
                Ok(())
            });
            0
        })
        .unwrap();
        std::thread::sleep(delay);
        labeller.end().unwrap();
        assert_nobody(&[1_911_000_005, 1_921_000_005]);
    }
}

#[test]
fn a_cgroup_limits_and_goes_away() {
    if !able() {
        return;
    }
    let host = CgroupHost::discover().unwrap();
    let rig = Rig::new(1_911_000_006);
    let limits = CgroupLimits {
        memory_max: 512 << 20,
        pids_max: 64,
        devices: vec![DeviceNode::Null],
        cpus: vec![],
        cpu_max: None,
        tuning: Default::default(),
    };
    let group = host.create(&rig.domain.uuid, &limits).unwrap();
    let launched = rig.launch(Some(&group), None, &mut |_| Ok(())).unwrap();
    until(&launched.control, |report| matches!(report, Report::Greeted));
    let member = fs::read_to_string(format!("/proc/{}/cgroup", launched.qemu.pid)).unwrap();
    for name in ["memory", "pids", "devices"] {
        let missing = group.unenforced().iter().any(|line| line.starts_with(&format!("cgroup {name}:")));
        let inside = member.lines().any(|line| {
            let named = line.split(':').nth(1).unwrap();
            line.contains(&rig.domain.uuid.to_string())
                && (named.is_empty() || named.split(',').any(|c| c == name))
        });
        assert!(inside || missing, "{name} is neither in force nor named: {member} {:?}", group.unenforced());
    }
    stop(&launched);
    host.remove(&rig.domain.uuid, &[]).unwrap();
    assert!(!host.existing().contains(&rig.domain.uuid.to_string()));
}

#[test]
fn a_cgroup_keeps_cpus_for_the_host() {
    if !able() {
        return;
    }
    let host = CgroupHost::discover().unwrap();
    let uuid = DomainUuid(uuid::Uuid::from_u64_pair(0x5918, u64::from(std::process::id())));
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let last: u32 = online.trim().rsplit(['-', ',']).next().unwrap().parse().unwrap();
    let limits = CgroupLimits {
        memory_max: 1 << 30,
        pids_max: 64,
        devices: vec![],
        cpus: vec![last],
        cpu_max: None,
        tuning: Default::default(),
    };
    let group = host.create(&uuid, &limits).unwrap();
    let missing = group.unenforced().iter().any(|line| line.starts_with("cgroup cpuset:"));
    // Forked first: a clone needs a process with one thread.
    let child = process::fork(|| {
        let body = || {
            for (_, mut file) in group.join_files() {
                file.write_all(b"0").unwrap();
            }
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
            i32::from(allowed.trim() == last.to_string())
        };
        let inner = svirt::sys::namespace::clone(Default::default(), group.unified(), body).unwrap();
        match pidfd::wait_ended(&inner.pidfd, 30_000).map(|_| pidfd::reap(&inner.pidfd)) {
            Ok(Some(pidfd::Exit::Code(code))) => code,
            _ => 99,
        }
    })
    .unwrap();
    assert!(pidfd::wait_ended(&child.pidfd, 30_000).unwrap());
    let ended = pidfd::reap(&child.pidfd);
    host.remove(&uuid, &[]).unwrap();
    if missing {
        eprintln!("skipped: needs a cpuset controller: {:?}", group.unenforced());
        return;
    }
    assert_eq!(ended, Some(pidfd::Exit::Code(1)), "it runs on that CPU alone");
}

#[test]
fn a_damaged_or_half_made_root_is_never_used() {
    if !able() {
        return;
    }
    let rig = Rig::new(1_911_000_007);
    let store = || RootStore::open(rig.dir.path(), 1_900_000_001).unwrap();
    assert_eq!(store().prepare(Path::new(QEMU)).unwrap(), rig.root, "an unchanged root is found again");
    let victim = rig.root.tree().join("usr/share/seabios/bios-256k.bin");
    fs::write(&victim, b"short").unwrap();
    let half = rig.dir.path().join("roots/.build-1");
    fs::create_dir(&half).unwrap();
    let again = store().prepare(Path::new(QEMU)).unwrap();
    assert!(fs::metadata(again.tree().join("usr/share/seabios/bios-256k.bin")).unwrap().len() > 5);
    assert!(!half.exists());
}

#[test]
fn a_cgroup_refuses_other_device_nodes() {
    if !able() {
        return;
    }
    let host = CgroupHost::discover().unwrap();
    let uuid = DomainUuid(uuid::Uuid::from_u64_pair(0x5917, u64::from(std::process::id())));
    let devices = vec![DeviceNode::Null, DeviceNode::Urandom];
    let group = host
        .create(
            &uuid,
            &CgroupLimits {
                memory_max: 1 << 30,
                pids_max: 64,
                devices,
                cpus: vec![],
                cpu_max: None,
                tuning: Default::default(),
            },
        )
        .unwrap();
    let missing = group.unenforced().iter().any(|line| line.starts_with("cgroup devices:"));
    let opens = |path: &str, write: bool| fs::File::options().read(true).write(write).open(path).is_ok();
    let body = || {
        for (_, mut file) in group.join_files() {
            file.write_all(b"0").unwrap();
        }
        let seen = [opens("/dev/null", true), opens("/dev/urandom", false), opens("/dev/zero", false)];
        let more = [opens("/dev/urandom", true), opens("/dev/full", true)];
        seen.into_iter().chain(more).enumerate().map(|(bit, open)| i32::from(open) << bit).sum()
    };
    // Forked first: a clone needs a process with one thread.
    let child = process::fork(|| {
        let inner = svirt::sys::namespace::clone(Default::default(), group.unified(), body).unwrap();
        match pidfd::wait_ended(&inner.pidfd, 5000).map(|_| pidfd::reap(&inner.pidfd)) {
            Ok(Some(pidfd::Exit::Code(code))) => code,
            _ => 99,
        }
    })
    .unwrap();
    assert!(pidfd::wait_ended(&child.pidfd, 5000).unwrap());
    let ended = pidfd::reap(&child.pidfd);
    host.remove(&uuid, &[]).unwrap();
    if missing {
        eprintln!("skipped: {:?}", group.unenforced());
        return;
    }
    assert_eq!(ended, Some(pidfd::Exit::Code(0b011)), "null and urandom open, the rest does not");
}
