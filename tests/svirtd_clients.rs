//! Clients that nobody would want: each harms itself, and virsh works beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod e2e_rig;
mod virsh_rig;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use svirt::rpc::{Encode, Header, Packet, Procedure, Program};
use virsh_rig::{Host, virsh_possible};

fn packet(procedure: Procedure, serial: u32, body: &impl Encode) -> Vec<u8> {
    let header = Header { kind: 0, serial, ..Header::event(Program::Remote, procedure.number(), serial) };
    Packet::bytes(&header, body).unwrap()
}

/// A connection without a library of libvirt's.
struct Raw(UnixStream);

impl Raw {
    fn new(host: &Host) -> Self {
        let stream = UnixStream::connect(host.socket()).unwrap();
        stream.set_read_timeout(Some(e2e_rig::PATIENCE)).unwrap();
        stream.set_write_timeout(Some(e2e_rig::PATIENCE)).unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn open(host: &Host) -> Self {
        let mut raw = Self::new(host);
        raw.send(&packet(Procedure::ConnectOpen, 0, &(Some("qemu:///system"), 0_u32)));
        assert_eq!(raw.receive().1, 0);
        raw
    }

    /// Serial and status of the next packet.
    fn receive(&mut self) -> (u32, u32) {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.0.read_exact(&mut rest).unwrap();
        let word = |at: usize| u32::from_be_bytes(rest[at * 4..at * 4 + 4].try_into().unwrap());
        (word(4), word(5))
    }

    /// Whether the daemon has let go of it: the end, or a reset where it had not read everything.
    fn is_over(&mut self) -> bool {
        match self.0.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

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
