//! A DeepFM beside the rows that it learns, wherever these are.
#![forbid(unsafe_code)]

use crate::train::bytes::{Reader, Writer};
use crate::train::data::synthetic::Counter;
use crate::train::data::{Samples, Shape};
use crate::train::deepfm::{Architecture, DeepFm};
use crate::train::metrics::Metrics;
use crate::train::{DeepFmOptions, FEATURE_TABLE};
use crate::{Key, Replica, Result, Table, UnixSeconds, Update};

/// Samples predicted at once.
const PREDICTED: usize = 4096;

/// Where rows are read.
pub(super) trait Rows {
    /// Fills the row of each key.
    fn lookup(&self, keys: &[Key], rows: &mut [f32]) -> Result<()>;
}

/// Where rows are changed too.
pub(super) trait Learns: Rows {
    /// Applies the gradient of each key's row.
    fn update(&self, keys: &[Key], gradients: &[f32], time: UnixSeconds) -> Result<()>;
}

impl Rows for Table {
    fn lookup(&self, keys: &[Key], rows: &mut [f32]) -> Result<()> {
        Table::lookup(self, keys, rows).map(|_| ())
    }
}

impl Learns for Table {
    fn update(&self, keys: &[Key], gradients: &[f32], time: UnixSeconds) -> Result<()> {
        self.apply_gradients(keys, gradients, &Update::at(u64::from(time)))
    }
}

impl Rows for Replica {
    fn lookup(&self, keys: &[Key], rows: &mut [f32]) -> Result<()> {
        Replica::lookup(self, FEATURE_TABLE, keys, rows).map(|_| ())
    }
}

/// A DeepFM with nothing learned.
pub(super) fn fresh(options: &DeepFmOptions, shape: Shape) -> Result<DeepFm> {
    let architecture = Architecture { shape, factors: options.factors, hidden: options.hidden.clone() };
    DeepFm::new(architecture, options.dense_learning_rate, &mut Counter::new(options.seed))
}

/// The dense weights and their optimizer, for a commit.
pub(super) fn to_bytes(model: &DeepFm) -> Vec<u8> {
    let mut out = Writer::default();
    model.write(&mut out);
    out.bytes
}

/// Takes dense weights over.
pub(super) fn read(model: &mut DeepFm, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader::new(bytes);
    model.read(&mut reader)?;
    reader.end()
}

/// Learns a batch; returns the log-odds that it predicted before.
pub(super) fn learn(model: &mut DeepFm, table: &impl Learns, batch: &Samples) -> Result<Vec<f32>> {
    let mut rows = vec![0.0; batch.keys.len() * model.row()];
    table.lookup(&batch.keys, &mut rows)?;
    let mut gradients = Vec::new();
    let logits = model.train(&rows, batch, &mut gradients)?;
    table.update(&batch.keys, &gradients, batch.times.iter().copied().max().unwrap_or(0))?;
    Ok(logits)
}

/// Predicts samples and counts how well.
pub(super) fn score(
    model: &DeepFm,
    table: &impl Rows,
    samples: &Samples,
    shape: Shape,
    metrics: &mut [&mut Metrics],
) -> Result<()> {
    for from in (0..samples.len()).step_by(PREDICTED) {
        let batch = slice(samples, shape, from, PREDICTED);
        let mut rows = vec![0.0; batch.keys.len() * model.row()];
        table.lookup(&batch.keys, &mut rows)?;
        for (logit, label) in model.predict(&rows, &batch)?.iter().zip(&batch.labels) {
            metrics.iter_mut().for_each(|metrics| metrics.add(*logit, *label > 0.5));
        }
    }
    Ok(())
}

/// At most `most` samples from a place on.
pub(super) fn slice(all: &Samples, shape: Shape, from: usize, most: usize) -> Samples {
    let to = all.len().min(from.saturating_add(most));
    Samples {
        labels: all.labels[from..to].to_vec(),
        times: all.times[from..to].to_vec(),
        keys: all.keys[from * shape.keys..to * shape.keys].to_vec(),
        dense: all.dense[from * shape.dense..to * shape.dense].to_vec(),
    }
}

/// The samples at these places.
pub(super) fn gather(all: &Samples, shape: Shape, places: &[u32]) -> Samples {
    let mut batch = Samples::default();
    for at in places.iter().map(|place| *place as usize) {
        batch.labels.push(all.labels[at]);
        batch.times.push(all.times[at]);
        batch.keys.extend_from_slice(&all.keys[at * shape.keys..(at + 1) * shape.keys]);
        batch.dense.extend_from_slice(&all.dense[at * shape.dense..(at + 1) * shape.dense]);
    }
    batch
}

/// Brings places into an order drawn from the generator (Fisher and Yates).
pub(super) fn shuffle(places: &mut [u32], random: &mut Counter) {
    for at in (1..places.len()).rev() {
        let other = (random.unit() * (at + 1) as f64) as usize;
        places.swap(at, other.min(at));
    }
}
