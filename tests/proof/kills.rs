//! A training job is killed again and again, at any moment, on real RocksDB: the same command goes on, and ends with the same bits.

use std::time::{Duration, Instant};

use crate::command::Place;
use crate::{Figures, Plan};

/// Batches large enough that two threads share them; a commit after each few, a base after each few commits.
const TRAIN: &str = "train deepfm --samples 150000 --users 20000 --items 4000 --batch-size 1024 --commit-every 2 \
                     --checkpoint-every 4 --memory-budget 24MiB";
/// Lives of a store; then it may end.
const LIVES: u64 = 8;
const LEAST_STORES: u64 = 4;

#[derive(Default)]
struct Seen {
    lives: u64,
    kills: u64,
    survived: u64,
}

/// The rows' digest, AUC and log loss, once the job ended by itself.
pub(crate) fn ended(place: &Place, line: &str, store: &str) -> [String; 3] {
    let report = place.json(line);
    [place.digest(store), report["auc"].to_string(), report["logloss"].to_string()]
}

/// Sequence number of the last commit, 0 for none.
fn last_commit(place: &Place, store: &str) -> u64 {
    let seen = place.json(&format!("inspect {store}"));
    seen["last_commit"].as_str().map_or(0, |id| id.split('.').nth(1).unwrap().parse().unwrap())
}

pub(crate) fn run(plan: &Plan) -> Figures {
    let place = Place::new();
    let begun = Instant::now();
    let expected = ended(&place, &format!("{TRAIN} --threads 1 --store whole"), "whole");
    // On a busy machine a life must be longer to come as far.
    let longest = (begun.elapsed().as_millis() as u64 / 4).max(230);
    let mut seen = Seen::default();
    for round in plan.rounds(LEAST_STORES) {
        let (store, threads) = (format!("killed-{round}"), 1 + round % 2);
        let line = format!("{TRAIN} --threads {threads} --hot-rows 3000 --store {store}");
        lives(&place, &line, &store, (plan.seed << 32 | round, longest), &mut seen)?;
        let last = ended(&place, &line, &store);
        if last != expected {
            return Err(format!("{store} at {threads} threads ended with {last:?}, expected {expected:?}"));
        }
        assert!(place.ok(&format!("verify {store}")).contains("sound"));
        std::fs::remove_dir_all(place.path(&store)).unwrap();
    }
    let Seen { lives, kills, survived } = seen;
    if survived == 0 {
        return Err("every life was too short for a commit: nothing was shown".into());
    }
    Ok(format!("{kills} kills in {lives} lives of a job on RocksDB, {survived} commits seen to survive; acknowledged and lost 0"))
}

fn lives(place: &Place, line: &str, store: &str, (seed, longest): (u64, u64), seen: &mut Seen) -> Result<(), String> {
    let mut durable = 0;
    for life in 0..LIVES {
        let mut child = place.start(line);
        std::thread::sleep(Duration::from_millis(10 + crate::driver::draw(seed << 8 | life) % longest));
        let early = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        if !(early || output.status.success()) || !errors.is_empty() {
            return Err(format!("life {life} of {store}: {errors}"));
        }
        seen.lives += 1;
        seen.kills += u64::from(early);
        // Looking recovers too, so only every other death is seen by the next life itself.
        if life.is_multiple_of(2) && place.path(store).join("IDENTITY").exists() {
            let last = last_commit(place, store);
            if last < durable {
                return Err(format!("life {life} of {store}: commit {durable} was durable, and {last} is the last now"));
            }
            durable = last;
        }
    }
    seen.survived += durable;
    Ok(())
}
