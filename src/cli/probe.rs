//! `svirt probe`: puts an attacker where a device model is.

use std::io::Write as _;
use std::path::Path;

use super::args::Look;
use super::exit::{Code, Failure};
use super::inspect::Subject;
use super::output::printable;
use crate::privsep::op::Op;
use crate::probe::catalogue::Targets;
use crate::probe::decoy::Decoy;
use crate::probe::matrix::{self, Verdict};
use crate::probe::place::{Layer, Place};
use crate::probe::render::{self, Report};
use crate::settings::Settings;

/// Sockets of other managers, tried where svirt does not run the guest.
const MANAGER_SOCKETS: &[&str] =
    &["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock", "/var/run/libvirt/libvirt-sock"];

/// Runs the command.
pub(super) fn run(args: &Look, settings: &Settings) -> Result<(), Failure> {
    if crate::sys::cred::effective_uid() != 0 {
        return Err(Failure::needs_root("svirt probe …"));
    }
    let subject = Subject::find(args.domain.as_deref(), args.pid, settings)?;
    let report = report(&subject, settings)?;
    let mut out = anstream::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", printable(&render::human(&report)))?;
    }
    match report.count(Verdict::Through) {
        0 => Ok(()),
        count => {
            Err(Failure::Ended(Code::Finding, format!("{}: {count} attacks got through", report.target)))
        }
    }
}

fn report(subject: &Subject, settings: &Settings) -> Result<Report, Failure> {
    let facts = subject.read()?.into_iter().next().ok_or_else(|| Failure::no_domain(&subject.name))?;
    let landlock = subject.described.as_ref().and_then(|described| {
        described.plan.ops.iter().find_map(|op| match op {
            Op::Spawn(spawn) => Some(spawn.confinement.landlock.clone()),
            _ => None,
        })
    });
    let [_, uid, ..] = facts.status.uids;
    let place = Place::open(facts, landlock)?;
    let decoy = Decoy::new(&decoy_directory(), neighbour_uid(subject, uid, settings))?;
    let targets = targets(subject, decoy.targets().clone(), settings);
    let rows = matrix::run(&place, &targets)?;
    Ok(Report {
        target: subject.name.clone(),
        layers: Layer::ALL.into_iter().filter(|layer| place.has(*layer)).collect(),
        unknown: unknown(subject, &place),
        rows,
    })
}

/// A directory that everybody may pass through.
fn decoy_directory() -> std::path::PathBuf {
    std::env::temp_dir()
}

/// The uid of a neighbour: under svirt another one of the range; elsewhere the same, as stock managers give it.
fn neighbour_uid(subject: &Subject, uid: u32, settings: &Settings) -> u32 {
    if subject.described.is_none() {
        return uid;
    }
    let last = settings.uids.domains.first + settings.uids.domains.count.saturating_sub(1);
    if uid == last { uid.saturating_sub(1) } else { last }
}

/// Adds what manages the guest to the neighbour's targets.
fn targets(subject: &Subject, neighbour: Targets, settings: &Settings) -> Targets {
    let (socket, control, pid, file) = match &subject.described {
        Some(described) => (
            Some(format!("{}/labeller.sock", settings.paths.run)),
            Some(described.status.control.clone()),
            Some(described.status.supervisor_pid).filter(|pid| *pid > 0),
            Some(format!("{}/journal/{}.json-lines", settings.paths.state, described.status.domain.uuid)),
        ),
        None => {
            let socket = MANAGER_SOCKETS.iter().find(|path| Path::new(path).exists());
            (socket.map(ToString::to_string), None, None, None)
        }
    };
    Targets {
        manager_socket: socket,
        control_socket: control,
        manager_pid: pid,
        manager_file: file.filter(|path| Path::new(path).exists()),
        block_device: block_device(),
        ..neighbour
    }
}

/// The first whole disk of the host, by name.
fn block_device() -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir("/sys/block")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| ["vd", "sd", "nvme", "xvd"].iter().any(|start| name.starts_with(start)))
        .collect();
    names.sort();
    names.into_iter().map(|name| format!("/dev/{name}")).find(|path| Path::new(path).exists())
}

/// What this probe could not know or put on.
fn unknown(subject: &Subject, place: &Place) -> Vec<String> {
    let mut notes = Vec::new();
    if subject.described.is_none() {
        notes
            .push("Landlock rulesets of a foreign process are not visible; the attacker had none".to_owned());
    }
    if let Some(error) = &place.facts.filters_error {
        notes.push(format!("the filters could not be copied ({error}); the attacker had none"));
    }
    notes.push(
        "cgroup device rules were not taken on: the attacker stays out of the guest's cgroup".to_owned(),
    );
    notes
}
