//! The gRPC gateway: RocketMQ's messaging service in front of [`Broker`]. The only module that names protocol types.
//!
//! One port for clear text and TLS (D1). A connection and all its calls stay on the worker that accepted it; a call goes
//! from hyper through the generated service into [`service`] and on into the broker, and waits there only.

mod caller;
mod connection;
mod decode;
mod encode;
mod endpoints;
mod listener;
mod metrics;
mod receive;
mod service;
mod settings;
mod status;
mod telemetry;
mod tls;

use std::sync::Arc;

use proto::v2;
use tokio::sync::watch;

pub use listener::Server;
pub use metrics::ConnectionMetrics;
pub use tls::TlsError;

use crate::Broker;

/// What all connections share.
struct Gateway {
    broker: Broker,
    metrics: Arc<metrics::Metrics>,
    agents: caller::UserAgents,
    /// `grpc.advertise`; none = what the client used.
    advertised: Option<v2::Endpoints>,
    /// True from when the server stops.
    drain: watch::Receiver<bool>,
}

impl Gateway {
    /// Ends when the server begins to stop.
    fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        begins(self.drain.clone())
    }
}

/// Ends when `drain` turns true, or when its sender has gone, which stops the server too.
async fn begins(mut drain: watch::Receiver<bool>) {
    let _ = drain.wait_for(|&is_draining| is_draining).await;
}
