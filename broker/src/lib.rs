//! The broker: messaging semantics over the log, and the gateways in front of them.
//!
//! [`Broker`] is the one surface that every protocol speaks to; `grpc` is the only module that names protocol types.

pub mod admin;
pub mod api;
mod broker;
mod checks;
pub mod config;
mod drain;
pub mod filter;
pub mod gateways;
pub mod grpc;
pub mod handle;
pub mod http;
mod look_up;
pub mod mailbox;
pub mod membership;
mod metrics;
mod operate;
mod peek;
mod peers;
mod receive;
pub mod refusal;
mod reset;
mod send;
pub mod server;
mod shared;
pub mod subscription;
mod topics;
mod validate;

pub use broker::Broker;
pub use drain::Drained;
pub use reset::{QueueReset, Reset, ResetTo};
pub(crate) use shared::store_refusal;
