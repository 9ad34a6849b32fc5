//! What runs leave behind, gathered on one page: the files of experiments and the records of training jobs.
#![forbid(unsafe_code)]

mod jobs;
mod page;
mod record;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use jobs::online_moment;
pub use page::html;
pub use record::{Begun, Ended, Line, Moment, Recorder};

use crate::train::data::text::input;
use crate::train::experiment::{Figure, Grid, Outcome};
use crate::{Error, Result};

/// The most bytes of a file that is read.
const LARGEST_FILE: u64 = 256 << 20;

/// One run, as it is shown.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it was, and on which data.
    pub title: String,
    /// The file that says so, without what leads to it.
    pub file: String,
    /// Whether a generator made the data up.
    pub synthetic: bool,
    /// Single figures, by name.
    pub facts: Vec<(String, String)>,
    /// Tables.
    pub tables: Vec<Grid>,
    /// Curves.
    pub figures: Vec<Figure>,
}

/// The runs of a directory, by the names of their files: `.json` as `experiment --out` writes them, `.jsonl` as `train --record` does.
///
/// # Errors
/// A file of these names that holds something else, with its name and line; none at all.
pub fn gather(dir: &Path) -> Result<Vec<Run>> {
    let mut files: Vec<(PathBuf, bool)> = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| Error::io("list", dir, error))? {
        let path = entry.map_err(|error| Error::io("list", dir, error))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let is_record = match ending {
            Some("json") => false,
            Some("jsonl") => true,
            _ => continue,
        };
        if path.is_file() {
            files.push((path, is_record));
        }
    }
    files.sort();
    let mut runs = Vec::new();
    for (path, is_record) in files {
        match is_record {
            true => runs.extend(record::read(&path)?),
            false => runs.push(experiment(&path)?),
        }
    }
    if runs.is_empty() {
        let what = format!("{} holds no run: no .json of `experiment --out`, no .jsonl of `train --record`", dir.display());
        return Err(Error::InvalidOption { option: "DIR", what });
    }
    Ok(runs)
}

fn experiment(path: &Path) -> Result<Run> {
    let text = text_of(path)?;
    let found: Outcome = serde_json::from_str(&text).map_err(|error| {
        let line = error.line() as u64;
        input(
            path,
            line,
            format!("it is not what `experiment --out` writes: {error}; run the experiment again, or move the file away"),
        )
    })?;
    let facts = [("samples", found.samples.to_string()), ("seeds", found.seeds.to_string())];
    let settings = found.settings.into_iter().map(|line| ("settings".to_string(), line));
    Ok(Run {
        title: format!("experiment {}, {}", found.experiment, found.data),
        file: name_of(path),
        synthetic: found.synthetic,
        facts: facts.into_iter().map(|(name, value)| (name.to_string(), value)).chain(settings).collect(),
        tables: found.tables,
        figures: vec![found.figure],
    })
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn text_of(path: &Path) -> Result<String> {
    let failed = |error| Error::io("read", path, error);
    let (mut bytes, file) = (Vec::new(), File::open(path).map_err(failed)?);
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(input(path, 1, format!("it is longer than the {LARGEST_FILE} bytes that are read")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        input(path, line, "it is not text (UTF-8)")
    })
}

#[cfg(test)]
mod tests;
