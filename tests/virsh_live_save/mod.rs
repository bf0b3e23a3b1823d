//! Guests that are saved and go on from there.

use super::*;

/// A guest that counts on its console, from the shell.
fn counts(host: &Host, name: &str) {
    host.says(&["start", name]);
    host.rig.heard(name, "guest: ready");
    types(host, name, "n=0; while true; do n=$((n+1)); echo count''er $n; sleep 1; done");
    host.rig.heard(name, "counter 3");
}

/// The last number that it has counted.
fn counted(host: &Host, name: &str) -> u32 {
    let log = host.rig.log(name);
    let mut numbers = log.lines().filter_map(|line| line.trim().strip_prefix("counter ")?.parse().ok());
    numbers.next_back().unwrap_or(0)
}

#[test]
fn a_guest_goes_on_where_it_was_saved() {
    if !is_possible() {
        return;
    }
    let host = Host::new();
    let image = host.rig.raw("disk.raw", 48);
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>\
         <target dev='vda' bus='virtio'/></disk><interface type='user'><model type='virtio'/></interface>"
    );
    host.says(&["define", &linux(&host, "save", &disk)]);
    let before = host.rig.snapshot();
    counts(&host, "save");
    let listener = Listener::new(&host);

    let file = host.rig.text("saved/one");
    host.says(&["save", "save", &file]);
    let number = counted(&host, "save");
    assert!(number >= 3);
    assert_eq!(host.says(&["domstate", "save", "--reason"]), "shut off (saved)");
    listener.hears("event 'lifecycle' for domain 'save': Stopped Saved");
    let heard = listener.text();
    let at = |what: &str| heard.find(what).unwrap_or_else(|| panic!("{what}: {heard}"));
    assert!(at("Suspended Paused") < at("job-completed") && at("job-completed") < at("Stopped Saved"));
    let found = std::fs::metadata(&file).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777, found.nlink()), (0, 0, 0o600, 1));
    assert!(host.says(&["domjobinfo", "save", "--completed"]).contains("Operation:        Save"));
    assert!(host.says(&["save-image-dumpxml", &file]).contains("<name>save</name>"));

    host.says(&["restore", &file]);
    assert_eq!(host.says(&["domstate", "save", "--reason"]), "running (restored)");
    host.rig.heard("save", &format!("counter {}", number + 2));
    let log = host.rig.log("save");
    // Each start has a log of its own.
    assert!(!log.contains("guest: ready"), "it booted: {log}");
    fine(&host, "save");
    listener.hears("event 'lifecycle' for domain 'save': Started Restored");
    listener.hears("event 'lifecycle' for domain 'save': Resumed Snapshot");
    assert!(host.complains(&["restore", &file]).contains("already"));

    // Its next start goes on from a managed save, once.
    host.says(&["managedsave", "save"]);
    let number = counted(&host, "save");
    assert!(host.says(&["list", "--all", "--managed-save"]).ends_with("saved"));
    assert!(host.says(&["dominfo", "save"]).contains("Managed save:   yes"));
    assert!(host.complains(&["undefine", "save"]).contains("managed save image exists"));
    assert!(host.says(&["managedsave-dumpxml", "save"]).contains("<name>save</name>"));
    host.says(&["start", "save"]);
    host.rig.heard("save", &format!("counter {}", number + 2));
    assert!(!host.says(&["list", "--all", "--with-managed-save"]).contains("save "));
    assert!(host.complains(&["managedsave-dumpxml", "save"]).contains("does not have managed save"));
    fine(&host, "save");

    // One that stands when it is saved stands when it goes on.
    host.says(&["suspend", "save"]);
    host.says(&["managedsave", "save"]);
    host.says(&["start", "save"]);
    assert_eq!(host.says(&["domstate", "save"]), "paused");
    host.says(&["resume", "save"]);
    let number = counted(&host, "save");
    host.rig.heard("save", &format!("counter {}", number + 2));

    host.says(&["managedsave", "save"]);
    host.says(&["managedsave-remove", "save"]);
    host.says(&["start", "save"]);
    host.rig.heard("save", "guest: ready");
    host.says(&["destroy", "save"]);
    drop(listener);
    host.rig.same_as(&before);
}
