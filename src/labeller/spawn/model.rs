//! The device model's way from its clone to its exec: `Q`.
//!
//! ```text
//! cgroup -> exec label -> mounts, root -> descriptors -> rlimits -> bounding set -> ids -> capabilities
//!   -> no_new_privs -> Landlock -> floor filter -> [ready, go] -> plan's filter -> listener handed over -> exec
//! ```
//! Until the labeller says go, the end of the labeller or of `S` ends this process too: by the parent-death
//! signal at first, and where the change of uid has cleared that, because nobody can say go any more.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::common::{self, Command, Fds, fd};
use super::report::{self, At, Failure, SpawnError, Step, Who};
use crate::labeller::cgroup::DomainCgroup;
use crate::labeller::root::PreparedRoot;
use crate::privsep::confinement::{
    LANDLOCK_FULL, Rlimit, RlimitKind, RootShare, RootShmem, RootSpec, landlock_missing,
};
use crate::privsep::op::{DeviceNode, Spawn};
use crate::privsep::placement::{MemoryMode, MemoryNodes};
use crate::sys::landlock::Allow;
use crate::sys::mount::{self, MountLimits};
use crate::sys::namespace::{self, Namespaces};
use crate::sys::path::Found;
use crate::sys::seccomp::Instruction;
use crate::sys::{apparmor, landlock, process, rlimit, sched, scm, seccomp, selinux};

/// Everything that the device model's process needs, made by the labeller before any fork.
pub(super) struct Model<'a> {
    command: Command,
    uid: u32,
    gid: u32,
    groups: &'a [u32],
    selinux: Option<&'a str>,
    apparmor: Option<&'a str>,
    root: RootMounts,
    cgroup: Option<&'a DomainCgroup>,
    net: Option<OwnedFd>,
    placed: Vec<(RawFd, RawFd)>,
    memory: Option<(sched::Policy, &'a [u32])>,
    rlimits: Vec<(rlimit::Kind, Option<u64>)>,
    landlock: Vec<(String, Allow)>,
    abi: u32,
    filter: Vec<Instruction>,
    null: OwnedFd,
}

/// The detached mounts that make up one minimal root.
struct RootMounts {
    tree: OwnedFd,
    place: PathBuf,
    parts: Vec<(OwnedFd, String)>,
    /// Shared directories: descriptors of detached mounts that the labeller holds, and their places.
    shares: Vec<(RawFd, String)>,
}

impl<'a> Model<'a> {
    pub(super) fn prepare(
        spawn: &'a Spawn,
        (fds, profile): (&Fds, Option<&'a str>),
        root: &PreparedRoot,
        cgroup: Option<&'a DomainCgroup>,
        net: Option<OwnedFd>,
        degraded: &mut Vec<String>,
    ) -> Result<Self, SpawnError> {
        let held = &spawn.confinement;
        // Every right that the kernel knows is handled, whatever a plan says: only its rules give any back.
        let abi = landlock::effective_abi(u32::MAX);
        degraded.extend(landlock_missing(abi, LANDLOCK_FULL));
        Ok(Self {
            command: Command::new(&spawn.program, &spawn.argv, &spawn.env)?,
            uid: held.uid,
            gid: held.gid,
            groups: kvm_group(&held.groups)?,
            selinux: held.selinux_exec.as_deref(),
            apparmor: profile,
            root: RootMounts::make((&held.root, held.uid), fds, root, held.selinux_exec.is_some())?,
            cgroup,
            net,
            placed: common::grants(fds, &spawn.fds, 3)?,
            memory: spawn.placement.memory.as_ref().map(memory),
            rlimits: common::rlimits(&with_floor(&held.rlimits), degraded),
            landlock: common::landlock_rules(&held.landlock),
            abi,
            filter: common::instructions(&held.seccomp),
            null: common::open_null()?,
        })
    }

    pub(super) fn namespaces(&self) -> Namespaces {
        // The cgroup namespace takes its root from where the process is, so it comes after the move.
        Namespaces { ipc: true, mount: true, net: self.net.is_none(), pid: true, uts: true, cgroup: false }
    }

    pub(super) fn cgroup_dir(&self) -> Option<BorrowedFd<'_>> {
        self.cgroup.and_then(DomainCgroup::unified)
    }

    /// Runs in the clone; returns its exit status where exec did not happen.
    pub(super) fn run(&self, report: BorrowedFd<'_>, handoff: BorrowedFd<'_>, stderr: BorrowedFd<'_>) -> i32 {
        let mut kept = [report.as_raw_fd(), handoff.as_raw_fd()];
        match self.go(&mut kept, stderr) {
            Ok(never) => match never {},
            Err(failure) => common::failed(kept[0], Who::DeviceModel, &failure),
        }
    }

    fn go(&self, kept: &mut [RawFd; 2], stderr: BorrowedFd<'_>) -> Result<std::convert::Infallible, Failure> {
        process::die_with_parent(true).at(Step::Prepare)?;
        process::new_session().at(Step::Prepare)?;
        process::reset_signals().at(Step::Prepare)?;
        self.enter()?;
        let mut placed = self.placed.clone();
        placed.extend([(self.null.as_raw_fd(), 0), (stderr.as_raw_fd(), 1), (stderr.as_raw_fd(), 2)]);
        process::place_fds(&placed, kept).at(Step::Descriptors)?;
        let [report, handoff] = &*kept;
        if let Some((policy, nodes)) = self.memory {
            sched::set_memory_nodes(policy, nodes).at(Step::Memory)?;
        }
        let ruleset = || common::ruleset(&self.landlock, self.abi);
        common::give_up((self.uid, self.gid, self.groups), &self.rlimits, ruleset, true)?;
        wait_for_go(report)?;
        let (argv, env) = (self.command.argv(), self.command.env());
        let listener = seccomp::load_with_listener(&self.filter).at(Step::Filter)?;
        scm::send(fd(handoff), b"listener", &[listener.as_fd()]).at(Step::Handoff)?;
        // A listener in the filtered process itself would keep it alive after the supervisor is gone.
        drop(listener);
        Err(Failure {
            step: Step::Exec,
            source: process::exec(&self.command.program, &argv, &env),
            detail: String::new(),
        })
    }

    /// Cgroup, namespaces and root.
    fn enter(&self) -> Result<(), Failure> {
        if let Some(cgroup) = self.cgroup {
            for (name, file) in cgroup.join_files() {
                // 0 is whoever writes.
                (&*file).write_all(b"0").at_object(Step::Cgroup, name)?;
            }
        }
        namespace::unshare(Namespaces { cgroup: true, ..Default::default() }).at(Step::Cgroup)?;
        if let Some(net) = &self.net {
            namespace::join_net(net.as_fd()).at(Step::Network)?;
        }
        if let Some(context) = self.selinux {
            selinux::set_exec_context(context).at_object(Step::ExecLabel, context)?;
        }
        if let Some(profile) = self.apparmor {
            apparmor::set_exec_profile(profile).at_object(Step::Profile, profile)?;
        }
        self.root.enter()?;
        namespace::set_hostname("guest").at_object(Step::Root, "host name")?;
        process::set_umask(0o077);
        Ok(())
    }
}

/// A plan's nodes in the kernel's words.
fn memory(memory: &MemoryNodes) -> (sched::Policy, &[u32]) {
    let policy = match memory.mode {
        MemoryMode::Interleave => sched::Policy::Interleave,
        MemoryMode::Preferred => sched::Policy::Preferred,
        MemoryMode::Strict => sched::Policy::Bind,
    };
    (policy, &memory.nodes)
}

/// A plan's limits, and the ones that hold where it names none.
fn with_floor(wanted: &[Rlimit]) -> Vec<Rlimit> {
    // A core would hold the guest's memory.
    let floor = [(RlimitKind::Core, 0), (RlimitKind::Msgqueue, 0), (RlimitKind::Nproc, 65_536)];
    let missing = floor.iter().filter(|(kind, _)| wanted.iter().all(|limit| limit.resource != *kind));
    let missing = missing.map(|(resource, value)| Rlimit { resource: *resource, value: Some(*value) });
    wanted.iter().copied().chain(missing).collect()
}

/// Tells the labeller that all is ready, and waits for its word; without one this process must not go on.
fn wait_for_go(report: &RawFd) -> Result<(), Failure> {
    report::send_ready(fd(report)).at(Step::Go)?;
    let mut word = [0; 8];
    let (length, _) = scm::recv(fd(report), &mut word).at(Step::Go)?;
    if length == 0 {
        return Err(std::io::Error::from_raw_os_error(libc::EPIPE)).at(Step::Go);
    }
    // From here on neither the labeller's nor the supervisor's end may end the guest.
    process::die_with_parent(false).at(Step::Prepare)
}

impl RootMounts {
    fn make(
        (spec, uid): (&RootSpec, u32),
        fds: &Fds,
        root: &PreparedRoot,
        selinux: bool,
    ) -> Result<Self, SpawnError> {
        let place = root.tree().to_path_buf();
        let own = |action| SpawnError::own(action, &place);
        let tree = mount::clone_path(&place).map_err(own("clone the minimal root"))?;
        // SELinux changes no context at exec on a nosuid mount; no_new_privs holds against set-user-id anyway.
        let limits = MountLimits { nodev: true, noexec: false, nosuid: !selinux, readonly: true };
        mount::limit(tree.as_fd(), limits).map_err(own("limit the minimal root"))?;
        let mut parts = Vec::new();
        for node in &spec.devices {
            parts.push((device(*node)?, device_place(*node).1.to_owned()));
        }
        for file in &spec.files {
            let source = fds.get(&file.slot).ok_or_else(|| SpawnError::MissingSlot(file.slot.clone()))?;
            let mounted = mount::clone_fd(source.as_fd()).map_err(own("mount a file into"))?;
            let limits = MountLimits { nodev: true, noexec: true, nosuid: true, readonly: true };
            mount::limit(mounted.as_fd(), limits).map_err(own("limit a file of"))?;
            if file.place.is_fw_cfg() {
                show_owner(&mounted, source, uid);
            }
            parts.push((mounted, file.place.path().trim_start_matches('/').to_owned()));
        }
        for shmem in &spec.shmems {
            let source = fds.get(&shmem.slot).ok_or_else(|| SpawnError::MissingSlot(shmem.slot.clone()))?;
            let mounted = mount::clone_fd(source.as_fd()).map_err(own("mount shared memory into"))?;
            let limits = MountLimits { nodev: true, noexec: true, nosuid: true, readonly: false };
            mount::limit(mounted.as_fd(), limits).map_err(own("limit shared memory of"))?;
            parts.push((mounted, RootShmem::path(shmem.number).trim_start_matches('/').to_owned()));
        }
        let mut shares = Vec::new();
        for share in &spec.shares {
            let mounted = fds.get(&share.slot).ok_or_else(|| SpawnError::MissingSlot(share.slot.clone()))?;
            shares.push((mounted.as_raw_fd(), RootShare::path(share.number)));
        }
        Ok(Self { tree, place, parts, shares })
    }

    fn enter(&self) -> Result<(), Failure> {
        mount::make_private().at_object(Step::Root, "private")?;
        let root = mount::attach_over(self.tree.as_fd(), &self.place).at_object(Step::Root, "attach")?;
        for (part, place) in &self.parts {
            mount::attach(part.as_fd(), root.as_fd(), place).at_object(Step::Root, place)?;
        }
        for (share, place) in &self.shares {
            let place = place.trim_start_matches('/');
            mount::attach(fd(share), root.as_fd(), place).at_object(Step::Root, place)?;
        }
        mount::change_root(&root).at_object(Step::Root, "pivot")?;
        if self.shares.is_empty() {
            return Ok(());
        }
        // QEMU reaches attributes and modes of what it has open in them through /proc/self/fd.
        mount::processes("/proc", false).at_object(Step::Root, "/proc")
    }
}

/// Shows a file's owner as the device model, so that one that only its owner may read need not be everybody's. Where
/// the file system or the kernel has no mapped owners, the file's mode decides alone.
fn show_owner(mounted: &OwnedFd, source: &OwnedFd, uid: u32) {
    let mapped = Found::of(source).and_then(|found| {
        let users = namespace::new_user(&[(found.uid, uid, 1)], &[(found.gid, uid, 1)])?;
        mount::map_owners(mounted.as_fd(), users.as_fd())
    });
    if let Err(error) = mapped {
        tracing::debug!(%error, "a file is shown with its own owner");
    }
}

/// Path on the host, path in the root, and device number of a node.
fn device_place(node: DeviceNode) -> (&'static str, &'static str, (u32, u32)) {
    match node {
        DeviceNode::Kvm => ("/dev/kvm", "dev/kvm", (10, 232)),
        DeviceNode::Null => ("/dev/null", "dev/null", (1, 3)),
        DeviceNode::Urandom => ("/dev/urandom", "dev/urandom", (1, 9)),
    }
}

/// The groups of a plan, which may hold the one of `/dev/kvm` and no other.
fn kvm_group(groups: &[u32]) -> Result<&[u32], SpawnError> {
    if groups.is_empty() {
        return Ok(groups);
    }
    let (host, ..) = device_place(DeviceNode::Kvm);
    let own = || SpawnError::own("take the group of", Path::new(host));
    let owner = rustix::fs::stat(host).map_err(|error| own()(error.into()))?.st_gid;
    if owner == 0 || groups != [owner] {
        return Err(own()(std::io::Error::from_raw_os_error(libc::EPERM)));
    }
    Ok(groups)
}

/// A mount of one of the host's device nodes, and of no other object that stands under its name.
fn device(node: DeviceNode) -> Result<OwnedFd, SpawnError> {
    let (host, _, number) = device_place(node);
    let own = |action| SpawnError::own(action, Path::new(host));
    let mounted = mount::clone_path(Path::new(host)).map_err(own("mount the device"))?;
    let stat = rustix::fs::fstat(&mounted).map_err(|error| own("examine the device")(error.into()))?;
    let found = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if !FileType::from_raw_mode(stat.st_mode).is_char_device() || found != number {
        return Err(own("mount the device")(std::io::Error::from_raw_os_error(libc::ENODEV)));
    }
    // Writing to a device node is no write to the file system: a read-only mount does not hinder it.
    let limits = MountLimits { nodev: false, noexec: true, nosuid: true, readonly: true };
    mount::limit(mounted.as_fd(), limits).map_err(own("limit the device"))?;
    Ok(mounted)
}
