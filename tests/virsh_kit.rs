//! What conformance kits and other people's clients do that nothing else here does: definitions of few words, media by
//! attaching, tuning.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod e2e_rig;
mod virsh_rig;

use virsh_rig::{Host, virsh_possible};

/// As short as kits write it: libvirt's own choices are all that it has.
fn few_words(host: &Host, name: &str, head: &str, devices: &str) -> String {
    let file = host.rig.text(&format!("{name}.xml"));
    let text = format!(
        "<domain type='qemu'><name>{name}</name><memory>65536</memory>{head}<os><type>hvm</type></os><features><acpi/></features>\
         <devices>{devices}</devices></domain>"
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn a_domain_of_few_words_takes_disks_and_media() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let (extra, first, second) =
        (host.rig.raw("extra.raw", 4), host.rig.raw("first.raw", 1), host.rig.raw("second.raw", 2));
    let device = |name: &str, device: &str, source: &str, target: &str| {
        let source = if source.is_empty() { String::new() } else { format!("<source file='{source}'/>") };
        let text = format!("<disk type='file' device='{device}'>{source}<target dev='{target}'/></disk>");
        let file = host.rig.text(name);
        std::fs::write(&file, &text).unwrap();
        (file, text)
    };
    let (_, drive) = device("drive", "cdrom", &first, "hdc");
    host.says(&["create", &few_words(&host, "few", "", &drive)]);
    let shown = || host.says(&["dumpxml", "few"]);
    assert!(shown().contains("machine='pc"), "{}", shown());
    // Where libvirt's own choice of a machine has PCI slots, a disk has one.
    host.says(&["attach-device", "few", &device("extra", "disk", &extra, "vdb").0]);
    assert!(shown().contains(&extra) && shown().contains("dev='vdb'"), "{}", shown());
    // The call for media is younger than drives: attaching is the old way.
    host.says(&["attach-device", "few", &device("other", "cdrom", &second, "hdc").0]);
    assert!(shown().contains(&second) && !shown().contains(&first), "{}", shown());
    host.says(&["attach-device", "few", &device("empty", "cdrom", "", "hdc").0]);
    assert!(!shown().contains(&second), "{}", shown());
    host.says(&["attach-device", "few", &device("back", "cdrom", &first, "hdc").0]);
    assert!(shown().contains(&first), "{}", shown());
    let taken = host.complains(&["attach-device", "few", &device("taken", "disk", &extra, "vdb").0]);
    assert!(taken.contains("target vdb already exists"), "{taken}");
    host.says(&["destroy", "few"]);
    assert!(host.complains(&["domstate", "few"]).contains("failed to get domain 'few'"));
}

/// What a domain's cgroup says, wherever the host has the controller: version 2, or version 1.
fn limits(host: &Host, name: &str) -> String {
    let ran = host.rig.svirt(&["inspect", name]).expect(0);
    assert!(ran.out.contains("everything is as planned"), "{}", ran.out);
    let status = host.rig.status(name).unwrap();
    let uuid = status.domain.uuid;
    let mut found = String::new();
    let base = std::path::Path::new("/sys/fs/cgroup");
    for (directory, files) in [
        ("cpu", &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"][..]),
        ("memory", &["memory.limit_in_bytes", "memory.soft_limit_in_bytes"]),
        ("blkio", &LEGACY_WEIGHTS),
        ("unified", &["cpu.weight", "cpu.max", "memory.max", "memory.high"]),
        ("", &["cpu.weight", "cpu.max", "memory.max", "memory.high", "io.weight", "io.bfq.weight"]),
    ] {
        let Some(own) = below(&base.join(directory), &format!("svirt-{uuid}"), 4) else { continue };
        for file in files {
            if let Ok(text) = std::fs::read_to_string(own.join(file)) {
                found.push_str(&format!("{file}={} ", text.trim()));
            }
        }
    }
    found
}

/// Where version 1 has a weight at the disks.
const LEGACY_WEIGHTS: [&str; 2] = ["blkio.weight", "blkio.bfq.weight"];

/// Whether cgroups of this host have a weight at the disks; says so if not.
fn has_weight() -> bool {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let blkio = own.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|it| it[1] == "blkio");
    if let Some(place) = blkio {
        let probe = format!("/sys/fs/cgroup/blkio{}/probe-{}", place[2], std::process::id());
        let made = std::fs::create_dir(&probe).is_ok();
        let weighs = LEGACY_WEIGHTS.iter().any(|file| std::path::Path::new(&probe).join(file).exists());
        if made {
            std::fs::remove_dir(&probe).unwrap();
        }
        if weighs {
            return true;
        }
    }
    println!("skipped: needs the blkio controller of cgroups, and a scheduler of disks that weighs");
    false
}

fn below(directory: &std::path::Path, name: &str, depth: u32) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let directories: Vec<_> = entries.map(|it| it.path()).filter(|path| path.is_dir()).collect();
    let own = directories.iter().find(|path| path.file_name().is_some_and(|it| it == name)).cloned();
    own.or_else(|| directories.iter().filter(|_| depth > 0).find_map(|path| below(path, name, depth - 1)))
}

/// Whether the labeller has a controller of processor time to give; says so if not.
fn has_cpu_controller() -> bool {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let legacy =
        own.lines().any(|line| line.split(':').nth(1).is_some_and(|it| it.split(',').any(|c| c == "cpu")));
    let unified = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if legacy || unified.split_whitespace().any(|controller| controller == "cpu") {
        return true;
    }
    println!("skipped: needs the cpu controller of cgroups");
    false
}

#[test]
fn a_labeller_that_dies_while_it_sets_limits_leaves_whole_ones() {
    if !virsh_possible() || !has_cpu_controller() || !cfg!(debug_assertions) {
        println!("skipped: needs a debug build, and the cpu controller of cgroups");
        return;
    }
    let mut host = Host::new();
    host.says(&["define", &few_words(&host, "halfway", "", "")]);
    host.says(&["start", "halfway"]);
    let set = |host: &Host, shares: usize| {
        host.virsh(&["schedinfo", "halfway", "--live", "--set", &format!("cpu_shares={shares}")]).code
    };
    let mut left = Vec::new();
    for step in 0.. {
        assert_eq!(set(&host, 300), Some(0));
        host.kill_labeller();
        host.start_faulty_labeller(&format!("kill:{step}"));
        if set(&host, 700) == Some(0) {
            break;
        }
        e2e_rig::eventually("it has died", || host.labeller_died());
        host.start_labeller();
        let planned = || host.rig.svirt(&["inspect", "halfway"]).out.contains("everything is as planned");
        e2e_rig::eventually("its limits are those that its labeller knows", planned);
        let found = limits(&host, "halfway");
        left.push([300, 700].into_iter().find(|shares| found.contains(&format!("={shares} "))));
    }
    // Before anything was written down, before it was written down that all is set, and after that.
    assert_eq!(left, [Some(300), Some(300), Some(700)]);
}

#[test]
fn a_domain_is_tuned_while_it_runs_and_for_its_next_start() {
    if !virsh_possible() || !has_cpu_controller() {
        return;
    }
    let mut host = Host::new();
    host.says(&["define", &few_words(&host, "tuned", "<vcpu>2</vcpu>", "")]);
    host.says(&["schedinfo", "tuned", "--config", "--set", "cpu_shares=300", "--set", "vcpu_quota=40000"]);
    host.says(&["memtune", "tuned", "--config", "--soft-limit", "500000"]);
    host.says(&["blkiotune", "tuned", "--config", "--weight", "250"]);
    let kept = host.says(&["dumpxml", "tuned", "--inactive"]);
    assert!(kept.contains("<shares>300</shares>") && kept.contains("<quota>40000</quota>"), "{kept}");
    assert!(kept.contains("<soft_limit unit='KiB'>500000</soft_limit>"), "{kept}");
    host.says(&["start", "tuned"]);
    let first = limits(&host, "tuned");
    // Of two virtual CPUs together.
    assert!(first.contains("=300 ") && first.contains("80000"), "{first}");
    assert!(first.contains("=512000000 "), "{first}");

    let weighs = has_weight();
    assert!(!weighs || first.contains("weight=250 "), "{first}");

    // Now, and not for the next start.
    let now = ["schedinfo", "tuned", "--live", "--set", "cpu_shares=700", "--set", "global_quota=30000"];
    host.says(&now);
    host.says(&["memtune", "tuned", "--live", "--hard-limit", "3000000"]);
    if weighs {
        host.says(&["blkiotune", "tuned", "--live", "--weight", "350"]);
    }
    let second = limits(&host, "tuned");
    assert!(!weighs || second.contains("weight=350 "), "{second}");
    assert!(second.contains("=700 ") && second.contains("30000"), "{second}");
    assert!(second.contains("=3072000000 "), "{second}");
    let said = |host: &Host, words: &[&str], line: &str| {
        let out = host.says(words);
        let found = out.lines().any(|it| it.split_whitespace().collect::<Vec<_>>().join(" ") == line);
        assert!(found, "{line:?} is not in\n{out}");
    };
    said(&host, &["schedinfo", "tuned"], "cpu_shares : 700");
    said(&host, &["schedinfo", "tuned", "--config"], "cpu_shares : 300");
    said(&host, &["blkiotune", "tuned", "--config"], "weight : 250");
    said(&host, &["blkiotune", "tuned"], if weighs { "weight : 350" } else { "weight : 250" });
    said(&host, &["memtune", "tuned"], "hard_limit : 3000000");
    said(&host, &["memtune", "tuned", "--config"], "hard_limit : unlimited");

    // Nobody's end changes it.
    host.kill_daemon();
    host.kill_labeller();
    host.start_labeller();
    host.start_daemon();
    e2e_rig::eventually("it is found again", || host.says(&["domstate", "tuned"]) == "running");
    said(&host, &["schedinfo", "tuned"], "cpu_shares : 700");
    assert_eq!(limits(&host, "tuned"), second);
    assert!(host.says(&["dumpxml", "tuned"]).contains("<hard_limit unit='KiB'>3000000</hard_limit>"));
    host.says(&["schedinfo", "tuned", "--live", "--set", "global_quota=-1", "--set", "vcpu_quota=-1"]);
    host.says(&["memtune", "tuned", "--live", "--hard-limit", "-1"]);
    let third = limits(&host, "tuned");
    assert!(!third.contains("30000") && !third.contains("80000") && !third.contains("3072000000"), "{third}");

    for (words, why) in [
        (&["schedinfo", "tuned", "--live", "--set", "vcpu_period=5"][..], "out of range"),
        (&["schedinfo", "tuned", "--config", "--set", "emulator_quota=5000"], "tunes a domain as a whole"),
        (&["memtune", "tuned", "--config", "--swap-hard-limit", "5000"], "tunes a domain as a whole"),
        (&["blkiotune", "tuned", "--config", "--weight", "99"], "'weight' is out of range [100, 1000]"),
        (&["blkiotune", "tuned", "--config", "--device-weights", "/dev/a,500"], "tunes a domain as a whole"),
        (&["blkiotune", "tuned", "--live", "--device-read-iops-sec", "/dev/a,5"], "use blkdeviotune"),
        (&["schedinfo", "tuned", "--live", "--config", "--set", "cpu_shares=999999999"], "shares"),
    ] {
        let told = host.complains(words);
        assert!(told.contains(why), "{words:?}: {told}");
    }
    said(&host, &["schedinfo", "tuned"], "cpu_shares : 700");
    host.says(&["destroy", "tuned"]);
    said(&host, &["schedinfo", "tuned"], "cpu_shares : 300");
}

#[test]
fn virtual_cpus_below_the_maximum_are_plugged_in() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    host.says(&["define", &few_words(&host, "cpus", "<vcpu current='1'>3</vcpu>", "")]);
    host.says(&["start", "cpus"]);
    let count = |host: &Host, words: &[&str]| host.says(&[&["vcpucount", "cpus"][..], words].concat());
    assert_eq!(count(&host, &["--active", "--live"]), "1");
    assert_eq!(count(&host, &["--maximum", "--live"]), "3");
    host.says(&["setvcpus", "cpus", "2"]);
    assert_eq!(count(&host, &["--active", "--live"]), "2");
    assert_eq!(count(&host, &["--active", "--config"]), "1");
    assert!(host.says(&["dumpxml", "cpus"]).contains("current='2'>3</vcpu>"));
    assert_eq!(host.says(&["vcpuinfo", "cpus"]).matches("VCPU:").count(), 2);
    let seen = host.says(&["qemu-monitor-command", "cpus", r#"{"execute":"query-cpus-fast"}"#]);
    assert_eq!(seen.matches("\"cpu-index\"").count(), 2, "{seen}");
    let status = host.rig.control("cpus").status().unwrap();
    assert!(status.sealed && status.refused.is_empty(), "{status:?}");

    host.kill_daemon();
    host.start_daemon();
    e2e_rig::eventually("it is found again", || host.says(&["domstate", "cpus"]) == "running");
    assert_eq!(count(&host, &["--active", "--live"]), "2");
    host.says(&["setvcpus", "cpus", "3", "--live", "--config"]);
    assert_eq!(count(&host, &["--active", "--live"]), "3");
    assert_eq!(count(&host, &["--active", "--config"]), "3");
    for (words, why) in [
        (["1", "--live"], "under emulation QEMU may crash of it"),
        (["4", "--live"], "greater than max allowable vcpus for the live domain: 4 > 3"),
        (["4", "--config"], "greater than max allowable vcpus for the persistent domain: 4 > 3"),
    ] {
        let told = host.complains(&[&["setvcpus", "cpus"][..], &words].concat());
        assert!(told.contains(why), "{told}");
    }
    host.says(&["setvcpus", "cpus", "2", "--config"]);
    host.says(&["destroy", "cpus"]);
    host.says(&["start", "cpus"]);
    assert_eq!(count(&host, &["--active", "--live"]), "2");
    host.says(&["destroy", "cpus"]);
}

#[test]
fn counters_say_what_there_is() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    host.says(&["create", &few_words(&host, "counts", "", "")]);
    let perf = host.says(&["perf", "counts"]);
    assert!(perf.lines().count() == 22 && !perf.contains("enabled"), "{perf}");
    host.says(&["perf", "counts", "--disable", "cmt"]);
    for (event, why) in
        [("cmt", "unable to enable host cpu perf event for cmt"), ("x", "parameter 'x' not supported")]
    {
        let told = host.complains(&["perf", "counts", "--enable", event]);
        assert!(told.contains(why), "{told}");
    }
    // Where the host has groups of the second version, and says so where it has not.
    let ran = host.virsh(&["cpu-stats", "counts", "--total"]);
    let told = ran.out.contains("cpu_time") || ran.err.contains("CPUACCT controller is not mounted");
    assert!(told, "{ran:?}");
    host.says(&["domdirtyrate-calc", "counts", "--seconds", "1"]);
    e2e_rig::eventually("it is measured", || {
        host.says(&["domstats", "counts", "--dirtyrate"]).contains("dirtyrate.calc_status=2")
    });
    let stats = host.says(&["domstats", "counts", "--dirtyrate"]);
    assert!(stats.contains("dirtyrate.calc_mode=page-sampling"), "{stats}");
    let told = host.complains(&["domdirtyrate-calc", "counts", "--seconds", "99"]);
    assert!(told.contains("seconds=99 is invalid, please choose value within [1, 60]."), "{told}");
    let status = host.rig.control("counts").status().unwrap();
    assert!(status.sealed && status.refused.is_empty(), "{status:?}");
    host.says(&["destroy", "counts"]);
}

#[test]
fn a_tpms_state_goes_with_its_definition_or_stays_as_somebody_says() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let uuid = "7d1ba4a6-5d1c-4c2e-9b0f-0d5b6f0a9e12";
    let places = host.rig.path("tpm");
    std::fs::create_dir_all(&places).unwrap();
    let states = ["tpm1", "tpm2"].map(|version| places.join(format!("{uuid}.{version}")));
    let other = places.join("0b8f9d0e-5f0a-4a4e-8f0e-2a1b3c4d5e6f.tpm2");
    std::fs::write(&other, "another's").unwrap();
    let tpm = |more: &str| format!("<tpm><backend type='emulator' version='2.0'{more}/></tpm>");
    for (devices, words, stays) in [
        (tpm(""), &[][..], false),
        (tpm(""), &["--keep-tpm"], true),
        (tpm(" persistent_state='yes'"), &[], true),
        (tpm(" persistent_state='yes'"), &["--tpm"], false),
        (String::new(), &[], true),
        (String::new(), &["--tpm"], false),
    ] {
        states.iter().for_each(|state| std::fs::write(state, "secrets").unwrap());
        let file = host.rig.text("tpm.xml");
        let text = format!(
            "<domain type='qemu'><name>tpm</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory><os><type>hvm</type></os>\
             <devices>{devices}</devices></domain>"
        );
        std::fs::write(&file, text).unwrap();
        host.says(&["define", &file]);
        host.says(&[&["undefine", "tpm"][..], words].concat());
        let there = states.each_ref().map(|state| state.exists());
        assert_eq!(there, [stays; 2], "{devices} {words:?}");
    }
    assert!(other.exists());
}

#[test]
fn uefi_variables_go_or_stay_as_somebody_says() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let uuid = "7d1ba4a6-5d1c-4c2e-9b0f-0d5b6f0a9e11";
    let define = |variables: &str| {
        let file = host.rig.text("uefi.xml");
        let text = format!(
            "<domain type='qemu'><name>uefi</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory><os>\
             <type arch='x86_64' machine='q35'>hvm</type>\
             <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>{variables}</os></domain>"
        );
        std::fs::write(&file, text).unwrap();
        host.says(&["define", &file]);
    };
    define("");
    host.says(&["undefine", "uefi"]);
    std::fs::create_dir_all(host.rig.path("nvram")).unwrap();
    let own = host.rig.path(&format!("nvram/{uuid}_VARS.fd"));
    std::fs::write(&own, "variables").unwrap();
    define("");
    let refused = host.complains(&["undefine", "uefi"]);
    assert!(
        refused.contains("cannot undefine domain with nvram") && refused.contains("--keep-nvram"),
        "{refused}"
    );
    host.says(&["undefine", "uefi", "--keep-nvram"]);
    assert!(own.exists());
    define("");
    host.says(&["undefine", "uefi", "--nvram"]);
    assert!(!own.exists());
    // They go too where the definition says nothing of them any more.
    std::fs::write(&own, "variables").unwrap();
    let plain = std::fs::read_to_string(host.rig.text("uefi.xml")).unwrap();
    let (before, rest) = plain.split_once("<loader").unwrap();
    let plain = format!("{before}{}", rest.split_once("</loader>").unwrap().1);
    std::fs::write(host.rig.text("uefi.xml"), plain).unwrap();
    host.says(&["define", &host.rig.text("uefi.xml")]);
    assert!(host.complains(&["undefine", "uefi"]).contains("--keep-nvram"));
    host.says(&["undefine", "uefi", "--nvram"]);
    assert!(!own.exists());
    // Another domain's are as though they were not there, whichever way they are its own.
    let other = "0b8f9d0e-5f0a-4a4e-8f0e-2a1b3c4d5e6f";
    let named = format!("nvram/{other}_VARS.fd");
    for (file, mark) in [(named.as_str(), None), ("nvram/any.fd", Some(other)), ("nvram/none.fd", None)] {
        let path = host.rig.path(file);
        std::fs::write(&path, "variables").unwrap();
        if let Some(mark) = mark {
            svirt::sys::xattr::set_owner(std::fs::File::open(&path).unwrap(), mark).unwrap();
        }
        define(&format!("<nvram>{}</nvram>", path.display()));
        host.says(&["undefine", "uefi"]);
        define(&format!("<nvram>{}</nvram>", path.display()));
        host.says(&["undefine", "uefi", "--nvram"]);
        assert!(path.exists(), "{file}");
    }
    // Its own under any name go.
    let any = host.rig.path("nvram/any.fd");
    svirt::sys::xattr::set_owner(std::fs::File::open(&any).unwrap(), uuid).unwrap();
    define(&format!("<nvram>{}</nvram>", any.display()));
    assert!(host.complains(&["undefine", "uefi"]).contains("--keep-nvram"));
    host.says(&["undefine", "uefi", "--nvram"]);
    assert!(!any.exists());
    // What lies elsewhere, or is a link to it, is nobody's to remove.
    let elsewhere = host.rig.path("nvram2.fd");
    std::fs::write(&elsewhere, "variables").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &own).unwrap();
    define("");
    assert!(host.complains(&["undefine", "uefi", "--nvram"]).contains("regular file"));
    host.says(&["undefine", "uefi", "--keep-nvram"]);
    std::fs::remove_file(&own).unwrap();
    define(&format!("<nvram>{}</nvram>", elsewhere.display()));
    host.says(&["undefine", "uefi", "--nvram"]);
    assert!(elsewhere.exists());
    // The uuid of a start is no other start's.
    let file = host.rig.text("uefi.xml");
    define(&format!("<nvram>{}</nvram>", any.display()));
    host.says(&["undefine", "uefi", "--nvram"]);
    let text = std::fs::read_to_string(&file).unwrap().replace(&format!("<uuid>{uuid}</uuid>"), "");
    std::fs::write(&file, text).unwrap();
    let told = host.complains(&["create", &file]);
    assert!(told.contains("no <uuid>") && told.contains("uuidgen"), "{told}");
}

#[test]
fn cpus_are_held_against_the_hosts_and_each_other() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let file = |name: &str, text: &str| {
        let path = host.rig.text(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let own = file("own.xml", &host.says(&["capabilities"]));
    assert!(host.says(&["cpu-compare", &own]).contains("is identical to host CPU"));
    let model = |name: &str| file("model.xml", &format!("<cpu><model>{name}</model></cpu>"));
    assert!(host.says(&["cpu-compare", &model("486")]).contains("is a superset of CPU"));
    assert!(
        host.complains(&["cpu-compare", &model("none")]).contains("internal error: Unknown CPU model none")
    );
    let foreign = file("foreign.xml", "<cpu><arch>aarch64</arch><model>x</model></cpu>");
    let said = host.virsh(&["cpu-compare", &foreign]).expect(1).out;
    assert!(said.contains("is incompatible with host CPU"), "{said}");
    let said = host.complains(&["cpu-compare", "--error", &foreign]);
    assert!(said.contains("the CPU is incompatible with host CPU: CPU arch aarch64"), "{said}");
    // What an emulated guest gets is not what the host has.
    let kind = ["--virttype", "qemu"];
    let emulated = |call: &'static str, file: &str| host.virsh(&[&[call, file][..], &kind].concat());
    assert!(emulated("hypervisor-cpu-compare", &model("qemu64")).out.contains("is a superset of CPU"));
    let most = file("most.xml", "<cpu><model>qemu64</model><feature name='amx-tile'/></cpu>");
    assert!(emulated("hypervisor-cpu-compare", &most).out.contains("is incompatible with the CPU"));
    // What all of several hosts have; one alone is what it says it is.
    let told = host.says(&["cpu-baseline", &own]);
    let name = |text: &str| text.split("</model>").next().unwrap().rsplit('>').next().unwrap().to_owned();
    assert_eq!(name(&told), name(std::fs::read_to_string(&own).unwrap().split_once("<cpu>").unwrap().1));
    let again = file("again.xml", &told);
    assert!(host.says(&["cpu-compare", &again]).contains("is identical to host CPU"));
    let cpu =
        |model: &str| format!("<cpu><arch>x86_64</arch><model>{model}</model><vendor>Intel</vendor></cpu>");
    let both = file("both.xml", &(cpu("Haswell-noTSX") + &cpu("Westmere")));
    let told = host.says(&["cpu-baseline", &both]);
    assert!(
        told.contains("<model fallback='allow'>Westmere</model>") && told.contains("<vendor>Intel"),
        "{told}"
    );
    assert!(
        host.says(&["cpu-baseline", "--features", &both]).contains("<feature policy='require' name='fpu'/>")
    );
    let apart = file("apart.xml", &(cpu("Westmere") + &cpu("EPYC").replace("Intel", "AMD")));
    assert!(host.complains(&["cpu-baseline", &apart]).contains("operation failed: CPU vendors do not match"));
    let runs = emulated("hypervisor-cpu-baseline", &both).out;
    assert!(runs.contains("<model fallback='allow'>Westmere</model>"), "{runs}");
}
