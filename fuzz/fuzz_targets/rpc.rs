//! `cargo +nightly fuzz run rpc`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::rpc::fuzz_rpc(data));
