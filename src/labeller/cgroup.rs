//! The cgroup of each domain: limits on memory, threads and device nodes.
//!
//! A domain's cgroup is the directory `svirt-UUID` below the labeller's own, in the unified hierarchy and in every
//! version 1 hierarchy that has one of the controllers. What the host does not delegate is named, never silently left out.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::{CgroupLimits, DeviceNode};
use crate::sys::bpf;

/// How often and how long a removal waits for the last process to be gone.
const REMOVE_TRIES: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

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
const CONTROLLERS: [&str; 4] = ["cpuset", "devices", "memory", "pids"];

/// Where the labeller's own cgroups are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupHost {
    /// The labeller's directory in the unified hierarchy, and below which mount.
    unified: Option<(PathBuf, PathBuf)>,
    /// Controller and the labeller's directory, version 1.
    legacy: Vec<(&'static str, PathBuf)>,
}

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
        Ok(parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?))
    }

    /// Makes a domain's cgroup with its limits. Whatever stands under its name already is used again.
    pub fn create(&self, uuid: &DomainUuid, limits: &CgroupLimits) -> Result<DomainCgroup, CgroupError> {
        let mut group = DomainCgroup { unified: None, join: Vec::new(), path: None, unenforced: Vec::new() };
        // A cpuset is only made where there is something to say.
        let wanted = |name: &&str| *name != "cpuset" || !limits.cpus.is_empty();
        let mut missing: Vec<&str> = CONTROLLERS.iter().copied().filter(wanted).collect();
        if let Some((own, mount)) = &self.unified {
            match self.create_unified(own, uuid, limits, &mut missing) {
                Ok((dir, path)) => {
                    group.path = path.strip_prefix(mount).ok().map(|path| path.display().to_string());
                    group.unified = Some(dir);
                }
                Err(error) => group.unenforced.push(format!("cgroup namespace of its own: {error}")),
            }
        }
        for (controller, own) in
            self.legacy.iter().filter(|(name, _)| missing.contains(name)).cloned().collect::<Vec<_>>()
        {
            match create_legacy(controller, &own.join(name(uuid)), limits) {
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

    /// Opens a domain's cgroup as it stands, for one more process; what is not there is left out.
    pub fn open(&self, uuid: &DomainUuid) -> Result<DomainCgroup, CgroupError> {
        let mut group = DomainCgroup { unified: None, join: Vec::new(), path: None, unenforced: Vec::new() };
        if let Some((own, mount)) = &self.unified {
            let dir = own.join(name(uuid));
            if dir.is_dir() {
                group.unified = Some(at("open", &dir, File::open(&dir))?);
                group.path = dir.strip_prefix(mount).ok().map(|path| path.display().to_string());
            }
        }
        for (controller, own) in &self.legacy {
            let dir = own.join(name(uuid));
            if dir.is_dir() {
                group.join.push((controller, tasks(&dir)?));
            }
        }
        Ok(group)
    }

    fn create_unified(
        &self,
        own: &Path,
        uuid: &DomainUuid,
        limits: &CgroupLimits,
        missing: &mut Vec<&str>,
    ) -> Result<(File, PathBuf), CgroupError> {
        for controller in ["cpuset", "memory", "pids"].into_iter().filter(|name| missing.contains(name)) {
            enable(own, controller);
        }
        let dir = own.join(name(uuid));
        make(&dir)?;
        let limit = |file: &str, value: String| fs::write(dir.join(file), value).is_ok();
        if limit("memory.max", limits.memory_max.to_string()) {
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

    /// Kills what is left in a domain's cgroup and removes it; one that is not there is no error.
    pub fn remove(&self, uuid: &DomainUuid) -> Result<(), CgroupError> {
        let owns = self.legacy.iter().map(|(_, own)| own).chain(self.unified.iter().map(|(own, _)| own));
        for own in owns {
            let dir = own.join(name(uuid));
            if dir.exists() {
                // Version 2 only; a version 1 cgroup shares its processes with it, or they are dead already.
                let _absent = fs::write(dir.join("cgroup.kill"), "1");
                remove(&dir)?;
            }
        }
        Ok(())
    }

    /// The uuids of the domain cgroups that exist.
    #[must_use]
    pub fn existing(&self) -> Vec<String> {
        let owns = self.legacy.iter().map(|(_, own)| own).chain(self.unified.iter().map(|(own, _)| own));
        let mut found: Vec<String> = owns
            .filter_map(|own| fs::read_dir(own).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_prefix("svirt-")?.to_owned()))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
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
fn enable(own: &Path, controller: &str) {
    let control = own.join("cgroup.subtree_control");
    let on = || fs::write(&control, format!("+{controller}"));
    if fs::read_to_string(&control).is_ok_and(|text| text.split_whitespace().any(|c| c == controller)) {
        return;
    }
    let available = fs::read_to_string(own.join("cgroup.controllers"));
    if !available.is_ok_and(|text| text.split_whitespace().any(|c| c == controller)) || !delegated(own) {
        return;
    }
    if on().is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
        let leaf = own.join("labeller");
        let moved = make(&leaf).is_ok() && fs::write(leaf.join("cgroup.procs"), "0").is_ok();
        if moved {
            // What still fails here shows when the limit is written, and is named there.
            let _named_later = on();
        }
    }
}

/// Whether the service manager has left this cgroup to its unit; without one there is nobody to ask.
fn delegated(own: &Path) -> bool {
    let mark = |name: &str| {
        let mut value = [0; 8];
        rustix::fs::getxattr(own, name, &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
    };
    !Path::new("/run/systemd/system").exists() || mark("trusted.delegate") || mark("user.delegate")
}

fn create_legacy(controller: &'static str, dir: &Path, limits: &CgroupLimits) -> Result<File, CgroupError> {
    make(dir)?;
    let write = |file: &str, value: &str| {
        let path = dir.join(file);
        at("write", &path, fs::write(&path, value))
    };
    match controller {
        "memory" => write("memory.limit_in_bytes", &limits.memory_max.to_string())?,
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

fn remove(dir: &Path) -> Result<(), CgroupError> {
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(REMOVE_PAUSE),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => return at("remove", dir, removed),
        }
    }
    at("remove", dir, fs::remove_dir(dir))
}

/// Joins `/proc/self/cgroup` with the mounts of `/proc/self/mountinfo`.
fn parse(cgroup: &str, mountinfo: &str) -> CgroupHost {
    let mut host = CgroupHost::default();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let names: Vec<&str> = names.split(',').collect();
        let unified = names == [""];
        let Some((root, mount)) = mount_of(mountinfo, if unified { None } else { names.first().copied() })
        else {
            continue;
        };
        // In a container the mount may show only a part of the hierarchy.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
        let own = PathBuf::from(format!("{mount}{}", below.trim_end_matches('/')));
        if unified {
            host.unified = Some((own, PathBuf::from(mount)));
            continue;
        }
        for controller in CONTROLLERS.iter().filter(|controller| names.contains(controller)) {
            host.legacy.push((controller, own.clone()));
        }
    }
    host
}

/// Root and mount point of the version 1 hierarchy with a controller, or of the unified one.
fn mount_of<'a>(mountinfo: &'a str, controller: Option<&str>) -> Option<(&'a str, &'a str)> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let place = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let (kind, _, options) = (back.next()?, back.next()?, back.next()?);
        let found = match controller {
            None => kind == "cgroup2",
            Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
        };
        found.then_some(place)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HYBRID: &str = "25 20 0:22 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory\n\
        26 20 0:23 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        27 20 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn both_hierarchies_are_found() {
        let host = parse("8:pids:/\n4:memory:/a/b\n3:cpuset:/\n0::/user.slice\n", HYBRID);
        let unified = ("/sys/fs/cgroup/unified/user.slice", "/sys/fs/cgroup/unified");
        assert_eq!(host.unified, Some((unified.0.into(), unified.1.into())));
        let legacy = [("pids", "/sys/fs/cgroup/pids"), ("memory", "/sys/fs/cgroup/memory/a/b")];
        assert_eq!(host.legacy, legacy.map(|(name, path)| (name, PathBuf::from(path))));
    }

    #[test]
    fn a_part_of_a_hierarchy_is_taken_for_what_it_shows() {
        let info = "27 20 0:24 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let host = parse("0::/docker/x/inner\n", info);
        assert_eq!(host.unified.unwrap().0, PathBuf::from("/sys/fs/cgroup/inner"));
    }

    #[test]
    fn garbage_is_nothing() {
        assert_eq!(parse("x\n1:2\n0::/\n", "- -\na b - c\n"), CgroupHost::default());
    }
}
