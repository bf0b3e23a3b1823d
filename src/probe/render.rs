//! The verdicts as a table for people and as a value for programs.

use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use nix::errno::Errno;
use serde::Serialize;

use super::catalogue::Aim;
use super::matrix::{Outcome, Row, Untried, Verdict};
use super::place::Layer;

/// Everything that a probe found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the domain, or the pid.
    pub target: String,
    /// Layers that the process has.
    pub layers: Vec<Layer>,
    /// Layers that the process has and the attacker could not take on.
    pub untried: Vec<Untried>,
    /// What could not be known, by name.
    pub unknown: Vec<String>,
    /// The attacks.
    pub rows: Vec<Row>,
}

impl Report {
    /// How many attacks came to this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }
}

/// The report for people.
#[must_use]
pub fn human(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["at", "attack", "verdict", "answer", "stopped by, even alone"]);
    for row in &report.rows {
        table.add_row([
            aim(row.aim).to_owned(),
            row.title.to_owned(),
            verdict(row.verdict).to_owned(),
            outcome(row.placed),
            stopped_by(row),
        ]);
    }
    let mut text = format!("{table}\n");
    let _ = writeln!(
        text,
        "\n{}: {} of {} attacks stopped, {} got through, {} unproven",
        report.target,
        report.count(Verdict::Stopped),
        report.rows.len(),
        report.count(Verdict::Through),
        report.count(Verdict::Unproven),
    );
    for untried in &report.untried {
        let _ = writeln!(
            text,
            "NOT TRIED  {}: the attacker could not take it on ({}); what it alone would stop is unproven here{}",
            untried.layer.name(),
            untried.why,
            remedy(untried.layer)
        );
    }
    for name in &report.unknown {
        let _ = writeln!(text, "note: {name}");
    }
    open_ends(report, &mut text);
    text
}

/// What makes a layer testable, where an administrator can do something about it.
fn remedy(layer: Layer) -> &'static str {
    match layer {
        Layer::Label => {
            "; on a staging host with SELinux, load svirt-probe.cil, which lets an administrator take on a guest's label"
        }
        _ => "",
    }
}

/// What got through, below the one change that closes it.
fn open_ends(report: &Report, text: &mut String) {
    let mut by_remedy: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in report.rows.iter().filter(|row| row.verdict == Verdict::Through) {
        match by_remedy.iter_mut().find(|(closes, _)| *closes == row.closes) {
            Some((_, rows)) => rows.push(row),
            None => by_remedy.push((row.closes, vec![row])),
        }
    }
    for (closes, rows) in by_remedy {
        let _ = writeln!(text, "\nOPEN, closed by {closes}");
        for row in rows {
            let _ = writeln!(text, "  {}: wins {}", row.title, row.gain);
        }
    }
}

fn aim(aim: Aim) -> &'static str {
    match aim {
        Aim::Host => "host",
        Aim::Manager => "manager",
        Aim::Neighbour => "neighbour",
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Stopped => "stopped",
        Verdict::Through => "GOT THROUGH",
        Verdict::Unproven => "unproven",
    }
}

/// An outcome in the kernel's words.
fn outcome(outcome: Outcome) -> String {
    match outcome {
        Outcome::Killed(signal) => nix::sys::signal::Signal::try_from(signal)
            .map_or_else(|_| format!("signal {signal}"), |signal| format!("killed by {signal}")),
        Outcome::NotHere => "nothing to aim at here".to_owned(),
        Outcome::Refused(errno) => format!("{:?}", Errno::from_raw(errno)),
        Outcome::Through => "success".to_owned(),
        Outcome::Unplaced => "could not be tried".to_owned(),
    }
}

fn stopped_by(row: &Row) -> String {
    let names: Vec<String> = row.stopped_by.iter().map(|layer| layer.name().to_owned()).collect();
    let untried: Vec<&str> = row.untried.iter().map(|layer| layer.name()).collect();
    match row.verdict {
        Verdict::Unproven if row.placed == Outcome::Through => format!("not tried: {}", untried.join(", ")),
        Verdict::Unproven => format!("control: {}", outcome(row.control)),
        Verdict::Stopped if names.is_empty() => "only all of them together".to_owned(),
        _ => names.join(", "),
    }
}
