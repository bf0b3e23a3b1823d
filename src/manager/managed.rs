//! Which domains' next start goes on from where they were saved, as far as is known here.
//!
//! What the labeller answers is older than what was noted while it answered: a note is not lost to such an answer.

use std::collections::{HashMap, HashSet};

use crate::base::DomainUuid;

/// What is known, and since when.
#[derive(Debug, Default)]
pub(super) struct Managed {
    there: HashSet<DomainUuid>,
    /// When each was noted that an answer may not know of yet.
    noted: HashMap<DomainUuid, u64>,
    /// How often something was noted.
    count: u64,
    /// Whether the labeller is to be asked and has not answered once.
    unheard: bool,
}

/// When the labeller was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked(u64);

impl Managed {
    /// Nothing is known before the labeller has answered.
    pub(super) fn expect(&mut self) {
        self.unheard = true;
    }

    pub(super) fn is_known(&self) -> bool {
        !self.unheard
    }

    pub(super) fn contains(&self, uuid: DomainUuid) -> bool {
        self.there.contains(&uuid)
    }

    /// To be called before the labeller is asked.
    pub(super) fn ask(&self) -> Asked {
        Asked(self.count)
    }

    /// It is known by itself whether there is one.
    pub(super) fn note(&mut self, uuid: DomainUuid, there: bool) {
        self.count += 1;
        self.noted.insert(uuid, self.count);
        self.set(uuid, there);
    }

    /// Takes over what the labeller answered; `Asked` is from before the question.
    pub(super) fn replace(&mut self, saved: impl IntoIterator<Item = DomainUuid>, asked: Asked) {
        self.unheard = false;
        self.noted.retain(|_, at| *at > asked.0);
        let newer = self.there.iter().filter(|uuid| self.noted.contains_key(uuid)).copied();
        let answered = saved.into_iter().filter(|uuid| !self.noted.contains_key(uuid));
        self.there = newer.chain(answered).collect();
    }

    fn set(&mut self, uuid: DomainUuid, there: bool) {
        if there {
            self.there.insert(uuid);
        } else {
            self.there.remove(&uuid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_does_not_undo_what_was_noted_since_the_question() {
        let [saved, removed, other] = [1, 2, 3].map(|n| DomainUuid(uuid::Uuid::from_u128(n)));
        let mut managed = Managed::default();
        managed.note(removed, true);
        let asked = managed.ask();
        managed.note(saved, true);
        managed.note(removed, false);
        // The answer is from before both.
        managed.replace([removed, other], asked);
        let known = [saved, removed, other].map(|uuid| managed.contains(uuid));
        assert_eq!(known, [true, false, true]);
        // The next one knows them.
        let asked = managed.ask();
        managed.replace([removed], asked);
        let known = [saved, removed, other].map(|uuid| managed.contains(uuid));
        assert_eq!(known, [false, true, false]);
    }
}
