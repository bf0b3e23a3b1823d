//! `svirt probe`: puts an attacker where a device model is.

use std::io::Write as _;
use std::path::Path;

use super::args::Look;
use super::exit::{Code, Failure};
use super::inspect::Subject;
use super::output::printable;
use crate::base::CategoryPair;
use crate::driver::Labeller;
use crate::inspect::{self, facts::ProcessFacts};
use crate::privsep::op::Op;
use crate::privsep::request::Described;
use crate::probe::catalogue::Targets;
use crate::probe::decoy::{self, Decoy, Dress};
use crate::probe::matrix::{self, Verdict};
use crate::probe::place::{Layer, Place};
use crate::probe::render::{self, Report};
use crate::settings::Settings;

/// Sockets of other managers, tried where svirt does not run the guest.
const MANAGER_SOCKETS: &[&str] =
    &["/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock", "/var/run/libvirt/libvirt-sock"];

/// Plays the neighbour.
pub(super) fn neighbour(label: Option<&str>) -> Result<(), Failure> {
    match decoy::neighbour(label) {
        Ok(never) => match never {},
        Err(error) => Err(error.into()),
    }
}

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
    let (role, pid) = subject.processes.first().ok_or_else(|| Failure::no_domain(&subject.name))?;
    let confinement = subject.described.as_ref().and_then(|described| {
        described.plan.ops.iter().find_map(|op| match op {
            Op::Spawn(spawn) => Some(&spawn.confinement),
            _ => None,
        })
    });
    let landlock = confinement.map(|confinement| confinement.landlock.clone());
    let place = Place::open(role, *pid, landlock)
        .map_err(|error| Failure::plain(error.to_string(), "`svirt list` shows the processes that run"))?;
    let [_, uid, ..] = place.facts.status.uids;
    if confinement.is_some_and(|confinement| confinement.uid != uid) {
        return Err(Failure::plain(
            format!("process {pid} does not have the uid of {}", subject.name),
            "look at `svirt inspect`: its device model may just have ended",
        ));
    }
    let other = other_domain(subject, settings)?;
    let dress = dress(other.as_ref(), &place.facts, settings);
    let program = std::fs::File::open("/proc/self/exe")?;
    let decoy = Decoy::new(&decoy_directory(), neighbour_uid(subject, uid, settings), &dress, &program)?;
    let mut targets = targets(subject, decoy.targets().clone(), settings);
    if let Some(other) = &other {
        // A connection that says nothing is all that it gets.
        targets.monitor.clone_from(&other.status.control);
    }
    let (rows, untried) = matrix::run(&place, &targets)?;
    Ok(Report {
        target: subject.name.clone(),
        layers: Layer::ALL.into_iter().filter(|layer| place.has(*layer)).collect(),
        rows,
        untried,
        unknown: unknown(subject, &place, &decoy),
    })
}

/// Another domain that runs, whose labels the neighbour wears.
fn other_domain(subject: &Subject, settings: &Settings) -> Result<Option<Described>, Failure> {
    let Some(described) = &subject.described else { return Ok(None) };
    let mut client = Labeller::connect(settings).map_err(|error| error.refusal())?;
    let survey = client.survey().map_err(|error| error.refusal())?;
    let own = described.status.domain.uuid;
    let other = survey.domains.iter().find(|status| status.domain.uuid != own && status.qemu_pid > 0);
    Ok(other.and_then(|status| client.describe(status.domain.uuid).ok()))
}

/// What the neighbour wears: the labels of another domain, or ones like them.
fn dress(other: Option<&Described>, facts: &ProcessFacts, settings: &Settings) -> Dress {
    let own = facts.label.as_deref();
    let Some(other) = other else {
        let range = own.and_then(|label| label.splitn(4, ':').nth(3));
        let Some(pair) = range.filter(|range| range.contains(":c")).and_then(unlike) else {
            return Dress::default();
        };
        let process = own.and_then(|label| Some(format!("{}:{pair}", prefix(label)?)));
        let image = format!("system_u:object_r:{}:{pair}", settings.selinux.image_type);
        return Dress { process, image: Some(image) };
    };
    let process = inspect::read::label_of(other.status.qemu_pid).filter(|label| Some(&**label) != own);
    let image = other.plan.ops.iter().find_map(|op| match op {
        Op::LabelSelinux { label, .. } if label.contains(&settings.selinux.image_type) => Some(label.clone()),
        _ => None,
    });
    Dress { process, image }
}

/// User, role and type of a context.
fn prefix(label: &str) -> Option<&str> {
    label.match_indices(':').nth(2).and_then(|(at, _)| label.get(..at))
}

/// A level with a pair of categories that the given one does not hold; ranges such as `c1.c4` count as their ends.
fn unlike(range: &str) -> Option<String> {
    let held: Vec<u16> = range
        .split([':', ',', '.', '-'])
        .filter_map(|part| part.strip_prefix('c').and_then(|number| number.parse().ok()))
        .collect();
    let mut free = (0..1024).rev().filter(|category| !held.contains(category));
    let pair = CategoryPair::new(free.next()?, free.next()?).ok()?;
    Some(CategoryPair::level(&[pair]))
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
fn block_device() -> Option<(String, u64)> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let mut names: Vec<String> = std::fs::read_dir("/sys/block")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| ["vd", "sd", "nvme", "xvd"].iter().any(|start| name.starts_with(start)))
        .collect();
    names.sort();
    names.into_iter().map(|name| format!("/dev/{name}")).find_map(|path| {
        let found = std::fs::metadata(&path).ok().filter(|found| found.file_type().is_block_device())?;
        Some((path, found.rdev()))
    })
}

/// What this probe could not know.
fn unknown(subject: &Subject, place: &Place, decoy: &Decoy) -> Vec<String> {
    let mut notes = Vec::new();
    if subject.described.is_none() {
        notes
            .push("Landlock rulesets of a foreign process are not visible; the attacker had none".to_owned());
    }
    if !place.has(Layer::Cgroup) {
        notes.push("it has no cgroup of its own, so no device rules hold it".to_owned());
    }
    notes.extend(decoy.lacking().iter().map(|lacking| format!("the neighbour is a stand-in: {lacking}")));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_has_a_pair_of_its_own() {
        assert_eq!(unlike("s0:c1,c2").as_deref(), Some("s0:c1022,c1023"));
        assert_eq!(unlike("s0:c1022,c1023").as_deref(), Some("s0:c1020,c1021"));
        assert_eq!(unlike("s0-s0:c0.c1023").as_deref(), Some("s0:c1021,c1022"));
        assert_eq!(prefix("system_u:system_r:svirt_t:s0:c1,c2"), Some("system_u:system_r:svirt_t"));
    }
}
