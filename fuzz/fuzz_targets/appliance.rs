//! `cargo +nightly fuzz run appliance`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::conf::appliance::fuzz_appliance(data));
