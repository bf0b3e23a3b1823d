//! The real labeller with real QEMUs: starts, ends, refusals, locks. Needs root.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used, missing_docs)]

mod labeller_rig;

use std::os::unix::fs::symlink;
use std::process::Command;

use svirt::sys::lock;
use svirt::sys::xattr::{self, Remembered};

use labeller_rig::{QEMU, Rig, eventually, possible, rule, slot};
use svirt::base::DomainUuid;
use svirt::driver::DriverError;
use svirt::privsep::confinement::{RootFile, RootPlace};
use svirt::privsep::op::LaunchPlan;
use svirt::privsep::op::{Access, Op, OpenImage, Sharing};
use svirt::sys::pidfd;

fn open_image(plan: &mut LaunchPlan) -> &mut OpenImage {
    plan.ops
        .iter_mut()
        .find_map(|op| match op {
            Op::OpenImage(image) => Some(image),
            _ => None,
        })
        .unwrap()
}

#[test]
fn a_domain_starts_holds_its_image_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("a.raw");
    rig.set_label(&image, "system_u:object_r:was_t:s0");
    std::fs::write(rig.path("log/1.log"), "kept until the guest runs").unwrap();
    rig.serve("");
    let before = rig.snapshot();
    let plan = rig.plan(1, &image);
    let uuid = plan.domain.uuid;
    let started = rig.client().start(plan.clone()).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    assert!(std::path::Path::new(&started.control).exists());
    assert_eq!(rig.label(&image).as_deref(), Some("system_u:object_r:svirt_guest_image_t:s0:c10,c21"));
    assert_eq!(std::fs::metadata(rig.path("log/1.log")).unwrap().len(), 0);
    let survey = rig.client().survey().unwrap();
    assert_eq!((survey.uids.len(), survey.pairs.len(), survey.domains.len()), (2, 1, 1));
    let described = rig.client().describe(uuid).unwrap();
    assert_eq!((described.plan, described.status.qemu_pid), (plan, started.qemu_pid));

    for command in [
        vec!["qemu-img", "convert", "-f", "raw", image.to_str().unwrap(), "/dev/null"],
        vec!["qemu-img", "resize", "-f", "raw", image.to_str().unwrap(), "2M"],
        vec!["qemu-io", "-f", "raw", "-c", "write 0 512", image.to_str().unwrap()],
    ] {
        let output = Command::new(command[0]).args(&command[1..]).output();
        let Ok(output) = output else {
            println!("no {}: its part is skipped", command[0]);
            continue;
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("lock"), "{command:?} got in: {said}");
    }

    let mut waiter = rig.client();
    let end = std::thread::spawn(move || waiter.wait(uuid));
    std::thread::sleep(std::time::Duration::from_millis(100));
    let ended = rig.client().kill(uuid).unwrap();
    assert_eq!(ended.signal, Some(9), "{ended:?}");
    assert_eq!(end.join().unwrap().unwrap().signal, Some(9));
    let mut after = rig.snapshot();
    let log = rig.path("log/1.log");
    assert!(after.without(&log), "the log of a guest that ran stays");
    let mut before = before;
    before.without(&log);
    assert_eq!(before, after);
    rig.assert_nothing_leased();
    // Whoever asks too late is told how it ended; nobody is told of a domain that never was.
    assert_eq!(rig.client().wait(uuid).unwrap().signal, Some(9));
    assert!(matches!(rig.client().wait(DomainUuid(uuid::Uuid::nil())), Err(DriverError::NoDomain)));
}

#[test]
fn what_is_in_use_is_refused() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let (image, other) = (rig.image("a.raw"), rig.image("b.raw"));
    rig.serve("");
    rig.client().start(rig.plan(1, &image)).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    let before = rig.snapshot();

    let said = rule(&rig.client().start(rig.plan(1, &other)).unwrap_err());
    assert!(said.contains("vm1") && said.contains("runs already"), "{said}");
    let said = rule(&rig.client().start(rig.plan(2, &image)).unwrap_err());
    assert!(said.contains("in use by domain vm1"), "{said}");
    let mut plan = rig.plan(2, &other);
    plan.ops[2] = rig.plan(1, &other).ops[2].clone();
    if let Op::LabelSelinux { label, .. } = &mut plan.ops[5] {
        *label = label.replace("c22", "c21");
    }
    let said = rule(&rig.client().start(plan).unwrap_err());
    assert!(said.contains("c10,c21") && said.contains("in use by domain vm1"), "{said}");
    assert_eq!(before, rig.snapshot());

    // A program that svirt did not start.
    let foreign = std::fs::OpenOptions::new().read(true).write(true).open(&other).unwrap();
    svirt::sys::lock::take(&foreign, svirt::sys::lock::ImageLock::new(true, false)).unwrap();
    let said = rule(&rig.client().start(rig.plan(2, &other)).unwrap_err());
    assert!(said.contains("another program uses it"), "{said}");
    drop(foreign);
    assert_eq!(before, rig.snapshot());
    rig.client().start(rig.plan(2, &other)).unwrap();
    assert_eq!(rig.client().survey().unwrap().domains.len(), 2);
}

#[test]
fn only_files_of_the_places_are_opened() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("a.raw");
    let outside = rig.path("outside.raw");
    std::fs::write(&outside, "x").unwrap();
    symlink(&outside, rig.path("images/link.raw")).unwrap();
    std::fs::hard_link(&image, rig.path("images/second.raw")).unwrap();
    nix::unistd::mkfifo(&rig.path("images/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let swapped = rig.image("swapped.raw");
    let boot = rig.path("boot/kernel");
    std::fs::write(&boot, "x").unwrap();
    let foreign_dir = rig.path("images/open");
    std::fs::create_dir(&foreign_dir).unwrap();
    std::fs::write(foreign_dir.join("x.raw"), "x").unwrap();
    symlink(&image, foreign_dir.join("l.raw")).unwrap();
    std::fs::set_permissions(&foreign_dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let setuid = rig.image("setuid.raw");
    std::fs::set_permissions(&setuid, std::os::unix::fs::PermissionsExt::from_mode(0o4600)).unwrap();
    rig.serve("");
    let before = rig.snapshot();
    let state = rig.text("state/journal/x");
    std::fs::write(&state, "x").unwrap();
    for (path, expected) in [
        ("/etc/shadow", "lies in no directory"),
        (outside.to_str().unwrap(), "lies in no directory"),
        (&rig.text("images/link.raw"), "lies in no directory"),
        (&rig.text("images/second.raw"), "more than one hard link"),
        (&rig.text("images/fifo"), "is a FIFO"),
        (&rig.text("images"), "is a directory"),
        ("/dev/null", "is a character device"),
        (&rig.text("images/open/x.raw"), "could swap it"),
        (&rig.text("images/open/l.raw"), "symbolic link"),
        (setuid.to_str().unwrap(), "set-uid"),
        (boot.to_str().unwrap(), "images.readable"),
        (&state, "svirt's own directories"),
        ("/proc/self/fd/0", "symbolic link"),
        ("/dev/fdset/1", "no such file"),
        (&rig.text("images/../outside.raw"), "no plain absolute path"),
        (&rig.text("images/absent.raw"), "no such file"),
    ] {
        let mut plan = rig.plan(1, &image);
        open_image(&mut plan).path = path.into();
        if let Ok(found) = std::fs::metadata(path) {
            use std::os::unix::fs::MetadataExt;
            open_image(&mut plan).identity.device = found.dev();
            open_image(&mut plan).identity.inode = found.ino();
        }
        let said = rule(&rig.client().start(plan).unwrap_err());
        assert!(said.contains(expected), "{path}: {said}");
    }
    std::fs::remove_file(&state).unwrap();
    let plan = rig.plan(1, &swapped);
    std::fs::rename(&swapped, rig.path("images/moved.raw")).unwrap();
    std::fs::write(&swapped, "another").unwrap();
    let said = rule(&rig.client().start(plan).unwrap_err());
    assert!(said.contains("another file has taken its place"), "{said}");
    std::fs::rename(rig.path("images/moved.raw"), &swapped).unwrap();
    assert_eq!(before, rig.snapshot());
    rig.assert_nothing_leased();
}

/// A front end that was taken over may ask for any directory: the labeller mounts those of the places alone, and follows
/// no link that a guest could have made in one.
#[test]
fn only_directories_of_the_places_are_shared() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("a.raw");
    for name in ["shares", "shares/one", "shares/two", "shares/two/below", "outside"] {
        std::fs::create_dir_all(rig.path(name)).unwrap();
    }
    let mut settings = rig.settings.clone();
    let whole = rig.dir.path().to_str().unwrap().to_owned();
    settings.shares.places.extend(["/etc", "/usr"].map(ToOwned::to_owned));
    settings.shares.places.extend([rig.text("images"), whole.clone()]);
    // One is not there yet, and is made below the other some day.
    for name in ["shares/boot", "shares/later"] {
        std::fs::create_dir_all(rig.path(name)).unwrap();
    }
    settings.images.readable.extend([rig.text("shares/boot"), rig.text("shares/later/made/one/day")]);
    std::fs::write(rig.path("svirt.toml"), toml::to_string(&settings).unwrap()).unwrap();
    // All of them are root's, as a guest's are where root owns the share.
    symlink(rig.path("shares/two"), rig.path("shares/one/sideways")).unwrap();
    symlink("../two/below", rig.path("shares/one/up")).unwrap();
    symlink("/", rig.path("shares/one/root")).unwrap();
    symlink(rig.path("images/a.raw"), rig.path("shares/one/image")).unwrap();
    std::fs::write(rig.path("shares/one/file"), "x").unwrap();
    nix::unistd::chown(&rig.path("shares/two/below"), Some(rig.settings.uids.domains.first.into()), None)
        .unwrap();
    rig.serve("");
    let before = rig.snapshot();
    let mut plan = rig.plan(1, &image);
    if !rig.share(1, &mut plan) {
        return;
    }
    for (path, expected) in [
        ("/etc", "not for guests"),
        ("/etc/ssh", "not for guests"),
        ("/usr/share", "not for guests"),
        (&whole, "not for guests"),
        ("/home", "lies in no directory of shares.places"),
        (&rig.text("images"), "not for guests"),
        (&rig.text("state"), "svirt's own directories"),
        (&rig.text("shares/boot"), "not for guests"),
        (&rig.text("shares/later"), "not for guests"),
        (&rig.text("."), "no plain absolute path"),
        (&rig.text("shares/../outside"), "no plain absolute path"),
        (&rig.text("shares/one/sideways"), "a guest could have made"),
        (&rig.text("shares/one/up"), "a guest could have made"),
        (&rig.text("shares/one/root/etc"), "a guest could have made"),
        (&rig.text("shares/one/file"), "is no directory"),
        (&rig.text("shares/one/absent"), "no such file"),
        (&rig.text("shares/two/below"), "svirt's own ranges"),
        ("/proc/self/root", "symbolic link"),
    ] {
        let mut asked = plan.clone();
        for op in &mut asked.ops {
            if let Op::OpenShare { path: share, .. } = op {
                *share = path.to_owned();
            }
        }
        let said = rule(&rig.client().start(asked).unwrap_err());
        assert!(said.contains(expected), "{path}: {said}");
    }
    // Nor does a disk go through one.
    let mut asked = rig.plan(1, &image);
    open_image(&mut asked).path = rig.text("shares/one/image");
    let said = rule(&rig.client().start(asked).unwrap_err());
    assert!(said.contains("a guest could have made"), "{said}");
    assert_eq!(before, rig.snapshot());
    rig.assert_nothing_leased();
}

#[test]
fn a_shared_label_is_restored_by_the_last_domain() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("base.raw");
    rig.set_label(&image, "system_u:object_r:was_t:s0");
    rig.serve("");
    let before = rig.snapshot();
    let content = "system_u:object_r:svirt_guest_content_t:s0";
    for n in [1, 2] {
        let mut plan = rig.plan(n, &image);
        let open = open_image(&mut plan);
        (open.access, open.sharing) = (Access::ReadOnly, Sharing::Readers);
        plan.ops[5] = Op::LabelSelinux { slot: slot("disk"), label: content.into() };
        if let Op::Spawn(spawn) = plan.ops.last_mut().unwrap() {
            spawn.argv.last_mut().unwrap().push_str(",read-only=on");
        }
        plan.ops.retain(|op| !matches!(op, Op::OpenLog { .. }));
        if let Op::Spawn(spawn) = plan.ops.last_mut().unwrap() {
            spawn.supervisor.fds.pop();
            spawn.supervisor.consoles[0].log = None;
        }
        rig.client().start(plan).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    }
    assert_eq!(rig.label(&image).as_deref(), Some(content));
    rig.client().kill(rig.plan(1, &image).domain.uuid).unwrap();
    assert_eq!(rig.label(&image).as_deref(), Some(content), "the other one still needs it");
    // The one that stays survives the labeller's death, and what it shares is still known.
    rig.end_labeller("-KILL");
    rig.serve("");
    assert_eq!(rig.label(&image).as_deref(), Some(content));
    rig.client().kill(rig.plan(2, &image).domain.uuid).unwrap();
    assert_eq!(before, rig.snapshot());
    rig.assert_nothing_leased();
}

/// Writes what a libvirt of this boot would have written for `users` guests that use `image`.
fn libvirt_uses(image: &std::path::Path, label: &str, users: &str) {
    let file = std::fs::File::open(image).unwrap();
    let boot = svirt::sys::boot::time().unwrap().to_string();
    for (which, value) in
        [(Remembered::Label, label), (Remembered::Count, users), (Remembered::Boot, boot.as_str())]
    {
        xattr::set_remembered(&file, which, Some(value)).unwrap();
    }
}

fn remembered(image: &std::path::Path, which: Remembered) -> Option<String> {
    xattr::remembered(std::fs::File::open(image).unwrap(), which).unwrap()
}

#[test]
fn libvirt_and_svirt_count_each_other() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("both.raw");
    rig.set_label(&image, "system_u:object_r:was_t:s0");
    rig.serve("");
    let wanted = "system_u:object_r:svirt_guest_image_t:s0:c10,c21";
    // svirt alone: what was there stands on the image, in libvirt's form.
    let before = rig.snapshot();
    rig.client().start(rig.plan(1, &image)).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    assert_eq!(remembered(&image, Remembered::Label).as_deref(), Some("system_u:object_r:was_t:s0"));
    assert_eq!(remembered(&image, Remembered::Count).as_deref(), Some("1"));
    assert_eq!(remembered(&image, Remembered::Mark).as_deref(), Some("1"));
    // libvirt's guest comes under the same label and is there when svirt's goes, killed labeller and all.
    libvirt_uses(&image, "system_u:object_r:was_t:s0", "2");
    rig.end_labeller("-KILL");
    rig.serve("");
    rig.client().kill(rig.plan(1, &image).domain.uuid).unwrap();
    assert_eq!(rig.label(&image).as_deref(), Some(wanted), "libvirt's guest needs it still");
    assert_eq!(remembered(&image, Remembered::Count).as_deref(), Some("1"));
    assert_eq!(remembered(&image, Remembered::Label).as_deref(), Some("system_u:object_r:was_t:s0"));
    assert_eq!(remembered(&image, Remembered::Mark), None);
    // svirt comes to it, and libvirt's guest goes first: svirt gives back what libvirt had found.
    rig.client().start(rig.plan(1, &image)).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    assert_eq!(remembered(&image, Remembered::Count).as_deref(), Some("2"));
    libvirt_uses(&image, "system_u:object_r:was_t:s0", "1");
    rig.client().kill(rig.plan(1, &image).domain.uuid).unwrap();
    let mut after = rig.snapshot();
    assert!(after.without(&rig.path("log/1.log")), "the guest's log stays");
    assert_eq!(before, after);
    // Another label than svirt's: refused, and nothing changed.
    rig.set_label(&image, "system_u:object_r:svirt_image_t:s0:c1,c2");
    libvirt_uses(&image, "system_u:object_r:was_t:s0", "1");
    let before = rig.snapshot();
    let said = rule(&rig.client().start(rig.plan(1, &image)).unwrap_err());
    assert!(said.contains("another manager uses it 1 times"), "{said}");
    assert_eq!(before, rig.snapshot());
    rig.assert_nothing_leased();
}

#[test]
fn an_image_that_another_program_reads_keeps_its_label() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("read.raw");
    rig.set_label(&image, "system_u:object_r:virt_content_t:s0");
    rig.serve("");
    let mut plan = rig.plan(1, &image);
    let open = open_image(&mut plan);
    (open.access, open.sharing) = (Access::ReadOnly, Sharing::Readers);
    // As a QEMU that reads it, which excludes writers alone.
    let reader = std::fs::File::open(&image).unwrap();
    lock::take(&reader, lock::ImageLock::new(false, false)).unwrap();
    let before = rig.snapshot();
    let said = rule(&rig.client().start(plan).unwrap_err());
    assert!(said.contains("another program has it open") && said.contains("virt_content_t"), "{said}");
    assert_eq!(before, rig.snapshot());
    rig.assert_nothing_leased();
}

#[test]
fn a_profile_that_cannot_be_loaded_is_refused_or_named() {
    if !possible() {
        return;
    }
    if svirt::sys::apparmor::running() {
        println!("skipped: this kernel runs AppArmor; test-vms/run apparmor loads profiles");
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("a.raw");
    rig.serve("");
    let before = rig.snapshot();
    let with_profile = |rig: &Rig, required| {
        let mut plan = rig.plan(1, &image);
        let at = plan.ops.iter().position(|op| matches!(op, Op::Channel { .. })).unwrap();
        plan.ops.insert(at, Op::LoadProfile { rules: vec![], required });
        plan
    };
    let refused = rig.client().start(with_profile(&rig, true)).unwrap_err();
    let DriverError::Refused(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.refusal.layer, svirt::base::Layer::Apparmor);
    assert!(refused.refusal.remedy.contains("<seclabel type='none' model='apparmor'/>"));
    assert_eq!(before, rig.snapshot());
    // A start that may be degraded says what it lacks.
    let plan = with_profile(&rig, false);
    let started = rig.client().start(plan).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    assert!(started.degraded.iter().any(|layer| layer.starts_with("AppArmor: no profile")), "{started:?}");
    rig.client().kill(rig.plan(1, &image).domain.uuid).unwrap();
    rig.assert_nothing_leased();
}

#[test]
fn a_boot_file_in_a_labelled_place_is_content_while_a_domain_reads_it() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let (image, kernel) = (rig.image("a.raw"), rig.image("vmlinuz"));
    rig.set_label(&kernel, "system_u:object_r:was_t:s0");
    rig.serve("");
    let before = rig.snapshot();
    let content = "system_u:object_r:svirt_guest_content_t:s0";
    let plan = |path: &std::path::Path| {
        let mut plan = rig.plan(1, &image);
        let open = plan.ops.iter().position(|op| matches!(op, Op::LabelSelinux { .. })).unwrap();
        let slot = slot("boot:kernel");
        plan.ops.insert(open, Op::OpenReadable { slot: slot.clone(), path: path.to_str().unwrap().into() });
        plan.ops.insert(open + 1, Op::LabelSelinux { slot: slot.clone(), label: content.into() });
        if let Op::Spawn(spawn) = plan.ops.last_mut().unwrap() {
            spawn.confinement.root.files = vec![RootFile { slot, place: RootPlace::Kernel }];
        }
        plan
    };
    rig.client().start(plan(&kernel)).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    assert_eq!(rig.label(&kernel).as_deref(), Some(content));
    rig.client().kill(rig.plan(1, &image).domain.uuid).unwrap();
    let mut after = rig.snapshot();
    after.without(&rig.path("log/1.log"));
    assert_eq!(before, after);
    // In a place that is only read, nothing is labelled.
    let fixed = rig.path("boot/vmlinuz");
    std::fs::write(&fixed, "kernel").unwrap();
    let said = rule(&rig.client().start(plan(&fixed)).unwrap_err());
    assert!(said.contains("never labelled"), "{said}");
    rig.assert_nothing_leased();
}

#[test]
fn clients_are_bounded_and_checked() {
    if !possible() {
        return;
    }
    use std::io::{Read, Write};
    let mut rig = Rig::new();
    rig.serve("");
    let connect = || std::os::unix::net::UnixStream::connect(rig.path("run/labeller.sock")).unwrap();
    for nonsense in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x02{}", b"\0\0\0\x01x"] {
        let mut stream = connect();
        stream.write_all(nonsense).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "the connection is closed");
    }
    let _half: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(b"\0\0").unwrap();
            stream
        })
        .collect();
    rig.assert_nothing_leased();
    // Somebody else than root and the front end.
    std::fs::set_permissions(rig.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = rig.path("run/labeller.sock");
    let child = svirt::sys::process::fork(move || {
        cred::set_ids(4242, 4242, &[]).unwrap();
        let refused = std::os::unix::net::UnixStream::connect(path).unwrap_err();
        i32::from(refused.kind() != std::io::ErrorKind::PermissionDenied)
    })
    .unwrap();
    assert!(pidfd::wait_ended(&child.pidfd, 60_000).unwrap());
    assert_eq!(pidfd::reap(&child.pidfd), Some(pidfd::Exit::Code(0)));
    let (path, uid) = (rig.path("run/labeller.sock"), rig.settings.uids.frontend);
    let child = svirt::sys::process::fork(move || {
        cred::set_ids(uid, uid, &[]).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        let frame = svirt::privsep::wire::encode(&svirt::privsep::request::Request::Survey).unwrap();
        stream.write_all(&frame).unwrap();
        i32::from(stream.read(&mut [0; 16]).unwrap_or(0) == 0)
    })
    .unwrap();
    assert!(pidfd::wait_ended(&child.pidfd, 60_000).unwrap());
    assert_eq!(pidfd::reap(&child.pidfd), Some(pidfd::Exit::Code(0)));
    // Whoever gets as far as connecting is looked at all the same.
    let path = rig.path("run/labeller.sock");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let child = svirt::sys::process::fork(move || {
        cred::set_ids(4242, 4242, &[]).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        let frame = svirt::privsep::wire::encode(&svirt::privsep::request::Request::Survey).unwrap();
        let _ = stream.write_all(&frame);
        i32::from(stream.read(&mut [0; 16]).unwrap_or(0) != 0)
    })
    .unwrap();
    assert!(pidfd::wait_ended(&child.pidfd, 60_000).unwrap());
    assert_eq!(pidfd::reap(&child.pidfd), Some(pidfd::Exit::Code(0)));
}

use svirt::sys::cred;

#[test]
fn one_labeller_serves_a_run_directory_and_on_demand_it_leaves() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    rig.serve("");
    let second = Command::new(env!("CARGO_BIN_EXE_svirt-labeller"))
        .arg("--config")
        .arg(rig.path("svirt.toml"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("another svirt-labeller serves"));
    rig.end_labeller("-TERM");
    assert!(!rig.path("run/labeller.sock").exists());
    let script = format!(
        "exec 3>{0}/ready; exec {1} --config {0}/svirt.toml --on-demand --ready-fd 3",
        rig.dir.path().display(),
        env!("CARGO_BIN_EXE_svirt-labeller")
    );
    let mut child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    eventually("it is ready", || std::fs::read(rig.path("ready")).is_ok_and(|bytes| bytes == b"\n"));
    rig.assert_nothing_leased();
    eventually("it leaves", || child.try_wait().unwrap().is_some_and(|status| status.success()));
    assert!(!rig.path("run/labeller.sock").exists());
}

#[test]
fn a_header_is_read_by_a_process_that_can_do_nothing_else() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("a.raw");
    rig.serve("");
    let probed =
        rig.client().probe(image.to_str().unwrap()).unwrap_or_else(|e| panic!("{}\n{}", rule(&e), rig.log()));
    assert!(probed.header.contains("\"raw\""), "{}", probed.header);
    assert!(rule(&rig.client().probe("/etc/shadow").unwrap_err()).contains("lies in no directory"));
}

#[test]
fn a_device_model_that_dies_early_says_why() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    let image = rig.image("a.raw");
    rig.serve("");
    let before = rig.snapshot();
    let mut plan = rig.plan(1, &image);
    if let Op::Spawn(spawn) = plan.ops.last_mut().unwrap() {
        spawn.argv.push("-nonsense".into());
        assert_eq!(spawn.program, QEMU);
    }
    let said = rule(&rig.client().start(plan).unwrap_err());
    assert!(said.contains("nonsense"), "{said}");
    assert_eq!(before, rig.snapshot());
    rig.assert_nothing_leased();
}
