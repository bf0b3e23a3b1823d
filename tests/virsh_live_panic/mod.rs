//! Guests whose kernels panic, and tell the host so.

use super::*;

/// A definition of the demo's guest with this device and `<on_crash>`, and the driver for the device.
fn define(host: &Host, name: &str, device: &str, on_crash: &str) {
    let file = host.rig.linux(name, "demo.devices", device);
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("<acpi/>", "<acpi/><vmcoreinfo state='on'/>");
    let crash = format!("<on_crash>{on_crash}</on_crash>");
    std::fs::write(&file, text.replace("<on_reboot>destroy</on_reboot>", &crash)).unwrap();
    host.says(&["define", &file]);
}

fn panics(host: &Host, name: &str) {
    types(host, name, "echo c >/proc/sysrq-trigger");
}

fn reason(host: &Host, name: &str) -> String {
    host.says(&["domstate", name, "--reason"])
}

/// Waits until a domain is in this state for this reason.
fn comes_to(host: &Host, name: &str, state: &str) {
    let until = std::time::Instant::now() + e2e_rig::PATIENCE;
    while reason(host, name) != state {
        let log = host.rig.log(name);
        assert!(std::time::Instant::now() < until, "{state:?} is not {:?} after:\n{log}", reason(host, name));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// How often the listener heard of such a step of a domain's life.
fn heard(listener: &Listener<'_>, name: &str, step: &str) -> usize {
    listener.text().matches(&format!("event 'lifecycle' for domain '{name}': {step}")).count()
}

#[test]
fn a_guest_that_panicked_stays_for_inspection() {
    if !is_possible() {
        return;
    }
    let mut host = Host::new();
    define(&host, "kept", "<panic model='isa'><address type='isa' iobase='0x505'/></panic>", "preserve");
    let listener = Listener::new(&host);
    host.says(&["start", "kept"]);
    is_ready(&host, "kept", 1);
    panics(&host, "kept");
    listener.hears("event 'lifecycle' for domain 'kept': Crashed Panicked");
    assert_eq!(reason(&host, "kept"), "crashed (panicked)");
    fine(&host, "kept");

    // It runs for libvirt, in a state of its own.
    for list in [&["list"][..], &["list", "--state-other"]] {
        let listed = host.says(list);
        assert!(listed.lines().any(|line| line.contains("kept") && line.ends_with("crashed")), "{listed}");
    }
    assert!(!host.says(&["list", "--state-paused"]).contains("kept"));
    assert!(host.says(&["domstats", "--state", "--list-other"]).contains("state.state=6"));
    let shown = host.says(&["dumpxml", "kept"]);
    let device = "<panic model='isa'>\n      <address type='isa' iobase='0x505'/>\n    </panic>";
    assert!(shown.contains(device), "{shown}");
    assert!(host.complains(&["shutdown", "kept"]).contains("domain is not running"));
    host.says(&["suspend", "kept"]);

    // Its kernel's notes stand in a dump of it, before the memory that they are about.
    let dump = host.rig.text("dumps/kept");
    host.says(&["dump", "kept", &dump, "--memory-only"]);
    let written = std::fs::read(&dump).unwrap();
    let notes = String::from_utf8_lossy(&written[..32_768]);
    assert!(notes.contains("VMCOREINFO") && notes.contains("OSRELEASE="), "{notes}");
    assert_eq!(reason(&host, "kept"), "crashed (panicked)");

    // Another daemon finds it so.
    drop(listener);
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(reason(&host, "kept"), "crashed (panicked)");

    let listener = Listener::new(&host);
    host.says(&["reset", "kept"]);
    assert_eq!(reason(&host, "kept"), "paused (crashed)");
    host.says(&["resume", "kept"]);
    assert_eq!(reason(&host, "kept"), "running (unpaused)");
    is_ready(&host, "kept", 2);
    assert_eq!(heard(&listener, "kept", "Resumed Unpaused"), 1, "{}", listener.text());

    // This one goes on where it was, which is on the way to a reboot.
    panics(&host, "kept");
    comes_to(&host, "kept", "crashed (panicked)");
    host.says(&["resume", "kept"]);
    assert_eq!(reason(&host, "kept"), "running (unpaused)");
    is_ready(&host, "kept", 3);
    assert_eq!(heard(&listener, "kept", "Resumed Unpaused"), 2, "{}", listener.text());
    panics(&host, "kept");
    comes_to(&host, "kept", "crashed (panicked)");
    host.says(&["destroy", "kept"]);
    assert_eq!(reason(&host, "kept"), "shut off (destroyed)");
    listener.hears("event 'lifecycle' for domain 'kept': Stopped Destroyed");
}

#[test]
fn a_guest_that_panicked_is_reset_or_ended() {
    if !is_possible() {
        return;
    }
    let host = Host::new();
    define(&host, "again", "<panic model='pvpanic'/>", "restart");
    let listener = Listener::new(&host);
    host.says(&["start", "again"]);
    is_ready(&host, "again", 1);
    panics(&host, "again");
    is_ready(&host, "again", 2);
    comes_to(&host, "again", "running (crashed)");
    assert_eq!(heard(&listener, "again", "Crashed Panicked"), 1, "{}", listener.text());
    assert_eq!(heard(&listener, "again", "Resumed Unpaused"), 2, "{}", listener.text());
    fine(&host, "again");

    // QEMU, which is to stay when the guest powers off, is told to end.
    host.says(&["set-lifecycle-action", "again", "poweroff", "restart", "--live"]);
    host.says(&["set-lifecycle-action", "again", "crash", "destroy", "--live"]);
    panics(&host, "again");
    listener.hears("event 'lifecycle' for domain 'again': Stopped Crashed");
    assert_eq!(heard(&listener, "again", "Crashed Panicked"), 2, "{}", listener.text());
    assert_eq!(heard(&listener, "again", "Shutdown Finished"), 0, "{}", listener.text());
    assert_eq!(reason(&host, "again"), "shut off (crashed)");

    // QEMU ends by itself.
    define(&host, "gone", "<panic/>", "destroy");
    host.says(&["start", "gone"]);
    is_ready(&host, "gone", 1);
    panics(&host, "gone");
    listener.hears("event 'lifecycle' for domain 'gone': Stopped Crashed");
    assert_eq!(heard(&listener, "gone", "Crashed Panicked"), 1, "{}", listener.text());
    assert_eq!(heard(&listener, "gone", "Shutdown Finished"), 0, "{}", listener.text());
    assert_eq!(reason(&host, "gone"), "shut off (crashed)");
}
