//! What operators do, and what follows from it: judged by what was answered, not by what the views say.
//!
//! O1. After a seek the group receives from exactly there again: acks of before are void from there on, and everything
//!     below counts as done.
//! O2. What was purged is delivered to nobody.
//! O3. While a key is parked none of its messages is handed out; they become dead letters, in order.
//! O4. A dead letter is redriven once: into the retry queue, and settled where it was, or neither.
//! O5. A schedule is what was answered last.

use std::collections::{BTreeMap, HashMap};

use base::{QueueIndex, QueueOffset, TopicId};
use broker::subscription::Slot;
use storage::record::DeadLetterReason;
use storage::store::Reader;

use super::{Id, Oracle, must};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Seek {
        pair: usize,
        queue: QueueIndex,
        to: QueueOffset,
        generation: u32,
    },
    Purge {
        topic: TopicId,
        queue: QueueIndex,
        below: QueueOffset,
    },
    Park {
        pair: usize,
        message_group: u64,
        is_on: bool,
    },
    /// `letter`: where it lies in `letters`, the dead-letter topic. `pair`: who gets it again.
    Redrive {
        pair: usize,
        letters: TopicId,
        letter: Slot,
    },
    Schedule {
        name: String,
        content: Option<Vec<u8>>,
    },
}

/// A key that is parked.
#[derive(Debug, Clone, Copy)]
pub struct Parked {
    /// Batches from this one on were put together after it.
    from_batch: u64,
    last: Option<Slot>,
}

/// What was asked for, and what became of it.
#[derive(Debug, Default)]
pub struct Operations {
    /// Without an answer, in the order of the log.
    asked: Vec<Operation>,
    pub purged: BTreeMap<(TopicId, QueueIndex), QueueOffset>,
    /// Dead letters, and the pair that gets each again.
    redriven: HashMap<(TopicId, Slot), usize>,
    schedules: BTreeMap<String, Vec<u8>>,
}

impl Oracle {
    pub fn asked(&mut self, operation: Operation) {
        self.operations.asked.push(operation);
    }

    /// Whether this dead letter was redriven, or may have been.
    pub fn is_redriven(&self, letters: TopicId, letter: Slot) -> bool {
        let is_asked = self.operations.asked.iter().any(|operation| {
            matches!(operation, Operation::Redrive { letters: of, letter: at, .. } if (*of, *at) == (letters, letter))
        });
        is_asked || self.operations.redriven.contains_key(&(letters, letter))
    }

    /// It was refused, and nothing of it is in the log.
    pub fn not_operated(&mut self, operation: &Operation) {
        let asked = &mut self.operations.asked;
        asked.remove(asked.iter().position(|asked| asked == operation).expect("answers are to what was asked"));
    }

    /// It is committed. `next_batch`: batches of the pair that are put together from now on have at least this number.
    pub fn operated(&mut self, operation: &Operation, next_batch: u64) {
        self.not_operated(operation);
        self.happened(operation, next_batch);
    }

    fn happened(&mut self, operation: &Operation, next_batch: u64) {
        match operation {
            Operation::Seek { pair, queue, to, .. } => self.sought(*pair, *queue, *to, next_batch),
            Operation::Purge { topic, queue, below } => self.purged(*topic, *queue, *below),
            Operation::Park { pair, message_group, is_on: true } => {
                let parked = Parked { from_batch: next_batch, last: None };
                self.pairs[*pair].parked.entry(*message_group).or_insert(parked);
            }
            Operation::Park { pair, message_group, is_on: false } => {
                self.pairs[*pair].parked.remove(message_group);
            }
            Operation::Redrive { pair, letters, letter } => {
                self.operations.redriven.insert((*letters, *letter), *pair);
            }
            Operation::Schedule { name, content: Some(content) } => {
                self.operations.schedules.insert(name.clone(), content.clone());
            }
            Operation::Schedule { name, content: None } => drop(self.operations.schedules.remove(name)),
        }
    }

    fn sought(&mut self, index: usize, queue: QueueIndex, to: QueueOffset, next_batch: u64) {
        let pair = &mut self.pairs[index];
        let purged = self.operations.purged.get(&(pair.topic, queue)).copied().unwrap_or_default();
        let to = to.max(purged);
        let is_void = |slot: &Slot| slot.0 == queue && slot.1 >= to;
        for set in [&mut pair.acked, &mut pair.acked_maybe, &mut pair.dead, &mut pair.dead_maybe, &mut pair.forwarded] {
            set.retain(|slot| !is_void(slot));
        }
        pair.holds.retain(|(of, _), _| *of != queue);
        pair.attempts.forget(queue);
        pair.forget_waits(queue);
        for parked in pair.parked.values_mut() {
            // Its dead letters may die again.
            parked.last = parked.last.filter(|last| last.0 != queue);
        }
        pair.starts.insert(queue, to);
        pair.void_below.insert(queue, next_batch);
    }

    fn purged(&mut self, topic: TopicId, queue: QueueIndex, below: QueueOffset) {
        let purged = self.operations.purged.entry((topic, queue)).or_default();
        *purged = below.max(*purged);
        let purged = *purged;
        for pair in self.pairs.iter_mut().filter(|pair| pair.topic == topic) {
            pair.holds.retain(|slot, _| slot.0 != queue || slot.1 >= purged);
        }
    }

    /// Whether the message is done with for this pair, without anybody having settled it.
    pub fn is_passed(&self, index: usize, (queue, offset): Slot) -> bool {
        let pair = &self.pairs[index];
        let start = pair.starts.get(&queue).copied().unwrap_or_default();
        let purged = self.operations.purged.get(&(pair.topic, queue)).copied().unwrap_or_default();
        offset < start.max(purged)
    }

    /// Whether the message was on its way already when an operator's record was applied: nobody can call it back, and
    /// what its client makes of it has no effect.
    pub fn is_overtaken(&self, index: usize, slot: Slot, batch: u64) -> bool {
        let pair = &self.pairs[index];
        batch < pair.on_its_way && (self.is_passed(index, slot) || pair.is_void(slot.0, batch))
    }

    /// O1, O2, O3, for one message of a batch that is new.
    pub(super) fn check_operated(&self, index: usize, id: Id, slot: Slot, batch: u64) {
        let pair = &self.pairs[index];
        must!(
            !self.is_passed(index, slot),
            "O1, O2: message {id} ({slot:?}) went to pair {index} from below: {pair:?}"
        );
        if let Some(void) = pair.void_below.get(&slot.0) {
            must!(batch >= *void, "O1: batch {batch} with message {id} was void since a seek, from {void} on");
        }
        if let Some(parked) = pair.parked.get(&self.messages[&id].group_hash) {
            must!(
                batch < parked.from_batch,
                "O3: message {id} ({slot:?}) of a parked key went out in {batch}: {parked:?}"
            );
        }
    }

    /// O3: a message of a parked key died.
    pub(super) fn died(&mut self, index: usize, id: Id, slot: Slot, reason: DeadLetterReason) {
        let Some(parked) = self.pairs[index].parked.get_mut(&self.messages[&id].group_hash) else { return };
        if reason == DeadLetterReason::Operator {
            let last = parked.last.replace(slot);
            must!(
                last.is_none_or(|last| last < slot),
                "O3: message {id} ({slot:?}) of a parked key died after {last:?}"
            );
        }
    }

    /// The views agree with what was answered. Looked at when nothing is under way.
    pub(super) fn check_operations(&self, reader: &Reader) {
        if self.may_lose {
            return;
        }
        let catalog = reader.catalog();
        for ((topic, queue), below) in &self.operations.purged {
            let found = catalog.topic_by_id(*topic).and_then(|topic| topic.queue(*queue)).map(|queue| queue.bounds());
            must!(
                found.is_some_and(|found| found.first == *below),
                "O2: {topic:?} {queue:?}, purged to {below}: {found:?}"
            );
        }
        let mut redriven: HashMap<(TopicId, Id), u64> = HashMap::new();
        for ((letters, letter), pair) in &self.operations.redriven {
            let id = self.message_at(*letters, *letter).expect("what was redriven lies there");
            let pair = &self.pairs[*pair];
            let is_settled = reader.progress(pair.group, *letters).lock().is_acknowledged(*letter);
            must!(is_settled, "O4: dead letter {id} ({letter:?}) was redriven and is not settled");
            *redriven.entry((pair.topic, id)).or_default() += 1;
        }
        for (key, found) in &self.redriven {
            must!(
                redriven.get(key) == Some(found),
                "O4: {key:?} is in its retry queue {found} times, redriven: {redriven:?}"
            );
        }
        must!(self.redriven.len() == redriven.len(), "O4: redriven {redriven:?}, found {:?}", self.redriven);
        for schedule in catalog.schedules().filter(|schedule| schedule.name.starts_with("plan ")) {
            let known = self.operations.schedules.get(&*schedule.name);
            must!(known.is_some_and(|known| **known == *schedule.content), "O5: {schedule:?}, was answered {known:?}");
        }
        for name in self.operations.schedules.keys() {
            must!(catalog.schedules().any(|schedule| *schedule.name == **name), "O5: {name:?} is gone");
        }
    }

    /// A recovery shows what became of what was not answered.
    pub(super) fn know_operations(&mut self, reader: &Reader, next_batches: &[u64]) {
        for operation in std::mem::take(&mut self.operations.asked) {
            let (has_happened, pair) = match &operation {
                Operation::Seek { pair, queue, generation, .. } => {
                    let Self { pairs, .. } = self;
                    let progress = reader.progress(pairs[*pair].group, pairs[*pair].topic);
                    (progress.lock().generation(*queue) == *generation, *pair)
                }
                Operation::Purge { topic, queue, below } => {
                    let catalog = reader.catalog();
                    let queue = catalog.topic_by_id(*topic).and_then(|topic| topic.queue(*queue).cloned());
                    (queue.is_some_and(|queue| queue.bounds().first >= *below), 0)
                }
                Operation::Park { pair, message_group, is_on } => {
                    let progress = reader.progress(self.pairs[*pair].group, self.pairs[*pair].topic);
                    (progress.lock().is_parked(*message_group) == *is_on, *pair)
                }
                Operation::Redrive { pair, letters, letter } => {
                    let progress = reader.progress(self.pairs[*pair].group, *letters);
                    (progress.lock().is_acknowledged(*letter), *pair)
                }
                Operation::Schedule { name, content } => {
                    let catalog = reader.catalog();
                    let found = catalog.schedules().find(|schedule| *schedule.name == **name);
                    (found.map(|schedule| &schedule.content[..]) == content.as_deref(), 0)
                }
            };
            if has_happened {
                self.happened(&operation, next_batches[pair]);
            }
        }
    }
}
