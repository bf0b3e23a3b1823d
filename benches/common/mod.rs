//! A labeller of our own in a directory of our own, for benchmarks that start domains.
#![allow(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use svirt::base::{DomainUuid, Files};
use svirt::conf;
use svirt::driver::{self, Labeller, Launch};
use svirt::settings::Settings;
use svirt::sys::pidfd;

/// A labeller of our own in a directory of our own.
pub struct Host {
    directory: tempfile::TempDir,
    /// What it runs with.
    pub settings: Settings,
    labeller: Child,
}

impl Host {
    /// Starts the labeller and waits until it listens.
    pub fn new() -> Self {
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

    /// Pid of the labeller: the shell that started it has replaced itself.
    pub fn labeller_pid(&self) -> i32 {
        i32::try_from(self.labeller.id()).unwrap()
    }

    /// Starts a domain; the guest runs when this returns.
    pub fn start(&self, name: &str, paused: bool) -> Launch {
        let mut labeller = Labeller::connect(&self.settings).unwrap();
        let host = svirt::host::read(&self.settings);
        driver::start(
            &mut labeller,
            (self.definition(name), &Files::ALL),
            &host,
            &self.settings,
            driver::Begin { paused, restore: None },
        )
        .unwrap()
    }

    /// Kills a domain; returns how long after the end of its process the labeller says so.
    pub fn stop(&self, uuid: DomainUuid, qemu_pid: i32) -> Duration {
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
