//! `bridge_fuzz::frame` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bridge_fuzz::frame::run(data));
