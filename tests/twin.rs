//! The same commands against Debian's libvirtd and against svirtd: what virsh, virt-install and libvirt-python say is
//! the same, but for the reviewed list in `tests/data/twin/differences.toml`.
//!
//! libvirtd is the test's own: a mount namespace, directories and sockets apart from any other on the host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod e2e_rig;
mod twin_rig;
mod virsh_rig;

use std::fmt::Write as _;

use twin_rig::{Differences, Libvirtd, Side, compare, libvirtd_possible};
use virsh_rig::Host;

const SCRIPT: &str = include_str!("data/twin/script.txt");
const DIFFERENCES: &str = include_str!("data/twin/differences.toml");

#[test]
fn virsh_virt_install_and_python_say_the_same_of_both() {
    if !libvirtd_possible() {
        return;
    }
    let host = Host::new();
    let stock = Libvirtd::start();
    let ours = Side::new(&host.uri(), &host.rig.text("."));
    let theirs = Side::new(&stock.uri(), &stock.directory());
    let mut differences = Differences::read(DIFFERENCES);
    let mut unlisted = String::new();
    for line in SCRIPT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (stock, svirt) = std::thread::scope(|scope| {
            let stock = scope.spawn(|| theirs.run(line));
            let svirt = ours.run(line);
            (stock.join().unwrap(), svirt)
        });
        let left: Vec<String> =
            compare(&stock, &svirt).into_iter().filter(|line_of| !differences.lists(line, line_of)).collect();
        if !left.is_empty() {
            writeln!(unlisted, "$ {line}\n{}", left.join("\n")).unwrap();
        }
    }
    assert!(unlisted.is_empty(), "- libvirtd, + svirtd, in no list:\n{unlisted}");
    assert_eq!(differences.unused(), Vec::<String>::new(), "listed, and there no longer");
}
