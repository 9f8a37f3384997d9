#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    smolgate_fuzz::targets::pattern(input);
    smolgate_fuzz::compare_with_pcre(input);
});
