//! The launcher that starts real processes: `spawn`, `root` and `cgroup` behind the door of `launcher`.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cgroup::{CgroupHost, DomainCgroup};
use super::launcher::{HelperLabels, LaunchRequest, Launcher};
use super::root::RootStore;
use super::spawn::{self, Helper, Jail, Launching};
use super::virtiofsd::{self, Flavour};
use super::{passt, swtpm};
use crate::base::{DomainRef, DomainUuid, Layer, Refusal};
use crate::filter::own;
use crate::privsep::confinement::{Rlimit, RlimitKind};
use crate::privsep::helper::{PASST_LIMITS, SWTPM_LIMITS, VIRTIOFSD_LIMITS};
use crate::privsep::op::{CgroupLimits, SpawnVirtiofsd, TpmVersion};
use crate::settings::{Settings, UidRange};
use crate::sys::landlock::Allow;
use crate::sys::namespace::{Namespaces, new_user};
use crate::sys::process::Child;
use crate::sys::rlimit;

/// How long a new process may take to the start of its program.
const TO_EXEC: Duration = Duration::from_secs(10);

/// What starts need, prepared once.
struct Real {
    roots: RootStore,
    host: CgroupHost,
    supervisor: PathBuf,
    passt: PathBuf,
    swtpm: PathBuf,
    /// What the program of each path was when it was asked: device, inode, time of change.
    servers: BTreeMap<PathBuf, ((u64, u64, i64), Flavour)>,
    /// Users of guests.
    guests: UidRange,
    /// The uid of what is only asked.
    asked: u32,
    /// Whether guests reach the host's loopback through passt.
    host_loopback: bool,
    /// Cgroups that were made and whose processes are not started yet.
    cgroups: BTreeMap<DomainUuid, DomainCgroup>,
    /// A network namespace made ahead of the next start.
    net: Option<OwnedFd>,
}

/// Prepares for starts.
pub(super) fn launcher(settings: &Settings, libexec: &Path) -> io::Result<Box<dyn Launcher>> {
    let roots = RootStore::open(Path::new(&settings.paths.cache), settings.uids.imageprobe)
        .map_err(io::Error::other)?;
    Ok(Box::new(Real {
        roots,
        host: CgroupHost::discover().map_err(io::Error::other)?,
        supervisor: libexec.join("svirt-supervisor"),
        passt: PathBuf::from(&settings.network.passt),
        swtpm: PathBuf::from(&settings.tpm.swtpm),
        servers: BTreeMap::new(),
        guests: settings.uids.guests,
        asked: settings.uids.imageprobe,
        host_loopback: settings.network.host_loopback,
        cgroups: BTreeMap::new(),
        net: None,
    }))
}

impl Real {
    fn flavour(&mut self, program: &Path, context: Option<&str>) -> Result<Flavour, Refusal> {
        use std::os::unix::fs::MetadataExt as _;
        let refuse = |rule: String| {
            let remedy =
                "install it (Debian 12: qemu-system-common, later: virtiofsd), or correct shares.virtiofsd";
            Refusal::new(Layer::Configuration, "start", program.display().to_string(), rule, remedy)
        };
        let found = std::fs::metadata(program).map_err(|error| refuse(error.to_string()))?;
        let identity = (found.dev(), found.ino(), found.ctime());
        if let Some((_, flavour)) = self.servers.get(program).filter(|(known, _)| *known == identity) {
            return Ok(*flavour);
        }
        let flavour = Flavour::ask(program, self.asked, context).map_err(|error| error.refusal())?;
        let flavour = flavour.ok_or_else(|| refuse("it does not say that it serves file systems".into()))?;
        self.servers.insert(program.to_owned(), (identity, flavour));
        Ok(flavour)
    }
}

impl Launcher for Real {
    fn make_cgroup(
        &mut self,
        uuid: DomainUuid,
        limits: &CgroupLimits,
    ) -> Result<(Option<String>, Vec<String>), Refusal> {
        let cgroup = self.host.create(&uuid, limits).map_err(|error| error.refusal())?;
        let path = cgroup.path().map(ToOwned::to_owned);
        self.cgroups.insert(uuid, cgroup);
        // What it does not enforce comes back with the start.
        Ok((path, Vec::new()))
    }

    fn cgroup_directories(&self, uuid: DomainUuid) -> Vec<PathBuf> {
        self.host.directories(&uuid)
    }

    fn tune_cgroup(
        &mut self,
        uuid: DomainUuid,
        directories: &[PathBuf],
        limits: &CgroupLimits,
    ) -> Result<Child, Refusal> {
        self.host.tune(&uuid, directories, limits).map_err(|error| error.refusal())
    }

    fn remove_cgroup(&mut self, uuid: DomainUuid, directories: &[PathBuf]) -> io::Result<()> {
        self.cgroups.remove(&uuid);
        self.host.remove(&uuid, directories).map_err(io::Error::other)
    }

    fn supervisor(&self) -> &Path {
        &self.supervisor
    }

    fn passt(
        &mut self,
        domain: &DomainRef,
        channel: &OwnedFd,
        uid: u32,
        labels: HelperLabels<'_>,
        cgroup: &[PathBuf],
    ) -> Result<Child, Refusal> {
        if let Some((rule, remedy)) = passt::missing() {
            return Err(Refusal::new(
                Layer::Kernel,
                "start passt for",
                domain.name.to_string(),
                rule,
                remedy,
            ));
        }
        let argv = passt::argv(self.host_loopback);
        // One that follows another finds the cgroup as the start left it.
        let opened = match self.cgroups.contains_key(&domain.uuid) {
            true => None,
            false => Some(self.host.open(&domain.uuid, cgroup).map_err(|error| error.refusal())?),
        };
        spawn::helper(&Helper {
            program: &self.passt,
            argv: &argv,
            env: &[("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            uid,
            fds: &[(channel.as_fd(), passt::CHANNEL)],
            // passt moves itself into its own namespaces and an empty root, and loads its own filter.
            reach: None,
            cgroup: self.cgroups.get(&domain.uuid).or(opened.as_ref()),
            rlimits: PASST_LIMITS,
            // The one that it does not give itself in the foreground.
            namespaces: Namespaces { pid: true, ..Namespaces::default() },
            selinux_exec: labels.selinux,
            apparmor_exec: labels.apparmor,
            seccomp: None,
            die_with_labeller: false,
            timeout: TO_EXEC,
        })
        .map_err(|error| error.refusal())
    }

    fn swtpm(
        &mut self,
        domain: &DomainRef,
        (channel, state): (&OwnedFd, &OwnedFd),
        uid: u32,
        version: TpmVersion,
        labels: HelperLabels<'_>,
    ) -> Result<Child, Refusal> {
        let argv = swtpm::argv(version);
        // Opened anew under its own name for the descriptor; Landlock sees the file behind it.
        let name = PathBuf::from(format!("/proc/self/fd/{}", swtpm::STATE));
        let reach = [(
            name.as_path(),
            Allow { read_file: true, write_file: true, truncate: true, ..Allow::default() },
        )];
        spawn::helper(&Helper {
            program: &self.swtpm,
            argv: &argv,
            env: &[],
            uid,
            fds: &[(channel.as_fd(), swtpm::CHANNEL), (state.as_fd(), swtpm::STATE)],
            reach: Some(&reach),
            cgroup: self.cgroups.get(&domain.uuid),
            rlimits: SWTPM_LIMITS,
            // It has two descriptors and needs no other way to anybody.
            namespaces: Namespaces { ipc: true, net: true, uts: true, ..Namespaces::default() },
            selinux_exec: labels.selinux,
            apparmor_exec: labels.apparmor,
            seccomp: None,
            die_with_labeller: false,
            timeout: TO_EXEC,
        })
        .map_err(|error| error.refusal())
    }

    fn virtiofsd(
        &mut self,
        domain: &DomainRef,
        server: &SpawnVirtiofsd,
        (listener, share): (&OwnedFd, &OwnedFd),
        labels: HelperLabels<'_>,
    ) -> Result<Child, Refusal> {
        let program = Path::new(&server.program);
        let flavour = self.flavour(program, server.selinux_label.as_deref())?;
        let root = self.roots.prepare_server(program).map_err(|error| error.refusal(program))?;
        let kernel = |error: io::Error| {
            let name = program.display().to_string();
            Refusal::new(Layer::Namespace, "make a user namespace for", name, error.to_string(), "")
        };
        // 0 is the owner of the share; the others own what they make under numbers that nobody else has.
        let others = (1, self.guests.first.saturating_add(1), self.guests.count.saturating_sub(1));
        let ids: Vec<_> = [(0, server.uid, 1), others].into_iter().filter(|ids| ids.2 > 0).collect();
        let users = new_user(&ids, &ids).map_err(kernel)?;
        let filter = own::virtiofsd().map_err(|error| kernel(io::Error::other(error)))?;
        let filter: Vec<_> = filter.0.iter().map(|i| (i.0, i.1, i.2, i.3)).collect();
        // One for each file that the guest knows.
        let files = rlimit::hard(rlimit::Kind::Nofile).unwrap_or(1 << 20).min(1 << 20);
        let mut limits = VIRTIOFSD_LIMITS.to_vec();
        limits.push(Rlimit { resource: RlimitKind::Nofile, value: Some(files) });
        spawn::jail(&Jail {
            program,
            argv: &flavour.argv(server),
            root: &root,
            share: share.as_fd(),
            users: users.as_fd(),
            capabilities: &flavour.capabilities(),
            fds: &[(listener.as_fd(), virtiofsd::LISTENER)],
            cgroup: self.cgroups.get(&domain.uuid),
            rlimits: &limits,
            selinux_exec: labels.selinux,
            apparmor_exec: labels.apparmor,
            seccomp: &filter,
            timeout: TO_EXEC,
        })
        .map_err(|error| error.refusal())
    }

    fn launch(&mut self, request: &LaunchRequest<'_>) -> Result<Launching, Refusal> {
        let program = Path::new(&request.spawn.program);
        let root = self.roots.prepare(program).map_err(|error| error.refusal(program))?;
        let cgroup = self.cgroups.remove(&request.domain.uuid);
        spawn::launch(spawn::Launch {
            domain: request.domain,
            spawn: request.spawn,
            fds: request.slots,
            profile: request.profile.as_deref(),
            root: &root,
            cgroup: cgroup.as_ref(),
            net: self.net.take(),
            supervisor: &self.supervisor,
            passwords: request.passwords,
            timeout: TO_EXEC,
        })
        .map_err(|error| error.refusal())
    }

    fn take_over(
        &mut self,
        request: &LaunchRequest<'_>,
        device_model: &Child,
        stderr: Option<&OwnedFd>,
    ) -> Result<(Child, OwnedFd), Refusal> {
        let Some(stderr) = stderr else {
            let rule = "the last supervisor's descriptors are gone";
            let name = request.domain.name.to_string();
            return Err(Refusal::new(Layer::Kernel, "take over the monitor of", name, rule, ""));
        };
        spawn::take_over(&spawn::Takeover {
            domain: request.domain,
            spec: &request.spawn.supervisor,
            fds: request.slots,
            profiled: request.profile.is_some(),
            qemu_pid: device_model.pid,
            qemu: device_model.pidfd.as_fd(),
            stderr: stderr.as_fd(),
            supervisor: &self.supervisor,
            timeout: TO_EXEC,
        })
        .map_err(|error| error.refusal())
    }

    fn idle(&mut self) {
        if self.net.is_none() {
            self.net = spawn::spare_net().ok();
        }
    }
}
