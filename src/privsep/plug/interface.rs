//! Network interfaces that are plugged in.

use serde_json::Value;

use super::{Plug, PlugError, backend, object, wrong};
use crate::base::Slot;
use crate::privsep::op::{Op, UidRole};

const DEVICES: &[&str] = &["virtio-net-pci", "e1000", "e1000e", "rtl8139"];

/// An interface is given one tap device, or a channel whose other end passt holds under a uid of its own.
pub(super) fn check_ops(plug: &Plug, slot: &Slot, tap: bool) -> Result<(), PlugError> {
    let one = match plug.ops.as_slice() {
        [Op::MakeTap { slot: made, .. } | Op::OpenTap { slot: made, .. }] => tap && made == slot,
        [
            Op::LeaseUid { role: UidRole::Helper, uid: leased },
            Op::Channel { slot: end, peer },
            Op::SpawnPasst { alias, slot: other, uid, .. },
        ] => !tap && end == slot && peer != slot && peer == other && leased == uid && *alias == plug.alias,
        _ => false,
    };
    if one { Ok(()) } else { wrong("an interface is given one tap device, or one channel and a passt") }
}

/// The device uses its own back-end, and reads no ROM.
pub(super) fn check_device(text: &str, alias: &str) -> Result<(), PlugError> {
    let object = object(text)?;
    let word = |key: &str| object.get(key).and_then(Value::as_str);
    let known_device = word("driver").is_some_and(|driver| DEVICES.contains(&driver));
    if !known_device || word("id") != Some(alias) || !alias.starts_with("net") {
        return wrong("the device is no interface of this alias");
    }
    if word("netdev") != Some(backend(alias).as_str()) || word("romfile") != Some("") {
        return wrong("the interface has another back-end, or a ROM");
    }
    let known = ["driver", "id", "netdev", "mac", "host_mtu", "romfile", "bus", "addr", "multifunction"];
    let plain = |value: &Value| !value.is_object() && !value.is_array();
    match object.iter().find(|(key, value)| !known.contains(&key.as_str()) || !plain(value)) {
        Some((key, _)) => wrong(format!("the interface has no property {key:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{PlugSteps, Top, check};
    use super::*;

    const DEVICE: &str = r#"{"driver":"virtio-net-pci","netdev":"hostnet1","id":"net1","mac":"52:54:00:00:00:01","romfile":""}"#;

    fn slot(name: &str) -> Slot {
        Slot::new(name).unwrap()
    }

    fn plug(ops: Vec<Op>, tap: bool, device: &str) -> Plug {
        let top = Top::Interface { slot: slot("net1"), tap, object: device.into() };
        let steps = PlugSteps { alias: "net1".into(), sets: Vec::new(), nodes: Vec::new(), top };
        Plug { alias: "net1".into(), ops, steps, note: String::new() }
    }

    fn user(alias: &str, uid: u32, peer: &str) -> Vec<Op> {
        vec![
            Op::LeaseUid { role: UidRole::Helper, uid: 7 },
            Op::Channel { slot: slot("net1"), peer: slot("net1.peer") },
            Op::SpawnPasst { alias: alias.into(), slot: slot(peer), uid, selinux_label: None },
        ]
    }

    fn tap(name: &str) -> Vec<Op> {
        vec![Op::OpenTap { slot: slot(name), interface: "tap0".into() }]
    }

    #[test]
    fn a_tap_or_a_passt_of_its_own_is_let_through() {
        check(&plug(user("net1", 7, "net1.peer"), false, DEVICE)).unwrap();
        check(&plug(tap("net1"), true, DEVICE)).unwrap();
    }

    #[test]
    fn everything_else_is_refused() {
        for ops in [
            user("net0", 7, "net1.peer"),
            user("net1", 8, "net1.peer"),
            user("net1", 7, "net1"),
            tap("net1"),
            Vec::new(),
        ] {
            assert!(check(&plug(ops, false, DEVICE)).is_err());
        }
        assert!(check(&plug(tap("net0"), true, DEVICE)).is_err());
        assert!(check(&plug([tap("net1"), tap("net1")].concat(), true, DEVICE)).is_err());
        for device in [
            DEVICE.replace("virtio-net-pci", "virtio-blk-pci"),
            DEVICE.replace("hostnet1", "hostnet0"),
            DEVICE.replace("\"net1\"", "\"net0\""),
            DEVICE.replace("\"romfile\":\"\"", "\"romfile\":\"/etc/shadow\""),
            DEVICE.replace("mac", "bootindex"),
        ] {
            assert!(check(&plug(tap("net1"), true, &device)).is_err(), "{device}");
        }
    }
}
