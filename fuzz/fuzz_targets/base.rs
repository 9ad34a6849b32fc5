//! A base built from its parts: manifest, hot rows frame by frame, cold rows, and a log after it; then files edited, the manifest
//! too. It opens with the rows that the format's description says, or not at all.
#![no_main]

#[path = "../../tests/driver/mod.rs"]
mod driver;
#[path = "../shared/frames.rs"]
mod frames;
#[path = "../shared/stores.rs"]
mod stores;

use std::collections::BTreeMap;
use std::path::Path;

use arbitrary::Arbitrary;
use embedrock::testing::{repair_store, verify_simulated};
use embedrock::{At, Store};
use frames::{Commit, Frame, History, Model, Number, Segment, Shape, commit, encode, header, lanes, payload};
use libfuzzer_sys::fuzz_target;
use stores::{DIR, Edit, Files, disk, identity, options, works};

/// The commit that the base follows.
const BEGIN: Commit = (1, 5, [0xbe; 16]);

#[derive(Arbitrary, Debug)]
struct Input {
    tables: Vec<BaseTable>,
    clock: Option<u8>,
    manifest: Manifest,
    log: Vec<Segment>,
    edits: Vec<Edit>,
    repaired: bool,
    at: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct BaseTable {
    id: u8,
    /// Not yet created when the base was begun.
    only_cold: bool,
    shape: Shape,
    hot: BTreeMap<u8, u8>,
    removed: Vec<u8>,
    cold: BTreeMap<u8, u8>,
}

#[derive(Arbitrary, Debug)]
struct Manifest {
    /// Nothing changed meanwhile; else a commit has to name it.
    unsettled: bool,
    number: Number,
    first_segment: Number,
    other_begin: Number,
    more: Vec<Vec<u8>>,
    version: Number,
}

impl Manifest {
    /// Whether it is as any store could have written it.
    fn is_plain(&self) -> bool {
        self.number.0 < 8 && self.other_begin.0 < 8 && self.version.0 < 8 && self.more.is_empty() && !self.unsettled
    }

    fn encode(&self, bytes: &[(&str, usize)]) -> Vec<u8> {
        let mut out = b"EMBRBASE".to_vec();
        out.extend((if self.version.0 < 8 { 1 } else { self.version.0 as u32 }).to_le_bytes());
        let begin = if self.other_begin.0 < 8 { BEGIN.1 } else { self.other_begin.0 };
        for number in [if self.number.0 < 8 { 1 } else { self.number.0 }, BEGIN.0, begin] {
            out.extend(number.to_le_bytes());
        }
        out.extend(BEGIN.2);
        out.push(u8::from(!self.unsettled));
        out.extend(self.first_segment.0.to_le_bytes());
        out.extend(((bytes.len() + self.more.len()) as u32).to_le_bytes());
        let more = self.more.iter().map(|name| (&name[..name.len().min(40)], 0));
        for (name, size) in bytes.iter().map(|(name, size)| (name.as_bytes(), *size)).chain(more) {
            out.push(name.len() as u8);
            out.extend(name);
            out.extend((size as u64).to_le_bytes());
            out.resize(out.len() + size.div_ceil(64 << 10) * 4, 0);
        }
        out.extend([0; 4]);
        out
    }
}

fn keys(map: &BTreeMap<u8, u8>) -> Vec<(u64, u8)> {
    map.iter().map(|(key, value)| (u64::from(key % 12), *value)).collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// The hot rows' file, and what it says to the model.
fn hot_rows(input: &Input, tables: &BTreeMap<u32, &BaseTable>, identity: &[u8], model: &mut Model) -> Option<Vec<u8>> {
    let mut out = header(1, BEGIN.0, BEGIN, false, identity);
    for (&table, spec) in tables.iter().filter(|(_, spec)| !spec.only_cold) {
        let frames = [
            Frame::Create(table, spec.shape),
            Frame::Rows { table, odd: false, early: false, rows: keys(&spec.hot) },
            Frame::Removed { table, early: false, keys: spec.removed.iter().map(|key| u64::from(key % 12)).collect() },
        ];
        for frame in frames {
            out.extend(encode(&frame, &payload(&frame, spec.shape.lanes()), 0));
            model.apply(&(frame, spec.shape.lanes())).ok()?;
        }
    }
    let end =
        Frame::Commit { clock: input.clock, batches: Number(0), base: Number(0), next_table: Number(0), state_is_off: false };
    out.extend(encode(&end, &commit(BEGIN, input.clock, [0; 4], 4), 0));
    model.clock = input.clock.map_or(0, u32::from);
    Some(out)
}

/// The twin's file: blocks of length, checksum and payload.
fn cold_rows(tables: &BTreeMap<u32, &BaseTable>, model: &mut Model) -> Vec<u8> {
    let mut out = b"ERTWIN01".to_vec();
    let mut block = |payload: Vec<u8>| {
        out.extend((payload.len() as u32).to_le_bytes());
        out.extend([0; 4]);
        out.extend(payload);
    };
    let mut count = 0u64;
    for (&table, spec) in tables {
        let width = spec.shape.lanes();
        block([&[1], &table.to_le_bytes()[..], &(u64::from(width) * 4 + 4).to_le_bytes()].concat());
        let mut rows: Vec<_> = keys(&spec.cold);
        rows.sort_by_key(|(key, _)| mix(*key));
        model.cold.entry(table).or_insert((width, BTreeMap::new()));
        let mut payload = vec![2];
        for (key, value) in &rows {
            payload.extend(mix(*key).to_le_bytes());
            payload.extend((width * 4 + 4).to_le_bytes());
            payload.extend(u32::from(*value).to_le_bytes());
            lanes(*value, width).iter().for_each(|lane| payload.extend(lane.to_le_bytes()));
            let known = model.cold.entry(table).or_insert((width, BTreeMap::new()));
            known.1.insert(*key, (u32::from(*value), lanes(*value, width)));
        }
        count += rows.len() as u64;
        if !rows.is_empty() {
            block(payload);
        }
    }
    block([&[3], &count.to_le_bytes()[..]].concat());
    out
}

/// The order of cold rows: the finalizer of SplitMix64 (docs/design.md).
fn mix(key: u64) -> u64 {
    let x = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fuzz_target!(|input: Input| {
    let (path, bytes) = identity();
    let tables: BTreeMap<u32, &BaseTable> = input.tables.iter().take(4).map(|table| (u32::from(table.id % 3), table)).collect();
    let mut model = Model::default();
    let cold = cold_rows(&tables, &mut model);
    let Some(hot) = hot_rows(&input, &tables, &bytes, &mut model) else { return };
    let base = Path::new(DIR).join("base/00000001");
    let manifest = input.manifest.encode(&[("hot.rows", hot.len()), ("cold/twin.rows", cold.len())]);
    let mut history = History::default();
    let mut files = Files::from([(path, bytes.clone())]);
    for (segment, number) in input.log.iter().take(3).zip(1..) {
        let segment = history.build(segment, number, &bytes, BEGIN);
        files.insert(Path::new(DIR).join(format!("log/{number:08}.log")), segment);
    }
    for (name, bytes) in [("MANIFEST", manifest), ("hot.rows", hot), ("cold/twin.rows", cold)] {
        files.insert(base.join(name), bytes);
    }
    repair_store(&mut files, Path::new(DIR));
    input.edits.iter().take(4).for_each(|edit| edit.apply(&mut files));
    if input.repaired {
        repair_store(&mut files, Path::new(DIR));
    }
    let Some(fs) = disk(&files) else { return };
    let _ = verify_simulated(&fs, Path::new(DIR));
    if input.edits.is_empty() && input.manifest.is_plain() {
        match (Store::open(DIR, options(&fs)), history.replay(model)) {
            (Ok(store), Some(Ok(model))) => model.compare(&store),
            (Ok(_), Some(Err(()))) => panic!("a history that contradicts itself was taken"),
            (Err(error), Some(Ok(_))) => panic!("{error}"),
            _ => {}
        }
    }
    let at = input.at.and_then(|at| {
        let commits = Store::open(DIR, options(&fs)).ok()?.commits().ok()?;
        commits.get(usize::from(at)).copied()
    });
    works(&fs, &options(&fs).open_at(at.map_or(At::Latest, At::Commit)));
});
