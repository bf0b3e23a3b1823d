//! `svirt check-appliance`: whether a host has what an appliance needs, and the domain that it becomes there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use super::args::CheckAppliance;
use super::deposit::Deposit;
use super::exit::{Code, Failure};
use super::output::printable;
use super::{capabilities, privilege};
use crate::base::{Layer, Refusal};
use crate::conf::appliance::{self, Appliance, Offer, Verdict};
use crate::conf::capabilities::Capabilities;
use crate::conf::domain_capabilities::{DomainCapabilities, Wanted};
use crate::host::{self, View};
use crate::security::doi::Tables;
use crate::settings::Settings;

/// The longest file that is read, in bytes; the XML reader's own limit is lower.
const FILE_MAX: u64 = 16 << 20;

/// Files that are open before privilege is gone.
struct Files {
    appliance: Box<dyn std::io::Read>,
    capabilities: Option<File>,
    output: Option<Deposit>,
    directory: String,
}

/// Runs `svirt check-appliance`.
pub(super) fn run(wanted: &CheckAppliance, settings: &Settings, quiet: bool) -> Result<(), Failure> {
    let mut files = open(wanted)?;
    let inventory = files.capabilities.is_none().then(|| capabilities::inventory(false, settings, quiet));
    let own = inventory.as_ref().map(|known| known.capabilities(View::System, settings)).transpose()?;
    let tables = host::doi_tables(settings);
    if privilege::is_root() {
        privilege::drop_all(settings)?;
    }
    let tables = Tables::load(&tables).map_err(Refusal::from)?;
    let appliance = Appliance::parse(&bytes(&mut files.appliance)?).map_err(Refusal::from)?;
    let offered = match (own, &mut files.capabilities) {
        (Some(own), _) => own,
        (None, Some(file)) => Capabilities::parse(&bytes(file)?).map_err(|error| {
            Refusal::new(
                Layer::Definition,
                "read",
                "the host's capabilities",
                error.to_string(),
                "name what `svirt capabilities` printed",
            )
        })?,
        (None, None) => return Err(Failure::plain("no host was named", "")),
    };
    let board = |machine| {
        let asked = Wanted { machine: Some(machine), virt: Some("qemu"), ..Wanted::default() };
        DomainCapabilities::new(&inventory.as_ref()?.emulators, asked, false, settings.limits.vcpus).ok()
    };
    let boards = board("q35").zip(board("pc"));
    let offer = Offer {
        capabilities: &offered,
        boards: boards.as_ref().map(|(q35, pc)| (q35, pc)),
        vcpus: settings.limits.vcpus,
        kept_memory: settings.host.min_memory,
        kept_cpus: settings.host.cpus,
        leads: &|model, from, to| tables.lead(model, from, to),
    };
    let verdicts = appliance::check(&appliance, &offer);
    let fitting = verdicts.iter().position(Verdict::fits);
    print(wanted, &appliance, &verdicts, fitting, quiet)?;
    let Some((boot, verdict)) = fitting.and_then(|at| appliance.boots.get(at).zip(verdicts.get(at))) else {
        return Err(Failure::Ended(
            Code::Unfit,
            format!("svirt: {}: this host does not have what it needs", appliance.name),
        ));
    };
    match files.output.take() {
        Some(output) => output.write(&appliance::domain_xml(&appliance, boot, verdict, &files.directory)),
        None => Ok(()),
    }
}

fn open(wanted: &CheckAppliance) -> Result<Files, Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::plain(format!("cannot open {}: {error}", path.display()), "name a file that you may use")
    };
    let file = |path: &Path| File::open(path).map_err(|error| failed(path, error));
    let stdin = wanted.appliance == Path::new("-");
    let appliance: Box<dyn std::io::Read> =
        if stdin { Box::new(std::io::stdin()) } else { Box::new(file(&wanted.appliance)?) };
    let beside = wanted.appliance.parent().filter(|_| !stdin);
    let directory = match (&wanted.images, beside) {
        (Some(directory), _) => std::path::absolute(directory).map_err(|error| failed(directory, error))?,
        (None, Some(beside)) => {
            let beside = if beside.as_os_str().is_empty() { Path::new(".") } else { beside };
            beside.canonicalize().map_err(|error| failed(beside, error))?
        }
        (None, None) => "/var/lib/svirt/images".into(),
    };
    let directory = directory.to_str().map(ToOwned::to_owned);
    Ok(Files {
        appliance,
        capabilities: wanted.capabilities.as_deref().map(file).transpose()?,
        // Nothing can be made any more once privilege is gone, and before it nothing is known to fit.
        output: wanted.output.as_deref().map(Deposit::at).transpose()?,
        directory: directory.ok_or_else(|| {
            Failure::plain("the images' directory is no UTF-8", "name another one with --images")
        })?,
    })
}

fn bytes(from: &mut impl std::io::Read) -> Result<Vec<u8>, Failure> {
    let mut read = Vec::new();
    from.take(FILE_MAX + 1).read_to_end(&mut read)?;
    if read.len() as u64 > FILE_MAX {
        return Err(Failure::plain(format!("a file is longer than {FILE_MAX} bytes"), "name XML"));
    }
    Ok(read)
}

fn print(
    wanted: &CheckAppliance,
    appliance: &Appliance,
    verdicts: &[Verdict],
    fitting: Option<usize>,
    quiet: bool,
) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    if wanted.json {
        let report = serde_json::json!({ "name": appliance.name, "fits": fitting, "boots": verdicts });
        serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    if quiet {
        return Ok(());
    }
    for ((number, boot), verdict) in (1..).zip(&appliance.boots).zip(verdicts) {
        let fits = match (verdict.fits(), fitting == Some(number - 1)) {
            (true, true) => "fits, and is the one to deploy",
            (true, false) => "fits",
            (false, _) => "does not fit",
        };
        writeln!(out, "boot {number} ({}, {}) {fits}", printable(&boot.kind), printable(&boot.arch))?;
        for finding in &verdict.findings {
            let word = if finding.met { "yes" } else { "NO " };
            writeln!(out, "  {word}  {}: {}", printable(&finding.need), printable(&finding.why))?;
        }
    }
    Ok(())
}
