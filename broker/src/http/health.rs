//! Whether the broker lives, is ready, and what it counts.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serve::http::answers::{Health, Page};
use serve::http::codes::{DRAINING, INTERNAL};
use serve::http::health::{self, CheckJson, HealthJson};
use serve::http::openapi::says;
use serve::http::parameters::{Flag, Nothing};
use serve::http::{Problem, Query};

use super::Admin;

/// Threads that have not turned over for so long will not do it any more.
const TURN_OVER_MAX: Duration = Duration::from_secs(10);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ready {
    /// Taken because probes of others send it: the checks are always shown.
    #[serde(default, rename = "verbose")]
    _verbose: Flag,
    /// Names of checks, parted by commas, that shall not matter.
    exclude: Option<String>,
}

pub(super) fn routes() -> ApiRouter<Admin> {
    ApiRouter::new()
        .api_route("/livez", get_with(alive, says("Whether the server lives; restart it when it does not.", &[])))
        .api_route("/startupz", get_with(started, says("Whether recovery is over.", &[])))
        .api_route("/readyz", get_with(ready, says("Whether the broker takes messages.", &[])))
        .api_route("/metrics", get_with(metrics, says("Metrics.", &[INTERNAL, DRAINING])))
}

/// Whoever answers has recovered, since the broker exists only then.
async fn started(Query(Nothing {}): Query<Nothing>) -> Health {
    health::fine()
}

/// Asks the threads of the store to turn over; the worker shows by itself that it does (D4). A store whose log has failed
/// lives: it goes on reading, and a restart would not mend its disk.
async fn alive(State(admin): State<Admin>, Query(Nothing {}): Query<Nothing>) -> Health {
    let turned = tokio::time::timeout(TURN_OVER_MAX, admin.broker.turned_over()).await;
    let (code, status, is_ok) = match turned {
        Ok(()) => (StatusCode::OK, "ok", true),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "stuck", false),
    };
    let detail = format!("log writer and timer are asked to turn over within {} s", TURN_OVER_MAX.as_secs());
    let checks = vec![CheckJson { name: "threads".into(), ok: is_ok, detail }];
    Health(code, HealthJson { status: status.into(), checks })
}

async fn ready(State(admin): State<Admin>, Query(asked): Query<Ready>) -> Health {
    health::readiness(admin.broker.readiness(), asked.exclude.as_deref())
}

async fn metrics(
    State(admin): State<Admin>,
    Query(Nothing {}): Query<Nothing>,
    headers: HeaderMap,
) -> Result<Page, Problem> {
    health::metrics(admin.scrape.clone(), admin.broker.registry().clone(), headers).await
}
