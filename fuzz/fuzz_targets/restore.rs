//! Restoring from a store whose files were changed: an error and no target, or a store that is what the source is at that commit.
#![no_main]

#[path = "../../tests/driver/mod.rs"]
mod driver;
#[path = "../shared/stores.rs"]
mod stores;

use std::path::Path;

use arbitrary::Arbitrary;
use embedrock::testing::{SimFs, repair_store, verify_simulated};
use embedrock::{At, CommitId, Restore, Store};
use libfuzzer_sys::fuzz_target;
use stores::{DIR, Edit, STORES, disk, options};

const TARGET: &str = "/disk/restored";

#[derive(Arbitrary, Debug)]
struct Input {
    store: u8,
    edits: Vec<Edit>,
    repaired: bool,
    at: Option<u8>,
    table: Option<u8>,
    shards: u8,
    /// A call of the restore's that fails.
    fault: Option<u8>,
}

/// All but what a lock and a live directory leave behind.
fn content(fs: &SimFs) -> Vec<(String, Vec<u8>)> {
    let files = fs.files().into_iter().map(|(path, bytes)| (path.display().to_string(), bytes));
    files.filter(|(path, _)| path.starts_with(DIR) && !path.starts_with("/disk/store/live") && !path.ends_with("LOCK")).collect()
}

fuzz_target!(|input: Input| {
    let mut files = STORES[usize::from(input.store) % STORES.len()].clone();
    input.edits.iter().take(6).for_each(|edit| edit.apply(&mut files));
    if input.repaired {
        repair_store(&mut files, Path::new(DIR));
    }
    let Some(fs) = disk(&files) else { return };
    // Opening repairs and prunes, so it works on a copy.
    let copy = fs.kill();
    let commits = Store::open(DIR, options(&copy)).and_then(|store| store.commits()).unwrap_or_default();
    let at = input.at.map_or(At::Latest, |at| {
        At::Commit(commits.get(usize::from(at)).copied().unwrap_or(CommitId { timeline: 1, sequence: u64::from(at) }))
    });
    let source = Store::open(DIR, options(&copy).open_at(at)).and_then(|store| Ok((store.digest()?, store)));
    let before = content(&fs);
    let mut restore = Restore::of(DIR).at(at).options(options(&fs).shards(usize::from(input.shards % 5) + 1));
    if let Some(table) = input.table {
        restore = restore.tables([["expiring", "admitting", "absent", ""][usize::from(table % 4)]]);
    }
    if let Some(nth) = input.fault {
        fs.fail_nth(u64::from(nth) + 1, embedrock::testing::FaultKind::Io, embedrock::testing::FaultSpan::Once);
    }
    let report = restore.to(TARGET);
    fs.heal();
    assert!(content(&fs) == before, "the source was changed");
    let litter = |path: &Path| !path.starts_with(DIR) && !path.starts_with(TARGET);
    let Ok(report) = report else {
        let target = fs.files().into_keys().find(|path| path.starts_with(TARGET));
        // The last step makes the name durable: until then it may be there, whole.
        assert!(target.is_none() || input.fault.is_some());
        return;
    };
    assert!(!fs.files().keys().any(|path| litter(path)), "litter: {:?}", fs.files().keys());
    assert_eq!(verify_simulated(&fs, Path::new(TARGET)).expect("a restored store can be read").damage, []);
    let store = Store::open(TARGET, options(&fs)).expect("a restored store opens");
    assert_eq!(store.last_commit().map_or(0, |commit| commit.id.sequence), report.commit.sequence);
    assert_eq!(store.tables().len(), report.tables.len());
    match (source, input.table) {
        (Ok((digest, _)), None) => assert_eq!(store.digest().expect("sound rows"), digest),
        (Ok((_, source)), Some(_)) => assert_eq!(store.tables().len(), source.tables().len().min(1)),
        (Err(_), _) => drop(store.digest()),
    }
    let table = store.create_table(embedrock::TableSchema::new("fresh", 1)).expect("room for a table");
    table.assign(&[1], &[2.0], &embedrock::Update::at(0)).expect("it works");
    store.commit(b"on").expect("it works");
});
