//! The commands of one plug: which is sent next, what an answer says, and what is taken back. Pure.
//!
//! ```text
//! plug:   steps ──next()──▶ sent ──answered──▶ done ──one is refused, and none is on its way──▶ steps that take back
//! ```
//!
//! The steps of a device are a chain: each names what the one before it makes, and so fails by itself where that failed.
//! They are sent without waiting, for QEMU reads the next while it executes one. A descriptor is waited for: what comes
//! after it names its number, and there could be another of that.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use serde_json::{Value, json};

use crate::base::{Layer, Refusal};
use crate::qmp::Failure;

/// The most commands that are on their way: QEMU keeps no more that wait.
const SENT_MAX: usize = 8;

/// A command and its arguments.
pub(super) type Command = (&'static str, Value);

/// One command, and what follows from its answer.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) execute: &'static str,
    pub(super) arguments: Value,
    pub(super) fd: Option<OwnedFd>,
    /// What takes it back.
    pub(super) undo: Option<Command>,
    /// What follows where QEMU refuses it.
    pub(super) refused: Refused,
    /// Whether QEMU makes launch-only calls for it.
    pub(super) window: bool,
}

/// A command that nothing follows from but its failure.
pub(super) fn step(execute: &'static str, arguments: Value) -> Step {
    Step { execute, arguments, fd: None, undo: None, refused: Refused::Fails, window: false }
}

/// What follows from a refused step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Everything is taken back.
    Fails,
    /// It is as good as done where QEMU has nothing of this name.
    PassesWithout,
    /// The same, and the rest is taken back all the same where it is refused for another reason.
    Back,
}

/// Whether QEMU refuses because it has nothing of this name: of blockdev-del and remove-fd only the text tells, which
/// has been the same since QEMU 2.9.
fn is_not_there(failure: &Failure) -> bool {
    failure.class == "DeviceNotFound"
        || failure.description.starts_with("Failed to find node with node-name=")
        || (failure.description.starts_with("File descriptor named ")
            && failure.description.ends_with(" not found"))
}

/// Whether QEMU says that it has any of these sets of descriptors; where `empty` does not count, with descriptors in it: a
/// set that was there before a plug that failed stays.
fn has_any(said: &Value, sets: &[u32], empty: bool) -> bool {
    said.as_array().into_iter().flatten().any(|set| {
        let number = set.get("fdset-id").and_then(Value::as_u64);
        let holds = set.get("fds").and_then(Value::as_array).is_some_and(|fds| !fds.is_empty());
        (empty || holds) && sets.iter().any(|of| Some(u64::from(*of)) == number)
    })
}

/// A step that is to be sent now.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) execute: &'static str,
    pub(super) arguments: Value,
    pub(super) fd: Option<OwnedFd>,
    pub(super) window: bool,
}

/// A step that QEMU has not answered.
#[derive(Debug)]
struct Sent {
    execute: &'static str,
    undo: Option<Command>,
    refused: Refused,
    window: bool,
    /// Whether a descriptor went with it.
    hands: bool,
}

/// How a row went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Refused(Refusal),
    /// What QEMU did not answer it may have done, and what it did not take back is there.
    Unknown,
}

/// The descriptors of a device, or of a medium.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::supervisor) struct Held {
    pub(in crate::supervisor) alias: String,
    pub(in crate::supervisor) medium: bool,
    pub(in crate::supervisor) sets: Vec<u32>,
}

/// Asks which sets of descriptors there are, after some were to go: of a guest that stands QEMU keeps the descriptors that
/// it is told to close, until it is told so again while the guest runs.
pub(super) const LOOK: &str = "query-fdsets";

/// All commands of one plug.
#[derive(Debug)]
pub(super) struct Row {
    steps: VecDeque<Step>,
    /// In the order in which they were sent, which is that of their answers.
    sent: VecDeque<Sent>,
    undo: Vec<Command>,
    /// Whether the next step is sent before the last one is answered.
    chained: bool,
    /// What it is about.
    held: Held,
    /// Whether QEMU keeps descriptors that it was told to close.
    keeps: bool,
    /// Whose DEVICE_DELETED is waited for, and until when.
    awaited: Option<(String, Instant)>,
    /// Whether the guest was asked to let that go.
    asked: bool,
    failure: Option<Refusal>,
    /// Whether something could not be taken back, so that nobody knows what is there.
    unsure: bool,
}

impl Row {
    /// Steps that are sent one by one.
    pub(super) fn new(steps: VecDeque<Step>) -> Self {
        Self {
            steps,
            sent: VecDeque::new(),
            undo: Vec::new(),
            chained: false,
            held: Held::default(),
            keeps: false,
            awaited: None,
            asked: false,
            failure: None,
            unsure: false,
        }
    }

    /// Steps each of which fails by itself where an earlier one failed.
    pub(super) fn chain(steps: VecDeque<Step>) -> Self {
        Self { chained: true, ..Self::new(steps) }
    }

    /// Says what it is about.
    pub(super) fn about(self, held: Held) -> Self {
        Self { held, ..self }
    }

    /// What it is about, and whether QEMU keeps descriptors of it that it was told to close.
    pub(super) fn held(&self) -> (&Held, bool) {
        (&self.held, self.keeps)
    }

    /// Has what comes after `device_del` wait until the guest has let this go.
    pub(super) fn awaits(&mut self, alias: String, until: Instant) {
        self.awaited = Some((alias, until));
    }

    /// What is sent now, if anything.
    pub(super) fn next(&mut self) -> Option<Sending> {
        let room = if self.chained { SENT_MAX } else { 1 };
        let kept = self.asked && self.awaited.is_some();
        if kept || self.sent.len() >= room || self.sent.iter().any(|sent| sent.hands) {
            return None;
        }
        let Step { execute, arguments, fd, undo, refused, window } = self.steps.pop_front()?;
        self.asked |= execute == "device_del";
        self.sent.push_back(Sent { execute, undo, refused, window, hands: fd.is_some() });
        Some(Sending { execute, arguments, fd, window })
    }

    /// QEMU answered the first of those that are on their way.
    pub(super) fn answered(&mut self, outcome: Result<Value, Failure>) {
        let Some(step) = self.sent.pop_front() else { return };
        match outcome {
            Ok(sets) if step.execute == LOOK => {
                self.keeps = has_any(&sets, &self.held.sets, step.refused != Refused::Back);
                self.unsure |= self.keeps;
            }
            Ok(_) => {
                self.undo.extend(step.undo);
                // It is taken back when the guest lets it go, and nobody waits for that.
                self.unsure |= step.refused == Refused::Back && step.execute == "device_del";
            }
            Err(failure) if step.refused != Refused::Fails && is_not_there(&failure) => self.awaited = None,
            Err(_) if step.refused == Refused::Back => self.unsure = true,
            Err(failure) => {
                self.steps.clear();
                self.awaited = None;
                // The others failed because the first did.
                self.failure.get_or_insert_with(|| {
                    let operation = step.execute.replace(['-', '_'], " ");
                    let remedy = "see what the definition and the machine allow";
                    Refusal::new(Layer::DeviceModel, operation, "a device", failure.to_string(), remedy)
                });
            }
        }
        if self.failure.is_some() && self.sent.is_empty() {
            let back =
                |(execute, arguments)| Step { refused: Refused::Back, ..self::step(execute, arguments) };
            let closes = self.undo.iter().any(|(execute, _)| *execute == "remove-fd");
            self.steps.extend(self.undo.drain(..).rev().map(back));
            self.steps.extend(closes.then(|| back((LOOK, json!({})))));
            self.chained = false;
        }
    }

    /// The guest has let a device go: whether that was waited for.
    pub(super) fn deleted(&mut self, alias: &str) -> bool {
        self.awaited.take_if(|(awaited, _)| awaited == alias).is_some()
    }

    /// The guest keeps a device: whether that was waited for. Nothing more is sent then.
    pub(super) fn kept(&mut self, alias: &str) -> bool {
        let waited = self.deleted(alias);
        if waited {
            self.steps.clear();
            self.failure = Some(Refusal::new(
                Layer::DeviceModel,
                "take out",
                format!("device {alias}"),
                "the guest keeps it",
                "let the guest stop using it first",
            ));
        }
        waited
    }

    /// Until when the guest may let go of what it was asked for; one that was not asked yet has nothing to answer.
    pub(super) fn patience(&self) -> Option<Instant> {
        self.awaited.as_ref().filter(|_| self.sent.is_empty()).map(|(_, until)| *until)
    }

    /// Whether QEMU may make launch-only calls for something that is on its way.
    pub(super) fn window(&self) -> bool {
        self.sent.iter().any(|sent| sent.window)
    }

    /// Whether there is nothing left to send or to wait for.
    pub(super) fn is_over(&self) -> bool {
        self.steps.is_empty() && self.sent.is_empty() && self.awaited.is_none()
    }

    /// How it went, and where it is given up, too.
    pub(super) fn outcome(self) -> Outcome {
        if self.unsure || !self.is_over() {
            return Outcome::Unknown;
        }
        self.failure.map_or(Outcome::Done, Outcome::Refused)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn failure(text: &str) -> Failure {
        Failure { class: "GenericError".into(), description: text.into() }
    }

    /// One link of a chain: what it does has a name of its own.
    fn link(at: usize, hands: bool, undoes: bool) -> Step {
        let fd = hands.then(|| OwnedFd::from(std::fs::File::open("/dev/null").unwrap()));
        let undo = undoes.then(|| ("undo", json!(at)));
        Step { fd, undo, ..step("do", json!(at)) }
    }

    /// What QEMU says.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Says {
        Done,
        NotThere,
        No,
    }

    impl Says {
        fn outcome(self, at: usize) -> Result<Value, Failure> {
            match self {
                Self::Done => Ok(json!({})),
                Self::NotThere => Err(failure(&format!("Failed to find node with node-name={at}"))),
                Self::No => Err(failure(&format!("no {at}"))),
            }
        }
    }

    fn says() -> impl Strategy<Value = Says> {
        prop_oneof![4 => Just(Says::Done), 1 => Just(Says::NotThere), 1 => Just(Says::No)]
    }

    #[test]
    fn what_succeeds_against_all_expectation_is_taken_back() {
        let mut row = Row::chain((0..4).map(|at| link(at, at == 0, at != 3)).collect());
        assert_eq!(row.next().unwrap().arguments, json!(0));
        assert!(row.next().is_none(), "its descriptor is on its way");
        row.answered(Ok(json!({})));
        let sent: Vec<Value> = std::iter::from_fn(|| row.next()).map(|sending| sending.arguments).collect();
        assert_eq!(sent, [json!(1), json!(2), json!(3)]);
        row.answered(Says::No.outcome(1));
        assert!(row.next().is_none(), "the others are answered first");
        row.answered(Ok(json!({})));
        row.answered(Says::No.outcome(3));
        for undone in [2, 0] {
            let sending = row.next().unwrap();
            assert_eq!((sending.execute, sending.arguments), ("undo", json!(undone)));
            assert!(row.next().is_none() && !row.is_over());
            row.answered(Ok(json!({})));
        }
        assert!(row.is_over());
        let Outcome::Refused(refusal) = row.outcome() else { panic!("it is known how it went") };
        assert!(refusal.rule.contains("no 1"), "the first failure is told: {refusal}");
    }

    #[test]
    fn a_device_that_the_guest_may_keep_is_not_known_to_be_gone() {
        for (says, known) in [(Says::Done, false), (Says::NotThere, true), (Says::No, false)] {
            let device = Step { undo: Some(("device_del", json!(1))), ..step("device_add", json!(1)) };
            let mut row = Row::chain([link(0, false, false), device].into_iter().collect());
            while row.next().is_some() {}
            row.answered(Says::No.outcome(0));
            row.answered(Ok(json!({})));
            assert_eq!(row.next().unwrap().execute, "device_del");
            row.answered(says.outcome(1));
            assert!(row.is_over());
            assert_eq!(matches!(row.outcome(), Outcome::Refused(_)), known);
        }
    }

    #[test]
    fn what_qemu_keeps_open_is_not_known_to_be_gone() {
        let held = || Held { alias: "d".into(), medium: false, sets: vec![9] };
        for (there, keeps) in [(9, true), (8, false)] {
            let said = json!([{ "fdset-id": there, "fds": [{ "fd": 30 }] }]);
            // Taken out.
            let steps = ["remove-fd", LOOK].map(|execute| step(execute, json!({})));
            let mut row = Row::new(steps.into_iter().collect()).about(held());
            row.next().unwrap();
            row.answered(Ok(json!({})));
            assert_eq!(row.next().unwrap().execute, LOOK);
            row.answered(Ok(said.clone()));
            assert!(row.is_over() && row.held() == (&held(), keeps));
            assert_eq!(row.outcome() == Outcome::Unknown, keeps);
            // Taken back.
            let first = Step { undo: Some(("remove-fd", json!(1))), ..step("add-fd", json!(1)) };
            let mut row = Row::chain([first, link(1, false, false)].into_iter().collect()).about(held());
            while row.next().is_some() {}
            row.answered(Ok(json!({})));
            row.answered(Says::No.outcome(1));
            for execute in ["remove-fd", LOOK] {
                assert_eq!(row.next().unwrap().execute, execute);
                row.answered(Ok(said.clone()));
            }
            assert!(row.is_over());
            assert_eq!(row.outcome() == Outcome::Unknown, keeps);
        }
    }

    #[test]
    fn an_unplug_waits_for_the_guest() {
        let steps = || {
            let gone = |execute| Step { refused: Refused::PassesWithout, ..step(execute, json!(0)) };
            let mut row = Row::new([gone("device_del"), gone("blockdev-del")].into_iter().collect());
            row.awaits("d".into(), Instant::now());
            row
        };
        let mut row = steps();
        assert!(row.next().is_some() && row.next().is_none() && row.patience().is_none());
        row.answered(Ok(json!({})));
        assert!(row.next().is_none() && row.patience().is_some() && !row.is_over());
        assert!(!row.deleted("e") && row.next().is_none());
        assert!(row.deleted("d"));
        assert_eq!(row.next().unwrap().execute, "blockdev-del");
        row.answered(Says::NotThere.outcome(0));
        assert!(row.is_over() && row.outcome() == Outcome::Done);
        // Where it says so before it answers.
        let mut row = steps();
        row.next().unwrap();
        assert!(row.deleted("d") && row.next().is_none());
        row.answered(Ok(json!({})));
        assert!(row.next().is_some());
        // Where it is gone already, nobody says so.
        let mut row = steps();
        row.next().unwrap();
        row.answered(Says::NotThere.outcome(0));
        assert!(row.next().is_some());
        for kept in [true, false] {
            let mut row = steps();
            row.next().unwrap();
            if kept {
                row.answered(Ok(json!({})));
            }
            assert!(!row.kept("e") && row.kept("d"));
            // What was not answered may come to be done.
            assert_eq!(matches!(row.outcome(), Outcome::Refused(_)), kept);
        }
    }

    proptest! {
        /// Whatever is answered: where anything failed, all that succeeded is taken back once, the last first, and the first
        /// failure is told; and a row that is given up in the middle is not said to be done or undone.
        #[test]
        fn all_or_nothing(
            chained: bool,
            links in proptest::collection::vec((any::<bool>(), any::<bool>(), says()), 1..14),
            waits in proptest::collection::vec(any::<bool>(), 40),
            back in proptest::collection::vec(says(), 14),
            given_up in proptest::option::of(0..30usize),
        ) {
            let steps = links.iter().enumerate().map(|(at, (hands, undoes, _))| link(at, *hands, *undoes)).collect();
            let mut row = if chained { Row::chain(steps) } else { Row::new(steps) };
            let (mut waits, mut back) = (waits.into_iter(), back.into_iter());
            let mut on_their_way: VecDeque<(&str, usize)> = VecDeque::new();
            let (mut succeeded, mut undone, mut first, mut unsure) = (Vec::new(), Vec::new(), None, false);
            let mut turn = 0;
            while !row.is_over() && given_up != Some(turn) {
                turn += 1;
                while let Some(sending) = row.next() {
                    prop_assert!(on_their_way.iter().all(|(execute, at)| *execute == "undo" || !links[*at].0));
                    prop_assert_eq!(sending.execute == "undo", first.is_some());
                    let at = usize::try_from(sending.arguments.as_u64().unwrap()).unwrap();
                    on_their_way.push_back((sending.execute, at));
                    let most = if chained && first.is_none() { SENT_MAX } else { 1 };
                    prop_assert!(on_their_way.len() <= most);
                    if waits.next().unwrap_or_default() {
                        break;
                    }
                }
                let (execute, at) = on_their_way.pop_front().unwrap();
                let says = if execute == "undo" { back.next().unwrap() } else { links[at].2 };
                row.answered(says.outcome(at));
                match (execute, says) {
                    ("undo", _) => {
                        undone.push(at);
                        unsure |= says == Says::No;
                    }
                    (_, Says::Done) => succeeded.extend(links[at].1.then_some(at)),
                    _ => first = first.or(Some(at)),
                }
            }
            let over = row.is_over();
            let outcome = row.outcome();
            if !over {
                prop_assert_eq!(outcome, Outcome::Unknown);
                return Ok(());
            }
            let Some(first) = first else {
                prop_assert!(undone.is_empty() && outcome == Outcome::Done);
                return Ok(());
            };
            succeeded.reverse();
            prop_assert_eq!(undone, succeeded);
            match outcome {
                Outcome::Refused(refusal) => {
                    let text = links[first].2.outcome(first).unwrap_err().to_string();
                    prop_assert!(!unsure && refusal.rule == text, "{} is not {}", refusal.rule, text);
                }
                other => prop_assert!(unsure && other == Outcome::Unknown),
            }
        }
    }
}
