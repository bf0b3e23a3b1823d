//! What a filter says: for each system call an action, or clauses over its scalar arguments.

use std::collections::BTreeMap;

use syscalls::Sysno;

use super::{ARCH_X86_64, X32_BIT};

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// It is made.
    Allow,
    /// It fails with this error number.
    Errno(u16),
    /// The whole process is killed.
    Kill,
    /// The supervisor decides (`SECCOMP_RET_USER_NOTIF`): yes until it seals, no afterwards.
    Launch,
}

/// Which part of an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Word {
    /// All 64 bits: pointers, sizes and `unsigned long`.
    Full,
    /// The lower 32 bits: the kernel ignores the upper ones of an `int`.
    Low,
}

/// What an argument is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Test {
    /// It is at most this, unsigned.
    AtMost(u64),
    /// Its bits under `mask` are `value`.
    Masked {
        /// Which bits are looked at.
        mask: u64,
        /// What they must be.
        value: u64,
    },
    /// It is one of these; sorted, without repetition, never empty.
    OneOf(Vec<u64>),
}

/// One argument and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub arg: u8,
    /// How much of it is looked at.
    pub word: Word,
    /// What it must be.
    pub test: Test,
}

/// Conditions that must all hold, and what then happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Clause {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// What is said of one system call: the first clause that holds decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Policy {
    pub(super) clauses: Vec<Clause>,
    pub(super) otherwise: Action,
}

/// A whole filter for x86-64.
///
/// A system call that no rule names fails with `EPERM` where its number is known and with `ENOSYS` where it is
/// not, so that libraries fall back. Foreign architectures and x32 calls kill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub(super) policies: BTreeMap<u32, Policy>,
    /// What a known call gets that no rule names; `None` is `EPERM`.
    pub(super) otherwise: Option<Action>,
    /// What an unknown number gets; `None` is `ENOSYS`.
    pub(super) unknown: Option<Action>,
}

/// A rule that the ceiling forbids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: the ceiling lets no rule allow this system call")]
pub struct CeilingError {
    /// The system call.
    pub call: &'static str,
}

impl Condition {
    /// Whether an argument's value meets the condition.
    #[must_use]
    pub fn holds(&self, args: &[u64; 6]) -> bool {
        let Some(&value) = args.get(usize::from(self.arg)) else { return false };
        let value = self.word.cut(value);
        match &self.test {
            Test::AtMost(most) => value <= self.word.cut(*most),
            Test::Masked { mask, value: wanted } => {
                value & self.word.cut(*mask) == self.word.cut(*wanted) & self.word.cut(*mask)
            }
            Test::OneOf(values) => values.iter().any(|wanted| self.word.cut(*wanted) == value),
        }
    }
}

impl Word {
    pub(super) fn cut(self, value: u64) -> u64 {
        match self {
            Self::Full => value,
            Self::Low => value & 0xffff_ffff,
        }
    }
}

impl Policy {
    fn decide(&self, args: &[u64; 6]) -> Action {
        self.clauses
            .iter()
            .find(|clause| clause.conditions.iter().all(|condition| condition.holds(args)))
            .map_or(self.otherwise, |clause| clause.action)
    }

    /// Puts clauses into the order in which the weaker answer never hides the stronger, and drops what cannot matter.
    fn normalise(&mut self) {
        merge_values(&mut self.clauses);
        self.clauses.sort_by_cached_key(|clause| {
            (rank(clause.action), clause.conditions.len(), clause.action, clause.conditions.clone())
        });
        self.clauses.dedup();
        if let Some(at) = self.clauses.iter().position(|clause| clause.conditions.is_empty()) {
            if let Some(clause) = self.clauses.get(at) {
                self.otherwise = clause.action;
            }
            self.clauses.truncate(at);
        }
        while self.clauses.last().is_some_and(|clause| clause.action == self.otherwise) {
            self.clauses.pop();
        }
    }
}

/// What is allowed comes first, then what waits for the supervisor: more rules never allow less, and a stated
/// refusal only says how a call fails that nothing allows.
fn rank(action: Action) -> u8 {
    match action {
        Action::Allow => 0,
        Action::Launch => 1,
        Action::Kill => 2,
        Action::Errno(_) => 3,
    }
}

/// Joins clauses that differ only in the values of one single argument.
fn merge_values(clauses: &mut Vec<Clause>) {
    let mut merged: Vec<Clause> = Vec::with_capacity(clauses.len());
    for clause in clauses.drain(..) {
        if let [Condition { arg, word, test: Test::OneOf(values) }] = clause.conditions.as_slice() {
            let twin = merged.iter_mut().find_map(|other| match other.conditions.as_mut_slice() {
                [Condition { arg: a, word: w, test: Test::OneOf(v) }]
                    if other.action == clause.action && a == arg && w == word =>
                {
                    Some(v)
                }
                _ => None,
            });
            if let Some(twin) = twin {
                twin.extend(values);
                twin.sort_unstable();
                twin.dedup();
                continue;
            }
        }
        merged.push(clause);
    }
    *clauses = merged;
}

impl Filter {
    /// A filter that allows everything but what is said later; for floors under other filters.
    #[must_use]
    pub fn allowing() -> Self {
        Self { policies: BTreeMap::new(), otherwise: Some(Action::Allow), unknown: Some(Action::Allow) }
    }

    /// A filter that allows what its table knows and is not said later; what is newer fails with `ENOSYS`.
    #[must_use]
    pub fn allowing_known() -> Self {
        Self { policies: BTreeMap::new(), otherwise: Some(Action::Allow), unknown: None }
    }

    /// What a system call gets. `nr` and `args` are as in `struct seccomp_data`.
    #[must_use]
    pub fn eval(&self, arch: u32, nr: u32, args: &[u64; 6]) -> Action {
        if arch != ARCH_X86_64 || nr >= X32_BIT {
            return Action::Kill;
        }
        match self.policies.get(&nr) {
            Some(policy) => policy.decide(args),
            None => self.unnamed(nr),
        }
    }

    /// What a number gets that no rule names.
    pub(super) fn unnamed(&self, nr: u32) -> Action {
        if Sysno::new(nr as usize).is_some() {
            self.otherwise.unwrap_or(Action::Errno(libc::EPERM as u16))
        } else {
            self.unknown.unwrap_or(Action::Errno(libc::ENOSYS as u16))
        }
    }

    /// Adds one rule: where all conditions hold, the call gets `action`.
    pub fn add(&mut self, call: Sysno, conditions: Vec<Condition>, action: Action) {
        let nr = call.id() as u32;
        let otherwise = self.unnamed(nr);
        let policy = self.policies.entry(nr).or_insert_with(|| Policy { clauses: Vec::new(), otherwise });
        policy.clauses.push(Clause { conditions, action });
    }

    /// Brings every policy into its one order. Call once, after the last [`Filter::add`].
    pub fn normalise(&mut self) {
        for policy in self.policies.values_mut() {
            policy.normalise();
        }
    }

    /// The same for a process that no supervisor watches: what waits for the launch gate is let through for good.
    #[must_use]
    pub fn ungated(mut self) -> Self {
        let open = |action: &mut Action| {
            if *action == Action::Launch {
                *action = Action::Allow;
            }
        };
        for policy in self.policies.values_mut() {
            open(&mut policy.otherwise);
            policy.clauses.iter_mut().for_each(|clause| open(&mut clause.action));
        }
        self.normalise();
        self
    }

    /// Refuses a filter in which a call of the ceiling can be made at all.
    pub fn check_ceiling(&self, ceiling: &[Sysno]) -> Result<(), CeilingError> {
        for call in ceiling {
            let open = |action: &Action| matches!(action, Action::Allow | Action::Launch);
            if let Some(policy) = self.policies.get(&(call.id() as u32))
                && (open(&policy.otherwise) || policy.clauses.iter().any(|clause| open(&clause.action)))
            {
                return Err(CeilingError { call: call.name() });
            }
        }
        Ok(())
    }

    /// How many system calls can always be made, and how many only until the seal.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let has = |policy: &Policy, wanted| {
            policy.otherwise == wanted || policy.clauses.iter().any(|clause| clause.action == wanted)
        };
        let allowed = self.policies.values().filter(|policy| has(policy, Action::Allow)).count();
        let launch = self
            .policies
            .values()
            .filter(|policy| has(policy, Action::Launch) && !has(policy, Action::Allow))
            .count();
        (allowed, launch)
    }
}
