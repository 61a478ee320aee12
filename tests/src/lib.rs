//! What the tests of several crates share: simulation, real servers, the sources themselves.

pub mod server;
pub mod sim;
pub mod sources;
