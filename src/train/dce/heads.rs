//! The heads: logistic and softmax regressions, one for each task and set of features, on moments that no longer change.
//!
//! Each feature is brought to mean 0 and deviation 1 over the moments that are learned from.
#![forbid(unsafe_code)]

use candle_core::Result as CandleResult;

use super::autoencoder::softmax;
use super::data::{Sessions, Task, When};
use super::gru::tensor;
use super::moment::{Layout, key, moment_of, sets};
use super::options::DceOptions;
use super::scores::Scores;
use crate::train::affine::values;
use crate::train::bytes::{Reader, Writer};
use crate::train::data::synthetic::Counter;
use crate::train::dense::{Layer, Schedule, model};
use crate::{Key, Result, Table, UnixSeconds};

/// Moments that are learned from or tried on, and what came true for each.
///
/// Eight bytes a moment: the classes are looked up in the data.
pub(crate) struct Examples<'a> {
    /// The moments, by login, that of a login before that of its logout.
    pub(crate) keys: Vec<Key>,
    data: &'a Sessions,
    split: UnixSeconds,
    learn: bool,
}

impl<'a> Examples<'a> {
    /// The moments to learn from (`learn`), whose labels are known before the split, or those to be tried on, after it.
    ///
    /// Sessions without a past are left out: for them there is nothing to tell the features apart.
    pub(crate) fn new(data: &'a Sessions, split: UnixSeconds, learn: bool) -> Examples<'a> {
        let mut seen = std::collections::HashSet::new();
        let mut examples = Examples { keys: Vec::new(), data, split, learn };
        for (at, session) in data.sessions.iter().enumerate() {
            let has_past = seen.contains(&session.customer);
            if !session.probe {
                seen.insert(session.customer);
            }
            if !has_past || (session.start < split) != learn {
                continue;
            }
            for moment in [key(at, When::Login), key(at, When::Logout)] {
                if (0..data.tasks.len()).any(|task| examples.class(moment, task).is_some()) {
                    examples.keys.push(moment);
                }
            }
        }
        examples
    }

    /// What came true for a task; None where it asks at another time, or its label may not be used.
    pub(crate) fn class(&self, moment: Key, task: usize) -> Option<u32> {
        let (session, when) = moment_of(moment);
        let label = self.data.sessions.get(session)?.labels.get(task).copied().flatten()?;
        (self.data.tasks[task].when == when && (!self.learn || label.known < self.split)).then_some(label.class)
    }
}

struct Head {
    task: usize,
    lanes: Vec<usize>,
    classes: usize,
    layer: Layer,
    schedule: Schedule,
}

pub(crate) struct Heads {
    heads: Vec<Head>,
    rate: f32,
    decay: f32,
}

/// Mean of each lane of a moment, and one over its deviation.
pub(crate) struct Norms {
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl Norms {
    /// Of rows of one width, given in batches.
    pub(crate) fn new(width: usize, mut next: impl FnMut(&mut Vec<f32>) -> Result<bool>) -> Result<Norms> {
        let (mut sum, mut square, mut count) = (vec![0.0f64; width], vec![0.0f64; width], 0.0f64);
        let mut rows = Vec::new();
        while next(&mut rows)? {
            for row in rows.chunks_exact(width) {
                count += 1.0;
                for ((sum, square), x) in sum.iter_mut().zip(&mut square).zip(row) {
                    *sum += f64::from(*x);
                    *square += f64::from(*x) * f64::from(*x);
                }
            }
        }
        let count = count.max(1.0);
        let mean: Vec<f64> = sum.iter().map(|sum| sum / count).collect();
        let scale = |(square, mean): (&f64, &f64)| {
            let variance = square / count - mean * mean;
            if variance > 1e-9 { (1.0 / variance.sqrt()) as f32 } else { 0.0 }
        };
        let scales = square.iter().zip(&mean).map(scale).collect();
        Ok(Norms { mean: mean.into_iter().map(|mean| mean as f32).collect(), scale: scales })
    }

    /// Both in one list.
    pub(crate) fn list(&self) -> Vec<f32> {
        self.mean.iter().chain(&self.scale).copied().collect()
    }
}

impl Heads {
    pub(crate) fn new(tasks: &[Task], layout: &Layout, options: &DceOptions, random: &mut Counter) -> Result<Heads> {
        let mut heads = Vec::new();
        for (task, Task { classes, when, .. }) in tasks.iter().enumerate() {
            for set in sets(*when) {
                let lanes = set.lanes(layout);
                let outputs = if *classes == 2 { 1 } else { *classes };
                let layer = Layer::new(lanes.len(), outputs, random)?;
                heads.push(Head { task, lanes, classes: *classes, layer, schedule: Schedule::new() });
            }
        }
        Ok(Heads { heads, rate: options.head_rate, decay: options.head_decay })
    }

    pub(crate) fn weights(&self) -> usize {
        self.heads.iter().map(|head| head.layer.weights()).sum()
    }

    /// Learns a batch of moments (`rows`) in all heads. The rate falls to nothing over the passes: `left` is what is left of it.
    pub(crate) fn train(&mut self, examples: &Examples<'_>, batch: &[Key], rows: &[f32], norms: &Norms, left: f32) -> Result<()> {
        let (rate, decay) = (self.rate * left, self.decay);
        let mut run = || -> CandleResult<()> {
            for head in &mut self.heads {
                let (features, targets) = head.features(examples, batch, rows, norms);
                if targets.is_empty() {
                    continue;
                }
                let logits = head.layer.apply(&tensor(&features, head.lanes.len())?)?;
                let mut errors = values(&logits)?;
                head.errors(&mut errors, &targets);
                let width = errors.len() / targets.len();
                let grads = logits.mul(&tensor(&errors, width)?)?.sum_all()?.backward()?;
                let step = head.schedule.next(rate);
                head.layer.shrink(rate * decay);
                head.layer.learn(&grads, targets.len() as f32, step)?;
            }
            Ok(())
        };
        run().map_err(model)
    }

    /// Adds what each head says of a batch of moments.
    pub(crate) fn score(
        &self,
        examples: &Examples<'_>,
        batch: &[Key],
        rows: &[f32],
        norms: &Norms,
        scores: &mut [Scores],
    ) -> Result<()> {
        let run = || -> CandleResult<()> {
            for (head, scores) in self.heads.iter().zip(scores) {
                let (features, targets) = head.features(examples, batch, rows, norms);
                if targets.is_empty() {
                    continue;
                }
                let logits = values(&head.layer.apply(&tensor(&features, head.lanes.len())?)?)?;
                scores.add(&logits, &targets);
            }
            Ok(())
        };
        run().map_err(model)
    }

    /// Nothing scored yet, for each head.
    pub(crate) fn no_scores(&self) -> Vec<Scores> {
        self.heads.iter().map(|head| Scores::new(head.classes)).collect()
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        for head in &self.heads {
            head.schedule.write(out);
            head.layer.write(out);
        }
    }

    pub(crate) fn read(&mut self, from: &mut Reader<'_>) -> Result<()> {
        for head in &mut self.heads {
            head.schedule.read(from)?;
            head.layer.read(from)?;
        }
        Ok(())
    }
}

impl Head {
    /// The features, and classes, of those of a batch that are of its task.
    fn features(&self, examples: &Examples<'_>, batch: &[Key], rows: &[f32], norms: &Norms) -> (Vec<f32>, Vec<u32>) {
        let width = norms.mean.len();
        let (mut features, mut targets) = (Vec::new(), Vec::new());
        for (moment, row) in batch.iter().zip(rows.chunks_exact(width)) {
            let Some(class) = examples.class(*moment, self.task) else { continue };
            targets.push(class);
            // What is far out in the part that was learned from, or was constant there, may not decide alone.
            features.extend(self.lanes.iter().map(|at| ((row[*at] - norms.mean[*at]) * norms.scale[*at]).clamp(-5.0, 5.0)));
        }
        (features, targets)
    }

    /// Turns log-odds into the gradient of the log loss.
    fn errors(&self, logits: &mut [f32], targets: &[u32]) {
        if self.classes > 2 {
            softmax(logits, targets, self.classes);
            return;
        }
        for (x, target) in logits.iter_mut().zip(targets) {
            *x = crate::train::metrics::sigmoid(*x) - *target as f32;
        }
    }
}

/// The moments' rows of a batch.
pub(crate) fn rows(table: &Table, batch: &[Key], rows: &mut Vec<f32>) -> Result<()> {
    rows.resize(batch.len() * table.dim(), 0.0);
    table.lookup(batch, rows).map(|_| ())
}
