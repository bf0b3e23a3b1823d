//! svirtd, or the labeller, is killed at any moment: nothing that was acknowledged is lost, and nothing is left between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod e2e_rig;
mod virsh_rig;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use e2e_rig::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use svirt::driver::Labeller;
use svirt::rpc::{Domain, Procedure};
use virsh_rig::raw::Raw;
use virsh_rig::{Host, virsh_possible};

/// What clients see of one domain: its title where it is persistent, autostart, and whether it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    title: Option<String>,
    autostart: bool,
    runs: bool,
}

fn seen(host: &Host) -> Seen {
    if !host.says(&["list", "--all", "--name"]).lines().any(|name| name == "life") {
        return Seen::default();
    }
    let info = host.says(&["dominfo", "life"]);
    let line = |key: &str| {
        info.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim().to_owned()
    };
    let persistent = line("Persistent:") == "yes";
    let title = persistent.then(|| host.says(&["desc", "life", "--title", "--config"]));
    Seen { title, autostart: line("Autostart:") == "enable", runs: line("State:") == "running" }
}

/// One step of a domain's life: the call, and what it does.
type Step = (&'static str, fn(&mut Raw, &str, &Domain<'_>) -> std::io::Result<u32>, fn(&mut Seen));

fn titled(xml: &str, title: &str) -> String {
    xml.replace("</uuid>", &format!("</uuid><title>{title}</title>"))
}

const LIFE: &[Step] = &[
    (
        "define",
        |raw, xml, _| Ok(raw.call(Procedure::DomainDefineXml, &titled(xml, "one").as_str())?.status),
        |seen| seen.title = Some("one".into()),
    ),
    (
        "autostart",
        |raw, _, domain| Ok(raw.call(Procedure::DomainSetAutostart, &(*domain, 1_i32))?.status),
        |seen| seen.autostart = true,
    ),
    (
        "define anew",
        |raw, xml, _| Ok(raw.call(Procedure::DomainDefineXml, &titled(xml, "two").as_str())?.status),
        |seen| seen.title = Some("two".into()),
    ),
    (
        "start",
        |raw, _, domain| Ok(raw.call(Procedure::DomainCreate, domain)?.status),
        |seen| seen.runs = true,
    ),
    (
        "destroy",
        |raw, _, domain| Ok(raw.call(Procedure::DomainDestroy, domain)?.status),
        |seen| seen.runs = false,
    ),
    (
        "undefine",
        |raw, _, domain| Ok(raw.call(Procedure::DomainUndefine, domain)?.status),
        |seen| *seen = Seen::default(),
    ),
];

#[test]
fn a_daemon_that_ends_at_any_step_of_a_commit_keeps_what_it_acknowledged() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let file = host.rig.bare("life", "");
    let xml = std::fs::read_to_string(file).unwrap();
    let uuid = xml.split_once("<uuid>").unwrap().1.split_once("</uuid>").unwrap().0;
    let uuid = uuid::Uuid::try_parse(uuid).unwrap().into_bytes();
    let domain = Domain { name: "life", uuid, id: -1 };
    let mut ended = 0;
    for fault in 0.. {
        host.kill_daemon();
        host.start_faulty_daemon(fault);
        let mut raw = Raw::open(&host);
        let (mut before, mut after) = (Seen::default(), Seen::default());
        for (name, call, does) in LIFE {
            before = after.clone();
            does(&mut after);
            match call(&mut raw, &xml, &domain) {
                Ok(status) => assert_eq!(status, 0, "{name}, fault {fault}"),
                Err(_) => break,
            }
            before = after.clone();
        }
        if before == after {
            break;
        }
        ended += 1;
        eventually("it has ended", || host.daemon_died());
        host.start_daemon();
        let now = seen(&host);
        assert!(now == before || now == after, "fault {fault}: {now:?}, and not {before:?} or {after:?}");
        if now.runs {
            assert!(host.says(&["dumpxml", "life"]).contains("<title>two</title>"));
            host.says(&["destroy", "life"]);
        }
        // What the labeller has is what is shown.
        assert!(host.rig.status("life").is_none());
        if now.title.is_some() {
            host.says(&["undefine", "life"]);
        }
    }
    assert!(ended >= 15, "six changes and more have three steps each, and only {ended} were walked");
}

/// The number that a definition has in its title.
fn number(raw: &mut Raw, name: &str) -> usize {
    let found = raw.call(Procedure::DomainLookupByName, &name).unwrap();
    assert_eq!(found.status, 0, "{name} is lost");
    let at = 4 + name.len().div_ceil(4) * 4;
    let uuid = found.payload[at..at + 16].try_into().unwrap();
    let text = raw.call(Procedure::DomainGetXmlDesc, &(Domain { name, uuid, id: -1 }, 0_u32)).unwrap();
    let text = String::from_utf8(text.payload[4..].to_vec()).unwrap();
    text.split_once("<title>").unwrap().1.split_once('<').unwrap().0.parse().unwrap()
}

#[test]
fn a_crowd_that_defines_loses_nothing_that_was_acknowledged() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let base = std::fs::read_to_string(host.rig.bare("base", "")).unwrap();
    let (before, rest) = base.split_once("<uuid>").unwrap();
    let base = format!("{before}<title>0</title>{}", rest.split_once("</uuid>").unwrap().1);
    let acknowledged = Mutex::new(BTreeMap::new());
    for round in 0..3 {
        let told = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (base, acknowledged, host, told) = (&base, &acknowledged, &host, &told);
            for client in 0..8 {
                scope.spawn(move || {
                    let mut raw = Raw::open(host);
                    // Each name again and again, with a number that only grows.
                    for number in (round * 100_000..).take(100_000) {
                        let name = format!("crowd-{client}-{}", number % 7);
                        let xml = base.replace("<title>0<", &format!("<title>{number}<"));
                        let xml = xml.replace("<name>base<", &format!("<name>{name}<"));
                        let Ok(reply) = raw.call(Procedure::DomainDefineXml, &xml.as_str()) else { break };
                        assert_eq!(reply.status, 0);
                        acknowledged.lock().unwrap().insert(name, number);
                        told.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            eventually("many are defined", || told.load(Ordering::Relaxed) > 150 * (round + 1));
            // While the others still define: what they were told until then is what counts.
            kill(Pid::from_raw(i32::try_from(host.daemon_pid()).unwrap()), Signal::SIGKILL).unwrap();
        });
        host.kill_daemon();
        host.start_daemon();
        let mut raw = Raw::open(&host);
        for (name, told) in acknowledged.lock().unwrap().iter() {
            let kept = number(&mut raw, name);
            assert!(kept >= *told, "{name} was acknowledged as {told}, and is {kept} after round {round}");
        }
    }
}

#[test]
fn a_labeller_that_is_killed_at_any_step_of_a_life_leaves_what_is_told() {
    if !virsh_possible() || !cfg!(debug_assertions) {
        println!("skipped: needs a debug build");
        return;
    }
    let mut host = Host::new();
    let file = host.rig.bare("step", "");
    host.says(&["define", &file]);
    let mut ended = 0;
    for step in (0..).step_by(5) {
        host.kill_labeller();
        host.start_faulty_labeller(&format!("kill:{step}"));
        let done = |words: [&str; 2]| host.virsh(&words).code == Some(0);
        if done(["start", "step"]) && done(["destroy", "step"]) && !host.labeller_died() {
            break;
        }
        ended += 1;
        eventually("it has ended", || host.labeller_died());
        host.start_labeller();
        // What failed has left a guest that runs, or none; svirtd tells which.
        let runs = host.rig.status("step").is_some();
        let state = if runs { "running" } else { "shut off" };
        eventually("it tells what is", || host.says(&["domstate", "step"]) == state);
        if !runs {
            eventually("it can be started", || host.virsh(&["start", "step"]).code == Some(0));
        }
        host.says(&["destroy", "step"]);
        assert!(host.rig.status("step").is_none());
    }
    assert!(ended >= 5, "only {ended} steps were walked");
}

/// Whether QEMU has the device that is plugged in, whether it is shown, and whether the labeller knows of it.
fn plugged(host: &Host) -> [bool; 3] {
    let query = r#"{"execute":"qom-list","arguments":{"path":"/machine/peripheral"}}"#;
    let known = || {
        let mut labeller = Labeller::connect(&host.rig.settings).ok()?;
        let described = labeller.describe(host.rig.status("unsure")?.domain.uuid).ok()?;
        Some(!described.plugs.is_empty())
    };
    [
        host.says(&["qemu-monitor-command", "unsure", query]).contains("\"usb-disk"),
        host.says(&["domblklist", "unsure"]).contains("sdb"),
        known() == Some(true),
    ]
}

#[test]
fn a_device_that_nobody_acknowledged_is_shown_where_it_is_there() {
    if !virsh_possible() || !cfg!(debug_assertions) {
        println!("skipped: needs a debug build");
        return;
    }
    let mut host = Host::new();
    let image = host.rig.raw("plugged.raw", 4);
    let devices = "<controller type='usb' model='qemu-xhci'/><disk type='file' device='cdrom'>\
                   <target dev='sda' bus='sata'/><readonly/></disk>";
    host.says(&["define", &host.rig.bare("unsure", devices)]);
    host.says(&["start", "unsure"]);
    let agree = |host: &Host| {
        eventually("what is there is shown, and nothing else", || {
            let [there, shown, known] = plugged(host);
            there == shown && shown == known
        });
        plugged(host)[0]
    };
    let attach = ["attach-disk", "unsure", &image, "sdb", "--targetbus", "usb", "--live"];
    for (words, wanted) in [(&attach[..], true), (&["detach-disk", "unsure", "sdb", "--live"], false)] {
        let mut left = Vec::new();
        for step in 0.. {
            host.kill_labeller();
            host.start_faulty_labeller(&format!("kill:{step}"));
            let ran = host.virsh(words);
            if ran.code == Some(0) {
                break;
            }
            eventually(&format!("it has died of {}", ran.err), || host.labeller_died());
            host.start_labeller();
            left.push(agree(&host));
            if left.last() == Some(&wanted) {
                // Done, and nobody was told.
                let other =
                    if wanted { &["detach-disk", "unsure", "sdb", "--live"][..] } else { &attach[..] };
                host.says(other);
            }
        }
        assert!(left.contains(&true) && left.contains(&false), "{words:?}: {left:?}");
        // The labeller that was to die has not, and has all its steps behind it.
        host.kill_labeller();
        host.start_labeller();
        assert_eq!(agree(&host), wanted);
    }
}

#[test]
fn what_runs_keeps_its_definition_when_it_is_started_while_the_labeller_is_away() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let file = host.rig.bare("away", "");
    host.says(&["define", &file]);
    host.says(&["start", "away"]);
    let before = host.says(&["dumpxml", "away"]);
    let other = host.rig.bare("saved", "");
    host.says(&["define", &other]);
    host.says(&["start", "saved"]);
    host.says(&["managedsave", "saved"]);
    host.kill_daemon();
    host.kill_labeller();
    host.start_daemon();
    // Nobody knows whether it runs, and so nobody says that it does not.
    assert_eq!(host.says(&["domstate", "away"]), "no state");
    assert_eq!(host.says(&["list", "--name"]), "away");
    assert!(host.says(&["list", "--all", "--name"]).contains("saved"));
    let later = |host: &Host, words: &[&str]| {
        let mut virsh = host.command(words);
        std::thread::spawn(move || virsh.output().unwrap())
    };
    // To start it would overwrite what it was started with, and to undefine what is saved would leave that to nobody.
    let calls = [
        later(&host, &["create", &file]),
        later(&host, &["destroy", "away"]),
        later(&host, &["undefine", "saved"]),
        later(&host, &["managedsave-edit", "saved"]),
    ];
    for call in calls {
        let ran = call.join().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(!ran.status.success() && said.contains("labeller does not answer"), "{said}");
    }
    // Whoever asks a moment before it is there again need not ask twice.
    let undefined = later(&host, &["undefine", "saved"]);
    host.start_labeller();
    let said = String::from_utf8(undefined.join().unwrap().stderr).unwrap();
    assert!(said.contains("managed save image exists"), "{said}");
    eventually("it is found again", || host.says(&["domstate", "away"]) == "running");
    assert_eq!(host.says(&["dumpxml", "away"]), before);
    host.says(&["destroy", "away"]);
    host.says(&["undefine", "saved", "--managed-save"]);
}

#[test]
fn what_is_ended_while_it_starts_is_gone_once_that_is_answered() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let file = host.rig.bare("short", "");
    host.says(&["define", &file]);
    let uuid = host.says(&["domuuid", "short"]);
    let uuid = uuid::Uuid::try_parse(&uuid).unwrap().into_bytes();
    let domain = Domain { name: "short", uuid, id: -1 };
    for pause in [0, 2, 5, 10, 20, 40, 80, 160] {
        let (mut starts, mut ends) = (Raw::open(&host), Raw::open(&host));
        starts.send(&virsh_rig::raw::packet(Procedure::DomainCreate, 1, &domain));
        std::thread::sleep(std::time::Duration::from_millis(pause));
        let ended = ends.call(Procedure::DomainDestroy, &domain).unwrap();
        let started = starts.next().unwrap();
        // One that came before the start was refused; any other took what was there away.
        if ended.status == 0 {
            assert_eq!(host.says(&["domstate", "short"]), "shut off", "after {pause} ms");
            assert!(host.rig.status("short").is_none());
        } else {
            assert!(ended.has("domain is not running") && started.status == 0);
            host.says(&["destroy", "short"]);
        }
    }
}

#[test]
fn an_interactive_virsh_goes_on_by_itself() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let file = host.rig.bare("stays", "");
    host.says(&["define", &file]);
    let mut talk = e2e_rig::terminal::Talk::new(host.command(&[]));
    talk.shows("virsh #");
    talk.types("list --all --name\r");
    talk.shows("stays");
    host.kill_daemon();
    talk.shows("Disconnected from");
    host.start_daemon();
    talk.types("domstate stays\r");
    talk.shows("Reconnected to the hypervisor");
    talk.types("domstate stays\r");
    talk.shows("shut off");
    talk.types("quit\r");
    assert_eq!(talk.ends(), Some(0));
}
