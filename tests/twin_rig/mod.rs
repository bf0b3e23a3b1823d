//! A libvirtd of the test's own, commands against it or against svirtd, and what their answers differ in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub)]

use std::fs::File;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde::Deserialize;

use crate::e2e_rig::{PATIENCE, finish, possible};
use crate::virsh_rig::VIRSH;

const LIBVIRTD: &str = "/usr/sbin/libvirtd";
/// libvirtd's own drivers, which Debian packs apart.
const DRIVER: &str = "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so";
const VIRT_INSTALL: &str = "/usr/bin/virt-install";
const PYTHON: &str = "/usr/bin/python3";

/// Whether this run can do it; says so if not.
pub fn libvirtd_possible() -> bool {
    for needed in [LIBVIRTD, DRIVER, VIRSH, VIRT_INSTALL, PYTHON] {
        if !Path::new(needed).exists() {
            println!("skipped: needs {needed}");
            return false;
        }
    }
    let version = Command::new(LIBVIRTD).arg("--version").output().unwrap();
    if !String::from_utf8_lossy(&version.stdout).contains(" 9.0.") {
        println!("skipped: needs libvirtd 9.0, which the list of differences is for");
        return false;
    }
    let bound = Command::new(PYTHON).args(["-c", "import libvirt"]).stderr(Stdio::null()).status();
    if !bound.is_ok_and(|status| status.success()) {
        println!("skipped: needs python3-libvirt");
        return false;
    }
    possible()
}

/// A running libvirtd, which ends together with everything that it started once the test's end of a pipe is closed:
/// also where the test panics or is killed.
pub struct Libvirtd {
    directory: tempfile::TempDir,
    process: Child,
}

/// The first call waits until libvirtd has asked each emulator what it can do.
const PROBING: &str = "300";

impl Libvirtd {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("images")).unwrap();
        let log = File::create(directory.path().join("out")).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/twin/libvirtd.sh");
        let mut command = Command::new("unshare");
        // Whatever it starts ends with its process namespace, and no interface or filter of the host's is touched.
        command.args(["--mount", "--mount-proc", "--pid", "--fork", "--net", "--ipc", "sh", script]);
        command.arg(directory.path()).stdin(Stdio::piped());
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let mut own = Self { directory, process };
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(own.directory.path().join("sock/libvirt-sock")).is_err() {
            let ended = own.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "libvirtd does not serve: {}", own.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let mut first = Command::new("timeout");
        first.args([PROBING, VIRSH, "--connect", &own.uri(), "capabilities"]);
        let probed = first.stdin(Stdio::null()).output().unwrap();
        assert!(probed.status.success(), "libvirtd does not answer: {}", own.log());
        own
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("out")).unwrap_or_default()
    }

    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}/sock/libvirt-sock", self.directory())
    }

    pub fn directory(&self) -> String {
        self.directory.path().to_str().unwrap().to_owned()
    }
}

impl Drop for Libvirtd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("libvirtd: {}", self.log());
        }
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// One daemon and a directory.
pub struct Side {
    uri: String,
    directory: String,
}

const DOMAIN: &str = "<domain type='qemu'><name>NAME</name>UUID<title>a title</title>\
    <memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>\
    <features><acpi/><apic/></features><devices><serial type='pty'/></devices></domain>";

const RICH: &str = "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
    <source file='DIR/images/rich.img'/><target dev='vda' bus='virtio'/></disk>\
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>\
    <graphics type='vnc' autoport='yes'/><video><model type='vga'/></video></devices>";

impl Side {
    pub fn new(uri: &str, directory: &str) -> Self {
        let directory = std::fs::canonicalize(directory).unwrap().to_str().unwrap().to_owned();
        let uuid = "<uuid>6ba7b810-9dad-11d1-80b4-00c04fd430c8</uuid>";
        let write = |name: &str, text: &str| std::fs::write(format!("{directory}/{name}"), text).unwrap();
        write("twin.xml", &DOMAIN.replace("NAME", "twin").replace("UUID", uuid));
        write("heard.xml", &DOMAIN.replace("NAME", "heard").replace("UUID", ""));
        let rich = DOMAIN.replace("UUID", "<uuid>6ba7b810-9dad-11d1-80b4-00c04fd430ca</uuid>");
        let rich = rich.replace("</devices>", &RICH.replace("DIR", &directory));
        write("rich.xml", &rich.replace("NAME", "rich"));
        let display = |asks: &str| format!("<graphics type='vnc' port='-1' listen='127.0.0.1' {asks}/>");
        for (name, asks) in [
            ("locked", "passwd='geheim12' passwdValidTo='2222-01-02T03:04:05'"),
            ("long", "passwd='geheim123'"),
            ("dropped", "passwd='geheim' connected='disconnect'"),
            ("timeless", "passwd='geheim' passwdValidTo='soon'"),
            ("other", "passwd='anderes' connected='keep'"),
            ("empty", "passwd=''"),
            ("keys", "passwd='geheim' keymap='de'"),
        ] {
            write(&format!("display-{name}.xml"), &display(asks));
            let shown = format!("{}<video><model type='vga'/></video></devices>", display(asks));
            let locked = DOMAIN.replace("UUID", "<uuid>6ba7b810-9dad-11d1-80b4-00c04fd430cb</uuid>");
            let locked = locked.replace("NAME", "locked").replace("</devices>", &shown);
            write(&format!("{name}.xml"), &locked);
        }
        write("display-elsewhere.xml", &display("").replace("127.0.0.1", "0.0.0.0"));
        write("display-port.xml", &display("autoport='no'").replace("-1", "5999"));
        write("display-spice.xml", &display("").replace("vnc", "spice"));
        let unknown = DOMAIN.replace("UUID", "").replace("</devices>", "<bogus/></devices>");
        write("unknown.xml", &unknown.replace("NAME", "unknown"));
        std::fs::File::create(format!("{directory}/images/rich.img")).unwrap().set_len(1 << 20).unwrap();
        write("broken.xml", "<domain type='qemu'><name>x</name>");
        write("nameless.xml", "<domain type='qemu'><memory>1</memory></domain>");
        let cpu = |model: &str| {
            format!("<cpu><arch>x86_64</arch><model>{model}</model><vendor>Intel</vendor></cpu>")
        };
        write("cpu.xml", "<cpu><model>486</model></cpu>");
        write("nocpu.xml", "<cpu><model>nosuch</model></cpu>");
        write("oddcpu.xml", "<cpu><model>486</model><feature name='fpu' policy='odd'/></cpu>");
        write("cpus.xml", &(cpu("Haswell-noTSX") + &cpu("Westmere")));
        Self { uri: uri.to_owned(), directory }
    }

    /// Runs one line of the script: its answer, normalised, line by line.
    pub fn run(&self, line: &str) -> Vec<String> {
        let words: Vec<String> =
            line.split_whitespace().map(|word| word.replace("@DIR@", &self.directory)).collect();
        if words[0] == "events" {
            return self.normal(line, &self.events());
        }
        let home = format!("{}/home", self.directory);
        let mut command = match words[0].as_str() {
            "virsh" => Command::new(VIRSH),
            "virt-install" => Command::new(VIRT_INSTALL),
            "python" => Command::new(PYTHON),
            other => panic!("{other:?} is no program of the script"),
        };
        command.env("LC_ALL", "C").env("HOME", &home).env("XDG_CACHE_HOME", &home).stdin(Stdio::null());
        if words[0] == "python" {
            let script = format!("{}/tests/data/twin/{}", env!("CARGO_MANIFEST_DIR"), words[1]);
            command.args([&script, &self.uri, &self.directory]);
        } else {
            command.args(["--connect", &self.uri]).args(&words[1..]);
        }
        let ran = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        self.normal(line, &format!("exit {:?}\n{}{}", ran.code, ran.out, ran.err))
    }

    fn virsh(&self, words: &[&str]) {
        let mut command = Command::new(VIRSH);
        command.args(["--connect", &self.uri]).args(words).stdin(Stdio::null());
        finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    }

    /// What `virsh event --all --loop` hears while a domain lives and dies.
    fn events(&self) -> String {
        let mut command = Command::new(VIRSH);
        command.args(["--connect", &self.uri, "event", "--all", "--loop"]).env("LC_ALL", "C");
        let mut listening = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = listening.stdout.take().unwrap();
        let (said, hears) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut chunk) {
                let _ = said.send(String::from_utf8_lossy(&chunk[..read]).into_owned());
            }
        });
        // It says nothing once it listens, so something happens until it tells of it.
        let file = format!("{}/heard.xml", self.directory);
        let until = Instant::now() + PATIENCE;
        while hears.recv_timeout(std::time::Duration::from_millis(300)).is_err() {
            assert!(Instant::now() < until, "virsh hears nothing");
            self.virsh(&["define", &file]);
            self.virsh(&["undefine", "heard"]);
        }
        let file = format!("{}/twin.xml", self.directory);
        for words in [
            ["define", &file].as_slice(),
            &["start", "twin"],
            &["suspend", "twin"],
            &["resume", "twin"],
            &["define", &file],
            &["destroy", "twin"],
            &["start", "twin", "--paused"],
            &["resume", "twin"],
            &["undefine", "twin"],
            &["destroy", "twin"],
        ] {
            self.virsh(words);
        }
        let mut heard = String::new();
        // The last event: whoever has heard it has heard all.
        let last = "event 'lifecycle' for domain 'twin': Stopped Destroyed";
        while heard.matches(last).count() < 2 {
            heard.push_str(&hears.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("only heard: {heard}")));
        }
        listening.kill().unwrap();
        listening.wait().unwrap();
        reader.join().unwrap();
        heard.lines().filter(|line| line.contains("'twin'")).map(|line| format!("{line}\n")).collect()
    }

    /// Takes away what differs from run to run.
    fn normal(&self, step: &str, text: &str) -> Vec<String> {
        let socket = self.uri.rsplit_once('=').unwrap().1;
        let text = text.replace(socket, "@SOCKET@").replace(&self.directory, "@DIR@");
        let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
        lines.map(|line| plain(step, line)).collect()
    }
}

/// One line without times, counters, room and drawn uuids.
fn plain(step: &str, line: &str) -> String {
    let start = line.trim_start();
    let room = step.contains("pool-");
    for (key, of) in [
        ("CPU time:", true),
        ("CPU frequency:", true),
        ("CPU:", true),
        // Firmware reads the disk some time after the start.
        ("vda rd_req", true),
        ("vda rd_bytes", true),
        ("vda rd_total_times", true),
        ("number of read operations:", true),
        ("number of bytes read:", true),
        ("total duration of reads (ns):", true),
        ("Capacity:", room),
        ("Allocation:", room),
        ("Available:", room),
    ] {
        if of && start.starts_with(key) {
            return format!("{key} N");
        }
    }
    for tag in ["atime", "mtime", "ctime", "capacity", "allocation", "available"] {
        let of = tag.ends_with("time") || room;
        if of
            && (start.starts_with(&format!("<{tag}>")) || start.starts_with(&format!("<{tag} unit='bytes'>")))
        {
            return format!("<{tag}> N");
        }
    }
    if step.contains("domstats")
        && let Some((key, _)) = line.split_once('=')
        && ["cpu.time", "cpu.user", "cpu.system", "balloon.rss", "vcpu.0.time", "vcpu.0.wait", "vcpu.0.delay"]
            .contains(&key.trim())
    {
        return format!("{key}=N");
    }
    let mut out = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let uuid =
            rest.get(..36).filter(|text| text.as_bytes()[8] == b'-' && uuid::Uuid::try_parse(text).is_ok());
        if uuid.is_some() {
            out.push_str("UUID");
            rest = &rest[36..];
        } else if let Some(behind) = rest.strip_prefix("/dev/pts/") {
            out.push_str("/dev/pts/N");
            rest = behind.trim_start_matches(|c: char| c.is_ascii_digit());
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// The lines that only one side has: `-` of libvirtd, `+` of svirtd.
pub fn compare(stock: &[String], svirt: &[String]) -> Vec<String> {
    // Longest common subsequence, from the end.
    let (n, m) = (stock.len(), svirt.len());
    let mut longest = vec![vec![0_u32; m + 1]; n + 1];
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            longest[i][j] = if stock[i] == svirt[j] {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < n || j < m {
        if i < n && j < m && stock[i] == svirt[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == m || (i < n && longest[i + 1][j] >= longest[i][j + 1]) {
            out.push(format!("-{}", stock[i]));
            i += 1;
        } else {
            out.push(format!("+{}", svirt[j]));
            j += 1;
        }
    }
    out
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    difference: Vec<Difference>,
}

/// Lines that may differ, and why. `*` in a step or a line is anything.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// Lines of the script.
    steps: Vec<String>,
    /// What stock libvirtd alone says.
    #[serde(default)]
    libvirtd: Vec<String>,
    /// What svirtd alone says.
    #[serde(default)]
    svirtd: Vec<String>,
    /// Why it is so.
    reason: String,
    /// Whether it depends on the host, so that it need not be there.
    #[serde(default)]
    host: bool,
    #[serde(skip)]
    used: bool,
}

/// The reviewed list.
pub struct Differences(Vec<Difference>);

impl Differences {
    pub fn read(text: &str) -> Self {
        let file: Listed = toml::from_str(text).unwrap();
        for difference in &file.difference {
            assert!(difference.reason.len() > 10, "a difference without a reason: {:?}", difference.steps);
        }
        Self(file.difference)
    }

    /// Whether a line that one side alone says is listed.
    pub fn lists(&mut self, step: &str, line: &str) -> bool {
        let (side, text) = line.split_at(1);
        let mut listed = false;
        for difference in &mut self.0 {
            let lines = if side == "-" { &difference.libvirtd } else { &difference.svirtd };
            let of = difference.steps.iter().any(|pattern| glob(pattern, step));
            if of && lines.iter().any(|pattern| glob(pattern, text.trim())) {
                difference.used = true;
                listed = true;
            }
        }
        listed
    }

    /// The reasons of those that nothing needed.
    pub fn unused(&self) -> Vec<String> {
        let unused = self.0.iter().filter(|difference| !difference.used && !difference.host);
        unused.map(|difference| format!("{:?}: {}", difference.steps, difference.reason)).collect()
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}
