//! svirtd beside the libvirtd that Debian installs, in one run and by one raw client: ratios. Root only.
//!
//! `cargo bench --bench svirtd`, or with names of parts behind `--`: `calls`, `cold`, `define`, `many`, `plug`,
//! `restart`, `life`. With `small` among them all counts are a tenth, which shows that it works and promises nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/bare.rs"]
mod bare;
#[path = "common/daemons.rs"]
mod daemons;
#[path = "common/echo.rs"]
mod echo;
#[path = "common/turns.rs"]
mod turns;
#[path = "common/wire.rs"]
mod wire;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bare::Bare;
use daemons::{Daemon, STOCK};
use echo::Echo;
use svirt::base::DomainUuid;
use svirt::driver::Labeller;
use svirt::privsep::op::LaunchPlan;
use svirt::rpc::{Domain, Procedure};
use svirt::sys::rlimit;
use turns::{Measured, Side, in_turns};
use wire::{Client, Times};

/// What is measured together.
type Part = fn(&mut [Daemon; 2]);

/// Clients at once.
const CLIENTS: usize = 32;

/// Whether everything is counted in tenths.
static SMALL: AtomicBool = AtomicBool::new(false);

/// So many, or a tenth.
fn so_many(count: usize) -> usize {
    if SMALL.load(Ordering::Relaxed) { count / 10 } else { count }
}

/// Definitions, or clients, for everything that has many.
fn many_of() -> usize {
    so_many(5000)
}

/// One measure of both daemons, and what is promised of its ratio.
fn compare(what: &str, unit: &str, [ours, stock]: [f64; 2], promise: f64) {
    let ratio = ours / stock;
    let verdict = if ratio <= promise { "" } else { "  MISSED" };
    println!("{what:44} {ours:10.1} {stock:10.1} {unit:3}  {ratio:5.2} (promise: {promise:.2}){verdict}");
}

fn main() {
    if !nix::unistd::geteuid().is_root() || !std::path::Path::new(STOCK).exists() {
        println!("skipped: needs root and {STOCK}");
        return;
    }
    rlimit::set(rlimit::Kind::Nofile, rlimit::hard(rlimit::Kind::Nofile)).unwrap();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let (small, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|word| word == "small");
    SMALL.store(!small.is_empty(), Ordering::Relaxed);
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|word| word == part);
    let mut both = [Daemon::svirtd(), Daemon::libvirtd()];
    println!("{:44} {:>10} {:>10}", "", "svirtd", "libvirtd");
    let resident = each(&both, |daemon| daemon.resident() as f64 / 1e6);
    println!("{:44} {:10.1} {:10.1} MB  (promise: 12 MB)", "resident, empty", resident[0], resident[1]);
    let parts: [(&str, Part); 7] = [
        ("cold", cold),
        ("life", life),
        ("plug", plug),
        ("define", define),
        ("calls", calls),
        ("restart", restart),
        ("many", many),
    ];
    for (name, part) in parts {
        if wants(name) {
            part(&mut both);
        }
    }
}

fn each(both: &[Daemon; 2], measure: impl Fn(&Daemon) -> f64) -> [f64; 2] {
    [measure(&both[0]), measure(&both[1])]
}

/// What virt-install would write for a small guest.
fn definition(name: &str, image: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices>\
         <emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{image}'/>\
         <target dev='vda' bus='virtio'/></disk><serial type='pty'/><console type='pty'/>\
         <memballoon model='virtio'/></devices></domain>"
    )
}

fn open(daemon: &Daemon) -> Client {
    Client::open(&daemon.socket).unwrap()
}

/// Defines so many domains over so many connections; domains a second.
fn rate(daemon: &Daemon, prefix: &str, connections: usize, each: usize) -> f64 {
    let image = "/var/lib/libvirt/images/none.qcow2";
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for connection in 0..connections {
            scope.spawn(move || {
                let mut client = open(daemon);
                for number in 0..each {
                    let xml = definition(&format!("{prefix}-{connection}-{number}"), image);
                    assert!(client.call(Procedure::DomainDefineXml, &xml.as_str()), "{}", daemon.name());
                }
            });
        }
    });
    (connections * each) as f64 / begin.elapsed().as_secs_f64()
}

/// Whatever there is not yet of that many definitions.
fn fill(daemon: &Daemon) {
    let mut client = open(daemon);
    assert!(client.call(Procedure::ConnectNumOfDefinedDomains, &()));
    let there = u32::from_be_bytes(client.answer()[..4].try_into().unwrap()) as usize;
    if there < many_of() {
        rate(daemon, "fill", CLIENTS, (many_of() - there).div_ceil(CLIENTS));
    }
}

fn define(both: &mut [Daemon; 2]) {
    let single = |daemon: &Daemon| {
        let mut client = open(daemon);
        let mut number = 0;
        Times::of(so_many(300), || {
            number += 1;
            let xml = definition(&format!("single-{number}"), "/var/lib/libvirt/images/none.qcow2");
            assert!(client.call(Procedure::DomainDefineXml, &xml.as_str()));
        })
        .percentile(50)
    };
    compare("define, durable: p50", "us", each(both, single), 0.6);
    let together = each(both, |daemon| 1e6 / rate(daemon, "together", CLIENTS, so_many(40)));
    compare("define, durable, 32 connections: each", "us", together, 0.25);
}

/// A client of a daemon that does one call again and again.
fn side<'a>(daemon: &'a Daemon, call: impl Fn(&mut Client) + 'a) -> Side<'a> {
    let mut client = open(daemon);
    Side { call: Box::new(move || call(&mut client)), cpu: Box::new(|| daemon.cpu()) }
}

fn both_of(both: &[Daemon; 2], what: &str, count: usize, promises: [f64; 2], call: impl Fn(&mut Client)) {
    let [ours, stock] = in_turns(so_many(count), [side(&both[0], &call), side(&both[1], &call)]);
    told(what, [&ours, &stock], promises);
}

fn told(what: &str, [ours, stock]: [&Measured; 2], promises: [f64; 2]) {
    compare(&format!("{what}: p50"), "us", [ours.p50, stock.p50], promises[0]);
    compare(&format!("{what}: CPU of the daemon"), "us", [ours.cpu, stock.cpu], promises[1]);
}

/// The least that a call can be, beside a process that only answers: most of that is the kernel's, and no daemon's.
fn ping(both: &[Daemon; 2]) {
    let call = |client: &mut Client| assert!(client.call(Procedure::ConnectGetLibVersion, &()));
    let echo = Echo::start();
    let plain = Side { call: Box::new(|| echo.call()), cpu: Box::new(|| daemons::cpu(echo.pid())) };
    let sides = [side(&both[0], call), side(&both[1], call), plain];
    let [ours, stock, echo] = in_turns(so_many(20_000), sides);
    told("ping (virConnectGetLibVersion)", [&ours, &stock], [0.5, 0.25]);
    let (p50, cpu) = (ours.p50 - echo.p50, stock.p50 - echo.p50);
    println!(
        "{:44} {p50:10.1} {cpu:10.1} us   {:5.2} (a plain answer: {:.1} us, its CPU {:.1} us)",
        "ping: p50, over a plain answer",
        p50 / cpu,
        echo.p50,
        echo.cpu
    );
}

fn calls(both: &mut [Daemon; 2]) {
    ping(both);
    both_of(both, "virNodeGetInfo", 4000, [0.125, 0.25], |client| {
        assert!(client.call(Procedure::NodeGetInfo, &()));
    });
    both_of(both, "virConnectGetCapabilities", 2000, [0.125, 0.25], |client| {
        assert!(client.call(Procedure::ConnectGetCapabilities, &()));
    });
    both.iter().for_each(fill);
    both_of(both, &format!("list of {}", many_of()), 60, [0.6, 0.1], |client| {
        assert!(client.call(Procedure::ConnectListAllDomains, &(true, 0_u32)));
    });
    let xml = |daemon| {
        let mut client = open(daemon);
        let text = definition("shown", "/var/lib/libvirt/images/none.qcow2");
        assert!(client.call(Procedure::DomainDefineXml, &text.as_str()));
        let uuid = client.domain();
        side(daemon, move |client| {
            let domain = Domain { name: "shown", uuid, id: -1 };
            assert!(client.call(Procedure::DomainGetXmlDesc, &(domain, 0_u32)));
        })
    };
    let [ours, stock] = in_turns(so_many(3000), [xml(&both[0]), xml(&both[1])]);
    compare("XML of a domain: p50", "us", [ours.p50, stock.p50], 1.0 / 3.0);
    beside(both);
}

/// Many clients at once.
fn beside(both: &[Daemon; 2]) {
    let crowd = |daemon: &Daemon| {
        let times = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = open(daemon);
                        Times::of(so_many(500), || assert!(client.call(Procedure::ConnectGetLibVersion, &())))
                            .all()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        Times::from(times)
    };
    let [ours, stock] = [crowd(&both[0]), crowd(&both[1])];
    compare("32 connections: p50", "us", [ours.percentile(50), stock.percentile(50)], 0.5);
    compare("32 connections: p99, and stock's p50", "us", [ours.percentile(99), stock.percentile(50)], 1.0);
}

fn restart(both: &mut [Daemon; 2]) {
    both.iter().for_each(fill);
    let mut measures = [[0.0; 2]; 2];
    for (at, daemon) in both.iter_mut().enumerate() {
        let mut times: Vec<f64> = (0..3)
            .map(|_| {
                daemon.kill();
                daemon.start().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        measures[0][at] = times[1];
        measures[1][at] = daemon.resident() as f64 / 1e6;
    }
    let [[ours, stock], [held, stocks]] = measures;
    let (restart, resident) =
        (format!("restart with {}, to the first answer", many_of()), format!("resident with {}", many_of()));
    println!("{restart:44} {ours:10.1} {stock:10.1} ms  (promise: 250 ms)");
    println!("{resident:44} {held:10.1} {stocks:10.1} MB  (promise: 30 MB)");
}

/// Connections that are there, a fifth of which sends half a packet and nothing more.
fn many(both: &mut [Daemon; 2]) {
    let (clients, stalled) = (many_of(), many_of() / 5);
    let crowd = |daemon: &Daemon| {
        let mut connected: Vec<Client> = (0..clients).map(|_| open(daemon)).collect();
        for client in connected.iter_mut().take(stalled) {
            client.stream.write_all(&[0, 0, 1, 0, 0x20]).unwrap();
        }
        let mut next = stalled;
        let times = Times::of(2 * (clients - stalled), || {
            assert!(connected[next].call(Procedure::ConnectGetLibVersion, &()));
            next = if next + 1 == clients { stalled } else { next + 1 };
        });
        let what = format!("{} with {clients} clients", daemon.name());
        println!("{what:44} {:10.1} MB resident", daemon.resident() as f64 / 1e6);
        times.percentile(50)
    };
    compare(&format!("{clients} clients, {stalled} stalled: p50"), "us", each(both, crowd), 1.0);
}

/// From nothing kept at all, labeller included, to what a device model can do: emulators are asked for the first time.
fn cold(_: &mut [Daemon; 2]) {
    let first = |start: fn() -> Daemon| {
        let begin = Instant::now();
        let daemon = start();
        let mut client = open(&daemon);
        type Words =
            (Option<&'static str>, Option<&'static str>, Option<&'static str>, Option<&'static str>, u32);
        let words: Words = (None, None, None, Some("qemu"), 0);
        assert!(client.call(Procedure::ConnectGetDomainCapabilities, &words), "{}", daemon.name());
        begin.elapsed().as_secs_f64() * 1e3
    };
    let [ours, stock] = [first(Daemon::svirtd), first(Daemon::libvirtd)];
    let what = "cold start, to what an emulator can do";
    println!("{what:44} {ours:10.1} {stock:10.1} ms  (promise: 1000 ms)");
}

/// A whole life: created from XML until its guest runs, and ended; and the argument list that svirtd starts, without it.
fn life(both: &mut [Daemon; 2]) {
    let images = both.each_ref().map(|daemon| daemon.image("life.qcow2"));
    let mut clients = both.each_ref().map(open);
    let plan = plan(&both[0], &mut clients[0], "life-plan", &images[0]);
    let (mut created, mut ended, mut bare) =
        ([const { Vec::new() }; 2], [const { Vec::new() }; 2], Vec::new());
    for number in 0..so_many(30) {
        for (at, client) in clients.iter_mut().enumerate() {
            let (name, begin) = (format!("life-{number}"), Instant::now());
            let uuid = create(client, &definition(&name, &images[at]));
            created[at].push(begin.elapsed());
            let begin = Instant::now();
            assert!(client.call(Procedure::DomainDestroy, &Domain { name: &name, uuid, id: -1 }));
            ended[at].push(begin.elapsed());
        }
        let begin = Instant::now();
        let running = Bare::start(&plan);
        bare.push(begin.elapsed());
        running.stop();
    }
    let millis = |times: Vec<_>| Times::from(times).percentile(50) / 1e3;
    let (created, ended, bare) = (created.map(millis), ended.map(millis), millis(bare));
    compare("create: p50", "ms", created, 1.0);
    compare("create: p50, and the bare argv", "ms", [created[0], bare], 1.3);
    let [ours, stock] = ended;
    println!("{:44} {ours:10.1} {stock:10.1} ms  (promise: 10 ms)", "destroy: p50");
}

/// Starts a domain; its uuid.
fn create(client: &mut Client, xml: &str) -> [u8; 16] {
    let created = client.call(Procedure::DomainCreateXml, &(xml, 0_u32));
    assert!(created, "{:?}", String::from_utf8_lossy(client.answer()));
    client.domain()
}

/// A disk that comes to a guest and leaves it. On this bus nobody waits for the guest, which has no system that would
/// let it go.
fn plug(both: &mut [Daemon; 2]) {
    let mut measures: [[Vec<_>; 2]; 2] = Default::default();
    let mut sides = both.each_ref().map(|daemon| {
        let (image, more) = (daemon.image("plug.qcow2"), daemon.image("plugged.qcow2"));
        let scsi = "<controller type='scsi' model='virtio-scsi'/></devices>";
        let mut client = open(daemon);
        let uuid = create(&mut client, &definition("plug", &image).replace("</devices>", scsi));
        let disk = format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{more}'/>\
             <target dev='sda' bus='scsi'/></disk>"
        );
        (client, uuid, disk)
    });
    for round in 0..=so_many(50) {
        for (at, (client, uuid, disk)) in sides.iter_mut().enumerate() {
            let domain = Domain { name: "plug", uuid: *uuid, id: -1 };
            for (which, procedure) in
                [Procedure::DomainAttachDevice, Procedure::DomainDetachDevice].into_iter().enumerate()
            {
                let begin = Instant::now();
                let done = client.call(procedure, &(domain, disk.as_str()));
                assert!(done, "{procedure:?}: {:?}", String::from_utf8_lossy(client.answer()));
                // The first one warms up.
                if round > 0 {
                    measures[which][at].push(begin.elapsed());
                }
            }
        }
    }
    for (client, uuid, _) in &mut sides {
        assert!(client.call(Procedure::DomainDestroy, &Domain { name: "plug", uuid: *uuid, id: -1 }));
    }
    for (what, times) in ["attach a disk: p50", "detach a disk: p50"].into_iter().zip(measures) {
        compare(what, "us", times.map(|times| Times::from(times).percentile(50)), 1.0 / 3.0);
    }
}

/// What the labeller was told for a definition when svirtd started it; the domain is ended again.
fn plan(daemon: &Daemon, client: &mut Client, name: &str, image: &str) -> LaunchPlan {
    let uuid = create(client, &definition(name, image));
    let mut labeller = Labeller::connect(&daemon.settings()).unwrap();
    let described = labeller.describe(DomainUuid(uuid::Uuid::from_bytes(uuid))).unwrap();
    assert!(client.call(Procedure::DomainDestroy, &Domain { name, uuid, id: -1 }));
    described.plan
}
