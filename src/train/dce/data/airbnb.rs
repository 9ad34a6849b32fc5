//! Web and app sessions of Airbnb's visitors, one line a session, columns between `|`.
//!
//! Events of a session: its device, whether it searched, sent a message, asked for a booking, and how long it took. Asked at
//! login: whether a message will be sent, a stand-in for a call. The context is what the site knows then: the kind of
//! device, and the number of the visitor's session (as counted there).
#![forbid(unsafe_code)]

use std::path::Path;

use super::{Label, Session, Sessions, Task, When, calendar, event};
use crate::Result;
use crate::train::data::text::{Lines, fingerprint};

const HEADER: &str = "id_visitor|id_session|dim_session_number|dim_user_agent|dim_device_app_combo|ds|ts_min|ts_max|did_search|sent_message|sent_booking_request";
const DEVICES: [&str; 4] = ["iPhone", "Android", "iPad", "Desktop"];

pub(super) fn read(path: &Path) -> Result<Sessions> {
    let mut lines = Lines::open(path)?;
    if lines.next_line()? != Some(HEADER) {
        return Err(lines.error(format!("the first line is not '{HEADER}'")));
    }
    let mut sessions = Vec::new();
    lines.each("it does not hold the eleven columns of the first line", parse, |session| sessions.push(session))?;
    Ok(Sessions {
        format: "airbnb",
        name: path.display().to_string(),
        synthetic: false,
        fingerprint: fingerprint(path, "airbnb")?,
        tasks: vec![Task { name: "message", classes: 2, when: When::Login }],
        context: DEVICES.len() + 1,
        split: None,
        sessions,
    })
}

fn parse(line: &str) -> Option<Session> {
    let columns: Vec<&str> = line.split('|').collect();
    // The user agent may hold a bar itself: the first three and the last seven are counted from their ends.
    let tail = columns.len().checked_sub(7).filter(|at| *at >= 4)?;
    let [device, _, from, to, search, message, booking] = columns[tail..] else { return None };
    let number: f32 = columns[2].parse().ok()?;
    let (start, end) = (calendar::seconds(from)?, calendar::seconds(to)?);
    let flag = |text: &str| match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    };
    let (search, message, booking) = (flag(search)?, flag(message)?, flag(booking)?);
    let mut events = vec![event(1, device)];
    let done = [(search, "search"), (message, "message"), (booking, "booking")];
    events.extend(done.into_iter().filter(|(done, _)| *done).map(|(_, name)| event(2, name)));
    let minutes = end.saturating_sub(start) / 60;
    events.push(event(3, ["short", "minutes", "long"][usize::from(minutes > 0) + usize::from(minutes > 15)]));
    let mut context: Vec<f32> = DEVICES.iter().map(|name| f32::from(u8::from(device.starts_with(name)))).collect();
    context.push(libm::log1pf(number.max(0.0)) / 6.0);
    let labels = vec![Some(Label { class: u32::from(message), known: end })];
    Some(Session { customer: event(0, columns[0]), start, end, events, context, labels, probe: false })
}
