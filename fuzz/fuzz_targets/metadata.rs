//! `cargo +nightly fuzz run metadata`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::conf::definition::fuzz_metadata(data));
