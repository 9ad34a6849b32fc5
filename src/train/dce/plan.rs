//! What is learned from in which order: a function of the data and the seed alone, so that a job can go on anywhere in it.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::data::Sessions;
use crate::train::data::synthetic::Counter;
use crate::types::mix;
use crate::{Key, UnixSeconds};

/// Within so many batches, those of about one length come together.
const SORTED: usize = 32;

/// The numbers of the sessions before the split that are no probes.
pub(crate) fn train_sessions(data: &Sessions, split: UnixSeconds) -> Vec<usize> {
    let all = data.sessions.iter().enumerate();
    all.take_while(|(_, session)| session.start < split).filter(|(_, session)| !session.probe).map(|(at, _)| at).collect()
}

/// The batches of a pass: shuffled, then sorted by length within stretches of some batches, so that little is padded.
pub(crate) fn order(lengths: &[usize], batch: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let mut random = Counter::new(mix(seed) ^ mix(epoch ^ 0x0bde_4e0c));
    let mut all: Vec<usize> = (0..lengths.len()).collect();
    for at in (1..all.len()).rev() {
        all.swap(at, (random.bits() % (at as u64 + 1)) as usize);
    }
    all.chunks_mut(batch * SORTED).for_each(|stretch| stretch.sort_by_key(|at| lengths[*at]));
    all.chunks(batch).map(<[usize]>::to_vec).collect()
}

/// Stretches of customers' sessions, and when each customer came before.
pub(crate) struct Windows {
    /// By window, the numbers of the sessions, at least two, in order; a long past makes windows that overlap by half.
    pub(crate) all: Vec<Vec<usize>>,
    before: HashMap<usize, usize>,
}

impl Windows {
    pub(crate) fn new(data: &Sessions, train: &[usize], most: usize) -> Windows {
        let (mut places, mut customers, mut before) = (HashMap::<Key, usize>::new(), Vec::<Vec<usize>>::new(), HashMap::new());
        for at in train {
            let place = *places.entry(data.sessions[*at].customer).or_insert_with(|| {
                customers.push(Vec::new());
                customers.len() - 1
            });
            if let Some(last) = customers[place].last() {
                before.insert(*at, *last);
            }
            customers[place].push(*at);
        }
        let mut all = Vec::new();
        for sessions in customers.iter().filter(|sessions| sessions.len() > 1) {
            let mut from = 0usize;
            loop {
                let until = from.saturating_add(most).min(sessions.len());
                all.push(sessions[from..until].to_vec());
                if until == sessions.len() {
                    break;
                }
                from += most / 2;
            }
        }
        Windows { all, before }
    }

    /// When the customer of a session came before it.
    pub(crate) fn before(&self, data: &Sessions, session: usize) -> Option<UnixSeconds> {
        self.before.get(&session).map(|last| data.sessions[*last].start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_takes_everything_once_and_follows_from_seed_and_number() {
        let lengths: Vec<usize> = (0..1_000).map(|at| at * 7 % 13).collect();
        let batches = order(&lengths, 16, 1, 0);
        let mut all: Vec<usize> = batches.concat();
        assert_eq!(batches, order(&lengths, 16, 1, 0));
        assert_ne!(batches, order(&lengths, 16, 1, 1));
        assert_ne!(batches, order(&lengths, 16, 2, 0));
        assert!(batches[..32].windows(2).all(|two| lengths[two[0][15]] <= lengths[two[1][0]]));
        all.sort_unstable();
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
    }
}
