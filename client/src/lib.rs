//! A small producer and simple consumer for any server of the RocketMQ 5 gRPC protocol.
//!
//! A [`Client`] is one connection in clear text. [`Producer`] and [`SimpleConsumer`] borrow it cheaply, announce
//! themselves with a Telemetry stream and a heartbeat for as long as they live, and make each call exactly once: nothing
//! is retried behind the caller's back, [`Error::is_retryable`] says where trying again makes sense.
//!
//! All calls go to the endpoint the client was given. Carillon's name server and brokers, and RocketMQ's proxy, relay
//! from there; a route that names other addresses is not followed.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::Error> {
//! let client = client::Client::connect("127.0.0.1:8081", client::Options::default()).await?;
//! let producer = client.producer(&["orders"]).await?;
//! let sent = producer.send(client::NewMessage::new("orders", "paid").key("4711")).await?;
//! println!("{} is durable", sent.message_id);
//! # Ok(()) }
//! ```

mod connection;
mod consumer;
mod error;
mod message;
mod message_id;
mod presence;
mod producer;
mod runtime;
mod telemetry;

pub use connection::{Client, Options};
pub use consumer::{Filter, SimpleConsumer};
pub use error::Error;
pub use message::{NewMessage, Received, Sent};
pub use producer::{Orphan, Producer, Resolution, Transaction};
/// The protocol's answer codes, as [`Error::code`] gives them.
pub use proto::v2::Code;
