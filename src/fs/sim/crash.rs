//! What a power cut leaves of a simulated disk.
#![forbid(unsafe_code)]

use super::disk::{Disk, Node, Pending, put};
use crate::types::mix;

const SECTOR_BYTES: usize = 512;

/// In which way a power cut treats what was not synced. What was synced survives in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CrashMode {
    /// All is lost.
    DropUnsynced,
    /// Names survive; of the writes a random subset does.
    Subset,
    /// Writes and names survive in their order, up to a random one.
    Prefix,
    /// Names survive; of each write a random subset of its 512-byte sectors does.
    Torn,
    /// Names and sizes survive, but what was appended is as written, zero, or noise.
    Garbage,
    /// Names survive or not, one by one, and a file's writes all or none, independently.
    Entries,
}

impl CrashMode {
    /// Every mode.
    pub const ALL: [CrashMode; 6] =
        [CrashMode::DropUnsynced, CrashMode::Subset, CrashMode::Prefix, CrashMode::Torn, CrashMode::Garbage, CrashMode::Entries];
}

/// Draws that a seed decides.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// At most `bound`.
    fn up_to(&mut self, bound: u64) -> u64 {
        self.next() % bound.saturating_add(1)
    }
}

/// The disk that the next boot finds.
pub(super) fn crash(disk: &Disk, mode: CrashMode, seed: u64) -> Disk {
    let mut draws = Draws(mix(seed ^ ((mode as u64) << 56)));
    let last = last_survivor(disk, &mut draws);
    let mut after = disk.clone();
    after.open.clear();
    for change in std::mem::take(&mut after.changes) {
        let survives = match mode {
            CrashMode::DropUnsynced => false,
            CrashMode::Prefix => change.order <= last,
            CrashMode::Entries => draws.coin(),
            CrashMode::Subset | CrashMode::Torn | CrashMode::Garbage => true,
        };
        if survives {
            after.settle(&change);
        }
    }
    for node in after.nodes.values_mut() {
        match node {
            Node::Dir(dir) => dir.entries = dir.durable.clone(),
            Node::File(file) => {
                let pending = std::mem::take(&mut file.pending);
                survive(&mut file.durable, &pending, mode, last, &mut draws);
                file.content = file.durable.clone();
            }
        }
    }
    after.forget_unreachable();
    after
}

/// The last write or change that an ordered disk got to.
fn last_survivor(disk: &Disk, draws: &mut Draws) -> u64 {
    let mut orders: Vec<u64> = disk.changes.iter().map(|change| change.order).collect();
    for node in disk.nodes.values() {
        if let Node::File(file) = node {
            orders.extend(file.pending.iter().map(|write| write.order));
        }
    }
    orders.sort_unstable();
    let survivors = draws.up_to(orders.len() as u64) as usize;
    survivors.checked_sub(1).map_or(0, |at| orders[at])
}

fn survive(durable: &mut Vec<u8>, pending: &[Pending], mode: CrashMode, last: u64, draws: &mut Draws) {
    let whole_file = draws.coin();
    let durable_len = durable.len() as u64;
    for write in pending {
        match mode {
            CrashMode::DropUnsynced => {}
            CrashMode::Subset if draws.coin() => put(durable, write.offset, &write.bytes),
            CrashMode::Prefix if write.order <= last => put(durable, write.offset, &write.bytes),
            CrashMode::Entries if whole_file => put(durable, write.offset, &write.bytes),
            CrashMode::Subset | CrashMode::Prefix | CrashMode::Entries => {}
            CrashMode::Torn => tear(durable, write, draws),
            CrashMode::Garbage => garble(durable, durable_len, write, draws),
        }
    }
}

fn tear(durable: &mut Vec<u8>, write: &Pending, draws: &mut Draws) {
    let mut at = 0;
    while at < write.bytes.len() {
        let place = write.offset + at as u64;
        let end = write.bytes.len().min(at + SECTOR_BYTES - place as usize % SECTOR_BYTES);
        if draws.coin() {
            put(durable, place, &write.bytes[at..end]);
        }
        at = end;
    }
}

/// Bytes that were there keep their old value or take their new one; those of a grown file are anything.
fn garble(durable: &mut Vec<u8>, durable_len: u64, write: &Pending, draws: &mut Draws) {
    let mut bytes = write.bytes.clone();
    let fate = draws.up_to(2);
    let inside = durable_len.saturating_sub(write.offset).min(bytes.len() as u64) as usize;
    for byte in &mut bytes[inside..] {
        match fate {
            0 => *byte = 0,
            1 => *byte = draws.next() as u8,
            _ => {}
        }
    }
    if fate == 2 || inside == 0 || draws.coin() {
        put(durable, write.offset, &bytes);
    } else {
        put(durable, write.offset + inside as u64, &bytes[inside..]);
    }
}
