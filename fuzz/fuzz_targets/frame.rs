#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gmfy_sidecar::fuzzing::frame(data));
