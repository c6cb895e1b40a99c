//! `bridge_fuzz::engine` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bridge_fuzz::engine::run(data));
