//! Collects the facts of one process from procfs and ptrace. Needs root for a process of another uid.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::facts::{
    self, CgroupPlace, Descriptor, Namespace, ProcessFacts, parse_access, parse_limits, parse_mountinfo,
    parse_status, thread_differences,
};
use crate::privsep::confinement::{BpfInsn, SeccompProgram};
use crate::sys::cgroup;
use crate::sys::procfs::ProcDir;
use crate::sys::ptrace;

/// Why a process could not be inspected.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what} of process {pid}")]
pub struct ReadError {
    /// Which process.
    pub pid: i32,
    /// Which file of its directory in procfs.
    pub what: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Reads everything that the kernel shows of one process.
pub fn process(role: &str, pid: i32) -> Result<ProcessFacts, ReadError> {
    let fail = |what| move |source| ReadError { pid, what, source };
    let dir = ProcDir::open(pid).map_err(fail("the directory"))?;
    let status = parse_status(&dir.read("status").map_err(fail("status"))?);
    let (threads, odd_threads) = threads(&dir, &status).map_err(fail("task"))?;
    let (filters, filters_error) = filters(pid, &status);
    let cgroups = dir.read("cgroup").map_err(fail("cgroup"))?;
    Ok(ProcessFacts {
        role: role.to_owned(),
        pid,
        comm: dir.read("comm").map_err(fail("comm"))?.trim_end().to_owned(),
        exe: dir.link("exe").map_err(fail("exe"))?,
        label: label(&dir),
        namespaces: namespaces(&dir).map_err(fail("ns"))?,
        mounts: parse_mountinfo(&dir.read("mountinfo").map_err(fail("mountinfo"))?),
        fds: descriptors(&dir).map_err(fail("fd"))?,
        owner: dir.stat("status").map_err(fail("status"))?.st_uid,
        places: cgroup_places(&cgroups),
        cgroups: cgroups.lines().map(str::to_owned).collect(),
        limits: parse_limits(&dir.read("limits").map_err(fail("limits"))?),
        status,
        odd_threads,
        threads,
        filters,
        filters_error,
    })
}

/// The limits by controller, and the files that have them: version 2 and version 1.
const LIMITS: [(&str, &str); 6] = [
    ("cpu", "cpu.max"),
    ("cpu", "cpu.cfs_quota_us"),
    ("cpuset", "cpuset.cpus"),
    ("memory", "memory.max"),
    ("memory", "memory.limit_in_bytes"),
    ("pids", "pids.max"),
];

/// Where the cgroups are and what they limit; a hierarchy that this program does not see is left out.
fn cgroup_places(cgroups: &str) -> Vec<CgroupPlace> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let limit = |directory: &Path, file: &str| {
        let read = |file: &str| std::fs::read_to_string(directory.join(file)).ok();
        // Version 1 has in two files what version 2 has in one.
        match file {
            "cpu.cfs_quota_us" => Some(format!("{} {}", read(file)?.trim(), read("cpu.cfs_period_us")?)),
            _ => read(file),
        }
    };
    let place = |place: cgroup::Place| CgroupPlace {
        limits: LIMITS
            .iter()
            .filter_map(|(controller, file)| {
                Some(((*controller).to_owned(), limit(&place.directory, file)?.trim().to_owned()))
            })
            .collect(),
        controllers: place.controllers,
        mount: place.mount.display().to_string(),
        directory: place.directory.display().to_string(),
    };
    cgroup::places(cgroups, &mounts).into_iter().map(place).collect()
}

/// Counts the threads and names those whose status differs from the main thread's.
fn threads(dir: &ProcDir, main: &facts::Status) -> io::Result<(usize, Vec<facts::OddThread>)> {
    let names = dir.list("task")?;
    let odd = names
        .iter()
        // A thread may end while we look; then there is nothing to compare.
        .filter_map(|name| Some((name, dir.read(format!("task/{name}/status")).ok()?)))
        .filter_map(|(name, text)| {
            let differences = thread_differences(main, &parse_status(&text));
            (!differences.is_empty()).then(|| (name.parse().unwrap_or(0), differences))
        })
        .collect();
    Ok((names.len(), odd))
}

/// The filters, or why they could not be read.
fn filters(pid: i32, status: &facts::Status) -> (Option<Vec<SeccompProgram>>, Option<String>) {
    if status.seccomp_mode == 0 {
        return (Some(Vec::new()), None);
    }
    match ptrace::seccomp_filters(pid) {
        Ok(programs) => {
            let programs = programs
                .into_iter()
                .map(|program| {
                    SeccompProgram(
                        program.into_iter().map(|(code, jt, jf, k)| BpfInsn(code, jt, jf, k)).collect(),
                    )
                })
                .collect();
            (Some(programs), None)
        }
        Err(error) => (None, Some(error.to_string())),
    }
}

/// The security module's context of a process, if it has one and is there.
#[must_use]
pub fn label_of(pid: i32) -> Option<String> {
    label(&ProcDir::open(pid).ok()?)
}

/// The security module's context; a kernel without one answers with an error.
fn label(dir: &ProcDir) -> Option<String> {
    let text = dir.read("attr/current").ok()?;
    let text = text.trim_end_matches(['\0', '\n']);
    (!text.is_empty()).then(|| text.to_owned())
}

/// Each namespace, compared with this program's own.
fn namespaces(dir: &ProcDir) -> io::Result<BTreeMap<String, Namespace>> {
    let own = ProcDir::open(i32::try_from(std::process::id()).map_err(io::Error::other)?)?;
    let mut found = BTreeMap::new();
    for name in dir.list("ns")? {
        if name.ends_with("_for_children") {
            continue;
        }
        let path = format!("ns/{name}");
        let inode = dir.stat(&path)?.st_ino;
        let host = own.stat(&path).is_ok_and(|stat| stat.st_ino == inode);
        found.insert(name, Namespace { inode, host });
    }
    Ok(found)
}

/// Every open descriptor that is still open when it is looked at.
fn descriptors(dir: &ProcDir) -> io::Result<Vec<Descriptor>> {
    let mut found = Vec::new();
    for name in dir.list("fd")? {
        let (Ok(number), Ok(target)) = (name.parse(), dir.link(format!("fd/{name}"))) else { continue };
        let identity = dir.stat(format!("fd/{name}")).map(|stat| identity(&stat)).unwrap_or_default();
        let access = dir.read(format!("fdinfo/{name}")).map(|text| parse_access(&text)).unwrap_or_default();
        found.push(Descriptor { number, target, access, identity });
    }
    Ok(found)
}

/// Which object it is, as a plan knows its images: a block device by its own number.
fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::BlockDevice {
        return (stat.st_rdev, 0);
    }
    (stat.st_dev, stat.st_ino)
}
