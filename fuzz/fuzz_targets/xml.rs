//! `cargo +nightly fuzz run xml`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::conf::xml::fuzz_xml(data));
