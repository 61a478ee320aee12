//! What the tests of several crates share: the deterministic simulation.

pub mod sim;
