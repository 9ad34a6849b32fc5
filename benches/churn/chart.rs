//! Charts of a run over time, as SVG.

use std::fmt::Write;

use crate::samples::Sample;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 34.0;
const RIGHT: f64 = 16.0;
const COLOURS: [&str; 5] = ["#c81e32", "#1e6eb4", "#3c965a", "#e69628", "#8c5aaa"];
/// Points of a line: each the mean of some samples.
const POINTS: usize = 300;

pub(crate) struct Chart {
    pub(crate) name: &'static str,
    title: &'static str,
    minutes: Vec<f64>,
    lines: Vec<(&'static str, Vec<f64>)>,
}

/// The charts of a run.
pub(crate) fn charts(samples: &[Sample]) -> Vec<Chart> {
    let group = samples.len().div_ceil(POINTS).max(1);
    let groups: Vec<&[Sample]> = samples.chunks(group).collect();
    let minutes: Vec<f64> = groups.iter().filter_map(|group| group.last()).map(|sample| sample.seconds / 60.0).collect();
    let most = |of: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
        groups.iter().map(|group| group.iter().map(of).fold(0.0, f64::max)).collect()
    };
    // The change from one group to the next, for each of another count's.
    let rate = |of: &dyn Fn(&Sample) -> f64, by: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
        let ends: Vec<&Sample> = samples.first().into_iter().chain(groups.iter().filter_map(|group| group.last())).collect();
        ends.windows(2).map(|pair| (of(pair[1]) - of(pair[0])) / (by(pair[1]) - by(pair[0])).max(1e-9)).collect()
    };
    let keys = |s: &Sample| s.keys as f64;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    vec![
        Chart {
            name: "rate",
            title: "Keys looked up and trained, thousands a second",
            minutes: minutes.clone(),
            lines: vec![("keys", rate(&|s| s.keys as f64 / 1e3, &|s| s.seconds))],
        },
        Chart {
            name: "memory",
            title: "Memory, MiB",
            minutes: minutes.clone(),
            lines: vec![
                ("accounted", most(&|s| mib(s.accounted as f64))),
                ("RssAnon", most(&|s| mib(s.rss_anon as f64))),
                ("RssFile", most(&|s| mib(s.rss_file as f64))),
            ],
        },
        Chart {
            name: "disk",
            title: "Disk, MiB",
            minutes: minutes.clone(),
            lines: vec![
                ("all", most(&|s| mib(s.disk_bytes as f64))),
                ("cold tier", most(&|s| mib(s.cold_bytes as f64))),
                ("log", most(&|s| mib(s.log_bytes as f64))),
                ("bases", most(&|s| mib(s.base_bytes as f64))),
            ],
        },
        Chart { name: "files", title: "Files", minutes: minutes.clone(), lines: vec![("files", most(&|s| s.files as f64))] },
        Chart {
            name: "hits",
            title: "Share of looked up keys",
            minutes: minutes.clone(),
            lines: vec![
                ("in memory", rate(&|s| s.hot_hits as f64, &keys)),
                ("cold", rate(&|s| s.cold_hits as f64, &keys)),
                ("refused at the update", rate(&|s| s.refused as f64, &keys)),
            ],
        },
        Chart {
            name: "rows",
            title: "Rows, thousands",
            minutes,
            lines: vec![("in memory", most(&|s| s.hot_rows as f64 / 1e3)), ("cold keys", most(&|s| s.cold_keys as f64 / 1e3))],
        },
    ]
}

/// The least of 1, 2 and 5 times a power of ten that is not under a value.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= value).unwrap_or(value)
}

impl Chart {
    pub(crate) fn svg(&self) -> String {
        let highest = round_up(self.lines.iter().flat_map(|(_, line)| line).copied().fold(0.0, f64::max));
        let longest = self.minutes.last().copied().unwrap_or(1.0).max(1e-9);
        let x = |minute: f64| LEFT + minute / longest * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n",
            self.title
        );
        for step in 0..=5 {
            let value = highest * f64::from(step) / 5.0;
            let (x, y) = (LEFT - 6.0, y(value));
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/><text x=\"{x}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                y + 4.0,
                (value * 100.0).round() / 100.0
            );
            let minute = longest * f64::from(step) / 5.0;
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{} min</text>",
                x_of(minute, longest),
                HEIGHT - 12.0,
                (minute * 10.0).round() / 10.0
            );
        }
        for (at, (name, values)) in self.lines.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let points: Vec<String> =
                self.minutes.iter().zip(values).map(|(minute, value)| format!("{:.1},{:.1}", x(*minute), y(*value))).collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
                points.join(" ")
            );
            let right = WIDTH - RIGHT - 150.0 * (self.lines.len() - at) as f64;
            let _ = writeln!(out, "<text x=\"{right}\" y=\"20\" fill=\"{colour}\">{name}</text>");
        }
        out.push_str("</svg>\n");
        out
    }
}

fn x_of(minute: f64, longest: f64) -> f64 {
    LEFT + minute / longest * (WIDTH - LEFT - RIGHT)
}
