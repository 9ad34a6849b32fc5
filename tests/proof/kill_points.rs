//! The process dies at each of the places that the engine lists, on real RocksDB, and the next one goes on.

use embedrock::testing::KillPoint;

use super::kills::ended;
use crate::command::Place;
use crate::driver::draw;
use crate::{Figures, Plan};

/// Small, with cold rows, bases and old ones to remove, and a restore at the end of each life.
const TRAIN: &str = "train deepfm --samples 24000 --users 3000 --items 800 --batch-size 256 --factors 4 --commit-every 4 \
                     --checkpoint-every 3 --memory-budget 24MiB --hot-rows 900 --threads 1";
const LEAST_ROUNDS: u64 = 3;
const MOST_ATTEMPTS: u64 = 20;
/// A point that is passed this often is as good as any later one.
const LATEST: u64 = 12;

pub(crate) fn run(plan: &Plan) -> Figures {
    let place = Place::new();
    let expected = ended(&place, &format!("{TRAIN} --store whole"), "whole");
    let mut hit = [0u64; KillPoint::ALL.len()];
    for round in plan.rounds(LEAST_ROUNDS) {
        let mut points: Vec<usize> = (0..hit.len()).collect();
        points.sort_by_key(|point| draw(plan.seed << 40 | round << 8 | *point as u64));
        one_store(&place, &points, plan.seed << 32 | round, (&expected, &mut hit))?;
    }
    // Bases are written in the background: on a busy machine a job may end before an old one goes.
    let missed = |hit: &[u64]| -> Vec<usize> { (0..hit.len()).filter(|point| hit[*point] == 0).collect() };
    for again in 0..MOST_ATTEMPTS {
        let points = missed(&hit);
        if !points.is_empty() {
            one_store(&place, &points, !(plan.seed << 32 | again), (&expected, &mut hit))?;
        }
    }
    let missed: Vec<KillPoint> = missed(&hit).into_iter().map(|point| KillPoint::ALL[point]).collect();
    if !missed.is_empty() {
        return Err(format!("never reached: {missed:?}"));
    }
    let (all, least) = (hit.len(), hit.iter().min().unwrap());
    Ok(format!("{all} of {all} hit, each {least} times or more, {} deaths; acknowledged and lost 0", hit.iter().sum::<u64>()))
}

/// The lives of one store, which then ends as one that never died.
fn one_store(place: &Place, points: &[usize], seed: u64, (expected, hit): (&[String; 3], &mut [u64])) -> Result<(), String> {
    lives(place, points, (seed, hit))?;
    let last = ended(place, &format!("{TRAIN} --store killed"), "killed");
    if last != *expected {
        return Err(format!("store {seed:#x} ended with {last:?}, expected {expected:?}"));
    }
    assert!(place.ok("verify killed").contains("sound"));
    std::fs::remove_dir_all(place.path("killed")).unwrap();
    Ok(())
}

/// One store dies at each point in turn; where it does not come by, a new one is begun for it.
fn lives(place: &Place, points: &[usize], (seed, hit): (u64, &mut [u64])) -> Result<(), String> {
    for &at in points {
        let point = KillPoint::ALL[at];
        let nth = 1 + draw(seed << 8 | at as u64) % LATEST;
        let died = dies(place, point, nth)? || dies(place, point, 1)? || {
            // The job had come too far for it.
            let _ = std::fs::remove_dir_all(place.path("killed"));
            dies(place, point, 1)? || dies(place, point, 1)?
        };
        hit[at] += u64::from(died);
    }
    Ok(())
}

/// Whether the job, or the restore after it, dies there.
fn dies(place: &Place, point: KillPoint, nth: u64) -> Result<bool, String> {
    let restore = matches!(point, KillPoint::RestoreWritten | KillPoint::RestoreRenamed);
    let _ = std::fs::remove_dir_all(place.path("restored"));
    if restore {
        place.ok(&format!("{TRAIN} --store killed --max-samples 9000"));
    }
    let line = if restore { "restore killed --to restored".to_owned() } else { format!("{TRAIN} --store killed") };
    let nth = if restore { 1 } else { nth };
    let output = place.command(&line).env(KillPoint::VARIABLE, format!("{point:?}:{nth}")).output().unwrap();
    if output.status.code().is_some_and(|code| code != 0) {
        return Err(format!("{point:?} {nth}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    if restore && !place.path("restored").exists() {
        place.ok("restore killed --to restored");
        assert_eq!(place.digest("restored"), place.digest("killed"));
    }
    Ok(output.status.code().is_none())
}
