//! Whether a server is ready, and its page of metrics.

use std::collections::HashSet;
use std::sync::Arc;

use base::{Clock, SystemClock};
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use prometheus::{Registry, TextEncoder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answers::{Health, Page};
use super::{Problem, codes};
use crate::runtime;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// A page of metrics is shared by all who ask within this time (M5).
const SHARED_MS: u64 = 1_000;

/// One condition of readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub is_ok: bool,
    pub detail: String,
}

/// `/readyz` and its neighbours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HealthJson {
    pub status: String,
    pub checks: Vec<CheckJson>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CheckJson {
    pub name: String,
    pub ok: bool,
    pub detail: String,
}

/// The last page of metrics.
#[derive(Debug, Default)]
pub struct Scrape {
    // Held while a page is made: whoever asks meanwhile waits for that page instead of making another.
    last: Mutex<Option<(u64, Arc<str>)>>,
}

/// All is well, as far as there is anything to say.
pub fn fine() -> Health {
    Health(StatusCode::OK, HealthJson { status: "ok".into(), checks: Vec::new() })
}

/// `excluded`: names of checks, parted by commas, that shall not matter.
pub fn readiness(checks: Vec<Check>, excluded: Option<&str>) -> Health {
    let is_excluded = |check: &Check| excluded.is_some_and(|names| names.split(',').any(|name| name == check.name));
    let is_ready = checks.iter().all(|check| check.is_ok || is_excluded(check));
    let (code, status) =
        if is_ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not_ready") };
    let checks =
        checks.into_iter().map(|check| CheckJson { name: check.name.into(), ok: check.is_ok, detail: check.detail });
    Health(code, HealthJson { status: status.into(), checks: checks.collect() })
}

/// Prometheus asks for OpenMetrics by naming it; everybody else gets the text that RocketMQ's exporters give (M1).
pub async fn metrics(scrape: Arc<Scrape>, registry: Registry, headers: HeaderMap) -> Result<Page, Problem> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let is_open_metrics = accepted.flat_map(|value| value.split(',')).any(|kind| {
        let mut parts = kind.split(';').map(str::trim);
        parts.next() == Some("application/openmetrics-text") && parts.all(|part| part != "q=0")
    });
    // Tens of milliseconds with many topics: not on a thread that calls wait for.
    match runtime::beside(move || scrape.page(&registry, SystemClock.monotonic_ms())).await {
        Some(Ok(page)) if is_open_metrics => Ok(Page { content_type: OPEN_METRICS, text: open_metrics(&page) }),
        Some(Ok(page)) => Ok(Page { content_type: TEXT_FORMAT, text: page.to_string() }),
        Some(Err(error)) => {
            tracing::error!(%error, "metrics cannot be written");
            Err(Problem::new(codes::INTERNAL, "metrics cannot be written"))
        }
        None => Err(Problem::new(codes::DRAINING, "the server is stopping")),
    }
}

impl Scrape {
    fn page(self: &Arc<Self>, registry: &Registry, now_ms: u64) -> prometheus::Result<Arc<str>> {
        let mut last = self.last.lock();
        if let Some((made_ms, page)) = &*last
            && now_ms.saturating_sub(*made_ms) <= SHARED_MS
        {
            return Ok(page.clone());
        }
        let page: Arc<str> = TextEncoder::new().encode_to_string(&registry.gather())?.into();
        *last = Some((now_ms, page.clone()));
        Ok(page)
    }
}

/// The same page as OpenMetrics: a counter's family is named without `_total`, and the end is marked.
fn open_metrics(page: &str) -> String {
    let mut out = String::with_capacity(page.len() + 8);
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let counters: HashSet<&str> = kinds.filter_map(|kind| kind.strip_suffix(" counter")).collect();
    for line in page.lines() {
        let about = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        let family = about.and_then(|about| about.split(' ').next()).filter(|family| counters.contains(family));
        match family.and_then(|family| family.strip_suffix("_total")) {
            Some(counter) => {
                let rest = &line["# HELP ".len() + counter.len() + "_total".len()..];
                out.extend([&line[.."# HELP ".len()], counter, rest, "\n"]);
            }
            None => out.extend([line, "\n"]),
        }
    }
    out.push_str("# EOF\n");
    out
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;

    use super::*;

    #[test]
    fn one_failed_check_makes_the_server_unready_unless_it_is_excluded() {
        let check = |name, is_ok| Check { name, is_ok, detail: String::new() };
        let checks = || vec![check("writable", true), check("registered", false)];
        let Health(code, body) = readiness(checks(), None);
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
        assert!(scrape.page(&registry, 6_100).unwrap().ends_with("x_total 1\n"));
    }

    #[test]
    fn open_metrics_names_families_of_counters_without_total_and_marks_the_end() {
        let text = "# HELP a_total counts\n# TYPE a_total counter\na_total{x=\"# HELP a_total\"} 1\n\
            # HELP b_total no counter\n# TYPE b_total gauge\nb_total 2\n";
        let expected = "# HELP a counts\n# TYPE a counter\na_total{x=\"# HELP a_total\"} 1\n\
            # HELP b_total no counter\n# TYPE b_total gauge\nb_total 2\n# EOF\n";
        assert_eq!(open_metrics(text), expected);
    }
}
