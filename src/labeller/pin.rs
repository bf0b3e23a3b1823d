//! Threads of a device model are moved to the CPUs that its definition names, at a start and later.
//!
//! Which thread is which virtual CPU is told by its name, which QEMU gives it. A device model that was taken over may
//! name its threads as it likes: it moves its own ones only, between CPUs that its definition names.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::apply::journal_refusal;
use super::domain::{Domain, Phase};
use super::journal::Entry;
use super::server::{Server, refused};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::op::{LaunchPlan, Op};
use crate::privsep::placement::{Pins, list, vcpu};
use crate::privsep::request::{NOT_RUNNING, Reply};
use crate::sys::process::Child;
use crate::sys::{pidfd, sched};

const OPERATION: &str = "pin threads of";
/// How often the list of threads is read until it has no new ones; a thread has its maker's CPUs. In QEMU each worker of a
/// pool is made by the one before it, up to 64 of them, so that a sound device model may have a new one in as many
/// rounds; besides the main loop's there is no pool, and few other threads come while one looks.
const ROUNDS: u32 = 128;

impl Server {
    /// Gives the threads of a running domain other CPUs.
    pub(super) fn pin(&mut self, uuid: DomainUuid, pins: Pins) -> Reply {
        self.pinned(uuid, pins).map_or_else(refused, |()| Reply::Done)
    }

    fn pinned(&mut self, uuid: DomainUuid, pins: Pins) -> Result<(), Refusal> {
        let refuse = |rule: &str, remedy: &str| {
            Err(Refusal::new(Layer::Policy, OPERATION, uuid.to_string(), rule, remedy))
        };
        let Some(domain) = self.domains.get_mut(&uuid).filter(|domain| domain.phase == Phase::Running) else {
            return refuse(NOT_RUNNING, "start it first");
        };
        if !pins.is_bounded() {
            return refuse("a number is out of its bounds", "name CPUs of this host");
        }
        let Some(model) = &domain.device_model else {
            return refuse("its device model is not known", "start it again");
        };
        let before = placed(&domain.plan);
        // First: a later labeller takes the last ones as what holds.
        domain.journal.write(&Entry::Pinned(pins.clone())).map_err(|error| journal_refusal(&error))?;
        let done = apply(model, &pins);
        if let Err(refusal) = done {
            if let Err(error) = apply(model, &before) {
                tracing::error!(%uuid, %error, "its threads are not where they were before");
            }
            if let Err(error) = domain.journal.write(&Entry::Pinned(before)) {
                tracing::error!(%uuid, %error, "cannot note that its threads are where they were");
            }
            return Err(refusal);
        }
        amend(&mut domain.plan, pins);
        tracing::info!(domain = %domain.plan.domain.name, "has other CPUs");
        Ok(())
    }
}

/// Moves the threads of a domain that is being started.
pub(super) fn begin(domain: &Domain) -> Result<(), Refusal> {
    let pins = placed(&domain.plan);
    match &domain.device_model {
        Some(model) if !pins.is_none() && matches!(domain.phase, Phase::Starting(_)) => apply(model, &pins),
        _ => Ok(()),
    }
}

/// The pins of a plan.
pub(super) fn placed(plan: &LaunchPlan) -> Pins {
    match plan.ops.last() {
        Some(Op::Spawn(spawn)) => spawn.placement.pins.clone(),
        _ => Pins::default(),
    }
}

/// What a plan would have been with these pins.
pub(super) fn amend(plan: &mut LaunchPlan, pins: Pins) {
    if let Some(Op::Spawn(spawn)) = plan.ops.last_mut() {
        spawn.placement.pins = pins;
    }
}

/// Moves every thread of a device model.
pub(super) fn apply(model: &Child, pins: &Pins) -> Result<(), Refusal> {
    let failed = |error: io::Error| {
        let rule = format!("the kernel does not tell of its threads: {error}");
        Refusal::new(Layer::Kernel, OPERATION, "the device model", rule, "see whether it runs")
    };
    let refuse =
        |rule, remedy| Err(Refusal::new(Layer::DeviceModel, OPERATION, "the device model", rule, remedy));
    let tasks = tasks(model.pid, &model.pidfd).map_err(failed)?;
    let mut vcpus = 0_usize;
    let moved = every(
        || threads(&tasks).map_err(failed),
        |thread| {
            // It names itself, with any bytes.
            let name = match fs::read(tasks.join(thread.to_string()).join("comm")) {
                Ok(name) => String::from_utf8_lossy(&name).trim_end().to_owned(),
                Err(error) if has_ended(&error) => return Ok(()),
                Err(error) => return Err(failed(error)),
            };
            vcpus += usize::from(vcpu(&name).is_some());
            set(thread, &name, pins.of(&name))
        },
    )?;
    if !moved {
        return refuse(
            "it makes new threads as fast as they are moved",
            "end it: a sound device model does not",
        );
    }
    // Unnamed, they have all gone where the rest of it goes.
    if vcpus == 0 && (!pins.vcpus.is_empty() || pins.emulator.is_some()) {
        return refuse(
            "none of its threads has the name of a virtual CPU",
            "start it again; QEMU names them with debug-threads=on",
        );
    }
    Ok(())
}

/// Does something with every thread, until there is none that is new; whether it came to that.
fn every(
    mut list: impl FnMut() -> Result<Vec<i32>, Refusal>,
    mut with: impl FnMut(i32) -> Result<(), Refusal>,
) -> Result<bool, Refusal> {
    let mut done = BTreeSet::new();
    for _ in 0..ROUNDS {
        let new: Vec<i32> = list()?.into_iter().filter(|thread| done.insert(*thread)).collect();
        if new.is_empty() {
            return Ok(true);
        }
        new.into_iter().try_for_each(&mut with)?;
    }
    Ok(false)
}

/// Whether what was asked of a thread says that there is none any longer.
fn has_ended(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn set(thread: i32, name: &str, cpus: Option<&[u32]>) -> Result<(), Refusal> {
    match sched::set_affinity(thread, cpus) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(error) => {
            let rule = match error.raw_os_error() {
                Some(libc::EINVAL) => {
                    format!("it may run on none of the CPUs {}", list(cpus.unwrap_or_default()))
                }
                _ => error.to_string(),
            };
            let object = format!("the thread {}", name.escape_debug());
            let remedy = "name CPUs that this host has online and host.cpus does not keep";
            Err(Refusal::new(Layer::Kernel, OPERATION, object, rule, remedy))
        }
        Ok(()) => Ok(()),
    }
}

/// The directory of a process's threads. It is this process's as long as that has not ended.
fn tasks(pid: i32, pidfd: &OwnedFd) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("/proc/{pid}/task"));
    if pidfd::has_ended(pidfd)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(path)
}

fn threads(tasks: &Path) -> io::Result<Vec<i32>> {
    let all = fs::read_dir(tasks)?;
    Ok(all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::process;

    /// A process with a thread that names itself so.
    fn model(name: &'static std::ffi::CStr) -> Child {
        let (read, write) = std::io::pipe().unwrap();
        let child = process::fork(move || {
            let started = std::thread::Builder::new().spawn(move || {
                let _named = rustix::thread::set_name(name);
                let _told = io::Write::write_all(&mut &write, b"x");
                std::thread::park();
            });
            started
                .and_then(|thread| thread.join().map_err(|_| io::ErrorKind::Other.into()))
                .map_or(1, |()| 0)
        })
        .unwrap();
        io::Read::read_exact(&mut &read, &mut [0]).unwrap();
        child
    }

    /// Name and CPUs of each thread.
    fn seen(child: &Child) -> Vec<(String, String)> {
        let tasks = tasks(child.pid, &child.pidfd).unwrap();
        let one = |thread: i32| {
            let read = |file: &str| {
                let bytes = fs::read(tasks.join(thread.to_string()).join(file)).unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let status = read("status");
            let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
            (read("comm").trim_end().to_owned(), cpus.trim().to_owned())
        };
        threads(&tasks).unwrap().into_iter().map(one).collect()
    }

    #[test]
    fn threads_are_moved_by_their_names() {
        let child = model(c"CPU 1/TCG");
        let before = seen(&child);
        // A host with one CPU has all on that.
        let last = before.first().unwrap().1.rsplit([',', '-']).next().unwrap().parse::<u32>().unwrap();
        let pins = Pins { vcpus: [(1, vec![last])].into(), ..Pins::default() };
        apply(&child, &pins).unwrap();
        for (name, cpus) in seen(&child) {
            if name == "CPU 1/TCG" {
                assert_eq!(cpus, last.to_string());
            } else {
                assert_eq!(Some(&cpus), before.first().map(|(_, cpus)| cpus));
            }
        }
        let missing = Pins { emulator: Some(vec![1023]), ..Pins::default() };
        let refusal = apply(&child, &missing).unwrap_err();
        assert!(refusal.rule.contains("none of the CPUs 1023"), "{refusal}");
        child.end().unwrap();
        assert!(apply(&child, &pins).is_err());
    }

    #[test]
    fn a_thread_keeps_its_place_by_no_name() {
        let child = model(c"\xff\xfe");
        let before = seen(&child);
        let last = before.first().unwrap().1.rsplit([',', '-']).next().unwrap().parse::<u32>().unwrap();
        let pins = Pins { emulator: Some(vec![last]), ..Pins::default() };
        // No virtual CPU is told from the rest, and that is said.
        let refusal = apply(&child, &pins).unwrap_err();
        assert!(refusal.rule.contains("name of a virtual CPU"), "{refusal}");
        assert!(seen(&child).iter().all(|(_, cpus)| *cpus == last.to_string()), "{:?}", seen(&child));
        // Where all of them go to the same place, nothing has to be told.
        apply(&child, &Pins { all: Some(vec![last]), ..Pins::default() }).unwrap();
        let refusal =
            apply(&child, &Pins { vcpus: [(0, vec![last])].into(), ..Pins::default() }).unwrap_err();
        assert!(refusal.rule.contains("name of a virtual CPU"), "{refusal}");
        child.end().unwrap();
    }

    #[test]
    fn a_whole_pool_of_workers_may_come_one_after_the_other() {
        for (most, settles) in [(70, true), (i32::MAX, false)] {
            let (mut threads, mut moved) = (1, Vec::new());
            let list = || {
                threads = most.min(threads + 1);
                Ok((1..=threads).collect())
            };
            let with = |thread| {
                moved.push(thread);
                Ok(())
            };
            assert_eq!(every(list, with).unwrap(), settles);
            assert!(moved.len() >= 70 && moved.is_sorted_by(|one, next| one < next), "{moved:?}");
        }
    }
}
