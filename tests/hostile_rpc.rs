//! Clients that send what no client of libvirt's would: whatever comes, the daemon's front answers or drops it, and
//! goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex};

use svirt::access::{Identity, Policy, SharedPolicy};
use svirt::conf::capabilities::Capabilities;
use svirt::conf::facts::{Emulator, HostFacts};
use svirt::manager::{Labelled, Manager};
use svirt::remote::{
    Events, Kind, Node, Outbox, Outcome, Piece, Service, Session, Transfer, View, ViewEvents, Way,
};
use svirt::rpc::{Deframer, Header, List, Opaque, Packet, Procedure, Program};
use svirt::settings::{Daemon, Settings};
use svirt::store::Store;

/// Bytes of events.
#[derive(Debug, Default)]
struct Heard(Mutex<usize>);

impl Outbox for Heard {
    fn event(&self, packet: Vec<u8>) {
        *self.0.lock().unwrap() += packet.len();
    }
}

/// A daemon's inside without its sockets; its labeller is never there.
struct Inside {
    service: Arc<Service>,
    session: Arc<Session>,
    heard: Arc<Heard>,
    /// How many calls wanted to open a stream.
    transfers: Mutex<usize>,
    _directory: Arc<tempfile::TempDir>,
}

fn session(id: u64, uid: u32, heard: &Arc<Heard>) -> Arc<Session> {
    let identity = Identity { uid, gid: uid, ..Identity::default() };
    Arc::new(Session::new(id, identity, false, heard.clone()))
}

impl Inside {
    fn new(uid: u32) -> Self {
        Self::with(uid, Policy::built_in(None), |_| {})
    }

    fn with(uid: u32, policy: Policy, change: impl FnOnce(&mut Daemon)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.paths.run = directory.path().to_str().unwrap().into();
        change(&mut settings.daemon);
        let store = Store::open(&directory.path().join("db")).unwrap().0.serve().unwrap();
        let policy = SharedPolicy::from(policy);
        let events = Arc::new(Events::new(policy.clone()));
        let emulators = vec![Emulator { path: "/usr/bin/qemu-system-x86_64".into(), version: (7, 2, 22) }];
        let facts = HostFacts { emulators, cpus: 2, ..HostFacts::default() };
        let sink = Arc::new(ViewEvents(events.clone(), Kind::System));
        let manager = Manager::new(settings, facts, Box::new(Labelled), Some(store), sink, |_, _| {});
        let heard = Arc::new(Heard::default());
        let session = session(1, uid, &heard);
        events.add(&session);
        let node = Node::new("host".into(), 1000, Capabilities::default(), Vec::new());
        let view = View::new(Kind::System, Arc::new(manager), node);
        let service = Arc::new(Service::new(view, Vec::new(), policy));
        Self { service, session, heard, transfers: Mutex::default(), _directory: Arc::new(directory) }
    }

    /// Another client of the same daemon, which has opened its connection.
    fn beside(&self, uid: u32) -> Self {
        let (service, directory) = (self.service.clone(), self._directory.clone());
        let heard = Arc::new(Heard::default());
        let session = session(2, uid, &heard);
        let beside = Self { service, session, heard, transfers: Mutex::default(), _directory: directory };
        beside.open();
        beside
    }

    /// Every packet in the bytes, and every answer to them.
    fn give(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.give_in_pieces(&[bytes])
    }

    fn give_in_pieces(&self, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut deframer, mut answers) = (Deframer::default(), Vec::new());
        for piece in pieces {
            deframer.push(piece);
            self.answer(&mut deframer, &mut answers);
        }
        answers
    }

    fn answer(&self, deframer: &mut Deframer, answers: &mut Vec<Vec<u8>>) {
        while let Ok(Some(packet)) = deframer.next_packet() {
            match self.service.packet(&self.session, packet) {
                Outcome::Reply(bytes) | Outcome::Last(bytes) => answers.push(bytes),
                Outcome::Later(work) => answers.push(work()),
                Outcome::Descriptors(work) => answers.push(work().0),
                Outcome::Transfer(wanted) => {
                    *self.transfers.lock().unwrap() += 1;
                    answers.push(carried(wanted));
                }
                Outcome::Relay(wanted) => answers.extend(wanted.open().err()),
                Outcome::Nothing | Outcome::Stream(_) | Outcome::Console(_) => {}
            }
        }
    }

    fn call(&self, procedure: Procedure, body: &impl svirt::rpc::Encode) -> Vec<u8> {
        self.give(&packet(procedure.number(), body)).remove(0)
    }

    fn open(&self) {
        assert_eq!(status(&self.call(Procedure::ConnectOpen, &(Some("qemu:///system"), 0_u32))), 0);
    }
}

/// The answer to a call that opens a stream, once a few pieces went over that, as a connection has them go.
fn carried(wanted: Transfer) -> Vec<u8> {
    let (answer, way) = match wanted.open() {
        Ok(opened) => opened,
        Err(refused) => return refused,
    };
    match way {
        Way::Down(mut source) => {
            let _pieces =
                (0..8).take_while(|_| matches!(source.next(), Ok(Piece::Data(_) | Piece::Hole(_)))).count();
        }
        Way::Up(mut sink) => {
            let _ended = sink.data(b"bytes").and_then(|()| sink.hole(u64::MAX)).and_then(|()| sink.finish());
        }
    }
    answer
}

fn packet(procedure: i32, body: &impl svirt::rpc::Encode) -> Vec<u8> {
    let header = Header { kind: 0, ..Header::event(Program::Remote, procedure, 7) };
    Packet::bytes(&header, body).unwrap()
}

fn word(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at * 4..at * 4 + 4].try_into().unwrap())
}

fn status(reply: &[u8]) -> i32 {
    word(reply, 6)
}

fn has(reply: &[u8], text: &str) -> bool {
    reply.windows(text.len()).any(|window| window == text.as_bytes())
}

const XML: &str = "<domain type='qemu'><name>NAME</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
    <os><type arch='x86_64' machine='q35'>hvm</type></os><devices/></domain>";

#[test]
fn errors_are_the_ones_that_clients_look_for() {
    let inside = Inside::new(0);
    // Nothing but the beginning works before the beginning.
    let early = inside.call(Procedure::ConnectGetType, &());
    assert!(status(&early) == 1 && has(&early, "hypervisor connection not open"));
    let event = inside.give(&packet(Procedure::DomainEventLifecycle.number(), &())).remove(0);
    assert!(has(&event, "unknown procedure: 107"));
    inside.open();
    let again = inside.call(Procedure::ConnectOpen, &(Some("qemu:///system"), 0_u32));
    assert!(status(&again) == 1 && has(&again, "already open"));
    for number in [454, 9999, 0, -1, i32::MIN] {
        let reply = inside.give(&packet(number, &())).remove(0);
        assert_eq!((word(&reply, 7), word(&reply, 8)), (39, 7));
        assert!(has(&reply, &format!("unknown procedure: {number}")), "{number}");
        assert_eq!(word(&reply, 5), 7, "the serial comes back");
    }
    let mut other = packet(1, &());
    other[4..8].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    assert!(has(&inside.give(&other).remove(0), "Cannot find program 305419896 version 1"));
    let mut odd = packet(3, &());
    odd[24..28].copy_from_slice(&2_u32.to_be_bytes());
    assert!(has(&inside.give(&odd).remove(0), "Unexpected message status 2"));
    let short = inside.call(Procedure::DomainLookupByName, &9_u32);
    assert_eq!((word(&short, 7), word(&short, 8)), (39, 7));
    assert!(has(&short, "Unable to decode message payload"));
    // What stands behind the arguments is ignored.
    assert_eq!(status(&inside.call(Procedure::ConnectGetType, &(1_u32, 2_u32))), 0);
    let missing = inside.call(Procedure::DomainSnapshotCreateXml, &());
    assert_eq!((word(&missing, 7), word(&missing, 8)), (3, 20));
    let nobody = inside.call(Procedure::DomainLookupByName, &"nobody");
    assert_eq!((word(&nobody, 7), word(&nobody, 8)), (42, 10));
    assert!(has(&nobody, "Domain not found: no domain with matching name 'nobody'"));
    let uri = Inside::new(0).call(Procedure::ConnectOpen, &(Some("xen:///system"), 0_u32));
    assert_eq!(word(&uri, 7), 5);
    assert!(has(
        &inside.call(Procedure::ConnectListAllDomains, &(true, 0x10000_u32)),
        "unsupported flags (0x10000)"
    ));
}

#[test]
fn every_call_of_a_stranger_is_denied() {
    let inside = Inside::new(12_345);
    let refused = inside.call(Procedure::ConnectOpen, &(Some("qemu:///system"), 0_u32));
    assert_eq!((word(&refused, 7), word(&refused, 8)), (88, 55));
    for procedure in Procedure::ALL {
        // Nothing but this is ever done for somebody whom no rule names.
        for reply in inside.give(&packet(procedure.number(), &(0_u32, 0_u32))) {
            let allowed = matches!(
                procedure,
                Procedure::AuthList | Procedure::ConnectClose | Procedure::ConnectSupportsFeature
            );
            assert!(allowed || status(&reply) == 1, "{procedure:?}");
        }
    }
}

#[test]
fn one_uid_keeps_as_much_as_it_may_and_hears_of_nobody_elses() {
    let rules =
        "[[rule]]\nuids = [7]\nrole = 'admin'\ndomains = ['web-*']\n\n[[rule]]\nuids = [8]\nrole = 'admin'";
    let inside = Inside::with(7, Policy::parse(rules, 0).unwrap(), |daemon| {
        daemon.definitions_per_user = 3;
        daemon.definition_bytes_per_user = 20_000;
    });
    inside.open();
    let other = inside.beside(8);
    let xml =
        |name: &str, more: &str| XML.replace("NAME", name).replace("<memory", &format!("{more}<memory"));
    let uuid = "<uuid>6ba7b810-9dad-11d1-80b4-00c04fd430c8</uuid>";
    assert_eq!(status(&other.call(Procedure::DomainDefineXml, &xml("secret", uuid).as_str())), 0);
    assert_eq!(status(&other.call(Procedure::DomainDefineXml, &xml("web-9", "").as_str())), 0);
    let define = |name: &str, more: &str| inside.call(Procedure::DomainDefineXml, &xml(name, more).as_str());
    // Another one's uuid: that it is taken cannot be hidden, whose it is can.
    let taken = define("web-1", uuid);
    assert!(has(&taken, "the uuid 6ba7b810-9dad-11d1-80b4-00c04fd430c8 is in use") && !has(&taken, "secret"));
    let seen = define("web-9", uuid);
    assert!(has(&seen, "is in use") && !has(&seen, "secret"));
    for name in ["web-1", "web-2", "web-3", "web-1"] {
        assert_eq!(status(&define(name, "")), 0, "{name}");
    }
    assert!(has(&define("web-4", ""), "uid 7 may keep 3 definitions (daemon.definitions_per_user)"));
    // Somebody else's that is defined anew counts too.
    assert!(has(&define("web-9", ""), "daemon.definitions_per_user"));
    let long = format!("<description>{}</description>", "x".repeat(20_000));
    assert!(has(&define("web-1", &long), "20000 bytes of definitions"));
    assert_eq!(status(&define("web-1", "<title>t</title>")), 0);
    assert_eq!(status(&other.call(Procedure::DomainDefineXml, &xml("web-8", "").as_str())), 0);
}

#[test]
fn one_client_is_told_of_one_event_a_few_times_at_most() {
    let inside = Inside::new(0);
    inside.open();
    let register = |event: i32| {
        let none: Option<svirt::rpc::Domain<'_>> = None;
        status(&inside.call(Procedure::ConnectDomainEventCallbackRegisterAny, &(event, none)))
    };
    assert_eq!((0..1000).filter(|_| register(0) == 0).count(), 8);
    // Every event that there is in libvirt 11 may be asked for, and those of pools and networks too.
    assert!((1..28).all(|event| register(event) == 0) && register(28) == 1);
    assert_eq!(status(&inside.call(Procedure::ConnectNetworkEventRegisterAny, &(0_i32, 0_u32))), 0);
}

#[test]
fn a_read_only_connection_changes_nothing() {
    let inside = Inside::new(0);
    inside.call(Procedure::ConnectOpen, &(Some("qemu:///system"), 1_u32));
    let refused = inside.call(Procedure::DomainDefineXml, &XML);
    assert_eq!(word(&refused, 7), 29);
    assert!(has(&refused, "operation forbidden: read only access prevents virDomainDefineXML"));
    assert_eq!(status(&inside.call(Procedure::ConnectListAllDomains, &(true, 3_u32))), 0);
}

#[test]
fn saved_files_are_looked_for_only_for_whom_a_rule_names() {
    let rules = |allow: &str| {
        let rule = format!("[[rule]]\nuids = [7]\nallow = [{allow}]\ndomains = ['mine']");
        let inside = Inside::with(7, Policy::parse(&rule, 0).unwrap(), |_| {});
        inside.open();
        inside
    };
    let place = Settings::default().save.places[0].clone();
    let owner = rules("'domain:getattr', 'domain:start', 'domain:write'");
    for path in [format!("{place}/a"), format!("{place}/../a"), "/etc/shadow".to_owned(), String::new()] {
        let reply = owner.call(Procedure::DomainRestore, &path.as_str());
        assert!(has(&reply, &format!("'{path}' is no saved domain with which a rule")), "{path}");
        // Nobody looks for whoever may do it to no domain at all.
        let reply = rules("'domain:getattr'").call(Procedure::DomainRestore, &path.as_str());
        assert!(has(&reply, "no rule gives uid 7 the permission domain:start"), "{path}");
    }
    // Whoever may do it to each domain hears what is wrong.
    let root = Inside::new(0);
    root.open();
    assert!(has(&root.call(Procedure::DomainRestore, &"/etc/shadow"), "lies in no directory of save.places"));
    assert!(!has(&root.call(Procedure::DomainRestore, &format!("{place}/a").as_str()), "rule"));
}

/// Calls as clients make them: each is then changed in every way.
fn seeds(uuid: [u8; 16]) -> Vec<Vec<u8>> {
    use Procedure as P;
    let domain = svirt::rpc::Domain { name: "d", uuid, id: -1 };
    let mut all = vec![
        packet(P::ConnectOpen.number(), &(Some("qemu:///system"), 0_u32)),
        packet(P::ConnectListAllDomains.number(), &(true, 3_u32)),
        packet(P::ConnectDomainEventCallbackRegisterAny.number(), &(0_i32, Some(domain))),
        packet(P::DomainDefineXml.number(), &XML),
        packet(P::DomainCreateXml.number(), &(XML, 0_u32)),
        packet(P::DomainGetXmlDesc.number(), &(domain, 0_u32)),
        packet(P::DomainOpenConsole.number(), &(domain, Some("serial0"), 0_u32)),
        packet(P::ConnectGetAllDomainStats.number(), &(List::<_, 9>(vec![domain, domain]), 0_u32, 0_u32)),
        packet(
            P::ConnectGetDomainCapabilities.number(),
            &(Some("a"), Some("b"), Some("c"), Some("d"), 0_u32),
        ),
        packet(P::DomainMigrateBegin3Params.number(), &(domain, 0_u32, Opaque::<9>(vec![1, 2, 3]))),
    ];
    for procedure in [P::StorageVolDownload, P::StorageVolUpload] {
        let volume = ("default", "a.img", "/var/lib/libvirt/images/a.img");
        all.push(packet(procedure.number(), &(volume, 4096_u64, 512_u64, 1_u32)));
    }
    for procedure in P::ALL {
        all.push(packet(procedure.number(), &(domain, 0_u32, 0_u32)));
    }
    // Other programs, and other kinds of packets: keepalive, the monitor's and containers' calls, streams, descriptors.
    all.push(Packet::bytes(&Header::event(Program::Keepalive, 1, 0), &()).unwrap());
    for (program, number) in [(Program::Qemu, 1), (Program::Qemu, 4), (Program::Lxc, 1)] {
        let header = Header { kind: 0, ..Header::event(program, number, 3) };
        all.push(Packet::bytes(&header, &(domain, "{}", 0_u32)).unwrap());
    }
    for (kind, status) in [(3, 2), (3, 0), (3, 1), (4, 0), (6, 2)] {
        let header = Header::event(Program::Remote, P::DomainOpenConsole.number(), 7);
        all.push(Packet::raw(&Header { kind, status, ..header }, b"typed").unwrap());
    }
    for event in 0..28 {
        let none: Option<svirt::rpc::Domain<'_>> = None;
        all.push(packet(P::ConnectDomainEventCallbackRegisterAny.number(), &(event, none)));
    }
    all
}

/// A generator of numbers that look random, and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % sides
    }
}

fn mutate(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(bytes.len());
        match dice.roll(6) {
            0 => bytes[at] ^= 1 << dice.roll(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.roll(5)],
            2 => bytes.truncate(at.max(28)),
            3 => bytes.extend(std::iter::repeat_n(0xff, dice.roll(64))),
            4 => {
                let word = at & !3;
                let end = (word + 4).min(bytes.len());
                bytes[word..end].fill([0, 0xff][dice.roll(2)]);
            }
            _ => {
                let piece: Vec<u8> = bytes[at..].to_vec();
                bytes.extend(piece.iter().take(200));
            }
        }
    }
    // Most keep a length that is true, so that they get behind the framing.
    if dice.roll(8) != 0 {
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_be_bytes());
    }
    bytes
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn mutated_calls_do_no_harm() {
    let inside = Inside::new(0);
    inside.open();
    let own = XML.replace("NAME", "kept");
    let defined = inside.call(Procedure::DomainDefineXml, &own.as_str());
    assert_eq!(status(&defined), 0);
    let uuid: [u8; 16] = defined[28 + 8..28 + 24].try_into().unwrap();
    let seeds = seeds(uuid);
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    // 10,000,000 where somebody has a few minutes: `SVIRT_PACKETS=10000000 cargo test --test hostile_rpc mutated`.
    let count = std::env::var("SVIRT_PACKETS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let (mut answered, mut done, mut warm) = (0, 0, 0);
    for number in 0..count {
        if number == count / 10 {
            warm = resident();
        }
        let seed = &seeds[dice.roll(seeds.len())];
        let bytes = mutate(seed, &mut dice);
        // These would only undo what the test asks for at its end.
        if [Procedure::DomainUndefine.number(), Procedure::DomainUndefineFlags.number()]
            .contains(&word(&bytes, 3))
        {
            continue;
        }
        // In two pieces: what one read gives is no packet's length.
        let (first, second) = bytes.split_at(dice.roll(bytes.len()));
        for reply in inside.give_in_pieces(&[first, second]) {
            answered += 1;
            done += usize::from(status(&reply) == 0);
            assert!(reply.len() >= 28 && reply.len() < 1 << 20);
        }
    }
    assert!(
        answered > count / 2 && done > count / 100,
        "{answered} answers, {done} good: too few get through"
    );
    assert!(*inside.transfers.lock().unwrap() > count / 1000, "too few calls got as far as to open a stream");
    // What is held does not grow with what was sent.
    let grown = resident().saturating_sub(warm);
    assert!(grown < 32 << 20, "{grown} bytes more than after a tenth of {count} packets");
    // It still knows what it knew, and hears what it wants to hear.
    let found = inside.call(Procedure::DomainLookupByName, &"kept");
    assert_eq!(status(&found), 0);
    let before = *inside.heard.0.lock().unwrap();
    assert_eq!(status(&inside.call(Procedure::DomainDefineXml, &own.as_str())), 0);
    assert!(*inside.heard.0.lock().unwrap() > before, "the mutated registrations left none that hears of it");
}
