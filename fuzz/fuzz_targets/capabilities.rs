//! `cargo +nightly fuzz run capabilities`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::conf::capabilities::fuzz_capabilities(data));
