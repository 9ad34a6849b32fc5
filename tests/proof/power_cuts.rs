//! Power cuts at any call, in every way a disk forgets: what comes back is the last commit, or one under way.

use embedrock::testing::{CrashMode, FaultKind, FaultSpan, SimFs};

use crate::driver::{Driver, LIVES_OPERATIONS, disk, draw, lives, reference};
use crate::{Figures, Plan};

/// Of the short scripts that are cut at every call in every mode: most faults need no more operations than these.
const SHORT_OPERATIONS: u64 = 6;
const LEAST_STORES: u64 = 1200;
const LEAST_SCRIPTS: u64 = 24;

pub(crate) fn run(plan: &Plan) -> Figures {
    let expected = reference(LIVES_OPERATIONS);
    let (mut cuts, mut met, mut states, mut scripts) = (0, [0; 7], 0, 0);
    for round in plan.rounds(LEAST_STORES) {
        let seed = plan.seed << 32 | round;
        cuts += lives(seed, None, &expected, &mut met).map_err(|what| format!("store {seed:#x}: {what}"))?;
        // One script to some stores, so that both go on for as long as there is time.
        if round.is_multiple_of(LEAST_STORES / LEAST_SCRIPTS) {
            states += everywhere(seed).map_err(|what| format!("script {seed:#x}: {what}"))?;
            scripts += 1;
        }
    }
    assert!(met.iter().all(|count| *count > 0), "{met:?}");
    let stores = plan_stores(cuts, &met);
    Ok(format!(
        "{cuts} crashes {stores}, and {states} at every call of {scripts} short scripts; 6 power-cut modes and kills; durable \
         commits lost 0, holes 0"
    ))
}

fn plan_stores(cuts: u64, met: &[u64; 7]) -> String {
    assert_eq!(met.iter().sum::<u64>(), cuts);
    let modes: Vec<String> = met.iter().map(ToString::to_string).collect();
    format!("of stores in all their lives ({} by mode)", modes.join("/"))
}

/// A script of few operations, cut at each of its calls in each mode.
fn everywhere(script: u64) -> Result<u64, String> {
    let (whole, mut driver) = (disk(), Driver::of(script));
    driver.run(&whole, SHORT_OPERATIONS)?.map_err(|error| error.to_string())?;
    let expected = driver.outcome().1.to_owned();
    let mut states = 0;
    for call in 1..=whole.calls() {
        for mode in CrashMode::ALL.into_iter().map(Some).chain([None]) {
            let (fs, mut driver) = (disk(), Driver::of(script));
            fs.fail_nth(call, FaultKind::Io, FaultSpan::Forever);
            let _ = driver.run(&fs, SHORT_OPERATIONS)?;
            let after = mode.map_or_else(|| SimFs::kill(&fs), |mode| fs.crash(mode, draw(script ^ call)));
            let ended = driver.run(&after, SHORT_OPERATIONS).map_err(|what| format!("call {call} in mode {mode:?}: {what}"))?;
            ended.map_err(|error| format!("call {call} in mode {mode:?}, without a fault: {error}"))?;
            if driver.outcome() != (SHORT_OPERATIONS, expected.as_str()) {
                return Err(format!("call {call} in mode {mode:?}: other rows at the end"));
            }
            states += 1;
        }
    }
    Ok(states)
}
