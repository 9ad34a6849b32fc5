//! The command that trains online, killed at any moment.
#![cfg(feature = "cli")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use command::Place;

#[test]
fn a_killed_online_job_goes_on_to_the_same_rows() {
    let place = Place::new();
    let line = "train deepfm --online --samples 60000 --users 500 --items 200 --batch-size 64 --factors 4 --sync-every 2000 --memory-budget 24MiB \
                --negatives 0.5 --checkpoint-every 4";
    let whole = place.json(&format!("{line} --store whole --replica whole-copy"));
    let auc = whole["auc"].as_f64().unwrap();
    assert!(auc > 0.6 && whole["joined"].as_u64().unwrap() > 1000 && whole["late"] == 0, "{whole}");
    let mut kills = 0;
    for _ in 0..30 {
        let mut job = place.start(&format!("{line} --store s --replica copy"));
        std::thread::sleep(std::time::Duration::from_millis(150 + 40 * kills));
        if job.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        job.kill().unwrap();
        job.wait().unwrap();
        kills += 1;
    }
    assert!(kills > 0, "it was never killed");
    let resumed = place.json(&format!("{line} --store s --replica copy"));
    assert_eq!((&resumed["auc"], &resumed["auc_by_interval"]), (&whole["auc"], &whole["auc_by_interval"]));
    assert_eq!(place.digest("s"), place.digest("whole"));
    // What the copy serves is the store's last commit.
    let followed = place.json("follow s --replica copy --once");
    assert_eq!((&followed["commit"], &followed["lag_commits"]), (&resumed["commit"], &serde_json::json!(0)));
    place.fails(&format!("{line} --store s --replica copy --seed 5"), 2, &["begun with seed 1, join seed 1, not with seed 5"]);
    assert_eq!(place.run("train deepfm --store s --online").code, Some(2));
}
