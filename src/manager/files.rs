//! What definitions name of the host, against what whoever hands them in may name.

use std::sync::Arc;

use super::definition::refused;
use super::table::Live;
use super::{Definition, Manager, ManagerError};
use crate::base::{DomainUuid, Files};
use crate::driver::outside;

impl Live {
    /// What it may name of the host: nothing, where nobody has said so.
    pub(super) fn files(&self) -> Files {
        self.definition.as_ref().map_or_else(Files::none, |definition| definition.files().clone())
    }
}

impl Manager {
    /// Holds what runs to these files as well: somebody who may name no others adds something to it. A save of it is held
    /// to the same, and so is its next start from there, whoever starts it.
    pub(super) fn hold_live(&self, uuid: DomainUuid, files: &Files) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        let started = live.runtime.started.as_ref().or(live.definition.as_ref());
        let (Some(started), Some(definition)) = (started, &live.definition) else { return Ok(()) };
        let held = definition.files().clone().and(files.clone());
        if held.only() == definition.files().only() {
            return Ok(());
        }
        let row = started.row(live.id, live.listening.clone(), &held);
        let definition = Arc::new(Definition::clone(definition).with_files(held));
        self.note_row(row, |now| {
            if now.runtime.started.is_none() {
                now.runtime.started.clone_from(&now.definition);
            }
            now.definition = Some(definition);
        })
    }

    /// Refuses a definition that names a file which is not among `files`, and gives it back with these otherwise: the
    /// headers of its images are held to them at each start. `before` is what was accepted of the same domain.
    pub fn hold(
        &self,
        definition: Definition,
        before: Option<&Definition>,
        files: &Files,
    ) -> Result<Definition, ManagerError> {
        if self.core.opens_files() && !files.is_all() {
            self.hold_volumes(&definition, before, files)?;
            self.hold_names(&definition, before, files)?;
            // As what a start makes of it: a disk that is a volume says more than which one.
            if let Some(as_file) = definition.standing_in()? {
                let stood_in = before.map(Definition::standing_in).transpose()?.flatten();
                self.hold_names(&as_file, stood_in.as_ref().or(before), files)?;
            }
        }
        Ok(definition.with_files(files.clone()))
    }

    fn hold_names(
        &self,
        definition: &Definition,
        before: Option<&Definition>,
        files: &Files,
    ) -> Result<(), ManagerError> {
        let hosts = (&self.facts, &self.settings);
        let before = before.map(Definition::text);
        let found = outside((definition.text(), definition.uuid), before, files, hosts).map_err(refused)?;
        found.map_or(Ok(()), |(what, path)| Err(self.not_among(definition, (&what, &path), files)))
    }

    fn not_among(&self, of: &Definition, (what, path): (&str, &str), files: &Files) -> ManagerError {
        if let Some(refused) = super::volume::not_as_it_was(of.name.as_str(), path) {
            return refused;
        }
        let may = match files.only().unwrap_or_default() {
            [] => "no file of the host".to_owned(),
            some => format!("only what is {}", some.join(", ")),
        };
        let rules: Vec<String> = files.rules().iter().map(|number| format!("rule {number}")).collect();
        let rules = if rules.is_empty() { "a rule".to_owned() } else { rules.join(" or ") };
        let file = &self.settings.daemon.access;
        let or_below = if files.only().is_some_and(|some| !some.is_empty()) { " or lies below" } else { "" };
        ManagerError::Denied(format!(
            "domain '{}' may not have {path} ({what}): as you hand it in, it may name {may}{or_below}; an administrator \
             can add a directory or a file to `files` of {rules} in {file}",
            of.name
        ))
    }
}
