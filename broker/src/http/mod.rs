//! The HTTP gateway: health, metrics and administration (operations page D).

mod admin;
mod health;
pub mod json;
mod message_json;
mod messages;
mod node;
mod problem;

use std::io;
use std::sync::Arc;

use axum::Router;
use serve::admission::Budget;
use serve::http::Server;
use serve::http::health::Scrape;
use serve::metrics::ConnectionMetrics;
use serve::runtime::Runtime;

use crate::Broker;

/// What handlers share.
#[derive(Clone)]
struct Admin {
    broker: Broker,
    scrape: Arc<Scrape>,
}

/// Listens on `http.listen`; none when it is empty.
pub(crate) fn start(
    runtime: &Runtime,
    broker: &Broker,
    connections: ConnectionMetrics,
    budget: Budget,
) -> io::Result<Option<Server>> {
    let admin = Admin { broker: broker.clone(), scrape: Arc::default() };
    let app = Router::new().merge(health::routes()).nest("/api/v1", admin::routes()).with_state(admin);
    Server::start(runtime, &broker.config().http.listen, app, connections, budget)
}
