//! Sessions of customers with what is to be foretold of them, and readers that take public files as they come.
//!
//! | name | file | customers | to be foretold |
//! |---|---|---|---|
//! | `bank` | what `generate bank` writes (**synthetic**) | customers | next intent, call, takeover |
//! | `entree` | `sessions_anon.tsv` of the Entree data | hosts | "nicer" and any tweak in the next session |
//! | `airbnb` | `airbnb-session-data.txt` | visitors | a message sent in the next session |
//! | `unix` | `User0`, `User1`, ... with labels of some: blocks of 100 commands | users | whether somebody else typed |
//! | `yoochoose` | `SessionId ItemId Time` with tabs | none | nothing: sessions to learn the session encoder from |
//!
//! A run holds all sessions in memory: 160 bytes for one of four events alone, 284 for one of seven with eight numbers of context and
//! three labels.
#![forbid(unsafe_code)]

mod airbnb;
mod calendar;
mod entree;
mod simulated;
mod unix;
mod yoochoose;

use std::path::{Path, PathBuf};

use super::bank::Bank;
use crate::types::mix;
use crate::{Error, Key, Result, UnixSeconds};

/// When a task asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum When {
    /// At login: nothing is known of the session itself but its time and the context.
    Login,
    /// At logout: the session's events are known.
    Logout,
}

/// Something to be foretold of each session.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Task {
    /// Its name.
    pub name: &'static str,
    /// The number of classes; 2 are a yes or no.
    pub classes: usize,
    /// When it asks.
    pub when: When,
}

/// What came true for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The class, below [`Task::classes`].
    pub class: u32,
    /// From when on that is known.
    pub known: UnixSeconds,
}

/// A session of a customer.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Who.
    pub customer: Key,
    /// Login.
    pub start: UnixSeconds,
    /// Logout.
    pub end: UnixSeconds,
    /// Keys of the events, in order: `kind << 48 | hash`.
    pub events: Vec<Key>,
    /// Numbers known at login, [`Sessions::context`] of them, about 0 to 1.
    pub context: Vec<f32>,
    /// By task; None where it is unknown or not asked.
    pub labels: Vec<Option<Label>>,
    /// Whether it becomes part of the customer's past. A probe does not: a session of somebody else to learn to tell apart.
    pub probe: bool,
}

/// A data set.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// The format's name.
    pub format: &'static str,
    /// The file, or the simulator's parameters.
    pub name: String,
    /// Whether a simulator made it up.
    pub synthetic: bool,
    /// Identifies the input.
    pub fingerprint: [u8; 32],
    /// What is to be foretold.
    pub tasks: Vec<Task>,
    /// Numbers in the context of a session.
    pub context: usize,
    /// From when on sessions are foretold and not learned from, where the data says so.
    pub split: Option<UnixSeconds>,
    /// All sessions, by login.
    pub sessions: Vec<Session>,
}

/// The key of an event by its kind and name.
pub(crate) fn event(kind: u64, name: &str) -> Key {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    kind << 48 | mix(hash) >> 16
}

/// Opens `NAME:PATH`, e.g. `entree:data/entree`; the path is the file or a directory with it.
pub fn open(named: &str) -> Result<Sessions> {
    let known = "bank, entree, airbnb, unix, yoochoose";
    let Some((name, path)) = named.split_once(':') else {
        return Err(refused(format!("'{named}' is not NAME:PATH with a name of {known}")));
    };
    let path = Path::new(path);
    let sessions = match name {
        "bank" => simulated::read(path)?,
        "entree" => entree::read(&file(path, "sessions_anon.tsv"))?,
        "airbnb" => airbnb::read(&file(path, "airbnb-session-data.txt"))?,
        "unix" => unix::read(path)?,
        "yoochoose" => yoochoose::read(path)?,
        _ => return Err(refused(format!("'{name}' is none of {known}"))),
    };
    sessions.sorted()
}

/// The sessions of a simulated bank.
pub fn simulate(bank: &Bank) -> Result<Sessions> {
    bank.validate()?;
    simulated::simulate(bank).sorted()
}

fn refused(what: String) -> Error {
    Error::InvalidOption { option: "data", what }
}

fn file(path: &Path, name: &str) -> PathBuf {
    if path.is_dir() { path.join(name) } else { path.to_path_buf() }
}

impl Sessions {
    /// By login; equal ones stay in the order of the file.
    fn sorted(mut self) -> Result<Sessions> {
        if self.sessions.is_empty() {
            return Err(refused(format!("{} holds no session", self.name)));
        }
        self.sessions.sort_by_key(|session| session.start);
        Ok(self)
    }

    /// The time before which sessions are learned from: where the data says, or after this share of them.
    pub fn split_at(&self, share: f64) -> UnixSeconds {
        let place = ((self.sessions.len() as f64 * share) as usize).min(self.sessions.len().saturating_sub(1));
        self.split.unwrap_or_else(|| self.sessions.get(place).map_or(0, |session| session.start))
    }
}

#[cfg(test)]
mod tests;
