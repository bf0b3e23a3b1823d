//! What labelling an image and taking the label back costs, by the calls that the labeller makes for it. Root only.
//!
//! Promise (docs/spec.md): at most 20 us a file, for both together. `cargo bench --bench label`. Not in it: the one
//! `fdatasync` of a start, which waits for the disk and covers all of its labels.
#![allow(clippy::unwrap_used, missing_docs, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use rustix::fs::OFlags;
use svirt::sys::{path, xattr};

const FILES: usize = 1000;
const ROUNDS: usize = 21;
const BEFORE: &str = "system_u:object_r:was_t:s0";
const AFTER: &str = "system_u:object_r:svirt_guest_image_t:s0:c511,c1023";

/// As `labeller::apply`: the image is open; what it had is written down, then it is set.
fn label(fd: &OwnedFd, path: &str, journal: &mut File) {
    let before = xattr::selinux_label(fd).unwrap();
    let entry = format!(
        "{{\"intent\":{{\"label\":{{\"path\":{path:?},\"id\":[2049,1234567],\"before\":{before:?},\"after\":{AFTER:?}}}}}}}\n"
    );
    journal.write_all(entry.as_bytes()).unwrap();
    assert_eq!(xattr::selinux_label(fd).unwrap(), before);
    xattr::set_selinux_label(fd, Some(AFTER)).unwrap();
}

/// As `labeller::undo`: found again by its path, and set if nobody changed it meanwhile.
fn restore(path: &str) {
    let (object, found) = path::find_known(path).unwrap();
    assert!(found.is(libc::S_IFREG));
    let fd = path::reopen(&object, OFlags::RDONLY).unwrap();
    assert_eq!(xattr::selinux_label(&fd).unwrap().as_deref(), Some(AFTER));
    xattr::set_selinux_label(&fd, Some(BEFORE)).unwrap();
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let paths: Vec<PathBuf> = (0..FILES).map(|at| directory.path().join(format!("{at}.qcow2"))).collect();
    let files: Vec<OwnedFd> = paths
        .iter()
        .map(|path| {
            let file = File::create_new(path).unwrap();
            xattr::set_selinux_label(&file, Some(BEFORE)).unwrap();
            file.into()
        })
        .collect();
    let mut times: Vec<[f64; 2]> = (0..ROUNDS)
        .map(|_| {
            let mut journal = tempfile::tempfile_in(directory.path()).unwrap();
            let begin = Instant::now();
            for (fd, path) in files.iter().zip(&paths) {
                label(fd, path.to_str().unwrap(), &mut journal);
            }
            let labelled = begin.elapsed();
            for path in &paths {
                restore(path.to_str().unwrap());
            }
            [labelled, begin.elapsed() - labelled].map(|time| time.as_secs_f64() * 1e6 / FILES as f64)
        })
        .collect();
    times.sort_by(|one, other| (one[0] + one[1]).total_cmp(&(other[0] + other[1])));
    let [label, restore] = times[ROUNDS / 2];
    println!("a file, median of {ROUNDS} rounds of {FILES} files:");
    println!("  label    {label:6.1} us");
    println!("  restore  {restore:6.1} us");
    println!("  both     {:6.1} us  (promise: at most 20)", label + restore);
}
