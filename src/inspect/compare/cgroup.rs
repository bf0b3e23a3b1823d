//! Whether a process is in its domain's cgroup in every hierarchy, and whether the limits there are the planned ones.

use super::Notes;
use crate::inspect::facts::{CgroupPlace, ProcessFacts};
use crate::privsep::op::{CgroupLimits, Op};
use crate::privsep::request::Described;

/// The kernel counts memory in whole pages, which have at most so many bytes.
const PAGE_MAX: u64 = 65_536;

pub(super) fn compare(described: &Described, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    for planned in &described.cgroups {
        let mounted = facts.places.iter().filter(|place| planned.starts_with(&place.mount));
        let place = mounted.max_by_key(|place| place.mount.len());
        let inside = place.is_some_and(|place| place.directory == *planned || is_degraded(described, place));
        if !inside {
            notes.note("cgroup", &**planned, place.map_or("none", |place| &place.directory));
        }
    }
    let limits = described.plan.ops.iter().find_map(|op| match op {
        Op::Cgroup(limits) => Some(limits),
        _ => None,
    });
    if let Some(limits) = limits {
        values(described, limits, facts, notes);
    }
}

/// Whether the start could not use a hierarchy, and said so.
fn is_degraded(described: &Described, place: &CgroupPlace) -> bool {
    match &*place.controllers {
        [] => lacks(described, "namespace"),
        controllers => controllers.iter().any(|controller| lacks(described, controller)),
    }
}

fn lacks(described: &Described, what: &str) -> bool {
    described.degraded.iter().any(|layer| {
        layer.strip_prefix("cgroup ").and_then(|rest| rest.strip_prefix(what)).is_some_and(|rest| {
            // A controller's name ends with a colon.
            rest.starts_with([':', ' '])
        })
    })
}

/// Each controller with a limit: a version 1 hierarchy has it, or else the unified one.
fn values(described: &Described, limits: &CgroupLimits, facts: &ProcessFacts, notes: &mut Notes<'_>) {
    let cpus = (!limits.cpus.is_empty()).then(|| limits.cpus.iter().map(u32::to_string).collect::<Vec<_>>());
    let wanted = [
        ("memory", Some(limits.memory_max.to_string())),
        ("pids", Some(limits.pids_max.to_string())),
        ("cpuset", cpus.map(|cpus| cpus.join(","))),
        ("cpu", limits.cpu_max.map(|max| format!("{} {}", max.quota, max.period))),
    ];
    for (controller, planned) in wanted {
        let Some(planned) = planned.filter(|_| !lacks(described, controller)) else { continue };
        let has = |place: &&CgroupPlace| place.controllers.iter().any(|name| name == controller);
        let unified = |place: &&CgroupPlace| place.controllers.is_empty();
        let place = facts.places.iter().find(has).or_else(|| facts.places.iter().find(unified));
        let what = format!("cgroup {controller}");
        match place.filter(|place| is_the_domains(described, place)) {
            None => notes.note(what, planned, "not in the domain's cgroup"),
            Some(place) => {
                let found = place.limits.get(controller).map(|text| text.trim());
                let same = found.is_some_and(|found| match controller {
                    "memory" => is_near(limits.memory_max, found),
                    "cpuset" => cpu_list(found).is_some_and(|cpus| cpus == limits.cpus),
                    _ => found == planned,
                });
                if !same {
                    notes.note(what, planned, found.unwrap_or("no limit"));
                }
            }
        }
    }
}

fn is_the_domains(described: &Described, place: &CgroupPlace) -> bool {
    let name = format!("svirt-{}", described.plan.domain.uuid);
    place.directory.rsplit('/').next() == Some(&*name)
        // A domain that an earlier version started has none written down.
        && (described.cgroups.is_empty() || described.cgroups.contains(&place.directory))
}

/// Whether the kernel rounded the planned bytes down to this.
fn is_near(planned: u64, found: &str) -> bool {
    found.parse().is_ok_and(|found: u64| found <= planned && planned - found < PAGE_MAX)
}

/// A list such as `0-2,5`; the kernel has no CPU above 8191.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last > 8191 || cpus.len() > 8191 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::base::{DomainName, DomainRef, DomainUuid};
    use crate::privsep::op::LaunchPlan;
    use crate::privsep::request::DomainStatus;

    const NAME: &str = "svirt-00000000-0000-0000-0000-000000000007";

    fn described(cpus: Vec<u32>) -> Described {
        let domain =
            DomainRef { name: DomainName::new("a").unwrap(), uuid: DomainUuid(uuid::Uuid::from_u128(7)) };
        let limits = CgroupLimits {
            memory_max: (64 << 20) + 5,
            pids_max: 64,
            devices: Vec::new(),
            cpus,
            cpu_max: None,
            tuning: Default::default(),
        };
        let status =
            DomainStatus { domain: domain.clone(), qemu_pid: 1, supervisor_pid: 2, control: String::new() };
        Described {
            status,
            plan: LaunchPlan { version: 1, domain, ops: vec![Op::Cgroup(limits)], notes: Vec::new() },
            helpers: Vec::new(),
            nvrams: Vec::new(),
            degraded: Vec::new(),
            cgroup: None,
            cgroups: ["/c/unified", "/c/memory", "/c/pids"].map(|mount| format!("{mount}/{NAME}")).into(),
            plugs: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn place(controller: &str, limits: &[(&str, &str)]) -> CgroupPlace {
        let mount = format!("/c/{}", if controller.is_empty() { "unified" } else { controller });
        CgroupPlace {
            controllers: (!controller.is_empty()).then(|| controller.to_owned()).into_iter().collect(),
            directory: format!("{mount}/{NAME}"),
            mount,
            limits: limits.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn hybrid() -> ProcessFacts {
        let places = vec![
            place("", &[]),
            place("memory", &[("memory", "67108864")]),
            place("pids", &[("pids", "64\n")]),
        ];
        ProcessFacts { places, ..ProcessFacts::default() }
    }

    fn told(described: &Described, facts: &ProcessFacts) -> Vec<String> {
        let mut notes = Notes { role: "qemu", found: Vec::new() };
        compare(described, facts, &mut notes);
        notes.found.into_iter().map(|it| format!("{}: {} / {}", it.what, it.planned, it.found)).collect()
    }

    #[test]
    fn a_process_within_its_limits_is_as_planned() {
        assert!(told(&described(vec![]), &hybrid()).is_empty());
        let mut old = described(vec![]);
        old.cgroups.clear();
        assert!(told(&old, &hybrid()).is_empty(), "an earlier version wrote no directories down");
    }

    #[test]
    fn one_hierarchy_that_was_left_is_told() {
        for at in 0..3 {
            let mut facts = hybrid();
            let left = facts.places[at].mount.clone();
            facts.places[at].directory = left.clone();
            let told = told(&described(vec![]), &facts);
            assert!(told.iter().any(|line| *line == format!("cgroup: {left}/{NAME} / {left}")), "{told:?}");
            assert_eq!(told.len(), if at == 0 { 1 } else { 2 }, "its limit does not hold either: {told:?}");
        }
        assert_eq!(told(&described(vec![]), &ProcessFacts::default()).len(), 5);
    }

    #[test]
    fn a_limit_that_was_changed_is_told() {
        let mut facts = hybrid();
        facts.places[1].limits.insert("memory".into(), "67174400".into());
        facts.places[2].limits.insert("pids".into(), "max".into());
        let told = told(&described(vec![]), &facts);
        assert_eq!(told, ["cgroup memory: 67108869 / 67174400", "cgroup pids: 64 / max"]);
        assert!(!is_near(1 << 20, "max") && !is_near(1 << 20, "524288"));
    }

    #[test]
    fn the_unified_hierarchy_has_what_version_1_has_not() {
        let mut facts = hybrid();
        facts.places.truncate(1);
        let mut planned = described(vec![0, 1, 2, 5]);
        planned.cgroups.truncate(1);
        let all = [("memory", "67108864"), ("pids", "64"), ("cpuset", "0-2,5")];
        facts.places[0].limits = place("", &all).limits;
        assert!(told(&planned, &facts).is_empty());
        facts.places[0].limits.insert("cpuset".into(), "0-5".into());
        assert_eq!(told(&planned, &facts), ["cgroup cpuset: 0,1,2,5 / 0-5"]);
    }

    #[test]
    fn what_the_start_named_as_missing_is_not_told_again() {
        let mut facts = hybrid();
        facts.places[2].directory = "/c/pids".into();
        let mut planned = described(vec![]);
        planned.degraded.push("cgroup pids: not delegated to the labeller".into());
        assert!(told(&planned, &facts).is_empty());
        facts.places[1].directory = "/c/memory".into();
        assert_eq!(told(&planned, &facts).len(), 2, "of memory nothing was said");
    }

    #[test]
    fn no_list_of_cpus_is_without_end() {
        assert_eq!(cpu_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpu_list("0-4294967295"), None);
        assert_eq!(cpu_list("x"), None);
    }
}
