//! A training job is killed again and again, at any moment, on real RocksDB: the same command goes on, and ends with the same bits.
//!
//! `EMBEDROCK_KILLS=500` for longer.
#![cfg(feature = "cli")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use std::time::{Duration, Instant};

use command::Place;

/// Batches large enough that two threads share them; a commit after each few, a base after each few commits.
const TRAIN: &str = "train deepfm --samples 150000 --users 20000 --items 4000 --batch-size 1024 --commit-every 2 \
                     --checkpoint-every 4 --memory-budget 24MiB";

/// The rows' digest, AUC and log loss, once the job ended by itself.
fn ended(place: &Place, line: &str, store: &str) -> [String; 3] {
    let report = place.json(line);
    [place.digest(store), report["auc"].to_string(), report["logloss"].to_string()]
}

/// Sequence number of the last commit, 0 for none.
fn last_commit(place: &Place, store: &str) -> u64 {
    let seen = place.json(&format!("inspect {store}"));
    seen["last_commit"].as_str().map_or(0, |id| id.split('.').nth(1).unwrap().parse().unwrap())
}

#[test]
fn a_killed_job_ends_with_the_bits_of_one_that_was_not() {
    let place = Place::new();
    let begun = Instant::now();
    let expected = ended(&place, &format!("{TRAIN} --threads 1 --store whole"), "whole");
    // On a busy machine a life must be longer to come as far.
    let longest = (begun.elapsed().as_millis() as u64 / 4).max(230);
    let most: u64 = std::env::var("EMBEDROCK_KILLS").map_or(16, |kills| kills.parse().unwrap());
    let (mut kills, mut life, mut survived) = (0, 0u64, 0);
    for threads in [1, 2].into_iter().cycle() {
        let store = format!("killed-{life}");
        let line = format!("{TRAIN} --threads {threads} --hot-rows 3000 --store {store}");
        let mut seen = 0;
        // Eight lives a store, then it may end.
        for _ in 0..8 {
            life += 1;
            let mut child = place.start(&line);
            std::thread::sleep(Duration::from_millis(10 + life.wrapping_mul(2_654_435_761) % longest));
            let early = child.try_wait().unwrap().is_none();
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!((early || output.status.success()) && errors.is_empty(), "{errors}");
            kills += u64::from(early);
            // Looking recovers too, so only every other death is seen by the next life itself.
            if life.is_multiple_of(2) && place.path(&store).join("IDENTITY").exists() {
                let last = last_commit(&place, &store);
                assert!(last >= seen, "commit {seen} was durable, and {last} is the last now");
                seen = last;
            }
        }
        survived += seen;
        assert_eq!(ended(&place, &line, &store), expected, "at {threads} threads");
        assert!(place.ok(&format!("verify {store}")).contains("sound"));
        std::fs::remove_dir_all(place.path(&store)).unwrap();
        if kills >= most {
            break;
        }
    }
    println!("{kills} kills in {life} lives, {survived} commits seen to survive, then the same bits");
    assert!(survived > 0, "every life was too short for a commit: nothing was shown");
}
