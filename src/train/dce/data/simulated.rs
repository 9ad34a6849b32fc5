//! The sessions of the simulated bank, from its file or straight from the simulator. **Synthetic** either way.
//!
//! The intent of a session is asked at login, and known once it ended; a call at logout, known two days later; a takeover at logout,
//! known when it is reported, or after four weeks without a complaint.
#![forbid(unsafe_code)]

use std::path::Path;

use super::{Label, Session, Sessions, Task, When, event};
use crate::Result;
use crate::train::data::text::fingerprint;
use crate::train::dce::bank::{Bank, BankFile, CALL_WINDOW, CONTEXT, INTENTS, REPORT_WINDOW, Visit};
use crate::types::mix;

pub(super) fn read(path: &Path) -> Result<Sessions> {
    let mut file = BankFile::open(path)?;
    let mut sessions = Vec::new();
    while let Some(visit) = file.next_visit()? {
        sessions.push(session(&visit));
    }
    Ok(data(path.display().to_string(), fingerprint(path, "bank")?, sessions))
}

pub(super) fn simulate(bank: &Bank) -> Sessions {
    let sessions = bank.visits().map(|visit| session(&visit)).collect();
    let fingerprint = *blake3::hash(format!("bank 1: {}", bank.name()).as_bytes()).as_bytes();
    data(bank.name(), fingerprint, sessions)
}

fn data(name: String, fingerprint: [u8; 32], sessions: Vec<Session>) -> Sessions {
    let task = |name, classes, when| Task { name, classes, when };
    Sessions {
        format: "bank",
        name,
        synthetic: true,
        fingerprint,
        tasks: vec![
            task("next intent", INTENTS.len(), When::Login),
            task("call", 2, When::Logout),
            task("takeover", 2, When::Logout),
        ],
        context: CONTEXT.len(),
        split: None,
        sessions,
    }
}

fn session(visit: &Visit) -> Session {
    let call = Label { class: u32::from(visit.called.is_some()), known: visit.logout.saturating_add(CALL_WINDOW) };
    let known = visit.reported.unwrap_or(visit.logout.saturating_add(REPORT_WINDOW));
    let takeover = Label { class: u32::from(visit.takeover), known };
    // What an intruder came for is nobody's intent.
    let intent = (!visit.takeover).then_some(Label { class: u32::from(visit.intent), known: visit.logout });
    Session {
        customer: mix(visit.customer ^ 0xba4c),
        start: visit.login,
        end: visit.logout,
        events: visit.events.iter().map(|name| event(1, name)).collect(),
        context: visit.context.to_vec(),
        labels: vec![intent, Some(call), Some(takeover)],
        probe: false,
    }
}
