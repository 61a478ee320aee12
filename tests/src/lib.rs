//! What the tests of several crates share: simulation, real servers, the sources themselves.

pub mod cluster;
pub mod description;
pub mod http;
pub mod link;
pub mod messages;
pub mod port;
pub mod process;
pub mod server;
pub mod sim;
pub mod sources;
pub mod wait;
