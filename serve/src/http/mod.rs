//! HTTP for operators: what every request passes through, errors, health and metrics (operations page D).

mod bodies;
pub mod fields;
pub mod guard;
pub mod health;
pub mod problem;
pub mod server;

pub use fields::{Json, Name, Parameters};
pub use problem::{Problem, ProblemJson};
pub use server::Server;
