//! Filling a table from a base or from deltas: rows gathered by shard, so that threads take different shards and none locks row by row.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::TableInner;
use super::pool::Beside;
use crate::context::write;
use crate::error::Result;
use crate::schema::TableSchema;
use crate::shard::{IMAGE_HEADER_BYTES, shard_of};
use crate::types::{Key, TableId, mix};

/// Bytes gathered before they are handed to the shards.
const LOT_BYTES: usize = 4 << 20;

/// What falls to one shard.
#[derive(Default)]
struct Share {
    images: Vec<u8>,
    removed: Vec<Key>,
    counts: Vec<(Key, u32)>,
}

/// What was gathered for one table. Either images or removed keys: of equal keys the last counts.
struct Lot {
    table: Arc<TableInner>,
    schema: Arc<TableSchema>,
    shares: Vec<Share>,
    removes: bool,
}

/// A shard's share: its table, that one's schema, and the shard's number.
type Job = (Arc<TableInner>, Arc<TableSchema>, usize, Share);

/// Takes rows in the order of their log and hands them to their shards, in that order for each key, while the next are read.
pub(crate) struct Loader {
    lots: Vec<Lot>,
    bytes: usize,
    expected: Vec<(TableId, u64)>,
    expected_bytes: u64,
    under_way: Option<Beside<Job>>,
}

impl Loader {
    /// For tables that will have these rows or fewer, of all of which `bytes` bytes of images are still to come.
    pub(crate) fn expecting(rows: Vec<(TableId, u64)>, bytes: u64) -> Loader {
        Loader { lots: Vec::new(), bytes: 0, expected: rows, expected_bytes: bytes, under_way: None }
    }

    /// Makes a table's indexes large enough for the rows that are expected.
    pub(crate) fn make_room(&self, table: &TableInner) {
        let image_bytes = (IMAGE_HEADER_BYTES + table.schema().row_bytes()) as u64;
        let expected = self.expected.iter().find(|(id, _)| *id == table.id);
        if let Some(rows) = expected.map(|(_, rows)| (*rows).min(self.expected_bytes / image_bytes)) {
            table.expect_rows(rows);
        }
    }

    /// Gathers images of the table's own size: key, time, four bytes, lanes.
    pub(crate) fn rows(&mut self, table: &Arc<TableInner>, images: &[u8]) -> Result<()> {
        let lot = self.lot(table, false)?;
        let size = IMAGE_HEADER_BYTES + lot.schema.row_bytes();
        let shards = lot.shares.len();
        let expected = LOT_BYTES / shards / size * size + LOT_BYTES / shards / 8;
        for image in images.chunks_exact(size) {
            let Some(key) = image.first_chunk().map(|key| Key::from_le_bytes(*key)) else { continue };
            let share = &mut lot.shares[shard_of(mix(key), shards)].images;
            if share.capacity() == 0 && images.len() > size * shards {
                share.reserve(expected);
            }
            share.extend_from_slice(image);
        }
        self.bytes += images.len();
        self.hand_over_if_full()
    }

    pub(crate) fn removed(&mut self, table: &Arc<TableInner>, keys: impl Iterator<Item = Key>) -> Result<()> {
        let lot = self.lot(table, true)?;
        let mut bytes = 0;
        for key in keys {
            let shards = lot.shares.len();
            lot.shares[shard_of(mix(key), shards)].removed.push(key);
            bytes += size_of::<Key>();
        }
        self.bytes += bytes;
        self.hand_over_if_full()
    }

    pub(crate) fn counts(&mut self, table: &Arc<TableInner>, counts: impl Iterator<Item = (Key, u32)>) -> Result<()> {
        let lot = self.lot_of(table);
        let mut bytes = 0;
        for (key, count) in counts {
            let shards = lot.shares.len();
            lot.shares[shard_of(mix(key), shards)].counts.push((key, count));
            bytes += size_of::<(Key, u32)>();
        }
        self.bytes += bytes;
        self.hand_over_if_full()
    }

    fn lot(&mut self, table: &Arc<TableInner>, removes: bool) -> Result<&mut Lot> {
        let other = |lot: &Lot| lot.table.id == table.id && lot.removes != removes;
        if self.lots.iter().any(other) {
            self.hand_over()?;
        }
        let lot = self.lot_of(table);
        lot.removes = removes;
        Ok(lot)
    }

    fn lot_of(&mut self, table: &Arc<TableInner>) -> &mut Lot {
        let at = self.lots.iter().position(|lot| lot.table.id == table.id).unwrap_or(self.lots.len());
        if at == self.lots.len() {
            let mut shares = Vec::new();
            shares.resize_with(table.shards().len(), Share::default);
            self.lots.push(Lot { table: Arc::clone(table), schema: table.schema(), shares, removes: false });
        }
        &mut self.lots[at]
    }

    fn hand_over_if_full(&mut self) -> Result<()> {
        if self.bytes < LOT_BYTES { Ok(()) } else { self.hand_over() }
    }

    /// Begins to load what was gathered, once what was gathered before is loaded.
    fn hand_over(&mut self) -> Result<()> {
        self.under_way.take().map_or(Ok(()), Beside::wait)?;
        let Some(context) = self.lots.first().map(|lot| Arc::clone(&lot.table.context)) else { return Ok(()) };
        let mut jobs = Vec::new();
        for Lot { table, schema, shares, .. } in self.lots.drain(..) {
            let busy = shares.into_iter().enumerate().filter(|(_, share)| !share.is_empty());
            jobs.extend(busy.map(|(at, share)| (Arc::clone(&table), Arc::clone(&schema), at, share)));
        }
        let work = |(table, schema, at, share): Job| table.load(&schema, at, share);
        let crew = context.crew.as_ref().filter(|_| self.bytes >= LOT_BYTES);
        self.bytes = 0;
        match crew {
            None => jobs.into_iter().try_for_each(work),
            Some(crew) => {
                self.under_way = Some(Beside::begin(crew, jobs, work));
                Ok(())
            }
        }
    }

    /// Waits until all that was given is in its table.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.hand_over()?;
        self.under_way.take().map_or(Ok(()), Beside::wait)
    }
}

/// What is under way ends before the tables may go: another attempt opens the same directories.
impl Drop for Loader {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.under_way.take().map(Beside::wait) {
            tracing::debug!(%error, "rows that are not needed any more could not be loaded");
        }
    }
}

impl Share {
    fn is_empty(&self) -> bool {
        self.images.is_empty() && self.removed.is_empty() && self.counts.is_empty()
    }
}

impl TableInner {
    fn load(&self, schema: &TableSchema, shard: usize, share: Share) -> Result<()> {
        let (env, mut shard) = (self.env(schema), write(&self.shards[shard]));
        shard.load_rows(&env, &share.images)?;
        share.removed.iter().try_for_each(|&key| shard.load_removed(&env, key))?;
        share.counts.iter().for_each(|&(key, count)| shard.counts_mut().load(key, count));
        Ok(())
    }

    /// Makes room in the indexes for `rows` rows, as far as the budget would hold these: as rows come one by one the indexes would
    /// be made anew many times.
    fn expect_rows(&self, rows: u64) {
        let schema = self.schema();
        let fit = self.context.budget.left_for_rows() / schema.row_bytes().max(1);
        let share = usize::try_from(rows).unwrap_or(usize::MAX).min(fit) / self.shards.len();
        // Shards are not all alike.
        let share = share + share / 64;
        self.shards.iter().for_each(|shard| write(shard).expect_rows(&self.env(&schema), share));
    }
}
