//! The order of a start, as a pure state machine.
//!
//! ```text
//! Handoff ──listener──▶ Greeting ──ready──▶ Status ──prelaunch──▶ [seal] ──cont──▶ Continue ──reply──▶ Running
//!                                                                   └────── stays paused ──────────────▲
//! ```
//!
//! `cont` is an action that carries the [`Sealed`] proof, so it cannot be asked for before the gate is shut.

use super::gate::Sealed;
use crate::base::{Layer, Refusal};

/// Where a start stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The seccomp listener has not come.
    Handoff,
    /// QEMU has not finished its greeting.
    Greeting,
    /// QEMU was asked for its state.
    Status,
    /// QEMU was told to go on.
    Continue,
    /// The start is over.
    Running,
    /// The start has failed.
    Failed,
}

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The listener of the device model's filter.
    Listener,
    /// The monitor takes commands.
    Ready,
    /// The run state that QEMU told.
    Status(String),
    /// QEMU has done `cont`.
    Continued,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the labeller that QEMU is there, then ask QEMU for its state.
    Query,
    /// Shut the gate and give the proof to [`Launch::sealed`].
    Seal,
    /// Tell QEMU to go on.
    Continue(Sealed),
    /// Tell the labeller that the guest runs, or stays paused as asked.
    Running,
}

/// One start.
#[derive(Debug)]
pub struct Launch {
    step: Step,
    start_paused: bool,
}

impl Launch {
    /// The start of a device model that has not run yet.
    #[must_use]
    pub fn new(start_paused: bool) -> Self {
        Self { step: Step::Handoff, start_paused }
    }

    /// A device model that somebody else started.
    #[must_use]
    pub fn over() -> Self {
        Self { step: Step::Running, start_paused: false }
    }

    /// Where it stands.
    #[must_use]
    pub fn step(&self) -> Step {
        self.step
    }

    /// Gives up.
    pub fn fail(&mut self) {
        self.step = Step::Failed;
    }

    /// Takes one input; what does not fit the step is a refusal, and the start has failed.
    pub fn input(&mut self, input: Input) -> Result<Option<Action>, Refusal> {
        let (step, action) = match (self.step, input) {
            (Step::Handoff, Input::Listener) => (Step::Greeting, None),
            (Step::Greeting, Input::Ready) => (Step::Status, Some(Action::Query)),
            (Step::Status, Input::Status(state)) if state == "prelaunch" => {
                (Step::Status, Some(Action::Seal))
            }
            (Step::Status, Input::Status(state)) => {
                self.fail();
                return Err(not_prelaunch(&state));
            }
            (Step::Continue, Input::Continued) => (Step::Running, Some(Action::Running)),
            (step, input) => {
                self.fail();
                return Err(out_of_order(step, &input));
            }
        };
        self.step = step;
        Ok(action)
    }

    /// The gate is shut; what comes next.
    pub fn sealed(&mut self, proof: Sealed) -> Option<Action> {
        if self.step != Step::Status {
            return None;
        }
        if self.start_paused {
            self.step = Step::Running;
            return Some(Action::Running);
        }
        self.step = Step::Continue;
        Some(Action::Continue(proof))
    }
}

fn not_prelaunch(state: &str) -> Refusal {
    Refusal::new(
        Layer::Seccomp,
        "start",
        "the guest",
        format!("QEMU was in state {state} before the phase gate was shut"),
        "start QEMU with -S, so that it runs nothing before it is told to",
    )
}

fn out_of_order(step: Step, input: &Input) -> Refusal {
    Refusal::new(
        Layer::DeviceModel,
        "start",
        "the device model",
        format!("{input:?} came while the start was at {step:?}"),
        "start it again; if it happens twice, the emulator is not one that svirt knows",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::supervisor::gate::{Book, Verdict};

    #[test]
    fn a_start_seals_and_then_continues() {
        let (mut launch, mut book) = (Launch::new(false), Book::default());
        assert_eq!(launch.input(Input::Listener).unwrap(), None);
        assert_eq!(launch.input(Input::Ready).unwrap(), Some(Action::Query));
        assert_eq!(launch.input(Input::Status("prelaunch".into())).unwrap(), Some(Action::Seal));
        assert_eq!(book.decide(59, std::time::Instant::now()), Verdict::Continue);
        let proof = book.seal();
        assert_eq!(launch.sealed(proof), Some(Action::Continue(proof)));
        assert_eq!(launch.input(Input::Continued).unwrap(), Some(Action::Running));
        assert_eq!(launch.step(), Step::Running);
        assert_eq!(book.decide(59, std::time::Instant::now()), Verdict::Refuse);
    }

    #[test]
    fn a_paused_start_is_sealed_too() {
        let mut launch = Launch::new(true);
        launch.input(Input::Listener).unwrap();
        launch.input(Input::Ready).unwrap();
        assert_eq!(launch.input(Input::Status("prelaunch".into())).unwrap(), Some(Action::Seal));
        assert_eq!(launch.sealed(Book::default().seal()), Some(Action::Running));
    }

    #[test]
    fn a_guest_that_runs_already_is_refused() {
        let mut launch = Launch::new(false);
        launch.input(Input::Listener).unwrap();
        launch.input(Input::Ready).unwrap();
        let refusal = launch.input(Input::Status("running".into())).unwrap_err();
        assert!(refusal.to_string().contains("-S"), "{refusal}");
        assert_eq!(launch.step(), Step::Failed);
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            Just(Input::Listener),
            Just(Input::Ready),
            Just(Input::Status("prelaunch".into())),
            Just(Input::Status("running".into())),
            Just(Input::Continued),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: when `cont` goes out or the start counts as done, the gate is shut.
        #[test]
        fn nothing_continues_before_the_seal(inputs in proptest::collection::vec(input(), 0..12), paused: bool) {
            let (mut launch, mut book) = (Launch::new(paused), Book::default());
            for input in inputs {
                let mut action = launch.input(input).unwrap_or(None);
                while let Some(done) = action.take() {
                    match done {
                        Action::Seal => action = launch.sealed(book.seal()),
                        Action::Continue(_) | Action::Running => prop_assert!(book.sealed().is_some()),
                        Action::Query => {}
                    }
                }
                if launch.step() == Step::Running {
                    prop_assert_eq!(book.decide(1, std::time::Instant::now()), Verdict::Refuse);
                }
            }
        }
    }
}
