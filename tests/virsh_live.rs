//! What the real virsh does to domains that run: reboots, keys, statistics, memory, devices, saved images.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod e2e_rig;
mod virsh_rig;

use std::fs::File;
use std::process::{Child, Stdio};

use e2e_rig::{eventually, guest};
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
    let ready = |count| {
        let until = std::time::Instant::now() + e2e_rig::PATIENCE;
        while host.rig.log("live").matches("guest: ready").count() < count {
            assert!(
                std::time::Instant::now() < until,
                "start {count} is missing in:\n{}",
                host.rig.log("live")
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    };

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

    // A power-off that nobody called a reboot ends it.
    host.says(&["shutdown", "live"]);
    listener.hears("event 'lifecycle' for domain 'live': Stopped Shutdown");
    assert_eq!(host.says(&["domstate", "live"]), "shut off");
    assert!(host.complains(&["reset", "live"]).contains("domain is not running"));
}
