//! Start to guest running and end, with every layer on, beside the same arguments run bare. Root only.
//!
//! `cargo bench --bench start` runs both alternately in one process, so that a noisy machine hits both alike, and
//! prints medians and their ratio. Bare means: the same program, arguments and descriptors, no svirt process, no
//! confinement, the same QMP handshake and `cont`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use svirt::base::DomainUuid;
use svirt::conf;
use svirt::driver::{self, Labeller, Launch};
use svirt::privsep::op::{Access, LaunchPlan, Op, Spawn};
use svirt::settings::Settings;
use svirt::sys::{pidfd, process};

/// Pairs of starts, bare and confined.
const PAIRS: usize = 21;
/// Starts at once in the second part.
const AT_ONCE: usize = 20;

/// A labeller of our own in a directory of our own.
struct Host {
    directory: tempfile::TempDir,
    settings: Settings,
    labeller: Child,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("svirt-bench-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let text = format!(
            "[paths]\nrun = {:?}\nstate = {:?}\ncache = {:?}\nlibexec = {:?}\n[images]\nrelabelable = [{:?}]\n",
            path("run"),
            path("state"),
            path("cache"),
            Path::new(env!("CARGO_BIN_EXE_svirt-labeller")).parent().unwrap(),
            path("images"),
        );
        std::fs::create_dir(path("images")).unwrap();
        std::fs::write(path("svirt.toml"), &text).unwrap();
        let settings = Settings::from_toml(&text, "svirt.toml").unwrap();
        // The shell only moves the pipe to a number that is no standard stream.
        let mut labeller = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" --config \"$1\" --ready-fd 3 3>&1 >&2"])
            .args([env!("CARGO_BIN_EXE_svirt-labeller"), &path("svirt.toml")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        labeller.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Self { directory, settings, labeller }
    }

    /// A definition with one qcow2 disk, a serial console, an rng and a balloon; no guest system.
    fn definition(&self, name: &str) -> conf::domain::Domain {
        let image = self.directory.path().join("images").join(format!("{name}.qcow2"));
        if !image.exists() {
            let made = Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2"])
                .arg(&image)
                .arg("64M")
                .status()
                .unwrap();
            assert!(made.success());
        }
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk><serial type='pty'/>\
             <rng model='virtio'><backend model='builtin'/></rng></devices></domain>",
            image.display()
        );
        conf::domain_xml::parse(xml.as_bytes()).unwrap()
    }

    fn start(&self, name: &str) -> Launch {
        let mut labeller = Labeller::connect(&self.settings).unwrap();
        let host = svirt::host::read(&self.settings);
        driver::start(&mut labeller, self.definition(name), &host, &self.settings, false).unwrap()
    }

    /// Kills a domain; returns how long after the end of its process the labeller says so.
    fn stop(&self, uuid: DomainUuid, qemu_pid: i32) -> Duration {
        let qemu = pidfd::open(qemu_pid).unwrap();
        let watcher = std::thread::spawn(move || {
            assert!(pidfd::wait_ended(&qemu, 10_000).unwrap());
            Instant::now()
        });
        Labeller::connect(&self.settings).unwrap().kill(uuid).unwrap();
        let said = Instant::now();
        said.saturating_duration_since(watcher.join().unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(self.labeller.id()).unwrap()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.labeller.wait();
    }
}

/// The same arguments without svirt.
struct Bare {
    child: process::Child,
    _peers: Vec<OwnedFd>,
}

impl Bare {
    /// Starts the device model of a plan and waits until its guest runs.
    fn start(plan: &LaunchPlan) -> Self {
        let mut slots: std::collections::BTreeMap<&str, OwnedFd> = std::collections::BTreeMap::new();
        let mut peers = Vec::new();
        let mut monitor = None;
        let mut spawn: Option<&Spawn> = None;
        for op in &plan.ops {
            match op {
                Op::OpenImage(image) => {
                    let write = image.access == Access::ReadWrite;
                    let file = std::fs::OpenOptions::new().read(true).write(write).open(&image.path).unwrap();
                    slots.insert(image.slot.as_str(), file.into());
                }
                Op::Channel { slot, peer } => {
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    slots.insert(slot.as_str(), theirs.into());
                    if peer.as_str() == "monitor.peer" {
                        monitor = Some(ours);
                    } else {
                        peers.push(ours.into());
                    }
                }
                Op::Spawn(found) => spawn = Some(found),
                _ => {}
            }
        }
        let spawn = spawn.unwrap();
        let program = std::ffi::CString::new(spawn.program.as_str()).unwrap();
        let argv: Vec<_> =
            spawn.argv.iter().map(|word| std::ffi::CString::new(word.as_str()).unwrap()).collect();
        let placed: Vec<(RawFd, RawFd)> =
            spawn.fds.iter().map(|grant| (slots[grant.slot.as_str()].as_raw_fd(), grant.number)).collect();
        let child = process::fork(|| {
            process::place_fds(&placed, &mut []).unwrap();
            let argv: Vec<&std::ffi::CStr> = argv.iter().map(std::ffi::CString::as_c_str).collect();
            eprintln!("{}", process::exec(&program, &argv, &[c"LC_ALL=C"]));
            1
        })
        .unwrap();
        drop(slots);
        run_guest(monitor.unwrap());
        Self { child, _peers: peers }
    }

    fn stop(self) {
        self.child.end().unwrap();
    }
}

/// Greeting, capabilities, `cont`, as a supervisor does it.
fn run_guest(monitor: UnixStream) {
    let mut lines = BufReader::new(monitor.try_clone().unwrap()).lines();
    let mut monitor = monitor;
    assert!(lines.next().unwrap().unwrap().contains("QMP"));
    for command in ["qmp_capabilities", "cont"] {
        writeln!(monitor, "{{\"execute\":\"{command}\"}}").unwrap();
        while !lines.next().unwrap().unwrap().contains("\"return\"") {}
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn one_by_one(host: &Host) {
    let (mut bare, mut confined, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    // The first start prepares the minimal root.
    let first = host.start("one");
    host.stop(first.plan.domain.uuid, first.started.qemu_pid);
    for _ in 0..PAIRS {
        let begin = Instant::now();
        let running = Bare::start(&first.plan);
        bare.push(begin.elapsed());
        running.stop();
        let begin = Instant::now();
        let launch = host.start("one");
        confined.push(begin.elapsed());
        stops.push(host.stop(launch.plan.domain.uuid, launch.started.qemu_pid));
    }
    let (bare, confined) = (median(&mut bare), median(&mut confined));
    println!("start to guest running, median of {PAIRS} pairs:");
    println!("  bare argv   {:8.2} ms", milliseconds(bare));
    println!("  confined    {:8.2} ms", milliseconds(confined));
    println!(
        "  ratio       {:8.2}     (+{:.2} ms; promise: at most 1.3 and +10 ms)",
        confined.as_secs_f64() / bare.as_secs_f64(),
        milliseconds(confined.saturating_sub(bare))
    );
    println!(
        "stop: said {:.2} ms after the process is gone (median; promise: 10 ms)",
        milliseconds(median(&mut stops))
    );
}

fn at_once(host: &Host) {
    let plans: Vec<Launch> = (0..AT_ONCE).map(|i| host.start(&format!("many{i}"))).collect();
    for launch in &plans {
        host.stop(launch.plan.domain.uuid, launch.started.qemu_pid);
    }
    let (mut bare, mut confined) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let begin = Instant::now();
        let running: Vec<Bare> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                plans.iter().map(|launch| scope.spawn(|| Bare::start(&launch.plan))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        bare.push(begin.elapsed());
        running.into_iter().for_each(Bare::stop);
        let begin = Instant::now();
        let launches: Vec<Launch> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..AT_ONCE).map(|i| scope.spawn(move || host.start(&format!("many{i}")))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        confined.push(begin.elapsed());
        for launch in launches {
            host.stop(launch.plan.domain.uuid, launch.started.qemu_pid);
        }
    }
    let (bare, confined) = (median(&mut bare), median(&mut confined));
    println!("{AT_ONCE} starts at once, median of 3:");
    println!("  bare argv   {:8.1} ms", milliseconds(bare));
    println!("  confined    {:8.1} ms", milliseconds(confined));
    println!("  ratio       {:8.2}     (promise: at most 1.3)", confined.as_secs_f64() / bare.as_secs_f64());
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let host = Host::new();
    one_by_one(&host);
    at_once(&host);
}
