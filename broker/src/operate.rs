//! What operators do: groups, looking at topics and messages. And what the broker does for itself now and then.

use std::sync::Arc;
use std::time::Duration;

use base::duration::ms;
use base::limits::*;
use base::{GroupId, GroupName, QueueIndex, QueueOffset, Timestamp, TopicName};
use cluster::State;
use storage::message::StoredMessage;
use storage::request::{Lane, Request};
use storage::view::catalog::{GroupSpec, Topic, TopicKind};
use storage::view::progress::{Progress, Slot};
use storage::view::queue::Entry;

use crate::admin::*;
use crate::api::{MessageType, Place, Route};
use crate::broker::Broker;
use crate::receive::delivery_of;
use crate::refusal::Refusal;
use crate::shared::{Shared, store_refusal};
use crate::subscription::{Event, Pair};

/// Queues of a topic that its first message creates.
pub const AUTO_QUEUES: u16 = 8;
const ALL_TYPES: [MessageType; 4] =
    [MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction];

/// What a topic of this kind takes; never empty.
pub fn accepts(kind: TopicKind) -> Vec<MessageType> {
    match kind {
        TopicKind::Normal | TopicKind::DeadLetter | TopicKind::Retry => vec![MessageType::Normal],
        TopicKind::Fifo => vec![MessageType::Fifo],
        TopicKind::Delay => vec![MessageType::Delay],
        TopicKind::Transaction => vec![MessageType::Transaction],
        TopicKind::Lite => vec![MessageType::Lite],
        TopicKind::Priority => vec![MessageType::Priority],
        TopicKind::Mixed => ALL_TYPES.to_vec(),
    }
}

impl Shared {
    /// With automatic creation, a topic that does not exist has a route already: official clients ask for it before they
    /// send the message that creates the topic, and check against it what they may send.
    pub fn route(&self, topic: &str) -> Result<Route, Refusal> {
        let name = Self::parse_topic(topic)?;
        let here = |queues, accepts, is_writable| {
            let broker = self.peers.name().clone();
            Place { broker, grpc: None, queues, accepts, is_writable }
        };
        let own = self.topic(&name).map(|topic| {
            let kind = topic.spec.kind;
            here(topic.spec.queues, accepts(kind), !kind.is_derived())
        });
        let mut places = self.peers.places(&name, own, self.state());
        if places.is_empty() {
            if let Some(broker) = self.peers.lives_on(&name) {
                return Err(Refusal::HolderAway { broker: broker.to_string() });
            }
            if !self.may_create(&name) {
                return Err(Refusal::TopicNotFound(name));
            }
            places.push(here(AUTO_QUEUES, ALL_TYPES.to_vec(), true));
        }
        Ok(Route { topic: name, places })
    }

    /// Whether the first message makes this topic.
    pub fn may_create(&self, name: &TopicName) -> bool {
        self.config.topics.auto_create && !name.is_derived()
    }

    pub fn describe_topic(&self, topic: &Topic) -> TopicDescription {
        let transactions = self.store.reader().transactions().lock();
        let prepared = transactions.iter().filter(|prepared| prepared.head.topic == topic.spec.id).count();
        TopicDescription {
            name: topic.spec.name.clone(),
            topic_type: topic_type(topic.spec.kind),
            created_at: topic.spec.created_at,
            queues: queues_of(topic).collect(),
            timers_pending: self.store.timers_pending(topic.spec.id),
            transactions_prepared: prepared as u64,
            retention: self.describe_retention(&topic.spec),
            copies: Vec::new(),
            pending_on: Vec::new(),
        }
    }

    fn describe_group(&self, group: &GroupSpec) -> GroupDescription {
        let now = self.now();
        let members = self.membership.members(&group.name);
        let dead_letters = self.topic(&TopicName::dead_letters_of(&group.name));
        let catalog = self.store.reader().catalog();
        let mut topics = Vec::new();
        for (id, progress) in self.store.reader().progress_of(group.id) {
            if let Some(topic) = catalog.topic_by_id(id) {
                let pair = Pair { group: group.id, topic: id };
                topics.push(self.describe_pair(pair, topic, &progress.lock(), now.wall));
            }
        }
        topics.sort_by(|a, b| a.topic.cmp(&b.topic));
        GroupDescription {
            name: group.name.clone(),
            order: group.order,
            attempts_max: group.attempts_max,
            backoff: group.backoff.clone(),
            invisible: group.invisible,
            created_at: group.created_at,
            members: members
                .into_iter()
                .map(|member| MemberDescription {
                    client_id: member.client_id.to_string(),
                    language: format!("{:?}", member.language),
                    version: member.version.to_string(),
                    address: member.address.map(|address| address.to_string()),
                    last_seen_ms_ago: now.tick.saturating_sub(member.last_seen),
                })
                .collect(),
            topics,
            dead_letters: dead_letters.map_or(0, |topic| queues_of(&topic).map(|q| q.next.0 - q.first.0).sum()),
            pending_on: Vec::new(),
        }
    }

    fn describe_pair(&self, pair: Pair, topic: &Topic, progress: &Progress, now: Timestamp) -> GroupTopicDescription {
        let counts = self.subscriptions.get(pair).map(|inbox| inbox.counts()).unwrap_or_default();
        let backlog = self.backlog(topic, progress, now);
        let queues = queues_of(topic).map(|queue| GroupQueueDescription {
            queue: queue.queue,
            floor: progress.floor(queue.queue).max(queue.first),
            next: queue.next,
        });
        GroupTopicDescription {
            topic: topic.spec.name.clone(),
            filter: progress.filter.as_ref().map_or("*".into(), |filter| filter.expression.to_string()),
            lag_messages: backlog.lag,
            oldest_unacked_ms: backlog.oldest_ms,
            in_flight: counts.in_flight,
            held: counts.held,
            retry_wait: counts.retry_wait,
            open_message_groups: counts.open_lanes,
            expired_unread: progress.expired(),
            oldest_expires_in_ms: backlog.expires_at.map(|at| at.ms_since(now)),
            queues: queues.collect(),
        }
    }

    /// What a group has not acknowledged of a topic; nothing before its first contact.
    pub fn backlog(&self, topic: &Topic, progress: &Progress, now: Timestamp) -> Backlog {
        if !progress.is_subscribed() {
            return Backlog::default();
        }
        let mut backlog = Backlog::default();
        let mut oldest_since = None;
        for queue in queues_of(topic) {
            backlog.lag += progress.lag(queue.queue, queue.next);
            let floor = progress.floor(queue.queue).max(queue.first);
            let oldest = topic.queue(queue.queue).and_then(|entries| entries.entry(floor));
            let since = oldest.map(|entry| entry.visible_since);
            oldest_since = oldest_since.into_iter().chain(since).min();
        }
        if let Some(since) = oldest_since {
            backlog.oldest_ms = now.ms_since(since);
            backlog.expires_at = Some(since.plus_ms(ms(self.policy().time_of(&topic.spec))));
        }
        backlog
    }

    /// A message that was read from its queue.
    pub fn peeked(&self, topic: &Topic, slot: Slot, entry: &Entry, stored: StoredMessage) -> Peeked {
        let origin = self.origin_of(topic, &stored);
        let mut message = delivery_of(topic.spec.name.clone(), stored);
        (message.queue, message.offset) = slot;
        message.stored_at = entry.visible_since;
        message.dead_letter_of = origin;
        Peeked { message, visible_since: entry.visible_since }
    }

    pub fn topic_to_operate(&self, name: &str) -> Result<Arc<Topic>, AdminRefusal> {
        let name = TopicName::parse(name).map_err(AdminRefusal::IllegalName)?;
        self.topic(&name).ok_or_else(|| {
            let places = self.peers.places(&name, None, State::Ready);
            let brokers: Vec<_> = places.iter().map(|place| place.broker.to_string()).collect();
            match brokers.is_empty() {
                true => AdminRefusal::TopicNotFound(name),
                false => AdminRefusal::TopicNotHere { topic: name, brokers },
            }
        })
    }

    fn group_to_operate(&self, name: &str) -> Result<Arc<GroupSpec>, AdminRefusal> {
        let name = GroupName::parse(name).map_err(AdminRefusal::IllegalName)?;
        self.group(&name).ok_or(AdminRefusal::GroupNotFound(name))
    }
}

/// What a group has not acknowledged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backlog {
    pub lag: u64,
    /// Age of the oldest of them.
    pub oldest_ms: u64,
    /// When retention may take the oldest of them.
    pub expires_at: Option<Timestamp>,
}

impl Broker {
    /// By name.
    pub fn topics(&self) -> Vec<TopicDescription> {
        let catalog = self.shared().store.reader().catalog();
        let mut topics: Vec<_> = catalog.topics().map(|topic| self.shared().describe_topic(topic)).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    pub fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminRefusal> {
        let topic = self.shared().topic_to_operate(name)?;
        let copies = self.shared().peers.copies(&topic.spec);
        Ok(TopicDescription { copies, ..self.shared().describe_topic(&topic) })
    }

    /// Unread messages, timers and prepared transactions go with it, and only when forced. Gives the brokers that do not say
    /// yet that they have dropped it too.
    pub async fn delete_topic(&self, name: &str, is_forced: bool) -> Result<Vec<Arc<str>>, AdminRefusal> {
        let topic = self.shared().topic_to_operate(name)?;
        let description = self.shared().describe_topic(&topic);
        let messages = self.unread(&topic);
        let (timers, transactions) = (description.timers_pending, description.transactions_prepared);
        if !is_forced && (messages > 0 || timers > 0 || transactions > 0) {
            let topic = topic.spec.name.clone();
            return Err(AdminRefusal::TopicHasBacklog { topic, messages, timers, transactions });
        }
        let (name, kind) = (&topic.spec.name, topic.spec.kind);
        let others =
            if topic.spec.kind.has_fixed_queues() { Vec::new() } else { self.shared().peers.also_on(name, kind) };
        if !is_forced && !others.is_empty() {
            let brokers = others.iter().map(|broker| broker.to_string()).collect();
            return Err(AdminRefusal::TopicOnOthers { topic: name.clone(), brokers });
        }
        let request = Request::DropTopic(topic.spec.id);
        let done = self.shared().submit(Lane::Request, request).await;
        done.map_err(|error| AdminRefusal::Refused(store_refusal(&error)))?;
        Ok(self.shared().spread_drop(name, kind).await)
    }

    /// Messages that some group has not acknowledged; all of them when no group reads the topic.
    fn unread(&self, topic: &Topic) -> u64 {
        let reader = self.shared().store.reader();
        let catalog = reader.catalog();
        let mut lags = Vec::new();
        for group in catalog.groups() {
            let progress = reader.progress_if_any(group.id, topic.spec.id);
            if let Some(progress) = progress.filter(|progress| progress.lock().is_subscribed()) {
                lags.push(queues_of(topic).map(|queue| progress.lock().lag(queue.queue, queue.next)).sum());
            }
        }
        lags.into_iter().max().unwrap_or_else(|| queues_of(topic).map(|queue| queue.next.0 - queue.first.0).sum())
    }

    pub async fn create_group(&self, new: NewGroup) -> Result<(Created, GroupDescription), AdminRefusal> {
        let name = GroupName::parse(&new.name).map_err(AdminRefusal::IllegalName)?;
        let mut spec = self.shared().default_group(name.clone(), new.order, new.order == GroupOrder::Always);
        if let Some(attempts) = new.attempts_max {
            if !(1..=ATTEMPTS_MAX).contains(&attempts) {
                let (value, max) = (attempts.into(), ATTEMPTS_MAX.into());
                return Err(AdminRefusal::OutOfRange { field: "attempts_max", value, min: 1, max });
            }
            spec.attempts_max = attempts;
        }
        if let Some(backoff) = &new.backoff {
            check_backoff(backoff)?;
            spec.backoff = backoff.clone();
        }
        if let Some(invisible) = new.invisible {
            let (value, min, max) = (ms(invisible), INVISIBLE_MS_MIN, INVISIBLE_MS_MAX);
            if !(min..=max).contains(&value) {
                return Err(AdminRefusal::OutOfRange { field: "invisible, in ms,", value, min, max });
            }
            spec.invisible = invisible;
        }
        self.shared().adopt_group(&name).await;
        let created = self.shared().create_group(spec.clone()).await;
        let (existing, is_new) = created.map_err(|error| AdminRefusal::Refused(store_refusal(&error)))?;
        check_same_group(&new, &spec, &existing)?;
        let pending_on = self.shared().spread_group(&existing).await;
        let description = GroupDescription { pending_on, ..self.describe_group(name.as_str())? };
        Ok((if is_new { Created::New } else { Created::Already }, description))
    }

    /// By name.
    pub fn groups(&self) -> Vec<GroupDescription> {
        let catalog = self.shared().store.reader().catalog();
        let mut groups: Vec<_> = catalog.groups().map(|group| self.shared().describe_group(group)).collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        groups
    }

    pub fn describe_group(&self, name: &str) -> Result<GroupDescription, AdminRefusal> {
        let group = self.shared().group_to_operate(name)?;
        Ok(self.shared().describe_group(&group))
    }

    /// Gives the brokers that do not say yet that they have dropped it too.
    pub async fn delete_group(&self, name: &str, is_forced: bool) -> Result<Vec<Arc<str>>, AdminRefusal> {
        let group = self.shared().group_to_operate(name)?;
        let members = self.shared().membership.members(&group.name).len();
        if members > 0 && !is_forced {
            return Err(AdminRefusal::GroupHasConsumers { group: group.name.clone(), members });
        }
        let done = self.shared().submit(Lane::Request, Request::DropGroup(group.id)).await;
        done.map_err(|error| AdminRefusal::Refused(store_refusal(&error)))?;
        Ok(self.shared().spread_group_drop(&group.name).await)
    }
}

fn queues_of(topic: &Topic) -> impl Iterator<Item = QueueDescription> + '_ {
    topic.queues.iter().enumerate().map(|(number, queue)| {
        let bounds = queue.bounds();
        let newest = bounds.next.0.checked_sub(1).and_then(|offset| queue.entry(QueueOffset(offset)));
        QueueDescription {
            queue: QueueIndex(u16::try_from(number).expect("topics have at most 1,024 queues")),
            first: bounds.first,
            next: bounds.next,
            newest_at: newest.map(|entry| entry.visible_since),
        }
    })
}

pub fn topic_type(kind: TopicKind) -> TopicType {
    match kind {
        TopicKind::Normal | TopicKind::DeadLetter | TopicKind::Retry => TopicType::Normal,
        TopicKind::Fifo => TopicType::Fifo,
        TopicKind::Delay => TopicType::Delay,
        TopicKind::Transaction => TopicType::Transaction,
        TopicKind::Lite => TopicType::Lite,
        TopicKind::Priority => TopicType::Priority,
        TopicKind::Mixed => TopicType::Mixed,
    }
}

fn check_backoff(backoff: &Backoff) -> Result<(), AdminRefusal> {
    let longest = match backoff {
        Backoff::Steps(steps) => {
            let count = steps.len();
            if !(1..=BACKOFF_STEPS_MAX).contains(&count) {
                let (value, max) = (count as u64, BACKOFF_STEPS_MAX as u64);
                return Err(AdminRefusal::OutOfRange { field: "number of back-off steps", value, min: 1, max });
            }
            steps.iter().max().copied().unwrap_or_default()
        }
        Backoff::Exponential { factor: 0, .. } => {
            return Err(AdminRefusal::OutOfRange { field: "back-off factor", value: 0, min: 1, max: 1000 });
        }
        Backoff::Exponential { first, max, .. } => *first.max(max),
    };
    if ms(longest) > DELAY_MS_MAX {
        return Err(AdminRefusal::OutOfRange {
            field: "back-off, in ms,",
            value: ms(longest),
            min: 0,
            max: DELAY_MS_MAX,
        });
    }
    Ok(())
}

/// Creating what exists succeeds when everything that was asked for is as it is.
fn check_same_group(new: &NewGroup, asked: &GroupSpec, existing: &GroupSpec) -> Result<(), AdminRefusal> {
    let differs = |field, existing: String, asked: String| AdminRefusal::ExistsWithOtherSettings {
        what: "group",
        name: new.name.clone(),
        field,
        existing,
        asked,
    };
    if asked.order != existing.order {
        return Err(differs("order", format!("{:?}", existing.order), format!("{:?}", asked.order)));
    }
    if new.attempts_max.is_some_and(|attempts| attempts != existing.attempts_max) {
        return Err(differs("attempts_max", existing.attempts_max.to_string(), asked.attempts_max.to_string()));
    }
    if new.backoff.is_some() && asked.backoff != existing.backoff {
        return Err(differs("back-off", format!("{:?}", existing.backoff), format!("{:?}", asked.backoff)));
    }
    if new.invisible.is_some_and(|invisible| invisible != existing.invisible) {
        return Err(differs("invisible", format!("{:?}", existing.invisible), format!("{:?}", asked.invisible)));
    }
    Ok(())
}

/// What this client holds comes to others at once.
pub fn client_gone(shared: &Shared, client: &Arc<str>) {
    shared.subscriptions.push_to(|_| Some(Event::ClientGone(client.clone())));
}

/// Notices clients that have fallen silent. Lives as long as the broker.
pub async fn expire_clients(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for client in shared.membership.expire(shared.now().tick) {
            tracing::info!(client = %client, "a client has been silent for too long");
            client_gone(&shared, &client);
        }
    }
}

/// Starts the subscriptions that hold leases or wait for retries: what they owe is due without a consumer too.
pub fn resume_subscriptions(shared: &Arc<Shared>) {
    let reader = shared.store.reader();
    let groups: Vec<GroupId> = reader.catalog().groups().map(|group| group.id).collect();
    for group in groups {
        for (topic, progress) in reader.progress_of(group) {
            let has_debts = {
                let progress = progress.lock();
                progress.leases().next().is_some() || progress.retries().next().is_some()
            };
            if has_debts {
                shared.subscriptions.get_or_start(shared, Pair { group, topic });
            }
        }
    }
}
