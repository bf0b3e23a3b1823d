//! Guests that are changed while they run: sizes of disks, virtual CPUs, what their end means, and what an agent in them says.

use super::*;

/// An agent that a guest's shell plays: it answers what it is asked with the same every time.
const AGENT: &str = r#"cat >/tmp/agent <<'END'
while read -r line <&3; do case "$line" in
*sync*) id="${line##*\"id\":}"; printf '\377{"return":%s}\n' "${id%%\}*}" >&3;;
*get-vcpus*) echo '{"return":[{"logical-id":0,"online":true,"can-offline":false},{"logical-id":1,"online":true,"can-offline":true}]}' >&3;;
*set-vcpus*) echo "agent: $line"; echo '{"return":1}' >&3;;
*get-osinfo*) echo '{"return":{"id":"demo","pretty-name":"a \u001b demo"}}' >&3;;
*get-host-name*) echo '{"return":{"host-name":"demo-host"}}' >&3;;
*get-fsinfo*) echo '{"return":[{"name":"vda","mountpoint":"/mnt","type":"ext4","total-bytes":7,"used-bytes":3,"disk":[{"bus-type":"virtio","bus":0,"target":0,"unit":0,"serial":"s1","dev":"/dev/vda","pci-controller":{"domain":0,"bus":1,"slot":0,"function":0}}]}]}' >&3;;
*get-interfaces*) echo '{"return":[{"name":"eth9","hardware-address":"52:54:00:00:00:09","ip-addresses":[{"ip-address-type":"ipv4","ip-address":"192.0.2.9","prefix":24}]}]}' >&3;;
*ssh-get*) echo '{"return":{"keys":["ssh-ed25519 AAAA demo"]}}' >&3;;
*ssh-add*|*ssh-remove*) echo "agent: $line"; echo '{"return":{}}' >&3;;
*suspend-ram*) echo '{"error":{"class":"GenericError","desc":"the kernel cannot sleep"}}' >&3;;
*) echo '{"error":{"class":"CommandNotFound","desc":"not here"}}' >&3;;
esac; done
END
exec 3<>/dev/$(grep -l guest_agent /sys/class/virtio-ports/*/name | cut -d/ -f5); sh /tmp/agent & echo agent he''re"#;

/// Every host has the first CPU and the first node.
const PINNED: &str = "<cputune><vcpupin vcpu='0' cpuset='0'/><emulatorpin cpuset='0'/></cputune>\
    <numatune><memory mode='strict' nodeset='0'/></numatune>";

/// Two images, more virtual CPUs than are there, and an agent.
fn define(host: &Host) {
    let (raw, layered) = (host.rig.raw("disk.raw", 48), host.rig.qcow2("more", &["-o", "size=24M"]));
    let shared = host.rig.raw("shared.raw", 1);
    let devices = format!(
        "{PORTS}<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{raw}'/>\
         <target dev='vda' bus='virtio'/><iotune><total_iops_sec>70</total_iops_sec></iotune>\
         <address type='pci' domain='0' bus='1' slot='0' function='0'/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{layered}'/>\
         <target dev='vdb' bus='virtio'/></disk>\
         <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{shared}'/>\
         <target dev='sdb' bus='sata'/><shareable/></disk>\
         <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/>\
         <iotune><read_iops_sec>71</read_iops_sec></iotune></disk>\
         <channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    );
    let file = host.rig.linux("tune", "demo.devices", &devices);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("<vcpu>1</vcpu>", &format!("<vcpu current='1'>3</vcpu>{PINNED}"))
            .replace("<on_reboot>destroy</on_reboot>", ""),
    )
    .unwrap();
    host.says(&["define", &file]);
}

#[test]
fn a_guest_is_changed_while_it_runs() {
    if !is_possible() {
        return;
    }
    let mut host = Host::new();
    define(&host);
    assert!(host.complains(&["blockresize", "tune", "vda", "50M"]).contains("domain is not running"));
    host.says(&["start", "tune"]);
    host.rig.heard("tune", "guest: ready");
    limits(&mut host);
    threshold(&host);
    sizes(&host);
    pins(&mut host);
    virtual_cpus(&host);
    agent(&host);
    ends(&mut host);
}

/// QEMU tells of a write behind a place that somebody asked for, once.
fn threshold(host: &Host) {
    let stat = |host: &Host, name: &str| {
        let all = host.says(&["domstats", "tune", "--block"]);
        let name = format!("block.0.{name}=");
        all.lines().find_map(|line| line.trim().strip_prefix(&name)?.parse::<u64>().ok())
    };
    let shown = |host: &Host| stat(host, "threshold");
    assert_eq!(shown(host), None);
    for (words, why) in [
        (["nosuch", "5M"], "invalid argument: failed to find disk 'nosuch'"),
        (["sda", "5M"], "disk 'sda' does not currently have a source assigned"),
    ] {
        let told = host.complains(&[&["domblkthreshold", "tune"][..], &words].concat());
        assert!(told.contains(why), "{told}");
    }
    host.says(&["domblkthreshold", "tune", "vda", "8MiB"]);
    assert_eq!(shown(host), Some(8 << 20));
    let listener = Listener::new(host);
    types(host, "tune", "dd if=/dev/zero of=/dev/vda bs=1M seek=8 count=1 conv=fsync; echo writ''ten");
    host.rig.heard("tune", "written");
    let image = host.rig.text("images/disk.raw");
    listener.hears(&format!("event 'block-threshold' for domain 'tune': dev: vda({image}) 8388608 "));
    assert_eq!(shown(host), None);
    // How far it was written, and how much of that is there.
    let (far, takes) = (stat(host, "allocation"), stat(host, "physical"));
    assert!(far >= Some(9 << 20) && far <= stat(host, "capacity"), "{far:?}");
    assert!(takes >= Some(1 << 20) && takes < far, "{takes:?} of {far:?}");
    host.says(&["domblkthreshold", "tune", "vda", "9MiB"]);
    host.says(&["domblkthreshold", "tune", "vda", "0"]);
    assert_eq!(shown(host), None);
    assert_eq!(host.says(&["blockjob", "tune", "vda"]), "No current block job for vda");
    let told = host.complains(&["blockjob", "tune", "vda", "--abort"]);
    assert!(told.contains("disk vda does not have an active block job"), "{told}");
    fine(host, "tune");
}

fn sizes(host: &Host) {
    host.says(&["blockresize", "tune", "vda", "50M"]);
    host.says(&["blockresize", "tune", &host.rig.text("images/more"), "31457281B"]);
    // libvirt's own rounding.
    assert!(host.says(&["domblkinfo", "tune", "vdb"]).contains("Capacity:       31457792"));
    let raw = std::fs::metadata(host.rig.path("images/disk.raw")).unwrap();
    assert_eq!(raw.len(), 50 << 20);
    types(host, "tune", "echo sizes $(cat /sys/block/vda/size) $(cat /sys/block/vdb/size)");
    host.rig.heard("tune", "sizes 102400 61441");
    for (words, why) in [
        (["nosuch", "5M"], "invalid argument: disk 'nosuch' was not found in the domain config"),
        (["sda", "5M"], "Operation not supported: can't resize empty or readonly disk 'sda'"),
        (["sdb", "0"], "can't resize shareable disk 'sdb': other domains may use it"),
    ] {
        let told = host.complains(&[&["blockresize", "tune"][..], &words].concat());
        assert!(told.contains(why), "{told}");
    }
    fine(host, "tune");
}

/// Limits of a disk: what QEMU keeps to, now and from the next start on.
fn limits(host: &mut Host) {
    let said = |host: &Host, words: &[&str], what: &str| {
        let said = host.says(&[&["blkdeviotune", "tune", "vda"][..], words].concat());
        let found = said.lines().any(|line| line.split_whitespace().collect::<String>() == what);
        assert!(found, "{what}: {said}");
    };
    let set = |host: &Host, words: &[&str]| {
        host.says(&[&["blkdeviotune", "tune"][..], words].concat());
    };
    said(host, &[], "total_iops_sec:70");
    set(host, &["vda", "--total-bytes-sec", "4000000", "--live"]);
    set(host, &["vda", "--total-iops-sec", "90", "--config"]);
    let query = r#"{"execute":"query-block"}"#;
    let seen = host.says(&["qemu-monitor-command", "tune", query]);
    assert!(seen.contains("\"bps\":4000000") && seen.contains("\"iops\":70"), "{seen}");
    host.kill_daemon();
    host.start_daemon();
    eventually("it is found again", || host.says(&["domstate", "tune"]) == "running");
    said(host, &[], "total_bytes_sec:4000000");
    said(host, &[], "total_iops_sec:70");
    said(host, &["--config"], "total_iops_sec:90");
    set(host, &["vda", "--total-bytes-sec", "0", "--total-iops-sec", "0", "--live"]);
    assert!(!host.says(&["dumpxml", "tune"]).contains("total_iops_sec"));
    // An empty drive has limits too: QEMU hears of them with the medium.
    set(host, &["sda", "--read-iops-sec", "72", "--live"]);
    assert!(!host.says(&["qemu-monitor-command", "tune", query]).contains("\"iops_rd\":72"));
    let medium = host.rig.raw("medium.raw", 1);
    host.says(&["change-media", "tune", "sda", &medium, "--insert", "--live"]);
    let seen = host.says(&["qemu-monitor-command", "tune", query]);
    assert!(seen.contains("\"iops_rd\":72"), "{seen}");
    host.says(&["change-media", "tune", "sda", "--eject", "--live"]);
    for (words, why) in [
        (
            &["vda", "--total-bytes-sec", "9", "--read-bytes-sec", "5"][..],
            "total and read/write of bytes_sec",
        ),
        (&["nosuch", "--total-iops-sec", "5"], "disk 'nosuch' not found in domain"),
        (
            &["vda", "--total-iops-sec-max", "5"],
            "unsupported configuration: cannot reset 'total_iops_sec' when 'total_iops_sec_max' is set",
        ),
        (
            &["vda", "--total-iops-sec", "1000000000000001"],
            "argument unsupported: block I/O throttle limit value of 'total_iops_sec' must be no more than",
        ),
        (&["vda", "--group-name", "g"], "all tune parameters zero"),
    ] {
        let told = host.complains(&[&["blkdeviotune", "tune"][..], words].concat());
        assert!(told.contains(why), "{told}");
    }
    fine(host, "tune");
}

/// The CPUs of the host's that each thread of the device model may run on, by the thread's name.
fn threads(host: &Host) -> Vec<(String, String)> {
    let pid = host.rig.status("tune").unwrap().qemu_pid;
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    let one = |task: std::path::PathBuf| {
        let status = read(&task.join("status"));
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some((read(&task.join("comm")).trim_end().to_owned(), cpus.trim().to_owned()))
    };
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().filter_map(|it| one(it.unwrap().path())).collect()
}

/// Pins hold from the start, are changed, and are found again by whoever follows.
fn pins(host: &mut Host) {
    let pinned = |host: &Host, vcpu: &str, others: &str| {
        let seen = threads(host);
        assert!(seen.iter().any(|(name, _)| name == "CPU 0/TCG"), "{seen:?}");
        for (name, cpus) in &seen {
            assert_eq!(cpus, if name == "CPU 0/TCG" { vcpu } else { others }, "{seen:?}");
        }
    };
    pinned(host, "0", "0");
    let pid = host.rig.status("tune").unwrap().qemu_pid;
    if let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")) {
        assert!(maps.lines().all(|line| line.contains(" bind:0")), "{maps}");
    }
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap().trim().to_owned();
    let last = online.rsplit(['-', ',']).next().unwrap();
    host.says(&["emulatorpin", "tune", &online, "--live"]);
    host.says(&["vcpupin", "tune", "0", last, "--live", "--config"]);
    pinned(host, last, &online);
    host.kill_daemon();
    host.kill_labeller();
    host.start_labeller();
    host.start_daemon();
    eventually("it is found again", || host.says(&["domstate", "tune"]) == "running");
    let xml = host.says(&["dumpxml", "tune"]);
    assert!(xml.contains(&format!("<vcpupin vcpu='0' cpuset='{last}'/>")), "{xml}");
    assert!(xml.contains(&format!("<emulatorpin cpuset='{online}'/>")), "{xml}");
    let xml = host.says(&["dumpxml", "tune", "--inactive"]);
    assert!(
        xml.contains(
            &format!("<vcpupin vcpu='0' cpuset='{last}'/><emulatorpin cpuset='0'/>")
                .replace("><", ">\n    <")
        ),
        "{xml}"
    );
    host.says(&["emulatorpin", "tune", "0", "--live"]);
    pinned(host, last, "0");
    host.says(&["numatune", "tune", "--mode", "strict", "--nodeset", "0", "--live"]);
    for (words, why) in [
        (&["vcpupin", "tune", "7", "0", "--live"][..], "vcpu 7 is out of range of live cpu count 3"),
        (
            &["vcpupin", "tune", "2", "0", "--live"],
            "setting cpu pinning for inactive vcpu 2 is not supported",
        ),
        (&["numatune", "tune", "--nodeset", "1", "--live"], "svirt chooses them when it starts"),
        (
            &["numatune", "tune", "--mode", "interleave", "--live"],
            "can't change numatune mode for running domain",
        ),
        (&["iothreadpin", "tune", "1", "0", "--live"], "iothread 1 not found"),
    ] {
        let told = host.complains(words);
        assert!(told.contains(why), "{told}");
    }
    fine(host, "tune");
}

fn virtual_cpus(host: &Host) {
    let live = |host: &Host| host.says(&["vcpucount", "tune", "--active", "--live"]);
    for (words, why) in [
        (["0", "--enable"], "vcpu '0' is already in requested state"),
        (["2", "--enable"], "virtual CPUs come in their order: the next one is 1"),
        (["3", "--enable"], "vcpu 3 is not present in live config"),
    ] {
        let told = host.complains(&[&["setvcpu", "tune", "--live"][..], &words].concat());
        assert!(told.contains(why), "{told}");
    }
    let kept = || host.says(&["vcpucount", "tune", "--active", "--config"]);
    host.says(&["setvcpu", "tune", "1", "--enable", "--live", "--config"]);
    assert_eq!((live(host), kept()), ("2".into(), "2".into()));
    host.says(&["setvcpu", "tune", "1", "--disable", "--config"]);
    // What cannot be kept is not done to what runs.
    let told = host.complains(&["setvcpu", "tune", "2", "--enable", "--live", "--config"]);
    assert!(told.contains("virtual CPUs come in their order: the next one is 1"), "{told}");
    assert_eq!((live(host), kept()), ("2".into(), "1".into()));
    host.says(&["setvcpus", "tune", "3", "--live", "--hotpluggable"]);
    let told = host.complains(&["setvcpus", "tune", "2", "--config", "--hotpluggable"]);
    assert!(told.contains("virtual CPUs that a guest starts with stay"), "{told}");
    types(host, "tune", "until [ -e /sys/devices/system/cpu/cpu2 ]; do sleep 1; done; echo all thr''ee");
    host.rig.heard("tune", "all three");
    let told = host.complains(&["setvcpus", "tune", "1", "--live"]);
    assert!(told.contains("under emulation QEMU may crash of it"), "{told}");
    assert_eq!(live(host), "3");
    // Those that were plugged in have not the CPUs of whoever made them.
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let seen = threads(host);
    for name in ["CPU 1/TCG", "CPU 2/TCG"] {
        assert!(seen.contains(&(name.to_owned(), online.trim().to_owned())), "{seen:?}");
    }
    fine(host, "tune");
}

fn agent(host: &Host) {
    for line in AGENT.lines() {
        types(host, "tune", line);
    }
    host.rig.heard("tune", "agent here");
    let says = |words: &[&str], what: &str| {
        let said = host.says(words);
        let found =
            said.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").contains(what));
        assert!(found, "{words:?}: {said}");
    };
    says(&["guestvcpus", "tune"], "online : 0-1");
    says(&["guestvcpus", "tune"], "offlinable : 1");
    host.says(&["guestvcpus", "tune", "1", "--disable"]);
    host.rig.heard("tune", "\"online\":false");
    let told = host.complains(&["guestvcpus", "tune", "none", "--disable"]);
    assert!(told.contains("Failed to parse bitmap 'none'"), "{told}");
    let told = host.complains(&["guestvcpus", "tune", "0", "--disable"]);
    assert!(told.contains("can't be offlined"), "{told}");
    let told = host.complains(&["guest-agent-timeout", "tune", "--timeout", "-3"]);
    assert!(told.contains("guest agent timeout '-3' is less than the minimum '-2'"), "{told}");
    host.says(&["guest-agent-timeout", "tune", "--timeout", "30"]);
    says(&["vcpucount", "tune", "--guest"], "2");
    host.says(&["setvcpus", "tune", "1", "--guest"]);
    says(&["guestinfo", "tune"], "os.pretty-name : a demo");
    // Whoever asks at the same time waits for the other one's answer.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..5).for_each(|_| says(&["guestinfo", "tune", "--hostname"], "demo-host")));
        }
    });
    says(&["guestinfo", "tune", "--filesystem"], "fs.0.disk.0.alias : vda");
    let told = host.complains(&["guestinfo", "tune", "--user"]);
    assert!(told.contains("not here"), "{told}");
    says(&["domfsinfo", "tune"], "/mnt vda ext4 vda");
    says(&["domifaddr", "tune", "--source", "agent"], "eth9 52:54:00:00:00:09 ipv4 192.0.2.9/24");
    says(&["get-user-sshkeys", "tune", "root"], "ssh-ed25519 AAAA demo");
    host.says(&["set-user-sshkeys", "tune", "root", "--reset"]);
    host.rig.heard("tune", "\"reset\":true");
    let told = host.complains(&["dompmsuspend", "tune", "mem"]);
    assert!(told.contains("the kernel cannot sleep"), "{told}");
    assert!(host.complains(&["dompmwakeup", "tune"]).contains("not in suspended state"));
}

/// What a power-off means is changed, and holds for whoever follows supervisor, labeller and daemon.
fn ends(host: &mut Host) {
    for (event, action, why) in [
        ("poweroff", "preserve", "qemu driver doesn't support the 'preserve' action"),
        ("reboot", "coredump-destroy", "Lifecycle event 'reboot' doesn't support 'coredump-destroy' action"),
        ("crash", "coredump-destroy", "no core dumps"),
    ] {
        let told = host.complains(&["set-lifecycle-action", "tune", event, action]);
        assert!(told.contains(why), "{told}");
    }
    host.says(&["set-lifecycle-action", "tune", "poweroff", "restart", "--live"]);
    let told = host.complains(&["set-lifecycle-action", "tune", "reboot", "destroy", "--live"]);
    assert!(told.contains("needs on_reboot='restart'"), "{told}");
    host.says(&["set-lifecycle-action", "tune", "crash", "preserve", "--config"]);
    let before = host.rig.status("tune").unwrap();
    host.kill_daemon();
    host.kill_labeller();
    host.start_labeller();
    kill(before.supervisor_pid);
    eventually("another supervisor", || {
        let pid = host.rig.status("tune").unwrap().supervisor_pid;
        pid > 0 && pid != before.supervisor_pid
    });
    host.start_daemon();
    eventually("it answers", || host.virsh(&["dommemstat", "tune"]).code == Some(0));
    let shown = host.says(&["dumpxml", "tune"]);
    assert!(shown.contains("<on_poweroff>restart</on_poweroff>"), "{shown}");
    assert!(shown.contains("<on_crash>destroy</on_crash>"), "{shown}");
    assert!(host.says(&["dumpxml", "tune", "--inactive"]).contains("<on_crash>preserve</on_crash>"));
    types(host, "tune", "poweroff -f");
    is_ready(host, "tune", 2);
    assert_eq!(host.rig.status("tune").unwrap().qemu_pid, before.qemu_pid);
    host.says(&["set-lifecycle-action", "tune", "poweroff", "destroy", "--live"]);
    types(host, "tune", "poweroff -f");
    eventually("it is off", || host.says(&["domstate", "tune"]) == "shut off");
}
