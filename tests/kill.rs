//! A training job is killed again and again, at any moment, on real RocksDB: the same command goes on, and ends with the same bits.
//!
//! `EMBEDROCK_KILLS=500` for longer.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn job(store: &Path, threads: u64, hot_rows: Option<u64>) -> Command {
    let mut job = Command::new(env!("CARGO_BIN_EXE_embedrock"));
    job.args(["train", "deepfm", "--samples", "40000", "--users", "4000", "--items", "2000", "--batch-size", "128"])
        .args(["--commit-every", "3", "--checkpoint-every", "4", "--memory-budget", "24MiB", "--json", "--store"])
        .arg(store)
        .args(["--threads", &threads.to_string()]);
    if let Some(rows) = hot_rows {
        job.args(["--hot-rows", &rows.to_string()]);
    }
    job.stdout(Stdio::piped()).stderr(Stdio::piped());
    job
}

/// The rows' digest, and AUC and log loss, once the job ended by itself.
fn ended(store: &Path, job: &mut Command) -> (String, [String; 2]) {
    let output = job.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let inspect = Command::new(env!("CARGO_BIN_EXE_embedrock")).arg("inspect").arg(store).args(["--digest", "--json"]).output();
    let seen: serde_json::Value = serde_json::from_slice(&inspect.unwrap().stdout).unwrap();
    (seen["digest"].as_str().unwrap().to_owned(), ["auc", "logloss"].map(|name| report[name].to_string()))
}

#[test]
fn a_killed_job_ends_with_the_bits_of_one_that_was_not() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let expected = ended(&whole, &mut job(&whole, 1, None));
    let kills: u64 = std::env::var("EMBEDROCK_KILLS").map_or(16, |kills| kills.parse().unwrap());
    let (mut killed, mut life) = (0, 0u64);
    for threads in [1, 2].into_iter().cycle() {
        let store = dir.path().join(format!("killed-{life}"));
        // Six lives a store, then it may end.
        for _ in 0..6 {
            life += 1;
            let mut child = job(&store, threads, Some(500)).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(20 + life.wrapping_mul(2_654_435_761) % 180));
            let early = child.try_wait().unwrap().is_none();
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(early || output.status.success(), "{errors}");
            assert!(!errors.contains("error:"), "{errors}");
            killed += u64::from(early);
        }
        assert_eq!(ended(&store, &mut job(&store, threads, Some(500))), expected, "at {threads} threads");
        std::fs::remove_dir_all(&store).unwrap();
        if killed >= kills {
            break;
        }
    }
    println!("{killed} kills, then the same bits");
}
