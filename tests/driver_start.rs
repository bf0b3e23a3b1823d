//! A start through everything: definition, real labeller, real supervisor, real QEMU, and back to nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use svirt::base::Files;
use svirt::conf::domain_xml::parse;
use svirt::driver::{Control, DriverError, Labeller, start};
use svirt::host;
use svirt::privsep::supervisor::Verb;
use svirt::settings::Settings;

/// A labeller of its own in directories of its own.
struct Host {
    directory: tempfile::TempDir,
    settings: Settings,
    process: Child,
}

impl Host {
    fn new() -> Option<Self> {
        if svirt::sys::cred::effective_uid() != 0 {
            println!("skipped: only root can run the labeller");
            return None;
        }
        if !Path::new("/usr/bin/qemu-system-x86_64").exists() {
            println!("skipped: QEMU is not installed");
            return None;
        }
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let mut settings = Settings::default();
        settings.paths.run = at("run");
        settings.paths.state = at("state");
        settings.paths.cache = at("cache");
        let labeller = Path::new(env!("CARGO_BIN_EXE_svirt-labeller"));
        settings.paths.libexec = labeller.parent().unwrap().to_str().unwrap().into();
        settings.images.relabelable = vec![at("images")];
        settings.console.logs = vec![at("logs")];
        settings.console.sockets = vec![at("sockets")];
        for name in ["images", "logs", "sockets"] {
            fs::create_dir(at(name)).unwrap();
        }
        let config = at("svirt.toml");
        fs::write(&config, toml::to_string(&settings).unwrap()).unwrap();
        let log = File::create(at("labeller.log")).unwrap();
        let process = Command::new(labeller)
            .args(["--config", &config])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let host = Self { directory, settings, process };
        let socket = host.directory.path().join("run/labeller.sock");
        let begun = Instant::now();
        while !socket.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "no socket: {}", host.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(host)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("labeller.log")).unwrap_or_default()
    }

    fn xml(&self, name: &str, image: &str) -> Vec<u8> {
        let directory = self.directory.path().display();
        format!(
            "<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type>hvm</type></os><features><acpi/></features><devices>
               <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{directory}/images/{image}'/><target dev='vda' bus='virtio'/></disk>
               <serial type='pty'/><serial type='file'><source path='{directory}/logs/{name}'/></serial></devices></domain>"
        )
        .into_bytes()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_definition_becomes_a_confined_guest_and_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    let image = host.directory.path().join("images/a.raw");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let facts = host::read(&host.settings);
    let mut labeller = Labeller::connect(&host.settings).unwrap();
    let domain = parse(&host.xml("one", "a.raw")).unwrap();
    let launch =
        start(&mut labeller, (domain, &Files::ALL), &facts, &host.settings, svirt::driver::Begin::default())
            .unwrap_or_else(|error| panic!("{}\n{}\n{}", error.refusal(), error.stderr(), host.log()));

    let status = Control::connect(&launch.started.control).unwrap().status().unwrap();
    assert_eq!((status.state.as_str(), status.sealed), ("running", true));
    assert_eq!(status.consoles.len(), 2);
    let proc = fs::read_to_string(format!("/proc/{}/status", launch.started.qemu_pid)).unwrap();
    assert!(proc.contains("CapBnd:\t0000000000000000") && proc.contains("NoNewPrivs:\t1"), "{proc}");

    // The same image for a second domain is somebody's own.
    let second = parse(&host.xml("two", "a.raw")).unwrap();
    let refused =
        start(&mut labeller, (second, &Files::ALL), &facts, &host.settings, svirt::driver::Begin::default())
            .unwrap_err();
    assert!(matches!(&refused, DriverError::Refused(_)), "{refused}");
    assert!(!refused.refusal().remedy.is_empty());

    Control::connect(&launch.started.control).unwrap().order(&Verb::Pause).unwrap();
    let uuid = launch.plan.domain.uuid;
    labeller.kill(uuid).unwrap();
    let survey = labeller.survey().unwrap();
    assert!(survey.domains.is_empty() && survey.uids.is_empty() && survey.pairs.is_empty(), "{survey:?}");
    assert!(!Path::new(&format!("/proc/{}", launch.started.qemu_pid)).exists());
}
