//! Marked rows of a shard, a bit each by row number: which rows a delta needs, found without a look at the others.
#![forbid(unsafe_code)]

const WORD_BITS: usize = u64::BITS as usize;
/// Rows whose bits come and go together: a cache line of them.
const STEP_ROWS: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Marks {
    // Invariant: bits for all rows that the shard has memory for.
    words: Vec<u64>,
}

impl Marks {
    pub(super) fn bytes_for(rows: usize) -> usize {
        rows.div_ceil(STEP_ROWS) * (STEP_ROWS / 8)
    }

    /// Has a bit for each of `rows` rows; those from there on have no marks.
    pub(super) fn fit(&mut self, rows: usize) {
        let words = Marks::bytes_for(rows) / size_of::<u64>();
        if words != self.words.len() {
            self.words.reserve_exact(words.saturating_sub(self.words.len()));
            self.words.resize(words, 0);
            self.words.shrink_to_fit();
        }
    }

    #[inline(always)]
    pub(super) fn set(&mut self, row: u32) {
        self.words[row as usize / WORD_BITS] |= 1 << (row as usize % WORD_BITS);
    }

    pub(super) fn clear(&mut self, row: u32) {
        self.words[row as usize / WORD_BITS] &= !(1 << (row as usize % WORD_BITS));
    }

    /// Takes the marks off up to `rows.len()` rows, from a row number on that is moved past them; returns how many there were.
    pub(super) fn take(&mut self, from: &mut usize, rows: &mut [u32]) -> usize {
        let mut taken = 0;
        let mut at = *from / WORD_BITS;
        while taken < rows.len()
            && let Some(word) = self.words.get_mut(at)
        {
            while taken < rows.len() && *word != 0 {
                rows[taken] = (at * WORD_BITS) as u32 + word.trailing_zeros();
                *word &= *word - 1;
                taken += 1;
            }
            at += usize::from(*word == 0);
        }
        *from = at * WORD_BITS;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_rows_are_taken_once_in_order_however_many_at_a_time() {
        for most in [1, 3, 64, 1000] {
            let mut marks = Marks::default();
            marks.fit(5000);
            let wanted: Vec<u32> = (0..5000).filter(|row| row % 7 == 0 || (640..720).contains(row)).collect();
            wanted.iter().for_each(|&row| marks.set(row));
            marks.set(5);
            marks.clear(5);
            let (mut from, mut rows, mut found) = (0, vec![0; most], Vec::new());
            loop {
                let taken = marks.take(&mut from, &mut rows);
                found.extend_from_slice(&rows[..taken]);
                if taken < most {
                    break;
                }
            }
            assert_eq!(found, wanted);
            assert_eq!(marks.take(&mut 0, &mut rows), 0);
        }
    }

    #[test]
    fn bits_are_as_many_as_are_charged() {
        let mut marks = Marks::default();
        for rows in [0, 1, 512, 513, 100_000, 600, 512] {
            marks.fit(rows);
            assert_eq!(marks.words.len() * 8, Marks::bytes_for(rows));
            assert!(marks.words.len() * WORD_BITS >= rows && marks.words.capacity() == marks.words.len());
        }
    }
}
