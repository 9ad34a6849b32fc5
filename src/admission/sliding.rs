//! A counting filter of fixed size that forgets: how often keys without a row were seen of late.
//!
//! Lines of 64 bytes hold cells of 18 bits; a key has two lines, and its cell stands in one of them. A cell is 13 bits of the key's
//! hash and one of 30 states: which of three generations it was last seen in, and a count of 1 to 10. A count beyond 10 takes the
//! cell behind it too, for its tens (as the counters of Pandey et al. 2017 do, "A general-purpose counting filter"). A generation is a
//! third of the window by the store's clock; a cell not seen for three is empty. Lines too full drop the oldest, smallest count.
//!
//! Partitions are by the key's hash, always as many: what a batch saw is sorted and written partition by partition, so the lines
//! depend neither on threads nor on shards.
#![forbid(unsafe_code)]

use super::lines::{LINE_BYTES, Line, MAX_COUNT, Seen};
use crate::memory::Zeroed;
use crate::plant::{Bug, planted};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::types::{Key, UnixSeconds, mix};

pub(crate) use super::lines::GENERATIONS;

/// Partitions of every filter.
pub(crate) const PARTITIONS: usize = 64;
/// Bytes of a line in a delta: its number and content.
pub(crate) const IMAGE_BYTES: usize = 4 + LINE_BYTES;
/// Keys a line should hold: of the 28 that it could, so that few lines are too full.
const KEYS_A_LINE: f64 = 25.5;

/// What makes two filters' lines mean the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Seconds.
    pub(crate) window: u32,
    /// Of a partition.
    pub(crate) lines: u32,
}

impl Shape {
    /// For so many keys a window.
    pub(crate) fn for_keys(window: u32, capacity: u64) -> Shape {
        // Keys fall into partitions by chance: four standard deviations more than their mean.
        let keys = capacity as f64 / PARTITIONS as f64;
        let lines = ((keys + 4.0 * keys.sqrt() + 2.0) / KEYS_A_LINE).ceil();
        Shape { window, lines: lines as u32 }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        let lines = self.lines as usize;
        PARTITIONS * (lines * LINE_BYTES + 2 * lines.div_ceil(64) * 8)
    }

    fn generation(&self, clock: UnixSeconds) -> u32 {
        clock / (self.window / GENERATIONS).max(1)
    }
}

/// Lines of one partition, on their way to a delta or a base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Images {
    pub(crate) shape: Shape,
    pub(crate) partition: u32,
    pub(crate) generation: u32,
    /// [`IMAGE_BYTES`] each.
    pub(crate) lines: Vec<u8>,
}

/// A set of line numbers.
struct Lines(Zeroed<u64>);

impl Lines {
    fn new(lines: usize) -> Lines {
        Lines(Zeroed::new(lines.div_ceil(64)))
    }

    fn insert(&mut self, line: usize) {
        self.0[line / 64] |= 1 << (line % 64);
    }

    /// Whether it was there.
    fn remove(&mut self, line: usize) -> bool {
        let bit = 1 << (line % 64);
        let was = self.0[line / 64] & bit != 0;
        self.0[line / 64] &= !bit;
        was
    }

    /// The first from `line` on.
    fn next(&self, line: usize) -> Option<usize> {
        let mut word = line / 64;
        let mut bits = self.0.get(word)? & (u64::MAX << (line % 64));
        while bits == 0 {
            word += 1;
            bits = *self.0.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }
}

struct Partition {
    shape: Shape,
    lines: Zeroed<[u64; 8]>,
    /// No cell is older than the two generations before this one.
    generation: u32,
    epoch: u64,
    /// Changed since the cut before this epoch.
    changed: Lines,
    moved_on: bool,
    /// What the delta being written still needs: lines as they are, and those kept because they had to change.
    owed: Lines,
    next_owed: usize,
    owes: bool,
    kept: Images,
}

impl Partition {
    fn new(shape: Shape) -> Partition {
        let lines = shape.lines as usize;
        Partition {
            shape,
            lines: Zeroed::new(lines),
            generation: 0,
            epoch: 0,
            changed: Lines::new(lines),
            moved_on: false,
            owed: Lines::new(lines),
            next_owed: 0,
            owes: false,
            kept: Images::default(),
        }
    }

    /// The two lines of a key.
    fn places(&self, mixed: u64) -> [usize; 2] {
        let hash = mix(mixed ^ 0x5851_f42d_4c95_7f2d);
        let lines = u64::from(self.shape.lines);
        let [first, second] = [hash >> 32, hash & 0xffff_ffff].map(|half| ((half * lines) >> 32) as usize);
        [first, if first == second { (first + 1) % lines as usize } else { second }]
    }

    fn count(&self, mixed: u64, generation: u32) -> u32 {
        if self.shape.lines == 0 {
            return 0;
        }
        let later = if planted(Bug::OldCountsKept) { 0 } else { generation.saturating_sub(self.generation) };
        let of = |place: usize| Line::find(&self.lines[place], mixed, self.generation, later);
        let [first, second] = self.places(mixed);
        of(first).or_else(|| of(second)).unwrap_or(0)
    }

    /// Sets aside what belongs to the delta that was cut since the last call.
    fn catch_up(&mut self, epoch: u64) {
        if self.epoch == epoch {
            return;
        }
        // At most one behind: the writer of a delta visits every partition before the next cut.
        self.epoch = epoch;
        std::mem::swap(&mut self.changed, &mut self.owed);
        if planted(Bug::FilterLinesLost) {
            self.owed = Lines::new(self.lines.len());
        }
        (self.next_owed, self.owes) = (0, true);
        self.kept = Images { shape: self.shape, generation: self.generation, ..Images::default() };
        if !std::mem::take(&mut self.moved_on) && self.owed.next(0).is_none() {
            self.owes = false;
        }
    }

    /// Before a line changes: if the delta being written still needs it, its image is kept. Returns the bytes kept.
    fn keep(&mut self, line: usize) -> usize {
        if planted(Bug::FilterLineNotKept) || !self.owed.remove(line) {
            return 0;
        }
        push_image(&mut self.kept.lines, line, &self.lines[line]);
        IMAGE_BYTES
    }

    /// Empties the cells that are too old at a later generation. Deltas hold the generation alone: their readers do the same.
    fn move_on(&mut self, generation: u32) -> usize {
        if generation <= self.generation || planted(Bug::OldCountsKept) {
            return 0;
        }
        let mut kept = 0;
        let later = generation - self.generation;
        for line in 0..self.lines.len() {
            if self.lines[line][0] == 0 && self.lines[line] == [0; 8] {
                continue;
            }
            let mut cells = Line::read(&self.lines[line], self.generation);
            if cells.forget(later) {
                kept += self.keep(line);
                self.lines[line] = cells.write(generation);
            }
        }
        (self.generation, self.moved_on) = (generation, true);
        kept
    }

    /// Counts what was seen, or forgets a key that was admitted. Returns the bytes kept and the counts dropped.
    fn note(&mut self, mixed: u64, seen: Seen) -> (usize, u64) {
        let places = self.places(mixed);
        let mut cells = places.map(|place| Line::read(&self.lines[place], self.generation));
        let known = cells.iter().position(|cells| cells.has(mixed));
        let at = match (known, seen) {
            (None, Seen::Admitted) => return (0, 0),
            (Some(at), _) => at,
            (None, _) => usize::from(cells[1].used() < cells[0].used()),
        };
        let dropped = cells[at].note(mixed, seen);
        let kept = self.keep(places[at]);
        self.lines[places[at]] = cells[at].write(self.generation);
        self.changed.insert(places[at]);
        (kept, dropped)
    }

    fn load(&mut self, images: &Images) {
        if images.shape != self.shape {
            // From before its shape changed.
            return;
        }
        self.move_on(images.generation);
        self.moved_on = false;
        for image in images.lines.chunks_exact(IMAGE_BYTES) {
            let Some((number, words)) = image.split_first_chunk::<4>() else { continue };
            let Some(line) = self.lines.get_mut(u32::from_le_bytes(*number) as usize) else { continue };
            let mut words = words.chunks_exact(8).map(|word| word.first_chunk().map_or(0, |word| u64::from_le_bytes(*word)));
            let stored: [u64; 8] = std::array::from_fn(|_| words.next().unwrap_or(0));
            let mut cells = Line::read(&stored, images.generation);
            cells.forget(self.generation - images.generation);
            *line = cells.write(self.generation);
        }
    }
}

fn push_image(out: &mut Vec<u8>, line: usize, words: &[u64; 8]) {
    out.extend_from_slice(&(line as u32).to_le_bytes());
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

/// See the module. Without a shape it is empty and counts nothing.
pub(crate) struct SlidingFilter {
    partitions: Vec<RwLock<Partition>>,
    /// What the batch in hand saw, by partition.
    seen: Vec<Mutex<Vec<(u64, Seen)>>>,
    dropped: AtomicU64,
}

impl SlidingFilter {
    pub(crate) fn new() -> SlidingFilter {
        let partition = || RwLock::new(Partition::new(Shape::default()));
        SlidingFilter {
            partitions: std::iter::repeat_with(partition).take(PARTITIONS).collect(),
            seen: std::iter::repeat_with(Mutex::default).take(PARTITIONS).collect(),
            dropped: AtomicU64::new(0),
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        read(&self.partitions[0]).shape
    }

    /// Begins anew with this shape, unless it is that already. The caller has its memory accounted.
    pub(crate) fn reshape(&self, shape: Shape, epoch: u64) {
        for partition in &self.partitions {
            let mut partition = write(partition);
            if partition.shape != shape {
                *partition = Partition { epoch, ..Partition::new(shape) };
            }
        }
    }

    /// Counts dropped because lines were too full, by this process.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// How often a key was seen within the window that ends at `clock`, and not by the batch in hand.
    pub(crate) fn count(&self, key: Key, clock: UnixSeconds) -> u32 {
        let mixed = mix(key);
        let partition = read(&self.partitions[partition_of(mixed)]);
        partition.count(mixed, partition.shape.generation(clock))
    }

    /// Notes a key of the batch in hand; counts change with [`SlidingFilter::settle`].
    pub(crate) fn note(&self, key: Key, seen: Seen) {
        let mixed = mix(key);
        lock(&self.seen[partition_of(mixed)]).push((mixed, seen));
    }

    /// Takes what the batch in hand saw into the counts; returns the bytes kept for the delta being written.
    pub(crate) fn settle(&self, clock: UnixSeconds, epoch: u64) -> usize {
        let mut kept = 0;
        for (partition, seen) in self.partitions.iter().zip(&self.seen) {
            let mut seen = lock(seen);
            if seen.is_empty() {
                continue;
            }
            seen.sort_unstable_by_key(|(mixed, _)| *mixed);
            let mut partition = write(partition);
            if partition.shape.lines > 0 {
                partition.catch_up(epoch);
                let generation = partition.shape.generation(clock);
                kept += partition.move_on(generation);
                for (mixed, seen) in seen.iter() {
                    let (bytes, dropped) = partition.note(*mixed, *seen);
                    kept += bytes;
                    self.dropped.fetch_add(dropped, Relaxed);
                }
            }
            seen.clear();
        }
        kept
    }

    /// Moves up to `lines` lines that a partition owes to the delta being written to `images`, and all that were kept; returns whether
    /// these were the last, and the bytes that had been kept.
    pub(crate) fn capture(&self, at: usize, lines: usize, epoch: u64, images: &mut Images) -> (bool, usize) {
        let mut partition = write(&self.partitions[at]);
        partition.catch_up(epoch);
        if !partition.owes {
            return (true, 0);
        }
        let kept = partition.kept.lines.len();
        (images.shape, images.generation) = (partition.kept.shape, partition.kept.generation);
        images.partition = at as u32;
        images.lines.append(&mut partition.kept.lines);
        for _ in 0..lines {
            let Some(line) = partition.owed.next(partition.next_owed) else {
                partition.owes = false;
                return (true, kept);
            };
            partition.owed.remove(line);
            push_image(&mut images.lines, line, &partition.lines[line]);
            partition.next_owed = line;
        }
        (false, kept)
    }

    /// Copies the lines of a partition that are not empty, from `line` on, to `images`, for a base; returns where to go on, if there are
    /// more.
    pub(crate) fn scan(&self, at: usize, line: usize, lines: usize, images: &mut Images) -> Option<usize> {
        let partition = read(&self.partitions[at]);
        (images.shape, images.generation, images.partition) = (partition.shape, partition.generation, at as u32);
        let end = line.saturating_add(lines).min(partition.lines.len());
        for at in line.min(end)..end {
            if partition.lines[at] != [0; 8] {
                push_image(&mut images.lines, at, &partition.lines[at]);
            }
        }
        (end < partition.lines.len()).then_some(end)
    }

    /// Puts lines as a base or a delta has them. False when there is no such partition.
    pub(crate) fn load(&self, images: &Images) -> bool {
        let partition = self.partitions.get(images.partition as usize);
        partition.map(|partition| write(partition).load(images)).is_some()
    }
}

fn partition_of(mixed: u64) -> usize {
    (mixed >> 58) as usize
}

fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const _: () = assert!(PARTITIONS == 1 << 6 && MAX_COUNT >= 1 << 16);

#[cfg(test)]
#[path = "sliding_tests.rs"]
mod tests;
