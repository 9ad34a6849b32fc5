//! The experiments as commands: what they print and write, and what they refuse.
#![cfg(feature = "cli")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use std::path::Path;

use command::{Place, skipped};
use serde_json::Value;

const RATINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data/movielens-latest-small");

fn auc(found: &Value, arm: &str) -> f64 {
    let observations = found["observations"].as_array().unwrap();
    let of = observations.iter().filter(|o| o["arm"] == arm && o["measure"] == "auc");
    let values: Vec<f64> = of.map(|o| o["value"].as_f64().unwrap()).collect();
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn each_experiment_prints_tables_and_writes_json_figures_and_a_plot() {
    let place = Place::new();
    let small = "--samples 1500 --users 60 --items 30 --seeds 2 --factors 2 --batch-size 64 --memory-budget 24MiB --epochs 1";
    for name in ["collisions", "online", "faults", "admission"] {
        let found = place.json(&format!("experiment {name} {small} --out out --jobs 2"));
        assert!(found["experiment"] == name && found["synthetic"] == true && found["seeds"] == 2, "{found}");
        let read = |ending: &str| std::fs::read_to_string(place.path(&format!("out/{name}-synthetic.{ending}"))).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&read("json")).unwrap(), found);
        assert!(read("svg").starts_with("<svg"), "{name}");
        let (figures, rows) = (read("csv"), found["observations"].as_array().unwrap().len());
        assert!(figures.starts_with("arm,measure,at,seed,value\n") && figures.lines().count() == rows + 1, "{name}");
    }
    let text = place.ok(&format!("experiment admission {small} --hot-rows 20"));
    assert!(text.contains("SYNTHETIC") && text.contains("| every key, for ever |"), "{text}");
    place.fails(&format!("experiment collisions {small} --jobs 0"), 2, &["jobs", "1 to 1024"]);
    place.fails("experiment faults --samples 300", 2, &["300 samples are too few"]);
    place.fails("experiment online --data nowhere", 1, &["nowhere"]);
}

#[test]
fn collisions_cost_quality_on_real_ratings() {
    if !Path::new(RATINGS).is_dir() {
        return skipped(&format!("{RATINGS} is not there, so nothing was shown on real ratings"));
    }
    let place = Place::new();
    let found = place.json(&format!("experiment collisions --data {RATINGS} --seeds 2 --epochs 1 --out out"));
    assert_eq!((&found["data"], &found["synthetic"]), (&Value::from("movielens-latest-small"), &Value::from(false)));
    let (own, shared) = (auc(&found, "collisionless"), auc(&found, "MD5, 75 % lost"));
    println!("collisionless {own}, three quarters lost {shared}");
    assert!(own > 0.70 && own > shared + 0.01, "{own} {shared}");
    let written = std::fs::read_to_string(place.path("out/collisions-movielens-latest-small.json")).unwrap();
    assert!(!written.contains(env!("CARGO_MANIFEST_DIR")), "nothing of the machine is in it");
}
