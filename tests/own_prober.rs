//! Chains of real images, read by the real image probe, for a caller without the labeller.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use std::path::Path;
use std::process::Command;

use svirt::base::{Files, Refusal};
use svirt::conf::domain::Domain;
use svirt::conf::domain_xml::parse;
use svirt::driver::{OwnProber, prepare};
use svirt::settings::Settings;

struct Images(tempfile::TempDir);

impl Images {
    fn new() -> Option<Self> {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            println!("skipped: qemu-img is not installed");
            return None;
        }
        Some(Self(tempfile::tempdir().unwrap()))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn img(&self, arguments: &[&str]) {
        let run = Command::new("qemu-img").args(arguments).current_dir(self.0.path()).output().unwrap();
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    }

    fn resolve(&self, name: &str, format: &str) -> Result<Vec<String>, Refusal> {
        let probe = Path::new(env!("CARGO_BIN_EXE_svirt-imageprobe"));
        let mut settings = Settings::default();
        settings.paths.libexec = probe.parent().unwrap().to_str().unwrap().into();
        let xml = format!(
            "<domain type='qemu'><name>a</name><memory>65536</memory><os><type>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
            self.path(name)
        );
        let domain: Domain = parse(xml.as_bytes()).unwrap();
        let prepared = prepare(domain, &Files::ALL, &settings, &mut OwnProber::new(&settings))
            .map_err(|error| error.refusal())?;
        let file = |path: &str| path.rsplit_once('/').unwrap().1.to_owned();
        Ok(prepared.chains[0].layers.iter().map(|layer| file(&layer.path)).collect())
    }
}

#[test]
fn real_chains_resolve() {
    let Some(images) = Images::new() else { return };
    images.img(&["create", "-q", "-f", "raw", "base", "1M"]);
    images.img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "mid"]);
    images.img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=2M",
        "-b",
        &images.path("mid"),
        "-F",
        "qcow2",
        "top",
    ]);
    assert_eq!(images.resolve("top", "qcow2").unwrap(), ["top", "mid", "base"]);
    // A raw disk on which a guest wrote a whole image stays one raw layer.
    assert_eq!(images.resolve("top", "raw").unwrap(), ["top"]);
}

#[test]
fn hostile_images_are_refused_with_a_remedy() {
    let Some(images) = Images::new() else { return };
    images.img(&["create", "-q", "-f", "raw", "base", "1M"]);
    let overlay = |name: &str| images.img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", name]);
    let rebased = |name: &str, arguments: &[&str]| {
        overlay(name);
        images.img(&[&["rebase", "-q", "-u"], arguments, &[name]].concat());
    };
    rebased("json", &["-F", "raw", "-b", r#"json:{"driver":"file","filename":"/etc/shadow"}"#]);
    rebased("nbd", &["-F", "raw", "-b", "nbd://localhost:10809"]);
    rebased("fdset", &["-F", "raw", "-b", "/dev/fdset/1"]);
    rebased("gone", &["-F", "raw", "-b", "gone-base"]);
    rebased("loop", &["-F", "qcow2", "-b", "loop"]);
    images.img(&["create", "-q", "-f", "qcow2", "-o", "data_file=data,data_file_raw=on", "data-file", "1M"]);
    images.img(&["create", "-q", "-f", "vmdk", "vmdk", "1M"]);
    std::os::unix::fs::symlink(images.path("nowhere"), images.path("dangling")).unwrap();
    std::fs::create_dir(images.path("directory")).unwrap();
    Command::new("mkfifo").arg(images.path("fifo")).status().unwrap();
    let cases = [
        ("json", "protocol"),
        ("nbd", "protocol"),
        ("fdset", "descriptor"),
        ("gone", "No such file"),
        ("loop", "comes back"),
        ("data-file", "another file"),
        ("vmdk", "vmdk"),
        ("base", "raw"),
        ("directory", "neither"),
        ("fifo", "neither"),
        ("dangling", "No such file"),
    ];
    for (name, word) in cases {
        let refusal = images.resolve(name, "qcow2").unwrap_err();
        assert!(refusal.to_string().contains(word), "{name}: {word:?} is not in: {refusal}");
        assert!(!refusal.remedy.is_empty(), "{name}: {refusal}");
    }
}
