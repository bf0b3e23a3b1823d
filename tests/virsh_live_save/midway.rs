//! Saves that are held in the middle: by stopping the process that writes the file, once QEMU has begun.

use std::path::PathBuf;
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::e2e_rig::{Ran, drain, end_of};

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// A save that goes on, held. Whatever becomes of it, the process is let go at the end.
struct Held {
    pump: i32,
    virsh: Child,
}

impl Held {
    /// Begins to save; QEMU stands until the process is stopped, so that it is not too late for that.
    fn begin(host: &Host, name: &str, words: &[&str]) -> Self {
        let qemu = host.rig.status(name).unwrap().qemu_pid;
        signal(qemu, Signal::SIGSTOP);
        let mut command = host.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let virsh = command.spawn().unwrap();
        let mut found = None;
        eventually("somebody writes the file", || {
            found = pump(host);
            found.is_some()
        });
        let pump = found.unwrap();
        signal(pump, Signal::SIGSTOP);
        signal(qemu, Signal::SIGCONT);
        let held = Self { pump, virsh };
        let query = if words.contains(&"dump") { "query-dump" } else { "query-migrate" };
        let query = format!("{{\"execute\":\"{query}\"}}");
        let asked = ["qemu-monitor-command", name, &query];
        eventually("QEMU writes", || host.virsh(&asked).out.contains("\"status\":\"active\""));
        held
    }

    fn go_on(&self) {
        signal(self.pump, Signal::SIGCONT);
    }

    fn ends(mut self) -> Ran {
        let (out, err) = (drain(self.virsh.stdout.take()), drain(self.virsh.stderr.take()));
        let code = end_of(&mut self.virsh);
        Ran { code, out: out.join().unwrap(), err: err.join().unwrap() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pump), Signal::SIGCONT);
        let _ = self.virsh.kill();
        let _ = self.virsh.wait();
    }
}

/// Who writes a file without a name where domains are saved: of those that have it, who has little else.
fn pump(host: &Host) -> Option<i32> {
    let places = ["saved/#", "managed/#", "dumps/#"].map(|place| host.rig.text(place));
    let open = |pid: i32| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut having: Vec<(usize, i32)> = pids
        .filter_map(|pid| {
            let open = open(pid);
            let has = |place: &String| open.iter().any(|file| file.to_string_lossy().starts_with(place));
            places.iter().any(has).then_some((open.len(), pid))
        })
        .collect();
    having.sort_unstable();
    // The labeller itself has it too, and sockets besides; so has who writes, until it has closed what is not its own.
    (having.len() == 2 && having[0].0 < having[1].0 / 2).then(|| having[0].1)
}

fn runs(host: &Host, name: &str) -> bool {
    let asked = ["qemu-monitor-command", name, "{\"execute\":\"query-status\"}"];
    host.says(&["domstate", name]) == "running" && host.virsh(&asked).out.contains("\"running\":true")
}

#[test]
fn a_save_is_watched_and_aborted_and_whoever_is_killed_meanwhile_loses_nothing() {
    if !is_possible() {
        return;
    }
    let mut host = Host::with(|settings| settings.daemon.change_wait = 3, "");
    host.says(&["define", &linux(&host, "held", "")]);
    counts(&host, "held");
    let file = host.rig.text("saved/held");
    let goes_on = |host: &Host| {
        eventually("it goes on", || runs(host, "held"));
        let number = counted(host, "held");
        host.rig.heard("held", &format!("counter {}", number + 2));
        assert_eq!(names(host, "saved"), Vec::<String>::new());
    };

    // Watched, and aborted.
    let held = Held::begin(&host, "held", &["save", "held", &file]);
    let info = host.says(&["domjobinfo", "held"]);
    assert!(info.contains("Operation:        Save") && info.contains("Memory remaining:"), "{info}");
    eventually("it stands", || host.says(&["domstate", "held", "--reason"]) == "paused (saving)");
    // Whoever would change it is told that, and for whom it waited; whoever looks is answered.
    for words in [&["resume", "held"][..], &["desc", "held", "--live", "other"], &["managedsave", "held"]] {
        let told = host.complains(words);
        let lock = "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainSave)";
        assert!(told.contains(lock), "{words:?}: {told}");
    }
    for words in [&["dominfo", "held"][..], &["domstats", "held"], &["dommemstat", "held"]] {
        host.says(words);
    }
    host.says(&["domjobabort", "held"]);
    held.go_on();
    let ran = held.ends();
    assert_ne!(ran.code, Some(0));
    assert!(ran.err.contains("somebody aborted it"), "{}", ran.err);
    goes_on(&host);

    // So is a dump, though nobody takes what QEMU writes.
    let dump = host.rig.text("dumps/held");
    let held = Held::begin(&host, "held", &["dump", "held", &dump, "--memory-only"]);
    assert!(host.says(&["domjobinfo", "held"]).contains("Operation:        Dump"));
    // Its name is taken from the beginning on.
    host.says(&["create", &host.rig.bare("second", "")]);
    let told = host.complains(&["dump", "second", &dump, "--memory-only"]);
    assert!(told.contains("another domain's memory is being written to this name"), "{told}");
    host.says(&["dump", "second", &host.rig.text("dumps/second"), "--memory-only"]);
    host.says(&["destroy", "second"]);
    std::fs::remove_file(host.rig.text("dumps/second")).unwrap();
    host.says(&["domjobabort", "held"]);
    let ran = held.ends();
    assert_ne!(ran.code, Some(0));
    assert!(ran.err.contains("somebody aborted it"), "{}", ran.err);
    goes_on(&host);
    assert_eq!(names(&host, "dumps"), Vec::<String>::new());

    // Who writes the file.
    let held = Held::begin(&host, "held", &["save", "held", &file]);
    signal(held.pump, Signal::SIGKILL);
    assert_ne!(held.ends().code, Some(0));
    goes_on(&host);

    // The supervisor.
    let held = Held::begin(&host, "held", &["save", "held", &file]);
    signal(host.rig.status("held").unwrap().supervisor_pid, Signal::SIGKILL);
    assert_ne!(held.ends().code, Some(0));
    goes_on(&host);

    // svirtd: nobody waits for the answer, and the domain is saved.
    let held = Held::begin(&host, "held", &["save", "held", &file]);
    host.kill_daemon();
    held.go_on();
    assert_ne!(held.ends().code, Some(0));
    host.start_daemon();
    eventually("it is saved", || host.says(&["domstate", "held"]) == "shut off");
    assert_eq!(names(&host, "saved"), ["held"]);
    let number = counted(&host, "held");
    host.says(&["restore", &file]);
    host.rig.heard("held", &format!("counter {}", number + 1));

    // The device model: it is gone, and what was saved before is what there is.
    let before = std::fs::read(&file).unwrap();
    let held = Held::begin(&host, "held", &["save", "held", &file]);
    signal(host.rig.status("held").unwrap().qemu_pid, Signal::SIGKILL);
    let ran = held.ends();
    assert_ne!(ran.code, Some(0));
    assert!(ran.err.contains("ended while it was being saved"), "{}", ran.err);
    eventually("it has ended", || host.says(&["domstate", "held"]) == "shut off");
    assert_eq!(names(&host, "saved"), ["held"]);
    assert!(std::fs::read(&file).unwrap() == before);
}

#[test]
fn a_file_system_without_room_leaves_a_guest_that_goes_on() {
    if !is_possible() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    // Before the labeller is there, whose mounts are its own.
    let mounted = Mounted::new(place.path());
    let place = place.path().to_str().unwrap().to_owned();
    let mut host = Host::with(|settings| settings.save.places = vec![place.clone()], "");
    host.says(&["define", &linux(&host, "room", "")]);
    counts(&host, "room");
    let file = format!("{place}/room");
    let told = host.complains(&["save", "room", &file]);
    assert!(told.contains("No space left") && told.contains("has room"), "{told}");
    eventually("it goes on", || runs(&host, "room"));
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    let number = counted(&host, "room");
    host.rig.heard("room", &format!("counter {}", number + 2));
    mounted.grow();
    host.says(&["save", "room", &file]);
    // Its next start with the host goes on from a managed one.
    host.says(&["restore", &file]);
    host.says(&["autostart", "room"]);
    host.says(&["managedsave", "room"]);
    let number = counted(&host, "room");
    host.kill_daemon();
    std::fs::remove_file(host.rig.path("run/svirtd.autostarted")).unwrap();
    host.start_daemon();
    host.rig.heard("room", &format!("counter {}", number + 1));
    assert_eq!(host.says(&["domstate", "room", "--reason"]), "running (restored)");
    assert_eq!(names(&host, "managed"), Vec::<String>::new());
}

/// A file system of 8 MiB.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &std::path::Path) -> Self {
        use nix::mount::{MsFlags, mount};
        mount(Some("none"), at, Some("tmpfs"), MsFlags::empty(), Some("size=8m,mode=700")).unwrap();
        Self(at.to_owned())
    }

    fn grow(&self) {
        use nix::mount::{MsFlags, mount};
        let flags = MsFlags::MS_REMOUNT;
        mount(Some("none"), &self.0, Some("tmpfs"), flags, Some("size=1g,mode=700")).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
