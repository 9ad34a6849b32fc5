//! Builds a fresh live directory for RocksDB from the files of a checkpoint, trusting none of their names.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// `CURRENT` holds one short line.
const CURRENT_LIMIT: u64 = 64;

/// The kinds of files a checkpoint consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Sst,
    Manifest,
    Options,
    Current,
}

/// What a file of a checkpoint is, by its name; none if no checkpoint has such a file.
pub(super) fn kind(name: &str) -> Option<Kind> {
    let digits = |text: &str| !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    if name == "CURRENT" {
        Some(Kind::Current)
    } else if name.strip_suffix(".sst").is_some_and(digits) {
        Some(Kind::Sst)
    } else if name.strip_prefix("MANIFEST-").is_some_and(digits) {
        Some(Kind::Manifest)
    } else if name.strip_prefix("OPTIONS-").is_some_and(digits) {
        Some(Kind::Options)
    } else {
        None
    }
}

/// Removes whatever is at `live` and makes it an empty directory.
pub(super) fn fresh_dir(live: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(live) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(live),
        Ok(_) => fs::remove_file(live),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|error| Error::io("remove", live, error))?;
    fs::create_dir_all(live).map_err(|error| Error::io("create", live, error))
}

/// Brings a checkpoint's files into the empty directory `live`: tables by hard link, the rest by copy. Returns the tables' names.
pub(super) fn import(from: &Path, live: &Path) -> Result<Vec<String>> {
    let names = inspect(from)?;
    for (name, kind) in &names {
        let (source, target) = (from.join(name), live.join(name));
        if *kind == Kind::Sst && fs::hard_link(&source, &target).is_ok() {
            continue;
        }
        fs::copy(&source, &target).map_err(|error| Error::io("copy to", &target, error))?;
    }
    Ok(names.into_iter().filter(|(_, kind)| *kind == Kind::Sst).map(|(name, _)| name).collect())
}

/// The files of a checkpoint with their kinds; an error if it holds anything else, or does not hold together.
fn inspect(from: &Path) -> Result<Vec<(String, Kind)>> {
    let failed = |error| Error::io("list", from, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).map_err(|error| Error::io("look at", &path, error))?;
        if !meta.is_file() {
            return Err(Error::corrupt(&path, 0, "a checkpoint of cold rows holds plain files only"));
        }
        match entry.file_name().into_string().ok().and_then(|name| kind(&name).map(|kind| (name, kind))) {
            Some(named) => names.push(named),
            None => return Err(Error::corrupt(&path, 0, "no checkpoint of cold rows holds a file of this name")),
        }
    }
    let current = from.join("CURRENT");
    if !names.iter().any(|(_, kind)| *kind == Kind::Current) {
        return Err(Error::corrupt(&current, 0, "the file is missing"));
    }
    let mut text = String::new();
    let read = File::open(&current).and_then(|file| file.take(CURRENT_LIMIT).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(Error::corrupt(&current, 0, "expected the name of a manifest, found bytes that are no text"));
        }
        other => other.map_err(|error| Error::io("read", &current, error))?,
    };
    let named = text.strip_suffix('\n').filter(|name| names.iter().any(|(n, kind)| n == name && *kind == Kind::Manifest));
    if named.is_none() {
        return Err(Error::corrupt(&current, 0, format!("it names {text:?}, which is no manifest beside it")));
    }
    Ok(names)
}

/// Makes a finished checkpoint durable: files that no checkpoint needs are removed (an empty log), the rest synced.
pub(super) fn seal(dir: &Path) -> Result<()> {
    let failed = |error| Error::io("list", dir, error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_name().to_str().and_then(kind).is_none() {
            fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
            continue;
        }
        // RocksDB synced what it wrote; a table that `import` had to copy was not.
        sync(&path)?;
    }
    sync(dir)?;
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| Error::io("sync", path, error))
}

/// The file a message names and the offset in it; the whole file, from 0, without an offset.
pub(super) fn place(message: &str) -> Option<(&str, u64)> {
    let words = || message.split([' ', ',', ';', ':', '\n']);
    let file = |word| -> Option<&str> {
        let name = str::rsplit(word, '/').next()?.trim_end_matches('.');
        kind(name).map(|_| name)
    };
    let name = words().find_map(file)?;
    let offset = words().skip_while(|word| *word != "offset").nth(1).and_then(|word| word.parse().ok());
    Some((name, offset.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_in_messages() {
        let block =
            "Corruption: block checksum mismatch: stored = 1, computed = 2, type = 4  in /a b/000009.sst offset 1234 size 4096";
        assert_eq!(place(block), Some(("000009.sst", 1234)));
        assert_eq!(place("Corruption: Sst file size mismatch: /x/000008.sst. Size recorded"), Some(("000008.sst", 0)));
        assert_eq!(place("Corruption: in file /x/MANIFEST-000005: bad record"), Some(("MANIFEST-000005", 0)));
        assert_eq!(place("Corruption: something offset 7"), None);
    }

    #[test]
    fn only_plain_names_of_a_checkpoint_are_taken() {
        assert_eq!(kind("000012.sst"), Some(Kind::Sst));
        assert_eq!(kind("MANIFEST-000012"), Some(Kind::Manifest));
        for name in [".sst", "a.sst", "1.sst.sst", "../1.sst", "MANIFEST-", "MANIFEST-1/..", "CURRENT ", "000004.log", "LOCK", ""]
        {
            assert_eq!(kind(name), None, "{name}");
        }
    }
}
