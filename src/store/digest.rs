//! One number for the content of a store, independent of tiers and shards.
#![forbid(unsafe_code)]

use std::fmt;

use crate::catalog::Catalog;
use crate::error::Result;

/// See [`Store::digest`](crate::Store::digest). Displayed as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Rows are hashed one by one and summed, so their order does not matter; tables are hashed by name.
pub(super) fn digest(catalog: &Catalog) -> Result<Digest> {
    let mut tables = catalog.tables();
    tables.sort_by_key(|table| table.schema().name().to_owned());
    let mut all = blake3::Hasher::new();
    for table in tables {
        let (mut sum, mut rows, mut bytes) = ([0u128; 2], 0u64, Vec::new());
        table.for_each(&mut |key, time, lanes| {
            bytes.clear();
            crate::shard::push_image(&mut bytes, key, time, lanes);
            let hash = blake3::hash(&bytes);
            let (low, high) = hash.as_bytes().split_at(16);
            for (sum, half) in sum.iter_mut().zip([low, high]) {
                *sum = sum.wrapping_add(half.iter().rev().fold(0, |n, &b| n << 8 | u128::from(b)));
            }
            rows += 1;
            Ok(())
        })?;
        let schema = table.schema();
        all.update(&(schema.name().len() as u64).to_le_bytes());
        all.update(schema.name().as_bytes());
        all.update(&(schema.dim() as u64).to_le_bytes());
        all.update(&rows.to_le_bytes());
        sum.iter().for_each(|half| {
            all.update(&half.to_le_bytes());
        });
    }
    Ok(Digest(*all.finalize().as_bytes()))
}
