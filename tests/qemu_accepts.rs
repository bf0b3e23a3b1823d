//! The emulator of this machine takes every golden command line, with real descriptors, up to a complete machine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod common;

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::plans::{self, GOLDEN};
use svirt::privsep::op::{Access, LaunchPlan, Op, Spawn};
use svirt::sys::process;

const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";
/// Few machines have large pages set aside;
const HUGE: &str = r#","hugetlb":true,"hugetlbsize":2097152"#;
/// Where shared directories stand in the minimal root.
const SHARES: [&str; 2] = ["/svirt/fs/0", "/svirt/fs/1"];
/// Where the kernel's vsocks are opened, if it has them.
const VSOCK: &str = "/dev/vhost-vsock";

/// A qcow2 image of 1 MiB, version 3, with nothing allocated: header, refcount table, one refcount block, L1 table.
fn qcow2(path: &Path) {
    const CLUSTER: u64 = 65_536;
    let mut header = Vec::new();
    let mut put = |bytes: &[u8]| header.extend_from_slice(bytes);
    put(b"QFI\xfb");
    put(&3u32.to_be_bytes());
    put(&[0; 12]); // no backing file
    put(&16u32.to_be_bytes()); // cluster bits
    put(&(1u64 << 20).to_be_bytes());
    put(&0u32.to_be_bytes()); // not encrypted
    put(&1u32.to_be_bytes()); // entries in L1
    put(&(3 * CLUSTER).to_be_bytes());
    put(&CLUSTER.to_be_bytes()); // refcount table
    put(&1u32.to_be_bytes());
    put(&[0; 12]); // no snapshots
    put(&[0; 24]); // no features
    put(&4u32.to_be_bytes()); // refcounts of 16 bits
    put(&104u32.to_be_bytes());
    let mut file = File::create(path).unwrap();
    file.set_len(4 * CLUSTER).unwrap();
    file.write_all(&header).unwrap();
    file.seek(SeekFrom::Start(CLUSTER)).unwrap();
    file.write_all(&(2 * CLUSTER).to_be_bytes()).unwrap();
    file.seek(SeekFrom::Start(2 * CLUSTER)).unwrap();
    file.write_all(&[0, 1, 0, 1, 0, 1, 0, 1]).unwrap();
}

/// The least that QEMU takes for a Linux kernel: its magic, a protocol that knows initial RAM disks, and room.
fn kernel(path: &Path) {
    let mut bytes = vec![0; 65_536];
    bytes[0x1f1] = 4;
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x0202u16.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// The arguments but for those of a TPM and of virtiofs: QEMU waits for their answers; the end-to-end tests start them.
fn without_answers(argv: &[String]) -> impl Iterator<Item = &String> {
    let of = |at: usize, what: &str| argv.get(at).is_some_and(|of| of.contains(what));
    let ours = move |at: usize| {
        argv[at] == "-tpmdev"
            || argv[at] == "-device" && of(at + 1, "tpmdev")
            || ["-chardev", "-device"].contains(&&*argv[at]) && of(at + 1, "chr-vu-")
    };
    argv.iter()
        .enumerate()
        .filter(move |&(at, _)| !ours(at) && (at == 0 || !ours(at - 1)))
        .map(|(_, text)| text)
}

struct Bench {
    directory: tempfile::TempDir,
    slots: HashMap<String, OwnedFd>,
    peers: Vec<OwnedFd>,
}

impl Bench {
    fn of(plan: &LaunchPlan) -> Self {
        let mut bench =
            Self { directory: tempfile::tempdir().unwrap(), slots: HashMap::new(), peers: Vec::new() };
        for op in &plan.ops {
            match op {
                Op::OpenImage(image) => {
                    let path = bench.image(&image.path);
                    let direct = if image.direct { libc::O_DIRECT } else { 0 };
                    let write = image.access == Access::ReadWrite;
                    let file =
                        OpenOptions::new().read(true).write(write).custom_flags(direct).open(path).unwrap();
                    bench.slots.insert(image.slot.to_string(), file.into());
                }
                Op::OpenReadable { slot, .. } | Op::OpenNvram { slot, .. } => {
                    // QEMU looks at the size of flash memory alone before the guest runs.
                    let path = bench.directory.path().join(slot.as_str().replace(':', "_"));
                    File::create(&path).unwrap().set_len(512 << 10).unwrap();
                    let write = matches!(op, Op::OpenNvram { .. });
                    let file = OpenOptions::new().read(true).write(write).open(path).unwrap();
                    bench.slots.insert(slot.to_string(), file.into());
                }
                Op::OpenVsock { slot, .. } if Path::new(VSOCK).exists() => {
                    let file = OpenOptions::new().read(true).write(true).open(VSOCK).unwrap();
                    bench.slots.insert(slot.to_string(), file.into());
                }
                Op::Channel { slot, peer } => {
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    bench.slots.insert(slot.to_string(), ours.into());
                    let kept =
                        if peer.as_str() == "monitor.peer" { &mut bench.slots } else { &mut HashMap::new() };
                    match kept.insert(peer.to_string(), theirs.try_clone().unwrap().into()) {
                        None => bench.peers.push(theirs.into()),
                        Some(_) => panic!("{peer} twice"),
                    }
                }
                _ => {}
            }
        }
        bench
    }

    fn image(&self, path: &str) -> PathBuf {
        let at = self.directory.path().join(path.replace('/', "_"));
        if !at.exists() {
            if path.ends_with("qcow2") {
                qcow2(&at)
            } else {
                File::create(&at).unwrap().set_len(1 << 20).unwrap()
            }
        }
        at
    }

    /// What this machine has not: KVM, a tap device, vsocks, large pages, a block device, and the minimal root
    /// with its boot files and shares.
    fn argument(&self, argument: &str) -> String {
        let kernel_path = self.directory.path().join("kernel");
        if !kernel_path.exists() {
            kernel(&kernel_path);
        }
        let boot = kernel_path.to_str().unwrap();
        match argument {
            "kvm" => "tcg".into(),
            "/svirt/kernel" | "/svirt/initrd" => boot.into(),
            other if other.contains("\"tap\"") => {
                let tap: serde_json::Value = serde_json::from_str(other).unwrap();
                serde_json::json!({ "type": "hubport", "id": tap["id"], "hubid": 0 }).to_string()
            }
            other if other.contains("file=/svirt/fwcfg") => {
                let (name, _) = other.split_once("file=").unwrap();
                format!("{name}file={boot}")
            }
            other if other.contains("vhost-vsock-pci") && !Path::new(VSOCK).exists() => {
                r#"{"driver":"virtio-rng-pci","id":"vsock0"}"#.into()
            }
            other if other.contains("/svirt/shmem") => {
                let mut memory: serde_json::Value = serde_json::from_str(other).unwrap();
                let place = self.directory.path().join(memory["id"].as_str().unwrap());
                File::create(&place).unwrap().set_len(memory["size"].as_u64().unwrap()).unwrap();
                memory["mem-path"] = place.to_str().unwrap().into();
                memory.to_string()
            }
            other if other.starts_with("host,") => other.replacen("host", "max", 1),
            other if other.starts_with("local,") => {
                let place = self.directory.path().to_str().unwrap();
                SHARES.iter().fold(other.to_owned(), |text, share| text.replace(share, place))
            }
            other => other.replace("host_device", "file").replace(HUGE, ""),
        }
    }

    fn run(mut self, name: &str, spawn: &Spawn) {
        let monitor = UnixStream::from(self.slots.remove("monitor.peer").unwrap());
        let log = self.directory.path().join("stderr");
        let stderr = File::create(&log).unwrap();
        let null = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        let text = |argument: &String| CString::new(self.argument(argument)).unwrap();
        let argv: Vec<CString> = without_answers(&spawn.argv).map(text).collect();
        let argv: Vec<_> = argv.iter().map(CString::as_c_str).collect();
        let mut placed = vec![(null.as_raw_fd(), 0), (null.as_raw_fd(), 1), (stderr.as_raw_fd(), 2)];
        for grant in &spawn.fds {
            // The tap device is not there.
            let held = self.slots.get(grant.slot.as_str()).map_or(null.as_raw_fd(), AsRawFd::as_raw_fd);
            placed.push((held, grant.number));
        }
        let child = process::fork(|| {
            process::die_with_parent(true).unwrap();
            process::place_fds(&placed, &mut []).unwrap();
            let error = process::exec(&CString::new(EMULATOR).unwrap(), &argv, &[c"LC_ALL=C"]);
            eprintln!("{error}");
            1
        })
        .unwrap();
        self.slots.clear();
        monitor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The greeting comes from a thread of its own; the state only from a machine that is complete.
        let asked =
            (&monitor).write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-status\"}\n");
        let state =
            BufReader::new(&monitor).lines().map_while(Result::ok).find(|line| line.contains("\"status\""));
        child.end().unwrap();
        let said = fs::read_to_string(&log).unwrap();
        let ready = state.as_ref().is_some_and(|line| line.contains("\"prelaunch\""));
        assert!(ready && asked.is_ok(), "{name}: {state:?} {said}");
        assert!(!said.contains("deprecated"), "{name}: {said}");
    }
}

#[test]
fn qemu_takes_every_golden_command_line() {
    if !Path::new(EMULATOR).exists() {
        println!("skipped: {EMULATOR} is not installed");
        return;
    }
    let mut taken = 0;
    for entry in fs::read_dir(GOLDEN).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "xml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let plan = plans::of(&name).unwrap();
        let Some(Op::Spawn(spawn)) = plan.ops.last() else { panic!("{name} spawns nothing") };
        Bench::of(&plan).run(&name, spawn);
        taken += 1;
    }
    assert!(taken >= 12);
}
