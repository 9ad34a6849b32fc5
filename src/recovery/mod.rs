//! Recovery: look at what is on disk, choose the history that leads to the wanted commit, rebuild the store from it.
#![forbid(unsafe_code)]

mod ahead;
mod chain;
mod harden;
mod identity;
mod load;
mod rebuild;
mod survey;

pub(crate) use ahead::{Place, ahead};
pub(crate) use chain::{Chain, choose};
pub(crate) use harden::harden;
pub(crate) use identity::Identity;
pub(crate) use load::{Into, OpenSegment, reader_at, replay_one};
pub(crate) use rebuild::{Guide, Rebuilt, Site, check_options, rebuild, rebuild_guided};
pub(crate) use survey::{Placed, Survey, glance, survey};
