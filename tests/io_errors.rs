//! Every call to the file system fails once: the store mends it, or says that it is poisoned and comes back at a commit.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "driver/mod.rs"]
mod driver;

use driver::{Driver, disk, reference};
use embedrock::Error;
use embedrock::testing::{CrashMode, FaultKind, FaultSpan};

const OPERATIONS: u64 = 90;

#[test]
fn the_nth_call_fails() {
    let expected = reference(OPERATIONS);
    let fs = disk();
    Driver::default().run(&fs, OPERATIONS).unwrap().unwrap();
    let calls = fs.calls();
    let (mut mended, mut reopened, mut poisoned) = (0, 0, 0);
    for kind in [FaultKind::Io, FaultKind::NoSpace] {
        for n in 1..=calls {
            let (mut fs, mut driver) = (disk(), Driver::default());
            fs.fail_nth(n, kind, FaultSpan::Once);
            match driver.run(&fs, OPERATIONS).unwrap_or_else(|what| panic!("{kind:?} at call {n}: {what}")) {
                Ok(()) => mended += 1,
                Err(error) => {
                    // What a failed sync lost shows only after a power cut, and then it must not have been promised.
                    let lost = matches!(error, Error::Poisoned { .. });
                    poisoned += u64::from(lost);
                    fs = if lost { fs.crash(CrashMode::DropUnsynced, n) } else { fs };
                    fs.heal();
                    driver.run(&fs, OPERATIONS).unwrap().unwrap_or_else(|error| panic!("{kind:?} at call {n}: {error}"));
                    reopened += 1;
                }
            }
            assert_eq!(driver.outcome(), (OPERATIONS, expected.as_str()), "{kind:?} at call {n}");
            driver.run(&fs.kill(), OPERATIONS).unwrap_or_else(|what| panic!("{kind:?} at call {n}: {what}")).unwrap();
        }
    }
    println!("{calls} calls failed in 2 ways: {mended} runs went on, {reopened} opened again, {poisoned} of them poisoned");
    assert!(mended > 0 && poisoned > 0 && reopened > poisoned);
}

#[test]
fn a_full_disk_loses_nothing_and_training_goes_on_once_there_is_room() {
    let expected = reference(OPERATIONS);
    let fs = disk();
    Driver::default().run(&fs, OPERATIONS).unwrap().unwrap();
    let mut full = 0;
    for room in (0..fs.used()).step_by((fs.used() / 60) as usize) {
        let (fs, mut driver) = (disk(), Driver::default());
        fs.set_capacity(Some(room));
        if let Err(error) = driver.run(&fs, OPERATIONS).unwrap() {
            let typed =
                matches!(error, Error::NoSpace { .. } | Error::CommitFailed { .. } | Error::Poisoned { .. } | Error::Cold { .. });
            assert!(typed, "with {room} bytes: {error}");
            full += 1;
            fs.set_capacity(None);
            driver.run(&fs, OPERATIONS).unwrap().unwrap();
        }
        assert_eq!(driver.outcome(), (OPERATIONS, expected.as_str()), "with {room} bytes");
    }
    assert!(full > 10, "{full}");
}
