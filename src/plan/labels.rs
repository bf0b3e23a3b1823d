//! What each model does with each resource of a domain, as a table: `svirt label plan`.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Inputs, PlanError, build, doi, inventory, network};
use crate::conf::domain::Beyond;
use crate::security::apparmor;
use crate::security::decide::{Action, Decision, Model, Stack};
use crate::security::resource::{Kind, Process};

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it is.
    pub resource: String,
    /// Where it lies.
    pub path: Option<String>,
    /// Whose decision it is.
    pub model: Model,
    /// Whether this version runs the device that it is for; if not, a start refuses the device by name.
    pub runs: bool,
    /// What is done and why.
    #[serde(flatten)]
    pub decision: Decision,
}

/// Every decision of every one of `models`, resource by resource; those of devices that do not run come last.
pub fn plan(inputs: &Inputs<'_>, beyond: &[Beyond], models: &[Model]) -> Result<Vec<Row>, PlanError> {
    // A table for a model that this host does not run is made as if it did.
    let runs = |name: &str| models.iter().any(|model| model.name() == name) || doi::runs(inputs.host, name);
    let bound = doi::bind(inputs.domain, inputs.chains, inputs.host, inputs.settings, &runs)?;
    let domain = network::resolve(bound.domain, inputs.settings);
    let inputs = &Inputs { domain: &domain, chains: &bound.chains, ..*inputs };
    let mut resources = inventory::of(inputs.domain, inputs.chains, inputs.shares, inputs.settings);
    resources.extend(inventory::beyond(beyond, inputs.settings));
    let helpers = resources
        .iter()
        .filter(|r| {
            matches!(r.kind, Kind::Process(Process::Passt(_) | Process::Swtpm(_) | Process::Virtiofsd { .. }))
        })
        .count();
    let contexts =
        models.contains(&Model::Selinux).then(|| build::contexts(inputs, &resources)).transpose()?;
    let owners = models.contains(&Model::Dac).then(|| build::owners(inputs, helpers)).transpose()?;
    let profile = match models.contains(&Model::Apparmor) {
        true => apparmor::profile(inputs.domain, inputs.uuid)?,
        false => None,
    };
    // In libvirt's order of a stack, whatever order they were asked for in.
    let mut stack = Vec::new();
    stack.extend(contexts.as_ref().map(|labels| Stack::Selinux(labels, &inputs.settings.selinux)));
    stack.extend(profile.as_ref().map(Stack::Apparmor));
    stack.extend(owners.as_ref().map(Stack::Dac));
    let mut rows = Vec::new();
    for resource in &resources {
        for model in &stack {
            let mut decision = model.decide(resource)?;
            for note in bound.notes.iter().filter(|note| decision.label.as_ref() == Some(&note.label)) {
                decision.reason = format!("{}; {}", decision.reason, note.text);
            }
            rows.push(Row {
                resource: resource.name.clone(),
                path: resource.path.clone(),
                model: model.model(),
                runs: !matches!(resource.kind, Kind::Beyond(_)),
                decision,
            });
        }
    }
    Ok(rows)
}

/// The table as text, one resource a paragraph.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut out = String::new();
    let mut before = None;
    for row in rows {
        if before != Some(&row.resource) {
            let path = row.path.as_deref().map(|path| format!("  {path}")).unwrap_or_default();
            let runs = if row.runs { "" } else { "  (does not run: a start refuses it)" };
            let _ = writeln!(out, "{}{path}{runs}", row.resource);
            before = Some(&row.resource);
        }
        let Decision { action, label, remember, restore, reason } = &row.decision;
        let label = label.as_deref().unwrap_or("-");
        let back = match (remember, restore) {
            (true, true) => ", remembered and restored",
            (false, true) => ", restored",
            (true, false) => ", remembered",
            (false, false) => "",
        };
        let _ = writeln!(out, "  {:<8}  {:<7}  {label}", row.model.name(), action_name(*action));
        let _ = writeln!(out, "                     {reason}{back}");
    }
    out
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Content => "content",
        Action::Handed => "handed",
        Action::Make => "make",
        Action::Never => "never",
        Action::Refused => "refused",
        Action::Rule => "rule",
        Action::Run => "run",
        Action::Set => "set",
    }
}
