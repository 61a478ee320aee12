//! The HTTP gateway: health, metrics and administration (operations page D).

mod admin;
mod found;
mod health;
pub mod json;
mod merge;
mod message_json;
mod messages;
mod node;
mod node_json;
mod others;
mod problem;
mod reset_json;
mod schemas;

use std::io;
use std::sync::Arc;

use aide::axum::ApiRouter;
use serve::admission::Budget;
use serve::http::Server;
use serve::http::health::Scrape;
use serve::http::openapi;
use serve::metrics::ConnectionMetrics;
use serve::runtime::Runtime;

use crate::Broker;

/// What handlers share.
#[derive(Clone)]
struct Admin {
    broker: Broker,
    scrape: Arc<Scrape>,
}

/// Listens on `http.listen`; none when it is empty. `more` are routes of others in the same process.
pub(crate) fn start(
    runtime: &Runtime,
    broker: &Broker,
    connections: ConnectionMetrics,
    budget: Budget,
    more: impl FnOnce() -> ApiRouter,
) -> io::Result<Option<Server>> {
    let admin = Admin { broker: broker.clone(), scrape: Arc::default() };
    let api = || ApiRouter::new().merge(health::routes()).nest("/api/v1", admin::routes()).merge(more().with_state(()));
    let app = openapi::described("Carillon broker", api).with_state(admin);
    Server::start(runtime, &broker.config().http.listen, app, connections, budget)
}
