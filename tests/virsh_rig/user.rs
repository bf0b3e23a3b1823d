//! A svirtd of an ordinary user's, without configuration.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, dead_code, missing_docs, unreachable_pub)]

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::VIRSH;
use crate::e2e_rig::{PATIENCE, Ran, finish};

/// A user that nothing else on the host is.
pub const UID: u32 = 1_987_654;
/// The first of its subordinate uids and gids.
pub const SUBORDINATE: u32 = 1_988_000_000;

/// The user's home and daemon. Where the tests run as an ordinary user, that is the user.
pub struct User {
    home: tempfile::TempDir,
    daemon: Option<Child>,
}

impl User {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        for directory in ["run", "bin"] {
            std::fs::create_dir(home.path().join(directory)).unwrap();
        }
        // Where the user may execute it, wherever it was built.
        for program in [
            env!("CARGO_BIN_EXE_svirtd"),
            env!("CARGO_BIN_EXE_svirt-labeller"),
            env!("CARGO_BIN_EXE_svirt-supervisor"),
            env!("CARGO_BIN_EXE_svirt-imageprobe"),
        ] {
            let to = home.path().join("bin").join(Path::new(program).file_name().unwrap());
            std::fs::hard_link(program, &to).or_else(|_| std::fs::copy(program, &to).map(|_| ())).unwrap();
        }
        std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        if nix::unistd::geteuid().is_root() {
            for directory in [home.path().to_owned(), home.path().join("run")] {
                std::os::unix::fs::chown(directory, Some(UID), Some(UID)).unwrap();
            }
        }
        let mut user = Self { home, daemon: None };
        user.start_daemon();
        user
    }

    /// Makes a directory of the user's, with those above it.
    pub fn makes(&self, directory: &Path) {
        std::fs::create_dir_all(directory).unwrap();
        let own = directory.ancestors().take_while(|directory| *directory != self.home.path());
        for directory in own.filter(|_| nix::unistd::geteuid().is_root()) {
            std::os::unix::fs::chown(directory, Some(UID), Some(UID)).unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn socket(&self) -> String {
        self.path("run/svirt/svirt-sock").to_str().unwrap().to_owned()
    }

    /// A program as the user runs it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.env("HOME", self.home.path()).env("XDG_RUNTIME_DIR", self.path("run"));
        command.current_dir("/").stdin(Stdio::null());
        if nix::unistd::geteuid().is_root() {
            command.uid(UID).gid(UID);
        }
        command
    }

    pub fn start_daemon(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("svirtd.out")).unwrap();
        let mut command = self.daemon_command();
        let mut daemon = command.env("SVIRT_LOG", "debug").stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = daemon.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "svirtd does not serve: {}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.daemon = Some(daemon);
    }

    /// svirtd as the user starts it. Under root, with an account of the user's that nobody else sees, for the programs
    /// that map subordinate uids look the user up.
    fn daemon_command(&self) -> Command {
        let program = self.path("bin/svirtd");
        if !nix::unistd::geteuid().is_root() {
            return self.command(program);
        }
        let account = format!("svirt-test-user:x:{UID}:{UID}::{}:/bin/sh\n", self.home.path().display());
        let numbers = format!("svirt-test-user:{SUBORDINATE}:65536\n");
        for (file, line) in [("passwd", account), ("subuid", numbers.clone()), ("subgid", numbers)] {
            let there = std::fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
            std::fs::write(self.path(file), line.clone() + &there).unwrap();
        }
        let script =
            "for file in passwd subuid subgid; do mount --bind \"$1/$file\" \"/etc/$file\" || exit 1; done
            exec setpriv --reuid \"$2\" --regid \"$2\" --clear-groups \"$1/bin/svirtd\"";
        let mut command = Command::new("/usr/bin/unshare");
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null());
        command.env("HOME", self.home.path()).env("XDG_RUNTIME_DIR", self.path("run"));
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(self.home.path()).arg(UID.to_string());
        command
    }

    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("svirtd.out")).unwrap_or_default()
    }

    /// virsh as this user, on a view such as `test:///default`.
    pub fn virsh(&self, view: &str, words: &[&str]) -> Ran {
        let (driver, rest) = view.split_once("://").unwrap();
        let uri = format!("{driver}+unix://{rest}?socket={}", self.socket());
        let mut command = self.command(VIRSH);
        command.args(["--connect", &uri]).args(words);
        finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// What virsh prints, which must succeed; without the empty lines.
    #[track_caller]
    pub fn says(&self, view: &str, words: &[&str]) -> String {
        let out = self.virsh(view, words).expect(0).out;
        out.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("svirtd: {}", self.log());
        }
        for domain in self.virsh("qemu:///session", &["list", "--name"]).out.split_whitespace() {
            self.virsh("qemu:///session", &["destroy", domain]);
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
