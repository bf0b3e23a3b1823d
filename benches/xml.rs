//! How long it takes to read a definition: a typical one, and the largest that runs in practice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use divan::Bencher;
use svirt::conf::definition::{Definition, Strictness, View};
use svirt::conf::{domain_xml, xml::Document};

/// What virt-install writes for a guest with four disks, its sixteen controllers and all that goes with them.
const INSTALLED: &str = include_str!("../tests/data/virt-install/disks.xml");

const TYPICAL: &str = include_str!("../tests/data/domain/typical.xml");

fn main() {
    divan::main();
}

/// 16 disks of 200 layers each.
fn biggest() -> String {
    let disks: String = (0..16_u8)
        .map(|disk| {
            let open: String = (0..199)
                .map(|layer| {
                    format!("<backingStore type='file'><format type='qcow2'/><source file='/var/lib/svirt/images/{disk}-{layer}.qcow2'/>\n")
                })
                .collect();
            let close = "</backingStore>\n".repeat(199);
            let letter = char::from(b'a' + disk);
            format!("<disk type='file'><driver name='qemu' type='qcow2'/><source file='/var/lib/svirt/images/{disk}.qcow2'/>{open}<backingStore/>{close}<target dev='vd{letter}' bus='virtio'/></disk>\n")
        })
        .collect();
    format!(
        "<domain type='kvm'><name>big</name><memory>65536</memory><os><type>hvm</type></os><devices>{disks}</devices></domain>"
    )
}

#[divan::bench]
fn typical_tree(bencher: Bencher<'_, '_>) {
    bencher.bench(|| Document::parse(divan::black_box(TYPICAL.as_bytes())).map(|document| document.len()));
}

#[divan::bench]
fn typical_domain(bencher: Bencher<'_, '_>) {
    bencher.bench(|| domain_xml::parse(divan::black_box(TYPICAL.as_bytes())));
}

#[divan::bench]
fn biggest_domain(bencher: Bencher<'_, '_>) {
    let text = biggest();
    bencher.bench(|| domain_xml::parse(divan::black_box(text.as_bytes())));
}

/// Parse, defaults, rules, format.
fn keep(text: &str) -> usize {
    let (definition, _) = Definition::parse(text.as_bytes(), Strictness::Strict).unwrap();
    definition.format(View::default()).len()
}

#[divan::bench]
fn installed_definition(bencher: Bencher<'_, '_>) {
    bencher.bench(|| keep(divan::black_box(INSTALLED)));
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn ten_thousand_definitions(bencher: Bencher<'_, '_>) {
    let all: Vec<String> =
        (0..10_000).map(|n| INSTALLED.replace("<name>disks", &format!("<name>guest{n}"))).collect();
    bencher.bench(|| all.iter().map(|text| keep(text)).sum::<usize>());
}
