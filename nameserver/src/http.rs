//! HTTP of the name server: health, metrics, and the table as operators read it.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::State;
use axum::{Json, Router};
use base::TopicName;
use cluster::{Broker, Place};
use http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serve::http::answers::{Health, Page};
use serve::http::codes::{DRAINING, ILLEGAL_VALUE, INTERNAL, TOPIC_NOT_FOUND};
use serve::http::health::{self, Scrape};
use serve::http::openapi::{described, says};
use serve::http::parameters::{Flag, Nothing};
use serve::http::{Name, Problem, Query};

use crate::registry::Registry;

/// A broker, to operators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BrokerJson {
    pub name: String,
    /// `ready`, `read_only` or `draining`.
    pub state: String,
    pub version: String,
    /// `host:port` that clients are told.
    pub grpc: String,
    pub http: Option<String>,
    pub topics: usize,
    /// Starts of its store.
    pub incarnation: u64,
}

/// Where a topic is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteJson {
    pub topic: String,
    pub brokers: Vec<PlaceJson>,
    /// Brokers that have the topic too, and are left out: order would be lost.
    pub left_out: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlaceJson {
    pub broker: String,
    pub grpc: String,
    pub queues: u16,
    pub writable: bool,
    pub types: Vec<String>,
}

#[derive(Clone)]
struct Shared {
    metrics: prometheus::Registry,
    scrape: Arc<Scrape>,
}

pub fn router(registry: Arc<Registry>, metrics: prometheus::Registry) -> Router {
    let api = || {
        ApiRouter::new()
            .api_route("/livez", get_with(fine, says("Whether the server lives.", &[])))
            .api_route("/startupz", get_with(fine, says("Whether the server has started.", &[])))
            .api_route("/readyz", get_with(ready, says("Whether the server answers routes.", &[])))
            .api_route("/metrics", get_with(scrape, says("Metrics.", &[INTERNAL, DRAINING])))
            .merge(table(registry))
    };
    described("Carillon name server", api).with_state(Shared { metrics, scrape: Arc::default() })
}

/// What it knows of brokers and topics, on whatever port.
pub fn table<S: Clone + Send + Sync + 'static>(registry: Arc<Registry>) -> ApiRouter<S> {
    ApiRouter::new()
        .api_route("/api/v1/brokers", get_with(brokers, says("Brokers that are registered, by name.", &[])))
        .api_route(
            "/api/v1/routes/{topic}",
            get_with(route, says("Where a topic is served.", &[TOPIC_NOT_FOUND, ILLEGAL_VALUE])),
        )
        .with_state(registry)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ready {
    /// Taken because probes send it to every server, as that of the next one.
    #[serde(default, rename = "verbose")]
    _verbose: Flag,
    #[serde(rename = "exclude")]
    _exclude: Option<String>,
}

/// Whoever answers is there, and needs nothing else.
async fn fine(Query(Nothing {}): Query<Nothing>) -> Health {
    health::fine()
}

async fn ready(Query(_): Query<Ready>) -> Health {
    health::fine()
}

async fn scrape(
    State(shared): State<Shared>,
    Query(Nothing {}): Query<Nothing>,
    headers: HeaderMap,
) -> Result<Page, Problem> {
    health::metrics(shared.scrape, shared.metrics, headers).await
}

async fn brokers(State(registry): State<Arc<Registry>>, Query(Nothing {}): Query<Nothing>) -> Json<Vec<BrokerJson>> {
    Json(registry.table().brokers().map(|broker| (&**broker).into()).collect())
}

async fn route(
    State(registry): State<Arc<Registry>>,
    Name(name): Name,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<RouteJson>, Problem> {
    let topic = TopicName::parse(&name)
        .map_err(|error| Problem::new(ILLEGAL_VALUE, error.to_string()).field("topic").value(&*name))?;
    let table = registry.table();
    let places = table.places(&topic);
    if places.is_empty() {
        let detail = format!("no broker serves topic {topic}");
        return Err(Problem::new(TOPIC_NOT_FOUND, detail).field("topic").value(&*name));
    }
    let has = |broker: &Arc<Broker>| broker.catalog.topics.contains_key(&topic);
    let left_out =
        table.brokers().filter(|broker| has(broker) && places.iter().all(|place| place.broker != broker.name));
    let left_out = left_out.map(|broker| broker.name.to_string()).collect();
    let brokers = places.into_iter().map(PlaceJson::from).collect();
    Ok(Json(RouteJson { topic: name, brokers, left_out }))
}

impl From<&Broker> for BrokerJson {
    fn from(broker: &Broker) -> Self {
        Self {
            name: broker.name.to_string(),
            state: broker.node.state.word().into(),
            version: broker.node.version.to_string(),
            grpc: broker.node.grpc.to_string(),
            http: broker.node.http.as_deref().map(String::from),
            topics: broker.catalog.topics.len(),
            incarnation: broker.incarnation,
        }
    }
}

impl From<Place> for PlaceJson {
    fn from(place: Place) -> Self {
        Self {
            broker: place.broker.to_string(),
            grpc: place.grpc.as_deref().unwrap_or_default().into(),
            queues: place.queues,
            writable: place.is_writable,
            types: place.accepts.iter().map(|kind| kind.word().into()).collect(),
        }
    }
}
