//! The real virsh drives a real svirtd, its labeller, supervisors and QEMU.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod e2e_rig;
mod virsh_rig;

use std::fs::File;
use std::process::Stdio;

use e2e_rig::{end_of, eventually};
use virsh_rig::user::{SUBORDINATE, UID, User};
use virsh_rig::{Host, VIRSH, virsh_possible};

/// A definition without a uuid, as people write it.
fn definition(host: &Host, name: &str) -> String {
    let file = host.rig.path(&format!("{name}.xml"));
    let text = format!(
        "<domain type='qemu'><name>{name}</name><title>T {name}</title><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/><apic/></features>\
         <devices><serial type='pty'/></devices></domain>"
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn it_connects_and_tells_of_the_host() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    assert!(host.says(&["version", "--daemon"]).contains("Running hypervisor: QEMU "));
    assert!(host.says(&["version", "--daemon"]).contains("Running against daemon: 9.0.0"));
    assert_eq!(host.says(&["uri"]), host.uri());
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(host.says(&["hostname"]), name.trim());
    assert!(host.says(&["nodeinfo"]).contains("CPU model:           x86_64"));
    assert!(host.says(&["freecell"]).contains(" KiB"));
    assert!(host.says(&["freepages", "--all"]).starts_with("Node 0:\n4KiB: "));
    let ordinary = host.says(&["freepages", "--cellno", "0", "--pagesize", "4"]);
    let count = ordinary.strip_prefix("4KiB: ").and_then(|count| count.trim().parse::<u64>().ok());
    assert!(count.is_some_and(|count| count > 0), "{ordinary}");
    for (words, why) in [
        (["7", "4"], "internal error: start cell 7 out of range (0-"),
        (["0", "5"], "operation failed: page size 5 is not available on node 0"),
    ] {
        let told = host.complains(&["freepages", "--cellno", words[0], "--pagesize", words[1]]);
        assert!(told.contains(why), "{told}");
    }
    if let Ok(pages) = std::fs::read_to_string("/sys/kernel/mm/ksm/pages_to_scan") {
        let told = host.says(&["node-memory-tune"]);
        assert!(told.contains(&format!("shm_pages_to_scan {}", pages.trim())), "{told}");
    }
    if !std::path::Path::new("/sys/class/dmi/id/sys_vendor").exists() {
        let told = host.complains(&["sysinfo"]);
        assert!(
            told.contains("unsupported configuration: Host SMBIOS information is not available"),
            "{told}"
        );
    }
    let told = host.complains(&["node-memory-tune", "--shm-sleep-millisecs", "5"]);
    assert!(told.contains("svirt changes nothing of the host's memory"), "{told}");
    // Nothing happened, which virsh counts as a failure.
    assert!(host.virsh(&["event", "--all", "--timeout", "1"]).expect(1).out.contains("events received: 0"));
    for kind in ["net-list", "pool-list", "iface-list", "nwfilter-list", "secret-list", "nodedev-list"] {
        host.says(&[kind]);
    }
    let text = "this function is not supported by the connection driver: virNodeSuspendForDuration";
    assert!(host.complains(&["nodesuspend", "mem", "60"]).contains(text));
    let nobody = host.complains(&["domstate", "nobody"]);
    assert!(nobody.contains("failed to get domain 'nobody'"), "{nobody}");
    let network = host.says(&["net-info", "default"]);
    assert!(network.contains("Active:         yes") && network.contains("Autostart:      yes"), "{network}");
    assert!(host.says(&["net-dumpxml", "default"]).contains("<forward mode='nat'/>"));
    assert!(host.complains(&["net-info", "other"]).contains("failed to get network 'other'"));
    assert!(host.complains(&["net-destroy", "default"]).contains("virNetworkDestroy"));
    assert!(host.says(&["-r", "list", "--all"]).contains("Id"));
}

#[test]
fn it_measures_the_host_and_tells_what_is_pinned() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let number = |text: &str, key: &str| -> u64 {
        let line =
            text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key}: {text}"));
        line.trim().trim_start_matches(':').trim().trim_end_matches(" KiB").parse().unwrap()
    };
    let kernel = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = kernel.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap().trim();
    let memory = host.says(&["nodememstats"]);
    assert_eq!(number(&memory, "total").to_string(), total.trim_end_matches(" kB"));
    assert!(number(&memory, "free") < number(&memory, "total"), "{memory}");
    assert!(host.complains(&["nodememstats", "--cell", "7"]).contains("whole host only"));
    let times = host.says(&["nodecpustats"]);
    let first = number(&host.says(&["nodecpustats", "--cpu", "0"]), "user");
    assert!(first > 0 && number(&times, "idle") > 0, "{times}");
    assert!(host.complains(&["nodecpustats", "--cpu", "4000"]).contains("does not tell of such a CPU"));
    assert!(host.says(&["freecell", "--cellno", "0"]).contains(" KiB"));

    let file = definition(&host, "pinned");
    let tune = "<cputune><vcpupin vcpu='0' cpuset='0'/><emulatorpin cpuset='0'/></cputune><os>";
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replacen("<os>", tune, 1)).unwrap();
    host.says(&["define", &file]);
    for (command, line) in [("vcpupin", "0      0"), ("emulatorpin", "*: 0")] {
        let said = host.says(&[command, "pinned"]);
        assert!(said.lines().any(|said| said.trim() == line), "{said}");
    }
    assert!(host.complains(&["vcpupin", "pinned", "--live"]).contains("offline domain"));
    for words in
        [&["emulatorpin", "pinned", "--live"][..], &["domifaddr", "pinned"], &["domjobinfo", "pinned"]]
    {
        let text = host.complains(words);
        assert!(text.contains("domain is not running"), "{words:?}: {text}");
    }
}

#[test]
fn it_holds_no_privilege() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    host.says(&["version"]);
    let uid = host.rig.settings.uids.frontend;
    for thread in std::fs::read_dir(format!("/proc/{}/task", host.daemon_pid())).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let has = |line: &str| assert!(status.contains(line), "{line:?} is missing in:\n{status}");
        has(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n"));
        has(&format!("Gid:\t{uid}\t{uid}\t{uid}\t{uid}\n"));
        has("Groups:\t \n");
        for set in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
            has(&format!("Cap{set}:\t0000000000000000\n"));
        }
        has("NoNewPrivs:\t1\n");
        has("Seccomp:\t2\n");
    }
}

#[test]
fn a_domain_lives_and_dies() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let file = definition(&host, "d1");
    let heard = host.rig.path("events");
    let mut listener = host
        .command(&["event", "--all", "--loop"])
        .stdout(File::create(&heard).unwrap())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    // It hears of nothing before it has registered; an event of a domain of its own tells.
    let probe = definition(&host, "probe");
    let events = || std::fs::read_to_string(&heard).unwrap();
    eventually("somebody listens", || {
        host.says(&["define", &probe]);
        host.says(&["undefine", "probe"]);
        events().contains("probe")
    });

    assert_eq!(host.says(&["define", &file]), format!("Domain 'd1' defined from {file}"));
    host.says(&["guest-agent-timeout", "d1", "--timeout", "5"]);
    assert_eq!(host.says(&["domstate", "d1", "--reason"]), "shut off (unknown)");
    assert!(host.says(&["list", "--all", "--title"]).contains("T d1"));
    host.says(&["start", "d1"]);
    let id = host.says(&["domid", "d1"]);
    assert!(host.says(&["list"]).contains("running"));
    assert_eq!(host.says(&["domname", &id]), "d1");
    assert_eq!(host.says(&["domstate", "d1", "--reason"]), "running (booted)");
    let info = host.says(&["dominfo", "d1"]);
    for line in
        ["State:          running", "Max memory:     32768 KiB", "Persistent:     yes", "Security DOI:   0"]
    {
        assert!(info.contains(line), "{line:?} is missing in:\n{info}");
    }
    assert!(info.contains("Security model: dac") || info.contains("Security model: selinux"), "{info}");
    assert!(host.says(&["domstats", "d1"]).contains("state.state=1"));
    let uuid = host.says(&["domuuid", "d1"]);
    assert!(host.says(&["dumpxml", "d1"]).contains(&format!("id='{id}'")));
    let inactive = host.says(&["dumpxml", "d1", "--inactive"]);
    assert!(inactive.contains(&uuid) && inactive.contains("<domain type='qemu'>"), "{inactive}");
    assert!(host.complains(&["start", "d1"]).contains("already active"));
    host.says(&["suspend", "d1"]);
    assert_eq!(host.says(&["domstate", "d1", "--reason"]), "paused (user)");
    assert_eq!(host.rig.control("d1").status().unwrap().state, "paused");
    for mode in [
        &["shutdown", "d1"][..],
        &["shutdown", "d1", "--mode", "acpi"],
        &["shutdown", "d1", "--mode", "agent"],
    ] {
        assert!(host.complains(mode).contains("domain is not running"), "{mode:?}");
    }
    host.says(&["resume", "d1"]);
    assert!(host.complains(&["resume", "d1"]).contains("domain is already running"));
    host.says(&["autostart", "d1"]);
    assert!(host.says(&["list", "--autostart"]).contains("d1"));
    host.says(&["destroy", "d1"]);
    assert_eq!(host.says(&["domstate", "d1", "--reason"]), "shut off (destroyed)");
    assert!(host.complains(&["destroy", "d1"]).contains("domain is not running"));
    host.says(&["undefine", "d1"]);
    host.says(&["create", &file, "--paused"]);
    assert!(host.says(&["list", "--transient"]).contains("paused"));
    host.says(&["destroy", "d1"]);
    assert!(!host.says(&["list", "--all"]).contains("d1"));

    eventually("the last event", || events().matches("Stopped Destroyed").count() == 2);
    listener.kill().unwrap();
    listener.wait().unwrap();
    let text = events();
    let of_d1: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("'d1'"))
        .filter_map(|line| line.split_once("'d1': ").map(|(_, what)| what))
        .collect();
    let expected = [
        "Defined Added",
        "Resumed Unpaused",
        "Started Booted",
        "Suspended Paused",
        "Resumed Unpaused",
        "Shutdown Finished after host request",
        "Stopped Destroyed",
        "Undefined Removed",
        "Started Booted",
        "Suspended Paused",
        "Shutdown Finished after host request",
        "Stopped Destroyed",
    ];
    assert_eq!(of_d1, expected, "{text}");
}

#[test]
fn what_runs_can_be_defined_as_it_is_shown() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let file = definition(&host, "shown");
    let text = std::fs::read_to_string(&file).unwrap();
    let odd = text.replace("<memory unit='MiB'>32<", "<memory unit='KiB'>33001<");
    let display = "<graphics type='vnc' autoport='yes'/></devices>";
    std::fs::write(&file, odd.replace("</devices>", display)).unwrap();
    host.says(&["define", &file]);
    assert!(host.says(&["dominfo", "shown"]).contains("Max memory:     33001 KiB"));
    host.says(&["start", "shown"]);
    let info = host.says(&["dominfo", "shown"]);
    assert!(
        info.contains("Max memory:     33792 KiB") && info.contains("Used memory:    33792 KiB"),
        "{info}"
    );
    let shown = host.says(&["dumpxml", "shown"]);
    assert!(shown.contains(" autoport='yes'") && !shown.contains("port='-1'"), "{shown}");
    std::fs::write(&file, &shown).unwrap();
    host.says(&["define", &file]);
    assert!(host.says(&["dumpxml", "shown", "--inactive"]).contains("port='-1' autoport='yes'"));
    host.says(&["domxml-to-native", "qemu-argv", "--domain", "shown"]);
    host.says(&["destroy", "shown"]);
    host.says(&["start", "shown"]);
    host.says(&["destroy", "shown"]);
    host.says(&["undefine", "shown"]);
    host.says(&["create", &file]);
    host.says(&["destroy", "shown"]);
}

#[test]
fn what_is_asked_wrongly_is_refused_as_libvirt_does() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    for name in ["d1", "d2", "d3"] {
        host.says(&["define", &definition(&host, name)]);
    }
    let stats = host.says(&["domstats", "d3", "d1", "d2", "d3", "--state"]);
    let order: Vec<&str> = stats.lines().filter(|line| line.contains("Domain:")).collect();
    assert_eq!(order, ["Domain: 'd3'", "Domain: 'd1'", "Domain: 'd2'"], "{stats}");
    for nodes in ["0-9999999", "1024", "0,4294967296"] {
        let told = host.complains(&["numatune", "d1", "--nodeset", nodes, "--config"]);
        assert!(told.contains(&format!("Failed to parse bitmap '{nodes}'")), "{told}");
    }
    assert!(!host.says(&["dumpxml", "d1"]).contains("nodeset"));
    for shares in ["cpu_shares=-5", "cpu_shares=262145"] {
        let told = host.complains(&["schedinfo", "d1", "--config", "--set", shares]);
        assert!(told.contains("invalid argument: value of 'cpu_shares' is out of range"), "{told}");
    }
    host.says(&["schedinfo", "d1", "--config", "--set", "vcpu_quota=-9"]);
    assert!(host.says(&["dumpxml", "d1"]).contains("<quota>-1</quota>"));
    let told = host.complains(&["vcpucount", "d1", "--guest"]);
    assert!(told.contains("invalid argument: vCPU count provided by the guest agent can only"), "{told}");
}

#[test]
fn a_definition_is_told_as_a_command_line() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let file = definition(&host, "native");
    let words = ["domxml-to-native", "qemu-argv"];
    let told = host.says(&[&words[..], &[&file]].concat());
    assert!(told.contains("/qemu-system-x86_64 -name ") && told.contains("guest=native,"), "{told}");
    // Of what runs it is the line that it runs with, but for the descriptors and the display of each start.
    host.says(&["define", &file]);
    host.says(&["start", "native"]);
    let pid = host.rig.status("native").unwrap().qemu_pid;
    let runs = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let told = host.says(&[&words[..], &["--domain", "native"]].concat());
    for word in runs.split(|byte| *byte == 0).map(|word| std::str::from_utf8(word).unwrap()) {
        let quoted = format!(" '{word}'");
        assert!(told.contains(&quoted) || told.contains(word), "{word}: {told}");
    }
    // What is shown of a domain that runs defines it again, without what was made for it.
    let again = host.rig.text("again.xml");
    std::fs::write(&again, host.says(&["dumpxml", "native"])).unwrap();
    host.says(&["destroy", "native"]);
    host.says(&["define", &again]);
    assert!(!host.says(&["dumpxml", "native"]).contains("<source"));
    host.says(&["start", "native"]);
    let told = host.complains(&["domxml-to-native", "bogus", &file]);
    assert!(told.contains("invalid argument: unsupported config type bogus"), "{told}");
    let told = host.complains(&["domxml-from-native", "qemu-argv", "/dev/null"]);
    assert!(told.contains("virConnectDomainXMLFromNative"), "{told}");
}

#[test]
fn a_refused_start_says_everything_in_its_error() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let file = host
        .rig
        .bare("d1", "<disk type='file'><source file='/etc/shadow'/><target dev='vda' bus='virtio'/></disk>");
    host.says(&["define", &file]);
    let told = host.complains(&["start", "d1"]);
    assert!(told.contains("error: Failed to start domain 'd1'"), "{told}");
    assert!(told.contains("/etc/shadow") && told.contains("to fix it:"), "{told}");
    assert_eq!(host.says(&["domstate", "d1"]), "shut off");
    let wrong = host.rig.bare("d2", "<disk type='file'><sauce/></disk>");
    let told = host.complains(&["define", &wrong]);
    assert!(told.contains("unsupported configuration") && told.contains("line 1"), "{told}");
    std::fs::write(&wrong, "<domain><name>x</nam").unwrap();
    assert!(host.complains(&["define", &wrong]).contains("error: XML error"));
    let other = host.rig.path("other.xml");
    let text = std::fs::read_to_string(&file).unwrap();
    let start = text.find("<uuid>").unwrap();
    let end = text.find("</uuid>").unwrap();
    std::fs::write(&other, format!("{}{}", &text[..start], &text[end + 7..])).unwrap();
    // The same name without a uuid is the same domain.
    host.says(&["define", other.to_str().unwrap()]);
    let clash =
        format!("{}<uuid>6ba7b810-9dad-11d1-80b4-00c04fd430c8</uuid>{}", &text[..start], &text[end + 7..]);
    std::fs::write(&other, clash).unwrap();
    assert!(host.complains(&["define", other.to_str().unwrap()]).contains("already exists with uuid"));
}

#[test]
fn a_killed_daemon_loses_nothing() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let file = definition(&host, "runs");
    host.says(&["define", &file]);
    host.says(&["autostart", "runs"]);
    host.says(&["start", "runs"]);
    let gone = definition(&host, "ends");
    host.says(&["create", &gone]);
    let before =
        (host.says(&["list", "--all"]), host.says(&["dumpxml", "runs"]), host.says(&["dominfo", "runs"]));
    host.kill_daemon();
    host.start_daemon();
    let after =
        (host.says(&["list", "--all"]), host.says(&["dumpxml", "runs"]), host.says(&["dominfo", "runs"]));
    assert_eq!(after, before);
    // What ends while nobody listens is seen at the next start.
    host.kill_daemon();
    host.rig.svirt(&["stop", "--force", "ends"]).expect(0);
    host.start_daemon();
    let list = host.says(&["list", "--all"]);
    assert!(list.contains("runs") && !list.contains("ends"), "{list}");
    // And what ends while it does.
    host.rig.svirt(&["stop", "--force", "runs"]).expect(0);
    eventually("the end is seen", || host.says(&["domstate", "runs"]) == "shut off");
    // Domains that somebody else starts are seen too, and can be ended.
    let other = host.rig.bare("other", "");
    host.rig.start(&other);
    eventually("somebody else's domain is seen", || host.says(&["list"]).contains("other"));
    assert!(host.complains(&["dumpxml", "other"]).contains("was started without svirtd"));
    host.says(&["destroy", "other"]);
    assert!(host.rig.status("other").is_none());
}

#[test]
fn definitions_that_were_acknowledged_outlive_a_kill_at_any_moment() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let commands: String = (0..40)
            .map(|number| format!("define {}\n", definition(&host, &format!("d{round}-{number}"))))
            .collect();
        let script = host.rig.path("script");
        std::fs::write(&script, commands).unwrap();
        let out = host.rig.path("out");
        let mut child = host
            .command(&[])
            .stdin(File::open(&script).unwrap())
            .stdout(File::create(&out).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Somewhere in the middle, by what was acknowledged and not by time.
        let said = || std::fs::read_to_string(&out).unwrap();
        eventually("some are defined", || said().matches("defined from").count() > 5 + round * 7);
        host.kill_daemon();
        end_of(&mut child);
        acknowledged.extend(said().lines().filter_map(|line| {
            let name = line.split_once("Domain '")?.1.split_once("' defined from")?.0;
            Some(name.to_owned())
        }));
        host.start_daemon();
        let list = host.says(&["list", "--all", "--name"]);
        let names: Vec<&str> = list.lines().collect();
        for name in &acknowledged {
            assert!(names.contains(&name.as_str()), "{name} is lost");
        }
    }
}

#[test]
fn rules_say_who_may_do_what() {
    if !virsh_possible() {
        return;
    }
    const TENANT: u32 = 54_321;
    // Every Debian has the group daemon, of number 1.
    let rules = format!(
        "[[rule]]\nuids = [{TENANT}]\nrole = 'operator'\ndomains = ['web-*']\n\n[[rule]]\nuids = [54322]\nrole = 'viewer'\n"
    );
    let host = Host::with(|settings| settings.daemon.group = "daemon".into(), &rules);
    for name in ["web-1", "db-1"] {
        let file = definition(&host, name);
        host.says(&["define", &file]);
    }
    let tenant = |words: &[&str]| host.virsh_as(TENANT, 1, words);
    let seen = tenant(&["list", "--all", "--name"]).expect(0).out;
    assert_eq!(seen.trim(), "web-1");
    tenant(&["start", "db-1"]).expect(1).says(&["failed to get domain 'db-1'"]);
    tenant(&["start", "web-1"]).expect(0);
    assert!(!tenant(&["domstats"]).expect(0).out.contains("db-1"));
    let denied = ["access denied", "domain:delete", "uid 54321"];
    tenant(&["undefine", "web-1"]).expect(1).says(&denied);
    let own = definition(&host, "web-2");
    tenant(&["define", &own]).expect(1).says(&["access denied", "domain:write"]);
    tenant(&["destroy", "web-1"]).expect(0);
    let viewer = |words: &[&str]| host.virsh_as(54_322, 1, words);
    assert!(viewer(&["list", "--all", "--name"]).expect(0).out.contains("db-1"));
    viewer(&["start", "db-1"]).expect(1).says(&["access denied", "domain:start"]);
    viewer(&["dumpxml", "db-1"]).expect(0);
    viewer(&["dumpxml", "db-1", "--security-info"]).expect(1).says(&["access denied", "domain:read_secure"]);
    // The rules are read again when somebody asks for that; wrong ones change nothing.
    let reload = |text: &str, said: &str| {
        let before = host.daemon_log().matches(said).count();
        std::fs::write(host.rig.path("access.toml"), text).unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(host.daemon_pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
        eventually("the rules are read", || host.daemon_log().matches(said).count() > before);
    };
    reload("[[rule]]\nuids = 1\n", "the rules stay as they were");
    viewer(&["list", "--all"]).expect(0);
    reload(&rules.replace("54322", "54324").replace("web-*", "db-*"), "has read the rules again");
    viewer(&["list", "--all"]).expect(1).says(&["access denied"]);
    assert_eq!(tenant(&["list", "--all", "--name"]).expect(0).out.trim(), "db-1");
    // In the group, but in no rule; and not even in the group.
    host.virsh_as(54_323, 1, &["list"]).expect(1).says(&["access denied", "connect:getattr"]);
    host.virsh_as(54_323, 54_323, &["list"]).expect(1).says(&["Permission denied"]);
}

/// A domain with one disk, and whatever else.
fn with_disk(host: &Host, name: &str, image: &str, more: &str) -> String {
    let file = host.rig.path(&format!("{name}.xml"));
    let kind = if image.ends_with(".qcow2") { "qcow2" } else { "raw" };
    let text = format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><disk type='file' device='disk'>\
         <driver name='qemu' type='{kind}'/><source file='{image}'/><target dev='vda' bus='virtio'/></disk>{more}\
         </devices></domain>"
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// What runs by a tenant's word is held to its list, and so is what it goes on from when it was saved without another
/// definition; whoever hands in a new one may name what he may.
fn what_runs_is_held_to_its_list(host: &mut Host, own: &str, others: &str) {
    let tenant = |host: &Host, words: &[&str]| host.virsh_as(TENANT, 1, words);
    let refused = ["the header names the backing file", others];
    let (saved, changed) = (host.rig.text("saved/a-11"), host.rig.text("changed.xml"));

    // Restored as a tenant says.
    let disk = format!("{own}/a-11.img");
    qcow2(&disk, &[]);
    let file = with_disk(host, "a-11", &disk, "");
    host.says(&["create", &file]);
    host.says(&["save", "a-11", &saved]);
    let xml = tenant(host, &["save-image-dumpxml", &saved]).expect(0).out;
    std::fs::write(&changed, &xml).unwrap();
    host.says(&["define", &changed]);
    std::fs::write(&changed, xml.replace("type='raw'", "type='qcow2'")).unwrap();
    tenant(host, &["restore", &saved, "--xml", &changed]).expect(0);
    tenant(host, &["managedsave", "a-11"]).expect(0);
    qcow2(&disk, &["-F", "qcow2", "-b", "../b-1.qcow2"]);
    host.virsh(&["start", "a-11"]).expect(1).says(&refused);
    // Whoever may name everything hands the same in, and it goes on.
    let xml = host.says(&["managedsave-dumpxml", "a-11"]);
    std::fs::write(&changed, &xml).unwrap();
    host.says(&["managedsave-define", "a-11", &changed, "--paused"]);
    host.says(&["start", "a-11"]);
    host.says(&["destroy", "a-11"]);

    // A tenant's medium in a drive of an administrator's domain, and a daemon that finds it again.
    let (disk, medium) = (format!("{own}/a-12.img"), format!("{own}/cd.qcow2"));
    std::fs::write(&disk, [0; 4096]).unwrap();
    qcow2(&medium, &[]);
    let drive = |source: &str| {
        format!(
            "<disk type='file' device='cdrom'><driver name='qemu' type='qcow2'/>{source}<target dev='sda' bus='sata'/>\
             <readonly/></disk>"
        )
    };
    let file = with_disk(host, "a-12", &disk, &drive(""));
    host.says(&["define", &file]);
    host.says(&["start", "a-12"]);
    std::fs::write(&changed, drive(&format!("<source file='{medium}'/>"))).unwrap();
    tenant(host, &["update-device", "a-12", &changed, "--live"]).expect(0);
    host.kill_daemon();
    host.start_daemon();
    host.says(&["managedsave", "a-12"]);
    qcow2(&medium, &["-F", "qcow2", "-b", "../b-1.qcow2"]);
    host.virsh(&["start", "a-12"]).expect(1).says(&refused);
    qcow2(&medium, &[]);
    host.says(&["start", "a-12"]);
    host.says(&["destroy", "a-12"]);
}

#[test]
fn what_a_client_saves_and_dumps_is_counted_as_its_own() {
    if !virsh_possible() {
        return;
    }
    let rules = format!("[[rule]]\nuids = [{TENANT}]\nrole = 'admin'\n");
    let host = Host::with(
        |settings| {
            settings.daemon.group = "daemon".into();
            settings.save.percent_per_user = 0;
        },
        &rules,
    );
    host.says(&["define", &host.rig.bare("much", "")]);
    host.says(&["start", "much"]);
    let (saved, dumped) = (host.rig.text("saved/much"), host.rig.text("dumps/much"));
    let calls = [
        &["save", "much", &saved][..],
        &["managedsave", "much"],
        &["dump", "much", &dumped, "--memory-only"],
    ];
    for words in calls {
        let said = ["uid 54331 may have 0 MiB of saved domains and dumps", "save.percent_per_user"];
        host.virsh_as(TENANT, 1, words).expect(1).says(&said);
    }
    host.says(&["dump", "much", &dumped, "--memory-only"]);
    host.says(&["managedsave", "much"]);
    host.says(&["undefine", "much", "--managed-save"]);
}

/// Makes a qcow2 image.
fn qcow2(path: &str, more: &[&str]) {
    let mut command = std::process::Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]).args(more).args([path, "1M"]);
    assert!(command.status().unwrap().success(), "{path}");
}

/// A uid that has nothing but what a rule gives it.
const TENANT: u32 = 54_331;

#[test]
fn a_tenants_definitions_name_the_files_of_its_rule() {
    if !virsh_possible() {
        return;
    }
    let rules = |files: &str| {
        format!(
            "[[rule]]\nuids = [{TENANT}]\nrole = 'operator'\nallow = ['domain:write', 'domain:save', 'domain:delete']\n\
             domains = ['a-*']\n{files}\n"
        )
    };
    let mut host = Host::with(|settings| settings.daemon.group = "daemon".into(), &rules(""));
    let images = host.rig.text("images");
    let (own, others) = (format!("{images}/a"), format!("{images}/b-1.qcow2"));
    std::fs::create_dir(&own).unwrap();
    qcow2(&others, &[]);
    qcow2(&format!("{own}/1.qcow2"), &[]);
    // What its guest, or whoever else writes the image, made of it.
    qcow2(&format!("{own}/2.qcow2"), &["-F", "qcow2", "-b", "../b-1.qcow2"]);
    let tenant = |host: &Host, words: &[&str]| host.virsh_as(TENANT, 1, words);
    let mine = with_disk(&host, "a-1", &format!("{own}/1.qcow2"), "");
    let said = ["access denied", "no file of the host", "`files` of rule 1", "access.toml", "disk vda"];
    tenant(&host, &["define", &mine]).expect(1).says(&said);
    host.kill_daemon();
    std::fs::write(host.rig.path("access.toml"), rules(&format!("files = ['{own}']"))).unwrap();
    host.start_daemon();
    tenant(&host, &["define", &mine]).expect(0);
    let log = host.rig.text("log/b-1.log");
    let elsewhere = [
        with_disk(&host, "a-2", &others, ""),
        with_disk(&host, "a-3", &format!("{own}/../b-1.qcow2"), ""),
        with_disk(
            &host,
            "a-4",
            &format!("{own}/1.qcow2"),
            &format!("<serial type='file'><source path='{log}'/></serial>"),
        ),
        with_disk(&host, "a-5", &format!("{own}/1.qcow2"), "<graphics type='vnc' socket='/run/b-1.vnc'/>"),
    ];
    for file in &elsewhere {
        for call in ["define", "create"] {
            tenant(&host, &[call, file]).expect(1).says(&["access denied", "or lies below", "rule 1"]);
        }
    }
    assert_eq!(tenant(&host, &["list", "--all", "--name"]).expect(0).out.trim(), "a-1");
    let more = ["attach-disk", "a-1", &others, "vdb", "--driver", "qemu", "--subdriver", "qcow2", "--config"];
    tenant(&host, &more).expect(1).says(&["access denied", "disk vdb", &others]);
    // Whoever may name it may add it; then it stays through the tenant's own edits, as it was added.
    let more = [&more[..], &["--mode", "readonly"]].concat();
    host.says(&more);
    let text = tenant(&host, &["dumpxml", "a-1"]).expect(0).out;
    let edited = host.rig.text("edited.xml");
    std::fs::write(&edited, text.replace("<vcpu placement='static'>1<", "<vcpu placement='static'>2<"))
        .unwrap();
    tenant(&host, &["define", &edited]).expect(0);
    std::fs::write(&edited, text.replace("<readonly/>", "")).unwrap();
    tenant(&host, &["define", &edited]).expect(1).says(&["access denied", &others]);
    tenant(&host, &["detach-disk", "a-1", "vdb", "--config"]).expect(0);
    // A header is held to the same list, whoever starts it and after a restart too.
    let chained = with_disk(&host, "a-6", &format!("{own}/2.qcow2"), "");
    tenant(&host, &["create", &chained]).expect(1).says(&["the header names the backing file", &others]);
    tenant(&host, &["define", &chained]).expect(0);
    host.kill_daemon();
    host.start_daemon();
    host.virsh(&["start", "a-6"]).expect(1).says(&["the header names the backing file", &others, "files"]);
    tenant(&host, &["start", "a-1"]).expect(0);
    let plug = [
        "attach-disk",
        "a-1",
        &format!("{own}/2.qcow2"),
        "vdb",
        "--driver",
        "qemu",
        "--subdriver",
        "qcow2",
        "--live",
    ];
    tenant(&host, &plug).expect(1).says(&["the header names the backing file", &others]);
    tenant(&host, &["attach-disk", "a-1", &others, "vdb", "--live"])
        .expect(1)
        .says(&["access denied", &others]);
    tenant(&host, &["destroy", "a-1"]).expect(0);
    // What an administrator defined is held to the tenant's list from the tenant's first change on: a raw disk is as its
    // guest wrote it.
    for (name, saves) in [("a-8", false), ("a-9", true)] {
        let disk = format!("{own}/{name}.img");
        qcow2(&disk, &[]);
        let file = with_disk(&host, name, &disk, "");
        let text = std::fs::read_to_string(&file).unwrap().replace("type='qcow2'", "type='raw'");
        std::fs::write(&file, &text).unwrap();
        host.says(&["define", &file]);
        let changed = host.rig.text("changed.xml");
        if saves {
            host.says(&["start", name]);
            host.says(&["managedsave", name]);
            let text = tenant(&host, &["managedsave-dumpxml", name]).expect(0).out;
            std::fs::write(&changed, text.replace("type='raw'", "type='qcow2'")).unwrap();
        } else {
            let disk = format!(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>\
                 <target dev='vda' bus='virtio'/></disk>"
            );
            std::fs::write(&changed, disk).unwrap();
        }
        qcow2(&disk, &["-F", "qcow2", "-b", "../b-1.qcow2"]);
        let call = if saves { "managedsave-define" } else { "update-device" };
        let config: &[&str] = if saves { &[] } else { &["--config"] };
        tenant(&host, &[&[call, name, &changed][..], config].concat()).expect(0);
        host.virsh(&["start", name]).expect(1).says(&["the header names the backing file", &others]);
    }
    what_runs_is_held_to_its_list(&mut host, &own, &others);
    // A definition with another domain's uuid learns nothing of what that one names.
    host.says(&["define", &with_disk(&host, "b-2", &others, "")]);
    let uuid = host.says(&["domuuid", "b-2"]);
    let file = with_disk(&host, "a-10", &others, "");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("<name>a-10</name>", &format!("<name>a-10</name><uuid>{uuid}</uuid>"));
    std::fs::write(&file, text).unwrap();
    tenant(&host, &["define", &file]).expect(1).says(&["access denied", &others]);
    // What is in use is said without the name of a domain that the tenant may not see.
    let (theirs, raw) = (format!("{own}/3.raw"), format!("{own}/3.raw"));
    std::fs::write(&raw, [0; 4096]).unwrap();
    host.says(&["create", &with_disk(&host, "b-1", &theirs, "")]);
    let clash = with_disk(&host, "a-7", &theirs, "");
    let said =
        tenant(&host, &["create", &clash]).expect(1).says(&["in use by a domain that you may not see", &raw]);
    assert!(!said.err.contains("b-1"), "{}", said.err);
    host.virsh(&["create", &clash]).expect(1).says(&["in use by domain b-1"]);
    host.says(&["destroy", "b-1"]);
    // Defined by somebody who may name everything, it starts.
    host.says(&["define", &chained]);
    host.says(&["start", "a-6"]);
    host.says(&["destroy", "a-6"]);
}

#[test]
fn a_console_carries_both_ways_and_goes_to_whoever_forces_it() {
    if !virsh_possible() || e2e_rig::guest().is_none() {
        return;
    }
    let mut host = Host::new();
    let file = host.rig.linux("talks", "", "");
    host.says(&["create", &file]);
    host.rig.heard("talks", "is up");
    let mut talk = e2e_rig::terminal::Talk::new(host.command(&["console", "talks"]));
    // virsh says so before it is attached, and drops what is typed until then; what the guest wrote before tells.
    talk.shows("Escape character");
    talk.shows("is up");
    talk.types("echo $((6*7))\r");
    talk.shows("42\r\n");
    let second = host.virsh(&["console", "talks"]);
    assert_ne!(second.code, Some(0));
    assert!(host.virsh(&["list"]).expect(0).out.contains("talks"));
    // Taking it away ends the first one; the guest goes on.
    let mut other = e2e_rig::terminal::Talk::new(host.command(&["console", "talks", "--force"]));
    other.shows("is up");
    other.types("echo ag''ain\r");
    other.shows("again\r\n");
    drop(talk);
    other.types("\x1d");
    assert_eq!(other.ends(), Some(0));
    // Another daemon finds the console again.
    host.kill_daemon();
    host.start_daemon();
    let mut talk = e2e_rig::terminal::Talk::new(host.command(&["console", "talks"]));
    talk.shows("is up");
    talk.types("echo aft''er\r");
    talk.shows("after\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    host.says(&["shutdown", "talks"]);
    eventually("the guest has powered off", || !host.says(&["list", "--all"]).contains("talks"));
}

#[test]
fn a_console_that_nobody_has_is_refused_by_name() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let file = host.rig.bare("d1", "");
    host.says(&["define", &file]);
    let mut talk = e2e_rig::terminal::Talk::new(host.command(&["console", "d1"]));
    talk.shows("The domain is not running");
    assert_eq!(talk.ends(), Some(1));
}

#[test]
fn the_test_driver_has_what_libvirts_has_besides_domains() {
    if !std::path::Path::new(VIRSH).exists() {
        println!("skipped: needs {VIRSH}");
        return;
    }
    const VIEW: &str = "test:///default";
    let user = User::new();
    let libvirts = |words: &[&str]| {
        let mut command = std::process::Command::new(VIRSH);
        command.env("LC_ALL", "C").args(["-c", VIEW]).args(words).stdin(Stdio::null());
        e2e_rig::finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    };
    for line in [
        "net-list --all",
        "net-list --no-autostart --name",
        "net-list --autostart --name",
        "net-info default",
        "net-dumpxml default",
        "net-dhcp-leases default",
        "net-info nosuch",
        "pool-list --all --details",
        "pool-list --inactive",
        "pool-info default-pool",
        "pool-dumpxml default-pool",
        "pool-refresh default-pool",
        "pool-info nosuch",
        "vol-list default-pool",
        "iface-list --all",
        "iface-list --inactive",
        "iface-dumpxml eth1",
        "iface-mac eth1",
        "iface-name aa:bb:cc:dd:ee:ff",
        "iface-dumpxml nosuch",
        "iface-name 00:00:00:00:00:01",
        "domblkinfo test vda",
        "domblkinfo test /guest/diskimage1",
        "domblkinfo test nosuch",
        "domblkstat test nosuch",
        "domblkstat test",
        "domifstat test nosuch",
        "domhostname test",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (theirs, ours) = (libvirts(&words), user.virsh(VIEW, &words));
        assert_eq!((ours.code, &ours.out, &ours.err), (theirs.code, &theirs.out, &theirs.err), "{line}");
    }
    // These follow the clock: the same of them are there.
    for line in ["domblkstat test vda", "domifstat test testnet0", "domifstat test aa:bb:cc:dd:ee:ff"] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let named = |out: &str| {
            let fields = out.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
            fields.collect::<Vec<_>>()
        };
        let (theirs, ours) = (libvirts(&words), user.virsh(VIEW, &words).expect(0));
        assert_eq!(named(&ours.out), named(&theirs.out), "{line}");
        assert!(named(&ours.out).len() >= 5, "{}", ours.out);
    }
    // They are only looked at, and nobody is asked for a file that they would have.
    for (line, why) in [
        ("net-destroy default", "not supported by the connection driver: virNetworkDestroy"),
        ("pool-destroy default-pool", "can only be looked at"),
        ("pool-autostart default-pool", "can only be looked at"),
        ("vol-create-as default-pool a 1M", "can only be looked at"),
        ("iface-destroy eth1", "not supported by the connection driver: virInterfaceDestroy"),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let told = user.virsh(VIEW, &words).expect(1).err;
        assert!(told.contains(why), "{line}: {told}");
    }
    assert!(user.says(VIEW, &["pool-info", "default-pool"]).contains("running"));
}

#[test]
fn an_ordinary_user_has_the_test_driver_without_configuration() {
    if !std::path::Path::new(VIRSH).exists() {
        println!("skipped: needs {VIRSH}");
        return;
    }
    const VIEW: &str = "test:///default";
    let user = User::new();
    let heard = user.path("events");
    let uri = format!("test+unix:///default?socket={}", user.socket());
    let mut listener = user.command(VIRSH);
    listener.args(["-c", &uri, "event", "--all", "--loop"]).stdout(File::create(&heard).unwrap());
    let mut listener = listener.spawn().unwrap();
    let events = || std::fs::read_to_string(&heard).unwrap();
    eventually("somebody listens", || {
        user.says(VIEW, &["suspend", "test"]);
        user.says(VIEW, &["resume", "test"]);
        events().contains("Suspended Paused") && events().contains("Resumed Unpaused")
    });
    assert!(user.says(VIEW, &["version"]).contains("Running hypervisor: TEST 0.0.2"));
    let info = user.says(VIEW, &["dominfo", "test"]);
    for line in [
        "Id:             1",
        "UUID:           6695eb01-f6a4-8304-79aa-97f2502e193f",
        "OS Type:        linux",
        "Used memory:    2097152 KiB",
        "Security label: libvirt-test (enforcing)",
    ] {
        assert!(info.contains(line), "{line:?} is missing in:\n{info}");
    }
    let xml = user.path("a.xml");
    let text = "<domain type='test'><name>a</name><memory>65536</memory><os><type>hvm</type></os></domain>";
    std::fs::write(&xml, text).unwrap();
    user.says(VIEW, &["define", xml.to_str().unwrap()]);
    user.says(VIEW, &["start", "a", "--paused"]);
    assert_eq!(user.says(VIEW, &["domstate", "a", "--reason"]), "paused (user)");
    user.says(VIEW, &["resume", "a"]);
    user.says(VIEW, &["shutdown", "a"]);
    assert_eq!(user.says(VIEW, &["domstate", "a", "--reason"]), "shut off (shutdown)");
    user.says(VIEW, &["start", "a"]);
    assert!(user.says(VIEW, &["dumpxml", "a"]).contains("<domain type='test' id='3'>"));
    user.says(VIEW, &["desc", "a", "--title", "--live", "--config", "--new-desc", "A title"]);
    assert_eq!(user.says(VIEW, &["desc", "a", "--title", "--config"]), "A title");
    assert!(user.says(VIEW, &["list", "--title"]).contains("A title"));
    let element = ["--uri", "urn:app", "--key", "app", "--set", "<x y='1'/>", "--config"];
    user.says(VIEW, &[&["metadata", "a"][..], &element].concat());
    assert_eq!(user.says(VIEW, &["metadata", "a", "--uri", "urn:app", "--config"]), "<x y=\"1\"/>");
    let missing = user.virsh(VIEW, &["metadata", "a", "--uri", "urn:app", "--live"]).expect(1).err;
    assert!(missing.contains("metadata not found: Requested metadata element is not present"), "{missing}");
    let refused = user.virsh(VIEW, &["domrename", "a", "b"]).expect(1).err;
    assert!(refused.contains("cannot rename active domain"), "{refused}");
    user.says(VIEW, &["destroy", "a"]);
    assert!(user.says(VIEW, &["dumpxml", "a"]).contains("<app:x xmlns:app=\"urn:app\" y=\"1\"/>"));
    user.says(VIEW, &["domrename", "a", "b"]);
    user.says(VIEW, &["domrename", "b", "a"]);
    user.says(VIEW, &["undefine", "a"]);
    eventually("all of it was told", || events().contains("'a': Undefined Removed"));
    let life: Vec<String> =
        events().lines().filter_map(|line| Some(line.split_once("'a': ")?.1.to_owned())).collect();
    let expected = [
        "Defined Added",
        "Started Booted",
        "Suspended Paused",
        "Resumed Unpaused",
        "Stopped Shutdown",
        "Started Booted",
        "type title, uri <null>",
        "type element, uri urn:app",
        "Stopped Destroyed",
        "Undefined Renamed",
        "Defined Renamed",
        "Undefined Removed",
    ];
    assert_eq!(life, expected);
    let refused = user.virsh("qemu:///system", &["list"]).expect(1).err;
    assert!(refused.contains("test:///default"), "{refused}");
    user.virsh(VIEW, &["console", "test"]).expect(1);
    listener.kill().unwrap();
    listener.wait().unwrap();

    // Without privilege and without the file system, as root's daemon is.
    let status = std::fs::read_to_string(format!("/proc/{}/status", user.daemon_pid())).unwrap();
    for line in ["CapPrm:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"] {
        assert!(status.contains(line), "{line:?} is missing in:\n{status}");
    }
}

#[test]
fn each_view_has_domains_and_a_host_of_its_own() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    host.says(&["define", &definition(&host, "d1")]);
    let mut on_test = std::process::Command::new(VIRSH);
    on_test.env("LC_ALL", "C");
    on_test.args([
        "-c",
        &format!("test+unix:///default?socket={}", host.socket()),
        "list",
        "--all",
        "--name",
    ]);
    let listed = on_test.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "test");
    assert_eq!(host.says(&["list", "--all", "--name"]), "d1");
}

#[test]
fn an_ordinary_users_guests_run_under_uids_that_are_not_the_users() {
    if !virsh_possible() {
        return;
    }
    if !["/usr/bin/newuidmap", "/usr/bin/unshare"]
        .iter()
        .all(|program| std::path::Path::new(program).exists())
    {
        println!("skipped: needs newuidmap and unshare");
        return;
    }
    const VIEW: &str = "qemu:///session";
    let mut user = User::new();
    let xml = user.path("g.xml");
    let text = "<domain type='qemu'><name>g</name><memory unit='MiB'>32</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><serial type='pty'/></devices></domain>";
    // A helper that makes a user namespace of its own.
    let card = "<interface type='user'><model type='virtio'/></interface>";
    let has_network = std::path::Path::new("/usr/bin/passt").exists();
    let more = if has_network { card } else { "" };
    std::fs::write(&xml, text.replace("</devices>", &format!("{more}</devices>"))).unwrap();
    user.says(VIEW, &["define", xml.to_str().unwrap()]);
    user.says(VIEW, &["start", "g"]);
    let shown = user.says(VIEW, &["dumpxml", "g"]);
    let label = shown.split("<label>+").nth(1).unwrap_or_else(|| panic!("no label in {shown}"));
    let number: u32 = label.split(':').next().unwrap().parse().unwrap();

    // 1 in the namespace is the first subordinate uid; the kernel tells the rest.
    let uid = SUBORDINATE + number - 1;
    let processes = || std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let status = processes().filter_map(|entry| std::fs::read_to_string(entry.path().join("status")).ok());
    let of_guest: Vec<String> =
        status.filter(|text| text.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n"))).collect();
    assert_eq!(of_guest.len(), 1, "one process has uid {uid}, which is not {UID}");
    for line in ["CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"] {
        assert!(of_guest[0].contains(line), "{line:?} is missing in:\n{}", of_guest[0]);
    }

    // Its network is the host's, also once a namespace for the next guest has been made ahead.
    if has_network {
        let text = text.replace("<name>g<", "<name>n<").replace("</devices>", &format!("{card}</devices>"));
        let [guest, more] = ["n.xml", "card.xml"].map(|name| user.path(name));
        std::fs::write(&guest, text).unwrap();
        std::fs::write(&more, card).unwrap();
        for _ in 0..2 {
            user.says(VIEW, &["create", guest.to_str().unwrap()]);
            user.says(VIEW, &["attach-device", "n", more.to_str().unwrap(), "--live"]);
            std::thread::sleep(std::time::Duration::from_millis(200));
            user.says(VIEW, &["destroy", "n"]);
        }
    }

    // What only root can give is refused by name.
    let kvm = text.replace("<name>g<", "<name>k<").replace("type='qemu'", "type='kvm'");
    std::fs::write(user.path("k.xml"), kvm).unwrap();
    let refused = user.virsh(VIEW, &["create", user.path("k.xml").to_str().unwrap()]).expect(1).err;
    assert!(refused.contains("/dev/kvm"), "{refused}");

    // What volumes hold is the user's own affair, too.
    let (pool, there, back) = (user.path(".local/share/svirt/images"), user.path("there"), user.path("back"));
    user.makes(&pool);
    user.says(VIEW, &["pool-create-as", "p", "dir", "--target", pool.to_str().unwrap()]);
    user.says(VIEW, &["vol-create-as", "p", "v", "1M"]);
    std::fs::write(&there, vec![7; 1 << 20]).unwrap();
    user.says(VIEW, &["vol-upload", "v", there.to_str().unwrap(), "p"]);
    user.says(VIEW, &["vol-clone", "v", "w", "--pool", "p"]);
    user.says(VIEW, &["vol-download", "w", back.to_str().unwrap(), "p"]);
    assert!(std::fs::read(&back).unwrap() == vec![7; 1 << 20]);

    user.kill_daemon();
    user.start_daemon();
    assert_eq!(user.says(VIEW, &["domstate", "g"]), "running");
    user.says(VIEW, &["suspend", "g"]);

    // The daemon, the labeller and the guard that would start another one die: the next ones have power over
    // the guest again, which is in the user namespace of the first.
    user.kill_daemon();
    let home = user.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    let of_user = |name: &str| -> Vec<i32> {
        let read = |pid: i32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let pids = processes().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is = |pid: &i32| {
            read(*pid, "comm").starts_with(name.as_bytes())
                && String::from_utf8_lossy(&read(*pid, "environ")).contains(&home)
        };
        pids.filter(is).collect()
    };
    let dead = of_user("svirt-labeller");
    assert_eq!(dead.len(), 2, "guard and labeller");
    for pid in dead {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    user.start_daemon();
    assert_eq!(user.says(VIEW, &["domstate", "g"]), "paused");
    user.says(VIEW, &["resume", "g"]);
    user.says(VIEW, &["destroy", "g"]);
    assert_eq!(user.says(VIEW, &["domstate", "g", "--reason"]), "shut off (destroyed)");
    assert_eq!(user.says("test:///default", &["list", "--name"]), "test");
}

#[test]
fn a_guest_is_asked_about_its_memory_as_often_as_its_definition_says() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    let file = host.rig.path("asked.xml");
    let text = "<domain type='qemu'><name>asked</name><memory unit='MiB'>32</memory><os><type>hvm</type></os><devices>\
                <memballoon model='virtio'><stats period='10'/></memballoon></devices></domain>";
    std::fs::write(&file, text).unwrap();
    host.says(&["define", file.to_str().unwrap()]);
    host.says(&["start", "asked"]);
    let asked = || {
        let property =
            "{\"path\":\"/machine/peripheral/balloon0\",\"property\":\"guest-stats-polling-interval\"}";
        let command = format!("{{\"execute\":\"qom-get\",\"arguments\":{property}}}");
        let said = host.says(&["qemu-monitor-command", "asked", &command]);
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["return"].as_u64().unwrap()
    };
    let shown = |words: &[&str]| host.says(&[&["dumpxml", "asked"], words].concat());
    assert_eq!(asked(), 10);
    host.says(&["dommemstat", "asked", "--period", "3", "--live", "--config"]);
    assert_eq!(asked(), 3);
    for words in [&[][..], &["--inactive"]] {
        assert!(shown(words).contains("<stats period='3'/>"), "{}", shown(words));
    }
    host.says(&["dommemstat", "asked", "--period", "0", "--config"]);
    assert!(!shown(&["--inactive"]).contains("<stats"));
    host.says(&["destroy", "asked"]);
    host.says(&["start", "asked"]);
    assert_eq!(asked(), 0);
}
