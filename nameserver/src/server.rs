//! A whole name server from its configuration, and its orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use serve::admission::Budget;
use serve::metrics::ConnectionMetrics;
use serve::port::{self, Bound};
use serve::process::{Exit, Failure};
use serve::runtime::{Hooks, Runtime};
use serve::tls;

use crate::config::Config;
use crate::gateway::Gateway;
use crate::http;
use crate::registry::Registry;

/// A running name server.
#[derive(Debug)]
pub struct Server {
    port: port::Server,
    http: Option<serve::http::Server>,
    registry: Arc<Registry>,
    runtime: Runtime,
}

impl Server {
    pub fn start(config: &Config) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(Exit::Failed, error.to_string());
        let metrics = serve::metrics::registry(&config.cluster.name, "nameserver", &config.node.name);
        let metrics = metrics.map_err(|error| failed(&error))?;
        let connections = ConnectionMetrics::register(&metrics).map_err(|error| failed(&error))?;
        let tls = tls::acceptor(&config.tls, &[&*config.node.name]);
        let tls = tls.map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
        let runtime = Runtime::start(config.runtime.workers, Hooks::default());
        let runtime = runtime.map_err(|error| failed(&format!("threads cannot be started: {error}")))?;
        match Self::listen(config, &runtime, metrics, connections, tls) {
            Ok((port, http, registry)) => Ok(Self { port, http, registry, runtime }),
            Err(failure) => {
                runtime.stop();
                Err(failure)
            }
        }
    }

    fn listen(
        config: &Config,
        runtime: &Runtime,
        metrics: prometheus::Registry,
        connections: ConnectionMetrics,
        tls: tokio_rustls::TlsAcceptor,
    ) -> Result<(port::Server, Option<serve::http::Server>, Arc<Registry>), Failure> {
        let bound = Bound::bind(&config.listen, runtime);
        let bound = bound.map_err(|cause| Failure::listen("listen", &config.listen, &cause))?;
        let registry = Registry::new(config, &metrics, bound.draining());
        let registry = registry.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let budget = Budget::new(config.limits.memory, &metrics);
        let budget = budget.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let app = http::router(registry.clone(), metrics);
        let http = serve::http::Server::start(runtime, &config.http.listen, app, connections.clone(), budget.clone());
        let http = http.map_err(|cause| Failure::listen("http.listen", &config.http.listen, &cause))?;
        let options = port::Options {
            tls,
            is_tls_required: config.tls.required,
            connections_max: config.connections_max,
            metrics: connections,
            budget,
        };
        let gateway = Gateway::new(registry.clone(), bound.draining());
        let port = bound.serve(runtime, options, move |peer, share, _| {
            let gateway = gateway.clone();
            // Boxed: its room is free again while a Telemetry stream lasts.
            hyper::service::service_fn(move |request| {
                Box::pin(gateway.clone().call(peer.local, share.clone(), request))
            })
        });
        Ok((port, http, registry))
    }

    /// Where clients and brokers come.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What it tells operators of its table, for the HTTP port of a server in the same process.
    pub fn table_routes(&self) -> impl FnOnce() -> ApiRouter + use<> {
        let registry = self.registry.clone();
        move || http::table(registry)
    }

    /// None when it is switched off.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(serve::http::Server::address)
    }

    /// Tells clients and brokers to go elsewhere, and waits for calls in progress until `within` has passed.
    pub async fn stop(self, within: Duration) {
        if !self.port.stop(within).await {
            tracing::warn!(timeout = ?within, "calls in progress were cut off");
        }
        drop(self.http);
        self.runtime.stop();
    }
}
