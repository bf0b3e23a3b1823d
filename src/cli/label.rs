//! `svirt label`: which label each security model gives to each thing that a domain uses, and why.
//!
//! Reads what the caller may read and changes nothing, so that a definition for another host can be looked at
//! with that host's configuration.

use std::io::Write as _;
use std::path::Path;

use super::args::{LabelModel, LabelPlan, LabelTranslate};
use super::definition::Definition;
use super::exit::Failure;
use super::labeller::failure;
use super::output::{self, printable};
use super::{config, labeller, privilege};
use crate::base::Refusal;
use crate::conf::facts::HostFacts;
use crate::driver::{self, LabellerProber, OwnProber};
use crate::host;
use crate::plan::labels;
use crate::security::decide::Model;
use crate::security::doi::Tables;

/// Runs `svirt label plan`.
pub(super) fn plan(wanted: &LabelPlan, config: &Path) -> Result<(), Failure> {
    let settings = config::load(config)?;
    let definition = Definition::open(&wanted.definition)?;
    let facts = host::read(&settings);
    let mut labeller = None;
    if privilege::is_root() {
        // It reads the image headers, so that nothing with privilege parses them; the table does without, too.
        labeller = labeller::ensure(&settings, config).ok();
        privilege::drop_all(&settings)?;
    }
    let (domain, beyond) = definition.parse_beyond()?;
    let (prepared, unread) = match &mut labeller {
        Some(labeller) => driver::prepare_unread(domain, &settings, &mut LabellerProber::new(labeller)),
        None => driver::prepare_unread(domain, &settings, &mut OwnProber::new(&settings)),
    };
    for why in unread {
        output::note(&format!("cannot read an image here, so its layers are those of the definition: {why}"));
    }
    let models = models(&wanted.model, &facts);
    let rows = prepared.labels(&beyond, &facts, &settings, &models).map_err(|error| failure(&error))?;
    let mut out = anstream::stdout().lock();
    if wanted.json {
        serde_json::to_writer_pretty(&mut out, &rows).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", printable(&labels::render(&rows)))?;
    }
    Ok(())
}

/// Runs `svirt label translate`.
pub(super) fn translate(wanted: &LabelTranslate, config: &Path) -> Result<(), Failure> {
    let settings = config::load(config)?;
    let tables = Tables::load(&host::doi_tables(&settings)).map_err(Refusal::from)?;
    let model = model(wanted.model).name();
    let mut done = Vec::new();
    for label in &wanted.labels {
        let translated = tables.translate(model, &wanted.from, &wanted.to, label);
        done.push((label, translated.map_err(|error| error.refusal(label))?));
    }
    let mut out = anstream::stdout().lock();
    if wanted.json {
        let row = |(label, translated): &(&String, crate::security::doi::Translated)| serde_json::json!({ "label": label, "translated": translated.label, "tables": translated.tables });
        let rows: Vec<_> = done.iter().map(row).collect();
        serde_json::to_writer_pretty(&mut out, &rows).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        for (_, translated) in &done {
            writeln!(out, "{}", printable(&translated.label))?;
        }
    }
    Ok(())
}

fn model(wanted: LabelModel) -> Model {
    match wanted {
        LabelModel::Apparmor => Model::Apparmor,
        LabelModel::Dac => Model::Dac,
        LabelModel::Selinux => Model::Selinux,
    }
}

/// The models that were asked for, else those of this host.
fn models(wanted: &[LabelModel], facts: &HostFacts) -> Vec<Model> {
    if !wanted.is_empty() {
        return wanted.iter().copied().map(model).collect();
    }
    let mut own = vec![Model::Dac];
    own.extend(facts.selinux.is_some().then_some(Model::Selinux));
    own
}
