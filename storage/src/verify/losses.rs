//! What damage took, told from what it spared: queues are dense, so a later offset names those before it, and a batch whose
//! header is sound may still have records in it that can be read.
//!
//! E1. An offset counts as lost only when a sound record shows that it was given out, or when what is left of its own
//!     record agrees with something else: its checksum, the stored hash of its message group, or where its queue ended.

use std::collections::BTreeMap;
use std::ops::Range;

use base::{BatchIndex, LogPosition, QueueIndex, TopicId};

use super::check_body;
use crate::hash::HashKey;
use crate::log::batch;
use crate::log::segment;
use crate::log::walk::{self, Flaw};
use crate::message;
use crate::record::{self, Fact, Framed, Head, Record};

/// A damaged range of the log, and who is hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    pub range: Range<LogPosition>,
    pub flaw: Flaw,
    /// How many batches lay there; none where nothing follows that is numbered.
    pub batches: Option<u64>,
    pub losses: Vec<Loss>,
}

/// Neighbouring messages of a queue that are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub topic: TopicId,
    pub queue: QueueIndex,
    pub offsets: Range<u64>,
    /// Their message groups, as far as what is left of them says so and the stored hash agrees.
    pub message_groups: Vec<String>,
    /// Several ranges are damaged where these were: they may have been in another one.
    pub is_elsewhere_possible: bool,
}

/// Gathers, in the order of the log.
#[derive(Debug, Default)]
pub struct Losses {
    pub holes: Vec<Hole>,
    /// Offsets that are missing although no bytes are.
    pub unexplained: Vec<Loss>,
    names: BTreeMap<TopicId, String>,
    queues: BTreeMap<(TopicId, QueueIndex), Seen>,
    /// What is left of unsound batches: whose message was of which message group.
    groups: BTreeMap<(TopicId, QueueIndex, u64), String>,
    hash_key: Option<HashKey>,
    /// The log was never cut at its front: offsets begin at 0.
    is_whole: bool,
    next_index: BatchIndex,
    holes_counted: usize,
}

/// A queue, as far as sound records tell.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    next: u64,
    /// Of the last record that is in the queue.
    position: LogPosition,
    /// One more than the highest offset that anything is said about.
    named: u64,
}

impl Losses {
    /// What a topic was called last.
    pub fn topic(&self, id: TopicId) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| format!("topic number {id}"))
    }

    pub(super) fn enter(&mut self, segment: &segment::Header) {
        self.is_whole |= segment.base == LogPosition(0);
    }

    pub(super) fn batch(&mut self, header: &batch::Header) {
        let missing = header.index.0.saturating_sub(self.next_index.0);
        // What is missing lies in the holes since the last batch; which of several, nobody can tell.
        if let [hole] = &mut self.holes[self.holes_counted..] {
            hole.batches = Some(missing);
        }
        self.holes_counted = self.holes.len();
        self.next_index = BatchIndex(header.index.0 + 1);
    }

    pub(super) fn record(&mut self, position: LogPosition, record: &Record) {
        match record {
            Record::Message { head, queue, offset } | Record::Publish { head, queue, offset, .. } => {
                self.entry(head.topic, *queue, offset.0, position);
            }
            Record::Fact(Fact::Settle { topic, acks, retries, .. }) => {
                acks.iter().for_each(|range| self.name(*topic, range.queue, range.first.0.saturating_add(range.count)));
                retries.iter().for_each(|retry| self.name(*topic, retry.queue, retry.offset.0.saturating_add(1)));
            }
            Record::Fact(Fact::Lease { topic, entries, .. }) => {
                entries.iter().for_each(|entry| self.name(*topic, entry.queue, entry.offset.0.saturating_add(1)));
            }
            Record::Topic(spec) => drop(self.names.insert(spec.id, spec.name.as_str().to_owned())),
            Record::Members { hash_key, .. } => self.hash_key = Some(*hash_key),
            _ => {}
        }
    }

    pub(super) fn hole(&mut self, hole: walk::Hole<'_>) {
        if let Some(unsound) = &hole.unsound {
            // What ends the reading is no news: the batch is known to be damaged.
            let _is_damaged = record::each(unsound, &mut |_, framed| self.read_unsound(framed));
        }
        self.holes.push(Hole { range: hole.range, flaw: hole.flaw, batches: None, losses: Vec::new() });
    }

    /// The log ends at `end`.
    pub(super) fn finish(&mut self, end: LogPosition) {
        for ((topic, queue), seen) in self.queues.clone() {
            if seen.named > seen.next {
                self.lose(topic, queue, seen.next..seen.named, seen.position..end);
            }
        }
    }

    fn entry(&mut self, topic: TopicId, queue: QueueIndex, offset: u64, position: LogPosition) {
        let first = Seen { next: if self.is_whole { 0 } else { offset }, ..Seen::default() };
        let seen = *self.queues.entry((topic, queue)).or_insert(first);
        if offset > seen.next {
            self.lose(topic, queue, seen.next..offset, seen.position..position);
        }
        let next = Seen { next: seen.next.max(offset.saturating_add(1)), position, ..seen };
        self.queues.insert((topic, queue), next);
    }

    fn name(&mut self, topic: TopicId, queue: QueueIndex, end: u64) {
        // Of a log that was cut at its front, nobody knows where a queue began before its first entry is met.
        if self.is_whole {
            self.queues.entry((topic, queue)).or_default();
        }
        if let Some(seen) = self.queues.get_mut(&(topic, queue)) {
            seen.named = seen.named.max(end);
        }
    }

    fn lose(&mut self, topic: TopicId, queue: QueueIndex, offsets: Range<u64>, between: Range<LogPosition>) {
        let named = self.groups.range((topic, queue, offsets.start)..(topic, queue, offsets.end));
        let mut message_groups: Vec<String> = named.map(|(_, group)| group.clone()).collect();
        message_groups.sort_unstable();
        message_groups.dedup();
        let is_between = |hole: &Hole| hole.range.start >= between.start && hole.range.end <= between.end;
        let count = self.holes.iter().filter(|hole| is_between(hole)).count();
        let loss = Loss { topic, queue, offsets, message_groups, is_elsewhere_possible: count > 1 };
        for hole in self.holes.iter_mut().filter(|hole| is_between(hole)) {
            hole.losses.push(loss.clone());
        }
        if count == 0 {
            self.unexplained.push(loss);
        }
    }

    /// Damage is seldom everywhere in a batch.
    fn read_unsound(&mut self, framed: &Framed<'_>) {
        let Record::Message { head, queue, offset } = &framed.record else { return };
        let (topic, queue) = (head.topic, *queue);
        let body = check_body(framed);
        let is_sound = body.is_ok();
        let group = match body {
            Ok(message) => message.envelope.message_group,
            Err(_) => message::unchecked_envelope(framed.body).and_then(|envelope| envelope.message_group),
        };
        let group = group.filter(|group| self.is_hash_of(head, group));
        let is_next = self.queues.get(&(topic, queue)).is_some_and(|seen| seen.next.max(seen.named) == offset.0);
        if is_sound || group.is_some() || is_next {
            self.name(topic, queue, offset.0.saturating_add(1));
        }
        if let Some(group) = group {
            self.groups.insert((topic, queue, offset.0), group);
        }
    }

    fn is_hash_of(&self, head: &Head, group: &str) -> bool {
        self.hash_key.is_some_and(|key| key.message_group(group) == head.group_hash)
    }
}
