//! Logs and bases built frame by frame from the description in docs/design.md, and the rows that they must lead to.
#![allow(dead_code, reason = "each target uses a part")]

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Result, Unstructured};
use embedrock::Store;

/// Bytes of a segment's header, and where its uuid is; where an IDENTITY has it.
const HEADER: usize = 88;
const IDENTITY_UUID: std::ops::Range<usize> = 12..28;

/// A commit as the builder names it, before checksums are made right: timeline, sequence, and a hash of no meaning.
pub(crate) type Commit = (u64, u64, [u8; 16]);

pub(crate) const ROOT: Commit = (1, 0, [0; 16]);

/// A number that is small, or at the end of what there is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Number(pub(crate) u64);

impl<'a> Arbitrary<'a> for Number {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Number> {
        Ok(Number(match u.arbitrary::<u8>()? {
            small @ 0..=239 => u64::from(small % 8),
            at => [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 32, u64::from(u32::MAX), u64::from(u32::MAX) - 1][usize::from(at) % 6],
        }))
    }
}

/// A schema of a table, in one of few shapes.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    name: u8,
    dim: u8,
    adagrad: bool,
    ttl: u8,
}

impl Shape {
    fn name(self) -> String {
        format!("t{}", self.name % 4)
    }

    fn dim(self) -> u32 {
        u32::from(self.dim % 3) + 1
    }

    fn ttl(self) -> u32 {
        if self.ttl < 200 { 0 } else { u32::from(self.ttl - 199) }
    }

    pub(crate) fn lanes(self) -> u32 {
        self.dim() * if self.adagrad { 2 } else { 1 }
    }

    fn is_same_table(self, other: Shape) -> bool {
        (self.name(), self.dim(), self.adagrad) == (other.name(), other.dim(), other.adagrad)
    }

    fn encode(self) -> Vec<u8> {
        let name = self.name();
        let mut out = vec![1, name.len() as u8];
        out.extend(name.as_bytes());
        out.extend(self.dim().to_le_bytes());
        out.push(u8::from(self.adagrad));
        let own = if self.adagrad { [0.1, 1e-10] } else { [0.0; 2] };
        for parameter in [0.5, 0.0, own[0], own[1], 0.0, 0.0, 0.0, 0.0f32] {
            out.extend(parameter.to_le_bytes());
        }
        out.extend([0, 0, 0, 0, 0]);
        out.extend(1u32.to_le_bytes());
        out.extend([0, 0, 0, 0, 0]);
        out.extend(self.ttl().to_le_bytes());
        out.push(0);
        out
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Create(u32, Shape),
    Drop(u32),
    Settings(u32, Shape),
    /// Of as many lanes as the table has, or one more.
    Rows {
        table: u32,
        odd: bool,
        early: bool,
        rows: Vec<(u64, u8)>,
    },
    Removed {
        table: u32,
        early: bool,
        keys: Vec<u64>,
    },
    Counts {
        table: u32,
        counts: Vec<(u64, u8)>,
    },
    State(Vec<u8>),
    Commit {
        clock: Option<u8>,
        batches: Number,
        base: Number,
        next_table: Number,
        state_is_off: bool,
    },
    Raw {
        kind: u8,
        early: u8,
        payload: Vec<u8>,
    },
}

fn keys<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>) -> Result<Vec<(u64, T)>> {
    (0..u.int_in_range(0..=5)?).map(|_| Ok((u64::from(u.arbitrary::<u8>()? % 12), u.arbitrary()?))).collect()
}

impl<'a> Arbitrary<'a> for Frame {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Frame> {
        let table = match u.arbitrary::<u8>()? {
            small @ 0..=250 => u32::from(small % 3),
            251..=253 => 7,
            _ => u32::MAX,
        };
        let rarely = |u: &mut Unstructured<'a>| Ok(u.arbitrary::<u8>()? > 250);
        Ok(match u.int_in_range(0..=19)? {
            0..=3 => Frame::Create(table, u.arbitrary()?),
            4 => Frame::Drop(table),
            5 => Frame::Settings(table, u.arbitrary()?),
            6..=9 => Frame::Rows { table, odd: rarely(u)?, early: u.arbitrary()?, rows: keys(u)? },
            10 | 11 => {
                Frame::Removed { table, early: u.arbitrary()?, keys: keys::<()>(u)?.into_iter().map(|(key, ())| key).collect() }
            }
            12 => Frame::Counts { table, counts: keys(u)? },
            13 => Frame::State(vec![7; u.int_in_range(0..=9)?]),
            14 if rarely(u)? => Frame::Raw { kind: u.arbitrary()?, early: u.arbitrary()?, payload: u.arbitrary()? },
            _ => Frame::Commit {
                clock: u.arbitrary()?,
                batches: u.arbitrary()?,
                base: u.arbitrary()?,
                next_table: u.arbitrary()?,
                state_is_off: rarely(u)?,
            },
        })
    }
}

/// A segment to be: which commit it follows, counted from the newest back, and its frames.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Segment {
    follows: u8,
    continues: bool,
    timeline: Number,
    pub(crate) frames: Vec<Frame>,
}

/// A frame and the lanes of its rows.
pub(crate) type Laid = (Frame, u32);

/// What one delta says, its early frames apart.
#[derive(Clone, Debug, Default)]
struct Delta {
    frames: Vec<Laid>,
    early: Vec<Laid>,
    clock: Option<u32>,
    batches: u64,
    is_bad: bool,
}

/// A history as it is built: each commit with the one it follows, whether it takes that one's early frames, and its delta.
#[derive(Debug, Default)]
pub(crate) struct History {
    commits: Vec<(Commit, Option<usize>, bool, Delta)>,
    tip: Option<usize>,
    /// Something is in it that the model does not follow.
    is_odd: bool,
}

impl History {
    /// The bytes of segment `number`, whose checksums are still to be made right.
    pub(crate) fn build(&mut self, segment: &Segment, number: u64, identity: &[u8], root: Commit) -> Vec<u8> {
        let at = self.commits.len().checked_sub(1 + if segment.follows < 200 { 0 } else { usize::from(segment.follows - 199) });
        let (parent, mut tip) = at.map_or((root, None), |at| (self.commits[at].0, Some(at)));
        let timeline = match segment.timeline.0 {
            0..8 => parent.0.max(1),
            other => other,
        };
        let mut out = header(number, timeline, parent, segment.continues, identity);
        let (mut sequence, mut delta, mut state, mut takes_early) = (parent.1, Delta::default(), 0, segment.continues);
        for frame in &segment.frames {
            match frame {
                Frame::Commit { clock, batches, base, next_table, state_is_off } => {
                    sequence = sequence.saturating_add(1);
                    let name = (timeline, sequence, fake_hash(self.commits.len()));
                    let bytes = state + u64::from(*state_is_off);
                    out.extend(encode(frame, &commit(name, *clock, [batches.0, bytes, 0, base.0], next_table.0 as u32), 0));
                    (delta.clock, delta.batches, delta.is_bad) = (clock.map(u32::from), batches.0, *state_is_off);
                    self.commits.push((name, tip, takes_early, std::mem::take(&mut delta)));
                    (tip, state, takes_early) = (Some(self.commits.len() - 1), 0, true);
                }
                _ => {
                    let (early, lanes) = self.lanes_for(frame, &delta, tip);
                    out.extend(encode(frame, &payload(frame, lanes), early));
                    state += if let Frame::State(bytes) = frame { bytes.len() as u64 } else { 0 };
                    self.is_odd |= matches!(frame, Frame::Raw { .. });
                    if early == 1 { &mut delta.early } else { &mut delta.frames }.push((frame.clone(), lanes));
                }
            }
        }
        self.tip = tip;
        out
    }

    /// Whether a frame is early, and the lanes of its rows: those of the newest table of that number.
    fn lanes_for(&self, frame: &Frame, delta: &Delta, tip: Option<usize>) -> (u8, u32) {
        let shape_in = |frames: &[Laid], id: u32| {
            frames.iter().rev().find_map(|(frame, _)| match frame {
                Frame::Create(table, shape) if *table == id => Some(*shape),
                _ => None,
            })
        };
        match frame {
            Frame::Rows { table, odd, early, .. } => {
                let mut shape = shape_in(&delta.frames, *table);
                let mut at = tip;
                while let (None, Some(commit)) = (shape, at) {
                    shape = shape_in(&self.commits[commit].3.frames, *table);
                    at = self.commits[commit].1;
                }
                (u8::from(*early), shape.map_or(1, Shape::lanes) + u32::from(*odd))
            }
            Frame::Removed { early, .. } => (u8::from(*early), 0),
            Frame::Raw { early, .. } => (*early, 0),
            _ => (0, 0),
        }
    }

    /// The rows at the tip, from `model` on; `Err` if the history says what no store would. `None` if it is too odd to know.
    pub(crate) fn replay(&self, model: Model) -> Option<std::result::Result<Model, ()>> {
        (!self.is_odd).then(|| self.replay_chain(&self.chain(), model))
    }

    /// Whether a clock or a number of batches is below that of the commit before: no store writes that, but one opens with it.
    pub(crate) fn goes_back(&self) -> bool {
        let deltas = || self.chain().into_iter().map(|at| &self.commits[at].3);
        deltas().zip(deltas().skip(1)).any(|(last, next)| next.clock < last.clock || next.batches < last.batches)
    }

    fn chain(&self) -> Vec<usize> {
        let mut chain: Vec<usize> = std::iter::successors(self.tip, |at| self.commits[*at].1).collect();
        chain.reverse();
        chain
    }

    fn replay_chain(&self, chain: &[usize], mut model: Model) -> std::result::Result<Model, ()> {
        let mut early: &[Laid] = &[];
        for &at in chain {
            let (_, _, takes_early, delta) = &self.commits[at];
            for frame in early.iter().filter(|_| *takes_early).chain(&delta.frames) {
                model.apply(frame)?;
            }
            if delta.is_bad {
                return Err(());
            }
            (model.clock, early) = (delta.clock.unwrap_or(0), &delta.early);
        }
        Ok(model)
    }
}

fn fake_hash(number: usize) -> [u8; 16] {
    let mut hash = [0xee; 16];
    hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
    hash
}

pub(crate) fn header(number: u64, timeline: u64, parent: Commit, continues: bool, identity: &[u8]) -> Vec<u8> {
    let mut out = b"EMBROCKL".to_vec();
    out.extend(1u32.to_le_bytes());
    out.extend(&identity[IDENTITY_UUID]);
    for number in [number, timeline, parent.0, parent.1] {
        out.extend(number.to_le_bytes());
    }
    out.extend(parent.2);
    out.push(u8::from(continues));
    out.resize(HEADER, 0);
    out
}

pub(crate) fn commit(name: Commit, clock: Option<u8>, numbers: [u64; 4], next_table: u32) -> Vec<u8> {
    let mut out = [name.0.to_le_bytes(), name.1.to_le_bytes()].concat();
    out.extend([0; 16]);
    out.extend(name.2);
    out.push(u8::from(clock.is_some()));
    out.extend(u32::from(clock.unwrap_or(0)).to_le_bytes());
    numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
    out.extend(next_table.to_le_bytes());
    out
}

/// A frame whose checksum is still to be made right.
pub(crate) fn encode(frame: &Frame, payload: &[u8], early: u8) -> Vec<u8> {
    let kind = match frame {
        Frame::Create(..) => 1,
        Frame::Drop(_) => 2,
        Frame::Settings(..) => 3,
        Frame::Rows { .. } => 4,
        Frame::Removed { .. } => 5,
        Frame::Counts { .. } => 6,
        Frame::State(_) => 7,
        Frame::Commit { .. } => 8,
        Frame::Raw { kind, .. } => *kind,
    };
    let mut out = (payload.len() as u32).to_le_bytes().to_vec();
    out.extend([kind, early, 0, 0, 0, 0, 0, 0]);
    out.extend(payload);
    out
}

/// The lanes of a row that was given one byte.
pub(crate) fn lanes(value: u8, lanes: u32) -> Vec<f32> {
    (0..lanes).map(|lane| f32::from(value) + lane as f32 / 4.0).collect()
}

pub(crate) fn payload(frame: &Frame, width: u32) -> Vec<u8> {
    let mut out = Vec::new();
    match frame {
        Frame::Create(table, shape) | Frame::Settings(table, shape) => {
            out.extend(table.to_le_bytes());
            out.extend(shape.encode());
        }
        Frame::Drop(table) => out.extend(table.to_le_bytes()),
        Frame::Rows { table, rows, .. } => {
            out.extend([table.to_le_bytes(), width.to_le_bytes()].concat());
            for (key, value) in rows {
                out.extend(key.to_le_bytes());
                out.extend(u32::from(*value).to_le_bytes());
                out.extend([0; 4]);
                lanes(*value, width).iter().for_each(|lane| out.extend(lane.to_le_bytes()));
            }
        }
        Frame::Removed { table, keys, .. } => {
            out.extend(table.to_le_bytes());
            keys.iter().for_each(|key| out.extend(key.to_le_bytes()));
        }
        Frame::Counts { table, counts } => {
            out.extend(table.to_le_bytes());
            for (key, count) in counts {
                out.extend(key.to_le_bytes());
                out.extend(u32::from(*count).to_le_bytes());
            }
        }
        Frame::State(bytes) | Frame::Raw { payload: bytes, .. } => out.extend(bytes),
        Frame::Commit { .. } => {}
    }
    out
}

type Rows = BTreeMap<u64, (u32, Vec<f32>)>;

/// Tables as plain maps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    tables: BTreeMap<u32, (Shape, Rows)>,
    /// Rows of the cold tier and their lanes, which a table has from its creation on.
    pub(crate) cold: BTreeMap<u32, (u32, Rows)>,
    pub(crate) clock: u32,
    /// A table was dropped that was not there: no store writes that, but one opens with it.
    pub(crate) dropped_unknown: bool,
}

impl Model {
    pub(crate) fn shape(&self, id: u32) -> Option<Shape> {
        self.tables.get(&id).map(|(shape, _)| *shape)
    }

    pub(crate) fn apply(&mut self, (frame, width): &Laid) -> std::result::Result<(), ()> {
        match frame {
            Frame::Create(id, shape) => {
                if self.tables.contains_key(id) || self.tables.values().any(|(other, _)| other.name() == shape.name()) {
                    return Err(());
                }
                let (lanes, rows) = self.cold.remove(id).unwrap_or((shape.lanes(), Rows::new()));
                if lanes != shape.lanes() {
                    return Err(());
                }
                self.tables.insert(*id, (*shape, rows));
            }
            Frame::Drop(id) => {
                self.dropped_unknown |= self.tables.remove(id).is_none();
                self.cold.remove(id);
            }
            Frame::Settings(id, shape) => {
                let (known, _) = self.tables.get_mut(id).ok_or(())?;
                if !known.is_same_table(*shape) {
                    return Err(());
                }
                *known = *shape;
            }
            Frame::Rows { table, rows, .. } => {
                let (shape, known) = self.tables.get_mut(table).ok_or(())?;
                if *width != shape.lanes() {
                    return Err(());
                }
                known.extend(rows.iter().map(|(key, value)| (*key, (u32::from(*value), lanes(*value, shape.lanes())))));
            }
            Frame::Removed { table, keys, .. } => {
                let (_, known) = self.tables.get_mut(table).ok_or(())?;
                keys.iter().for_each(|key| drop(known.remove(key)));
            }
            Frame::Counts { table, .. } => drop(self.tables.get(table).ok_or(())?),
            Frame::State(_) | Frame::Commit { .. } | Frame::Raw { .. } => {}
        }
        Ok(())
    }

    /// A store must have these rows and no others.
    pub(crate) fn compare(&self, store: &Store) {
        assert_eq!(store.tables().len(), self.tables.len());
        for (shape, rows) in self.tables.values() {
            let table = store.table(&shape.name()).expect("a table that was created");
            let mut found = Rows::new();
            let visit = |key, time, embedding: &[f32], state: &[f32]| {
                let before = found.insert(key, (time, [embedding, state].concat()));
                assert!(before.is_none(), "key {key} was visited twice");
                Ok(())
            };
            table.for_each_row(visit).expect("sound rows");
            let ttl = shape.ttl();
            let live = |(time, _): &(u32, Vec<f32>)| ttl == 0 || self.clock.saturating_sub(*time) < ttl;
            let expected: Rows = rows.iter().filter(|(_, row)| live(row)).map(|(key, row)| (*key, row.clone())).collect();
            assert_eq!(found, expected);
        }
    }
}
