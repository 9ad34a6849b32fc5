//! Which rows stay hot, by S3-FIFO (Yang and others, SOSP 2023) on a hand: new rows are on probation in a short queue, from which
//! those leave that were not used again and again; the hand passes the others round and round, and those leave whose uses it has
//! used up. Rows that come back soon after they left are spared the probation. So what is used once passes through a tenth of the
//! memory, however much of it there is.
//!
//! Pure functions of 16 bits beside each row, so that a trace can be played to them (`cargo bench --bench policies`). Hints,
//! never state: no row's content depends on them.
#![forbid(unsafe_code)]

/// On probation.
pub(crate) const PROBATION: u16 = 1 << 15;
/// Not used yet: what brought the row in is its first use, and does not count.
pub(crate) const FRESH: u16 = 1 << 14;
/// Uses that count, at most.
const MOST_USES: u16 = 3;
/// Uses that end the probation.
const TRIED: u16 = 2;
/// The part of the rows that is on probation before the others must leave.
pub(crate) const PROBATION_SHARE: usize = 10;

/// The history of a row after one more use.
#[inline(always)]
pub(crate) fn used(history: u16) -> u16 {
    match history & FRESH {
        0 if history & !PROBATION >= MOST_USES => history,
        0 => history + 1,
        _ => history & !FRESH,
    }
}

/// What becomes of a row when the hand passes it: its history from now on, or nothing if it leaves.
#[inline(always)]
pub(crate) fn passed(history: u16) -> Option<u16> {
    (history & !FRESH).checked_sub(1)
}

/// What becomes of a row whose probation ends: its history from now on, or nothing if it leaves.
#[inline(always)]
pub(crate) fn tried(history: u16) -> Option<u16> {
    (history & !(PROBATION | FRESH) >= TRIED).then_some(0)
}

/// Keys that left lately, as 16 bits of each: one in 16,000 is taken for another, which then is spared its probation.
#[derive(Debug, Default)]
pub(crate) struct Ghosts {
    sets: Box<[[u16; WAYS]]>,
}

const WAYS: usize = 4;

impl Ghosts {
    /// Room for about so many keys.
    pub(crate) fn of(keys: usize) -> Ghosts {
        Ghosts { sets: vec![[0; WAYS]; keys.div_ceil(WAYS)].into() }
    }

    #[cfg_attr(not(test), allow(dead_code, reason = "for benches/policies"))]
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// The bytes of [`Ghosts::of`] so many keys.
    pub(crate) fn bytes_for(keys: usize) -> usize {
        keys.div_ceil(WAYS) * size_of::<[u16; WAYS]>()
    }

    #[cfg_attr(not(test), allow(dead_code, reason = "for benches/policies"))]
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.sets)
    }

    fn place(&self, mixed: u64) -> (usize, u16) {
        let set = (u64::from((mixed >> 16) as u32) * self.sets.len() as u64) >> 32;
        (set as usize, (mixed as u16).max(1))
    }

    /// A key leaves; the oldest of its set is forgotten.
    pub(crate) fn push(&mut self, mixed: u64) {
        let (set, mark) = self.place(mixed);
        if let Some(set) = self.sets.get_mut(set) {
            set.rotate_right(1);
            set[0] = mark;
        }
    }

    /// A key comes; whether it left lately.
    pub(crate) fn take(&mut self, mixed: u64) -> bool {
        let (set, mark) = self.place(mixed);
        let Some(set) = self.sets.get_mut(set) else { return false };
        let Some(way) = set.iter().position(|found| *found == mark) else { return false };
        set[way] = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_used_once_leaves_at_the_end_of_its_probation() {
        let new = PROBATION | FRESH;
        let once = used(new);
        assert_eq!((once, tried(new), tried(once), tried(used(once))), (PROBATION, None, None, None));
        assert_eq!(tried(used(used(once))), Some(0));
    }

    #[test]
    fn the_hand_takes_what_uses_gave() {
        let mut history = FRESH;
        (0..9).for_each(|_| history = used(history));
        assert_eq!(history, MOST_USES);
        (0..MOST_USES).for_each(|_| history = passed(history).unwrap());
        assert_eq!((history, passed(history), passed(FRESH)), (0, None, None));
        (0..100_000).for_each(|_| history = used(history | PROBATION));
        assert_eq!(history, PROBATION | MOST_USES);
    }

    #[test]
    fn ghosts_are_remembered_for_a_while_and_once() {
        let mix = |key: u64| crate::types::mix(key);
        let mut ghosts = Ghosts::of(1000);
        assert_eq!(ghosts.memory_bytes(), Ghosts::bytes_for(1000));
        (0..300).for_each(|key| ghosts.push(mix(key)));
        let kept = (0..300).filter(|&key| ghosts.take(mix(key))).count();
        let again = (0..300).filter(|&key| ghosts.take(mix(key))).count();
        assert!(kept > 270 && again < 5, "{kept} and {again} of 300");
        (0..10_000).for_each(|key| ghosts.push(mix(key)));
        let old = (0..1000).filter(|&key| ghosts.take(mix(key))).count();
        assert!(old < 20, "{old} of 1000 that left long ago");
        let mut none = Ghosts::default();
        none.push(1);
        assert!(none.is_empty() && !none.take(1));
    }
}
