//! The order of a start, as a pure state machine.
//!
//! ```text
//! Handoff ──listener──▶ Greeting ──ready──▶ Status ──prelaunch──▶ [seal] ──cont──▶ Continue ──reply──▶ Running
//!                                             │                     └────── stays paused ──────────────▲
//!                                             └─inmigrate──▶ [seal] ──load──▶ Loading ──loaded──▶ as after prelaunch
//! ```
//!
//! What is loaded was written by a device model that may have been taken over: it is read behind the shut gate.
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
    /// QEMU loads a guest that was saved.
    Loading,
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
    /// QEMU has loaded the guest.
    Loaded,
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
    /// Have QEMU load the guest from its descriptor of this number.
    Load(i32),
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
    /// QEMU's descriptor of a saved guest.
    incoming: Option<i32>,
    /// What shut the gate.
    proof: Option<Sealed>,
}

impl Launch {
    /// The start of a device model that has not run yet. `incoming` is its descriptor of a saved guest.
    #[must_use]
    pub fn new(start_paused: bool, incoming: Option<i32>) -> Self {
        Self { step: Step::Handoff, start_paused, incoming, proof: None }
    }

    /// A device model that somebody else started.
    #[must_use]
    pub fn over() -> Self {
        Self { step: Step::Running, start_paused: false, incoming: None, proof: None }
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
            (Step::Status, Input::Status(state)) if state == self.expected() => {
                (Step::Status, Some(Action::Seal))
            }
            (Step::Loading, Input::Loaded) => {
                let (step, action) = self.after_load();
                (step, Some(action))
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

    /// The state of a QEMU that has run nothing.
    fn expected(&self) -> &'static str {
        if self.incoming.is_some() { "inmigrate" } else { "prelaunch" }
    }

    /// The gate is shut; what comes next.
    pub fn sealed(&mut self, proof: Sealed) -> Option<Action> {
        if self.step != Step::Status {
            return None;
        }
        self.proof = Some(proof);
        let (step, action) = match self.incoming {
            Some(fd) => (Step::Loading, Action::Load(fd)),
            None => self.after_load(),
        };
        self.step = step;
        Some(action)
    }

    /// The guest is there, and the gate was shut before.
    fn after_load(&self) -> (Step, Action) {
        match self.proof {
            Some(proof) if !self.start_paused => (Step::Continue, Action::Continue(proof)),
            _ => (Step::Running, Action::Running),
        }
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
        let (mut launch, mut book) = (Launch::new(false, None), Book::default());
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
        let mut launch = Launch::new(true, None);
        launch.input(Input::Listener).unwrap();
        launch.input(Input::Ready).unwrap();
        assert_eq!(launch.input(Input::Status("prelaunch".into())).unwrap(), Some(Action::Seal));
        assert_eq!(launch.sealed(Book::default().seal()), Some(Action::Running));
    }

    #[test]
    fn a_saved_guest_is_loaded_behind_the_gate_and_then_goes_on() {
        for paused in [false, true] {
            let mut launch = Launch::new(paused, Some(17));
            launch.input(Input::Listener).unwrap();
            launch.input(Input::Ready).unwrap();
            assert_eq!(launch.input(Input::Status("inmigrate".into())).unwrap(), Some(Action::Seal));
            let proof = Book::default().seal();
            assert_eq!(launch.sealed(proof), Some(Action::Load(17)));
            let next = if paused { Action::Running } else { Action::Continue(proof) };
            assert_eq!(launch.input(Input::Loaded).unwrap(), Some(next));
        }
        // One that is to load and does not wait for it is none that svirt started.
        let mut launch = Launch::new(false, Some(17));
        launch.input(Input::Listener).unwrap();
        launch.input(Input::Ready).unwrap();
        assert!(launch.input(Input::Status("prelaunch".into())).is_err());
    }

    #[test]
    fn a_guest_that_runs_already_is_refused() {
        let mut launch = Launch::new(false, None);
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
            Just(Input::Status("inmigrate".into())),
            Just(Input::Loaded),
            Just(Input::Continued),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: when `cont` goes out or the start counts as done, the gate is shut.
        #[test]
        fn nothing_continues_before_the_seal(inputs in proptest::collection::vec(input(), 0..12), paused: bool, incoming: bool) {
            let (mut launch, mut book) = (Launch::new(paused, incoming.then_some(9)), Book::default());
            for input in inputs {
                let mut action = launch.input(input).unwrap_or(None);
                while let Some(done) = action.take() {
                    match done {
                        Action::Seal => action = launch.sealed(book.seal()),
                        Action::Continue(_) | Action::Load(_) | Action::Running => prop_assert!(book.sealed().is_some()),
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
