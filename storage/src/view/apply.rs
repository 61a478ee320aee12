//! Applying records: the one place that says what each kind does to which view.
//!
//! Runs on the writer's thread after a commit, and at a start for every record that is read back. The same records in the
//! same order give the same views.
//!
//! V2. A view skips what it holds already: after a checkpoint the log is read from further back than some views need.
//! V1. Applying never fails and never reads another record. What does not fit is the trace of damage: it is counted and
//!     said, once, and nothing else is touched.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base::{GroupId, LogPosition, Timestamp, TopicId};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use super::catalog::Catalog;
use super::progress::{Progress, Shared};
use super::queue::{Bounds, Entry, QueueId};
use super::references::References;
use super::timers::{Timer, Timers};
use super::transactions::{Outcome, Prepared, Transactions};
use crate::hash::HashKey;
use crate::index::Sealed;
use crate::record::{Fact, Head, Pending, Pointer, Record, Why};
use crate::watch::Watchers;

/// What a committed record means for the timers. Handed to the timer thread, which owns them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerEvent {
    Add(Timer),
    End { due: Timestamp, origin: LogPosition },
    DropTopic(TopicId),
}

/// Everything that is derived from the log, but the timers.
#[derive(Debug)]
pub struct Views {
    pub catalog: Arc<ArcSwap<Catalog>>,
    /// Rung when the catalog has changed.
    pub catalog_watchers: Arc<Watchers>,
    /// Shared by the writer, which adds, and whoever looks a pair up; the lock is held for one look-up.
    pub progress: Arc<Mutex<HashMap<(GroupId, TopicId), Shared>>>,
    /// Written by the writer, which decides; read for check-backs and lists.
    pub transactions: Arc<Mutex<Transactions>>,
    /// Written by the writer, read by the upkeep thread: bodies that became visible lately.
    pub references: Arc<Mutex<References>>,
    /// Where entries of sealed segments are.
    pub index: Arc<Sealed>,
    /// Queues that were purged since a checkpoint took note.
    pub purged: Arc<Mutex<BTreeSet<QueueId>>>,
    pub hash_key: Option<HashKey>,
    /// Topics with new messages, or with groups that an operator has moved, since the last ring.
    touched: HashSet<TopicId>,
    timer_events: Vec<TimerEvent>,
    /// Records that did not fit, because damage took what they refer to.
    pub orphans: u64,
    /// Queue entries that damage took.
    pub lost_entries: u64,
    /// Messages that expired before a group had read them.
    pub expired_unread: u64,
}

/// What others than the writer see of the views. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedViews {
    pub catalog: Arc<ArcSwap<Catalog>>,
    pub progress: Arc<Mutex<HashMap<(GroupId, TopicId), Shared>>>,
    pub transactions: Arc<Mutex<Transactions>>,
    pub references: Arc<Mutex<References>>,
    pub index: Arc<Sealed>,
    pub purged: Arc<Mutex<BTreeSet<QueueId>>>,
}

impl Default for Views {
    fn default() -> Self {
        let index = Arc::new(Sealed::nowhere());
        Self {
            catalog: Arc::new(ArcSwap::from_pointee(Catalog::new(index.clone()))),
            catalog_watchers: Arc::default(),
            progress: Arc::default(),
            transactions: Arc::default(),
            references: Arc::default(),
            index,
            purged: Arc::default(),
            hash_key: None,
            touched: HashSet::new(),
            timer_events: Vec::new(),
            orphans: 0,
            lost_entries: 0,
            expired_unread: 0,
        }
    }
}

impl Views {
    pub fn shared(&self) -> SharedViews {
        SharedViews {
            catalog: self.catalog.clone(),
            progress: self.progress.clone(),
            transactions: self.transactions.clone(),
            references: self.references.clone(),
            index: self.index.clone(),
            purged: self.purged.clone(),
        }
    }

    /// `pointer`: where the record lies. `stored_at`: its batch's.
    pub fn apply(&mut self, record: &Record, pointer: Pointer, stored_at: Timestamp) {
        let at = pointer.position;
        match record {
            Record::Message { head, queue, offset } => {
                let entry = Entry::new(pointer, stored_at, head.group_hash, head.tag_hash, head.priority);
                self.push(at, head.topic, *queue, *offset, entry);
            }
            Record::Delayed { head, due } => self.add_timer(*due, pointer, head),
            Record::Prepared { head, due, check_after_ms, client } => {
                self.with_transactions(at, |transactions| {
                    transactions.prepare(Prepared {
                        pointer,
                        head: *head,
                        due: *due,
                        prepared_at: stored_at,
                        check_after_ms: *check_after_ms,
                        client: client.clone(),
                    });
                });
            }
            Record::Publish { origin, head, queue, offset, visible_since, why } => {
                let entry = Entry::new(*origin, *visible_since, head.group_hash, head.tag_hash, head.priority);
                self.push(at, head.topic, *queue, *offset, entry);
                self.references.lock().note(origin.position, head.topic, *visible_since, at);
                match why {
                    Why::Due { due } => self.end_moved(at, *due, origin.position),
                    Why::Commit => self.end_transaction(at, origin.position, Outcome::Committed),
                    Why::DeadLetter { .. } | Why::Redrive { .. } => {}
                }
            }
            Record::Fact(fact) => self.apply_fact(fact, at),
            Record::Topic(spec) => {
                self.change_catalog(at, |catalog| {
                    catalog.forget_buried(stored_at);
                    catalog.apply_topic(spec);
                });
                if spec.is_dropped {
                    self.drop_topic(spec.id, at);
                }
            }
            Record::Group(spec) => {
                self.change_catalog(at, |catalog| {
                    catalog.forget_buried(stored_at);
                    catalog.apply_group(spec);
                });
                if spec.is_dropped {
                    self.progress.lock().retain(|(group, _), _| *group != spec.id);
                }
            }
            Record::Members { hash_key, .. } => self.hash_key = Some(*hash_key),
            Record::Epoch { .. } | Record::Mark => {}
        }
    }

    fn apply_fact(&mut self, fact: &Fact, at: LogPosition) {
        match fact {
            Fact::Retire { origin, pending } => match pending {
                Pending::Timer { due } => self.end_moved(at, *due, *origin),
                Pending::Transaction => self.end_transaction(at, *origin, Outcome::RolledBack),
            },
            Fact::Move { origin, head, from, due } => {
                match from {
                    Pending::Timer { due } => self.end_moved(at, *due, origin.position),
                    Pending::Transaction => self.end_transaction(at, origin.position, Outcome::Committed),
                }
                self.add_timer(*due, *origin, head);
            }
            Fact::Settle { group, topic, acks, retries } => self.with(at, *group, *topic, |p| p.settle(acks, retries)),
            Fact::Lease { group, topic, batch, client, until, entries } => {
                self.with(at, *group, *topic, |p| p.lease(*batch, client, *until, entries));
            }
            Fact::Subscribe { group, topic, start, filter } => {
                self.with(at, *group, *topic, |p| p.subscribe(start, filter));
            }
            Fact::Seek { group, topic, queue, to, generation } => {
                // What is not there yet would be acknowledged before it is sent; what is there no more never would be.
                let Some(Bounds { first, next }) = self.bounds(*topic, *queue) else { return };
                let to = (*to).max(first).min(next);
                self.with(at, *group, *topic, |p| p.seek(*queue, to, *generation));
                self.touched.insert(*topic);
            }
            Fact::Park { group, topic, message_group, is_on } => {
                self.with(at, *group, *topic, |p| p.park(*message_group, *is_on));
                self.touched.insert(*topic);
            }
            Fact::Purge { topic, queue, below } => self.purge(at, *topic, *queue, *below, true),
            Fact::Expire { topic, queue, below } => self.purge(at, *topic, *queue, *below, false),
            Fact::Schedule(spec) => self.change_catalog(at, |catalog| catalog.apply_schedule(spec)),
        }
    }

    /// Progress of a pair; made when it does not exist yet.
    pub fn progress_of(&self, group: GroupId, topic: TopicId) -> Shared {
        self.progress.lock().entry((group, topic)).or_default().clone()
    }

    /// After damage: a queue whose newest messages are gone ends too early, and what groups have done with those would
    /// be taken for something about the next ones. Lost entries keep their offsets from being given out again.
    pub fn keep_lost_offsets(&mut self) {
        let catalog = self.catalog.load_full();
        for topic in catalog.topics() {
            // A purge that a checkpoint knew may lie behind what is left of the log.
            for queue in &topic.queues {
                self.lost_entries += queue.extend_lost(base::QueueOffset(0));
            }
        }
        for ((_, topic), progress) in self.progress.lock().iter() {
            let Some(topic) = catalog.topic_by_id(*topic) else { continue };
            let progress = progress.lock();
            for (number, queue) in topic.queues.iter().enumerate() {
                let index = base::QueueIndex(u16::try_from(number).expect("topics have at most 1,024 queues"));
                self.lost_entries += queue.extend_lost(progress.end(index));
            }
        }
    }

    /// What the timer thread has to be told, in order.
    pub fn take_timer_events(&mut self) -> Vec<TimerEvent> {
        std::mem::take(&mut self.timer_events)
    }

    /// Tells everybody who waits for messages of the topics that got some, or whose progress an operator changed.
    pub fn ring(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        let catalog = self.catalog.load();
        for topic in self.touched.drain() {
            if let Some(topic) = catalog.topic_by_id(topic) {
                topic.watchers.ring();
            }
        }
    }

    fn push(
        &mut self,
        at: LogPosition,
        topic: TopicId,
        queue: base::QueueIndex,
        offset: base::QueueOffset,
        entry: Entry,
    ) {
        let catalog = self.catalog.load();
        match catalog.topic_by_id(topic).and_then(|topic| topic.queue(queue)) {
            Some(queue) => {
                self.lost_entries += queue.push(offset, entry);
                self.touched.insert(topic);
            }
            // Dropped later on: the catalog knows that already.
            None if at < catalog.covers() => {}
            None => {
                drop(catalog);
                self.orphan("message", topic);
            }
        }
    }

    fn purge(
        &mut self,
        at: LogPosition,
        topic: TopicId,
        queue: base::QueueIndex,
        below: base::QueueOffset,
        is_wanted: bool,
    ) {
        let catalog = self.catalog.load();
        let Some(found) = catalog.topic_by_id(topic).and_then(|topic| topic.queue(queue)) else { return };
        // What is not there yet is not purged: it would be acknowledged before it is sent.
        let below = below.min(found.bounds().next);
        found.purge(below);
        self.purged.lock().insert(found.id());
        let mut is_felt = is_wanted;
        for ((_, of), progress) in self.progress.lock().iter() {
            if *of == topic {
                progress.lock().apply(at, |progress| match is_wanted {
                    true => progress.purge(queue, below),
                    false => {
                        let unread = progress.expire(queue, below);
                        self.expired_unread += unread;
                        is_felt |= unread > 0;
                    }
                });
            }
        }
        drop(catalog);
        if is_felt {
            self.touched.insert(topic);
        }
    }

    fn bounds(&self, topic: TopicId, queue: base::QueueIndex) -> Option<Bounds> {
        let catalog = self.catalog.load();
        Some(catalog.topic_by_id(topic)?.queue(queue)?.bounds())
    }

    fn add_timer(&mut self, due: Timestamp, pointer: Pointer, head: &Head) {
        self.timer_events.push(TimerEvent::Add(Timer { due, pointer, head: *head }));
    }

    /// Ends a timer. A transaction that is still there was moved to be one by a record that damage took.
    fn end_moved(&mut self, at: LogPosition, due: Timestamp, origin: LogPosition) {
        self.timer_events.push(TimerEvent::End { due, origin });
        let mut was_prepared = false;
        self.with_transactions(at, |transactions| {
            was_prepared = transactions.end_if_prepared(origin, Outcome::Committed);
        });
        if was_prepared {
            self.orphans += 1;
            tracing::warn!(position = origin.0, "a transaction was committed by a record that was lost to damage");
        }
    }

    fn end_transaction(&mut self, at: LogPosition, origin: LogPosition, outcome: Outcome) {
        let mut was_there = true;
        self.with_transactions(at, |transactions| was_there = transactions.end(origin, outcome));
        if !was_there {
            self.orphans += 1;
            tracing::warn!(position = origin.0, "a transaction ends that was lost to damage");
        }
    }

    fn with_transactions(&mut self, at: LogPosition, change: impl FnOnce(&mut Transactions)) {
        let mut transactions = self.transactions.lock();
        if at >= transactions.covers() {
            change(&mut transactions);
            transactions.cover(at.plus(1));
        }
    }

    fn with(&mut self, at: LogPosition, group: GroupId, topic: TopicId, change: impl FnOnce(&mut Progress)) {
        let catalog = self.catalog.load();
        if catalog.group_by_id(group).is_none() || catalog.topic_by_id(topic).is_none() {
            // Settles may still be under way while a topic or group is dropped; there is nothing left to settle.
            return;
        }
        self.progress_of(group, topic).lock().apply(at, change);
    }

    fn change_catalog(&mut self, at: LogPosition, change: impl FnOnce(&mut Catalog)) {
        let known = self.catalog.load();
        if at < known.covers() {
            return;
        }
        let mut next = Catalog::clone(&known);
        change(&mut next);
        next.cover(at.plus(1));
        self.catalog.store(Arc::new(next));
        self.catalog_watchers.ring();
    }

    fn drop_topic(&mut self, topic: TopicId, at: LogPosition) {
        self.progress.lock().retain(|(_, of), _| *of != topic);
        self.with_transactions(at, |transactions| transactions.drop_topic(topic));
        self.timer_events.push(TimerEvent::DropTopic(topic));
    }

    fn orphan(&mut self, what: &'static str, topic: TopicId) {
        self.orphans += 1;
        tracing::warn!(what, topic = topic.0, "a record names a topic that was lost to damage");
    }
}

impl Timers {
    /// Takes over what the writer committed.
    pub fn apply(&mut self, events: &[TimerEvent]) {
        for event in events {
            match event {
                TimerEvent::Add(timer) => self.add(*timer),
                TimerEvent::DropTopic(topic) => self.drop_topic(*topic),
                TimerEvent::End { due, origin } => {
                    if self.end(*due, *origin) {
                        continue;
                    }
                    let is_stray = self.end_stray(*origin);
                    tracing::warn!(
                        position = origin.0,
                        is_stray,
                        "a timer ends that was lost, or moved by what was lost"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
