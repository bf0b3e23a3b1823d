//! Every difference between what a plan asked for and what the kernel shows. Pure.
//!
//! Landlock has no row here: no kernel shows a process's rulesets, so only an attack (`svirt probe`) can prove them.

mod cgroup;
mod helper;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::facts::{Descriptor, ProcessFacts};
use crate::privsep::apparmor::{DEGRADED, profile_name};
use crate::privsep::confinement::{RlimitKind, RootShare, RootShmem, SeccompProgram};
use crate::privsep::op::{Access, DeviceNode, Op, Spawn};
use crate::privsep::request::Described;

/// Namespaces that every device model has of its own.
pub const OWN_NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

/// One thing that is not as planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Of which process.
    pub role: String,
    /// What, such as `capability set effective`.
    pub what: String,
    /// What the plan says.
    pub planned: String,
    /// What the kernel says.
    pub found: String,
}

/// Collects differences of one process.
struct Notes<'a> {
    role: &'a str,
    found: Vec<Difference>,
}

impl Notes<'_> {
    fn note(&mut self, what: impl Into<String>, planned: impl Into<String>, found: impl Into<String>) {
        self.found.push(Difference {
            role: self.role.to_owned(),
            what: what.into(),
            planned: planned.into(),
            found: found.into(),
        });
    }

    fn expect<T: PartialEq + std::fmt::Debug>(&mut self, what: impl Into<String>, planned: T, found: T) {
        if planned != found {
            self.note(what, format!("{planned:?}"), format!("{found:?}"));
        }
    }
}

/// Compares every process of a domain with its plan; a process that the plan does not know is a difference too.
#[must_use]
pub fn compare(described: &Described, processes: &[ProcessFacts]) -> Vec<Difference> {
    let Some(spawn) = described.plan.ops.iter().find_map(|op| match op {
        Op::Spawn(spawn) => Some(spawn),
        _ => None,
    }) else {
        return vec![Difference {
            role: "plan".into(),
            what: "last operation".into(),
            planned: "spawn".into(),
            found: "none".into(),
        }];
    };
    let mut all = Vec::new();
    for facts in processes {
        let mut notes = Notes { role: &facts.role, found: Vec::new() };
        match facts.role.as_str() {
            "qemu" => device_model(spawn, described, facts, &mut notes),
            "supervisor" => helper::supervisor(spawn, described, facts, &mut notes),
            _ => helper::helper(described, facts, &mut notes),
        }
        all.extend(notes.found);
    }
    let gone = |alias: &str| described.gone.iter().any(|gone| !gone.medium && gone.alias == alias);
    let plugged = described.plugs.iter().flat_map(|plug| &plug.ops);
    let helpers = described.plan.ops.iter().chain(plugged).filter_map(|op| match op {
        // One that went with its interface.
        Op::SpawnPasst { alias, .. } if gone(alias) => None,
        Op::SpawnPasst { alias, .. } | Op::SpawnSwtpm { alias, .. } => Some(alias.as_str()),
        Op::SpawnVirtiofsd(spawn) => Some(spawn.alias.as_str()),
        _ => None,
    });
    for role in ["qemu", "supervisor"].into_iter().chain(helpers) {
        if !processes.iter().any(|facts| facts.role == role) {
            all.push(Difference {
                role: role.into(),
                what: "process".into(),
                planned: "running".into(),
                found: "none".into(),
            });
        }
    }
    all
}

/// What holds for every process that svirt starts below itself and that gains nothing of its own.
fn common(uid: u32, gid: u32, groups: &[u32], facts: &ProcessFacts, notes: &mut Notes<'_>) {
    identity(uid, gid, groups, facts, notes);
    for (name, set) in facts.status.capabilities.sets() {
        notes.expect(format!("capability set {name}"), format!("{:016x}", 0), format!("{set:016x}"));
    }
}

fn identity(uid: u32, gid: u32, groups: &[u32], facts: &ProcessFacts, notes: &mut Notes<'_>) {
    let status = &facts.status;
    notes.expect("uids", [uid; 4], status.uids);
    notes.expect("gids", [gid; 4], status.gids);
    notes.expect("supplementary groups", groups.to_vec(), status.groups.clone());
    notes.expect("no_new_privs", true, status.no_new_privs);
    notes.expect("tracer", 0, status.tracer);
    for (thread, names) in &facts.odd_threads {
        notes.note(format!("thread {thread}"), "as the main thread", format!("other {}", names.join(", ")));
    }
}

/// The last filter must be the planned one, byte for byte.
fn filter(planned: &SeccompProgram, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    notes.expect("seccomp mode", 2, facts.status.seccomp_mode);
    match &facts.filters {
        None => notes.note("seccomp filters", "readable", facts.filters_error.clone().unwrap_or_default()),
        Some(filters) if filters.last() == Some(planned) => {}
        Some(filters) => notes.note(
            "seccomp filter",
            format!("the plan's {} instructions last", planned.0.len()),
            format!("{:?} instructions", filters.iter().map(|filter| filter.0.len()).collect::<Vec<_>>()),
        ),
    }
}

fn own_namespaces(names: &[&str], facts: &ProcessFacts, notes: &mut Notes<'_>) {
    for name in names {
        match facts.namespaces.get(*name) {
            Some(namespace) if !namespace.host => {}
            Some(_) => notes.note(format!("{name} namespace"), "its own", "the host's"),
            None => notes.note(format!("{name} namespace"), "its own", "none"),
        }
    }
}

fn device_model(spawn: &Spawn, described: &Described, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    let planned = &spawn.confinement;
    common(planned.uid, planned.gid, &planned.groups, facts, notes);
    filter(&planned.seccomp, facts, notes);
    own_namespaces(&OWN_NAMESPACES, facts, notes);
    mounts(spawn, facts, notes);
    descriptors(spawn, described, facts, notes);
    limits(spawn, facts, notes);
    if let Some(label) = &planned.selinux_exec {
        notes.expect("SELinux label", Some(label.clone()), facts.label.clone());
    } else {
        profile(described, profile_name(described.plan.domain.uuid), facts, notes);
    }
    cgroup::compare(described, facts, notes);
}

/// The AppArmor profile of a process, where the domain's were loaded.
fn profile(described: &Described, name: String, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    let planned = described.plan.ops.iter().any(|op| matches!(op, Op::LoadProfile { .. }));
    if planned && !described.degraded.iter().any(|layer| layer.starts_with(DEGRADED)) {
        notes.expect("AppArmor profile", Some(format!("{name} (enforce)")), facts.label.clone());
    }
}

/// Where a server finds its directory.
const SHARE: &str = "/svirt/share";

/// Mount points: the root, the planned files and device nodes, and nothing else; all but devices read-only.
fn mounts(spawn: &Spawn, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    let root = &spawn.confinement.root;
    let mut planned: BTreeSet<&str> = root.files.iter().map(|file| file.place.path()).collect();
    planned.insert("/");
    let devices: BTreeSet<&str> = root.devices.iter().copied().map(device_path).collect();
    let shares: Vec<String> = root.shares.iter().map(|share| RootShare::path(share.number)).collect();
    // A share is read-only where the definition says so, which the labeller's mount does.
    let shmems: Vec<String> = root.shmems.iter().map(|shmem| RootShmem::path(shmem.number)).collect();
    let devices = devices.into_iter().chain(shmems.iter().map(String::as_str));
    let devices: BTreeSet<&str> = devices.chain(shares.iter().map(String::as_str)).collect();
    if !shares.is_empty() {
        planned.insert("/proc");
    }
    for mount in &facts.mounts {
        let point = mount.point.as_str();
        if !planned.contains(point) && !devices.contains(point) {
            notes.note("mount", "none", format!("{point} ({})", mount.kind));
        } else if planned.contains(point) && !mount.options.iter().any(|option| option == "ro") {
            notes.note(format!("mount {point}"), "read-only", mount.options.join(","));
        }
    }
    for point in planned.iter().chain(&devices) {
        if !facts.mounts.iter().any(|mount| mount.point == *point) {
            notes.note(format!("mount {point}"), "present", "absent");
        }
    }
}

fn device_path(device: DeviceNode) -> &'static str {
    match device {
        DeviceNode::Kvm => "/dev/kvm",
        DeviceNode::Null => "/dev/null",
        DeviceNode::Urandom => "/dev/urandom",
    }
}

/// The images of the plan, UEFI variables among them, by device and inode, and whether they may be written.
fn images(described: &Described) -> BTreeMap<(u64, u64), bool> {
    let variables = described.nvrams.iter().map(|file| ((file.device, file.inode), true));
    let mut images: BTreeMap<_, _> = variables.collect();
    let plugged = described.plugs.iter().flat_map(|plug| &plug.ops);
    for op in described.plan.ops.iter().chain(plugged) {
        if let Op::OpenImage(image) = op {
            let identity = (image.identity.device, image.identity.inode);
            // One file may serve two read-only disks.
            *images.entry(identity).or_default() |= image.access == Access::ReadWrite;
        }
    }
    images
}

/// Every planned descriptor, and besides them only what has no name in a file system, or is an image of the plan.
///
/// QEMU keeps images under numbers of its own: it closes the planned one once it has put a copy into an fd set.
fn descriptors(spawn: &Spawn, described: &Described, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    let images = images(described);
    let taps = described.plugs.iter().flat_map(|plug| &plug.ops);
    let mut taps = taps.filter(|op| matches!(op, Op::MakeTap { .. } | Op::OpenTap { .. })).count();
    let planned: BTreeSet<i32> = spawn.fds.iter().map(|grant| grant.number).chain(0..3).collect();
    let shares = &spawn.confinement.root.shares;
    // What it serves over 9p it opens itself.
    let in_share = |fd: &Descriptor| {
        shares.iter().any(|share| {
            let rest = fd.target.strip_prefix(&RootShare::path(share.number));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let shmems = &spawn.confinement.root.shmems;
    // QEMU opens it by name before the guest runs, and keeps it.
    let is_shmem = |fd: &Descriptor| shmems.iter().any(|shmem| fd.target == RootShmem::path(shmem.number));
    for fd in &facts.fds {
        let wanted = match images.get(&fd.identity) {
            Some(true) => continue,
            Some(false) if fd.access.contains('w') => "read only",
            // Those that were plugged in have numbers of QEMU's choice.
            None if !planned.contains(&fd.number) && fd.target == "/dev/net/tun" && taps > 0 => {
                taps -= 1;
                continue;
            }
            None if !planned.contains(&fd.number) && !is_harmless(fd) && !in_share(fd) && !is_shmem(fd) => {
                "none"
            }
            _ => continue,
        };
        notes.note(format!("descriptor {}", fd.number), wanted, format!("{} ({})", fd.target, fd.access));
    }
}

/// What a device model makes for itself: anonymous inodes, pipes, sockets, memory and `/dev/null`.
fn is_harmless(fd: &Descriptor) -> bool {
    ["anon_inode:", "pipe:", "socket:", "/memfd:"].iter().any(|start| fd.target.starts_with(start))
        || fd.target == "/dev/null"
        || fd.target == "/dev/kvm"
        // A library, module or ROM of the minimal root, open for reading only.
        || fd.access == "r" && fd.target.starts_with("/usr/")
}

fn limits(spawn: &Spawn, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    for limit in &spawn.confinement.rlimits {
        let name = limit_name(limit.resource);
        let found = facts.limits.get(name).copied();
        notes.expect(format!("limit: {name}"), Some((limit.value, limit.value)), found);
    }
}

/// The name that `/proc/PID/limits` gives to a resource.
fn limit_name(kind: RlimitKind) -> &'static str {
    match kind {
        RlimitKind::Core => "Max core file size",
        RlimitKind::Fsize => "Max file size",
        RlimitKind::Memlock => "Max locked memory",
        RlimitKind::Msgqueue => "Max msgqueue size",
        RlimitKind::Nofile => "Max open files",
        RlimitKind::Nproc => "Max processes",
    }
}
