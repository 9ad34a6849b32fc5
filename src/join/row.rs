//! What waits, as a row of f32s: whole numbers go as parts of 24 bits, which an f32 has exactly and which are finite.
#![forbid(unsafe_code)]

use super::JoinOptions;
use crate::types::{Key, UnixSeconds};

/// Lanes before the keys: the kind, the time, the label.
const HEAD: usize = 4;
const LANES_A_KEY: usize = 3;
const PART_BITS: u32 = 24;

/// What is known of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Waiting {
    /// Of the event; of one that is done, when it was.
    pub(super) time: UnixSeconds,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Features { keys: Vec<Key>, dense: Vec<f32> },
    Action { label: f32 },
    Done,
}

impl Waiting {
    /// When something is to be done about it.
    pub(super) fn deadline(&self, options: &JoinOptions) -> u64 {
        let after = if self.kind == Kind::Done { options.remember } else { options.wait };
        u64::from(self.time) + u64::from(after)
    }
}

/// The shape of features.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) keys: usize,
    pub(super) dense: usize,
}

impl Layout {
    pub(super) fn lanes(self) -> usize {
        HEAD + self.keys * LANES_A_KEY + self.dense
    }

    pub(super) fn write(self, waiting: &Waiting, out: &mut Vec<f32>) {
        let whole = out.len() + self.lanes();
        let (kind, label) = match &waiting.kind {
            Kind::Features { .. } => (1.0, 0.0),
            Kind::Action { label } => (2.0, *label),
            Kind::Done => (3.0, 0.0),
        };
        out.extend([kind, part(waiting.time.into(), 0), part(waiting.time.into(), 1), label]);
        if let Kind::Features { keys, dense } = &waiting.kind {
            out.extend(keys.iter().flat_map(|key| [part(*key, 0), part(*key, 1), part(*key, 2)]));
            out.extend_from_slice(dense);
        }
        out.resize(whole, 0.0);
    }

    pub(super) fn read(self, row: &[f32]) -> Waiting {
        let (head, rest) = row.split_at(HEAD);
        let (keys, dense) = rest.split_at(self.keys * LANES_A_KEY);
        let kind = match head[0] {
            1.0 => Kind::Features { keys: keys.chunks_exact(LANES_A_KEY).map(whole).collect(), dense: dense.to_vec() },
            2.0 => Kind::Action { label: head[3] },
            _ => Kind::Done,
        };
        Waiting { time: whole(&head[1..3]) as UnixSeconds, kind }
    }
}

fn part(number: u64, at: u32) -> f32 {
    (number >> (at * PART_BITS) & ((1 << PART_BITS) - 1)) as f32
}

fn whole(parts: &[f32]) -> u64 {
    parts.iter().rev().fold(0, |number, part| number << PART_BITS | *part as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_read_as_it_was_written() {
        let layout = Layout { keys: 3, dense: 2 };
        let features = Kind::Features { keys: vec![0, u64::MAX, 0x0123_4567_89ab_cdef], dense: vec![-0.5, f32::MIN] };
        for kind in [features, Kind::Action { label: -7.25 }, Kind::Done] {
            for time in [0, 1_700_000_000, UnixSeconds::MAX] {
                let (waiting, mut row) = (Waiting { time, kind: kind.clone() }, Vec::new());
                layout.write(&waiting, &mut row);
                assert!(row.len() == layout.lanes() && row.iter().all(|lane| lane.is_finite()));
                assert_eq!(layout.read(&row), waiting);
            }
        }
    }
}
