//! `cargo +nightly fuzz run image`
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| svirt::image::fuzz_image(data));
