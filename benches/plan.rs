//! What planning costs: a whole plan, and the draw of a category pair when nearly all are taken.
//!
//! Promises (docs/spec.md): 16 disks of 5 layers below 5 ms; a pair with 99.9 % of 523,776 taken below 10 us.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, missing_docs, clippy::panic)]

use std::fmt::Write;

use divan::{Bencher, black_box};
use svirt::base::{CategoryPair, Files, Refusal};
use svirt::conf::domain::Domain;
use svirt::conf::domain_xml::parse;
use svirt::conf::facts::{Emulator, HostFacts, SelinuxFacts};
use svirt::image::Header;
use svirt::plan::chain::{self, Chain, Found, Prober};
use svirt::plan::{Inputs, build, render};
use svirt::privsep::op::{FileIdentity, ImageKind, LaunchPlan};
use svirt::privsep::request::Survey;
use svirt::security::mcs::{Taken, allocate};
use svirt::security::range::CategoryRange;
use svirt::settings::Settings;

const DISKS: usize = 16;
const LAYERS: u64 = 5;

fn main() {
    divan::main();
}

/// Every image `NAME.N` lies on `NAME.N+1`, down to the last layer.
struct Store;

impl Prober for Store {
    fn probe(&mut self, path: &str) -> Result<Found, Refusal> {
        let (name, depth) = path.rsplit_once('.').unwrap();
        let depth: u64 = depth.parse().unwrap();
        let disk: u64 = name.rsplit_once("disk").unwrap().1.parse().unwrap();
        let below = (depth + 1 < LAYERS).then(|| format!("disk{disk}.{}", depth + 1));
        let header = Header {
            format: "qcow2".into(),
            virtual_size: 1 << 30,
            backing_format: below.as_ref().map(|_| "qcow2".into()),
            backing_file: below,
            data_file: None,
            needs_data_file: false,
            encrypted: false,
            unknown_features: 0,
            qcow2: None,
        };
        Ok(Found {
            identity: FileIdentity { device: 1, inode: disk * 100 + depth + 1 },
            kind: ImageKind::File,
            header,
        })
    }

    fn directory(&mut self, path: &str) -> Result<FileIdentity, Refusal> {
        Ok(svirt::plan::inventory::made_up(path))
    }
}

fn xml() -> String {
    let mut disks = String::new();
    for disk in 0..DISKS {
        let letter = char::from(b'a' + u8::try_from(disk).unwrap());
        write!(
            disks,
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/var/lib/svirt/images/disk{disk}.0'/><target dev='vd{letter}' bus='virtio'/></disk>"
        )
        .unwrap();
    }
    format!(
        "<domain type='qemu'><name>bench</name><uuid>11111111-2222-3333-4444-555555555555</uuid><memory>1048576</memory><vcpu>4</vcpu><os><type>hvm</type></os><devices>{disks}</devices></domain>"
    )
}

fn chains(domain: &Domain) -> Vec<Chain> {
    domain
        .devices
        .disks
        .iter()
        .map(|disk| chain::resolve(disk, 200, &Files::ALL, &mut Store).unwrap())
        .collect()
}

fn host() -> HostFacts {
    HostFacts {
        landlock_abi: 2,
        selinux: Some(SelinuxFacts { enforcing: true }),
        kvm: true,
        emulators: vec![Emulator { path: "/usr/bin/qemu-system-x86_64".into(), version: (7, 2, 22) }],
        cpus: 2,
        ..HostFacts::default()
    }
}

fn plan(
    domain: &Domain,
    chains: &[Chain],
    host: &HostFacts,
    settings: &Settings,
    survey: &Survey,
) -> LaunchPlan {
    let uuid = domain.uuid.unwrap();
    let inputs = Inputs {
        domain,
        uuid,
        host,
        settings,
        chains,
        shares: &[],
        survey,
        seed: 7,
        paused: false,
        restore: None,
    };
    build(&inputs).unwrap()
}

/// Every pair but one in a thousand.
fn crowded() -> Vec<CategoryPair> {
    let pairs = (0..1024u16).flat_map(|high| (0..high).map(move |low| CategoryPair::new(low, high).unwrap()));
    pairs.enumerate().filter(|(at, _)| at % 1000 != 999).map(|(_, pair)| pair).collect()
}

#[divan::bench]
fn parse_16_disks(bencher: Bencher<'_, '_>) {
    let xml = xml();
    bencher.bench(|| parse(black_box(xml.as_bytes())).unwrap());
}

#[divan::bench]
fn plan_16_disks_of_5_layers(bencher: Bencher<'_, '_>) {
    let domain = parse(xml().as_bytes()).unwrap();
    let (host, settings, survey) = (host(), Settings::default(), Survey::default());
    bencher.bench(|| plan(&domain, &chains(&domain), &host, &settings, &survey));
}

#[divan::bench]
fn plan_beside_1000_domains(bencher: Bencher<'_, '_>) {
    let domain = parse(xml().as_bytes()).unwrap();
    let (host, settings) = (host(), Settings::default());
    let pairs = crowded().into_iter().take(1000).collect();
    let survey = Survey { pairs, ..Survey::default() };
    bencher.bench(|| plan(&domain, &chains(&domain), &host, &settings, &survey));
}

#[divan::bench]
fn render_16_disks_of_5_layers(bencher: Bencher<'_, '_>) {
    let domain = parse(xml().as_bytes()).unwrap();
    let plan = plan(&domain, &chains(&domain), &host(), &Settings::default(), &Survey::default());
    bencher.bench(|| render(black_box(&plan)));
}

#[divan::bench]
fn pair_with_999_of_1000_taken(bencher: Bencher<'_, '_>) {
    let taken = Taken::of(CategoryRange::ALL, crowded());
    let mut seed = 0;
    bencher.bench_local(|| {
        seed += 1;
        allocate(black_box(&taken), seed).unwrap()
    });
}

#[divan::bench]
fn last_free_pair(bencher: Bencher<'_, '_>) {
    let free = CategoryPair::new(17, 901).unwrap();
    let all = (0..1024u16).flat_map(|high| (0..high).map(move |low| CategoryPair::new(low, high).unwrap()));
    let taken = Taken::of(CategoryRange::ALL, all.filter(|pair| *pair != free));
    let mut seed = 0;
    bencher.bench_local(|| {
        seed += 1;
        assert_eq!(allocate(black_box(&taken), seed), Some(free));
    });
}
