//! The budget as operators see it.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{Budget, Overload};

const POOL: &str = "connections";
/// Refusals by their reasons, and pauses.
#[derive(Debug)]
pub(super) struct Refused {
    refusals: [IntCounter; Overload::ALL.len()],
    pauses: IntCounter,
}

impl Refused {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let help = "Requests and answers refused for overload: no memory, more than a connection's share of it or of the \
            calls at work, a wait that is too long";
        let vector = IntCounterVec::new(Opts::new("carillon_overload_refusals_total", help), &["reason"])?;
        registry.register(Box::new(vector.clone()))?;
        let help = "Times that a connection was read no further for up to 20 ms, because what it asked for was too much to be \
            refused at once";
        let pauses = IntCounter::new("carillon_overload_pauses_total", help)?;
        registry.register(Box::new(pauses.clone()))?;
        Ok(Self { refusals: Overload::ALL.map(|overload| vector.with_label_values(&[overload.word()])), pauses })
    }

    pub(super) fn count(&self, overload: Overload) {
        self.refusals[overload as usize].inc();
    }

    pub(super) fn count_pause(&self) {
        self.pauses.inc();
    }
}

/// Families of memory, which have a line for each pool: name, help, labels.
pub const POOLS: [(&str, &str, &[&str]); 2] = [
    (
        "carillon_memory_bytes",
        "Bytes held, by pool; connections: requests that are received or worked on and answers that clients have not taken",
        &["pool"],
    ),
    ("carillon_memory_limit_bytes", "Bytes that may be held, by pool; connections: limits.memory", &["pool"]),
];

/// Gauges that are read when somebody scrapes.
pub(super) struct State {
    budget: Budget,
    used: IntGaugeVec,
    limit: IntGaugeVec,
}

impl State {
    pub(super) fn register(registry: &Registry, budget: &Budget) -> prometheus::Result<()> {
        let [used, limit] = POOLS.map(|(name, help, labels)| IntGaugeVec::new(Opts::new(name, help), labels));
        registry.register(Box::new(Self { budget: budget.clone(), used: used?, limit: limit? }))
    }
}

impl Collector for State {
    fn desc(&self) -> Vec<&Desc> {
        self.used.desc().into_iter().chain(self.limit.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let bytes = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.used.with_label_values(&[POOL]).set(bytes(self.budget.used()));
        self.limit.with_label_values(&[POOL]).set(bytes(self.budget.limit()));
        self.used.collect().into_iter().chain(self.limit.collect()).collect()
    }
}
