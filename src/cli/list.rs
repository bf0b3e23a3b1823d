//! `svirt list`: which domains run, under which ids and labels, and whether their gates are shut.

use std::io::Write as _;
use std::path::Path;

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde::Serialize;

use super::args::List;
use super::domain::{Host, ask_soon};
use super::exit::Failure;
use super::output::printable;
use crate::driver::DriverError;
use crate::privsep::apparmor::profile_name;
use crate::privsep::op::Op;
use crate::privsep::request::{Described, DomainStatus};
use crate::privsep::supervisor::Status;

/// How many are asked at once.
const AT_ONCE: usize = 32;

/// One row; also the form of `--json`.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    uuid: String,
    state: String,
    pid: i32,
    uid: Option<u32>,
    label: Option<String>,
    sealed: Option<bool>,
    degraded: Vec<String>,
    /// Helpers of the plan that do not run: networks and TPMs that the guest has lost.
    lost: Vec<String>,
    /// Calls that the shut gate refused; `svirt inspect` names them.
    refused: Option<u64>,
}

/// Runs `svirt list`.
pub(super) fn run(list: &List, config: &Path) -> Result<(), Failure> {
    let mut host = Host::open(config, "svirt list")?;
    let domains = host.survey()?.domains;
    let mut states = ask(&domains).into_iter();
    let mut rows = Vec::new();
    for status in &domains {
        // A domain that ends meanwhile is no error: its row says what is still known.
        let described =
            host.labeller.as_mut().and_then(|labeller| labeller.describe(status.domain.uuid).ok());
        let state = states.next().unwrap_or(Err(DriverError::NoDomain));
        rows.push(row(status, described.as_ref(), state.as_ref()));
    }
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    let mut out = anstream::stdout().lock();
    if list.json {
        serde_json::to_writer_pretty(&mut out, &rows).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", table(&rows))?;
    }
    Ok(())
}

/// What each supervisor says. All are asked side by side, so that those that do not answer hold up the list once.
fn ask(domains: &[DomainStatus]) -> Vec<Result<Status, DriverError>> {
    let mut states = Vec::with_capacity(domains.len());
    for some in domains.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|status| scope.spawn(move || ask_soon(status))).collect();
            // A thread that panicked has no state to tell.
            let told = threads.into_iter().map(|thread| thread.join().unwrap_or(Err(DriverError::NoDomain)));
            states.extend(told);
        });
    }
    states
}

fn row(status: &DomainStatus, described: Option<&Described>, state: Result<&Status, &DriverError>) -> Row {
    let why = match state {
        Err(DriverError::Silent) if status.supervisor_pid != 0 => "supervisor does not answer",
        _ => "no supervisor",
    };
    let state = state.ok();
    let spawn = described.and_then(|described| {
        described.plan.ops.iter().find_map(|op| match op {
            Op::Spawn(spawn) => Some(spawn),
            _ => None,
        })
    });
    Row {
        name: status.domain.name.to_string(),
        uuid: status.domain.uuid.to_string(),
        state: state.map_or_else(|| why.into(), |state| state.state.clone()),
        pid: status.qemu_pid,
        uid: spawn.map(|spawn| spawn.confinement.uid),
        label: spawn
            .and_then(|spawn| spawn.confinement.selinux_exec.clone())
            .or_else(|| described.and_then(profile)),
        sealed: state.map(|state| state.sealed),
        degraded: described.map(|described| described.degraded.clone()).unwrap_or_default(),
        lost: described.map(lost).unwrap_or_default(),
        refused: state
            .map(|state| state.refused.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))),
    }
}

/// Helpers that have ended while the guest goes on.
fn lost(described: &Described) -> Vec<String> {
    let planned = described.plan.ops.iter().filter_map(|op| match op {
        Op::SpawnPasst { alias, .. } => Some((alias, format!("network {alias} is gone"))),
        Op::SpawnSwtpm { alias, .. } => Some((alias, format!("{alias} is gone"))),
        _ => None,
    });
    let runs = |alias: &str| described.helpers.iter().any(|(of, _)| of == alias);
    planned.filter(|(alias, _)| !runs(alias)).map(|(_, what)| what).collect()
}

/// The AppArmor profile of the device model, where one was loaded.
fn profile(described: &Described) -> Option<String> {
    let lacks = described.degraded.iter().any(|layer| layer.starts_with("AppArmor"));
    let planned = described.plan.ops.iter().any(|op| matches!(op, Op::LoadProfile { .. }));
    (planned && !lacks).then(|| profile_name(described.status.domain.uuid))
}

/// What it does, and what it has lost.
fn state(row: &Row) -> String {
    let refused = row.refused.filter(|count| *count > 0);
    std::iter::once(row.state.clone())
        .chain(row.lost.iter().cloned())
        .chain(refused.map(|count| format!("{count} calls refused")))
        .collect::<Vec<_>>()
        .join(", ")
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new()).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["NAME", "STATE", "PID", "UID", "GATE", "LABEL", "UUID"]);
    for row in rows {
        let unknown = || "-".to_owned();
        table.add_row([
            printable(&row.name),
            printable(&state(row)),
            row.pid.to_string(),
            row.uid.map_or_else(unknown, |uid| uid.to_string()),
            row.sealed.map_or_else(unknown, |sealed| if sealed { "sealed".into() } else { "open".into() }),
            row.label.as_deref().map_or_else(unknown, printable),
            row.uuid.clone(),
        ]);
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn refused_calls_and_silent_supervisors_are_told() {
        let uuid = "11111111-2222-3333-4444-555555555555";
        let status: DomainStatus = serde_json::from_value(serde_json::json!({
            "domain": { "name": "d", "uuid": uuid }, "qemu_pid": 7, "supervisor_pid": 8, "control": "/c",
        }))
        .unwrap();
        let mut says = Status {
            state: "running".into(),
            sealed: true,
            notifications: 9,
            refused: Vec::new(),
            consoles: Vec::new(),
        };
        assert_eq!(state(&row(&status, None, Ok(&says))), "running");
        says.refused = vec![(59, 2), (41, 3)];
        assert_eq!(state(&row(&status, None, Ok(&says))), "running, 5 calls refused");
        let silent = |pid| DomainStatus { supervisor_pid: pid, ..status.clone() };
        let tell = |pid| state(&row(&silent(pid), None, Err(&DriverError::Silent)));
        assert_eq!((tell(8).as_str(), tell(0).as_str()), ("supervisor does not answer", "no supervisor"));
    }
}
