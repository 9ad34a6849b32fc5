//! The store's clock: the largest event time it has seen, never the wall clock.
//!
//! Expiry is measured against it, so one wrong time could expire a whole table. [`Clock::check`] therefore refuses a time too far
//! ahead before anything of the batch is applied, and [`Clock::advance`] takes the time only once the batch is.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::types::UnixSeconds;

/// The largest event time seen; none until the first batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    latest: Option<UnixSeconds>,
}

impl Clock {
    /// A clock at the state a commit recorded, `None` for a store that has seen no time.
    pub(crate) fn restore(latest: Option<UnixSeconds>) -> Clock {
        Clock { latest }
    }

    /// The largest time seen, for a commit to record.
    pub(crate) fn latest(&self) -> Option<UnixSeconds> {
        self.latest
    }

    /// The largest time seen, 0 before the first: nothing has expired then.
    pub(crate) fn now(&self) -> UnixSeconds {
        self.latest.unwrap_or(0)
    }

    /// The time as the store keeps it, or [`Error::ClockJump`] if it is over `u32::MAX` (year 2106; milliseconds, usually) or
    /// more than `max_step` ahead of a clock that is set. An earlier time is fine. Changes nothing.
    pub(crate) fn check(&self, time: u64, max_step: u32) -> Result<UnixSeconds> {
        let clock = u64::from(self.now());
        let ahead = time.saturating_sub(clock);
        let too_far = self.latest.is_some() && ahead > u64::from(max_step);
        match UnixSeconds::try_from(time) {
            Ok(time) if !too_far => Ok(time),
            _ => Err(Error::ClockJump { time, clock, ahead }),
        }
    }

    /// Takes a checked time in. The clock never goes back.
    pub(crate) fn advance(&mut self, time: UnixSeconds) {
        self.latest = Some(self.now().max(time));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u32 = 86_400;

    #[test]
    fn the_first_time_sets_the_clock_and_it_never_goes_back() {
        let mut clock = Clock::default();
        assert_eq!((clock.latest(), clock.now()), (None, 0));
        clock.advance(clock.check(1_700_000_000, DAY).unwrap());
        assert_eq!(clock.now(), 1_700_000_000);
        clock.advance(clock.check(5, DAY).unwrap());
        assert_eq!(clock.now(), 1_700_000_000);
        assert_eq!(Clock::restore(clock.latest()), clock);
        assert_eq!(Clock::restore(None), Clock::default());
    }

    #[test]
    fn a_jump_is_refused_and_changes_nothing() {
        let clock = Clock::restore(Some(1_000));
        assert_eq!(clock.check(1_000 + u64::from(DAY), DAY).unwrap(), 1_000 + DAY);
        for time in [1_001 + u64::from(DAY), u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
            match clock.check(time, DAY) {
                Err(Error::ClockJump { time: found, clock: 1_000, ahead }) => assert_eq!((found, ahead), (time, time - 1_000)),
                other => panic!("{time}: {other:?}"),
            }
        }
        assert_eq!(clock.now(), 1_000);
    }

    #[test]
    fn milliseconds_are_refused_even_as_the_first_time_and_with_any_step() {
        assert!(matches!(Clock::default().check(1_700_000_000_000, DAY), Err(Error::ClockJump { .. })));
        assert!(matches!(Clock::restore(Some(9)).check(1_700_000_000_000, u32::MAX), Err(Error::ClockJump { .. })));
        assert_eq!(Clock::default().check(u64::from(u32::MAX), 0).unwrap(), u32::MAX);
        assert_eq!(Clock::restore(Some(0)).check(u64::from(u32::MAX), u32::MAX).unwrap(), u32::MAX);
    }
}
