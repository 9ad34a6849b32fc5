//! `verify` replays what it reads: frames whose checksums are right and that no store can have written are damage, with their place.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod driver;
mod hostile;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use driver::draw;
use embedrock::testing::{SimFs, verify_simulated};
use embedrock::{Damage, Optimizer, Store, StoreOptions, TableSchema, Update};
use hostile::{DIR, Files, disk, files, frame, frames, options};

const CREATE: u8 = 1;
const DROP: u8 = 2;
const SETTINGS: u8 = 3;
const ROWS: u8 = 4;
const REMOVED: u8 = 5;
const COUNTS: u8 = 6;
const STATE: u8 = 7;
const COMMIT: u8 = 8;
const FILTER: u8 = 9;
/// Bytes of a frame before its payload.
const FRAME_HEADER: usize = 12;

fn damage(fs: &SimFs) -> Vec<Damage> {
    verify_simulated(fs, Path::new(DIR)).unwrap().damage
}

fn log(files: &Files) -> Vec<PathBuf> {
    files.keys().filter(|path| path.extension().is_some_and(|ext| ext == "log")).cloned().collect()
}

/// A store of one segment, without bases, whose second delta has rows, tombstones, counts and state.
fn small() -> Files {
    let fs = SimFs::new();
    fs.make_dirs(Path::new("/disk")).unwrap();
    let options = StoreOptions::default().simulated(Arc::new(fs.clone())).memory_budget(12 << 20).threads(1).shards(1);
    let store = Store::open(DIR, options).unwrap();
    let schema = TableSchema::new("t", 2).optimizer(Optimizer::adagrad(0.1)).admission(embedrock::Admission::count(2));
    let table = store.create_table(schema).unwrap();
    for round in 0..3 {
        table.assign(&[1, 2, 3], &[1.0; 6], &Update::at(10 + round)).unwrap();
        table.apply_gradients(&[70 + round], &[0.5; 2], &Update::at(10 + round)).unwrap();
        table.remove(&[2]).unwrap();
        store.commit(b"the trainer's state").unwrap();
    }
    drop((table, store));
    fs.kill().files()
}

/// Replaces the payload of a frame of a kind, the last but `back` of that kind, and says where the frame begins.
fn forge(files: &mut Files, kind: u8, back: usize, payload: impl FnOnce(&[u8]) -> Vec<u8>) -> (PathBuf, u64) {
    let path = log(files).pop().unwrap();
    let bytes = files.get_mut(&path).unwrap();
    let found: Vec<_> = frames(bytes).into_iter().filter(|(found, _)| *found == kind).collect();
    let place = found[found.len() - 1 - back].1.clone();
    let new = frame(kind, &payload(&bytes[place.clone()]));
    bytes.splice(place.start - FRAME_HEADER..place.end, new);
    (path, (place.start - FRAME_HEADER) as u64)
}

/// A change that no store makes: what it does to the payload of which frame, and what `verify` says of it.
type Forgery = (u8, usize, fn(&[u8]) -> Vec<u8>, &'static str);

/// A frame put in where it cannot be: its kind, its payload from that of the creation, and what `verify` says of it.
type Insertion = (u8, fn(&[u8]) -> Vec<u8>, &'static str);

const FORGERIES: &[Forgery] = &[
    (ROWS, 0, |payload| [&7u32.to_le_bytes(), &payload[4..]].concat(), "table 7, which was not created"),
    (ROWS, 0, |_| [0u32, 1, 9, 0, 10, 0, 0].map(u32::to_le_bytes).concat(), "rows of 1 values in a table of 4"),
    (ROWS, 0, |payload| [&payload[..20], &[1], &payload[21..]].concat(), "bytes where there should be none"),
    (REMOVED, 0, |payload| [&7u32.to_le_bytes(), &payload[4..]].concat(), "table 7, which was not created"),
    (COUNTS, 0, |payload| [&7u32.to_le_bytes(), &payload[4..]].concat(), "table 7, which was not created"),
    (STATE, 0, |payload| payload[1..].to_vec(), "the commit's state has 18 bytes, expected 19"),
    (CREATE, 0, |payload| [&payload[..5], &[200], &payload[6..]].concat(), ""),
];

#[test]
fn forged_frames_are_damage_at_their_place() {
    assert_eq!(damage(&disk(small())), []);
    for (kind, back, change, expected) in FORGERIES {
        let mut files = small();
        let (path, offset) = forge(&mut files, *kind, *back, change);
        // The mark says where the last commit ends.
        files.remove(&Path::new(DIR).join("DURABLE"));
        let fs = disk(files);
        let found = damage(&fs);
        assert!(!found.is_empty() && found[0].path == path && found[0].what.contains(expected), "{kind}: {expected}: {found:?}");
        // State is counted at the commit.
        assert!(found[0].offset == offset || *kind == STATE && found[0].offset > offset, "{kind}: {offset}, {found:?}");
        assert!(Store::open(DIR, options(&fs)).is_err() || expected.contains("should be none"), "{kind}: {expected}");
    }
}

#[test]
fn frames_that_do_not_follow_from_those_before_them_are_damage() {
    let cases: &[Insertion] = &[
        (CREATE, |create| create.to_vec(), "is created twice"),
        (CREATE, |create| [&5u32.to_le_bytes(), &create[4..]].concat(), "is created twice"),
        (SETTINGS, |create| [&create[..6], b"u", &create[7..]].concat(), "table 't' becomes 'u'"),
        (SETTINGS, |create| [&5u32.to_le_bytes(), &create[4..]].concat(), "table 5, which was not created"),
        (DROP, |_| 5u32.to_le_bytes().to_vec(), "table 5, which was not created"),
        (DROP, |_| 0u32.to_le_bytes().to_vec(), "table 0, which was not created"),
        (FILTER, |_| [0u32, 1, 1, 64, 0].map(u32::to_le_bytes).concat(), "part 64 of an admission filter"),
    ];
    for (kind, payload, expected) in cases {
        let mut files = small();
        let path = log(&files).pop().unwrap();
        let bytes = files.get_mut(&path).unwrap();
        let create = frames(bytes).into_iter().find(|(kind, _)| *kind == CREATE).map(|(_, at)| bytes[at].to_vec()).unwrap();
        // At the beginning of the second delta; its commit says how many frames there are, and is made right.
        let first_commit = frames(bytes).into_iter().find(|(kind, _)| *kind == COMMIT).unwrap().1;
        bytes.splice(first_commit.end..first_commit.end, frame(*kind, &payload(&create)));
        files.remove(&Path::new(DIR).join("DURABLE"));
        let found = damage(&disk(files));
        assert!(found.iter().any(|damage| damage.path == path && damage.what.contains(expected)), "{expected}: {found:?}");
    }
}

/// Bytes of frames are drawn anew and the checksums made right: what is refused at open, or makes a base be passed over, `verify` names; and it
/// ends, whatever it reads.
#[test]
fn whatever_recovery_refuses_is_named() {
    let (mut refused, mut sound, mut named) = (0, 0, 0);
    let whole: BTreeMap<u64, Files> = [30, 60].into_iter().map(|operations| (operations, files(operations))).collect();
    for seed in 0..600u64 {
        let mut files = whole[&(30 + 30 * (seed % 2))].clone();
        let paths: Vec<PathBuf> = files.keys().filter(|path| path.ends_with("hot.rows")).cloned().chain(log(&files)).collect();
        let path = &paths[draw(seed) as usize % paths.len()];
        let bytes = files.get_mut(path).unwrap();
        let payloads: Vec<_> = frames(bytes).into_iter().filter(|(_, at)| !at.is_empty() && at.end <= bytes.len()).collect();
        if payloads.is_empty() {
            continue;
        }
        // The first bytes say what the rest is.
        let place = payloads[draw(seed ^ 1 << 40) as usize % payloads.len()].1.clone();
        let at = place.start + draw(seed ^ 1 << 41) as usize % place.len().min(24);
        bytes[at] = draw(seed ^ 1 << 42) as u8;
        let fs = disk(files);
        let found = damage(&fs);
        let opened = Store::open(DIR, options(&fs));
        let odd = opened.as_ref().map_or(true, |store| !store.recovery().damaged_bases.is_empty());
        assert!(!odd || !found.is_empty(), "seed {seed}, {} at {at}: {:?}", path.display(), opened.map(drop));
        refused += u64::from(odd);
        sound += u64::from(found.is_empty());
        named += u64::from(!odd && !found.is_empty());
    }
    assert!(refused > 80 && sound > 100, "{refused} refused, {sound} sound, {named} only named");
}
