//! Progress: what is acknowledged was asked to be, and at the end everything is.

use base::QueueOffset;
use broker::subscription::Slot;
use storage::store::Reader;
use storage::timer::TimerCore;
use storage::view::transactions::Outcome;

use super::{Decision, Fate, Id, Kind, Oracle, Recall, must};

impl Oracle {
    /// What is acknowledged in the log is what was asked to be, and everything that was answered OK is.
    pub fn check_progress(&self, reader: &Reader) {
        for (index, pair) in self.pairs.iter().enumerate() {
            let progress = reader.progress(pair.group, pair.topic);
            let progress = progress.lock();
            for slot in &pair.acked {
                must!(
                    self.may_lose || progress.is_acknowledged(*slot),
                    "the ack of {slot:?} (pair {index}) was answered OK and is gone"
                );
            }
            for ((topic, queue), ids) in self.queues.iter().filter(|((topic, _), _)| *topic == pair.topic) {
                for (offset, id) in ids.iter().enumerate() {
                    let slot = (*queue, QueueOffset(offset as u64));
                    let is_done = progress.is_acknowledged(slot);
                    let is_passed = self.is_passed(index, slot);
                    must!(is_done || !is_passed || self.may_lose, "O1, O2: {topic:?} {slot:?} is not passed over");
                    let Some(id) = id else { continue };
                    must!(
                        !is_done || is_passed || self.is_settled(index, *id, slot),
                        "message {id} ({topic:?} {slot:?}, pair {index}) is acknowledged, and nobody did it"
                    );
                    must!(
                        is_done || !pair.dead.contains(&slot) || self.may_lose,
                        "message {id} is a dead letter and not acknowledged (pair {index})"
                    );
                }
            }
        }
        self.check_dead_letters();
        self.check_operations(reader);
    }

    /// Whether anybody may have settled the message.
    fn is_settled(&self, index: usize, id: Id, slot: Slot) -> bool {
        let pair = &self.pairs[index];
        [&pair.acked, &pair.acked_maybe, &pair.dead, &pair.dead_maybe].into_iter().any(|set| set.contains(&slot))
            || pair.may_skip(self.messages[&id].tag)
    }

    /// All is quiet and everybody had all the time in the world.
    pub fn check_end(&self, reader: &Reader, timer: &TimerCore) {
        must!(timer.timers().is_empty(), "{} timers never fired", timer.timers().len());
        self.check_progress(reader);
        for (id, message) in &self.messages {
            if message.fate != Fate::Stored || message.recall == Recall::Done {
                continue;
            }
            let is_open = message.kind == Kind::Prepared && message.decision != Decision::Ended(Outcome::Committed);
            must!(is_open == message.slot.is_none(), "message {id} at the end: {message:?}");
        }
        for (index, pair) in self.pairs.iter().enumerate() {
            let progress = reader.progress(pair.group, pair.topic);
            let progress = progress.lock();
            for ((_, queue), ids) in self.queues.iter().filter(|((topic, _), _)| *topic == pair.topic) {
                for (offset, id) in ids.iter().enumerate() {
                    let (Some(id), slot) = (*id, (*queue, QueueOffset(offset as u64))) else { continue };
                    let is_done = self.is_passed(index, slot) || self.is_settled(index, id, slot);
                    must!(is_done, "message {id} ({slot:?}) never came to pair {index}");
                    let is_acknowledged = progress.is_acknowledged(slot);
                    must!(is_acknowledged, "message {id} ({slot:?}) is not settled for pair {index} at the end");
                    let is_dead = pair.dead.contains(&slot) || pair.dead_maybe.contains(&slot);
                    let is_forwarded = pair.forwarded.contains(&slot);
                    must!(is_dead || !is_forwarded, "message {id} was forwarded OK and is no dead letter");
                }
            }
        }
    }
}
