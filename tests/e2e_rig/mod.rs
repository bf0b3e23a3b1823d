//! The real `svirt` on private directories and uids: definitions, commands, a guest that talks, and what a domain
//! may leave behind, which is nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports
)]

#[path = "../common/install.rs"]
mod install;
pub mod terminal;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use svirt::base::DomainUuid;
use svirt::driver::{Control, Labeller};
use svirt::privsep::request::DomainStatus;
use svirt::settings::Settings;

use install::Install;
pub use install::{QEMU, eventually, possible};

/// No command of svirt's and no guest here needs as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The directory with the demo's kernel and initrd, built if need be; says so where that fails.
pub fn guest() -> Option<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    built(&BUILT, "demo", "linux-image-cloud-amd64")
}

/// The same with Debian's large kernel, which has what the cloud's lacks, such as 9p.
pub fn large_guest() -> Option<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    built(&BUILT, "demo-large", "linux-image-amd64")
}

fn built(known: &OnceLock<Result<PathBuf, String>>, name: &str, package: &str) -> Option<PathBuf> {
    if !possible() {
        return None;
    }
    let built = known.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let place = root.join("target").join(name);
        let made = Command::new(root.join("demo/guest/build")).arg(&place).arg(package).output();
        let made = made.map_err(|error| error.to_string())?;
        if made.status.success() { Ok(place) } else { Err(String::from_utf8_lossy(&made.stderr).into()) }
    });
    match built {
        Ok(place) => Some(place.clone()),
        Err(why) => {
            println!("skipped: the guest of {package} cannot be built: {why}");
            None
        }
    }
}

/// Whether a user network has a way out; passt ends without one.
pub fn has_default_route() -> bool {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap();
    routes.lines().any(|line| line.split_whitespace().nth(1) == Some("00000000"))
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Panics, with everything that was said, unless it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    /// Panics unless standard error has all of these.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "{word:?} is missing in:\n{}", self.err);
        }
        self
    }
}

/// One installation of svirt.
pub struct Rig {
    install: Install,
}

impl std::ops::Deref for Rig {
    type Target = Install;

    fn deref(&self) -> &Install {
        &self.install
    }
}

/// Owner, group, mode, inode, number of links and extended attributes of one file.
type FileState = (u32, u32, u32, u64, u64, Vec<String>);

/// What a domain must leave as it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    files: BTreeMap<PathBuf, FileState>,
    mounts: Vec<String>,
    cgroups: Vec<String>,
    processes: Vec<i32>,
}

impl Snapshot {
    /// The same, after a process was started anew.
    pub fn with_process(mut self, before: u32, after: u32) -> Self {
        for pid in &mut self.processes {
            if u32::try_from(*pid) == Ok(before) {
                *pid = i32::try_from(after).unwrap();
            }
        }
        self.processes.sort_unstable();
        self
    }
}

impl Rig {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// An installation whose configuration is changed by `change`.
    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut install = Install::new();
        for name in ["outside", "shares"] {
            std::fs::create_dir(install.path(name)).unwrap();
        }
        let at = |name: &str| install.text(name);
        let (nvram, tpm, store, access) = (at("nvram"), at("tpm"), at("store"), at("access.toml"));
        let (shares, shmem) = (at("shares"), at("shmem"));
        let (managed, saved, dumps) = (at("managed"), at("saved"), at("dumps"));
        let programs = Path::new(env!("CARGO_BIN_EXE_svirt")).parent().unwrap();
        let settings = &mut install.settings;
        settings.paths.libexec = programs.to_str().unwrap().to_owned();
        settings.images.readable.push("/usr/share/OVMF".into());
        settings.images.nvram = nvram;
        settings.tpm.state = tpm;
        settings.shmem.place = shmem;
        settings.shares.places = vec![shares];
        settings.save.managed = managed;
        settings.save.places = vec![saved];
        settings.save.dumps = dumps;
        settings.daemon.store = store;
        settings.daemon.access = access;
        change(settings);
        install.write();
        Self { install }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_svirt"));
        command.arg("--config").arg(self.path("svirt.toml")).args(words);
        command
    }

    /// Runs svirt to its end.
    pub fn svirt(&self, words: &[&str]) -> Ran {
        finish(self.command(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Starts svirt in the background, its output in the files `NAME.out` and `NAME.err`.
    pub fn background(&self, name: &str, words: &[&str]) -> Child {
        let file = |end: &str| File::create(self.path(&format!("{name}.{end}"))).unwrap();
        self.command(words).stdin(Stdio::null()).stdout(file("out")).stderr(file("err")).spawn().unwrap()
    }

    /// Starts svirt on a terminal.
    pub fn on_terminal(&self, words: &[&str]) -> terminal::Talk {
        terminal::Talk::new(self.command(words))
    }

    /// Writes the definition of a machine that has only its firmware to run.
    pub fn bare(&self, name: &str, devices: &str) -> String {
        self.define(name, "<type arch='x86_64' machine='q35'>hvm</type>", devices)
    }

    /// Writes the definition of the demo's guest, with its console in `log/NAME.log`.
    pub fn linux(&self, name: &str, cmdline: &str, devices: &str) -> String {
        let place = guest().expect("asked for before");
        for file in ["kernel", "initrd"] {
            let link = self.path("boot").join(file);
            if !link.exists() {
                std::fs::copy(place.join(file), link).unwrap();
            }
        }
        let boot = self.text("boot");
        let os = format!(
            "<type arch='x86_64' machine='q35'>hvm</type><kernel>{boot}/kernel</kernel>\
             <initrd>{boot}/initrd</initrd><cmdline>console=ttyS0 quiet panic=-1 {cmdline}</cmdline>"
        );
        let log = self.text(&format!("log/{name}.log"));
        let console = format!("<serial type='pty'><log file='{log}'/></serial>{devices}");
        self.define(name, &os, &console)
    }

    fn define(&self, name: &str, os: &str, devices: &str) -> String {
        let file = self.path(&format!("{name}.xml"));
        // Cgroups are named by the uuid, so those of this installation can be told from others.
        let number = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let uuid = format!("{number:08x}-0000-4000-8000-{:012x}", self.first_uid);
        let memory = if os.contains("<kernel>") { 160 } else { 32 };
        let text = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>\
             <os>{os}</os><features><acpi/><apic/></features><on_reboot>destroy</on_reboot>\
             <devices>{devices}</devices></domain>"
        );
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// Starts a domain in the background; panics where that fails.
    #[track_caller]
    pub fn start(&self, definition: &str) -> Ran {
        self.svirt(&["run", "--detach", definition]).expect(0)
    }

    /// Ends a domain by force.
    #[track_caller]
    pub fn end(&self, name: &str) {
        self.svirt(&["stop", "--force", name]).expect(0);
    }

    /// A definition that must be refused, naming these words, and leave nothing.
    #[track_caller]
    pub fn refused(&self, definition: &str, code: i32, words: &[&str]) -> Ran {
        let before = self.snapshot();
        let ran = self.svirt(&["run", "--detach", definition]).expect(code).says(words);
        self.same_as(&before);
        ran
    }

    /// Nothing is left of any domain, and everything is as it was.
    #[track_caller]
    pub fn same_as(&self, before: &Snapshot) {
        let mut now = self.snapshot();
        // A process that has just been killed is seen for an instant more.
        let until = Instant::now() + Duration::from_secs(20);
        while now != *before && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
            now = self.snapshot();
        }
        assert_eq!(now, *before, "\nlabeller: {}", self.labeller_log());
    }

    /// What the console's log has, without carriage returns.
    pub fn log(&self, name: &str) -> String {
        let bytes = std::fs::read(self.path("log").join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Waits until the console's log has this.
    #[track_caller]
    pub fn heard(&self, name: &str, what: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log(name).contains(what) {
            assert!(Instant::now() < until, "{what:?} is missing in:\n{}", self.log(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn labeller_log(&self) -> String {
        std::fs::read_to_string(self.path("run/labeller.log")).unwrap_or_default()
    }

    /// An image of zeroes that only root may read.
    pub fn raw(&self, name: &str, mebibytes: u64) -> String {
        let path = self.path("images").join(name);
        File::create(&path).unwrap().set_len(mebibytes << 20).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A qcow2 image, with more words for `qemu-img create`.
    pub fn qcow2(&self, name: &str, more: &[&str]) -> String {
        let path = self.path("images").join(name).to_str().unwrap().to_owned();
        let mut made = Command::new("qemu-img");
        let made = made.args(["create", "-q", "-f", "qcow2"]).args(more).arg(&path).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        path
    }

    /// What the labeller says of a domain.
    pub fn status(&self, name: &str) -> Option<DomainStatus> {
        let survey = Labeller::connect(&self.settings).ok()?.survey().ok()?;
        survey.domains.into_iter().find(|status| status.domain.name.as_str() == name)
    }

    /// A connection to the domain's supervisor.
    #[track_caller]
    pub fn control(&self, name: &str) -> Control {
        Control::connect(&self.status(name).expect("it runs").control).unwrap()
    }

    pub fn uuid(&self, name: &str) -> DomainUuid {
        self.status(name).expect("it runs").domain.uuid
    }

    /// Pid of a helper of a domain, while it runs.
    pub fn helper(&self, name: &str, alias: &str) -> Option<i32> {
        let uuid = self.status(name)?.domain.uuid;
        let described = Labeller::connect(&self.settings).ok()?.describe(uuid).ok()?;
        described.helpers.into_iter().find_map(|(of, pid)| (of == alias).then_some(pid))
    }

    /// Pids of everything that runs under a uid of this installation, but for the image probe that waits.
    pub fn processes(&self) -> Vec<i32> {
        let own = self.uids();
        let waits = self.settings.uids.imageprobe;
        let runs = |pid: &i32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let uid = text.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
            !text.contains("\nState:\tZ")
                && uid.is_some_and(|uid| {
                    let uid = uid.parse().unwrap();
                    own.contains(&uid) && uid != waits
                })
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(runs).collect()
    }

    /// Everything on this host that a domain touches.
    pub fn snapshot(&self) -> Snapshot {
        let mut files = BTreeMap::new();
        for name in
            ["images", "boot", "nvram", "tpm", "outside", "shares", "sockets", "run/control", "state/journal"]
        {
            let Ok(entries) = std::fs::read_dir(self.path(name)) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
                let attributes = attributes(&path);
                let facts = (found.uid(), found.gid(), found.mode(), found.ino(), found.nlink(), attributes);
                files.insert(path, facts);
            }
        }
        let cgroups = Install::cgroups(&format!("{:012x}", self.first_uid));
        let mounts = self.mounts(None);
        Snapshot { files, mounts, cgroups, processes: self.processes() }
    }

    /// Pid of the labeller that serves; its guard is another process.
    pub fn labeller_pid(&self) -> Option<i32> {
        let stream = std::os::unix::net::UnixStream::connect(self.path("run/labeller.sock")).ok()?;
        // Who called listen(), which is the labeller itself.
        let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
        Labeller::from_stream(stream).survey().ok()?;
        Some(peer.pid())
    }

    /// Pids of the guard and the labeller, in this order.
    pub fn labeller_pids(&self) -> Vec<i32> {
        let config = self.text("svirt.toml");
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let found = entries.filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let words = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            (words.contains("svirt-labeller") && words.contains(&config)).then_some(pid)
        });
        let mut pids: Vec<i32> = found.collect();
        pids.sort_unstable();
        pids
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("labeller: {}", self.labeller_log());
        }
        if let Ok(mut labeller) = Labeller::connect(&self.settings) {
            for status in labeller.survey().map(|survey| survey.domains).unwrap_or_default() {
                let _ = labeller.kill(status.domain.uuid);
            }
        }
        // The guard before its labeller, which it would replace.
        let left = [self.labeller_pids(), self.processes()].concat();
        for pid in left {
            install::kill(pid);
        }
    }
}

/// Runs a command to its end, which must come soon.
pub fn finish(command: &mut Command) -> Ran {
    let mut child = command.spawn().unwrap();
    // Read beside, so that a full pipe holds nobody up.
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let code = end_of(&mut child);
    Ran { code, out: out.join().unwrap(), err: err.join().unwrap() }
}

/// Waits for a child, which must end soon; its exit code.
pub fn end_of(child: &mut Child) -> Option<i32> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() >= until {
            let _ = child.kill();
            panic!("a command hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn drain(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// All extended attributes of a file, as text.
fn attributes(path: &Path) -> Vec<String> {
    let mut names = vec![0u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    names
        .split_terminator('\0')
        .map(|name| {
            let mut value = vec![0u8; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap_or(0);
            format!("{name}={}", String::from_utf8_lossy(&value[..length]))
        })
        .collect()
}
