//! What of a machine a guest can see: two definitions that are alike here can follow each other under a saved guest.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Begin, DriverError, LabellerProber, draw, prepare_unread};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::conf::domain::Domain;
use crate::conf::facts::HostFacts;
use crate::driver::Labeller;
use crate::privsep::op::Op;
use crate::privsep::plug::Top;
use crate::privsep::request::{Described, Survey};
use crate::settings::Settings;

/// Options of QEMU's that say what the board is, and what its firmware tells the guest.
const BOARD: &[&str] =
    &["-machine", "-cpu", "-m", "-smp", "-numa", "-global", "-fw_cfg", "-smbios", "-acpitable"];
/// Properties of a device that are of the host's side only. Whatever else it has the guest may see. A vsock's number is
/// drawn at each start, and its guest is told; the order of booting counts when it boots. A balloon's period only says how
/// often the guest is asked.
const BACK: &[&str] = &[
    "audiodev",
    "bootindex",
    "chardev",
    "drive",
    "fd",
    "fds",
    "fsdev",
    "guest-cid",
    "guest-stats-polling-interval",
    "memdev",
    "netdev",
    "rng",
    "share-rw",
    "tpmdev",
    "vhostfd",
    "vhostfds",
];

/// The board and its devices, each in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine(BTreeSet<String>);

impl Machine {
    /// Of a definition as it would be started now.
    pub fn of(
        labeller: &mut Labeller,
        (domain, uuid): (Domain, DomainUuid),
        host: &HostFacts,
        settings: &Settings,
    ) -> Result<Self, DriverError> {
        let domain = Domain { uuid: Some(uuid), ..domain };
        // An image that is away changes nothing of what the guest sees.
        let (prepared, _) = prepare_unread(domain, settings, &mut LabellerProber::new(labeller));
        let plan = prepared.plan(host, settings, &Survey::default(), draw(), Begin::default())?;
        Ok(Self(argv(&plan.ops, None).unwrap_or_default()))
    }

    /// Of what runs, after what was plugged in and out since it was started.
    #[must_use]
    pub fn running(described: &Described) -> Self {
        let queues = counted(&described.plan.ops);
        let mut lines = argv(&described.plan.ops, queues).unwrap_or_default();
        for gone in described.gone.iter().filter(|gone| !gone.medium) {
            let id = format!("\"id\":{}", Value::from(gone.alias.as_str()));
            lines.retain(|line| !line.contains(&id));
        }
        for plug in &described.plugs {
            if let Top::Device { object } | Top::Interface { object, .. } = &plug.steps.top {
                lines.extend(device(object, queues));
            }
        }
        Self(lines)
    }

    /// Without how many virtual CPUs there are: those that came are no other machine for whoever counted them since.
    #[must_use]
    pub fn without_count(mut self) -> Self {
        self.0.retain(|line| !line.starts_with("-smp "));
        self
    }

    /// Refuses one that a guest would find changed.
    pub fn check(&self, other: &Self, operation: &str, object: &str) -> Result<(), Refusal> {
        let Some(line) = self.0.symmetric_difference(&other.0).next() else { return Ok(()) };
        let rule = format!("the guest would find its machine changed: {line}");
        let remedy = "change only what the guest does not see: images, back-ends, labels, descriptions";
        Err(Refusal::new(Layer::Definition, operation, object, rule, remedy))
    }
}

/// How many queues QEMU gave virtio disks and their controllers by itself: one for each virtual CPU of its start. What was
/// started before plans said so runs on, and most of it has as many as they say.
fn counted(ops: &[Op]) -> Option<u32> {
    let Some(Op::Spawn(spawn)) = ops.last() else { return None };
    let smp = spawn.argv.windows(2).find_map(|pair| match pair {
        [name, value] if name == "-smp" => value.split(',').next(),
        _ => None,
    });
    smp.and_then(|count| count.parse().ok()).filter(|count| *count > 1)
}

fn argv(ops: &[Op], queues: Option<u32>) -> Option<BTreeSet<String>> {
    let Some(Op::Spawn(spawn)) = ops.last() else { return None };
    let mut lines = BTreeSet::new();
    for pair in spawn.argv.windows(2) {
        let [name, value] = pair else { continue };
        if BOARD.contains(&name.as_str()) {
            lines.insert(format!("{name} {value}"));
        } else if name == "-device" {
            lines.extend(device(value, queues));
        }
    }
    Some(lines)
}

/// A device by all that a guest can see of it, with so many `queues` where it does not say how many.
fn device(object: &str, queues: Option<u32>) -> Option<String> {
    let Ok(Value::Object(mut object)) = serde_json::from_str(object) else { return None };
    let property = match object.get("driver").and_then(Value::as_str) {
        Some("virtio-blk-pci") => Some("num-queues"),
        Some("virtio-scsi-pci") => Some("num_queues"),
        _ => None,
    };
    if let (Some(property), Some(queues)) = (property, queues) {
        object.entry(property).or_insert_with(|| queues.into());
    }
    let seen = object.iter().filter(|(key, _)| !BACK.contains(&key.as_str()));
    let words: BTreeSet<String> = seen.map(|(key, value)| format!("\"{key}\":{value}")).collect();
    Some(words.into_iter().collect::<Vec<_>>().join(","))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn virtual_cpus_that_came_are_no_other_machine_for_a_save() {
        let machine = |lines: &[&str]| Machine(lines.iter().map(|line| (*line).to_owned()).collect());
        let [one, two] = ["-smp 1,maxcpus=2", "-smp 2,maxcpus=2"].map(|smp| machine(&[smp, "-m 64M"]));
        assert!(one.check(&two, "change", "a").is_err());
        assert!(one.clone().without_count().check(&two.without_count(), "save", "a").is_ok());
        let other = machine(&["-m 65M"]);
        assert!(one.without_count().check(&other, "save", "a").is_err());
    }

    #[test]
    fn a_device_is_all_that_a_guest_sees_of_it() {
        let one = device(r#"{"driver":"virtio-blk-pci","id":"virtio-disk0","drive":"a","addr":"0x3"}"#, None);
        let other =
            device(r#"{"addr":"0x3","id":"virtio-disk0","drive":"b","driver":"virtio-blk-pci"}"#, None);
        assert!(one.is_some() && one == other);
        assert_ne!(
            device(r#"{"driver":"virtio-blk-pci","id":"virtio-disk0","addr":"0x4"}"#, None).unwrap(),
            one.unwrap()
        );
        assert_eq!(device("nonsense", None), None);
        // A guest that has counted its queues finds no others.
        let queues =
            |count: u32| device(&format!(r#"{{"driver":"virtio-blk-pci","num-queues":{count}}}"#), None);
        assert_ne!(queues(1), queues(2));
        let unsaid = |count| device(r#"{"driver":"virtio-blk-pci"}"#, count);
        assert!(unsaid(Some(2)) == queues(2) && unsaid(None) != queues(2));
        let card = |more: &str| {
            device(&format!(r#"{{"driver":"virtio-net-pci","id":"net0"{more}}}"#), None).unwrap()
        };
        assert_eq!(card(r#","netdev":"a","vhostfd":"7""#), card(r#","netdev":"b""#));
        for seen in [r#","mac":"52:54:00:00:00:01""#, r#","host_mtu":9000"#, r#","serial":"x""#] {
            assert_ne!(card(seen), card(""), "{seen}");
        }
    }
}
