//! The name server: which broker serves which topic.
//!
//! Brokers register and say what they serve; clients ask for routes, and may send every other call here too: it is relayed
//! to a broker. Nothing is kept on disk, and nothing of clients in memory. Several run side by side and know nothing of
//! each other.

pub mod config;
mod gateway;
mod http;
mod registry;
mod relay;
pub mod server;
