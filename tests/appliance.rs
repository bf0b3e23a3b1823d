//! Appliances against hosts: what is met, which boot descriptor is deployed, and that the domain which comes out is planned.
#![cfg(feature = "frontend")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

use svirt::base::Files;
use svirt::conf::appliance::{Appliance, Offer, Verdict, check, domain_xml};
use svirt::conf::capabilities::{Capabilities, Cell, Guest, Host, Machine, SecurityModel};
use svirt::conf::definition::{Definition, Strictness};
use svirt::conf::facts::{Emulator, HostFacts, SelinuxFacts};
use svirt::driver::{self, OwnProber};
use svirt::privsep::request::Survey;
use svirt::security::doi::Tables;
use svirt::settings::Settings;

const WEB: &[u8] = include_bytes!("data/appliance/web.xml");
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A host of 1 GiB and four CPUs with these models, each with its domains of interpretation.
fn host(models: &[(&str, &[&str], bool)]) -> Capabilities {
    let security = models.iter().map(|(model, dois, enforcing)| SecurityModel {
        model: (*model).into(),
        dois: dois.iter().map(|doi| (*doi).to_owned()).collect(),
        enforcing: *enforcing,
        ..SecurityModel::default()
    });
    let machine = |name: &str| Machine { name: name.into(), alias: None, cpus: 255, deprecated: false };
    Capabilities {
        host: Host {
            cells: vec![Cell { memory: 1 << 20, cpus: vec![Default::default(); 4], ..Cell::default() }],
            security: security.collect(),
            ..Host::default()
        },
        guests: vec![Guest {
            arch: "x86_64".into(),
            wordsize: 64,
            emulator: QEMU.into(),
            machines: vec![machine("pc-q35-7.2")],
            domains: vec!["qemu".into()],
        }],
    }
}

fn verdicts(appliance: &Appliance, host: &Capabilities, kept: (u64, u32)) -> Vec<Verdict> {
    let tables = Tables::load(&[]).unwrap();
    let offer = Offer {
        capabilities: host,
        boards: None,
        vcpus: 255,
        kept_memory: kept.0,
        kept_cpus: kept.1,
        leads: &|model, from, to| tables.lead(model, from, to),
    };
    check(appliance, &offer)
}

fn unmet(verdict: &Verdict) -> Vec<&str> {
    verdict.findings.iter().filter(|f| !f.met).map(|f| f.need.as_str()).collect()
}

#[test]
fn the_host_decides_which_boot_descriptor_fits() {
    let web = Appliance::parse(WEB).unwrap();
    let fits = |models: &[(&str, &[&str], bool)]| {
        verdicts(&web, &host(models), (0, 0)).iter().map(Verdict::fits).collect::<Vec<_>>()
    };
    let dac: (&str, &[&str], bool) = ("dac", &["0"], true);
    assert_eq!(fits(&[dac]), [false, false, true]);
    assert_eq!(fits(&[("selinux", &["libvirt"], true), dac]), [false, true, true], "it holds the DOI");
    assert_eq!(fits(&[("selinux", &["0", "svirt"], true), dac]), [false, true, true], "a table leads there");
    assert_eq!(fits(&[("selinux", &["0"], true), dac]), [false, false, true], "another DOI");
    assert_eq!(fits(&[("selinux", &["libvirt"], false), dac]), [false, false, true], "permissive");
    assert_eq!(fits(&[("dac", &["7"], true)]), [false, false, false]);
    let xen = &verdicts(&web, &host(&[dac]), (0, 0))[0];
    assert!(unmet(xen).iter().any(|need| need.contains("pygrub")) && xen.emulator.is_none(), "{xen:?}");
}

#[test]
fn each_prerequisite_that_is_not_met_is_named() {
    let text = String::from_utf8(WEB.to_vec()).unwrap();
    for (from, to, need) in [
        ("<memory>131072<", "<memory>2097152<", "2048 MiB of memory"),
        ("<vcpu>1<", "<vcpu>300<", "300 virtual CPUs"),
        ("<arch>i686<", "<arch>riscv64<", "hvm guest of riscv64"),
        ("<pae/>", "<viridian/>", "feature viridian"),
        ("target='hda'", "target='fda'", "disk fda (root.qcow2, qcow2)"),
        ("use='system' format='qcow2'", "use='system' format='vmdk'", "disk hda (root.qcow2, vmdk)"),
        ("<seclabel model='dac'>", "<seclabel model='smack'>", "security model smack, DOI 0"),
    ] {
        assert!(text.contains(from), "{from}");
        let appliance = Appliance::parse(text.replacen(from, to, 1).as_bytes()).unwrap();
        let last = verdicts(&appliance, &host(&[("dac", &["0"], true)]), (0, 0)).pop().unwrap();
        assert_eq!(unmet(&last), [need]);
    }
    let web = Appliance::parse(WEB).unwrap();
    let dac = host(&[("dac", &["0"], true)]);
    assert_eq!(unmet(&verdicts(&web, &dac, (1000 << 20, 0))[2]), ["128 MiB of memory"], "the host keeps it");
    assert_eq!(unmet(&verdicts(&web, &dac, (0, 4))[2]), ["1 virtual CPUs"], "the host keeps them all");
}

#[test]
fn what_is_unknown_or_escapes_is_refused_with_its_line() {
    let text = String::from_utf8(WEB.to_vec()).unwrap();
    for (from, to) in [
        ("<interface/>", "<interface/><tpm/>"),
        ("<interface/>", "<interface model='x'/>"),
        ("file='root.qcow2'", "file='../root.qcow2'"),
        ("file='root.qcow2'", "file='/etc/passwd'"),
        ("<memory>131072</memory>", ""),
        ("<memory>131072<", "<memory>0<"),
        ("<vcpu>1<", "<vcpu>one<"),
        ("<boot type='xen'>", "<boot type='uml'>"),
        ("disk='root.qcow2' target='vda'", "disk='other' target='vda'"),
        ("target='vda'", "target='v&apos;da'"),
        ("<name>web</name>", "<name>a/b</name>"),
        ("<doi>libvirt</doi>", ""),
        ("<doi>libvirt</doi>", "<doi>lib virt</doi>"),
        ("<seclabel model='dac'>", "<seclabel model='dac'><trusted/>"),
        ("<image>", "<machine>"),
    ] {
        assert!(text.contains(from), "{from}");
        let wrong = text
            .replacen(from, to, 1)
            .replace(if from == "<image>" { "</image>" } else { "\0" }, "</machine>");
        let error = Appliance::parse(wrong.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("line"), "{to}: {error}");
    }
}

#[test]
fn the_domain_that_comes_out_is_planned_with_its_labels_translated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    std::fs::create_dir(directory.path().join("data")).unwrap();
    std::fs::write(directory.path().join("data/scratch.img"), vec![0; 1 << 20]).unwrap();
    // The header of an empty qcow2 of 1 MiB.
    let mut header = vec![0_u8; 1 << 16];
    header[..4].copy_from_slice(b"QFI\xfb");
    for (at, value) in [(7, 3), (23, 16), (29, 16), (39, 1), (46, 3), (54, 2), (59, 1), (99, 4), (103, 104)] {
        header[at] = value;
    }
    std::fs::write(directory.path().join("root.qcow2"), header).unwrap();
    let web = Appliance::parse(WEB).unwrap();
    let verdicts = verdicts(&web, &host(&[("selinux", &["svirt"], true)]), (0, 0));
    let xml = domain_xml(&web, &web.boots[1], &verdicts[1], path);
    let (kept, warnings) = Definition::parse(xml.as_bytes(), Strictness::Strict).unwrap();
    assert!(warnings.is_empty());
    let mut settings = Settings::default();
    settings.images.relabelable = vec![path.to_owned()];
    settings.selinux.doi = vec!["svirt".into()];
    settings.paths.libexec =
        Path::new(env!("CARGO_BIN_EXE_svirt")).parent().unwrap().to_str().unwrap().to_owned();
    let facts = HostFacts {
        selinux: Some(SelinuxFacts { enforcing: true }),
        emulators: vec![Emulator { path: QEMU.into(), version: (7, 2, 22) }],
        landlock_abi: 7,
        cpus: 4,
        online: vec![0, 1, 2, 3],
        memory: 1 << 30,
        ..HostFacts::default()
    };
    let prepared =
        driver::prepare(kept.domain().unwrap(), &Files::ALL, &settings, &mut OwnProber::new(&settings))
            .unwrap();
    let plan =
        prepared.plan(&facts, &settings, &Survey::default(), 7, svirt::driver::Begin::default()).unwrap();
    let text = svirt::plan::render(&plan);
    assert!(text.contains("svirt_guest_tcg_t:s0:c1,c2"), "{text}");
    assert!(text.contains("because: selinux label") && text.contains("selinux-libvirt-svirt.toml"), "{text}");
    assert!(text.contains("dump-guest-core=off") && !text.contains(", CPUs"), "{text}");
    settings.host.enable_dump = true;
    settings.host.cpus = 1;
    let text = svirt::plan::render(
        &prepared.plan(&facts, &settings, &Survey::default(), 7, svirt::driver::Begin::default()).unwrap(),
    );
    assert!(text.contains("dump-guest-core=on") && text.contains(", CPUs 1,2,3"), "{text}");
    assert!(text.contains("core unlimited"), "{text}");
    settings.selinux.doi = vec!["elsewhere".into()];
    let refused =
        prepared.plan(&facts, &settings, &Survey::default(), 7, svirt::driver::Begin::default()).unwrap_err();
    assert!(refused.refusal().rule.contains("\"elsewhere\""), "{refused}");
}

#[test]
fn the_command_says_what_fits_and_writes_the_domain() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("svirt.toml");
    let cache = directory.path().join("cache");
    std::fs::write(&config, format!("[paths]\ncache = {:?}\n", cache.to_str().unwrap())).unwrap();
    let other = directory.path().join("host.xml");
    let output = directory.path().join("domain.xml");
    let run = |models: &[(&str, &[&str], bool)]| -> Output {
        std::fs::write(&other, host(models).to_xml()).unwrap();
        Command::new(env!("CARGO_BIN_EXE_svirt"))
            .args([
                "--config",
                config.to_str().unwrap(),
                "check-appliance",
                "--images",
                "/var/lib/svirt/images",
            ])
            .args(["--capabilities", other.to_str().unwrap(), "-o", output.to_str().unwrap()])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/appliance/web.xml"))
            .output()
            .unwrap()
    };
    let unfit = run(&[("dac", &["7"], true)]);
    assert_eq!(unfit.status.code(), Some(7), "{unfit:?}");
    assert!(String::from_utf8_lossy(&unfit.stdout).contains("NO   security model dac, DOI 0"), "{unfit:?}");
    assert!(!output.exists(), "nothing is deployed");
    let fits = run(&[("dac", &["0"], true)]);
    assert_eq!(fits.status.code(), Some(0), "{fits:?}");
    assert!(
        String::from_utf8_lossy(&fits.stdout).contains("boot 3 (hvm, i686) fits, and is the one to deploy")
    );
    let xml = std::fs::read_to_string(&output).unwrap();
    let domain = svirt::conf::domain_xml::parse(xml.as_bytes()).unwrap();
    assert_eq!((domain.os.machine.as_str(), domain.devices.disks[0].target.as_str()), ("pc", "hda"), "{xml}");
    assert_eq!(domain.metadata.bindings[0].doi, "0");
    // The next one is shorter: nothing of the old one stays.
    assert_eq!(run(&[("selinux", &["libvirt"], true)]).status.code(), Some(0));
    let again = std::fs::read_to_string(&output).unwrap();
    assert!(svirt::conf::domain_xml::parse(again.as_bytes()).is_ok(), "{again}");
    // Where nothing fits, what was there stays.
    assert_eq!(run(&[("dac", &["7"], true)]).status.code(), Some(7));
    assert_eq!(std::fs::read_to_string(&output).unwrap(), again);
    // A file that cannot be made is named, and the command fails.
    std::fs::remove_file(&output).unwrap();
    std::fs::create_dir(&output).unwrap();
    let unwritten = run(&[("dac", &["0"], true)]);
    assert_eq!(unwritten.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&unwritten.stderr).contains("domain.xml: Is a directory"),
        "{unwritten:?}"
    );
}
