//! Runs the program in a directory of its own and looks at what it says.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, dead_code, reason = "a failure here is a failed test; each test file uses its part of this")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A directory in which the program runs, so that command lines stay short.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program with the words of `line`, each without spaces.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embedrock"));
        command.args(line.split_whitespace()).current_dir(self.dir.path()).env_remove("RUST_LOG");
        command
    }

    pub(crate) fn run(&self, line: &str) -> Ran {
        let output = self.command(line).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Standard output of a run that must succeed.
    pub(crate) fn ok(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(0), "embedrock {line}: {ran:?}");
        ran.out
    }

    /// What a run printed as JSON.
    pub(crate) fn json(&self, line: &str) -> Value {
        let out = self.ok(&format!("{line} --json"));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("embedrock {line}: {error} in {out}"))
    }

    /// A run that must fail with this exit code; every one of `said` must be in its one sentence on standard error.
    pub(crate) fn fails(&self, line: &str, code: i32, said: &[&str]) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(code), "embedrock {line}: {ran:?}");
        assert!(ran.err.starts_with("error: "), "embedrock {line}: {ran:?}");
        assert!(!ran.err.contains("panicked"), "embedrock {line}: {ran:?}");
        for words in said {
            assert!(ran.err.contains(words), "embedrock {line} does not say '{words}': {}", ran.err);
        }
        ran
    }

    /// A run in the background.
    pub(crate) fn start(&self, line: &str) -> Child {
        self.command(line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The digest of a store's rows, its last commit, and the rows themselves by number.
    pub(crate) fn digest(&self, store: &str) -> String {
        self.json(&format!("inspect {store} --digest"))["digest"].as_str().unwrap().to_owned()
    }
}

/// All files of a directory and below, by their paths relative to it.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = PathBuf::from(path.file_name().unwrap());
            files.extend(files_below(&path).into_iter().map(|below| name.join(below)));
        } else {
            files.push(PathBuf::from(path.file_name().unwrap()));
        }
    }
    files.sort();
    files
}

/// Says so past the test harness, which shows nothing of a test that passes.
pub(crate) fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// Whether the calling test runs where it may mount what it likes: it is run again in mounts of its own, and this is true there.
pub(crate) fn in_own_mounts(test: &str) -> bool {
    const INSIDE: &str = "EMBEDROCK_TEST_IN_OWN_MOUNTS";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let probe = ["sh", "-c", "mount -t tmpfs none /mnt"].map(String::from);
    for alone in [["--mount"].as_slice(), &["--map-root-user", "--mount"]] {
        let enter = |words: &[String]| Command::new("unshare").args(alone).args(words).env(INSIDE, "1").output();
        if !enter(&probe).is_ok_and(|probe| probe.status.success()) {
            continue;
        }
        let exe = std::env::current_exe().unwrap().to_string_lossy().into_owned();
        let inside = enter(&[exe, "--exact".into(), test.into(), "--nocapture".into()]).unwrap();
        let said = String::from_utf8_lossy(&inside.stdout).into_owned() + &String::from_utf8_lossy(&inside.stderr);
        assert!(inside.status.success() && said.contains("1 passed"), "{said}");
        return false;
    }
    skipped(&format!("{test}: neither root nor user namespaces may mount here"));
    false
}

/// Runs a system command that must succeed.
pub(crate) fn system(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
