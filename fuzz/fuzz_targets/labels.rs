//! `cargo +nightly fuzz run labels`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::security::fuzz_labels(data));
