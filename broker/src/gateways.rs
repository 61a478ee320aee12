//! The listeners in front of the broker, started and stopped together.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use aide::axum::ApiRouter;
use serve::admission::Budget;
use serve::metrics::ConnectionMetrics;
use serve::runtime::Runtime;
use serve::tls::TlsError;

use crate::{Broker, grpc, http};

/// Why the listeners did not start. None is left behind.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{setting} = {address:?} cannot be listened on")]
    Listen {
        setting: &'static str,
        address: String,
        #[source]
        cause: io::Error,
    },
    #[error("grpc.advertise = {0:?} is not host:port")]
    Advertise(String),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsError),
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// Running listeners. Dropped, they stop without waiting for anybody.
#[derive(Debug)]
pub struct Gateways {
    grpc: serve::port::Server,
    http: Option<serve::http::Server>,
}

impl Gateways {
    /// Listens as the broker's configuration says, on the workers of `runtime`. `more` are routes of HTTP.
    pub fn start(runtime: &Runtime, broker: &Broker, more: impl FnOnce() -> ApiRouter) -> Result<Self, StartError> {
        let connections = ConnectionMetrics::register(broker.registry())?;
        let budget = Budget::new(broker.config().limits.memory, broker.registry())?;
        let grpc = grpc::start(runtime, broker, connections.clone(), budget.clone())?;
        let http = http::start(runtime, broker, connections, budget, more);
        let http = http.map_err(|cause| StartError::Listen {
            setting: "http.listen",
            address: broker.config().http.listen.clone(),
            cause,
        })?;
        Ok(Self { grpc, http })
    }

    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc.address()
    }

    /// None when it is switched off.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(serve::http::Server::address)
    }

    /// Takes no more connections, tells clients to go elsewhere, ends polls and telemetry streams, and waits for calls in
    /// progress until `within` has passed. HTTP goes last: until then it says why the broker is not ready.
    /// True when nothing was cut off.
    pub async fn stop(self, within: Duration) -> bool {
        let is_quiet = self.grpc.stop(within).await;
        drop(self.http);
        is_quiet
    }
}
