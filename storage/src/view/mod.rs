//! Views: everything that is derived from the log. Each is a function of the committed log from its first batch, is taken
//! from the newest checkpoint and brought up to date by replay.

pub mod catalog;
pub mod progress;
pub mod queue;
pub mod references;
pub mod timers;
pub mod transactions;

pub mod apply;

pub use apply::{SharedViews, Views};
