//! A seeded workload cut anywhere, again and again, by power cuts, kills and failing calls: each time it comes back at a commit.
#![no_main]

#[path = "../../tests/driver/mod.rs"]
mod driver;

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use embedrock::testing::{CrashMode, FaultKind, FaultSpan};
use libfuzzer_sys::fuzz_target;

/// Operations of a whole run.
const END: u64 = 120;

static EXPECTED: LazyLock<String> = LazyLock::new(|| driver::reference(END));

#[derive(Arbitrary, Debug)]
struct Cut {
    call: u16,
    full: bool,
    mode: Option<u8>,
    seed: u16,
}

fuzz_target!(|cuts: Vec<Cut>| {
    let mut fs = driver::disk();
    let mut run = driver::Driver::default();
    for cut in cuts.iter().take(6) {
        let kind = if cut.full { FaultKind::NoSpace } else { FaultKind::Io };
        fs.fail_nth(u64::from(cut.call) % 800 + 1, kind, FaultSpan::Forever);
        let _ = run.run(&fs, END).expect("it comes back at a commit");
        let modes = CrashMode::ALL;
        fs = match cut.mode {
            Some(mode) => fs.crash(modes[usize::from(mode) % modes.len()], cut.seed.into()),
            None => fs.kill(),
        };
    }
    run.run(&fs, END).expect("it comes back at a commit").expect("nothing fails any more");
    assert_eq!(run.outcome(), (END, EXPECTED.as_str()));
});
