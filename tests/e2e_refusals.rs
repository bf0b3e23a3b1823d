//! What must be refused is refused by the real `svirt` with the file, the layer, the rule and the remedy, and leaves
//! nothing behind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod e2e_rig;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e_rig::{QEMU, Rig, eventually, possible};

fn disk(format: &str, path: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{path}'/>\
         <target dev='vda' bus='virtio'/></disk>"
    )
}

#[track_caller]
fn refused(rig: &Rig, format: &str, path: &str, words: &[&str]) {
    let definition = rig.bare("refused", &disk(format, path));
    rig.refused(&definition, 1, words).says(&["to fix it: "]);
}

/// A qcow2 image whose header names `backing`, which need not exist.
fn naming(rig: &Rig, name: &str, backing: &str) -> String {
    rig.qcow2(name, &["-u", "-b", backing, "-F", "raw", "-o", "size=1M"])
}

#[test]
fn files_that_are_no_images() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let images = rig.text("images");
    let at = |name: &str| format!("{images}/{name}");
    refused(&rig, "raw", &at("none"), &[&at("none"), "no such file (kernel)"]);
    refused(&rig, "raw", "/etc/shadow", &["/etc/shadow", "images.relabelable", "(svirt's limits)"]);
    std::os::unix::fs::symlink("/etc/shadow", at("link")).unwrap();
    refused(
        &rig,
        "raw",
        &at("link"),
        &[&at("link"), "leads to /etc/shadow, which lies in no directory", "images.relabelable"],
    );
    std::fs::write(rig.path("outside/file"), vec![0; 4096]).unwrap();
    std::fs::hard_link(rig.path("outside/file"), at("hard")).unwrap();
    refused(&rig, "raw", &at("hard"), &[&at("hard"), "more than one hard link"]);
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    refused(&rig, "raw", &at("fifo"), &[&at("fifo"), "is a FIFO"]);
    refused(&rig, "raw", &images, &["is a directory"]);
    refused(&rig, "raw", "/dev/null", &["/dev/null"]);
    refused(&rig, "raw", "/proc/self/mem", &["/proc/self/mem"]);
    refused(&rig, "raw", "/dev/fdset/1", &["stands for a descriptor of QEMU's"]);
    std::fs::write(at("empty"), "").unwrap();
    refused(&rig, "qcow2", &at("empty"), &[&at("empty"), "said to be qcow2", "<driver type=…>"]);
}

#[test]
fn svirts_own_files() {
    if !possible() {
        return;
    }
    // Even where a careless administrator makes everything an image directory.
    let rig = Rig::with(|settings| {
        let root = Path::new(&settings.paths.run).parent().unwrap().to_str().unwrap().to_owned();
        settings.images.relabelable = vec![root];
    });
    rig.svirt(&["run", "--detach", &rig.bare("first", "")]).expect(0);
    let journal = format!("{}/{}.json-lines", rig.text("state/journal"), rig.uuid("first"));
    assert!(Path::new(&journal).exists());
    // Other domains' files: no journal or log, but as little a disk.
    let stores = ["nvram/other.fd", "tpm/other", "store/definitions"].map(|name| rig.text(name));
    for store in &stores {
        std::fs::create_dir_all(Path::new(store).parent().unwrap()).unwrap();
        std::fs::write(store, "of another domain").unwrap();
    }
    for path in [&journal, &rig.text("run/labeller.log")].into_iter().chain(&stores) {
        // There is no remedy: nothing should allow it.
        rig.refused(&rig.bare("refused", &disk("raw", path)), 1, &[path, "one of svirt's own directories"]);
    }
    rig.end("first");
}

#[test]
fn headers_that_lead_elsewhere() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    for backing in
        ["json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}", "nbd://localhost/x", "fat:/etc"]
    {
        refused(&rig, "qcow2", &naming(&rig, "protocol", backing), &["is no plain file but a protocol"]);
    }
    refused(&rig, "qcow2", &naming(&rig, "fdset", "/dev/fdset/1"), &["/dev/fdset/1", "descriptor of QEMU's"]);
    refused(&rig, "qcow2", &naming(&rig, "proc", "/proc/self/fd/3"), &["/proc/self/fd/3"]);
    refused(
        &rig,
        "qcow2",
        &naming(&rig, "shadow", "/etc/shadow"),
        &["/etc/shadow", "layer 1, recorded in the header of", "/images/shadow", "images.relabelable"],
    );
    let gone = rig.text("images/gone");
    refused(&rig, "qcow2", &naming(&rig, "orphan", &gone), &[&gone, "no such file", "qemu-img rebase"]);
    let loops = rig.qcow2("loop", &["-o", "size=1M"]);
    let again = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &loops, &loops];
    assert!(Command::new("qemu-img").args(again).status().unwrap().success());
    refused(&rig, "qcow2", &loops, &["comes back to a layer"]);
    let option = format!("data_file={},data_file_raw=on,size=1M", rig.text("outside/data"));
    refused(&rig, "qcow2", &rig.qcow2("data", &["-o", &option]), &["keeps its data in another file"]);
    refused(&rig, "qcow2", &formatless(&rig), &["format"]);
}

/// An image with a backing file whose format it does not tell.
fn formatless(rig: &Rig) -> String {
    let base = rig.raw("base", 1);
    let path = naming(rig, "formatless", &base);
    let mut bytes = std::fs::read(&path).unwrap();
    // The header extension that tells it gets a number that nobody knows, which readers skip.
    let at = bytes.windows(4).position(|word| word == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    bytes[at..at + 4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_raw_disk_stays_raw() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let path = naming(&rig, "guest-wrote-this", "/etc/shadow");
    let definition = rig.bare("raw", &disk("raw", &path));
    let before = rig.snapshot();
    rig.start(&definition);
    let pid = rig.status("raw").unwrap().qemu_pid;
    let held: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| Some(std::fs::read_link(fd.ok()?.path()).ok()?.display().to_string()))
        .collect();
    assert!(held.contains(&path) && !held.iter().any(|path| path.contains("shadow")), "{held:?}");
    let argv = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(argv.contains("\"driver\":\"raw\"") && !argv.contains("qcow2"), "{argv}");
    rig.end("raw");
    rig.same_as(&before);
}

#[test]
fn an_image_that_is_in_use() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let path = rig.raw("used", 1);
    let definition = rig.bare("owner", &disk("raw", &path));
    let other = rig.bare("other", &disk("raw", &path));
    rig.start(&definition);
    let domain = rig.svirt(&["run", "--detach", &other]).expect(1);
    domain.says(&[&path, "in use by domain owner", "(leases)", "<shareable/>"]);
    rig.svirt(&["run", "--detach", &definition]).expect(1).says(&["runs already", "svirt stop owner"]);
    let tool = Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 512", &path]).output().unwrap();
    assert!(!tool.status.success() && String::from_utf8_lossy(&tool.stderr).contains("lock"), "{tool:?}");
    rig.end("owner");

    // The other way round: a QEMU that svirt knows nothing of was first.
    let mut foreign = Command::new(QEMU)
        .args(["-M", "q35", "-accel", "tcg", "-nodefaults", "-m", "32", "-display", "none", "-S"])
        .args(["-monitor", "none", "-drive", &format!("if=virtio,format=raw,file={path}")])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let fds = format!("/proc/{}/fd", foreign.id());
    eventually("it has the image", || {
        let open = std::fs::read_dir(&fds).into_iter().flatten().flatten();
        open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|target| target == Path::new(&path))
    });
    // It opens first and locks next.
    std::thread::sleep(Duration::from_millis(300));
    rig.refused(&other, 1, &[&path, "another program uses it", "(image lock)"]);
    foreign.kill().unwrap();
    foreign.wait().unwrap();
    rig.start(&other);
    rig.end("other");
}

#[test]
fn boot_files_and_machines() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let text = std::fs::read_to_string(rig.bare("boot", "")).unwrap();
    let with = |words: &str, instead: &str| {
        let path = rig.path("boot.xml");
        std::fs::write(&path, text.replace(words, instead)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let kernel = |path: &str| with("</os>", &format!("<kernel>{path}</kernel></os>"));
    rig.refused(&with("q35", "vax"), 1, &["machine 'vax'", "line 1", "(domain definition)"]);
    rig.refused(&kernel("/etc/shadow"), 1, &["the kernel /etc/shadow", "images.readable"]);
    let gone = rig.text("boot/gone");
    rig.refused(&kernel(&gone), 1, &[&gone, "no such file"]);
    // A plan that is fine, and a QEMU that is not content: it dies as pid 1 of its namespace.
    let noise = rig.text("boot/noise");
    std::fs::write(&noise, "no kernel at all").unwrap();
    rig.refused(&kernel(&noise), 1, &["exited with code 1", "invalid kernel", "(device model)"]);
}

/// A stand-in for an emulator, compiled from a few lines of C; none where there is no compiler. Asked what it can do
/// it is the real one.
fn stand_in(rig: &Rig, does: &str) -> Option<String> {
    let (source, program) = (rig.path("outside/stand-in.c"), rig.text("outside/stand-in"));
    let text = format!(
        "#include <assert.h>\n#include <stdio.h>\n#include <string.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
         int main(int c, char **v) {{ for (int i = 1; i < c; i++) if (!strncmp(v[i], \"none,\", 5)) \
         execv(\"{QEMU}\", v); {does}; return 9; }}"
    );
    std::fs::write(&source, text).unwrap();
    let built = Command::new("cc").arg("-o").arg(&program).arg(&source).status();
    if built.is_ok_and(|status| status.success()) {
        return Some(program);
    }
    println!("skipped: no C compiler for a stand-in");
    None
}

#[test]
fn a_device_model_that_dies() {
    if !possible() {
        return;
    }
    let cases: [(&str, &[&str]); 4] = [
        (
            "fputs(\"cannot go on\\n\", stderr); return 3",
            &["exited with code 3", "cannot go on", "device model"],
        ),
        ("*(volatile int *)16 = 1", &["SIGSEGV", "(device model)"]),
        ("assert(c == 0)", &["SIGSEGV", "abort()", "Assertion `c == 0' failed"]),
        ("syscall(SYS_kexec_load, 0, 0, 0, 0)", &["SIGSYS", "(seccomp)", "labels/seccomp"]),
    ];
    for (does, words) in cases {
        let rig = Rig::with(|settings| {
            let outside = Path::new(&settings.paths.run).with_file_name("outside");
            settings.emulators.allowed = vec![outside.join("stand-in").to_str().unwrap().to_owned()];
        });
        let Some(_) = stand_in(&rig, does) else { return };
        rig.refused(&rig.bare("dies", ""), 1, words);
    }
    let rig = Rig::with(|settings| settings.emulators.allowed = vec!["/usr/bin/qemu-none".into()]);
    let missing = &["/usr/bin/qemu-none", "it is not there", "[emulators]"];
    rig.refused(&rig.bare("none", ""), 1, missing);
}

/// The file outside is never opened, however the name changes during a start; a start that wins gets the real image.
#[test]
fn a_name_that_changes_during_a_start() {
    if !possible() {
        return;
    }
    let rig = Rig::new();
    let path = rig.raw("flips", 1);
    let secret = rig.path("outside/secret");
    std::fs::write(&secret, vec![b'x'; 1 << 20]).unwrap();
    let definition = rig.bare("races", &disk("raw", &path));
    let (real, link) = (rig.path("images/real"), rig.path("images/link"));
    let over = Arc::new(AtomicBool::new(false));
    let flips = {
        let (over, path, secret) = (over.clone(), path.clone(), secret.clone());
        std::thread::spawn(move || {
            for turn in 0_u64.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // Long enough now and then for a start to get far before the name changes.
                std::thread::sleep(Duration::from_millis(turn * 7 % 60));
                // The image, then a link to the file outside, then the image again, each put in place at once.
                std::fs::rename(&path, &real).unwrap();
                std::os::unix::fs::symlink(&secret, &link).unwrap();
                std::fs::rename(&link, &path).unwrap();
                std::thread::sleep(Duration::from_millis(turn * 5 % 40));
                std::fs::rename(&real, &path).unwrap();
            }
        })
    };
    let until = Instant::now() + Duration::from_secs(6);
    let (mut started, mut refused) = (0, 0);
    while Instant::now() < until && started + refused < 40 {
        let ran = rig.svirt(&["run", "--detach", &definition]);
        let _ = std::fs::metadata(&secret).unwrap();
        if ran.code == Some(0) {
            started += 1;
            for pid in rig.processes() {
                let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
                let outside =
                    fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).find(|target| *target == secret);
                assert_eq!(outside, None, "pid {pid}");
            }
            rig.end("races");
        } else {
            assert_eq!(ran.code, Some(1), "{ran:?}");
            refused += 1;
        }
    }
    over.store(true, Ordering::Relaxed);
    flips.join().unwrap();
    println!("{started} starts, {refused} refusals");
    assert!(started + refused > 5);
    rig.start(&definition);
    rig.end("races");
}
