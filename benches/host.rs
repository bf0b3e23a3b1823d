//! What telling the host costs: from the cache, and with the emulator asked afresh.
//!
//! Promises (docs/spec.md): host XML from the cache below 1 ms, cold below 300 ms with one emulator.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt as _;

use divan::{Bencher, black_box};
use svirt::conf::capabilities::Capabilities;
use svirt::host::{self, View};
use svirt::settings::Settings;

fn main() {
    divan::main();
}

/// The defaults, with a cache of their own.
fn settings() -> (Settings, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut settings = Settings::default();
    settings.paths.cache = directory.path().join("cache").to_str().unwrap().into();
    (settings, directory)
}

fn xml(settings: &Settings, afresh: bool) -> String {
    host::inventory(settings, afresh).capabilities(View::System, settings).unwrap().to_xml()
}

#[divan::bench]
fn cached(bencher: Bencher) {
    let (settings, _directory) = settings();
    xml(&settings, true);
    bencher.bench_local(|| xml(black_box(&settings), false));
}

#[divan::bench(sample_count = 10)]
fn cold(bencher: Bencher) {
    let (settings, _directory) = settings();
    bencher.bench_local(|| xml(black_box(&settings), true));
}

#[divan::bench]
fn parsed(bencher: Bencher) {
    let (settings, _directory) = settings();
    let xml = xml(&settings, true);
    bencher.bench_local(|| Capabilities::parse(black_box(xml.as_bytes())).unwrap());
}
