//! The style, as a test: reads the source tree and lists what is out of place. What each check says is what to do.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The direction of imports: code of a module names only modules of rows above its own, and itself. A new module goes here.
const ROWS: &[&[&str]] = &[
    &["types", "plant", "sync", "kill_point"],
    &["error"],
    &["codec", "crew", "fs", "clock", "memory", "queue", "simd", "waits"],
    &["initializer", "optimizer", "admission", "expiry", "precision", "quantize", "index"],
    &["segments"],
    &["schema", "slab", "log", "manifest", "cold", "pins"],
    &["context"],
    &["serving", "kafka"],
    &["options"],
    &["shard"],
    &["table", "plan"],
    &["catalog"],
    &["delta"],
    &["checkpoint"],
    &["recovery"],
    &["view"],
    &["restore", "verify", "quantized"],
    &["remote"],
    &["store"],
    &["replica", "join", "exchange"],
    &["testing"],
    &["lib"],
    &["train"],
    &["bin"],
];

/// A module, and those above it that it must not know all the same: rows move between tiers without a log.
const STRANGERS: &[(&str, &[&str])] = &[("shard", &["log", "manifest", "options"]), ("table", &["log", "manifest", "options"])];

/// A dependency and where it is named.
const ONE_PLACE: &[(&str, &[&str])] = &[
    ("rocksdb", &["src/cold/rocks"]),
    ("memmap2", &["src/memory.rs", "src/slab/", "src/bin/embedrock/bench/"]),
    ("crc32fast", &["src/codec.rs"]),
    ("half", &["src/precision/tests.rs", "src/quantize.rs"]),
    ("shuttle", &["src/sync.rs"]),
    ("zstd", &["src/codec.rs"]),
    ("bytemuck", &["src/memory.rs", "src/slab/", "src/index/bucket.rs", "src/shard/image.rs", "src/bin/embedrock/bench/"]),
    ("rayon", &["src/crew.rs"]),
    ("libc", &["src/cold/ring.rs", "src/fs/", "src/slab/", "src/memory.rs", "src/bin/embedrock/bench/"]),
    ("object_store", &["src/remote/objects.rs", "src/remote/topic.rs"]),
    ("rdkafka", &["src/kafka.rs", "tests/kafka.rs"]),
    ("tokio", &["src/remote/objects.rs", "src/bin/embedrock/serve.rs"]),
    ("axum", &["src/bin/embedrock/serve.rs"]),
    ("thiserror", &["src/error.rs"]),
    ("candle_core", &["src/train/affine.rs", "src/train/dense.rs", "src/train/dce/"]),
    ("candle_nn", &["src/train/dense.rs"]),
    ("flate2", &["src/train/data/", "src/exchange/npz.rs"]),
    ("md5", &["src/train/experiment/ids.rs"]),
    ("parquet", &["src/exchange/parquet/", "tests/join_files.rs"]),
    ("plotters", &["src/train/experiment/plot.rs", "src/bin/embedrock/drift.rs"]),
    ("zip", &["src/exchange/npz.rs"]),
    ("serde", &["src/train/", "src/bin/"]),
    ("serde_json", &["src/bin/", "src/exchange/safetensors.rs", "src/train/dce/bank/file.rs", "src/train/runs/"]),
    ("clap", &["src/bin/"]),
    ("indicatif", &["src/bin/"]),
    ("tracing_subscriber", &["src/bin/"]),
];

/// What the engine takes from `sync`, so that `tests/shuttle.rs` decides on the order of its threads.
const ORDERED: &[&str] = &["Mutex", "RwLock", "Condvar", "Atomic", "thread::Builder", "thread::spawn", "thread::scope"];
/// Where the standard library's are named: what is no part of a store's work, or of the real world only.
const UNORDERED: &[&str] = &[
    "src/sync.rs",
    "src/plant.rs",
    "src/kill_point.rs",
    "src/fs/lock.rs",
    "src/fs/scratch.rs",
    "src/slab/chunk.rs",
    "src/cold/readers.rs",
    "src/cold/rocks",
    "src/cold/twin.rs",
    "src/train/",
    "src/bin/",
];

/// Where `unsafe` may be: the mapped arenas, the index, SIMD kernels. All else forbids it.
const UNSAFE: &[&str] = &[
    "src/cold/ring.rs",
    "src/memory.rs",
    "src/simd.rs",
    "src/slab/",
    "src/index/",
    "src/bin/embedrock/bench/limit.rs",
    "src/bin/embedrock/bench/pin.rs",
];
/// What these forbid, modules below could not allow: they have nothing unsafe of their own all the same.
const ONLY_MODULES: &[&str] = &["src/cold/mod.rs", "src/lib.rs", "src/bin/embedrock/main.rs", "src/bin/embedrock/bench/mod.rs"];

const TOP_LEVEL: &[&str] = &[
    ".ci",
    ".git",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "clippy.toml",
    "docs",
    "examples",
    "fuzz",
    "go",
    "python",
    "rustfmt.toml",
    "src",
    "target",
    "tests",
];

const MAX_LINES: usize = 500;

/// A Rust file of the repository.
struct Source {
    /// Relative to the repository, with slashes.
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    /// `shard` for `src/shard/batch.rs` and `src/shard.rs`, `bin` for the command line; none outside `src`.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split_once('/').map_or_else(|| inside.trim_end_matches(".rs"), |(module, _)| module))
    }

    /// Line numbers and lines without comments and without items for tests. Relies on rustfmt: an item ends where a line as
    /// far out as its beginning ends it.
    fn code(&self) -> Vec<(usize, &str)> {
        let mut code = Vec::new();
        let mut skipped: Option<usize> = None;
        for (at, line) in self.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            match skipped {
                Some(outer) if indent > outer || line.trim().is_empty() || line.trim_start().starts_with('#') => {}
                Some(_) if line.ends_with(['{', '(', ',']) => {}
                Some(_) => skipped = None,
                None if line.trim_start().starts_with("//") => {}
                None if line.trim() == "#[cfg(test)]" => skipped = Some(indent),
                None => code.push((at + 1, line)),
            }
        }
        code
    }

    /// The files that are modules for tests only, as declared in this one.
    fn test_files(&self) -> Vec<PathBuf> {
        let path = Path::new(&self.path);
        let dir = match path.file_name().and_then(|name| name.to_str()) {
            Some("mod.rs" | "lib.rs" | "main.rs") => path.parent().unwrap().to_path_buf(),
            _ => path.with_extension(""),
        };
        let lines: Vec<&str> = self.text.lines().collect();
        let mut files = Vec::new();
        for at in (0..lines.len()).filter(|&at| lines[at] == "#[cfg(test)]") {
            let quoted = lines[at + 1].strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]"));
            let name = lines[at + 1].strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            files.extend(quoted.map(|file| path.parent().unwrap().join(file)));
            files.extend(name.map(|name| dir.join(name).with_extension("rs")));
        }
        files
    }
}

/// The modules that a line of code names after `crate::`; `lib` for what only the crate's root exports.
fn named_modules(line: &str) -> Vec<String> {
    let mut named = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let inner = rest.strip_prefix('{');
        let mut depth = 0;
        for item in inner.unwrap_or(rest).split_inclusive([',', '{', '}']) {
            let name: String = item.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if depth == 0 && !name.is_empty() {
                named.push(if name.starts_with(char::is_uppercase) { "lib".to_owned() } else { name });
            }
            depth += item.matches('{').count() as i32 - item.matches('}').count() as i32;
            if inner.is_none() || depth < 0 {
                break;
            }
        }
    }
    named
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn check_imports(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some(own) = row(module) else {
        return vec![format!("{}: give the module a row in ROWS of tests/tidy.rs", source.path)];
    };
    // The command line is a crate of its own and names only the library's public face.
    if module == "bin" || module == "lib" {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (at, line) in source.code() {
        for named in named_modules(line).into_iter().filter(|named| named != module) {
            let stranger = STRANGERS.iter().any(|(of, not)| *of == module && not.contains(&named.as_str()));
            if row(&named).is_none_or(|other| other >= own) || stranger {
                wrong.push(format!("{}:{at}: {module} must not import {named}: it is not above it", source.path));
            }
        }
        if line.contains("crate::{") && !line.contains('}') {
            wrong.push(format!("{}:{at}: one `use` a module, so that each is seen", source.path));
        }
        let depth = source.path.matches('/').count();
        if line.contains("super::super::") && depth < 3 || line.contains("super::") && depth == 1 {
            wrong.push(format!("{}:{at}: name the module after `crate::`, so that its row is seen", source.path));
        }
    }
    wrong
}

fn check_dependencies(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (name, places) in ONE_PLACE.iter().filter(|(_, places)| !places.iter().any(|place| source.path.starts_with(place))) {
        let path = format!("{name}::");
        for (at, line) in source.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let mut found = line.match_indices(&path);
            if found.any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')) {
                wrong.push(format!("{}:{}: {name} is named only in {}", source.path, at + 1, places.join(", ")));
            }
        }
    }
    wrong
}

fn check_order(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || UNORDERED.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let is_stds = |line: &str| line.contains("std::sync") || line.contains("std::thread");
    let named = |line: &str| ORDERED.iter().any(|name| line.contains(name));
    let wrong = source.code().into_iter().filter(|(_, line)| is_stds(line) && named(line));
    wrong.map(|(at, _)| format!("{}:{at}: take locks, atomics and threads from crate::sync", source.path)).collect()
}

fn check_unsafe(source: &Source) -> Vec<String> {
    let exempt = |list: &[&str]| list.iter().any(|place| source.path.starts_with(place));
    if !source.path.starts_with("src/") || exempt(UNSAFE) {
        return Vec::new();
    }
    let forbids = source.text.lines().any(|line| line == "#![forbid(unsafe_code)]");
    let mut wrong = Vec::new();
    if !forbids && !exempt(ONLY_MODULES) {
        wrong.push(format!("{}: begins without #![forbid(unsafe_code)]", source.path));
    }
    if exempt(ONLY_MODULES) && source.code().iter().any(|(_, line)| line.contains("unsafe ")) {
        wrong.push(format!("{}: no unsafe code here", source.path));
    }
    wrong
}

fn check_text(source: &Source) -> Vec<String> {
    let Source { path, text } = source;
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        wrong.push(format!("{path}: {lines} lines, at most {MAX_LINES}: divide it"));
    }
    if text.contains('\r') || !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        wrong.push(format!("{path}: lines end in \\n, and so does the file, once"));
    }
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let notes = ["FIX", "XX"].map(|start| format!("{start}{}", if start == "FIX" { "ME" } else { "X" }));
    for (at, line) in text.lines().enumerate() {
        let mut say = |what: &str| wrong.push(format!("{path}:{}: {what}", at + 1));
        if line.ends_with([' ', '\t']) {
            say("trailing white space");
        }
        if let Some(found) = line.chars().find(|c| !c.is_ascii() || *c == '\t') {
            say(&format!("{found:?} is no printable ASCII"));
        }
        if macros.iter().chain(&notes).any(|unfinished| line.contains(unfinished)) {
            say("finish it");
        }
    }
    let vague = ["util", "utils", "helper", "helpers", "misc", "common"];
    let mut names = path.split(['/', '.']).filter(|name| *name != "rs");
    if names.any(|name| vague.contains(&name)) {
        wrong.push(format!("{path}: name it after what it does"));
    }
    wrong
}

fn check_all(source: &Source, is_test: bool) -> Vec<String> {
    let mut wrong = check_text(source);
    wrong.extend(check_dependencies(source));
    if !is_test {
        wrong.extend(check_imports(source));
        wrong.extend(check_order(source));
        wrong.extend(check_unsafe(source));
    }
    wrong
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(dir: &Path, into: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" {
            collect(&path, into);
        } else if name.ends_with(".rs") {
            let relative = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
            into.push(Source { path: relative, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    ["src", "tests", "benches", "examples", "fuzz", "python/src"].iter().for_each(|dir| collect(&root().join(dir), &mut sources));
    sources
}

#[test]
fn the_source_tree_is_tidy() {
    let sources = sources();
    assert!(sources.len() > 80, "only {} files were found", sources.len());
    let test_files: BTreeSet<PathBuf> = sources.iter().flat_map(Source::test_files).collect();
    assert!(test_files.iter().all(|file| root().join(file).exists()), "{test_files:?}");
    let wrong: Vec<String> =
        sources.iter().flat_map(|source| check_all(source, test_files.contains(Path::new(&source.path)))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_top_level_holds_what_it_should() {
    let names = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let odd: Vec<String> = names.filter(|name| !TOP_LEVEL.contains(&name.as_str())).collect();
    assert!(odd.is_empty(), "at the top level without a reason: {odd:?}");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("license = \"Apache-2.0 OR MIT\""));
}

#[test]
fn every_dependency_is_used() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let names: Vec<&str> = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    let sources = sources();
    let used = |name: &&str| {
        let path = format!("{}::", name.replace('-', "_"));
        sources.iter().any(|source| source.path.starts_with("src/") && source.text.contains(&path))
    };
    let idle: Vec<&str> = names.into_iter().filter(|name| !used(name)).collect();
    assert!(idle.is_empty(), "in Cargo.toml and never named: {idle:?}");
}

/// Each check finds what is planted for it, and nothing in what is as it should be.
#[test]
fn the_checks_can_fail() {
    let forbid = "#![forbid(unsafe_code)]\n";
    let file = |path: &str, rest: &str| Source::new(path, &format!("{forbid}{rest}"));
    let clean = [
        file("src/shard/a.rs", "use crate::index::Index;\nuse crate::{error::Error, types::Key};\nuse super::Shard;\n"),
        file("src/store/a.rs", "use crate::log::CommitRecord;\n// crate::train is named in a comment\n"),
        file("src/fs/a.rs", "#[cfg(test)]\nmod tests {\n    use crate::store::Store;\n}\n"),
        file("src/train/a.rs", "use crate::{Error, Result};\n"),
        Source::new("src/slab/a.rs", "unsafe { x() }\n"),
    ];
    for source in &clean {
        assert_eq!(check_all(source, false), [""; 0], "{}", source.path);
    }
    let planted = [
        (file("src/shard/a.rs", "use crate::table::Table;\n"), "shard must not import table"),
        (file("src/shard/a.rs", "use crate::log::FrameBuf;\n"), "shard must not import log"),
        (file("src/fs/a.rs", "use crate::{error::Error, store::Store};\n"), "fs must not import store"),
        (file("src/fs/a.rs", "fn x() -> crate::Result<()> {}\n"), "fs must not import lib"),
        (file("src/fs/a.rs", "#[cfg(test)]\nmod tests {\n}\nuse crate::slab::Slab;\n"), "fs must not import slab"),
        (file("src/fs/a.rs", "#[cfg(test)]\nuse crate::slab::Slab;\nuse crate::shard::Shard;\n"), "fs must not import shard"),
        (file("src/fs/a.rs", "use crate::{\n"), "one `use` a module"),
        (file("src/clock.rs", "use super::store::Store;\n"), "name the module after"),
        (file("src/fs/a.rs", "use super::super::store::Store;\n"), "name the module after"),
        (file("src/stray.rs", ""), "give the module a row"),
        (file("src/store/a.rs", "fn x() { rocksdb::y() }\n"), "rocksdb is named only in src/cold/rocks"),
        (file("src/store/a.rs", "use zstd::z;\n"), "zstd is named only"),
        (file("src/store/a.rs", "use std::sync::{Arc, Mutex};\n"), "from crate::sync"),
        (Source::new("src/store/a.rs", "fn x() {}\n"), "begins without"),
        (Source::new("src/lib.rs", "unsafe fn x() {}\n"), "no unsafe code here"),
        (file("src/fs/a.rs", &"//\n".repeat(500)), "501 lines"),
        (file("src/fs/a.rs", "fn x() {} \n"), "trailing white space"),
        (file("src/fs/a.rs", "// caf\u{e9}\n"), "no printable ASCII"),
        (file("src/fs/a.rs", &format!("fn x() {{ {}!() }}\n", "todo")), "finish it"),
        (file("src/fs/a.rs", "fn x() {}"), "so does the file, once"),
        (file("src/fs/utils.rs", ""), "name it after"),
    ];
    for (source, expected) in &planted {
        let found = check_all(source, false);
        assert!(found.len() == 1 && found[0].contains(expected), "{}: expected '{expected}', found {found:?}", source.text);
    }
    let lines = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[path = \"b_tests.rs\"]\nmod more;\n";
    assert_eq!(file("src/a/b.rs", lines).test_files(), ["src/a/b/tests.rs", "src/a/b_tests.rs"].map(PathBuf::from));
}
