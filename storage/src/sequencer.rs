//! Turns requests into records: gives out queue offsets and ids, and decides about transactions.
//!
//! This is the only state ahead of `committed`. When a group fails it is forgotten and read anew from the views.
//!
//! Q3. Offsets of a queue come from one counter, in append order: queues are dense.
//! Q4. Nothing is decided about a prepared message while a decision about it is under way.
//! Q5. Nothing that was decided before an operator's record about a pair follows it, when its sender says what it expects.

mod naming;

use std::sync::Arc;

use arc_swap::ArcSwap;
use base::{GroupId, GroupName, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId, TopicName};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use crate::record::{Fact, Head, Pending, Pointer, Record, Why};
use crate::request::AppendError;
use crate::view::catalog::{Catalog, GroupSpec, TopicKind, TopicSpec};
use crate::view::transactions::{Outcome, Transactions};

/// What a topic's queues will be given next.
#[derive(Debug)]
struct Tail {
    next: Vec<QueueOffset>,
    is_ordered: bool,
    /// Where the next message without a message group goes.
    turn: usize,
}

#[derive(Debug)]
pub struct Sequencer {
    catalog: Arc<ArcSwap<Catalog>>,
    transactions: Arc<Mutex<Transactions>>,
    tails: HashMap<TopicId, Tail>,
    /// Decided in this group, not committed yet.
    deciding: HashMap<LogPosition, Outcome>,
    new_topics: HashMap<TopicName, TopicSpec>,
    changed_topics: HashMap<TopicId, TopicSpec>,
    new_groups: HashMap<GroupName, GroupSpec>,
    changed_groups: HashMap<GroupId, GroupSpec>,
    /// Numbers given out in this group, for topics and for groups.
    given: (u32, u32),
    dropped_topics: HashSet<TopicId>,
    dropped_groups: HashSet<GroupId>,
    /// When what was dropped in this group was.
    buried_topics: HashMap<(TopicName, TopicKind), Timestamp>,
    buried_groups: HashMap<GroupName, Timestamp>,
    /// Operators' records of this group; those without a consumer group are about all of the topic's.
    operations: HashMap<(TopicId, Option<GroupId>), u64>,
}

impl Sequencer {
    pub fn new(catalog: Arc<ArcSwap<Catalog>>, transactions: Arc<Mutex<Transactions>>) -> Self {
        Self {
            catalog,
            transactions,
            tails: HashMap::new(),
            deciding: HashMap::new(),
            new_topics: HashMap::new(),
            changed_topics: HashMap::new(),
            new_groups: HashMap::new(),
            changed_groups: HashMap::new(),
            given: (0, 0),
            dropped_topics: HashSet::new(),
            dropped_groups: HashSet::new(),
            buried_topics: HashMap::new(),
            buried_groups: HashMap::new(),
            operations: HashMap::new(),
        }
    }

    /// The group is committed and applied: the views know all of it.
    pub fn committed(&mut self) {
        for topic in self.dropped_topics.drain() {
            self.tails.remove(&topic);
        }
        self.deciding.clear();
        self.new_topics.clear();
        self.changed_topics.clear();
        self.new_groups.clear();
        self.changed_groups.clear();
        self.given = (0, 0);
        self.dropped_groups.clear();
        self.buried_topics.clear();
        self.buried_groups.clear();
        self.operations.clear();
    }

    /// The group is not in the log: whatever was given out for it was given to nobody.
    pub fn reset(&mut self) {
        self.tails.clear();
        self.committed();
    }

    /// Chooses queue and offset for a message that becomes visible.
    pub fn place(&mut self, head: &Head) -> Result<(QueueIndex, QueueOffset), AppendError> {
        let tail = self.tail(head.topic)?;
        let queues = tail.next.len();
        let queue = if head.group_hash != 0 {
            // The topic of an ordered message has a fixed number of queues, so its group stays where it is.
            usize::try_from(head.group_hash % queues as u64).expect("below the number of queues")
        } else if tail.is_ordered {
            0
        } else {
            tail.turn = (tail.turn + 1) % queues;
            tail.turn
        };
        let offset = tail.next[queue];
        tail.next[queue] = offset.next();
        Ok((QueueIndex(u16::try_from(queue).expect("topics have at most 1,024 queues")), offset))
    }

    /// Takes back what [`Sequencer::place`] gave last for this queue.
    pub fn unplace(&mut self, topic: TopicId, queue: QueueIndex, offset: QueueOffset) {
        if let Some(tail) = self.tails.get_mut(&topic) {
            let next = &mut tail.next[usize::from(queue.0)];
            assert_eq!(*next, offset.next(), "Q3: offsets are taken back in reverse order");
            *next = offset;
        }
    }

    /// An operator changes progress: of one consumer group, or of every one that reads the topic.
    pub fn operate(&mut self, topic: TopicId, group: Option<GroupId>) {
        *self.operations.entry((topic, group)).or_default() += 1;
    }

    /// Takes back one [`Sequencer::operate`].
    pub fn unoperate(&mut self, topic: TopicId, group: Option<GroupId>) {
        if let Some(count) = self.operations.get_mut(&(topic, group)) {
            *count -= 1;
        }
    }

    /// How often operators will have changed a pair's progress when this group is applied, beyond what is applied.
    pub fn operations_ahead(&self, group: GroupId, topic: TopicId) -> u64 {
        let of = |group| self.operations.get(&(topic, group)).copied().unwrap_or(0);
        of(Some(group)) + of(None)
    }

    /// Fails when the topic is not there (any more).
    pub fn check_topic(&self, topic: TopicId) -> Result<(), AppendError> {
        let is_there = self.catalog.load().topic_by_id(topic).is_some() && !self.dropped_topics.contains(&topic);
        if is_there { Ok(()) } else { Err(AppendError::TopicGone(topic)) }
    }

    pub fn check_group(&self, group: GroupId) -> Result<(), AppendError> {
        let is_there = self.catalog.load().group_by_id(group).is_some() && !self.dropped_groups.contains(&group);
        if is_there { Ok(()) } else { Err(AppendError::GroupGone(group)) }
    }

    /// The record that ends a transaction; none when it ended, or is ending, the same way already.
    pub fn end_transaction(
        &mut self,
        origin: LogPosition,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<Option<Record>, AppendError> {
        let transactions = self.transactions.clone();
        let transactions = transactions.lock();
        let decided = self.deciding.get(&origin).copied().or_else(|| transactions.outcome(origin));
        match decided {
            Some(decided) if decided == outcome => return Ok(None),
            Some(decided) => return Err(AppendError::TransactionEndedAs(decided)),
            None => {}
        }
        let prepared = transactions.prepared(origin).ok_or(AppendError::TransactionUnknown)?;
        let record = match (outcome, prepared.due) {
            (Outcome::RolledBack, _) => Record::Fact(Fact::Retire { origin, pending: Pending::Transaction }),
            (Outcome::Committed, Some(due)) if due > now => {
                self.check_topic(prepared.head.topic)?;
                Record::Fact(Fact::Move {
                    origin: prepared.pointer,
                    head: prepared.head,
                    from: Pending::Transaction,
                    due,
                })
            }
            (Outcome::Committed, _) => self.publish(prepared.pointer, prepared.head, Why::Commit, now)?,
        };
        self.deciding.insert(origin, outcome);
        Ok(Some(record))
    }

    pub fn publish(&mut self, origin: Pointer, head: Head, why: Why, now: Timestamp) -> Result<Record, AppendError> {
        let (queue, offset) = self.place(&head)?;
        Ok(Record::Publish { origin, head, queue, offset, visible_since: now, why })
    }

    fn tail(&mut self, id: TopicId) -> Result<&mut Tail, AppendError> {
        if self.dropped_topics.contains(&id) {
            return Err(AppendError::TopicGone(id));
        }
        if !self.tails.contains_key(&id) {
            let catalog = self.catalog.load();
            let topic = catalog.topic_by_id(id).ok_or(AppendError::TopicGone(id))?;
            let next = topic.queues.iter().map(|queue| queue.bounds().next).collect();
            let is_ordered = topic.spec.kind == TopicKind::Fifo;
            self.tails.insert(id, Tail { next, is_ordered, turn: 0 });
        }
        Ok(self.tails.get_mut(&id).expect("just made"))
    }
}
