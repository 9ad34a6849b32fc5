//! What an online job is fed: features and actions in the order in which they are logged.
#![forbid(unsafe_code)]

use crate::Result;
use crate::join::Event;
use crate::train::data::Shape;
use crate::train::data::synthetic::Clicks;
use crate::types::mix;

/// Requests whose actions change places.
const BLOCK: u64 = 64;

/// Events in the order in which they come, from any position on.
pub trait Events {
    /// The name, and what identifies the input.
    fn description(&self) -> (String, [u8; 32]);
    /// The shape of the features.
    fn shape(&self) -> Shape;
    /// Goes to a position.
    ///
    /// # Errors
    /// A position that is not there.
    fn seek(&mut self, position: u64) -> Result<()>;
    /// Appends up to `most` events and returns by how much the position grew; 0 at the end.
    ///
    /// # Errors
    /// The input's.
    fn next(&mut self, into: &mut Vec<Event>, most: usize) -> Result<u64>;
}

/// A synthetic click stream as it would be logged: the features of each request, and some seconds later, out of order, the click if there is one.
pub struct LoggedClicks {
    clicks: Clicks,
    /// Requests from one to the action that comes beside it.
    delay: u64,
    position: u64,
}

impl LoggedClicks {
    /// Clicks come after so many seconds, give or take a few requests.
    ///
    /// # Errors
    /// Parameters that make no stream.
    pub fn new(clicks: Clicks, delay: u64) -> Result<LoggedClicks> {
        clicks.validate()?;
        let delay = delay.saturating_mul(clicks.rate).next_multiple_of(BLOCK);
        Ok(LoggedClicks { clicks, delay, position: 0 })
    }

    /// Position 2 i is request i, position 2 i + 1 an action of one before.
    fn at(&self, position: u64) -> Option<Event> {
        let request = position / 2;
        if position.is_multiple_of(2) {
            let click = (request < self.clicks.samples).then(|| self.clicks.at(request))?;
            return Some(Event::Features { request, time: click.time, keys: vec![click.user, click.item], dense: Vec::new() });
        }
        let before = request.checked_sub(self.delay)?;
        let acted = before ^ (mix(self.clicks.seed ^ (before / BLOCK)) % BLOCK);
        let click = (acted < self.clicks.samples).then(|| self.clicks.at(acted)).filter(|click| click.clicked)?;
        let time = click.time.saturating_add(u32::try_from(self.delay / self.clicks.rate).unwrap_or(u32::MAX));
        Some(Event::Action { request: acted, time, label: 1.0 })
    }
}

impl Events for LoggedClicks {
    fn description(&self) -> (String, [u8; 32]) {
        // A longer stream begins with the shorter one.
        let endless = Clicks { samples: 0, ..self.clicks.clone() };
        let name = format!("logged clicks 1: {endless:?}, delay {}", self.delay);
        let hash = *blake3::hash(name.as_bytes()).as_bytes();
        (name, hash)
    }

    fn shape(&self) -> Shape {
        Shape { keys: 2, dense: 0 }
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        self.position = position;
        Ok(())
    }

    fn next(&mut self, into: &mut Vec<Event>, most: usize) -> Result<u64> {
        let end = 2 * (self.clicks.samples + self.delay + BLOCK);
        let to = self.position.saturating_add(most as u64).min(end.max(self.position));
        into.extend((self.position..to).filter_map(|position| self.at(position)));
        let grew = to - self.position;
        self.position = to;
        Ok(grew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_click_is_logged_once_after_its_features_and_from_any_position_on() {
        let clicks = Clicks { samples: 3_000, users: 50, items: 20, rate: 100, ..Clicks::default() };
        let mut logged = LoggedClicks::new(clicks.clone(), 3).unwrap();
        let (mut all, mut parts) = (Vec::new(), Vec::new());
        while logged.next(&mut all, 777).unwrap() > 0 {}
        let mut position = 0;
        loop {
            logged.seek(position).unwrap();
            let grew = logged.next(&mut parts, 100).unwrap();
            position += grew;
            if grew == 0 {
                break;
            }
        }
        assert_eq!(all, parts);
        let (mut asked, mut acted, mut out_of_order) = (std::collections::HashMap::new(), Vec::new(), 0);
        for event in all {
            match event {
                Event::Features { request, time, .. } => assert!(asked.insert(request, time).is_none()),
                Event::Action { request, time, label } => {
                    assert!(label == 1.0 && time >= asked[&request] + 3, "{request}");
                    out_of_order += u64::from(acted.last().is_some_and(|last| *last > request));
                    acted.push(request);
                }
            }
        }
        acted.sort_unstable();
        let clicked: Vec<u64> = (0..3_000).filter(|request| clicks.at(*request).clicked).collect();
        assert!(asked.len() == 3_000 && acted == clicked && out_of_order > 100, "{out_of_order}");
    }
}
