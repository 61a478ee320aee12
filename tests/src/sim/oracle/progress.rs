//! Progress: what is acknowledged was asked to be, and at the end everything is.

use base::{GroupId, QueueOffset, TopicId};
use storage::store::Reader;
use storage::timer::TimerCore;
use storage::view::transactions::Outcome;

use super::{Decision, Fate, Id, Kind, Oracle, Recall, must};

impl Oracle {
    /// What is acknowledged in the log is what was asked to be, and everything that was answered OK is.
    pub fn check_progress(&self, reader: &Reader) {
        for (index, pair) in self.pairs.iter().enumerate() {
            let dead_letters = dead_letters_of(reader, pair.group);
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
                    let Some(id) = id else { continue };
                    let is_allowed = pair.acked.contains(&slot)
                        || pair.acked_maybe.contains(&slot)
                        || pair.may_skip(self.messages[id].tag);
                    let is_dead = self.is_dead(dead_letters, *id);
                    let is_done = progress.is_acknowledged(slot);
                    must!(
                        !is_done || is_allowed || is_dead,
                        "message {id} ({topic:?} {slot:?}, pair {index}) is acknowledged, and nobody did it"
                    );
                    must!(
                        !is_dead || is_done || self.may_lose,
                        "message {id} is a dead letter and not acknowledged (pair {index})"
                    );
                }
            }
        }
    }

    pub(super) fn is_dead(&self, dead_letters: Option<TopicId>, id: Id) -> bool {
        dead_letters.is_some_and(|topic| self.dead_letters.contains(&(topic, id)))
    }

    /// All is quiet and everybody had all the time in the world.
    pub fn check_end(&self, reader: &Reader, timer: &TimerCore) {
        must!(timer.timers().is_empty(), "{} timers never fired", timer.timers().len());
        self.check_progress(reader);
        let dead: Vec<_> = self.pairs.iter().map(|pair| dead_letters_of(reader, pair.group)).collect();
        for (id, message) in &self.messages {
            if message.fate != Fate::Stored || message.recall == Recall::Done {
                continue;
            }
            let is_open = message.kind == Kind::Prepared && message.decision != Decision::Ended(Outcome::Committed);
            must!(is_open == message.slot.is_none(), "message {id} at the end: {message:?}");
            let Some(slot) = message.slot else { continue };
            for (index, pair) in self.pairs.iter().enumerate().filter(|(_, pair)| pair.topic == message.topic) {
                let dead_letters = dead[index];
                let is_acked = pair.acked.contains(&slot) || pair.acked_maybe.contains(&slot);
                let is_done = is_acked || self.is_dead(dead_letters, *id) || pair.may_skip(message.tag);
                must!(is_done, "message {id} ({slot:?}, lane {}) never came to pair {index}", message.lane);
                let is_acknowledged = reader.progress(pair.group, pair.topic).lock().is_acknowledged(slot);
                must!(is_acknowledged, "message {id} ({slot:?}) is not settled for pair {index} at the end");
                if pair.forwarded.contains(&slot) {
                    let is_dead = self.is_dead(dead_letters, *id);
                    must!(
                        is_dead || pair.acked_maybe.contains(&slot),
                        "message {id} was forwarded OK and is no dead letter"
                    );
                }
            }
        }
    }
}

fn dead_letters_of(reader: &Reader, group: GroupId) -> Option<TopicId> {
    let catalog = reader.catalog();
    let name = base::TopicName::dead_letters_of(&catalog.group_by_id(group)?.name);
    catalog.topic(&name).map(|topic| topic.spec.id)
}
