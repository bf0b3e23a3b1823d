//! How much a device model may have written of its guest: no more than one of its size can have, and not the last room of
//! the file systems that svirt's own journals and definitions need. What the front end says is held against both.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{fstat, fstatvfs};

use super::admit;
use super::apply::kernel;
use crate::base::{Layer, Refusal};
use crate::privsep::op::{LaunchPlan, Op};
use crate::settings::Settings;

/// What comes besides memory, in bytes: video memory, firmware and devices' states.
const BESIDES: u64 = 2 << 30;
/// What stays free, in bytes: a twentieth where that is less.
const RESERVE: u64 = 1 << 30;

/// The most that a domain's device model may write, whatever was asked for, in bytes.
pub(super) fn most(plan: &LaunchPlan, settings: &Settings, asked: u64) -> u64 {
    let (mut memory, mut shared) = (None, 0_u64);
    for op in &plan.ops {
        match op {
            // A limit that somebody chose says nothing of the guest's size.
            Op::Cgroup(limits) if limits.tuning.hard_limit.is_none() => memory = Some(limits.memory_max),
            Op::OpenShmem { size, .. } => shared = shared.saturating_add(*size),
            _ => {}
        }
    }
    let memory = memory.unwrap_or_else(|| admit::memory_most(settings)).saturating_add(shared);
    asked.min(memory.saturating_add(memory / 8).saturating_add(BESIDES))
}

/// Refuses to begin where too little is free already, and tells what must stay so, in bytes.
pub(super) fn reserve(settings: &Settings, directory: impl AsFd, path: &str) -> Result<u64, Refusal> {
    let io = |error: io::Error| kernel("look at the file system of", path, &error, "see the kernel's log");
    let reserve = wanted(settings, &directory).map_err(io)?;
    if keeps(&directory, reserve).map_err(io)? {
        return Ok(reserve);
    }
    let rule = format!(
        "less than {} MiB are free on its file system, which svirt's journals or definitions need",
        reserve >> 20
    );
    let remedy =
        "remove files there, or have save.places, save.managed and save.dumps on a file system of their own";
    Err(Refusal::new(Layer::Policy, "write", path, rule, remedy))
}

fn wanted(settings: &Settings, directory: impl AsFd) -> io::Result<u64> {
    let device = fstat(&directory)?.st_dev;
    let mut own = [&settings.paths.state, &settings.daemon.store].into_iter();
    if !own.any(|path| std::fs::metadata(path).is_ok_and(|found| found.dev() == device)) {
        return Ok(0);
    }
    let room = fstatvfs(&directory)?;
    Ok((room.f_blocks.saturating_mul(room.f_frsize) / 20).min(RESERVE))
}

/// Whether so many bytes are free.
pub(super) fn keeps(on: impl AsFd, reserve: u64) -> io::Result<bool> {
    if reserve == 0 {
        return Ok(true);
    }
    let room = fstatvfs(&on)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize) >= reserve)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::base::{DomainName, DomainRef, DomainUuid, Slot};
    use crate::privsep::op::CgroupLimits;
    use crate::privsep::tuning::Tuning;

    #[test]
    fn what_the_front_end_asks_for_is_held_against_the_plan() {
        let limits = |hard_limit| {
            Op::Cgroup(CgroupLimits {
                memory_max: 8 << 30,
                pids_max: 1,
                devices: Vec::new(),
                cpus: Vec::new(),
                cpu_max: None,
                tuning: Tuning { hard_limit, ..Tuning::default() },
            })
        };
        let shmem = Op::OpenShmem {
            slot: Slot::new("shmem").unwrap(),
            name: "a".into(),
            size: 8 << 30,
            selinux_label: None,
        };
        let plan = |ops| LaunchPlan {
            version: 1,
            domain: DomainRef { name: DomainName::new("a").unwrap(), uuid: DomainUuid(uuid::Uuid::nil()) },
            ops,
            notes: Vec::new(),
        };
        let mut settings = Settings::default();
        settings.limits.memory = 0;
        assert_eq!(most(&plan(vec![limits(None)]), &settings, u64::MAX), (9 << 30) + BESIDES);
        assert_eq!(most(&plan(vec![limits(None), shmem]), &settings, u64::MAX), (18 << 30) + BESIDES);
        assert_eq!(most(&plan(vec![limits(None)]), &settings, 5), 5);
        assert_eq!(most(&plan(vec![limits(Some(1))]), &settings, 1 << 50), 1 << 50);
        settings.limits.memory = 4 << 30;
        assert!(most(&plan(vec![limits(Some(1))]), &settings, 1 << 50) < 16 << 30);
    }

    #[test]
    fn room_is_kept_only_where_journals_are() {
        let room = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(room.path()).unwrap();
        let mut settings = Settings::default();
        settings.daemon.store = "/proc".into();
        settings.paths.state = "/proc".into();
        assert_eq!(wanted(&settings, &directory).unwrap(), 0);
        settings.paths.state = room.path().to_str().unwrap().to_owned();
        let kept = wanted(&settings, &directory).unwrap();
        assert!((1..=RESERVE).contains(&kept), "{kept}");
        assert!(keeps(&directory, 0).unwrap() && !keeps(&directory, u64::MAX).unwrap());
    }
}
