//! `cargo +nightly fuzz run domain`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::conf::domain_xml::fuzz_domain(data));
