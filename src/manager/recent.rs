//! Definitions whose texts were asked for a short while ago. No I/O.
//!
//! Clients ask for the same few again and again, and what waits for the disk is answered by a thread of its own, which
//! takes longer than the disk does. Nothing here has to be kept true: what is found is found by the very summary that
//! the table has, and a domain that is defined anew has another one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{Definition, Summary};
use crate::base::DomainUuid;

/// Bytes of texts at most.
const BYTES_MAX: u64 = 1 << 20;

/// The definitions.
#[derive(Debug, Default)]
pub(super) struct Recent {
    held: HashMap<DomainUuid, Arc<Definition>>,
    /// Which came first.
    order: VecDeque<DomainUuid>,
    bytes: u64,
}

impl Recent {
    /// The definition that has this very summary.
    pub(super) fn find(&self, summary: &Arc<Summary>) -> Option<Arc<Definition>> {
        let found = self.held.get(&summary.uuid)?;
        Arc::ptr_eq(found.summary(), summary).then(|| found.clone())
    }

    /// Adds one, in place of another one of the same domain; those that came first make room.
    pub(super) fn add(&mut self, definition: Arc<Definition>) {
        let (uuid, bytes) = (definition.uuid, definition.texts().bytes());
        if bytes > BYTES_MAX / 4 {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        match self.held.insert(uuid, definition) {
            Some(before) => self.bytes = self.bytes.saturating_sub(before.texts().bytes()),
            None => self.order.push_back(uuid),
        }
        while self.bytes > BYTES_MAX
            && let Some(first) = self.order.pop_front()
        {
            let gone = self.held.remove(&first).map_or(0, |gone| gone.texts().bytes());
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::base::DomainName;
    use crate::manager::Text;

    fn definition(number: u128, bytes: usize) -> Arc<Definition> {
        let uuid = DomainUuid(uuid::Uuid::from_u128(number));
        let name = DomainName::new("a").unwrap();
        let summary = Summary { uuid, name, memory: 0, current_memory: 0, vcpus: 1, current_vcpus: 1 };
        let text = Text { secure: "x".repeat(bytes), public: None };
        Arc::new(Definition::stored(summary.into(), text))
    }

    #[test]
    fn one_that_was_defined_anew_is_not_found() {
        let (mut recent, old, new) = (Recent::default(), definition(1, 10), definition(1, 20));
        recent.add(old.clone());
        assert!(recent.find(old.summary()).is_some() && recent.find(new.summary()).is_none());
        recent.add(new.clone());
        assert!(recent.find(old.summary()).is_none() && recent.find(new.summary()).is_some());
        assert_eq!((recent.bytes, recent.order.len()), (20, 1));
    }

    #[test]
    fn what_is_held_is_bounded_and_the_last_ones_stay() {
        let mut recent = Recent::default();
        let all: Vec<_> = (0..100).map(|number| definition(number, 100_000)).collect();
        all.iter().for_each(|definition| recent.add(definition.clone()));
        assert!(recent.bytes <= BYTES_MAX && recent.held.len() == 10 && recent.order.len() == 10);
        assert!(recent.find(all[99].summary()).is_some() && recent.find(all[89].summary()).is_none());
        let large = definition(200, 1 << 19);
        recent.add(large.clone());
        assert!(recent.find(large.summary()).is_none() && recent.held.len() == 10);
    }
}
