//! A whole broker from a configuration and a data directory: store, threads, workers, listeners; and its orderly end.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use base::{Chance, Clock, SystemClock};
use prometheus::{GaugeVec, IntGauge, Opts, Registry};
use serve::process::{Exit, Failure};
use serve::runtime::{Hooks, Runtime};
use storage::disk::real::{DirectoryError, RealDisk};
use storage::log::recovery::{self, Report};
use storage::log::{CommitRule, LogOptions};
use storage::store::{self, OpenError};
use storage::threads::{self, ReserveRule, Schedule, Store};
use storage::upkeep::Policy;

use crate::Broker;
use crate::config::{self, Config, Flush};
use crate::gateways::{self, Gateways};
use crate::mailbox;
use crate::peers::HomesError;

/// Why a broker did not start. What was started before is stopped again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("the store cannot be opened: {0}")]
    Store(#[from] OpenError),
    #[error("storage.disk_reserve = {0:?} is neither a share such as \"5%\" nor a size such as \"10GiB\"")]
    Reserve(String),
    #[error("storage.verify_rate = {0:?} is no size a second such as \"20MiB/s\"")]
    Rate(String),
    #[error(transparent)]
    Homes(#[from] HomesError),
    #[error(transparent)]
    Gateways(#[from] gateways::StartError),
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("threads cannot be started: {0}")]
    Threads(io::Error),
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let text = error.to_string();
        match error {
            StartError::Directory(DirectoryError::Locked { path }) => {
                let path = path.display();
                Self::new(Exit::DataLocked, format!("{path} is in use by another process: its lock is held"))
            }
            StartError::Directory(DirectoryError::Io { path, source }) => match source.kind() {
                ErrorKind::PermissionDenied => {
                    Self::new(Exit::NoPermission, format!("no permission for {}", path.display()))
                }
                _ => Self::new(Exit::Failed, text),
            },
            StartError::Store(OpenError::Log(recovery::OpenError::Version { .. })) => Self::new(Exit::DataLocked, text),
            StartError::Gateways(gateways::StartError::Listen { setting, address, cause }) => {
                Self::listen(setting, &address, &cause)
            }
            StartError::Reserve(_)
            | StartError::Rate(_)
            | StartError::Gateways(gateways::StartError::Advertise(_) | gateways::StartError::Tls(_)) => {
                Self::new(Exit::Configuration, text)
            }
            _ => Self::new(Exit::Failed, text),
        }
    }
}

/// Workers hand their requests over to the log writer together.
const WORKERS: Hooks = Hooks { on_start: mailbox::enter_worker, before_sleep: mailbox::ring };

/// A running broker.
pub struct Server {
    broker: Broker,
    gateways: Gateways,
    runtime: Runtime,
    report: Report,
}

impl Server {
    /// Recovers the store in `data` and listens. What was acknowledged before is served when this returns.
    pub fn start(config: &Config, data: &Path) -> Result<Self, StartError> {
        Self::start_with(config, data, ApiRouter::new)
    }

    /// As [`Self::start`]. `more` are routes of a server in the same process that has no HTTP port of its own.
    pub fn start_with(config: &Config, data: &Path, more: impl FnOnce() -> ApiRouter) -> Result<Self, StartError> {
        let registry = serve::metrics::registry(&config.cluster.name, "broker", &config.node.name)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, report) = open_store(config, data, &clock, &registry)?;
        let runtime = match Runtime::start(config.runtime.workers, WORKERS) {
            Ok(runtime) => runtime,
            Err(error) => {
                store.stop();
                return Err(StartError::Threads(error));
            }
        };
        let broker = match Broker::start(store.clone(), config.clone(), clock, registry, runtime.handles()) {
            Ok(broker) => broker,
            Err(error) => {
                store.stop();
                runtime.stop();
                return Err(error.into());
            }
        };
        if let Err(error) = broker.remember_in(data) {
            broker.stop();
            runtime.stop();
            return Err(error.into());
        }
        match Gateways::start(&runtime, &broker, more) {
            Ok(gateways) => {
                broker.register(gateways.grpc_address(), gateways.http_address());
                Ok(Self { broker, gateways, runtime, report })
            }
            Err(error) => {
                broker.stop();
                runtime.stop();
                Err(error.into())
            }
        }
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    pub fn grpc_address(&self) -> SocketAddr {
        self.gateways.grpc_address()
    }

    pub fn http_address(&self) -> Option<SocketAddr> {
        self.gateways.http_address()
    }

    /// What the recovery found.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// By what [`PortsFile`](serve::process::PortsFile) calls them.
    pub fn ports(&self) -> [(&'static str, Option<u16>); 2] {
        let http = self.http_address().map(|address| address.port());
        [("grpc", Some(self.grpc_address().port())), ("http", http)]
    }

    /// Writes to the log what the recovery found.
    pub fn tell_what_was_found(&self) {
        for hole in &self.report.quarantined {
            tracing::error!(from = hole.start.0, to = hole.end.0, "a part of the log is damaged; the rest is served");
        }
        let Report { batches, bytes, rewritten, .. } = &self.report;
        tracing::info!(batches, bytes, rewritten, "log recovered");
    }

    /// Stops accepting, answers what is durable, closes the log. Calls that take longer than `within` are cut off.
    pub async fn stop(self, within: Duration) {
        self.broker.leave().await;
        if !self.gateways.stop(within).await {
            tracing::warn!(timeout = ?within, "calls in progress were cut off; nothing acknowledged is lost");
        }
        self.broker.stop();
        self.runtime.stop();
    }
}

fn open_store(
    config: &Config,
    data: &Path,
    clock: &Arc<dyn Clock>,
    registry: &Registry,
) -> Result<(Store, Report), StartError> {
    let reserve = parse_reserve(&config.storage.disk_reserve)?;
    let verify_rate = parse_rate(&config.storage.verify_rate)?;
    let disk = Arc::new(RealDisk::open(data)?);
    let metrics = storage::metrics::Metrics::register(registry)?;
    let commit = match config.storage.log.flush {
        Flush::Sync => CommitRule::OnSync,
        Flush::Write => CommitRule::OnWrite,
    };
    let options = store::Options {
        log: LogOptions { segment_bytes: config.storage.log.segment_size.0, commit },
        node: 1,
        tail_cache_bytes: usize::try_from(config.storage.tail_cache.0).unwrap_or(usize::MAX),
        timers: storage::view::timers::Bounds::default(),
    };
    let began = clock.monotonic_ms();
    let recovered = store::recover(disk.clone(), options, clock.clone(), Chance::from_system(), metrics.clone())?;
    let report = recovered.report.clone();
    show_recovery(registry, &report, clock.monotonic_ms() - began)?;
    let options = threads::Options {
        inbox_requests_max: config.limits.writer_inbox,
        read_threads: config.storage.read_threads,
        behind_bytes_per_second: Some(config.storage.behind_read_rate.0).filter(|rate| *rate > 0),
        reserve,
        upkeep: schedule(&config.storage, verify_rate),
    };
    let store = Store::start(recovered, disk, clock.clone(), metrics, options).map_err(StartError::Threads)?;
    Ok((store, report))
}

/// What the start has cost: it stays as it is.
fn show_recovery(registry: &Registry, report: &Report, took_ms: u64) -> Result<(), prometheus::Error> {
    let name = "carillon_recovery_duration_seconds";
    let duration = GaugeVec::new(Opts::new(name, "Seconds that the recovery of the last start took"), &["phase"])?;
    duration.with_label_values(&["total"]).set(took_ms as f64 / 1e3);
    registry.register(Box::new(duration))?;
    let torn = report.torn.map_or(0, |(_, bytes)| bytes);
    for (name, help, bytes) in [
        ("carillon_recovery_replayed_bytes", "Bytes of the log that the last start read", report.bytes),
        ("carillon_recovery_truncated_bytes", "Bytes of a torn tail that the last start cut off", torn),
    ] {
        let gauge = IntGauge::new(name, help)?;
        gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        registry.register(Box::new(gauge))?;
    }
    Ok(())
}

/// When upkeep does what it does.
fn schedule(storage: &config::Storage, verify_rate: u64) -> Schedule {
    Schedule {
        verify_rate,
        checkpoint_every: storage.checkpoint_every,
        checkpoint_bytes: storage.checkpoint_bytes.0,
        retain_every: storage.retain_every,
        retention: policy(storage),
    }
}

/// How long messages are kept.
pub fn policy(storage: &config::Storage) -> Policy {
    Policy {
        time: storage.retention,
        dead_letters: storage.dead_letter_retention,
        bytes: storage.retention_size.map(|size| size.0),
        is_size_first: storage.retention_size_first,
    }
}

/// `"5%"` or `"10GiB"`.
pub fn parse_reserve(text: &str) -> Result<ReserveRule, StartError> {
    let bad = || StartError::Reserve(text.into());
    match text.strip_suffix('%') {
        Some(share) => {
            let share = share.trim().parse::<u8>().ok().filter(|share| *share <= 50);
            share.map(ReserveRule::Percent).ok_or_else(bad)
        }
        None => text.parse::<base::ByteSize>().map(|size| ReserveRule::Bytes(size.0)).map_err(|_| bad()),
    }
}

/// `"20MiB/s"`, as bytes a second.
pub fn parse_rate(text: &str) -> Result<u64, StartError> {
    let size = text.trim().strip_suffix("/s").unwrap_or(text);
    size.parse::<base::ByteSize>().map(|size| size.0).map_err(|_| StartError::Rate(text.into()))
}

#[cfg(test)]
mod tests {
    use base::ByteSize;

    use super::*;

    #[test]
    fn upkeep_does_what_the_settings_say() {
        let rate = Schedule::default().verify_rate;
        assert_eq!(schedule(&config::Storage::default(), rate), Schedule::default());
        let storage = config::Storage {
            checkpoint_every: Duration::from_millis(10),
            checkpoint_bytes: ByteSize(1 << 20),
            retention: Duration::from_secs(1),
            retention_size: Some(ByteSize(1 << 30)),
            retention_size_first: true,
            dead_letter_retention: Duration::from_secs(2),
            retain_every: Duration::from_millis(20),
            ..config::Storage::default()
        };
        let retention = Policy {
            time: Duration::from_secs(1),
            dead_letters: Duration::from_secs(2),
            bytes: Some(1 << 30),
            is_size_first: true,
        };
        let (every, again) = (Duration::from_millis(10), Duration::from_millis(20));
        let expected = Schedule {
            checkpoint_every: every,
            checkpoint_bytes: 1 << 20,
            retain_every: again,
            retention,
            verify_rate: 7,
        };
        assert_eq!(schedule(&storage, 7), expected);
    }
}
