//! One real guest through the real `svirt`: it boots, uses disks, network and consoles, is paused and stopped, all
//! under the shipped filter with its gate shut.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod e2e_rig;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use e2e_rig::{Rig, eventually, guest, has_default_route};
use svirt::privsep::supervisor::Verb;

fn devices(rig: &Rig) -> String {
    rig.qcow2("system.qcow2", &["-o", "size=48M"]);
    rig.raw("data.raw", 8);
    let (images, sockets, log) = (rig.text("images"), rig.text("sockets"), rig.text("log"));
    // As virt-install writes it; by default it is the domain's own user network.
    let network = "<interface type='network'><source network='default'/><model type='virtio'/></interface>";
    let network = if has_default_route() { network } else { "" };
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' io='threads'/>\
         <source file='{images}/system.qcow2'/><target dev='vda' bus='virtio'/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='native'/>\
         <source file='{images}/data.raw'/><target dev='vdb' bus='virtio'/></disk>{network}\
         <serial type='unix'><source mode='bind' path='{sockets}/second'/></serial>\
         <serial type='file'><source path='{log}/third'/></serial>\
         <rng model='virtio'><backend model='builtin'/></rng><memballoon model='virtio'/>"
    )
}

#[test]
fn a_guest_lives_behind_the_sealed_filter() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let definition = rig.linux("whole", "", &devices(&rig));
    let before = rig.snapshot();
    rig.start(&definition);
    rig.heard("whole", "guest: ready");
    assert!(rig.log("whole").contains("disk: made a file system"), "{}", rig.log("whole"));
    assert!(rig.log("whole").contains("rng: "), "{}", rig.log("whole"));
    if has_default_route() {
        assert!(rig.log("whole").contains("by DHCP, gateway"), "{}", rig.log("whole"));
    }
    console(&rig);
    other_consoles(&rig);
    pause(&rig);
    network_lasts(&rig);
    held(&rig);
    rig.svirt(&["stop", "whole", "--timeout", "30"]).expect(0).says(&["powered off"]);
    rig.same_as(&before);
    assert_eq!(std::fs::read_to_string(rig.path("log/third")).unwrap().trim(), "to the file");
}

/// Types on the first console, and uses both disks again from there.
fn console(rig: &Rig) {
    let mut talk = rig.on_terminal(&["console", "whole"]);
    talk.types("echo $((6*7))\r");
    talk.shows("42\r\n");
    talk.types("dd if=/dev/urandom of=/dev/vdb bs=64k count=32 oflag=direct && echo dir''ect\r");
    talk.shows("direct\r\n");
    talk.types(
        "dd if=/dev/vdb of=/dev/vda bs=64k count=32; cmp -n 2000000 /dev/vda /dev/vdb && echo eq''ual\r",
    );
    talk.shows("equal\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
}

/// The second console is a unix socket, the third one a file.
fn other_consoles(rig: &Rig) {
    let mut talk = rig.on_terminal(&["console", "whole", "serial0"]);
    let mut socket = UnixStream::connect(rig.path("sockets/second")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    talk.types("stty raw -echo </dev/ttyS1; (echo open; head -n 1; echo over) </dev/ttyS1 >/dev/ttyS1 &\r");
    // What comes before the guest has opened its port is lost, as on a real one.
    hears(&mut socket, "open");
    socket.write_all(b"hello\n").unwrap();
    let heard = hears(&mut socket, "over");
    assert!(heard.contains("hello"), "{heard:?}");
    talk.types("echo to the file >/dev/ttyS2\r");
    eventually("the file has it", || {
        std::fs::read_to_string(rig.path("log/third")).is_ok_and(|text| text.contains("to the file"))
    });
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
}

/// Reads until this has come.
fn hears(socket: &mut UnixStream, what: &str) -> String {
    let (mut heard, mut chunk) = (String::new(), [0; 64]);
    while !heard.contains(what) {
        let length = socket.read(&mut chunk).unwrap();
        assert!(length > 0, "{heard:?}");
        heard.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    heard
}

fn pause(rig: &Rig) {
    let mut control = rig.control("whole");
    control.order(&Verb::Pause).unwrap();
    assert_eq!(control.status().unwrap().state, "paused");
    control.order(&Verb::Resume).unwrap();
    assert_eq!(control.status().unwrap().state, "running");
    let mut talk = rig.on_terminal(&["console", "whole"]);
    talk.types("echo ag''ain\r");
    talk.shows("again\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
}

/// A passt that dies is followed by another one on the same channel, which the guest reaches.
fn network_lasts(rig: &Rig) {
    if !has_default_route() {
        return;
    }
    let first = rig.helper("whole", "net0").expect("passt runs");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("another passt serves", || rig.helper("whole", "net0").is_some_and(|pid| pid != first));
    let mut talk = rig.on_terminal(&["console", "whole"]);
    // Frames go both ways: passt itself answers. The guest's first word may be lost with the last one.
    talk.types("udhcpc -i eth0 -n -q -t 20 -T 1 -s /dhcp >/dev/null && echo le''ase\r");
    talk.shows("lease\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
}

/// Everything that holds the guest is as planned, and no attack gets through.
fn held(rig: &Rig) {
    let status = rig.control("whole").status().unwrap();
    assert!(status.sealed && status.notifications > 0, "{status:?}");
    // Nothing that the guest did needed anything that the gate keeps for the launch.
    assert_eq!(status.refused, vec![], "{status:?}");
    let inspected = rig.svirt(&["inspect", "whole"]).expect(0);
    assert!(inspected.out.contains("everything is as planned"), "{}", inspected.out);
    let probed = rig.svirt(&["probe", "whole", "--json"]);
    assert_eq!(probed.code, Some(0), "{}", rig.svirt(&["probe", "whole"]).out);
    let report: serde_json::Value = serde_json::from_str(&probed.out).unwrap();
    let verdicts: Vec<&str> =
        report["rows"].as_array().unwrap().iter().map(|row| row["verdict"].as_str().unwrap()).collect();
    let count = |verdict: &str| verdicts.iter().filter(|one| **one == verdict).count();
    assert!(count("through") == 0 && count("stopped") >= 25, "{verdicts:?}");
}
