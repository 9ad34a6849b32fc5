//! Sources of training samples: files of MovieLens and Criteo, and a seeded synthetic click stream.
//!
//! A source is a stream in time order with a position: the number of samples taken. [`open`] recognises a file by its
//! content, plain or compressed (gzip, zstd), and takes a directory that holds one.
//!
//! | format | recognised by | keys of a sample | dense | time |
//! |---|---|---|---|---|
//! | `ratings.csv` | 4 comma-separated columns, with or without header | user, movie | 0 | the rating's |
//! | `ratings.dat` | `user::movie::rating::time` | user, movie | 0 | the rating's |
//! | `u.data` | 4 tab-separated columns | user, movie | 0 | the rating's |
//! | ratings without times | 3 comma-separated columns, with or without header | user, movie | 0 | 1,000 lines a second |
//! | Criteo | 40 tab-separated columns | 13 bucketed integers, 26 categories | 13 | 1,000 lines a second |
//!
//! A key is `slot << 48 | value`: the slot is the column (user 0, movie 1; Criteo's columns 0 to 38), the value 48 bits of it.
#![forbid(unsafe_code)]

pub mod criteo;
pub mod movielens;
pub mod synthetic;
pub mod text;

use std::path::{Path, PathBuf};

use crate::{Error, Key, Result, UnixSeconds};

/// Samples of one shape, column by column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// 1 for a click (or a rating of at least 3.5), else 0.
    pub labels: Vec<f32>,
    /// When each happened; never decreasing within a stream.
    pub times: Vec<UnixSeconds>,
    /// [`Shape::keys`] keys a sample.
    pub keys: Vec<Key>,
    /// [`Shape::dense`] numbers a sample.
    pub dense: Vec<f32>,
}

impl Samples {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Removes all, keeping the memory.
    pub fn clear(&mut self) {
        self.labels.clear();
        self.times.clear();
        self.keys.clear();
        self.dense.clear();
    }
}

/// How many keys and dense numbers each sample has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shape {
    /// Categorical keys a sample, one for each feature slot.
    pub keys: usize,
    /// Dense numbers a sample.
    pub dense: usize,
}

/// What a source is, for reports.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Description {
    /// The format's name, e.g. "movielens csv" or "synthetic clicks".
    pub format: &'static str,
    /// The file, or the generator's parameters.
    pub name: String,
    /// Whether a generator made it up.
    pub synthetic: bool,
    /// How many samples there are, where that is known without reading all.
    pub samples: Option<u64>,
    /// The AUC that the generator's own probabilities reach: nothing can do better but by luck.
    pub best_auc: Option<f64>,
    /// Keys and dense numbers of a sample.
    pub shape: Shape,
}

/// A stream of samples in time order.
pub trait Source: Send {
    /// What it is.
    fn description(&self) -> &Description;
    /// Identifies the input: its length, format, first and last MiB (of a file), or its parameters (of a generator).
    fn fingerprint(&self) -> [u8; 32];
    /// The number of samples taken so far.
    fn position(&self) -> u64;
    /// Goes to a position.
    fn seek(&mut self, position: u64) -> Result<()>;
    /// Appends up to `most` samples and returns their number; 0 at the end.
    fn next(&mut self, into: &mut Samples, most: usize) -> Result<usize>;
}

/// Seconds of event time for a sample of an input without times: 1,000 samples a second, from second 1.
pub(crate) fn made_up_time(position: u64) -> UnixSeconds {
    UnixSeconds::try_from(position / 1_000 + 1).unwrap_or(UnixSeconds::MAX)
}

/// The names under which a directory's data is looked for, in this order, each plain, `.gz` or `.zst`.
const NAMES: [&str; 7] = ["ratings.csv", "ratings.dat", "u.data", "train.tsv", "train.txt", "train.csv", "day_0"];

/// Opens a file in a format that is known here, or the one such file of a directory.
pub fn open(path: &Path) -> Result<Box<dyn Source>> {
    let file = if path.is_dir() { file_of(path)? } else { path.to_path_buf() };
    let format = text::sniff(&file)?;
    match format {
        text::Format::Criteo => Ok(Box::new(criteo::Criteo::open(&file)?)),
        text::Format::Ratings(layout) => Ok(Box::new(movielens::Ratings::open(&file, layout)?)),
    }
}

/// The one file of a directory that can be read.
fn file_of(directory: &Path) -> Result<PathBuf> {
    for name in NAMES {
        for ending in ["", ".gz", ".zst"] {
            let file = directory.join(format!("{name}{ending}"));
            if file.is_file() {
                return Ok(file);
            }
        }
    }
    let listing = std::fs::read_dir(directory).map_err(|e| Error::io("list", directory, e))?;
    let mut known = Vec::new();
    for entry in listing {
        let path = entry.map_err(|e| Error::io("list", directory, e))?.path();
        if path.is_file() && text::sniff(&path).is_ok() {
            known.push(path);
        }
    }
    known.sort();
    match known.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(not_found(directory, "holds no file in a format known here (MovieLens ratings, Criteo)")),
        [first, second, ..] => {
            let both = format!("holds several: {} and {}; name one", first.display(), second.display());
            Err(not_found(directory, &both))
        }
    }
}

fn not_found(directory: &Path, what: &str) -> Error {
    Error::InvalidOption { option: "data", what: format!("{} {what}", directory.display()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    /// A zstd frame of one uncompressed block of at most 255 bytes.
    pub(crate) fn zst_frame(bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0x20, length];
        let block = (u32::from(length) << 3 | 1).to_le_bytes();
        [&header[..], &block[..3], bytes].concat()
    }

    #[test]
    fn a_directory_is_searched_for_the_one_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open(dir.path()), Err(Error::InvalidOption { .. })));
        std::fs::write(dir.path().join("movies.csv"), "movieId,title,genres\n1,x,y\n").unwrap();
        assert!(open(dir.path()).is_err());
        std::fs::write(dir.path().join("a"), "1::10::4::7\n").unwrap();
        assert_eq!(open(dir.path()).unwrap().description().format, "movielens dat");
        std::fs::write(dir.path().join("b"), "1::10::4::7\n").unwrap();
        assert!(matches!(open(dir.path()), Err(Error::InvalidOption { what, .. }) if what.contains("several")));
        std::fs::write(dir.path().join("u.data.zst"), zst_frame(b"1\t2\t3\t4\n")).unwrap();
        assert_eq!(open(dir.path()).unwrap().description().format, "movielens u.data");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"1,2,3,4\n1,2,3\n").unwrap();
        std::fs::write(dir.path().join("ratings.csv.gz"), gz.finish().unwrap()).unwrap();
        assert!(matches!(open(dir.path()), Err(Error::Input { line: 2, .. })));
    }

    #[test]
    fn a_fingerprint_follows_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let print = |text: &str| {
            std::fs::write(&path, text).unwrap();
            text::fingerprint(&path, "f").unwrap()
        };
        assert_eq!(print("abc"), print("abc"));
        assert_ne!(print("abc"), print("abd"));
        assert_ne!(print("abc"), print("abcd"));
    }
}
