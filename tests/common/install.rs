//! What every rig stands on: whether this host can run it, and an installation with directories, uids and cgroup names
//! of its own.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use svirt::settings::{Settings, UidRange};
use svirt::sys::{cred, pidfd};

pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// How many uids an installation has.
const UIDS: u32 = 64;
static INSTALLS: AtomicU32 = AtomicU32::new(0);

/// Whether this run can do it; says so if not.
pub fn possible() -> bool {
    if cred::effective_uid() != 0 {
        println!("skipped: needs root");
        return false;
    }
    if !Path::new(QEMU).exists() {
        println!("skipped: needs {QEMU}");
        return false;
    }
    true
}

/// Waits for something that must come.
#[track_caller]
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !check() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One installation of svirt.
pub struct Install {
    pub dir: tempfile::TempDir,
    pub settings: Settings,
    /// The first of its uids; unlike those of any other installation on this host.
    pub first_uid: u32,
}

impl Install {
    /// Makes its directories and its settings, which `write` puts into their file.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for name in ["images", "boot", "log", "sockets"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let number = INSTALLS.fetch_add(1, Ordering::Relaxed);
        // Each test program has room for sixty of them before it reaches those of the next process.
        let first_uid = 1_000_000_000 + (std::process::id() % 250_000) * 4000 + number * UIDS;
        let range = |offset| UidRange { first: first_uid + offset, count: 16 };
        let mut settings = Settings::default();
        settings.paths.run = at("run");
        settings.paths.state = at("state");
        // Minimal roots are made once for all tests of a run.
        let cache = std::env::temp_dir().join("svirt-test-cache");
        std::fs::create_dir_all(&cache).unwrap();
        settings.paths.cache = cache.to_str().unwrap().to_owned();
        settings.uids.frontend = first_uid + 60;
        settings.uids.imageprobe = first_uid + 61;
        settings.uids.hostprobe = first_uid + 62;
        settings.uids.domains = range(0);
        settings.uids.supervisors = range(16);
        settings.uids.helpers = range(32);
        settings.images.relabelable = vec![at("images")];
        settings.images.readable = vec![at("boot")];
        settings.console.logs = vec![at("log")];
        settings.console.sockets = vec![at("sockets")];
        settings.limits.domains = 16;
        Self { dir, settings, first_uid }
    }

    /// Writes the settings as the configuration file `svirt.toml`.
    pub fn write(&self) {
        std::fs::write(self.path("svirt.toml"), toml::to_string(&self.settings).unwrap()).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Its uids, all roles together.
    pub fn uids(&self) -> std::ops::Range<u32> {
        self.first_uid..self.first_uid + UIDS
    }

    /// Mounts that have its directory, or what `also` says, in their line.
    pub fn mounts(&self, also: Option<&str>) -> Vec<String> {
        let own = self.dir.path().to_str().unwrap();
        let theirs = |line: &&str| line.contains(own) || also.is_some_and(|also| line.contains(also));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().filter(theirs).map(ToOwned::to_owned).collect()
    }

    /// Cgroups of its domains, whose uuids hold the first uid as `id` writes it.
    pub fn cgroups(id: &str) -> Vec<String> {
        let mut found = Vec::new();
        cgroups(Path::new("/sys/fs/cgroup"), 0, id, &mut found);
        found
    }
}

fn cgroups(path: &Path, depth: u32, id: &str, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("svirt-") && name.contains(id) {
            found.push(entry.path().display().to_string());
        }
        if depth < 6 {
            cgroups(&entry.path(), depth + 1, id, found);
        }
    }
}

/// Kills a process and waits until it is gone.
pub fn kill(pid: i32) {
    if let Ok(process) = pidfd::open(pid) {
        let _ = pidfd::kill(&process);
        let _ = pidfd::wait_ended(&process, 5000);
    }
}
