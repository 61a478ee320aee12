//! Receiving and settling: what consumers do.

use std::sync::Arc;
use std::time::Duration;

use base::limits::*;
use base::{Backoff, GroupId, GroupName, GroupOrder, TopicName};
use bytes::Bytes;
use storage::message::{MessageKind, StoredMessage};
use storage::reads::{Asker, Job, Urgency};
use storage::record::Pointer;
use storage::store::FetchError;
use storage::view::catalog::{GroupSpec, Topic, TopicKind};
use tokio::sync::oneshot;

use crate::api::{BodyEncoding, Caller, Delivery, FilterText, MessageType, Receive, Received};
use crate::filter::Filter;
use crate::handle;
use crate::refusal::Refusal;
use crate::shared::{Shared, store_refusal};
use crate::subscription::task::{Delivered, Ended, Inbox, is_ordered};
use crate::subscription::{Event, Handout, Pair, Poll, Settle, Slot, Verdict};

/// Back-off of groups that consume in order and do not say otherwise: short, as a failing message holds up its key.
const ORDERED_BACKOFF_SECONDS: [u64; 5] = [1, 5, 10, 30, 60];
const ORDERED_ATTEMPTS: u32 = 6;
const ATTEMPTS: u32 = 16;
/// How long a poll of a topic that does not exist yet lasts: the next one finds it.
const TOPIC_LOOK_MS: u64 = 200;

impl Shared {
    pub fn parse_topic(name: &str) -> Result<TopicName, Refusal> {
        TopicName::parse(name).map_err(Refusal::IllegalTopic)
    }

    pub fn parse_group(name: &str) -> Result<GroupName, Refusal> {
        GroupName::parse(name).map_err(Refusal::IllegalGroup)
    }

    /// The group, created at its first use when that is allowed. `is_ordered`: whether it has to do with a FIFO topic.
    pub async fn group_or_create(&self, name: GroupName, is_ordered: bool) -> Result<Arc<GroupSpec>, Refusal> {
        if let Some(group) = self.group(&name) {
            return Ok(group);
        }
        if !self.config.groups.auto_create {
            return Err(Refusal::GroupNotFound(name));
        }
        self.adopt_group(&name).await;
        let spec = self.default_group(name, GroupOrder::Auto, is_ordered);
        let (spec, is_new) = self.create_group(spec).await.map_err(|error| store_refusal(&error))?;
        if is_new {
            tracing::info!(group = %spec.name, "created by its first use; it starts at what is sent from now on");
        }
        Ok(Arc::new(spec))
    }

    /// A group with the server's defaults.
    pub fn default_group(&self, name: GroupName, order: GroupOrder, is_ordered: bool) -> GroupSpec {
        let backoff = if is_ordered {
            Backoff::Steps(ORDERED_BACKOFF_SECONDS.map(Duration::from_secs).into())
        } else {
            let (first, max) = (Duration::from_secs(5), Duration::from_secs(7200));
            Backoff::Exponential { first, factor: 2, max }
        };
        let created_at = self.clock.now();
        GroupSpec {
            id: GroupId(0),
            name,
            order,
            attempts_max: if is_ordered { ORDERED_ATTEMPTS } else { ATTEMPTS },
            backoff,
            invisible: self.config.groups.invisible_default,
            created_at,
            changed_at: created_at,
            is_dropped: false,
        }
    }

    pub async fn receive(self: &Arc<Self>, caller: &Caller, receive: Receive) -> Result<Received, Refusal> {
        let now = self.now();
        let topic_name = Self::parse_topic(&receive.topic)?;
        let group_name = Self::parse_group(&receive.group)?;
        let invisible = check_invisible(&receive)?;
        let (filter, spec) = Filter::parse(&receive.filter, self.store.reader().hash_key())?;
        self.membership.touch(caller, now.tick);
        // What is handed out now could never be settled.
        if let Some(cause) = self.store.failure() {
            return Err(Refusal::WritesDisabled { cause });
        }
        let Some(topic) = self.topic(&topic_name) else {
            return self.await_topic(group_name, topic_name, patience(receive.polling, caller.remaining)).await;
        };
        let group = self.group_or_create(group_name, topic.spec.kind == TopicKind::Fifo).await?;
        let pair = Pair { group: group.id, topic: topic.spec.id };
        let poll = Poll {
            client: caller.client_id.clone(),
            language: caller.language,
            messages_max: usize::try_from(receive.messages_max).unwrap_or(1).clamp(1, RECEIVE_MESSAGES_MAX),
            bytes_max: receive.bytes_max.min(RECEIVE_BYTES_MAX),
            invisible,
            attempt_id: receive.attempt_id.as_deref().filter(|id| !id.is_empty()).map(Arc::from),
            until: now.tick + patience(receive.polling, caller.remaining),
        };
        self.adopt_filter(caller, pair, &filter, spec, &receive.filter);
        let delivered = self.park(pair, poll).await?;
        self.fill(delivered, &topic, &group, &filter).await
    }

    /// A topic that its first message will create has nothing yet; the group is there from its first poll on, so that it
    /// gets that message.
    async fn await_topic(&self, group: GroupName, topic: TopicName, patience_ms: u64) -> Result<Received, Refusal> {
        if !self.may_create(&topic) {
            return Err(Refusal::TopicNotFound(topic));
        }
        self.group_or_create(group, false).await?;
        tokio::time::sleep(Duration::from_millis(patience_ms.min(TOPIC_LOOK_MS))).await;
        Ok(Received { deliveries: Vec::new(), receipt: None })
    }

    /// Parks the poll at the subscription; a subscription that is just ending is started again.
    async fn park(self: &Arc<Self>, pair: Pair, poll: Poll) -> Result<Delivered, Refusal> {
        loop {
            match self.subscriptions.get_or_start(self, pair).poll(poll.clone()) {
                Ok(parked) => return parked.answer().await,
                Err(Ended) => continue,
            }
        }
    }

    /// A client that comes with a filter of its own for the first time, or changes it, changes the group's.
    fn adopt_filter(
        self: &Arc<Self>,
        caller: &Caller,
        pair: Pair,
        filter: &Filter,
        spec: storage::record::FilterSpec,
        text: &FilterText,
    ) {
        if !self.membership.changes_filter(&caller.client_id, pair, &spec.expression) {
            return;
        }
        let progress = self.store.reader().progress(pair.group, pair.topic);
        if progress.lock().filter.as_ref() == Some(&spec) {
            return;
        }
        tracing::info!(?pair, filter = text.expression, "the group's filter changes");
        self.subscriptions.get_or_start(self, pair).push(Event::FilterChanged(filter.clone(), spec));
    }

    /// Fetches the bodies of a reply. When the read pool has no room for it, all of it goes back.
    async fn fill(
        &self,
        delivered: Delivered,
        topic: &Topic,
        group: &GroupSpec,
        filter: &Filter,
    ) -> Result<Received, Refusal> {
        let pair = Pair { group: group.id, topic: topic.spec.id };
        let Delivered { messages, bodies, urgency, receipt } = delivered;
        let Some(receipt) = receipt else { return Ok(Received { deliveries: Vec::new(), receipt: None }) };
        let missing: Vec<Pointer> =
            messages.iter().zip(&bodies).filter(|(_, body)| body.is_none()).map(|(m, _)| m.entry.pointer()).collect();
        let mut read = self.fetch_all(pair.asker(), urgency, &missing).await?.into_iter();
        let mut deliveries = Vec::with_capacity(messages.len());
        let mut discarded: Vec<Slot> = Vec::new();
        for (handout, body) in messages.iter().zip(bodies) {
            let slot = (handout.receipt.queue, handout.receipt.offset);
            match body.map_or_else(|| read.next().expect("every body that was missing was read"), Ok) {
                // Two tags may share a hash; the text decides.
                Ok(message) if filter.matches(message.envelope.tag.as_deref()) => {
                    let (group, bytes) = (group.name.as_str(), message.body.len() as u64);
                    let is_retry = handout.receipt.attempt > 1;
                    self.messages.handed_out(pair, group, topic.spec.name.as_str(), is_retry, bytes);
                    deliveries.push(self.delivery(topic, handout, message));
                }
                Ok(_) => discarded.push(slot),
                Err(error) if error.is_lost() => {
                    tracing::error!(%error, topic = %topic.spec.name, queue = slot.0.0, offset = slot.1.0,
                        "a message is lost to damage and is skipped");
                    discarded.push(slot);
                }
                // It stays leased and comes again.
                Err(error) => tracing::warn!(%error, topic = %topic.spec.name, "a message cannot be read now"),
            }
        }
        if !discarded.is_empty() {
            receipt.discard(discarded);
        }
        Ok(Received { deliveries, receipt: Some(receipt) })
    }

    fn delivery(&self, topic: &Topic, handout: &Handout, message: StoredMessage) -> Delivery {
        let receipt = &handout.receipt;
        let origin = self.origin_of(topic, &message);
        let mut delivery = delivery_of(topic.spec.name.clone(), message);
        delivery.queue = receipt.queue;
        delivery.offset = receipt.offset;
        delivery.stored_at = handout.entry.visible_since;
        delivery.attempt = receipt.attempt;
        delivery.handle = receipt.encode(self.store.reader().hash_key());
        delivery.dead_letter_of = origin;
        delivery
    }

    /// Where a dead letter came from: the body still says which topic it was sent to.
    pub fn origin_of(&self, topic: &Topic, message: &StoredMessage) -> Option<(String, String)> {
        if topic.spec.kind != TopicKind::DeadLetter {
            return None;
        }
        let catalog = self.store.reader().catalog();
        let origin = catalog.topic_by_id(message.topic)?;
        Some((origin.spec.name.to_string(), message.envelope.message_id.clone()))
    }

    /// One message, for somebody who looks it up.
    pub async fn fetch(&self, pointer: Pointer) -> Result<StoredMessage, Refusal> {
        let mut fetched = self.fetch_all(Asker::LookUp, Urgency::Live, &[pointer]).await?;
        fetched.pop().expect("one was asked for").map_err(|error| unreadable(&error))
    }

    /// Messages in this order: from memory at once, all others together from the disk on the read pool. Refused when too
    /// much waits there.
    pub async fn fetch_all(
        &self,
        asker: Asker,
        urgency: Urgency,
        pointers: &[Pointer],
    ) -> Result<Vec<Result<StoredMessage, FetchError>>, Refusal> {
        let warm: Vec<_> = pointers.iter().map(|pointer| self.store.fetch_now(*pointer)).collect();
        let is_cold = |(_, warm): &(_, &Option<_>)| warm.is_none();
        let cold: Vec<Pointer> = pointers.iter().zip(&warm).filter(is_cold).map(|(pointer, _)| *pointer).collect();
        let mut read = Vec::new().into_iter();
        if !cold.is_empty() {
            let busy = || Refusal::Overloaded { limit: "cold reads that wait for the disk" };
            let (sender, receiver) = oneshot::channel();
            let done = Box::new(move |fetched| drop(sender.send(fetched)));
            if !self.store.fetch_later(Job { asker, urgency, pointers: cold, done }) {
                return Err(busy());
            }
            read = receiver.await.map_err(|_| busy())?.into_iter();
        }
        Ok(warm.into_iter().map(|warm| warm.or_else(|| read.next()).expect("each cold one was read")).collect())
    }

    pub async fn ack(
        self: &Arc<Self>,
        caller: &Caller,
        group: &str,
        topic: &str,
        handles: &[&str],
    ) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        let pair = self.pair(group, topic)?;
        if handles.is_empty() {
            return Err(Refusal::NoEntries);
        }
        if handles.len() > ACK_ENTRIES_MAX {
            return Err(Refusal::TooManyEntries { count: handles.len(), max: ACK_ENTRIES_MAX });
        }
        self.membership.touch(caller, self.clock.monotonic_ms());
        // All of them are handed over before the first answer is waited for: they share one append.
        let waiting: Vec<_> = handles.iter().map(|text| self.settle(caller, pair, text, Verdict::Ack)).collect();
        let mut results = Vec::with_capacity(waiting.len());
        for waiting in waiting {
            results.push(match waiting {
                Ok(answer) => answer.await.unwrap_or(Err(Refusal::Draining)),
                Err(refusal) => Err(refusal),
            });
        }
        Ok(results)
    }

    pub async fn change_invisible(
        self: &Arc<Self>,
        caller: &Caller,
        group: &str,
        topic: &str,
        text: &str,
        invisible_ms: i64,
        is_suspended: bool,
    ) -> Result<String, Refusal> {
        let pair = self.pair(group, topic)?;
        let range = Refusal::IllegalInvisibleTime { asked: invisible_ms, min: 0, max: INVISIBLE_MS_MAX };
        let ms = u64::try_from(invisible_ms).ok().filter(|ms| *ms <= INVISIBLE_MS_MAX).ok_or(range)?;
        self.membership.touch(caller, self.clock.monotonic_ms());
        let after = self.returned_after(pair, text, Duration::from_millis(ms), caller);
        let answer = self.settle(caller, pair, text, Verdict::Return { after, is_suspended })?;
        answer.await.unwrap_or(Err(Refusal::Draining))?;
        // Every handle of a delivery stays good until the next one, so the same text is the new handle.
        Ok(text.to_owned())
    }

    /// Node's library takes seconds for milliseconds: its nacks are raised to what the group's back-off says (§5.4).
    fn returned_after(&self, pair: Pair, text: &str, asked: Duration, caller: &Caller) -> Duration {
        if caller.language != crate::api::Language::NodeJs || asked.is_zero() || asked >= Duration::from_secs(1) {
            return asked;
        }
        let receipt = handle::Receipt::decode(text, self.store.reader().hash_key());
        let catalog = self.store.reader().catalog();
        match (receipt, catalog.group_by_id(pair.group)) {
            (Some(receipt), Some(group)) => asked.max(group.backoff.after(receipt.attempt)),
            _ => asked,
        }
    }

    pub async fn forward(
        self: &Arc<Self>,
        caller: &Caller,
        group: &str,
        topic: &str,
        text: &str,
    ) -> Result<(), Refusal> {
        let pair = self.pair(group, topic)?;
        self.membership.touch(caller, self.clock.monotonic_ms());
        let answer = self.settle(caller, pair, text, Verdict::Forward)?;
        answer.await.unwrap_or(Err(Refusal::Draining))
    }

    /// Hands a settle to its subscription now; the receiver waits for the answer.
    fn settle(
        self: &Arc<Self>,
        caller: &Caller,
        pair: Pair,
        text: &str,
        verdict: Verdict,
    ) -> Result<oneshot::Receiver<Result<(), Refusal>>, Refusal> {
        let key = self.store.reader().hash_key();
        let receipt = handle::Receipt::decode(text, key)
            .ok_or(Refusal::InvalidHandle { problem: "was not given out by this server" })?;
        if (receipt.group, receipt.topic) != (pair.group, pair.topic) {
            return Err(Refusal::InvalidHandle { problem: "belongs to another group or topic" });
        }
        let settle = Settle { client: caller.client_id.clone(), receipt, verdict };
        loop {
            let inbox: Arc<Inbox> = self.subscriptions.get_or_start(self, pair);
            if let Ok(answer) = inbox.settle(settle.clone()) {
                return Ok(answer);
            }
        }
    }

    fn pair(&self, group: &str, topic: &str) -> Result<Pair, Refusal> {
        let topic_name = Self::parse_topic(topic)?;
        let group_name = Self::parse_group(group)?;
        let topic = self.topic(&topic_name).ok_or(Refusal::TopicNotFound(topic_name))?;
        let unknown = Refusal::InvalidHandle { problem: "belongs to a consumer group that does not exist" };
        let group = self.group(&group_name).ok_or(unknown)?;
        Ok(Pair { group: group.id, topic: topic.spec.id })
    }
}

/// Whether a group consumes in order. `is_fifo`: whether one of its topics is a FIFO topic, as far as is known.
pub fn is_ordered_on(group: &GroupSpec, is_fifo: bool) -> bool {
    is_ordered(group.order, if is_fifo { TopicKind::Fifo } else { TopicKind::Normal })
}

/// Why a message that somebody looks up cannot be shown.
pub fn unreadable(error: &FetchError) -> Refusal {
    Refusal::Unreadable { what: "the message", cause: error.to_string() }
}

/// None: renewed while the client lives.
fn check_invisible(receive: &Receive) -> Result<Option<Duration>, Refusal> {
    if receive.auto_renew {
        return Ok(None);
    }
    let asked = receive.invisible_ms.unwrap_or(0);
    let range = INVISIBLE_MS_MIN..=INVISIBLE_MS_MAX;
    match u64::try_from(asked).ok().filter(|ms| range.contains(ms)) {
        Some(ms) => Ok(Some(Duration::from_millis(ms))),
        None => Err(Refusal::IllegalInvisibleTime { asked, min: INVISIBLE_MS_MIN, max: INVISIBLE_MS_MAX }),
    }
}

/// How long a poll may wait: never so long that the answer would miss the caller's deadline (D8).
fn patience(polling: Option<Duration>, remaining: Option<Duration>) -> u64 {
    let asked = polling.map_or(u64::MAX, base::duration::ms);
    let left = match remaining.map(base::duration::ms) {
        Some(left) if left < 500 => 0,
        // A caller that does not say how long counts on an answer well before its deadline: half of the usual request
        // timeout before it, as the reference server does.
        Some(left) if polling.is_none() && left >= 3_000 => left - 1_500,
        Some(left) => left - (left / 20).clamp(200, 1000),
        // Neither says how long: what clients use by default.
        None if polling.is_none() => 20_000,
        None => u64::MAX,
    };
    asked.min(left).min(POLL_MS_MAX)
}

/// A message as it is handed out; what depends on the delivery is left to the caller.
pub fn delivery_of(topic: TopicName, message: StoredMessage) -> Delivery {
    let envelope = message.envelope;
    Delivery {
        topic,
        queue: base::QueueIndex(0),
        offset: base::QueueOffset(0),
        message_id: envelope.message_id,
        message_type: match envelope.kind {
            MessageKind::Normal => MessageType::Normal,
            MessageKind::Fifo => MessageType::Fifo,
            MessageKind::Delay => MessageType::Delay,
            MessageKind::Transaction => MessageType::Transaction,
            MessageKind::Lite => MessageType::Lite,
            MessageKind::Priority => MessageType::Priority,
        },
        tag: envelope.tag,
        keys: envelope.keys,
        properties: envelope.properties,
        message_group: envelope.message_group,
        deliver_at: envelope.deliver_at,
        priority: envelope.priority.and_then(|priority| i32::try_from(priority).ok()),
        born_at: envelope.born_at,
        born_host: envelope.born_host,
        stored_at: base::Timestamp::ZERO,
        trace_context: envelope.trace_context,
        encoding: if envelope.is_gzip { BodyEncoding::Gzip } else { BodyEncoding::Identity },
        md5: message.md5,
        body: Bytes::clone(&message.body),
        attempt: 1,
        handle: String::new(),
        dead_letter_of: None,
    }
}
