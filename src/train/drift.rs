//! How far a table's rows moved between two stores, or two commits of one: the distribution of the cosine distance of each key's old and new
//! vector. A sudden shift means that something is wrong with what the vectors are made of, before a model that reads them shows it.
#![forbid(unsafe_code)]

use serde::Serialize;

use crate::{Error, Key, Result, Store, Table};

/// Bins of the distance, which is 0 to 2: quantiles are exact to one of them.
const BINS: usize = 4_000;
/// Rows compared at once.
const BATCH: usize = 1_024;

/// The distribution of the distances.
#[derive(Clone, Debug, Serialize)]
pub struct Drift {
    /// The table.
    pub table: String,
    /// Keys in both.
    pub compared: u64,
    /// Keys only in the new one.
    pub added: u64,
    /// Keys only in the old one: removed or expired.
    pub gone: u64,
    /// Compared keys whose vector is the same to the bit.
    pub unchanged: u64,
    /// Mean distance.
    pub mean: f64,
    /// Largest distance.
    pub largest: f64,
    /// Compared keys by distance, in equal bins from 0 to 2.
    #[serde(skip)]
    bins: Vec<u64>,
}

/// `1 - a.b / |a||b|`: 0 for one direction, 1 for a right angle, 2 for opposite ones. Two zero vectors have 0, a zero and another 1.
pub fn cosine_distance(a: &[f32], b: &[f32]) -> f64 {
    let (mut product, mut of_a, mut of_b) = (0.0f64, 0.0f64, 0.0f64);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        product += a * b;
        of_a += a * a;
        of_b += b * b;
    }
    match (of_a > 0.0, of_b > 0.0) {
        (true, true) => (1.0 - product / (of_a.sqrt() * of_b.sqrt())).clamp(0.0, 2.0),
        (false, false) => 0.0,
        _ => 1.0,
    }
}

/// Compares a table of two stores; of its rows the given segment, or all lanes. Reads every row of the new one and looks up its key
/// in the old one; takes constant memory beside the stores' own.
///
/// # Errors
/// [`Error::UnknownTable`]; [`Error::InvalidOption`] where the tables' rows are of unlike length, or have no such segment.
pub fn drift(old: &Store, new: &Store, table: &str, segment: Option<usize>) -> Result<Drift> {
    let (old, new) = (old.table(table)?, new.table(table)?);
    let lanes = lanes(&old, segment)?;
    if lanes != self::lanes(&new, segment)? || old.dim() != new.dim() {
        let what = format!("'{table}' has {} lanes in the old one and {} in the new one", old.dim(), new.dim());
        return Err(Error::InvalidOption { option: "table", what });
    }
    let mut found =
        Compared { old: &old, lanes, bins: vec![0; BINS], compared: 0, unchanged: 0, added: 0, sum: 0.0, largest: 0.0 };
    let (mut keys, mut rows) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH * new.dim()));
    new.for_each_row(|key, _, embedding, _| {
        keys.push(key);
        rows.extend_from_slice(embedding);
        if keys.len() == BATCH {
            found.compare(&keys, &rows)?;
            keys.clear();
            rows.clear();
        }
        Ok(())
    })?;
    found.compare(&keys, &rows)?;
    let Compared { bins, compared, unchanged, added, sum, largest, .. } = found;
    Ok(Drift {
        table: table.to_string(),
        compared,
        added,
        gone: old.len().saturating_sub(compared),
        unchanged,
        mean: sum / compared.max(1) as f64,
        largest,
        bins,
    })
}

fn lanes(table: &Table, segment: Option<usize>) -> Result<std::ops::Range<usize>> {
    let schema = table.schema();
    let Some(segment) = segment else { return Ok(0..table.dim()) };
    let range = schema.segment_range(segment);
    if range.is_empty() {
        return Err(Error::InvalidOption { option: "segment", what: format!("'{}' has no segment {segment}", schema.name()) });
    }
    Ok(range)
}

struct Compared<'a> {
    old: &'a Table,
    lanes: std::ops::Range<usize>,
    bins: Vec<u64>,
    compared: u64,
    unchanged: u64,
    added: u64,
    sum: f64,
    largest: f64,
}

impl Compared<'_> {
    fn compare(&mut self, keys: &[Key], rows: &[f32]) -> Result<()> {
        let dim = self.old.dim();
        let (mut before, mut found) = (vec![0.0; rows.len()], vec![false; keys.len()]);
        self.old.lookup_found(keys, &mut before, &mut found)?;
        for ((old, new), found) in before.chunks_exact(dim).zip(rows.chunks_exact(dim)).zip(found) {
            if !found {
                self.added += 1;
                continue;
            }
            let (old, new) = (&old[self.lanes.clone()], &new[self.lanes.clone()]);
            let same = old.iter().zip(new).all(|(a, b)| a.to_bits() == b.to_bits());
            let distance = if same { 0.0 } else { cosine_distance(old, new) };
            self.compared += 1;
            self.unchanged += u64::from(same);
            self.sum += distance;
            self.largest = self.largest.max(distance);
            self.bins[((distance / 2.0 * BINS as f64) as usize).min(BINS - 1)] += 1;
        }
        Ok(())
    }
}

impl Drift {
    /// The distance that this share of the keys does not pass, to one bin (0.0005) above; 0 where nothing was compared.
    pub fn quantile(&self, share: f64) -> f64 {
        let wanted = (share * self.compared as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.bins.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return if self.largest == 0.0 { 0.0 } else { ((at + 1) as f64 * 2.0 / BINS as f64).min(self.largest) };
            }
        }
        0.0
    }

    /// Keys by distance in so many equal bins (a divisor of 4,000) from 0 to 2.
    pub fn histogram(&self, bins: usize) -> Vec<u64> {
        self.bins.chunks(BINS.div_ceil(bins.clamp(1, BINS))).map(|chunk| chunk.iter().sum()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StoreOptions, TableSchema, Update};

    fn store(dir: &tempfile::TempDir, rows: &[(Key, [f32; 3])]) -> Store {
        let store = Store::open(dir.path(), StoreOptions::default().memory_budget(32 << 20)).unwrap();
        let table = store.create_table(TableSchema::new("v", 3)).unwrap();
        let keys: Vec<Key> = rows.iter().map(|(key, _)| *key).collect();
        let values: Vec<f32> = rows.iter().flat_map(|(_, row)| *row).collect();
        table.assign(&keys, &values, &Update::at(1)).unwrap();
        store
    }

    #[test]
    fn distances_and_quantiles_are_those_of_the_rows() {
        assert_eq!(cosine_distance(&[1.0, 0.0], &[3.0, 0.0]), 0.0);
        assert_eq!(cosine_distance(&[1.0, 0.0], &[-2.0, 0.0]), 2.0);
        assert_eq!(cosine_distance(&[1.0, 0.0], &[0.0, 5.0]), 1.0);
        assert_eq!((cosine_distance(&[0.0], &[0.0]), cosine_distance(&[0.0], &[1.0])), (0.0, 1.0));
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old: Vec<(Key, [f32; 3])> = (0..2_000).map(|key| (key, [1.0, 0.0, 0.5])).collect();
        let mut new = old[..1_990].to_vec();
        // A hundred turn by a right angle, one is turned round, and some are new.
        new[..100].iter_mut().for_each(|(_, row)| *row = [0.0, 1.0, 0.0]);
        new[100].1 = [-1.0, 0.0, -0.5];
        new.extend((5_000..5_007).map(|key| (key, [1.0; 3])));
        let drift = drift(&store(&a, &old), &store(&b, &new), "v", None).unwrap();
        assert_eq!((drift.compared, drift.added, drift.gone, drift.unchanged), (1_990, 7, 10, 1_889));
        assert!((drift.mean - 102.0 / 1_990.0).abs() < 1e-9 && (drift.largest - 2.0).abs() < 1e-6);
        assert_eq!((drift.quantile(0.5), drift.quantile(0.0)), (0.0005, 0.0005));
        assert!((drift.quantile(0.96) - 1.0).abs() < 0.001 && drift.quantile(1.0) > 1.999);
        assert_eq!(drift.histogram(40).iter().sum::<u64>(), 1_990);
        assert_eq!((drift.histogram(40)[20], drift.histogram(40)[39]), (100, 1));
    }

    #[test]
    fn equal_stores_have_no_drift_and_unlike_ones_are_refused() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let old = store(&a, &[(1, [1.0, 2.0, 3.0])]);
        let same = drift(&old, &old, "v", Some(0)).unwrap();
        assert_eq!((same.unchanged, same.quantile(1.0), same.mean), (1, 0.0, 0.0));
        assert!(drift(&old, &old, "w", None).is_err());
        let new = Store::open(b.path(), StoreOptions::default().memory_budget(32 << 20)).unwrap();
        new.create_table(TableSchema::new("v", 2)).unwrap();
        assert!(matches!(drift(&old, &new, "v", None), Err(Error::InvalidOption { option: "table", .. })));
    }
}
