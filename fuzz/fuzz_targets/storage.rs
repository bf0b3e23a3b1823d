//! `cargo +nightly fuzz run storage`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::conf::storage::fuzz_storage(data));
