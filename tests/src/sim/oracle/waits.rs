//! When a message that was given back may be delivered again: not before the delay its client asked for is over.

use base::{QueueIndex, QueueOffset, Timestamp};
use broker::subscription::{Now, Slot};

use super::{Oracle, Pair, must};

/// Not to be delivered before.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    tick: u64,
    /// What the log says: counts after a restart. None: the wall clock was set between the question and the answer, and
    /// nobody knows on which side of that the record was made.
    wall: Option<Timestamp>,
    /// It follows from `wall`, so it means nothing once the wall clock was set.
    is_restored: bool,
}

impl Pair {
    /// A return was answered OK. Not certain: the handle was old, or the lease over, so it may have had no effect.
    pub fn put_off(&mut self, slot: Slot, asked: Now, after_ms: u64, wall_set_at: u64, is_certain: bool) {
        let wall = (asked.tick > wall_set_at).then(|| asked.wall.plus_ms(after_ms));
        let wait = Wait { tick: asked.tick + after_ms, wall, is_restored: false };
        if is_certain {
            self.waits.insert(slot, wait);
        } else if let Some(known) = self.waits.get_mut(&slot) {
            // Either may hold, by both clocks: the wall clock may have been set between the two.
            known.tick = known.tick.min(wait.tick);
            known.wall = known.wall.zip(wait.wall).map(|(known, wait)| known.min(wait));
        }
    }

    /// It is delivered.
    pub(super) fn end_wait(&mut self, slot: Slot, tick: u64) {
        if let Some(wait) = self.waits.remove(&slot) {
            must!(tick >= wait.tick, "{slot:?} is delivered at {tick}, it was put off: {wait:?}");
        }
    }

    /// Nobody knows whether it was given back otherwise.
    pub fn forget_wait(&mut self, slot: Slot) {
        self.waits.remove(&slot);
    }

    pub(super) fn forget_waits(&mut self, queue: QueueIndex) {
        self.waits.retain(|(of, _), _| *of != queue);
    }

    pub(super) fn restore_waits(&mut self, now: Now) {
        // What was visible by this clock may have been put into a batch that nobody was given, and come back from that.
        self.waits.retain(|_, wait| wait.wall.is_some() && wait.tick > now.tick);
        for wait in self.waits.values_mut() {
            let tick = wait.wall.map_or(0, |wall| now.tick_at(wall));
            *wait = Wait { tick, is_restored: true, ..*wait };
        }
    }
}

impl Oracle {
    /// Whether a message that was given back after `attempt` came again, or has a reason not to.
    pub fn is_back(&self, index: usize, slot: Slot, attempt: u32) -> bool {
        let pair = &self.pairs[index];
        let is_done = |slot: &Slot| {
            let sets = [&pair.acked, &pair.acked_maybe, &pair.dead, &pair.dead_maybe];
            self.is_passed(index, *slot) || sets.into_iter().any(|set| set.contains(slot))
        };
        if is_done(&slot) || pair.attempts.used(slot).max > attempt {
            return true;
        }
        let Some(id) = self.message_at(pair.topic, slot) else { return true };
        if pair.may_skip(self.messages[&id].tag) {
            return true;
        }
        // It comes in its turn: messages without a message group are a chain of their queue (F11).
        let key = self.messages[&id].group_hash;
        let queue = self.queues[&(pair.topic, slot.0)].iter().enumerate();
        let chain = queue.filter(|(_, id)| id.is_some_and(|id| self.messages[&id].group_hash == key));
        let mut others = chain.map(|(offset, _)| (slot.0, QueueOffset(offset as u64))).filter(|other| *other != slot);
        let is_behind = |other: &Slot| *other < slot && !is_done(other);
        let is_out = |other: &Slot| pair.holds.get(other).is_some_and(|hold| !hold.may_end);
        pair.is_ordered && others.any(|other| is_behind(&other) || is_out(&other))
    }

    /// The wall clock was set.
    pub fn wall_set(&mut self, tick: u64) {
        self.wall_set_at = tick;
        for pair in &mut self.pairs {
            pair.waits.retain(|_, wait| !wait.is_restored);
        }
    }
}
