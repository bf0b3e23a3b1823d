//! A real svirtd with its labeller on private directories, and the real virsh.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, dead_code, missing_docs, unreachable_pub)]

pub mod user;

pub mod raw;

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use svirt::driver::Labeller;
use svirt::settings::Settings;

use crate::e2e_rig::{PATIENCE, Ran, Rig, eventually, finish, possible};

pub const VIRSH: &str = "/usr/bin/virsh";

/// Whether this run can do it; says so if not.
pub fn virsh_possible() -> bool {
    if !Path::new(VIRSH).exists() {
        println!("skipped: needs {VIRSH}");
        return false;
    }
    possible()
}

/// An installation with a daemon.
pub struct Host {
    pub rig: Rig,
    labeller: Child,
    daemon: Option<Child>,
}

impl Host {
    pub fn new() -> Self {
        Self::with(|_| {}, "")
    }

    /// With a changed configuration, and with rules that say who may do what.
    pub fn with(change: impl FnOnce(&mut Settings), rules: &str) -> Self {
        let rig = Rig::with(change);
        if !rules.is_empty() {
            std::fs::write(rig.path("access.toml"), rules).unwrap();
        }
        let labeller = program(&rig, env!("CARGO_BIN_EXE_svirt-labeller"), "labeller.out");
        eventually("the labeller serves", || Labeller::connect(&rig.settings).is_ok());
        let mut host = Self { rig, labeller, daemon: None };
        host.start_daemon();
        host
    }

    pub fn socket(&self) -> String {
        self.rig.text("run/svirt-sock")
    }

    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket())
    }

    pub fn start_daemon(&mut self) {
        let daemon = program(&self.rig, env!("CARGO_BIN_EXE_svirtd"), "svirtd.out");
        self.wait_until_served(daemon);
    }

    fn wait_until_served(&mut self, daemon: Child) {
        self.daemon = Some(daemon);
        let daemon = self.daemon.as_mut().unwrap();
        let socket = self.rig.text("run/svirt-sock");
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(&socket).is_err() {
            let ended = daemon.try_wait().unwrap();
            let log = || std::fs::read_to_string(self.rig.path("svirtd.out")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < until, "svirtd does not serve: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        // Its socket is there before it gives root up, from when on it counts as a process of this installation.
        let pid = daemon.id();
        eventually("svirtd is no longer root", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            !status.contains("\nUid:\t0\t")
        });
    }

    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// Starts it with faults on purpose: see `src/store/fault.rs`.
    pub fn start_faulty_daemon(&mut self, step: usize) {
        let mut command = command(&self.rig, env!("CARGO_BIN_EXE_svirtd"), "svirtd.out");
        let daemon = command.env("SVIRT_STORE_FAULT", step.to_string()).spawn().unwrap();
        self.wait_until_served(daemon);
    }

    /// Whether it has ended by itself; it is then no longer there.
    pub fn daemon_died(&mut self) -> bool {
        let died = self.daemon.as_mut().unwrap().try_wait().unwrap().is_some();
        if died {
            self.daemon = None;
        }
        died
    }

    /// kill -9 to the labeller; domains go on.
    pub fn kill_labeller(&mut self) {
        self.labeller.kill().unwrap();
        self.labeller.wait().unwrap();
    }

    pub fn start_labeller(&mut self) {
        self.labeller = program(&self.rig, env!("CARGO_BIN_EXE_svirt-labeller"), "labeller.out");
        eventually("the labeller serves", || Labeller::connect(&self.rig.settings).is_ok());
    }

    /// Starts it with faults on purpose: see `src/labeller/fault.rs`.
    pub fn start_faulty_labeller(&mut self, fault: &str) {
        let mut command = command(&self.rig, env!("CARGO_BIN_EXE_svirt-labeller"), "labeller.out");
        self.labeller = command.env("SVIRT_FAULT", fault).spawn().unwrap();
        eventually("the labeller serves", || Labeller::connect(&self.rig.settings).is_ok());
    }

    /// Whether it has ended by itself.
    pub fn labeller_died(&mut self) -> bool {
        self.labeller.try_wait().unwrap().is_some()
    }

    /// kill -9
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(VIRSH);
        command.env("LC_ALL", "C").args(["--connect", &self.uri()]).args(words);
        command
    }

    /// Runs virsh to its end.
    pub fn virsh(&self, words: &[&str]) -> Ran {
        finish(self.command(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Runs virsh to its end as somebody else.
    pub fn virsh_as(&self, uid: u32, gid: u32, words: &[&str]) -> Ran {
        let mut command = self.command(words);
        command.env("HOME", "/nonexistent").uid(uid).gid(gid);
        finish(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// What virsh prints, which must succeed; without the empty lines.
    #[track_caller]
    pub fn says(&self, words: &[&str]) -> String {
        let out = self.virsh(words).expect(0).out;
        out.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    }

    /// What virsh complains of, which must fail.
    #[track_caller]
    pub fn complains(&self, words: &[&str]) -> String {
        self.virsh(words).expect(1).err
    }

    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.rig.path("svirtd.out")).unwrap_or_default()
    }
}

fn program(rig: &Rig, path: &str, log: &str) -> Child {
    command(rig, path, log).spawn().unwrap()
}

fn command(rig: &Rig, path: &str, log: &str) -> Command {
    let log = File::options().create(true).append(true).open(rig.path(log)).unwrap();
    let mut command = Command::new(path);
    command.arg("--config").arg(rig.path("svirt.toml")).env("SVIRT_LOG", "debug");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("svirtd: {}", self.daemon_log());
            let labeller = std::fs::read_to_string(self.rig.path("labeller.out"));
            eprintln!("labeller: {}", labeller.unwrap_or_default());
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if let Ok(mut labeller) = Labeller::connect(&self.rig.settings) {
            for status in labeller.survey().map(|survey| survey.domains).unwrap_or_default() {
                let _ = labeller.kill(status.domain.uuid);
            }
        }
        let _ = self.labeller.kill();
        let _ = self.labeller.wait();
    }
}
