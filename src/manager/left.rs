//! What the store says of domains that were started, while nobody has said yet whether they still run: what is not known
//! is not answered as if it were.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Manager, ManagerError};
use crate::base::DomainUuid;
use crate::store::Live;

/// How long a call waits for the labeller before it is told that nobody knows.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(10) };

/// The rows of these domains, and who waits for what becomes of them.
#[derive(Debug, Default)]
pub(super) struct Left {
    rows: Mutex<Rows>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct Rows {
    by_uuid: HashMap<DomainUuid, Live>,
    /// Whether the labeller did not answer when it was asked last.
    away: bool,
    /// Whether somebody waits for the next survey.
    wanted: bool,
}

impl std::ops::Deref for Rows {
    type Target = HashMap<DomainUuid, Live>;

    fn deref(&self) -> &Self::Target {
        &self.by_uuid
    }
}

impl std::ops::DerefMut for Rows {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.by_uuid
    }
}

impl Left {
    pub(super) fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The labeller was asked what runs, and has answered or has not.
    pub(super) fn asked(&self, answered: bool) {
        self.rows().away = !answered;
        self.changed.notify_all();
    }

    /// Waits for so long at most while `open` holds, and has somebody ask soon; why it still holds, if it does.
    fn wait(&self, what: &str, patience: Duration, open: impl Fn(&Rows) -> bool) -> Result<(), ManagerError> {
        let mut rows = self.rows();
        if !open(&rows) {
            return Ok(());
        }
        rows.wanted = true;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(rows, patience, |rows| open(rows));
        let (rows, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return Ok(());
        }
        let why = if rows.away { "svirt-labeller does not answer, so " } else { "" };
        Err(ManagerError::Failed(format!("{why}it is not known yet whether the domain {what}; try again")))
    }
}

impl Manager {
    pub(super) fn left(&self) -> MutexGuard<'_, Rows> {
        self.left.rows()
    }

    /// It is not known whether this runs: the next survey tells, and until then it is shown as what was started.
    pub(super) fn leave(&self, row: Live) {
        let mut left = self.left();
        self.table().leave(row.uuid, Some(row.id));
        left.insert(row.uuid, row);
        left.wanted = true;
        drop(left);
        self.left.changed.notify_all();
    }

    /// Whether it is known of every domain whether it runs, and whether it was saved.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.left().is_empty() && self.managed().is_known()
    }

    /// Whether it is not known yet whether a domain runs.
    #[must_use]
    pub fn is_left(&self, uuid: DomainUuid) -> bool {
        self.left().contains_key(&uuid)
    }

    /// Waits until it is known whether a domain runs, where `waits` allows that; refused where it does not become known.
    pub fn settle(&self, uuid: DomainUuid, waits: bool) -> Result<(), ManagerError> {
        let patience = if waits { PATIENCE } else { Duration::ZERO };
        self.left.wait("runs", patience, |rows| rows.contains_key(&uuid))
    }

    /// Whether the next start of a domain goes on from where it was saved: a start asks again. Waits for the labeller where
    /// it has never been asked, and is refused where it does not answer.
    pub fn has_managed_save(&self, uuid: DomainUuid) -> Result<bool, ManagerError> {
        self.left.wait("was saved", PATIENCE, |_| !self.managed().is_known())?;
        Ok(self.managed().contains(uuid))
    }

    /// The labeller could not be asked what runs.
    pub fn no_survey(&self) {
        self.left.asked(false);
    }

    /// Waits for so long, or until somebody waits for a survey.
    pub fn rest(&self, pause: Duration) {
        let rested = self.left.changed.wait_timeout_while(self.left(), pause, |rows| !rows.wanted);
        rested.unwrap_or_else(PoisonError::into_inner).0.wanted = false;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conf::definition::Strictness;
    use crate::conf::facts::HostFacts;
    use crate::driver::DriverError;
    use crate::manager::testing::{Deaf, Played};
    use crate::manager::{Definition, Leaves, StartFlags};
    use crate::settings::Settings;
    use crate::store::{Contents, Live};

    /// Nobody can be asked.
    fn away() -> Box<Played> {
        Box::new(Played {
            order: Box::new(|_| Err(DriverError::Silent.into())),
            control: Box::new(|_| Err(DriverError::Silent.into())),
            labeller: Box::new(|| Err(ManagerError::Away(DriverError::Silent))),
        })
    }

    fn definition(manager: &Manager, name: &str, uuid: DomainUuid) -> Definition {
        let xml = format!(
            "<domain type='test'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os></domain>"
        );
        manager.read(&xml, uuid, Strictness::Strict).unwrap()
    }

    #[test]
    fn what_is_not_known_yet_is_not_denied() {
        let [defined, transient] = [1, 2].map(|number| DomainUuid(uuid::Uuid::from_u128(number)));
        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, away(), None, Arc::new(Deaf), |_, _| {});
        manager.define(definition(&manager, "a", defined), 0).unwrap();
        let row = |name: &str, uuid, id| {
            let xml = definition(&manager, name, uuid).text().to_owned();
            Live { uuid, id, xml, listening: Vec::new(), files: None }
        };
        assert!(manager.is_settled() && !manager.has_managed_save(defined).unwrap());
        let live = vec![row("a", defined, 7), row("b", transient, 8)];
        manager.recover(Contents { definitions: Vec::new(), live, objects: Vec::new() });

        // Both are shown as what was started, under their numbers.
        for (name, id) in [("a", 7), ("b", 8)] {
            let domain = manager.by_name(name).unwrap();
            assert!(domain.may_run() && !domain.is_active() && domain.id() == id);
            assert_eq!(manager.by_id(id).unwrap().uuid, domain.uuid);
        }
        // Nothing is done on the strength of what is not known, and the refusal says why.
        manager.no_survey();
        let refused = |done: Result<(), ManagerError>| done.unwrap_err().to_string();
        let why = "svirt-labeller does not answer, so it is not known yet whether the domain";
        assert!(!manager.is_settled());
        for waits in [false, true] {
            assert!(refused(manager.settle(defined, waits)).starts_with(why));
        }
        assert!(refused(manager.start(defined, StartFlags::default()).map(drop)).starts_with(why));
        let anew = definition(&manager, "b", transient);
        assert!(refused(manager.start_transient(anew, StartFlags::default()).map(drop)).starts_with(why));
        assert!(refused(manager.has_managed_save(defined).map(drop)).starts_with(why));
        let undefined = manager.undefine(defined, Leaves { managed_save: true, ..Leaves::default() });
        assert!(refused(undefined).starts_with(why));
        assert!(manager.by_uuid(defined).unwrap().definition.is_some());

        // The labeller says that neither runs, and that one was saved.
        let asked = manager.managed().ask();
        manager.managed().replace([defined], asked);
        manager.forget(vec![defined, transient]);
        manager.left.asked(true);
        assert!(manager.is_settled() && manager.by_uuid(transient).is_err() && manager.by_id(7).is_err());
        let domain = manager.by_uuid(defined).unwrap();
        assert!(!domain.may_run() && domain.id() == -1 && manager.has_managed_save(defined).unwrap());
        let undefined = manager.undefine(defined, Leaves { managed_save: true, ..Leaves::default() });
        assert!(refused(undefined).contains("managed save image exists"));
    }
}
