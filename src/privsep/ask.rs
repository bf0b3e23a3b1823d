//! What clients of a supervisor ask of QEMU itself: a closed list, each entry one command of its monitor.
//!
//! Nothing here opens the gate, hands in a descriptor or names a file; those have verbs of their own.

use serde::{Deserialize, Serialize};

use super::password::Password;
use super::supervisor::{Graphics, Lifecycle};
use super::throttle::Throttle;

/// The most keys that are pressed together; QEMU's own limit is higher.
pub const KEYS_MAX: usize = 16;
/// The longest time that keys are held, in milliseconds.
pub const HOLD_MAX: u32 = 60_000;
/// The most of a guest's memory that is read at once, in bytes: what QEMU prints of it is four times as long.
pub const MEMORY_MAX: u32 = 64 << 10;
/// The longest time that it is measured how fast a guest writes, in seconds; QEMU's own limit.
pub const DIRTY_SECONDS_MAX: u32 = 60;

/// One question or order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// Sets how much memory the guest is to keep (`balloon`).
    Balloon {
        /// In bytes.
        bytes: u64,
    },
    /// How much memory the guest has (`query-balloon`).
    BalloonSize,
    /// Gives a disk another size (`block_resize`).
    BlockResize {
        /// The disk's topmost node, such as `vda-0-format`.
        node: String,
        /// In bytes.
        bytes: u64,
    },
    /// The nodes of disks and their sizes (`query-named-block-nodes`).
    Blocks,
    /// Tells once when something is written to a disk's image at this place or behind it
    /// (`block-set-write-threshold`).
    BlockThreshold {
        /// The image's own node, such as `vda-0-storage`.
        node: String,
        /// In bytes; 0 for nowhere.
        bytes: u64,
    },
    /// What block devices did (`query-blockstats`).
    BlockStats,
    /// Measures how fast the guest writes its memory (`calc-dirty-rate`).
    DirtyRate {
        /// For so many seconds.
        seconds: u32,
        /// How.
        mode: DirtyMode,
    },
    /// What the guest's balloon driver reports of its memory.
    GuestMemory,
    /// How often the guest's balloon driver reports, in seconds; 0 never.
    GuestMemoryPeriod {
        /// The period.
        seconds: u32,
    },
    /// Sets how long the password of a display is good (`expire_password`).
    ExpirePassword {
        /// Which display.
        protocol: Graphics,
        /// In seconds since the epoch; for ever where there is nothing.
        until: Option<u64>,
    },
    /// A non-maskable interrupt (`inject-nmi`).
    InjectNmi,
    /// Puts the cable of a network interface in, or takes it out (`set_link`).
    Link {
        /// The interface's alias, such as `net0`.
        alias: String,
        /// Whether it is in.
        up: bool,
    },
    /// Prints memory (`x`, `xp`).
    Memory {
        /// Where it begins.
        from: u64,
        /// How much.
        bytes: u32,
        /// Whether the address is a physical one, and not one of the first CPU's own.
        physical: bool,
    },
    /// A command that a person wrote, from the closed list of those that only look ([`may_be_asked`]).
    Monitor {
        /// Its name.
        execute: String,
        /// Its arguments; an object, or null.
        arguments: serde_json::Value,
    },
    /// How a save goes (`query-migrate`).
    Migration,
    /// Plugs in a virtual CPU that the machine has a place for (`device_add`).
    PlugCpu {
        /// QEMU's type of the machine's CPUs, such as `qemu64-x86_64-cpu`.
        driver: String,
        /// Its number, from 0.
        number: u32,
        /// Its place, as `query-hotpluggable-cpus` names it: socket, die where there are such, core, thread.
        place: CpuPlace,
    },
    /// Powers the guest off by its own choice, and starts it again instead of ending it.
    Reboot,
    /// Pulls the reset line (`system_reset`).
    Reset,
    /// Presses keys together and lets them go (`send-key`).
    SendKey {
        /// QEMU's key numbers: XT scan codes, 0x80 added for extended ones.
        keys: Vec<u8>,
        /// For how long, in milliseconds.
        hold: u32,
    },
    /// Sets what becomes of the domain when the guest powers off, reboots or crashes (`set-action`).
    SetLifecycle {
        /// All three.
        lifecycle: Lifecycle,
    },
    /// Sets the password of a display, and not how long it is good (`set_password`).
    SetPassword {
        /// Which one.
        password: Password,
    },
    /// Sets how much a disk may do (`block_set_io_throttle`).
    Throttle {
        /// Which disk, and how much.
        throttle: Box<Throttle>,
    },
    /// Asks the guest to let a virtual CPU go that was plugged in (`device_del`).
    UnplugCpu {
        /// Its number, from 0.
        number: u32,
    },
    /// Wakes a guest that sleeps in memory (`system_wakeup`).
    WakeUp,
}

/// How it is measured how fast a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirtyMode {
    /// Every page that is written is noted.
    DirtyBitmap,
    /// KVM's ring notes them.
    DirtyRing,
    /// Some pages are compared before and after.
    PageSampling,
}

impl Ask {
    /// Whether its numbers are within their bounds.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        match self {
            Self::SendKey { keys, hold } => {
                !keys.is_empty() && keys.len() <= KEYS_MAX && *hold <= HOLD_MAX && !keys.contains(&0)
            }
            Self::Balloon { bytes } => *bytes > 0 && i64::try_from(*bytes).is_ok(),
            Self::GuestMemoryPeriod { seconds } => i32::try_from(*seconds).is_ok(),
            Self::Monitor { execute, arguments } => may_be_asked(execute, arguments),
            Self::PlugCpu { driver, .. } => is_cpu(driver),
            Self::BlockResize { node, bytes } => is_node(node, FORMAT) && i64::try_from(*bytes).is_ok(),
            Self::BlockThreshold { node, .. } => is_node(node, STORAGE),
            Self::SetPassword { password } => password.is_bounded(),
            Self::Throttle { throttle } => throttle.is_bounded(),
            Self::DirtyRate { seconds, .. } => (1..=DIRTY_SECONDS_MAX).contains(seconds),
            Self::Link { alias, .. } => is_interface(alias),
            Self::Memory { bytes, .. } => (1..=MEMORY_MAX).contains(bytes),
            _ => true,
        }
    }

    /// How many bytes each printed word of a piece of memory has: 8 where they go into it.
    #[must_use]
    pub fn memory_width(bytes: u32) -> usize {
        if bytes.is_multiple_of(8) { 8 } else { 1 }
    }

    /// The word for what it does, for messages.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Balloon { .. } => "set the memory of",
            Self::InjectNmi => "send an interrupt to",
            Self::Link { .. } => "set a link of",
            Self::Reboot => "reboot",
            Self::Reset => "reset",
            Self::SendKey { .. } => "send keys to",
            Self::GuestMemoryPeriod { .. } => "set the reports of",
            Self::Memory { .. } => "read the memory of",
            Self::Monitor { .. } => "ask",
            Self::PlugCpu { .. } => "plug a virtual CPU into",
            Self::UnplugCpu { .. } => "take a virtual CPU out of",
            Self::BlockResize { .. } => "resize a disk of",
            Self::BlockThreshold { .. } => "watch a disk of",
            Self::SetLifecycle { .. } => "set the lifecycle actions of",
            Self::ExpirePassword { .. } | Self::SetPassword { .. } => "set the password of a display of",
            Self::Throttle { .. } => "throttle a disk of",
            Self::WakeUp => "wake",
            Self::DirtyRate { .. } => "measure",
            Self::BalloonSize | Self::Blocks | Self::BlockStats | Self::GuestMemory | Self::Migration => {
                "measure"
            }
        }
    }
}

/// Where a virtual CPU has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuPlace {
    /// `socket-id`
    pub socket: u32,
    /// `die-id`, on machines that have dies.
    pub die: Option<u32>,
    /// `core-id`
    pub core: u32,
    /// `thread-id`
    pub thread: u32,
}

/// What the names of a disk's two topmost nodes end with: what the guest sees, and the image that it is kept in.
const FORMAT: &str = "-0-format";
/// See `FORMAT`.
pub const STORAGE: &str = "-0-storage";

/// Whether this is that node of a disk, and so nothing that lies below one.
fn is_node(node: &str, part: &str) -> bool {
    node.strip_suffix(part).is_some_and(|target| {
        (1..=20).contains(&target.len()) && target.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Whether this is the name of a network interface and of nothing else that has a link.
#[must_use]
pub fn is_interface(alias: &str) -> bool {
    alias.strip_prefix("net").is_some_and(|number| {
        (1..=5).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Whether this is a type of virtual CPUs and of nothing else that could be plugged.
fn is_cpu(driver: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    driver.strip_suffix("-x86_64-cpu").is_some_and(|model| !model.is_empty())
        && driver.len() <= 64
        && driver.bytes().all(word)
}

/// Whether a person's own command is one that only looks.
///
/// Nothing that plugs, opens, executes, migrates, changes an action or writes memory is among them: QEMU would do it, but
/// labels, leases and the gate know nothing of it.
#[must_use]
pub fn may_be_asked(execute: &str, arguments: &serde_json::Value) -> bool {
    /// Commands besides `query-*`.
    const LOOKS: &[&str] =
        &["device-list-properties", "qom-get", "qom-list", "qom-list-properties", "qom-list-types"];
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let query = execute.strip_prefix("query-").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(word));
    // The one form of HMP: `info` writes nothing.
    let line = arguments.get("command-line").and_then(serde_json::Value::as_str);
    let info = execute == "human-monitor-command"
        && arguments.as_object().is_some_and(|arguments| arguments.len() == 1)
        && line.is_some_and(|line| {
            line.strip_prefix("info ").is_some_and(|rest| rest.bytes().all(|b| word(b) || b == b' '))
        });
    let plain = arguments.is_null() || arguments.is_object();
    plain && (query || info || LOOKS.contains(&execute))
}

/// Something that QEMU or the guest did, for whoever listens to the supervisor: one JSON line each.
///
/// Words come from a device model that may be taken over; they are short and without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "happened", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Happening {
    /// A program in the guest opened or closed a channel.
    Port {
        /// The channel's alias.
        alias: String,
        /// Whether it is open.
        connected: bool,
    },
    /// The guest has this much memory now.
    Balloon {
        /// In bytes.
        actual: u64,
    },
    /// A device is gone.
    DeviceDeleted {
        /// Its alias.
        alias: String,
    },
    /// The guest refused to give a device back.
    DeviceKept {
        /// Its alias.
        alias: String,
    },
    /// Something was written at the place in a disk's image that was watched, or behind it.
    BlockThreshold {
        /// The image's node, such as `vda-0-storage`.
        node: String,
        /// The place, in bytes.
        threshold: u64,
        /// How far behind it the writing ended, in bytes.
        excess: u64,
    },
    /// Reading or writing a disk failed.
    IoError {
        /// The device's alias.
        alias: String,
        /// `ignore`, `report` or `stop`.
        action: String,
        /// Whether the host has no room left.
        no_space: bool,
    },
    /// QEMU goes through the memory of a guest that is being saved.
    MigrationPass {
        /// For which time, from 1.
        pass: u64,
    },
    /// The guest has panicked.
    Panicked,
    /// The guest has put itself to sleep in memory.
    Suspended,
    /// The guest has put itself to sleep on disk.
    SuspendedToDisk,
    /// The guest woke up.
    Woke,
    /// The guest, or somebody for it, was reset.
    Reset,
    /// The virtual CPUs go on.
    Resumed,
    /// The guest set its clock.
    RtcChange {
        /// Seconds that it is ahead of the host's.
        offset: i64,
    },
    /// The virtual CPUs stand.
    Stopped,
    /// A tray moved.
    Tray {
        /// The device's alias.
        alias: String,
        /// Whether it is open.
        open: bool,
    },
    /// A watchdog went off.
    Watchdog {
        /// `reset`, `poweroff`, `pause`, `debug`, `none`, `shutdown` or `inject-nmi`.
        action: String,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::privsep::supervisor::Verb;

    #[test]
    fn an_order_stands_beside_its_verb() {
        let verb = Verb::Ask(Ask::SendKey { keys: vec![0x1d, 0x38], hold: 100 });
        let text = serde_json::to_string(&verb).unwrap();
        assert_eq!(text, r#"{"verb":"ask","ask":"send-key","keys":[29,56],"hold":100}"#);
        assert_eq!(serde_json::from_str::<Verb>(&text).unwrap(), verb);
        assert!(
            serde_json::from_str::<Verb>(r#"{"verb":"ask","ask":"send-key","keys":[1],"hold":1,"x":1}"#)
                .is_err()
        );
        assert!(serde_json::from_str::<Verb>(r#"{"verb":"ask","ask":"human-monitor-command"}"#).is_err());
    }

    #[test]
    fn a_person_may_only_look() {
        use serde_json::{Value, json};
        assert!(may_be_asked("query-status", &Value::Null));
        assert!(may_be_asked("qom-get", &json!({"path": "/machine", "property": "type"})));
        assert!(may_be_asked("human-monitor-command", &json!({"command-line": "info status"})));
        for (execute, arguments) in [
            ("cont", Value::Null),
            ("qom-set", json!({})),
            ("getfd", json!({"fdname": "x"})),
            ("migrate", json!({"uri": "exec:id"})),
            ("blockdev-add", json!({})),
            ("query-", Value::Null),
            ("query-status\n", Value::Null),
            ("query-status", json!([1])),
            ("human-monitor-command", json!({"command-line": "info status; quit"})),
            ("human-monitor-command", json!({"command-line": "savevm x"})),
            ("human-monitor-command", json!({"command-line": "info status", "cpu-index": 1})),
        ] {
            assert!(!may_be_asked(execute, &arguments), "{execute} {arguments}");
        }
    }

    #[test]
    fn only_virtual_cpus_are_plugged_so() {
        let place = CpuPlace { socket: 1, die: None, core: 0, thread: 0 };
        let plug = |driver: &str| Ask::PlugCpu { driver: driver.into(), number: 1, place };
        assert!(plug("qemu64-x86_64-cpu").is_bounded() && plug("Skylake-Client-v1-x86_64-cpu").is_bounded());
        for driver in ["e1000", "-x86_64-cpu", "x,file=/a-x86_64-cpu", "", &"x".repeat(64)] {
            assert!(!plug(driver).is_bounded(), "{driver}");
        }
    }

    #[test]
    fn only_interfaces_have_links() {
        let link = |alias: &str| Ask::Link { alias: alias.into(), up: false };
        assert!(link("net0").is_bounded() && link("net12").is_bounded());
        for alias in ["", "net", "hostnet0", "net0\n", "net-1", "net123456", "virtio-disk0"] {
            assert!(!link(alias).is_bounded(), "{alias}");
        }
    }

    #[test]
    fn numbers_are_bounded() {
        assert!(Ask::Reset.is_bounded());
        assert!(!Ask::SendKey { keys: vec![], hold: 0 }.is_bounded());
        assert!(!Ask::SendKey { keys: vec![1; 17], hold: 0 }.is_bounded());
        assert!(!Ask::Balloon { bytes: u64::MAX }.is_bounded());
        let rate = |seconds| Ask::DirtyRate { seconds, mode: DirtyMode::PageSampling }.is_bounded();
        assert!(rate(1) && rate(60) && !rate(0) && !rate(61));
        let memory = |bytes| Ask::Memory { from: u64::MAX, bytes, physical: true }.is_bounded();
        assert!(memory(1) && memory(MEMORY_MAX) && !memory(0) && !memory(MEMORY_MAX + 1));
        let resize = |node: &str, bytes| Ask::BlockResize { node: node.into(), bytes }.is_bounded();
        assert!(resize("vda-0-format", 1) && !resize("vda-0-format", u64::MAX));
        assert!(!resize("vda-1-format", 1) && !resize("vda-0-storage", 1) && !resize("a b-0-format", 1));
        let watch = |node: &str| Ask::BlockThreshold { node: node.into(), bytes: u64::MAX }.is_bounded();
        assert!(watch("vda-0-storage") && !watch("vda-0-format") && !watch("vda-1-storage"));
    }
}
