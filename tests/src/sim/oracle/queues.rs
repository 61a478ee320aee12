//! What queues hold: every entry is a message that was sent, byte for byte, in one place.

use base::{QueueIndex, QueueOffset, TopicId};
use broker::subscription::Slot;
use storage::record::Pointer;
use storage::store::Reader;
use storage::view::catalog::TopicKind;
use storage::view::transactions::Outcome;

use super::{Decision, Fate, Id, Kind, Oracle, Recall, body_of, must};

impl Oracle {
    /// Looks at every queue entry that is new since the last look.
    pub fn scan(&mut self, reader: &Reader) {
        let topics: Vec<_> = reader.catalog().topics().cloned().collect();
        for topic in topics {
            let is_paired = self.pairs.iter().any(|pair| pair.topic == topic.spec.id);
            if !is_paired && topic.spec.kind != TopicKind::DeadLetter {
                continue;
            }
            for (number, queue) in topic.queues.iter().enumerate() {
                let index = QueueIndex(u16::try_from(number).expect("few queues"));
                let key = (topic.spec.id, index);
                let bounds = queue.bounds();
                let known = self.queues.get(&key).map_or(0, Vec::len) as u64;
                must!(bounds.next.0 >= known || self.may_lose, "{key:?} had {known} messages and has {}", bounds.next);
                for offset in known..bounds.next.0 {
                    let Some(entry) = queue.entry(QueueOffset(offset)) else {
                        // Purged.
                        self.queues.entry(key).or_default().push(None);
                        continue;
                    };
                    let id = if entry.is_lost() { None } else { self.identify(reader, entry.pointer()) };
                    must!(id.is_some() || self.may_lose, "{key:?} offset {offset} is lost without damage");
                    self.queues.entry(key).or_default().push(id);
                    let Some(id) = id else { continue };
                    match topic.spec.kind {
                        TopicKind::DeadLetter => *self.dead_letters.entry((topic.spec.id, id)).or_default() += 1,
                        TopicKind::Retry => {
                            *self.redriven.entry((topic.spec.id, id)).or_default() += 1;
                            let lane = (topic.spec.id, self.messages[&id].lane);
                            self.lanes.entry(lane).or_default().insert((index, QueueOffset(offset)));
                        }
                        _ => self.visible(id, topic.spec.id, (index, QueueOffset(offset)), entry.pointer()),
                    }
                }
            }
        }
    }

    /// The message whose body lies at `pointer`, byte for byte.
    pub(super) fn identify(&self, reader: &Reader, pointer: Pointer) -> Option<Id> {
        match reader.fetch(pointer) {
            Ok(stored) => {
                let id: Id = stored.envelope.message_id.parse().expect("ids are numbers");
                must!(stored.body == body_of(id), "message {id}: other bytes came back than were sent");
                Some(id)
            }
            Err(error) => {
                must!(self.may_lose, "the body at {pointer:?} cannot be read: {error}");
                None
            }
        }
    }

    pub(super) fn visible(&mut self, id: Id, topic: TopicId, slot: Slot, pointer: Pointer) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        must!(message.topic == topic, "message {id} for {:?} is in {topic:?}", message.topic);
        must!(message.fate != Fate::Nowhere, "message {id} was refused or lost and is visible");
        must!(message.recall != Recall::Done, "message {id} was recalled and is visible at {slot:?}");
        must!(message.pointer.is_none_or(|known| known == pointer), "message {id} lies at {pointer:?}: {message:?}");
        must!(message.slot.is_none_or(|known| known == slot), "message {id} is visible twice: {slot:?}, {message:?}");
        if message.kind == Kind::Prepared {
            let is_right = !matches!(message.decision, Decision::Open | Decision::Ended(Outcome::RolledBack));
            must!(is_right, "prepared message {id} is visible: {message:?}");
        }
        message.slot = Some(slot);
        message.due = None;
        self.lanes.entry((topic, message.lane)).or_default().insert(slot);
    }
}
