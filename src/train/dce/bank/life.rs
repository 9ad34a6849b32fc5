//! A simulated customer: hidden state, habits, finances, and when they come.
#![forbid(unsafe_code)]

use super::pages::{self, DEVICES};
use super::{CALL_WINDOW, INTENTS, REPORT_WINDOW, Visit};
use crate::UnixSeconds;
use crate::train::data::synthetic::Counter;
use crate::types::mix;

pub(super) const DAY: u64 = 86_400;
const STATES: usize = 5;

/// What goes on in a customer's life; nobody but the simulator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Nothing special.
    Steady,
    /// Puts money aside.
    Saving,
    /// Buys a home: loans, large transfers.
    Moving,
    /// Short of money.
    Stretched,
    /// On the road.
    Travelling,
}

const LIVES: [Life; STATES] = [Life::Steady, Life::Saving, Life::Moving, Life::Stretched, Life::Travelling];

/// The chance, a day, to leave each state, and the weights of the others.
const LEAVE: [(f64, [f64; STATES]); STATES] = [
    (0.015, [0.0, 4.0, 2.0, 2.0, 3.0]),
    (0.015, [3.0, 0.0, 3.0, 0.5, 2.0]),
    (0.020, [2.0, 0.5, 0.0, 3.0, 0.5]),
    (0.020, [4.0, 0.5, 0.3, 0.0, 0.2]),
    (0.070, [5.0, 1.0, 0.3, 1.0, 0.0]),
];
/// Sessions a day.
const RATE: [f64; STATES] = [0.25, 0.35, 0.6, 0.6, 0.3];
/// What the card's utilisation and the savings tend to.
const TARGETS: [(f64, f64); STATES] = [(0.3, 0.4), (0.15, 0.9), (0.5, 0.3), (0.9, 0.05), (0.55, 0.35)];
/// How much likelier each intent is in each state, as log-odds.
const LEANS: [[f64; INTENTS.len()]; STATES] = [
    [1.2, 0.6, 0.2, 0.2, -0.8, -1.6, -1.6, -2.0],
    [0.6, 0.2, 0.4, 0.8, 1.6, -1.8, -1.2, -2.0],
    [0.4, 0.2, 1.2, 0.2, -0.6, -1.4, 1.8, -2.0],
    [1.4, 0.8, 0.8, 0.0, -2.5, -0.4, 0.6, -3.0],
    [0.6, 0.2, 0.4, -1.2, -1.4, 0.6, -2.2, 1.8],
];

pub(super) struct Customer {
    id: u64,
    random: Counter,
    /// When the next session begins.
    pub(super) next: u64,
    /// When they leave the bank.
    pub(super) leaves: u64,
    now: u64,
    life: usize,
    /// How much more often than others they come.
    pace: f64,
    tilt: [f64; INTENTS.len()],
    device: u8,
    payday: u64,
    utilisation: f64,
    savings: f64,
    missed: f64,
    last_intent: Option<usize>,
    last_call: Option<u64>,
}

impl Customer {
    pub(super) fn new(seed: u64, id: u64, start: u64, seconds: u64) -> Customer {
        let mut random = Counter::new(mix(seed ^ 0x0ba4_0ba4) ^ mix(id ^ 0xc057_03e5));
        let joins = start + (random.unit() * 0.6 * seconds as f64) as u64;
        let leaves = joins + (-libm::log(1.0 - random.unit()) * 400.0 * DAY as f64) as u64;
        let life = (random.unit() * STATES as f64) as usize % STATES;
        let (utilisation, savings) = TARGETS[life];
        Customer {
            id,
            next: joins,
            leaves,
            now: joins,
            life,
            pace: libm::exp(0.5 * random.normal()),
            tilt: std::array::from_fn(|_| 0.7 * random.normal()),
            device: (random.bits() % DEVICES) as u8,
            payday: random.bits() % 30,
            utilisation,
            savings,
            missed: 0.0,
            last_intent: None,
            last_call: None,
            random,
        }
    }

    pub(super) fn life(&self) -> Life {
        LIVES[self.life]
    }

    /// The session that is due; plans the next one.
    pub(super) fn visit(&mut self) -> Visit {
        self.live_until(self.next);
        let context = self.context();
        let takeover = self.random.unit() < 0.012;
        let intent = if takeover { 2 } else { self.intent(&context) };
        let device = if takeover || self.random.unit() < 0.06 { (self.random.bits() % DEVICES) as u8 } else { self.device };
        let page = pages::session(&mut self.random, intent, takeover, device);
        let login = self.now;
        let logout = login + page.seconds;
        let called = self.call(&page, intent, &context, takeover).then(|| {
            let wait = (-libm::log(1.0 - self.random.unit()) * 6.0 * 3_600.0).min(f64::from(CALL_WINDOW) - 1.0);
            logout + wait as u64
        });
        let reported = takeover.then(|| logout + DAY + (self.random.unit() * (f64::from(REPORT_WINDOW) - DAY as f64)) as u64);
        if !takeover {
            self.last_intent = Some(intent);
        }
        self.last_call = called.or(self.last_call);
        let soon = self.random.unit() < 0.15;
        let mean = if soon { 0.05 } else { 1.0 / (RATE[self.life] * self.pace) };
        self.next = logout + 60 + (-libm::log(1.0 - self.random.unit()) * mean * DAY as f64) as u64;
        Visit {
            customer: self.id,
            login: seconds(login),
            logout: seconds(logout),
            events: page.events,
            context,
            intent: intent as u8,
            called: called.map(seconds),
            takeover,
            reported: reported.map(seconds),
        }
    }

    /// Lets the days pass: state by state, finances after it.
    fn live_until(&mut self, time: u64) {
        let days = (time / DAY).saturating_sub(self.now / DAY).min(365);
        for _ in 0..days {
            let (leave, to) = LEAVE[self.life];
            if self.random.unit() < leave {
                self.life = pick(&mut self.random, &to);
            }
            let (utilisation, savings) = TARGETS[self.life];
            self.utilisation += 0.06 * (utilisation - self.utilisation) + 0.02 * self.random.normal();
            self.savings += 0.04 * (savings - self.savings) + 0.01 * self.random.normal();
            let misses = self.life() == Life::Stretched && self.random.unit() < 0.06;
            self.missed = if misses { 1.0 } else { 0.98 * self.missed };
        }
        self.utilisation = self.utilisation.clamp(0.0, 1.2);
        self.savings = self.savings.clamp(0.0, 1.5);
        self.now = time;
    }

    /// The finances at login, to four places.
    fn context(&mut self) -> [f32; super::CONTEXT.len()] {
        let day = self.now / DAY;
        let since = (day + 30 - self.payday) % 30;
        let balance = self.savings + 0.5 * (1.0 - since as f64 / 30.0) - 0.3 * self.utilisation + 0.05 * self.random.normal();
        let abroad = if self.life() == Life::Travelling { 0.4 + 0.2 * self.random.normal() } else { 0.05 * self.random.unit() };
        let to_bill = (self.payday + 55 - day % 30) % 30;
        let all = [
            balance,
            self.utilisation,
            to_bill as f64 / 30.0,
            since as f64 / 30.0,
            self.missed,
            self.savings,
            if balance < 0.0 { 1.0 } else { 0.0 },
            abroad,
        ];
        all.map(|x| (libm::round(x * 1e4) / 1e4) as f32)
    }

    fn intent(&mut self, context: &[f32; super::CONTEXT.len()]) -> usize {
        let [balance, utilisation, to_bill, since_payday, missed, ..] = context.map(f64::from);
        let mut logits = LEANS[self.life];
        logits.iter_mut().zip(&self.tilt).for_each(|(logit, tilt)| *logit += tilt);
        if to_bill < 0.14 {
            logits[1] += 1.2 + 1.5 * utilisation;
        }
        if since_payday < 0.1 {
            logits[3] += 1.5;
            logits[4] += 1.5;
        }
        if balance < 0.2 {
            logits[2] += 1.0;
        }
        logits[6] += 0.8 * missed;
        if let Some(last) = self.last_intent {
            // Disputes and loans take several visits; after a deposit comes an investment or a transfer.
            logits[last] += [0.3, 0.0, 0.3, 0.0, 0.6, 2.5, 1.8, 0.8][last];
            if last == 3 {
                logits[2] += 0.8;
                logits[4] += 1.0;
            }
        }
        let weights = logits.map(libm::exp);
        pick(&mut self.random, &weights)
    }

    fn call(&mut self, page: &pages::Pages, intent: usize, context: &[f32; super::CONTEXT.len()], takeover: bool) -> bool {
        let again = self.last_call.is_some_and(|at| self.now.saturating_sub(at) < 14 * DAY);
        let logit = -4.5
            + 1.3 * page.errors as f64
            + 1.1 * f64::from(u8::from(page.asked))
            + 0.9 * f64::from(u8::from(page.abandoned))
            + [0.0, 0.0, 0.2, 0.2, 0.2, 1.6, 0.8, 0.4][intent]
            + if self.life() == Life::Stretched { 0.9 } else { 0.0 }
            + 1.0 * f64::from(context[4])
            + if again { 1.0 } else { 0.0 };
        !takeover && self.random.unit() < 1.0 / (1.0 + libm::exp(-logit))
    }
}

fn seconds(time: u64) -> UnixSeconds {
    UnixSeconds::try_from(time).unwrap_or(UnixSeconds::MAX)
}

/// An index, as likely as its weight says.
pub(super) fn pick(random: &mut Counter, weights: &[f64]) -> usize {
    let mut left = random.unit() * weights.iter().sum::<f64>();
    for (at, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return at;
        }
    }
    weights.len() - 1
}
