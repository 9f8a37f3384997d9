#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| smolgate_fuzz::targets::handover(input));
