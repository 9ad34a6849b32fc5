//! When a row that is no longer updated counts as absent: a pure function of (row time, time to live, clock).
#![forbid(unsafe_code)]

use std::fmt;

use crate::types::UnixSeconds;

/// How long a row lives after its last update, in event time (Monolith 2.1, there in whole days).
///
/// A row is expired when `clock - row time >= ttl`, where the clock is the largest event time the store has seen. Lookups do not
/// prolong a row's life. The default is [`Expiry::never`].
///
/// ```
/// use embedrock::{Expiry, Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-expiry-{}", std::process::id()));
/// let store = Store::open(&dir, StoreOptions::default())?;
/// let items = store.create_table(TableSchema::new("item", 1).expiry(Expiry::after_secs(60)))?;
/// items.assign(&[1], &[0.5], &Update::at(1_700_000_000))?;
/// items.assign(&[2], &[0.5], &Update::at(1_700_000_060))?; // the store's clock is event time
/// assert!(!items.contains(1)? && items.contains(2)?);
/// # drop((items, store)); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// Rows live until they are removed.
    #[default]
    Never,
    /// Rows live this long after their last update.
    AfterSecs {
        /// The time to live, at least 1.
        ttl: u32,
    },
}

impl Expiry {
    /// Rows live until they are removed.
    pub fn never() -> Expiry {
        Expiry::Never
    }

    /// Rows are gone `ttl` seconds after their last update, at least 1.
    pub fn after_secs(ttl: u32) -> Expiry {
        Expiry::AfterSecs { ttl }
    }

    /// Says what is wrong with the parameter, if anything.
    pub(crate) fn validate(&self) -> Result<(), String> {
        match self {
            Expiry::AfterSecs { ttl: 0 } => Err("an expiry of 0 seconds would keep no row; use Expiry::never()".into()),
            _ => Ok(()),
        }
    }

    /// Whether a row last updated at `row_time` counts as absent when the clock shows `clock`. A row ahead of it has age 0.
    pub(crate) fn expired(&self, row_time: UnixSeconds, clock: UnixSeconds) -> bool {
        match *self {
            Expiry::Never => false,
            Expiry::AfterSecs { ttl } => clock.saturating_sub(row_time) >= ttl.max(1),
        }
    }

    /// The time before which rows are expired: `expired(t, clock)` if and only if `t < horizon(clock)`. 0 when none is.
    pub(crate) fn horizon(&self, clock: UnixSeconds) -> UnixSeconds {
        match *self {
            Expiry::Never => 0,
            Expiry::AfterSecs { ttl } => clock.checked_sub(ttl.max(1)).map_or(0, |last| last.saturating_add(1)),
        }
    }

    /// The time to live for the disk, 0 for never.
    pub(crate) fn encode(&self) -> u32 {
        match *self {
            Expiry::Never => 0,
            Expiry::AfterSecs { ttl } => ttl.max(1),
        }
    }

    /// The inverse of [`encode`](Self::encode).
    pub(crate) fn decode(ttl: u32) -> Expiry {
        if ttl == 0 { Expiry::Never } else { Expiry::AfterSecs { ttl } }
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Expiry::Never => write!(f, "never"),
            Expiry::AfterSecs { ttl } => write!(f, "after {ttl} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_expires_when_its_age_reaches_the_time_to_live() {
        let expiry = Expiry::after_secs(10);
        assert!(!expiry.expired(100, 109));
        assert!(expiry.expired(100, 110));
        assert!(!expiry.expired(200, 110), "a row ahead of the clock");
        assert!(!Expiry::never().expired(0, u32::MAX));
        assert!(Expiry::after_secs(u32::MAX).expired(0, u32::MAX));
    }

    #[test]
    fn the_horizon_and_the_verdict_agree() {
        let times = [0, 1, 2, 9, 10, 11, 99, 100, 101, u32::MAX / 2, u32::MAX - 10, u32::MAX - 1, u32::MAX];
        for ttl in times {
            let expiry = Expiry::decode(ttl);
            for clock in times {
                let horizon = expiry.horizon(clock);
                for row in times.into_iter().chain([horizon.saturating_sub(1), horizon, horizon.saturating_add(1)]) {
                    assert_eq!(expiry.expired(row, clock), row < horizon, "ttl {ttl} clock {clock} row {row}");
                }
            }
        }
    }

    #[test]
    fn disk_round_trip_and_zero_seconds() {
        for expiry in [Expiry::never(), Expiry::after_secs(1), Expiry::after_secs(u32::MAX)] {
            assert_eq!(Expiry::decode(expiry.encode()), expiry);
            assert!(expiry.validate().is_ok());
        }
        assert!(Expiry::after_secs(0).validate().is_err());
    }
}
