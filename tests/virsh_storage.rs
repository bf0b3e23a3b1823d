//! Storage pools and volumes through the real virsh, and `virt-install` onto them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod e2e_rig;
mod virsh_rig;

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use virsh_rig::{Host, virsh_possible};

const QEMU_IMG: &str = "/usr/bin/qemu-img";

/// A host with an active pool `p` in a directory of its own, and that directory.
fn with_pool() -> (Host, String) {
    let host = Host::new();
    let path = host.rig.text("images/pool");
    host.says(&["pool-create-as", "--build", "p", "dir", "--target", &path]);
    (host, path)
}

fn qemu_img(words: &[&str]) -> Option<String> {
    if !Path::new(QEMU_IMG).exists() {
        println!("not compared with qemu-img: needs {QEMU_IMG}");
        return None;
    }
    let ran = Command::new(QEMU_IMG).args(words).output().unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    Some(said)
}

#[test]
fn a_pool_lives_and_dies() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let path = host.rig.text("images/pool");
    assert!(host.says(&["pool-define-as", "p", "dir", "--target", &path]).contains("Pool p defined"));
    let refused = host.complains(&["pool-start", "p"]);
    assert!(refused.contains("no such file"), "{refused}");
    host.says(&["pool-build", "p"]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o711);
    host.says(&["pool-start", "p"]);
    let again = host.complains(&["pool-start", "p"]);
    assert!(
        again.contains("Requested operation is not valid: storage pool 'p' is already active"),
        "{again}"
    );
    host.says(&["pool-autostart", "p"]);
    let info = host.says(&["pool-info", "p"]);
    for line in ["State:          running", "Persistent:     yes", "Autostart:      yes", "Capacity:  "] {
        assert!(info.contains(line), "{info}");
    }
    let uuid = host.says(&["pool-uuid", "p"]);
    assert_eq!(host.says(&["pool-name", &uuid]), "p");
    let same = host.complains(&["pool-define-as", "q", "dir", "--target", &path]);
    assert!(same.contains("operation failed: Storage source conflict with pool: 'p'"), "{same}");

    // What was acknowledged is there again after kill -9, and so is that the pool was active.
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(host.says(&["pool-uuid", "p"]), uuid);
    assert!(host.says(&["pool-list"]).contains(" p      active   yes"));
    assert!(host.says(&["pool-dumpxml", "p"]).contains("<mode>0711</mode>"));

    let active = host.complains(&["pool-undefine", "p"]);
    assert!(active.contains("storage pool 'p' is still active"), "{active}");
    std::fs::write(format!("{path}/kept"), "x").unwrap();
    host.says(&["pool-destroy", "p"]);
    let stopped = host.complains(&["vol-list", "p"]);
    assert!(stopped.contains("storage pool 'p' is not active"), "{stopped}");
    assert!(host.complains(&["pool-delete", "p"]).contains("Directory not empty"));
    std::fs::remove_file(format!("{path}/kept")).unwrap();
    host.says(&["pool-delete", "p"]);
    assert!(!Path::new(&path).exists());
    host.says(&["pool-undefine", "p"]);
    assert!(host.complains(&["pool-info", "p"]).contains("failed to get pool 'p'"));

    // A pool that is not defined is gone once it is stopped.
    host.says(&["pool-create-as", "--build", "t", "dir", "--target", &path]);
    assert!(host.says(&["pool-info", "t"]).contains("Persistent:     no"));
    host.says(&["pool-destroy", "t"]);
    assert!(host.complains(&["pool-info", "t"]).contains("failed to get pool 't'"));
}

#[test]
fn pools_stay_where_the_configuration_lets_them() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let outside = host.rig.text("outside");
    host.says(&["pool-define-as", "o", "dir", "--target", &outside]);
    let refused = host.complains(&["pool-start", "o"]);
    assert!(refused.contains("images.relabelable") && refused.contains("to fix it"), "{refused}");
    let run = host.rig.text("run");
    let own = host.complains(&["pool-create-as", "r", "dir", "--target", &run]);
    assert!(own.contains("svirt's own directories"), "{own}");
    let dots = host.complains(&["pool-create-as", "d", "dir", "--target", &format!("{outside}/../images")]);
    assert!(dots.contains("XML error"), "{dots}");
    // A directory that may only be read is listed, and nothing is made or removed in it.
    let boot = host.rig.text("boot");
    std::fs::write(host.rig.path("boot/kernel"), "x").unwrap();
    host.says(&["pool-create-as", "b", "dir", "--target", &boot]);
    assert!(host.says(&["vol-list", "b"]).contains("kernel"));
    for words in [["vol-create-as", "b", "new", "1M"].as_slice(), &["vol-delete", "kernel", "b"]] {
        let refused = host.complains(words);
        assert!(refused.contains("lies in no directory of images.relabelable"), "{refused}");
    }
    assert!(host.rig.path("boot/kernel").exists() && !host.rig.path("boot/new").exists());
    // Whoever may write the directory could swap what is removed.
    let shared = host.rig.path("images/shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    host.says(&["pool-create-as", "s", "dir", "--target", shared.to_str().unwrap()]);
    let refused = host.complains(&["vol-create-as", "s", "new", "1M"]);
    assert!(refused.contains("others than root can write it"), "{refused}");
    // A link that leads out is not followed, and a link in a pool is no volume.
    std::os::unix::fs::symlink("/etc/passwd", host.rig.path("images/link")).unwrap();
    host.says(&["pool-create-as", "i", "dir", "--target", &host.rig.text("images")]);
    assert!(!host.says(&["vol-list", "i"]).contains("link"));
}

#[test]
fn volumes_are_made_listed_and_removed() {
    if !virsh_possible() {
        return;
    }
    let (host, path) = with_pool();
    host.says(&["vol-create-as", "p", "raw", "10M"]);
    host.says(&["vol-create-as", "p", "sparse", "1G", "--allocation", "0"]);
    let file = std::fs::metadata(format!("{path}/raw")).unwrap();
    assert_eq!(
        (file.len(), file.blocks() * 512, file.uid(), file.mode() & 0o777),
        (10 << 20, 10 << 20, 0, 0o600)
    );
    let sparse = std::fs::metadata(format!("{path}/sparse")).unwrap();
    assert!(sparse.len() == 1 << 30 && sparse.blocks() < 100);
    host.says(&["vol-create-as", "p", "base.qcow2", "10M", "--format", "qcow2"]);
    let above = ["--backing-vol", "base.qcow2", "--backing-vol-format", "qcow2"];
    let words = ["vol-create-as", "p", "top.qcow2", "20M", "--format", "qcow2"];
    host.says(&[words.as_slice(), above.as_slice()].concat());
    host.says(&["vol-create-as", "p", "full.qcow2", "3G", "--format", "qcow2", "--prealloc-metadata"]);
    assert!(std::fs::metadata(format!("{path}/full.qcow2")).unwrap().blocks() * 512 < 1 << 20);
    for (name, size) in [("base.qcow2", 10_u64 << 20), ("top.qcow2", 20 << 20), ("full.qcow2", 3 << 30)] {
        let image = format!("{path}/{name}");
        let Some(_) = qemu_img(&["check", "-f", "qcow2", &image]) else { break };
        let info = qemu_img(&["info", "-f", "qcow2", "--output", "json", &image]).unwrap();
        assert!(info.contains(&format!("\"virtual-size\": {size},")), "{info}");
        let below = info.contains(&format!("\"backing-filename\": \"{path}/base.qcow2\""));
        assert_eq!(below, name == "top.qcow2", "{info}");
        assert!(name != "top.qcow2" || info.contains("\"backing-filename-format\": \"qcow2\""), "{info}");
    }
    let top = host.says(&["vol-dumpxml", "top.qcow2", "p"]);
    for line in [
        "<format type='qcow2'/>",
        "<capacity unit='bytes'>20971520</capacity>",
        &format!("  <backingStore>\n    <path>{path}/base.qcow2</path>\n    <format type='qcow2'/>"),
    ] {
        assert!(top.contains(line), "{top}");
    }
    assert!(host.says(&["vol-info", "top.qcow2", "p"]).contains("Capacity:       20.00 MiB"));
    assert_eq!(host.says(&["vol-path", "raw", "p"]), format!("{path}/raw"));
    assert_eq!(host.says(&["vol-pool", &format!("{path}/raw")]), "p");
    let details = host.says(&["vol-list", "p", "--details"]);
    assert_eq!(details.lines().filter(|line| line.contains(" file ")).count(), 5, "{details}");

    for (words, text) in [
        (["vol-create-as", "p", "raw", "1M"].as_slice(), "storage volume 'raw' exists already"),
        (&["vol-create-as", "p", "a/b", "1M"], "volume name 'a/b' cannot contain '/'"),
        (&["vol-create-as", "p", "v", "1M", "--format", "vmdk"], "svirt makes raw and qcow2 ones"),
        (&["vol-create-as", "p", "v", "1M", "--format", "foo"], "unknown volume format type foo"),
        (&["vol-create-as", "p", "v", "9E", "--allocation", "0"], "error: "),
        (&["vol-resize", "raw", "5M", "p"], "can't shrink capacity below existing allocation"),
    ] {
        let said = host.complains(words);
        assert!(said.contains(text), "{words:?}: {said}");
    }
    host.says(&["vol-resize", "raw", "20M", "p"]);
    assert_eq!(std::fs::metadata(format!("{path}/raw")).unwrap().len(), 20 << 20);
    // What others put there is seen after a refresh.
    std::fs::write(format!("{path}/found"), vec![1; 1 << 20]).unwrap();
    assert!(host.complains(&["vol-key", "found", "p"]).contains("failed to get vol 'found'"));
    host.says(&["pool-refresh", "p"]);
    assert_eq!(host.says(&["vol-key", "found", "p"]), format!("{path}/found"));
    for name in ["raw", "sparse", "full.qcow2", "top.qcow2", "base.qcow2", "found"] {
        host.says(&["vol-delete", name, "p"]);
        assert!(!Path::new(&format!("{path}/{name}")).exists());
    }
}

#[test]
fn what_a_domain_uses_stays_as_it_is() {
    if !virsh_possible() {
        return;
    }
    let (host, path) = with_pool();
    host.says(&["vol-create-as", "p", "base", "8M"]);
    let words = ["vol-create-as", "p", "top", "8M", "--format", "qcow2", "--backing-vol", "base"];
    host.says(&words);
    let file = host.rig.path("g.xml");
    let text = format!(
        "<domain type='qemu'><name>g</name><memory unit='MiB'>32</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices>\
         <disk type='file'><driver name='qemu' type='qcow2'/><source file='{path}/top'/><target dev='vda' bus='virtio'/></disk>\
         </devices></domain>"
    );
    std::fs::write(&file, text).unwrap();
    host.says(&["create", file.to_str().unwrap()]);
    for words in [
        ["vol-delete", "top", "p"].as_slice(),
        &["vol-delete", "base", "p"],
        &["vol-resize", "base", "9M", "p"],
    ] {
        let refused = host.complains(words);
        assert!(refused.contains("in use by domain g") && refused.contains("stop that domain"), "{refused}");
    }
    host.says(&["destroy", "g"]);
    host.says(&["vol-delete", "top", "p"]);
    host.says(&["vol-delete", "base", "p"]);
}

#[test]
fn a_disk_is_a_volume_of_a_pool_and_its_file_is_found_at_each_start() {
    if !virsh_possible() {
        return;
    }
    let tenant = 61_003;
    let rules = format!(
        "[[rule]]\nuids = [{tenant}]\nrole = 'operator'\nallow = ['domain:write', 'domain:save']\ndomains = ['v']\n"
    );
    let mut host = Host::with(|settings| settings.daemon.group = "nogroup".into(), &rules);
    let path = host.rig.text("images/pool");
    host.says(&["pool-define-as", "p", "dir", "--target", &path]);
    let file = host.rig.path("v.xml");
    let file = file.to_str().unwrap();
    let disk = |volume: &str, target: &str| {
        format!(
            "<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='p' volume='{volume}'/>\
             <target dev='{target}' bus='virtio'/></disk>"
        )
    };
    let define = |volume: &str| {
        let text = format!(
            "<domain type='qemu'><name>v</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm\
             </type></os><devices>{}<controller type='pci' model='pcie-root'/>{}\
             </devices></domain>",
            disk(volume, "vda"),
            "<controller type='pci' model='pcie-root-port'/>".repeat(6)
        );
        std::fs::write(file, text).unwrap();
        host.says(&["define", file]);
    };
    define("a");
    let inactive = host.complains(&["start", "v"]);
    assert!(inactive.contains("storage pool 'p' containing volume 'a' is not active"), "{inactive}");
    // What else is known of its disks is told all the same.
    let stats = host.says(&["domstats", "v", "--block"]);
    assert!(stats.contains("block.count=1") && stats.contains("block.0.name=vda"), "{stats}");
    assert!(!stats.contains("block.0.path"), "{stats}");
    assert!(host.complains(&["domblkinfo", "v", "vda"]).contains("is not active"));
    // And changed, where nobody needs to know which file it is.
    let plain = host.rig.text("images/plain.img");
    std::fs::File::create(&plain).unwrap().set_len(1 << 20).unwrap();
    host.says(&["attach-disk", "v", &plain, "vdc", "--config"]);
    assert!(host.says(&["domblkinfo", "v", "vdc"]).contains("Capacity:       1048576"));
    for words in [
        ["blkdeviotune", "v", "vdc", "--total-bytes-sec", "1000000", "--config"].as_slice(),
        &["set-lifecycle-action", "v", "poweroff", "destroy", "--config"],
        &["setmem", "v", "32768", "--config"],
        &["desc", "v", "--config", "d"],
        &["detach-disk", "v", "vdc", "--config"],
    ] {
        host.says(words);
    }
    host.says(&["pool-build", "p"]);
    host.says(&["pool-start", "p"]);
    let missing = host.complains(&["start", "v"]);
    assert!(missing.contains("Storage volume not found: no storage vol with matching name 'a'"), "{missing}");
    for name in ["a", "b"] {
        host.says(&["vol-create-as", "p", name, "1M"]);
    }
    assert!(host.says(&["domblkinfo", "v", "vda"]).contains("Capacity:       1048576"));
    host.says(&["start", "v"]);
    let file_of = |name: &str| format!("<source file='{path}/{name}'/>");
    let runs = host.says(&["dumpxml", "v"]);
    assert!(runs.contains(&file_of("a")), "{runs}");
    let kept = host.says(&["dumpxml", "v", "--inactive"]);
    assert!(kept.contains("<source pool='p' volume='a'/>"), "{kept}");
    // It is a lease like any other's.
    assert!(host.complains(&["vol-delete", "a", "p"]).contains("in use by domain v"));
    assert!(host.says(&["blockjob", "v", "vda"]).contains("No current block job for vda"));
    assert!(host.complains(&["blockjob", "v", "vdx"]).contains("disk 'vdx' not found in domain"));
    // Another comes while it runs; what is kept names the volume.
    let plugged = host.rig.path("b.xml");
    let plugged = plugged.to_str().unwrap();
    std::fs::write(plugged, disk("b", "vdb")).unwrap();
    // System calls are decided at the start; the refusal says so before QEMU meets it.
    let native = disk("b", "vdb").replace("type='raw'/>", "type='raw' cache='none' io='native'/>");
    std::fs::write(plugged, native).unwrap();
    let refused = host.complains(&["attach-device", "v", plugged, "--live"]);
    assert!(refused.contains("io='native'") && refused.contains("leave io out"), "{refused}");
    std::fs::write(plugged, disk("b", "vdb")).unwrap();
    host.says(&["attach-device", "v", plugged, "--live", "--config"]);
    assert!(host.says(&["dumpxml", "v"]).contains(&file_of("b")));
    assert!(host.says(&["dumpxml", "v", "--inactive"]).contains("<source pool='p' volume='b'/>"));
    // A daemon that is killed finds it with its files, whatever became of the pool.
    host.says(&["pool-destroy", "p"]);
    host.kill_daemon();
    host.start_daemon();
    assert!(host.says(&["dumpxml", "v"]).contains(&file_of("b")));
    host.says(&["destroy", "v"]);
    host.says(&["detach-disk", "v", "vdb", "--config"]);
    assert!(!host.says(&["dumpxml", "v"]).contains("vdb"));
    // Whoever is held to a list of files may leave a volume where it is, and names no other.
    host.says(&["pool-start", "p"]);
    let theirs = |words: &[&str]| host.virsh_as(tenant, 65_534, words);
    let text = host.says(&["dumpxml", "v"]).replace(">1</vcpu>", ">2</vcpu>");
    std::fs::write(file, &text).unwrap();
    theirs(&["define", file]).expect(0);
    std::fs::write(file, text.replace("volume='a'", "volume='b'")).unwrap();
    theirs(&["define", file]).expect(1).says(&["access denied", "names no pools", "type='file'"]);
    // What is only read may not be written from then on.
    host.says(&["attach-device", "v", plugged, "--config"]);
    let added = host.says(&["dumpxml", "v"]);
    let only_read =
        added.replace("<source pool='p' volume='b'/>", "<source pool='p' volume='b'/><readonly/>");
    std::fs::write(file, only_read).unwrap();
    theirs(&["define", file]).expect(1).says(&["access denied", "names no pools"]);
    host.says(&["define", file]);
    theirs(&["define", file]).expect(0);
    std::fs::write(file, added).unwrap();
    theirs(&["define", file]).expect(1).says(&["access denied", "names no pools"]);
    host.says(&["detach-disk", "v", "vdb", "--config"]);
    let denied = theirs(&["attach-device", "v", plugged, "--config"]).expect(1);
    denied.says(&["access denied", "names no pools"]);
    theirs(&["start", "v"]).expect(0);
}

#[test]
fn a_volume_brings_a_tenant_no_file_of_a_neighbour() {
    if !virsh_possible() {
        return;
    }
    let tenant = 61_004;
    let rules = format!(
        "[[rule]]\nuids = [{tenant}]\nrole = 'operator'\nallow = ['domain:write', 'domain:save']\ndomains = ['v']\n"
    );
    let host = Host::with(|settings| settings.daemon.group = "nogroup".into(), &rules);
    let path = host.rig.text("images/pool");
    host.says(&["pool-create-as", "--build", "p", "dir", "--target", &path]);
    host.says(&["vol-create-as", "p", "neighbour", "1M"]);
    // As a guest leaves a raw disk of its own: with a header that names what it wants to read.
    host.says(&["vol-create-as", "p", "own", "1M", "--format", "qcow2", "--backing-vol", "neighbour"]);
    let file = host.rig.path("v.xml");
    let file = file.to_str().unwrap();
    let layer = format!(
        "<backingStore type='file'><format type='raw'/><source file='{path}/neighbour'/></backingStore>"
    );
    let write = |kind: &str, more: &str, vcpus: u32| {
        let text = format!(
            "<domain type='qemu'><name>v</name><memory unit='MiB'>32</memory><vcpu>{vcpus}</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
             <disk type='volume' device='disk'><driver name='qemu' type='{kind}'/><source pool='p' volume='own'/>\
             {more}<target dev='vda' bus='virtio'/></disk></devices></domain>"
        );
        std::fs::write(file, text).unwrap();
    };
    let theirs = |words: &[&str]| host.virsh_as(tenant, 65_534, words);
    write("raw", "", 1);
    host.says(&["define", file]);
    write("qcow2", &layer, 1);
    for word in ["define", "create"] {
        let neighbour = format!("{path}/neighbour");
        theirs(&[word, file]).expect(1).says(&["access denied", &neighbour, "no file of the host"]);
    }
    write("raw", "<shareable/>", 1);
    theirs(&["define", file]).expect(1).says(&["access denied", "volume 'own' of pool 'p'", "as it was"]);
    // Another format alone leaves it to the header, and that is held to the list at the start.
    write("qcow2", "", 1);
    theirs(&["define", file]).expect(0);
    theirs(&["start", "v"]).expect(1).says(&["not among the files"]);
    // What an administrator says lies below stays, whatever else the tenant changes.
    write("qcow2", &layer, 1);
    host.says(&["define", file]);
    write("qcow2", &layer, 2);
    theirs(&["define", file]).expect(0);
    theirs(&["start", "v"]).expect(0);
}

#[test]
fn rules_say_who_may_do_what_to_pools() {
    if !virsh_possible() {
        return;
    }
    let (viewer, tenant) = (61_001, 61_002);
    let rules = format!(
        "[[rule]]\nuids = [{viewer}]\nrole = 'viewer'\n\
         [[rule]]\nuids = [{tenant}]\nrole = 'admin'\ndomains = ['x']\n"
    );
    let host = Host::with(|settings| settings.daemon.group = "nogroup".into(), &rules);
    let gid = 65_534;
    let path = host.rig.text("images/pool");
    host.says(&["pool-create-as", "--build", "p", "dir", "--target", &path]);
    host.says(&["vol-create-as", "p", "v", "1M"]);
    let seen = host.virsh_as(viewer, gid, &["vol-list", "p"]).expect(0);
    assert!(seen.out.contains(" v "), "{}", seen.out);
    for words in [
        ["pool-destroy", "p"].as_slice(),
        &["vol-delete", "v", "p"],
        &["vol-create-as", "p", "w", "1M"],
        &["pool-create-as", "q", "dir", "--target", "/x"],
    ] {
        host.virsh_as(viewer, gid, words).expect(1).says(&["access denied"]);
    }
    // Whoever has some domains only knows of no pools.
    let none = host.virsh_as(tenant, gid, &["pool-list", "--all"]).expect(0);
    assert!(!none.out.contains(" p "), "{}", none.out);
    host.virsh_as(tenant, gid, &["pool-info", "p"]).expect(1).says(&["failed to get pool 'p'"]);
    let read_only = host.virsh(&["-r", "pool-destroy", "p"]).expect(1).err;
    assert!(read_only.contains("read only access prevents"), "{read_only}");
}

const VIRT_INSTALL: &str = "/usr/bin/virt-install";

/// Installs a guest as people do: its name, and what of its disk stands in the command.
#[track_caller]
fn install(host: &Host, name: &str, disk: &str) {
    let mut command = Command::new(VIRT_INSTALL);
    // Nothing of the person's who runs the tests, and nothing kept for them.
    let home = host.rig.text("home");
    command.env("LC_ALL", "C").env("HOME", &home).env("XDG_CACHE_HOME", &home);
    command.args(["--connect", &host.uri(), "--name", name, "--memory", "64", "--vcpus", "1", "--import"]);
    command.args(["--disk", disk, "--osinfo", "linux2020", "--virt-type", "qemu"]);
    command.args(["--graphics", "none", "--network", "user", "--noautoconsole"]);
    let ran = e2e_rig::finish(
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped()),
    );
    ran.expect(0);
    assert_eq!(host.says(&["domstate", name]), "running");
}

#[test]
fn virt_install_makes_its_disk_and_starts_a_guest() {
    if !virsh_possible() {
        return;
    }
    if !Path::new(VIRT_INSTALL).exists() || !e2e_rig::has_default_route() {
        println!("skipped: needs {VIRT_INSTALL} and a default route");
        return;
    }
    let host = Host::new();
    let pool = host.rig.text("images/pool");
    host.says(&["pool-create-as", "--build", "default", "dir", "--target", &pool]);
    install(&host, "in-pool", "pool=default,size=1");
    let info = host.says(&["vol-info", "in-pool.qcow2", "default"]);
    assert!(info.contains("Capacity:       1.00 GiB"), "{info}");
    assert!(host.says(&["domblklist", "in-pool"]).contains(&format!("{pool}/in-pool.qcow2")));

    // A path in a directory without a pool: virt-install defines and starts one for it.
    std::fs::create_dir(host.rig.path("images/own")).unwrap();
    let path = host.rig.text("images/own/by-path.img");
    install(&host, "by-path", &format!("path={path},size=1,format=raw,sparse=yes"));
    assert!(host.says(&["pool-list"]).contains(" own "), "{}", host.says(&["pool-list"]));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 30);

    // One that is there already, in a directory that a pool has.
    std::fs::write(host.rig.path("images/own/there.img"), vec![0; 1 << 20]).unwrap();
    let there = host.rig.text("images/own/there.img");
    install(&host, "there", &format!("path={there},format=raw"));
    for name in ["in-pool", "by-path", "there"] {
        host.says(&["destroy", name]);
        host.says(&["undefine", name, "--remove-all-storage"]);
    }
    assert!(!Path::new(&path).exists() && !Path::new(&there).exists());
    assert!(!host.says(&["vol-list", "default"]).contains("in-pool"));
}

#[test]
fn volumes_are_uploaded_downloaded_and_wiped() {
    if !virsh_possible() {
        return;
    }
    let (host, pool) = with_pool();
    host.says(&["vol-create-as", "p", "v.raw", "4M", "--allocation", "0"]);
    let (volume, there, back) = (format!("{pool}/v.raw"), host.rig.text("there"), host.rig.text("back"));
    // Numbers, zeros, numbers.
    let numbers = (0..3_u32 << 18).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes());
    let mut content: Vec<u8> = numbers.collect();
    content[1 << 20..2 << 20].fill(0);
    std::fs::write(&there, &content).unwrap();
    let mut whole = content.clone();
    whole.resize(4 << 20, 0);
    for sparse in [&[][..], &["--sparse"]] {
        std::fs::write(&volume, vec![7; 4 << 20]).unwrap();
        host.says(&[&["vol-upload", "v.raw", &there, "p"][..], sparse].concat());
        let written = std::fs::read(&volume).unwrap();
        assert!(written[..3 << 20] == content[..] && written[3 << 20..].iter().all(|byte| *byte == 7));
        std::fs::write(&volume, &whole).unwrap();
        host.says(&[&["vol-download", "v.raw", &back, "p"][..], sparse].concat());
        assert!(std::fs::read(&back).unwrap() == whole);
    }
    let part = ["vol-download", "v.raw", &back, "p", "--offset", "5", "--length", "100"];
    host.says(&part);
    assert_eq!(std::fs::read(&back).unwrap(), content[5..105]);
    // A client that leaves in the middle of it holds nothing.
    for _ in 0..4 {
        let mut left = host.command(&["vol-download", "v.raw", "/dev/full", "p"]);
        assert!(!left.output().unwrap().status.success());
    }

    // What a domain uses is read, and not written.
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{volume}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    );
    host.says(&["create", &host.rig.bare("uses", &disk)]);
    for words in [&["vol-upload", "v.raw", &there, "p"][..], &["vol-wipe", "v.raw", "p"]] {
        let told = host.complains(words);
        assert!(told.contains("in use by domain uses"), "{told}");
    }
    host.says(&["vol-download", "v.raw", &back, "p"]);
    assert!(std::fs::read(&back).unwrap() == whole);
    host.says(&["destroy", "uses"]);
    // What no guest is given, nobody is given.
    let mode =
        |mode| std::fs::set_permissions(&volume, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o4600);
    let told = host.complains(&["vol-download", "v.raw", &back, "p"]);
    assert!(told.contains("set-uid"), "{told}");
    mode(0o600);

    assert!(host.complains(&["vol-wipe", "v.raw", "p", "--algorithm", "dod"]).contains("zeros only"));
    assert!(std::fs::read(&volume).unwrap() == whole);
    for _ in 0..2 {
        // With holes, and without any.
        host.says(&["vol-wipe", "v.raw", "p"]);
        let wiped = std::fs::read(&volume).unwrap();
        assert!(wiped.len() == 4 << 20 && wiped.iter().all(|byte| *byte == 0));
        std::fs::write(&volume, vec![9; 4 << 20]).unwrap();
    }
    // A client that leaves in the middle of an upload: what came stays, and nothing keeps the volume.
    let fifo = host.rig.text("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    std::fs::write(&volume, vec![0; 4 << 20]).unwrap();
    let mut leaves = host.command(&["vol-upload", "v.raw", &fifo, "p"]).spawn().unwrap();
    let mut writer = std::fs::File::options().write(true).open(&fifo).unwrap();
    writer.write_all(&vec![8; 2 << 20]).unwrap();
    let came = || std::fs::read(&volume).unwrap().first() == Some(&8);
    e2e_rig::eventually("something came", came);
    let busy = host.complains(&["vol-wipe", "v.raw", "p"]);
    assert!(busy.contains("another program uses it"), "{busy}");
    leaves.kill().unwrap();
    leaves.wait().unwrap();
    drop(writer);
    e2e_rig::eventually("the volume is free", || host.virsh(&["vol-wipe", "v.raw", "p"]).code == Some(0));
    // More than there was, up to the limit.
    std::fs::write(&there, vec![3; 5 << 20]).unwrap();
    host.says(&["vol-upload", "v.raw", &there, "p"]);
    assert_eq!(std::fs::metadata(&volume).unwrap().len(), 5 << 20);
}

#[test]
fn volumes_are_cloned_and_made_larger() {
    if !virsh_possible() {
        return;
    }
    let (host, pool) = with_pool();
    host.says(&["vol-create-as", "p", "v.raw", "4M", "--allocation", "0"]);
    let (volume, copy) = (format!("{pool}/v.raw"), format!("{pool}/w.raw"));
    let content: Vec<u8> =
        (0..1_u32 << 20).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::options().write(true).open(&volume).unwrap();
        file.write_all_at(&content[1 << 20..2 << 20], 1 << 20).unwrap();
    }
    let cloned = host.says(&["vol-clone", "v.raw", "w.raw", "--pool", "p"]);
    assert!(cloned.contains("Vol w.raw cloned from v.raw"), "{cloned}");
    let file = std::fs::metadata(&copy).unwrap();
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&volume).unwrap());
    // Holes stay holes.
    assert_eq!((file.len(), file.uid(), file.mode() & 0o777), (4 << 20, 0, 0o600));
    assert!(file.blocks() * 512 < 2 << 20, "{}", file.blocks());

    // A qcow2 image, and a layer above it; each gets larger, and QEMU's own tool takes all of it.
    host.says(&["vol-create-as", "p", "b.qcow2", "10M", "--format", "qcow2"]);
    let above = ["--backing-vol", "b.qcow2", "--backing-vol-format", "qcow2"];
    host.says(&[&["vol-create-as", "p", "t.qcow2", "10M", "--format", "qcow2"][..], &above].concat());
    let base = format!("{pool}/b.qcow2");
    if qemu_img(&["info", &base]).is_some() {
        let io =
            Command::new("/usr/bin/qemu-io").args(["-f", "qcow2", "-c", "write -P 7 0 3M", &base]).output();
        assert!(io.unwrap().status.success());
    }
    for (from, to) in [("b.qcow2", "c.qcow2"), ("t.qcow2", "u.qcow2")] {
        host.says(&["vol-clone", from, to, "--pool", "p"]);
        host.says(&["vol-resize", to, "3T", "p"]);
        host.says(&["vol-resize", to, "1G", "p", "--delta"]);
        let xml = host.says(&["vol-dumpxml", to, "p"]);
        assert!(
            xml.contains(&format!("<capacity unit='bytes'>{}</capacity>", (3_u64 << 40) + (1 << 30))),
            "{xml}"
        );
        let image = format!("{pool}/{to}");
        let Some(checked) = qemu_img(&["check", "-f", "qcow2", &image]) else { continue };
        assert!(checked.contains("No errors were found"), "{checked}");
        let info = qemu_img(&["info", "-f", "qcow2", "--output", "json", &image]).unwrap();
        assert!(info.contains(&format!("\"virtual-size\": {},", (3_u64 << 40) + (1 << 30))), "{info}");
    }
    if qemu_img(&["info", &base]).is_some() {
        // What is new reads as zeros and is written like the rest.
        let last = format!("write -P 9 {} 1M", (3_u64 << 40) + (1 << 29));
        let words = ["-f", "qcow2", "-c", "read -P 7 0 3M", "-c", "read -P 0 4M 1G", "-c", &last];
        let io =
            Command::new("/usr/bin/qemu-io").args(words).arg(format!("{pool}/c.qcow2")).output().unwrap();
        let said = String::from_utf8_lossy(&io.stdout);
        assert!(io.status.success() && !said.contains("failed"), "{said}");
        assert!(
            qemu_img(&["check", "-f", "qcow2", &format!("{pool}/c.qcow2")]).unwrap().contains("No errors")
        );
    }

    let larger = host.rig.text("larger.xml");
    std::fs::write(
        &larger,
        "<volume><name>l.raw</name><capacity unit='MiB'>9</capacity><allocation>0</allocation></volume>",
    )
    .unwrap();
    host.says(&["vol-create-from", "p", &larger, "v.raw", "p"]);
    let bytes = std::fs::read(format!("{pool}/l.raw")).unwrap();
    assert!(bytes.len() == 9 << 20 && bytes[..4 << 20] == std::fs::read(&volume).unwrap());

    let flat = host.rig.text("flat.xml");
    std::fs::write(
        &flat,
        "<volume><name>f.qcow2</name><capacity>1</capacity><target><format type='qcow2'/></target></volume>",
    )
    .unwrap();
    for (words, text) in [
        (&["vol-clone", "v.raw", "w.raw", "--pool", "p"][..], "storage volume name 'w.raw' already in use"),
        (&["vol-create-from", "p", &flat, "v.raw", "p"], "svirt copies within a format"),
        (&["vol-create-from", "p", &flat, "t.qcow2", "p"], "without the layer below it"),
        (&["vol-resize", "c.qcow2", "9M", "p"], "explicitly specified"),
        (&["vol-resize", "c.qcow2", "50M", "p", "--shrink"], "which svirt does not make smaller"),
        (&["vol-resize", "c.qcow2", "4T", "p", "--allocate"], "only supported for raw type volume"),
        (&["vol-resize", "c.qcow2", "5T", "p"], "its first table has no room for that size"),
    ] {
        let said = host.complains(words);
        assert!(said.contains(text), "{words:?}: {said}");
    }
    assert!(!Path::new(&format!("{pool}/f.qcow2")).exists());
    // A volume that a domain writes is not copied.
    let disk = format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{volume}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    );
    host.says(&["create", &host.rig.bare("writes", &disk)]);
    let told = host.complains(&["vol-clone", "v.raw", "x.raw", "--pool", "p"]);
    assert!(told.contains("a domain or another program uses it"), "{told}");
    host.says(&["destroy", "writes"]);
    host.says(&["vol-clone", "v.raw", "x.raw", "--pool", "p"]);
}

#[test]
fn volumes_of_other_formats_are_told_by_what_is_in_them() {
    if !virsh_possible() {
        return;
    }
    let (host, pool) = with_pool();
    let mut iso = vec![0; 40_000];
    iso[32_769..32_774].copy_from_slice(b"CD001");
    std::fs::write(format!("{pool}/i.iso"), iso).unwrap();
    // (A disk of the format vpc has whole cylinders.)
    let formats = ["vmdk", "vdi", "vhdx", "qed", "qcow", "luks"];
    for format in formats {
        let image = format!("{pool}/i.{format}");
        let secret = ["--object", "secret,id=s,data=secret12", "-o", "key-secret=s,iter-time=10"];
        let more = if format == "luks" { &secret[..] } else { &[] };
        if qemu_img(&[&["create", "-q", "-f", format][..], more, &[&image, "10M"]].concat()).is_none() {
            break;
        }
    }
    host.says(&["pool-refresh", "p"]);
    let told = host.says(&["vol-dumpxml", "i.iso", "p"]);
    assert!(told.contains("<format type='iso'/>") && told.contains(">40000</capacity>"), "{told}");
    host.says(&["vol-resize", "i.iso", "50000", "p"]);
    for format in formats.into_iter().filter(|format| Path::new(&format!("{pool}/i.{format}")).exists()) {
        let told = host.says(&["vol-dumpxml", &format!("i.{format}"), "p"]);
        let shown = if format == "luks" { "raw" } else { format };
        assert!(told.contains(&format!("<format type='{shown}'/>")), "{told}");
        assert_eq!(told.contains("<encryption format='luks'/>"), format == "luks", "{told}");
        // Where the header of vhdx says its size is not looked at, as by libvirt.
        assert!(format == "vhdx" || told.contains("<capacity unit='bytes'>10485760</capacity>"), "{told}");
        let refused = host.complains(&["vol-create-as", "p", "v", "1M", "--format", format]);
        assert!(refused.contains("svirt makes raw and qcow2 ones"), "{refused}");
        let refused = host.complains(&["vol-resize", &format!("i.{format}"), "20M", "p"]);
        assert!(refused.contains("only those are resized here"), "{refused}");
        // A copy needs to know nothing of a format.
        if format != "luks" {
            host.says(&["vol-clone", &format!("i.{format}"), "copy", "--pool", "p"]);
            let bytes = |name: &str| std::fs::read(format!("{pool}/{name}")).unwrap();
            assert!(bytes("copy") == bytes(&format!("i.{format}")));
            host.says(&["vol-delete", "copy", "p"]);
        }
    }
}

const VIRT_CLONE: &str = "/usr/bin/virt-clone";

#[test]
fn virt_clone_copies_a_domain_that_is_off_and_its_disks() {
    if !virsh_possible() {
        return;
    }
    if !Path::new(VIRT_CLONE).exists() {
        println!("skipped: needs {VIRT_CLONE}");
        return;
    }
    let (host, pool) = with_pool();
    host.says(&["vol-create-as", "p", "one.qcow2", "64M", "--format", "qcow2"]);
    host.says(&["vol-create-as", "p", "one.raw", "1M"]);
    std::fs::write(format!("{pool}/one.raw"), vec![5; 1 << 20]).unwrap();
    let disks = ["qcow2", "raw"].map(|format| {
        let target = if format == "raw" { "vdb" } else { "vda" };
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='{format}'/>\
             <source file='{pool}/one.{format}'/><target dev='{target}' bus='virtio'/></disk>"
        )
    });
    host.says(&["define", &host.rig.bare("one", &disks.concat())]);
    let home = host.rig.text("home");
    let mut command = Command::new(VIRT_CLONE);
    command.env("LC_ALL", "C").env("HOME", &home).env("XDG_CACHE_HOME", &home);
    command.args(["--connect", &host.uri(), "--original", "one", "--name", "two", "--auto-clone"]);
    let ran = e2e_rig::finish(
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped()),
    );
    ran.expect(0);
    let disks = host.says(&["domblklist", "two"]);
    let copied =
        |disk: &str| disks.lines().find_map(|line| line.trim().strip_prefix(disk).map(str::trim)).unwrap();
    let raw = copied("vdb");
    assert!(raw != format!("{pool}/one.raw") && std::fs::read(raw).unwrap() == vec![5; 1 << 20], "{disks}");
    assert!(host.says(&["vol-info", copied("vda")]).contains("64.00 MiB"));
    host.says(&["start", "two"]);
    host.says(&["start", "one"]);
    for name in ["one", "two"] {
        host.says(&["destroy", name]);
    }
}
