//! A seeded simulator of a bank's customers. Everything it makes is **synthetic**; no public data joins sessions, finances, calls and
//! fraud of the same people.
//!
//! Each customer lives in a hidden [`Life`] state, a Markov chain by day. State, habits of their own, the last intent and the
//! finances seen at login decide on the intent of a session; the intent decides on the pages of it; pages, state and finances decide
//! on a call to the bank afterwards. Now and then somebody else logs in: an account takeover, with a device and pages of their own.
//! So the past sessions *and* the finances foretell the next intent because this simulator makes them do so; whether they do at
//! a real bank is not shown by it. What it was drawn from, and all numbers, stand in the files of this module.
//!
//! A customer's random numbers are their own, so more customers or days leave the sessions of the others as they were.
#![forbid(unsafe_code)]

mod file;
mod life;
mod pages;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub use file::{BankFile, FileLayout};
pub use life::Life;
use life::{Customer, DAY};

use crate::{Error, Result, UnixSeconds};

/// The first day of the simulated time.
const START: u64 = 1_700_000_000;

/// The names of the numbers in [`Visit::context`], each about 0 to 1.
pub const CONTEXT: [&str; 8] = ["balance", "utilisation", "to_bill", "since_payday", "missed", "savings", "overdraft", "abroad"];

/// What a customer came for. The order is that of the labels.
pub const INTENTS: [&str; 8] = ["check", "pay", "transfer", "deposit", "invest", "dispute", "loan", "travel"];

/// The parameters of the simulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bank {
    /// Two seeds have nothing in common.
    pub seed: u64,
    /// Customers who join within the simulated time.
    pub customers: u64,
    /// Simulated days.
    pub days: u64,
}

impl Default for Bank {
    fn default() -> Bank {
        Bank { seed: 1, customers: 1_000, days: 120 }
    }
}

/// One session of a customer, with what happened after it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Visit {
    /// Who.
    pub customer: u64,
    /// When it began.
    pub login: UnixSeconds,
    /// When it ended.
    pub logout: UnixSeconds,
    /// Device, pages and actions, in order.
    pub events: Vec<String>,
    /// The customer's finances at login, by the names of [`CONTEXT`].
    pub context: [f32; CONTEXT.len()],
    /// What for: an index into [`INTENTS`].
    pub intent: u8,
    /// When the customer called the bank about it, if so; within [`CALL_WINDOW`] of the logout.
    pub called: Option<UnixSeconds>,
    /// Whether it was somebody else who logged in.
    pub takeover: bool,
    /// When the takeover was found out.
    pub reported: Option<UnixSeconds>,
}

/// Seconds after a logout within which a call counts as of that session.
pub const CALL_WINDOW: u32 = 2 * 86_400;
/// Seconds after which a session that nobody complained about counts as no takeover.
pub const REPORT_WINDOW: u32 = 28 * 86_400;

impl Bank {
    /// Refuses parameters that make no stream.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::InvalidOption { option: "bank", what: what.to_string() });
        match self {
            b if b.customers == 0 || b.customers > 1 << 28 => refuse("customers must be 1 to 2^28"),
            b if b.days == 0 || b.days > 10_000 => refuse("days must be 1 to 10000"),
            _ => Ok(()),
        }
    }

    /// The parameters in words.
    pub fn name(&self) -> String {
        let Bank { seed, customers, days } = self;
        format!("seed {seed}, {customers} customers, {days} days")
    }

    /// All sessions, by login. Takes about 200 bytes a customer, whatever the number of sessions.
    pub fn visits(&self) -> Visits {
        let end = START + self.days * DAY;
        let customers: Vec<Customer> =
            (0..self.customers).map(|id| Customer::new(self.seed, id, START, self.days * DAY)).collect();
        let due = customers.iter().enumerate().map(|(at, customer)| Reverse((customer.next, at))).collect();
        Visits { customers, due, end }
    }
}

/// The sessions of a [`Bank`], by login.
pub struct Visits {
    customers: Vec<Customer>,
    /// The customers by their next login.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    end: u64,
}

impl Iterator for Visits {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        while let Some(Reverse((at, index))) = self.due.pop() {
            let customer = &mut self.customers[index];
            if at >= self.end || at >= customer.leaves {
                continue;
            }
            let visit = customer.visit();
            self.due.push(Reverse((customer.next, index)));
            return Some(visit);
        }
        None
    }
}

#[cfg(test)]
mod tests;
