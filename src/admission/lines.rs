//! One cache line of a counting filter: cells of tags, generations and counts, unpacked to change and packed to keep.
#![forbid(unsafe_code)]

/// Generations that a cell may be of.
pub(crate) const GENERATIONS: u32 = 3;
pub(super) const LINE_BYTES: usize = 64;
/// Cells of a line; eight bits are left over.
const CELLS: usize = 28;
const CELL_BITS: usize = 18;
const TAG_BITS: u32 = 13;
/// Counts that a cell holds by itself; the cell behind it has their multiples.
const SMALL: u32 = 10;
/// The state of a cell that belongs to the one before.
const MORE: u32 = 31;
/// Where counting stops.
pub(super) const MAX_COUNT: u32 = 1 << 16;

const _: () = assert!(CELLS * CELL_BITS <= LINE_BYTES * 8 && GENERATIONS * SMALL < MORE && MAX_COUNT / SMALL < 1 << TAG_BITS);

/// What a batch saw of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// So often, and it was refused.
    Refused(u32),
    /// It has a row now.
    Admitted,
}

/// A key's count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    tag: u32,
    /// Generations since it was seen last.
    age: u32,
    count: u32,
}

impl Entry {
    fn cells(&self) -> usize {
        1 + usize::from(self.count > SMALL)
    }
}

/// A line, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    entries: [Entry; CELLS],
    len: usize,
}

fn tag_of(mixed: u64) -> u32 {
    mixed as u32 & ((1 << TAG_BITS) - 1)
}

fn cell(words: &[u64; 8], at: usize) -> u32 {
    let (word, shift) = (at * CELL_BITS / 64, at * CELL_BITS % 64);
    let low = words[word] >> shift;
    // A cell that goes over into the next word.
    let high = if shift + CELL_BITS > 64 { words[word + 1] << (64 - shift) } else { 0 };
    (low | high) as u32 & ((1 << CELL_BITS) - 1)
}

/// A cell that counts: its age, given the generation of the line, and its own part of the count.
fn state(cell: u32, generation: u32) -> Option<(u32, u32)> {
    let state = cell >> TAG_BITS;
    if state == 0 || state == MORE {
        return None;
    }
    let of = (state - 1) / SMALL;
    Some(((generation % GENERATIONS + GENERATIONS - of) % GENERATIONS, (state - 1) % SMALL + 1))
}

impl Line {
    /// The count of a key in a packed line, `later` generations after that of the line.
    pub(super) fn find(words: &[u64; 8], mixed: u64, generation: u32, later: u32) -> Option<u32> {
        let tag = tag_of(mixed);
        for at in 0..CELLS {
            let found = cell(words, at);
            if found & ((1 << TAG_BITS) - 1) == tag
                && let Some((age, small)) = state(found, generation)
            {
                let next = if at + 1 < CELLS { cell(words, at + 1) } else { 0 };
                let more = if next >> TAG_BITS == MORE { next & ((1 << TAG_BITS) - 1) } else { 0 };
                return (age + later.min(GENERATIONS) < GENERATIONS).then_some(small + more * SMALL);
            }
        }
        None
    }

    /// Unpacks a line of this generation. What makes no sense is left out.
    pub(super) fn read(words: &[u64; 8], generation: u32) -> Line {
        let mut line = Line { entries: [Entry::default(); CELLS], len: 0 };
        let mut counts = false;
        for at in 0..CELLS {
            let cell = cell(words, at);
            let tag = cell & ((1 << TAG_BITS) - 1);
            if let Some((age, count)) = state(cell, generation) {
                line.entries[line.len] = Entry { tag, age, count };
                line.len += 1;
                counts = true;
            } else {
                if counts && cell >> TAG_BITS == MORE {
                    let entry = &mut line.entries[line.len - 1];
                    entry.count = (entry.count + tag * SMALL).min(MAX_COUNT);
                }
                counts = false;
            }
        }
        line
    }

    /// Packs it as one of this generation.
    pub(super) fn write(&self, generation: u32) -> [u64; 8] {
        let mut words = [0u64; 8];
        let mut at = 0;
        let mut push = |cell: u32| {
            let (word, shift) = (at * CELL_BITS / 64, at * CELL_BITS % 64);
            words[word] |= u64::from(cell) << shift;
            if shift + CELL_BITS > 64 {
                words[word + 1] |= u64::from(cell) >> (64 - shift);
            }
            at += 1;
        };
        for entry in &self.entries[..self.len] {
            let of = (generation % GENERATIONS + GENERATIONS - entry.age) % GENERATIONS;
            push((of * SMALL + (entry.count - 1) % SMALL + 1) << TAG_BITS | entry.tag);
            if entry.count > SMALL {
                push((MORE << TAG_BITS) | ((entry.count - 1) / SMALL));
            }
        }
        words
    }

    pub(super) fn used(&self) -> usize {
        self.entries[..self.len].iter().map(Entry::cells).sum()
    }

    pub(super) fn has(&self, mixed: u64) -> bool {
        self.position(mixed).is_some()
    }

    fn position(&self, mixed: u64) -> Option<usize> {
        self.entries[..self.len].iter().position(|entry| entry.tag == tag_of(mixed))
    }

    fn remove(&mut self, at: usize) {
        self.entries.copy_within(at + 1..self.len, at);
        self.len -= 1;
    }

    /// Ages all by `later` generations and drops those that are too old; returns whether any was.
    pub(super) fn forget(&mut self, later: u32) -> bool {
        let before = self.len;
        let mut kept = 0;
        for at in 0..before {
            let age = self.entries[at].age.saturating_add(later);
            if age < GENERATIONS {
                self.entries[kept] = Entry { age, ..self.entries[at] };
                kept += 1;
            }
        }
        self.len = kept;
        kept < before
    }

    /// Takes what was seen into the count of a key; returns how many others were dropped for it.
    pub(super) fn note(&mut self, mixed: u64, seen: Seen) -> u64 {
        let old = self.position(mixed).map(|at| {
            let entry = self.entries[at];
            self.remove(at);
            entry.count
        });
        let Seen::Refused(times) = seen else { return 0 };
        let count = old.unwrap_or(0).saturating_add(times).clamp(1, MAX_COUNT);
        let new = Entry { tag: tag_of(mixed), age: 0, count };
        let mut dropped = 0;
        while self.used() + new.cells() > CELLS {
            let entries = self.entries[..self.len].iter().enumerate();
            let Some((least, _)) = entries.min_by_key(|(at, entry)| (GENERATIONS - entry.age, entry.count, *at)) else { break };
            self.remove(least);
            dropped += 1;
        }
        self.entries[self.len] = new;
        self.len += 1;
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_packed_and_unpacked_whatever_they_hold() {
        let mut line = Line::read(&[0; 8], 5);
        let mut dropped = 0;
        for (key, times) in
            [(1u64, 1u32), (2, 10), (3, 11), (4, 65_535), (5, 70_000), (0x1fff, 20)].into_iter().chain((100..120).map(|k| (k, 3)))
        {
            dropped += line.note(key, Seen::Refused(times));
            for generation in [0, 1, 2, 5, u32::MAX] {
                let words = line.write(generation);
                assert_eq!(Line::read(&words, generation), line);
                for entry in &line.entries[..line.len] {
                    assert_eq!(Line::find(&words, u64::from(entry.tag), generation, 0), Some(entry.count));
                }
            }
        }
        let count = |line: &Line, key| Line::find(&line.write(9), key, 9, 0);
        // Six keys of which four have two cells, and 18 more: the smallest counts went first.
        assert_eq!((dropped, line.used(), line.len), (2, 28, 24));
        assert_eq!(
            [1, 2, 3, 4, 5, 0x1fff].map(|key| count(&line, key)),
            [None, Some(10), Some(11), Some(65_535), Some(MAX_COUNT), Some(20)]
        );
        line.note(4, Seen::Refused(1));
        line.note(5, Seen::Admitted);
        assert_eq!((count(&line, 4), count(&line, 5), line.used()), (Some(MAX_COUNT), None, 26));
    }

    #[test]
    fn a_count_is_forgotten_three_generations_after_it_was_seen() {
        let mut line = Line::read(&[0; 8], 7);
        line.note(1, Seen::Refused(2));
        for later in 0..5 {
            assert_eq!(Line::find(&line.write(7), 1, 7, later), (later < 3).then_some(2));
        }
        assert!(!line.forget(2));
        line.note(2, Seen::Refused(1));
        let words = line.write(9);
        assert_eq!(
            (Line::find(&words, 1, 9, 0), Line::find(&words, 1, 9, 1), Line::find(&words, 2, 9, 2)),
            (Some(2), None, Some(1))
        );
        assert!(line.forget(1) && line.len == 1 && line.forget(u32::MAX) && line.len == 0);
    }

    #[test]
    fn noise_is_read_as_some_line() {
        let mut random = 1u64;
        for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
            let words: [u64; 8] = std::array::from_fn(|_| {
                random = crate::types::mix(random.wrapping_add(0x9e37_79b9_7f4a_7c15));
                random
            });
            let mut line = Line::read(&words, random as u32);
            assert!(line.used() <= CELLS);
            assert_eq!(Line::read(&line.write(4), 4), line);
            line.note(random, Seen::Refused(random as u32));
            assert!(line.used() <= CELLS);
        }
    }
}
