//! Power cuts at any call, in every way a disk forgets: what comes back is the last commit, or the one under way.
//!
//! `EMBEDROCK_POWER_CUTS=100000` for longer; a failure names its seed, and `EMBEDROCK_SEED=...` runs that one alone.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "driver/mod.rs"]
mod driver;

use driver::{LIVES_OPERATIONS as OPERATIONS, lives, reference, setting};
use embedrock::testing::{CrashMode, SyncClass};

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
