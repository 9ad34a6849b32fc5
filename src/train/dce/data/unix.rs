//! Shell commands of users, into whose later blocks those of others were put (the layout of Schonlau's masquerade data).
//!
//! `UserN` holds a command a line, 15,000 of them; a session is a block of 100. The first 50 blocks are the user's own. Of the others the
//! CSV beside them says for some users which were typed by somebody else (1); these are foretold. The files have no times:
//! block `b` is said to begin `b` weeks after the start, and all later ones in week 50, so that time says nothing.
//!
//! To learn from, beside each of the first 50 blocks but the first ten of a user comes a *probe*, at the same time: one of the first
//! 50 blocks of another user, said to be this one's. Probes never become part of a user's past, and nor do the later blocks:
//! each is compared with the user's own first 50, as the data's makers ask.
#![forbid(unsafe_code)]

use std::path::Path;

use super::{Label, Session, Sessions, Task, When, event, refused};
use crate::train::data::synthetic::Counter;
use crate::train::data::text::{Lines, fingerprint};
use crate::types::mix;
use crate::{Key, Result, UnixSeconds};

const BLOCK: usize = 100;
/// Blocks that are a user's own.
const OWN: usize = 50;
/// Blocks before the first probe.
const FIRST: usize = 10;
const START: UnixSeconds = 1_000_000_000;
const WEEK: UnixSeconds = 7 * 86_400;
const LABELS: &str = "labels_users0-4.csv";

pub(super) fn read(directory: &Path) -> Result<Sessions> {
    let mut users: Vec<Vec<Key>> = Vec::new();
    let mut prints = Vec::new();
    loop {
        let path = directory.join(format!("User{}", users.len()));
        if !path.is_file() {
            break;
        }
        prints.extend_from_slice(&fingerprint(&path, "unix")?);
        users.push(commands(&path)?);
    }
    if users.len() < 2 {
        return Err(refused(format!("{} holds no files User0, User1, ...", directory.display())));
    }
    let path = directory.join(LABELS);
    prints.extend_from_slice(&fingerprint(&path, "unix")?);
    let labels = labels(&path)?;
    let mut sessions = Vec::new();
    for (user, commands) in users.iter().enumerate() {
        // Nobody says which later blocks of the other users are theirs.
        let own = labels.get(user).map_or(OWN, Vec::len);
        for (at, block) in commands.chunks_exact(BLOCK).take(own).enumerate() {
            let strange = labels.get(user).and_then(|labels| labels.get(at)).copied().unwrap_or(false);
            if (FIRST..OWN).contains(&at) {
                let mut random = Counter::new(mix((user * OWN + at) as u64));
                let other = (user + 1 + (random.bits() % (users.len() as u64 - 1)) as usize) % users.len();
                let from = (random.bits() % OWN as u64) as usize * BLOCK;
                if let Some(block) = users[other].get(from..from + BLOCK) {
                    sessions.push(session(user, at, block, true, true));
                }
            }
            sessions.push(session(user, at, block, strange, at >= OWN));
        }
    }
    Ok(Sessions {
        format: "unix",
        name: directory.display().to_string(),
        synthetic: false,
        fingerprint: *blake3::hash(&prints).as_bytes(),
        tasks: vec![Task { name: "masquerade", classes: 2, when: When::Logout }],
        context: 0,
        split: Some(START + OWN as UnixSeconds * WEEK),
        sessions,
    })
}

fn session(user: usize, at: usize, block: &[Key], strange: bool, probe: bool) -> Session {
    let start = START + at.min(OWN) as UnixSeconds * WEEK;
    let end = start + 900;
    let labels = vec![Some(Label { class: u32::from(strange), known: end })];
    let customer = mix(user as u64 ^ 0x0517);
    Session { customer, start, end, events: block.to_vec(), context: Vec::new(), labels, probe }
}

fn commands(path: &Path) -> Result<Vec<Key>> {
    let mut lines = Lines::open(path)?;
    let mut commands = Vec::new();
    lines.each("it is not a command", |line| Some(event(1, line)), |command| commands.push(command))?;
    Ok(commands)
}

/// By user and block, whether somebody else typed it.
fn labels(path: &Path) -> Result<Vec<Vec<bool>>> {
    let mut lines = Lines::open(path)?;
    lines.skip()?;
    let (mut users, mut names) = (Vec::new(), (0..).map(|user| format!("User{user}")));
    let parse = |line: &str| {
        let mut columns = line.split(',');
        let named = columns.next().map(str::to_string) == names.next();
        let flags = columns.map(|flag| match flag {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        });
        flags.collect::<Option<Vec<bool>>>().filter(|_| named)
    };
    lines.each("it is not the next of User0, User1, ... and a 0 or 1 for each block", parse, |flags| users.push(flags))?;
    Ok(users)
}
