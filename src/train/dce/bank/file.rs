//! Simulated sessions as a file: JSON lines or CSV, one session a line, and back.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::Path;

use super::{CONTEXT, INTENTS, Visit, Visits};
use crate::train::data::text::Lines;
use crate::{Result, UnixSeconds};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLayout {
    /// An object a line.
    JsonLines,
    /// A header, then `customer,login,logout,events,...`: events separated by spaces, what never happened left empty.
    Csv,
}

const LAST: [&str; 4] = ["intent", "called", "takeover", "reported"];

fn header() -> String {
    let names = ["customer", "login", "logout", "events"];
    names.into_iter().chain(CONTEXT).chain(LAST).collect::<Vec<_>>().join(",")
}

impl Visits {
    /// Writes all that is left, and returns the number of sessions; `done` is told it now and then.
    pub fn write(self, out: &mut dyn Write, layout: FileLayout, done: &mut dyn FnMut(u64)) -> io::Result<u64> {
        let mut count = 0;
        if layout == FileLayout::Csv {
            writeln!(out, "{}", header())?;
        }
        for visit in self {
            match layout {
                FileLayout::JsonLines => writeln!(out, "{}", serde_json::to_string(&visit).map_err(io::Error::other)?)?,
                FileLayout::Csv => writeln!(out, "{}", csv(&visit))?,
            }
            count += 1;
            if count % 10_000 == 0 {
                done(count);
            }
        }
        out.flush()?;
        Ok(count)
    }
}

fn csv(visit: &Visit) -> String {
    let Visit { customer, login, logout, events, context, intent, called, takeover, reported } = visit;
    let time = |time: &Option<UnixSeconds>| time.map_or(String::new(), |time| time.to_string());
    let context: Vec<String> = context.iter().map(ToString::to_string).collect();
    let (context, called, reported) = (context.join(","), time(called), time(reported));
    let takeover = u8::from(*takeover);
    format!("{customer},{login},{logout},{},{context},{intent},{called},{takeover},{reported}", events.join(" "))
}

/// Reads such a file, plain or compressed, session by session.
pub struct BankFile {
    lines: Lines,
    layout: FileLayout,
    last: UnixSeconds,
}

impl BankFile {
    /// Opens a file; its first line says which layout it has.
    pub fn open(path: &Path) -> Result<BankFile> {
        let mut lines = Lines::open(path)?;
        let first = lines.next_line()?.unwrap_or("").to_string();
        let layout = if first.starts_with('{') { FileLayout::JsonLines } else { FileLayout::Csv };
        if layout == FileLayout::Csv && first != header() {
            let shown: String = first.chars().take(60).collect();
            return Err(lines.error(format!("'{shown}' begins neither JSON lines nor the CSV that `generate bank` writes")));
        }
        let lines = if layout == FileLayout::JsonLines { Lines::open(path)? } else { lines };
        Ok(BankFile { lines, layout, last: 0 })
    }

    /// The next session, or None at the end.
    pub fn next_visit(&mut self) -> Result<Option<Visit>> {
        let layout = self.layout;
        let Some(line) = self.lines.next_line()? else { return Ok(None) };
        let parsed = match layout {
            FileLayout::JsonLines => serde_json::from_str(line).map_err(|error| error.to_string()),
            FileLayout::Csv => parse(line),
        };
        let checked = parsed.and_then(|visit: Visit| match &visit {
            v if v.login < self.last => Err(format!("its login {} comes before that of the line above, {}", v.login, self.last)),
            v if v.logout < v.login => Err("it ends before it begins".to_string()),
            v if usize::from(v.intent) >= INTENTS.len() => Err(format!("there is no intent {}", v.intent)),
            v if v.context.iter().any(|x| !x.is_finite()) => Err("a number of its context is not finite".to_string()),
            _ => Ok(visit),
        });
        match checked {
            Ok(visit) => {
                self.last = visit.login;
                Ok(Some(visit))
            }
            Err(what) => Err(self.lines.error(what)),
        }
    }
}

fn parse(line: &str) -> Result<Visit, String> {
    let columns: Vec<&str> = line.split(',').collect();
    let wanted = 4 + CONTEXT.len() + LAST.len();
    if columns.len() != wanted {
        return Err(format!("it has {} columns, expected {wanted}", columns.len()));
    }
    let (head, rest) = columns.split_at(4);
    let (numbers, last) = rest.split_at(CONTEXT.len());
    let mut context = [0.0f32; CONTEXT.len()];
    for (into, text) in context.iter_mut().zip(numbers) {
        *into = number(text)?;
    }
    let time = |text: &str| if text.is_empty() { Ok(None) } else { number(text).map(Some) };
    Ok(Visit {
        customer: number(head[0])?,
        login: number(head[1])?,
        logout: number(head[2])?,
        events: head[3].split(' ').filter(|event| !event.is_empty()).map(str::to_string).collect(),
        context,
        intent: number(last[0])?,
        called: time(last[1])?,
        takeover: number::<u8>(last[2])? != 0,
        reported: time(last[3])?,
    })
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{}' is not a number that fits there", text.chars().take(30).collect::<String>()))
}
