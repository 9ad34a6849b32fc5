//! Every name of a file or directory of a store, in one place.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The manifest inside a base.
pub(crate) const MANIFEST: &str = "MANIFEST";
/// The hot rows inside a base.
pub(crate) const HOT_ROWS: &str = "hot.rows";
/// The cold tier's checkpoint inside a base.
pub(crate) const COLD: &str = "cold";

const TEMPORARY_PREFIX: &str = "tmp-";
const TRASH_PREFIX: &str = "trash-";
/// The largest number of a segment or a base: far beyond any store's, far from the end of numbers.
const MAX_NUMBER: u64 = u64::MAX / 2;
const SEGMENT_SUFFIX: &str = ".log";

/// Which store this is.
pub(crate) fn identity(store: &Path) -> PathBuf {
    store.join("IDENTITY")
}

/// Refuses a number that [`parse_segment`] and [`parse_base`] would not take.
pub(crate) fn check_number(number: u64, path: &Path) -> Result<()> {
    if number <= MAX_NUMBER { Ok(()) } else { Err(Error::corrupt(path, 0, "no number is left for this file")) }
}

/// Held by the process that has the store open.
pub(crate) fn lock(store: &Path) -> PathBuf {
    store.join("LOCK")
}

/// The published durable mark.
pub(crate) fn durable(store: &Path) -> PathBuf {
    store.join("DURABLE")
}

/// What the process that has the store open says of it.
pub(crate) fn status(store: &Path) -> PathBuf {
    store.join("STATUS")
}

/// The directory of the log's segments.
pub(crate) fn logs(store: &Path) -> PathBuf {
    store.join("log")
}

/// A segment of the log.
pub(crate) fn segment(store: &Path, number: u64) -> PathBuf {
    logs(store).join(format!("{number:08}{SEGMENT_SUFFIX}"))
}

/// The number of a segment's file name.
pub(crate) fn parse_segment(name: &str) -> Option<u64> {
    parse_number(name.strip_suffix(SEGMENT_SUFFIX)?)
}

/// The directory of the bases.
pub(crate) fn bases(store: &Path) -> PathBuf {
    store.join("base")
}

/// A base.
pub(crate) fn base(store: &Path, number: u64) -> PathBuf {
    bases(store).join(format!("{number:08}"))
}

/// The number of a base's directory name.
pub(crate) fn parse_base(name: &str) -> Option<u64> {
    parse_number(name)
}

/// Only what the functions above write: no second spelling of a number, and none after which no other could come.
fn parse_number(text: &str) -> Option<u64> {
    let plain = text.len() == 8 || (text.len() > 8 && !text.starts_with('0'));
    let number = (plain && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten();
    number.filter(|number| *number <= MAX_NUMBER)
}

/// The live cold tier: a cache, made anew at every open.
pub(crate) fn live(store: &Path) -> PathBuf {
    store.join("live")
}

/// Something unfinished, removed at the next open.
pub(crate) fn temporary(store: &Path, what: &str) -> PathBuf {
    store.join(format!("{TEMPORARY_PREFIX}{what}"))
}

/// Something being removed; half of it never looks whole.
pub(crate) fn trash(store: &Path, what: &str) -> PathBuf {
    store.join(format!("{TRASH_PREFIX}{what}"))
}

/// Whether a name is of something to remove at open.
pub(crate) fn is_litter(name: &str) -> bool {
    name.starts_with(TEMPORARY_PREFIX) || name.starts_with(TRASH_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &Path) -> &str {
        path.file_name().unwrap().to_str().unwrap()
    }

    #[test]
    fn numbers_go_to_names_and_back() {
        let store = Path::new("s");
        for number in [0, 1, 99_999_999, 100_000_000, MAX_NUMBER] {
            assert_eq!(parse_segment(name(&segment(store, number))), Some(number));
            assert_eq!(parse_base(name(&base(store, number))), Some(number));
        }
        assert_eq!(segment(store, 7), Path::new("s/log/00000007.log"));
        for other in
            ["", ".log", "1.log", "0000001.log", "000000001.log", "0000000a.log", "+0000001.log", "00000001", "00000001.log2"]
        {
            assert_eq!(parse_segment(other), None, "{other}");
        }
        for other in ["99999999999999999999", &u64::MAX.to_string(), &(MAX_NUMBER + 1).to_string()] {
            assert_eq!(parse_base(other), None, "{other}");
        }
    }

    #[test]
    fn only_unfinished_things_are_litter() {
        assert!(is_litter(name(&temporary(Path::new("s"), "x"))) && is_litter(name(&trash(Path::new("s"), "x"))));
        assert!(["IDENTITY", "LOCK", "DURABLE", "log", "base", "live"].into_iter().all(|name| !is_litter(name)));
    }
}
