//! Guests that are saved and go on from there.

mod midway;

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
    let turn = |number: u32| at(&format!("'migration-iteration' for domain 'save': iteration: '{number}'"));
    assert!(at("Suspended Paused") < turn(1) && turn(1) < turn(2) && turn(2) < at("job-completed"));
    assert!(at("job-completed") < at("Stopped Saved"));
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
    // Nobody starts it past that: its disks would change under what is saved.
    for past in [["create", &linux(&host, "save", &disk)], ["restore", &file]] {
        assert!(host.complains(&past).contains("managed save"), "{past:?}");
    }
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
    let complaint = host.complains(&["restore", &file]);
    assert!(complaint.contains("managed save"), "{complaint}");
    host.says(&["managedsave-remove", "save"]);
    host.says(&["start", "save"]);
    host.rig.heard("save", "guest: ready");
    host.says(&["destroy", "save"]);
    drop(listener);
    host.rig.same_as(&before);
}

/// The names in a directory, hidden ones too.
fn names(host: &Host, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(host.rig.path(directory)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_labeller_that_dies_leaves_a_guest_or_a_whole_image() {
    if !is_possible() {
        return;
    }
    let mut host = Host::new();
    host.says(&["define", &host.rig.bare("fault", "")]);
    let (mut went_on, mut saved) = (0, 0);
    for step in 0..20 {
        host.says(&["start", "fault"]);
        let qemu = host.rig.status("fault").unwrap().qemu_pid;
        host.kill_labeller();
        host.start_faulty_labeller(&format!("kill:{step}"));
        let ran = host.virsh(&["managedsave", "fault"]);
        let died = host.labeller_died();
        if died {
            assert_ne!(ran.code, Some(0), "what is acknowledged is there");
        } else {
            // What it has left to do on purpose is none of the next start's.
            host.kill_labeller();
        }
        host.start_labeller();
        let is = |state: &str| host.says(&["domstate", "fault", "--reason"]).starts_with(state);
        eventually("it runs, or is saved", || {
            let asked = ["qemu-monitor-command", "fault", "{\"execute\":\"query-status\"}"];
            let runs = || host.virsh(&asked).out.contains("\"running\":true");
            (is("running") && runs()) || is("shut off (saved)")
        });
        if is("running") {
            went_on += 1;
            assert_eq!(host.rig.status("fault").unwrap().qemu_pid, qemu);
            assert_eq!(names(&host, "managed"), Vec::<String>::new(), "step {step}");
            host.says(&["managedsave", "fault"]);
        } else {
            saved += 1;
        }
        assert_eq!(names(&host, "managed").len(), 1, "step {step}: {:?}", names(&host, "managed"));
        host.says(&["start", "fault"]);
        assert_eq!(host.says(&["domstate", "fault", "--reason"]), "running (restored)");
        assert_eq!(names(&host, "managed"), Vec::<String>::new());
        host.says(&["destroy", "fault"]);
        if !died {
            break;
        }
    }
    assert!(went_on >= 2 && saved >= 2, "{went_on} went on, {saved} were saved");
}

#[test]
fn what_was_plugged_into_a_guest_is_there_when_it_goes_on() {
    if !is_possible() {
        return;
    }
    let host = Host::new();
    let (first, image) = (host.rig.raw("first.raw", 4), host.rig.raw("plugged.raw", 4));
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{first}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    );
    let card = "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>";
    host.says(&["define", &host.rig.bare("plugged", &format!("{PORTS}{disk}{card}"))]);
    host.says(&["start", "plugged"]);
    host.says(&["attach-disk", "plugged", &image, "vdb", "--live", "--serial", "A1"]);
    let file = host.rig.text("saved/plugged");
    let dump = host.says(&["dumpxml", "plugged", "--migratable"]);
    let changed = host.rig.text("changed.xml");
    for (what, other) in [("52:54:00:00:00:01", "52:54:00:00:00:02"), ("<serial>A1<", "<serial>A2<")] {
        assert!(dump.contains(what), "{dump}");
        std::fs::write(&changed, dump.replace(what, other)).unwrap();
        let told = host.complains(&["save", "plugged", &file, "--xml", &changed]);
        assert!(told.contains("find its machine changed"), "{told}");
    }
    host.says(&["save", "plugged", &file]);
    host.says(&["restore", &file]);
    assert!(host.says(&["domblklist", "plugged"]).contains(&image));
    host.says(&["destroy", "plugged"]);
}

/// What changes while a guest runs leaves its saved state one that can be loaded. (No guest system: QEMU itself refuses.)
#[test]
fn what_was_changed_while_a_guest_ran_is_there_when_it_goes_on() {
    if !is_possible() {
        return;
    }
    let host = Host::new();
    let [image, more] = ["one.raw", "more.raw"].map(|name| host.rig.raw(name, 8));
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>\
         <target dev='vda' bus='virtio'/></disk><controller type='scsi' model='virtio-scsi'/>"
    );
    let bare = std::fs::read_to_string(host.rig.bare("grows", &disk)).unwrap();
    let definition = bare.replace("<vcpu>1</vcpu>", "<vcpu current='1'>3</vcpu>");
    assert_ne!(definition, bare);
    let file = host.rig.text("grows.xml");
    std::fs::write(&file, definition).unwrap();
    host.says(&["define", &file]);
    host.says(&["start", "grows"]);
    for plugs in [false, true] {
        let count = if plugs { "3" } else { "2" };
        if plugs {
            host.says(&["attach-disk", "grows", &more, "vdb", "--live"]);
        }
        host.says(&["setvcpus", "grows", count, "--live"]);
        host.says(&["dommemstat", "grows", "--period", "4", "--live"]);
        host.says(&["managedsave", "grows"]);
        host.says(&["start", "grows"]);
        assert_eq!(host.says(&["domstate", "grows", "--reason"]), "running (restored)");
        assert_eq!(host.says(&["vcpucount", "grows", "--live", "--current"]), count);
    }
    assert!(host.says(&["domblklist", "grows"]).contains(&more));
    host.says(&["destroy", "grows"]);
}

#[test]
fn what_is_no_saved_domain_is_refused_and_nothing_is_overwritten() {
    if !is_possible() {
        return;
    }
    let host = Host::new();
    host.says(&["define", &host.rig.bare("one", "")]);
    host.says(&["define", &host.rig.bare("two", "")]);
    host.says(&["start", "one"]);
    let file = host.rig.text("saved/file");
    std::fs::create_dir_all(host.rig.path("saved")).unwrap();
    std::fs::write(&file, "somebody else's").unwrap();
    assert!(host.complains(&["save", "one", &file]).contains("no saved image of this domain"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "somebody else's");
    assert!(host.complains(&["restore", &file]).contains("holds no saved domain"));
    assert!(host.complains(&["save", "one", "/tmp/x"]).contains("save.places"));
    assert!(host.complains(&["save", "one", &file, "--bypass-cache"]).contains("page cache"));
    assert!(host.complains(&["domjobabort", "one"]).contains("no job is active"));
    assert_eq!(host.says(&["domstate", "one"]), "running");

    let image = host.rig.text("saved/image");
    host.says(&["save", "one", &image]);
    host.says(&["start", "two"]);
    assert!(host.complains(&["save", "two", &image]).contains("no saved image of this domain"));
    // Another machine under the guest is refused, another description is not.
    let xml = host.says(&["save-image-dumpxml", &image]);
    let changed = host.rig.text("changed.xml");
    std::fs::write(&changed, xml.replace("<vcpu placement='static'>1<", "<vcpu placement='static'>2<"))
        .unwrap();
    assert!(host.complains(&["save-image-define", &image, &changed]).contains("find its machine changed"));
    // As libvirt says it of another domain.
    let uuid = host.says(&["domuuid", "one"]);
    let other = "6ba7b810-9dad-11d1-80b4-00c04fd43001";
    for (old, new, told) in [
        (uuid.as_str(), other, format!("Target domain uuid {other} does not match source {uuid}")),
        ("<name>one<", "<name>eins<", "Target domain name 'eins' does not match source 'one'".into()),
    ] {
        std::fs::write(&changed, xml.replace(old, new)).unwrap();
        let said = host.complains(&["save-image-define", &image, &changed]);
        assert!(said.contains(&format!("unsupported configuration: {told}")), "{said}");
    }
    std::fs::write(&changed, xml.replace("<name>one</name>", "<name>one</name><title>saved</title>"))
        .unwrap();
    host.says(&["save-image-define", &image, &changed, "--paused"]);
    assert!(host.says(&["save-image-dumpxml", &image]).contains("<title>saved</title>"));
    // Cut short, or writable by others, it is none.
    let whole = std::fs::read(&image).unwrap();
    std::fs::write(&image, &whole[..whole.len() - 1]).unwrap();
    assert!(host.complains(&["restore", &image]).contains("length"));
    std::fs::write(&image, &whole).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(host.complains(&["restore", &image]).contains("nobody else can write"));
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o600)).unwrap();
    host.says(&["restore", &image]);
    assert_eq!(host.says(&["domstate", "one"]), "paused");
}

#[test]
fn a_guests_memory_is_written_down_and_the_guest_goes_on() {
    if !is_possible() {
        return;
    }
    let host = Host::new();
    let definition = host.rig.bare("dumped", "");
    let text = std::fs::read_to_string(&definition).unwrap();
    std::fs::write(&definition, text.replace("<on_reboot>destroy</on_reboot>", "")).unwrap();
    host.says(&["define", &definition]);
    host.says(&["start", "dumped"]);
    let file = host.rig.text("dumps/dump");
    let dump = |more: &[&'static str]| [&["dump", "dumped", &file, "--memory-only"], more].concat();
    assert!(host.complains(&["dump", "dumped", &file]).contains("add --memory-only"));
    assert!(host.complains(&dump(&["--bypass-cache"])).contains("page cache"));
    assert!(host.complains(&["dump", "dumped", "/tmp/x", "--memory-only"]).contains("save.dumps"));
    // Where saved domains lie is no place for what a device model writes.
    let among = host.rig.text("saved/dump");
    assert!(host.complains(&["dump", "dumped", &among, "--memory-only"]).contains("save.dumps"));
    assert!(!std::path::Path::new(&file).exists());

    host.says(&dump(&[]));
    let written = std::fs::read(&file).unwrap();
    assert!(written.starts_with(b"\x7fELF") && written.len() > 1 << 20, "{} bytes", written.len());
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(&file).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777, found.nlink()), (0, 0o600, 1));
    let asked = ["qemu-monitor-command", "dumped", "{\"execute\":\"query-status\"}"];
    let runs = || host.says(&asked).contains("\"running\":true");
    eventually("it goes on", || runs() && host.says(&["domstate", "dumped"]) == "running");
    assert!(host.complains(&dump(&[])).contains("something has this name"));
    // It is no saved domain, whatever stands in it.
    assert!(host.complains(&["restore", &file]).contains("lies in no directory of save.places"));

    std::fs::remove_file(&file).unwrap();
    host.says(&dump(&["--format", "kdump-zlib", "--reset"]));
    let packed = std::fs::read(&file).unwrap();
    assert!(packed.starts_with(b"makedumpfile") || packed.starts_with(b"KDUMP"), "{:?}", &packed[..16]);
    assert!(packed.len() < written.len());
    eventually("it goes on", runs);
    // What QEMU cannot write is said, and leaves nothing.
    std::fs::remove_file(&file).unwrap();
    let told = host.complains(&dump(&["--format", "win-dmp"]));
    assert!(told.contains("dump the memory of"), "{told}");
    assert_eq!(names(&host, "dumps"), Vec::<String>::new());
    eventually("it goes on", runs);

    host.says(&dump(&["--crash"]));
    assert_eq!(host.says(&["domstate", "dumped", "--reason"]), "shut off (crashed)");
    assert_eq!(names(&host, "dumps"), ["dump"]);
}
