//! The chart of a run: a group of bars for each operation and distribution, a bar for each candidate, on a logarithmic scale.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

use crate::report::{Figure, OWN, candidates, short};

const SIZE: (u32, u32) = (1200, 560);
const COLOURS: [RGBColor; 9] = [
    RGBColor(170, 170, 170),
    RGBColor(110, 110, 110),
    RGBColor(200, 30, 50),
    RGBColor(30, 110, 180),
    RGBColor(100, 170, 220),
    RGBColor(60, 150, 90),
    RGBColor(230, 150, 40),
    RGBColor(140, 90, 170),
    RGBColor(150, 110, 80),
];

/// Figures of dim 64, batches of 4,096 and one thread, or what is nearest to that.
fn chosen(figures: &[Figure]) -> Vec<&Figure> {
    let keyed: Vec<&Figure> = figures.iter().filter(|figure| figure.batch.is_some()).collect();
    let nearest = |of: fn(&Figure) -> u32, wanted: u32| keyed.iter().map(|figure| of(figure)).min_by_key(|v| v.abs_diff(wanted));
    let batch = |figure: &Figure| figure.batch.unwrap_or(0);
    let wanted = (nearest(|figure| figure.dim, 64), nearest(batch, 4096), nearest(|figure| figure.threads, 1));
    let fits = |figure: &&Figure| (Some(figure.dim), Some(batch(figure)), Some(figure.threads)) == wanted;
    keyed.iter().copied().filter(fits).collect()
}

pub(crate) fn draw(path: &Path, results: &Value, figures: &[Figure]) -> Result<(), Box<dyn Error>> {
    let chosen = chosen(figures);
    let Some(first) = chosen.first() else { return Err("there are no figures of batches to draw".into()) };
    let group = |figure: &Figure| format!("{}, {}", figure.operation, figure.distribution.as_deref().unwrap_or("?"));
    let mut groups: Vec<String> = chosen.iter().map(|figure| group(figure)).collect();
    groups.dedup();
    let names = candidates(figures);
    let rates = || chosen.iter().map(|figure| figure.rows_per_second / 1e6);
    let (low, high) = (rates().fold(f64::MAX, f64::min) / 2.0, rates().fold(0.0, f64::max) * 2.0);

    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let said = |name: &str| results[name].as_str().unwrap_or("?").to_owned();
    let title = format!(
        "M rows/s: dim {}, batches of {}, {} thread; {}, {}",
        first.dim,
        first.batch.unwrap_or(0),
        first.threads,
        said("machine"),
        said("date")
    );
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..groups.len() as f64, (low..high).log_scale())?;
    // Names of groups are written below by hand: a tick of a number is no place between two.
    chart.configure_mesh().disable_x_mesh().x_labels(0).y_desc("M rows/s (logarithmic)").draw()?;
    let width = 0.86 / names.len() as f64;
    for (bar, name) in names.iter().enumerate() {
        let colour = COLOURS[bar % COLOURS.len()];
        let bars = chosen.iter().filter(|figure| figure.candidate == *name).filter_map(|figure| {
            let at = groups.iter().position(|other| *other == group(figure))?;
            let left = at as f64 + 0.07 + bar as f64 * width;
            Some(Rectangle::new([(left, low), (left + width * 0.92, figure.rows_per_second / 1e6)], colour.filled()))
        });
        let label = if *name == OWN { format!("{OWN} (this store)") } else { short(name).to_owned() };
        chart
            .draw_series(bars)?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    }
    for (at, name) in groups.iter().enumerate() {
        let place = chart.backend_coord(&(at as f64 + 0.07, low));
        root.draw(&Text::new(name.clone(), (place.0, place.1 + 10), ("sans-serif", 14)))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}
