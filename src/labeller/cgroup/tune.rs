//! Processor time and soft limits, in either version's files, at a start and later.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupError, CgroupHost, at, enable, make, name};
use crate::base::DomainUuid;
use crate::privsep::op::CgroupLimits;

/// The kernel's own `cpu.weight` and `cpu.shares`.
const WEIGHT: u64 = 100;
const SHARES: u64 = 1024;
/// The largest `cpu.weight`.
const WEIGHT_MAX: u64 = 10_000;
/// The kernel's own period in microseconds.
const PERIOD: u64 = 100_000;

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

impl CgroupHost {
    /// Gives a domain's cgroup other limits on processors and memory.
    pub fn tune(&self, uuid: &DomainUuid, directories: &[PathBuf], limits: &CgroupLimits) -> Done {
        let legacy = |wanted: &str| self.legacy.iter().find(|(name, _)| *name == wanted).map(|(_, own)| own);
        let unified = self.unified.as_ref().and_then(|own| Some((own, own.of(uuid, directories)?)));
        let lacks = |what: &str| {
            let error = io::Error::other(format!("the {what} controller is not delegated to the labeller"));
            at("tune", Path::new(&name(uuid)), Err(error))
        };
        match legacy("memory").and_then(|own| own.of(uuid, directories)) {
            Some(dir) => {
                write(&dir, "memory.limit_in_bytes", &limits.memory_max.to_string())?;
                legacy_soft(&dir, limits)?;
            }
            None => match &unified {
                Some((_, dir)) if dir.join("memory.max").exists() => {
                    write(dir, "memory.max", &limits.memory_max.to_string())?;
                    unified_soft(dir, limits)?;
                }
                _ => return lacks("memory"),
            },
        }
        let there = legacy("cpu").is_some_and(|own| own.of(uuid, directories).is_some());
        if !limits.tuning.has_cpu() && !there {
            return Ok(());
        }
        match (legacy("cpu"), &unified) {
            (Some(own), _) => {
                let known = own.of(uuid, directories);
                let dir = known.unwrap_or_else(|| own.directory.join(name(uuid)));
                if !dir.exists() {
                    make(&dir)?;
                    self.join(uuid, directories, &dir)?;
                }
                legacy_cpu(&dir, limits)
            }
            (None, Some((own, dir))) => {
                enable(&own.directory, "cpu");
                if dir.join("cpu.max").exists() { unified_cpu(dir, limits) } else { lacks("cpu") }
            }
            (None, None) => lacks("cpu"),
        }
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
