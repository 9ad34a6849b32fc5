//! Operations on a store and on a plain map, compared after each.
#![no_main]

#[path = "../../tests/map/mod.rs"]
mod map;

use arbitrary::{Arbitrary, Result, Unstructured};
use embedrock::testing::SimFs;
use libfuzzer_sys::fuzz_target;
use map::{Op, Place, Rules, run};

#[derive(Debug)]
struct Input {
    ops: Vec<Op>,
    rules: Rules,
    hot: Option<usize>,
}

impl<'a> Arbitrary<'a> for Input {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Input> {
        let (admission, ttl) = (if u.arbitrary()? { 1 } else { 3 }, if u.arbitrary()? { 0 } else { 30 });
        let rules = Rules { admission, ttl, sliding: u.arbitrary()?, slots: u.arbitrary()? };
        let hot = if u.arbitrary()? { Some(u.int_in_range(0..=8)?) } else { None };
        let mut ops = Vec::new();
        while !u.is_empty() && ops.len() < 80 {
            ops.push(op(u)?);
        }
        Ok(Input { ops, rules, hot })
    }
}

fn key(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.arbitrary::<u8>()? {
        small @ 0..=200 => u64::from(small) % 60,
        bits => u64::MAX << (bits % 64),
    })
}

fn keys(u: &mut Unstructured<'_>) -> Result<Vec<u64>> {
    (0..u.int_in_range(0..=6)?).map(|_| key(u)).collect()
}

fn pairs(u: &mut Unstructured<'_>) -> Result<Vec<(u64, i8)>> {
    (0..u.int_in_range(0..=12)?).map(|_| Ok((key(u)?, u.arbitrary()?))).collect()
}

fn step(u: &mut Unstructured<'_>) -> Result<u16> {
    Ok(u16::from(u.arbitrary::<u8>()?.saturating_sub(190)))
}

fn op(u: &mut Unstructured<'_>) -> Result<Op> {
    Ok(match u.int_in_range(0..=14)? {
        0..=2 => Op::Gradients(pairs(u)?, step(u)?),
        3 => Op::Assign(pairs(u)?, step(u)?),
        4 => Op::AssignAdd(pairs(u)?, step(u)?),
        5 => Op::Remove(keys(u)?),
        6 => Op::Prefetch(keys(u)?),
        7 => Op::Commit,
        8 => Op::BeginCommit,
        9 | 10 => Op::StepCommit(u.int_in_range(0..=4)?),
        11 => Op::Checkpoint,
        12 => Op::Crash { shards: u.int_in_range(1..=5)?, hot: Some(u.int_in_range(0..=9)?).filter(|hot| *hot < 9) },
        13 => Op::OpenAt(u.int_in_range(0..=5)?),
        _ => Op::Verify,
    })
}

fuzz_target!(|input: Input| {
    let fs = SimFs::new();
    fs.make_dirs("/disk".as_ref()).expect("an empty disk takes a directory");
    run(&input.ops, input.rules, Place::Simulated(fs), input.hot);
});
