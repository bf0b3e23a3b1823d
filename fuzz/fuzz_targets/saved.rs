//! `cargo +nightly fuzz run saved`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::privsep::save::fuzz_saved(data));
