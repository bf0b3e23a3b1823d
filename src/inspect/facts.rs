//! One process as the kernel shows it, and the pure readers of procfs text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::privsep::confinement::SeccompProgram;

/// One process as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessFacts {
    /// What it is to the domain: `qemu`, `supervisor`, a helper's alias.
    pub role: String,
    /// Its pid here.
    pub pid: i32,
    /// `/proc/PID/comm`
    pub comm: String,
    /// Where `/proc/PID/exe` leads.
    pub exe: String,
    /// Ids, capability sets and seccomp state of the main thread.
    pub status: Status,
    /// Threads whose status differs from the main thread's: thread id and the names of what differs.
    pub odd_threads: Vec<OddThread>,
    /// How many threads there are.
    pub threads: usize,
    /// The seccomp programs, oldest first; `None` where they could not be read.
    pub filters: Option<Vec<SeccompProgram>>,
    /// Why the programs could not be read.
    pub filters_error: Option<String>,
    /// The context of the active security module, where there is one.
    pub label: Option<String>,
    /// Namespaces by name: inode number, and whether it is this program's own (the host's) namespace.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Mounts: mount point, file system type, options.
    pub mounts: Vec<Mount>,
    /// Open descriptors.
    pub fds: Vec<Descriptor>,
    /// `/proc/PID/cgroup`, a line each.
    pub cgroups: Vec<String>,
    /// The owner of its files in procfs: root where nobody may dump it.
    pub owner: u32,
    /// Where its cgroups are in the file system, and their limits.
    pub places: Vec<CgroupPlace>,
    /// Resource limits: name, soft, hard; `None` is unlimited.
    pub limits: BTreeMap<String, (Option<u64>, Option<u64>)>,
}

/// A process's cgroup in one hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupPlace {
    /// The controllers of a version 1 hierarchy; none for the unified one.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount: String,
    /// The cgroup's directory.
    pub directory: String,
    /// Limits by controller, as the kernel writes them.
    pub limits: BTreeMap<String, String>,
}

/// The security part of `/proc/PID/status` (proc_pid_status(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Real, effective, saved, file system.
    pub uids: [u32; 4],
    /// The same for gids.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub capabilities: Capabilities,
    /// Whether `no_new_privs` is set.
    pub no_new_privs: bool,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp_mode: u32,
    /// How many filters; absent on kernels before 5.9.
    pub seccomp_filters: Option<u32>,
    /// The process that traces it, 0 for none.
    pub tracer: i32,
    /// Its pid in each nested pid namespace, outermost first.
    pub nested_pids: Vec<i32>,
}

/// A thread's id, and the names of what differs from the main thread.
pub type OddThread = (i32, Vec<String>);

/// The five capability sets as masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// `CapInh`
    pub inheritable: u64,
    /// `CapPrm`
    pub permitted: u64,
    /// `CapEff`
    pub effective: u64,
    /// `CapBnd`
    pub bounding: u64,
    /// `CapAmb`
    pub ambient: u64,
}

impl Capabilities {
    /// Each set with its name.
    #[must_use]
    pub fn sets(self) -> [(&'static str, u64); 5] {
        [
            ("inheritable", self.inheritable),
            ("permitted", self.permitted),
            ("effective", self.effective),
            ("bounding", self.bounding),
            ("ambient", self.ambient),
        ]
    }
}

/// One namespace of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// The inode number that identifies it.
    pub inode: u64,
    /// Whether the reader (on the host) is in it too.
    pub host: bool,
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Mount point, as the process sees it.
    pub point: String,
    /// What of the file system is mounted there.
    pub root: String,
    /// File system type.
    pub kind: String,
    /// Mount options, such as `ro`, `nosuid`.
    pub options: Vec<String>,
}

/// One open descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// Where `/proc/PID/fd/N` leads.
    pub target: String,
    /// `r`, `w` or `rw`, from fdinfo's flags.
    pub access: String,
    /// Device and inode; for a block device its own number and 0.
    pub identity: (u64, u64),
}

/// Reads the text of `/proc/PID/status`; a line that is missing leaves its field at zero.
#[must_use]
pub fn parse_status(text: &str) -> Status {
    let mut status = Status::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key {
            "Uid" => status.uids = four(value),
            "Gid" => status.gids = four(value),
            "Groups" => status.groups = numbers(value),
            "CapInh" => status.capabilities.inheritable = hex(value),
            "CapPrm" => status.capabilities.permitted = hex(value),
            "CapEff" => status.capabilities.effective = hex(value),
            "CapBnd" => status.capabilities.bounding = hex(value),
            "CapAmb" => status.capabilities.ambient = hex(value),
            "NoNewPrivs" => status.no_new_privs = value == "1",
            "Seccomp" => status.seccomp_mode = value.parse().unwrap_or(0),
            "Seccomp_filters" => status.seccomp_filters = value.parse().ok(),
            "TracerPid" => status.tracer = value.parse().unwrap_or(0),
            "NSpid" => status.nested_pids = numbers(value),
            _ => {}
        }
    }
    status
}

/// The names of what differs between two threads of one process.
#[must_use]
pub fn thread_differences(main: &Status, other: &Status) -> Vec<String> {
    let mut names = Vec::new();
    let mut note = |differs: bool, name: &str| {
        if differs {
            names.push(name.to_owned());
        }
    };
    note(main.uids != other.uids, "uids");
    note(main.gids != other.gids, "gids");
    note(main.groups != other.groups, "groups");
    note(main.capabilities != other.capabilities, "capability sets");
    note(main.no_new_privs != other.no_new_privs, "no_new_privs");
    note(main.seccomp_mode != other.seccomp_mode, "seccomp mode");
    note(main.seccomp_filters != other.seccomp_filters, "seccomp filters");
    names
}

/// Reads the text of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[must_use]
pub fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(3);
    Some(Mount {
        root: unescape(fields.next()?),
        point: unescape(fields.next()?),
        options: fields.next()?.split(',').map(str::to_owned).collect(),
        kind: right.split(' ').next()?.to_owned(),
    })
}

/// Undoes the octal escapes of mount tables.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Reads the text of `/proc/PID/limits`: name, soft, hard.
#[must_use]
pub fn parse_limits(text: &str) -> BTreeMap<String, (Option<u64>, Option<u64>)> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            // The name has blanks in it; the columns are 26 characters apart at first, then 21.
            let name = line.get(..26)?.trim();
            let mut values = line.get(26..)?.split_whitespace();
            let soft = values.next()?;
            let hard = values.next()?;
            Some((name.to_owned(), (soft.parse().ok(), hard.parse().ok())))
        })
        .collect()
}

/// Reads the `flags:` line of `/proc/PID/fdinfo/N`: the access mode of open(2) in octal.
#[must_use]
pub fn parse_access(fdinfo: &str) -> String {
    let flags = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|value| u32::from_str_radix(value.trim(), 8).ok());
    match flags.map(|flags| flags & 3) {
        Some(0) => "r",
        Some(1) => "w",
        Some(2) => "rw",
        _ => "?",
    }
    .to_owned()
}

fn four(value: &str) -> [u32; 4] {
    let mut ids = [u32::MAX; 4];
    for (id, word) in ids.iter_mut().zip(value.split_whitespace()) {
        *id = word.parse().unwrap_or(u32::MAX);
    }
    ids
}

fn numbers<T: std::str::FromStr>(value: &str) -> Vec<T> {
    value.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn hex(value: &str) -> u64 {
    // A set that cannot be read counts as full: never as empty.
    u64::from_str_radix(value, 16).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn status_of_a_confined_process() {
        let status = parse_status(
            "Name:\tqemu\nTracerPid:\t0\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t9\nGroups:\t\nNSpid:\t77\t1\n\
             CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
             CapBnd:\t0000000000000400\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
             Seccomp_filters:\t2\n",
        );
        assert_eq!(status.uids, [7; 4]);
        assert_eq!(status.gids, [8, 8, 8, 9]);
        assert_eq!(status.capabilities.bounding, 0x400);
        assert_eq!(status.nested_pids, [77, 1]);
        assert_eq!(status.seccomp_filters, Some(2));
        assert!(status.no_new_privs && status.groups.is_empty());
    }

    #[test]
    fn unreadable_sets_count_as_full() {
        assert_eq!(parse_status("CapEff:\tjunk\n").capabilities.effective, u64::MAX);
        assert_eq!(parse_status("Uid:\t1\n").uids, [1, u32::MAX, u32::MAX, u32::MAX]);
    }

    #[test]
    fn mountinfo_with_blanks_and_optional_fields() {
        let mounts = parse_mountinfo(
            "36 35 98:0 /mnt1 /a\\040b ro,nosuid shared:1 master:2 - ext4 /dev/root rw\nnonsense\n",
        );
        assert_eq!(mounts.len(), 1);
        let mount = mounts.first().unwrap();
        assert_eq!(
            (mount.point.as_str(), mount.root.as_str(), mount.kind.as_str()),
            ("/a b", "/mnt1", "ext4")
        );
        assert_eq!(mount.options, ["ro", "nosuid"]);
    }

    #[test]
    fn limits_and_access() {
        let text = std::fs::read_to_string("/proc/self/limits").unwrap();
        let limits = parse_limits(&text);
        assert!(limits.contains_key("Max open files"), "{limits:?}");
        assert_eq!(parse_access("pos:\t0\nflags:\t02100002\n"), "rw");
        assert_eq!(parse_access("pos:\t0\n"), "?");
    }
}
