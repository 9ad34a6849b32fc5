//! Syncs that fail and have dropped what they should have written, though reads in the same boot show it; and disks that say that they
//! synced and did not, which the other rows would notice.

use embedrock::Error;
use embedrock::testing::{CrashMode, FaultKind, FaultSpan, SyncClass};

use crate::driver::{Driver, LIVES_OPERATIONS, disk, draw, lives, reference};
use crate::{Figures, Plan};

const OPERATIONS: u64 = 60;
const LEAST_SCRIPTS: u64 = 30;

pub(crate) fn run(plan: &Plan) -> Figures {
    let (mut failed, mut cut) = (0, 0);
    for round in plan.rounds(LEAST_SCRIPTS) {
        let script = plan.seed << 32 | round;
        let (whole, mut driver) = (disk(), Driver::of(script));
        driver.run(&whole, OPERATIONS)?.map_err(|error| error.to_string())?;
        let expected = driver.outcome().1.to_owned();
        for call in 1..=whole.calls() {
            let lost = |what: String| format!("script {script:#x}, sync at call {call}: {what}");
            let (fs, mut driver) = (disk(), Driver::of(script));
            fs.fail_nth(call, FaultKind::Io, FaultSpan::Once);
            if !matches!(driver.run(&fs, OPERATIONS).map_err(lost)?, Err(Error::Poisoned { .. })) {
                continue;
            }
            failed += 1;
            for mode in CrashMode::ALL {
                let (mut driver, random) = (driver.clone(), draw(script ^ call << 8 ^ mode as u64));
                // The same boot: the pages that never reached the disk read well.
                let same_boot = fs.kill();
                same_boot.fail_nth(1 + random % 120, FaultKind::Io, FaultSpan::Forever);
                let _ = driver.run(&same_boot, OPERATIONS).map_err(lost)?;
                let ended = driver.run(&same_boot.crash(mode, random), OPERATIONS).map_err(lost)?;
                ended.map_err(|error| lost(error.to_string()))?;
                if driver.outcome() != (OPERATIONS, expected.as_str()) {
                    return Err(lost("other rows at the end".into()));
                }
                cut += 1;
            }
        }
    }
    assert!(failed > 0, "no sync failed");
    let expected = reference(LIVES_OPERATIONS);
    for class in [SyncClass::Files, SyncClass::Dirs] {
        let is_noticed = (1..60).any(|seed| {
            let lost = std::panic::catch_unwind(|| lives(seed, Some(class), &expected, &mut [0; 7]));
            !matches!(lost, Ok(Ok(_)))
        });
        if !is_noticed {
            return Err(format!("a disk that ignores syncs of {class:?} was not noticed"));
        }
    }
    Ok(format!(
        "{failed} failed syncs, {cut} power cuts after them; acknowledged and lost 0; disks that ignore syncs noticed 2 of 2"
    ))
}
