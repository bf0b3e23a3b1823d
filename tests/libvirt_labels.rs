//! What Debian's libvirtd does to the files of a running domain, and what virt-aa-helper would allow it, against what
//! svirt plans for the same definition. Each difference stands in the table with its reason.
//!
//! libvirtd runs in namespaces of its own, over directories of the test: nothing of the host's is used or left behind.
#![cfg(feature = "frontend")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use svirt::base::{Layer, Refusal};
use svirt::conf::domain_xml;
use svirt::driver;
use svirt::plan::chain::{Found, Prober};
use svirt::privsep::op::FileIdentity;
use svirt::security::decide::Model;
use svirt::settings::Settings;

/// The uid and gid that libvirtd gives to every guest here.
const GUEST: u32 = 64_055;
/// Who owns the files before.
const OWNER: u32 = 61_234;
const UUID: &str = "6a4c5a4e-0a5b-4d6e-9a53-6f4f1f2f9a01";
const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const HELPER: &str = "/usr/lib/libvirt/virt-aa-helper";

/// One file of the domain.
struct Row {
    file: &'static str,
    /// Whether libvirt gives it to the guest, remembers the owner, and brings it back.
    libvirt: &'static str,
    /// What virt-aa-helper lets the guest do to it by name.
    rule: &'static str,
    /// What svirt does for `dac` and for `apparmor`.
    svirt: [&'static str; 2],
    /// Why svirt does otherwise; empty where it does the same.
    why: &'static str,
}

const HANDED: [&str; 2] = ["handed", "handed"];
const ROWS: &[Row] = &[
    Row {
        file: "top.qcow2",
        libvirt: "the guest's, remembered, restored",
        rule: "rwk",
        svirt: HANDED,
        why: "an owner could change the mode and open it again; a descriptor needs neither owner nor rule",
    },
    Row {
        file: "base.qcow2",
        libvirt: "the guest's, stays so",
        rule: "rk",
        svirt: HANDED,
        why: "libvirt leaves layers that other guests read to the uid of all guests, who may then write them",
    },
    Row {
        file: "readonly.raw",
        libvirt: "the guest's, stays so",
        rule: "rk",
        svirt: HANDED,
        why: "what is read only is not given to whoever may not write it",
    },
    Row {
        file: "shared.raw",
        libvirt: "the guest's, stays so",
        rule: "rwk",
        svirt: HANDED,
        why: "libvirt does not know when the last of those that share it ends",
    },
    Row {
        file: "install.iso",
        libvirt: "the guest's, stays so",
        rule: "rk",
        svirt: HANDED,
        why: "as other files that are read only",
    },
    Row {
        file: "kernel",
        libvirt: "the guest's, remembered, restored",
        rule: "r",
        svirt: ["content", "rule"],
        why: "it is mounted, alone and read-only, into the guest's root; who owns it does not matter",
    },
    Row {
        file: "initrd",
        libvirt: "the guest's, remembered, restored",
        rule: "r",
        svirt: ["content", "rule"],
        why: "as the kernel",
    },
    Row {
        file: "vars.fd",
        libvirt: "the guest's, remembered, restored",
        rule: "rwk",
        svirt: HANDED,
        why: "as a disk",
    },
    Row {
        file: "serial.log",
        libvirt: "the guest's, remembered, then root's",
        rule: "rw",
        svirt: ["never", "never"],
        why: "the supervisor writes it; the device model has one end of a pair of sockets",
    },
    Row { file: CODE, libvirt: "untouched", rule: "rk", svirt: HANDED, why: "" },
];

fn definition(images: &Path) -> String {
    let at = |name: &str| images.join(name).display().to_string();
    format!(
        "<domain type='qemu'><name>compared</name><uuid>{UUID}</uuid><memory>65536</memory>
<os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>{CODE}</loader>
<nvram>{}</nvram><kernel>{}</kernel><initrd>{}</initrd></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file'><driver name='qemu' type='qcow2'/><source file='{}'/><backingStore type='file'>
<format type='qcow2'/><source file='{}'/><backingStore/></backingStore><target dev='vda' bus='virtio'/></disk>
<disk type='file'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vdb' bus='virtio'/><readonly/></disk>
<disk type='file'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vdc' bus='virtio'/><shareable/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{}'/><target dev='sda' bus='sata'/>
<readonly/></disk>
<serial type='file'><source path='{}'/></serial><video><model type='none'/></video><memballoon model='none'/>
</devices></domain>",
        at("vars.fd"),
        at("kernel"),
        at("initrd"),
        at("top.qcow2"),
        at("base.qcow2"),
        at("readonly.raw"),
        at("shared.raw"),
        at("install.iso"),
        at("serial.log"),
    )
}

/// The least that QEMU takes for a Linux kernel.
fn kernel() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0x1f1, &[1]);
    put(0x1fe, &[0x55, 0xaa]);
    put(0x202, b"HdrS");
    put(0x206, &0x0206_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x37ff_ffff_u32.to_le_bytes());
    bytes
}

/// The files, owned by somebody who is neither root nor the guest.
fn make_images(images: &Path) {
    fs::create_dir(images).unwrap();
    let image = |arguments: &[&str]| {
        let done = Command::new("qemu-img").current_dir(images).args(arguments).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    image(&["create", "-q", "-f", "qcow2", "base.qcow2", "4M"]);
    image(&["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]);
    for raw in ["readonly.raw", "shared.raw", "install.iso", "initrd", "serial.log"] {
        fs::write(images.join(raw), vec![0; 1 << 20]).unwrap();
    }
    fs::write(images.join("kernel"), kernel()).unwrap();
    fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", images.join("vars.fd")).unwrap();
    for entry in fs::read_dir(images).unwrap() {
        chown(entry.unwrap().path(), Some(OWNER), Some(OWNER)).unwrap();
    }
}

/// libvirtd over directories of its own; it ends, with all that it started, once its standard input does.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(directory: &Path) -> Self {
        fs::create_dir(directory.join("etc")).unwrap();
        let conf = format!(
            "user = \"+{GUEST}\"\ngroup = \"+{GUEST}\"\ndynamic_ownership = 1\nremember_owner = 1\n\
             namespaces = []\ncgroup_controllers = []\nstdio_handler = \"file\"\nhugetlbfs_mount = []\n\
             swtpm_user = \"root\"\nswtpm_group = \"root\"\n"
        );
        fs::write(directory.join("etc/qemu.conf"), conf).unwrap();
        let output = fs::File::create(directory.join("output")).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/twin/libvirtd.sh");
        let child = Command::new("unshare")
            .args(["--mount", "--mount-proc", "--pid", "--fork", "--net", "--ipc", "sh", script])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut daemon = Self { child, socket: directory.join("sock/libvirt-sock") };
        let limit = Instant::now() + Duration::from_secs(300);
        while !daemon.virsh(&["version"]).status.success() {
            let ended = daemon.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < limit,
                "libvirtd does not answer: {}",
                fs::read_to_string(directory.join("output")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        daemon
    }

    /// A call may wait until libvirtd has asked each emulator what it can do.
    fn virsh(&self, arguments: &[&str]) -> Output {
        let uri = format!("qemu+unix:///system?socket={}", self.socket.display());
        let mut virsh = Command::new("timeout");
        virsh.args(["300", "virsh", "-q", "-c", &uri]).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.virsh(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}

/// What is missing here, if anything.
fn lacking(directory: &Path) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root".into());
    }
    for (tool, package) in [
        ("libvirtd", "libvirt-daemon and libvirt-daemon-driver-qemu"),
        ("virsh", "libvirt-clients"),
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("qemu-img", "qemu-utils"),
        ("unshare", "util-linux"),
    ] {
        let found = ["/usr/sbin", "/usr/bin"].iter().any(|place| Path::new(place).join(tool).exists());
        if !found {
            return Some(format!("{tool} (Debian: {package})"));
        }
    }
    if !Path::new(CODE).exists() {
        return Some(format!("{CODE} (Debian: ovmf)"));
    }
    let probe = directory.join("probe");
    fs::write(&probe, "").unwrap();
    if setxattr(&probe, "trusted.svirt.probe", b"1", XattrFlags::empty()).is_err() {
        return Some("a file system and a right for trusted.* attributes".into());
    }
    let namespaces = ["--mount", "--mount-proc", "--pid", "--fork", "--net", "--ipc", "true"];
    let namespaces = Command::new("unshare").args(namespaces).status();
    (!namespaces.is_ok_and(|status| status.success())).then(|| "namespaces".into())
}

fn owner(path: &Path) -> u32 {
    fs::metadata(path).unwrap().uid()
}

fn remembered(path: &Path) -> bool {
    let mut value = [0_u8; 256];
    getxattr(path, "trusted.libvirt.security.dac", &mut value[..]).is_ok()
}

/// Reads no image: the definition names every layer.
struct Unread;

impl Prober for Unread {
    fn probe(&mut self, path: &str) -> Result<Found, Refusal> {
        Err(Refusal::new(Layer::Kernel, "read", path, "nobody reads it here", "name the layers"))
    }

    fn directory(&mut self, path: &str) -> Result<FileIdentity, Refusal> {
        Err(Refusal::new(Layer::Kernel, "look at", path, "nobody looks at it here", ""))
    }
}

/// What svirt does with each path of the definition, model by model.
fn planned(xml: &str, images: &Path) -> BTreeMap<String, [String; 2]> {
    let mut settings = Settings::default();
    settings.images.relabelable = vec![images.display().to_string()];
    let domain = domain_xml::parse(xml.as_bytes()).unwrap();
    let (prepared, _) = driver::prepare_unread(domain, &settings, &mut Unread);
    let rows = prepared
        .labels(&[], &common::plans::host("apparmor"), &settings, &[Model::Dac, Model::Apparmor])
        .unwrap();
    let mut found: BTreeMap<String, [String; 2]> = BTreeMap::new();
    for row in rows {
        let Some(path) = row.path else { continue };
        let action = serde_json::to_value(row.decision.action).unwrap().as_str().unwrap().to_owned();
        found.entry(path).or_default()[usize::from(row.model == Model::Apparmor)] = action;
    }
    found
}

#[test]
fn every_difference_from_libvirtd_is_intended() {
    let directory = tempfile::tempdir().unwrap();
    if let Some(what) = lacking(directory.path()) {
        println!("skipped: needs {what}");
        return;
    }
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let images = directory.path().join("images");
    make_images(&images);
    let xml = definition(&images);
    let file = directory.path().join("domain.xml");
    fs::write(&file, &xml).unwrap();

    let daemon = Daemon::start(directory.path());
    let code = owner(Path::new(CODE));
    daemon.done(&["define", file.to_str().unwrap()]);
    daemon.done(&["start", "--paused", "compared"]);
    let live = daemon.done(&["dumpxml", "--security-info", "compared"]);
    let during: Vec<(u32, bool)> =
        ROWS.iter().map(|row| images.join(row.file)).map(|path| (owner(&path), remembered(&path))).collect();
    daemon.done(&["destroy", "compared"]);

    // One uid for all guests; svirt gives each its own.
    assert!(live.contains(&format!("<label>+{GUEST}:+{GUEST}</label>")), "{live}");
    let planned = planned(&xml, &images);
    assert_eq!(planned.len(), ROWS.len(), "{planned:?}");
    for (row, (held, kept)) in ROWS.iter().zip(during) {
        let path = images.join(row.file);
        let before = if row.file == CODE { code } else { OWNER };
        let found = match (held == GUEST, kept, owner(&path) == before) {
            (true, true, true) => "the guest's, remembered, restored",
            (true, false, false) => "the guest's, stays so",
            // libvirtd makes the file its own before it remembers whose it was.
            (true, true, false) if owner(&path) == 0 => "the guest's, remembered, then root's",
            (false, false, true) => "untouched",
            other => panic!("{}: given, remembered, restored: {other:?}", row.file),
        };
        assert_eq!(found, row.libvirt, "{}", row.file);
        assert_eq!(planned[path.to_str().unwrap()], row.svirt, "{}: {}", row.file, row.why);
        let same = row.libvirt == "untouched" && row.svirt[0] == "handed";
        assert_eq!(same, row.why.is_empty(), "{}: a difference has a reason", row.file);
    }
}

#[test]
fn every_difference_from_virt_aa_helper_is_intended() {
    let directory = tempfile::tempdir().unwrap();
    let needed = [(HELPER, "libvirt-daemon"), ("/etc/apparmor.d", "apparmor")];
    let missing = needed.iter().find(|(path, _)| !Path::new(path).exists());
    let missing = missing.map(|(path, package)| format!("{path} (Debian: {package})"));
    if let Some(what) = lacking(directory.path()).or(missing) {
        println!("skipped: needs {what}");
        return;
    }
    // It refuses images in /tmp only by name; the profile is printed, and nothing is loaded.
    let images = directory.path().join("images");
    make_images(&images);
    let file = directory.path().join("domain.xml");
    fs::write(&file, definition(&images)).unwrap();
    let script = format!(
        "set -e; mount -t tmpfs none /etc/apparmor.d; mkdir /etc/apparmor.d/libvirt
         printf 'profile LIBVIRT_TEMPLATE flags=(attach_disconnected) {{\\n}}\\n' > /etc/apparmor.d/libvirt/TEMPLATE.qemu
         exec {HELPER} -d -c -u libvirt-{UUID} < \"$0\""
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    for row in ROWS {
        let path = images.join(row.file);
        let rule = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("\"{}\" ", path.display())))
            .map(|rule| rule.trim_end_matches(','));
        assert_eq!(rule, Some(row.rule), "{}\n{text}", row.file);
        // Only what QEMU opens itself has a rule, and it is for the one mount, not for the host's path.
        assert_eq!(row.svirt[1] == "rule", row.rule == "r", "{}", row.file);
    }
}
