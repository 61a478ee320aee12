//! Whether the broker lives, is ready, and what it counts.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use serve::http::health::{self, CheckJson, HealthJson};
use serve::http::{Parameters, Problem};

use super::Admin;

/// Threads that have not turned over for so long will not do it any more.
const TURN_OVER_MAX: Duration = Duration::from_secs(10);

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/livez", get(alive))
        .route("/startupz", get(started))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

/// Whoever answers has recovered, since the broker exists only then.
async fn started() -> axum::Json<HealthJson> {
    health::fine()
}

/// Asks the threads of the store to turn over; the worker shows by itself that it does (D4). A store whose log has failed
/// lives: it goes on reading, and a restart would not mend its disk.
async fn alive(State(admin): State<Admin>) -> Response {
    let turned = tokio::time::timeout(TURN_OVER_MAX, admin.broker.turned_over()).await;
    let (code, status, is_ok) = match turned {
        Ok(()) => (StatusCode::OK, "ok", true),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "stuck", false),
    };
    let detail = format!("log writer and timer are asked to turn over within {} s", TURN_OVER_MAX.as_secs());
    let checks = vec![CheckJson { name: "threads".into(), ok: is_ok, detail }];
    (code, axum::Json(HealthJson { status: status.into(), checks })).into_response()
}

async fn ready(State(admin): State<Admin>, mut parameters: Parameters) -> Result<Response, Problem> {
    // The checks are always shown; the parameter is taken because probes of others send it.
    parameters.flag("verbose")?;
    let excluded = parameters.text("exclude")?;
    parameters.finish()?;
    Ok(health::readiness(admin.broker.readiness(), excluded.as_deref()).into_response())
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    health::metrics(admin.scrape.clone(), admin.broker.registry().clone(), headers).await
}
