//! When a row that is no longer updated counts as absent: a pure function of (row time, time to live, clock).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use crate::plant::{Bug, planted};
use crate::types::{Key, UnixSeconds, slot_of};

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

/// How rows of one kind live: by a rule, and not at all if their time is before the floor.
///
/// The floor is what keeps expired rows dead once a rule becomes longer: some of them were reclaimed by then, some were not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) expiry: Expiry,
    pub(crate) floor: UnixSeconds,
}

impl Lifetime {
    fn horizon(&self, clock: UnixSeconds) -> UnixSeconds {
        self.expiry.horizon(clock).max(self.floor)
    }

    /// With the new rule, and what was expired under this one at `clock` still expired.
    fn then(&self, expiry: Expiry, clock: UnixSeconds) -> Lifetime {
        let before = self.horizon(clock);
        let revived = expiry.horizon(clock) < before && !planted(Bug::ExpiredRowRevived);
        Lifetime { expiry, floor: if revived { before } else { self.floor } }
    }
}

/// How the rows of a table live: all alike, but for those of feature slots with rules of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lifetimes {
    pub(crate) table: Lifetime,
    pub(crate) slots: BTreeMap<u16, Lifetime>,
}

impl Lifetimes {
    fn of(&self, slot: u16) -> &Lifetime {
        self.slots.get(&slot).unwrap_or(&self.table)
    }

    /// Whether any row can expire.
    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        self.table != Lifetime::default() || !self.slots.is_empty()
    }

    /// Whether a row counts as absent, given its key and time and the clock.
    #[inline(always)]
    pub(crate) fn expired(&self, key: Key, row_time: UnixSeconds, clock: UnixSeconds) -> bool {
        let alike = self.slots.is_empty() || planted(Bug::SlotExpiryIgnored);
        let lifetime = if alike { &self.table } else { self.of(slot_of(key)) };
        lifetime.expiry.expired(row_time, clock) || row_time < lifetime.floor
    }

    /// The times before which rows are expired.
    pub(crate) fn horizons(&self, clock: UnixSeconds) -> Horizons {
        let slots = self.slots.iter().map(|(slot, lifetime)| (*slot, lifetime.horizon(clock))).collect();
        Horizons { table: self.table.horizon(clock), slots }
    }

    /// The shortest time to live.
    pub(crate) fn shortest(&self) -> Option<u32> {
        let all = std::iter::once(&self.table).chain(self.slots.values());
        all.map(|lifetime| lifetime.expiry.encode()).filter(|ttl| *ttl > 0).min()
    }

    /// Whether rows live by the same rules, whatever was expired under earlier ones.
    pub(crate) fn same_rules(&self, other: &Lifetimes) -> bool {
        let same = |slot: &u16| self.of(*slot).expiry == other.of(*slot).expiry;
        self.table.expiry == other.table.expiry && self.slots.keys().chain(other.slots.keys()).all(same)
    }

    /// The rules of `next`, and what is expired under these at `clock` still expired.
    pub(crate) fn then(&self, next: &Lifetimes, clock: UnixSeconds) -> Lifetimes {
        let table = self.table.then(next.table.expiry, clock);
        let slots = self.slots.keys().chain(next.slots.keys());
        let slots = slots.map(|slot| (*slot, self.of(*slot).then(next.of(*slot).expiry, clock)));
        // A slot that lives as all others do needs no mention.
        let slots = slots.filter(|(slot, lifetime)| *lifetime != table || next.slots.contains_key(slot)).collect();
        Lifetimes { table, slots }
    }

    /// The rules alone.
    pub(crate) fn without_floors(&self) -> Lifetimes {
        let bare = |lifetime: &Lifetime| Lifetime { expiry: lifetime.expiry, floor: 0 };
        Lifetimes { table: bare(&self.table), slots: self.slots.iter().map(|(slot, lifetime)| (*slot, bare(lifetime))).collect() }
    }
}

/// The times before which rows are expired, at one moment; 0 where none is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Horizons {
    table: UnixSeconds,
    /// Of slots with rules of their own, ascending.
    slots: Vec<(u16, UnixSeconds)>,
}

impl Horizons {
    /// One time for all rows.
    #[cfg(test)]
    pub(crate) fn before(time: UnixSeconds) -> Horizons {
        Horizons { table: time, slots: Vec::new() }
    }

    /// Whether a row is expired.
    pub(crate) fn passed(&self, key: Key, row_time: UnixSeconds) -> bool {
        let of_slot = || self.slots.binary_search_by_key(&slot_of(key), |(slot, _)| *slot).ok().map(|at| self.slots[at].1);
        row_time < (if self.slots.is_empty() { None } else { of_slot() }).unwrap_or(self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_live_by_their_own_rules_and_what_expired_stays_so() {
        let rule = |secs| Lifetime { expiry: Expiry::decode(secs), floor: 0 };
        let first = Lifetimes { table: rule(10), slots: BTreeMap::from([(7, rule(0)), (9, rule(100))]) };
        let (of_table, of_seven, of_nine) = (5, 7 << 48 | 5, 1 << 63 | 9 << 48 | 5);
        let expired = |lifetimes: &Lifetimes, time, clock| {
            let all = [of_table, of_seven, of_nine].map(|key| lifetimes.expired(key, time, clock));
            let horizons = lifetimes.horizons(clock);
            assert_eq!([of_table, of_seven, of_nine].map(|key| horizons.passed(key, time)), all);
            all
        };
        assert_eq!(expired(&first, 100, 109), [false; 3]);
        assert_eq!(expired(&first, 100, 110), [true, false, false]);
        assert_eq!(expired(&first, 100, 200), [true, false, true]);
        assert!(first.any() && !Lifetimes::default().any());
        assert_eq!((first.shortest(), Lifetimes::default().shortest()), (Some(10), None));
        // Longer for all: what is dead by then stays dead, what is younger lives by the new rule.
        let longer = Lifetimes { table: rule(1000), slots: BTreeMap::new() };
        let second = first.then(&longer, 200);
        assert!(second.same_rules(&longer) && !second.same_rules(&first));
        assert_eq!(expired(&second, 190, 200), [true, false, false]);
        assert_eq!(expired(&second, 191, 200), [false; 3]);
        assert_eq!(expired(&second, 100, 200), [true, false, true]);
        assert_eq!(expired(&second, 191, 1191), [true; 3]);
        assert_eq!(second.without_floors().table, rule(1000));
        // Shorter again needs no floor, and one that there is stays.
        let third = second.then(&Lifetimes { table: rule(5), slots: BTreeMap::new() }, 300);
        assert_eq!((third.table.floor, third.slots[&9].floor), (191, 101));
        assert_eq!(first.then(&first, 200), first);
    }

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
