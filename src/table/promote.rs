//! What lookups do beside reading: cold rows that they read come into memory, and rows in memory are noted as used.
//!
//! Both are hints: no row's content depends on where it is. What finds no place is not kept, so a lookup never writes to disk for it; rows
//! that came and are not used again leave after a tenth of the memory, as all others (`src/shard/policy.rs`).
#![forbid(unsafe_code)]

use super::TableInner;
use super::prefetch::Airborne;
use crate::context::write;
use crate::schema::TableSchema;
use crate::shard::{Flight, shard_of};
use crate::sync::RwLockReadGuard;
use crate::types::Key;

/// Rows of a lookup on their way up, one flight a shard; they land when it is dropped.
pub(super) struct Flights<'a> {
    table: &'a TableInner,
    schema: &'a TableSchema,
    of_shards: Vec<Flight>,
    _airborne: Airborne<'a>,
    /// Held shared while rows move.
    _moving: RwLockReadGuard<'a, ()>,
}

impl Flights<'_> {
    /// Takes those out of some mixed keys that are on no flight of this lookup: hot by now, or on another's.
    pub(super) fn leave_out(&self, wanted: &mut Vec<(u64, u32)>) -> Vec<(u64, u32)> {
        let brings = |mixed: u64| self.of_shards[shard_of(mixed, self.of_shards.len())].brings(mixed);
        wanted.extract_if(.., |&mut (mixed, _)| !brings(mixed)).collect()
    }

    /// The value of a mixed key was read. In the order of the keys.
    pub(super) fn offer(&mut self, mixed: u64, value: &[u8]) {
        let shard = shard_of(mixed, self.of_shards.len());
        self.of_shards[shard].offer(mixed, value);
    }

    /// What the cold tier has of these ascending mixed keys was offered.
    pub(super) fn all_offered(&mut self, asked: &[u64]) {
        self.of_shards.iter_mut().for_each(|flight| flight.all_offered(asked));
    }
}

impl Drop for Flights<'_> {
    fn drop(&mut self) {
        let (table, env) = (self.table, self.table.env(self.schema));
        let flights = table.shards.iter().zip(&self.of_shards).filter(|(_, flight)| flight.keys() > 0);
        let kept: usize = flights.map(|(shard, flight)| table.context.meters.shards.write(shard).land(&env, flight)).sum();
        if kept > 0 {
            table.demote_to_cap(self.schema);
        }
    }
}

impl TableInner {
    /// Notes what a lookup uses, and begins to bring up what is not in memory. Not while somebody must find each row where it is.
    pub(super) fn note_uses<'a>(&'a self, schema: &'a TableSchema, keys: &[Key]) -> Option<Flights<'a>> {
        let moving = self.moves.try_read().ok()?;
        let env = self.env(schema);
        let of_shards = self.shards.iter().zip(self.by_shard(keys)).map(|(shard, mixed)| match mixed.is_empty() {
            true => Flight::default(),
            false => write(shard).look_up(&env, &mixed),
        });
        let of_shards: Vec<Flight> = of_shards.collect();
        let airborne = self.ahead.begin(of_shards.iter().map(Flight::keys).sum());
        Some(Flights { table: self, schema, of_shards, _airborne: airborne, _moving: moving })
    }
}
