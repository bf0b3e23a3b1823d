//! A real QEMU under the filter of its definition: launch-only calls are let through, the gate is shut, the guest
//! runs on. In the strict variant every call that the filter would refuse with EPERM kills instead, so a pass
//! means that nothing else is needed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use svirt::filter::own;
use svirt::privsep::confinement::SeccompProgram;
use svirt::profile::{Part, Selection, program};
use svirt::sys::seccomp::{Instruction, NotifyListener, load, load_with_listener};
use svirt::sys::{cred, process, scm};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const EPERM: u32 = 0x0005_0001;
const KILL_PROCESS: u32 = 0x8000_0000;

fn selection() -> Selection {
    [Part::Base, Part::Launcher, Part::Socket, Part::AccelTcg, Part::DiskFile].into_iter().collect()
}

fn instructions(program: &SeccompProgram, strict: bool) -> Vec<Instruction> {
    let value = |code: u16, k: u32| if strict && code == 6 && k == EPERM { KILL_PROCESS } else { k };
    program.0.iter().map(|i| (i.0, i.1, i.2, value(i.0, i.3))).collect()
}

/// Answers the gate until the caller is gone: yes before the seal, no and counted afterwards.
fn gate(
    listener: OwnedFd,
    sealed: &AtomicBool,
    passed: &AtomicUsize,
    refused: &AtomicUsize,
    stop: &AtomicBool,
) {
    let listener = NotifyListener::new(listener);
    while !stop.load(Ordering::SeqCst) {
        if !process::readable(listener.as_fd(), Duration::from_millis(50)).unwrap() {
            continue;
        }
        let Ok(Some(call)) = listener.recv() else { continue };
        if sealed.load(Ordering::SeqCst) {
            refused.fetch_add(1, Ordering::SeqCst);
            let _ = listener.reply_errno(call.id, 1);
        } else {
            passed.fetch_add(1, Ordering::SeqCst);
            let _ = listener.reply_continue(call.id);
        }
    }
}

fn command(monitor: &mut BufReader<UnixStream>, name: &str) -> String {
    let text = format!("{{\"execute\":\"{name}\"}}\n");
    monitor.get_mut().write_all(text.as_bytes()).unwrap();
    loop {
        let mut line = String::new();
        assert!(monitor.read_line(&mut line).unwrap() > 0, "{name}: QEMU is gone");
        assert!(!line.contains("\"error\""), "{name}: {line}");
        if line.contains("\"return\"") {
            return line;
        }
    }
}

fn runs(strict: bool) {
    if !std::path::Path::new(QEMU).exists() {
        eprintln!("skipped: {QEMU} is not installed");
        return;
    }
    let filter = instructions(&program(&selection()).unwrap(), strict);
    let floor = instructions(&own::floor().unwrap(), false);
    let mut image = tempfile::tempfile().unwrap();
    image.write_all(&vec![0; 1 << 20]).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (hand, handed) = scm::seqpacket_pair().unwrap();
    let node = "{\"driver\":\"file\",\"node-name\":\"f\",\"filename\":\"/dev/fdset/1\",\"locking\":\"off\"}";
    let argv: Vec<CString> = [
        QEMU,
        "-nodefaults",
        "-no-user-config",
        "-S",
        "-display",
        "none",
        "-vnc",
        "none",
        "-accel",
        "tcg",
        "-m",
        "64",
        "-machine",
        "q35,usb=off",
        "-smp",
        "2",
        "-chardev",
        &format!("socket,id=m,fd={}", theirs.as_raw_fd()),
        "-mon",
        "chardev=m,mode=control",
        "-add-fd",
        &format!("fd={},set=1", image.as_raw_fd()),
        "-blockdev",
        node,
        "-device",
        "virtio-blk-pci,drive=f,bootindex=1",
        "-object",
        "rng-builtin,id=r",
        "-device",
        "virtio-rng-pci,rng=r",
        "-device",
        "virtio-balloon-pci",
        "-device",
        "VGA",
    ]
    .iter()
    .map(|argument| CString::new(*argument).unwrap())
    .collect();
    let argv: Vec<&std::ffi::CStr> = argv.iter().map(CString::as_c_str).collect();
    let child = process::fork(|| {
        for fd in [theirs.as_fd(), image.as_fd()] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
        }
        process::die_with_parent(true).unwrap();
        cred::set_no_new_privs().unwrap();
        load(&floor).unwrap();
        let listener = load_with_listener(&filter).unwrap();
        scm::send(handed.as_fd(), b"l", &[listener.as_fd()]).unwrap();
        let _failed = process::exec(argv[0], &argv, &[c"PATH=/usr/bin"]);
        9
    })
    .unwrap();
    drop(theirs);
    let (_, mut fds) = scm::recv(hand.as_fd(), &mut [0; 8]).unwrap();
    let listener = fds.pop().unwrap();
    let [sealed, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let [passed, refused] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let thread = {
        let (sealed, stop, passed, refused) = (sealed.clone(), stop.clone(), passed.clone(), refused.clone());
        std::thread::spawn(move || gate(listener, &sealed, &passed, &refused, &stop))
    };
    ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut monitor = BufReader::new(ours);
    let mut greeting = String::new();
    monitor.read_line(&mut greeting).unwrap();
    assert!(greeting.contains("QMP"), "no greeting: QEMU was killed by its filter");
    command(&mut monitor, "qmp_capabilities");
    sealed.store(true, Ordering::SeqCst);
    for name in ["cont", "query-block", "stop", "cont", "system_reset", "query-cpus-fast"] {
        command(&mut monitor, name);
        std::thread::sleep(Duration::from_millis(300));
    }
    let status = command(&mut monitor, "query-status");
    assert!(status.contains("\"running\": true"), "{status}");
    command(&mut monitor, "quit");
    let _ = svirt::sys::pidfd::wait_ended(&child.pidfd, 10_000).unwrap();
    stop.store(true, Ordering::SeqCst);
    thread.join().unwrap();
    child.end().unwrap();
    assert!(passed.load(Ordering::SeqCst) > 20, "the gate saw only {passed:?} calls");
    assert_eq!(refused.load(Ordering::SeqCst), 0, "a sealed QEMU made launch-only calls");
}

#[test]
fn qemu_runs_sealed_under_its_filter() {
    runs(false);
}

#[test]
fn qemu_needs_no_call_that_is_refused() {
    runs(true);
}
