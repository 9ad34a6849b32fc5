//! Any bytes as a schema, a commit record, a manifest, a cold value: what decodes must encode to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| embedrock::testing::round_trips(input));
