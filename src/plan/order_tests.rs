//! The order rules against one whole plan, broken in one place each.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use super::props::everything;
use crate::base::Slot;
use crate::privsep::op::{FdGrant, Op, Spawn, UidRole};
use crate::privsep::order::{self, OrderError};

fn slot(name: &str) -> Slot {
    Slot::new(name).unwrap()
}

fn broken(change: impl FnOnce(&mut Vec<Op>)) -> OrderError {
    let mut ops = everything();
    assert_eq!(order::check(&ops), Ok(()));
    change(&mut ops);
    order::check(&ops).unwrap_err()
}

fn spawn(change: impl FnOnce(&mut Spawn)) -> OrderError {
    broken(|ops| match ops.last_mut() {
        Some(Op::Spawn(spawn)) => change(spawn),
        other => panic!("{other:?}"),
    })
}

#[test]
fn the_end_is_one_spawn() {
    assert_eq!(order::check(&[]), Err(OrderError::NoSpawn));
    assert_eq!(broken(|ops| drop(ops.pop())), OrderError::NoSpawn);
    let twice = broken(|ops| ops.push(ops.last().unwrap().clone()));
    assert!(matches!(twice, OrderError::Twice { .. } | OrderError::UidReused { .. }), "{twice}");
    let many = broken(|ops| {
        let first = ops[0].clone();
        ops.splice(0..0, std::iter::repeat_n(first, order::OPS_MAX));
    });
    assert!(matches!(many, OrderError::TooMany(_)));
}

#[test]
fn what_there_is_one_of_does_not_come_twice() {
    for name in ["lease-categories", "cgroup"] {
        let error = broken(|ops| {
            let at = ops.iter().position(|op| op.name() == name).unwrap();
            ops.insert(at, ops[at].clone());
        });
        assert!(matches!(error, OrderError::Twice { .. }), "{name}: {error}");
    }
    for name in ["open-image", "channel", "listen", "label-selinux", "lease-uid"] {
        let error = broken(|ops| {
            let at = ops.iter().position(|op| op.name() == name).unwrap();
            ops.insert(at, ops[at].clone());
        });
        assert!(
            matches!(error, OrderError::SlotReused { .. } | OrderError::UidReused { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn descriptors_go_where_they_may_and_once() {
    let number = |number| spawn(|s| s.fds[0].number = number);
    assert_eq!(number(2), OrderError::Number(2));
    assert_eq!(number(-1), OrderError::Number(-1));
    assert!(matches!(spawn(|s| s.fds[1].number = s.fds[0].number), OrderError::Number(_)));
    assert_eq!(spawn(|s| s.supervisor.fds[0].number = 9), OrderError::Number(9));
    assert!(matches!(spawn(|s| s.fds[1].slot = s.fds[0].slot.clone()), OrderError::SlotReused { .. }));
    let given = |name: &str| spawn(|s| s.fds.push(FdGrant { slot: slot(name), number: 999 }));
    // The other end of the monitor, a listener and a boot file are not QEMU's; an unknown one is nobody's.
    for name in ["monitor.peer", "control", "boot:kernel", "nothing"] {
        let error = given(name);
        assert!(
            matches!(error, OrderError::SlotUnknown { .. } | OrderError::SlotReused { .. }),
            "{name}: {error}"
        );
    }
    let image = spawn(|s| {
        let grant = s.fds.iter().position(|grant| grant.slot.as_str().starts_with("disk:")).unwrap();
        let slot = s.fds.remove(grant).slot;
        s.supervisor.fds.push(FdGrant { slot, number: 999 });
    });
    assert!(matches!(image, OrderError::SlotUnknown { .. }), "an image went to the supervisor: {image}");
    assert!(matches!(spawn(|s| drop(s.fds.pop())), OrderError::SlotUnused(_)));
}

#[test]
fn a_supervisor_has_its_monitor_its_control_socket_and_what_its_consoles_name() {
    for name in ["monitor.peer", "control"] {
        let error = spawn(|s| s.supervisor.fds.retain(|grant| grant.slot.as_str() != name));
        assert_eq!(error, OrderError::SlotUnknown { at: everything().len() - 1, slot: slot(name) });
    }
    assert!(matches!(
        spawn(|s| s.supervisor.consoles[0].channel = slot("monitor")),
        OrderError::SlotUnknown { .. }
    ));
    assert!(matches!(spawn(|s| s.supervisor.vncs[0].listen = slot("x")), OrderError::SlotUnknown { .. }));
}

#[test]
fn processes_run_under_the_uid_that_is_leased_for_them() {
    for error in [
        spawn(|s| s.confinement.uid = 0),
        spawn(|s| s.confinement.gid = 0),
        // A group is for /dev/kvm alone, and there is one.
        spawn(|s| {
            s.confinement.root.devices.clear();
            s.confinement.groups = vec![108];
        }),
        spawn(|s| s.confinement.groups = vec![108, 0]),
        spawn(|s| s.confinement.uid = s.supervisor.uid),
        spawn(|s| s.supervisor.uid = s.confinement.uid),
        broken(|ops| {
            for op in ops {
                if let Op::LeaseUid { role: role @ UidRole::Helper, .. } = op {
                    *role = UidRole::Domain;
                }
            }
        }),
    ] {
        assert!(matches!(error, OrderError::UidUnleased { .. }), "{error}");
    }
}

#[test]
fn only_images_and_what_is_read_are_labelled() {
    for name in ["monitor", "nothing", "net0"] {
        let error = broken(|ops| {
            let labelled = ops.iter_mut().find_map(|op| match op {
                Op::LabelSelinux { slot, .. } => Some(slot),
                _ => None,
            });
            *labelled.unwrap() = slot(name);
        });
        assert!(matches!(error, OrderError::SlotUnknown { .. }), "{name}: {error}");
    }
}
