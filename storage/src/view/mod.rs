//! Views: everything that is derived from the log. Each is a function of the committed log from its first batch, lives in
//! memory, and is rebuilt by replay.

pub mod bitmap;
pub mod catalog;
pub mod progress;
pub mod queue;
pub mod timers;
pub mod transactions;

pub mod apply;

pub use apply::Views;
