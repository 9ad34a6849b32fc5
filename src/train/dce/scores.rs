//! How well a head foretells: exact area under the curve, share of right answers, log loss.
#![forbid(unsafe_code)]

use super::autoencoder::softmax;

/// What a head said, and what came true.
pub(crate) struct Scores {
    classes: usize,
    /// One score a sample for two classes, else one for each class.
    scores: Vec<f32>,
    targets: Vec<u32>,
}

/// A head's figures.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Figures {
    /// Which features it reads.
    pub features: String,
    /// The chance that a sample of the class scores above one that is not; of several classes, the mean over those that occur.
    pub auc: Option<f64>,
    /// The share of samples whose class scored highest (above even odds, for two).
    pub accuracy: f64,
    /// Mean log loss; none for scores that are no probabilities.
    pub logloss: Option<f64>,
}

impl Scores {
    pub(crate) fn new(classes: usize) -> Scores {
        Scores { classes, scores: Vec::new(), targets: Vec::new() }
    }

    pub(crate) fn add(&mut self, scores: &[f32], targets: &[u32]) {
        self.scores.extend_from_slice(scores);
        self.targets.extend_from_slice(targets);
    }

    pub(crate) fn samples(&self) -> u64 {
        self.targets.len() as u64
    }

    /// Samples of each class.
    pub(crate) fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.classes];
        self.targets.iter().for_each(|class| counts[*class as usize] += 1);
        counts
    }

    /// The figures of scores that are log-odds, or (for two classes only) anything that rises with the chance.
    pub(crate) fn figures(&self, features: &str, odds: bool) -> Figures {
        let samples = self.targets.len().max(1) as f64;
        if self.classes == 2 {
            let right = self.scores.iter().zip(&self.targets).filter(|(score, class)| (**score > 0.0) == (**class == 1)).count();
            let loss = |(score, class): (&f32, &u32)| {
                let score = f64::from(if *class == 1 { -*score } else { *score });
                score.max(0.0) + libm::log1p(libm::exp(-score.abs()))
            };
            let logloss = odds.then(|| self.scores.iter().zip(&self.targets).map(loss).sum::<f64>() / samples);
            let of = |class: u32| self.targets.iter().map(move |target| *target == class);
            let auc = auc(self.scores.iter().copied().zip(of(1)));
            return Figures { features: features.to_string(), auc, accuracy: right as f64 / samples, logloss };
        }
        let each = |class: usize| {
            let scores = self.scores.chunks_exact(self.classes);
            let own = scores.zip(&self.targets).map(|(row, target)| {
                let most =
                    row.iter().enumerate().filter(|(at, _)| *at != class).map(|(_, x)| *x).fold(f32::NEG_INFINITY, f32::max);
                let rest: f32 = row.iter().enumerate().filter(|(at, _)| *at != class).map(|(_, x)| libm::expf(x - most)).sum();
                (row[class] - most - libm::logf(rest), *target as usize == class)
            });
            auc(own)
        };
        let areas: Vec<f64> = (0..self.classes).filter_map(each).collect();
        let said = softmax(&mut self.scores.clone(), &self.targets, self.classes);
        let mean = areas.iter().sum::<f64>() / areas.len().max(1) as f64;
        Figures {
            features: features.to_string(),
            auc: (!areas.is_empty()).then_some(mean),
            accuracy: said.right as f64 / samples,
            logloss: Some(said.loss / samples),
        }
    }
}

/// The exact area under the ROC curve, ties counted half. None while one class is missing.
pub(crate) fn auc(scores: impl Iterator<Item = (f32, bool)>) -> Option<f64> {
    let mut all: Vec<(f32, bool)> = scores.collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut area, mut positives) = (0u64, 0.0, 0u64);
    for tied in all.chunk_by(|a, b| a.0 == b.0) {
        let positive = tied.iter().filter(|(_, positive)| *positive).count() as u64;
        let negative = tied.len() as u64 - positive;
        area += positive as f64 * (below as f64 + 0.5 * negative as f64);
        below += negative;
        positives += positive;
    }
    (below > 0 && positives > 0).then(|| area / (below as f64 * positives as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_that_of_all_pairs() {
        let scores = [0.1, 0.4, 0.4, 0.8, -1.0, 0.4];
        let labels = [false, true, false, true, false, true];
        let mut pairs = (0.0, 0.0);
        for (a, of_a) in scores.iter().zip(labels).filter(|(_, label)| *label) {
            for (b, _) in scores.iter().zip(labels).filter(|(_, label)| !label) {
                assert!(of_a);
                pairs.0 += if a > b {
                    1.0
                } else if a == b {
                    0.5
                } else {
                    0.0
                };
                pairs.1 += 1.0;
            }
        }
        assert_eq!(auc(scores.into_iter().zip(labels)), Some(pairs.0 / pairs.1));
        assert_eq!(auc([(1.0, true)].into_iter()), None);
    }

    #[test]
    fn figures_of_two_and_of_three_classes() {
        let mut two = Scores::new(2);
        two.add(&[2.0, -1.0, 0.5, -3.0], &[1, 0, 0, 0]);
        let figures = two.figures("x", true);
        assert_eq!((figures.auc, figures.accuracy, two.counts()), (Some(1.0), 0.75, vec![3, 1]));
        let exact = [2.0f64, 1.0, -0.5, 3.0].map(|margin| (-margin).exp().ln_1p()).iter().sum::<f64>() / 4.0;
        assert!((figures.logloss.unwrap() - exact).abs() < 1e-6);
        let mut three = Scores::new(3);
        three.add(&[1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, -1.0], &[0, 1, 2]);
        let figures = three.figures("x", true);
        assert_eq!((figures.accuracy, figures.auc), (2.0 / 3.0, Some((1.0 + 1.0 + 0.5) / 3.0)));
    }
}
