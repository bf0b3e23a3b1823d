//! `cargo +nightly fuzz run request`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::labeller::fuzz_request(data));
