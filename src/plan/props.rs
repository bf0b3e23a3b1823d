//! Properties of whole plans over random domains.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;

use super::testing::{IMAGES, Store, disk, domain, host, uuid};
use super::undo::Undo;
use super::*;
use crate::base::Files;
use crate::conf::domain::{self as conf, *};
use crate::privsep::op::{Access, LaunchPlan, ListenAt, Op, Sharing};
use crate::privsep::order;
use crate::privsep::request::{DomainStatus, Survey};
use crate::settings::Settings;

/// What a domain is drawn from.
#[derive(Clone, Debug)]
struct Shape {
    name: String,
    kvm: bool,
    /// Layers, readonly, shareable raw, cache, bus.
    disks: Vec<(usize, bool, bool, u8, u8)>,
    nets: Vec<bool>,
    ports: Vec<(u8, bool, bool)>,
    rngs: usize,
    vnc: bool,
    kernel: bool,
    serial: Option<String>,
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        "[a-zA-Z0-9,= '\"{}:-]{1,20}",
        any::<bool>(),
        proptest::collection::vec((1usize..6, any::<bool>(), any::<bool>(), 0u8..6, 0u8..3), 0..6),
        proptest::collection::vec(any::<bool>(), 0..3),
        proptest::collection::vec((0u8..3, any::<bool>(), any::<bool>()), 0..4),
        0usize..3,
        any::<bool>(),
        any::<bool>(),
        proptest::option::of("\\PC{0,20}"),
    )
        .prop_map(|(name, kvm, disks, nets, ports, rngs, vnc, kernel, serial)| Shape {
            name,
            kvm,
            disks,
            nets,
            ports,
            rngs,
            vnc,
            kernel,
            serial,
        })
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.network.taps = vec!["tap*".into()];
    settings
}

/// The domain of a shape, with its images put into `store`.
fn made(shape: &Shape, n: usize, store: &mut Store) -> Domain {
    let mut domain = domain(&format!("{n}{}", shape.name));
    if shape.kvm {
        domain.virt = VirtType::Kvm;
    }
    for (index, (layers, readonly, raw, cache, bus)) in shape.disks.iter().enumerate() {
        let letter = char::from(b'a' + u8::try_from(index).unwrap());
        let path = |depth: usize| format!("{IMAGES}/{n}-{index}-{depth}");
        let layers = if *raw { 1 } else { *layers };
        for depth in 0..layers {
            let below = path(depth + 1);
            store.add(&path(depth), (depth + 1 < layers).then_some((below.as_str(), Some("qcow2"))), !raw);
        }
        let format = if *raw { ImageFormat::Raw } else { ImageFormat::Qcow2 };
        let (prefix, bus) =
            [("vd", DiskBus::Virtio), ("sd", DiskBus::Sata), ("sd", DiskBus::Scsi)][usize::from(*bus)];
        let mut disk = disk(&format!("{prefix}{letter}"), &path(0), format);
        disk.bus = bus;
        // QEMU has no read-only SATA disk.
        let readonly = *readonly && disk.bus != DiskBus::Sata;
        disk.readonly = readonly;
        disk.shareable = *raw && !readonly;
        disk.serial = shape.serial.clone();
        disk.cache = [
            CacheMode::Default,
            CacheMode::Directsync,
            CacheMode::None,
            CacheMode::Unsafe,
            CacheMode::Writeback,
            CacheMode::Writethrough,
        ][usize::from(*cache)];
        domain.devices.disks.push(disk);
    }
    for (index, tap) in shape.nets.iter().enumerate() {
        let backend =
            if *tap { InterfaceBackend::Tap(format!("tap{n}-{index}")) } else { InterfaceBackend::User };
        domain.devices.interfaces.push(Interface {
            backend,
            mac: None,
            mtu: None,
            model: InterfaceModel::Virtio,
            link_down: false,
            boot_order: None,
            address: None,
            line: 3,
        });
    }
    for (index, (kind, log, virtio)) in shape.ports.iter().enumerate() {
        let source = match kind {
            0 => CharSource::Pty,
            1 => CharSource::File { path: format!("/var/log/svirt/{n}-{index}"), append: true },
            _ => CharSource::UnixListen { path: format!("/run/svirt/consoles/{n}-{index}") },
        };
        let log = (*log && *kind != 1).then(|| (format!("/var/log/svirt/{n}-{index}.log"), false));
        let target = if *virtio { CharTarget::VirtioConsole } else { CharTarget::IsaSerial };
        let port = CharDevice { source, target, port: None, log, line: 4 };
        if *virtio { domain.devices.consoles.push(port) } else { domain.devices.serials.push(port) }
    }
    domain.devices.rngs =
        vec![conf::Rng { rate: Some((1024, 1000)), address: None, backend: RngBackend::Builtin }; shape.rngs];
    if shape.vnc {
        let listen = VncListen::Address(std::net::IpAddr::from([127, 0, 0, 1]), None);
        domain.devices.vncs.push(Vnc { listen, password: None, line: 5 });
    }
    if shape.kernel {
        domain.os.boot = Boot::Kernel {
            kernel: "/boot/vmlinuz".into(),
            initrd: Some("/boot/initrd".into()),
            cmdline: Some("console=ttyS0,115200 -device evil".into()),
            dtb: None,
        };
    }
    domain
}

fn planned(domain: &Domain, store: &mut Store, survey: &Survey, seed: u64) -> LaunchPlan {
    let settings = settings();
    let chains: Vec<_> = domain
        .devices
        .disks
        .iter()
        .map(|disk| chain::resolve(disk, 200, &Files::ALL, store).unwrap())
        .collect();
    let inputs = Inputs {
        domain,
        uuid: uuid(u128::from(seed) + 1),
        host: &host(true),
        settings: &settings,
        chains: &chains,
        shares: &[],
        survey,
        seed,
        paused: false,
        restore: None,
    };
    build(&inputs).unwrap()
}

/// The state of a host, as far as plans change it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    uids: BTreeSet<u32>,
    pairs: BTreeSet<String>,
    cgroups: u32,
    open: BTreeSet<String>,
    locks: BTreeSet<String>,
    bound: BTreeSet<String>,
    processes: u32,
    labels: BTreeMap<String, String>,
    /// Slot to inode, and the label that was found there: what the labeller's journal holds.
    files: BTreeMap<String, String>,
    found: Vec<(String, Option<String>)>,
}

impl Model {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::LeaseUid { uid, .. } => assert!(self.uids.insert(*uid)),
            Op::LeaseCategories { pair } | Op::LeaseShare { pair, .. } => {
                assert!(self.pairs.insert(pair.to_string()));
            }
            Op::Cgroup(_) => self.cgroups += 1,
            Op::OpenImage(image) => {
                assert!(self.open.insert(image.slot.to_string()));
                assert!(self.locks.insert(image.slot.to_string()));
                self.files.insert(image.slot.to_string(), image.path.clone());
            }
            Op::OpenSaved { slot, .. } => assert!(self.open.insert(slot.to_string())),
            Op::OpenNvram { slot, path, .. } => {
                assert!(self.open.insert(slot.to_string()) && self.locks.insert(slot.to_string()));
                self.files.insert(slot.to_string(), path.clone());
            }
            Op::MakeTap { slot, .. } => {
                assert!(self.open.insert(slot.to_string()) && self.bound.insert(format!("tap {slot}")));
            }
            Op::OpenReadable { slot, .. }
            | Op::OpenTap { slot, .. }
            | Op::OpenVsock { slot, .. }
            | Op::OpenLog { slot, .. }
            | Op::OpenShare { slot, .. }
            | Op::OpenShmem { slot, .. } => {
                assert!(self.open.insert(slot.to_string()));
            }
            Op::LabelSelinux { slot, label } => {
                let path = self.files[slot.as_str()].clone();
                let before = self.labels.insert(path, label.clone());
                self.found.push((slot.to_string(), before));
            }
            Op::Channel { slot, peer } | Op::Meeting { slot, peer } | Op::Pty { slot, peer } => {
                assert!(self.open.insert(slot.to_string()) && self.open.insert(peer.to_string()));
            }
            Op::Listen { slot, at } => {
                assert!(self.open.insert(slot.to_string()));
                if let ListenAt::Unix { path } = at {
                    assert!(self.bound.insert(path.clone()));
                }
            }
            Op::LoadProfile { .. } => {}
            Op::OpenTpmState { slot, path, .. } => {
                assert!(self.open.insert(slot.to_string()) && self.locks.insert(slot.to_string()));
                self.files.insert(slot.to_string(), path.clone());
            }
            Op::SpawnPasst { .. } | Op::SpawnSwtpm { .. } | Op::SpawnVirtiofsd(_) | Op::Spawn(_) => {
                self.processes += 1
            }
        }
    }

    fn undo(&mut self, undo: &Undo) {
        match undo {
            Undo::ReleaseUid(uid) => assert!(self.processes == 0 && self.uids.remove(uid)),
            Undo::RemoveProfile => {}
            Undo::RemoveShmem(slot) => assert!(self.open.remove(slot.as_str())),
            Undo::Unplug { slot, .. } => {
                assert!(self.open.remove(slot.as_str()) && self.bound.remove(&format!("tap {slot}")));
            }
            Undo::ReleaseCategories(pair) | Undo::ReleaseShare(pair) => {
                assert!(self.pairs.remove(&pair.to_string()));
            }
            Undo::RemoveCgroup => {
                assert_eq!(self.processes, 0, "a cgroup with processes cannot be removed");
                self.cgroups -= 1;
            }
            Undo::Close { slots, locked } => {
                for slot in slots {
                    assert!(self.open.remove(slot.as_str()));
                    assert_eq!(self.locks.remove(slot.as_str()), *locked);
                    self.files.remove(slot.as_str());
                }
            }
            Undo::RestoreLabel(slot) => {
                let (labelled, before) = self.found.pop().unwrap();
                assert_eq!(labelled, slot.as_str());
                assert_eq!(self.processes, 0, "a label goes back once nobody runs under it");
                let path = self.files[slot.as_str()].clone();
                match before {
                    Some(label) => self.labels.insert(path, label),
                    None => self.labels.remove(&path),
                };
            }
            Undo::Unbind { slot, path } => {
                assert!(self.open.remove(slot.as_str()));
                if let Some(path) = path {
                    assert!(self.bound.remove(path));
                }
            }
            Undo::Kill { .. } => self.processes -= 1,
        }
    }
}

fn spawn_of(plan: &LaunchPlan) -> &crate::privsep::op::Spawn {
    match plan.ops.last() {
        Some(Op::Spawn(spawn)) => spawn,
        other => panic!("the plan ends with {other:?}"),
    }
}

/// The operations of a domain that has one of everything.
pub(super) fn everything() -> Vec<Op> {
    let shape = Shape {
        name: "all".into(),
        kvm: false,
        disks: vec![(3, false, false, 0, 0), (1, true, true, 0, 2)],
        nets: vec![false, true],
        ports: vec![(0, true, false), (1, false, false), (2, false, true)],
        rngs: 1,
        vnc: true,
        kernel: true,
        serial: None,
    };
    let mut store = Store::default();
    planned(&made(&shape, 0, &mut store), &mut store, &Survey::default(), 1).ops
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_plan_keeps_the_order_and_is_undone_exactly_from_every_point(shape in shape(), seed: u64) {
        let mut store = Store::default();
        let plan = planned(&made(&shape, 0, &mut store), &mut store, &Survey::default(), seed);
        prop_assert_eq!(order::check(&plan.ops), Ok(()));
        for reached in 0..=plan.ops.len() {
            let mut model = Model::default();
            let before = model.clone();
            plan.ops[..reached].iter().for_each(|op| model.apply(op));
            plan.ops[..reached].iter().rev().for_each(|op| model.undo(&Undo::of(op)));
            prop_assert_eq!(model, before);
        }
    }

    #[test]
    fn a_plan_without_one_operation_or_with_two_swapped_stages_is_refused(shape in shape(), at: usize, other: usize) {
        let mut store = Store::default();
        let mut ops = planned(&made(&shape, 0, &mut store), &mut store, &Survey::default(), 1).ops;
        let (at, other) = (at % ops.len(), other % ops.len());
        if order::stage(&ops[at]) != order::stage(&ops[other]) {
            let mut swapped = ops.clone();
            swapped.swap(at, other);
            prop_assert!(order::check(&swapped).is_err());
        }
        let gone = ops.remove(at);
        // Only these are nobody's precondition.
        let shares = ops.iter().any(|op| matches!(op, Op::LeaseShare { .. }));
        let optional = match gone {
            Op::LabelSelinux { .. } | Op::LeaseShare { .. } | Op::Cgroup(_) => true,
            Op::LeaseCategories { .. } => !shares,
            _ => false,
        };
        prop_assert_eq!(order::check(&ops).is_ok(), optional);
    }

    #[test]
    fn domains_never_share_a_uid_or_a_pair(shapes in proptest::collection::vec(shape(), 2..5), seed: u64) {
        let mut survey = Survey::default();
        let mut store = Store::default();
        let (mut uids, mut pairs) = (HashSet::new(), HashSet::new());
        for (n, shape) in shapes.iter().enumerate() {
            // The same seed for all: what is taken must decide, not luck.
            let plan = planned(&made(shape, n, &mut store), &mut store, &survey, seed);
            for op in &plan.ops {
                match op {
                    Op::LeaseUid { role, uid } => {
                        prop_assert!(uids.insert(*uid));
                        survey.uids.push((*role, *uid));
                    }
                    Op::LeaseCategories { pair } => {
                        prop_assert!(pairs.insert(*pair));
                        survey.pairs.push(*pair);
                    }
                    Op::LeaseShare { identity, pair } => survey.shares.push((identity.clone(), *pair)),
                    _ => {}
                }
            }
            let mut domain = plan.domain.clone();
            domain.uuid = uuid(n as u128 + 1_000_000 + (u128::from(seed) << 64));
            survey.domains.push(DomainStatus { domain, qemu_pid: 1, supervisor_pid: 1, control: String::new() });
        }
    }

    #[test]
    fn what_a_domain_writes_alone_is_locked_and_labelled_for_it_alone(shape in shape(), seed: u64) {
        let mut store = Store::default();
        let plan = planned(&made(&shape, 0, &mut store), &mut store, &Survey::default(), seed);
        let pair = plan.ops.iter().find_map(|op| match op {
            Op::LeaseCategories { pair } => Some(pair.to_string()),
            _ => None,
        }).unwrap();
        let label = |slot: &crate::base::Slot| plan.ops.iter().find_map(|op| match op {
            Op::LabelSelinux { slot: labelled, label } if labelled == slot => Some(label.clone()),
            _ => None,
        });
        for op in &plan.ops {
            let Op::OpenImage(image) = op else { continue };
            let label = label(&image.slot).unwrap();
            prop_assert_eq!(label.ends_with(&format!(":s0:{pair}")), image.sharing == Sharing::Exclusive, "{}", label);
            prop_assert_eq!(image.access == Access::ReadOnly, image.sharing == Sharing::Readers);
        }
    }

    #[test]
    fn every_argument_is_an_option_a_plain_value_or_json_and_names_only_granted_descriptors(shape in shape()) {
        let mut store = Store::default();
        let domain = made(&shape, 0, &mut store);
        let plan = planned(&domain, &mut store, &Survey::default(), 5);
        let spawn = spawn_of(&plan);
        let numbers: HashSet<String> = spawn.fds.iter().map(|grant| grant.number.to_string()).collect();
        let mut arguments = spawn.argv.iter().skip(1).peekable();
        let mut backing = 0;
        while let Some(option) = arguments.next() {
            prop_assert!(option.starts_with('-'), "{option:?} stands where an option must");
            let flag = ["-S", "-no-user-config", "-nodefaults"].contains(&option.as_str());
            let Some(value) = (!flag).then(|| arguments.next().unwrap()) else { continue };
            match option.as_str() {
                "-device" | "-blockdev" | "-netdev" | "-object" => {
                    let value: serde_json::Value = serde_json::from_str(value).unwrap();
                    if option == "-blockdev" && value["driver"] == "qcow2" {
                        prop_assert!(value.get("backing").is_some(), "a qcow2 node must name what lies below or null");
                        backing += 1;
                    }
                    if let Some(name) = value.get("filename") {
                        prop_assert!(name.as_str().unwrap().starts_with("/dev/fdset/"));
                        prop_assert_eq!(&value["locking"], "off");
                    }
                    if let Some(serial) = value.get("serial") {
                        prop_assert_eq!(serial.as_str(), shape.serial.as_deref());
                    }
                }
                "-name" => {
                let name = domain.name.as_str().replace(',', "");
                prop_assert_eq!(value.replace(",,", ""), format!("guest={name},debug-threads=on"));
            }
                "-append" => prop_assert_eq!(value, "console=ttyS0,115200 -device evil"),
                "-add-fd" | "-chardev" => {
                    let fd = value.split(',').find_map(|part| part.strip_prefix("fd=")).unwrap();
                    prop_assert!(numbers.contains(fd));
                }
                _ => prop_assert!(value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=,./".contains(&b)), "{option} {value}"),
            }
        }
        let qcow2: usize = shape.disks.iter().filter(|disk| !disk.2).map(|disk| disk.0).sum();
        prop_assert_eq!(backing, qcow2);
    }

    #[test]
    fn a_plan_survives_the_wire_and_its_text_names_every_operation(shape in shape(), seed: u64) {
        let mut store = Store::default();
        let plan = planned(&made(&shape, 0, &mut store), &mut store, &Survey::default(), seed);
        let json = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(&serde_json::from_str::<LaunchPlan>(&json).unwrap(), &plan);
        let text = render(&plan);
        for (number, op) in (1..).zip(&plan.ops) {
            let line = format!("{number:>4}  {}", op.name());
            prop_assert!(text.contains(&line));
        }
        prop_assert_eq!(text.matches(" undo: ").count(), plan.ops.len());
    }
}

fn refused(change: impl FnOnce(&mut Domain)) -> crate::base::Refusal {
    let mut store = Store::default();
    store.add(&format!("{IMAGES}/a"), None, true);
    store.add(&format!("{IMAGES}/b"), None, false);
    store.add("/etc/shadow", None, false);
    store.add("/usr/share/qemu/iso", None, false);
    let mut domain = domain("d");
    domain.devices.disks.push(disk("vda", &format!("{IMAGES}/a"), ImageFormat::Qcow2));
    change(&mut domain);
    let chains: Vec<_> = domain
        .devices
        .disks
        .iter()
        .map(|disk| chain::resolve(disk, 200, &Files::ALL, &mut store).unwrap())
        .collect();
    let mut host = host(false);
    host.kvm = false;
    let inputs = Inputs {
        domain: &domain,
        uuid: uuid(1),
        host: &host,
        settings: &settings(),
        chains: &chains,
        shares: &[],
        survey: &Survey::default(),
        seed: 1,
        paused: false,
        restore: None,
    };
    let refusal = build(&inputs).unwrap_err().refusal();
    assert!(!refusal.remedy.is_empty(), "{refusal}");
    refusal
}

#[test]
fn a_module_that_is_not_installed_is_named() {
    let mut domain = domain("d");
    domain.devices.spice = Some(Spice { listen: VncListen::None, options: vec![], password: None, line: 8 });
    let mut host = host(false);
    let planned = |host: &crate::conf::facts::HostFacts| {
        let inputs = Inputs {
            domain: &domain,
            uuid: uuid(1),
            host,
            settings: &settings(),
            chains: &[],
            shares: &[],
            survey: &Survey::default(),
            seed: 1,
            paused: false,
            restore: None,
        };
        build(&inputs).map_err(|error| error.refusal().to_string())
    };
    assert!(planned(&host).is_ok());
    host.modules = vec!["accel-tcg-x86_64".into()];
    let refusal = planned(&host).unwrap_err();
    assert!(refusal.contains("ui-spice-core") && refusal.contains("qemu-system-modules-spice"), "{refusal}");
    host.modules.push("ui-spice-core".into());
    assert!(planned(&host).is_ok());
}

#[test]
fn what_cannot_run_is_refused_by_name() {
    let image = |path: &str| Some(testing::source(path, ImageFormat::Raw));
    let cases: Vec<(&str, crate::base::Refusal)> = vec![
        ("/dev/kvm", refused(|d| d.virt = VirtType::Kvm)),
        ("machine type", refused(|d| d.os.machine = "microvm".into())),
        ("machine type", refused(|d| d.os.machine = "q35,accel=kvm".into())),
        ("emulators.allowed", refused(|d| d.devices.emulator = Some("/tmp/qemu".into()))),
        ("/etc/shadow", refused(|d| d.devices.disks[0].source = image("/etc/shadow"))),
        ("only read", refused(|d| d.devices.disks[0].source = image("/usr/share/qemu/iso"))),
        ("two writers", refused(|d| d.devices.disks[0].shareable = true)),
        (
            "read-only in QEMU",
            refused(|d| {
                d.devices.disks[0].target = "sda".into();
                d.devices.disks[0].bus = DiskBus::Sata;
                d.devices.disks[0].readonly = true;
            }),
        ),
        ("io='native'", refused(|d| d.devices.disks[0].io = Some(IoMode::Native))),
        ("io_uring", refused(|d| d.devices.disks[0].io = Some(IoMode::IoUring))),
        (
            "used only once",
            refused(|d| d.devices.disks.push(disk("vdb", &format!("{IMAGES}/a"), ImageFormat::Qcow2))),
        ),
        (
            "network.bridges",
            refused(|d| {
                d.devices.interfaces.push(Interface {
                    backend: InterfaceBackend::Bridge { bridge: "br0".into(), target: None },
                    mac: None,
                    mtu: None,
                    model: InterfaceModel::Virtio,
                    link_down: false,
                    boot_order: None,
                    address: None,
                    line: 1,
                });
            }),
        ),
        (
            "network.taps",
            refused(|d| {
                d.devices.interfaces.push(Interface {
                    backend: InterfaceBackend::Tap("eth0".into()),
                    mac: None,
                    mtu: None,
                    model: InterfaceModel::Virtio,
                    link_down: false,
                    boot_order: None,
                    address: None,
                    line: 1,
                });
            }),
        ),
        (
            "vnc.addresses",
            refused(|d| {
                d.devices.vncs.push(Vnc {
                    listen: VncListen::Address([0, 0, 0, 0].into(), None),
                    password: None,
                    line: 1,
                });
            }),
        ),
        (
            "console.logs",
            refused(|d| {
                let source = CharSource::File { path: "/var/log/svirt/../syslog".into(), append: true };
                d.devices.serials.push(CharDevice {
                    source,
                    target: CharTarget::IsaSerial,
                    port: None,
                    log: None,
                    line: 1,
                });
            }),
        ),
        (
            "images.readable",
            refused(|d| {
                d.os.boot =
                    Boot::Kernel { kernel: "/etc/shadow".into(), initrd: None, cmdline: None, dtb: None };
            }),
        ),
        (
            "selinux",
            refused(|d| {
                d.seclabels.push(SecLabel {
                    model: "selinux".into(),
                    kind: SecLabelKind::Dynamic { baselabel: None },
                    line: 7,
                });
            }),
        ),
        (
            "uids.domains",
            refused(|d| {
                let kind = SecLabelKind::Static { label: "+0:+0".into(), imagelabel: None, relabel: false };
                d.seclabels.push(SecLabel { model: "dac".into(), kind, line: 7 });
            }),
        ),
        ("CPU model", refused(|d| d.cpu.mode = CpuMode::Custom("max,host=1".into()))),
        ("limits.vcpus", refused(|d| d.vcpus = 256)),
        ("currentMemory", refused(|d| (d.current_memory, d.devices.memballoon) = (1, None))),
    ];
    for (word, refusal) in cases {
        assert!(refusal.to_string().contains(word), "{word:?} is not in: {refusal}");
    }
}
