//! A labeller of its own for each test: private directories, uids and cgroup names, and plans made by hand.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports
)]

#[path = "../common/bridge.rs"]
mod bridge;
#[path = "../common/install.rs"]
mod install;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use svirt::base::{CategoryPair, DomainName, DomainRef, DomainUuid, Slot};
use svirt::driver::DriverError;
use svirt::driver::Labeller;
use svirt::privsep::confinement::{
    BpfInsn, Confinement, LandlockAccess, LandlockRule, LandlockSpec, RootShmem, RootSpec, SeccompProgram,
};
use svirt::privsep::op::*;
use svirt::privsep::supervisor::{ConsoleSpec, Lifecycle, LifecycleAction, SupervisorSpec};
use svirt::sys::xattr::Remembered;
use svirt::sys::{landlock, pidfd, xattr};

use bridge::{Bridge, is_interface};
use install::Install;
pub use install::{QEMU, eventually, possible};

pub struct Rig {
    install: Install,
    pub labeller: Option<Child>,
    bridge: Option<Bridge>,
}

impl std::ops::Deref for Rig {
    type Target = Install;

    fn deref(&self) -> &Install {
        &self.install
    }
}

impl std::ops::DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut Install {
        &mut self.install
    }
}

/// Owner, group, mode, inode, labels and size of one file.
type FileState = (u32, u32, u32, u64, Option<Vec<Option<String>>>, u64);

/// What a start must leave as it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    files: BTreeMap<PathBuf, FileState>,
    mounts: Vec<String>,
    cgroups: Vec<String>,
    processes: Vec<u32>,
    interfaces: Vec<String>,
}

impl Snapshot {
    /// Takes one file out of the comparison; says whether it was there.
    pub fn without(&mut self, path: &Path) -> bool {
        self.files.remove(path).is_some()
    }
}

pub fn slot(name: &str) -> Slot {
    Slot::new(name).unwrap()
}

pub fn uuid(n: u128) -> DomainUuid {
    // Cgroup names come from the uuid, so other runs on this host must not have the same.
    DomainUuid(uuid::Uuid::from_u128((u128::from(std::process::id()) << 64) | n))
}

impl Rig {
    pub fn new() -> Self {
        let mut install = Install::new();
        install.settings.limits.start_timeout = 60;
        install.settings.shares.places = vec![install.text("shares")];
        install.settings.shmem.place = install.text("shmem");
        install.settings.shmem.total = 1 << 20;
        install.write();
        Self { install, labeller: None, bridge: None }
    }

    /// The same; where this host can make a bridge, plans have an interface on it.
    pub fn bridged() -> Self {
        let mut rig = Self::new();
        rig.bridge = Bridge::new();
        if let Some(bridge) = &rig.bridge {
            rig.install.settings.network.bridges = vec![bridge.name.clone()];
            rig.install.settings.network.taps = vec![format!("{}*", rig.tap(""))];
            rig.install.write();
        }
        rig
    }

    /// The name of that interface.
    fn tap(&self, n: impl std::fmt::Display) -> String {
        format!("svt{}{n}", self.first_uid)
    }

    /// Starts a labeller and waits until it listens, or has ended by a fault.
    pub fn serve(&mut self, fault: &str) {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.path("labeller.txt")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_svirt-labeller"))
            .arg("--config")
            .arg(self.path("svirt.toml"))
            .env("SVIRT_FAULT", fault)
            .env("SVIRT_LOG", "debug")
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        self.labeller = Some(child);
        let until = Instant::now() + Duration::from_secs(60);
        // A child of a killed predecessor may hold its socket for a moment, and takes connections that nobody serves.
        while Labeller::connect(&self.settings).and_then(|mut labeller| labeller.survey()).is_err() {
            if self.labeller.as_mut().unwrap().try_wait().unwrap().is_some() {
                return;
            }
            assert!(Instant::now() < until, "the labeller does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The pid of the labeller that serves.
    pub fn pid(&self) -> u32 {
        self.labeller.as_ref().unwrap().id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("labeller.txt")).unwrap_or_default()
    }

    pub fn client(&self) -> Labeller {
        Labeller::connect(&self.settings).unwrap()
    }

    /// Ends the labeller with a signal and waits for it.
    pub fn end_labeller(&mut self, signal: &str) {
        let mut child = self.labeller.take().unwrap();
        Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap();
        child.wait().unwrap();
    }

    /// Whether the labeller has died.
    pub fn labeller_is_dead(&mut self) -> bool {
        self.labeller.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    pub fn image(&self, name: &str) -> PathBuf {
        let path = self.path("images").join(name);
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// A plan for a QEMU without a machine: it answers its monitor and holds its image.
    pub fn plan(&self, n: u32, image: &Path) -> LaunchPlan {
        let found = std::fs::metadata(image).unwrap();
        let pair = CategoryPair::new(10, u16::try_from(20 + n).unwrap()).unwrap();
        let open = OpenImage {
            slot: slot("disk"),
            path: image.to_str().unwrap().into(),
            kind: ImageKind::File,
            access: Access::ReadWrite,
            direct: false,
            sharing: Sharing::Exclusive,
            identity: FileIdentity { device: found.dev(), inode: found.ino() },
        };
        let domain = DomainRef {
            name: DomainName::new(format!("vm{n}")).unwrap(),
            uuid: uuid((u128::from(self.first_uid) << 8) | u128::from(n)),
        };
        let mut plan = LaunchPlan {
            version: PLAN_VERSION,
            domain,
            notes: vec![],
            ops: vec![
                Op::LeaseUid { role: UidRole::Domain, uid: self.settings.uids.domains.first + n },
                Op::LeaseUid { role: UidRole::Supervisor, uid: self.settings.uids.supervisors.first + n },
                Op::LeaseCategories { pair },
                Op::Cgroup(CgroupLimits {
                    memory_max: 1 << 30,
                    pids_max: 64,
                    devices: vec![DeviceNode::Null],
                    cpus: vec![],
                    cpu_max: None,
                    tuning: Default::default(),
                }),
                Op::OpenImage(open),
                Op::LabelSelinux {
                    slot: slot("disk"),
                    label: format!("system_u:object_r:svirt_guest_image_t:s0:{pair}"),
                },
                Op::Channel { slot: slot("monitor"), peer: slot("monitor.peer") },
                Op::Channel { slot: slot("serial0"), peer: slot("serial0.peer") },
                Op::Listen { slot: slot("control"), at: ListenAt::Control },
                Op::Listen {
                    slot: slot("serial0.listen"),
                    at: ListenAt::Unix { path: self.text(&format!("sockets/{n}.sock")) },
                },
                Op::OpenLog {
                    slot: slot("serial0.log"),
                    path: self.text(&format!("log/{n}.log")),
                    append: false,
                },
                Op::Spawn(Box::new(self.spawn(n))),
            ],
        };
        self.plug(n, &mut plan.ops);
        plan
    }

    fn plug(&self, n: u32, ops: &mut Vec<Op>) {
        let Some(bridge) = &self.bridge else { return };
        let make = Op::MakeTap {
            slot: slot("net0"),
            bridge: bridge.name.clone(),
            name: self.tap(n),
            mac: [0xfe, 0x54, 0, 1, 2, 3],
            mtu: None,
        };
        ops.insert(ops.iter().position(|op| op.name() == "open-image").unwrap(), make);
        let Some(Op::Spawn(spawn)) = ops.last_mut() else { panic!("no spawn") };
        spawn.fds.push(FdGrant { slot: slot("net0"), number: 13 });
        spawn.argv.extend(["-netdev", "tap,id=net0,fd=13"].map(ToOwned::to_owned));
    }

    /// Gives a plan a directory that virtiofsd serves, where there is one; its other end is a port of the emulator's.
    /// Says whether it did.
    pub fn share(&self, n: u32, plan: &mut LaunchPlan) -> bool {
        let found = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"].map(Path::new);
        let Some(program) = found.into_iter().find(|path| path.exists()) else {
            println!("skipped in part: needs virtiofsd");
            return false;
        };
        let place = self.path("shares");
        std::fs::create_dir_all(&place).unwrap();
        let uid = self.settings.uids.helpers.first + n;
        let server = SpawnVirtiofsd {
            alias: "fs0".into(),
            slot: slot("fs0.peer"),
            share: slot("fs0.share"),
            uid,
            program: program.to_str().unwrap().into(),
            cache: None,
            xattr: false,
            posix_lock: false,
            flock: false,
            threads: None,
            selinux_label: None,
        };
        let open = Op::OpenShare {
            slot: slot("fs0.share"),
            path: place.to_str().unwrap().into(),
            access: Access::ReadWrite,
            identity: {
                let found = std::fs::metadata(&place).unwrap();
                FileIdentity { device: found.dev(), inode: found.ino() }
            },
        };
        let ops = &mut plan.ops;
        let Some(Op::Spawn(spawn)) = ops.last_mut() else { panic!("no spawn") };
        spawn.argv.extend(["-chardev".into(), "socket,id=fs0,fd=14".into()]);
        spawn.fds.push(FdGrant { slot: slot("fs0"), number: 14 });
        ops.insert(ops.len() - 1, Op::SpawnVirtiofsd(Box::new(server)));
        let at = |ops: &[Op], name: &str| ops.iter().position(|op| op.name() == name).unwrap();
        let (listen, image) = (at(ops, "listen"), at(ops, "open-image"));
        ops.insert(listen, Op::Meeting { slot: slot("fs0"), peer: slot("fs0.peer") });
        ops.insert(image, open);
        ops.insert(0, Op::LeaseUid { role: UidRole::Helper, uid });
        true
    }

    /// Gives a plan memory that it shares with whoever names it alike.
    pub fn shmem(&self, plan: &mut LaunchPlan) {
        let ops = &mut plan.ops;
        let Some(Op::Spawn(spawn)) = ops.last_mut() else { panic!("no spawn") };
        let root = &mut spawn.confinement;
        root.root.shmems.push(RootShmem { slot: slot("shmem0.memory"), number: 0 });
        let access = vec![LandlockAccess::ReadFile, LandlockAccess::WriteFile];
        root.landlock.rules.push(LandlockRule { path: RootShmem::path(0), access });
        let image = ops.iter().position(|op| op.name() == "open-image").unwrap();
        let open = Op::OpenShmem {
            slot: slot("shmem0.memory"),
            name: "region".into(),
            size: 1 << 20,
            selinux_label: None,
        };
        ops.insert(image, open);
    }

    fn spawn(&self, n: u32) -> Spawn {
        let allow = SeccompProgram(vec![BpfInsn(6, 0, 0, 0x7fff_0000)]);
        let uid = self.settings.uids.domains.first + n;
        let argv = [
            QEMU,
            "-M",
            "none",
            "-accel",
            "tcg",
            "-S",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-chardev",
            "socket,id=mon,fd=10",
            "-mon",
            "chardev=mon,mode=control",
            "-chardev",
            "socket,id=serial0,fd=12",
            "-add-fd",
            "fd=11,set=1",
            "-blockdev",
            "driver=file,node-name=disk,filename=/dev/fdset/1,locking=off",
        ];
        let grant = |name: &str, number| FdGrant { slot: slot(name), number };
        Spawn {
            program: QEMU.into(),
            argv: argv.map(ToOwned::to_owned).into(),
            env: vec![("LC_ALL".into(), "C".into())],
            fds: vec![grant("monitor", 10), grant("disk", 11), grant("serial0", 12)],
            confinement: Confinement {
                uid,
                gid: uid,
                groups: Vec::new(),
                root: RootSpec {
                    files: vec![],
                    devices: vec![DeviceNode::Null],
                    shares: vec![],
                    shmems: vec![],
                },
                landlock: LandlockSpec {
                    abi: landlock::kernel_abi().min(5),
                    rules: vec![
                        LandlockRule {
                            path: "/".into(),
                            access: vec![
                                LandlockAccess::Execute,
                                LandlockAccess::ReadFile,
                                LandlockAccess::ReadDir,
                            ],
                        },
                        LandlockRule {
                            path: "/dev/null".into(),
                            access: vec![LandlockAccess::ReadFile, LandlockAccess::WriteFile],
                        },
                    ],
                },
                rlimits: vec![],
                selinux_exec: None,
                seccomp: allow.clone(),
            },
            placement: svirt::privsep::placement::Placement::default(),
            supervisor: SupervisorSpec {
                uid: self.settings.uids.supervisors.first + n,
                selinux_label: None,
                seccomp: allow,
                fds: vec![
                    grant("monitor.peer", 10),
                    grant("control", 11),
                    grant("serial0.peer", 12),
                    grant("serial0.listen", 13),
                    grant("serial0.log", 14),
                ],
                consoles: vec![ConsoleSpec {
                    alias: "serial0".into(),
                    channel: slot("serial0.peer"),
                    pty: None,
                    listen: Some(slot("serial0.listen")),
                    log: Some(slot("serial0.log")),
                }],
                vncs: vec![],
                start_paused: false,
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

    /// Everything on this host that a start touches.
    pub fn snapshot(&self) -> Snapshot {
        let mut files = BTreeMap::new();
        for name in ["images", "boot", "log", "sockets", "shmem", "run/control", "state/journal"] {
            let Ok(entries) = std::fs::read_dir(self.path(name)) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                let found = std::fs::symlink_metadata(&path).unwrap();
                let regular = found.is_file().then(|| std::fs::File::open(&path).ok()).flatten();
                let label = regular.map(|f| attributes(&f));
                files
                    .insert(path, (found.uid(), found.gid(), found.mode(), found.ino(), label, found.size()));
            }
        }
        let mounts = self.mounts(Some("/svirt"));
        let cgroups = Install::cgroups(&format!("{:x}", self.first_uid));
        // One image probe always waits.
        let processes = self
            .uids()
            .filter(|uid| *uid != self.settings.uids.imageprobe)
            .filter(|uid| !pidfd::of_uid(*uid).unwrap().is_empty())
            .collect();
        let mut interfaces = self.bridge.as_ref().map(Bridge::ports).unwrap_or_default();
        interfaces.extend((1..=2).map(|n| self.tap(n)).filter(|tap| is_interface(tap)));
        Snapshot { files, mounts, cgroups, processes, interfaces }
    }

    /// The labeller's view is empty, or not, as expected.
    pub fn assert_nothing_leased_unless(&self, started: bool) {
        if !started {
            self.assert_nothing_leased();
        }
    }

    /// The labeller's view is empty.
    pub fn assert_nothing_leased(&self) {
        let survey = self.client().survey().unwrap();
        assert!(survey.uids.is_empty() && survey.pairs.is_empty() && survey.domains.is_empty(), "{survey:?}");
    }

    pub fn label(&self, path: &Path) -> Option<String> {
        xattr::selinux_label(std::fs::File::open(path).unwrap()).unwrap()
    }

    pub fn set_label(&self, path: &Path, label: &str) {
        xattr::set_selinux_label(std::fs::File::open(path).unwrap(), Some(label)).unwrap();
    }
}

/// The label of an object, and what libvirt and svirt remember of it.
pub fn attributes(file: &std::fs::File) -> Vec<Option<String>> {
    let mut all = vec![xattr::selinux_label(file).unwrap()];
    for which in [Remembered::Label, Remembered::Count, Remembered::Boot, Remembered::Mark] {
        all.push(xattr::remembered(file, which).unwrap());
    }
    all
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut child) = self.labeller.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for uid in self.uids() {
            pidfd::of_uid(uid).unwrap_or_default().into_iter().for_each(install::kill);
        }
    }
}

pub fn rule(error: &DriverError) -> String {
    match error {
        DriverError::Refused(refused) => refused.refusal.to_string(),
        other => other.to_string(),
    }
}
