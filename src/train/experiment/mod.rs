//! Experiments of Monolith's paper (Liu et al. 2022), and what it asserts without a table. All rows are those of stores.
//!
//! | experiment | asks |
//! |---|---|
//! | [`collisions`] | what it costs that ids share rows |
//! | [`online`] | what it brings to learn as data comes, and to sync the serving copy more often |
//! | [`faults`] | what it costs to restore a lost part from an old snapshot |
//! | [`admission`] | what thresholds and times to live save, and cost |
#![forbid(unsafe_code)]

mod admission;
mod collisions;
mod faults;
mod ids;
mod learner;
mod online;
mod outcome;
mod plot;
mod setup;
mod statistics;

pub use admission::{admission, admission_setup};
pub use collisions::{collisions, collisions_setup};
pub use faults::{faults, faults_setup};
pub use ids::{Folded, md5_row};
pub use online::{online, online_setup};
pub use outcome::{Cell, Curve, Figure, Grid, Observation, Outcome, Point};
pub use setup::Setup;
pub use statistics::Spread;
