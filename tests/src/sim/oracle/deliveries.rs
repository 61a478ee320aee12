//! Deliveries: to one client at a time, in order, wanted, never after the end.

use std::collections::HashSet;
use std::sync::Arc;

use broker::subscription::{Handout, Slot};
use storage::store::Reader;

use super::{Id, Oracle, Until, must};

impl Oracle {
    /// A poll was given messages.
    pub fn deliver(
        &mut self,
        reader: &Reader,
        index: usize,
        client: &Arc<str>,
        batch: u64,
        messages: &[Handout],
        tick: u64,
    ) {
        let progress = reader.progress(self.pairs[index].group, self.pairs[index].topic);
        let progress = progress.lock();
        must!(!messages.is_empty(), "a poll was answered with no messages");
        let mut in_reply: HashSet<Slot> = HashSet::new();
        for handout in messages {
            let slot = (handout.receipt.queue, handout.receipt.offset);
            let attempt = handout.receipt.attempt;
            let topic = self.pairs[index].topic;
            let Some(id) = self.identify(reader, handout.entry.pointer()) else { continue };
            must!(self.message_at(topic, slot) == Some(id), "{slot:?} gave message {id}, the queue says otherwise");
            if self.is_overtaken(index, slot, batch) {
                self.delivered += 1;
                continue;
            }
            let message = &self.messages[&id];
            let pair = &self.pairs[index];
            must!(in_reply.insert(slot), "message {id} is twice in one reply");
            must!(
                !pair.acked.contains(&slot),
                "message {id} ({slot:?}) was delivered after its ack was answered OK, pair {index}"
            );
            must!(!pair.dead.contains(&slot), "message {id} ({slot:?}) was delivered after it became a dead letter");
            must!(pair.is_wanted(message.tag), "message {id} with tag {} is not wanted", message.tag);
            must!(
                (1..=pair.attempts_max).contains(&attempt),
                "U4: attempt {attempt} of {} for {id}",
                pair.attempts_max
            );
            let hold = pair.holds.get(&slot);
            if let Some(hold) = hold.filter(|hold| hold.batch != batch) {
                must!(
                    hold.may_end,
                    "U1: message {id} ({slot:?}, pair {index}) went to {client} in batch {batch} at {tick} while {hold:?}"
                );
            }
            if let Some(hold) = hold.filter(|hold| hold.batch == batch) {
                must!(hold.client == *client, "F9: batch {batch} of {} was repeated for {client}", hold.client);
            }
            let is_new = hold.is_none_or(|hold| hold.batch != batch);
            if is_new {
                self.check_operated(index, id, slot, batch);
            }
            if pair.is_ordered {
                let is_leased = progress.leases().any(|(number, lease)| {
                    number == batch && lease.entries.iter().any(|entry| (entry.queue, entry.offset) == slot)
                });
                must!(is_leased, "U2: message {id} ({slot:?}) left in batch {batch}, whose lease is not committed");
                // What is repeated (F9) was given to the client in order before.
                if is_new {
                    self.check_lane(index, id, slot, batch, &in_reply, &|slot| progress.is_acknowledged(slot));
                }
            }
            self.delivered += 1;
            let pair = &mut self.pairs[index];
            if is_new {
                pair.end_wait(slot, tick);
                pair.attempts.delivered(slot, attempt);
            } else {
                pair.attempts.repeated(slot, attempt);
            }
        }
    }

    pub(super) fn check_lane(
        &self,
        index: usize,
        id: Id,
        slot: Slot,
        batch: u64,
        reply: &HashSet<Slot>,
        is_done: &dyn Fn(Slot) -> bool,
    ) {
        let pair = &self.pairs[index];
        let lane = self.messages[&id].lane;
        for other in &self.lanes[&(pair.topic, lane)] {
            if let Some(hold) = pair.holds.get(other).filter(|hold| hold.batch != batch && !hold.may_end) {
                panic!(
                    "F1: message {id} ({slot:?}) of lane {lane} left in batch {batch} while {other:?} is out: {hold:?}"
                );
            }
            let Some(earlier) = self.message_at(pair.topic, *other) else { continue };
            if *other < slot
                && !reply.contains(other)
                && !is_done(*other)
                && !pair.may_skip(self.messages[&earlier].tag)
            {
                panic!("order: message {id} ({slot:?}) of lane {lane} came before {earlier} ({other:?}), pair {index}");
            }
        }
    }

    /// Notes which leases may have ended by now.
    pub fn pass(&mut self, tick: u64, told_dead: &HashSet<String>) {
        for pair in &mut self.pairs {
            for hold in pair.holds.values_mut() {
                hold.may_end |= match hold.until {
                    Until::Tick { tick: until, .. } => tick >= until,
                    Until::Alive { from, end } => tick >= end || (tick >= from && told_dead.contains(&*hold.client)),
                };
            }
        }
    }
}
