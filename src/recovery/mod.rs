//! Recovery: look at what is on disk, choose the history that leads to the wanted commit, rebuild the store from it.

mod chain;
mod identity;
mod load;
mod survey;

pub(crate) use chain::{Chain, choose};
pub(crate) use identity::Identity;
pub(crate) use load::{Rebuild, load_base, replay};
pub(crate) use survey::{Survey, survey};
