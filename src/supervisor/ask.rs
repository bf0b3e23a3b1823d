//! Orders and questions for QEMU, each to the one command that does it.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::monitor::Purpose;
use super::serve::Server;
use crate::base::{Layer, Refusal};
use crate::privsep::ask::{Ask, CpuPlace};
use crate::privsep::password::Password;
use crate::privsep::supervisor::{Answer, Lifecycle, LifecycleAction};

/// The longest answer that is passed on, in bytes; a client takes a little more.
const RETURNED_MAX: usize = 512 << 10;
/// Where QEMU keeps the balloon that svirt gives every guest.
const BALLOON: &str = "/machine/peripheral/balloon0";

impl Server {
    /// Sends what a client asks; the reply comes back for its ticket.
    pub(super) fn ask(&mut self, client: u64, ask: &Ask, ticket: u64) {
        if !ask.is_bounded() {
            let refusal = Refusal::new(
                Layer::Policy,
                ask.word(),
                "the domain",
                "it is out of its bounds, or more than looking",
                "libvirt's own calls do the rest",
            );
            return self.control.answer(client, &Answer::Refused(refusal), std::time::Instant::now());
        }
        if *ask == Ask::Reset {
            return self.command("query-status", &Value::Null, Purpose::Reset(ticket));
        }
        if *ask == Ask::Reboot {
            self.stay_at_poweroff(true);
        }
        let purpose = match ask {
            Ask::SetLifecycle { lifecycle } => Purpose::Actions(ticket, *lifecycle),
            _ => Purpose::Client(ticket),
        };
        let (execute, arguments) = command(ask);
        self.command(execute, &arguments, purpose);
    }

    /// Resets a guest in this state, unless QEMU would not survive it: while it writes memory down, and once it has let its
    /// disks go for a save that was given up (QEMU 7.2 aborts in a dump, and at the next save).
    pub(super) fn reset(&mut self, ticket: u64, state: &str) {
        // Whoever gave up was told that it did not happen.
        let Some((client, _)) = self.control.waiting(ticket) else { return };
        let rule = match state {
            "finish-migrate" | "save-vm" => "its memory is being written",
            "postmigrate" => "its disks were let go by a save that was given up",
            _ => {
                let (execute, arguments) = command(&Ask::Reset);
                return self.command(execute, &arguments, Purpose::Client(ticket));
            }
        };
        let remedy = "wait until that is over, or let the guest go on first";
        let refusal = Refusal::new(Layer::Policy, "reset", "the domain", rule, remedy);
        self.control.answer(client, &Answer::Refused(refusal), std::time::Instant::now());
    }

    /// QEMU has taken other lifecycle actions: they are the supervisor's too, also where nobody waits for the answer any
    /// longer.
    pub(super) fn actions_set(&mut self, lifecycle: Lifecycle) {
        // Half of a reboot that goes on is forgotten with the action that it had changed.
        (self.lifecycle, self.rebooting) = (lifecycle, false);
    }

    /// Has QEMU stay when the guest powers off, because that is half of a reboot, or go again as the definition says.
    pub(super) fn stay_at_poweroff(&mut self, rebooting: bool) {
        if std::mem::replace(&mut self.rebooting, rebooting) == rebooting
            || self.lifecycle.on_poweroff != LifecycleAction::Destroy
            || self.lifecycle.on_reboot == LifecycleAction::Preserve
        {
            // A start with these makes QEMU stay anyway.
            return;
        }
        let shutdown = if rebooting { "pause" } else { "poweroff" };
        self.command("set-action", &json!({ "shutdown": shutdown }), Purpose::Lifecycle);
    }
}

pub(super) fn command(ask: &Ask) -> (&str, Value) {
    let bare = |execute: &'static str| (execute, Value::Null);
    match ask {
        Ask::Balloon { bytes } => ("balloon", json!({ "value": bytes })),
        Ask::BalloonSize => bare("query-balloon"),
        Ask::BlockResize { node, bytes } => ("block_resize", json!({ "node-name": node, "size": bytes })),
        Ask::Blocks => ("query-named-block-nodes", json!({ "flat": true })),
        Ask::BlockStats => bare("query-blockstats"),
        Ask::BlockThreshold { node, bytes } => {
            ("block-set-write-threshold", json!({ "node-name": node, "write-threshold": bytes }))
        }
        Ask::DirtyRate { seconds, mode } => {
            ("calc-dirty-rate", json!({ "calc-time": seconds, "mode": mode }))
        }
        Ask::ExpirePassword { protocol, until } => {
            let time = until.map_or_else(|| "never".into(), |until| until.to_string());
            ("expire_password", json!({ "protocol": protocol, "time": time }))
        }
        Ask::GuestMemory => ("qom-get", json!({ "path": BALLOON, "property": "guest-stats" })),
        Ask::GuestMemoryPeriod { seconds } => (
            "qom-set",
            json!({ "path": BALLOON, "property": "guest-stats-polling-interval", "value": seconds }),
        ),
        Ask::InjectNmi => bare("inject-nmi"),
        Ask::Link { alias, up } => set_link(alias, *up),
        Ask::Memory { from, bytes, physical } => ("human-monitor-command", memory(*from, *bytes, *physical)),
        Ask::Migration => bare("query-migrate"),
        Ask::Monitor { execute, arguments } => (execute, arguments.clone()),
        Ask::PlugCpu { driver, number, place } => ("device_add", cpu(driver, *number, *place)),
        Ask::Reboot => bare("system_powerdown"),
        Ask::Reset => bare("system_reset"),
        Ask::SendKey { keys, hold } => {
            let keys: Vec<Value> = keys.iter().map(|key| json!({ "type": "number", "data": key })).collect();
            ("send-key", json!({ "keys": keys, "hold-time": hold }))
        }
        Ask::SetLifecycle { lifecycle } => (
            "set-action",
            serde_json::Map::from_iter(
                lifecycle.actions().map(|(event, action)| (event.to_owned(), action.into())),
            )
            .into(),
        ),
        Ask::SetPassword { password } => ("set_password", set_password(password)),
        Ask::Throttle { throttle } => ("block_set_io_throttle", throttle.arguments()),
        Ask::UnplugCpu { number } => ("device_del", json!({ "id": cpu_alias(*number) })),
        Ask::WakeUp => bare("system_wakeup"),
    }
}

/// The command that puts a cable in or takes it out.
pub(super) fn set_link(alias: &str, up: bool) -> (&'static str, Value) {
    ("set_link", json!({ "name": alias, "up": up }))
}

fn set_password(password: &Password) -> Value {
    let mut arguments = json!({ "protocol": password.protocol, "password": password.secret.reveal() });
    if let (Some(connected), Some(arguments)) = (password.connected, arguments.as_object_mut()) {
        arguments.insert("connected".into(), json!(connected));
    }
    arguments
}

/// What tells QEMU of a password at a start: how long it is good first, so that no display is open for a moment.
pub(super) fn passwords(all: Vec<Password>) -> VecDeque<Ask> {
    let both = |password: Password| {
        let expiry = Ask::ExpirePassword { protocol: password.protocol, until: password.expiry() };
        [expiry, Ask::SetPassword { password }]
    };
    all.into_iter().flat_map(both).collect()
}

/// The monitor's own command: the machine protocol has none that does not name a file.
fn memory(from: u64, bytes: u32, physical: bool) -> Value {
    let (command, width) = (if physical { "xp" } else { "x" }, Ask::memory_width(bytes));
    let (count, size) = if width == 8 { (bytes / 8, 'g') } else { (bytes, 'b') };
    json!({ "command-line": format!("{command} /{count}x{size} {from:#x}") })
}

/// A virtual CPU, by the alias that libvirt gives it.
fn cpu(driver: &str, number: u32, place: CpuPlace) -> Value {
    let mut device = json!({
        "driver": driver, "id": cpu_alias(number),
        "socket-id": place.socket, "core-id": place.core, "thread-id": place.thread,
    });
    if let (Some(die), Some(device)) = (place.die, device.as_object_mut()) {
        device.insert("die-id".into(), die.into());
    }
    device
}

fn cpu_alias(number: u32) -> String {
    format!("vcpu{number}")
}

/// Whether what QEMU returns is passed on.
pub(super) fn returns(ask: &Ask) -> bool {
    matches!(
        ask,
        Ask::Monitor { .. }
            | Ask::Memory { .. }
            | Ask::BalloonSize
            | Ask::Blocks
            | Ask::BlockStats
            | Ask::GuestMemory
            | Ask::Migration
    )
}

/// The answer with what QEMU returned, if it is short enough.
pub(super) fn returned(value: Value) -> Answer {
    let length = serde_json::to_vec(&value).map_or(usize::MAX, |text| text.len());
    if length <= RETURNED_MAX {
        return Answer::Returned { value };
    }
    Answer::Refused(Refusal::new(
        Layer::DeviceModel,
        "measure",
        "the domain",
        format!("QEMU answered with {length} bytes, and at most {RETURNED_MAX} are passed on"),
        "give the domain fewer disks, or shorter chains",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Secret;
    use crate::privsep::password::Connected;
    use crate::privsep::supervisor::Graphics;

    #[test]
    fn keys_are_numbers() {
        let ask = Ask::SendKey { keys: vec![0x1d, 0xd3], hold: 5 };
        let (execute, arguments) = command(&ask);
        assert_eq!(execute, "send-key");
        let keys = json!([{"type": "number", "data": 29}, {"type": "number", "data": 211}]);
        assert_eq!(arguments, json!({ "keys": keys, "hold-time": 5 }));
    }

    #[test]
    fn a_password_is_told_once_it_is_known_how_long_it_is_good() {
        let of = |secret: &str, until| Password {
            protocol: Graphics::Vnc,
            secret: Secret::new(secret),
            connected: Some(Connected::Keep),
            until,
        };
        let told = |password| {
            let asks = passwords(vec![password]);
            asks.iter()
                .map(|ask| {
                    let (name, with) = command(ask);
                    format!("{name} {with}")
                })
                .collect::<Vec<_>>()
        };
        let set = |secret: &str| {
            format!(r#"set_password {{"connected":"keep","password":"{secret}","protocol":"vnc"}}"#)
        };
        let expire = |time: &str| format!(r#"expire_password {{"protocol":"vnc","time":"{time}"}}"#);
        assert_eq!(told(of("a", None)), [expire("never"), set("a")]);
        assert_eq!(told(of("a", Some(7))), [expire("7"), set("a")]);
        assert_eq!(told(of("", None)), [expire("0"), set("")]);
    }

    #[test]
    fn memory_is_printed_in_words_where_it_has_such() {
        let line = |bytes, physical| memory(0x10, bytes, physical)["command-line"].clone();
        assert_eq!(line(16, true), "xp /2xg 0x10");
        assert_eq!(line(3, false), "x /3xb 0x10");
    }

    #[test]
    fn an_answer_without_end_is_not_passed_on() {
        assert!(matches!(returned(json!([1])), Answer::Returned { .. }));
        assert!(matches!(returned(json!("x".repeat(RETURNED_MAX))), Answer::Refused(_)));
    }
}
