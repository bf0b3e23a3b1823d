#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
use super::*;
use crate::base::{DomainName, DomainRef, DomainUuid};
use crate::privsep::confinement::{
    BpfInsn, Confinement, LandlockAccess, LandlockRule, LandlockSpec, Rlimit, RlimitKind, RootShmem,
    RootSpec, SeccompProgram,
};
use crate::privsep::nvram::own_name;
use crate::privsep::op::{Access, SpawnVirtiofsd};
use crate::privsep::op::{DeviceNode, FdGrant, FileIdentity, ImageKind, Spawn};
use crate::privsep::supervisor::{Lifecycle, LifecycleAction, SupervisorSpec};

fn slot(name: &str) -> Slot {
    Slot::new(name).unwrap()
}

fn spawn_op(settings: &Settings) -> Spawn {
    let program = SeccompProgram(vec![BpfInsn(6, 0, 0, 0)]);
    let action = LifecycleAction::Destroy;
    Spawn {
        program: "/usr/bin/qemu-system-x86_64".into(),
        argv: vec!["qemu".into()],
        env: vec![("LC_ALL".into(), "C".into())],
        fds: vec![FdGrant { slot: slot("monitor"), number: 3 }, FdGrant { slot: slot("disk"), number: 4 }],
        confinement: Confinement {
            uid: settings.uids.domains.first,
            gid: settings.uids.domains.first,
            groups: Vec::new(),
            root: RootSpec { files: vec![], devices: vec![DeviceNode::Null], shares: vec![], shmems: vec![] },
            landlock: LandlockSpec {
                abi: 5,
                rules: vec![
                    LandlockRule { path: "/".into(), access: vec![LandlockAccess::ReadFile] },
                    LandlockRule { path: "/dev/null".into(), access: vec![LandlockAccess::WriteFile] },
                ],
            },
            rlimits: vec![Rlimit { resource: RlimitKind::Core, value: Some(0) }],
            selinux_exec: Some("system_u:system_r:svirt_guest_t:s0:c1,c2".into()),
            seccomp: program.clone(),
        },
        placement: Default::default(),
        supervisor: SupervisorSpec {
            uid: settings.uids.supervisors.first,
            selinux_label: Some("system_u:system_r:svirt_supervisor_t:s0:c1,c2".into()),
            seccomp: program,
            fds: vec![
                FdGrant { slot: slot("monitor.peer"), number: 10 },
                FdGrant { slot: slot("control"), number: 11 },
            ],
            consoles: vec![],
            vncs: vec![],
            start_paused: false,
            incoming: None,
            balloon: None,
            links_down: Vec::new(),
            throttles: Vec::new(),
            lifecycle: Lifecycle { on_poweroff: action, on_reboot: action, on_crash: action },
            clients: vec![1000],
        },
    }
}

fn plan(settings: &Settings) -> LaunchPlan {
    let image = OpenImage {
        slot: slot("disk"),
        path: "/var/lib/svirt/images/a.raw".into(),
        kind: ImageKind::File,
        access: Access::ReadWrite,
        direct: false,
        sharing: Sharing::Exclusive,
        identity: FileIdentity { device: 1, inode: 2 },
    };
    LaunchPlan {
        version: PLAN_VERSION,
        domain: DomainRef { name: DomainName::new("a").unwrap(), uuid: DomainUuid(uuid::Uuid::nil()) },
        notes: vec![],
        ops: vec![
            Op::LeaseUid { role: UidRole::Domain, uid: settings.uids.domains.first },
            Op::LeaseUid { role: UidRole::Supervisor, uid: settings.uids.supervisors.first },
            Op::LeaseCategories { pair: CategoryPair::new(1, 2).unwrap() },
            Op::Cgroup(CgroupLimits {
                memory_max: 1 << 30,
                pids_max: 64,
                devices: vec![],
                cpus: vec![],
                cpu_max: None,
                tuning: Default::default(),
            }),
            Op::OpenImage(image),
            Op::LabelSelinux {
                slot: slot("disk"),
                label: "system_u:object_r:svirt_guest_image_t:s0:c1,c2".into(),
            },
            Op::Channel { slot: slot("monitor"), peer: slot("monitor.peer") },
            Op::Listen { slot: slot("control"), at: ListenAt::Control },
            Op::Spawn(Box::new(spawn_op(settings))),
        ],
    }
}

/// Changes the good plan and says which operation is refused.
fn refused(change: impl FnOnce(&mut LaunchPlan)) -> Option<usize> {
    let settings = Settings::default();
    let mut plan = plan(&settings);
    change(&mut plan);
    let not = check(&plan, &settings, true).unwrap_err();
    assert!(!not.refusal.rule.is_empty());
    not.op
}

fn last(plan: &mut LaunchPlan) -> &mut Spawn {
    match plan.ops.last_mut().unwrap() {
        Op::Spawn(spawn) => spawn,
        _ => panic!("the last operation is the spawn"),
    }
}

#[test]
fn the_good_plan_is_admitted() {
    let settings = Settings::default();
    assert_eq!(check(&plan(&settings), &settings, true), Ok(()));
}

#[test]
fn the_whole_plan_is_refused() {
    assert_eq!(refused(|plan| plan.version = 2), None);
    assert_eq!(refused(|plan| plan.ops.swap(0, 4)), None);
    assert_eq!(refused(|plan| drop(plan.ops.remove(3))), None);
    assert_eq!(refused(|plan| drop(plan.ops.pop())), None);
}

#[test]
fn uids_stay_in_the_range_of_their_role() {
    for uid in [0, 1000, 1_900_000_000] {
        let change = |plan: &mut LaunchPlan| {
            plan.ops[0] = Op::LeaseUid { role: UidRole::Domain, uid };
            last(plan).confinement.uid = uid;
            last(plan).confinement.gid = uid;
        };
        assert_eq!(refused(change), Some(0));
    }
}

#[test]
fn labels_are_of_known_types_and_have_the_leased_pair() {
    for label in [
        "system_u:object_r:svirt_guest_image_t:s0:c1,c3",
        "system_u:object_r:svirt_guest_image_t:s0",
        "system_u:object_r:svirt_guest_image_t:s0-s0:c0.c1023",
        "system_u:object_r:shadow_t:s0:c1,c2",
        "system_u:object_r:svirt_guest_content_t:s0",
        "root:object_r:svirt_guest_image_t:s0:c1,c2",
        "nonsense",
    ] {
        let change = |plan: &mut LaunchPlan| {
            plan.ops[5] = Op::LabelSelinux { slot: slot("disk"), label: label.into() };
        };
        assert_eq!(refused(change), Some(5), "{label}");
    }
    for label in ["system_u:system_r:unconfined_t:s0:c1,c2", "system_u:system_r:svirt_guest_t:s0", "x"] {
        assert_eq!(
            refused(|plan| last(plan).confinement.selinux_exec = Some(label.into())),
            Some(8),
            "{label}"
        );
    }
    assert_eq!(refused(|plan| last(plan).confinement.selinux_exec = None), Some(8));
    assert_eq!(refused(|plan| last(plan).supervisor.selinux_label = None), Some(8));
}

#[test]
fn content_is_read_only() {
    let settings = Settings::default();
    let mut plan = plan(&settings);
    if let Op::OpenImage(image) = &mut plan.ops[4] {
        (image.access, image.sharing) = (Access::ReadOnly, Sharing::Readers);
    }
    let label = "system_u:object_r:svirt_guest_content_t:s0".into();
    plan.ops[5] = Op::LabelSelinux { slot: slot("disk"), label };
    assert_eq!(check(&plan, &settings, true), Ok(()));
}

#[test]
fn a_shareable_image_has_the_pair_that_its_domains_share() {
    let settings = Settings::default();
    let made = |label: &str, guest: &str, shared_inode: u64| {
        let mut plan = plan(&settings);
        if let Op::OpenImage(image) = &mut plan.ops[4] {
            image.sharing = Sharing::Writers;
        }
        let label = format!("system_u:object_r:svirt_guest_image_t:{label}");
        plan.ops[5] = Op::LabelSelinux { slot: slot("disk"), label };
        let identity = FileIdentity { device: 1, inode: shared_inode };
        plan.ops
            .insert(3, Op::LeaseShare { identity: identity.into(), pair: CategoryPair::new(8, 9).unwrap() });
        last(&mut plan).confinement.selinux_exec = Some(format!("system_u:system_r:svirt_guest_t:{guest}"));
        last(&mut plan).supervisor.selinux_label =
            Some(format!("system_u:system_r:svirt_supervisor_t:{guest}"));
        check(&plan, &settings, true).map_err(|not| not.op)
    };
    assert_eq!(made("s0:c8,c9", "s0:c1,c2,c8,c9", 2), Ok(()));
    // Everybody's, the domain's own, and both.
    for label in ["s0", "s0:c1,c2", "s0:c1,c2,c8,c9"] {
        assert_eq!(made(label, "s0:c1,c2,c8,c9", 2), Err(Some(6)), "{label}");
    }
    assert_eq!(made("s0:c8,c9", "s0:c1,c2", 2), Err(Some(9)), "it could not use it");
    assert_eq!(made("s0:c8,c9", "s0:c1,c2,c8,c9", 3), Err(None), "a share of nothing that it opens");
}

#[test]
fn a_directory_has_a_pair_that_its_server_alone_has_besides_the_domains() {
    let settings = Settings::default();
    let made = |label: &str, server: &str, guest: &str, leased_inode: u64| {
        let mut plan = plan(&settings);
        let identity = FileIdentity { device: 1, inode: 70 };
        let share = slot("fs0.share");
        let context = |kind: &str, range: &str| format!("system_u:system_r:{kind}:{range}");
        last(&mut plan).confinement.selinux_exec = Some(context("svirt_guest_t", guest));
        last(&mut plan).fds.push(FdGrant { slot: slot("fs0"), number: 40 });
        let uid = settings.uids.helpers.first;
        let at = plan.ops.len() - 1;
        plan.ops.insert(
            at,
            Op::SpawnVirtiofsd(Box::new(SpawnVirtiofsd {
                alias: "fs0".into(),
                slot: slot("fs0.peer"),
                share: share.clone(),
                uid,
                program: settings.shares.virtiofsd[0].clone(),
                cache: None,
                xattr: false,
                posix_lock: false,
                flock: false,
                threads: None,
                selinux_label: Some(context("svirt_virtiofsd_t", server)),
            })),
        );
        plan.ops.insert(6, Op::Meeting { slot: slot("fs0"), peer: slot("fs0.peer") });
        plan.ops.insert(6, Op::LabelSelinux { slot: share.clone(), label: label.into() });
        let path = "/var/lib/svirt/shares/a".into();
        plan.ops.insert(5, Op::OpenShare { slot: share, path, access: Access::ReadWrite, identity });
        let leased = FileIdentity { device: 1, inode: leased_inode };
        plan.ops
            .insert(3, Op::LeaseShare { identity: leased.into(), pair: CategoryPair::new(8, 9).unwrap() });
        plan.ops.insert(0, Op::LeaseUid { role: UidRole::Helper, uid });
        check(&plan, &settings, true).map_err(|not| not.op.map(|at| plan.ops[at].name()))
    };
    let (own, both) = ("s0:c1,c2", "s0:c1,c2,c8,c9");
    let good = "system_u:object_r:svirt_share_t:s0:c8,c9";
    assert_eq!(made(good, both, own, 70), Ok(()));
    for label in
        ["svirt_share_t:s0", "svirt_share_t:s0:c1,c2", "svirt_guest_image_t:s0:c8,c9", "etc_t:s0:c8,c9"]
    {
        let label = format!("system_u:object_r:{label}");
        assert_eq!(made(&label, both, own, 70), Err(Some("label-selinux")), "{label}");
    }
    assert_eq!(made(good, own, own, 70), Err(Some("spawn-virtiofsd")), "it could not serve it");
    assert_eq!(made(good, both, both, 70), Err(Some("spawn")), "the device model has no part in it");
    assert_eq!(made(good, both, own, 71), Err(None), "a share of nothing that it opens");
}

#[test]
fn memory_is_made_with_a_pair_that_its_domains_have_besides_theirs() {
    let settings = Settings::default();
    let made = |label: Option<&str>, guest: &str, leased: &str, selinux: bool| {
        let mut plan = plan(&settings);
        let context = |kind: &str| format!("system_u:system_r:{kind}:{guest}");
        let shmem = slot("shmem0.memory");
        last(&mut plan).confinement.selinux_exec = Some(context("svirt_guest_t"));
        last(&mut plan).supervisor.selinux_label = Some(context("svirt_supervisor_t"));
        last(&mut plan).confinement.root.shmems = vec![RootShmem { slot: shmem.clone(), number: 0 }];
        let selinux_label = label.map(|label| format!("system_u:object_r:{label}"));
        let (name, size) = ("exchange".into(), 1 << 20);
        plan.ops.insert(5, Op::OpenShmem { slot: shmem, name, size, selinux_label });
        let identity = ShareIdentity::memory(leased);
        plan.ops.insert(3, Op::LeaseShare { identity, pair: CategoryPair::new(8, 9).unwrap() });
        check(&plan, &settings, selinux).map_err(|not| not.op.map(|at| plan.ops[at].name()))
    };
    let (both, good) = ("s0:c1,c2,c8,c9", Some("svirt_shmem_t:s0:c8,c9"));
    assert_eq!(made(good, both, "exchange", true), Ok(()));
    for label in ["svirt_shmem_t:s0", "svirt_shmem_t:s0:c1,c2", "svirt_share_t:s0:c8,c9", "etc_t:s0:c8,c9"] {
        assert_eq!(made(Some(label), both, "exchange", true), Err(Some("open-shmem")), "{label}");
    }
    assert_eq!(made(None, both, "exchange", true), Err(Some("open-shmem")), "every domain could open it");
    assert_eq!(made(good, "s0:c1,c2", "exchange", true), Err(Some("spawn")), "it could not open it");
    assert_eq!(made(good, both, "other", true), Err(None), "a share of nothing that it opens");
}

#[test]
fn what_is_only_read_is_labelled_as_content() {
    let settings = Settings::default();
    let made = |label: &str| {
        let mut plan = plan(&settings);
        plan.ops.insert(
            5,
            Op::OpenReadable { slot: slot("boot:kernel"), path: "/var/lib/svirt/images/k".into() },
        );
        plan.ops.insert(6, Op::LabelSelinux { slot: slot("boot:kernel"), label: label.into() });
        last(&mut plan).confinement.root.files = vec![crate::privsep::confinement::RootFile {
            slot: slot("boot:kernel"),
            place: crate::privsep::confinement::RootPlace::Kernel,
        }];
        check(&plan, &settings, true).map_err(|not| not.op)
    };
    assert_eq!(made("system_u:object_r:svirt_guest_content_t:s0"), Ok(()));
    for label in
        ["system_u:object_r:svirt_guest_content_t:s0:c1,c2", "system_u:object_r:svirt_guest_image_t:s0:c1,c2"]
    {
        assert_eq!(made(label), Err(Some(6)), "{label}");
    }
}

#[test]
fn what_a_guest_goes_on_from_is_labelled_as_its_save() {
    use crate::privsep::save::Restore;

    let settings = Settings::default();
    let made = |label: &str| {
        let mut plan = plan(&settings);
        let identity = FileIdentity { device: 1, inode: 3 };
        let at = SavedAt::Managed { uuid: plan.domain.uuid };
        let saved = Restore { at, identity, bytes: 1 };
        plan.ops.insert(5, Op::OpenSaved { slot: slot("saved"), saved });
        plan.ops.insert(7, Op::LabelSelinux { slot: slot("saved"), label: label.into() });
        last(&mut plan).fds.push(FdGrant { slot: slot("saved"), number: 40 });
        check(&plan, &settings, true).map_err(|not| not.op)
    };
    assert_eq!(made("system_u:object_r:svirt_guest_save_t:s0:c1,c2"), Ok(()));
    for label in ["svirt_guest_image_t:s0:c1,c2", "svirt_guest_save_t:s0", "svirt_guest_save_t:s0:c1,c3"] {
        assert_eq!(made(&format!("system_u:object_r:{label}")), Err(Some(7)), "{label}");
    }
}

#[test]
fn a_label_without_selinux_is_refused() {
    let settings = Settings::default();
    assert_eq!(check(&plan(&settings), &settings, false).unwrap_err().op, Some(8));
}

#[test]
fn a_domain_has_one_store_of_uefi_variables() {
    let settings = Settings::default();
    let made = |count: usize| {
        let mut plan = plan(&settings);
        for at in 0..count {
            let (slot, template) = (slot(&format!("vars{at}")), slot(&format!("template{at}")));
            let path = "/usr/share/OVMF/OVMF_VARS_4M.fd".into();
            plan.ops.insert(5, Op::OpenReadable { slot: template.clone(), path });
            let path = format!("/var/lib/svirt/nvram/{at}.fd");
            plan.ops.insert(6, Op::OpenNvram { slot: slot.clone(), path, template });
            let number = 20 + i32::try_from(at).unwrap();
            last(&mut plan).fds.push(FdGrant { slot, number });
        }
        check(&plan, &settings, true).map_err(|not| (not.op, not.refusal.object))
    };
    assert_eq!(made(1), Ok(()));
    assert_eq!(made(2), Err((None, "open-nvram".into())));
}

#[test]
fn another_domains_uefi_variables_are_refused_by_their_name() {
    let settings = Settings::default();
    let named = |uuid: DomainUuid| {
        let mut plan = plan(&settings);
        let (slot, template) = (slot("vars"), slot("template"));
        let path = "/usr/share/OVMF/OVMF_VARS_4M.fd".into();
        plan.ops.insert(5, Op::OpenReadable { slot: template.clone(), path });
        let path = format!("/var/lib/svirt/nvram/{}", own_name(uuid));
        plan.ops.insert(6, Op::OpenNvram { slot: slot.clone(), path, template });
        last(&mut plan).fds.push(FdGrant { slot, number: 20 });
        check(&plan, &settings, true).map_err(|not| (not.op, not.refusal.rule))
    };
    assert_eq!(named(plan(&settings).domain.uuid), Ok(()));
    let refused = named(DomainUuid(uuid::Uuid::from_u128(u128::MAX))).unwrap_err();
    assert_eq!(refused, (Some(6), "by its name it is another domain's".into()));
}

#[test]
fn the_ceiling_holds() {
    assert_eq!(refused(|plan| last(plan).program = "/bin/sh".into()), Some(8));
    assert_eq!(refused(|plan| last(plan).argv.clear()), Some(8));
    assert_eq!(refused(|plan| last(plan).argv.push("a\0b".into())), Some(8));
    assert_eq!(refused(|plan| last(plan).argv.push("x".repeat(2 << 20))), Some(8));
    assert_eq!(refused(|plan| last(plan).env.push(("LD_PRELOAD".into(), "/x".into()))), Some(8));
    assert_eq!(refused(|plan| last(plan).confinement.seccomp.0.clear()), Some(8));
    assert_eq!(refused(|plan| last(plan).supervisor.seccomp.0.clear()), Some(8));
    assert_eq!(
        refused(|plan| last(plan).confinement.landlock.rules[0].access.push(LandlockAccess::WriteFile)),
        Some(8)
    );
    assert_eq!(refused(|plan| last(plan).confinement.rlimits[0].value = None), Some(8));
    assert_eq!(refused(|plan| last(plan).supervisor.clients.push(1_910_000_000)), Some(8));
    let memory = CgroupLimits {
        memory_max: 1 << 40,
        pids_max: 1 << 40,
        devices: vec![],
        cpus: vec![],
        cpu_max: None,
        tuning: Default::default(),
    };
    assert_eq!(refused(|plan| plan.ops[3] = Op::Cgroup(memory)), Some(3));
}

#[test]
fn what_the_host_keeps_is_kept_by_the_labeller_too() {
    let mut settings = Settings::default();
    let made = |cpus: &[u32], settings: &Settings| {
        let mut plan = plan(settings);
        let limits = CgroupLimits {
            memory_max: 1 << 30,
            pids_max: 64,
            devices: vec![],
            cpus: cpus.to_vec(),
            cpu_max: None,
            tuning: Default::default(),
        };
        plan.ops[3] = Op::Cgroup(limits);
        check(&plan, settings, true).map_err(|not| not.op)
    };
    assert_eq!((made(&[], &settings), made(&[0, 3], &settings)), (Ok(()), Ok(())));
    settings.host.cpus = 2;
    assert_eq!(made(&[2, 3], &settings), Ok(()));
    for cpus in [&[][..], &[1, 2], &[3, 2], &[2, 2]] {
        assert_eq!(made(cpus, &settings), Err(Some(3)), "{cpus:?}");
    }
    let core = |settings: &Settings| {
        let mut plan = plan(settings);
        last(&mut plan).confinement.rlimits[0].value = None;
        check(&plan, settings, true).map_err(|not| not.op)
    };
    settings.host.cpus = 0;
    assert_eq!(core(&settings), Err(Some(8)), "a core dump holds the guest's memory");
    settings.host.enable_dump = true;
    assert_eq!(core(&settings), Ok(()));
}

#[test]
fn links_are_those_of_network_interfaces() {
    let down = |aliases: &[&str]| {
        refused(|plan| {
            last(plan).supervisor.links_down = aliases.iter().map(|one| (*one).to_owned()).collect()
        })
    };
    let settings = Settings::default();
    let mut good = plan(&settings);
    last(&mut good).supervisor.links_down = vec!["net0".into(), "net12".into()];
    assert!(check(&good, &settings, true).is_ok());
    for bad in [&["net"][..], &["vda"], &["net0", "net1x"], &["net0"; 1025]] {
        assert_eq!(down(bad), Some(8), "{bad:?}");
    }
}

#[test]
fn listening_is_for_listed_addresses() {
    let tcp = |address: &str, port, port_last| Op::Listen {
        slot: slot("vnc"),
        at: ListenAt::Tcp { address: address.parse().unwrap(), port, port_last },
    };
    for op in [tcp("0.0.0.0", 5900, 5900), tcp("127.0.0.1", 22, 22), tcp("127.0.0.1", 5902, 5901)] {
        let change = |plan: &mut LaunchPlan| {
            plan.ops.insert(8, op);
            last(plan).supervisor.fds.push(FdGrant { slot: slot("vnc"), number: 12 });
        };
        assert_eq!(refused(change), Some(8));
    }
    let tap = Op::OpenTap { slot: slot("tap"), interface: "tap0".into() };
    let change = |plan: &mut LaunchPlan| {
        plan.ops.insert(5, tap);
        last(plan).fds.push(FdGrant { slot: slot("tap"), number: 12 });
    };
    assert_eq!(refused(change), Some(5));
}

#[test]
fn a_tap_is_made_on_a_listed_bridge_under_an_own_name() {
    let tap = |bridge: &str, name: &str, first: u8, mtu| Op::MakeTap {
        slot: slot("tap"),
        bridge: bridge.into(),
        name: name.into(),
        mac: [first, 0x54, 0, 1, 2, 3],
        mtu,
    };
    let with = |op: Op| {
        move |plan: &mut LaunchPlan| {
            plan.ops.insert(5, op);
            last(plan).fds.push(FdGrant { slot: slot("tap"), number: 12 });
        }
    };
    let settings = Settings::default();
    let mut good = plan(&settings);
    with(tap("virbr0", "vnet%d", 0xfe, Some(9000)))(&mut good);
    assert_eq!(check(&good, &settings, true), Ok(()));
    for op in [
        tap("br0", "vnet%d", 0xfe, None),
        tap("virbr0/../eth0", "vnet%d", 0xfe, None),
        tap("virbr0", "eth0", 0xfe, None),
        tap("virbr0", "eth%d", 0xfe, None),
        tap("virbr0", "vnet%d", 0x52, None),
        tap("virbr0", "vnet%d", 0xfe, Some(67)),
    ] {
        assert_eq!(refused(with(op.clone())), Some(5), "{op:?}");
    }
}
