//! A disk that is plugged in and taken out by svirtd and by the libvirtd that Debian installs, each with AppArmor: ratios.
//!
//! `cargo bench --bench apparmor`. A host whose kernel has no AppArmor has a libvirtd that confines nothing, so that both run in
//! the test VM `apparmor`, where everything is emulated: only the ratios mean something. What the VM does is in
//! `test-vms/guest/hotplug.sh`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Stdio};

/// What is promised of the ratio.
const PROMISE: f64 = 1.0 / 3.0;
/// `test-vms/run` has skipped.
const SKIPPED: i32 = 77;

fn main() {
    let programs = Path::new(env!("CARGO_BIN_EXE_svirtd")).parent().unwrap();
    let run = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("test-vms/run"))
        .arg("apparmor")
        .env("SVIRT_VM_TARGET", programs)
        .env("SVIRT_VM_APPEND", "svirt.only=hotplug")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    if run.status.code() == Some(SKIPPED) {
        return;
    }
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{said}");
    println!("{:44} {:>10} {:>10}", "", "svirtd", "libvirtd");
    for what in ["attach", "detach"] {
        let [ours, stock] = ["svirtd", "libvirtd"].map(|side| median(&said, what, side));
        let ratio = ours / stock;
        let verdict = if ratio <= PROMISE { "" } else { "  MISSED" };
        println!(
            "{:44} {ours:10.1} {stock:10.1} ms   {ratio:5.2} (promise: {PROMISE:.2}){verdict}",
            format!("{what} a disk: p50")
        );
    }
}

/// Of what virsh said of each turn; the first one warms up.
fn median(said: &str, what: &str, side: &str) -> f64 {
    let prefix = format!("note took {what} {side} ");
    let mut times: Vec<f64> = said
        .lines()
        .filter_map(|line| line.strip_prefix(&prefix)?.strip_suffix(" ms")?.parse().ok())
        .skip(1)
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[times.len() / 2]
}
