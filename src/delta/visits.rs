//! How shards are visited beside training: never in a queue, where batches would wait behind, as long as another shard is free.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::context::{read, write};
use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, thread};

/// Rounds over all shards of which none was free, after which one is waited for.
const PATIENCE: usize = 16;

/// What is left to visit, in turn; what is not free comes again later.
pub(crate) struct Visits<T> {
    left: VecDeque<T>,
    refused: usize,
}

/// What became of a visit.
pub(crate) enum Visit {
    /// The shard was not free.
    Refused,
    /// There is more to do in it.
    More,
    /// That was all.
    Done,
}

impl Visit {
    pub(crate) fn made(done: bool) -> Visit {
        if done { Visit::Done } else { Visit::More }
    }
}

impl<T> Visits<T> {
    pub(crate) fn new(places: impl IntoIterator<Item = T>) -> Visits<T> {
        Visits { left: places.into_iter().collect(), refused: 0 }
    }

    /// Makes one visit, unless none is left; returns whether there may be more. `visit` is told whether to wait.
    pub(crate) fn make(&mut self, mut visit: impl FnMut(&mut T, bool) -> Visit) -> bool {
        while let Some(mut place) = self.left.pop_front() {
            let others = self.left.len();
            let more = match visit(&mut place, self.refused >= PATIENCE * (others + 1)) {
                Visit::Refused => {
                    self.left.push_back(place);
                    self.refused += 1;
                    if self.refused.is_multiple_of(others + 1) {
                        thread::yield_now();
                    }
                    continue;
                }
                Visit::More => true,
                Visit::Done => false,
            };
            self.refused = 0;
            if more {
                self.left.push_back(place);
            }
            return !self.left.is_empty();
        }
        false
    }
}

/// Locks to write; only where that is said by waiting.
pub(crate) fn write_if<T>(lock: &RwLock<T>, wait: bool) -> Option<RwLockWriteGuard<'_, T>> {
    if wait { Some(write(lock)) } else { lock.try_write().ok() }
}

/// Locks to read, as [`write_if`].
pub(crate) fn read_if<T>(lock: &RwLock<T>, wait: bool) -> Option<RwLockReadGuard<'_, T>> {
    if wait { Some(read(lock)) } else { lock.try_read().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_free_comes_again_and_is_waited_for_in_the_end() {
        let (mut visits, mut seen, mut waited) = (Visits::new([(0, 2), (1, 1), (2, 1)]), Vec::new(), 0);
        let mut more = true;
        while more {
            more = visits.make(|(place, left), wait| {
                if *place == 1 && !wait {
                    return Visit::Refused;
                }
                waited += usize::from(wait);
                seen.push(*place);
                *left -= 1;
                if *left == 0 { Visit::Done } else { Visit::More }
            });
        }
        assert_eq!((seen, waited), (vec![0, 2, 0, 1], 1));
        assert!(!visits.make(|_, _| Visit::More));
    }

    #[test]
    fn locks_are_tried_or_waited_for() {
        let lock = RwLock::new(1);
        let held = lock.read().unwrap();
        assert!(write_if(&lock, false).is_none() && read_if(&lock, false).is_some());
        drop(held);
        *write_if(&lock, true).unwrap() = 2;
        assert_eq!(*read_if(&lock, true).unwrap(), 2);
    }
}
