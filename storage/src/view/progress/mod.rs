//! How far one group has come with one topic: what is acknowledged, what was tried, what is handed out in order.
//!
//! Applied by the writer, read by the subscription: a mutex, because each record changes it and the subscription needs
//! the newest state; held for at most `READ_ENTRIES_MAX` entries.
//!
//! P1. An acknowledged offset has no attempts and no lease.
//! P2. An offset is in at most one lease.
//! P3. Every seek begins a generation that its queue never had.
//! P4. A record is applied once: one that lies below `covers` was, before a checkpoint.

mod acknowledged;
mod attempts;
pub mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{LogPosition, QueueIndex, QueueOffset, Timestamp};
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;

use acknowledged::Acknowledged;
use attempts::Attempts;

use crate::record::{AckRange, FilterSpec, LeaseEntry, RetryEntry};

/// A message of a topic.
pub type Slot = (QueueIndex, QueueOffset);

/// Attempts used, and when the next one may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    pub attempts: u32,
    pub next_visible: Timestamp,
}

/// An ordered batch that was handed out and is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub client: Arc<str>,
    pub until: Option<Timestamp>,
    pub entries: Vec<LeaseEntry>,
}

/// What is known of one queue.
#[derive(Debug, Clone, Default)]
struct State {
    offsets: Acknowledged,
    /// Where the record lies that changed it last.
    changed: LogPosition,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.offsets == other.offsets
    }
}

impl Eq for State {}

/// The state of one (group, topic).
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// None until the first `Subscribe`.
    pub filter: Option<FilterSpec>,
    queues: BTreeMap<QueueIndex, State>,
    attempts: Attempts,
    leases: BTreeMap<u64, Lease>,
    leased: HashMap<Slot, u64>,
    parked: HashSet<u64>,
    generations: BTreeMap<QueueIndex, u32>,
    /// Seeks, parks and purges so far.
    operations: u64,
    /// Messages that went before the group had read them.
    expired: u64,
    /// Everything about this pair that lies below is in here.
    covers: LogPosition,
}

impl PartialEq for Progress {
    /// Whether both mean the same; how far either has come in the log is another question.
    fn eq(&self, other: &Self) -> bool {
        self.filter == other.filter
            && self.queues == other.queues
            && self.attempts == other.attempts
            && self.leases == other.leases
            && self.leased == other.leased
            && self.parked == other.parked
            && self.generations == other.generations
            && (self.operations, self.expired) == (other.operations, other.expired)
    }
}

impl Eq for Progress {}

impl Progress {
    pub fn is_subscribed(&self) -> bool {
        self.filter.is_some()
    }

    pub fn floor(&self, queue: QueueIndex) -> QueueOffset {
        self.queues.get(&queue).map_or(QueueOffset(0), |state| state.offsets.floor())
    }

    pub fn is_acknowledged(&self, (queue, offset): Slot) -> bool {
        self.queues.get(&queue).is_some_and(|state| state.offsets.contains(offset))
    }

    /// Messages below `next` that are not acknowledged.
    pub fn lag(&self, queue: QueueIndex, next: QueueOffset) -> u64 {
        match self.queues.get(&queue) {
            Some(State { offsets, .. }) => {
                next.0.saturating_sub(offsets.floor().0).saturating_sub(offsets.count_above_floor())
            }
            None => next.0,
        }
    }

    /// Messages below `below` that are not acknowledged; nothing before the first contact.
    pub fn unread_below(&self, queue: QueueIndex, below: QueueOffset) -> u64 {
        match self.queues.get(&queue) {
            _ if !self.is_subscribed() => 0,
            Some(state) => state.offsets.missing_below(below),
            None => below.0,
        }
    }

    pub fn retry(&self, slot: Slot) -> Option<Retry> {
        self.attempts.get(slot)
    }

    pub fn retries(&self) -> impl Iterator<Item = (Slot, Retry)> + '_ {
        self.attempts.iter()
    }

    pub fn leases(&self) -> impl Iterator<Item = (u64, &Lease)> + '_ {
        self.leases.iter().map(|(batch, lease)| (*batch, lease))
    }

    /// The first offset of which nothing is known: neither acknowledged, nor tried, nor handed out, nor behind any such.
    pub fn end(&self, queue: QueueIndex) -> QueueOffset {
        let acknowledged = self.queues.get(&queue).map_or(QueueOffset(0), |state| state.offsets.end());
        let leased = self.leased.keys().filter(|(of, _)| *of == queue).map(|(_, offset)| *offset);
        let known = leased.chain(self.attempts.last(queue)).max();
        known.map(QueueOffset::next).unwrap_or_default().max(acknowledged)
    }

    pub fn is_parked(&self, message_group: u64) -> bool {
        self.parked.contains(&message_group)
    }

    pub fn generation(&self, queue: QueueIndex) -> u32 {
        self.generations.get(&queue).copied().unwrap_or(0)
    }

    /// How often an operator stepped in. A subscription that knows another number has something to read again.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Messages that retention took before this group had read them.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Lets `change` apply the record at `position`, unless it is in here already (P4).
    pub(crate) fn apply(&mut self, position: LogPosition, change: impl FnOnce(&mut Self)) {
        if position < self.covers {
            return;
        }
        self.covers = position;
        change(self);
        self.covers = position.plus(1);
    }

    fn state(&mut self, queue: QueueIndex) -> &mut Acknowledged {
        let state = self.queues.entry(queue).or_default();
        state.changed = self.covers;
        &mut state.offsets
    }

    pub(crate) fn subscribe(&mut self, start: &[(QueueIndex, QueueOffset)], filter: &FilterSpec) {
        // Where a group starts is fixed by its first contact; later records change the filter only.
        if self.filter.is_none() {
            for (queue, offset) in start {
                if !self.queues.contains_key(queue) {
                    *self.state(*queue) = Acknowledged::starting_at(*offset);
                }
            }
        }
        self.filter = Some(filter.clone());
    }

    pub(crate) fn settle(&mut self, acks: &[AckRange], retries: &[RetryEntry]) {
        for range in acks {
            self.state(range.queue).insert(range.first, range.count);
            self.forget(range);
        }
        for retry in retries {
            let slot = (retry.queue, retry.offset);
            if self.is_acknowledged(slot) {
                continue;
            }
            self.unlease(slot);
            if retry.attempts == 0 && retry.next_visible == Timestamp::ZERO {
                self.attempts.remove(slot, self.covers);
            } else {
                let used = Retry { attempts: retry.attempts, next_visible: retry.next_visible };
                self.attempts.insert(slot, used, self.covers);
            }
        }
    }

    pub(crate) fn lease(&mut self, batch: u64, client: &Arc<str>, until: Option<Timestamp>, entries: &[LeaseEntry]) {
        let open: Vec<LeaseEntry> =
            entries.iter().filter(|entry| !self.is_acknowledged((entry.queue, entry.offset))).copied().collect();
        for entry in &open {
            self.unlease((entry.queue, entry.offset));
        }
        for entry in &open {
            self.leased.insert((entry.queue, entry.offset), batch);
        }
        if !open.is_empty() {
            self.leases.insert(batch, Lease { client: client.clone(), until, entries: open });
        }
    }

    pub(crate) fn seek(&mut self, queue: QueueIndex, to: QueueOffset, generation: u32) {
        self.operations += 1;
        self.state(queue).seek(to);
        // Two operators may have chosen the same number.
        let generation = generation.max(self.generation(queue).saturating_add(1));
        self.generations.insert(queue, generation);
        self.attempts.clear_queue(queue, self.covers);
        let leased: Vec<Slot> = self.leased.keys().filter(|(of, _)| *of == queue).copied().collect();
        leased.into_iter().for_each(|slot| self.unlease(slot));
    }

    pub(crate) fn park(&mut self, message_group: u64, is_on: bool) {
        self.operations += 1;
        if is_on {
            self.parked.insert(message_group);
        } else {
            self.parked.remove(&message_group);
        }
    }

    /// Purged messages count as acknowledged: nobody can get them any more.
    pub(crate) fn purge(&mut self, queue: QueueIndex, below: QueueOffset) {
        if *self == Self::default() {
            // It was only looked at: the log knows nothing of this pair.
            return;
        }
        self.operations += 1;
        let floor = self.floor(queue);
        if below > floor {
            self.settle(&[AckRange { queue, first: floor, count: below.0 - floor.0 }], &[]);
        }
    }

    /// As [`Progress::purge`], by retention: what nobody waits for disturbs nobody. Gives how many had not been read.
    pub(crate) fn expire(&mut self, queue: QueueIndex, below: QueueOffset) -> u64 {
        let unread = self.unread_below(queue, below);
        if unread == 0 {
            return 0;
        }
        self.expired += unread;
        self.purge(queue, below);
        unread
    }

    /// Drops what is kept for the offsets of a range, walking the shorter of the two.
    fn forget(&mut self, range: &AckRange) {
        let end = range.first.0.saturating_add(range.count);
        self.attempts.remove_range(range.queue, range.first.0, end, self.covers);
        if range.count <= self.leased.len() as u64 {
            for offset in range.first.0..end {
                self.unlease((range.queue, QueueOffset(offset)));
            }
        } else if !self.leased.is_empty() {
            let is_in = |(queue, offset): &Slot| *queue == range.queue && (range.first.0..end).contains(&offset.0);
            let leased: Vec<Slot> = self.leased.keys().filter(|slot| is_in(slot)).copied().collect();
            leased.into_iter().for_each(|slot| self.unlease(slot));
        }
    }

    fn unlease(&mut self, slot: Slot) {
        let Some(batch) = self.leased.remove(&slot) else { return };
        let lease = self.leases.get_mut(&batch).expect("P2: a leased offset names a lease");
        lease.entries.retain(|entry| (entry.queue, entry.offset) != slot);
        if lease.entries.is_empty() {
            self.leases.remove(&batch);
        }
    }
}

/// Progress as it is shared between the writer and the subscription.
pub type Shared = Arc<Mutex<Progress>>;

#[cfg(test)]
mod tests {
    use super::*;

    const Q: QueueIndex = QueueIndex(0);

    fn ack(first: u64, count: u64) -> AckRange {
        AckRange { queue: Q, first: QueueOffset(first), count }
    }

    #[test]
    fn an_acknowledged_message_keeps_neither_attempts_nor_lease() {
        let mut progress = Progress::default();
        let entries = [0, 1].map(|offset| LeaseEntry { queue: Q, offset: QueueOffset(offset), attempt: 1 });
        progress.lease(7, &"client".into(), None, &entries);
        let retry = RetryEntry { queue: Q, offset: QueueOffset(0), attempts: 1, next_visible: Timestamp(5) };
        progress.settle(&[ack(1, 1)], &[retry]);
        assert_eq!(progress.leases().count(), 0);
        assert_eq!(progress.retries().count(), 1);
        progress.settle(&[ack(0, 1)], &[]);
        assert_eq!((progress.floor(Q), progress.retries().count()), (QueueOffset(2), 0));
        progress.settle(&[], &[retry]);
        assert_eq!(progress.retries().count(), 0, "P1: a retry of what was acknowledged means nothing");
    }

    #[test]
    fn a_later_lease_takes_an_offset_from_an_earlier_one() {
        let mut progress = Progress::default();
        let entry = LeaseEntry { queue: Q, offset: QueueOffset(0), attempt: 1 };
        progress.lease(1, &"a".into(), None, &[entry]);
        progress.lease(2, &"b".into(), None, &[LeaseEntry { attempt: 2, ..entry }]);
        assert_eq!(progress.leases().map(|(batch, _)| batch).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_seek_ends_leases_and_attempts_and_begins_a_generation_of_its_own() {
        let mut progress = Progress::default();
        progress.lease(1, &"a".into(), None, &[LeaseEntry { queue: Q, offset: QueueOffset(5), attempt: 1 }]);
        let retry = RetryEntry { queue: Q, offset: QueueOffset(6), attempts: 1, next_visible: Timestamp(5) };
        progress.settle(&[ack(0, 5)], &[retry]);
        progress.seek(Q, QueueOffset(2), 1);
        assert_eq!((progress.floor(Q), progress.leases().count(), progress.retries().count()), (QueueOffset(2), 0, 0));
        progress.seek(Q, QueueOffset(3), 1);
        assert_eq!((progress.generation(Q), progress.operations()), (2, 2), "P3");
    }

    #[test]
    fn a_purge_means_nothing_to_a_pair_that_was_only_looked_at() {
        let mut progress = Progress::default();
        progress.purge(Q, QueueOffset(7));
        assert_eq!(progress, Progress::default());
    }

    #[test]
    fn only_the_first_contact_says_where_a_group_starts() {
        let mut progress = Progress::default();
        let filter = FilterSpec { is_sql: false, expression: "*".into() };
        progress.subscribe(&[(Q, QueueOffset(9))], &filter);
        progress.subscribe(&[(Q, QueueOffset(50))], &filter);
        assert_eq!(progress.floor(Q), QueueOffset(9));
        assert_eq!(progress.lag(Q, QueueOffset(12)), 3);
    }
}
