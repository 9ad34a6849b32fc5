//! What of a joiner is not in its table: the time, the counts, the examples that nobody has taken yet.
//!
//! Layout, little-endian: magic `EMBRJOIN`, version u32, the options (keys, dense, wait, remember as u32, negatives f64, seed), time u64, counts
//! as u64, the number of examples u32, then each: request u64, time u32, label f32, keys, dense.
#![forbid(unsafe_code)]

use super::{Example, JoinOptions, VecDeque};
use crate::codec::Reader;
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"EMBRJOIN";
const VERSION: u32 = 1;

/// What has become of all events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinCounts {
    /// Examples given, positive and negative.
    pub examples: u64,
    /// Features that met their action.
    pub joined: u64,
    /// Features whose action did not come in time.
    pub timed_out: u64,
    /// Negative examples that were not kept.
    pub not_drawn: u64,
    /// Features, or actions that still wait, that came again.
    pub duplicates: u64,
    /// Actions of requests that were done: another one had come, or time was out.
    pub late: u64,
    /// Actions whose features did not come in time.
    pub without_features: u64,
}

impl JoinCounts {
    const NUMBERS: usize = 7;

    fn numbers(&mut self) -> [&mut u64; Self::NUMBERS] {
        let JoinCounts { examples, joined, timed_out, not_drawn, duplicates, late, without_features } = self;
        [examples, joined, timed_out, not_drawn, duplicates, late, without_features]
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct State {
    /// The largest event time seen.
    pub(super) time: u64,
    pub(super) counts: JoinCounts,
    pub(super) ready: VecDeque<Example>,
}

fn head(options: &JoinOptions) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for number in [VERSION, options.keys as u32, options.dense as u32, options.wait, options.remember] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&options.negatives.to_le_bytes());
    out.extend_from_slice(&options.seed.to_le_bytes());
    out
}

impl State {
    pub(super) fn encode(&self, options: &JoinOptions) -> Vec<u8> {
        let mut out = head(options);
        out.extend_from_slice(&self.time.to_le_bytes());
        self.counts.clone().numbers().iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
        out.extend_from_slice(&(self.ready.len() as u32).to_le_bytes());
        for example in &self.ready {
            out.extend_from_slice(&example.request.to_le_bytes());
            out.extend_from_slice(&example.time.to_le_bytes());
            out.extend_from_slice(&example.label.to_le_bytes());
            example.keys.iter().for_each(|key| out.extend_from_slice(&key.to_le_bytes()));
            example.dense.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        }
        out
    }

    pub(super) fn decode(bytes: &[u8], options: &JoinOptions) -> Result<State> {
        let expected = head(options);
        let damaged = |what: &str| Error::TrainerState(what.to_owned());
        let rest = match bytes.split_at_checked(expected.len()) {
            Some((head, rest)) if head == expected => rest,
            Some((head, _)) if head.starts_with(&expected[..MAGIC.len() + 4]) => {
                return Err(Error::OtherJob("was begun with other options of the joiner".into()));
            }
            _ => return Err(damaged("it is not that of a joiner of this version")),
        };
        let mut reader = Reader::new(rest);
        let state = Self::read(&mut reader, options).filter(|_| reader.is_empty());
        state.ok_or_else(|| damaged("the joiner's part does not decode"))
    }

    fn read(reader: &mut Reader<'_>, options: &JoinOptions) -> Option<State> {
        let mut state = State { time: reader.u64()?, ..State::default() };
        for number in state.counts.numbers() {
            *number = reader.u64()?;
        }
        for _ in 0..reader.u32()? {
            let (request, time, label) = (reader.u64()?, reader.u32()?, reader.f32()?);
            let keys = (0..options.keys).map(|_| reader.u64()).collect::<Option<_>>()?;
            let dense = (0..options.dense).map(|_| reader.f32()).collect::<Option<_>>()?;
            state.ready.push_back(Example { request, time, label, keys, dense });
        }
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_round_trips_and_others_are_refused() {
        let options = JoinOptions::new(2, 1).negatives(0.5);
        let mut state = State { time: 77, ..State::default() };
        state.counts.numbers().into_iter().zip(1..).for_each(|(number, value)| *number = value);
        for request in 0..3 {
            let (keys, dense) = (vec![request, u64::MAX], vec![0.5]);
            state.ready.push_back(Example { request, time: 9, label: 1.0, keys, dense });
        }
        let bytes = state.encode(&options);
        assert_eq!(State::decode(&bytes, &options).unwrap(), state);
        for cut in 0..bytes.len() {
            assert!(matches!(State::decode(&bytes[..cut], &options), Err(Error::TrainerState(_))), "{cut}");
        }
        assert!(State::decode(&[&bytes[..], &[0]].concat(), &options).is_err());
        let other = JoinOptions::new(2, 1).negatives(0.25);
        assert!(matches!(State::decode(&bytes, &other), Err(Error::OtherJob(_))));
        let mut forged = bytes.clone();
        forged[bytes.len() - 3 * 36 - 4..][..4].fill(0xff);
        assert!(State::decode(&forged, &options).is_err(), "a count beyond the bytes");
    }
}
