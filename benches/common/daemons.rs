//! svirtd with its labeller, and libvirtd, each on directories of its own on the same disk.
#![allow(dead_code, unreachable_pub, reason = "each benchmark uses a part of it")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::wire::Client;
use svirt::settings::Settings;

/// A daemon that clients of libvirt's talk to.
pub struct Daemon {
    directory: tempfile::TempDir,
    stock: bool,
    /// Where.
    pub socket: String,
    daemon: Option<Child>,
    labeller: Option<Child>,
}

/// Where Debian installs it.
pub const STOCK: &str = "/usr/sbin/libvirtd";

/// What libvirtd keeps is bound over its own places in a mount namespace, so that nothing of the host is touched; nor
/// does its bus or service manager hear of it. The user is made with Debian's service, which need not be installed.
const IN_PRIVATE: &str = r#"set -e
for place in etc/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt run; do
    mkdir -p "/$place"; mount --bind "$0/$place" "/$place"
done
for file in passwd group; do
    { cat "/etc/$file"; grep -q ^libvirt-qemu: "/etc/$file" || cat "$0/$file.more"; } >"$0/$file"
    mount --bind "$0/$file" "/etc/$file"
done
exec "$1" -f "$0/libvirtd.conf" -p "$0/pid" -t 600"#;

impl Daemon {
    /// svirtd; answers when this returns.
    pub fn svirtd() -> Self {
        let directory = directory();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let text = format!(
            "[paths]\nrun = {:?}\nstate = {:?}\ncache = {:?}\nlibexec = {:?}\n[images]\nrelabelable = [{:?}]\n\
             [daemon]\nstore = {:?}\naccess = {:?}\nclients = 6000\n",
            path("run"),
            path("state"),
            path("cache"),
            Path::new(env!("CARGO_BIN_EXE_svirt-labeller")).parent().unwrap(),
            path("images"),
            path("store"),
            path("access.toml"),
        );
        std::fs::create_dir(path("images")).unwrap();
        std::fs::write(path("svirt.toml"), text).unwrap();
        let socket = path("run/svirt-sock");
        let mut daemon = Self { directory, stock: false, socket, daemon: None, labeller: None };
        daemon.labeller = Some(daemon.program(env!("CARGO_BIN_EXE_svirt-labeller")));
        let labeller = daemon.path("run/labeller.sock");
        while std::os::unix::net::UnixStream::connect(&labeller).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        daemon.start();
        daemon
    }

    /// libvirtd; answers when this returns.
    pub fn libvirtd() -> Self {
        let directory = directory();
        for place in
            ["etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt", "run", "socket"]
        {
            std::fs::create_dir_all(directory.path().join(place)).unwrap();
        }
        let path = |name: &str| directory.path().join(name).display().to_string();
        let text = format!(
            "unix_sock_dir = {:?}\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nmax_clients = 6000\n\
             max_anonymous_clients = 6000\nlog_outputs = \"3:file:{}\"\n",
            path("socket"),
            path("log")
        );
        std::fs::write(path("libvirtd.conf"), text).unwrap();
        // As little as svirtd's domains have: no log daemon, no controllers, nobody's label.
        let text = "stdio_handler = \"file\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\nnamespaces = []\n\
                    user = \"root\"\ngroup = \"root\"\n";
        std::fs::write(path("etc/libvirt/qemu.conf"), text).unwrap();
        std::fs::write(path("passwd.more"), "libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin\n").unwrap();
        std::fs::write(path("group.more"), "libvirt-qemu:x:64055:\n").unwrap();
        let socket = path("socket/libvirt-sock");
        let mut daemon = Self { directory, stock: true, socket, daemon: None, labeller: None };
        daemon.start();
        daemon
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn program(&self, path: &str) -> Child {
        let mut command = Command::new(path);
        command.arg("--config").arg(self.path("svirt.toml")).env("SVIRT_LOG", "error");
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Starts it; returns how long it takes to its first answer.
    pub fn start(&mut self) -> Duration {
        let begin = Instant::now();
        self.daemon = Some(if self.stock {
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "--net", "--ipc", "sh", "-c", IN_PRIVATE])
                .arg(self.directory.path())
                .arg(STOCK);
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
        } else {
            self.program(env!("CARGO_BIN_EXE_svirtd"))
        });
        while Client::open(&self.socket).is_none() {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "{} does not answer: {}",
                self.name(),
                self.log()
            );
            std::thread::sleep(Duration::from_micros(500));
        }
        begin.elapsed()
    }

    /// What it complained of.
    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// kill -9
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        if self.stock {
            let _ = std::fs::remove_file(&self.socket);
        }
    }

    /// Whether it is libvirt's.
    pub fn is_stock(&self) -> bool {
        self.stock
    }

    /// Which.
    pub fn name(&self) -> &'static str {
        if self.stock { "libvirtd" } else { "svirtd" }
    }

    /// The processes that serve: with the labeller, without domains and supervisors.
    fn processes(&self) -> Vec<u32> {
        self.daemon.iter().chain(&self.labeller).map(Child::id).collect()
    }

    /// Nanoseconds of CPU that its threads have had.
    pub fn cpu(&self) -> u64 {
        self.processes().into_iter().map(cpu).sum()
    }

    /// Bytes of it that are in memory.
    pub fn resident(&self) -> u64 {
        let of = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
        };
        self.processes().into_iter().map(of).sum()
    }

    /// What svirtd and its labeller run with.
    pub fn settings(&self) -> Settings {
        let name = self.path("svirt.toml");
        Settings::from_toml(&std::fs::read_to_string(&name).unwrap(), &name).unwrap()
    }

    /// An image of 64 MiB that its domains may use.
    pub fn image(&self, name: &str) -> String {
        let image = self.path(if self.stock { name.to_owned() } else { format!("images/{name}") }.as_str());
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", &image, "64M"]).status();
        assert!(made.unwrap().success());
        image
    }
}

/// Nanoseconds of CPU that a process's threads have had.
pub fn cpu(pid: u32) -> u64 {
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(entry.unwrap().path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(of).sum()
}

fn directory() -> tempfile::TempDir {
    let mode = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("svirt-bench-").permissions(mode).tempdir().unwrap()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for child in self.daemon.iter_mut().chain(&mut self.labeller) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
