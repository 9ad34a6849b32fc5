//! `embedrock export` and `embedrock import`.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use command::Place;
use embedrock::{Store, StoreOptions, TableSchema, Update};

const TRAIN: &str = "train deepfm --batch-size 64 --factors 4 --memory-budget 24MiB --commit-every 4";

#[test]
fn rows_go_to_files_and_back() {
    let place = Place::new();
    place.ok(&format!("{TRAIN} --samples 3000 --store s"));
    let rows = |store: &str| place.json(&format!("inspect {store}"))["tables"][0]["rows"].as_u64().unwrap();
    let table = place.json("inspect s")["tables"][0]["name"].as_str().unwrap().to_owned();
    for file in ["a.parquet", "a.npy", "a.npz", "a.safetensors"] {
        let exported = place.json(&format!("export s --table {table} --to {file} --state"));
        assert_eq!(exported["rows"], rows("s"));
        let store = format!("from-{file}");
        let imported = place.json(&format!("import {store} --table {table} --from {file} --optimizer adagrad"));
        assert_eq!((&imported["rows"], imported["removed"].as_u64()), (&exported["rows"], Some(0)));
        assert_eq!(place.digest(&store), place.digest("from-a.parquet"));
    }
    let since = place.json(&format!("export s --table {table} --to since.parquet --since 1.4"));
    assert!(since["rows"].as_u64().unwrap() < rows("s"), "{since}");
    assert!(place.ok(&format!("export s --table {table} --to h.npz --quantize f16")).contains("rows of table"));
    place.fails(&format!("export s --table {table} --to h.npz"), 1, &["h.npz exists"]);
    place.fails("export s --table nobody --to x.npz", 1, &["nobody"]);
    place.fails(&format!("export s --table {table} --to x.csv"), 1, &["x.csv cannot be used"]);
    place.fails(&format!("import from-a.npy --table {table} --from nothing.npy"), 1, &["nothing.npy"]);
    std::fs::write(place.path("bad.parquet"), "PAR1 is not all PAR1").unwrap();
    place.fails(&format!("import from-a.npy --table {table} --from bad.parquet"), 1, &["bad.parquet cannot be used"]);
    assert_eq!(place.run(&format!("export s --table {table} --to y.npz --quantize int4")).code, Some(2));
}

#[test]
fn all_tables_go_to_a_directory_while_the_store_is_open() {
    let place = Place::new();
    let store = Store::open(place.path("s"), StoreOptions::default().memory_budget(24 << 20)).unwrap();
    for (name, dim) in [("users", 2), ("items", 3)] {
        store.create_table(TableSchema::new(name, dim)).unwrap().assign(&[1], &[0.5; 3][..dim], &Update::at(5)).unwrap();
    }
    store.commit(b"").unwrap();
    let written = place.json("export s --all --format npz --to out");
    let of = |at: usize| (written[at]["table"].as_str().unwrap(), written[at]["rows"].as_u64().unwrap());
    assert_eq!([of(0), of(1)], [("users", 1), ("items", 1)]);
    assert!(place.path("out/users.npz").exists() && place.path("out/items.npz").exists());
    place.fails("export s --all --format npz --to out", 1, &["out cannot be made"]);
    for line in ["export s --all --to other", "export s --to x.npz", "export s --all --table users --format npz --to x"] {
        assert_eq!(place.run(line).code, Some(2), "{line}");
    }
    store.create_table(TableSchema::new("up/../there", 1)).unwrap();
    store.commit(b"").unwrap();
    place.fails("export s --all --format npz --to third", 1, &["no file can be called after table 'up/../there'"]);
    assert!(!place.path("third").exists());
}
