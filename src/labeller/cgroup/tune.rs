//! Processor time, weights and soft limits, in either version's files, at a start and later.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupError, CgroupHost, Own, at, enable, make, name};
use crate::base::DomainUuid;
use crate::privsep::op::CgroupLimits;
use crate::sys::process::{self, Child};

/// The kernel's own `cpu.weight` and `cpu.shares`.
const WEIGHT: u64 = 100;
const SHARES: u64 = 1024;
/// The largest `cpu.weight`.
const WEIGHT_MAX: u64 = 10_000;
/// The kernel's own period in microseconds.
const PERIOD: u64 = 100_000;

/// What version 2 calls version 1's `blkio`.
pub(super) const UNIFIED_IO: &str = "io";
/// The kernel's own weight at the disks, in every file that has it.
const IO_WEIGHT: u64 = 100;
/// The files of both versions: that of all schedulers, and that of the only one which weighs where there is no other.
const UNIFIED_WEIGHTS: [&str; 2] = ["io.weight", "io.bfq.weight"];
const LEGACY_WEIGHTS: [&str; 2] = ["blkio.weight", "blkio.bfq.weight"];

type Done = Result<(), CgroupError>;

fn write(dir: &Path, file: &str, value: &str) -> Done {
    let path = dir.join(file);
    at("write", &path, fs::write(&path, value))
}

/// `<shares>` is the weight itself, as libvirt has it in version 2.
pub(super) fn unified_cpu(dir: &Path, limits: &CgroupLimits) -> Done {
    let weight = limits.tuning.shares.unwrap_or(WEIGHT).clamp(1, WEIGHT_MAX);
    write(dir, "cpu.weight", &weight.to_string())?;
    let most =
        limits.cpu_max.map_or_else(|| format!("max {PERIOD}"), |max| format!("{} {}", max.quota, max.period));
    write(dir, "cpu.max", &most)
}

pub(super) fn legacy_cpu(dir: &Path, limits: &CgroupLimits) -> Done {
    write(dir, "cpu.shares", &limits.tuning.shares.unwrap_or(SHARES).to_string())?;
    // Without a limit first: a period is refused with which the quota that stands would be out of bounds.
    write(dir, "cpu.cfs_quota_us", "-1")?;
    let Some(max) = limits.cpu_max else { return Ok(()) };
    write(dir, "cpu.cfs_period_us", &max.period.to_string())?;
    write(dir, "cpu.cfs_quota_us", &max.quota.to_string())
}

pub(super) fn unified_io(dir: &Path, limits: &CgroupLimits) -> Done {
    weigh(dir, UNIFIED_WEIGHTS, limits)
}

pub(super) fn legacy_io(dir: &Path, limits: &CgroupLimits) -> Done {
    weigh(dir, LEGACY_WEIGHTS, limits)
}

/// Into the first file that is there.
fn weigh(dir: &Path, [all, one]: [&str; 2], limits: &CgroupLimits) -> Done {
    let weight = limits.tuning.io_weight.unwrap_or(IO_WEIGHT);
    write(dir, if dir.join(all).exists() { all } else { one }, &weight.to_string())
}

pub(super) fn unified_soft(dir: &Path, limits: &CgroupLimits) -> Done {
    let soft = limits.tuning.soft_limit.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
    write(dir, "memory.high", &soft)
}

pub(super) fn legacy_soft(dir: &Path, limits: &CgroupLimits) -> Done {
    // Kernels without the old knob have no soft limit to take away.
    let Some(soft) = limits.tuning.soft_limit else {
        let _absent = write(dir, "memory.soft_limit_in_bytes", "-1");
        return Ok(());
    };
    write(dir, "memory.soft_limit_in_bytes", &soft.to_string())
}

/// Values for files, in the order of writing.
type Writes = Vec<(PathBuf, String)>;

impl CgroupHost {
    /// Gives a domain's cgroup other limits on processors, and begins to give it other ones on memory: the child that
    /// does ends with 0 or an error's number.
    pub fn tune(
        &self,
        uuid: &DomainUuid,
        directories: &[PathBuf],
        limits: &CgroupLimits,
    ) -> Result<Child, CgroupError> {
        let memory = self.memory(uuid, directories, limits)?;
        self.tune_io(uuid, directories, limits)?;
        self.tune_cpu(uuid, directories, limits)?;
        at("fork to tune", Path::new(&name(uuid)), write_apart(memory))
    }

    fn legacy(&self, wanted: &str) -> Option<&Own> {
        self.legacy.iter().find(|(name, _)| *name == wanted).map(|(_, own)| own)
    }

    /// What has to be written for the limits on memory.
    fn memory(
        &self,
        uuid: &DomainUuid,
        directories: &[PathBuf],
        limits: &CgroupLimits,
    ) -> Result<Writes, CgroupError> {
        let hard = limits.memory_max.to_string();
        let soft = |none: &str| limits.tuning.soft_limit.map_or_else(|| none.to_owned(), |it| it.to_string());
        if let Some(dir) = self.legacy("memory").and_then(|own| own.of(uuid, directories)) {
            let knob = dir.join("memory.soft_limit_in_bytes");
            // Kernels without the old knob have no soft limit to take away.
            let has = limits.tuning.soft_limit.is_some() || knob.exists();
            let soft = has.then(|| (knob, soft("-1")));
            return Ok([(dir.join("memory.limit_in_bytes"), hard)].into_iter().chain(soft).collect());
        }
        let unified = self.unified.as_ref().and_then(|own| own.of(uuid, directories));
        match unified.filter(|dir| dir.join("memory.max").exists()) {
            Some(dir) => Ok(vec![(dir.join("memory.max"), hard), (dir.join("memory.high"), soft("max"))]),
            // Its start has said that there is none; what is asked of processors does not depend on it.
            None if limits.tuning.hard_limit.is_none() && limits.tuning.soft_limit.is_none() => {
                Ok(Vec::new())
            }
            None => lacks(uuid, "memory"),
        }
    }

    fn tune_cpu(&self, uuid: &DomainUuid, directories: &[PathBuf], limits: &CgroupLimits) -> Done {
        let unified = self.unified.as_ref().and_then(|own| Some((own, own.of(uuid, directories)?)));
        if self.legacy("cpu").is_some() {
            let dir = self.legacy_dir("cpu", uuid, directories, limits.tuning.has_cpu())?;
            return dir.map_or(Ok(()), |dir| legacy_cpu(&dir, limits));
        }
        let there = unified.as_ref().is_some_and(|(_, dir)| dir.join("cpu.max").exists());
        if !limits.tuning.has_cpu() && !there {
            return Ok(());
        }
        let Some((own, dir)) = unified else { return lacks(uuid, "cpu") };
        enable(own, "cpu");
        if dir.join("cpu.max").exists() { unified_cpu(&dir, limits) } else { lacks(uuid, "cpu") }
    }

    fn tune_io(&self, uuid: &DomainUuid, directories: &[PathBuf], limits: &CgroupLimits) -> Done {
        let wanted = limits.tuning.io_weight.is_some();
        if self.legacy("blkio").is_some() {
            let dir = self.legacy_dir("blkio", uuid, directories, wanted)?;
            return dir.map_or(Ok(()), |dir| legacy_io(&dir, limits));
        }
        let unified = self.unified.as_ref().and_then(|own| Some((own, own.of(uuid, directories)?)));
        let weighs = |dir: &Path| UNIFIED_WEIGHTS.iter().any(|file| dir.join(file).exists());
        match unified {
            Some((own, dir)) if wanted || weighs(&dir) => {
                enable(own, UNIFIED_IO);
                if weighs(&dir) { unified_io(&dir, limits) } else { lacks(uuid, UNIFIED_IO) }
            }
            None if wanted => lacks(uuid, UNIFIED_IO),
            _ => Ok(()),
        }
    }

    /// A domain's cgroup of a version 1 controller that only those have which ask something of it; it is made for one
    /// that does so only now.
    fn legacy_dir(
        &self,
        controller: &str,
        uuid: &DomainUuid,
        directories: &[PathBuf],
        wanted: bool,
    ) -> Result<Option<PathBuf>, CgroupError> {
        let own = self.legacy(controller);
        let known = own.and_then(|own| own.of(uuid, directories));
        if !wanted && known.is_none() {
            return Ok(None);
        }
        // Where its end looks, and not where this labeller happens to be.
        let place = || own.and_then(|own| own.place(uuid, directories));
        let Some(dir) = known.or_else(place) else { return lacks(uuid, controller) };
        if !dir.exists() {
            make(&dir)?;
            self.join(uuid, directories, &dir)?;
        }
        Ok(Some(dir))
    }

    /// Moves every process of a domain into a cgroup that was made for it only now.
    fn join(&self, uuid: &DomainUuid, directories: &[PathBuf], into: &Path) -> Done {
        let known = self.owns().find_map(|own| own.of(uuid, directories).filter(|dir| dir != into));
        let Some(known) = known else { return Ok(()) };
        let path = known.join("cgroup.procs");
        let processes = at("read", &path, fs::read_to_string(&path))?;
        for pid in processes.lines() {
            match write(into, "cgroup.procs", pid) {
                // It has ended meanwhile.
                Err(error) if error.source.raw_os_error() == Some(libc::ESRCH) => {}
                done => done?,
            }
        }
        Ok(())
    }
}

fn lacks<T>(uuid: &DomainUuid, what: &str) -> Result<T, CgroupError> {
    let error = io::Error::other(format!("the {what} controller is not delegated to the labeller"));
    at("tune", Path::new(&name(uuid)), Err(error))
}

/// Writes in a child. Whoever lowers a limit below what is used takes memory away until enough is gone, and whoever uses
/// it can see to it that this never ends; only a signal for the writer ends it then.
fn write_apart(writes: Writes) -> io::Result<Child> {
    let parent = process::own_pid();
    process::fork(|| {
        // Other peers of what the labeller has open are not to wait for this process.
        let ready = process::close_all_inherited()
            .and_then(|()| process::reset_signals())
            .and_then(|()| process::die_with_parent(true));
        if ready.is_err() || !process::parent_is(parent) {
            return libc::EIO;
        }
        let done = writes.iter().try_for_each(|(path, value)| fs::write(path, value));
        done.err().map_or(0, |error| {
            error.raw_os_error().filter(|code| (1..200).contains(code)).unwrap_or(libc::EIO)
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::privsep::tuning::{CpuMax, Tuning};
    use crate::sys::pidfd::{self, Exit};

    fn limits(memory_max: u64, tuning: Tuning) -> CgroupLimits {
        let cpu_max = tuning.global_quota.map(|_| CpuMax { quota: 30_000, period: PERIOD });
        CgroupLimits { memory_max, pids_max: 1, cpus: Vec::new(), devices: Vec::new(), cpu_max, tuning }
    }

    /// A hierarchy of plain directories, and a domain's in it.
    fn host(mount: &Path) -> (CgroupHost, DomainUuid, PathBuf) {
        let uuid = DomainUuid(uuid::Uuid::from_u128(7));
        let directory = mount.join("own");
        let domain = directory.join(name(&uuid));
        fs::create_dir_all(&domain).unwrap();
        let own = Own { directory, mount: mount.to_path_buf(), apart: false };
        (CgroupHost { unified: Some(own), legacy: Vec::new() }, uuid, domain)
    }

    fn ended(child: &Child) -> Option<Exit> {
        assert!(pidfd::wait_ended(&child.pidfd, 60_000).unwrap());
        pidfd::reap(&child.pidfd)
    }

    #[test]
    fn limits_are_set_and_taken_back_whole() {
        let mount = tempfile::tempdir().unwrap();
        let (host, uuid, dir) = host(mount.path());
        for file in ["memory.max", "memory.high", "cpu.max", "cpu.weight"] {
            fs::write(dir.join(file), "").unwrap();
        }
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        let all = || ["memory.max", "memory.high", "cpu.max", "cpu.weight"].map(read);
        let tuning =
            Tuning { soft_limit: Some(5), shares: Some(7), global_quota: Some(30_000), ..Tuning::default() };
        assert_eq!(ended(&host.tune(&uuid, &[], &limits(9, tuning)).unwrap()), Some(Exit::Code(0)));
        assert_eq!(all(), ["9", "5", "30000 100000", "7"]);
        let none = limits(8, Tuning::default());
        assert_eq!(ended(&host.tune(&uuid, &[], &none).unwrap()), Some(Exit::Code(0)));
        assert_eq!(all(), ["8", "max", "max 100000", "100"], "processors have no limit any longer either");
        fs::remove_file(dir.join("memory.high")).unwrap();
        fs::create_dir(dir.join("memory.high")).unwrap();
        assert_eq!(ended(&host.tune(&uuid, &[], &none).unwrap()), Some(Exit::Code(libc::EISDIR)));
        fs::remove_file(dir.join("memory.max")).unwrap();
        assert!(host.tune(&uuid, &[], &limits(9, tuning)).is_err(), "there is no such controller");
        let shares = limits(9, Tuning { soft_limit: None, ..tuning });
        assert_eq!(ended(&host.tune(&uuid, &[], &shares).unwrap()), Some(Exit::Code(0)));
    }

    #[test]
    fn a_weight_goes_into_the_file_that_is_there() {
        let mount = tempfile::tempdir().unwrap();
        let (host, uuid, dir) = host(mount.path());
        let weight = |weight| limits(9, Tuning { io_weight: weight, ..Tuning::default() });
        assert!(host.tune_io(&uuid, &[], &weight(None)).is_ok(), "nothing is asked for");
        assert!(host.tune_io(&uuid, &[], &weight(Some(300))).is_err(), "there is no such controller");
        fs::write(dir.join("io.bfq.weight"), "").unwrap();
        let set = |wanted: Option<u64>, file: &str| {
            host.tune_io(&uuid, &[], &weight(wanted)).unwrap();
            fs::read_to_string(dir.join(file)).unwrap()
        };
        assert_eq!(set(Some(300), "io.bfq.weight"), "300");
        fs::write(dir.join("io.weight"), "").unwrap();
        assert_eq!((set(Some(400), "io.weight"), set(None, "io.weight")), ("400".into(), "100".into()));
        let own =
            Own { directory: mount.path().join("blkio"), mount: mount.path().to_path_buf(), apart: false };
        fs::create_dir(&own.directory).unwrap();
        let legacy = CgroupHost { unified: None, legacy: vec![("blkio", own)] };
        legacy.tune_io(&uuid, &[], &weight(Some(500))).unwrap();
        let made = mount.path().join("blkio").join(name(&uuid)).join("blkio.bfq.weight");
        assert_eq!(fs::read_to_string(made).unwrap(), "500");
    }

    #[test]
    fn a_cgroup_for_processors_is_made_where_it_was_written_down() {
        let mount = tempfile::tempdir().unwrap();
        let (first, uuid, dir) = host(mount.path());
        let written = first.directories(&uuid);
        fs::remove_dir(&dir).unwrap();
        let later =
            Own { directory: mount.path().join("later"), mount: mount.path().to_path_buf(), apart: false };
        fs::create_dir(&later.directory).unwrap();
        let later = CgroupHost { unified: None, legacy: vec![("cpu", later)] };
        let shares = limits(9, Tuning { shares: Some(7), ..Tuning::default() });
        later.tune_cpu(&uuid, &written, &shares).unwrap();
        assert_eq!(fs::read_to_string(dir.join("cpu.shares")).unwrap(), "7");
        assert!(later.directories(&uuid).iter().all(|own| !own.exists()), "nobody would remove that");
        let other = [mount.path().join("of/another/domain")];
        assert!(later.tune_cpu(&uuid, &other, &shares).is_err());
    }

    #[test]
    fn a_write_that_never_ends_holds_up_nobody_and_can_be_ended() {
        let mount = tempfile::tempdir().unwrap();
        let (host, uuid, dir) = host(mount.path());
        // Nobody reads it.
        nix::unistd::mkfifo(&dir.join("memory.max"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let child = host.tune(&uuid, &[], &limits(9, Tuning::default())).unwrap();
        assert!(!pidfd::wait_ended(&child.pidfd, 100).unwrap());
        pidfd::kill(&child.pidfd).unwrap();
        assert_eq!(ended(&child), Some(Exit::Signal(libc::SIGKILL)));
    }
}
