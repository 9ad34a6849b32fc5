//! The pages and actions of a simulated session.
#![forbid(unsafe_code)]

use super::INTENTS;
use crate::train::data::synthetic::Counter;

/// Kinds of devices.
pub(super) const DEVICES: u64 = 12;

/// What each intent leads through; `*` marks a step at which errors come easily.
const PATHS: [&[&str]; INTENTS.len()] = [
    &["balance", "statement"],
    &["bills", "pay_amount", "pay_confirm*"],
    &["payees", "transfer_form", "transfer_confirm*"],
    &["deposit", "deposit_photo*", "deposit_confirm"],
    &["invest", "fund", "trade*", "trade_confirm"],
    &["statement", "disputes", "dispute_form*", "dispute_upload*"],
    &["loans", "loan_calculator", "loan_form*", "loan_terms"],
    &["cards", "travel_notice", "travel_confirm"],
];
/// Pages that anybody opens in between.
const ASIDE: [&str; 6] = ["home", "balance", "statement", "offers", "settings", "messages"];

pub(super) struct Pages {
    pub(super) events: Vec<String>,
    pub(super) seconds: u64,
    pub(super) errors: usize,
    /// Whether the help or the chat was opened.
    pub(super) asked: bool,
    /// Whether it ended before its aim.
    pub(super) abandoned: bool,
}

pub(super) fn session(random: &mut Counter, intent: usize, takeover: bool, device: u8) -> Pages {
    let mut pages =
        Pages { events: vec![format!("device_{device}"), "login".into()], seconds: 5, errors: 0, asked: false, abandoned: false };
    if takeover {
        intruder(random, &mut pages)
    } else {
        owner(random, &mut pages, intent)
    }
    if random.unit() < 0.5 {
        pages.events.push("logout".into());
    }
    let pace = if takeover { 8.0 } else { 20.0 };
    pages.seconds += (pages.events.len() as f64 * pace * (0.5 + random.unit())) as u64;
    pages
}

/// Errors repeat the step, and the help is asked after some.
fn owner(random: &mut Counter, pages: &mut Pages, intent: usize) {
    for step in PATHS[intent] {
        if random.unit() < 0.3 {
            pages.events.push(ASIDE[(random.bits() % ASIDE.len() as u64) as usize].into());
        }
        // A new payee is part of some transfers of the owner's too.
        if *step == "transfer_form" && random.unit() < 0.25 {
            pages.events.push("add_payee".into());
        }
        let (name, risk) = step.strip_suffix('*').map_or((*step, 0.02), |name| (name, 0.15));
        pages.events.push(name.into());
        while random.unit() < risk && pages.errors < 4 {
            pages.errors += 1;
            pages.events.push("error".into());
            if random.unit() < 0.3 {
                pages.asked = true;
                pages.events.push(if random.unit() < 0.5 { "help".into() } else { "chat".into() });
            }
            pages.events.push(name.into());
        }
        if random.unit() < 0.06 + 0.1 * pages.errors as f64 {
            pages.abandoned = true;
            return;
        }
    }
}

/// Looks around, changes what would give it away, adds a payee, sends the money; some behave nearly as the owner does.
fn intruder(random: &mut Counter, pages: &mut Pages) {
    let sly = random.unit() < 0.4;
    let mut push = |name: &str, chance: f64| {
        if random.unit() < chance {
            pages.events.push(name.into());
        }
    };
    push("home", 0.4);
    push("balance", 0.6);
    push("settings", if sly { 0.1 } else { 0.7 });
    push("change_email", if sly { 0.0 } else { 0.4 });
    push("payees", 0.8);
    push("add_payee", if sly { 0.6 } else { 0.95 });
    push("transfer_form", 1.0);
    push("transfer_confirm", 0.9);
    push("transfer_form", 0.3);
    push("transfer_confirm", 0.25);
}
