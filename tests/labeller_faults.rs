//! A start that fails or is killed at every single step, and processes that are killed while a domain runs:
//! everything is as it was before. Needs root.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used, missing_docs)]

mod labeller_rig;

use std::process::Command;

use labeller_rig::{Rig, eventually, possible, rule};
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
    let plan = rig.plan(1, &image);
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
