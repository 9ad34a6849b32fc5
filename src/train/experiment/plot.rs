//! Curves as SVG.
#![forbid(unsafe_code)]

use plotters::prelude::*;

use super::outcome::{Figure, Point};
use crate::{Error, Result};

const SIZE: (u32, u32) = (900, 540);
const MARGIN: u32 = 16;
/// Numbers beyond it are left out: axes are counted in ones and in tenths of them.
const LARGEST: f64 = 1e15;
/// Colours that are told apart on white and on black, also by who sees few (Okabe and Ito 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x80, 0x80, 0x80),
    RGBColor(0xa0, 0x52, 0x2d),
];

fn can_be_drawn(point: &Point) -> bool {
    [point.x, point.y].iter().all(|value| value.abs() <= LARGEST) && bar(point).abs() <= LARGEST
}

/// Half the height of a point's bar.
fn bar(point: &Point) -> f64 {
    point.half_width.unwrap_or(0.0)
}

/// The smallest and largest of some numbers, apart.
fn range(values: impl Iterator<Item = f64>, around: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    match low <= high {
        true => {
            let room = ((high - low) * around).max(1e-6).max(1e-6 * low.abs().max(high.abs()));
            (low - room, high + room)
        }
        false => (0.0, 1.0),
    }
}

impl Figure {
    /// The figure as a whole SVG document; bars are 95 % confidence intervals.
    ///
    /// # Errors
    /// What cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&mut text).map_err(|error| Error::Model(format!("the figure '{}' cannot be drawn: {error}", self.title)))?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let points = || self.curves.iter().flat_map(|curve| &curve.points).filter(|point| can_be_drawn(point));
        let (left, right) = range(points().map(|point| point.x), 0.02);
        let (low, high) = range(points().flat_map(|point| [point.y - bar(point), point.y + bar(point)]), 0.05);
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 20))
            .margin(MARGIN)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(left..right, low..high)?;
        chart.configure_mesh().x_desc(&self.x).y_desc(&self.y).max_light_lines(0).bold_line_style(BLACK.mix(0.1)).draw()?;
        for (number, curve) in self.curves.iter().enumerate() {
            let style = COLOURS[number % COLOURS.len()].stroke_width(2);
            let drawable = || curve.points.iter().filter(|point| can_be_drawn(point));
            let drawn = chart.draw_series(LineSeries::new(drawable().map(|point| (point.x, point.y)), style))?;
            drawn.label(&curve.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            let bars = drawable().filter(|point| point.half_width.is_some());
            chart.draw_series(bars.map(|point| {
                let (low, high) = (point.y - bar(point), point.y + bar(point));
                ErrorBar::new_vertical(point.x, low, point.y, high, style, 6)
            }))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Curve;
    use super::*;

    #[test]
    fn a_figure_is_drawn_with_its_curves_bars_and_words() {
        let point = |x: u8, y| Point { x: f64::from(x), y, half_width: (x > 0).then_some(0.1) };
        let curve = |name: &str, y| Curve { name: name.into(), points: (0..4).map(|x| point(x, y)).collect() };
        let mut figure = Figure {
            title: "What is shown".into(),
            x: "epoch".into(),
            y: "AUC".into(),
            curves: vec![curve("one", 0.7), curve("another", 0.8)],
        };
        let svg = figure.svg().unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for words in ["What is shown", "epoch", "AUC", "one", "another", "polyline"] {
            assert!(svg.contains(words), "{words}");
        }
        // Nothing to draw, or a single point, is a figure too.
        figure.curves = vec![Curve { name: "alone".into(), points: vec![point(0, f64::NAN)] }];
        assert!(figure.svg().is_ok());
        figure.curves.clear();
        assert!(figure.svg().is_ok());
        // Whatever numbers a file may hold, and words that would be markup.
        let extremes = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, f64::INFINITY, 1e15, -1e15, 1e15 + 1.0, 0.0, -0.0, 1e-300, 3.0];
        for a in extremes {
            for b in extremes {
                let points = [(a, b), (b, a)].map(|(x, y)| Point { x, y, half_width: Some(a) });
                figure.curves = vec![Curve { name: "<script>".into(), points: points.into() }];
                let svg = figure.svg().unwrap();
                assert!(!svg.contains("<script") && !svg.contains("NaN"), "{a} {b}");
            }
        }
    }
}
