//! `cargo +nightly fuzz run qmp`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::qmp::fuzz_qmp(data));
