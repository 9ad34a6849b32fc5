//! Every call to the file system fails once: the store mends it, or says that it is poisoned and comes back at a commit.

use embedrock::Error;
use embedrock::testing::{CrashMode, FaultKind, FaultSpan, SimFs};

use crate::driver::{Driver, disk};
use crate::{Figures, Plan};

const OPERATIONS: u64 = 90;
/// Sizes of disk that are tried.
const SIZES: u64 = 60;

#[derive(Default)]
struct Seen {
    calls: u64,
    mended: u64,
    reopened: u64,
    poisoned: u64,
    full: u64,
}

pub(crate) fn run(plan: &Plan) -> Figures {
    let mut seen = Seen::default();
    for round in plan.rounds(1) {
        let script = (plan.seed - 1) << 32 | round;
        let (whole, mut driver) = (disk(), Driver::of(script));
        driver.run(&whole, OPERATIONS)?.map_err(|error| error.to_string())?;
        let expected = driver.outcome().1.to_owned();
        for kind in [FaultKind::Io, FaultKind::NoSpace] {
            for call in 1..=whole.calls() {
                failed(script, kind, call, &expected, &mut seen)
                    .map_err(|what| format!("script {script:#x}, {kind:?} at call {call}: {what}"))?;
            }
        }
        for part in 0..SIZES {
            let room = whole.used() * part / SIZES;
            full(script, room, &expected, &mut seen).map_err(|what| format!("script {script:#x} on {room} bytes: {what}"))?;
        }
    }
    let Seen { calls, mended, reopened, poisoned, full } = seen;
    assert!(mended > 0 && poisoned > 0 && reopened > poisoned && full > 10);
    Ok(format!(
        "{calls} failed calls: {mended} runs went on, {reopened} opened again, {poisoned} of them poisoned; {full} full disks; \
         other outcomes 0"
    ))
}

fn ended(driver: &mut Driver, fs: &SimFs, expected: &str) -> Result<(), String> {
    driver.run(fs, OPERATIONS)?.map_err(|error| error.to_string())?;
    if driver.outcome() == (OPERATIONS, expected) { Ok(()) } else { Err("other rows at the end".into()) }
}

fn failed(script: u64, kind: FaultKind, call: u64, expected: &str, seen: &mut Seen) -> Result<(), String> {
    let (mut fs, mut driver) = (disk(), Driver::of(script));
    fs.fail_nth(call, kind, FaultSpan::Once);
    seen.calls += 1;
    match driver.run(&fs, OPERATIONS)? {
        Ok(()) => seen.mended += 1,
        Err(error) => {
            // What a failed sync lost shows only after a power cut, and then it must not have been promised.
            let lost = matches!(error, Error::Poisoned { .. });
            seen.poisoned += u64::from(lost);
            fs = if lost { fs.crash(CrashMode::DropUnsynced, call) } else { fs };
            fs.heal();
            seen.reopened += 1;
        }
    }
    ended(&mut driver, &fs, expected)?;
    ended(&mut driver, &fs.kill(), expected)
}

fn full(script: u64, room: u64, expected: &str, seen: &mut Seen) -> Result<(), String> {
    let (fs, mut driver) = (disk(), Driver::of(script));
    fs.set_capacity(Some(room));
    if let Err(error) = driver.run(&fs, OPERATIONS)? {
        let typed =
            matches!(error, Error::NoSpace { .. } | Error::CommitFailed { .. } | Error::Poisoned { .. } | Error::Cold { .. });
        if !typed {
            return Err(error.to_string());
        }
        seen.full += 1;
    }
    // The last open may need some room too.
    fs.set_capacity(None);
    ended(&mut driver, &fs, expected)
}
