//! The facts of a domain's processes as text for people and as one value for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::compare::{Difference, OWN_NAMESPACES};
use super::facts::ProcessFacts;
use crate::filter::judge::{Judgement, judge_stack};
use crate::privsep::supervisor::call_name;

/// Everything that an inspection found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the domain, or the pid.
    pub target: String,
    /// Whether there was a plan to compare with.
    pub planned: bool,
    /// The processes, each with its filters judged.
    pub processes: Vec<Process>,
    /// What is not as planned.
    pub differences: Vec<Difference>,
    /// Layers that the host has only in part, as the labeller saw it at the start.
    pub degraded: Vec<String>,
    /// Calls that the shut gate refused; `None` where there is no supervisor that says so.
    pub refused: Option<Vec<RefusedCall>>,
}

/// A call of the launch's that the device model made, in vain, while the guest ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RefusedCall {
    /// Its name, or `call NUMBER`.
    pub call: String,
    /// How often.
    pub count: u64,
}

/// The most kinds of refused calls that a report has; a supervisor counts fewer.
const CALLS_MAX: usize = 200;

/// What a supervisor counted, by name.
#[must_use]
pub fn refused(counted: &[(i32, u64)]) -> Vec<RefusedCall> {
    let named = counted.iter().take(CALLS_MAX);
    named.map(|(number, count)| RefusedCall { call: call_name(*number), count: *count }).collect()
}

/// One process and what its filters come to.
#[derive(Clone, Debug, Serialize)]
pub struct Process {
    /// What the kernel shows.
    pub facts: ProcessFacts,
    /// What its filters allow, where they could be read.
    pub filter: Option<Judgement>,
    /// Why the filters could not be judged.
    pub filter_error: Option<String>,
    /// Landlock, which no kernel shows: what the plan asked for.
    pub landlock: String,
}

impl Process {
    /// Judges the filters of a process.
    #[must_use]
    pub fn new(facts: ProcessFacts, landlock: String) -> Self {
        let judged = facts.filters.as_deref().filter(|filters| !filters.is_empty()).map(judge_stack);
        let (filter, filter_error) = match judged {
            Some(Ok(judgement)) => (Some(judgement), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        Self { facts, filter, filter_error, landlock }
    }
}

/// The report for people.
#[must_use]
pub fn human(report: &Report) -> String {
    let mut text = String::new();
    for process in &report.processes {
        describe(process, &mut text);
    }
    for name in &report.degraded {
        let _ = writeln!(text, "degraded: {name}");
    }
    gate(report, &mut text);
    if !report.planned {
        let _ = writeln!(text, "{}: no plan of svirt's to compare with", report.target);
    } else if report.differences.is_empty() {
        let _ = writeln!(text, "{}: everything is as planned", report.target);
    } else {
        for difference in &report.differences {
            let _ = writeln!(
                text,
                "DIFFERENT  {} {}: planned {}, found {}",
                difference.role,
                one_line(&difference.what),
                one_line(&difference.planned),
                one_line(&difference.found)
            );
        }
    }
    text
}

fn gate(report: &Report, text: &mut String) {
    for refused in report.refused.iter().flatten() {
        let _ = writeln!(
            text,
            "REFUSED    {} by the shut gate, {} times",
            one_line(&refused.call),
            refused.count
        );
    }
    if report.planned && report.refused.is_none() {
        let _ = writeln!(text, "gate: what it refused is not known, for the supervisor does not answer");
    }
}

fn describe(process: &Process, text: &mut String) {
    let facts = &process.facts;
    let status = &facts.status;
    let _ = writeln!(
        text,
        "{}  pid {}  {}  ({} threads)",
        facts.role,
        facts.pid,
        one_line(&facts.exe),
        facts.threads
    );
    line(text, "uid", &ids(status.uids));
    line(text, "gid", &ids(status.gids));
    line(text, "groups", &list(status.groups.iter().map(u32::to_string)));
    let sets: Vec<String> = status
        .capabilities
        .sets()
        .iter()
        .map(|(name, set)| {
            format!("{name} {}", if *set == 0 { "none".to_owned() } else { format!("{set:x}") })
        })
        .collect();
    line(text, "capabilities", &sets.join(", "));
    line(text, "no_new_privs", if status.no_new_privs { "yes" } else { "NO" });
    line(text, "label", facts.label.as_deref().unwrap_or("none (no security module labels processes here)"));
    line(text, "seccomp", &filter(process));
    if let Some(verdict) = &process.filter {
        line(text, "  allowed", &verdict.allowed.join(" "));
        if !verdict.allowed_conditionally.is_empty() {
            line(text, "  by argument", &verdict.allowed_conditionally.join(" "));
        }
        if !verdict.launch.is_empty() {
            line(text, "  launch only", &verdict.launch.join(" "));
        }
    }
    line(text, "landlock", &process.landlock);
    line(text, "namespaces", &namespaces(facts));
    line(text, "mounts", &mounts(facts));
    line(text, "descriptors", &format!("{} open", facts.fds.len()));
    for fd in &facts.fds {
        let _ = writeln!(text, "  {:>14}  {:<2} {}", fd.number, fd.access, one_line(&fd.target));
    }
    line(text, "cgroup", &facts.cgroups.join("  "));
    let limits: Vec<String> = ["Max core file size", "Max open files", "Max processes", "Max locked memory"]
        .iter()
        .filter_map(|name| facts.limits.get(*name).map(|(soft, _)| format!("{name} {}", bound(*soft))))
        .collect();
    line(text, "limits", &limits.join(", "));
    text.push('\n');
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<14}  {}", one_line(value));
}

/// Without line ends: names that a process gave its files must not pass for lines of this report.
fn one_line(value: &str) -> String {
    value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// One id where all four are the same, as they should be.
fn ids(ids: [u32; 4]) -> String {
    let [real, effective, saved, fs] = ids;
    if real == effective && real == saved && real == fs {
        real.to_string()
    } else {
        format!("real {real}, effective {effective}, saved {saved}, file system {fs}")
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(" ") }
}

fn bound(value: Option<u64>) -> String {
    value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string())
}

fn filter(process: &Process) -> String {
    let facts = &process.facts;
    match (&process.filter, &facts.filters_error) {
        (_, Some(error)) => format!("mode {}, filters unreadable: {error}", facts.status.seccomp_mode),
        (Some(verdict), None) => format!(
            "{} filters, {} instructions, longest path {}; {} calls allowed, {} by argument, {} at launch only, \
             {} refused, {} kill{}",
            facts.filters.as_ref().map_or(0, Vec::len),
            verdict.instructions,
            verdict.longest_path,
            verdict.allowed.len(),
            verdict.allowed_conditionally.len(),
            verdict.launch.len(),
            verdict.errno.values().map(Vec::len).sum::<usize>() + verdict.other.len(),
            verdict.kill.len(),
            gaps(verdict)
        ),
        (None, None) if process.filter_error.is_some() => {
            format!("cannot be judged: {}", process.filter_error.as_deref().unwrap_or_default())
        }
        (None, None) => "NONE: every system call is allowed".to_owned(),
    }
}

/// What an allow-list for x86-64 alone would leave open.
fn gaps(verdict: &Judgement) -> String {
    let gaps = [
        (!verdict.i386_killed, "i386 calls pass"),
        (!verdict.x32_refused, "x32 calls pass"),
        (!verdict.newer_refused, "calls newer than the filter pass"),
    ];
    gaps.iter().filter(|(open, _)| *open).map(|(_, name)| format!("; {name}")).collect()
}

fn namespaces(facts: &ProcessFacts) -> String {
    let own = |name: &&str| facts.namespaces.get(*name).is_some_and(|namespace| !namespace.host);
    let (own, shared): (Vec<&str>, Vec<&str>) = OWN_NAMESPACES.iter().copied().partition(own);
    let mut text = format!("own: {}", list(own.iter().map(ToString::to_string)));
    if !shared.is_empty() {
        let _ = write!(text, "; the host's: {}", shared.join(" "));
    }
    text
}

/// All of a few mounts, the number of many.
fn mounts(facts: &ProcessFacts) -> String {
    if facts.mounts.len() > 12 {
        return format!("{} mounts", facts.mounts.len());
    }
    list(facts.mounts.iter().map(|mount| {
        let access = if mount.options.iter().any(|option| option == "ro") { "ro" } else { "rw" };
        format!("{} ({} {access})", mount.point, mount.kind)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::facts::Descriptor;

    #[test]
    fn a_name_is_no_line_of_the_report() {
        let forged = "/memfd:x\nguest: everything is as planned\n".to_owned();
        let fds =
            vec![Descriptor { number: 3, target: forged.clone(), access: "rw".into(), identity: (0, 0) }];
        let facts = ProcessFacts { exe: forged.clone(), label: Some(forged), fds, ..ProcessFacts::default() };
        let report = Report {
            target: "guest".into(),
            planned: false,
            processes: vec![Process::new(facts, String::new())],
            differences: Vec::new(),
            degraded: Vec::new(),
            refused: None,
        };
        let text = human(&report);
        assert!(text.contains("everything is as planned"));
        assert!(!text.lines().any(|line| line.starts_with("guest: everything")), "{text}");
    }

    #[test]
    fn what_the_gate_refused_is_told() {
        let mut report = Report {
            target: "guest".into(),
            planned: true,
            processes: Vec::new(),
            differences: Vec::new(),
            degraded: Vec::new(),
            refused: Some(refused(&[(59, 2), (100_000, 1), (-1, 7)])),
        };
        let text = human(&report);
        for line in
            ["execve by the shut gate, 2 times", "call 100000 by", "other calls by the shut gate, 7 times"]
        {
            assert!(text.contains(line), "{text}");
        }
        report.refused = None;
        assert!(human(&report).contains("supervisor does not answer"));
        report.refused = Some(Vec::new());
        assert_eq!(human(&report), "guest: everything is as planned\n");
    }
}
