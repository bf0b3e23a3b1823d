//! Clients that nobody would want: each harms itself, and virsh works beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod e2e_rig;
mod virsh_rig;

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use svirt::rpc::{Header, Packet, Procedure, Program, STREAM_CHUNK};
use svirt::sys::scm;
use virsh_rig::raw::{Raw, packet};
use virsh_rig::{Host, virsh_possible};

#[test]
fn garbage_and_stalls_harm_whoever_sends_them() {
    if !virsh_possible() {
        return;
    }
    let host = Host::with(|settings| settings.daemon.calls = 4, "");
    // What is no packet ends the connection.
    for garbage in [&b"\0\0\0\0"[..], b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x05abcdefgh"] {
        let mut raw = Raw::new(&host);
        raw.send(garbage);
        assert!(raw.is_over(), "{garbage:?}");
    }
    // Half a packet, many times, and connections that say nothing.
    let mut stalled: Vec<Raw> = Vec::new();
    for _ in 0..200 {
        let mut raw = Raw::new(&host);
        raw.send(b"\x01\x00\x00\x00half");
        stalled.push(raw);
    }
    // Calls whose answers are never read.
    let mut deaf = Raw::open(&host);
    // Long enough that only a daemon that has stopped reading lets it pass.
    deaf.0.set_write_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
    let call = packet(Procedure::ConnectGetCapabilities, 1, &());
    let mut sent = 0_usize;
    for _ in 0..200_000 {
        match deaf.0.write(&call) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(sent > 0 && sent < 200_000 * call.len(), "it reads a while, and not for ever: {sent}");
    assert!(host.says(&["version", "--daemon"]).contains("Running against daemon"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.daemon_pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kibibytes < 200_000, "{kibibytes} KiB are held for clients that stall");
    drop(stalled);
    drop(deaf);
    host.says(&["list"]);
}

#[test]
fn calls_overlap_and_pings_are_answered_beside_a_long_one() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let mut raw = Raw::open(&host);
    let xml = std::fs::read_to_string(host.rig.bare("d1", "")).unwrap();
    // A start takes long; what comes behind it does not wait for it.
    raw.send(&packet(Procedure::DomainCreateXml, 1, &(xml.as_str(), 0_u32)));
    raw.send(&packet(Procedure::ConnectGetType, 2, &()));
    raw.send(&Packet::bytes(&Header::event(Program::Keepalive, 1, 0), &()).unwrap());
    assert_eq!(raw.receive(), (2, 0));
    assert_eq!(raw.receive(), (0, 0));
    assert_eq!(raw.receive(), (1, 0));
    // Two clients that fight over one domain: one wins, the other hears why, nothing is left over.
    let mut second = Raw::open(&host);
    let uuid = host.rig.uuid("d1").0.into_bytes();
    let domain = svirt::rpc::Domain { name: "d1", uuid, id: -1 };
    raw.send(&packet(Procedure::DomainDestroy, 3, &domain));
    second.send(&packet(Procedure::DomainDestroy, 3, &domain));
    let ends = [raw.receive(), second.receive()];
    assert!(ends.iter().all(|(serial, _)| *serial == 3) && ends.iter().any(|(_, status)| *status == 0));
    assert!(!host.says(&["list", "--all"]).contains("d1"));
}

#[test]
fn clients_of_the_oldest_form_hear_of_domains() {
    if !virsh_possible() {
        return;
    }
    use Procedure as P;
    let host = Host::new();
    let file = host.rig.bare("d1", "");
    let mut raw = Raw::open(&host);
    let none = P::ConnectDomainEventDeregister;
    assert!(raw.call(none, &()).unwrap().has("domain event 0 not registered"));
    assert_eq!(raw.call(P::ConnectDomainEventRegister, &()).unwrap().payload, [0; 4]);
    assert!(raw.call(P::ConnectDomainEventRegisterAny, &0).unwrap().has("domain event 0 already registered"));
    assert!(raw.call(P::ConnectDomainEventRegisterAny, &16).unwrap().has("unsupported event ID 16"));
    assert_eq!(raw.call(P::ConnectDomainEventRegisterAny, &1).unwrap().status, 0);
    // The numbered form, beside it.
    let added = P::ConnectDomainEventCallbackRegisterAny;
    assert_eq!(raw.call(added, &(0, None::<svirt::rpc::Domain<'_>>)).unwrap().payload, [0; 4]);
    host.says(&["define", &file]);
    let old = raw.next().unwrap();
    let new = raw.next().unwrap();
    assert_eq!(new.payload[4..], old.payload[..], "the same but for the number");
    assert!(old.has("d1") && old.payload.ends_with(&[0; 8]), "defined, added: {old:?}");
    assert_eq!(raw.call(P::ConnectDomainEventCallbackDeregisterAny, &0).unwrap().status, 0);
    assert_eq!(raw.call(none, &()).unwrap().payload, [0; 4]);
    host.says(&["undefine", "d1"]);
    assert_eq!(raw.call(P::ConnectDomainEventDeregisterAny, &1).unwrap().status, 0, "nothing came meanwhile");
}

#[test]
fn what_was_started_for_a_client_ends_with_it() {
    if !virsh_possible() {
        return;
    }
    const AUTODESTROY: u32 = 2;
    let host = Host::new();
    let mut raw = Raw::open(&host);
    let xml = std::fs::read_to_string(host.rig.bare("d1", "")).unwrap();
    raw.send(&packet(Procedure::DomainCreateXml, 1, &(xml.as_str(), AUTODESTROY)));
    assert_eq!(raw.receive(), (1, 0));
    assert!(host.says(&["list"]).contains("d1"));
    drop(raw);
    e2e_rig::eventually("it ends with its client", || !host.says(&["list", "--all"]).contains("d1"));
    assert!(host.rig.status("d1").is_none());
}

#[test]
fn what_is_being_started_for_a_client_that_goes_ends_too() {
    if !virsh_possible() {
        return;
    }
    const AUTODESTROY: u32 = 2;
    let host = Host::new();
    let xml = std::fs::read_to_string(host.rig.bare("d1", "")).unwrap();
    for pause in [0, 5, 20, 60, 150] {
        let mut raw = Raw::open(&host);
        raw.send(&packet(Procedure::DomainCreateXml, 1, &(xml.as_str(), AUTODESTROY)));
        std::thread::sleep(std::time::Duration::from_millis(pause));
        drop(raw);
        // Long enough that a start that goes on would be through.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        e2e_rig::eventually("it ends with its client", || !host.says(&["list", "--all"]).contains("d1"));
        assert!(host.rig.status("d1").is_none());
    }
}

#[test]
fn clients_beyond_the_limit_wait_for_a_place() {
    if !virsh_possible() {
        return;
    }
    let host = Host::with(|settings| settings.daemon.clients = 3, "");
    let mut first: Vec<Raw> = (0..3).map(|_| Raw::open(&host)).collect();
    let mut waiting = Raw::new(&host);
    waiting.send(&packet(Procedure::AuthList, 9, &()));
    first.pop();
    assert_eq!(waiting.receive(), (9, 0));
}

#[test]
fn the_read_only_socket_only_reads() {
    if !virsh_possible() {
        return;
    }
    let host = Host::with(|settings| settings.daemon.read_only = true, "");
    let file = host.rig.bare("d1", "");
    host.says(&["define", &file]);
    let uri = format!("qemu+unix:///system?socket={}-ro", host.socket());
    let virsh = |words: &[&str]| {
        let mut command = std::process::Command::new(virsh_rig::VIRSH);
        command.env("LC_ALL", "C").args(["--connect", &uri]).args(words);
        e2e_rig::finish(command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()))
    };
    assert!(virsh(&["list", "--all"]).expect(0).out.contains("d1"));
    // The library does not know that this socket only reads: it is the daemon that says so.
    virsh(&["start", "d1"])
        .expect(1)
        .says(&["operation forbidden: read only access prevents virDomainCreate"]);
    virsh(&["dumpxml", "d1", "--security-info"]).expect(1).says(&["virDomainGetXMLDesc with secure flag"]);
}

#[test]
fn it_takes_over_a_socket_and_tells_its_service_manager() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixListener};
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    host.kill_daemon();
    let listener = UnixListener::bind(host.rig.path("handed")).unwrap();
    let told = UnixDatagram::bind(host.rig.path("notify")).unwrap();
    told.set_read_timeout(Some(e2e_rig::PATIENCE)).unwrap();
    // As systemd's own is: the daemon is no longer root when it serves.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(host.rig.path("notify"), everybody).unwrap();
    let mut daemon = std::process::Command::new("/bin/sh")
        .arg("-c")
        .arg("exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"")
        .args(["sh", env!("CARGO_BIN_EXE_svirtd"), "--config", &host.rig.text("svirt.toml")])
        .env("NOTIFY_SOCKET", host.rig.path("notify"))
        .stdin(OwnedFd::from(listener))
        .spawn()
        .unwrap();
    let mut text = [0; 64];
    let length = told.recv(&mut text).unwrap();
    assert!(text[..length].starts_with(b"READY=1"));
    let uri = format!("qemu+unix:///system?socket={}", host.rig.text("handed"));
    let mut virsh = std::process::Command::new(virsh_rig::VIRSH);
    virsh.args(["--connect", &uri, "list"]);
    let ran =
        e2e_rig::finish(virsh.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()));
    // A second one does not serve beside it.
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_svirtd"))
        .args(["--config", &host.rig.text("svirt.toml")])
        .output()
        .unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    ran.expect(0);
    assert!(String::from_utf8_lossy(&second.stderr).contains("another svirtd serves"));
    host.start_daemon();
    host.says(&["list"]);
}

/// Bytes of the daemon's that are in memory.
fn resident(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.daemon_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn what_clients_have_used_is_given_back_when_they_have_gone() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let mut one = Raw::open(&host);
    let length = one.call(Procedure::ConnectGetCapabilities, &()).unwrap().payload.len();
    let before = resident(&host);
    // Each has about 1 MiB of answers waiting, and something of the daemon's own comes behind it.
    let calls = packet(Procedure::ConnectGetCapabilities, 1, &()).repeat((2 << 20) / length);
    let deaf: Vec<Raw> = (0..48)
        .map(|_| {
            let mut client = Raw::open(&host);
            client.send(&calls);
            client
        })
        .collect();
    let has_grown = || resident(&host) > before + (24 << 20);
    assert!(within(10, has_grown), "{} bytes: nothing to give back", resident(&host) - before);
    drop(deaf);
    let grown = || resident(&host).saturating_sub(before);
    // The one who stays asks for nothing, and half a minute is the longest that it may take.
    assert!(within(40, || grown() < 6 << 20), "{} bytes are kept", grown());
}

/// Whether something comes true before so many seconds are over.
fn within(seconds: u64, so: impl Fn() -> bool) -> bool {
    let begin = std::time::Instant::now();
    while !so() {
        if begin.elapsed().as_secs() >= seconds {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    true
}

#[test]
fn hundreds_of_calls_in_one_piece_are_made_as_their_answers_are_read() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let mut one = Raw::open(&host);
    let length = one.call(Procedure::ConnectGetCapabilities, &()).unwrap().payload.len();
    // As many as one read takes. Their answers would be 100 MiB and more, if they were all made at once.
    let calls = packet(Procedure::ConnectGetCapabilities, 1, &()).repeat((16 << 10) / 28);
    let clients = (100 << 20) / (length * calls.len() / 28) + 1;
    let before = resident(&host);
    let mut deaf: Vec<Raw> = (0..clients).map(|_| Raw::open(&host)).collect();
    for client in &mut deaf {
        client.send(&calls);
    }
    // Others get their turn between any two of them.
    assert!(one.call(Procedure::ConnectGetType, &()).unwrap().has("QEMU"));
    // Each client's last answer comes when it reads those before it, and not before.
    let grown = resident(&host).saturating_sub(before);
    let most = (clients as u64) * (2 << 20) + (16 << 20);
    assert!(
        grown < most,
        "{grown} bytes for {clients} clients that do not read, of {length} bytes an answer"
    );
    let mut last = deaf.pop().unwrap();
    for _ in 0..calls.len() / 28 {
        assert_eq!(last.next().unwrap().payload.len(), length);
    }
}

/// Packets on the stream of a call that opened a console.
fn typed(serial: u32, status: u32, data: &[u8]) -> Vec<u8> {
    let header = Header::event(Program::Remote, Procedure::DomainOpenConsole.number(), serial);
    let header = Header { kind: 3, status: i32::try_from(status).unwrap(), ..header };
    Packet::raw(&header, data).unwrap()
}

/// Opens the console of a guest that does not read it.
fn open_console(host: &Host, domain: &svirt::rpc::Domain<'_>, flags: u32) -> (Raw, u32) {
    let mut raw = Raw::open(host);
    let opened = raw.call(Procedure::DomainOpenConsole, &(*domain, None::<&str>, flags)).unwrap();
    (raw, opened.status)
}

#[test]
fn a_guest_that_does_not_read_its_console_holds_nothing() {
    if !virsh_possible() {
        return;
    }
    const CONTINUE: u32 = 2;
    let host = Host::new();
    let file = host.rig.bare("mute", "<serial type='pty'/>");
    host.says(&["create", &file, "--paused"]);
    let domain = svirt::rpc::Domain { name: "mute", uuid: host.rig.uuid("mute").0.into_bytes(), id: -1 };
    let (mut first, status) = open_console(&host, &domain, 0);
    assert_eq!(status, 0);
    // What no client of libvirt's sends ends the stream, not the connection.
    first.send(&typed(77, CONTINUE, &vec![b'x'; STREAM_CHUNK + 1]));
    let error = first.next().unwrap();
    assert_eq!((error.kind, error.status), (3, 1));
    assert!(error.has("longer than any client of libvirt's sends"));
    assert_eq!(first.call(Procedure::ConnectGetType, &()).unwrap().status, 0);
    // It is free again for the next one.
    let mut other = None;
    e2e_rig::eventually("the console is free", || {
        let (raw, status) = open_console(&host, &domain, 0);
        other = Some(raw);
        status == 0
    });
    let mut other = other.unwrap();
    // More than anything between here and the guest holds.
    for _ in 0..200 {
        other.send(&typed(77, CONTINUE, &[b'x'; 64 << 10]));
    }
    let error = other.next().unwrap();
    assert_eq!((error.kind, error.status), (3, 1));
    assert!(error.has("the guest does not read its console"));
    e2e_rig::eventually("the console is free", || open_console(&host, &domain, 0).1 == 0);
    // And one that leaves while bytes of its own wait takes them along.
    let mut leaves = None;
    e2e_rig::eventually("the console is free", || {
        let (raw, status) = open_console(&host, &domain, 0);
        leaves = Some(raw);
        status == 0
    });
    let mut leaves = leaves.unwrap();
    leaves.send(&typed(77, CONTINUE, &[b'x'; 200 << 10]));
    drop(leaves);
    e2e_rig::eventually("the console is free", || open_console(&host, &domain, 0).1 == 0);
    host.says(&["destroy", "mute"]);
}

/// What the fighters do, by turns that each draws for itself: the call, and whether it is there to be won.
type Blow = fn(&mut Raw, &str, &svirt::rpc::Domain<'_>) -> std::io::Result<virsh_rig::raw::Reply>;

const BLOWS: &[Blow] = &[
    |raw, xml, _| raw.call(Procedure::DomainDefineXml, &xml),
    |raw, xml, _| raw.call(Procedure::DomainCreateXml, &(xml, 0_u32)),
    |raw, _, domain| raw.call(Procedure::DomainCreate, domain),
    |raw, _, domain| raw.call(Procedure::DomainDestroy, domain),
    |raw, _, domain| raw.call(Procedure::DomainUndefine, domain),
    |raw, _, domain| raw.call(Procedure::DomainSuspend, domain),
    |raw, _, domain| raw.call(Procedure::DomainResume, domain),
    |raw, _, domain| raw.call(Procedure::DomainReset, &(*domain, 0_u32)),
    |raw, _, domain| raw.call(Procedure::DomainGetXmlDesc, &(*domain, 0_u32)),
    |raw, _, domain| raw.call(Procedure::DomainGetXmlDesc, &(*domain, 0_u32)),
    |raw, _, domain| raw.call(Procedure::DomainDefineXml, &domain.name),
];

/// What a blow may be answered with: the domain is gone, or not in that state; somebody killed what was being started.
fn is_fair(reply: &virsh_rig::raw::Reply) -> bool {
    const XML: i32 = 27;
    const NO_DOMAIN: i32 = 42;
    const INVALID: i32 = 55;
    if reply.status == 0 {
        return true;
    }
    let code = i32::from_be_bytes(reply.payload[..4].try_into().unwrap());
    [XML, NO_DOMAIN].contains(&code)
        || (code == INVALID && !reply.has("was started without svirtd"))
        || reply.has("somebody killed it")
}

#[test]
fn clients_that_fight_over_a_domain_leave_what_is_told_and_nothing_else() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let xml = std::fs::read_to_string(host.rig.bare("f1", "")).unwrap();
    let uuid = xml.split_once("<uuid>").unwrap().1.split_once("</uuid>").unwrap().0;
    let domain =
        svirt::rpc::Domain { name: "f1", uuid: uuid::Uuid::try_parse(uuid).unwrap().into_bytes(), id: -1 };
    let (before, daemon) = (host.rig.snapshot(), host.daemon_pid());
    let open = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let labeller = u32::try_from(host.rig.labeller_pid().unwrap()).unwrap();
    // Its socket is there before everything else is that it opens.
    assert_eq!(host.says(&["list", "--all", "--name"]), "");
    let (held, labelled) = (open(host.daemon_pid()), open(labeller));
    std::thread::scope(|scope| {
        for fighter in 1..=6_u64 {
            let (host, xml) = (&host, xml.as_str());
            scope.spawn(move || {
                let (mut raw, mut drawn) = (Raw::open(host), fighter);
                for _ in 0..60 {
                    drawn =
                        drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let blow = BLOWS[usize::try_from(drawn >> 33).unwrap() % BLOWS.len()];
                    let reply = blow(&mut raw, xml, &domain).expect("an answer");
                    assert!(is_fair(&reply), "{}", String::from_utf8_lossy(&reply.payload));
                }
            });
        }
    });
    // Whoever starts it now has it, and a later daemon knows of what.
    let mut raw = Raw::open(&host);
    while raw.call(Procedure::DomainCreateXml, &(xml.as_str(), 0_u32)).unwrap().status != 0 {
        let _ended = raw.call(Procedure::DomainDestroy, &domain).unwrap();
    }
    let shown = host.says(&["dumpxml", "f1"]);
    assert_eq!(host.rig.status("f1").unwrap().domain.uuid.to_string(), uuid);
    host.kill_daemon();
    host.start_daemon();
    e2e_rig::eventually("it is found again", || host.virsh(&["dumpxml", "f1"]).out.trim() == shown);
    host.says(&["destroy", "f1"]);
    let _was_transient = host.virsh(&["undefine", "f1"]);
    assert_eq!(host.says(&["list", "--all", "--name"]), "");
    host.rig.same_as(&before.with_process(daemon, host.daemon_pid()));
    // A few are kept ready, or for a connection that stays; a leak would be one for each start or client.
    e2e_rig::eventually("no descriptor is left", || {
        open(host.daemon_pid()) <= held + 4 && open(labeller) <= labelled + 4
    });
}

/// A machine with a display and two channels, one of which is the agent's.
const SHOWN: &str = "<graphics type='vnc'><listen type='none'/></graphics><video><model type='vga'/></video>\
    <channel type='pty'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
    <channel type='pty'><target type='virtio' name='com.example.1'/></channel>";

/// Starts it, and how raw calls refer to it.
fn shown<'a>(host: &Host, name: &'a str, devices: &str) -> svirt::rpc::Domain<'a> {
    host.says(&["create", &host.rig.bare(name, devices)]);
    svirt::rpc::Domain { name, uuid: host.rig.uuid(name).0.into_bytes(), id: -1 }
}

#[test]
fn a_picture_of_a_display_comes_as_a_stream() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let disk = format!(
        "<disk type='file'><source file='{}'/><target dev='vda' bus='virtio'/></disk>\
         <controller type='scsi' model='virtio-scsi'/>",
        host.rig.raw("vda", 1)
    );
    shown(&host, "shown", &format!("{disk}{SHOWN}"));
    let file = host.rig.text("picture");
    let pictures = |count: u32| {
        for _ in 0..count {
            let _ = std::fs::remove_file(&file);
            assert!(host.says(&["screenshot", "shown", &file]).contains("with type of image/png"));
            let bytes = std::fs::read(&file).unwrap();
            assert!(bytes.starts_with(b"\x89PNG\r\n") && bytes.ends_with(b"IEND\xae\x42\x60\x82"));
        }
    };
    pictures(2);
    host.says(&["suspend", "shown"]);
    pictures(2);
    host.says(&["resume", "shown"]);
    assert!(host.complains(&["screenshot", "shown", &file, "--screen", "1"]).contains("no such screen ID"));
    let status = host.rig.control("shown").status().unwrap();
    assert!(status.sealed && status.refused.is_empty(), "{status:?}");
    // One that begins it and leaves keeps nobody else from it.
    let domain = svirt::rpc::Domain { name: "shown", uuid: host.rig.uuid("shown").0.into_bytes(), id: -1 };
    for _ in 0..8 {
        Raw::open(&host).send(&packet(Procedure::DomainScreenshot, 5, &(domain, 0_u32, 0_u32)));
    }
    e2e_rig::eventually("another picture", || host.virsh(&["screenshot", "shown", &file]).code == Some(0));
    // Two that look all the time disturb neither each other nor whoever plugs.
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for name in ["one", "other"] {
            let (host, over, file) = (&host, &over, host.rig.text(name));
            scope.spawn(move || {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    host.says(&["screenshot", "shown", &file]);
                }
            });
        }
        let tries = ["sda", "sdb", "sdc"].map(|target| {
            let image = host.rig.raw(target, 1);
            host.virsh(&["attach-disk", "shown", &image, target, "--live"])
        });
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        tries.into_iter().for_each(|plugged| drop(plugged.expect(0)));
    });
    host.says(&["destroy", "shown"]);
    shown(&host, "blind", "");
    assert!(host.complains(&["screenshot", "blind", &file]).contains("no screens to take screenshot from"));
    host.says(&["destroy", "blind"]);
}

#[test]
fn a_channel_is_one_client_s_and_never_the_agent_s() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let domain = shown(&host, "channels", SHOWN);
    let open = |name: Option<&str>, flags: u32| {
        let mut raw = Raw::open(&host);
        let opened = raw.call(Procedure::DomainOpenChannel, &(domain, name, flags)).unwrap();
        (raw, opened)
    };
    let (mut first, opened) = open(Some("com.example.1"), 0);
    assert_eq!(opened.status, 0);
    let (_, second) = open(Some("channel1"), 0);
    assert!(second.status == 1 && second.has("another client is attached"));
    let (_kept, forced) = open(Some("com.example.1"), 1);
    assert_eq!(forced.status, 0);
    // The first one's data have an end.
    let end = first.next().unwrap();
    assert_eq!((end.kind, end.status, end.payload.len()), (3, 2, 0));
    for (name, flags, text) in [
        (Some("org.qemu.guest_agent.0"), 0, "in use by the QEMU guest agent"),
        (Some("channel0"), 1, "in use by the QEMU guest agent"),
        (None, 0, "in use by the QEMU guest agent"),
        (Some("nosuch"), 0, "cannot find channel nosuch"),
        (Some("serial0"), 0, "cannot find channel serial0"),
        (Some("com.example.1"), 2, "unsupported flags"),
    ] {
        let (_, refused) = open(name, flags);
        assert!(refused.status == 1 && refused.has(text), "{name:?} {refused:?}");
    }
    host.says(&["destroy", "channels"]);
}

/// A call that says it brings so many descriptors.
fn with_fds(procedure: Procedure, serial: u32, count: u32, body: &impl svirt::rpc::Encode) -> Vec<u8> {
    let header = Header { kind: 4, serial, ..Header::event(Program::Remote, procedure.number(), serial) };
    Packet::bytes(&header, &(count, body)).unwrap()
}

/// Sends a byte with descriptors.
fn bring(raw: &Raw, fds: &[BorrowedFd<'_>]) {
    assert_eq!(scm::send(raw.0.as_fd(), &[0], fds).unwrap(), 1);
}

/// What a VNC server says first.
fn greets(stream: &mut UnixStream) {
    stream.set_read_timeout(Some(e2e_rig::PATIENCE)).unwrap();
    let mut greeting = [0; 12];
    stream.read_exact(&mut greeting).unwrap();
    assert!(greeting.starts_with(b"RFB 003."), "{greeting:?}");
}

#[test]
fn a_display_is_handed_to_a_client() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let domain = shown(&host, "displays", SHOWN);
    // As a descriptor of the display's own.
    let mut raw = Raw::open(&host);
    let reply = raw.call(Procedure::DomainOpenGraphicsFd, &(domain, 0_u32, 0_u32)).unwrap();
    assert_eq!((reply.kind, reply.status, &*reply.payload), (5, 0, &[0, 0, 0, 1][..]));
    let mut byte = [9];
    let (count, mut fds) = scm::recv(raw.0.as_fd(), &mut byte).unwrap();
    assert_eq!((count, byte, fds.len()), (1, [0], 1));
    let mut display = UnixStream::from(fds.pop().unwrap());
    greets(&mut display);
    // Joined with a socket that the client hands in; several at once, and none past a connection.
    let mut joined = Vec::new();
    for serial in 1..=3 {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        raw.send(&with_fds(Procedure::DomainOpenGraphics, serial, 1, &(domain, 0_u32, 1_u32)));
        bring(&raw, &[theirs.as_fd()]);
        drop(theirs);
        assert_eq!(raw.receive(), (serial, 0));
        greets(&mut ours);
        joined.push(ours);
    }
    assert!(host.rig.control("displays").status().unwrap().refused.is_empty());
    drop(raw);
    for mut ours in joined {
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }
    // The one of its own is nobody else's.
    display.write_all(b"RFB 003.008\n").unwrap();
    assert_eq!(display.read(&mut [0]).unwrap(), 1);
    let mut raw = Raw::open(&host);
    for (procedure, index) in [(Procedure::DomainOpenGraphics, 0), (Procedure::DomainOpenGraphicsFd, 1)] {
        let reply = raw.call(procedure, &(domain, index, 0_u32)).unwrap();
        let text = if index == 0 { "exactly one descriptor" } else { "No graphics backend with index 1" };
        assert!(reply.kind == 1 && reply.status == 1 && reply.has(text), "{reply:?}");
    }
    host.says(&["destroy", "displays"]);
}

/// How many descriptors the daemon has.
fn descriptors(host: &Host) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", host.daemon_pid())).unwrap().count()
}

#[test]
fn a_host_that_wants_no_unix_server_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("svirt.toml");
    std::fs::write(&file, "[host]\nunix_server = false\n").unwrap();
    let daemon =
        std::process::Command::new(env!("CARGO_BIN_EXE_svirtd")).arg("--config").arg(&file).output().unwrap();
    let told = String::from_utf8(daemon.stderr).unwrap();
    assert!(!daemon.status.success() && told.contains("host.unix_server is false"), "{told}");
}

#[test]
fn descriptors_that_nobody_wants_are_closed() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    host.says(&["list"]);
    let null = std::fs::File::open("/dev/null").unwrap();
    let before = descriptors(&host);
    let settled = |most: usize| {
        e2e_rig::eventually("descriptors are closed", || descriptors(&host) <= before + most);
    };
    // A call that has no use for them, with as many as a packet may have.
    let mut raw = Raw::open(&host);
    for serial in 1..=50 {
        raw.send(&with_fds(Procedure::ConnectGetType, serial, 32, &()));
        (0..32).for_each(|_| bring(&raw, &[null.as_fd()]));
        assert_eq!(raw.receive(), (serial, 0));
    }
    settled(1);
    // What is no socket, or none that is connected.
    let domain = svirt::rpc::Domain { name: "none", uuid: [0; 16], id: -1 };
    raw.send(&with_fds(Procedure::DomainOpenGraphics, 1, 1, &(domain, 0_u32, 0_u32)));
    bring(&raw, &[null.as_fd()]);
    assert_eq!(raw.receive(), (1, 1));
    // With the bytes of a call that brings none; the call is answered.
    let call = packet(Procedure::ConnectGetType, 2, &());
    assert_eq!(scm::send(raw.0.as_fd(), &call, &[null.as_fd(); 100]).unwrap(), call.len());
    assert_eq!(raw.receive(), (2, 0));
    settled(1);
    // One that is a socket, but would carry svirtd's own name to whoever it is connected with.
    let (datagram, _peer) = std::os::unix::net::UnixDatagram::pair().unwrap();
    raw.send(&with_fds(Procedure::DomainOpenGraphics, 3, 1, &(domain, 0_u32, 0_u32)));
    bring(&raw, &[datagram.as_fd()]);
    assert_eq!(raw.receive(), (3, 1));
    settled(1);
    // Behind half a packet, again and again: none is kept that no call has a use for.
    raw.send(&call[..10]);
    for _ in 0..100 {
        let sent = scm::send(raw.0.as_fd(), &call[10..11], &[null.as_fd(); 253]);
        if sent.is_err() {
            break;
        }
    }
    settled(1);
    drop(raw);
    settled(0);
    // Promised, and not there; more than there may be.
    let mut raw = Raw::open(&host);
    raw.send(&with_fds(Procedure::ConnectGetType, 1, 2, &()));
    bring(&raw, &[null.as_fd()]);
    raw.send(&[0]);
    assert!(raw.is_over());
    let mut raw = Raw::open(&host);
    raw.send(&with_fds(Procedure::ConnectGetType, 1, 33, &()));
    assert!(raw.is_over());
    settled(0);
    host.says(&["list"]);
}
