//! What storage counts. Names and meanings: the operations page, part A.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::log::{LogFailure, ReadError};
use crate::store::FetchError;
use crate::upkeep::Files;

/// Latencies in seconds, from 0.1 ms to 10 s.
pub const LATENCY: [f64; 16] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Lateness of timers in seconds.
pub const LATENESS: [f64; 15] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0];

#[derive(Debug, Clone)]
pub struct Metrics {
    pub append_bytes: IntCounter,
    pub append_batches: IntCounter,
    pub write_duration: Histogram,
    pub sync_duration: Histogram,
    pub group_batches: Histogram,
    pub group_bytes: Histogram,
    pub writable: IntGauge,
    pub timer_lateness: Histogram,
    pub timer_early: IntCounter,
    pub thinned_bytes: IntCounter,
    pub dropped_by_time: IntCounter,
    pub dropped_by_size: IntCounter,
    pub log_bytes: IntGaugeVec,
    pub log_segments: IntGaugeVec,
    failures: IntCounterVec,
    pub held_bytes: IntGauge,
    pub timers_unreadable: IntGauge,
    pub timers_rebuilt: IntCounter,
    pub timers_lost: IntCounter,
    pub checkpoint_duration: Histogram,
    pub checkpoint_bytes: IntGauge,
    pub quarantined_bytes: IntGauge,
    /// Reads that did not give what was written.
    pub wrong_checksums: IntCounter,
    pub failed_reads: IntCounter,
    pub read_from_cache: Histogram,
    pub read_from_disk: Histogram,
    pub writer_busy: prometheus::Counter,
    pub timer_busy: prometheus::Counter,
    pub read_busy: prometheus::Counter,
    pub upkeep_busy: prometheus::Counter,
}

impl Metrics {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            prometheus::Result::Ok(histogram)
        };
        let writable = IntGauge::new(
            "carillon_store_writable",
            "1, or 0 after a failed sync or while the disk is at its reserve",
        )?;
        registry.register(Box::new(writable.clone()))?;
        let busy = prometheus::CounterVec::new(
            prometheus::Opts::new(
                "carillon_thread_busy_seconds_total",
                "Seconds a thread had work, waiting for the disk included",
            ),
            &["thread"],
        )?;
        registry.register(Box::new(busy.clone()))?;
        let dropped = IntCounterVec::new(
            Opts::new("carillon_log_dropped_bytes_total", "Bytes of segments that retention let go"),
            &["reason"],
        )?;
        registry.register(Box::new(dropped.clone()))?;
        let log_bytes = IntGaugeVec::new(
            Opts::new(
                "carillon_log_bytes",
                "Bytes of the log's files; held = past retention, kept for what waits in them",
            ),
            &["state"],
        )?;
        registry.register(Box::new(log_bytes.clone()))?;
        let log_segments = IntGaugeVec::new(Opts::new("carillon_log_segments", "Segments of the log"), &["state"])?;
        registry.register(Box::new(log_segments.clone()))?;
        let failures = IntCounterVec::new(
            Opts::new(
                "carillon_store_failures_total",
                "Operations on the log's files that failed, or gave damaged bytes",
            ),
            &["operation", "kind"],
        )?;
        registry.register(Box::new(failures.clone()))?;
        // The first one shows as a change.
        for (operation, kind) in
            [("write", "io"), ("write", "no_space"), ("sync", "io"), ("read", "io"), ("read", "checksum")]
        {
            failures.with_label_values(&[operation, kind]);
        }
        let timers_unreadable = IntGauge::new(
            "carillon_timers_unreadable_blocks",
            "Blocks of timers that could not be read when they were due; must stay 0",
        )?;
        registry.register(Box::new(timers_unreadable.clone()))?;
        let checkpoint_bytes =
            IntGauge::new("carillon_checkpoint_bytes", "Bytes of the tables that the newest checkpoint names")?;
        registry.register(Box::new(checkpoint_bytes.clone()))?;
        let quarantined_bytes =
            IntGauge::new("carillon_quarantined_bytes", "Bytes of damaged ranges of the log: named, and not served")?;
        registry.register(Box::new(quarantined_bytes.clone()))?;
        let reads = HistogramVec::new(
            HistogramOpts::new(
                "carillon_read_duration_seconds",
                "Seconds that one body took to be read and checked, the wait for the read pool not included; of bodies \
                 that one disk read brought, each took as long as the read",
            )
            .buckets(LATENCY.into()),
            &["source"],
        )?;
        registry.register(Box::new(reads.clone()))?;
        Ok(Self {
            append_bytes: counter("carillon_log_append_bytes_total", "Bytes appended to the log, padding included")?,
            append_batches: counter("carillon_log_append_batches_total", "Batches appended to the log")?,
            write_duration: histogram(
                "carillon_log_write_duration_seconds",
                "Seconds one write of a group took",
                LATENCY.into(),
            )?,
            sync_duration: histogram(
                "carillon_log_sync_duration_seconds",
                "Seconds one fdatasync of the log took",
                LATENCY.into(),
            )?,
            group_batches: histogram(
                "carillon_log_group_batches",
                "Batches that one sync made durable",
                prometheus::exponential_buckets(1.0, 2.0, 11)?,
            )?,
            group_bytes: histogram(
                "carillon_log_group_bytes",
                "Bytes that one sync made durable",
                prometheus::exponential_buckets(1024.0, 4.0, 8)?,
            )?,
            writable,
            timer_lateness: histogram(
                "carillon_timer_lateness_seconds",
                "Seconds from the due time of a message to its publication being committed",
                LATENESS.into(),
            )?,
            timer_early: counter(
                "carillon_timer_early_total",
                "Messages published before they were due by this node's clock; must stay 0",
            )?,
            thinned_bytes: counter(
                "carillon_log_thinned_bytes_total",
                "Bytes of old segments that were freed because less than half of each was wanted",
            )?,
            dropped_by_time: dropped.with_label_values(&["time"]),
            dropped_by_size: dropped.with_label_values(&["size"]),
            held_bytes: log_bytes.with_label_values(&["held"]),
            log_bytes,
            log_segments,
            wrong_checksums: failures.with_label_values(&["read", "checksum"]),
            failed_reads: failures.with_label_values(&["read", "io"]),
            failures,
            checkpoint_duration: histogram(
                "carillon_checkpoint_duration_seconds",
                "Seconds it took to take a checkpoint",
                LATENCY.into(),
            )?,
            timers_unreadable,
            timers_rebuilt: counter(
                "carillon_timers_rebuilt_total",
                "Pending timers that damage took from the disk and that were found in the log again",
            )?,
            timers_lost: counter(
                "carillon_timers_lost_total",
                "Pending timers that damage took from the disk and from the log; must stay 0",
            )?,
            checkpoint_bytes,
            quarantined_bytes,
            read_from_cache: reads.with_label_values(&["cache"]),
            read_from_disk: reads.with_label_values(&["disk"]),
            writer_busy: busy.with_label_values(&["log_writer"]),
            timer_busy: busy.with_label_values(&["timer"]),
            upkeep_busy: busy.with_label_values(&["upkeep"]),
            read_busy: busy.with_label_values(&["read_pool"]),
        })
    }
}

impl Metrics {
    /// The log's own failure, after which nothing is written.
    pub fn log_failed(&self, failure: &LogFailure) {
        let operation = match failure.operation {
            "roll" => "open",
            other => other,
        };
        let kind = if failure.cause.kind() == std::io::ErrorKind::StorageFull { "no_space" } else { "io" };
        self.failures.with_label_values(&[operation, kind]).inc();
    }

    /// A message could not be read. One whose segment went meanwhile is no failure.
    pub fn read_failed(&self, error: &FetchError) {
        let kind = match error {
            FetchError::Read(ReadError::Gone(_)) => return,
            FetchError::Read(ReadError::Io { .. }) => "io",
            FetchError::Damaged { .. } => "checksum",
        };
        self.failures.with_label_values(&["read", kind]).inc();
    }

    /// What there is of one kind of segments.
    pub fn segments(&self, state: &str, files: Files) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.log_bytes.with_label_values(&[state]).set(number(files.bytes));
        self.log_segments.with_label_values(&[state]).set(number(files.count));
    }
}
