//! A seeded synthetic click stream: Zipf users and items, latent factors, drift, new ids arriving all the time.
//!
//! Sample `i` is a pure function of the parameters and `i`, so the stream needs no memory and can go on from any position.
//! Ranks follow a Zipf law. A rank is held by an id until the next generation takes it over, at a place of its own in the
//! cycle, so that new ids arrive evenly, at popular ranks too, and old ones are seen no more. A click's log-odds are a
//! constant, a bias of the user, one of the item, and the product of their factors; an item's factors turn slowly (drift).
#![forbid(unsafe_code)]

use std::io::{self, Write};

use super::{Description, Samples, Shape, Source};
use crate::train::metrics::Metrics;
use crate::types::mix;
use crate::{Error, Result, UnixSeconds};

/// Latent factors of a user and of an item.
const FACTORS: usize = 8;
/// The first event time.
const START: u64 = 1_700_000_000;
/// The samples from which the best possible AUC is estimated.
const PROBES: u64 = 100_000;

/// Random numbers from a counter (SplitMix64), the same on every machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter(u64);

impl Counter {
    /// Starts at a seed.
    pub fn new(seed: u64) -> Counter {
        Counter(seed)
    }

    /// The state, from which [`new`](Self::new) goes on.
    pub fn state(&self) -> u64 {
        self.0
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly normal with mean 0 and deviation 1: the scaled sum of eight uniform 16-bit numbers.
    pub fn normal(&mut self) -> f64 {
        let (a, b) = (self.bits(), self.bits());
        let sum: u64 = [a, b].iter().map(|x| (x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48)).sum();
        (sum as f64 / 65_536.0 - 3.999_938_964_843_75) / 0.816_496_580_927_726
    }
}

/// The parameters of a click stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Clicks {
    /// Two streams of unlike seeds have nothing in common.
    pub seed: u64,
    /// The stream's length.
    pub samples: u64,
    /// Users alive at any time.
    pub users: u64,
    /// Items alive at any time.
    pub items: u64,
    /// The exponent of both popularity laws; 0 is uniform.
    pub zipf: f64,
    /// How far the items' factors turn in a million samples, in radians.
    pub drift: f64,
    /// New users and new items a sample: each, on average.
    pub new_ids: f64,
    /// Samples a second of event time.
    pub rate: u64,
}

impl Default for Clicks {
    fn default() -> Clicks {
        Clicks {
            seed: 1,
            samples: 1_000_000,
            users: 1_000_000,
            items: 100_000,
            zipf: 1.05,
            drift: 0.3,
            new_ids: 0.01,
            rate: 1_000,
        }
    }
}

/// A click, or none, with what it was drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Click {
    /// When.
    pub time: UnixSeconds,
    /// Who.
    pub user: u64,
    /// What.
    pub item: u64,
    /// Whether it was clicked.
    pub clicked: bool,
    /// The true log-odds of a click.
    pub logit: f32,
}

/// A layout in which a stream is written to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLayout {
    /// `userId,movieId,rating,timestamp`: ratings of 3.5 to 5 are clicks.
    MovieLens,
    /// Criteo's columns: the first two categories are user and item, the others properties of them.
    Criteo,
}

impl Clicks {
    /// Refuses parameters that make no stream.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::InvalidOption { option: "synthetic", what: what.to_string() });
        let ids = |alive: u64| alive as f64 + self.samples as f64 * self.new_ids.max(0.0);
        match self {
            c if c.users == 0 || c.items == 0 || c.rate == 0 => refuse("users, items and rate must be at least 1"),
            c if !(0.0..=4.0).contains(&c.zipf) => refuse("the Zipf exponent must be 0 to 4"),
            c if !(0.0..=1.0).contains(&c.new_ids) => refuse("new ids must be 0 to 1 a sample"),
            c if !c.drift.is_finite() => refuse("the drift must be a number"),
            c if ids(c.users).max(ids(c.items)) >= (1u64 << 47) as f64 => refuse("there would be more than 2^47 ids"),
            c if START + c.samples / c.rate > u64::from(u32::MAX) => refuse("event times would pass the year 2106"),
            _ => Ok(()),
        }
    }

    /// The sample at a place of the stream.
    pub fn at(&self, index: u64) -> Click {
        let mut random = Counter::new(mix(self.seed) ^ mix(index ^ 0x5eed_c11c));
        let user = self.draw(&mut random, self.users, index, 1);
        let item = self.draw(&mut random, self.items, index, 2);
        let logit = self.logit(user, item, index);
        let clicked = random.unit() < 1.0 / (1.0 + libm::exp(-logit));
        let time = UnixSeconds::try_from(START + index / self.rate).unwrap_or(UnixSeconds::MAX);
        Click { time, user, item, clicked, logit: logit as f32 }
    }

    /// The id at a random rank: that of the generation which holds the rank now.
    fn draw(&self, random: &mut Counter, alive: u64, index: u64, kind: u64) -> u64 {
        let rank = zipf(random.unit(), alive, self.zipf);
        let phase = Counter::new(mix(self.seed ^ kind << 56) ^ rank).unit();
        let generation = (index as f64 * self.new_ids / alive as f64 + phase) as u64;
        generation * alive + rank
    }

    fn logit(&self, user: u64, item: u64, index: u64) -> f64 {
        let mut of_user = Counter::new(mix(self.seed ^ 3 << 56) ^ mix(user));
        let mut of_item = Counter::new(mix(self.seed ^ 4 << 56) ^ mix(item));
        let angle = self.drift * index as f64 / 1e6;
        let (sin, cos) = (libm::sin(angle), libm::cos(angle));
        let mut logit = -1.0 + 0.7 * of_user.normal() + 0.9 * of_item.normal();
        for _ in 0..FACTORS {
            logit += 0.35 * of_user.normal() * (cos * of_item.normal() + sin * of_item.normal());
        }
        logit
    }

    /// The AUC that the true probabilities reach, estimated from samples spread over the stream.
    pub fn best_auc(&self) -> Option<f64> {
        let mut metrics = Metrics::default();
        let probes = self.samples.min(PROBES);
        for probe in 0..probes {
            let click = self.at((u128::from(probe) * u128::from(self.samples) / u128::from(probes)) as u64);
            metrics.add(click.logit, click.clicked);
        }
        metrics.auc()
    }

    /// Writes the stream as a file; `done` is told the samples written so far.
    pub fn write(&self, out: &mut dyn Write, layout: FileLayout, done: &mut dyn FnMut(u64)) -> io::Result<()> {
        if layout == FileLayout::MovieLens {
            writeln!(out, "userId,movieId,rating,timestamp")?;
        }
        for index in 0..self.samples {
            let click = self.at(index);
            match layout {
                FileLayout::MovieLens => {
                    let pick = mix(index ^ self.seed);
                    let halves = if click.clicked { 7 + pick % 4 } else { 1 + pick % 6 };
                    writeln!(out, "{},{},{}.{},{}", click.user, click.item, halves / 2, halves % 2 * 5, click.time)?;
                }
                FileLayout::Criteo => self.criteo_line(out, &click)?,
            }
            if index % 10_000 == 9_999 {
                done(index + 1);
            }
        }
        done(self.samples);
        out.flush()
    }

    fn criteo_line(&self, out: &mut dyn Write, click: &Click) -> io::Result<()> {
        write!(out, "{}", u8::from(click.clicked))?;
        for column in 0..13u64 {
            let id = if column % 2 == 0 { click.user } else { click.item };
            let value = mix(id ^ mix(self.seed ^ column));
            if value.is_multiple_of(5) { write!(out, "\t")? } else { write!(out, "\t{}", value >> (48 + value % 12))? }
        }
        write!(out, "\t{:08x}\t{:08x}", click.user, click.item)?;
        for column in 2..26u64 {
            let id = if column % 2 == 0 { click.user } else { click.item };
            let value = mix(id ^ mix(self.seed ^ column << 8)) % (10u64 << (column / 2));
            write!(out, "\t{value:08x}")?;
        }
        writeln!(out)
    }

    fn name(&self) -> String {
        format!("seed {}, {}", self.seed, self.without_seed())
    }

    pub(crate) fn without_seed(&self) -> String {
        let Clicks { seed: _, samples, users, items, zipf, drift, new_ids, rate } = self;
        format!(
            "{samples} samples, {users} users and {items} items at a time, Zipf {zipf}, drift {drift}, {new_ids} new ids a sample, \
             {rate} samples a second"
        )
    }
}

/// The rank, from 0, of a bounded power law (its continuous form, inverted) at a uniform number.
fn zipf(unit: f64, ranks: u64, exponent: f64) -> u64 {
    let top = (ranks + 1) as f64;
    let rank = if (exponent - 1.0).abs() < 1e-9 {
        libm::pow(top, unit)
    } else {
        let power = 1.0 - exponent;
        libm::pow(1.0 + unit * (libm::pow(top, power) - 1.0), 1.0 / power)
    };
    (rank as u64).clamp(1, ranks) - 1
}

/// A click stream as a source.
pub struct Synthetic {
    clicks: Clicks,
    position: u64,
    description: Description,
}

impl Synthetic {
    /// A stream of these parameters.
    pub fn new(clicks: Clicks) -> Result<Synthetic> {
        clicks.validate()?;
        let description = Description {
            format: "synthetic clicks",
            name: clicks.name(),
            synthetic: true,
            samples: Some(clicks.samples),
            best_auc: clicks.best_auc(),
            shape: Shape { keys: 2, dense: 0 },
        };
        Ok(Synthetic { clicks, position: 0, description })
    }
}

impl Source for Synthetic {
    fn description(&self) -> &Description {
        &self.description
    }

    fn fingerprint(&self) -> [u8; 32] {
        // A longer stream begins with the shorter one, so a job may go on with it.
        let endless = Clicks { samples: 0, ..self.clicks.clone() };
        *blake3::hash(format!("synthetic clicks 1: {}", endless.name()).as_bytes()).as_bytes()
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        if position > self.clicks.samples {
            let what = format!("the job is at sample {position}, and the stream has only {}", self.clicks.samples);
            return Err(Error::InvalidOption { option: "data", what });
        }
        self.position = position;
        Ok(())
    }

    fn next(&mut self, into: &mut Samples, most: usize) -> Result<usize> {
        let taken = (self.clicks.samples - self.position).min(most as u64);
        for index in self.position..self.position + taken {
            let click = self.clicks.at(index);
            into.labels.push(f32::from(u8::from(click.clicked)));
            into.times.push(click.time);
            into.keys.extend([click.user, 1 << 48 | click.item]);
        }
        self.position += taken;
        Ok(taken as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Clicks {
        Clicks { samples: 20_000, users: 1_000, items: 300, ..Clicks::default() }
    }

    #[test]
    fn a_seed_fixes_the_stream_wherever_it_is_entered() {
        let mut source = Synthetic::new(small()).unwrap();
        let (mut whole, mut parts) = (Samples::default(), Samples::default());
        assert_eq!(source.next(&mut whole, usize::MAX).unwrap(), 20_000);
        source.seek(0).unwrap();
        while source.next(&mut parts, 333).unwrap() > 0 {
            source.seek(source.position()).unwrap();
        }
        assert_eq!(whole, parts);
        let other = Clicks { seed: 2, ..small() };
        assert_ne!((0..9).map(|i| other.at(i).user).collect::<Vec<_>>(), (0..9).map(|i| small().at(i).user).collect::<Vec<_>>());
        // Pinned, so that a change of the generator is noticed: files and figures depend on it.
        let first = small().at(0);
        assert_eq!((first.user, first.item, first.clicked, first.time), PINNED);
    }
    const PINNED: (u64, u64, bool, u32) = (9, 88, false, 1_700_000_000);

    #[test]
    fn ids_are_skewed_and_new_ones_arrive() {
        let clicks = small();
        let top = (0..20_000).filter(|i| clicks.at(*i).item.is_multiple_of(300)).count();
        assert!((2_000..6_000).contains(&top), "{top}");
        let distinct = |from: u64| (from..from + 5_000).map(|i| clicks.at(i).user).collect::<std::collections::HashSet<_>>();
        let (early, late) = (distinct(0), distinct(15_000));
        assert!(late.difference(&early).count() > 100);
        let rate = (0..20_000).filter(|i| clicks.at(*i).clicked).count() as f64 / 20_000.0;
        assert!((0.2..0.5).contains(&rate), "{rate}");
        let best = clicks.best_auc().unwrap();
        assert!((0.75..0.9).contains(&best), "{best}");
    }

    #[test]
    fn files_read_back_as_the_stream() {
        let clicks = Clicks { samples: 500, ..small() };
        let dir = tempfile::tempdir().unwrap();
        for (layout, name) in [(FileLayout::MovieLens, "ratings.csv"), (FileLayout::Criteo, "train.tsv")] {
            let mut bytes = Vec::new();
            clicks.write(&mut bytes, layout, &mut |_| ()).unwrap();
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let (mut read, mut made) = (Samples::default(), Samples::default());
            crate::train::data::open(&path).unwrap().next(&mut read, 1_000).unwrap();
            Synthetic::new(clicks.clone()).unwrap().next(&mut made, 1_000).unwrap();
            assert_eq!(read.labels, made.labels);
            if layout == FileLayout::MovieLens {
                assert_eq!((read.keys, read.times), (made.keys, made.times));
            }
        }
    }

    #[test]
    fn senseless_parameters_are_refused() {
        let all = [
            Clicks { users: 0, ..small() },
            Clicks { zipf: f64::NAN, ..small() },
            Clicks { new_ids: 2.0, ..small() },
            Clicks { samples: u64::MAX, ..small() },
        ];
        assert!(all.iter().all(|clicks| clicks.validate().is_err()));
    }
}
