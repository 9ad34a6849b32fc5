//! Criteo's display-advertising logs: a label, 13 integers and 26 categories a line, separated by tabs, any of them empty.
//!
//! Streamed in constant memory, in the file's order, which is that of time. The logs have no times, so the clock is made to
//! advance by a second every 1,000 lines. The integers are given twice: as keys of buckets (exact up to 2, then `floor(ln(v)^2)`,
//! negative ones together, an empty one its own), and as dense numbers `ln(1 + v)` (0 where empty or negative).
//!
//! A category's value is exact where it is at most 11 lower-case hexadecimal digits, as all are in the published logs: 4 bits
//! of length, 44 of digits. Any other text is hashed to 44 bits. An empty one is value 0 of its column.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::text::{Lines, fingerprint};
use super::{Description, Samples, Shape, Source, made_up_time};
use crate::{Error, Key, Result};

/// Columns of integers.
pub const INTEGERS: usize = 13;
/// Columns of categories.
pub const CATEGORIES: usize = 26;

/// A file in Criteo's format.
pub struct Criteo {
    path: PathBuf,
    lines: Lines,
    position: u64,
    description: Description,
    fingerprint: [u8; 32],
}

impl Criteo {
    /// Opens the file; its lines are read as they are asked for.
    pub fn open(path: &Path) -> Result<Criteo> {
        let description = Description {
            format: "criteo",
            name: path.display().to_string(),
            synthetic: false,
            samples: None,
            best_auc: None,
            shape: Shape { keys: INTEGERS + CATEGORIES, dense: INTEGERS },
        };
        let fingerprint = fingerprint(path, description.format)?;
        Ok(Criteo { path: path.to_path_buf(), lines: Lines::open(path)?, position: 0, description, fingerprint })
    }
}

/// Appends a line's keys and dense numbers and returns its label.
fn parse(line: &str, keys: &mut Vec<Key>, dense: &mut Vec<f32>) -> Result<f32, String> {
    let mut columns = line.split('\t');
    let label = match columns.next() {
        Some("0") => 0.0,
        Some("1") => 1.0,
        other => return Err(format!("the label '{}' is neither 0 nor 1", other.unwrap_or(""))),
    };
    let short = || format!("fewer than {} columns", 1 + INTEGERS + CATEGORIES);
    for slot in 0..INTEGERS as u64 {
        let text = columns.next().ok_or_else(short)?;
        let number = match text {
            "" => None,
            text => Some(text.parse::<i64>().map_err(|_| format!("integer {}: '{text}' is not a whole number", slot + 1))?),
        };
        keys.push(slot << 48 | bucket(number));
        dense.push(number.map_or(0.0, |value| libm::log1p(value.max(0) as f64) as f32));
    }
    for slot in INTEGERS as u64..(INTEGERS + CATEGORIES) as u64 {
        keys.push(slot << 48 | category(columns.next().ok_or_else(short)?));
    }
    if columns.next().is_some() {
        return Err(format!("more than {} columns", 1 + INTEGERS + CATEGORIES));
    }
    Ok(label)
}

/// The bucket of an integer.
fn bucket(number: Option<i64>) -> u64 {
    match number {
        None => 0,
        Some(value @ ..=2) => value.max(-1).wrapping_add(2) as u64,
        Some(value) => {
            let ln = libm::log(value as f64);
            (ln * ln) as u64 + 4
        }
    }
}

/// The 48-bit value of a category's text.
fn category(text: &str) -> u64 {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() <= 11 && text.bytes().all(hex) {
        let digits = u64::from_str_radix(text, 16).unwrap_or(0);
        return (text.len() as u64) << 44 | digits;
    }
    let hash = blake3::hash(text.as_bytes());
    let mut low = [0; 8];
    low.copy_from_slice(&hash.as_bytes()[..8]);
    0xf << 44 | u64::from_le_bytes(low) >> 20
}

impl Source for Criteo {
    fn description(&self) -> &Description {
        &self.description
    }

    fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        if position < self.position {
            self.lines = Lines::open(&self.path)?;
            self.position = 0;
        }
        while self.position < position {
            if !self.lines.skip()? {
                let what = format!("position {position} is beyond the {} lines of {}", self.position, self.path.display());
                return Err(Error::InvalidOption { option: "data", what });
            }
            self.position += 1;
        }
        Ok(())
    }

    fn next(&mut self, into: &mut Samples, most: usize) -> Result<usize> {
        for taken in 0..most {
            let Some(line) = self.lines.next_line()? else { return Ok(taken) };
            let (keys, dense) = (into.keys.len(), into.dense.len());
            match parse(line, &mut into.keys, &mut into.dense) {
                Ok(label) => into.labels.push(label),
                Err(what) => {
                    into.keys.truncate(keys);
                    into.dense.truncate(dense);
                    return Err(self.lines.error(what));
                }
            }
            into.times.push(made_up_time(self.position));
            self.position += 1;
        }
        Ok(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::open;

    fn line(label: &str, integer: &str, text: &str) -> String {
        format!("{label}\t{}{}\n", format!("{integer}\t").repeat(13), [text; 26].join("\t"))
    }

    fn all(text: &str) -> Result<Samples> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("train.tsv"), text).unwrap();
        let mut source = open(dir.path())?;
        let mut samples = Samples::default();
        while source.next(&mut samples, 3)? > 0 {}
        Ok(samples)
    }

    #[test]
    fn a_line_gives_keys_by_column_and_logarithms() {
        let samples = all(&(line("1", "100", "05db9164") + &line("0", "", ""))).unwrap();
        assert_eq!(samples.labels, [1.0, 0.0]);
        assert_eq!(samples.keys.len(), 78);
        assert_eq!(samples.keys[0], 21 + 4);
        assert_eq!(samples.keys[13], 13 << 48 | 8 << 44 | 0x05db_9164);
        assert_eq!(samples.keys[77], 38 << 48);
        assert_eq!(samples.keys[39], 0);
        assert!((samples.dense[0] - 101f32.ln()).abs() < 1e-6 && samples.dense[13] == 0.0);
    }

    #[test]
    fn values_do_not_meet() {
        let mut seen = std::collections::HashSet::new();
        for text in ["", "0", "00", "5db", "05db", "ffffffffffff", "05DB", "text", "fffffffffff"] {
            let value = category(text);
            assert!(value < 1 << 48 && seen.insert(value), "{text}");
        }
        let buckets: Vec<u64> =
            [None, Some(i64::MIN), Some(-1), Some(0), Some(1), Some(2), Some(3), Some(i64::MAX)].map(bucket).into();
        assert_eq!(buckets, [0, 1, 1, 2, 3, 4, 5, 1910]);
    }

    #[test]
    fn a_malformed_line_is_named() {
        let good = line("1", "5", "a");
        for bad in
            [line("2", "5", "a"), line("1", "x", "a"), good.trim_end().to_string() + "\tmore\n", "1\t2\n".into(), "\n".into()]
        {
            assert!(matches!(all(&format!("{good}{bad}")), Err(Error::Input { line: 2, .. })), "{bad}");
        }
    }

    #[test]
    fn seeking_goes_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tsv");
        let text: String = (0..2_500).map(|i| line("0", &i.to_string(), "")).collect();
        std::fs::write(&path, text).unwrap();
        let mut source = Criteo::open(&path).unwrap();
        let mut samples = Samples::default();
        for (position, time) in [(2_000, 3), (3, 1), (999, 1), (1_000, 2)] {
            samples.clear();
            source.seek(position).unwrap();
            assert_eq!(source.next(&mut samples, 1).unwrap(), 1);
            assert_eq!(samples.dense[0], (position as f64).ln_1p() as f32);
            assert_eq!(samples.times, [time]);
        }
        assert!(source.seek(2_501).is_err());
    }
}
