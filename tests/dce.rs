//! Customer embeddings by the command line: a simulated bank trained in a tenth of its rows and killed, drift between commits, real data.
#![cfg(feature = "cli")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use std::path::Path;
use std::time::{Duration, Instant};

use command::{Place, skipped};
use serde_json::Value;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data");
/// A small bank and few passes.
const BANK: &str =
    "train dce --customers 60 --days 60 --session-epochs 1 --customer-epochs 1 --head-epochs 2 --memory-budget 32MiB";

/// The area under the curve of a task's features.
fn auc(report: &Value, task: &str, features: &str) -> f64 {
    let task = report["tasks"].as_array().unwrap().iter().find(|each| each["name"] == task).unwrap();
    let found = task["figures"].as_array().unwrap().iter().find(|each| each["features"] == features);
    found.unwrap_or_else(|| panic!("no {features} in {task}"))["auc"].as_f64().unwrap()
}

fn told(report: &Value) -> [String; 3] {
    ["tasks", "said", "unexplained"].map(|name| report[name].to_string())
}

#[test]
fn a_bank_killed_in_a_tenth_of_its_rows_ends_as_one_never_interrupted() {
    let place = Place::new();
    let report = place.json(&format!("{BANK} --store whole"));
    assert!(report["synthetic"] == true && report["stage"] == "Done", "{report}");
    let rows = report["rows"]["total"].as_u64().unwrap();
    let line = format!("{BANK} --store killed --hot-rows {} --commit-every 3 --checkpoint-every 4", rows / 10);
    for kill in 0..3 {
        let mut child = place.start(&line);
        let (mark, begun, mut last, mut seen) = (place.path("killed").join("DURABLE"), Instant::now(), None, 0);
        while seen < 4 + 9 * kill && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(240), "the commits never came");
            let now = std::fs::read(&mark).ok();
            seen += u64::from(now != last);
            last = now;
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = place.json(&line);
    assert!(last["rows"]["cold"].as_u64().unwrap() > rows / 2, "{last}");
    assert_eq!((told(&last), place.digest("killed")), (told(&report), place.digest("whole")));
    assert!(place.ok("verify killed").contains("sound"));
    // As the file that `generate bank` makes, in either layout, it is the same bank.
    for layout in ["jsonl", "csv"] {
        let made = place.json(&format!("generate bank --to bank.{layout} --layout {layout} --customers 60 --days 60"));
        assert!(made["synthetic"] == true && made["sessions"] == report["sessions"], "{made}");
    }
    let by_file = BANK.replace("--customers 60 --days 60", "--data bank:bank.csv");
    assert_eq!(told(&place.json(&format!("{by_file} --store file"))), told(&report));
    place.fails(&format!("{by_file} --store whole"), 2, &["was begun with"]);
    place.fails("train dce --store x --data shop:y", 2, &["shop", "yoochoose"]);
}

#[test]
fn drift_between_commits_is_told_drawn_and_an_alert() {
    let place = Place::new();
    place.ok(&format!("{BANK} --store bank --commit-every 20"));
    let commits = place.json("inspect bank --commits")["commits"].as_array().unwrap().clone();
    // One in the middle of the roll: customers known by then, and others that came later.
    let compared = |commit: &str| {
        let out = place.json(&format!("drift bank --table customer --since {commit}"));
        (out["drift"]["compared"].as_u64().unwrap() > 20, out["drift"]["unchanged"].as_u64().unwrap() < 20)
    };
    let first = commits.iter().map(|commit| commit.as_str().unwrap()).find(|commit| compared(commit) == (true, true));
    let first = first.unwrap().to_owned();
    let line = format!("drift bank --table customer --since {first} --svg drift.svg");
    let out = place.json(&line);
    assert!(
        out["alert"] == false && out["drift"]["compared"].as_u64().unwrap() + out["drift"]["added"].as_u64().unwrap() > 30,
        "{out}"
    );
    let drawn = std::fs::read_to_string(place.path("drift.svg")).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.contains("cosine distance") && drawn.matches("<rect").count() > 40);
    let same = place.ok("drift bank --table customer --against bank --alert 0");
    assert!(same.contains("0 new, 0 gone") && !same.contains("ALERT"), "{same}");
    place.ok(&format!("{BANK} --store other --seed 2"));
    let ran = place.run("drift bank --table event --against other --alert 0.01 --quantile 0.5");
    assert!(ran.code == Some(1) && ran.out.contains("ALERT"), "{ran:?}");
    place.fails("drift bank --table nobody --against bank", 1, &["nobody"]);
    // Only the customers that changed since then are exported.
    let exported = place.json(&format!("export bank --table customer --to changed.parquet --since {first}"));
    assert!(exported["rows"].as_u64().unwrap() > 0, "{exported}");
}

/// Where the data is; a test without it says so.
fn real(name: &str) -> Option<String> {
    let path = format!("{DATA}/{name}");
    if !Path::new(&path).is_dir() {
        skipped(&format!("{path} is not there, so nothing was learned from it"));
        return None;
    }
    Some(path)
}

#[test]
fn real_visitors_and_users_are_told_better_than_by_chance() {
    let place = Place::new();
    if let Some(path) = real("airbnb") {
        let report = place.json(&format!("train dce --data airbnb:{path} --store airbnb --session-epochs 2"));
        let of = |features: &str| auc(&report, "message", features);
        println!(
            "airbnb: past rate {:.3}, DCE {:.3}, with counts {:.3}",
            of("past rate (no head)"),
            of("DCE"),
            of("DCE and hand counts")
        );
        assert!(of("DCE") > 0.6 && of("DCE and hand counts") > of("time only"), "{report}");
    }
    if let Some(path) = real("unix-masquerade") {
        let report =
            place.json(&format!("train dce --data unix:{path} --store unix --counted 200 --max-events 100 --session-epochs 2"));
        let of = |features: &str| auc(&report, "masquerade", features);
        println!(
            "unix: naive Bayes {:.3}, DCE {:.3}, with counts {:.3}, vector and likelihood {:.3}",
            of("likelihood (no head)"),
            of("DCE"),
            of("DCE and hand counts"),
            of("vector and likelihood")
        );
        assert!(of("likelihood (no head)") > 0.93 && of("DCE") > 0.55, "{report}");
        assert!(of("likelihood") > 0.93 && of("vector and likelihood") > 0.88, "{report}");
    }
}
