//! What the real virsh does to domains that run: reboots, keys, statistics, memory, devices, saved images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/bridge.rs"]
mod bridge;
mod e2e_rig;
mod virsh_live_panic;
mod virsh_live_password;
mod virsh_live_save;
mod virsh_live_tune;
mod virsh_rig;

use std::fs::File;
use std::process::{Child, Stdio};

use e2e_rig::{eventually, guest};
use nix::sys::signal::Signal;
use virsh_rig::{Host, virsh_possible};

fn is_possible() -> bool {
    virsh_possible() && guest().is_some()
}

/// A definition of the demo's guest that starts again when it reboots.
fn linux(host: &Host, name: &str, devices: &str) -> String {
    let file = host.rig.linux(name, "", devices);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("<on_reboot>destroy</on_reboot>", "")).unwrap();
    file
}

/// Waits until a guest has booted for the `count`th time in this run.
fn is_ready(host: &Host, name: &str, count: usize) {
    let until = std::time::Instant::now() + e2e_rig::PATIENCE;
    while host.rig.log(name).matches("guest: ready").count() < count {
        assert!(std::time::Instant::now() < until, "start {count} is missing in:\n{}", host.rig.log(name));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn by_hand<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["qemu-monitor-command", "live"][..], words].concat()
}

/// `virsh event --all --loop` in the background.
struct Listener<'a> {
    host: &'a Host,
    child: Child,
}

impl<'a> Listener<'a> {
    fn new(host: &'a Host) -> Self {
        let heard = host.rig.path("events");
        let mut command = host.command(&["event", "--all", "--loop"]);
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(File::create(heard).unwrap());
        let listener = Self { host, child: command.spawn().unwrap() };
        let probe = host.rig.bare("probe", "");
        eventually("somebody listens", || {
            host.says(&["define", &probe]);
            host.says(&["undefine", "probe"]);
            listener.text().contains("probe")
        });
        listener
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.host.rig.path("events")).unwrap()
    }

    fn hears(&self, what: &str) {
        eventually(what, || self.text().contains(what));
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_guest_is_rebooted_reset_and_measured() {
    if !is_possible() {
        return;
    }
    let host = Host::new();
    let image = host.rig.raw("disk.raw", 48);
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    );
    let file = linux(&host, "live", &disk);
    host.says(&["define", &file]);
    let listener = Listener::new(&host);
    host.says(&["start", "live"]);
    host.rig.heard("live", "guest: ready");
    let ready = |count| is_ready(&host, "live", count);

    // The power button is pressed, the guest powers off, and starts again in the same process.
    let pid = host.rig.status("live").unwrap().qemu_pid;
    host.says(&["reboot", "live"]);
    ready(2);
    assert_eq!(host.rig.status("live").unwrap().qemu_pid, pid);
    listener.hears("event 'reboot' for domain 'live'");
    host.says(&["reset", "live"]);
    ready(3);
    assert_eq!(host.says(&["domstate", "live"]), "running");

    let stats = host.says(&["domblkstat", "live", "vda"]);
    assert!(stats.lines().any(|line| line.starts_with("vda wr_bytes") && !line.ends_with(" 0")), "{stats}");
    assert_eq!(stats, host.says(&["domblkstat", "live", &image]).replace(&image, "vda"));
    let info = host.says(&["domblkinfo", "live", "vda"]);
    assert!(info.contains(&format!("Capacity:       {}", 48 << 20)), "{info}");
    assert!(host.complains(&["domblkstat", "live", "vdb"]).contains("not assigned to domain"));
    assert!(host.says(&["dommemstat", "live"]).contains(&format!("actual {}", 160 * 1024)));
    assert!(host.says(&["domstats", "live", "--block"]).contains("block.0.name=vda"));

    // The guest has no balloon driver, so it keeps what it has; the most that it may have is refused.
    assert!(host.complains(&["setmem", "live", "1G"]).contains("higher than max memory"));
    host.says(&["setmem", "live", "128M", "--live"]);
    host.says(&["send-key", "live", "KEY_LEFTSHIFT", "KEY_A"]);
    host.says(&["send-key", "live", "--codeset", "qnum", "28"]);
    assert!(host.complains(&["send-key", "live", "--codeset", "usb", "4"]).contains("not understood"));
    host.says(&["inject-nmi", "live"]);
    assert!(host.complains(&["setvcpus", "live", "2", "--live"]).contains("greater than max"));
    host.says(&["setvcpus", "live", "2", "--config", "--maximum"]);
    assert!(host.says(&["dumpxml", "live", "--inactive"]).contains(">2</vcpu>"));
    assert!(host.says(&["dumpxml", "live"]).contains(">1</vcpu>"));
    host.says(&["setmaxmem", "live", "200M", "--config"]);
    assert!(host.says(&["dumpxml", "live", "--inactive"]).contains("<memory unit='KiB'>204800</memory>"));

    // By hand one may only look, and the domain is marked for it.
    assert!(host.says(&by_hand(&["{\"execute\":\"query-status\"}"])).contains("\"running\":true"));
    assert!(host.says(&by_hand(&["--hmp", "info status"])).contains("VM status: running"));
    for command in ["{\"execute\":\"quit\"}", "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"x\"}}"] {
        assert!(host.complains(&by_hand(&[command])).contains("operation forbidden"));
    }
    assert!(host.complains(&by_hand(&["--hmp", "quit"])).contains("operation forbidden"));
    assert!(host.says(&["dominfo", "live"]).contains("custom monitor control commands issued"));
    assert!(
        host.complains(&["qemu-agent-command", "live", "{\"execute\":\"guest-ping\"}"])
            .contains("not configured")
    );

    // A power-off that nobody called a reboot ends it.
    host.says(&["shutdown", "live"]);
    listener.hears("event 'lifecycle' for domain 'live': Stopped Shutdown");
    assert_eq!(host.says(&["domstate", "live"]), "shut off");
    assert!(host.complains(&["reset", "live"]).contains("domain is not running"));
}

const PORTS: &str = "<controller type='pci' index='0' model='pcie-root'/>\
    <controller type='pci' index='1' model='pcie-root-port'/><controller type='pci' index='2' model='pcie-root-port'/>\
    <controller type='pci' index='3' model='pcie-root-port'/><controller type='pci' index='4' model='pcie-root-port'/>\
    <controller type='pci' index='5' model='pcie-root-port'/>";

/// Types a line at the guest's shell.
fn types(host: &Host, name: &str, line: &str) {
    let terminal = host.says(&["ttyconsole", name]);
    std::fs::write(terminal, format!("{line}\n")).unwrap();
}

/// Nothing was refused at the gate, and the processes hold what they should.
fn fine(host: &Host, name: &str) {
    let status = host.rig.control(name).status().unwrap();
    assert!(status.sealed && status.refused.is_empty(), "{status:?}");
    // A helper that has just started confines itself further for a moment.
    let mut said = String::new();
    for _ in 0..50 {
        said = host.rig.svirt(&["inspect", name]).out;
        if said.contains("everything is as planned") {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{said}");
}

#[test]
fn disks_come_and_go_while_the_guest_runs() {
    if !is_possible() {
        return;
    }
    let mut host = Host::new();
    let (first, second) = (host.rig.raw("first.raw", 16), host.rig.qcow2("second", &["-o", "size=24M"]));
    let (iso, small) = (host.rig.raw("medium.raw", 4), host.rig.raw("scsi.raw", 8));
    let disk = format!(
        "{PORTS}<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{first}'/>\
         <target dev='vda' bus='virtio'/></disk>\
         <disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda' bus='sata'/><readonly/></disk>"
    );
    host.says(&["define", &linux(&host, "plug", &disk)]);
    let other = host.rig.bare(
        "other",
        &format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{second}'/>\
             <target dev='vda' bus='virtio'/></disk>"
        ),
    );
    let before = host.rig.snapshot();
    host.says(&["start", "plug"]);
    let listener = Listener::new(&host);
    host.rig.heard("plug", "guest: ready");

    let attach = ["attach-disk", "plug", &second, "vdb", "--subdriver", "qcow2"];
    host.says(&[&attach[..], &["--live", "--config"]].concat());
    listener.hears("event 'device-added' for domain 'plug': virtio-disk1");
    types(&host, "plug", "sleep 3; cat /proc/partitions; dd if=/dev/vdb of=/dev/null && echo all of v''db");
    host.rig.heard("plug", "all of vdb");
    assert!(host.rig.log("plug").contains("24576 vdb"), "{}", host.rig.log("plug"));
    fine(&host, "plug");
    for view in [&["dumpxml", "plug"][..], &["dumpxml", "plug", "--inactive"]] {
        let text = host.says(view);
        assert!(text.contains(&second) && text.contains("vdb"), "{text}");
    }
    assert!(host.says(&["domblkstat", "plug", "vdb"]).contains("vdb rd_bytes"));
    assert!(host.complains(&attach).contains("target vdb already exists"));
    // It is held like any other image.
    let refused = host.rig.svirt(&["run", "--detach", &other]);
    assert_ne!(refused.code, Some(0));
    assert!(refused.err.contains("in use by domain plug"), "{}", refused.err);
    // What names a file that nobody may use is refused, and changes nothing.
    let told = host.complains(&["attach-disk", "plug", "/etc/shadow", "vdc", "--live"]);
    assert!(told.contains("/etc/shadow"), "{told}");

    // Everybody may be killed; the disk stays, and can be taken out.
    drop(listener);
    let daemon = host.daemon_pid();
    host.kill_daemon();
    host.start_daemon();
    let before = before.with_process(daemon, host.daemon_pid());
    assert!(host.says(&["dumpxml", "plug"]).contains(&second));
    host.says(&["detach-disk", "plug", "vdb", "--live", "--config"]);
    eventually("the disk is gone", || !host.says(&["dumpxml", "plug"]).contains(&second));
    eventually("the image is free", || {
        let ran = host.rig.svirt(&["run", "--detach", &other]);
        ran.code == Some(0)
    });
    host.rig.end("other");
    fine(&host, "plug");
    assert!(host.complains(&["detach-disk", "plug", "vdb", "--live"]).contains("vdb"));

    let daemon = host.daemon_pid();
    scsi(&mut host, &small);
    let before = before.with_process(daemon, host.daemon_pid());
    host.says(&["change-media", "plug", "sda", &iso, "--insert", "--live"]);
    assert!(host.says(&["domblkinfo", "plug", "sda"]).contains(&format!("Capacity:       {}", 4 << 20)));
    fine(&host, "plug");
    // One that may not be used leaves the other one in the drive.
    let told = host.complains(&["change-media", "plug", "sda", "/etc/shadow", "--update", "--live"]);
    assert!(told.contains("/etc/shadow"), "{told}");
    let torn = host.rig.text("images/torn.qcow2");
    std::fs::write(&torn, [b"QFI\xfb".as_slice(), &[0xff; 508]].concat()).unwrap();
    let changed = host.rig.text("changed.xml");
    let drive = format!(
        "<disk type='file' device='cdrom'><driver name='qemu' type='qcow2'/><source file='{torn}'/>\
         <target dev='sda' bus='sata'/><readonly/></disk>"
    );
    std::fs::write(&changed, drive).unwrap();
    host.complains(&["update-device", "plug", &changed, "--live"]);
    std::fs::remove_file(&torn).unwrap();
    assert!(host.says(&["dumpxml", "plug"]).contains(&iso));
    assert!(host.says(&["domblkinfo", "plug", "sda"]).contains(&format!("Capacity:       {}", 4 << 20)));
    host.says(&["change-media", "plug", "sda", "--eject", "--live"]);
    assert!(!host.says(&["dumpxml", "plug"]).contains(&iso));
    host.says(&["destroy", "plug"]);
    host.rig.same_as(&before);
}

#[test]
fn what_is_taken_out_of_a_guest_that_stands_is_held_until_it_goes_on() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let [disk, medium, other] = ["hot.raw", "medium.raw", "other.raw"].map(|name| host.rig.raw(name, 4));
    let drive = "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda' bus='sata'/><readonly/></disk>";
    host.says(&["define", &host.rig.bare("stands", &format!("{PORTS}{drive}"))]);
    let of = |target: &str, source: &str| {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{source}'/>\
             <target dev='{target}' bus='virtio'/></disk>"
        )
    };
    host.says(&["define", &host.rig.bare("disk", &of("vda", &disk))]);
    host.says(&["define", &host.rig.bare("medium", &of("vda", &medium))]);
    let sets = |host: &Host| {
        let ask = r#"{"execute":"query-fdsets"}"#;
        host.says(&["qemu-monitor-command", "stands", ask]).matches("fdset-id").count()
    };
    let media =
        |host: &Host, words: &[&str]| host.virsh(&[&["change-media", "stands", "sda"], words].concat());
    for killed in [false, true] {
        host.says(&["start", "stands", "--paused"]);
        let at_first = sets(&host);
        host.says(&["attach-disk", "stands", &disk, "sdb", "--targetbus", "scsi", "--live"]);
        media(&host, &[&medium, "--insert", "--live"]).expect(0);
        host.says(&["detach-disk", "stands", "sdb", "--live"]);
        assert!(media(&host, &[&other, "--update", "--live"]).expect(1).err.contains("resume the guest"));
        media(&host, &["--eject", "--live"]).expect(0);
        // QEMU has both open, so both are this domain's.
        assert_eq!(sets(&host), at_first + 2);
        assert!(host.says(&["dumpxml", "stands"]).contains(&disk));
        for name in ["disk", "medium"] {
            assert!(host.complains(&["start", name]).contains("in use"));
        }
        assert!(media(&host, &[&other, "--insert", "--live"]).expect(1).err.contains("resume the guest"));
        if killed {
            host.kill_daemon();
            host.start_daemon();
        }
        host.says(&["resume", "stands"]);
        eventually("QEMU has let go", || sets(&host) == at_first);
        eventually("the disk is gone", || !host.says(&["dumpxml", "stands"]).contains(&disk));
        if killed {
            // Nobody remembers that it was to go; QEMU does not have it any longer.
            media(&host, &["--eject", "--live"]).expect(0);
        }
        eventually("the drive takes another one", || {
            media(&host, &[&other, "--insert", "--live"]).code == Some(0)
        });
        for name in ["disk", "medium"] {
            host.says(&["start", name]);
            host.says(&["destroy", name]);
        }
        host.says(&["destroy", "stands"]);
    }
}

/// A SCSI disk brings its controller, which stays; one that is refused leaves none behind.
fn scsi(host: &mut Host, disk: &str) {
    let taken = host.rig.text("images/first.raw");
    let attach = |source: &str, target: &str, more: &[&str]| {
        let words = ["attach-disk", "plug", source, target, "--targetbus", "scsi"];
        host.virsh(&[&words[..], more].concat())
    };
    let controller = "<controller type='scsi' index='0' model='virtio-scsi'>";
    assert!(attach(&taken, "sdb", &["--live"]).err.contains("in use"));
    eventually("the controller is gone", || !host.says(&["dumpxml", "plug"]).contains(controller));
    let ran = attach(disk, "sdb", &["--live", "--config"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    for view in [&["dumpxml", "plug"][..], &["dumpxml", "plug", "--inactive"]] {
        let text = host.says(view);
        assert!(text.contains(controller) && text.contains(disk), "{text}");
        assert!(
            text.contains("<address type='drive' controller='0' bus='0' target='0' unit='1'/>"),
            "{text}"
        );
    }
    assert!(host.says(&["dumpxml", "plug"]).contains("<alias name='scsi0-0-0-1'/>"));
    let seen = host.says(&["qemu-monitor-command", "plug", "--hmp", "info block"]);
    assert!(seen.contains("scsi0-0-0-1"), "{seen}");
    fine(host, "plug");
    host.kill_daemon();
    host.start_daemon();
    let text = host.says(&["dumpxml", "plug"]);
    assert!(text.contains(controller) && text.contains("<alias name='scsi0-0-0-1'/>"), "{text}");
    // Its target says enough, as it does to libvirt.
    let named = host.rig.text("named.xml");
    std::fs::write(&named, "<disk><target dev='sdb'/></disk>").unwrap();
    host.says(&["detach-device", "plug", &named, "--live"]);
    eventually("the disk is gone", || !host.says(&["dumpxml", "plug"]).contains(disk));
    assert!(host.says(&["dumpxml", "plug"]).contains(controller));
    // The second time it is there.
    let again = host.virsh(&["attach-disk", "plug", disk, "sdc", "--targetbus", "scsi", "--live"]);
    assert_eq!(again.code, Some(0), "{}", again.err);
    assert_eq!(host.says(&["dumpxml", "plug"]).matches("type='scsi'").count(), 1);
    fine(host, "plug");
}

const FIRST: &str = "52:54:00:aa:00:01";
const SECOND: &str = "52:54:00:aa:00:02";
const THIRD: &str = "52:54:00:aa:00:03";
const FOURTH: &str = "52:54:00:aa:00:04";
/// Where a guest finds the third.
const CARD: &str = "d=$(dirname $(grep -l 52:54:00:aa:00:03 /sys/class/net/*/address)); i=$(basename $d);";

/// What the guest says about its interfaces.
fn sees(host: &Host, name: &str, round: u32, macs: &[&str], not: &[&str]) {
    for again in 0..20 {
        // The guest finds a device a moment after QEMU has plugged it in.
        let end = format!("round {round} {again}");
        types(host, name, &format!("sleep 1; cat /sys/class/net/*/address; echo r''ound {round} {again}"));
        host.rig.heard(name, &end);
        let log = host.rig.log(name);
        let before = format!("round {round} {}", again - 1);
        let said = log.rsplit_once(&before).map_or(&*log, |(_, said)| said);
        if macs.iter().all(|mac| said.contains(mac)) && !not.iter().any(|mac| said.contains(mac)) {
            return;
        }
    }
    panic!("{macs:?} without {not:?}: {}", host.rig.log(name));
}

/// Waits until the guest sees a carrier on its third interface, or sees none.
fn carrier(host: &Host, name: &str, word: &str, seen: bool) {
    for again in 0..20 {
        let end = format!("{word} {again}");
        let (first, rest) = word.split_at(1);
        types(
            host,
            name,
            &format!(
                "{CARD} ip link set $i up; sleep 1; echo carrier $(cat $d/carrier); echo {first}''{rest} {again}"
            ),
        );
        host.rig.heard(name, &end);
        let log = host.rig.log(name);
        let before = log.rsplit_once(&end).map_or("", |(before, _)| before);
        if before.rfind("carrier 1") > before.rfind("carrier 0") && seen
            || before.rfind("carrier 0") > before.rfind("carrier 1") && !seen
        {
            return;
        }
    }
    panic!("carrier is not {seen}: {}", host.rig.log(name));
}

/// The cable of the interface on a bridge is out from the beginning, comes in, and goes out again.
fn cables(host: &Host, tap: &str) {
    let state = |more: &[&str]| host.says(&[&["domif-getlink", "nets", THIRD][..], more].concat());
    assert_eq!((state(&[]), state(&["--config"])), (format!("{THIRD} down"), format!("{THIRD} down")));
    carrier(host, "nets", "unplugged", false);
    host.says(&["domif-setlink", "nets", tap, "up"]);
    assert_eq!((state(&[]), state(&["--config"])), (format!("{THIRD} up"), format!("{THIRD} down")));
    carrier(host, "nets", "plugged", true);
    // What the guest sent, its tap device received.
    let packets = |way: &str| {
        let stats = host.says(&["domifstat", "nets", tap]);
        let line =
            stats.lines().find_map(|line| line.strip_prefix(&format!("{tap} {way}_packets "))).unwrap();
        line.parse::<u64>().unwrap()
    };
    types(host, "nets", &format!("{CARD} ip address add 198.51.100.7/24 dev $i; ping -c 3 198.51.100.8"));
    eventually("the guest's packets are counted", || packets("tx") > 0);
    let stats = host.says(&["domstats", "nets", "--interface"]);
    assert!(stats.contains("net.count=2") && stats.contains(&format!("net.1.name={tap}")), "{stats}");
    assert!(stats.contains("net.1.rx.bytes=") && !stats.contains("net.0.name"), "{stats}");
    assert!(host.complains(&["domifstat", "nets", "nosuch"]).contains("'nosuch' is not a known interface"));
    assert!(host.complains(&["domifstat", "nets", FOURTH]).contains("Interface name not provided"));
    assert!(host.says(&["domiftune", "nets", tap]).contains("inbound.average: 0"));
    assert!(host.complains(&["domiftune", "nets", tap, "--inbound", "100"]).contains("shapes no traffic"));

    host.says(&["domif-setlink", "nets", tap, "down"]);
    host.says(&["domif-setlink", "nets", THIRD, "up", "--config"]);
    assert_eq!((state(&[]), state(&["--config"])), (format!("{THIRD} down"), format!("{THIRD} up")));
    carrier(host, "nets", "unplugged-again", false);
    // Nothing else of it changes, and what is no interface or drive does not change at all.
    let other = host.rig.path("other.xml");
    let write = |xml: &str| std::fs::write(&other, xml).unwrap();
    let update = ["update-device", "nets", other.to_str().unwrap(), "--live"];
    write(&format!("<interface type='user'><mac address='{THIRD}'/><model type='virtio'/></interface>"));
    assert!(host.complains(&update).contains("only the link state"));
    write("<interface type='user'><mac address='52:54:00:99:99:99'/></interface>");
    assert!(host.complains(&update).contains("no device matching MAC address"));
    write("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>");
    assert!(host.complains(&update).contains("only disks"));
    // A title changes no alias.
    host.says(&["desc", "nets", "--live", "--title", "cables"]);
}

#[test]
fn interfaces_come_and_go_while_the_guest_runs() {
    if !is_possible() {
        return;
    }
    let Some(bridge) = bridge::Bridge::new() else { return };
    if !e2e_rig::has_default_route() {
        println!("skipped: needs a default route");
        return;
    }
    let mut host = Host::with(|settings| settings.network.bridges = vec![bridge.name.clone()], "");
    let devices = format!(
        "{PORTS}<controller type='pci' index='6' model='pcie-root-port'/><controller type='pci' index='7' model='pcie-root-port'/><controller type='pci' index='8' model='pcie-root-port'/><interface type='user'><mac address='{FOURTH}'/><address type='pci' domain='0' bus='5' slot='0' function='0'/></interface><interface type='bridge'><mac address='{THIRD}'/><source bridge='{}'/><model type='virtio'/><link state='down'/></interface>",
        bridge.name
    );
    host.says(&["define", &linux(&host, "nets", &devices)]);
    let before = host.rig.snapshot();
    host.says(&["start", "nets"]);
    let listener = Listener::new(&host);
    host.rig.heard("nets", "guest: ready");
    assert_eq!(bridge.ports().len(), 1);
    cables(&host, &bridge.ports()[0]);

    // A user network, with a passt of its own.
    let user = ["attach-interface", "nets", "network", "default", "--mac", FIRST, "--model", "virtio"];
    host.says(&[&user[..], &["--live", "--config"]].concat());
    listener.hears("event 'device-added' for domain 'nets': net2");
    let passt = host.rig.helper("nets", "net2").unwrap();
    // A tap on the bridge.
    host.says(&[
        "attach-interface",
        "nets",
        "bridge",
        &bridge.name,
        "--mac",
        SECOND,
        "--model",
        "virtio",
        "--live",
    ]);
    listener.hears("event 'device-added' for domain 'nets': net3");
    assert_eq!(bridge.ports().len(), 2);
    sees(&host, "nets", 1, &[FIRST, SECOND], &[]);
    fine(&host, "nets");
    assert!(host.says(&["domiflist", "nets"]).contains(SECOND));
    assert!(host.says(&["domiflist", "nets", "--inactive"]).contains(FIRST));
    assert!(!host.says(&["domiflist", "nets", "--inactive"]).contains(SECOND));
    let told = host.complains(&[&user[..], &["--live"]].concat());
    assert!(told.contains("already exists"), "{told}");
    let told =
        host.complains(&["attach-interface", "nets", "bridge", "virbr7", "--model", "virtio", "--live"]);
    assert!(told.contains("network.bridges"), "{told}");

    // Everybody may be killed; both stay, and the network of a passt that dies goes on.
    kill(passt);
    eventually("another passt", || host.rig.helper("nets", "net2").is_some_and(|now| now != passt));
    drop(listener);
    let daemon = host.daemon_pid();
    host.kill_daemon();
    host.kill_labeller();
    host.start_labeller();
    host.start_daemon();
    let before = before.with_process(daemon, host.daemon_pid());
    let shown = host.says(&["dumpxml", "nets"]);
    for alias in ["net0", "net1", "net2", "net3"] {
        assert!(shown.contains(&format!("<alias name='{alias}'/>")), "{shown}");
    }
    // The cable that was taken out stays out, whoever is asked.
    assert_eq!(
        host.says(&["domif-getlink", "nets", &bridge.ports()[0]]),
        format!("{} down", bridge.ports()[0])
    );
    fine(&host, "nets");

    // Out again, those of the start too.
    let listener = Listener::new(&host);
    for (kind, mac) in [("network", FIRST), ("bridge", SECOND)] {
        host.says(&["detach-interface", "nets", kind, "--mac", mac, "--live"]);
    }
    listener.hears("event 'device-removed' for domain 'nets': net2");
    listener.hears("event 'device-removed' for domain 'nets': net3");
    eventually("its passt is gone", || host.rig.helper("nets", "net2").is_none());
    eventually("its tap is gone", || bridge.ports().len() == 1);
    sees(&host, "nets", 2, &[], &[FIRST, SECOND]);
    let told = host.complains(&["detach-interface", "nets", "bridge", "--mac", SECOND, "--live"]);
    assert!(told.contains(SECOND), "{told}");
    host.says(&["detach-device-alias", "nets", "net0", "--live"]);
    listener.hears("event 'device-removed' for domain 'nets': net0");
    eventually("the first passt is gone", || host.rig.helper("nets", "net0").is_none());
    let shown = host.says(&["dumpxml", "nets"]);
    assert!(!shown.contains("<alias name='net0'/>") && shown.contains("<alias name='net1'/>"), "{shown}");
    host.says(&["attach-interface", "nets", "network", "default", "--model", "virtio", "--live"]);
    listener.hears("event 'device-added' for domain 'nets': net2");
    fine(&host, "nets");
    drop(listener);
    host.says(&["destroy", "nets"]);
    eventually("the bridge has no ports", || bridge.ports().is_empty());
    host.rig.same_as(&before);
}

#[test]
fn the_agents_channel_is_nobodys_console() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let agent = "<channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
    let other =
        "<channel type='unix'><source mode='bind'/><target type='virtio' name='org.example.0'/></channel>";
    for (name, channels) in [("only", agent.to_owned()), ("both", format!("{other}{agent}"))] {
        host.says(&["define", &host.rig.bare(name, &channels)]);
        host.says(&["start", name]);
    }
    let console = |words: &[&str], shows: &str| {
        let mut talk = e2e_rig::terminal::Talk::new(host.command(&[&["console"][..], words].concat()));
        talk.shows(shows);
    };
    console(&["only", "--devname", "channel0"], "in use by the QEMU guest agent");
    console(&["only", "--devname", "channel00"], "in use by the QEMU guest agent");
    console(&["only"], "no console");
    console(&["both", "--devname", "channel1", "--force"], "in use by the QEMU guest agent");
    console(&["both", "--devname", "channel0"], "Escape character");
}

fn kill(pid: i32) {
    send(pid, Signal::SIGKILL);
}

fn send(pid: i32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn a_guest_outlives_its_supervisor_and_its_end_is_told() {
    if !is_possible() {
        return;
    }
    let mut host = Host::new();
    let image = host.rig.raw("more.raw", 8);
    let disk = host.rig.raw("disk.raw", 48);
    let devices = format!(
        "{PORTS}<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    );
    host.says(&["define", &linux(&host, "crash", &devices)]);
    host.says(&["start", "crash"]);
    host.rig.heard("crash", "guest: ready");

    // Another supervisor takes over: console, events and devices go on.
    let before = host.rig.status("crash").unwrap();
    kill(before.supervisor_pid);
    eventually("another supervisor", || {
        let pid = host.rig.status("crash").unwrap().supervisor_pid;
        pid > 0 && pid != before.supervisor_pid
    });
    eventually("it answers", || host.virsh(&["dommemstat", "crash"]).code == Some(0));
    types(&host, "crash", "echo still he''re");
    host.rig.heard("crash", "still here");
    host.says(&["attach-disk", "crash", &image, "vdb", "--live"]);
    fine(&host, "crash");

    // The daemon too: it knows the disk that was plugged in.
    host.kill_daemon();
    host.start_daemon();
    assert!(host.says(&["domblklist", "crash"]).contains(&image));
    let listener = Listener::new(&host);
    kill(host.rig.status("crash").unwrap().qemu_pid);
    listener.hears("event 'lifecycle' for domain 'crash': Stopped Failed");
    assert_eq!(host.says(&["domstate", "crash", "--reason"]), "shut off (crashed)");
    assert!(!host.says(&["dumpxml", "crash"]).contains(&image), "what was plugged in was for that run only");
    host.says(&["start", "crash"]);

    // What a device model says last is in the labeller's log.
    send(host.rig.status("crash").unwrap().qemu_pid, Signal::SIGTERM);
    let log = || std::fs::read_to_string(host.rig.path("labeller.out")).unwrap();
    eventually("it is told what QEMU said", || log().contains("terminating on signal 15"));
}
