//! What can happen to a store's files and disk: a flipped byte, a cut log, no space, no permission. Always a clear sentence, and
//! nothing that was committed is lost.
#![cfg(feature = "cli")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use std::path::Path;

use command::{Place, files_below, in_own_mounts, skipped, system};

/// Commits, bases and cold rows in little time.
const TRAIN: &str = "train deepfm --store s --batch-size 64 --factors 4 --memory-budget 24MiB --hot-rows 200 --commit-every 4 \
                     --checkpoint-every 3";

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// The kind of a store's file, where it is one that recovery may need.
fn kind(file: &Path) -> Option<&'static str> {
    let name = file.to_str().unwrap();
    match name {
        "IDENTITY" => Some("IDENTITY"),
        "DURABLE" => Some("DURABLE"),
        // STATUS is a notice of what a process does, for `inspect --watch`, which refuses one that is not whole: no part of the store.
        _ if name.starts_with("live/") || name == "LOCK" || name == "STATUS" => None,
        _ if name.starts_with("log/") => Some("log"),
        _ if name.ends_with("/hot.rows") => Some("hot.rows"),
        _ if name.contains("/cold/") && name.ends_with(".sst") => Some("SST"),
        _ if name.contains("/cold/") => Some("RocksDB's own"),
        _ if name.ends_with("/MANIFEST") => Some("MANIFEST"),
        _ => panic!("verify may not know of {name}"),
    }
}

#[test]
fn a_flipped_byte_is_found_in_each_kind_of_file() {
    let place = Place::new();
    place.ok(&format!("{TRAIN} --samples 3000"));
    assert!(place.ok("verify s").contains("s: sound"));
    let mut kinds = std::collections::BTreeSet::new();
    for file in files_below(&place.path("s")) {
        let (Some(kind), path) = (kind(&file), place.path("s").join(&file)) else { continue };
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        for at in (0..8).map(|part| part * length / 8).chain([length.saturating_sub(1)]).filter(|at| *at < length) {
            flip(&path, at);
            let ran = place.run("verify s");
            assert_eq!(ran.code, Some(1), "byte {at} of {}: {ran:?}", file.display());
            let named = format!("DAMAGED s/{} at byte ", file.display());
            let found = ran.out.lines().find_map(|line| line.strip_prefix(&named));
            let found = found.unwrap_or_else(|| panic!("byte {at} of {}: {}", file.display(), ran.out));
            let offset: usize = found.split(':').next().unwrap().parse().unwrap();
            assert!(offset <= at && at - offset < 1 << 16, "byte {at} of {} was reported at {offset}", file.display());
            assert!(ran.out.contains("s: damaged"), "{ran:?}");
            flip(&path, at);
            kinds.insert(kind);
        }
    }
    assert!(place.ok("verify s").contains("s: sound"));
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    let newest = files_below(&place.path("s/log")).pop().unwrap();
    flip(&place.path("s/log").join(&newest), 200);
    let json: serde_json::Value = serde_json::from_str(&place.run("verify s --json").out).unwrap();
    assert!(json["damage"][0]["path"].as_str().unwrap().ends_with(newest.to_str().unwrap()), "{json}");
}

fn last_log(store: &Path) -> std::path::PathBuf {
    store.join("log").join(files_below(&store.join("log")).pop().unwrap())
}

#[test]
fn a_cut_log_is_reported_and_a_lost_commit_is_damage() {
    let place = Place::new();
    let train = TRAIN.replace("--commit-every 4", "--commit-every 16").replace("--checkpoint-every 3", "--checkpoint-every 0");
    let train = format!("{train} --samples 2048");
    place.ok(&format!("{train} --max-samples 1024"));
    let (mark, digest) = (std::fs::read(place.path("s/DURABLE")).unwrap(), place.digest("s"));
    let committed = std::fs::metadata(last_log(&place.path("s"))).unwrap().len();
    // Batches of this run, and a commit of which a crash left half, as its mark was not published yet.
    place.ok(&train);
    let whole = place.digest("s");
    let (log, segments) = (last_log(&place.path("s")), files_below(&place.path("s/log")).len());
    let bytes = std::fs::read(&log).unwrap();
    let half = bytes.len() / 2;
    std::fs::write(&log, &bytes[..half]).unwrap();
    system(&["cp", "-a", place.path("s").to_str().unwrap(), place.path("crashed").to_str().unwrap()]);
    std::fs::write(place.path("crashed/DURABLE"), &mark).unwrap();
    let cut = if segments == 1 { half as u64 - committed } else { half as u64 - 88 };

    let verified = place.ok("verify crashed");
    assert!(verified.contains(&format!("{cut} bytes after the last commit are cut at the next open")), "{verified}");
    assert!(verified.contains("the newest commit is 1.1") && verified.contains("crashed: sound"), "{verified}");
    let inspected = place.ok("inspect crashed");
    assert!(inspected.contains(&format!("{cut} bytes of log after the last commit were cut")), "{inspected}");
    assert_eq!(place.json("inspect crashed")["bytes_cut"].as_u64(), Some(cut));
    assert_eq!(place.digest("crashed"), digest);
    let resumed = place.json(&train.replace("--store s", "--store crashed"));
    assert_eq!(resumed["resumed_from"], "1.1");
    assert_eq!(place.digest("crashed"), whole);
    assert!(place.ok("verify crashed").contains("crashed: sound"));

    // The same cut after the mark said that the commit was durable: a disk lost it.
    let name = log.strip_prefix(place.path("")).unwrap().display().to_string();
    place.fails("inspect s", 1, &[&format!("{name} is damaged at byte"), "commit 1.2", "was durable"]);
    place.fails(&train, 1, &["was durable"]);
    let ran = place.run("verify s");
    assert!(ran.code == Some(1) && ran.out.contains(&format!("DAMAGED {name} at byte")), "{ran:?}");
    place.ok("restore s --to rescued --at 1.1");
    assert_eq!(place.digest("rescued"), digest);
}

#[test]
fn a_directory_that_cannot_be_written_is_read_and_left_alone() {
    if !in_own_mounts("a_directory_that_cannot_be_written_is_read_and_left_alone") {
        return;
    }
    let place = Place::new();
    place.ok(&format!("{TRAIN} --samples 600"));
    let (digest, store) = (place.digest("s"), place.path("s").display().to_string());
    let before = files_below(&place.path("s"));
    system(&["mount", "--bind", &store, &store]);
    system(&["mount", "-o", "remount,bind,ro", &store]);
    assert!(place.ok("verify s").contains("s: sound"));
    place.ok("restore s --to t");
    for line in ["inspect s", "checkpoint s", &format!("{TRAIN} --samples 900")] {
        place.fails(line, 1, &["s/LOCK cannot be written (opened to be read only, a read-only disk, or no permission)"]);
    }
    place.fails("train deepfm --store s/new --samples 10", 1, &["s/new cannot be written"]);
    place.fails("generate --to s/f --samples 10", 1, &["cannot create s/f", "Read-only"]);
    system(&["umount", &store]);
    assert_eq!(files_below(&place.path("s")), before);
    assert_eq!((place.digest("s"), place.digest("t")), (digest.clone(), digest));
}

#[test]
fn a_full_disk_loses_nothing_and_the_job_goes_on_when_there_is_space() {
    if !in_own_mounts("a_full_disk_loses_nothing_and_the_job_goes_on_when_there_is_space") {
        return;
    }
    let place = Place::new();
    let disk = place.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let resize = |size: &str| system(&["mount", "-o", &format!("remount,size={size}"), disk.to_str().unwrap()]);
    for (name, more) in [("spilling", "--hot-rows 300"), ("in memory", "")] {
        system(&["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk.to_str().unwrap()]);
        let train =
            format!("train deepfm --batch-size 64 --factors 16 --samples 12000 --memory-budget 24MiB --commit-every 7 {more}");
        place.ok(&format!("{train} --store whole"));
        let mut stops = 0;
        for size in ["2m", "3m", "4m", "5m", "6m", "8m", "10m", "14m", "20m", "40m"] {
            resize(size);
            let ran = place.run(&format!("{train} --store disk/s"));
            if ran.code == Some(0) {
                break;
            }
            stops += 1;
            assert_eq!(ran.code, Some(1), "{name} in {size}: {ran:?}");
            assert!(ran.err.contains("no space left to") && ran.err.contains("nothing was lost"), "{name} in {size}: {ran:?}");
            // The commits before it are whole, also on a disk that is still full.
            let verified = place.run("verify disk/s");
            assert!(verified.code == Some(0) && verified.out.contains("disk/s: sound"), "{name} in {size}: {verified:?}");
        }
        assert!(stops >= 3, "{name}: the disk was full only {stops} times");
        assert_eq!(place.digest("disk/s"), place.digest("whole"), "{name}");
        std::fs::remove_dir_all(place.path("whole")).unwrap();
        system(&["umount", disk.to_str().unwrap()]);
    }
}

#[test]
fn a_file_that_may_not_grow_is_as_a_full_disk() {
    let place = Place::new();
    // The limit's signal would end the program: ignored, the write fails instead, as on a full disk.
    let words =
        "trap '' XFSZ && ulimit -f 200 && exec \"$0\" train deepfm --store s --samples 20000 --batch-size 64 --commit-every 5";
    let run = std::process::Command::new("bash")
        .args(["-c", words, env!("CARGO_BIN_EXE_embedrock")])
        .current_dir(place.path(""))
        .output();
    let Ok(run) = run else { return skipped("a_file_that_may_not_grow_is_as_a_full_disk: there is no bash") };
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.code() == Some(1) && said.contains("no space left to"), "{run:?}");
    assert!(place.ok("verify s").contains("s: sound"));
    assert_ne!(place.json("inspect s")["last_commit"], serde_json::Value::Null);
}
