//! A start that fails or is killed at every single step, and processes that are killed while a domain runs:
//! everything is as it was before. Needs root.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used, missing_docs)]

mod labeller_rig;

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use labeller_rig::{Rig, eventually, possible, rule, slot};
use svirt::driver::Labeller;
use svirt::privsep::op::{LaunchPlan, Op, UidRole};
use svirt::privsep::plug::{Gone, Plug, PlugSteps, SetGrant, Top};
use svirt::sys::pidfd;

/// More steps than a start of the rig's plan has.
const STEPS_MAX: usize = 200;

fn walk(kind: &str) {
    if !possible() || !cfg!(debug_assertions) {
        println!("skipped: needs root, QEMU and a debug build");
        return;
    }
    let mut rig = Rig::bridged();
    let image = rig.image("a.raw");
    rig.set_label(&image, "system_u:object_r:was_t:s0");
    std::fs::write(rig.path("log/1.log"), "as it was").unwrap();
    rig.serve("");
    rig.end_labeller("-TERM");
    let before = rig.snapshot();
    let mut plan = rig.plan(1, &image);
    rig.share(1, &mut plan);
    rig.shmem(&mut plan);
    for step in 0..STEPS_MAX {
        rig.serve(&format!("{kind}:{step}"));
        assert!(!rig.labeller_is_dead(), "step {step}: nothing was asked yet");
        let started = rig.client().start(plan.clone());
        if kind == "kill" && started.is_err() {
            eventually("the labeller is dead", || rig.labeller_is_dead());
            rig.labeller = None;
            rig.serve("");
        }
        rig.assert_nothing_leased_unless(started.is_ok());
        if started.is_ok() {
            assert!(step >= 30, "only {step} steps were walked");
            return;
        }
        assert_eq!(before, rig.snapshot(), "{kind} at step {step}: {}", rule(&started.unwrap_err()));
        rig.end_labeller("-TERM");
    }
    panic!("no start succeeded");
}

#[test]
fn a_failure_at_any_step_leaves_everything_as_it_was() {
    walk("fail");
}

#[test]
fn a_killed_labeller_at_any_step_leaves_everything_as_it_was() {
    walk("kill");
}

#[test]
fn killed_processes_of_a_running_domain() {
    if !possible() {
        return;
    }
    let mut rig = Rig::bridged();
    let image = rig.image("a.raw");
    rig.set_label(&image, "system_u:object_r:was_t:s0");
    rig.serve("");
    let before = rig.snapshot();
    let plan = rig.plan(1, &image);
    let uuid = plan.domain.uuid;
    let kill = |pid: i32| {
        assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success())
    };
    let first = rig.client().start(plan).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));

    // The supervisor: another one takes the monitor over, the guest goes on.
    kill(first.supervisor_pid);
    let status = |rig: &Rig| rig.client().describe(uuid).unwrap().status;
    eventually("a replacement", || {
        let now = status(&rig).supervisor_pid;
        now != 0 && now != first.supervisor_pid
    });
    assert_eq!(status(&rig).qemu_pid, first.qemu_pid);

    // The labeller: the next one finds both, and can still replace the supervisor.
    let second = status(&rig).supervisor_pid;
    rig.end_labeller("-KILL");
    rig.serve("");
    assert_eq!(
        (status(&rig).qemu_pid, status(&rig).supervisor_pid),
        (first.qemu_pid, second),
        "{}",
        rig.log()
    );
    let survey = rig.client().survey().unwrap();
    assert_eq!((survey.uids.len(), survey.pairs.len()), (2, 1));
    assert!(rule(&rig.client().start(rig.plan(2, &image)).unwrap_err()).contains("in use by domain vm1"));
    kill(second);
    eventually("another replacement", || {
        let now = status(&rig).supervisor_pid;
        now != 0 && now != second
    });

    // The device model: everything is taken back.
    kill(first.qemu_pid);
    eventually("the end", || rig.client().describe(uuid).is_err());
    let log = rig.path("log/1.log");
    let (mut before, mut after) = (before, rig.snapshot());
    assert!(after.without(&log));
    before.without(&log);
    assert_eq!(before, after);
    rig.assert_nothing_leased();

    // All at once.
    let started =
        rig.client().start(rig.plan(1, &image)).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    rig.end_labeller("-KILL");
    kill(started.supervisor_pid);
    kill(started.qemu_pid);
    rig.serve("");
    // The device model may have been dying still when the labeller looked; then it is undone a moment later.
    eventually("everything is taken back", || {
        let mut after = rig.snapshot();
        after.without(&log);
        after == before
    });
    rig.assert_nothing_leased();
    assert!(pidfd::of_uid(rig.settings.uids.domains.first + 1).unwrap().is_empty());
}

#[test]
fn a_file_with_the_number_of_a_log_that_was_replaced_is_anybodys() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("a.raw");
    std::fs::write(rig.path("log/1.log"), "as it was").unwrap();
    let number = |path: &std::path::Path| std::fs::metadata(path).unwrap().ino();
    let replaced = number(&rig.path("log/1.log"));
    rig.serve("");
    rig.client().start(rig.plan(1, &image)).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    assert_ne!(number(&rig.path("log/1.log")), replaced);
    let mut new = (0..2000).map(|n| {
        let path = rig.path(&format!("log/new{n}"));
        std::fs::write(&path, "").unwrap();
        path
    });
    let Some(same) = new.find(|path| number(path) == replaced) else {
        println!("skipped: this file system gives no inode number anew");
        return;
    };
    std::fs::rename(same, rig.path("images/same.raw")).unwrap();
    let same = rig.image("same.raw");
    assert_eq!(number(&same), replaced);
    for _ in 0..2 {
        rig.client().start(rig.plan(2, &same)).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
        rig.client().kill(rig.plan(2, &same).domain.uuid).unwrap();
        rig.end_labeller("-KILL");
        rig.serve("");
    }
}

const WAS: &str = "system_u:object_r:was_t:s0";

/// A machine that takes USB devices in and lets them go without asking its guest.
fn with_usb(mut plan: LaunchPlan) -> LaunchPlan {
    if let Some(Op::Spawn(spawn)) = plan.ops.last_mut() {
        spawn.argv[2] = "pc".into();
        spawn.argv.push("-usb".into());
    }
    plan
}

/// The image and label of another plan, plugged in as a USB disk.
fn plug_of(plan: &LaunchPlan, other: &LaunchPlan) -> Plug {
    let label = plan.ops.iter().find(|op| matches!(op, Op::LabelSelinux { .. })).unwrap().clone();
    let open = other.ops.iter().find(|op| matches!(op, Op::OpenImage(_))).unwrap().clone();
    let node = r#"{"driver":"file","node-name":"sdb-0-format","filename":"/dev/fdset/9","locking":"off"}"#;
    let object = r#"{"driver":"usb-storage","id":"usb-disk1","drive":"sdb-0-format"}"#;
    let alias = String::from("usb-disk1");
    let steps = PlugSteps {
        alias: alias.clone(),
        sets: vec![SetGrant { slot: slot("disk"), set: 9 }],
        nodes: vec![node.into()],
        top: Top::Device { object: object.into() },
    };
    Plug { alias, ops: vec![open, label], steps, note: String::new() }
}

/// A plug that fails, or whose labeller is killed, at every step: the guest goes on, and nothing of the plug stays.
fn walk_plug(kind: &str) {
    if !possible() || !cfg!(debug_assertions) {
        println!("skipped: needs root, QEMU and a debug build");
        return;
    }
    let mut rig = Rig::new();
    let (image, second) = (rig.image("a.raw"), rig.image("b.raw"));
    rig.set_label(&second, WAS);
    rig.serve("");
    let plan = with_usb(rig.plan(1, &image));
    let (uuid, plug) = (plan.domain.uuid, plug_of(&plan, &rig.plan(2, &second)));
    let started = rig.client().start(plan).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    for step in 0..STEPS_MAX {
        rig.end_labeller("-KILL");
        rig.serve(&format!("{kind}:{step}"));
        let mut done = false;
        eventually("an outcome", || {
            if rig.labeller_is_dead() {
                return true;
            }
            let outcome = Labeller::connect(&rig.settings).and_then(|mut it| it.plug(uuid, plug.clone()));
            done = outcome.is_ok();
            // The one that was cut short before may be on its way out still.
            done || kind == "fail"
        });
        if !done && kind == "kill" {
            rig.labeller = None;
            rig.serve("");
        }
        let plugs = |rig: &Rig| rig.client().describe(uuid).unwrap().plugs.len();
        if done {
            assert!(step >= 8, "only {step} steps were walked");
            assert_eq!((plugs(&rig), rig.label(&second).as_deref() != Some(WAS)), (1, true));
            // The next labeller knows it, and gives back what it held.
            rig.end_labeller("-KILL");
            rig.serve("");
            assert_eq!(plugs(&rig), 1);
            assert!(rule(&rig.client().start(rig.plan(2, &second)).unwrap_err()).contains("in use by"));
            let which = Gone { alias: "usb-disk1".into(), medium: false };
            assert!(rig.client().unplug(uuid, which, false).unwrap());
            assert_eq!((plugs(&rig), rig.label(&second).as_deref()), (0, Some(WAS)));
            rig.client().start(rig.plan(2, &second)).unwrap_or_else(|e| panic!("{}", rule(&e)));
            return;
        }
        // Once it was noted that it is there, it stays, though nobody was told.
        let is_back = || rig.label(&second).as_deref() == Some(WAS);
        eventually("it is taken back, or there", || (plugs(&rig) == 1) != is_back());
        if plugs(&rig) == 1 {
            let which = Gone { alias: "usb-disk1".into(), medium: false };
            assert!(kind == "kill" && rig.client().unplug(uuid, which, false).unwrap());
            assert!(is_back());
        }
        assert_eq!(rig.client().describe(uuid).unwrap().status.qemu_pid, started.qemu_pid, "step {step}");
    }
    panic!("no plug succeeded");
}

#[test]
fn a_plug_that_fails_at_any_step_leaves_the_guest_as_it_was() {
    walk_plug("fail");
}

#[test]
fn a_plug_whose_labeller_is_killed_at_any_step_leaves_the_guest_as_it_was() {
    walk_plug("kill");
}

/// An interface with a passt of its own, for an old PC.
fn interface(rig: &Rig) -> Plug {
    let uid = rig.settings.uids.helpers.first + 7;
    let object =
        r#"{"driver":"e1000","netdev":"hostnet7","id":"net7","mac":"52:54:00:00:00:07","romfile":""}"#;
    let top = Top::Interface { slot: slot("net7"), tap: false, object: object.into() };
    let steps = PlugSteps { alias: "net7".into(), sets: Vec::new(), nodes: Vec::new(), top };
    let ops = vec![
        Op::LeaseUid { role: UidRole::Helper, uid },
        Op::Channel { slot: slot("net7"), peer: slot("net7.peer") },
        Op::SpawnPasst { alias: "net7".into(), slot: slot("net7.peer"), uid, selinux_label: None },
    ];
    Plug { alias: "net7".into(), ops, steps, note: String::new() }
}

/// An interface whose plug fails, or whose labeller is killed, at every step: nothing of it outlives the domain, and
/// where QEMU never heard of it, nothing of it stays.
fn walk_interface(kind: &str) {
    if !possible() || !cfg!(debug_assertions) || !std::path::Path::new("/usr/bin/passt").exists() {
        println!("skipped: needs root, QEMU, passt and a debug build");
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("a.raw");
    let plug = interface(&rig);
    let uid = plug.uids().next().unwrap();
    let plan = with_usb(rig.plan(1, &image));
    let uuid = plan.domain.uuid;
    let log = rig.path("log/1.log");
    rig.serve("");
    let mut before = rig.snapshot();
    before.without(&log);
    for step in 0..STEPS_MAX {
        rig.client().start(plan.clone()).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
        rig.end_labeller("-KILL");
        rig.serve(&format!("{kind}:{step}"));
        let outcome = Labeller::connect(&rig.settings).and_then(|mut it| it.plug(uuid, plug.clone()));
        let done = outcome.is_ok();
        let told = outcome.err().map(|error| rule(&error)).unwrap_or_default();
        if done {
            assert!(step >= 6, "only {step} steps were walked");
            assert_eq!(pidfd::of_uid(uid).unwrap().len(), 1);
            // The next labeller knows it, and starts another passt where this one dies.
            rig.end_labeller("-KILL");
            rig.serve("");
            let described = rig.client().describe(uuid).unwrap();
            assert_eq!((described.plugs.len(), described.helpers.len()), (1, 1));
            let passt = described.helpers[0].1;
            let killed = Command::new("kill").args(["-KILL", &passt.to_string()]).status();
            assert!(killed.unwrap().success());
            eventually("another passt", || {
                rig.client().describe(uuid).unwrap().helpers.first().is_some_and(|(_, now)| *now != passt)
            });
            let told = rule(&rig.client().plug(uuid, plug.clone()).unwrap_err());
            assert!(told.contains("a device of this alias is there"), "{told}");
        } else if kind == "kill" {
            eventually("the labeller is dead", || rig.labeller_is_dead());
            rig.labeller = None;
            rig.serve("");
        } else if !told.contains("plugged") && !told.contains("fail:") {
            panic!("step {step}: {told}");
        }
        // Only a running guest lets a PCI device go; so this end must take everything back.
        rig.client().kill(uuid).unwrap_or_else(|e| panic!("{}", rule(&e)));
        rig.assert_nothing_leased();
        assert_eq!(pidfd::of_uid(uid).unwrap(), [0; 0], "{kind} at step {step}");
        let mut after = rig.snapshot();
        after.without(&log);
        assert_eq!(before, after, "{kind} at step {step}");
        if done {
            return;
        }
        rig.end_labeller("-TERM");
        rig.serve("");
    }
    panic!("no plug succeeded");
}

#[test]
fn an_interface_whose_plug_fails_at_any_step_leaves_nothing() {
    walk_interface("fail");
}

#[test]
fn an_interface_whose_labeller_is_killed_at_any_step_leaves_nothing() {
    walk_interface("kill");
}

#[test]
fn a_uid_of_somebody_elses_is_no_interfaces() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let (image, second) = (rig.image("a.raw"), rig.image("b.raw"));
    rig.serve("");
    let (plan, mut neighbour) = (with_usb(rig.plan(1, &image)), rig.plan(2, &second));
    let plug = interface(&rig);
    let theirs = plug.uids().next().unwrap();
    neighbour.ops.insert(0, Op::LeaseUid { role: UidRole::Helper, uid: theirs });
    let uuid = plan.domain.uuid;
    for plan in [plan, neighbour] {
        rig.client().start(plan).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    }
    let told = rule(&rig.client().plug(uuid, plug).unwrap_err());
    assert!(told.contains("in use"), "{told}");
    assert_eq!(rig.client().survey().unwrap().uids.len(), 5);
}

#[test]
fn what_cannot_be_given_back_stays_leased_until_it_is() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let (image, second) = (rig.image("a.raw"), rig.image("b.raw"));
    rig.set_label(&second, WAS);
    rig.serve("");
    let plan = with_usb(rig.plan(1, &image));
    let (uuid, plug) = (plan.domain.uuid, plug_of(&plan, &rig.plan(2, &second)));
    rig.client().start(plan).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    rig.client().plug(uuid, plug.clone()).unwrap_or_else(|e| panic!("{}", rule(&e)));

    // While the file has another name nobody can put its label back.
    let hidden = second.with_extension("hidden");
    std::fs::rename(&second, &hidden).unwrap();
    let which = Gone { alias: "usb-disk1".into(), medium: false };
    assert!(rig.client().unplug(uuid, which, false).unwrap());
    let plugs = |rig: &Rig| rig.client().describe(uuid).unwrap().plugs.len();
    let is_held = |rig: &mut Rig| {
        assert_eq!(plugs(rig), 0, "QEMU has let it go");
        let told = rule(&rig.client().start(rig.plan(2, &hidden)).unwrap_err());
        assert!(told.contains("in use by"), "{told}");
        let told = rule(&rig.client().plug(uuid, plug.clone()).unwrap_err());
        assert!(told.contains("not given back yet"), "{told}");
    };
    is_held(&mut rig);
    rig.end_labeller("-KILL");
    rig.serve("");
    is_held(&mut rig);
    std::fs::rename(&hidden, &second).unwrap();
    eventually("its label is back", || rig.label(&second).as_deref() == Some(WAS));
    rig.client().start(rig.plan(2, &second)).unwrap_or_else(|e| panic!("{}", rule(&e)));
    rig.end_labeller("-KILL");
    rig.serve("");
    assert_eq!(rig.client().survey().unwrap().domains.len(), 2, "{}", rig.log());
}

#[test]
fn a_plug_is_about_its_own_objects() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let (image, second) = (rig.image("a.raw"), rig.image("b.raw"));
    rig.serve("");
    let mut plan = with_usb(rig.plan(1, &image));
    if let Some(Op::Spawn(spawn)) = plan.ops.last_mut() {
        let more = ["-device", r#"{"driver":"usb-tablet","id":"input0"}"#];
        spawn.argv.extend(more.map(String::from));
    }
    let (uuid, plug) = (plan.domain.uuid, plug_of(&plan, &rig.plan(2, &second)));
    rig.client().start(plan).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    rig.client().plug(uuid, plug.clone()).unwrap_or_else(|e| panic!("{}", rule(&e)));

    let third = rig.image("c.raw");
    let other = plug_of(&rig.plan(1, &image), &rig.plan(2, &third));
    // The same words as the first one, but for some of them.
    let changed = |changes: &[(&str, &str)]| {
        let mut text = serde_json::to_string(&other).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "{from} is not in {text}");
            text = text.replace(from, to);
        }
        serde_json::from_str::<Plug>(&text).unwrap()
    };
    let (alias, node, set) = (("usb-disk1", "usb-disk2"), ("sdb-0", "sdc-0"), ("fdset/9", "fdset/10"));
    let grant = ("\"set\":9", "\"set\":10");
    for (changes, told) in [
        (&[][..], "a device of this alias is there"),
        (&[("usb-disk1", "input0"), node, set, grant], "a device of this alias is there"),
        (&[alias, set, grant], "has a node sdb-0-format already"),
        (&[alias, node], "has a set 9 of descriptors already"),
    ] {
        let refused = rule(&rig.client().plug(uuid, changed(changes)).unwrap_err());
        assert!(refused.contains(told), "{refused}");
    }
    rig.client().plug(uuid, changed(&[alias, node, set, grant])).unwrap_or_else(|e| panic!("{}", rule(&e)));
}

#[test]
fn shared_memory_goes_with_its_last_domain_whoever_dies() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.serve("");
    let region = rig.path("shmem/region");
    let (one, two) = (rig.image("one.raw"), rig.image("two.raw"));
    let mut pids = Vec::new();
    for (n, image) in [(1, one), (2, two)] {
        let mut plan = rig.plan(n, &image);
        rig.shmem(&mut plan);
        let started = rig.client().start(plan).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
        pids.push(started.qemu_pid);
    }
    let kill = |pid: i32| {
        assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success())
    };
    // One ends while nobody watches: the other one has it still, and a third may join.
    rig.end_labeller("-KILL");
    kill(pids[0]);
    rig.serve("");
    eventually("the first is undone", || rig.client().survey().unwrap().domains.len() == 1);
    assert!(region.exists());
    let third = rig.image("three.raw");
    let mut plan = rig.plan(3, &third);
    rig.shmem(&mut plan);
    let mut larger = plan.clone();
    for op in &mut larger.ops {
        if let Op::OpenShmem { size, .. } = op {
            *size = 2 << 20;
        }
    }
    assert!(rule(&rig.client().start(larger).unwrap_err()).contains("1048576 bytes"));
    let mut another = plan.clone();
    for op in &mut another.ops {
        if let Op::OpenShmem { name, .. } = op {
            *name = "another".into();
        }
    }
    assert!(rule(&rig.client().start(another).unwrap_err()).contains("other regions have 1048576"));
    pids.push(rig.client().start(plan).unwrap().qemu_pid);
    kill(pids[1]);
    eventually("the second is undone", || rig.client().survey().unwrap().domains.len() == 1);
    assert!(region.exists());
    // The last one ends while nobody watches.
    rig.end_labeller("-KILL");
    kill(pids[2]);
    rig.serve("");
    eventually("it is gone", || !region.exists());
    rig.assert_nothing_leased_unless(false);
}
