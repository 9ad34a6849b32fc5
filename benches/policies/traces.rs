//! Streams of keys: real ones through the trainer's readers, and drawn ones.

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;

use embedrock::train::data::synthetic::Counter;
use embedrock::train::data::{Samples, open};

pub(crate) type Failure = Box<dyn Error>;

/// A key is used.
#[derive(Clone, Copy)]
pub(crate) struct Use {
    pub(crate) key: u64,
    pub(crate) time: u32,
    /// Not part of a scan: whether the row was there counts.
    pub(crate) counts: bool,
}

/// What is played to each candidate.
pub(crate) struct Trace {
    pub(crate) name: String,
    pub(crate) uses: Vec<Use>,
    pub(crate) keys: usize,
    /// Rows expire after so many seconds without a use.
    pub(crate) ttl: u32,
}

impl Trace {
    fn new(name: impl Into<String>, uses: Vec<Use>) -> Trace {
        let keys = uses.iter().map(|used| used.key).collect::<HashSet<_>>().len();
        Trace { name: name.into(), uses, keys, ttl: u32::MAX }
    }

    /// The same with rows that expire.
    pub(crate) fn expiring(&self, ttl: u32) -> Trace {
        Trace { name: format!("{}, TTL {} h", self.name, ttl / 3600), uses: self.uses.clone(), keys: self.keys, ttl }
    }
}

/// Ranks by Zipf's law, by inverting the sum of a table.
pub(crate) struct Zipf(Vec<f64>);

impl Zipf {
    pub(crate) fn new(keys: usize, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = Vec::with_capacity(keys);
        for rank in 1..=keys {
            sum += (rank as f64).powf(-exponent);
            sums.push(sum);
        }
        sums.iter_mut().for_each(|partial| *partial /= sum);
        Zipf(sums)
    }

    fn draw(&self, random: &mut Counter) -> u64 {
        let unit = random.unit();
        self.0.partition_point(|&partial| partial < unit) as u64
    }
}

/// How drawn keys are used.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    Plain,
    /// Three times in between all keys are used once.
    Scans,
    /// A hundredth of the ranks goes over to new keys with every hundredth of the stream.
    Drift,
}

pub(crate) fn drawn(keys: usize, uses: usize, exponent: f64, shape: Shape) -> Trace {
    let (zipf, mut random) = (Zipf::new(keys, exponent), Counter::new(7));
    let mut all = Vec::with_capacity(uses + 3 * keys);
    for at in 0..uses {
        if shape == Shape::Scans && at > 0 && at % (uses / 4) == 0 {
            all.extend((0..keys as u64).map(|key| Use { key, time: 0, counts: false }));
        }
        let rank = zipf.draw(&mut random);
        // Each rank is taken over by a new key at its own time within a hundred steps.
        let generation = if shape == Shape::Drift { (at * 100 / uses) as u64 + rank % 100 } else { 0 } / 100;
        let key = rank + generation * keys as u64;
        all.push(Use { key, time: 0, counts: true });
    }
    let law = if exponent == 0.0 { "uniform".to_owned() } else { format!("Zipf {exponent}") };
    let shape = match shape {
        Shape::Plain => "",
        Shape::Scans => " with 3 scans",
        Shape::Drift => ", new keys arriving",
    };
    Trace::new(format!("{law}{shape}"), all)
}

/// A file that a reader of the trainer knows.
pub(crate) fn samples(name: &str, path: &Path) -> Result<Trace, Failure> {
    let mut source = open(path)?;
    let (mut batch, mut uses) = (Samples::default(), Vec::new());
    while source.next(&mut batch, 1024)? > 0 {
        let keys = source.description().shape.keys;
        for (keys, &time) in batch.keys.chunks(keys).zip(&batch.times) {
            uses.extend(keys.iter().map(|&key| Use { key, time, counts: true }));
        }
        batch.clear();
    }
    Ok(Trace::new(name, uses))
}

/// Clicks of a shop: tab-separated session, item and time, with a header.
pub(crate) fn clicks(name: &str, path: &Path) -> Result<Trace, Failure> {
    let mut uses = Vec::new();
    for line in std::fs::read_to_string(path)?.lines().skip(1) {
        let mut fields = line.split('\t');
        let (Some(session), Some(item), Some(time)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(format!("{}: not three columns: {line}", path.display()).into());
        };
        let (session, item, time): (u64, u64, f64) = (session.parse()?, item.parse()?, time.parse()?);
        uses.extend([session, 1 << 48 | item].map(|key| Use { key, time: time as u32, counts: true }));
    }
    uses.sort_by_key(|used| used.time);
    Ok(Trace::new(name, uses))
}
