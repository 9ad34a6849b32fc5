//! The Entree restaurant guide: what hosts did in its sessions, 1996 to 1999.
//!
//! A line is `time <tab> host <tab> events`: an event is a restaurant's number with the letter of an action, the first and the last
//! one have none or one of their own. Letters of actions: `L` browse, `M` cheaper, `N` nicer, `O` closer, `P` more traditional, `Q` more
//! creative, `R` livelier, `S` quieter, `T` another cuisine. Two things are asked at the beginning of a session: whether
//! `N` will be in it, and whether any of `M` to `T`. A session's end is not in the file: it is known when it began.
#![forbid(unsafe_code)]

use std::path::Path;

use super::{Label, Session, Sessions, Task, When, calendar, event};
use crate::Result;
use crate::train::data::text::{Lines, fingerprint};
use crate::types::mix;

pub(super) fn read(path: &Path) -> Result<Sessions> {
    let mut lines = Lines::open(path)?;
    let mut sessions = Vec::new();
    lines.each("it is not 'time <tab> host <tab> events' of the Entree data", parse, |session| sessions.push(session))?;
    let task = |name| Task { name, classes: 2, when: When::Login };
    Ok(Sessions {
        format: "entree",
        name: path.display().to_string(),
        synthetic: false,
        fingerprint: fingerprint(path, "entree")?,
        tasks: vec![task("nicer"), task("any tweak")],
        context: 0,
        split: None,
        sessions,
    })
}

fn parse(line: &str) -> Option<Session> {
    let mut columns = line.split('\t');
    let (time, host, steps) = (calendar::seconds(columns.next()?)?, columns.next()?, columns.next()?);
    let host: u64 = host.parse().ok()?;
    let mut events = Vec::new();
    let (mut nicer, mut tweak) = (false, false);
    for (at, step) in steps.split(' ').filter(|step| !step.is_empty()).enumerate() {
        let action = step.trim_start_matches(|c: char| c.is_ascii_digit());
        // How a host came in: by a restaurant that they know, or by what they look for.
        let name = if at == 0 { if step == "0" { "in" } else { "like" } } else { action };
        events.push(event(1, name));
        nicer |= action == "N";
        tweak |= matches!(action, "M" | "N" | "O" | "P" | "Q" | "R" | "S" | "T");
    }
    let label = |yes: bool| Some(Label { class: u32::from(yes), known: time });
    let labels = vec![label(nicer), label(tweak)];
    Some(Session { customer: mix(host ^ 0xe47), start: time, end: time, events, context: Vec::new(), labels, probe: false })
}
