//! Records that crash and go on, files that hold something else, words that would be markup.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::train::Rows;
use crate::train::experiment::{Cell, Curve, Point};

fn begun(resumed_from: Option<&str>) -> Begun {
    Begun::new("deepfm", "made up".into(), true, "samples", resumed_from.map(str::to_string))
}

fn moment(at: u64, hot: u64) -> Moment {
    let measures = BTreeMap::from([("AUC".to_string(), 0.5 + at as f64 / 1_000.0)]);
    Moment { at, seconds: 1.0, measures, rows: Rows { total: 2 * hot, hot, cold: hot, ..Rows::default() } }
}

fn ended() -> Ended {
    let figure = Figure { title: "a curve".into(), x: "x".into(), y: "y".into(), curves: Vec::new() };
    Ended { facts: vec![("commit".into(), "1.7".into())], figures: vec![figure], rows: moment(40, 4).rows, ..Ended::default() }
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn numbers_that_are_none_are_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let point = Point { x: 1.0, y: f64::NAN, half_width: None };
    let figure =
        Figure { title: "t".into(), x: "x".into(), y: "y".into(), curves: vec![Curve { name: "c".into(), points: vec![point] }] };
    let recorder = Recorder::open(&dir.path().join("job.jsonl"), begun(None)).unwrap();
    recorder.end(Ended { figures: vec![figure], ..Ended::default() }).unwrap();
    let runs = gather(dir.path()).unwrap();
    assert!(runs[0].figures[0].curves[0].points[0].y.is_nan() && html(&runs).is_ok());
}

/// The error of a directory with this file.
fn refused(name: &str, text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    file(&dir, name, text);
    let error = gather(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Input { .. }), "{error:?}");
    error.to_string()
}

fn curve(run: &Run, title: &str, name: &str) -> Vec<(f64, f64)> {
    let figure = run.figures.iter().find(|figure| figure.title == title).unwrap();
    let curve = figure.curves.iter().find(|curve| curve.name == name).unwrap();
    curve.points.iter().map(|point| (point.x, point.y)).collect()
}

#[test]
fn a_record_that_crashed_and_went_on_is_one_job() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.jsonl");
    let mut first = Recorder::open(&path, begun(None)).unwrap();
    [10, 20, 30].into_iter().for_each(|at| first.note(moment(at, at), true));
    drop(first);
    // A crash in the middle of a line, after which the job goes on from 15.
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 9]).unwrap();
    assert_eq!(curve(&gather(dir.path()).unwrap()[0], "AUC so far", "AUC").len(), 2);
    let mut second = Recorder::open(&path, begun(Some("1.3"))).unwrap();
    [15, 25, 40].into_iter().for_each(|at| second.note(moment(at, 1), true));
    second.end(ended()).unwrap();
    Recorder::open(&path, begun(None)).unwrap().end(Ended::default()).unwrap();
    let runs = gather(dir.path()).unwrap();
    let [run, other] = &runs[..] else { panic!("{runs:?}") };
    assert_eq!(curve(run, "AUC so far", "AUC"), [(10.0, 0.51), (15.0, 0.515), (25.0, 0.525), (40.0, 0.54)]);
    assert_eq!(curve(run, "Rows by tier", "cold"), [(10.0, 10.0), (15.0, 1.0), (25.0, 1.0), (40.0, 1.0)]);
    let fact = |name: &str, value: &str| (name.to_string(), value.to_string());
    assert_eq!(run.facts, [fact("resumed from", "1.3"), fact("commit", "1.7")]);
    assert!(run.figures[0].title == "a curve" && run.tables[0].rows[0][..3] == [8, 4, 4].map(Cell::Count), "{run:?}");
    assert!(other.facts.is_empty() && other.figures.is_empty(), "{other:?}");
    // One that has not ended says so; of many moments not all are drawn, the last one is.
    let path = dir.path().join("long.jsonl");
    let mut long = Recorder::open(&path, begun(None)).unwrap();
    (1..=2_001).for_each(|at| long.note(moment(at, at), true));
    let runs = gather(dir.path()).unwrap();
    let drawn = curve(&runs[2], "Rows by tier", "all");
    assert!(drawn.len() <= 402 && drawn.last() == Some(&(2_001.0, 4_002.0)), "{}", drawn.len());
    assert!(runs[2].facts[0].1.contains("not ended"));
}

#[test]
fn moments_are_kept_once_a_second_and_after_commits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.jsonl");
    let mut recorder = Recorder::open(&path, begun(None)).unwrap();
    (1..=50).for_each(|at| recorder.note(moment(at, at), at % 25 == 0));
    let lines = std::fs::read_to_string(&path).unwrap().lines().count();
    assert!((4..10).contains(&lines), "the first line, the first moment, and those after two commits, not {lines}");
    let other = file(&dir, "notes.txt", "my notes\n");
    assert!(matches!(Recorder::open(&other, begun(None)), Err(Error::InvalidOption { option: "record", .. })));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "my notes\n");
}

#[test]
fn files_that_hold_something_else_are_named() {
    let empty = tempfile::tempdir().unwrap();
    file(&empty, "report.html", "<html>");
    assert!(matches!(gather(empty.path()), Err(Error::InvalidOption { option: "DIR", .. })));
    assert!(matches!(gather(&empty.path().join("nowhere")), Err(Error::Io { .. })));
    let deep = "[".repeat(100_000);
    for text in ["", "{}", "[1]", "{\"experiment\": 3}", "\u{0}", deep.as_str()] {
        assert!(refused("a.json", text).contains("a.json:"), "{text:.20}");
    }
    let line = serde_json::to_string(&Line::Begun(begun(None))).unwrap();
    for (text, said) in [
        ("", ":1: it holds no run"),
        ("{}\n", ":1: it is not a line"),
        ("{\"at\":{}}\n", ":1: it is not a line"),
        (&format!("{line}\n{{\"at\":{{}}}}\n"), ":2: it is not a line"),
        (&format!("{line}\n{line}\nx\n{line}\n"), ":3: it is not a line"),
        (&line.replace("\"version\":1", "\"version\":2"), "version 2"),
        (&serde_json::to_string(&Line::At(moment(1, 1))).unwrap(), "no run has begun"),
        (&deep, ":1: it is not a line"),
    ] {
        let error = refused("b.jsonl", text);
        assert!(error.contains("b.jsonl") && error.contains(said), "{text:.80}: {error}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.jsonl"), [b'\n', 0xff, b'\n']).unwrap();
    assert!(gather(dir.path()).unwrap_err().to_string().contains("c.jsonl:2: it is not text"));
}

#[test]
fn words_of_files_are_never_markup() {
    let evil = "<script>alert('\"&')</script>";
    let point = Point { x: f64::MAX, y: f64::MIN, half_width: Some(1e308) };
    let figure = Figure {
        title: evil.into(),
        x: evil.into(),
        y: evil.into(),
        curves: vec![Curve { name: evil.into(), points: vec![point, Point { x: 1.0, y: 1.0, half_width: None }] }],
    };
    let grid = Grid { title: evil.into(), columns: vec![evil.into()], rows: vec![vec![Cell::Text(evil.into())], Vec::new()] };
    let ended = Ended { facts: vec![(evil.into(), evil.into())], tables: vec![grid], figures: vec![figure], ..Ended::default() };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(if cfg!(unix) { "<b>.jsonl" } else { "b.jsonl" });
    let begun = Begun { job: evil.into(), data: evil.into(), ..begun(Some(evil)) };
    Recorder::open(&path, begun).unwrap().end(ended).unwrap();
    let page = html(&gather(dir.path()).unwrap()).unwrap();
    assert!(!page.contains("<script") && !page.contains("<b>") && page.contains("&lt;script&gt;alert(&#39;&quot;&amp;&#39;)"));
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
}
