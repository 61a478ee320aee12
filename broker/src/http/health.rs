//! Whether the server lives, is ready, and what it counts.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base::{Clock, SystemClock};
use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use prometheus::{Registry, TextEncoder};

use super::fields::Parameters;
use super::json::{CheckJson, HealthJson};
use super::problem::Problem;
use super::server::Admin;
use crate::{Check, runtime};

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A page of metrics is shared by all who ask within this time (M5).
const SHARED_MS: u64 = 1_000;

/// The last page of metrics.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    // Held while a page is made: whoever asks meanwhile waits for that page instead of making another.
    last: Mutex<Option<(u64, Bytes)>>,
}

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/livez", get(alive))
        .route("/startupz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

/// Whoever answers has recovered, since the broker exists only then, and has a worker that turns over.
async fn alive() -> axum::Json<HealthJson> {
    axum::Json(HealthJson { status: "ok".into(), checks: Vec::new() })
}

async fn ready(State(admin): State<Admin>, mut parameters: Parameters) -> Result<Response, Problem> {
    // The checks are always shown; the parameter is taken because probes of others send it.
    parameters.flag("verbose")?;
    let excluded = parameters.text("exclude")?;
    parameters.finish()?;
    Ok(readiness(admin.broker.readiness(), excluded.as_deref()).into_response())
}

fn readiness(checks: Vec<Check>, excluded: Option<&str>) -> (StatusCode, axum::Json<HealthJson>) {
    let is_excluded = |check: &Check| excluded.is_some_and(|names| names.split(',').any(|name| name == check.name));
    let is_ready = checks.iter().all(|check| check.is_ok || is_excluded(check));
    let (code, status) =
        if is_ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not_ready") };
    let checks =
        checks.into_iter().map(|check| CheckJson { name: check.name.into(), ok: check.is_ok, detail: check.detail });
    (code, axum::Json(HealthJson { status: status.into(), checks: checks.collect() }))
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let (scrape, registry) = (admin.scrape.clone(), admin.broker.registry().clone());
    // Tens of milliseconds with many topics: not on a thread that calls wait for.
    match runtime::beside(move || scrape.page(&registry, SystemClock.monotonic_ms())).await {
        Some(Ok(page)) => ([("content-type", TEXT_FORMAT)], page).into_response(),
        Some(Err(error)) => {
            tracing::error!(%error, "metrics cannot be written");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "metrics cannot be written").into_response()
        }
        None => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "the server is stopping").into_response(),
    }
}

impl Scrape {
    fn page(self: &Arc<Self>, registry: &Registry, now_ms: u64) -> prometheus::Result<Bytes> {
        let mut last = self.last.lock();
        if let Some((made_ms, page)) = &*last
            && now_ms.saturating_sub(*made_ms) <= SHARED_MS
        {
            return Ok(page.clone());
        }
        let page = Bytes::from(TextEncoder::new().encode_to_string(&registry.gather())?);
        *last = Some((now_ms, page.clone()));
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;

    use super::*;

    #[test]
    fn one_failed_check_makes_the_server_unready_unless_it_is_excluded() {
        let check = |name, is_ok| Check { name, is_ok, detail: String::new() };
        let checks = || vec![check("writable", true), check("registered", false)];
        let (code, body) = readiness(checks(), None);
        assert_eq!((code.as_u16(), &*body.status, body.checks.len()), (503, "not_ready", 2));
        assert_eq!(readiness(checks(), Some("registered")).0, StatusCode::OK);
        assert_eq!(readiness(Vec::new(), None).0, StatusCode::OK);
    }

    #[test]
    fn scrapes_within_a_second_share_a_page() {
        let (registry, scrape) = (Registry::new(), Arc::new(Scrape::default()));
        let counter = IntCounter::new("x_total", "x").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        let first = scrape.page(&registry, 5_000).unwrap();
        counter.inc();
        assert_eq!(scrape.page(&registry, 5_900).unwrap(), first);
        assert!(scrape.page(&registry, 6_100).unwrap().ends_with(b"x_total 1\n"));
    }
}
