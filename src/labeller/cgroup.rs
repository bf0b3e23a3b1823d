//! The cgroup of each domain: limits on memory, threads and device nodes.
//!
//! A domain's cgroup is the directory `svirt-UUID` below the labeller's own, in the unified hierarchy and in every
//! version 1 hierarchy that has one of the controllers. What the host does not delegate is named, never silently left out.
//!
//! A later labeller may be in another cgroup: whoever opens or removes a domain's cgroup gives the directories that were
//! written down when it was made.

mod tune;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::{CgroupLimits, DeviceNode};
use crate::sys::{bpf, cgroup};

/// How long the removal of a domain's cgroup, in all hierarchies, waits for the last process to be gone; nobody else is
/// served meanwhile.
const REMOVE_BY: Duration = Duration::from_secs(1);
const REMOVE_PAUSE: Duration = Duration::from_millis(10);
/// Why a directory is left alone.
const UNKNOWN: &str = "this is no cgroup of the domain's in any hierarchy that is mounted here";

/// Why a cgroup could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub struct CgroupError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl CgroupError {
    /// What a person is told.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let remedy = "run the labeller as a unit with Delegate=yes, and end what else is in that cgroup";
        let path = self.path.display().to_string();
        Refusal::new(Layer::Cgroup, self.action, path, self.source.to_string(), remedy)
    }
}

fn at<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T, CgroupError> {
    result.map_err(|source| CgroupError { action, path: path.to_path_buf(), source })
}

/// The version 1 controllers that have limits here.
const CONTROLLERS: [&str; 6] = ["blkio", "cpu", "cpuset", "devices", "memory", "pids"];

/// Where the labeller's own cgroups are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupHost {
    /// The unified hierarchy.
    unified: Option<Own>,
    /// Version 1, by controller.
    legacy: Vec<(&'static str, Own)>,
}

/// The labeller's cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    directory: PathBuf,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// Whether the service manager starts labellers in a cgroup of their own below it (`DelegateSubgroup=`).
    apart: bool,
}

/// The cgroup below its own one that the labeller has for itself where controllers want no process beside their children;
/// the unit's `DelegateSubgroup=`.
const LEAF: &str = "labeller";

/// The cgroup of one domain.
#[derive(Debug)]
pub struct DomainCgroup {
    unified: Option<File>,
    join: Vec<(&'static str, File)>,
    path: Option<String>,
    unenforced: Vec<String>,
}

impl DomainCgroup {
    /// The directory in the unified hierarchy that a process can be cloned into.
    #[must_use]
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Controller and open `tasks` of each version 1 hierarchy.
    pub fn join_files(&self) -> impl Iterator<Item = (&'static str, &File)> {
        self.join.iter().map(|(name, file)| (*name, file))
    }

    /// Relative to the mount of the unified hierarchy.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// The limits that are not in force, by name and reason.
    #[must_use]
    pub fn unenforced(&self) -> &[String] {
        &self.unenforced
    }
}

impl CgroupHost {
    /// Reads where this process is in each hierarchy.
    pub fn discover() -> Result<Self, CgroupError> {
        let read = |path: &str| at("read", Path::new(path), fs::read_to_string(path));
        let mut host = parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
        host.unified = host.unified.map(|own| own.of_unit(marked));
        Ok(host)
    }

    /// Makes a domain's cgroup with its limits. Whatever stands under its name already is used again.
    pub fn create(&self, uuid: &DomainUuid, limits: &CgroupLimits) -> Result<DomainCgroup, CgroupError> {
        let mut group = DomainCgroup { unified: None, join: Vec::new(), path: None, unenforced: Vec::new() };
        // These three are only made where there is something to say.
        let wanted = |name: &&str| match *name {
            "blkio" => limits.tuning.io_weight.is_some(),
            "cpu" => limits.tuning.has_cpu(),
            "cpuset" => !limits.cpus.is_empty(),
            _ => true,
        };
        let mut missing: Vec<&str> = CONTROLLERS.iter().copied().filter(wanted).collect();
        if let Some(own) = &self.unified {
            match self.create_unified(own, uuid, limits, &mut missing) {
                Ok((dir, path)) => {
                    group.path = path.strip_prefix(&own.mount).ok().map(|path| path.display().to_string());
                    group.unified = Some(dir);
                }
                Err(error) => group.unenforced.push(format!("cgroup namespace of its own: {error}")),
            }
        }
        for (controller, own) in
            self.legacy.iter().filter(|(name, _)| missing.contains(name)).cloned().collect::<Vec<_>>()
        {
            match create_legacy(controller, &own.directory.join(name(uuid)), limits) {
                Ok(file) => {
                    group.join.push((controller, file));
                    missing.retain(|name| *name != controller);
                }
                Err(error) => group.unenforced.push(format!("cgroup {controller}: {error}")),
            }
        }
        let none = missing.into_iter().filter(|m| !self.legacy.iter().any(|(name, _)| name == m));
        group
            .unenforced
            .extend(none.map(|m| format!("cgroup {m}: not delegated to the labeller")).collect::<Vec<_>>());
        Ok(group)
    }

    /// Where a domain's cgroup is made: its directory in every hierarchy.
    #[must_use]
    pub fn directories(&self, uuid: &DomainUuid) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = self.owns().map(|own| own.directory.join(name(uuid))).collect();
        all.sort_unstable();
        // One hierarchy may have several controllers.
        all.dedup();
        all
    }

    /// Opens a domain's cgroup as it stands, for one more process; what is not there is left out. Without `directories`
    /// it is where this labeller would have made it.
    pub fn open(&self, uuid: &DomainUuid, directories: &[PathBuf]) -> Result<DomainCgroup, CgroupError> {
        let mut group = DomainCgroup { unified: None, join: Vec::new(), path: None, unenforced: Vec::new() };
        if let Some(own) = &self.unified
            && let Some(dir) = own.of(uuid, directories)
        {
            group.unified = Some(at("open", &dir, File::open(&dir))?);
            group.path = dir.strip_prefix(&own.mount).ok().map(|path| path.display().to_string());
        }
        for (controller, own) in &self.legacy {
            if let Some(dir) = own.of(uuid, directories) {
                group.join.push((controller, tasks(&dir)?));
            }
        }
        Ok(group)
    }

    fn owns(&self) -> impl Iterator<Item = &Own> {
        self.legacy.iter().map(|(_, own)| own).chain(&self.unified)
    }

    fn create_unified(
        &self,
        own: &Own,
        uuid: &DomainUuid,
        limits: &CgroupLimits,
        missing: &mut Vec<&str>,
    ) -> Result<(File, PathBuf), CgroupError> {
        for controller in
            ["cpu", "cpuset", "memory", "pids"].into_iter().filter(|name| missing.contains(name))
        {
            enable(own, controller);
        }
        if missing.contains(&"blkio") {
            enable(own, tune::UNIFIED_IO);
        }
        let dir = own.directory.join(name(uuid));
        make(&dir)?;
        let limit = |file: &str, value: String| fs::write(dir.join(file), value).is_ok();
        if limits.tuning.has_cpu() && tune::unified_cpu(&dir, limits).is_ok() {
            missing.retain(|name| *name != "cpu");
        }
        if limits.tuning.io_weight.is_some() && tune::unified_io(&dir, limits).is_ok() {
            missing.retain(|name| *name != "blkio");
        }
        if limit("memory.max", limits.memory_max.to_string()) && tune::unified_soft(&dir, limits).is_ok() {
            missing.retain(|name| *name != "memory");
        }
        if limit("pids.max", limits.pids_max.to_string()) {
            missing.retain(|name| *name != "pids");
        }
        if !limits.cpus.is_empty() && limit("cpuset.cpus", list(&limits.cpus)) {
            missing.retain(|name| *name != "cpuset");
        }
        let handle = at("open", &dir, File::open(&dir))?;
        let rules: Vec<bpf::DeviceRule> = limits.devices.iter().map(|node| rule(*node)).collect();
        if bpf::restrict_devices(handle.as_fd(), &rules).is_ok() {
            missing.retain(|name| *name != "devices");
        }
        Ok((handle, dir))
    }

    /// Kills what is left in a domain's cgroup and removes it; one that is not there is no error. Without `directories` it
    /// is where this labeller would have made it.
    pub fn remove(&self, uuid: &DomainUuid, directories: &[PathBuf]) -> Result<(), CgroupError> {
        let own = if directories.is_empty() { self.directories(uuid) } else { Vec::new() };
        let (known, unknown): (Vec<&PathBuf>, Vec<&PathBuf>) =
            directories.iter().chain(&own).partition(|dir| self.owns().any(|own| own.has(uuid, dir)));
        // One in a hierarchy that is not mounted here may well be there, for all that can be seen.
        let mut failed = unknown
            .first()
            .map(|dir| at("remove", dir, Err(io::Error::other(UNKNOWN))).unwrap_or_else(|error| error));
        for dir in &known {
            // Version 2 only; a version 1 cgroup shares its processes with it, or they are dead already.
            let kill = File::options().write(true).open(dir.join("cgroup.kill"));
            let _absent = kill.and_then(|mut kill| kill.write_all(b"1"));
        }
        let until = Instant::now() + REMOVE_BY;
        for dir in known {
            failed = failed.or(remove(dir, until).err());
        }
        failed.map_or(Ok(()), Err)
    }

    /// The uuids of the domain cgroups that exist.
    #[must_use]
    pub fn existing(&self) -> Vec<String> {
        let mut found: Vec<String> = self
            .owns()
            .filter_map(|own| fs::read_dir(&own.directory).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_prefix("svirt-")?.to_owned()))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Own {
    /// The unit's cgroup, if this is the one that the service manager has made in it for the labeller.
    fn of_unit(self, marked: impl Fn(&Path) -> bool) -> Self {
        match self.directory.parent() {
            Some(unit) if self.directory.ends_with(LEAF) && marked(unit) => {
                Self { directory: unit.to_path_buf(), apart: true, ..self }
            }
            _ => self,
        }
    }

    /// Whether a directory is a domain's cgroup in this hierarchy.
    fn has(&self, uuid: &DomainUuid, dir: &Path) -> bool {
        let plain = dir.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        plain && dir.starts_with(&self.mount) && dir.file_name() == Some(name(uuid).as_ref())
    }

    /// The domain's cgroup in this hierarchy, if there is one.
    fn of(&self, uuid: &DomainUuid, directories: &[PathBuf]) -> Option<PathBuf> {
        self.place(uuid, directories).filter(|dir| dir.is_dir())
    }

    /// Where the domain's cgroup in this hierarchy is or may be made; nowhere if what was written down has no such place.
    fn place(&self, uuid: &DomainUuid, directories: &[PathBuf]) -> Option<PathBuf> {
        match directories {
            [] => Some(self.directory.join(name(uuid))),
            _ => directories.iter().find(|dir| self.has(uuid, dir)).cloned(),
        }
    }
}

fn name(uuid: &DomainUuid) -> String {
    format!("svirt-{uuid}")
}

fn make(dir: &Path) -> Result<(), CgroupError> {
    // The labeller's umask is empty, so the mode stands here.
    match DirBuilder::new().mode(0o755).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => at("make", dir, made),
    }
}

/// Lets children use a controller, moving the labeller out of the way: a cgroup with processes cannot have such.
///
/// Under a service manager that starts the unit's main process in the unit's cgroup itself, all stay off: nothing could
/// be started there any more, and so no labeller after this one while a domain runs.
fn enable(own: &Own, controller: &str) {
    let Own { directory: own, apart, .. } = own;
    let control = own.join("cgroup.subtree_control");
    let on = || fs::write(&control, format!("+{controller}"));
    if fs::read_to_string(&control).is_ok_and(|text| text.split_whitespace().any(|c| c == controller)) {
        return;
    }
    let available = fs::read_to_string(own.join("cgroup.controllers"));
    if !available.is_ok_and(|text| text.split_whitespace().any(|c| c == controller)) || !delegated(own) {
        return;
    }
    if managed() && !apart {
        return;
    }
    if on().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
        let leaf = own.join(LEAF);
        let moved = make(&leaf).is_ok() && fs::write(leaf.join("cgroup.procs"), "0").is_ok();
        if moved {
            // What still fails here shows when the limit is written, and is named there.
            let _named_later = on();
        }
    }
}

/// Whether there is a service manager that minds its cgroups.
fn managed() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// Whether the service manager has left this cgroup to its unit; without one there is nobody to ask.
fn delegated(own: &Path) -> bool {
    !managed() || marked(own)
}

/// Whether the service manager has marked it as left to its unit.
fn marked(own: &Path) -> bool {
    let mark = |name: &str| {
        let mut value = [0; 8];
        rustix::fs::getxattr(own, name, &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
    };
    mark("trusted.delegate") || mark("user.delegate")
}

fn create_legacy(controller: &'static str, dir: &Path, limits: &CgroupLimits) -> Result<File, CgroupError> {
    make(dir)?;
    let write = |file: &str, value: &str| {
        let path = dir.join(file);
        at("write", &path, fs::write(&path, value))
    };
    match controller {
        "blkio" => tune::legacy_io(dir, limits)?,
        "cpu" => tune::legacy_cpu(dir, limits)?,
        "memory" => {
            write("memory.limit_in_bytes", &limits.memory_max.to_string())?;
            tune::legacy_soft(dir, limits)?;
        }
        "pids" => write("pids.max", &limits.pids_max.to_string())?,
        "cpuset" => {
            // A new version 1 cpuset has neither, and nothing may join it before it has both.
            let above = dir.parent().unwrap_or(dir).join("cpuset.mems");
            let memory = at("read", &above, fs::read_to_string(&above))?;
            write("cpuset.mems", memory.trim())?;
            write("cpuset.cpus", &list(&limits.cpus))?;
        }
        _ => {
            write("devices.deny", "a")?;
            for node in &limits.devices {
                let rule = rule(*node);
                let access = if rule.write { "rw" } else { "r" };
                write("devices.allow", &format!("c {}:{} {access}", rule.major, rule.minor))?;
            }
        }
    }
    tasks(dir)
}

/// Opens a version 1 cgroup for whoever joins it.
fn tasks(dir: &Path) -> Result<File, CgroupError> {
    // Whoever joins has one thread and writes 0, for itself: through `tasks` the kernel then moves it without the lock
    // over all forks of the host, which `cgroup.procs` takes and which waits for an RCU grace period (7 ms).
    let procs = dir.join("tasks");
    at("open", &procs, File::options().write(true).custom_flags(libc::O_CLOEXEC).open(&procs))
}

/// CPUs as the kernel takes them.
fn list(cpus: &[u32]) -> String {
    cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn rule(node: DeviceNode) -> bpf::DeviceRule {
    let (major, minor, write) = match node {
        DeviceNode::Kvm => (10, 232, true),
        DeviceNode::Null => (1, 3, true),
        DeviceNode::Urandom => (1, 9, false),
    };
    bpf::DeviceRule { major, minor, write }
}

fn remove(dir: &Path, until: Instant) -> Result<(), CgroupError> {
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                std::thread::sleep(REMOVE_PAUSE);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => return at("remove", dir, removed),
        }
    }
}

/// Sorts the hierarchies of `/proc/self/cgroup`.
fn parse(cgroup: &str, mountinfo: &str) -> CgroupHost {
    let mut host = CgroupHost::default();
    for place in cgroup::places(cgroup, mountinfo) {
        let own = Own { directory: place.directory, mount: place.mount, apart: false };
        for controller in CONTROLLERS.iter().filter(|name| place.controllers.iter().any(|has| has == *name)) {
            host.legacy.push((controller, own.clone()));
        }
        if place.controllers.is_empty() {
            host.unified = Some(own);
        }
    }
    host
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const HYBRID: &str = "25 20 0:22 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory\n\
        26 20 0:23 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        27 20 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    fn own(directory: &str, mount: &str) -> Own {
        Own { directory: directory.into(), mount: mount.into(), apart: false }
    }

    #[test]
    fn both_hierarchies_are_found() {
        let host = parse("8:pids:/\n4:memory:/a/b\n3:cpuset:/\n0::/user.slice\n", HYBRID);
        let unified = own("/sys/fs/cgroup/unified/user.slice", "/sys/fs/cgroup/unified");
        assert_eq!(host.unified, Some(unified));
        let pids = own("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids");
        let memory = own("/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory");
        assert_eq!(host.legacy, [("pids", pids), ("memory", memory)]);
    }

    #[test]
    fn domains_lie_beside_a_labeller_that_the_unit_has_a_cgroup_for() {
        let unit = "/sys/fs/cgroup/system.slice/svirt-labeller.service";
        let started = |directory: &str, marked: bool| own(directory, "/sys/fs/cgroup").of_unit(|_| marked);
        let apart = Own { apart: true, ..own(unit, "/sys/fs/cgroup") };
        assert_eq!(started(&format!("{unit}/labeller"), true), apart);
        for (directory, marked) in [(unit.to_owned(), true), (format!("{unit}/labeller"), false)] {
            assert_eq!(started(&directory, marked), own(&directory, "/sys/fs/cgroup"));
        }
    }

    /// A labeller in a cgroup of a hierarchy that is plain directories.
    fn labeller_in(mount: &Path, cgroup: &str) -> CgroupHost {
        let directory = mount.join(cgroup);
        fs::create_dir_all(&directory).unwrap();
        let own = Own { directory, mount: mount.to_path_buf(), apart: false };
        CgroupHost { unified: Some(own), legacy: Vec::new() }
    }

    #[test]
    fn a_labeller_elsewhere_finds_what_was_written_down_and_only_that() {
        let dir = tempfile::tempdir().unwrap();
        let uuid = DomainUuid(uuid::Uuid::from_u128(7));
        let (first, later) = (labeller_in(dir.path(), "first"), labeller_in(dir.path(), "later"));
        let made = first.directories(&uuid);
        assert_eq!(made, [dir.path().join("first").join(name(&uuid))]);
        fs::create_dir(&made[0]).unwrap();
        assert!(later.open(&uuid, &[]).unwrap().path().is_none());
        let path = later.open(&uuid, &made).unwrap().path().map(ToOwned::to_owned);
        assert_eq!(path, Some(format!("first/{}", name(&uuid))));
        later.remove(&uuid, &[]).unwrap();
        assert!(made[0].exists(), "without the directories it looks below its own only");
        later.remove(&uuid, &made).unwrap();
        assert!(!made[0].exists());
        later.remove(&uuid, &made).unwrap();
        // As an earlier labeller's journal has it.
        fs::create_dir(&made[0]).unwrap();
        first.remove(&uuid, &[]).unwrap();
        assert!(!made[0].exists());
    }

    #[test]
    fn what_is_no_cgroup_of_the_domain_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let host = labeller_in(&dir.path().join("mount"), "own");
        let uuid = DomainUuid(uuid::Uuid::from_u128(7));
        let outside = dir.path().join(name(&uuid));
        let around = dir.path().join("mount/..").join(name(&uuid));
        let other = dir.path().join("mount").join(name(&DomainUuid(uuid::Uuid::from_u128(8))));
        fs::create_dir(&outside).unwrap();
        fs::create_dir(&other).unwrap();
        let own = dir.path().join("mount/own").join(name(&uuid));
        fs::create_dir(&own).unwrap();
        for wrong in [&outside, &around, &other] {
            assert!(host.remove(&uuid, std::slice::from_ref(wrong)).is_err(), "{}", wrong.display());
            assert!(
                wrong.exists() && host.open(&uuid, std::slice::from_ref(wrong)).unwrap().path().is_none()
            );
        }
        assert!(host.remove(&uuid, &[outside, own.clone()]).is_err());
        assert!(!own.exists(), "one that cannot be removed keeps none of the others");
        let elsewhere = Path::new("/sys/fs/cgroup/of/another/mount/namespace").join(name(&uuid));
        assert!(host.remove(&uuid, &[elsewhere]).is_err(), "what cannot be seen need not be gone");
    }

    #[test]
    fn garbage_is_nothing() {
        assert_eq!(parse("x\n1:2\n0::/\n", "- -\na b - c\n"), CgroupHost::default());
    }
}
