//! Clicks of a shop's anonymous sessions (RecSys 2015, the layout of the session-recommendation samples): `SessionId ItemId Time`.
//!
//! Nobody comes twice, so there is nothing to foretell: the sessions of `train.tsv` teach the session encoder, and it is tried on
//! those of `test.tsv` beside it.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::Path;

use super::{Session, Sessions, event, refused};
use crate::train::data::text::{Lines, fingerprint};
use crate::types::mix;
use crate::{Result, UnixSeconds};

pub(super) fn read(directory: &Path) -> Result<Sessions> {
    let (train, test) = (directory.join("train.tsv"), directory.join("test.tsv"));
    let mut sessions = clicks(&train, 1)?;
    let later = clicks(&test, 2)?;
    let split = later.iter().map(|session| session.start).min();
    if let (Some(split), Some(last)) = (split, sessions.iter().map(|session| session.start).max())
        && last >= split
    {
        let what = format!("{} holds sessions of {split}, when {} begins, or later", train.display(), test.display());
        return Err(refused(what));
    }
    sessions.extend(later);
    let prints = [fingerprint(&train, "yoochoose")?, fingerprint(&test, "yoochoose")?].concat();
    Ok(Sessions {
        format: "yoochoose",
        name: directory.display().to_string(),
        synthetic: false,
        fingerprint: *blake3::hash(&prints).as_bytes(),
        tasks: Vec::new(),
        context: 0,
        split,
        sessions,
    })
}

fn clicks(path: &Path, part: u64) -> Result<Vec<Session>> {
    let mut lines = Lines::open(path)?;
    if lines.next_line()? != Some("SessionId\tItemId\tTime") {
        return Err(lines.error("the first line is not 'SessionId <tab> ItemId <tab> Time'"));
    }
    let (mut sessions, mut places): (Vec<Session>, HashMap<u64, usize>) = Default::default();
    lines.each("it is not a session's number, an item and a time", parse, |(id, item, time)| {
        let place = *places.entry(id).or_insert_with(|| {
            let customer = mix(id ^ part << 60);
            let (events, context, labels) = Default::default();
            sessions.push(Session { customer, start: time, end: time, events, context, labels, probe: false });
            sessions.len() - 1
        });
        let session = &mut sessions[place];
        session.events.push(item);
        session.start = session.start.min(time);
        session.end = session.end.max(time);
    })?;
    Ok(sessions)
}

fn parse(line: &str) -> Option<(u64, u64, UnixSeconds)> {
    let mut columns = line.split('\t');
    let (id, item, time) = (columns.next()?.parse().ok()?, columns.next()?, columns.next()?.parse::<f64>().ok()?);
    let inside = (0.0..f64::from(UnixSeconds::MAX)).contains(&time);
    (inside && !item.is_empty()).then(|| (id, event(1, item), time as UnixSeconds))
}
