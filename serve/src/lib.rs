//! What every server process has, whatever it serves: workers, listeners, TLS, layered settings, health and metrics over
//! HTTP, signals, the log, the memory that clients may take.
//!
//! Nothing here knows a message, a topic or a route.

pub mod admission;
pub mod arguments;
mod authority;
pub mod connection;
pub mod files;
#[cfg(test)]
mod frames;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod port;
pub mod process;
pub mod runtime;
pub mod settings;
pub mod stop;
pub mod tls;
