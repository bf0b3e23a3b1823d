//! QEMU's events in svirt's words, for those who listen.

use serde_json::Value;

use crate::privsep::ask::Happening;
use crate::qmp::Event;

/// The longest word of QEMU's that is passed on.
const WORD_MAX: usize = 64;

/// What an event says, if it is one that somebody may want to hear of.
pub(super) fn happening(event: &Event) -> Option<Happening> {
    let data = &event.data;
    let word = |key: &str| clean(data.get(key).and_then(Value::as_str).unwrap_or_default());
    let flag = |key: &str| data.get(key).and_then(Value::as_bool).unwrap_or_default();
    Some(match event.name.as_str() {
        "BALLOON_CHANGE" => Happening::Balloon { actual: data.get("actual")?.as_u64()? },
        "BLOCK_IO_ERROR" => {
            Happening::IoError { alias: device(data), action: word("action"), no_space: flag("nospace") }
        }
        "BLOCK_WRITE_THRESHOLD" => Happening::BlockThreshold {
            node: known(word("node-name"))?,
            threshold: data.get("write-threshold")?.as_u64()?,
            excess: data.get("amount-exceeded")?.as_u64()?,
        },
        // Only what has a name was plugged by somebody; the rest is the inside of such a device.
        "DEVICE_DELETED" => Happening::DeviceDeleted { alias: known(word("device"))? },
        "DEVICE_UNPLUG_GUEST_ERROR" => Happening::DeviceKept { alias: known(word("device"))? },
        "DEVICE_TRAY_MOVED" => Happening::Tray { alias: known(word("id"))?, open: flag("tray-open") },
        "GUEST_PANICKED" => Happening::Panicked,
        "MIGRATION_PASS" => Happening::MigrationPass { pass: data.get("pass")?.as_u64()? },
        "RESET" => Happening::Reset,
        "RESUME" => Happening::Resumed,
        "RTC_CHANGE" => Happening::RtcChange { offset: data.get("offset")?.as_i64()? },
        "STOP" => Happening::Stopped,
        "SUSPEND" => Happening::Suspended,
        "SUSPEND_DISK" => Happening::SuspendedToDisk,
        "VSERPORT_CHANGE" => Happening::Port { alias: known(word("id"))?, connected: flag("open") },
        "WAKEUP" => Happening::Woke,
        "WATCHDOG" => Happening::Watchdog { action: word("action") },
        _ => return None,
    })
}

/// The alias of a failing disk: QEMU names the device, or where it has no name the path or node.
fn device(data: &Value) -> String {
    let word = |key: &str| data.get(key).and_then(Value::as_str).filter(|word| !word.is_empty());
    let path = word("device").or_else(|| word("qom-path")).or_else(|| word("node-name")).unwrap_or_default();
    let path = path.strip_prefix("/machine/peripheral/").unwrap_or(path);
    clean(path.split('/').next().unwrap_or_default())
}

fn known(word: String) -> Option<String> {
    Some(word).filter(|word| !word.is_empty())
}

fn clean(word: &str) -> String {
    word.chars().filter(char::is_ascii_graphic).take(WORD_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(name: &str, data: Value) -> Option<Happening> {
        happening(&Event { name: name.into(), data })
    }

    #[test]
    fn events_are_told_in_clean_words() {
        let removed = of("DEVICE_DELETED", json!({"device": "virtio-\ndisk1", "path": "/x"}));
        assert_eq!(removed, Some(Happening::DeviceDeleted { alias: "virtio-disk1".into() }));
        assert_eq!(of("DEVICE_DELETED", json!({"path": "/machine/peripheral/x/virtio-backend"})), None);
        let error = json!({"device": "", "qom-path": "/machine/peripheral/virtio-disk0/virtio-backend",
            "action": "stop", "nospace": true});
        let alias = "virtio-disk0".into();
        assert_eq!(
            of("BLOCK_IO_ERROR", error),
            Some(Happening::IoError { alias, action: "stop".into(), no_space: true })
        );
        assert_eq!(of("BALLOON_CHANGE", json!({"actual": -1})), None);
        let passed = json!({"node-name": "vda-0-storage", "write-threshold": 9, "amount-exceeded": 3});
        let node = "vda-0-storage".into();
        assert_eq!(
            of("BLOCK_WRITE_THRESHOLD", passed),
            Some(Happening::BlockThreshold { node, threshold: 9, excess: 3 })
        );
        assert_eq!(of("MIGRATION_PASS", json!({"pass": 2})), Some(Happening::MigrationPass { pass: 2 }));
        assert_eq!(of("NIC_RX_FILTER_CHANGED", json!({})), None);
    }

    #[test]
    fn words_of_the_device_model_are_bounded() {
        let long = "a".repeat(5000);
        let Some(Happening::Watchdog { action }) = of("WATCHDOG", json!({ "action": long })) else { return };
        assert_eq!(action.len(), WORD_MAX);
    }
}
