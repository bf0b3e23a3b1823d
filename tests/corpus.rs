//! Replays the committed corpora through the fuzz functions, on the stable compiler.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

/// Every file of one corpus goes through `fuzz`, whole and cut short at many places.
fn replay(target: &str, fuzz: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        files += 1;
        fuzz(&bytes);
        for cut in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
            fuzz(bytes.get(..cut).unwrap());
        }
    }
    assert!(files >= 5, "{} has {files} files only", directory.display());
}

#[cfg(feature = "frontend")]
#[test]
fn appliance() {
    replay("appliance", svirt::conf::appliance::fuzz_appliance);
}

#[cfg(feature = "frontend")]
#[test]
fn capabilities() {
    replay("capabilities", svirt::conf::capabilities::fuzz_capabilities);
}

#[cfg(feature = "frontend")]
#[test]
fn definition() {
    replay("definition", svirt::conf::definition::fuzz_definition);
}

#[cfg(feature = "frontend")]
#[test]
fn domain() {
    replay("domain", svirt::conf::domain_xml::fuzz_domain);
}

#[test]
fn image() {
    replay("image", svirt::image::fuzz_image);
}

#[test]
fn qmp() {
    replay("qmp", svirt::qmp::fuzz_qmp);
}

#[cfg(feature = "frontend")]
#[test]
fn xml() {
    replay("xml", svirt::conf::xml::fuzz_xml);
}

#[cfg(feature = "frontend")]
#[test]
fn rpc() {
    replay("rpc", svirt::rpc::fuzz_rpc);
}

#[cfg(feature = "frontend")]
#[test]
fn storage() {
    replay("storage", svirt::conf::storage::fuzz_storage);
}

#[cfg(feature = "frontend")]
#[test]
fn metadata() {
    replay("metadata", svirt::conf::definition::fuzz_metadata);
}

#[cfg(feature = "frontend")]
#[test]
fn labels() {
    replay("labels", svirt::security::fuzz_labels);
}

#[test]
fn request() {
    replay("request", svirt::labeller::fuzz_request);
}

#[test]
fn saved() {
    replay("saved", svirt::privsep::save::fuzz_saved);
}
