//! How a running domain is shown once something of it has changed.

use std::sync::Arc;

use super::table::Live;
use super::{Definition, Manager, ManagerError, Text};
use crate::base::DomainUuid;
use crate::conf::definition::{Definition as Tree, Running};

/// What a domain runs with, and the text that shows it.
pub(super) struct Shown {
    definition: Arc<Definition>,
    running: Running,
    text: Text,
}

impl Shown {
    /// What runs by this definition.
    pub(super) fn new(definition: Definition, running: Running) -> Self {
        let text = definition.running(&running);
        Self { definition: Arc::new(definition), running, text }
    }
}

/// Something was plugged in.
pub(super) struct Put {
    /// What ran before.
    pub(super) before: Arc<Live>,
    /// How it is shown with that.
    pub(super) shown: Result<Option<Shown>, ManagerError>,
}

/// What a running domain's definitions become.
pub(super) struct Edited {
    id: i32,
    definition: Arc<Definition>,
    /// What it was started with, where that is another.
    started: Option<Arc<Definition>>,
}

impl Live {
    /// How it is shown once its definition is another one, with the aliases of its interfaces where these change; nothing
    /// where it has no definition.
    pub(super) fn shown(
        &self,
        interfaces: Option<Vec<String>>,
        becomes: impl FnOnce(&Definition) -> Result<Definition, ManagerError>,
    ) -> Result<Option<Shown>, ManagerError> {
        let Some(before) = &self.definition else { return Ok(None) };
        let mut running = self.runtime.running.clone();
        if let Some(interfaces) = interfaces {
            running.interfaces = interfaces;
        }
        Ok(Some(Shown::new(becomes(before)?, running)))
    }
}

impl Manager {
    /// Shows what is there now; that is found out once more where something else changed meanwhile.
    pub(super) fn show_put(
        &self,
        uuid: DomainUuid,
        put: Put,
        shown: impl Fn(&Live) -> Result<Option<Shown>, ManagerError>,
    ) -> Result<(), ManagerError> {
        let now = self.live(uuid)?;
        let found = if Arc::ptr_eq(&put.before, &now) { put.shown? } else { shown(&now)? };
        self.put_shown(uuid, &now, found);
        Ok(())
    }

    /// Changes what a domain runs with, and so its text; with the aliases of its interfaces where these change.
    pub(super) fn replace_live(
        &self,
        uuid: DomainUuid,
        interfaces: Option<Vec<String>>,
        edit: impl FnOnce(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        let shown = live.shown(interfaces, |definition| definition.edited(edit))?;
        self.put_shown(uuid, &live, shown);
        Ok(())
    }

    /// Notes what this very start of a domain runs with, where it is known what that is.
    pub(super) fn put_shown(&self, uuid: DomainUuid, live: &Live, shown: Option<Shown>) {
        let Some(Shown { definition, running, text }) = shown else { return };
        let mut table = self.table();
        let now = table.get(uuid).and_then(|domain| domain.live.as_mut());
        if let Some(now) = now.filter(|now| now.id == live.id) {
            let now = Arc::make_mut(now);
            if now.runtime.started.is_none() {
                now.runtime.started.clone_from(&live.definition);
            }
            now.runtime.running = running;
            now.definition = Some(definition);
            now.text = text;
        }
    }

    /// What a running domain's definitions become by a change of what is only said of it.
    pub(super) fn edited_live(
        &self,
        uuid: DomainUuid,
        edit: impl Fn(&mut Tree) -> Result<(), ManagerError>,
    ) -> Result<Edited, ManagerError> {
        let live = self.live(uuid)?;
        let Some(definition) = &live.definition else {
            return Err(ManagerError::state("it was started without svirtd, which has no definition of it"));
        };
        let edit = |definition: &Arc<Definition>| Ok::<_, ManagerError>(Arc::new(definition.edited(&edit)?));
        let started = live.runtime.started.as_ref().map(edit).transpose()?;
        Ok(Edited { id: live.id, definition: edit(definition)?, started })
    }

    /// Notes what this very start of a domain runs with; returns once a later daemon would find it.
    pub(super) fn put_live(&self, uuid: DomainUuid, edited: Edited) -> Result<(), ManagerError> {
        let Edited { id, definition, started } = edited;
        let live = self.live(uuid)?;
        if live.id != id {
            return Err(ManagerError::state("domain is not running"));
        }
        // What was plugged in since, the labeller tells a later daemon.
        let row = started.as_ref().unwrap_or(&definition).row(id, live.listening.clone(), definition.files());
        let text = definition.running(&live.runtime.running);
        self.note_row(row, |live| {
            live.definition = Some(definition);
            live.runtime.started = started;
            live.text = text;
        })
    }
}
