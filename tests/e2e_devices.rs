//! Each device of the first cut runs under the real `svirt`, behind its own filter and with its gate shut.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

#[path = "common/bridge.rs"]
mod bridge;
mod e2e_rig;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use bridge::{Bridge, is_interface};
use e2e_rig::{Rig, eventually, guest, has_default_route, possible};
use svirt::sys::pidfd;

fn disk(format: &str, path: &str, target: &str, more: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{path}'/>\
         <target dev='{target}' bus='virtio'/>{more}</disk>"
    )
}

/// The guest ran all its checks, nothing was refused at the gate, and everything is as planned.
fn fine(rig: &Rig, name: &str) {
    let status = rig.control(name).status().unwrap();
    assert!(status.sealed && status.refused.is_empty(), "{status:?}");
    let inspected = rig.svirt(&["inspect", name]).expect(0);
    assert!(inspected.out.contains("everything is as planned"), "{}", inspected.out);
}

#[test]
fn a_chain_of_two_hundred_layers() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let mut path = rig.qcow2("layer-0", &["-o", "size=48M"]);
    for depth in 1..200 {
        path = rig.qcow2(&format!("layer-{depth}"), &["-b", &path, "-F", "qcow2"]);
    }
    let definition = rig.linux("deep", "", &disk("qcow2", &path, "vda", ""));
    let before = rig.snapshot();
    rig.start(&definition);
    rig.heard("deep", "guest: ready");
    assert!(rig.log("deep").contains("disk: made a file system"), "{}", rig.log("deep"));
    fine(&rig, "deep");
    rig.end("deep");
    rig.same_as(&before);
    // One more is more than limits.chain_depth.
    let path = rig.qcow2("layer-200", &["-b", &path, "-F", "qcow2"]);
    rig.refused(&rig.bare("deeper", &disk("qcow2", &path, "vda", "")), 1, &["200", "limits.chain_depth"]);
}

/// A block device made of a file, taken apart at the end.
struct Loop(String);

impl Loop {
    fn new(file: &str) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show", file]).output().ok()?;
        if !made.status.success() {
            println!("skipped: no loop device: {}", String::from_utf8_lossy(&made.stderr));
            return None;
        }
        Some(Self(String::from_utf8(made.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_with_discard() {
    if guest().is_none() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(48 << 20).unwrap();
    let Some(device) = Loop::new(file.path().to_str().unwrap()) else { return };
    let rig = Rig::with(|settings| settings.images.block_devices = vec![device.0.clone()]);
    let below = rig.qcow2("below", &["-o", "size=1M"]);
    let on_block = rig.qcow2("on-block", &["-u", "-b", &device.0, "-F", "raw", "-o", "size=48M"]);
    let block = format!(
        "<disk type='block' device='disk'><driver name='qemu' type='raw' cache='none' io='native' discard='unmap'/>\
         <source dev='{}'/><target dev='vda' bus='virtio'/></disk>",
        device.0
    );
    let definition = rig.linux("block", "", &(block + &disk("qcow2", &below, "vdb", "")));
    let before = rig.snapshot();
    rig.start(&definition);
    rig.heard("block", "guest: ready");
    assert!(rig.log("block").contains("disk: made a file system"), "{}", rig.log("block"));
    let mut talk = rig.on_terminal(&["console", "block"]);
    talk.types(
        "blkdiscard /dev/vda && dd if=/dev/vda bs=1M count=4 iflag=direct >/dev/null && echo dis''carded\r",
    );
    talk.shows("discarded\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    fine(&rig, "block");
    rig.end("block");
    rig.same_as(&before);
    // The same device below an image that only names it in its header.
    rig.start(&rig.linux("above", "", &disk("qcow2", &on_block, "vda", "")));
    rig.heard("above", "guest: ready");
    assert!(rig.log("above").contains("disk: made a file system"), "{}", rig.log("above"));
    fine(&rig, "above");
    rig.end("above");
    rig.same_as(&before);
}

#[test]
fn readonly_shareable_and_cdrom() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let (own, fixed, shared) = (rig.raw("own", 48), rig.raw("fixed", 2), rig.raw("shared", 2));
    let iso = rig.text("boot/medium.iso");
    std::fs::write(&iso, vec![b'm'; 1 << 20]).unwrap();
    let devices = format!(
        "{}{}{}<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{iso}'/>\
         <target dev='sda' bus='sata'/><readonly/></disk>\
         <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><readonly/></disk>",
        disk("raw", &own, "vda", ""),
        disk("raw", &fixed, "vdb", "<readonly/>"),
        disk("raw", &shared, "vdc", "<shareable/>"),
    );
    let definition = rig.linux("one", "", &devices);
    let other = disk("raw", &fixed, "vdb", "<readonly/>") + &disk("raw", &shared, "vdc", "<shareable/>");
    let other = rig.bare("two", &other);
    let before = rig.snapshot();
    rig.start(&definition);
    rig.start(&other);
    rig.heard("one", "guest: ready");
    let mut talk = rig.on_terminal(&["console", "one"]);
    talk.types("cat /sys/block/vdb/ro /sys/block/vdc/ro | tr '\\n' ,; echo e''nd\r");
    talk.shows("1,0,end");
    talk.types("dd if=/dev/zero of=/dev/vdb count=1 || echo ref''used\r");
    talk.shows("refused\r\n");
    talk.types("echo wr''itten | dd of=/dev/vdc conv=notrunc; sync; echo s''ynced\r");
    talk.shows("synced\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    assert!(std::fs::read(&shared).unwrap().starts_with(b"written\n"));
    for name in ["one", "two"] {
        fine(&rig, name);
        rig.end(name);
    }
    rig.same_as(&before);
}

/// A network device of this host, removed at the end.
struct Tap(String);

impl Tap {
    fn new() -> Option<Self> {
        let name = format!("svt{}", std::process::id());
        let ip = |words: &[&str]| Command::new("ip").args(words).status().is_ok_and(|done| done.success());
        if ip(&["tuntap", "add", "dev", &name, "mode", "tap"]) {
            let tap = Self(name);
            assert!(ip(&["link", "set", &tap.0, "up"]));
            return Some(tap);
        }
        println!("skipped: no tap device can be made here");
        None
    }

    fn received(&self) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/rx_packets", self.0);
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.0]).status();
    }
}

#[test]
fn a_tap() {
    if guest().is_none() {
        return;
    }
    let Some(tap) = Tap::new() else { return };
    let rig = Rig::with(|settings| settings.network.taps = vec![tap.0.clone()]);
    let devices = format!(
        "<interface type='ethernet'><target dev='{}' managed='no'/><model type='virtio'/></interface>",
        tap.0
    );
    let definition = rig.linux("net", "", &devices);
    let before = rig.snapshot();
    let counted = tap.received();
    rig.start(&definition);
    // It asks for an address, which nobody gives; the frames are what counts.
    rig.heard("net", "guest: ready");
    assert!(tap.received() > counted);
    fine(&rig, "net");
    rig.end("net");
    rig.same_as(&before);
}

/// Two guests on a bridge reach the host and each other; their interfaces are gone with them, however they end.
#[test]
fn a_bridge() {
    if guest().is_none() {
        return;
    }
    let Some(bridge) = Bridge::new() else { return };
    let rig = Rig::with(|settings| settings.network.default.clone_from(&bridge.name));
    let interface = |source: &str| format!("<interface {source}/><model type='virtio'/></interface>");
    let named = format!("type='bridge'><mac address='52:54:00:12:34:56'/><source bridge='{}'", bridge.name);
    let one = rig.linux("one", "demo.devices", &interface(&named));
    let two = rig.linux("two", "demo.devices", &interface("type='network'><source network='default'"));
    let before = rig.snapshot();
    let said = rig.start(&one).err;
    let tap = said.split_whitespace().find(|word| word.starts_with("vnet")).expect(&said).to_owned();
    assert_eq!(bridge.ports(), [tap.as_str()]);
    let fact = |name: &str| std::fs::read_to_string(format!("/sys/class/net/{tap}/{name}")).unwrap();
    assert_eq!((fact("address").trim(), fact("mtu").trim()), ("fe:54:00:12:34:56", "1400"));
    // Whoever may open /dev/net/tun, even root: it has room for one, and that is the device model.
    let other = svirt::sys::tap::attach(&tap).unwrap_err();
    assert_eq!(other.kind(), std::io::ErrorKind::ResourceBusy, "{other}");
    rig.start(&two);
    assert_eq!(bridge.ports().len(), 2);
    let network = &bridge.network;
    for (name, last) in [("one", 2), ("two", 3)] {
        rig.heard(name, "guest: ready");
        let mut talk = rig.on_terminal(&["console", name]);
        let set = format!("ip link set eth0 up; ip address add {network}.{last}/24 dev eth0");
        asks(&mut talk, &format!("{set} && echo s''et"), "set\r\n");
        // The first answers may be lost while the bridge learns.
        for other in 1..last {
            let ping = format!("ping -c 20 -W 5 {network}.{other} | grep -c -m 1 'bytes from'");
            asks(&mut talk, &ping, "1\r\n");
        }
        talk.types("\x1d");
        assert_eq!(talk.ends(), Some(0));
        fine(&rig, name);
    }
    // The interfaces are the device models' alone, so guests outlive the labeller with them; the next one takes them away.
    let labeller = rig.labeller_pid().unwrap();
    pidfd::kill(pidfd::open(labeller).unwrap()).unwrap();
    eventually("another labeller serves", || rig.labeller_pid().is_some_and(|pid| pid != labeller));
    assert_eq!(bridge.ports().len(), 2);
    // A device model that is killed leaves no interface either.
    let pid = rig.status("one").unwrap().qemu_pid;
    pidfd::kill(pidfd::open(pid).unwrap()).unwrap();
    eventually("the first interface is gone", || bridge.ports().len() == 1);
    rig.end("two");
    eventually("the second interface is gone", || bridge.ports().is_empty());
    assert!(!is_interface(&tap));
    rig.same_as(&before);
    // Not everybody's bridge, and no name of the host's.
    let other = interface("type='bridge'><source bridge='virbr1'");
    rig.refused(&rig.bare("other", &other), 1, &["network.bridges"]);
    let source = format!("type='bridge'><source bridge='{}'/><target dev='svown0'", bridge.name);
    rig.refused(&rig.bare("other", &interface(&source)), 1, &["network.taps"]);
    let missing = interface("type='bridge'><source bridge='virbr0'");
    if !is_interface("virbr0") {
        rig.refused(&rig.bare("other", &missing), 1, &["virbr0", "make the bridge first"]);
    }
}

fn greeting(mut stream: impl Read) -> String {
    let mut bytes = [0; 12];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn vnc_and_the_rest_of_the_machine() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let socket = rig.text("sockets/vnc");
    let network =
        if has_default_route() { "<interface type='user'><model type='e1000'/></interface>" } else { "" };
    let rest = "<video><model type='vga'/></video>\
                <console type='pty'><target type='virtio'/></console><memballoon model='virtio'/>\
                <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>";
    let tcp =
        rig.bare("tcp", &format!("<graphics type='vnc' autoport='yes' listen='127.0.0.1'/>{network}{rest}"));
    let unix = format!(
        "<graphics type='vnc' passwd='geheim'><listen type='socket' socket='{socket}'/></graphics>{network}{rest}"
    );
    let unix = rig.bare("unix", &unix.replace("e1000", "e1000e").replace("vga", "virtio"));
    let before = rig.snapshot();
    let said = rig.start(&tcp).err;
    let address = said.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).expect(&said);
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(greeting(stream), "RFB 003.008\n");
    rig.start(&unix);
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(greeting(&stream), "RFB 003.008\n");
    // One way in, and that is the password.
    stream.write_all(b"RFB 003.008\n").unwrap();
    let mut ways = [0; 2];
    stream.read_exact(&mut ways).unwrap();
    assert_eq!(ways, [1, 2]);
    for name in ["tcp", "unix"] {
        fine(&rig, name);
        rig.end(name);
    }
    rig.same_as(&before);
}

/// A boot sector that says a word on the first serial port and halts.
#[test]
fn a_disk_that_boots() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let path = rig.raw("boots", 1);
    // mov dx, 0x3f8; then for each letter mov al, letter; out dx, al; then cli; hlt.
    let mut sector = vec![0xba, 0xf8, 0x03];
    sector.extend(b"booted\n".iter().flat_map(|letter| [0xb0, *letter, 0xee]));
    sector.extend([0xfa, 0xf4]);
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..512].copy_from_slice(&sector);
    std::fs::write(&path, bytes).unwrap();
    for machine in ["q35", "pc"] {
        let log = rig.text(&format!("log/boots-{machine}.log"));
        let devices = disk("raw", &path, "vda", "<boot order='1'/>")
            + &format!("<serial type='pty'><log file='{log}'/></serial>");
        let definition = rig.bare("boots", &devices);
        let text = std::fs::read_to_string(&definition).unwrap();
        std::fs::write(&definition, text.replace("q35", machine)).unwrap();
        let before = rig.snapshot();
        rig.start(&definition);
        rig.heard(&format!("boots-{machine}"), "booted");
        fine(&rig, "boots");
        rig.end("boots");
        rig.same_as(&before);
    }
}

/// Says one thing in the guest's shell and waits for what it must lead to.
fn asks(talk: &mut e2e_rig::terminal::Talk, command: &str, answer: &str) {
    talk.types(&format!("{command}; echo e''nd\r"));
    talk.shows(answer);
    talk.shows("end\r\n");
}

/// Disks of every bus that the guest's kernel drives, behind ports that could be plugged while it runs, and an agent.
#[test]
fn disks_ports_and_channels() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let (own, scsi, nvme) = (rig.raw("own", 48), rig.raw("scsi", 3), rig.raw("nvme", 5));
    let at = |path: &str, target: &str, bus: &str| {
        format!(
            "<disk type='file'><driver name='qemu' type='raw'/><source file='{path}'/>\
             <target dev='{target}' bus='{bus}'/></disk>"
        )
    };
    let devices = format!(
        "{}{}{}{}<channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <input type='tablet' bus='virtio'/>",
        "<controller type='pci' model='pcie-root-port'/>".repeat(10),
        at(&own, "vda", "virtio"),
        at(&scsi, "sda", "scsi"),
        at(&nvme, "nvme0n1", "nvme"),
    );
    let definition = rig.linux("ports", "demo.devices", &devices);
    let before = rig.snapshot();
    rig.start(&definition);
    rig.heard("ports", "guest: ready");
    let mut talk = rig.on_terminal(&["console", "ports"]);
    asks(&mut talk, "cat /sys/block/sda/size /sys/block/nvme0n1/size | tr '\\n' ,", "6144,10240,");
    asks(
        &mut talk,
        "dd if=/dev/zero of=/dev/sda bs=1M count=3 conv=fsync && dd if=/dev/zero of=/dev/nvme0n1 bs=1M count=5 conv=fsync && echo wr''itten",
        "written\r\n",
    );
    asks(&mut talk, "ls /sys/bus/pci/slots | wc -l", "10\r\n");
    asks(&mut talk, "cat /sys/class/virtio-ports/vport*/name", "org.qemu.guest_agent.0\r\n");
    // What a program in the guest writes, whoever connects on the host reads, and the other way round.
    let socket = format!("{}.org.qemu.guest_agent.0", rig.uuid("ports"));
    let mut agent = UnixStream::connect(rig.path("sockets").join(socket)).unwrap();
    agent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    talk.types("read -r line </dev/$(basename /sys/class/virtio-ports/vport*); echo \"heard $line\"\r");
    agent.write_all(b"guest-ping\n").unwrap();
    talk.shows("heard guest-ping\r\n");
    talk.types("echo pong >/dev/$(basename /sys/class/virtio-ports/vport*)\r");
    let mut answer = [0; 5];
    agent.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    fine(&rig, "ports");
    rig.end("ports");
    rig.same_as(&before);
}

/// Where the guest's kernel put the memory of the device, and one word of it.
const WORD: &str = "d=/sys/bus/pci/devices/$(grep -l 0x1110 /sys/bus/pci/devices/*/device | cut -d / -f 6); \
                    echo 1 >$d/enable; devmem $(sed -n 3p $d/resource | cut -d ' ' -f 1) 32";

/// Two guests share a region and a third one has its own; it goes with the last of those that use it.
#[test]
fn memory_of_several_guests() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::with(|settings| settings.shmem.size = 2 << 20);
    let shmem = |name: &str, mebibytes: u32| {
        format!("<shmem name='{name}'><model type='ivshmem-plain'/><size unit='M'>{mebibytes}</size></shmem>")
    };
    let names = [("writer", "both"), ("reader", "both"), ("other", "alone")];
    let definitions = names.map(|(name, region)| rig.linux(name, "demo.devices", &shmem(region, 1)));
    let before = rig.snapshot();
    for definition in &definitions {
        rig.start(definition);
    }
    let place = rig.path("shmem");
    let modes = |path: &std::path::Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((modes(&place), modes(&place.join("both"))), (0o700, 0o666));
    assert_eq!(std::fs::metadata(place.join("both")).unwrap().len(), 1 << 20);
    let mut talks = names.map(|(name, _)| {
        rig.heard(name, "guest: ready");
        rig.on_terminal(&["console", name])
    });
    asks(&mut talks[0], &format!("{WORD} 0x5eed1234"), "");
    asks(&mut talks[1], WORD, "0x5EED1234\r\n");
    asks(&mut talks[2], WORD, "0x00000000\r\n");
    for (mut talk, (name, _)) in talks.into_iter().zip(names) {
        talk.types("\x1d");
        assert_eq!(talk.ends(), Some(0));
        fine(&rig, name);
    }
    // All must agree on the size, and none may take more than the host gives.
    rig.svirt(&["run", "--detach", &rig.bare("wrong", &shmem("both", 2))]).expect(1).says(&[
        "both",
        "2097152",
        "same <size>",
    ]);
    rig.svirt(&["run", "--detach", &rig.bare("large", &shmem("more", 4))])
        .expect(1)
        .says(&["shmem.size", "4194304"]);
    rig.end("writer");
    assert!(place.join("both").exists(), "the reader has it still");
    rig.end("reader");
    assert!(!place.join("both").exists() && place.join("alone").exists());
    rig.end("other");
    assert!(!place.join("alone").exists());
    // What a crash of the host's left is nobody's, and nobody gets to see it.
    std::fs::write(place.join("both"), vec![0x5e; 1 << 20]).unwrap();
    rig.start(&rig.linux("later", "demo.devices", &shmem("both", 1)));
    rig.heard("later", "guest: ready");
    let mut talk = rig.on_terminal(&["console", "later"]);
    asks(&mut talk, WORD, "0x00000000\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    rig.end("later");
    std::fs::remove_dir(&place).unwrap();
    rig.same_as(&before);
}

/// What the guest's firmware finds by name, the guest reads: a text with QEMU's own separators in it, and a file that
/// nobody but its owner may read. Its memory and processors stand in two nodes.
#[test]
fn values_and_files_by_name() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let file = rig.text("images/config.ign");
    std::fs::write(&file, "from a file\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(&file, Some(4711), Some(4711)).unwrap();
    let definition = rig.linux("named", "demo.devices", "");
    let entries = |file: &str| {
        format!(
            "<sysinfo type='fwcfg'><entry name='opt/org.example/text'>one, two,file=/etc/passwd</entry>\
             <entry name='opt/org.example/file' file='{file}'/></sysinfo><features>"
        )
    };
    let nodes = "<vcpu>2</vcpu><cpu mode='maximum'><numa><cell cpus='0' memory='98304'/>\
                 <cell cpus='1' memory='64' unit='MiB' memAccess='shared'/></numa></cpu>";
    let text = std::fs::read_to_string(&definition).unwrap();
    let text = text.replace("<vcpu>1</vcpu>", nodes);
    std::fs::write(&definition, text.replace("<features>", &entries(&file))).unwrap();
    let before = rig.snapshot();
    rig.start(&definition);
    rig.heard("named", "guest: ready");
    let mut talk = rig.on_terminal(&["console", "named"]);
    let place = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.example";
    asks(&mut talk, &format!("cat {place}/text/raw; echo"), "one, two,file=/etc/passwd\r\n");
    asks(&mut talk, &format!("cat {place}/file/raw"), "from a file\r\n");
    asks(&mut talk, "cat /sys/devices/system/node/node*/cpulist | tr '\\n' ,", "0,1,");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    fine(&rig, "named");
    rig.end("named");
    rig.same_as(&before);
    // Neither what lies elsewhere nor what is too large for the device model's memory.
    std::fs::write(&definition, text.replace("<features>", &entries("/etc/shadow"))).unwrap();
    rig.refused(&definition, 1, &["/etc/shadow", "images.readable"]);
    std::fs::File::create(&file).unwrap().set_len((16 << 20) + 1).unwrap();
    std::fs::write(&definition, text.replace("<features>", &entries(&file))).unwrap();
    rig.refused(&definition, 1, &[&file, "16777216 bytes"]);
}

/// What the guest's kernel does not drive at least is there, behind a shut gate, and takes a reset.
#[test]
fn the_rest_of_the_hardware() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let disk = rig.raw("stick", 1);
    let devices = format!(
        "<disk type='file'><driver name='qemu' type='raw'/><source file='{disk}'/><target dev='sda' bus='usb'/></disk>\
         <input type='tablet' bus='usb'/><input type='keyboard' bus='usb'/><input type='mouse' bus='virtio'/>\
         <sound model='ich9'/><sound model='ac97'/><audio id='1' type='none'/>\
         <watchdog model='itco' action='reset'/><watchdog model='i6300esb' action='reset'/>\
         <controller type='pci' model='pcie-to-pci-bridge'/>"
    );
    for model in ["bochs", "cirrus", "qxl", "vga", "virtio"] {
        let video = format!(
            "<video><model type='{model}'/></video><graphics type='vnc'><listen type='none'/></graphics>"
        );
        let definition = rig.bare(model, &(devices.clone() + &video));
        let before = rig.snapshot();
        rig.start(&definition);
        fine(&rig, model);
        rig.end(model);
        rig.same_as(&before);
    }
}

/// UEFI firmware starts Linux; what the guest writes into its variables is there again at the next start.
#[test]
fn uefi_with_variables() {
    if guest().is_none() {
        return;
    }
    if !std::path::Path::new("/usr/share/OVMF/OVMF_CODE_4M.fd").exists() {
        println!("skipped: needs OVMF (Debian: ovmf)");
        return;
    }
    let rig = Rig::new();
    let definition = rig.linux("uefi", "demo.devices", "");
    let text = std::fs::read_to_string(&definition).unwrap();
    let firmware = "<os firmware='efi'><firmware><feature name='secure-boot' enabled='no'/></firmware>";
    std::fs::write(&definition, text.replace("<os>", firmware)).unwrap();
    // A start that fails leaves no variables.
    let broken = rig.text("broken.xml");
    let place = "<serial type='file'><source path='/etc/none'/></serial></devices>";
    let text = std::fs::read_to_string(&definition).unwrap();
    std::fs::write(&broken, text.replace("</devices>", place)).unwrap();
    rig.refused(&broken, 1, &["console.logs"]);
    // Variables are root's own file, under its own name.
    std::fs::create_dir_all(rig.path("nvram")).unwrap();
    std::os::unix::fs::symlink(rig.raw("elsewhere", 1), rig.path("nvram/linked")).unwrap();
    let linked = std::fs::read_to_string(&definition).unwrap();
    let named = format!("<nvram>{}</nvram><kernel>", rig.text("nvram/linked"));
    std::fs::write(&broken, linked.replace("<kernel>", &named)).unwrap();
    rig.refused(&broken, 1, &["not a regular file of root"]);
    std::fs::remove_file(rig.path("nvram/linked")).unwrap();
    // And one domain's own: neither what another's uuid names nor what bears no mark.
    let other = "nvram/0b8f9d0e-5f0a-4a4e-8f0e-2a1b3c4d5e6f_VARS.fd";
    for (file, rule) in [(other, "another domain's"), ("nvram/any.fd", "setfattr -n trusted.svirt.domain")] {
        std::fs::write(rig.path(file), "variables").unwrap();
        let named = format!("<nvram>{}</nvram><kernel>", rig.text(file));
        std::fs::write(&broken, linked.replace("<kernel>", &named)).unwrap();
        rig.refused(&broken, 1, &[rule]);
        std::fs::remove_file(rig.path(file)).unwrap();
    }
    for round in 0..2 {
        rig.start(&definition);
        rig.heard("uefi", "guest: ready");
        let mut talk = rig.on_terminal(&["console", "uefi"]);
        talk.types("mount -t efivarfs efivarfs /sys/firmware/efi/efivars && echo mou''nted\r");
        talk.shows("mounted\r\n");
        let variable = "/sys/firmware/efi/efivars/Svirt-11111111-2222-3333-4444-555555555555";
        if round == 0 {
            talk.types(&format!("printf '\\007\\000\\000\\000kept' >{variable} && echo wr''itten\r"));
            talk.shows("written\r\n");
        } else {
            talk.types(&format!("tail -c 4 {variable}; echo -r''ead\r"));
            talk.shows("kept-read\r\n");
        }
        talk.types("\x1d");
        assert_eq!(talk.ends(), Some(0));
        fine(&rig, "uefi");
        rig.end("uefi");
        let variables: Vec<_> = std::fs::read_dir(rig.path("nvram")).unwrap().flatten().collect();
        assert_eq!(variables.len(), 1);
        assert!(rig.svirt(&["plan", &definition]).expect(0).out.contains("firmware:nvram"));
    }
}

/// A client's first message on a SPICE connection, to its main channel.
const SPICE_HELLO: &[u8] =
    b"REDQ\x02\0\0\0\x02\0\0\0\x1a\0\0\0\0\0\0\0\x01\0\x01\0\0\0\x01\0\0\0\x12\0\0\0\x0b\0\0\0\x0f\0\0\0";

/// What virt-install 4.1 writes around a Linux guest where it may choose, started as it is.
#[test]
fn what_virt_install_writes() {
    if guest().is_none() {
        return;
    }
    if !std::path::Path::new("/usr/lib/x86_64-linux-gnu/qemu/ui-spice-core.so").exists() {
        println!("skipped: needs QEMU's SPICE module");
        return;
    }
    let rig = Rig::new();
    let text = include_str!("golden/virt-install.xml");
    let disk = rig.raw("virt-install", 48);
    let mut text = text.replace("/var/lib/svirt/images/plain.raw", &disk);
    if !has_default_route() {
        let (before, rest) = text.split_once("<interface").unwrap();
        text = format!("{before}{}", rest.split_once("</interface>").unwrap().1);
    }
    let log = rig.text("log/virt-install.log");
    let console = format!("<console type=\"pty\"><log file='{log}'/></console>");
    text = text.replace("<console type=\"pty\"/>", &console).replace("2097152", "262144");
    // The one change besides: the demo's kernel, since there is no installed system on the disk.
    let demo = std::fs::read_to_string(rig.linux("demo", "demo.devices", "")).unwrap();
    let boot = &demo[demo.find("<kernel>").unwrap()..demo.find("</os>").unwrap()];
    let definition = rig.text("virt-install.xml");
    std::fs::write(&definition, text.replace("<boot dev=\"hd\"/>", boot)).unwrap();
    let before = rig.snapshot();
    let said = rig.start(&definition).err;
    rig.heard("virt-install", "guest: ready");
    assert!(rig.log("virt-install").contains("disk: made a file system"), "{}", rig.log("virt-install"));
    let address = said.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).expect(&said);
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(SPICE_HELLO).unwrap();
        let mut answer = [0; 20];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(b"REDQ") && answer[16..] == [0; 4], "{answer:?}");
    }
    fine(&rig, "deb");
    rig.end("deb");
    rig.same_as(&before);
}

/// What `virt-install --boot uefi --tpm emulator` writes: as it is but for KVM, and with the demo's kernel in it.
#[test]
fn what_virt_install_writes_with_uefi_and_a_tpm() {
    if guest().is_none() {
        return;
    }
    let needed = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/bin/swtpm"];
    if let Some(missing) = needed.iter().find(|path| !std::path::Path::new(path).exists()) {
        println!("skipped: needs {missing}");
        return;
    }
    if !std::path::Path::new("/usr/lib/x86_64-linux-gnu/qemu/ui-spice-core.so").exists() {
        println!("skipped: needs QEMU's SPICE module");
        return;
    }
    let rig = Rig::new();
    let text = include_str!("data/virt-install/uefi.xml");
    let text = text.replace("type=\"kvm\"", "type=\"qemu\"").replace("<cpu mode=\"host-passthrough\"/>", "");
    let text = text.replace("2097152", "262144");
    let definition = rig.text("uefi.xml");
    std::fs::write(&definition, &text).unwrap();
    rig.start(&definition);
    fine(&rig, "uefi");
    rig.end("uefi");
    let log = rig.text("log/uefi.log");
    let text = text
        .replace("<console type=\"pty\"/>", &format!("<console type='pty'><log file='{log}'/></console>"));
    // The demo's kernel is signed by nobody whom the enrolled keys know.
    let firmware = "<os firmware='efi'><firmware><feature name='secure-boot' enabled='no'/></firmware>";
    let text = text.replace("<os firmware=\"efi\">", firmware).replace("444444444410", "444444444411");
    let demo = std::fs::read_to_string(rig.linux("demo", "demo.devices", "")).unwrap();
    let boot = &demo[demo.find("<kernel>").unwrap()..demo.find("</os>").unwrap()];
    std::fs::write(&definition, text.replace("<boot dev=\"hd\"/>", boot)).unwrap();
    rig.start(&definition);
    rig.heard("uefi", "guest: ready");
    let mut talk = rig.on_terminal(&["console", "uefi"]);
    asks(
        &mut talk,
        "cat /sys/class/tpm/tpm0/tpm_version_major; ls -d /sys/firmware/efi",
        "2\r\n/sys/firmware/efi\r\n",
    );
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    fine(&rig, "uefi");
    rig.end("uefi");
}

/// A TPM 1.2, which has a state of its own.
#[test]
fn a_tpm_of_version_1_2() {
    if guest().is_none() {
        return;
    }
    if !std::path::Path::new("/usr/bin/swtpm").exists() {
        println!("skipped: needs swtpm");
        return;
    }
    let rig = Rig::new();
    let tpm = "<tpm model='tpm-tis'><backend type='emulator' version='1.2'/></tpm>";
    rig.start(&rig.linux("tpm1", "demo.devices", tpm));
    rig.heard("tpm1", "guest: ready");
    let mut talk = rig.on_terminal(&["console", "tpm1"]);
    asks(&mut talk, "cat /sys/class/tpm/tpm0/tpm_version_major", "1\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    fine(&rig, "tpm1");
    rig.end("tpm1");
    let states = std::fs::read_dir(rig.path("tpm")).unwrap().flatten();
    let names: Vec<_> = states.map(|state| state.path()).collect();
    assert!(names.len() == 1 && names[0].extension().is_some_and(|end| end == "tpm1"), "{names:?}");
}

/// Where the host has it, a guest and the host each have a number on the vsock; a number is given once.
#[test]
fn a_vsock() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    if !std::path::Path::new(svirt::sys::vsock::DEVICE).exists() {
        let vsock = rig.bare("vsock", "<vsock model='virtio'><cid auto='yes'/></vsock>");
        rig.refused(&vsock, 1, &["/dev/vhost-vsock", "load the module vhost_vsock"]);
        println!("skipped but for its refusal: needs /dev/vhost-vsock");
        return;
    }
    let cid = 1_000_000_000 + std::process::id();
    let vsock = format!("<vsock model='virtio'><cid auto='no' address='{cid}'/></vsock>");
    rig.start(&rig.linux("vsock", "demo.devices", &vsock));
    rig.refused(&rig.bare("twin", &vsock), 1, &["another guest of this host has the number"]);
    rig.start(&rig.bare("other", "<vsock model='virtio'><cid auto='yes'/></vsock>"));
    rig.heard("vsock", "guest: ready");
    let mut talk = rig.on_terminal(&["console", "vsock"]);
    asks(&mut talk, "ls /sys/bus/virtio/drivers/vmw_vsock_virtio_transport | grep -c virtio", "1\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    for name in ["vsock", "other"] {
        fine(&rig, name);
        rig.end(name);
    }
}

/// A TPM that keeps its state over a restart, in a process that is as planned.
#[test]
fn a_tpm() {
    if guest().is_none() {
        return;
    }
    if !std::path::Path::new("/usr/bin/swtpm").exists() {
        println!("skipped: needs swtpm");
        return;
    }
    let rig = Rig::new();
    let tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>";
    let definition = rig.linux("tpm", "demo.devices", tpm);
    // TPM2_Startup was the firmware's; this asks for the first persistent handle, then for random bytes.
    let random = "printf '\\200\\001\\000\\000\\000\\014\\000\\000\\001\\173\\000\\010' >/tmp/ask; exec 3<>/dev/tpm0; cat /tmp/ask >&3; \
                  head -c 20 <&3 | od -An -tx1 | tr -d ' \\n'; exec 3>&-; echo -e''nd\r";
    for _ in 0..2 {
        rig.start(&definition);
        rig.heard("tpm", "guest: ready");
        let mut talk = rig.on_terminal(&["console", "tpm"]);
        talk.types("cat /sys/class/tpm/tpm0/tpm_version_major; echo v''ersion\r");
        talk.shows("2\r\nversion");
        talk.types(random);
        // Tag without sessions, 20 bytes, success, 8 bytes.
        talk.shows("80010000001400000000");
        talk.shows("-end\r\n");
        talk.types("\x1d");
        assert_eq!(talk.ends(), Some(0));
        fine(&rig, "tpm");
        let inspected = rig.svirt(&["inspect", "tpm"]).expect(0);
        assert!(inspected.out.contains("tpm0"), "{}", inspected.out);
        rig.end("tpm");
        eventually("swtpm ends", || rig.processes().is_empty());
        let states: Vec<_> = std::fs::read_dir(rig.path("tpm")).unwrap().flatten().collect();
        assert_eq!(states.len(), 1);
        let found = states[0].metadata().unwrap();
        assert!(found.len() > 100, "{found:?}");
        assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o600));
    }
}

/// The same definition with a `<memoryBacking>`.
fn backed(definition: &str, inside: &str) -> String {
    let text = std::fs::read_to_string(definition).unwrap();
    let with = format!("<memoryBacking>{inside}</memoryBacking><vcpu>");
    let path = definition.replace(".xml", "-backed.xml");
    std::fs::write(&path, text.replacen("<vcpu>", &with, 1)).unwrap();
    path
}

/// Memory that is shared, locked and allocated at once; and huge pages, which this host has not set aside.
#[test]
fn memory_backing() {
    if guest().is_none() {
        return;
    }
    let rig = Rig::new();
    let definition = rig.linux("memory", "", "");
    let backed = |inside: &str| backed(&definition, inside);
    let before = rig.snapshot();
    rig.start(&backed(
        "<nosharepages/><source type='memfd'/><access mode='shared'/><allocation mode='immediate' threads='2'/>",
    ));
    rig.heard("memory", "guest: ready");
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.status("memory").unwrap().qemu_pid));
    let status = status.unwrap();
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    assert!(kib("RssShmem:") >= 160 << 10, "{status}");
    fine(&rig, "memory");
    rig.end("memory");
    rig.same_as(&before);
    if svirt::sys::rlimit::set(svirt::sys::rlimit::Kind::Memlock, None).is_ok() {
        rig.start(&backed("<locked/>"));
        rig.heard("memory", "guest: ready");
        let pid = rig.status("memory").unwrap().qemu_pid;
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        assert!(limits.lines().any(|line| line.contains("locked memory") && line.contains("unlimited")));
        fine(&rig, "memory");
        rig.end("memory");
    } else {
        println!("skipped in part: needs CAP_SYS_RESOURCE for locked memory");
        rig.refused(&backed("<locked/>"), 1, &["Memlock", "the labeller's own limit"]);
    }
    let pages = "<hugepages><page size='3' unit='MiB'/></hugepages>";
    rig.refused(&backed(pages), 1, &["<hugepages>", "no pages of this size"]);
}

/// Owner of the shared directories of these tests: nobody's on this host.
const SHARER: u32 = 990_000_017;

/// A directory of the rig's shares that belongs to [`SHARER`], with a file and links that lead out of it.
fn share(rig: &Rig, name: &str) -> std::path::PathBuf {
    let place = rig.path("shares").join(name);
    std::fs::create_dir(&place).unwrap();
    std::fs::write(rig.path("outside").join("secret"), "outside of the share\n").unwrap();
    std::fs::write(place.join("hello"), "from the host\n").unwrap();
    std::os::unix::fs::symlink(rig.path("outside"), place.join("away")).unwrap();
    std::os::unix::fs::symlink("../../outside", place.join("up")).unwrap();
    for path in [place.clone(), place.join("hello")] {
        std::os::unix::fs::chown(&path, Some(SHARER), Some(SHARER)).unwrap();
    }
    place
}

const SHARED: &str = "<source type='memfd'/><access mode='shared'/>";

/// virtiofsd: what the guest writes is the owner's on the host; it sees nothing else, and cannot write what is
/// read-only.
#[test]
fn virtiofs() {
    if guest().is_none() {
        return;
    }
    let servers = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
    if !servers.iter().any(|path| std::path::Path::new(path).exists()) {
        println!("skipped: needs virtiofsd");
        return;
    }
    let rig = Rig::new();
    let (open, fixed) = (share(&rig, "open"), share(&rig, "fixed"));
    let filesystem = |place: &std::path::Path, tag: &str, more: &str| {
        format!(
            "<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='{}'/>\
             <target dir='{tag}'/>{more}</filesystem>",
            place.display()
        )
    };
    let devices = filesystem(&open, "open", "") + &filesystem(&fixed, "fixed", "<readonly/>");
    let plain = rig.linux("virtiofs", "demo.devices", &devices);
    rig.refused(&plain, 1, &["shared memory", "<memoryBacking>"]);
    let definition = backed(&plain, SHARED);
    let before = rig.snapshot();
    rig.start(&definition);
    rig.heard("virtiofs", "guest: ready");
    let mut talk = rig.on_terminal(&["console", "virtiofs"]);
    talk.types("mkdir /o /f; mount -t virtiofs open /o && mount -t virtiofs fixed /f && echo mo''unted\r");
    talk.shows("mounted\r\n");
    in_guest(&mut talk);
    talk.types("echo x >/f/new; cat /f/hello; [ -e /f/new ] || echo re''fused\r");
    talk.shows("from the host");
    talk.shows("refused\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    assert!(!rig.log("virtiofs").contains("outside of the share"), "{}", rig.log("virtiofs"));
    fine(&rig, "virtiofs");
    on_host(&open);
    let inspected = rig.svirt(&["inspect", "virtiofs"]).expect(0);
    assert!(inspected.out.contains("fs0") && inspected.out.contains("fs1"), "{}", inspected.out);
    rig.end("virtiofs");
    eventually("virtiofsd ends", || rig.processes().is_empty());
    clean(&open);
    rig.same_as(&before);
}

/// What both kinds must do and refuse, in the directory that is mounted at /o.
fn in_guest(talk: &mut e2e_rig::terminal::Talk) {
    talk.types("cat /o/hello; mkdir /o/d && echo from the guest >/o/d/file && mv /o/d/file /o/d/moved && cat /o/d/moved\r");
    talk.shows("from the host");
    talk.shows("from the guest\r\n");
    // Links lead nowhere but in the guest's own tree, and no name leads above the share.
    talk.types("ls /o/away /o/up /o/../outside 2>&1 | grep -c 'No such'; cat /o/up/secret /o/away/secret; echo lo''oked\r");
    talk.shows("looked\r\n");
    // The host has no set-uid file and no device of it.
    talk.types(
        "cp /bin/busybox /o/b; chmod 4755 /o/b || echo no''-suid; mknod /o/null c 1 3 || echo no''-device\r",
    );
    talk.shows("no-suid\r\n");
    talk.shows("no-device\r\n");
    talk.types("rm /o/b; dd if=/dev/zero of=/o/big bs=64k count=64 2>/dev/null; sync; wc -c </o/big; rm /o/big; echo do''ne\r");
    talk.shows("4194304");
    talk.shows("done\r\n");
}

/// What the guest made belongs to the directory's owner, and only what it was asked to make is there.
fn on_host(place: &std::path::Path) {
    let moved = place.join("d/moved");
    assert_eq!(std::fs::read_to_string(&moved).unwrap(), "from the guest\n");
    let found = moved.metadata().unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o6000), (SHARER, SHARER, 0));
    let mut names: Vec<_> =
        std::fs::read_dir(place).unwrap().flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["away", "d", "hello", "up"]);
}

fn clean(place: &std::path::Path) {
    std::fs::remove_dir_all(place.join("d")).unwrap();
}

/// 9p: the same, served by the device model itself behind its own filter.
#[test]
fn nine_p() {
    let (Some(_), Some(kernel)) = (guest(), e2e_rig::large_guest()) else { return };
    let rig = Rig::new();
    for file in ["kernel", "initrd"] {
        std::fs::copy(kernel.join(file), rig.path("boot").join(file)).unwrap();
    }
    let (open, fixed) = (share(&rig, "open"), share(&rig, "fixed"));
    let filesystem = |place: &std::path::Path, attributes: &str, tag: &str, more: &str| {
        format!(
            "<filesystem type='mount' {attributes}><source dir='{}'/><target dir='{tag}'/>{more}</filesystem>",
            place.display()
        )
    };
    // Not below one of the configured places, and what only root could serve.
    let outside = filesystem(&rig.path("outside"), "accessmode='mapped'", "out", "");
    rig.refused(&rig.bare("nine-p", &outside), 1, &["shares.places"]);
    let passed = filesystem(&open, "", "open", "");
    rig.refused(&rig.bare("nine-p", &passed), 1, &["accessmode='passthrough'", "accessmode='mapped'"]);
    let devices =
        filesystem(&open, "accessmode='mapped' fmode='640' dmode='750' multidevs='remap'", "open", "")
            + &filesystem(&fixed, "accessmode='squash'", "fixed", "<readonly/>");
    let definition = rig.linux("nine-p", "demo.devices", &devices);
    let before = rig.snapshot();
    rig.start(&definition);
    rig.heard("nine-p", "guest: ready");
    let mut talk = rig.on_terminal(&["console", "nine-p"]);
    let options = "-t 9p -o trans=virtio,version=9p2000.L,msize=262144";
    talk.types(&format!(
        "mkdir /o /f; mount {options} open /o && mount {options} fixed /f && echo mo''unted\r"
    ));
    talk.shows("mounted\r\n");
    talk.types("cat /o/hello; mkdir /o/d && echo from the guest >/o/d/file && mv /o/d/file /o/d/moved && cat /o/d/moved\r");
    talk.shows("from the host");
    talk.shows("from the guest\r\n");
    // Owner and mode are the guest's alone.
    talk.types(
        "chown 12:34 /o/d/moved; chmod 4755 /o/d/moved; stat -c '%u %g %a' /o/d/moved; echo ow''ned\r",
    );
    talk.shows("12 34 4755\r\n");
    talk.shows("owned\r\n");
    talk.types("cat /o/up/secret /o/away/secret /o/../outside/secret; echo lo''oked\r");
    talk.shows("looked\r\n");
    talk.types("echo x >/f/new; cat /f/hello; [ -e /f/new ] || echo re''fused\r");
    talk.shows("from the host");
    talk.shows("refused\r\n");
    talk.types("dd if=/dev/zero of=/o/big bs=64k count=64 2>/dev/null; sync; wc -c </o/big; rm /o/big; echo do''ne\r");
    talk.shows("4194304");
    talk.shows("done\r\n");
    talk.types("\x1d");
    assert_eq!(talk.ends(), Some(0));
    assert!(!rig.log("nine-p").contains("outside of the share"), "{}", rig.log("nine-p"));
    fine(&rig, "nine-p");
    on_host(&open);
    rig.end("nine-p");
    clean(&open);
    rig.same_as(&before);
}
