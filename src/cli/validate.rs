//! `svirt validate` and `svirt format`: a definition on its own, without a host.

use std::io::Write as _;
use std::path::Path;

use super::args::{Format, Shown, Validate};
use super::definition::Definition;
use super::exit::Failure;
use super::output::{note, printable};
use super::{config, privilege};
use crate::conf::definition::{self, Strictness, View, Warning};

/// Runs `svirt validate`.
pub(super) fn run(wanted: &Validate, config: &Path, quiet: bool) -> Result<(), Failure> {
    let definition = open(&wanted.definition, config)?;
    let strictness = if wanted.strict { Strictness::Strict } else { Strictness::Lenient };
    let (kept, warnings, name) = definition.keep(strictness)?;
    let runs = kept.domain();
    if wanted.json {
        let mut out = anstream::stdout().lock();
        let report = serde_json::json!({
            "name": kept.name().as_str(),
            "uuid": kept.uuid().map(|uuid| uuid.to_string()),
            "warnings": warnings.iter().map(json).collect::<Vec<_>>(),
            "runs": runs.is_ok(),
            "refusal": runs.as_ref().err().map(|error| serde_json::json!({
                "line": error.line, "path": error.path, "what": error.kind.to_string(), "remedy": error.remedy,
            })),
        });
        serde_json::to_writer_pretty(&mut out, &report).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    report(&warnings);
    if quiet {
        return Ok(());
    }
    let mut out = anstream::stdout().lock();
    writeln!(out, "{} is a definition of domain {}", printable(&name), printable(kept.name().as_str()))?;
    if let Err(error) = runs {
        note(&format!("this version does not run it: {error} of `svirt format`; {}", error.remedy));
    }
    Ok(())
}

/// Runs `svirt format`.
pub(super) fn format(wanted: &Format, config: &Path, quiet: bool) -> Result<(), Failure> {
    let (kept, warnings, _) = open(&wanted.definition, config)?.keep(Strictness::Lenient)?;
    if !quiet {
        report(&warnings);
    }
    let view = match wanted.view {
        Shown::Inactive => View::default(),
        Shown::Secure => View { secure: true, migratable: false },
        Shown::Migratable => View { secure: true, migratable: true },
    };
    write!(anstream::stdout().lock(), "{}", kept.format(view))?;
    Ok(())
}

/// Runs `svirt schema`.
pub(super) fn schema() -> Result<(), Failure> {
    write!(anstream::stdout().lock(), "{}", definition::schema::domain())?;
    Ok(())
}

/// Opens the file as the caller, and gives up privilege before it is read.
fn open(path: &Path, config: &Path) -> Result<Definition, Failure> {
    let definition = Definition::open(path)?;
    if privilege::is_root() {
        privilege::drop_all(&config::load(config)?)?;
    }
    Ok(definition)
}

fn report(warnings: &[Warning]) {
    for warning in warnings {
        note(&warning.to_string());
    }
}

fn json(warning: &Warning) -> serde_json::Value {
    serde_json::json!({ "line": warning.line, "path": warning.path, "what": warning.kind.to_string() })
}
