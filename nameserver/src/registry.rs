//! Brokers register here: a stream each, on which they say what they serve and hear what the others do.
//!
//! R1. A broker is in the table from its first word until its stream has ended and a short lease is over, or at once when it
//!     leaves orderly.
//! R2. What changes reaches every stream in the order in which the table changed.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::{Clock, SystemClock, TopicName};
use cluster::{Conflict, Table, Update, UpdateError};
use hashbrown::HashMap;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts};
use proto::cluster as wire;
use proto::cluster::registry_server;
use serve::port::Draining;
use serve::runtime;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::config::Config;

/// For a broker whose connection broke to come back, before clients are told that it has gone.
const LEASE: Duration = Duration::from_millis(1500);
/// After a start brokers come back one by one; every one of them tries each 200 ms.
const SETTLING: Duration = Duration::from_secs(1);
/// Changes that a slow broker may be behind before it has to begin anew.
const CHANGES_MAX: usize = 1024;
const OUTBOUND_MAX: usize = 64;
/// Renewals within the time after which a broker is forgotten.
const RENEWALS: u32 = 6;
const RENEW_MAX: Duration = Duration::from_secs(5);

/// The table, and who changes it.
#[derive(Debug)]
pub struct Registry {
    cluster: String,
    expiry: Duration,
    state: Mutex<State>,
    changes: broadcast::Sender<wire::ClusterUpdate>,
    registrations: IntCounterVec,
    draining: Draining,
    /// By the monotonic clock.
    settled_at_ms: u64,
}

#[derive(Debug, Default)]
struct State {
    table: Arc<Table>,
    /// The stream that each broker came with last: the end of an older one means nothing.
    streams: HashMap<Arc<str>, Stream>,
    next_stream: u64,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    /// It has ended, and the lease has not.
    is_stale: bool,
}

type Outbound = Pin<Box<dyn tokio_stream::Stream<Item = Result<wire::ClusterUpdate, Status>> + Send>>;

impl Registry {
    pub fn new(config: &Config, metrics: &prometheus::Registry, draining: Draining) -> prometheus::Result<Arc<Self>> {
        let registrations =
            Opts::new("carillon_nameserver_registrations_total", "Streams that brokers began, and how that ended");
        let registrations = IntCounterVec::new(registrations, &["result"])?;
        metrics.register(Box::new(registrations.clone()))?;
        for result in ["ok", "refused"] {
            registrations.with_label_values(&[result]);
        }
        let registry = Arc::new(Self {
            cluster: config.cluster.name.clone(),
            expiry: config.broker_expiry,
            state: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES_MAX),
            registrations,
            draining,
            settled_at_ms: SystemClock.monotonic_ms() + milliseconds(SETTLING),
        });
        Shown::register(&registry, metrics)?;
        Ok(registry)
    }

    /// Everybody who is registered.
    pub fn table(&self) -> Arc<Table> {
        self.state.lock().table.clone()
    }

    /// How long it may still take until every broker has come back after a start of this name server.
    pub fn settling(&self) -> Duration {
        Duration::from_millis(self.settled_at_ms.saturating_sub(SystemClock.monotonic_ms()))
    }

    /// Brokers whose connection broke a moment ago: they are in the table still, and probably do not answer.
    pub fn stale(&self) -> Vec<Arc<str>> {
        let state = self.state.lock();
        state.streams.iter().filter(|(_, stream)| stream.is_stale).map(|(broker, _)| broker.clone()).collect()
    }

    fn renew_every(&self) -> Duration {
        (self.expiry / RENEWALS).min(RENEW_MAX)
    }

    /// Takes over the first word of a broker on a new stream.
    fn register(&self, first: Update) -> Result<Registered, UpdateError> {
        let mut state = self.state.lock();
        let broker = first.broker.clone();
        self.take_over(&mut state, first)?;
        state.next_stream += 1;
        let number = state.next_stream;
        state.streams.insert(broker, Stream { number, is_stale: false });
        // Subscribed under the lock: nothing comes between the table as it is and what changes then (R2).
        Ok(Registered { number, table: state.table.clone(), changes: self.changes.subscribe() })
    }

    /// Takes over what a broker says, and tells everybody.
    fn take_over(&self, state: &mut State, update: Update) -> Result<(), UpdateError> {
        let broker = update.broker.clone();
        let told = wire::BrokerUpdate::from(&update);
        let placed: Vec<_> =
            update.topics.iter().filter(|(_, served)| served.is_placed).map(|(n, _)| n.clone()).collect();
        let is_new = Arc::make_mut(&mut state.table).apply(update)?;
        for topic in &placed {
            warn_of_conflict(&state.table, topic, &broker);
        }
        if is_new {
            self.tell(wire::cluster_update::Content::Update(told));
        }
        Ok(())
    }

    fn tell(&self, content: wire::cluster_update::Content) {
        // Nobody hears it when there is no broker.
        let _listeners = self.changes.send(wire::ClusterUpdate { content: Some(content) });
    }

    /// The stream has ended: its broker goes, unless it has come back with another one.
    fn remove(&self, broker: &Arc<str>, stream: u64) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.streams.get(broker).is_none_or(|newest| newest.number != stream) {
            return;
        }
        state.streams.remove(broker);
        if Arc::make_mut(&mut state.table).remove(broker) {
            tracing::info!(%broker, "a broker has gone");
            self.tell(wire::cluster_update::Content::Gone(broker.to_string()));
        }
    }

    fn mark_stale(&self, broker: &Arc<str>, stream: u64) {
        if let Some(newest) = self.state.lock().streams.get_mut(broker).filter(|newest| newest.number == stream) {
            newest.is_stale = true;
        }
    }

    /// One broker, from its first word on.
    async fn serve(
        self: Arc<Self>,
        broker: Arc<str>,
        registered: Registered,
        mut inbound: Streaming<wire::BrokerUpdate>,
        outbound: mpsc::Sender<Result<wire::ClusterUpdate, Status>>,
    ) {
        let number = registered.number;
        let result = self.converse(registered, &mut inbound, &outbound).await;
        match result {
            Ok(()) => tracing::info!(%broker, "a broker leaves"),
            Err(status) => {
                tracing::warn!(%broker, problem = status.message(), "a broker is cut off");
                // It is told why, if it still listens.
                let _is_open = outbound.try_send(Err(status));
                drop((outbound, inbound));
                self.mark_stale(&broker, number);
                tokio::time::sleep(LEASE.min(self.expiry)).await;
            }
        }
        self.remove(&broker, number);
    }

    /// Ends well when the broker leaves. What others say must not count as a word of this one, so both sides go on by
    /// themselves.
    async fn converse(
        &self,
        registered: Registered,
        inbound: &mut Streaming<wire::BrokerUpdate>,
        outbound: &mpsc::Sender<Result<wire::ClusterUpdate, Status>>,
    ) -> Result<(), Status> {
        tokio::select! {
            end = self.hear(inbound) => end,
            Err(status) = self.tell_changes(registered, outbound) => Err(status),
            () = self.draining.begins() => Err(Status::unavailable("the name server is stopping")),
        }
    }

    async fn hear(&self, inbound: &mut Streaming<wire::BrokerUpdate>) -> Result<(), Status> {
        loop {
            let said = tokio::time::timeout(self.expiry, inbound.message()).await;
            let said = said.map_err(|_| Status::deadline_exceeded("it says nothing any more"))?;
            let Some(update) = said? else { return Ok(()) };
            let update = Update::try_from(update).map_err(|error| Status::invalid_argument(error.to_string()))?;
            self.take_over(&mut self.state.lock(), update).map_err(|error| refused(&error))?;
        }
    }

    async fn tell_changes(
        &self,
        registered: Registered,
        outbound: &mpsc::Sender<Result<wire::ClusterUpdate, Status>>,
    ) -> Result<Infallible, Status> {
        let Registered { table, mut changes, .. } = registered;
        self.tell_all(&table, outbound).await?;
        loop {
            // One that is too slow has missed who has gone: it begins anew, with nothing.
            let change = changes.recv().await;
            let change = change.map_err(|_| Status::resource_exhausted("it does not keep up with what it is told"))?;
            self.send(outbound, change).await?;
        }
    }

    async fn tell_all(
        &self,
        table: &Table,
        outbound: &mpsc::Sender<Result<wire::ClusterUpdate, Status>>,
    ) -> Result<(), Status> {
        use wire::cluster_update::Content;
        let as_u32 = |duration| u32::try_from(milliseconds(duration)).unwrap_or(u32::MAX);
        let (renew_every_ms, settling_ms) = (as_u32(self.renew_every()), as_u32(self.settling()));
        let brokers = table.brokers().map(|broker| Content::Update((&**broker).into()));
        for content in brokers.chain([Content::Ready(wire::Ready { renew_every_ms, settling_ms })]) {
            self.send(outbound, wire::ClusterUpdate { content: Some(content) }).await?;
        }
        Ok(())
    }

    async fn send(
        &self,
        outbound: &mpsc::Sender<Result<wire::ClusterUpdate, Status>>,
        update: wire::ClusterUpdate,
    ) -> Result<(), Status> {
        match tokio::time::timeout(self.expiry, outbound.send(Ok(update))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("it does not listen any more")),
            Err(_) => Err(Status::deadline_exceeded("it does not take what it is told")),
        }
    }
}

/// A broker that has said its first word.
struct Registered {
    number: u64,
    table: Arc<Table>,
    changes: broadcast::Receiver<wire::ClusterUpdate>,
}

/// An ordered topic on two brokers would have no order, so routes leave one of them out: an operator has to decide.
fn warn_of_conflict(table: &Table, topic: &TopicName, broker: &str) {
    for Conflict { keeper, refused, .. } in table.conflicts_of(topic) {
        if keeper.as_deref().is_none_or(|keeper| keeper == broker) || &*refused == broker {
            let keeper = keeper.as_deref().unwrap_or("away");
            tracing::error!(%topic, keeper, left_out = &*refused, "an ordered topic is on several brokers; routes lead to one");
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn refused(error: &UpdateError) -> Status {
    match error {
        UpdateError::NameTaken { .. } => Status::already_exists(error.to_string()),
        UpdateError::Older { .. } | UpdateError::Gap { .. } | UpdateError::Incomplete { .. } => {
            Status::failed_precondition(error.to_string())
        }
    }
}

/// The service in front of a [`Registry`].
#[derive(Debug, Clone)]
pub struct Service(pub Arc<Registry>);

#[tonic::async_trait]
impl registry_server::Registry for Service {
    type RegisterStream = Outbound;

    async fn register(&self, request: Request<Streaming<wire::BrokerUpdate>>) -> Result<Response<Outbound>, Status> {
        let registry = self.0.clone();
        let mut inbound = request.into_inner();
        let result = async {
            let first = tokio::time::timeout(registry.expiry, inbound.message()).await;
            let first = first.map_err(|_| Status::deadline_exceeded("nothing was said"))??;
            let first = first.ok_or_else(|| Status::invalid_argument("nothing was said"))?;
            let first = Update::try_from(first).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let asked = first.node.as_ref().map(|node| node.cluster.clone()).unwrap_or_default();
            if *asked != *registry.cluster {
                let problem =
                    format!("cluster.name = {asked:?}: this name server is of cluster {:?}", registry.cluster);
                return Err(Status::failed_precondition(problem));
            }
            let broker = first.broker.clone();
            let registered = registry.register(first).map_err(|error| refused(&error))?;
            Ok((broker, registered))
        };
        let (broker, registered) = match result.await {
            Ok(registered) => registered,
            Err(status) => {
                registry.registrations.with_label_values(&["refused"]).inc();
                tracing::warn!(problem = status.message(), "a registration is refused");
                return Err(status);
            }
        };
        registry.registrations.with_label_values(&["ok"]).inc();
        tracing::info!(%broker, "a broker has registered");
        let (outbound, updates) = mpsc::channel(OUTBOUND_MAX);
        drop(runtime::spawn(registry.serve(broker, registered, inbound, outbound)));
        Ok(Response::new(Box::pin(ReceiverStream::new(updates))))
    }
}

/// What the table says of itself, read when it is asked for.
struct Shown {
    registry: Weak<Registry>,
    brokers: IntGaugeVec,
    topics: IntGauge,
    conflicts: IntGauge,
}

impl Shown {
    fn register(registry: &Arc<Registry>, metrics: &prometheus::Registry) -> prometheus::Result<()> {
        let brokers =
            Opts::new("carillon_nameserver_brokers", "Brokers: registered, or stale when their connection broke");
        let conflicts = "Ordered topics that a broker serves although another one has had them longer";
        let shown = Self {
            registry: Arc::downgrade(registry),
            brokers: IntGaugeVec::new(brokers, &["state"])?,
            topics: IntGauge::new("carillon_nameserver_topics", "Topics that some broker serves")?,
            conflicts: IntGauge::new("carillon_nameserver_topic_conflicts", conflicts)?,
        };
        metrics.register(Box::new(shown))
    }
}

impl Collector for Shown {
    fn desc(&self) -> Vec<&Desc> {
        let parts: [&dyn Collector; 3] = [&self.brokers, &self.topics, &self.conflicts];
        parts.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(registry) = self.registry.upgrade() else { return Vec::new() };
        let (table, stale) = {
            let state = registry.state.lock();
            (state.table.clone(), state.streams.values().filter(|stream| stream.is_stale).count())
        };
        let registered = table.brokers().count() - stale;
        for (word, count) in [("registered", registered), ("stale", stale)] {
            self.brokers.with_label_values(&[word]).set(count as i64);
        }
        self.topics.set(table.topics().len() as i64);
        self.conflicts.set(table.conflicts().len() as i64);
        let parts: [&dyn Collector; 3] = [&self.brokers, &self.topics, &self.conflicts];
        parts.into_iter().flat_map(Collector::collect).collect()
    }
}
