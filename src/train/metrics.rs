//! Progressive (test-then-train) metrics: AUC by histograms of the predicted probability, and log loss.
//!
//! Every sample is scored before it is learned, so the area under the curve over the whole stream needs no held-out part.
//! The overall AUC uses 65,536 equal bins of the probability; two samples of unlike label in one bin count as a tie, so its
//! distance from the exact pairwise value is at most half the share of unlike pairs that meet in a bin ([`Auc::error_bound`]).
//! The curve keeps at most 64 windows of equal length with 1,024 bins each; when they are full, neighbours merge and the
//! windows are twice as long from then on, so memory is constant whatever the stream's length.
#![forbid(unsafe_code)]

use crate::Result;
use crate::train::bytes::{Reader, Writer, damaged};

/// Bins of the overall histogram.
const BINS: usize = 1 << 16;
/// Bins of a window's histogram.
const WINDOW_BINS: usize = 1 << 10;
/// The most windows kept.
const WINDOWS: usize = 64;
/// The first length of a window, in samples.
const FIRST_WINDOW: u64 = 1_000;

/// A histogram of scores by label, from which the area under the ROC curve is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Auc {
    /// `[negatives, positives]` by bin.
    bins: Vec<[u64; 2]>,
}

impl Auc {
    /// An empty histogram of at least one bin.
    pub fn new(bins: usize) -> Auc {
        Auc { bins: vec![[0; 2]; bins.max(1)] }
    }

    /// Counts a sample; a probability outside 0..=1 counts at the nearer end, NaN at 0.
    pub fn add(&mut self, probability: f32, positive: bool) {
        let bin = (probability * self.bins.len() as f32) as usize;
        let last = self.bins.len() - 1;
        self.bins[bin.min(last)][usize::from(positive)] += 1;
    }

    fn merge(&mut self, other: &Auc) {
        for (bin, more) in self.bins.iter_mut().zip(&other.bins) {
            bin[0] += more[0];
            bin[1] += more[1];
        }
    }

    fn totals(&self) -> (f64, f64) {
        let sum = |label: usize| self.bins.iter().map(|bin| bin[label]).sum::<u64>() as f64;
        (sum(0), sum(1))
    }

    /// The area under the ROC curve: the chance that a positive scores above a negative. None while one class is missing.
    pub fn value(&self) -> Option<f64> {
        let (negatives, positives) = self.totals();
        let (mut below, mut area) = (0.0, 0.0);
        for bin in &self.bins {
            area += bin[1] as f64 * (below + 0.5 * bin[0] as f64);
            below += bin[0] as f64;
        }
        (negatives > 0.0 && positives > 0.0).then(|| area / (negatives * positives))
    }

    /// The most by which [`value`](Self::value) can differ from the exact pairwise AUC.
    pub fn error_bound(&self) -> Option<f64> {
        let (negatives, positives) = self.totals();
        let shared: f64 = self.bins.iter().map(|bin| bin[0] as f64 * bin[1] as f64).sum();
        (negatives > 0.0 && positives > 0.0).then(|| 0.5 * shared / (negatives * positives))
    }

    fn write(&self, out: &mut Writer) {
        let used = self.bins.iter().filter(|bin| **bin != [0; 2]).count();
        out.varint(used as u64);
        let mut previous = 0;
        for (at, bin) in self.bins.iter().enumerate().filter(|(_, bin)| **bin != [0; 2]) {
            out.varint((at - previous) as u64);
            out.varint(bin[0]);
            out.varint(bin[1]);
            previous = at;
        }
    }

    fn read(bins: usize, from: &mut Reader<'_>) -> Result<Auc> {
        let mut auc = Auc::new(bins);
        let mut at = 0u64;
        for _ in 0..from.varint()? {
            at = at.saturating_add(from.varint()?);
            let counts = [from.varint()?, from.varint()?];
            // Counts of samples, whose sums must fit: no stream has 2^48 of them.
            if counts.iter().any(|count| *count >= 1 << 48) {
                return Err(damaged("a histogram counts more samples than any stream has"));
            }
            let bin = usize::try_from(at).ok().and_then(|at| auc.bins.get_mut(at));
            *bin.ok_or_else(|| damaged("a histogram has too many bins"))? = counts;
        }
        Ok(auc)
    }
}

/// One window of the stream.
#[derive(Clone, Debug, PartialEq)]
struct Window {
    samples: u64,
    loss: f64,
    auc: Auc,
}

impl Window {
    fn new() -> Window {
        Window { samples: 0, loss: 0.0, auc: Auc::new(WINDOW_BINS) }
    }

    fn merge(&mut self, other: &Window) {
        self.samples += other.samples;
        self.loss += other.loss;
        self.auc.merge(&other.auc);
    }
}

/// A point of the curve: one window of the stream.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct CurvePoint {
    /// Samples seen at the window's end.
    pub samples: u64,
    /// AUC within the window.
    pub auc: Option<f64>,
    /// Mean log loss within the window.
    pub logloss: f64,
}

/// The accumulators of a run; part of each commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    samples: u64,
    positives: u64,
    loss: f64,
    auc: Auc,
    window: u64,
    windows: Vec<Window>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics { samples: 0, positives: 0, loss: 0.0, auc: Auc::new(BINS), window: FIRST_WINDOW, windows: Vec::new() }
    }
}

impl Metrics {
    /// Counts a sample by the model's logit for it, made before the sample was learned.
    pub fn add(&mut self, logit: f32, positive: bool) {
        let probability = sigmoid(logit);
        let loss = softplus(if positive { -logit } else { logit });
        self.samples += 1;
        self.positives += u64::from(positive);
        self.loss += loss;
        self.auc.add(probability, positive);
        if self.windows.last().is_none_or(|last| last.samples >= self.window) {
            self.make_room();
            self.windows.push(Window::new());
        }
        if let Some(last) = self.windows.last_mut() {
            last.samples += 1;
            last.loss += loss;
            last.auc.add(probability, positive);
        }
    }

    /// Merges neighbouring windows when all are used.
    fn make_room(&mut self) {
        if self.windows.len() < WINDOWS {
            return;
        }
        let merge = |pair: &[Window]| {
            let mut sum = pair[0].clone();
            pair[1..].iter().for_each(|other| sum.merge(other));
            sum
        };
        self.windows = self.windows.chunks(2).map(merge).collect();
        self.window *= 2;
    }

    /// Samples counted.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Samples whose label is positive.
    pub fn positives(&self) -> u64 {
        self.positives
    }

    /// Progressive AUC over the whole stream so far.
    pub fn auc(&self) -> Option<f64> {
        self.auc.value()
    }

    /// The most by which [`auc`](Self::auc) can differ from the exact pairwise AUC.
    pub fn auc_error(&self) -> Option<f64> {
        self.auc.error_bound()
    }

    /// Mean progressive log loss (natural logarithm).
    pub fn logloss(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.loss / self.samples as f64)
    }

    /// AUC of the second half, and where that begins: at the end of the window that is nearest to the middle of the stream.
    pub fn second_half(&self) -> Option<(f64, u64)> {
        let (mut start, mut best) = (0u64, (0usize, u64::MAX, 0u64));
        for (at, window) in self.windows.iter().enumerate() {
            let distance = (2 * start).abs_diff(self.samples);
            if distance < best.1 {
                best = (at, distance, start);
            }
            start += window.samples;
        }
        let mut sum = Auc::new(WINDOW_BINS);
        self.windows[best.0.min(self.windows.len())..].iter().for_each(|window| sum.merge(&window.auc));
        sum.value().map(|auc| (auc, best.2))
    }

    /// AUC and log loss window by window.
    pub fn curve(&self) -> Vec<CurvePoint> {
        let mut samples = 0;
        let point = |window: &Window| {
            samples += window.samples;
            CurvePoint { samples, auc: window.auc.value(), logloss: window.loss / window.samples.max(1) as f64 }
        };
        self.windows.iter().map(point).collect()
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u64(self.samples);
        out.u64(self.positives);
        out.f64(self.loss);
        self.auc.write(out);
        out.u64(self.window);
        out.varint(self.windows.len() as u64);
        for window in &self.windows {
            out.u64(window.samples);
            out.f64(window.loss);
            window.auc.write(out);
        }
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Metrics> {
        let (samples, positives, loss) = (from.u64()?, from.u64()?, from.f64()?);
        let auc = Auc::read(BINS, from)?;
        let (window, count) = (from.u64()?, from.varint()?);
        if count > WINDOWS as u64 || window == 0 || window >= 1 << 56 || samples >= 1 << 56 {
            return Err(damaged("its metrics are out of range"));
        }
        let mut windows = Vec::new();
        for _ in 0..count {
            let (samples, loss) = (from.u64()?, from.f64()?);
            if samples > window {
                return Err(damaged("a window of its metrics is too long"));
            }
            windows.push(Window { samples, loss, auc: Auc::read(WINDOW_BINS, from)? });
        }
        Ok(Metrics { samples, positives, loss, auc, window, windows })
    }
}

/// The logistic function, by a pinned `exp`, so that it has the same bits on every machine.
pub fn sigmoid(logit: f32) -> f32 {
    if logit >= 0.0 {
        1.0 / (1.0 + libm::expf(-logit))
    } else {
        let e = libm::expf(logit);
        e / (1.0 + e)
    }
}

/// `ln(1 + exp(x))` without overflow: the log loss of a logit `-x` whose label is positive.
fn softplus(x: f32) -> f64 {
    let x = f64::from(x);
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::synthetic::Counter;

    fn scores(n: usize) -> Vec<(f32, bool)> {
        let mut random = Counter::new(5);
        let one = |random: &mut Counter| {
            let positive = random.unit() < 0.3;
            (random.normal() as f32 + if positive { 0.8 } else { 0.0 }, positive)
        };
        (0..n).map(|_| one(&mut random)).collect()
    }

    fn pairwise(scores: &[(f32, bool)]) -> f64 {
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (a, _) in scores.iter().filter(|s| s.1) {
            for (b, _) in scores.iter().filter(|s| !s.1) {
                pairs += 1.0;
                wins += if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                };
            }
        }
        wins / pairs
    }

    #[test]
    fn auc_is_the_pairwise_one_within_its_stated_error() {
        let scores = scores(3_000);
        let mut metrics = Metrics::default();
        scores.iter().for_each(|(logit, positive)| metrics.add(*logit, *positive));
        let (auc, bound) = (metrics.auc().unwrap(), metrics.auc_error().unwrap());
        assert!((auc - pairwise(&scores)).abs() <= bound + 1e-12 && bound < 2e-5, "{auc} {bound}");
        let loss = |(logit, positive): &(f32, bool)| {
            let p = 1.0 / (1.0 + (-f64::from(*logit)).exp());
            -(if *positive { p } else { 1.0 - p }).ln()
        };
        let exact = scores.iter().map(loss).sum::<f64>() / 3_000.0;
        assert!((metrics.logloss().unwrap() - exact).abs() < 1e-9);
    }

    #[test]
    fn second_half_and_curve_follow_the_windows() {
        let scores = scores(200_000);
        let mut metrics = Metrics::default();
        assert_eq!((metrics.auc(), metrics.second_half()), (None, None));
        scores.iter().for_each(|(logit, positive)| metrics.add(*logit, *positive));
        let (half, from) = metrics.second_half().unwrap();
        assert_eq!(from, 100_000);
        assert!((half - metrics.auc().unwrap()).abs() < 0.01);
        let curve = metrics.curve();
        assert!(curve.len() <= WINDOWS && curve.last().unwrap().samples == 200_000);
    }

    #[test]
    fn bytes_round_trip_and_damage_is_an_error() {
        let mut metrics = Metrics::default();
        scores(5_000).iter().for_each(|(logit, positive)| metrics.add(*logit, *positive));
        let mut writer = Writer::default();
        metrics.write(&mut writer);
        let mut reader = Reader::new(&writer.bytes);
        assert_eq!(Metrics::read(&mut reader).unwrap(), metrics);
        reader.end().unwrap();
        for cut in (0..writer.bytes.len()).step_by(97) {
            assert!(Metrics::read(&mut Reader::new(&writer.bytes[..cut])).is_err());
        }
    }
}
