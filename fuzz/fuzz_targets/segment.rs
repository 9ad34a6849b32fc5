//! Any bytes as a segment of a log. The first byte says whether checksums are made right, so that decoding is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some((how, bytes)) = input.split_first() {
        let _ = embedrock::testing::walk_segment(bytes, how & 1 == 1);
    }
});
