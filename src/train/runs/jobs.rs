//! What each kind of job says of itself in a record.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::record::{Ended, Moment};
use crate::train::dce::{DceProgress, DceReport, Stage, TaskReport};
use crate::train::experiment::{Cell, Curve, Figure, Grid, Point};
use crate::train::metrics::CurvePoint;
use crate::train::online::OnlineReport;
use crate::train::{Progress, Report, Rows};

fn measures<const N: usize>(of: [(&str, Option<f64>); N]) -> BTreeMap<String, f64> {
    let finite = of.into_iter().filter_map(|(name, value)| Some((name.to_string(), value.filter(|value| value.is_finite())?)));
    finite.collect()
}

fn facts<const N: usize>(of: [(&str, Option<String>); N]) -> Vec<(String, String)> {
    of.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
}

fn four(value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{value:.4}"))
}

impl From<&Progress> for Moment {
    fn from(progress: &Progress) -> Moment {
        let measures = measures([("AUC", progress.auc), ("log loss", progress.logloss)]);
        Moment { at: progress.samples, seconds: progress.seconds, measures, rows: progress.rows }
    }
}

impl From<&Report> for Ended {
    fn from(report: &Report) -> Ended {
        let facts = facts([
            ("samples", Some(report.samples.to_string())),
            ("positive", Some(format!("{:.1} %", 100.0 * report.positive))),
            ("batches", Some(report.batches.to_string())),
            ("this run", Some(format!("{} samples in {:.1} s", report.samples_of_this_run, report.seconds))),
            ("samples a second", Some(format!("{:.0}", report.rate))),
            ("AUC, each sample predicted before it was learned", four(report.auc)),
            ("AUC of the second half", four(report.auc_second_half)),
            ("log loss", four(report.logloss)),
            ("AUC that the generator's own probabilities reach", four(report.data.best_auc)),
            ("dense weights", Some(report.dense_weights.to_string())),
            ("last commit", report.commit.clone()),
        ]);
        let figure = |name: &str, of: fn(&CurvePoint) -> Option<f64>| {
            let points = report.curve.iter().filter_map(|window| Some(point(window.samples as f64, of(window)?)));
            one(&format!("{name} by window"), "samples", name, points.collect())
        };
        let figures = vec![figure("AUC", |window| window.auc), figure("log loss", |window| Some(window.logloss))];
        Ended { facts, tables: Vec::new(), figures, rows: report.rows }
    }
}

fn point(x: f64, y: f64) -> Point {
    Point { x, y, half_width: None }
}

fn one(title: &str, x: &str, y: &str, points: Vec<Point>) -> Figure {
    let curves = vec![Curve { name: y.into(), points }];
    Figure { title: title.into(), x: x.into(), y: y.into(), curves }
}

/// How an online job stands after a sync: the AUC of the serving copy in the interval before it.
pub fn online_moment(examples: u64, auc: Option<f64>, seconds: f64, rows: Rows) -> Moment {
    Moment { at: examples, seconds, measures: measures([("AUC of the serving copy, by interval", auc)]), rows }
}

impl From<&OnlineReport> for Ended {
    fn from(report: &OnlineReport) -> Ended {
        let facts = facts([
            ("examples", Some(report.examples.to_string())),
            ("AUC of the serving copy", four(report.auc)),
            ("its log loss", four(report.logloss)),
            ("features that met their action", Some(report.joined.to_string())),
            ("that did not", Some(report.timed_out.to_string())),
            ("actions that came too late", Some(report.late.to_string())),
            ("bytes of a sync, this run", Some((report.synced_bytes / report.synced_commits.max(1)).to_string())),
            ("last commit", report.commit.clone()),
        ]);
        let points = report.auc_by_interval.iter().zip(1u32..).map(|(auc, interval)| point(f64::from(interval), *auc));
        let figures = vec![one("AUC of the serving copy", "intervals between syncs", "AUC", points.collect())];
        Ended { facts, tables: Vec::new(), figures, rows: report.rows }
    }
}

impl From<&DceProgress> for Moment {
    fn from(progress: &DceProgress) -> Moment {
        let name = match progress.stage {
            Stage::Sessions => "loss of the session encoder",
            _ => "loss of the customer encoder",
        };
        let measures = measures([(name, progress.loss)]);
        Moment { at: progress.batches, seconds: progress.seconds, measures, rows: progress.rows }
    }
}

impl From<&DceReport> for Ended {
    fn from(report: &DceReport) -> Ended {
        let facts = facts([
            ("sessions", Some(report.sessions.to_string())),
            ("customers", Some(report.customers.to_string())),
            ("sessions learned from", Some(report.train_sessions.to_string())),
            ("seed", Some(report.seed.to_string())),
            ("stage", Some(format!("{:?}", report.stage))),
            ("batches", Some(report.batches.to_string())),
            ("seconds of this run", Some(format!("{:.1}", report.seconds))),
            ("variance of the next session left unexplained", four(report.unexplained)),
            ("half-life of the decayed mean, days", report.half_life_days.map(|days| format!("{days:.2}"))),
            ("weight of everybody in the likelihood, events", report.everybody_weighs.map(|events| events.to_string())),
            ("dense weights", Some(report.dense_weights.to_string())),
            ("last commit", report.commit.clone()),
        ]);
        let tables = said(report).into_iter().chain(report.tasks.iter().map(task)).collect();
        Ended { facts, tables, figures: Vec::new(), rows: report.rows }
    }
}

fn grid<const N: usize>(title: String, columns: [&str; N], rows: Vec<Vec<Cell>>) -> Grid {
    Grid { title, columns: columns.map(str::to_string).to_vec(), rows }
}

fn said(report: &DceReport) -> Option<Grid> {
    let heads = ["sessions", "events", "said back first", "log loss", "most frequent event", "log loss of frequencies"];
    let rows = report.said.as_ref()?.iter().zip(["learned from", "later"]);
    let rows = rows.map(|(said, which)| {
        let loss = |loss: f64| Cell::Text(format!("{loss:.3}"));
        vec![
            Cell::Text(which.into()),
            Cell::Count(said.events),
            Cell::Share(said.accuracy),
            loss(said.loss),
            Cell::Share(said.most_frequent),
            loss(said.frequency_loss),
        ]
    });
    Some(grid("Sessions said back from their vectors".into(), heads, rows.collect()))
}

fn task(task: &TaskReport) -> Grid {
    let number = |value: Option<f64>| Cell::Text(four(value).unwrap_or_else(|| "-".into()));
    let rows = task.figures.iter().map(|figures| {
        let accuracy = figures.logloss.map(|_| figures.accuracy);
        vec![Cell::Text(figures.features.clone()), number(figures.auc), number(accuracy), number(figures.logloss)]
    });
    let title = format!("{}: learned from {} moments, tried on {} later ones", task.name, task.learned, task.tried);
    grid(title, ["features", "AUC", "accuracy", "log loss"], rows.collect())
}
