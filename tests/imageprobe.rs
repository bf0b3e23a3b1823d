//! The image probe as a process: real images made by qemu-img, hostile bytes, and what it refuses to hold.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use svirt::image::{Failure, Header, read_answer};

fn run(stdin: File) -> Output {
    Command::new(env!("CARGO_BIN_EXE_svirt-imageprobe"))
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

fn probe(path: &Path) -> Result<Header, Failure> {
    let output = run(File::open(path).unwrap());
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let ends = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    assert!(ends == 1 && output.stdout.ends_with(b"\n"), "whoever waits goes by the line feed: {output:?}");
    read_answer(&output.stdout)
}

fn written(directory: &Path, bytes: &[u8]) -> std::path::PathBuf {
    let path = directory.join("image");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Makes an image, or says that the test is skipped; qemu-img comes with Debian's qemu-utils.
fn qemu_img(directory: &Path, arguments: &[&str]) -> bool {
    let made = Command::new("qemu-img").args(arguments).current_dir(directory).output();
    match made {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(_) => {
            eprintln!("skipped: qemu-img is not installed");
            false
        }
    }
}

#[test]
fn real_images_say_what_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if !qemu_img(at, &["create", "-f", "qcow2", "base.qcow2", "10M"]) {
        return;
    }
    let base = probe(&at.join("base.qcow2")).unwrap();
    assert_eq!((base.format.as_str(), base.virtual_size, &base.backing_file), ("qcow2", 10 << 20, &None));

    qemu_img(at, &["create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "-o", "compat=0.10", "top"]);
    let top = probe(&at.join("top")).unwrap();
    assert_eq!(top.backing_file.as_deref(), Some("base.qcow2"));
    assert_eq!(top.backing_format.as_deref(), Some("qcow2"));

    let json = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}"#;
    qemu_img(at, &["create", "-u", "-f", "qcow2", "-b", json, "-F", "qcow2", "json", "10M"]);
    assert_eq!(probe(&at.join("json")).unwrap().backing_file.as_deref(), Some(json));

    for name in ["nbd://host/disk", "/dev/fdset/1"] {
        qemu_img(at, &["create", "-u", "-f", "qcow2", "-b", name, "-F", "raw", "remote", "10M"]);
        assert_eq!(probe(&at.join("remote")).unwrap().backing_file.as_deref(), Some(name));
    }

    qemu_img(at, &["create", "-f", "qcow2", "-o", "data_file=data.raw", "outside", "1M"]);
    let outside = probe(&at.join("outside")).unwrap();
    assert!(outside.needs_data_file);
    assert_eq!(outside.data_file.as_deref(), Some("data.raw"));

    let secret = "secret,id=s,data=x";
    // Not luks: making its key measures CPU time, and fails on a busy machine.
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    qemu_img(at, &["create", "--object", secret, "-f", "qcow2", "-o", options, "aes.qcow2", "1M"]);
    assert!(probe(&at.join("aes.qcow2")).unwrap().encrypted);

    qemu_img(at, &["create", "-f", "qcow2", "-o", "cluster_size=2M,extended_l2=on", "large", "1G"]);
    let large = probe(&at.join("large")).unwrap();
    assert_eq!((large.virtual_size, large.unknown_features), (1 << 30, 0));

    for format in ["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"] {
        qemu_img(at, &["create", "-f", format, "other", "1M"]);
        assert_eq!(probe(&at.join("other")).unwrap().format, format);
    }
}

#[test]
fn a_file_that_is_no_image_is_raw_and_says_nothing_but_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let secret = "root:$6$salt$hash:19000:0:99999:7:::\n";
    let output = run(File::open(written(directory.path(), secret.as_bytes())).unwrap());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("root") && !text.contains("hash"), "{text}");
    let header = read_answer(text.as_bytes()).unwrap();
    assert_eq!((header.format.as_str(), header.virtual_size), ("raw", secret.len() as u64));
}

#[test]
fn a_damaged_header_is_a_format_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = b"QFI\xfb\0\0\0\x03".to_vec();
    bytes.resize(512, 0xff);
    let header = probe(&written(directory.path(), &bytes)).unwrap();
    assert!(header.format.starts_with("damaged qcow2 ("), "{header:?}");
    bytes.truncate(9);
    assert!(probe(&written(directory.path(), &bytes)).unwrap().format.starts_with("damaged qcow2 ("));
    assert_eq!(probe(&written(directory.path(), b"")).unwrap().format, "raw");
}

#[test]
fn a_writable_image_is_refused_unread() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), b"x");
    let output = run(OpenOptions::new().read(true).write(true).open(&path).unwrap());
    assert!(matches!(read_answer(&output.stdout), Err(Failure::Descriptor { .. })), "{output:?}");
    let output = run(File::open("/dev/zero").unwrap());
    assert!(matches!(read_answer(&output.stdout), Err(Failure::Descriptor { .. })), "{output:?}");
}

#[test]
fn an_output_that_is_no_pipe_gets_no_header() {
    let directory = tempfile::tempdir().unwrap();
    let path = written(directory.path(), b"x");
    let out = directory.path().join("out");
    let status = Command::new(env!("CARGO_BIN_EXE_svirt-imageprobe"))
        .stdin(File::open(&path).unwrap())
        .stdout(File::create(&out).unwrap())
        .status()
        .unwrap();
    // It may not make a file longer, not even to say so.
    assert!(!status.success());
    assert!(std::fs::read(&out).unwrap().is_empty());
}

/// The filter, loaded in a process of its own, kills whatever asks for more than the two descriptors.
#[test]
fn the_filter_ends_a_process_that_asks_for_more() {
    use svirt::sys::{imageprobe, pidfd, process};
    let killed = Some(pidfd::Exit::Signal(libc::SIGSYS));
    let attempt = |name: &str| match name {
        "open" => File::open("/dev/null").is_ok(),
        "write to descriptor 2" => std::io::stderr().write(b"x").is_ok(),
        "socket" => std::os::unix::net::UnixDatagram::unbound().is_ok(),
        "fork" => process::fork(|| 0).is_ok(),
        // The control: a confined process that asks for nothing ends by itself.
        _ => true,
    };
    for name in ["nothing", "open", "write to descriptor 2", "socket", "fork"] {
        let child = process::fork(|| {
            if imageprobe::confine().is_err() {
                return 2;
            }
            i32::from(attempt(name))
        })
        .unwrap();
        assert!(pidfd::wait_ended(&child.pidfd, 10_000).unwrap(), "{name}");
        let expected = if name == "nothing" { Some(pidfd::Exit::Code(1)) } else { killed };
        assert_eq!(pidfd::reap(&child.pidfd), expected, "{name}");
    }
}
