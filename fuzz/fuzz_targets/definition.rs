//! `cargo +nightly fuzz run definition`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::conf::definition::fuzz_definition(data));
