//! What the processes beside the device model are held by.

use super::{Notes, OWN_NAMESPACES, SHARE, cgroup, common, filter, identity, own_namespaces, profile};
use crate::inspect::facts::ProcessFacts;
use crate::privsep::apparmor::{ProfilePart, part_name};
use crate::privsep::confinement::Rlimit;
use crate::privsep::helper::{
    PASST_LIMITS, PASST_NAMESPACES, SUPERVISOR_LIMITS, SWTPM_LIMITS, SWTPM_NAMESPACES, VIRTIOFSD_LIMITS,
};
use crate::privsep::op::{Op, Spawn};
use crate::privsep::request::Described;

/// The labeller's floor, and on top of it the program's own or the plan's.
const FLOOR_AND_OWN: u32 = 2;

pub(super) fn supervisor(spawn: &Spawn, described: &Described, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    let planned = &spawn.supervisor;
    common(planned.uid, planned.uid, &[], facts, notes);
    filter(&planned.seccomp, facts, notes);
    filters(FLOOR_AND_OWN, facts, notes);
    limits(SUPERVISOR_LIMITS, facts, notes);
    // The kernel gives the files of a process that nobody may dump to root.
    notes.expect("owner of its files in procfs (not dumpable)", 0, facts.owner);
    if let Some(label) = &planned.selinux_label {
        notes.expect("SELinux label", Some(label.clone()), facts.label.clone());
    } else {
        profile(described, part_name(described.plan.domain.uuid, ProfilePart::Supervisor), facts, notes);
    }
}

pub(super) fn helper(described: &Described, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    let plugged = described.plugs.iter().flat_map(|plug| &plug.ops);
    let planned = described.plan.ops.iter().chain(plugged).find_map(|op| match op {
        Op::SpawnPasst { alias, uid, selinux_label, .. } if *alias == facts.role => {
            passt(*uid, facts, notes);
            Some((selinux_label.as_ref(), ProfilePart::Passt))
        }
        Op::SpawnSwtpm { alias, uid, selinux_label, .. } if *alias == facts.role => {
            swtpm(*uid, facts, notes);
            Some((selinux_label.as_ref(), ProfilePart::Swtpm))
        }
        Op::SpawnVirtiofsd(spawn) if spawn.alias == facts.role => {
            server(spawn.uid, facts, notes);
            Some((spawn.selinux_label.as_ref(), ProfilePart::Virtiofsd))
        }
        _ => None,
    });
    let Some((label, part)) = planned else {
        notes.note("process", "none of this name", format!("pid {}", facts.pid));
        return;
    };
    notes.expect("seccomp mode", 2, facts.status.seccomp_mode);
    if let Some(label) = label {
        notes.expect("SELinux label", Some(label.clone()), facts.label.clone());
    } else {
        profile(described, part_name(described.plan.domain.uuid, part), facts, notes);
    }
    cgroup::compare(described, facts, notes);
}

/// passt moves itself into a user namespace, where the kernel fills the bounding set again; it has nothing to gain from
/// there, as no_new_privs is set and the other sets are empty.
fn passt(uid: u32, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    identity(uid, uid, &[], facts, notes);
    for (name, set) in facts.status.capabilities.sets() {
        if name != "bounding" {
            notes.expect(format!("capability set {name}"), format!("{:016x}", 0), format!("{set:016x}"));
        }
    }
    own_namespaces(PASST_NAMESPACES, facts, notes);
    limits(PASST_LIMITS, facts, notes);
}

fn swtpm(uid: u32, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    common(uid, uid, &[], facts, notes);
    own_namespaces(SWTPM_NAMESPACES, facts, notes);
    limits(SWTPM_LIMITS, facts, notes);
    filters(FLOOR_AND_OWN, facts, notes);
}

/// What a server of a directory must not share with the host. Its threads act as the guest's users, within its own user
/// namespace.
fn server(uid: u32, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    notes.expect("real uid", uid, facts.status.uids.first().copied().unwrap_or(u32::MAX));
    notes.expect("no_new_privs", true, facts.status.no_new_privs);
    own_namespaces(&OWN_NAMESPACES, facts, notes);
    own_namespaces(&["user"], facts, notes);
    limits(VIRTIOFSD_LIMITS, facts, notes);
    for mount in &facts.mounts {
        if !["/", "/proc", SHARE].contains(&mount.point.as_str()) {
            notes.note("mount", "none", format!("{} ({})", mount.point, mount.kind));
        }
    }
    // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_SETGID, CAP_SETUID, over the share alone.
    let held = facts.status.capabilities.permitted;
    if held & !0xdb != 0 {
        notes.note("capability set permitted", format!("{:016x}", 0xdb), format!("{held:016x}"));
    }
}

/// At least so many filters, where the kernel counts them; whoever started the labeller may have loaded more.
fn filters(least: u32, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    if let Some(count) = facts.status.seccomp_filters.filter(|count| *count < least) {
        notes.note("seccomp filters", format!("at least {least}"), count.to_string());
    }
}

/// The limits, or lower ones: the labeller cannot raise its own.
fn limits(planned: &[Rlimit], facts: &ProcessFacts, notes: &mut Notes<'_>) {
    for limit in planned {
        let name = super::limit_name(limit.resource);
        let most = limit.value.unwrap_or(u64::MAX);
        let within = |value: Option<u64>| value.is_some_and(|value| value <= most);
        match facts.limits.get(name) {
            Some((soft, hard)) if within(*soft) && within(*hard) => {}
            found => notes.note(format!("limit: {name}"), format!("at most {most}"), format!("{found:?}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::inspect::facts::{Capabilities, Namespace};

    const UID: u32 = 1_900_000_007;

    /// A helper as it is planned.
    fn held(namespaces: &[&str], planned: &[Rlimit]) -> ProcessFacts {
        let mut facts = ProcessFacts::default();
        facts.status.uids = [UID; 4];
        facts.status.gids = [UID; 4];
        facts.status.no_new_privs = true;
        facts.status.seccomp_mode = 2;
        facts.status.seccomp_filters = Some(2);
        let own = |name: &&str| ((*name).to_owned(), Namespace { inode: 7, host: false });
        facts.namespaces = namespaces.iter().map(own).collect();
        let limit = |limit: &Rlimit| {
            (super::super::limit_name(limit.resource).to_owned(), (limit.value, limit.value))
        };
        facts.limits = planned.iter().map(limit).collect();
        facts
    }

    type Check = fn(u32, &ProcessFacts, &mut Notes<'_>);
    /// Something that is not as planned, and how it is told.
    type Change = (fn(&mut ProcessFacts), &'static str);

    fn told(check: Check, facts: &ProcessFacts) -> Vec<String> {
        let mut notes = Notes { role: "it", found: Vec::new() };
        check(UID, facts, &mut notes);
        notes.found.into_iter().map(|it| it.what).collect()
    }

    #[test]
    fn every_property_of_a_helper_is_compared() {
        let kinds: [(Check, ProcessFacts); 2] =
            [(passt, held(PASST_NAMESPACES, PASST_LIMITS)), (swtpm, held(SWTPM_NAMESPACES, SWTPM_LIMITS))];
        let changes: [Change; 10] = [
            (|it| it.status.uids = [UID, 0, UID, UID], "uids"),
            (|it| it.status.uids = [UID, UID, 0, UID], "uids"),
            (|it| it.status.gids = [UID, UID, UID, 0], "gids"),
            (|it| it.status.groups = vec![0], "supplementary groups"),
            (
                |it| it.status.capabilities = Capabilities { effective: 1, ..Default::default() },
                "capability set effective",
            ),
            (
                |it| it.status.capabilities = Capabilities { permitted: 1, ..Default::default() },
                "capability set permitted",
            ),
            (|it| it.status.no_new_privs = false, "no_new_privs"),
            (|it| it.namespaces.get_mut("ipc").unwrap().host = true, "ipc namespace"),
            (|it| it.namespaces.retain(|name, _| name != "uts"), "uts namespace"),
            (|it| it.limits.get_mut("Max core file size").unwrap().1 = None, "limit: Max core file size"),
        ];
        for (check, facts) in kinds {
            assert_eq!(told(check, &facts), Vec::<String>::new());
            for (change, what) in changes {
                let mut changed = facts.clone();
                change(&mut changed);
                assert_eq!(told(check, &changed), [what]);
            }
        }
    }

    #[test]
    fn a_full_bounding_set_is_passts_alone_in_its_own_user_namespace() {
        let full = |mut facts: ProcessFacts| {
            facts.status.capabilities.bounding = u64::MAX;
            facts
        };
        let mut inside = full(held(PASST_NAMESPACES, PASST_LIMITS));
        assert!(told(passt, &inside).is_empty());
        inside.namespaces.get_mut("user").unwrap().host = true;
        assert_eq!(told(passt, &inside), ["user namespace"]);
        assert_eq!(told(swtpm, &full(held(SWTPM_NAMESPACES, SWTPM_LIMITS))), ["capability set bounding"]);
    }

    #[test]
    fn a_missing_filter_and_a_higher_limit_are_told() {
        let mut facts = held(SWTPM_NAMESPACES, SWTPM_LIMITS);
        facts.status.seccomp_filters = Some(1);
        facts.limits.insert("Max processes".into(), (Some(3), Some(3)));
        assert_eq!(told(swtpm, &facts), ["seccomp filters"], "a lower limit is the labeller's own");
        facts.limits.insert("Max processes".into(), (Some(4), Some(5)));
        assert_eq!(told(swtpm, &facts), ["limit: Max processes", "seccomp filters"]);
    }
}
