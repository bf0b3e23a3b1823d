//! The real supervisor over a real QEMU, and over a device model that lies. Needs root; QEMU runs under TCG.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used, missing_docs)]

mod supervisor_rig;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use supervisor_rig::{
    Rig, Wish, ask_on, greet, next_command, play, possible, possible_with_qemu, read_until,
};
use svirt::base::{Layer, Secret, Slot};
use svirt::privsep::ask::Ask;
use svirt::privsep::password::Password;
use svirt::privsep::plug::{PlugSteps, SetGrant, Top, UnplugSteps};
use svirt::privsep::supervisor::{Answer, Ended, Graphics, Lifecycle, LifecycleAction, Report, Verb};
use svirt::privsep::throttle::{DiskTuning, Throttle};
use svirt::qmp::{LINE_MAX, PENDING_MAX};
use svirt::sys::{cred, memfd, pidfd, process, scm};

fn qemu() -> Wish {
    Wish { qemu: Some(vec![]), vnc_max: 1, ..Wish::default() }
}

#[test]
fn the_gate_is_shut_before_the_guest_runs() {
    if !possible_with_qemu() {
        return;
    }
    let begin = Instant::now();
    let mut rig = Rig::new(qemu());
    let passed = rig.started();
    println!("start to running: {:?}, {passed} notifications", begin.elapsed());
    assert!(passed > 20, "execve and the libraries' openat must have gone through the gate: {passed}");
    let path = rig.path("late");
    let said = rig.human(&format!("chardev-add socket,id=late,path={},server=on,wait=off", path.display()));
    assert!(said.contains("Operation not permitted"), "{said}");
    assert!(!path.exists());
    let status = rig.status();
    assert!(status.sealed && status.state == "running" && status.notifications == passed, "{status:?}");
    let socket = i32::try_from(libc::SYS_socket).unwrap();
    assert!(status.refused.iter().any(|(number, count)| *number == socket && *count > 0), "{status:?}");
    assert_eq!(status.consoles, [("serial0".to_owned(), Some(rig.pty_path.clone()))]);
    let (pss, rss) = rig.memory();
    println!("supervisor: Pss {pss} kB, Rss {rss} kB");
    if !cfg!(debug_assertions) {
        assert!(pss <= 1500, "Pss {pss} kB");
    }
}

#[test]
fn what_qemu_does_at_its_start_goes_through() {
    if !possible_with_qemu() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("early");
    let chardev: &'static str =
        Box::leak(format!("socket,id=e,path={},server=on,wait=off", path.display()).into_boxed_str());
    let wish = Wish { qemu: Some(vec!["-chardev", chardev]), paused: true, ..Wish::default() };
    let rig = Rig::new(wish);
    rig.started();
    assert!(path.exists(), "the same call passes before the seal");
    let status = rig.status();
    assert!(status.sealed && status.state == "prelaunch", "{status:?}");
    assert_eq!(rig.ask(&Verb::Resume), Answer::Done);
    assert_eq!(rig.status().state, "running");
    assert_eq!(rig.ask(&Verb::Pause), Answer::Done);
    assert_eq!(rig.status().state, "paused");
    assert_eq!(rig.ask(&Verb::Shutdown), Answer::Done);
}

#[test]
fn a_destroyed_domain_is_reaped_and_reported() {
    if !possible_with_qemu() {
        return;
    }
    let rig = Rig::new(qemu());
    rig.started();
    assert_eq!(rig.ask(&Verb::Destroy), Answer::Done);
    let Report::Ended(ended) = rig.report().unwrap() else { panic!("no end") };
    assert_eq!((ended.code, ended.signal), (Some(0), None));
    assert_eq!(ended.reason.as_deref(), Some("host-qmp-quit"));
    assert!(pidfd::wait_ended(&rig.supervisor.pidfd, 2000).unwrap(), "the supervisor leaves too");
}

#[test]
fn a_console_carries_the_guest_both_ways() {
    if !possible_with_qemu() {
        return;
    }
    let rig = Rig::new(qemu());
    rig.started();
    let mut console = rig.attach(false).unwrap();
    read_until(&mut console, "for boot menu");
    console.write_all(b"\x1b").unwrap();
    read_until(&mut console, "Select boot device");
    let Err(Answer::Refused(refusal)) = rig.attach(false) else { panic!("two clients at once") };
    assert_eq!(refusal.layer, Layer::Lease);
    let mut other = rig.attach(true).unwrap();
    let text = read_until(&mut other, "Select boot device");
    assert!(text.contains("SeaBIOS"), "the scrollback comes first: {text:?}");
    assert!(console.read_to_end(&mut Vec::new()).is_ok(), "the first client was cut off");
    let log = std::fs::read_to_string(rig.path("log")).unwrap();
    assert!(log.contains("SeaBIOS") && log.contains("Select boot device"), "{log:?}");
}

/// A real Linux under the shut gate. The kernel is the administrator's choice: `SVIRT_TEST_KERNEL`.
#[test]
fn a_guest_boots_and_powers_off_under_the_shut_gate() {
    let Some(kernel) = std::env::var("SVIRT_TEST_KERNEL").ok().filter(|_| possible_with_qemu()) else {
        return eprintln!("skipped: set SVIRT_TEST_KERNEL to a Linux image to boot it");
    };
    let directory = tempfile::tempdir().unwrap();
    let initrd = supervisor_rig::initrd(directory.path());
    let more = ["-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0 quiet panic=-1"];
    let more = more.map(|word| &*Box::leak(word.to_owned().into_boxed_str()));
    let mut words = vec!["-m", "256", "-boot", "menu=off"];
    words.extend(more);
    let rig = Rig::new(Wish { qemu: Some(words), ..Wish::default() });
    rig.started();
    let mut console = rig.attach(false).unwrap();
    console.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    read_until(&mut console, "GUEST-IS-UP");
    assert_eq!(rig.ask(&Verb::Pause), Answer::Done);
    assert_eq!(rig.status().state, "paused");
    assert_eq!(rig.ask(&Verb::Resume), Answer::Done);
    console.write_all(b"echo $((6 * 7))-typed\n").unwrap();
    read_until(&mut console, "42-typed");
    println!("refused while the guest ran: {:?}", rig.status().refused);
    console.write_all(b"poweroff -f\n").unwrap();
    let Report::Ended(ended) = rig.report().unwrap() else { panic!("no end") };
    assert_eq!((ended.code, ended.reason.as_deref()), (Some(0), Some("guest-shutdown")));
    let mut rest = String::new();
    console.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("Power down"), "the last output arrives: {rest:?}");
}

#[test]
fn a_replacement_takes_the_monitor_over() {
    if !possible_with_qemu() {
        return;
    }
    let mut rig = Rig::new(qemu());
    rig.started();
    for _ in 0..3 {
        rig.replace();
        let status = rig.status();
        assert!(status.sealed && status.notifications == 0, "{status:?}");
        assert_eq!(rig.ask(&Verb::Pause), Answer::Done);
        assert_eq!(rig.status().state, "paused");
        assert_eq!(rig.ask(&Verb::Resume), Answer::Done);
    }
    let path = rig.path("late");
    let said = rig.human(&format!("chardev-add socket,id=late,path={},server=on,wait=off", path.display()));
    assert!(said.contains("Function not implemented"), "the gate stays shut: {said}");
    let mut viewer = rig.connect("vnc");
    read_until(&mut viewer, "RFB 003.008");
    assert_eq!(rig.ask(&Verb::Destroy), Answer::Done);
    assert!(matches!(rig.report().unwrap(), Report::Ended(_)));
}

#[test]
fn viewers_are_handed_to_qemu_up_to_the_limit() {
    if !possible_with_qemu() {
        return;
    }
    let rig = Rig::new(qemu());
    rig.started();
    let mut viewer = rig.connect("vnc");
    read_until(&mut viewer, "RFB 003.008");
    let mut second = rig.connect("vnc");
    assert_eq!(second.read(&mut [0; 64]).unwrap_or(0), 0, "one viewer is allowed");
    drop(viewer);
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let mut third = rig.connect("vnc");
        let mut banner = [0; 12];
        if third.read(&mut banner).unwrap_or(0) == 12 {
            break;
        }
        assert!(Instant::now() < until, "a viewer that left makes room");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_emulator_that_dies_early_is_explained() {
    if !possible_with_qemu() {
        return;
    }
    let rig = Rig::new(Wish { qemu: Some(vec!["-device", "no-such-device"]), ..Wish::default() });
    let Report::Failed { refusal, stderr } = rig.report().unwrap() else { panic!("it started") };
    assert_eq!(refusal.layer, Layer::DeviceModel);
    assert!(refusal.rule.contains("code 1") && refusal.rule.contains("no-such-device"), "{refusal}");
    assert!(stderr.contains("no-such-device"), "{stderr}");
    assert!(matches!(rig.report().unwrap(), Report::Ended(Ended { code: Some(1), .. })));
}

#[test]
fn a_device_model_that_speaks_nonsense_is_refused() {
    if !possible() {
        return;
    }
    let endless = vec![b' '; LINE_MAX + 1];
    for nonsense in [&b"junk\n"[..], b"{\"return\": {}}\n", &endless] {
        let rig = Rig::new(Wish::default());
        // The supervisor may stop listening in the middle.
        let _ = rig.monitor.as_ref().unwrap().write_all(nonsense);
        let Report::Failed { refusal, .. } = rig.report().unwrap() else { panic!("it started") };
        assert!(refusal.rule.contains("protocol"), "{refusal}");
    }
}

#[test]
fn cont_comes_after_the_seal_and_nonsense_later_ends_only_the_monitor() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish::default());
    let monitor = rig.monitor.as_ref().unwrap();
    let id = greet(monitor, "cont");
    assert_eq!(rig.report().unwrap(), Report::Greeted);
    assert!(matches!(rig.report().unwrap(), Report::Sealed { .. }), "the seal was reported before cont came");
    assert!(rig.status().sealed);
    let mut speak = monitor;
    speak.write_all(format!("{{\"return\": {{}}, \"id\": {id}}}\n[1,2,3]\n").as_bytes()).unwrap();
    assert_eq!(rig.report().unwrap(), Report::Running);
    let until = Instant::now() + Duration::from_secs(5);
    while rig.status().state != "monitor-lost" {
        assert!(Instant::now() < until);
    }
    assert!(matches!(rig.ask(&Verb::Pause), Answer::Refused(_)));
    // Without a monitor the labeller has to kill.
    let mut client = rig.connect("control");
    client.write_all(b"{\"verb\":\"destroy\"}\n").unwrap();
    assert_eq!(rig.report().unwrap(), Report::KillWanted);
    pidfd::kill(&rig.qemu.1).unwrap();
    let Report::Ended(ended) = rig.report().unwrap() else { panic!("no end") };
    assert_eq!(ended.signal, Some(libc::SIGKILL));
    let answer = read_until(&mut client, "\n");
    assert_eq!(serde_json::from_str::<Answer>(&answer).unwrap(), Answer::Done);
}

#[test]
fn a_guest_is_asked_for_memory_before_it_runs() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish { balloon: Some(32 << 20), ..Wish::default() });
    assert!(!greet(rig.monitor.as_ref().unwrap(), "balloon").is_empty(), "it is asked for");
    assert_eq!(rig.report().unwrap(), Report::Greeted);
    assert!(matches!(rig.report().unwrap(), Report::Sealed { .. }));
    assert_ne!(rig.status().state, "running", "and nothing told it to go on before");
}

#[test]
fn a_guest_that_cannot_be_asked_for_memory_does_not_run() {
    if !possible() {
        return;
    }
    for paused in [false, true] {
        let rig = Rig::new(Wish { balloon: Some(32 << 20), paused, ..Wish::default() });
        let mut monitor = rig.monitor.as_ref().unwrap();
        let id = greet(monitor, "balloon");
        let error = r#"{"class": "DeviceNotActive", "desc": "No balloon device has been activated"}"#;
        monitor.write_all(format!("{{\"error\": {error}, \"id\": {id}}}\n").as_bytes()).unwrap();
        assert_eq!(rig.report().unwrap(), Report::Greeted);
        assert!(matches!(rig.report().unwrap(), Report::Sealed { .. }));
        let Report::Failed { refusal, .. } = rig.report().unwrap() else { panic!("it started") };
        assert!(refusal.rule.contains("No balloon device"), "{refusal}");
    }
}

#[test]
fn no_guest_runs_before_its_disks_are_limited() {
    if !possible() {
        return;
    }
    // More than may wait for their answers on the monitor at once.
    let limited = |number| Throttle { device: format!("disk{number}"), tuning: DiskTuning::default() };
    let throttles: Vec<Throttle> = (0..PENDING_MAX + 1).map(limited).collect();
    let rig = Rig::new(Wish { throttles: throttles.clone(), ..Wish::default() });
    assert!(!greet(rig.monitor.as_ref().unwrap(), "cont").is_empty(), "all are taken, and it goes on");
    let rig = Rig::new(Wish { throttles, ..Wish::default() });
    let mut monitor = rig.monitor.as_ref().unwrap();
    let id = greet(monitor, "block_set_io_throttle");
    let error = r#"{"class": "GenericError", "desc": "no such limit"}"#;
    monitor.write_all(format!("{{\"error\": {error}, \"id\": {id}}}\n").as_bytes()).unwrap();
    assert_eq!(rig.report().unwrap(), Report::Greeted);
    assert!(matches!(rig.report().unwrap(), Report::Sealed { .. }));
    let Report::Failed { refusal, .. } = rig.report().unwrap() else { panic!("it started") };
    assert!(refusal.rule.contains("no such limit"), "{refusal}");
}

#[test]
fn no_guest_runs_before_its_displays_have_their_passwords() {
    if !possible() {
        return;
    }
    let of = |protocol, secret: &str| Password {
        protocol,
        secret: Secret::new(secret),
        connected: None,
        until: None,
    };
    let passwords = vec![of(Graphics::Vnc, "geheim"), of(Graphics::Spice, "")];
    let rig = Rig::new(Wish { passwords: passwords.clone(), ..Wish::default() });
    assert!(!greet(rig.monitor.as_ref().unwrap(), "cont").is_empty(), "both are taken, and it goes on");
    for refused in ["expire_password", "set_password"] {
        for paused in [false, true] {
            let rig = Rig::new(Wish { passwords: passwords.clone(), paused, ..Wish::default() });
            let mut monitor = rig.monitor.as_ref().unwrap();
            let id = greet(monitor, refused);
            let error = r#"{"class": "GenericError", "desc": "Could not set password"}"#;
            monitor.write_all(format!("{{\"error\": {error}, \"id\": {id}}}\n").as_bytes()).unwrap();
            assert_eq!(rig.report().unwrap(), Report::Greeted);
            assert!(matches!(rig.report().unwrap(), Report::Sealed { .. }));
            let Report::Failed { refusal, .. } = rig.report().unwrap() else { panic!("it started") };
            assert!(refusal.rule.contains("Could not set password"), "{refusal}");
            assert!(refusal.object.contains("password of a display"), "{refusal}");
        }
    }
}

#[test]
fn a_device_model_that_ignores_quit_is_reported_for_killing() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish { paused: true, ..Wish::default() });
    let monitor = rig.monitor.as_ref().unwrap().try_clone().unwrap();
    let peer = std::thread::spawn(move || greet(&monitor, "quit"));
    rig.started();
    let mut client = rig.connect("control");
    client.write_all(b"{\"verb\":\"destroy\"}\n").unwrap();
    let asked = Instant::now();
    assert!(!peer.join().unwrap().is_empty(), "quit was sent");
    assert_eq!(rig.report().unwrap(), Report::KillWanted);
    let waited = asked.elapsed();
    assert!(waited > Duration::from_millis(900) && waited < Duration::from_secs(5), "{waited:?}");
}

#[test]
fn every_call_through_the_open_gate_is_counted() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish { paused: true, storm: 10_000, ..Wish::default() });
    let names = play(rig.monitor.as_ref().unwrap());
    // The timed calls, the one before them, and the exec.
    assert_eq!(rig.started(), 10_002);
    drop(names);
}

#[test]
fn the_definition_decides_what_follows_a_guests_end() {
    if !possible() {
        return;
    }
    let event = |name: &str, data: &str| format!("{{\"event\": \"{name}\", \"data\": {data}}}\r\n");
    let destroyed = [
        event("SHUTDOWN", r#"{"guest": true, "reason": "guest-shutdown"}"#),
        event("GUEST_PANICKED", r#"{"action": "pause"}"#),
    ];
    for sent in destroyed {
        let rig = Rig::new(Wish::default());
        let names = play(rig.monitor.as_ref().unwrap());
        rig.started();
        rig.monitor.as_ref().unwrap().write_all(sent.as_bytes()).unwrap();
        assert_eq!(names.recv_timeout(Duration::from_secs(10)).unwrap(), "quit");
    }
    let rig = Rig::new(Wish::default());
    let names = play(rig.monitor.as_ref().unwrap());
    rig.started();
    let sent = event("SHUTDOWN", r#"{"guest": true, "reason": "guest-reset"}"#);
    rig.monitor.as_ref().unwrap().write_all(sent.as_bytes()).unwrap();
    assert_eq!(names.recv_timeout(Duration::from_secs(10)).unwrap(), "system_reset");
    assert_eq!(names.recv_timeout(Duration::from_secs(10)).unwrap(), "cont");
}

#[test]
fn actions_that_qemu_refuses_are_not_acted_by() {
    if !possible() {
        return;
    }
    let all = LifecycleAction::Preserve;
    let lifecycle = Lifecycle { on_poweroff: all, on_reboot: all, on_crash: all };
    let ended = "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}}\r\n";
    for (outcome, next) in [
        ("error\": {\"class\": \"GenericError\", \"desc\": \"no\"}", "quit"),
        ("return\": {}", "query-status"),
    ] {
        let rig = Rig::new(Wish { paused: true, ..Wish::default() });
        let monitor = rig.monitor.as_ref().unwrap();
        let played = monitor.try_clone().unwrap();
        let peer = std::thread::spawn(move || greet(&played, "set-action"));
        rig.started();
        let mut client = rig.connect("control");
        let mut verb = serde_json::to_vec(&Verb::Ask(Ask::SetLifecycle { lifecycle })).unwrap();
        verb.push(b'\n');
        client.write_all(&verb).unwrap();
        let id = peer.join().unwrap();
        let mut speak = monitor;
        speak.write_all(format!("{{\"{outcome}, \"id\": {id}}}\r\n{ended}").as_bytes()).unwrap();
        let answer: Answer = serde_json::from_str(&read_until(&mut client, "\n")).unwrap();
        assert_eq!(answer == Answer::Done, next != "quit", "{answer:?}");
        // Where nothing follows from the guest's end, the next command is what is asked then.
        client.write_all(b"{\"verb\":\"status\"}\n").unwrap();
        assert_eq!(next_command(monitor).unwrap()["execute"], next);
    }
}

/// Sends a plug's verb with its description, as root's labeller does; the answer comes on the stream.
fn plug_verb(rig: &Rig, verb: &Verb, steps: &impl serde::Serialize) -> UnixStream {
    let stream = rig.connect("control");
    let text = memfd::sealed("plug", &serde_json::to_vec(steps).unwrap()).unwrap();
    let file = memfd::sealed("image", b"").unwrap();
    let fds = if *verb == Verb::Plug { vec![text.as_fd(), file.as_fd()] } else { vec![text.as_fd()] };
    let mut line = serde_json::to_vec(verb).unwrap();
    line.push(b'\n');
    assert_eq!(scm::send(stream.as_fd(), &line, &fds).unwrap(), line.len());
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn plug_answer(stream: UnixStream) -> Answer {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

/// A device model that the test plays by hand, beyond its start.
struct Played {
    monitor: UnixStream,
}

impl Played {
    fn new(rig: &Rig) -> Self {
        let monitor = rig.monitor.as_ref().unwrap().try_clone().unwrap();
        let peer = rig.monitor.as_ref().unwrap().try_clone().unwrap();
        let id = std::thread::spawn(move || greet(&peer, "cont"));
        rig.report().unwrap();
        let id = id.join().unwrap();
        let mut played = Self { monitor };
        played.says(&format!(r#"{{"return": {{}}, "id": {id}}}"#));
        while rig.report().unwrap() != Report::Running {}
        played.monitor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        played
    }

    fn says(&mut self, line: &str) {
        self.monitor.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// The id of the next command, which must be this one.
    fn hears(&mut self, command: &str) -> String {
        let came = next_command(&self.monitor).unwrap();
        assert_eq!(came["execute"], command);
        came["id"].to_string()
    }

    fn refuses(&mut self, id: &str, class: &str, text: &str) {
        self.says(&format!(r#"{{"error": {{"class": "{class}", "desc": "{text}"}}, "id": {id}}}"#));
    }

    fn does(&mut self, command: &str) {
        let id = self.hears(command);
        self.says(&format!(r#"{{"return": {{}}, "id": {id}}}"#));
    }
}

fn unplug() -> UnplugSteps {
    let nodes = vec!["vdb-0-format".into(), "vdb-0-storage".into()];
    UnplugSteps {
        alias: "virtio-disk1".into(),
        medium: false,
        force: false,
        nodes,
        sets: vec![9],
        interface: false,
    }
}

/// Seconds of processor time of a process.
fn seconds_used(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) / 100
}

#[test]
fn a_device_model_that_answers_late_answers_nobody_else() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish::default());
    let mut played = Played::new(&rig);
    let asked = plug_verb(&rig, &Verb::Unplug, &unplug());
    let late = played.hears("device_del");
    // Nothing is known of what it did; waiting for it costs nothing.
    assert_eq!(plug_answer(asked), Answer::Pending);
    assert!(seconds_used(rig.supervisor.pid) < 5, "{} s", seconds_used(rig.supervisor.pid));
    let asked = plug_verb(&rig, &Verb::Unplug, &unplug());
    let id = played.hears("device_del");
    played.refuses(&late, "GenericError", "too late");
    played.refuses(&id, "DeviceNotFound", "no such device");
    for command in ["blockdev-del", "blockdev-del", "remove-fd", "query-fdsets"] {
        played.does(command);
    }
    assert_eq!(plug_answer(asked), Answer::Done);
}

#[test]
fn a_guest_that_cannot_go_on_after_a_save_is_not_said_to() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish::default());
    let mut played = Played::new(&rig);
    let asked = plug_verb(&rig, &Verb::Save, &());
    let id = played.hears("query-status");
    played.says(&format!(r#"{{"return": {{"status": "running", "running": true}}, "id": {id}}}"#));
    for command in ["stop", "migrate-set-parameters", "migrate-set-capabilities", "getfd"] {
        played.does(command);
    }
    let id = played.hears("migrate");
    played.refuses(&id, "GenericError", "no room");
    let id = played.hears("cont");
    played.refuses(&id, "GenericError", "locked");
    let told = plug_answer(asked);
    assert!(matches!(&told, Answer::Refused(refusal) if refusal.rule.contains("does not go on")), "{told:?}");
    let unsave = Verb::Unsave { resume: true };
    for goes_on in [false, true] {
        let asked = plug_verb(&rig, &unsave, &());
        played.does("migrate_cancel");
        played.does("query-migrate");
        let id = played.hears("cont");
        if goes_on {
            played.says(&format!(r#"{{"return": {{}}, "id": {id}}}"#));
        } else {
            played.refuses(&id, "GenericError", "still locked");
        }
        let told = plug_answer(asked);
        assert_eq!(told == Answer::Done, goes_on, "{told:?}");
    }
    // It goes on, and whether somebody stops it now is none of a save's.
    let asked = plug_verb(&rig, &unsave, &());
    played.does("migrate_cancel");
    played.does("query-migrate");
    assert_eq!(plug_answer(asked), Answer::Done);
}

#[test]
fn a_guest_is_not_reset_where_qemu_would_not_survive_it() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish::default());
    let mut played = Played::new(&rig);
    for (state, refused) in [("save-vm", true), ("postmigrate", true), ("paused", false), ("running", false)]
    {
        let mut client = rig.connect("control");
        let mut verb = serde_json::to_vec(&Verb::Ask(Ask::Reset)).unwrap();
        verb.push(b'\n');
        client.write_all(&verb).unwrap();
        let id = played.hears("query-status");
        played.says(&format!(r#"{{"return": {{"status": "{state}", "running": false}}, "id": {id}}}"#));
        if !refused {
            played.does("system_reset");
        }
        let answer: Answer = serde_json::from_str(&read_until(&mut client, "\n")).unwrap();
        assert_eq!(matches!(answer, Answer::Refused(_)), refused, "{state}: {answer:?}");
    }
    assert!(is_silent(&played));
}

#[test]
fn what_is_in_use_is_not_taken_for_gone() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish::default());
    let mut played = Played::new(&rig);
    let gone = r#"{"event": "DEVICE_DELETED", "data": {"device": "virtio-disk1", "path": "/x"}}"#;
    let asked = plug_verb(&rig, &Verb::Unplug, &unplug());
    played.does("device_del");
    played.says(gone);
    let id = played.hears("blockdev-del");
    played.refuses(&id, "GenericError", "Node 'vdb-0-format' is busy: node is used as backing hd");
    let told = plug_answer(asked);
    assert!(matches!(&told, Answer::Refused(refusal) if refusal.rule.contains("is busy")), "{told:?}");

    // The next time part of it is gone.
    let asked = plug_verb(&rig, &Verb::Unplug, &unplug());
    let id = played.hears("device_del");
    played.refuses(&id, "DeviceNotFound", "Device 'virtio-disk1' not found");
    let id = played.hears("blockdev-del");
    played.refuses(&id, "GenericError", "Failed to find node with node-name='vdb-0-format'");
    played.does("blockdev-del");
    let id = played.hears("remove-fd");
    played.refuses(&id, "GenericError", "File descriptor named 'fdset-id:9' not found");
    played.does("query-fdsets");
    assert_eq!(plug_answer(asked), Answer::Done);

    // A medium that the guest does not give away is not gone either.
    let medium = UnplugSteps { alias: "sata0-0-0".into(), medium: true, ..unplug() };
    let asked = plug_verb(&rig, &Verb::Unplug, &medium);
    played.does("blockdev-open-tray");
    let id = played.hears("blockdev-remove-medium");
    played.refuses(&id, "GenericError", "Tray of device 'sata0-0-0' is not open");
    assert!(matches!(plug_answer(asked), Answer::Refused(_)));
}

fn steps_of_a_disk(object: &str) -> PlugSteps {
    let node = r#"{"driver":"file","node-name":"vdb-0-storage","filename":"/dev/fdset/9","locking":"off"}"#;
    PlugSteps {
        alias: "virtio-disk1".into(),
        sets: vec![SetGrant { slot: Slot::new("disk:vdb:0").unwrap(), set: 9 }],
        nodes: vec![node.into()],
        top: Top::Device { object: object.into() },
    }
}

/// Whether nothing more comes for a moment.
fn is_silent(played: &Played) -> bool {
    played.monitor.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let silent = next_command(&played.monitor).is_none();
    played.monitor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    silent
}

#[test]
fn a_disk_is_told_in_one_breath_and_its_descriptor_waited_for() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish { vnc_max: 1, ..Wish::default() });
    let mut played = Played::new(&rig);
    let object = r#"{"driver":"virtio-blk-pci","id":"virtio-disk1","drive":"vdb-0-storage"}"#;
    let asked = plug_verb(&rig, &Verb::Plug, &steps_of_a_disk(object));
    let added = played.hears("add-fd");
    // Nobody else's command overtakes it, with a descriptor or without.
    let viewer = rig.connect("vnc");
    // Whoever comes after the viewer is heard after it.
    assert_eq!(rig.ask(&Verb::Listen), Answer::Done);
    assert!(is_silent(&played));
    played.says(&format!(r#"{{"return": {{}}, "id": {added}}}"#));
    played.does("query-vnc-servers");
    let (node, device) = (played.hears("blockdev-add"), played.hears("device_add"));
    let handed = played.hears("getfd");
    assert!(is_silent(&played));
    played.refuses(&node, "GenericError", "the image is torn");
    played.refuses(&device, "GenericError", "Cannot find device='' nor node-name='vdb-0-storage'");
    // What is taken back waits for the viewer's descriptor, too.
    assert!(is_silent(&played));
    played.refuses(&handed, "GenericError", "no");
    played.does("remove-fd");
    played.does("query-fdsets");
    let told = plug_answer(asked);
    assert!(matches!(&told, Answer::Refused(refusal) if refusal.rule.contains("torn")), "{told:?}");
    drop(viewer);

    // A device that comes all the same goes again, and whether the guest lets it go is not known.
    let asked = plug_verb(&rig, &Verb::Plug, &steps_of_a_disk(object));
    played.does("add-fd");
    let id = played.hears("blockdev-add");
    played.refuses(&id, "GenericError", "there is such a node");
    for command in ["device_add", "device_del", "remove-fd", "query-fdsets"] {
        played.does(command);
    }
    assert_eq!(plug_answer(asked), Answer::Pending);
}

#[test]
fn what_qemu_refuses_is_taken_back_and_what_it_takes_is_there() {
    if !possible_with_qemu() {
        return;
    }
    let mut rig = Rig::new(qemu());
    rig.started();
    let steps = |disk: &str, set: u32, driver: &str| {
        let storage = format!(
            r#"{{"driver":"file","node-name":"{disk}-0-storage","filename":"/dev/fdset/{set}","locking":"off"}}"#
        );
        let format = format!(
            r#"{{"driver":"{driver}","node-name":"{disk}-0-format","file":"{disk}-0-storage"{}}}"#,
            if driver == "qcow2" { r#","backing":null"# } else { "" }
        );
        let object =
            format!(r#"{{"driver":"virtio-blk-pci","id":"virtio-{disk}","drive":"{disk}-0-format"}}"#);
        PlugSteps {
            alias: format!("virtio-{disk}"),
            sets: vec![SetGrant { slot: Slot::new("disk:vdb:0").unwrap(), set }],
            nodes: vec![storage, format],
            top: Top::Device { object },
        }
    };
    let plug = |rig: &Rig, steps: &PlugSteps| plug_answer(plug_verb(rig, &Verb::Plug, steps));
    for set in [9, 10] {
        // An image without a byte is no qcow2; nothing is left of it, so that the same can be asked again.
        for _ in 0..2 {
            let told = plug(&rig, &steps("vdb", 9, "qcow2"));
            assert!(matches!(&told, Answer::Refused(refusal) if refusal.rule.contains("qcow2")), "{told:?}");
            assert!(!rig.human("info block -n").contains("vdb"));
        }
        let disk = format!("vd{set}");
        assert_eq!(plug(&rig, &steps(&disk, set, "raw")), Answer::Done);
        let nodes = rig.human("info block -n");
        assert!(nodes.contains(&format!("{disk}-0-format")), "{nodes}");
        let viewer = rig.connect("vnc");
        read_until(&mut { viewer }, "RFB 003.008");
        // The next one finds a QEMU that reads ahead.
        rig.replace();
    }
    // A set that is there already and a node that is there already: the disk that uses them stays.
    let told = plug(&rig, &steps("vd9", 11, "raw"));
    assert!(matches!(&told, Answer::Refused(refusal) if refusal.rule.contains("vd9-0-")), "{told:?}");
    assert!(rig.human("info block -n").contains("vd9-0-format"));
    assert_eq!(rig.status().state, "running");
}

#[test]
fn what_cannot_be_taken_back_is_not_said_to_be() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish::default());
    let mut played = Played::new(&rig);
    let object = r#"{"driver":"virtio-blk-pci","id":"virtio-disk1","drive":"vdb-0-storage"}"#;
    let steps = steps_of_a_disk(object);
    for (class, text, known) in [
        ("GenericError", "File descriptor named 'fdset-id:9' not found", true),
        ("GenericError", "something else", false),
    ] {
        let asked = plug_verb(&rig, &Verb::Plug, &steps);
        played.does("add-fd");
        played.does("blockdev-add");
        let id = played.hears("device_add");
        played.refuses(&id, "GenericError", "no slot is free");
        played.does("blockdev-del");
        let id = played.hears("remove-fd");
        played.refuses(&id, class, text);
        played.does("query-fdsets");
        let told = plug_answer(asked);
        match told {
            Answer::Refused(refusal) => assert!(known && refusal.rule.contains("no slot is free")),
            other => assert!(!known && other == Answer::Pending, "{other:?}"),
        }
    }
    // What is not the plug's own is refused here too.
    let foreign = PlugSteps { top: Top::Device { object: object.replace("vdb", "vda") }, ..steps };
    let told = plug_answer(plug_verb(&rig, &Verb::Plug, &foreign));
    assert!(matches!(&told, Answer::Refused(refusal) if refusal.rule.contains("topmost node")), "{told:?}");
}

#[test]
fn readers_that_do_not_read_cost_nothing() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new(Wish { paused: true, ..Wish::default() });
    let monitor = rig.monitor.as_ref().unwrap().try_clone().unwrap();
    std::thread::spawn(move || greet(&monitor, "nothing"));
    rig.started();
    let lazy: Vec<_> = (0..8).map(|_| rig.connect("serial")).collect();
    let held = rig.attach(false).unwrap();
    let (_, before) = rig.memory();
    let mut guest = rig.console.take().unwrap();
    guest.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let block = [b'x'; 4095];
    for _ in 0..4096 {
        guest.write_all(&block).expect("the guest never waits for a reader");
        guest.write_all(b"\n").unwrap();
    }
    let (_, after) = rig.memory();
    println!("16 MiB of output, 10 idle readers: Rss {before} kB before, {after} kB after");
    assert!(after < before + 512, "memory grew from {before} to {after} kB");
    // Every way in leads to the guest.
    let mut terminal = std::fs::OpenOptions::new().read(true).write(true).open(&rig.pty_path).unwrap();
    terminal.write_all(b"from-pty").unwrap();
    read_until(&mut guest, "from-pty");
    let mut typist = &lazy[0];
    typist.write_all(b"from-socket").unwrap();
    read_until(&mut guest, "from-socket");
    drop(held);
    let mut client = rig.attach(true).unwrap();
    client.write_all(b"from-client").unwrap();
    read_until(&mut guest, "from-client");
    // And what the guest says now reaches all of them.
    guest.write_all(b"the-end").unwrap();
    read_until(&mut client, "the-end");
    read_until(&mut terminal, "the-end");
    let log = std::fs::read(rig.path("log")).unwrap();
    assert!(log.ends_with(b"the-end") && log.len() < 40 << 20);
}

#[test]
fn a_console_that_nobody_holds_costs_no_time() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new(Wish { paused: true, ..Wish::default() });
    let monitor = rig.monitor.as_ref().unwrap().try_clone().unwrap();
    std::thread::spawn(move || greet(&monitor, "nothing"));
    rig.started();
    rig.console.as_mut().unwrap().write_all(&[b'y'; 20_000]).unwrap();
    drop(std::fs::OpenOptions::new().read(true).write(true).open(&rig.pty_path).unwrap());
    std::thread::sleep(Duration::from_millis(100));
    let ticks = || {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", rig.supervisor.pid)).unwrap();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_millis(500));
    let used = Duration::from_nanos(ticks() - before);
    assert!(used < Duration::from_millis(5), "an idle supervisor ran for {used:?} in 500 ms");
}

#[test]
fn the_guest_goes_on_without_a_labeller() {
    if !possible_with_qemu() {
        return;
    }
    let mut rig = Rig::new(qemu());
    rig.started();
    rig.labeller = None;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rig.status().state, "running");
    assert_eq!(rig.ask(&Verb::Destroy), Answer::Done);
    assert!(pidfd::wait_ended(&rig.supervisor.pidfd, 2000).unwrap());
}

#[test]
fn strangers_and_rubbish_are_turned_away() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish { paused: true, ..Wish::default() });
    greet(rig.monitor.as_ref().unwrap(), "query-status");
    let as_uid = |uid: u32| {
        let child = process::fork(|| {
            cred::set_ids(uid, uid, &[]).unwrap();
            match rig.ask(&Verb::Status) {
                Answer::Status(_) => 0,
                Answer::Refused(refusal) if refusal.rule.contains(&uid.to_string()) => 1,
                _ => 2,
            }
        })
        .unwrap();
        pidfd::wait_ended(&child.pidfd, 10_000).unwrap();
        pidfd::reap(&child.pidfd)
    };
    assert_eq!(as_uid(1234), Some(pidfd::Exit::Code(0)), "a client of the domain");
    assert_eq!(as_uid(1235), Some(pidfd::Exit::Code(1)), "a stranger");
    for rubbish in [&b"{\"verb\":\"status\",\"x\":1}\n"[..], b"\xff\n", &[b'a'; 5000][..]] {
        let mut client = rig.connect("control");
        // A request that is too long is cut off while it is written.
        let _ = client.write_all(rubbish);
        read_until(&mut client, "refused");
    }
    // Connections of strangers take nobody's place, however many there are and however long they stay.
    let crowd = process::fork(|| {
        cred::set_ids(1235, 1235, &[]).unwrap();
        let crowd: Vec<_> = (0..40).map(|_| rig.connect("control")).collect();
        std::thread::sleep(Duration::from_secs(30));
        crowd.len() as i32
    })
    .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(as_uid(1234), Some(pidfd::Exit::Code(0)), "a client of the domain, among strangers");
    crowd.end().unwrap();
    let idle: Vec<_> = (0..40).map(|_| rig.connect("control")).collect();
    drop(idle);
    let mut client = rig.connect("control");
    for _ in 0..3 {
        assert!(matches!(ask_on(&mut client, &Verb::Status), Answer::Status(_)));
    }
}

#[test]
fn a_supervisor_with_privileges_refuses_to_work() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Wish { privileged: true, ..Wish::default() });
    let Report::Failed { refusal, .. } = rig.report().unwrap() else { panic!("it works as root") };
    assert_eq!(refusal.layer, Layer::Policy);
    assert!(pidfd::wait_ended(&rig.supervisor.pidfd, 2000).unwrap());
}
