//! Power cuts at any call, in every way a disk forgets: what comes back is the last commit, or the one under way.
//!
//! `EMBEDROCK_POWER_CUTS=100000` for longer; a failure names its seed, and `EMBEDROCK_SEED=...` runs that one alone.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "driver/mod.rs"]
mod driver;

use driver::{Driver, disk, draw, reference, setting};
use embedrock::testing::{CrashMode, FaultKind, FaultSpan, SimFs, SyncClass};

const OPERATIONS: u64 = 160;

/// One store's lives from its creation to the end of its work; returns how many cuts it met.
fn lives(seed: u64, broken: Option<SyncClass>, expected: &str, met: &mut [u64; 7]) -> Result<u64, String> {
    let (mut fs, mut driver, mut cuts) = (disk(), Driver::default(), 0);
    loop {
        let random = draw(seed ^ draw(cuts));
        if cuts < 40 {
            fs.fail_nth(1 + random % 400, FaultKind::Io, FaultSpan::Forever);
        }
        if let Some(class) = broken {
            fs.ignore_syncs(class);
        }
        match driver.run(&fs, OPERATIONS)? {
            Ok(()) if driver.outcome().1 == expected => return Ok(cuts),
            Ok(()) => return Err("the work ended with other rows".into()),
            Err(_) if cuts < 40 => {}
            Err(error) => return Err(format!("without a fault: {error}")),
        }
        // The seventh way is the death of the process alone.
        let mode = (random >> 32) % 7;
        met[mode as usize] += 1;
        fs = CrashMode::ALL.get(mode as usize).map_or_else(|| SimFs::kill(&fs), |mode| fs.crash(*mode, random >> 16));
        cuts += 1;
    }
}

#[test]
fn the_last_commit_survives_power_cuts() {
    let expected = reference(OPERATIONS);
    let (wanted, only) = (setting("EMBEDROCK_POWER_CUTS", 3000), std::env::var("EMBEDROCK_SEED").ok());
    let (mut cuts, mut met) = (0, [0; 7]);
    let mut seed = only.as_ref().map_or(1, |seed| seed.parse().unwrap());
    while cuts < wanted {
        match lives(seed, None, &expected, &mut met) {
            Ok(count) => cuts += count,
            Err(what) => panic!("EMBEDROCK_SEED={seed}: {what}"),
        }
        if only.is_some() {
            break;
        }
        seed += 1;
    }
    println!("{cuts} crashes of {} stores, by mode {:?} and kills: {met:?}", seed - 1, CrashMode::ALL);
    assert!(only.is_some() || met.iter().all(|count| *count > 0));
}

/// Were the syncs left out, the test above would notice.
#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let expected = reference(OPERATIONS);
    for class in [SyncClass::Files, SyncClass::Dirs] {
        let noticed = (1..60).any(|seed| {
            let lost = std::panic::catch_unwind(|| lives(seed, Some(class), &expected, &mut [0; 7]));
            !matches!(lost, Ok(Ok(_)))
        });
        assert!(noticed, "{class:?}");
    }
}
