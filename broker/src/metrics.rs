//! What operators see of messages, groups, timers and transactions. Names and meanings: the operations page, part A.
//!
//! Counters are kept where things happen, with their label look-up cached. Gauges are read from the views when somebody
//! scrapes: counts and floors, never a walk through messages.

use std::sync::{Arc, Weak};

use base::{GroupId, TopicId};
use cluster::State as NodeState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};
use serve::admission::POOLS;
use storage::view::catalog::Topic;

use crate::api::MessageType;
use crate::config::Flush;
use crate::membership::ClientKind;
use crate::shared::Shared;
use crate::subscription::Pair;

/// A message counter and a byte counter.
type Flow = (IntCounter, IntCounter);

/// Counters of messages in and out.
#[derive(Debug)]
pub struct Messages {
    into: IntCounterVec,
    bytes_into: IntCounterVec,
    out: IntCounterVec,
    bytes_out: IntCounterVec,
    /// Mutexes, because every worker counts; held for a look-up.
    topics: Mutex<HashMap<(TopicId, MessageType), Flow>>,
    groups: Mutex<HashMap<(GroupId, TopicId, bool), Flow>>,
}

impl Messages {
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let into = ["topic", "message_type", "is_system"];
        let out = ["topic", "consumer_group", "is_retry", "is_system"];
        Ok(Self {
            into: counter("rocketmq_messages_in_total", "Messages accepted and durable", &into)?,
            bytes_into: counter("rocketmq_throughput_in_total", "Body bytes of messages accepted and durable", &into)?,
            out: counter("rocketmq_messages_out_total", "Messages handed to consumers", &out)?,
            bytes_out: counter("rocketmq_throughput_out_total", "Body bytes of messages handed to consumers", &out)?,
            topics: Mutex::default(),
            groups: Mutex::default(),
        })
    }

    pub fn sent(&self, topic: TopicId, name: &str, message_type: MessageType, messages: u64, bytes: u64) {
        let mut topics = self.topics.lock();
        let (count, size) = topics.entry((topic, message_type)).or_insert_with(|| {
            let labels = [name, message_type.word(), "false"];
            (self.into.with_label_values(&labels), self.bytes_into.with_label_values(&labels))
        });
        count.inc_by(messages);
        size.inc_by(bytes);
    }

    pub fn handed_out(&self, pair: Pair, group: &str, topic: &str, is_retry: bool, bytes: u64) {
        let mut groups = self.groups.lock();
        let (count, size) = groups.entry((pair.group, pair.topic, is_retry)).or_insert_with(|| {
            let labels = [topic, group, if is_retry { "true" } else { "false" }, "false"];
            (self.out.with_label_values(&labels), self.bytes_out.with_label_values(&labels))
        });
        count.inc();
        size.inc_by(bytes);
    }
}

/// Gauges that are read when they are asked for. Constant labels come from the registry.
pub struct State {
    shared: Weak<Shared>,
    /// A registry tells collectors apart by what they describe.
    described: Vec<Desc>,
}

impl State {
    pub fn register(registry: &Registry, shared: &Arc<Shared>) -> prometheus::Result<()> {
        let described = Gauges::new().descriptions();
        registry.register(Box::new(Self { shared: Arc::downgrade(shared), described }))
    }
}

impl Collector for State {
    fn desc(&self) -> Vec<&Desc> {
        self.described.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(shared) = self.shared.upgrade() else { return Vec::new() };
        let gauges = Gauges::new();
        gauges.read(&shared);
        gauges.families()
    }
}

struct Gauges {
    whole: Vec<(&'static str, IntGaugeVec)>,
    counts: Vec<(&'static str, IntCounterVec)>,
    seconds: Vec<(&'static str, GaugeVec)>,
}

const GROUP: &[&str] = &["consumer_group", "topic", "is_retry", "is_system"];
const PAIR: &[&str] = &["consumer_group", "topic"];
const DISK: &[&str] = &["storage_type", "storage_medium"];
const STORED: &[&str] = &["topic", "storage_type", "storage_medium"];

/// Name, help, labels.
const WHOLE: &[(&str, &str, &[&str])] = &[
    ("rocketmq_topic_number", "Topics of users", &[]),
    ("rocketmq_consumer_group_number", "Consumer groups", &[]),
    ("rocketmq_broker_permission", "6 read and write, 4 read only", &[]),
    ("carillon_state", "1 for the state that the broker is in", &["state"]),
    ("rocketmq_consumer_lag_messages", "Messages visible and not acknowledged, handed out or not", GROUP),
    ("rocketmq_consumer_ready_messages", "Messages visible and not handed out", GROUP),
    ("rocketmq_consumer_inflight_messages", "Messages handed out and not acknowledged", GROUP),
    ("rocketmq_consumer_lag_latency_milliseconds", "Age of the oldest message not acknowledged, in ms", GROUP),
    ("rocketmq_half_messages", "Prepared transactional messages", &["topic"]),
    ("rocketmq_timing_messages", "Delayed messages that are pending", STORED),
    ("rocketmq_producer_connections", "Producers connected", &["language", "version", "protocol_type"]),
    (
        "rocketmq_consumer_connections",
        "Consumers connected",
        &["consumer_group", "consume_mode", "language", "version", "protocol_type", "is_system"],
    ),
    ("carillon_timers_pending", "Delayed messages neither published nor recalled", &["topic"]),
    (
        "carillon_topic_size_bytes",
        "Bytes of a topic's messages in sealed segments; what is newer than these is not counted",
        &["topic"],
    ),
    ("carillon_topic_end_offset", "Messages ever published to a topic", &["topic"]),
    ("carillon_group_online_consumers", "Clients of a group that are there", &["consumer_group"]),
    (
        "carillon_group_backlog_messages",
        "Parts of what is not acknowledged; held: renewed twice or more, ready: what is in no other part",
        &["consumer_group", "topic", "state"],
    ),
    ("carillon_open_message_groups", "Message groups with a batch handed out", PAIR),
    ("carillon_dead_letters", "Dead letters of a group", &["consumer_group"]),
    ("carillon_long_polls_parked", "Polls that wait for messages", &[]),
    ("carillon_queue_depth", "Entries that wait in a bounded queue", &["queue"]),
    ("carillon_queue_capacity", "Entries that may wait in a bounded queue", &["queue"]),
    ("carillon_disk_free_bytes", "Bytes free on the file system of the data directory", &[]),
    ("carillon_disk_total_bytes", "Bytes of the file system of the data directory", &[]),
    ("carillon_log_position_bytes", "Named positions in the log", &["position"]),
    ("rocketmq_storage_size_bytes", "Bytes of the log's segments and of what is kept beside them", DISK),
    ("rocketmq_storage_flush_behind_bytes", "Bytes of the log that were appended and are not durable", DISK),
    ("rocketmq_storage_dispatch_behind_bytes", "Bytes of the log that are committed and not in the views", DISK),
    ("rocketmq_storage_message_reserve_time_milliseconds", "Age of the oldest message stored, in ms", DISK),
    ("carillon_disk_reserve_bytes", "Free bytes below which new messages are refused", &[]),
    ("carillon_durability_info", "1: what an OK promises", &["flush", "replicas"]),
    ("carillon_build_info", "1", &["version"]),
];

/// What the log counts: it goes on over restarts.
const COUNTS: &[(&str, &str, &[&str])] = &[(
    "carillon_group_expired_unread_total",
    "Messages that retention took before the group had read them, since the group's first contact",
    PAIR,
)];

const SECONDS: &[(&str, &str, &[&str])] = &[
    ("carillon_group_oldest_unacked_age_seconds", "Age of the oldest message not acknowledged", PAIR),
    ("carillon_transaction_oldest_prepared_age_seconds", "Age of the oldest prepared message", &["topic"]),
    ("carillon_checkpoint_age_seconds", "Seconds since the newest checkpoint was taken; absent before the first", &[]),
    (
        "carillon_disk_headroom_seconds",
        "Seconds until the disk is at its reserve if it fills as in the last 10 minutes; a year when it does not",
        &[],
    ),
    (
        "carillon_group_oldest_unread_expires_seconds",
        "Seconds until the oldest message not acknowledged is older than its topic's retention; absent when there is none",
        PAIR,
    ),
    (
        "carillon_timer_oldest_overdue_seconds",
        "Seconds that the oldest due message has not been published; 0: none",
        &[],
    ),
];

impl Gauges {
    fn new() -> Self {
        let whole = WHOLE.iter().chain(&POOLS).map(|(name, help, labels)| {
            (*name, IntGaugeVec::new(Opts::new(*name, *help), labels).expect("names and labels are legal"))
        });
        let seconds = SECONDS.iter().map(|(name, help, labels)| {
            (*name, GaugeVec::new(Opts::new(*name, *help), labels).expect("names and labels are legal"))
        });
        let counts = COUNTS.iter().map(|(name, help, labels)| {
            (*name, IntCounterVec::new(Opts::new(*name, *help), labels).expect("names and labels are legal"))
        });
        Self { whole: whole.collect(), counts: counts.collect(), seconds: seconds.collect() }
    }

    fn set(&self, name: &str, labels: &[&str], value: u64) {
        let (_, gauge) = self.whole.iter().find(|(known, _)| *known == name).expect("every gauge is in the table");
        gauge.with_label_values(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn count(&self, name: &str, labels: &[&str], value: u64) {
        let (_, counter) = self.counts.iter().find(|(known, _)| *known == name).expect("every counter is in the table");
        counter.with_label_values(labels).inc_by(value);
    }

    fn add(&self, name: &str, labels: &[&str]) {
        let (_, gauge) = self.whole.iter().find(|(known, _)| *known == name).expect("every gauge is in the table");
        gauge.with_label_values(labels).inc();
    }

    fn set_seconds(&self, name: &str, labels: &[&str], ms: u64) {
        let (_, gauge) = self.seconds.iter().find(|(known, _)| *known == name).expect("every gauge is in the table");
        gauge.with_label_values(labels).set(ms as f64 / 1e3);
    }

    fn families(&self) -> Vec<MetricFamily> {
        let whole = self.whole.iter().flat_map(|(_, gauge)| gauge.collect());
        let counts = self.counts.iter().flat_map(|(_, counter)| counter.collect());
        let seconds = self.seconds.iter().flat_map(|(_, gauge)| gauge.collect());
        // A vector in which nothing is known has no family.
        whole.chain(counts).chain(seconds).filter(|family| !family.get_metric().is_empty()).collect()
    }

    fn descriptions(&self) -> Vec<Desc> {
        // Of pools of memory the budget describes the families: a registry puts together what collectors give under one name.
        let own = self.whole.iter().filter(|(name, _)| POOLS.iter().all(|(pool, ..)| pool != name));
        let whole = own.flat_map(|(_, gauge)| gauge.desc());
        let counts = self.counts.iter().flat_map(|(_, counter)| counter.desc());
        let seconds = self.seconds.iter().flat_map(|(_, gauge)| gauge.desc());
        whole.chain(counts).chain(seconds).cloned().collect()
    }

    fn read(&self, shared: &Shared) {
        self.read_node(shared);
        self.read_store(shared);
        self.read_topics(shared);
        self.read_groups(shared);
        self.read_clients(shared);
    }

    fn read_node(&self, shared: &Shared) {
        let catalog = shared.store.reader().catalog();
        let users = catalog.topics().filter(|topic| !topic.spec.name.is_derived()).count();
        self.set("rocketmq_topic_number", &[], users as u64);
        self.set("rocketmq_consumer_group_number", &[], catalog.groups().count() as u64);
        let state = shared.state();
        self.set("rocketmq_broker_permission", &[], if state == NodeState::Ready { 6 } else { 4 });
        for known in NodeState::ALL {
            self.set("carillon_state", &[known.word()], u64::from(known == state));
        }
        let (depth, capacity) = shared.store.inbox_depth();
        self.set("carillon_queue_depth", &["writer_inbox"], depth as u64);
        self.set("carillon_queue_capacity", &["writer_inbox"], capacity as u64);
        self.set("carillon_memory_bytes", &["read_ahead"], shared.read_ahead.used());
        self.set("carillon_memory_limit_bytes", &["read_ahead"], shared.read_ahead.limit());
        let flush = match shared.config.storage.log.flush {
            Flush::Sync => "sync",
            Flush::Write => "write",
        };
        self.set("carillon_durability_info", &[flush, "1"], 1);
        self.set("carillon_build_info", &[env!("CARGO_PKG_VERSION")], 1);
    }

    fn read_store(&self, shared: &Shared) {
        let now = shared.clock.now();
        let disk = ["local", "disk"];
        let positions = shared.store.positions();
        let named = [
            ("applied", positions.applied),
            ("committed", positions.committed),
            ("durable", positions.durable),
            ("appended", positions.appended),
        ];
        for (name, position) in named {
            self.set("carillon_log_position_bytes", &[name], position.0);
        }
        let flush_behind = positions.appended.0.saturating_sub(positions.durable.0);
        self.set("rocketmq_storage_flush_behind_bytes", &disk, flush_behind);
        let dispatch_behind = positions.committed.0.saturating_sub(positions.applied.0);
        self.set("rocketmq_storage_dispatch_behind_bytes", &disk, dispatch_behind);
        let figures = shared.store.figures();
        if let Some(space) = figures.space {
            self.set("carillon_disk_free_bytes", &[], space.free);
            self.set("carillon_disk_total_bytes", &[], space.total);
            self.set("carillon_disk_reserve_bytes", &[], shared.store.reserve().reserve);
        }
        let overdue = shared.store.timers_overdue_ms(now);
        self.set_seconds("carillon_timer_oldest_overdue_seconds", &[], overdue);
        if let Some(left) = figures.headroom {
            self.set_seconds("carillon_disk_headroom_seconds", &[], base::duration::ms(left));
        }
        let Some(holdings) = figures.holdings else { return };
        if let Some(first) = holdings.first {
            self.set("carillon_log_position_bytes", &["first"], first.0);
        }
        let bytes = [holdings.active, holdings.sealed, holdings.indexes].map(|files| files.bytes);
        self.set("rocketmq_storage_size_bytes", &disk, bytes.into_iter().sum());
        if let Some(oldest) = holdings.oldest {
            let age = now.ms_since(oldest);
            self.set("rocketmq_storage_message_reserve_time_milliseconds", &disk, age);
        }
        if let Some(at) = holdings.checkpoint_at {
            self.set_seconds("carillon_checkpoint_age_seconds", &[], now.ms_since(at));
        }
        let catalog = shared.store.reader().catalog();
        for topic in catalog.topics() {
            if let Some(bytes) = holdings.topics.get(&topic.spec.id) {
                self.set("carillon_topic_size_bytes", &[topic.spec.name.as_str()], *bytes);
            }
        }
    }

    fn read_topics(&self, shared: &Shared) {
        let now = shared.clock.now();
        let catalog = shared.store.reader().catalog();
        for topic in catalog.topics() {
            let name = topic.spec.name.as_str();
            self.set("carillon_topic_end_offset", &[name], next_offsets(topic));
            let pending = shared.store.timers_pending(topic.spec.id);
            self.set("carillon_timers_pending", &[name], pending);
            self.set("rocketmq_timing_messages", &[name, "local", "disk"], pending);
            self.set("rocketmq_half_messages", &[name], 0);
        }
        let transactions = shared.store.reader().transactions().lock();
        for prepared in transactions.iter() {
            let Some(topic) = catalog.topic_by_id(prepared.head.topic) else { continue };
            let name = topic.spec.name.as_str();
            self.add("rocketmq_half_messages", &[name]);
            let age = now.ms_since(prepared.prepared_at);
            let (_, gauge) = &self.seconds[1];
            if gauge.with_label_values(&[name]).get() * 1e3 < age as f64 {
                self.set_seconds("carillon_transaction_oldest_prepared_age_seconds", &[name], age);
            }
        }
    }

    fn read_groups(&self, shared: &Shared) {
        let now = shared.clock.now();
        let catalog = shared.store.reader().catalog();
        let mut parked = 0;
        for group in catalog.groups() {
            let name = group.name.as_str();
            self.set("carillon_group_online_consumers", &[name], shared.membership.members(&group.name).len() as u64);
            let dead = catalog.topic(&base::TopicName::dead_letters_of(&group.name));
            self.set("carillon_dead_letters", &[name], dead.map_or(0, |topic| next_offsets(topic)));
            for (id, progress) in shared.store.reader().progress_of(group.id) {
                let Some(topic) = catalog.topic_by_id(id) else { continue };
                let counts = shared.subscriptions.get(Pair { group: group.id, topic: id }).map(|inbox| inbox.counts());
                let counts = counts.unwrap_or_default();
                parked += counts.parked_polls;
                let (backlog, expired) = {
                    let progress = progress.lock();
                    (shared.backlog(topic, &progress, now), progress.expired())
                };
                let topic = topic.spec.name.as_str();
                self.count("carillon_group_expired_unread_total", &[name, topic], expired);
                if let Some(at) = backlog.expires_at {
                    let left = at.ms_since(now);
                    self.set_seconds("carillon_group_oldest_unread_expires_seconds", &[name, topic], left);
                }
                let labels = [name, topic, "false", "false"];
                self.set("rocketmq_consumer_lag_messages", &labels, backlog.lag);
                let out = counts.in_flight + counts.held;
                self.set("rocketmq_consumer_ready_messages", &labels, backlog.lag.saturating_sub(out));
                self.set("rocketmq_consumer_inflight_messages", &labels, out);
                let ready = backlog.lag.saturating_sub(out + counts.retry_wait);
                let states = [
                    ("ready", ready),
                    ("inflight", counts.in_flight),
                    ("held", counts.held),
                    ("retry_wait", counts.retry_wait),
                ];
                for (state, count) in states {
                    self.set("carillon_group_backlog_messages", &[name, topic, state], count);
                }
                self.set("rocketmq_consumer_lag_latency_milliseconds", &labels, backlog.oldest_ms);
                self.set("carillon_open_message_groups", &[name, topic], counts.open_lanes);
                self.set_seconds("carillon_group_oldest_unacked_age_seconds", &[name, topic], backlog.oldest_ms);
            }
        }
        self.set("carillon_long_polls_parked", &[], parked);
    }

    fn read_clients(&self, shared: &Shared) {
        shared.membership.for_each(|kind, group, language, version| {
            let language = format!("{language:?}").to_lowercase();
            match (kind, group) {
                (Some(ClientKind::Producer), _) => {
                    self.add("rocketmq_producer_connections", &[&language, version, "grpc"]);
                }
                (Some(kind), Some(group)) => {
                    let mode = if kind == ClientKind::PullConsumer { "pull" } else { "push" };
                    let labels = [group.as_str(), mode, &language, version, "grpc", "false"];
                    self.add("rocketmq_consumer_connections", &labels);
                }
                _ => {}
            }
        });
    }
}

fn next_offsets(topic: &Topic) -> u64 {
    topic.queues.iter().map(|queue| queue.bounds().next.0).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_family_is_registered_by_two() {
        let registry = Registry::new();
        serve::admission::Budget::new(base::ByteSize(1), &registry).unwrap();
        storage::metrics::Metrics::register(&registry).unwrap();
        Messages::register(&registry).unwrap();
        let described = Gauges::new().descriptions();
        registry.register(Box::new(State { shared: Weak::new(), described })).expect("all names are its own");
    }

    #[test]
    fn pools_of_memory_are_in_the_families_of_the_budget() {
        let registry = Registry::new();
        let _budget = serve::admission::Budget::new(base::ByteSize(1), &registry).unwrap();
        let families = registry.gather();
        for (name, help, labels) in POOLS {
            let family = families.iter().find(|family| family.name() == name).expect("it is there");
            let label = &family.get_metric()[0].get_label()[0];
            assert_eq!((family.help(), vec![label.name()]), (help, labels.to_vec()), "{name}");
        }
    }
}
