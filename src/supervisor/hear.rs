//! What QEMU says on its monitor, and what follows from it.

use serde_json::{Value, json};

use super::gate::Sealed;
use super::launch::{Action, Input, Step};
use super::monitor::{Monitor, MonitorError, Purpose};
use super::serve::Server;
use crate::base::{Layer, Refusal};
use crate::privsep::supervisor::{LifecycleAction, PANICKED, Report};
use crate::qmp::{Event, Failure, Heard};

/// QEMU's word for an end that somebody asked it for.
const QUIT: &str = "host-qmp-quit";

impl Server {
    /// Reads the monitor and acts on each message.
    pub(super) fn hear(&mut self) {
        let mut heard = Vec::new();
        let outcome = match &mut self.monitor {
            Some(monitor) => monitor.write().and_then(|()| monitor.read(&mut heard)),
            None => return,
        };
        for message in heard {
            self.heard(message);
        }
        if let Err(error) = outcome {
            self.monitor_lost(&error);
        }
    }

    /// Sends what waits.
    pub(super) fn write_monitor(&mut self) {
        if let Some(Err(error)) = self.monitor.as_mut().map(Monitor::write) {
            self.monitor_lost(&error);
        }
    }

    /// The guest goes on without a monitor; a start does not.
    pub(super) fn monitor_lost(&mut self, error: &MonitorError) {
        self.monitor = None;
        if matches!(self.launch.step(), Step::Running | Step::Failed) {
            return;
        }
        match error {
            MonitorError::Closed | MonitorError::Io(_) => self.dying(&error.to_string()),
            MonitorError::Protocol(_) => self.fail(Refusal::new(
                Layer::DeviceModel,
                "start",
                "the device model",
                error.to_string(),
                "check that the configured emulator is a QEMU of version 7.2 or later",
            )),
        }
    }

    fn heard(&mut self, message: Heard<Purpose>) {
        match message {
            Heard::Ready if self.launch.step() != Step::Running => self.advance(Input::Ready),
            Heard::Reply { purpose, outcome } => self.replied(purpose, outcome),
            Heard::Event(event) => self.happened(&event),
            Heard::Ready | Heard::Greeted { .. } | Heard::Foreign => {}
        }
    }

    fn replied(&mut self, purpose: Purpose, outcome: Result<Value, Failure>) {
        match (purpose, outcome) {
            (Purpose::StartStatus, Ok(value)) => self.advance(Input::Status(run_state(&value))),
            (Purpose::StartContinue, Ok(_)) => self.advance(Input::Continued),
            (
                Purpose::StartBalloon
                | Purpose::StartLink
                | Purpose::StartPassword
                | Purpose::StartThrottle,
                Ok(_),
            ) => {
                let next = self.gate.book.sealed().and_then(|proof| self.prepare(proof));
                self.act_on(next);
            }
            (Purpose::StartLink, Err(failure)) => self.fail(Refusal::new(
                Layer::DeviceModel,
                "take out",
                "the cable of a network interface",
                failure.to_string(),
                "leave <link state='down'/> out, and take the cable out once the guest runs",
            )),
            (Purpose::StartBalloon, Err(failure)) => self.fail(Refusal::new(
                Layer::DeviceModel,
                "ask the guest for",
                "memory beyond its <currentMemory>",
                failure.to_string(),
                "leave <currentMemory> out, or check that the definition has a <memballoon>",
            )),
            (Purpose::StartPassword, Err(failure)) => self.fail(Refusal::new(
                Layer::DeviceModel,
                "set",
                "the password of a display",
                failure.to_string(),
                "check that this emulator has such a display, or leave its passwd out where nobody else can reach it",
            )),
            (Purpose::StartThrottle, Err(failure)) => self.fail(Refusal::new(
                Layer::DeviceModel,
                "limit",
                "what a disk may do",
                failure.to_string(),
                "change the disk's <iotune>",
            )),
            (Purpose::StartLoad, Ok(_)) => self.look_at_load(),
            (Purpose::StartLoaded, Ok(value)) => match run_state(&value).as_str() {
                "inmigrate" => self.look_at_load(),
                _ => self.advance(Input::Loaded),
            },
            (
                Purpose::StartStatus | Purpose::StartContinue | Purpose::StartLoad | Purpose::StartLoaded,
                Err(failure),
            ) => self.fail(Refusal::new(
                Layer::DeviceModel,
                "start",
                "the guest",
                failure.to_string(),
                "see what QEMU said on standard error",
            )),
            (Purpose::Reset(ticket), Ok(value)) => self.reset(ticket, &run_state(&value)),
            (Purpose::Client(ticket) | Purpose::Reset(ticket), outcome) => self.answered(ticket, outcome),
            (Purpose::Actions(ticket, lifecycle), outcome) => {
                if outcome.is_ok() {
                    self.actions_set(lifecycle);
                }
                self.answered(ticket, outcome);
            }
            (Purpose::Lifecycle, _) => {}
            (Purpose::Plug(ticket), outcome) => self.plug_reply(ticket, outcome),
            (Purpose::Picture(_) | Purpose::PictureFile(_), outcome) => self.picture_reply(purpose, outcome),
            (Purpose::Save, outcome) => self.save_reply(outcome),
            (Purpose::Dump, outcome) => self.dump_reply(outcome),
            (purpose, outcome) => self.vnc_reply(purpose, outcome),
        }
    }

    /// Gives the start its next input and does what it asks.
    pub(super) fn advance(&mut self, input: Input) {
        match self.launch.input(input) {
            Ok(action) => self.act_on(action),
            Err(refusal) => self.fail(refusal),
        }
    }

    fn act_on(&mut self, mut action: Option<Action>) {
        while let Some(next) = action.take() {
            action = self.act(next);
        }
    }

    fn act(&mut self, action: Action) -> Option<Action> {
        match action {
            Action::Query => {
                self.report(&Report::Greeted);
                self.command("query-status", &Value::Null, Purpose::StartStatus);
                None
            }
            Action::Seal => {
                let proof = self.gate.seal();
                self.report(&Report::Sealed { notifications: self.gate.book.passed() });
                self.prepare(proof)
            }
            Action::Load(fd) => {
                self.load(fd);
                None
            }
            Action::Continue(proof) => {
                self.resume(proof, Purpose::StartContinue);
                None
            }
            Action::Running => {
                self.started();
                None
            }
        }
    }

    /// Tells QEMU, once the gate is shut, what the guest is to find when it begins, one thing after the other.
    fn prepare(&mut self, proof: Sealed) -> Option<Action> {
        if let Some(ask) = self.passwords.pop_front() {
            let (execute, arguments) = super::ask::command(&ask);
            self.command(execute, &arguments, Purpose::StartPassword);
        } else if let Some(alias) = self.links_down.pop() {
            let (execute, arguments) = super::ask::set_link(&alias, false);
            self.command(execute, &arguments, Purpose::StartLink);
        } else if let Some(throttle) = self.throttles.pop() {
            self.command("block_set_io_throttle", &throttle.arguments(), Purpose::StartThrottle);
        } else if let Some(bytes) = self.balloon.take() {
            // A guest without a driver keeps what it has, as with every later request; whether QEMU takes it counts.
            self.command("balloon", &json!({ "value": bytes }), Purpose::StartBalloon);
        } else {
            return self.launch.sealed(proof);
        }
        None
    }

    /// The only place where `cont` is sent; it takes the proof that the gate is shut.
    pub(super) fn resume(&mut self, _gate: Sealed, purpose: Purpose) {
        self.command("cont", &Value::Null, purpose);
    }

    /// Sends a command whose reply comes back with `purpose`.
    pub(super) fn command(&mut self, execute: &str, arguments: &Value, purpose: Purpose) {
        let sent = match &mut self.monitor {
            Some(monitor) => monitor.command(execute, arguments, purpose, None),
            None => return,
        };
        if let Err(error) = sent {
            self.monitor_lost(&error);
        }
    }

    fn happened(&mut self, event: &Event) {
        let word = |key: &str| event.data.get(key).and_then(Value::as_str).unwrap_or_default();
        if let Some(happening) = super::tell::happening(event) {
            self.control.tell(&happening);
            self.plug_event(&happening);
        }
        match event.name.as_str() {
            "SHUTDOWN" => {
                let reason: String = word("reason").chars().filter(|c| !c.is_control()).take(64).collect();
                let action = match reason.as_str() {
                    "guest-shutdown" if self.rebooting => Some(LifecycleAction::Restart),
                    "guest-shutdown" => Some(self.lifecycle.on_poweroff),
                    "guest-reset" => Some(self.lifecycle.on_reboot),
                    PANICKED => Some(self.lifecycle.on_crash),
                    _ => None,
                };
                if reason == "guest-shutdown" {
                    self.stay_at_poweroff(false);
                }
                // What follows from a panic is no reason of its own.
                if reason != QUIT || self.reason.as_deref() != Some(PANICKED) {
                    self.reason = Some(reason);
                }
                self.live(action);
            }
            // Where QEMU shuts down for a panic, SHUTDOWN follows and is acted on.
            "GUEST_PANICKED" if word("action") == "pause" => {
                self.reason = Some(PANICKED.into());
                self.live(Some(self.lifecycle.on_crash));
            }
            "RESUME" => {
                self.reason = None;
                self.close_kept();
            }
            "RESET" => self.reason = None,
            _ => {}
        }
    }

    /// Does what the definition says; QEMU does part of it by itself, and then the command finds it gone.
    fn live(&mut self, action: Option<LifecycleAction>) {
        match (action, self.gate.book.sealed()) {
            (Some(LifecycleAction::Destroy), _) => self.command("quit", &Value::Null, Purpose::Lifecycle),
            (Some(LifecycleAction::Restart), Some(proof)) => {
                self.command("system_reset", &Value::Null, Purpose::Lifecycle);
                self.resume(proof, Purpose::Lifecycle);
            }
            _ => {}
        }
    }
}

/// The run state in an answer to `query-status`.
pub(super) fn run_state(value: &Value) -> String {
    let state = value.get("status").and_then(Value::as_str).unwrap_or("unknown");
    state.chars().filter(|c| c.is_ascii_graphic()).take(32).collect()
}
