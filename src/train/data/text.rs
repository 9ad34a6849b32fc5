//! Lines of a text file, plain or compressed, with their numbers; recognising a format; a file's fingerprint.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::codec::zstd_reader;
use crate::{Error, Result};

/// The longest line taken; a longer one is refused, so that a file without line ends cannot fill the memory.
const LONGEST_LINE: usize = 1 << 20;
const MIB: u64 = 1 << 20;

/// A layout of ratings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What separates the columns.
    pub separator: &'static str,
    /// Whether each line has a time.
    pub timed: bool,
    /// Whether the first line names the columns.
    pub header: bool,
    /// The format's name.
    pub name: &'static str,
}

/// A known format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Ratings of movies by users.
    Ratings(Layout),
    /// Criteo's display advertising logs.
    Criteo,
}

/// Reads a file line by line.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<Box<dyn Read + Send>>,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// Opens a file, decompressing it if its first bytes say so.
    pub fn open(path: &Path) -> Result<Lines> {
        let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut magic = Vec::new();
        Read::by_ref(&mut file).take(4).read_to_end(&mut magic).map_err(|e| Error::io("read", path, e))?;
        file.seek(SeekFrom::Start(0)).map_err(|e| Error::io("read", path, e))?;
        let bytes: Box<dyn Read + Send> = match magic.as_slice() {
            [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(BufReader::with_capacity(1 << 18, file))),
            [0x28, 0xb5, 0x2f, 0xfd] => zstd_reader(file).map_err(|e| Error::io("decompress", path, e))?,
            _ => Box::new(file),
        };
        Ok(Lines { path: path.to_path_buf(), reader: BufReader::with_capacity(1 << 18, bytes), line: 0, buffer: Vec::new() })
    }

    /// The next line without its end, or None at the end of the file.
    pub fn next_line(&mut self) -> Result<Option<&str>> {
        if !self.advance()? {
            return Ok(None);
        }
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(input(&self.path, self.line, "the line is not text (UTF-8)")),
        }
    }

    /// Passes over a line; false at the end of the file.
    pub fn skip(&mut self) -> Result<bool> {
        self.advance()
    }

    fn advance(&mut self) -> Result<bool> {
        self.buffer.clear();
        let mut limited = Read::by_ref(&mut self.reader).take(LONGEST_LINE as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.buffer);
        if read.map_err(|e| Error::io("read", &self.path, e))? == 0 {
            return Ok(false);
        }
        self.line += 1;
        if self.buffer.len() > LONGEST_LINE {
            return Err(input(&self.path, self.line, format!("the line is longer than {LONGEST_LINE} bytes")));
        }
        for end in [b'\n', b'\r'] {
            if self.buffer.last() == Some(&end) {
                self.buffer.pop();
            }
        }
        Ok(true)
    }

    /// Takes all lines that are left, as `parse` reads them; one that it cannot read is an error that says what was expected.
    pub(crate) fn each<T>(
        &mut self,
        expected: &str,
        mut parse: impl FnMut(&str) -> Option<T>,
        mut take: impl FnMut(T),
    ) -> Result<()> {
        loop {
            let parsed = match self.next_line()? {
                None => return Ok(()),
                Some(line) => parse(line),
            };
            match parsed {
                Some(value) => take(value),
                None => return Err(self.error(expected)),
            }
        }
    }

    /// The number of the line last read, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// An error about the line last read.
    pub fn error(&self, what: impl Into<String>) -> Error {
        input(&self.path, self.line, what)
    }
}

/// An error about a line of a file.
pub(crate) fn input(path: &Path, line: u64, what: impl Into<String>) -> Error {
    Error::Input { path: path.to_path_buf(), line, what: what.into() }
}

/// Recognises a file's format by its first line.
pub fn sniff(path: &Path) -> Result<Format> {
    let mut lines = Lines::open(path)?;
    let first = lines.next_line()?.unwrap_or("").to_string();
    recognise(&first).ok_or_else(|| {
        let shown: String = first.chars().take(60).collect();
        let known =
            "MovieLens (userId,movieId,rating,timestamp; user::movie::rating::time; u.data) or Criteo (40 tabbed columns)";
        lines.error(format!("the format is not known by its first line '{shown}'; known are {known}"))
    })
}

fn recognise(line: &str) -> Option<Format> {
    let numeric = |separator: &str| line.split(separator).all(|column| column.trim().parse::<f64>().is_ok());
    let ratings = |separator, timed, header, name| Some(Format::Ratings(Layout { separator, timed, header, name }));
    if line.contains("::") {
        return (line.split("::").count() == 4 && numeric("::")).then(|| ratings("::", true, false, "movielens dat"))?;
    }
    match (line.split('\t').count(), line.split(',').count()) {
        (40, _) => Some(Format::Criteo),
        (4, _) if numeric("\t") => ratings("\t", true, false, "movielens u.data"),
        (1, columns @ (3 | 4)) => {
            let words: Vec<String> = line.split(',').map(|word| word.trim().trim_matches('"').to_lowercase()).collect();
            let header = words[0].starts_with("user") && words[2] == "rating";
            let name = if columns == 4 { "movielens csv" } else { "ratings csv without times" };
            (header || numeric(",")).then(|| ratings(",", columns == 4, header, name))?
        }
        _ => None,
    }
}

/// Identifies a file's content without reading all of it: format, length, and the first and last MiB.
pub(crate) fn fingerprint(path: &Path, format: &str) -> Result<[u8; 32]> {
    let failed = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let length = file.metadata().map_err(failed)?.len();
    let mut hash = blake3::Hasher::new();
    hash.update(format.as_bytes());
    hash.update(&length.to_le_bytes());
    let mut part = Vec::new();
    Read::by_ref(&mut file).take(MIB).read_to_end(&mut part).map_err(failed)?;
    hash.update(&part);
    part.clear();
    file.seek(SeekFrom::Start(length.saturating_sub(MIB))).map_err(failed)?;
    file.take(MIB).read_to_end(&mut part).map_err(failed)?;
    hash.update(&part);
    Ok(*hash.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_the_same_plain_and_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let text = "a,1\r\nb,2\n\nlast";
        let plain = dir.path().join("plain");
        std::fs::write(&plain, text).unwrap();
        let gz = dir.path().join("gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        std::fs::write(&gz, encoder.finish().unwrap()).unwrap();
        let zst = dir.path().join("zst");
        std::fs::write(&zst, crate::train::data::tests::zst_frame(text.as_bytes())).unwrap();
        for path in [plain, gz, zst] {
            let mut lines = Lines::open(&path).unwrap();
            for expected in ["a,1", "b,2", "", "last"] {
                assert_eq!(lines.next_line().unwrap(), Some(expected));
            }
            assert_eq!(lines.next_line().unwrap(), None);
            assert_eq!(lines.line(), 4);
        }
    }

    #[test]
    fn formats_are_recognised() {
        let name = |line: &str| match recognise(line) {
            Some(Format::Ratings(layout)) => Some((layout.name, layout.header)),
            Some(Format::Criteo) => Some(("criteo", false)),
            None => None,
        };
        assert_eq!(name("userId,movieId,rating,timestamp"), Some(("movielens csv", true)));
        assert_eq!(name("1,2,3.5,964982703"), Some(("movielens csv", false)));
        assert_eq!(name("user,item,rating"), Some(("ratings csv without times", true)));
        assert_eq!(name("1,2,3"), Some(("ratings csv without times", false)));
        assert_eq!(name("1::1193::5::978300760"), Some(("movielens dat", false)));
        assert_eq!(name("196\t242\t3\t881250949"), Some(("movielens u.data", false)));
        assert_eq!(name(&"\t".repeat(39)), Some(("criteo", false)));
        for line in ["", "movieId,title,genres", "hello", "1::2::3", "a\tb\tc\td", &"\t".repeat(38)] {
            assert_eq!(name(line), None, "{line}");
        }
    }

    #[test]
    fn a_missing_file_and_a_line_without_end_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Lines::open(&dir.path().join("none")), Err(Error::Io { .. })));
        let long = dir.path().join("long");
        std::fs::write(&long, vec![b'x'; LONGEST_LINE + 10]).unwrap();
        assert!(matches!(sniff(&long), Err(Error::Input { line: 1, .. })));
    }
}
