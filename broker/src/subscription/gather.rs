//! What has to be appended next. While one append is under way, everything that comes up gathers into the next one.

use std::sync::Arc;

use base::{QueueIndex, QueueOffset, Timestamp, TopicId};
use hashbrown::{HashMap, HashSet};
use storage::record::{AckRange, DeadLetterReason, Fact, FilterSpec, Head, LeaseEntry, RetryEntry, Why};
use storage::request::Change;
use storage::view::queue::Entry;

use super::{Pair, PollId, SettleId, Slot};

/// A message that becomes a dead letter.
#[derive(Debug, Clone, Copy)]
pub struct Dying {
    pub slot: Slot,
    pub entry: Entry,
    pub attempts: u32,
    pub reason: DeadLetterReason,
}

/// An ordered batch that waits for its lease to be committed.
#[derive(Debug, Clone)]
pub struct Leasing {
    pub batch: u64,
    pub poll: PollId,
    pub client: Arc<str>,
    pub until: Option<Timestamp>,
    pub entries: Vec<LeaseEntry>,
}

#[derive(Debug, Default)]
pub struct Gather {
    pub acks: Vec<Slot>,
    pub skipped: Vec<AckRange>,
    pub skipped_entries: usize,
    pub retries: Vec<RetryEntry>,
    /// Those of `retries` that no client asked for: the lease ended, the client went away, the reply was not written.
    pub returned: HashSet<Slot>,
    /// When those of `retries` that have to wait may be delivered, by the monotonic clock: the wall clock may be set
    /// before the record is committed.
    pub visible_at: HashMap<Slot, u64>,
    pub dying: Vec<Dying>,
    pub leases: Vec<Leasing>,
    pub filter: Option<FilterSpec>,
    /// How many operators' records were known when it was appended.
    pub operations: u64,
    /// Who is told when it is committed.
    pub waiters: Vec<SettleId>,
}

impl Gather {
    /// Whether it should be appended without waiting for more.
    pub fn is_urgent(&self) -> bool {
        !self.acks.is_empty()
            || !self.retries.is_empty()
            || !self.dying.is_empty()
            || !self.leases.is_empty()
            || self.filter.is_some()
    }

    /// Notes that `count` neighbours from `slot` on need not be delivered.
    pub fn skip(&mut self, (queue, first): Slot, count: u64) {
        self.skipped_entries += usize::try_from(count).unwrap_or(usize::MAX);
        match self.skipped.last_mut() {
            Some(last) if last.queue == queue && last.first.0 + last.count == first.0 => last.count += count,
            _ => self.skipped.push(AckRange { queue, first, count }),
        }
    }

    /// Drops what is about deliveries that are void: of these queues, and of single messages. Gives the polls whose
    /// whole batch is gone with it.
    pub fn void(&mut self, queues: &[QueueIndex], is_void: impl Fn(Slot) -> bool) -> Vec<PollId> {
        self.acks.retain(|slot| !is_void(*slot));
        self.skipped.retain(|range| !queues.contains(&range.queue));
        self.skipped_entries =
            self.skipped.iter().map(|range| usize::try_from(range.count).unwrap_or(usize::MAX)).sum();
        self.retries.retain(|retry| !is_void((retry.queue, retry.offset)));
        self.returned.retain(|slot| !is_void(*slot));
        self.visible_at.retain(|slot, _| !is_void(*slot));
        self.dying.retain(|dying| !is_void(dying.slot));
        self.unlease(is_void)
    }

    /// Takes messages out of the batches that wait for their leases. Gives the polls whose whole batch is gone.
    pub fn unlease(&mut self, is_gone: impl Fn(Slot) -> bool) -> Vec<PollId> {
        for leasing in &mut self.leases {
            leasing.entries.retain(|entry| !is_gone((entry.queue, entry.offset)));
        }
        let gone = self.leases.extract_if(.., |leasing| leasing.entries.is_empty());
        gone.map(|leasing| leasing.poll).collect()
    }

    /// Puts back what was on its way to the log before all this.
    pub fn resume(&mut self, earlier: Self) {
        let later = std::mem::replace(self, earlier);
        self.acks.extend(later.acks);
        for range in later.skipped {
            self.skip((range.queue, range.first), range.count);
        }
        self.retries.extend(later.retries);
        self.returned.extend(later.returned);
        self.visible_at.extend(later.visible_at);
        self.dying.extend(later.dying);
        self.leases.extend(later.leases);
        self.filter = later.filter.or(self.filter.take());
        self.waiters.extend(later.waiters);
    }

    /// The records of one batch.
    pub fn changes(&self, pair: Pair, dead_letter_topic: Option<TopicId>) -> Vec<Change> {
        let Pair { group, topic } = pair;
        let mut changes = vec![Change::Expect { group, topic, operations: self.operations }];
        if let Some(filter) = &self.filter {
            changes.push(Change::Fact(Fact::Subscribe { group, topic, start: Vec::new(), filter: filter.clone() }));
        }
        for dying in &self.dying {
            changes.push(self.dead_letter(pair, dying, dead_letter_topic.expect("dead letters wait for their topic")));
        }
        let acks = self.ranges();
        if !acks.is_empty() || !self.retries.is_empty() {
            changes.push(Change::Fact(Fact::Settle { group, topic, acks, retries: self.retries.clone() }));
        }
        for lease in &self.leases {
            changes.push(Change::Fact(Fact::Lease {
                group,
                topic,
                batch: lease.batch,
                client: lease.client.clone(),
                until: lease.until,
                entries: lease.entries.clone(),
            }));
        }
        changes
    }

    fn dead_letter(&self, pair: Pair, dying: &Dying, topic: TopicId) -> Change {
        let head = Head {
            topic,
            tag_hash: dying.entry.tag_hash,
            group_hash: dying.entry.group_hash,
            priority: dying.entry.priority(),
        };
        let why = Why::DeadLetter { group: pair.group, attempts: dying.attempts, reason: dying.reason };
        Change::Publish { origin: dying.entry.pointer(), head, why }
    }

    /// Everything that is done with, as few ranges as it takes.
    fn ranges(&self) -> Vec<AckRange> {
        let mut slots: Vec<Slot> = self.acks.iter().copied().chain(self.dying.iter().map(|dying| dying.slot)).collect();
        slots.sort_unstable();
        slots.dedup();
        let mut ranges = self.skipped.clone();
        let first_own = ranges.len();
        for (queue, QueueOffset(offset)) in slots {
            match ranges[first_own..].last_mut() {
                Some(last) if last.queue == queue && last.first.0 + last.count == offset => last.count += 1,
                _ => ranges.push(AckRange { queue, first: QueueOffset(offset), count: 1 }),
            }
        }
        ranges
    }
}
