//! Flipped bits: each is an error, or changes nothing; and `verify` names the file.

use std::path::{Path, PathBuf};

use embedrock::testing::{SimFs, verify_simulated};

use crate::driver::{Driver, disk, draw};
use crate::{Figures, Plan};

const OPERATIONS: u64 = 90;
/// The quick tier takes one byte of so many.
const FIRST_SHARE: u64 = 8;
const STEP: u64 = 1_000_003;
/// Of a real store's files, RocksDB's among them.
#[cfg(feature = "cli")]
const REAL_STRIDE: usize = 37;

#[derive(Default)]
struct Seen {
    flipped: u64,
    refused: u64,
    harmless: u64,
    named: u64,
}

pub(crate) fn run(plan: &Plan) -> Figures {
    let (whole, mut driver) = (disk(), Driver::default());
    driver.run(&whole, OPERATIONS)?.map_err(|error| error.to_string())?;
    let whole = whole.kill();
    let mut seen = Seen::default();
    let files: Vec<(PathBuf, u64)> = truth(&whole);
    let total: u64 = files.iter().map(|(_, length)| length).sum();
    for round in plan.rounds(total.div_ceil(FIRST_SHARE)) {
        // A prime step visits every byte once before any a second time.
        let mut place = round.wrapping_mul(STEP) % total;
        let owns = |(_, length): &&(PathBuf, u64)| match place.checked_sub(*length) {
            Some(rest) => {
                place = rest;
                false
            }
            None => true,
        };
        let Some((path, _)) = files.iter().find(owns) else { continue };
        let bit = 1 << (draw(plan.seed << 40 | round) % 8);
        flip((&whole, &driver), (path, place, bit), &mut seen)?;
    }
    #[cfg(feature = "cli")]
    let real = real_store(plan)?;
    #[cfg(not(feature = "cli"))]
    let real = String::new();
    let Seen { flipped, refused, harmless, named } = seen;
    assert!(refused > 0 && harmless > 0);
    Ok(format!(
        "{flipped} bits of a store of {total} bytes: {refused} refused at open, {harmless} made up for by a copy or a base, all \
         {named} named by verify; silent 0, panics 0{real}"
    ))
}

/// The files that are not a cache, and not the lock.
fn truth(fs: &SimFs) -> Vec<(PathBuf, u64)> {
    let files = fs.files().into_iter().map(|(path, bytes)| (path, bytes.len() as u64));
    files.filter(|(path, length)| !path.starts_with("/disk/store/live") && !path.ends_with("LOCK") && *length > 0).collect()
}

fn flip((whole, driver): (&SimFs, &Driver), (path, at, bit): (&Path, u64, u8), seen: &mut Seen) -> Result<(), String> {
    let place = format!("bit {bit:#x} of byte {at} of {}", path.display());
    let flipped = || {
        let fs = whole.kill();
        fs.corrupt(path, at, bit).map(|()| fs).map_err(|error| error.to_string())
    };
    seen.flipped += 1;
    match driver.clone().run(&flipped()?, OPERATIONS).map_err(|what| format!("{place}: {what}"))? {
        Ok(()) => seen.harmless += 1,
        Err(_) => seen.refused += 1,
    }
    match verify_simulated(&flipped()?, Path::new("/disk/store")) {
        Ok(report) if !report.damage.iter().any(|damage| damage.path == path) => Err(format!("{place}: verify found nothing")),
        _ => {
            seen.named += 1;
            Ok(())
        }
    }
}

/// A store on RocksDB: every so many bytes of every file, by `verify`.
#[cfg(feature = "cli")]
fn real_store(plan: &Plan) -> Result<String, String> {
    use crate::command::{Place, files_below};
    let place = Place::new();
    place.ok("train deepfm --store s --batch-size 64 --factors 4 --memory-budget 24MiB --hot-rows 200 --commit-every 4 \
              --checkpoint-every 3 --samples 3000");
    let dir = place.path("s");
    let (mut flipped, mut tables) = (0, 0);
    // STATUS is a notice for `inspect --watch`, which checks it, and no part of the store.
    let aside = |file: &Path| file.starts_with("live") || file.ends_with("LOCK") || file.ends_with("STATUS");
    for file in files_below(&dir).into_iter().filter(|file| !aside(file)) {
        let path = dir.join(&file);
        let bytes = std::fs::read(&path).unwrap();
        tables += u64::from(path.extension().is_some_and(|extension| extension == "sst"));
        // A long file is sampled: what a thousand bits of one show the next thousand do not add to.
        let stride = REAL_STRIDE.max(bytes.len() / 400);
        for at in (0..bytes.len()).step_by(stride) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (draw(plan.seed ^ at as u64) % 8);
            std::fs::write(&path, &changed).unwrap();
            let found = embedrock::verify(&dir);
            if found.is_ok_and(|report| !report.damage.iter().any(|damage| damage.path == path)) {
                return Err(format!("byte {at} of {}: verify found nothing", file.display()));
            }
            flipped += 1;
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    assert!(tables > 0, "no SST was there to be damaged");
    Ok(format!("; and {flipped} of a real store ({tables} SSTs), all named"))
}
