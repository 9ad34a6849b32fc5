//! The page: one file, with all it shows inside it, readable in light and dark.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::Run;
use crate::Result;
use crate::train::experiment::{Cell, Grid};

/// Nothing may be loaded, whatever a file says: words are escaped, and the browser is told too.
const HEAD: &str = include_str!("head.html");

/// All runs on one page of HTML.
///
/// # Errors
/// A figure that cannot be drawn.
pub fn html(runs: &[Run]) -> Result<String> {
    let mut page = format!("{HEAD}<h1>Embedrock: {} {}</h1>\n<ul>\n", runs.len(), if runs.len() == 1 { "run" } else { "runs" });
    for (run, number) in runs.iter().zip(1..) {
        let title = escaped(&run.title);
        // Writing to a string does not fail, here and below.
        let _ = writeln!(page, "<li><a href=\"#run-{number}\">{title}</a>{}</li>", mark(run));
    }
    page.push_str("</ul>\n");
    for (run, number) in runs.iter().zip(1..) {
        section(run, number, &mut page)?;
    }
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

fn mark(run: &Run) -> &'static str {
    if run.synthetic { " <span class=\"synthetic\">synthetic data</span>" } else { "" }
}

fn section(run: &Run, number: usize, page: &mut String) -> Result<()> {
    let (title, file) = (escaped(&run.title), escaped(&run.file));
    let _ = writeln!(page, "<section id=\"run-{number}\">\n<h2>{title}{}</h2>\n<p>{file}</p>", mark(run));
    if !run.facts.is_empty() {
        page.push_str("<div class=\"wide\"><table>\n");
        for (name, value) in &run.facts {
            let _ = writeln!(page, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escaped(name), escaped(value));
        }
        page.push_str("</table></div>\n");
    }
    run.tables.iter().for_each(|grid| table(grid, page));
    for figure in run.figures.iter().filter(|figure| figure.curves.iter().any(|curve| !curve.points.is_empty())) {
        let _ = writeln!(page, "<figure role=\"img\" aria-label=\"{}\">\n{}</figure>", escaped(&figure.title), figure.svg()?);
    }
    page.push_str("</section>\n");
    Ok(())
}

fn table(grid: &Grid, page: &mut String) {
    let _ = writeln!(page, "<div class=\"wide\"><table>\n<caption>{}</caption>\n<tr>", escaped(&grid.title));
    for column in &grid.columns {
        let _ = write!(page, "<th scope=\"col\">{}</th>", escaped(column));
    }
    page.push_str("</tr>\n");
    for row in &grid.rows {
        page.push_str("<tr>");
        for cell in row {
            let class = if matches!(cell, Cell::Text(_)) { "" } else { " class=\"number\"" };
            let _ = write!(page, "<td{class}>{}</td>", escaped(&cell.to_string()));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}

/// Text as HTML shows it, in an element or an attribute.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}
