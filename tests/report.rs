//! `report` by the command line: experiments and jobs on one page, which a browser shows.
#![cfg(feature = "cli")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod command;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use command::{Place, skipped};

/// An experiment, and one job of each kind, one of them in two runs; the page's name.
fn runs(place: &Place) -> &'static str {
    std::fs::create_dir(place.path("runs")).unwrap();
    let small = "--samples 1500 --users 60 --items 30 --seeds 2 --factors 2 --batch-size 64 --memory-budget 24MiB --epochs 1";
    place.ok(&format!("experiment collisions {small} --out runs"));
    let clicks = "train deepfm --samples 12000 --users 900 --items 90 --batch-size 64 --hot-rows 90 --store clicks \
                  --commit-every 10 --record runs/clicks.jsonl";
    place.ok(&format!("{clicks} --max-samples 6400"));
    place.ok(clicks);
    place.ok("train deepfm --online --replica copy --store online --samples 3000 --users 90 --items 30 --sync-every 1000 \
              --record runs/online.jsonl");
    place.ok("train dce --customers 40 --days 60 --session-epochs 1 --customer-epochs 1 --head-epochs 2 --store bank \
              --commit-every 5 --hot-rows 400 --record runs/bank.jsonl");
    let said = place.json("report runs");
    assert_eq!(said["runs"].as_array().unwrap().len(), 4, "{said}");
    "runs/report.html"
}

#[test]
fn experiments_and_jobs_stand_on_one_page_by_themselves() {
    let place = Place::new();
    let page = std::fs::read_to_string(place.path(runs(&place))).unwrap();
    for words in [
        "<!doctype html>",
        "experiment collisions, synthetic",
        "collisionless is better by, pass 1",
        "train deepfm, synthetic clicks",
        "resumed from",
        "AUC by window",
        "Rows by tier",
        "Memory and disk",
        "cold rows on disk",
        "train online",
        "AUC of the serving copy",
        "train dce, bank",
        "takeover: learned from",
        "DCE and hand counts",
        "loss of the session encoder so far",
        "MiB of cold rows on disk",
        "synthetic data",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(words), "the page has no '{words}'");
    }
    assert_eq!(page.matches("<section").count(), 4);
    assert!(page.matches("<svg").count() >= 12 && page.matches("<svg").count() == page.matches("</svg>").count());
    // Nothing is loaded from elsewhere: no element that would, and no address but that of SVG's names.
    for outside in ["<script", "<link", "<img", "<iframe", "url(", "@import", " src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(
        page.matches("http").count(),
        page.matches("http://www.w3.org/2000/svg").count() + page.matches("http-equiv").count()
    );
    // The same runs make the same page, wherever it is written.
    place.ok("report runs --out elsewhere.html");
    assert_eq!(std::fs::read_to_string(place.path("elsewhere.html")).unwrap(), page);
}

#[test]
fn what_cannot_be_shown_is_said() {
    let place = Place::new();
    place.fails("report nowhere", 1, &["nowhere"]);
    std::fs::create_dir(place.path("runs")).unwrap();
    place.fails("report runs", 2, &["holds no run", "train --record"]);
    std::fs::write(place.path("runs/a.json"), "{\"experiment\": [").unwrap();
    place.fails("report runs", 1, &["a.json:1", "experiment --out"]);
    std::fs::remove_file(place.path("runs/a.json")).unwrap();
    std::fs::write(place.path("runs/b.jsonl"), "{\"begun\":{}}\n").unwrap();
    place.fails("report runs", 1, &["b.jsonl:1", "train --record"]);
    std::fs::write(place.path("notes"), "mine").unwrap();
    place.fails("train deepfm --samples 100 --store x --record notes", 2, &["notes", "no record"]);
    assert_eq!(std::fs::read_to_string(place.path("notes")).unwrap(), "mine");
}

/// A browser that shows pages without a screen.
fn browser() -> Option<&'static str> {
    let there = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(there)
}

/// The page as the browser has it, with a size of its window.
fn shown(browser: &str, page: &Path, profile: &Path) -> String {
    let dom = profile.with_extension("dom");
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .stdout(std::fs::File::create(&dom).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{browser}: {status}");
            return std::fs::read_to_string(&dom).unwrap();
        }
        if begun.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("{browser} never ended");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A page of the test's own in which the report lies: its script may look at what the browser made of it, the report has none.
const PROBE: &str = r"<!doctype html><title>probe</title><iframe id=f style='width:1100px;height:800px' srcdoc='REPORT'></iframe>
<p id=seen></p><script>
const frame = document.getElementById('f');
frame.onload = () => {
  const page = frame.contentDocument, sizes = [...page.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect());
  const drawn = sizes.filter(size => size.width > 300 && size.height > 150).length;
  const lines = page.querySelectorAll('svg polyline').length, tables = page.querySelectorAll('table').length;
  const wide = page.documentElement.scrollWidth > page.documentElement.clientWidth;
  const links = [...page.querySelectorAll('a')].filter(a => page.querySelector(a.getAttribute('href'))).length;
  document.getElementById('seen').textContent =
    `drawn ${drawn} of ${sizes.length}, lines ${lines}, tables ${tables}, links ${links}, wide ${wide}, title ${page.title}`;
};
</script>";

#[test]
fn a_browser_draws_every_figure_and_table() {
    let Some(browser) = browser() else {
        return skipped("neither chromium nor google-chrome is installed, so no browser has shown the report");
    };
    let place = Place::new();
    let page = std::fs::read_to_string(place.path(runs(&place))).unwrap();
    let figures = page.matches("<svg").count();
    let quoted = page.replace('&', "&amp;").replace('\'', "&#39;");
    std::fs::write(place.path("probe.html"), PROBE.replace("REPORT", &quoted)).unwrap();
    let dom = shown(browser, &place.path("probe.html"), &place.path("profile"));
    let seen = dom.rsplit_once("id=\"seen\">").unwrap().1.split('<').next().unwrap();
    println!("{seen}");
    let said = format!("drawn {figures} of {figures}, ");
    assert!(seen.starts_with(&said) && seen.contains("links 4, wide false, title Embedrock: runs"), "{seen}");
    assert!(!seen.contains("lines 0,") && !seen.contains("tables 0,"), "{seen}");
}
