//! What operators do: seek, purge, park, redrive, schedules.

use std::sync::Arc;

use base::{QueueIndex, QueueOffset};
use smallvec::SmallVec;
use storage::record::{AckRange, Fact, Head, ScheduleSpec, Why};
use storage::request::{AppendError, Change, Done, Request};

use super::super::oracle::Operation;
use super::scene::{LANES, PAIRS, RETRIES, TOPICS};
use super::{Owner, World, say};

impl World {
    pub(super) fn operate(&mut self) {
        match self.chance.below(8) {
            0..=1 => self.seek(),
            2 => self.purge(),
            3 => self.park(),
            4..=5 => self.redrive(),
            _ => self.schedule(),
        }
    }

    /// What was asked for is answered.
    pub(super) fn operated(&mut self, operation: &Operation, result: &Result<Done, AppendError>) {
        say!(self, "{operation:?}: {result:?}");
        match result {
            Ok(_) => {
                let next_batch = match operation {
                    Operation::Seek { pair, queue, .. } => self.note_sought(*pair, *queue),
                    Operation::Park { pair, .. } => self.next_batch_of(*pair),
                    Operation::Purge { .. } | Operation::Redrive { .. } | Operation::Schedule { .. } => 0,
                };
                self.oracle.operated(operation, next_batch);
                for index in 0..PAIRS.len() {
                    self.oracle.pairs[index].on_its_way = self.next_batch_of(index);
                }
            }
            Err(AppendError::Failed(_)) => {}
            Err(_) => self.oracle.not_operated(operation),
        }
    }

    fn seek(&mut self) {
        let pair = self.chance.below(PAIRS.len() as u64) as usize;
        let queue = QueueIndex(self.chance.below(TOPICS[PAIRS[pair].3].2.into()) as u16);
        let (group, topic) = (self.oracle.pairs[pair].group, self.oracle.pairs[pair].topic);
        let to = QueueOffset(self.chance.below(self.oracle.length(topic, queue) + 1));
        self.next_generation += 1;
        let generation = self.next_generation;
        let operation = Operation::Seek { pair, queue, to, generation };
        self.ask(operation, Request::one(Change::Fact(Fact::Seek { group, topic, queue, to, generation })));
    }

    fn purge(&mut self) {
        let which = self.chance.below(3) as usize;
        let (topic, queue) = (self.topics[which], QueueIndex(self.chance.below(TOPICS[which].2.into()) as u16));
        // Half of what is there at most, or there would be nothing left to look at.
        let below = QueueOffset(self.chance.below(self.oracle.length(topic, queue) / 2 + 1));
        let operation = Operation::Purge { topic, queue, below };
        self.ask(operation, Request::one(Change::Fact(Fact::Purge { topic, queue, below })));
    }

    fn park(&mut self) {
        let pair = *self.chance.pick(&[1, 3]);
        let lane = *self.chance.pick(&LANES[1..]);
        let message_group = self.run().reader.hash_key().message_group(lane);
        let is_on = self.chance.one_in(2);
        let (group, topic) = (self.oracle.pairs[pair].group, self.oracle.pairs[pair].topic);
        let operation = Operation::Park { pair, message_group, is_on };
        self.ask(operation, Request::one(Change::Fact(Fact::Park { group, topic, message_group, is_on })));
    }

    /// A dead letter goes to its group again: it is published into the retry queue and settled where it was, in one batch.
    fn redrive(&mut self) {
        let (from, pair) = *self.chance.pick(&RETRIES);
        let Some(letters) = self.oracle.pairs[from].letters else { return };
        let queue = QueueIndex(0);
        let found: Vec<_> = (0..self.oracle.length(letters, queue))
            .map(|offset| (queue, QueueOffset(offset)))
            .filter(|letter| !self.oracle.is_redriven(letters, *letter))
            .filter_map(|letter| Some((letter, self.oracle.message_at(letters, letter)?)))
            .collect();
        if found.is_empty() {
            return;
        }
        let (letter, id) = *self.chance.pick(&found);
        let message = &self.oracle.messages[&id];
        let Some(origin) = message.pointer else { return };
        let group = self.oracle.pairs[pair].group;
        let (topic, group_hash) = (self.oracle.pairs[pair].topic, message.group_hash);
        let head = Head { topic, tag_hash: 0, group_hash, priority: 0 };
        let publish = Change::Publish { origin, head, why: Why::Redrive { group } };
        let acks = vec![AckRange { queue, first: letter.1, count: 1 }];
        let settle = Change::Fact(Fact::Settle { group, topic: letters, acks, retries: Vec::new() });
        let changes: SmallVec<[Change; 1]> = [publish, settle].into_iter().collect();
        self.ask(Operation::Redrive { pair, letters, letter }, Request::Changes(changes));
    }

    fn schedule(&mut self) {
        let name = format!("plan {}", self.chance.below(3));
        self.next_generation += 1;
        let content: Arc<[u8]> = self.next_generation.to_le_bytes().into();
        let is_dropped = self.chance.one_in(4);
        let operation = Operation::Schedule { name: name.clone(), content: (!is_dropped).then(|| content.to_vec()) };
        let spec = ScheduleSpec { name: name.into(), is_dropped, content };
        self.ask(operation, Request::one(Change::Fact(Fact::Schedule(spec))));
    }

    pub(super) fn ask(&mut self, operation: Operation, request: Request) {
        say!(self, "an operator asks: {operation:?}");
        self.oracle.asked(operation.clone());
        self.submit(Owner::Operator(operation), request);
    }
}
