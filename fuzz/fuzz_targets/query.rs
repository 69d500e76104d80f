#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gmfy_sidecar::fuzzing::query(data));
