//! Whatever is killed at whatever moment: a guest that can go on goes on, and everything else is as it was before.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod e2e_rig;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e_rig::{Ran, Rig, end_of, eventually, finish, guest, has_default_route, possible};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn disk(path: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    )
}

/// Types on the console and waits for the answer.
fn answers(rig: &Rig, name: &str, number: u32) {
    let mut talk = rig.on_terminal(&["console", name]);
    talk.types(&format!("echo $(({number}*3))x\r"));
    talk.shows(&format!("{}x", number * 3));
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
}

#[test]
fn a_guest_survives_what_watches_it() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let path = rig.raw("system", 48);
    let definition = rig.linux("lasts", "", &disk(&path));
    let before = rig.snapshot();
    rig.start(&definition);
    rig.heard("lasts", "guest: ready");
    answers(&rig, "lasts", 5);

    let first = rig.status("lasts").unwrap();
    send(first.supervisor_pid, Signal::SIGKILL);
    eventually("another supervisor serves", || {
        rig.status("lasts").is_some_and(|now| {
            now.supervisor_pid != first.supervisor_pid
                && svirt::driver::Control::connect(&now.control).and_then(|mut it| it.status()).is_ok()
        })
    });
    assert_eq!(rig.status("lasts").unwrap().qemu_pid, first.qemu_pid);
    answers(&rig, "lasts", 7);
    assert!(rig.control("lasts").status().unwrap().sealed);

    let labeller = rig.labeller_pid().unwrap();
    send(labeller, Signal::SIGKILL);
    eventually("another labeller serves", || rig.labeller_pid().is_some_and(|pid| pid != labeller));
    assert_eq!(rig.status("lasts").unwrap().qemu_pid, first.qemu_pid);

    // Both at once: what either would have given to the next one is in the guard.
    let (labeller, supervisor) = (rig.labeller_pid().unwrap(), rig.status("lasts").unwrap().supervisor_pid);
    send(labeller, Signal::SIGSTOP);
    send(supervisor, Signal::SIGKILL);
    send(labeller, Signal::SIGKILL);
    eventually("another labeller starts another supervisor", || {
        rig.status("lasts").is_some_and(|now| {
            now.supervisor_pid != supervisor
                && svirt::driver::Control::connect(&now.control).and_then(|mut it| it.status()).is_ok()
        })
    });
    assert_eq!(rig.status("lasts").unwrap().qemu_pid, first.qemu_pid);
    answers(&rig, "lasts", 9);
    assert!(rig.control("lasts").status().unwrap().sealed);

    // Guard and labeller at once: a start brings both back, and the domain is found again.
    for pid in rig.labeller_pids() {
        send(pid, Signal::SIGKILL);
    }
    eventually("no labeller is left", || rig.labeller_pids().is_empty());
    let second = rig.bare("second", "");
    rig.start(&second);
    rig.end("second");
    assert_eq!(rig.status("lasts").unwrap().qemu_pid, first.qemu_pid);
    answers(&rig, "lasts", 11);
    let listed = rig.svirt(&["list"]).expect(0).out;
    assert!(listed.contains("lasts") && listed.contains("sealed") && !listed.contains("second"), "{listed}");
    rig.svirt(&["stop", "lasts", "--timeout", "30"]).expect(0);
    rig.same_as(&before);
}

#[test]
fn a_supervisor_that_stands_still_holds_nobody_up() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let (stopped, other) = (rig.bare("stopped", ""), rig.bare("other", ""));
    let before = rig.snapshot();
    rig.start(&stopped);
    rig.start(&other);
    send(rig.status("stopped").unwrap().supervisor_pid, Signal::SIGSTOP);
    // On a busy host the other one may be late, too.
    eventually("both are told apart", || {
        let listed = rig.svirt(&["list"]).expect(0).out;
        let row = |name: &str| listed.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
        assert!(row("stopped").contains("supervisor does not answer"), "{listed}");
        row("other").contains("running")
    });
    let inspected = |name: &str| rig.svirt(&["inspect", "--json", name]).expect(0).out;
    assert!(inspected("stopped").contains("\"refused\": null"));
    eventually("the gate's refusals are told", || inspected("other").contains("\"refused\": []"));
    let refused = rig.svirt(&["stop", "stopped", "--timeout", "1"]).expect(1);
    refused.says(&["does not answer in time", "svirt stop --force"]);
    rig.svirt(&["stop", "--force", "stopped"]).expect(0);
    rig.end("other");
    rig.same_as(&before);
}

#[test]
fn a_network_that_dies_all_the_time_is_gone_and_that_is_said() {
    if !possible() || !has_default_route() {
        return;
    }
    let rig = Rig::new();
    let definition = rig.bare("net", "<interface type='user'><model type='virtio'/></interface>");
    let before = rig.snapshot();
    rig.start(&definition);
    assert!(!rig.svirt(&["list"]).expect(0).out.contains("gone"));
    // Also by a labeller that took the domain over.
    send(rig.labeller_pid().unwrap(), Signal::SIGKILL);
    eventually("the domain is known again", || rig.status("net").is_some());
    let mut died = 0;
    eventually("no passt is started any more", || {
        if let Some(pid) = rig.helper("net", "net0") {
            send(pid, Signal::SIGKILL);
            eventually("its end is known", || rig.helper("net", "net0") != Some(pid));
            died += 1;
            return false;
        }
        true
    });
    assert!((2..=6).contains(&died), "{died}: the first one, and not for ever");
    let listed = rig.svirt(&["list"]).expect(0).out;
    assert!(listed.contains("running, network net0 is gone"), "{listed}");
    let inspected = rig.svirt(&["inspect", "net"]).expect(6).out;
    assert!(inspected.contains("DIFFERENT  net0 process: planned running, found none"), "{inspected}");
    assert!(rig.labeller_log().contains("its network is gone"), "{}", rig.labeller_log());
    rig.end("net");
    rig.same_as(&before);
}

/// Numbers that look random and are the same in each run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's linear congruence; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn a_kill_at_any_moment_leaves_nothing() {
    if !possible() {
        return;
    }
    let seed = std::env::var("SVIRT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut seeded = Seeded(seed.unwrap_or(20));
    for round in 0..16 {
        let rig = Rig::new();
        let path = rig.raw("image", 1);
        let definition = rig.bare("dies", &disk(&path));
        let before = rig.snapshot();
        // Its labeller runs already in every other round, so that the kills fall on different steps.
        if round % 2 == 0 {
            let first = rig.bare("first", "");
            rig.start(&first);
            rig.end("first");
        }
        let mut run = rig.background("run", &["run", "--detach", &definition]);
        std::thread::sleep(Duration::from_micros(seeded.below(250_000)));
        let mut victims = rig.processes();
        victims.extend(rig.labeller_pids());
        victims.push(i32::try_from(run.id()).unwrap());
        victims.sort_unstable();
        let victim = victims[usize::try_from(seeded.below(victims.len() as u64)).unwrap()];
        let name = std::fs::read_to_string(format!("/proc/{victim}/comm")).unwrap_or_default();
        let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
        let code = end_of(&mut run);
        // Whatever it was: the next start works, or the domain runs already, and the end of both leaves nothing.
        let again = rig.svirt(&["run", "--detach", &definition]);
        let runs = again.err.contains("runs already");
        assert!(again.code == Some(0) || runs, "round {round}, {name}, {code:?}: {}", again.err);
        // A device model that is dying of the kill still counts as running until the labeller has seen its end.
        let stopped = rig.svirt(&["stop", "--force", "dies"]);
        assert!(stopped.code == Some(0) || runs && stopped.code == Some(3), "round {round}: {}", stopped.err);
        rig.same_as(&before);
        println!("round {round}: killed {} ({code:?}), ran {runs}", name.trim());
    }
}

#[test]
fn a_guest_that_ends_while_the_labeller_is_dead_is_taken_back() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let path = rig.raw("image", 1);
    let definition = rig.bare("ends", &disk(&path));
    let before = rig.snapshot();
    rig.start(&definition);
    let qemu = rig.status("ends").unwrap().qemu_pid;
    send(rig.labeller_pid().unwrap(), Signal::SIGKILL);
    send(qemu, Signal::SIGKILL);
    // Nobody asks: the guard's next labeller finds the journal and undoes it.
    rig.same_as(&before);
}

/// A cgroup beside this program's own, in every hierarchy that a domain has one in; removed at its end.
struct Elsewhere(Vec<PathBuf>);

impl Elsewhere {
    fn new() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).unwrap();
        let own = svirt::sys::cgroup::places(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        let mut made = Self(Vec::new());
        for place in own {
            let used =
                ["devices", "memory", "pids"].iter().any(|name| place.controllers.iter().any(|c| c == name));
            if used || place.controllers.is_empty() {
                let dir = place.directory.join(format!("elsewhere-{}", std::process::id()));
                std::fs::create_dir(&dir).ok()?;
                made.0.push(dir);
            }
        }
        (!made.0.is_empty()).then_some(made)
    }

    /// Runs svirt there; a labeller that it starts stays there.
    fn svirt(&self, rig: &Rig, words: &[&str]) -> Ran {
        let joins: Vec<String> =
            self.0.iter().map(|dir| format!("echo 0 > {}/cgroup.procs || exit 99", dir.display())).collect();
        let script = format!("{}\nexec \"$@\"", joins.join("\n"));
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_svirt"), "--config"]);
        command.arg(rig.path("svirt.toml")).args(words);
        finish(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        for dir in &self.0 {
            // Where the labeller goes when its own cgroup gets children with controllers.
            let _ = std::fs::remove_dir(dir.join("labeller"));
            let _ = std::fs::remove_dir(dir);
        }
    }
}

#[test]
fn a_labeller_in_another_cgroup_finds_the_cgroups_of_the_last_one() {
    if !possible() {
        return;
    }
    let Some(elsewhere) = Elsewhere::new() else {
        println!("skipped: needs a cgroup below its own");
        return;
    };
    let rig = Rig::new();
    let network = has_default_route();
    let devices = if network { "<interface type='user'><model type='virtio'/></interface>" } else { "" };
    let definition = rig.bare("moves", devices);
    let before = rig.snapshot();
    let end_all = |qemu: Option<i32>| {
        // The guard before its labeller, which it would replace.
        rig.labeller_pids().into_iter().chain(qemu).for_each(|pid| send(pid, Signal::SIGKILL));
        eventually("no labeller is left", || rig.labeller_pids().is_empty());
    };
    rig.start(&definition);
    end_all(None);

    // It goes on, and a labeller that is elsewhere takes it over.
    assert!(elsewhere.svirt(&rig, &["list"]).expect(0).out.contains("moves"));
    elsewhere.svirt(&rig, &["inspect", "moves"]).expect(0);
    if network {
        let first = rig.helper("moves", "net0").unwrap();
        send(first, Signal::SIGKILL);
        eventually("another passt", || rig.helper("moves", "net0").is_some_and(|pid| pid != first));
        let qemu = rig.status("moves").unwrap().qemu_pid;
        let of = |pid: i32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            text.lines().filter(|line| line.contains("svirt-")).map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of(rig.helper("moves", "net0").unwrap()), of(qemu), "it joins the same cgroups");
    }
    rig.end("moves");
    rig.same_as(&before);

    // The other way round, and nothing lives on.
    rig.start(&definition);
    let qemu = rig.status("moves").unwrap().qemu_pid;
    let inside = std::fs::read_to_string(format!("/proc/{qemu}/cgroup")).unwrap();
    assert!(inside.contains(&format!("elsewhere-{}/svirt-", std::process::id())), "{inside}");
    end_all(Some(qemu));
    rig.svirt(&["list"]).expect(0);
    rig.same_as(&before);
}

#[test]
fn a_device_model_that_is_out_of_its_limits_is_told() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    rig.start(&rig.bare("limits", ""));
    rig.svirt(&["inspect", "limits"]).expect(0);
    let status = rig.status("limits").unwrap();
    let described =
        svirt::driver::Labeller::connect(&rig.settings).unwrap().describe(status.domain.uuid).unwrap();
    for dir in described.cgroups.iter().map(PathBuf::from) {
        // A version 1 hierarchy first, whose limits a process leaves without leaving the others.
        let files = ["memory.limit_in_bytes", "memory.max", "pids.max"].map(|name| dir.join(name));
        for file in files.iter().filter(|file| file.exists()) {
            let planned = std::fs::read_to_string(file).unwrap();
            let other = if file.ends_with("pids.max") { "3999" } else { "1073741824" };
            std::fs::write(file, other).unwrap();
            let told = rig.svirt(&["inspect", "limits"]).expect(6).out;
            assert!(told.contains("DIFFERENT  qemu cgroup "), "{}: {told}", file.display());
            std::fs::write(file, planned.trim()).unwrap();
            rig.svirt(&["inspect", "limits"]).expect(0);
        }
        let procs = |of: &std::path::Path| of.join("cgroup.procs");
        if std::fs::write(procs(dir.parent().unwrap()), status.qemu_pid.to_string()).is_err() {
            continue;
        }
        let told = rig.svirt(&["inspect", "limits"]).expect(6).out;
        assert!(told.contains(&format!("qemu cgroup: planned {}", dir.display())), "{told}");
        std::fs::write(procs(&dir), status.qemu_pid.to_string()).unwrap();
        rig.svirt(&["inspect", "limits"]).expect(0);
    }
    rig.end("limits");
}

#[test]
fn a_device_model_that_is_killed() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let definition = rig.bare("killed", "");
    let before = rig.snapshot();
    let mut run = rig.background("run", &["run", &definition]);
    eventually("it runs", || rig.status("killed").is_some_and(|status| status.qemu_pid > 0));
    eventually("its control serves", || rig.svirt(&["list"]).out.contains("running"));
    send(rig.status("killed").unwrap().qemu_pid, Signal::SIGKILL);
    assert_eq!(end_of(&mut run), Some(5));
    let said = std::fs::read_to_string(rig.path("run.err")).unwrap();
    assert!(said.contains("was killed by SIGKILL"), "{said}");
    rig.same_as(&before);
    rig.svirt(&["stop", "killed"]).expect(3);
    rig.svirt(&["console", "killed"]).expect(3);
    rig.svirt(&["inspect", "killed"]).expect(3);
}

#[test]
fn signals_end_a_foreground_run() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let definition = rig.linux("front", "", "");
    let before = rig.snapshot();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut run = rig.background("run", &["run", &definition]);
        eventually("ready", || {
            std::fs::read_to_string(rig.path("run.out")).is_ok_and(|text| text.contains("guest: ready"))
        });
        send(i32::try_from(run.id()).unwrap(), signal);
        let err = || std::fs::read_to_string(rig.path("run.err")).unwrap();
        eventually("the guest is asked", || err().contains("asked front to power off"));
        assert_eq!(end_of(&mut run), Some(code), "{}", err());
        assert!(err().contains("powered off"), "{}", err());
        rig.same_as(&before);
    }
    // A firmware without a guest does not listen: the second ^C ends it.
    let mut talk = rig.on_terminal(&["run", &rig.bare("deaf", "<serial type='pty'/>")]);
    talk.shows("attached to serial0");
    talk.types("\x03");
    talk.shows("asked deaf to power off");
    talk.types("\x03");
    assert_eq!(talk.ends(), Some(130));
    rig.same_as(&before);
    // With one signal alone its grace ends it.
    let mut run = rig.background("run", &["run", "--grace", "2", &rig.bare("ignores", "")]);
    let err = || std::fs::read_to_string(rig.path("run.err")).unwrap();
    eventually("it runs", || err().contains("ignores runs"));
    send(i32::try_from(run.id()).unwrap(), Signal::SIGTERM);
    assert_eq!(end_of(&mut run), Some(143), "{}", err());
    assert!(err().contains("did not power off within 2 s"), "{}", err());
    rig.same_as(&before);
}

#[test]
fn a_guest_that_powers_itself_off_ends_the_run() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let network =
        if has_default_route() { "<interface type='user'><model type='virtio'/></interface>" } else { "" };
    let definition = rig.linux("itself", "demo.poweroff", network);
    let before = rig.snapshot();
    let ran = rig.svirt(&["run", &definition]).expect(0).says(&["powered off"]);
    assert!(ran.out.contains("guest: powers off"), "{}", ran.out);
    let log = rig.labeller_log();
    assert!(!log.contains("its network is gone") && !log.contains("ERROR"), "{log}");
    rig.same_as(&before);
}
