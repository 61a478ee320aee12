//! HTTP for operators: what every request passes through, errors, health and metrics (operations page D).

pub mod answers;
mod bodies;
pub mod codes;
pub mod fields;
pub mod guard;
pub mod health;
pub mod openapi;
mod paid;
pub mod parameters;
pub mod problem;
pub mod server;

pub use fields::{Json, Name, Query};
pub use problem::{Problem, ProblemJson};
pub use server::Server;
