//! Plays the labeller for one supervisor: makes its descriptors, starts it as its own uid over a device model (a real
//! QEMU, or a process that does nothing while the test itself speaks QMP), and hears its reports.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs, unreachable_pub)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use svirt::base::{DomainName, DomainRef, DomainUuid, Slot};
use svirt::privsep::confinement::{BpfInsn, SeccompProgram};
use svirt::privsep::op::FdGrant;
use svirt::privsep::password::Password;
use svirt::privsep::supervisor::*;
use svirt::privsep::throttle::Throttle;
use svirt::sys::{cred, memfd, packet, pidfd, process, pty, scm, seccomp};

pub const UID: u32 = 262_000;
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Calls that QEMU makes only while it starts, in the harness's filter.
const LAUNCH_ONLY: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_socket,
    libc::SYS_openat,
    libc::SYS_getrandom,
    libc::SYS_memfd_create,
    libc::SYS_prlimit64,
];

const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;

/// `action` for the listed calls, `otherwise` for the rest.
fn program(calls: &[i64], action: u32, otherwise: u32) -> Vec<seccomp::Instruction> {
    let mut program = vec![(0x20, 0, 0, 0)];
    for (index, call) in calls.iter().enumerate() {
        program.push((0x15, u8::try_from(calls.len() - index).unwrap(), 0, u32::try_from(*call).unwrap()));
    }
    program.extend([(6, 0, 0, otherwise), (6, 0, 0, action)]);
    program
}

/// The filter that ships, with death instead of an error, so that a call which it forgets cannot go unseen.
fn strict(program: SeccompProgram) -> SeccompProgram {
    let errno = |insn: &BpfInsn| insn.0 == 6 && insn.3 & 0xffff_0000 == libc::SECCOMP_RET_ERRNO;
    let change = |insn: BpfInsn| if errno(&insn) { BpfInsn(6, 0, 0, KILL) } else { insn };
    let program = SeccompProgram(program.0.into_iter().map(change).collect());
    assert!(program.0.iter().any(|insn| insn.3 == KILL), "the filter refuses nothing");
    program
}

/// Whether the test can run; says why if not.
pub fn possible() -> bool {
    let root = cred::effective_uid() == 0;
    if !root {
        eprintln!("skipped: svirt-supervisor runs under a uid of its own, which only root can give it");
    }
    root
}

/// The same for tests that need the emulator.
pub fn possible_with_qemu() -> bool {
    let there = Path::new(QEMU).exists();
    if !there {
        eprintln!("skipped: {QEMU} is not installed");
    }
    there && possible()
}

/// What one test wants.
#[derive(Default)]
pub struct Wish {
    /// More arguments for QEMU; `None` for a device model that the test plays itself.
    pub qemu: Option<Vec<&'static str>>,
    pub paused: bool,
    /// What the guest is asked to keep of its memory, in bytes.
    pub balloon: Option<u64>,
    /// What its disks may do.
    pub throttles: Vec<Throttle>,
    /// What its displays ask of those who come.
    pub passwords: Vec<Password>,
    pub vnc_max: u32,
    /// Whether the supervisor keeps root's privileges, which it must refuse.
    pub privileged: bool,
    /// How many notified calls are made and timed before the device model is executed.
    pub storm: u32,
}

/// A domain with one console that has everything: pty, socket and log.
pub struct Rig {
    pub directory: tempfile::TempDir,
    pub labeller: Option<OwnedFd>,
    pub supervisor: process::Child,
    pub qemu: (i32, OwnedFd),
    /// QEMU's end of the monitor and of the console, where the test plays QEMU.
    pub monitor: Option<UnixStream>,
    pub console: Option<UnixStream>,
    /// A second monitor of a real QEMU, for people.
    pub human: Option<UnixStream>,
    pub pty_path: String,
    kept: Vec<(OwnedFd, i32)>,
    spec: SupervisorSpec,
}

fn slot(name: &str) -> Slot {
    Slot::new(name).unwrap()
}

fn domain() -> DomainRef {
    let uuid = "6f1a3a1c-9b6e-4a53-a1b6-000000000001".parse().unwrap();
    DomainRef { name: DomainName::new("rig").unwrap(), uuid: DomainUuid(uuid) }
}

fn cstrings(words: &[&str]) -> Vec<CString> {
    words.iter().map(|word| CString::new(*word).unwrap()).collect()
}

fn exec(program: &OwnedFd, words: &[CString]) -> i32 {
    let argv: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    let error = process::exec_fd(program.as_fd(), &argv, &[]);
    eprintln!("exec: {error}");
    100
}

fn program_file(path: &str) -> OwnedFd {
    // Above all numbers that are planned.
    rustix::io::fcntl_dupfd_cloexec(File::open(path).unwrap(), 100).unwrap()
}

impl Rig {
    pub fn new(wish: Wish) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| directory.path().join(name);
        let listen = |name: &str| {
            let listener = UnixListener::bind(at(name)).unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o666)).unwrap();
            OwnedFd::from(listener)
        };
        let (monitor, monitor_peer) = scm::stream_pair().unwrap();
        let (console, console_peer) = scm::stream_pair().unwrap();
        let (human, human_peer) = scm::stream_pair().unwrap();
        let (controller, terminal, pty_path) = pty::open().unwrap();
        let log = File::create(at("log")).unwrap().into();
        let fds = [
            monitor_peer,
            listen("control"),
            console_peer,
            controller,
            terminal,
            listen("serial"),
            log,
            listen("vnc"),
        ];
        let names = [
            "monitor.peer",
            "control",
            "serial0.peer",
            "serial0.pty",
            "serial0.tty",
            "serial0.listen",
            "serial0.log",
            "vnc0",
        ];
        let kept: Vec<(OwnedFd, i32)> = fds.into_iter().zip(10..).collect();
        let grants = names.iter().zip(10..).map(|(name, number)| FdGrant { slot: slot(name), number });
        let spec = SupervisorSpec {
            uid: UID,
            selinux_label: None,
            seccomp: strict(svirt::filter::own::supervisor().unwrap()),
            fds: grants.collect(),
            consoles: vec![ConsoleSpec {
                alias: "serial0".into(),
                channel: slot("serial0.peer"),
                pty: Some(PtySpec { slot: slot("serial0.pty"), peer: slot("serial0.tty") }),
                listen: Some(slot("serial0.listen")),
                log: Some(slot("serial0.log")),
            }],
            vncs: vec![VncSpec { listen: slot("vnc0"), protocol: Graphics::Vnc, max_clients: wish.vnc_max }],
            start_paused: wish.paused,
            incoming: None,
            balloon: wish.balloon,
            links_down: Vec::new(),
            throttles: wish.throttles.clone(),
            lifecycle: Lifecycle {
                on_poweroff: LifecycleAction::Destroy,
                on_reboot: LifecycleAction::Restart,
                on_crash: LifecycleAction::Destroy,
            },
            clients: vec![1234],
        };
        let inside = [monitor.as_raw_fd(), console.as_raw_fd(), human_peer.as_raw_fd()];
        let (labeller, supervisor, qemu) = start(&spec, &kept, inside, &wish);
        let plays = wish.qemu.is_none();
        Self {
            directory,
            labeller: Some(labeller),
            supervisor,
            qemu,
            monitor: plays.then(|| timed(monitor)),
            console: plays.then(|| timed(console)),
            human: (!plays).then(|| timed(human)),
            pty_path,
            kept,
            spec,
        }
    }

    /// Kills the supervisor as nobody would and starts another over the same device model.
    pub fn replace(&mut self) {
        self.supervisor.end().unwrap();
        let (labeller, theirs) = packet::pair().unwrap();
        let bootstrap = Bootstrap {
            domain: domain(),
            spec: self.spec.clone(),
            takeover: true,
            qemu_pid: self.qemu.0,
            passwords: vec![],
        };
        let bootstrap = memfd::sealed("bootstrap", &serde_json::to_vec(&bootstrap).unwrap()).unwrap();
        let mut placed = vec![
            (bootstrap.as_raw_fd(), BOOTSTRAP_FD),
            (theirs.as_raw_fd(), LABELLER_FD),
            (self.qemu.1.as_raw_fd(), PIDFD),
            (2, 2),
        ];
        placed.extend(self.kept.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)));
        let file = program_file(env!("CARGO_BIN_EXE_svirt-supervisor"));
        self.supervisor = process::fork(|| become_supervisor(&file, &placed, false)).unwrap();
        self.labeller = Some(labeller);
    }

    /// The next report, or what was missing.
    pub fn report(&self) -> Result<Report, String> {
        let labeller = self.labeller.as_ref().unwrap();
        if !process::readable(labeller.as_fd(), Duration::from_secs(20)).unwrap() {
            return Err("no report for 20 s".into());
        }
        match packet::receive(labeller).unwrap() {
            packet::Received::Packet(bytes) => Ok(serde_json::from_slice(&bytes).unwrap()),
            other => Err(format!("{other:?}")),
        }
    }

    /// Hears the reports of a good start; how many calls went through the gate.
    pub fn started(&self) -> u64 {
        assert_eq!(self.report().unwrap(), Report::Greeted);
        let Report::Sealed { notifications } = self.report().unwrap() else { panic!("not sealed") };
        assert_eq!(self.report().unwrap(), Report::Running);
        notifications
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn connect(&self, name: &str) -> UnixStream {
        let stream = UnixStream::connect(self.path(name)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// One request on a connection of its own.
    pub fn ask(&self, verb: &Verb) -> Answer {
        ask_on(&mut self.connect("control"), verb)
    }

    pub fn status(&self) -> Status {
        let Answer::Status(status) = self.ask(&Verb::Status) else { panic!("no status") };
        status
    }

    /// Attaches to the console.
    pub fn attach(&self, force: bool) -> Result<UnixStream, Answer> {
        let mut stream = self.connect("control");
        match ask_on(&mut stream, &Verb::Console { alias: None, force }) {
            Answer::Attached { .. } => Ok(stream),
            other => Err(other),
        }
    }

    /// Proportional set size of the supervisor in KiB, and its resident set.
    pub fn memory(&self) -> (u64, u64) {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.supervisor.pid)).unwrap();
        let field = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("Pss:"), field("Rss:"))
    }

    /// A command on the second monitor, and what it said.
    pub fn human(&mut self, command: &str) -> String {
        let stream = self.human.as_mut().unwrap();
        // The first prompt may not have been read yet; the echo tells where the answer begins.
        stream.write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut text = String::new();
        let until = Instant::now() + Duration::from_secs(10);
        while !(text.contains(&command[command.len() - 3..]) && text.trim_end().ends_with("(qemu)")) {
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).unwrap();
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
            assert!(Instant::now() < until && length > 0, "{text}");
        }
        text
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = pidfd::kill(&self.qemu.1);
        let _ = self.supervisor.end();
    }
}

fn timed(fd: OwnedFd) -> UnixStream {
    let stream = UnixStream::from(fd);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends a request and reads its one line, byte by byte: a console's bytes may follow.
pub fn ask_on(stream: &mut UnixStream, verb: &Verb) -> Answer {
    let mut line = serde_json::to_vec(verb).unwrap();
    line.push(b'\n');
    stream.write_all(&line).unwrap();
    line.clear();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    serde_json::from_slice(&line).unwrap()
}

/// Reads until a text was seen.
pub fn read_until(stream: &mut impl Read, wanted: &str) -> String {
    let mut text = String::new();
    let until = Instant::now() + Duration::from_secs(20);
    while !text.contains(wanted) {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        assert!(length > 0 && Instant::now() < until, "{wanted:?} is not in {text:?}");
    }
    text
}

/// The next command on a monitor, whose end is its last brace; nothing where nobody speaks any more.
pub fn next_command(monitor: &UnixStream) -> Option<serde_json::Value> {
    // Byte by byte, as QEMU reads it: what follows stays where it is.
    serde_json::Deserializer::from_reader(monitor).into_iter().next()?.ok()
}

/// Speaks QEMU's part of a start up to the answer to `cont`; the id of the last command is returned, as it is written.
pub fn greet(monitor: &UnixStream, upto: &str) -> String {
    let mut speak = monitor;
    speak
        .write_all(b"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}}, \"capabilities\": []}}\r\n")
        .unwrap();
    loop {
        // The test is over when the supervisor has gone; who waits for a command sees that it is missing.
        let Some(command) = next_command(monitor) else { return String::new() };
        let name = command["execute"].as_str().unwrap().to_owned();
        if name == upto {
            return command["id"].to_string();
        }
        let value = if name == "query-status" { r#"{"status": "prelaunch"}"# } else { "{}" };
        speak
            .write_all(format!("{{\"return\": {value}, \"id\": {}}}\r\n", command["id"]).as_bytes())
            .unwrap();
    }
}

/// Plays QEMU's side of a monitor to the end; each command's name is sent on as it comes.
pub fn play(monitor: &UnixStream) -> std::sync::mpsc::Receiver<String> {
    let (sender, names) = std::sync::mpsc::channel();
    let monitor = monitor.try_clone().unwrap();
    std::thread::spawn(move || {
        let id = greet(&monitor, "cont");
        if id.is_empty() {
            return;
        }
        let mut speak = &monitor;
        speak.write_all(format!("{{\"return\": {{}}, \"id\": {id}}}\r\n").as_bytes()).unwrap();
        while let Some(command) = next_command(&monitor) {
            let answer = format!("{{\"return\": {{}}, \"id\": {}}}\r\n", command["id"]);
            speak.write_all(answer.as_bytes()).unwrap();
            if sender.send(command["execute"].as_str().unwrap().to_owned()).is_err() {
                return;
            }
        }
    });
    names
}

/// Packs busybox and an init that gives a shell on the serial port.
pub fn initrd(directory: &Path) -> String {
    let script = "mkdir -p root/bin && cp \"$(command -v busybox)\" root/bin/ && cd root && \
        printf '#!/bin/busybox sh\\n/bin/busybox --install -s /bin\\necho GUEST-IS-UP\\nexec setsid cttyhack sh\\n' >init && \
        chmod +x init && find . | busybox cpio -o -H newc >../initrd";
    let made =
        std::process::Command::new("sh").arg("-c").arg(script).current_dir(directory).output().unwrap();
    assert!(made.status.success(), "busybox-static is needed: {made:?}");
    directory.join("initrd").to_str().unwrap().to_owned()
}

fn start(
    spec: &SupervisorSpec,
    kept: &[(OwnedFd, i32)],
    inside: [i32; 3],
    wish: &Wish,
) -> (OwnedFd, process::Child, (i32, OwnedFd)) {
    let (labeller, theirs) = packet::pair().unwrap();
    let (handoff, launcher) = scm::seqpacket_pair().unwrap();
    let (news, news_peer) = scm::seqpacket_pair().unwrap();
    let (stderr, stderr_peer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let passwords = wish.passwords.clone();
    let bootstrap =
        Bootstrap { domain: domain(), spec: spec.clone(), takeover: false, qemu_pid: 0, passwords };
    let bootstrap = memfd::sealed("bootstrap", &serde_json::to_vec(&bootstrap).unwrap()).unwrap();
    let supervisor_file = program_file(env!("CARGO_BIN_EXE_svirt-supervisor"));
    let (emulator, words) = device_model(wish);
    // Where the test plays QEMU, the process under the gate only has to get through its exec.
    let launch_only =
        if wish.qemu.is_some() { LAUNCH_ONLY } else { &[libc::SYS_execveat, libc::SYS_getppid] };
    let filter = program(launch_only, NOTIFY, ALLOW);
    let supervisor = process::fork(|| {
        let qemu = process::fork(|| {
            let Ok(listener) = seccomp::load_with_listener(&filter) else { return 90 };
            scm::send(launcher.as_fd(), b"l", &[listener.as_fd()]).unwrap();
            storm(wish.storm);
            let placed = [(inside[0], 20), (inside[1], 21), (inside[2], 22), (stderr_peer.as_raw_fd(), 2)];
            process::place_fds(&placed, &mut [emulator.as_raw_fd()]).unwrap();
            exec(&emulator, &words)
        })
        .unwrap();
        scm::send(news_peer.as_fd(), &qemu.pid.to_ne_bytes(), &[qemu.pidfd.as_fd()]).unwrap();
        let mut placed = vec![
            (bootstrap.as_raw_fd(), BOOTSTRAP_FD),
            (theirs.as_raw_fd(), LABELLER_FD),
            (handoff.as_raw_fd(), HANDOFF_FD),
            (qemu.pidfd.as_raw_fd(), PIDFD),
            (stderr.as_raw_fd(), STDERR_FD),
            (2, 2),
        ];
        placed.extend(kept.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)));
        become_supervisor(&supervisor_file, &placed, wish.privileged)
    })
    .unwrap();
    let mut pid = [0; 4];
    let (_, mut fds) = scm::recv(news.as_fd(), &mut pid).unwrap();
    let pid = i32::from_ne_bytes(pid);
    let until = Instant::now() + Duration::from_secs(10);
    while !wish.privileged
        && std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| !running(&comm))
    {
        assert!(Instant::now() < until, "the device model was not executed");
        std::thread::sleep(Duration::from_millis(1));
    }
    (labeller, supervisor, (pid, fds.pop().unwrap()))
}

fn storm(calls: u32) {
    if calls == 0 {
        return;
    }
    // The first one waits for the supervisor to start.
    let _ = rustix::process::getppid();
    let begin = Instant::now();
    for _ in 0..calls {
        let _ = rustix::process::getppid();
    }
    eprintln!("one call through the gate: {:?}", begin.elapsed() / calls);
}

/// Whether this is the name of a device model rather than of the test that forked.
fn running(comm: &str) -> bool {
    comm.starts_with("sleep") || comm.starts_with("qemu") || comm.trim().parse::<u32>().is_ok()
}

fn device_model(wish: &Wish) -> (OwnedFd, Vec<CString>) {
    let Some(more) = &wish.qemu else {
        return (program_file("/bin/sleep"), cstrings(&["sleep", "600"]));
    };
    let mut words = vec![
        QEMU,
        "-S",
        "-no-user-config",
        "-nodefaults",
        "-machine",
        "pc,accel=tcg,graphics=off",
        "-m",
        "32",
        "-display",
        "none",
        "-vnc",
        "none",
        "-vga",
        "std",
        "-chardev",
        "socket,id=mon,fd=20",
        "-mon",
        "chardev=mon,mode=control",
        "-chardev",
        "socket,id=ser,fd=21",
        "-serial",
        "chardev:ser",
        "-chardev",
        "socket,id=hum,fd=22",
        "-mon",
        "chardev=hum,mode=readline",
        "-boot",
        "menu=on,splash-time=3000",
        "-action",
        "reboot=reset,shutdown=poweroff",
    ];
    words.extend(more);
    (program_file(QEMU), cstrings(&words))
}

fn become_supervisor(file: &OwnedFd, placed: &[(i32, i32)], privileged: bool) -> i32 {
    let mut kept = [file.as_raw_fd()];
    process::place_fds(placed, &mut kept).unwrap();
    assert_eq!(kept, [file.as_raw_fd()], "the program's descriptor stands on a planned number");
    if !privileged {
        cred::drop_bounding().unwrap();
        cred::set_ids(UID, UID, &[]).unwrap();
        cred::clear_capabilities().unwrap();
        cred::set_no_new_privs().unwrap();
    }
    exec(file, &cstrings(&["svirt-supervisor"]))
}
