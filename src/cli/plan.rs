//! `svirt plan`: everything that a start would do, in order, without doing any of it.

use std::io::Write as _;
use std::path::Path;

use super::args::Plan;
use super::definition::Definition;
use super::exit::Failure;
use super::labeller::failure;
use super::output::printable;
use super::{config, labeller, privilege};
use crate::base::Files;
use crate::driver::{self, Begin, LabellerProber, OwnProber};
use crate::host;
use crate::plan::render;
use crate::privsep::request::Survey;

/// Runs `svirt plan`.
pub(super) fn run(wanted: &Plan, config: &Path) -> Result<(), Failure> {
    let settings = config::load(config)?;
    let definition = Definition::open(&wanted.definition)?;
    let facts = host::read(&settings);
    let mut labeller = None;
    if privilege::is_root() {
        // It reads the image headers, so that nothing with privilege parses them.
        labeller = Some(labeller::ensure(&settings, config)?);
        privilege::drop_all(&settings)?;
    }
    let domain = definition.parse()?;
    let (prepared, survey) = if let Some(labeller) = &mut labeller {
        let prepared = driver::prepare(domain, &Files::ALL, &settings, &mut LabellerProber::new(labeller));
        (prepared, labeller.survey().map_err(|error| failure(&error))?)
    } else {
        (driver::prepare(domain, &Files::ALL, &settings, &mut OwnProber::new(&settings)), Survey::default())
    };
    let prepared = prepared.map_err(|error| failure(&error))?;
    let plan = prepared
        .plan(&facts, &settings, &survey, driver::draw(), Begin::default())
        .map_err(|error| failure(&error))?;
    let mut out = anstream::stdout().lock();
    if wanted.json {
        serde_json::to_writer_pretty(&mut out, &plan).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", printable(&render::render(&plan)))?;
    }
    Ok(())
}
