//! The examples, run to their ends in directories of their own, in which they leave nothing.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::io::Write;
use std::process::Command;

/// An example, how much it is to do, and what it says at its end.
const EXAMPLES: [(&str, &[&str], &str); 5] = [
    ("embedded", &[], "2 rows after reopening"),
    ("two_tower", &["500"], "step 500: log loss 0."),
    // Without arguments it runs itself, to be killed.
    ("resume", &[], "gone on from step 600; the same bits as a job never interrupted: true"),
    ("replica", &[], "at commit 1.4: 2 of 2 found, user 2 is"),
    ("fraud", &["30"], "30 customers; 1 vector of 64 floats"),
];

#[test]
fn examples_run_to_their_ends() {
    // Beside the tests' own directory, where cargo puts them when it builds all targets.
    let tests = std::env::current_exe().unwrap();
    let examples = tests.parent().unwrap().parent().unwrap().join("examples");
    for (name, arguments, last) in EXAMPLES {
        let program = examples.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
        if !program.is_file() {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: example {name} is not built: run `cargo test` with its features and without naming targets"
            );
            continue;
        }
        let place = tempfile::tempdir().unwrap();
        let output = Command::new(&program).args(arguments).env("TMPDIR", place.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {}\n{said}", output.status);
        assert!(said.contains(last), "{name} does not say '{last}':\n{said}");
        assert_eq!(place.path().read_dir().unwrap().count(), 0, "{name} left something");
    }
}
