//! `svirt inspect`: what the kernel says of a domain's processes, next to the plan.

use std::io::Write as _;

use super::args::Look;
use super::domain::ask_soon;
use super::exit::{Code, Failure};
use super::output::printable;
use crate::driver::Labeller;
use crate::inspect::facts::ProcessFacts;
use crate::inspect::render::{self, Process, RefusedCall, Report};
use crate::inspect::{compare, read};
use crate::privsep::op::Op;
use crate::privsep::request::{Described, DomainStatus};
use crate::settings::Settings;

/// Runs the command.
pub(super) fn run(args: &Look, settings: &Settings) -> Result<(), Failure> {
    if crate::sys::cred::effective_uid() != 0 {
        return Err(Failure::needs_root("svirt inspect …"));
    }
    let subject = Subject::find(args.domain.as_deref(), args.pid, settings)?;
    let report = report(&subject)?;
    let mut out = anstream::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", printable(&render::human(&report)))?;
    }
    if report.differences.is_empty() {
        return Ok(());
    }
    let count = report.differences.len();
    Err(Failure::Ended(Code::Finding, format!("{}: {count} differences from the plan", report.target)))
}

/// What is looked at: a domain of svirt's with its plan, or any process.
pub(super) struct Subject {
    /// Name of the domain, or the pid.
    pub(super) name: String,
    /// The plan and processes, for a domain of svirt's.
    pub(super) described: Option<Described>,
    /// Role and pid of each process.
    pub(super) processes: Vec<(String, i32)>,
}

impl Subject {
    /// Finds a domain by name or uuid, or takes a pid as it is.
    pub(super) fn find(domain: Option<&str>, pid: Option<i32>, settings: &Settings) -> Result<Self, Failure> {
        let Some(name) = domain else {
            let pid = pid.ok_or_else(|| Failure::plain("no domain and no pid is given", "name one"))?;
            return Ok(Self {
                name: format!("pid {pid}"),
                described: None,
                processes: vec![("qemu".into(), pid)],
            });
        };
        let mut client = Labeller::connect(settings).map_err(|error| error.refusal())?;
        let survey = client.survey().map_err(|error| error.refusal())?;
        let found = |status: &&DomainStatus| {
            status.domain.name.as_str() == name || status.domain.uuid.to_string() == name.to_ascii_lowercase()
        };
        let status = survey.domains.iter().find(found).ok_or_else(|| Failure::no_domain(name))?;
        let described = client.describe(status.domain.uuid).map_err(|error| error.refusal())?;
        let mut processes = vec![
            ("qemu".to_owned(), described.status.qemu_pid),
            ("supervisor".to_owned(), described.status.supervisor_pid),
        ];
        processes.extend(described.helpers.iter().cloned());
        processes.retain(|(_, pid)| *pid > 0);
        Ok(Self { name: name.to_owned(), described: Some(described), processes })
    }

    /// Reads every process.
    pub(super) fn read(&self) -> Result<Vec<ProcessFacts>, Failure> {
        self.processes.iter().map(|(role, pid)| read::process(role, *pid).map_err(unreadable)).collect()
    }
}

/// A process that cannot be read has ended, or is not ours to read.
#[expect(clippy::needless_pass_by_value, reason = "map_err passes it by value")]
fn unreadable(error: read::ReadError) -> Failure {
    Failure::plain(format!("{error}: {}", error.source), "`svirt list` shows the processes that run")
}

fn report(subject: &Subject) -> Result<Report, Failure> {
    let facts = subject.read()?;
    let differences = subject.described.as_ref().map(|described| compare::compare(described, &facts));
    let processes = facts
        .into_iter()
        .map(|facts| {
            let landlock = landlock(subject, &facts);
            Process::new(facts, landlock)
        })
        .collect();
    Ok(Report {
        target: subject.name.clone(),
        planned: subject.described.is_some(),
        processes,
        differences: differences.unwrap_or_default(),
        degraded: subject.described.as_ref().map(|described| described.degraded.clone()).unwrap_or_default(),
        refused: subject.described.as_ref().and_then(refused),
    })
}

/// What the shut gate refused, where the supervisor says so before long.
fn refused(described: &Described) -> Option<Vec<RefusedCall>> {
    let status = ask_soon(&described.status).ok()?;
    Some(render::refused(&status.refused))
}

/// What is known of Landlock, which procfs does not show.
fn landlock(subject: &Subject, facts: &ProcessFacts) -> String {
    let plan = subject.described.as_ref().map(|described| &described.plan);
    let spawn = plan.and_then(|plan| {
        plan.ops.iter().find_map(|op| if let Op::Spawn(spawn) = op { Some(spawn) } else { None })
    });
    match spawn {
        Some(spawn) if facts.role == "qemu" => {
            let spec = &spawn.confinement.landlock;
            let rules: Vec<String> =
                spec.rules.iter().map(|rule| format!("{} {:?}", rule.path, rule.access)).collect();
            format!(
                "planned at ABI {}: {} (no kernel shows it; `svirt probe` proves it)",
                spec.abi,
                rules.join("; ")
            )
        }
        _ => "not visible: no kernel shows it".to_owned(),
    }
}
