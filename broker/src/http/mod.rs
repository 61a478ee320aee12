//! The HTTP gateway: health, metrics and administration (operations page D).

mod admin;
mod fields;
mod guard;
mod health;
pub mod json;
mod message_json;
mod messages;
mod problem;
mod server;

pub use server::Server;
