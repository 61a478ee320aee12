//! Polls and hand-outs: who waits, what a poll gets, and what it gets again.
//!
//! U1. A message is with at most one client at a time, and an ordered lane has at most one open batch (F1).
//! U2. An ordered batch leaves only when its lease is committed.

use base::duration::ms;
use base::limits::*;
use storage::record::{DeadLetterReason, LeaseEntry};

use super::core::{Batch, Core, Item, Order, State};
use super::gather::Leasing;
use super::lanes::LaneKey;
use super::*;

impl Core {
    pub(super) fn poll(&mut self, id: PollId, poll: Poll) {
        if self.polls.len() >= PARKED_POLLS_MAX {
            let refusal = Refusal::Overloaded { limit: "polls parked at one subscription" };
            self.effects.push(Effect::Refuse { poll: id, refusal });
            return;
        }
        if !self.repeat(id, &poll) {
            self.poll_ends.insert((poll.until, id));
            self.polls.insert(id, poll);
        }
    }

    pub(super) fn cancel_poll(&mut self, id: PollId) {
        if let Some(poll) = self.polls.remove(&id) {
            self.poll_ends.remove(&(poll.until, id));
            return;
        }
        for (_, batch) in self.leasing(|leasing| leasing.poll == id) {
            self.do_not_deliver(batch);
        }
    }

    /// The client has gone: its polls are answered as if their time were over.
    pub(super) fn end_polls_of(&mut self, client: &str) {
        let is_its = |(id, poll): (&PollId, &Poll)| (&*poll.client == client).then(|| (*id, poll.clone()));
        let parked: Vec<_> = self.polls.iter().filter_map(is_its).collect();
        for (id, poll) in parked {
            self.end_poll(id, &poll);
            self.effects.push(Effect::Empty { poll: id });
        }
        for (poll, batch) in self.leasing(|leasing| &*leasing.client == client) {
            if self.do_not_deliver(batch) {
                self.effects.push(Effect::Empty { poll });
            }
        }
    }

    /// Batches whose leases are on the way to the log, and their polls.
    fn leasing(&self, is_meant: impl Fn(&Leasing) -> bool) -> Vec<(PollId, u64)> {
        let leasing = self.gather.leases.iter().chain(self.under_way.iter().flat_map(|(_, gather)| &gather.leases));
        leasing.filter(|leasing| is_meant(leasing)).map(|leasing| (leasing.poll, leasing.batch)).collect()
    }

    /// When its lease is in the log it goes nowhere from there. False when that was so already.
    fn do_not_deliver(&mut self, batch: u64) -> bool {
        let batch = self.batches.get_mut(&batch).filter(|batch| !batch.is_unwanted);
        batch.map(|batch| batch.is_unwanted = true).is_some()
    }

    pub(super) fn end_polls(&mut self, now: Now) {
        while let Some(&(at, id)) = self.poll_ends.first() {
            if at > now.tick {
                break;
            }
            self.poll_ends.pop_first();
            self.polls.remove(&id);
            self.effects.push(Effect::Empty { poll: id });
        }
    }

    /// Gives ready messages to parked polls, oldest first.
    pub(super) fn serve(&mut self, now: Now) {
        self.refill_at = None;
        while let Some((&id, poll)) = self.polls.first_key_value() {
            if self.in_flight() >= self.settings.in_flight_max {
                return;
            }
            let poll = poll.clone();
            let slots = match &self.order {
                Order::Standard(_) => self.choose_standard(&poll, now),
                Order::Lanes(_) => self.choose_ordered(&poll, now),
            };
            if slots.is_empty() {
                // What is not ready for the first is not for those behind it.
                return;
            }
            self.end_poll(id, &poll);
            self.hand_out(id, &poll, slots, now);
        }
    }

    fn end_poll(&mut self, id: PollId, poll: &Poll) {
        self.polls.remove(&id);
        self.poll_ends.remove(&(poll.until, id));
    }

    /// The same attempt again gets the open rest of its batch again (F9, D20): the reply was lost.
    fn repeat(&mut self, id: PollId, poll: &Poll) -> bool {
        let Some(attempt) = &poll.attempt_id else { return false };
        let Some(&number) = self.by_attempt.get(&(poll.client.clone(), attempt.clone())) else { return false };
        let Some(batch) = self.batches.get(&number).filter(|batch| batch.is_out && !batch.is_unwanted) else {
            return false;
        };
        let messages: Vec<Handout> = batch.slots.iter().filter_map(|slot| self.handout(*slot, number)).collect();
        if messages.is_empty() {
            return false;
        }
        self.batches.get_mut(&number).expect("just seen").copies += 1;
        self.send(id, number, messages);
        true
    }

    fn handout(&self, slot: Slot, batch: u64) -> Option<Handout> {
        let item = self.items.get(&slot)?;
        if item.batch != batch || item.state != State::Leased || item.is_settling {
            return None;
        }
        let receipt = handle::Receipt {
            group: self.pair.group,
            topic: self.pair.topic,
            queue: slot.0,
            offset: slot.1,
            attempt: item.attempts,
            batch,
            generation: self.generations[usize::from(slot.0.0)],
        };
        Some(Handout { entry: item.entry, receipt })
    }

    /// How many more may be out.
    fn room(&self) -> usize {
        self.settings.in_flight_max.saturating_sub(self.in_flight())
    }

    fn choose_standard(&mut self, poll: &Poll, now: Now) -> Vec<Slot> {
        let mut chosen = Vec::new();
        let mut bytes = 0;
        let messages_max = poll.messages_max.min(self.room());
        while chosen.len() < messages_max {
            let Order::Standard(ready) = &mut self.order else { break };
            let Some(slot) = ready.pop_front() else { if self.read_on(now) { continue } else { break } };
            let is_ready = |item: &&Item| item.state == State::Ready && !item.is_settling;
            let Some(item) = self.items.get(&slot).filter(is_ready).filter(|_| !chosen.contains(&slot)) else {
                // Settled with an old handle in the meantime, or listed again after a settle that was refused.
                continue;
            };
            let (group_hash, length) = (item.entry.group_hash, item.entry.pointer().length as usize);
            if self.is_parked(group_hash) {
                self.die(slot, DeadLetterReason::Operator);
                continue;
            }
            bytes += length;
            let is_full = bytes > poll.bytes_max && !chosen.is_empty();
            if is_full || self.ahead.is_under_way(slot) {
                let Order::Standard(ready) = &mut self.order else { break };
                ready.push_front(slot);
                break;
            }
            chosen.push(slot);
        }
        chosen
    }

    fn choose_ordered(&mut self, poll: &Poll, now: Now) -> Vec<Slot> {
        let messages_max = poll.messages_max.min(poll.language.ordered_batch_max()).min(self.room());
        let of_one_max = poll.language.messages_of_one_group_max();
        let mut chosen = Vec::new();
        let mut bytes = 0;
        let (mut put_off, mut unread) = (Vec::new(), Vec::new());
        while chosen.len() < messages_max {
            let Order::Lanes(lanes) = &mut self.order else { break };
            let Some(key) = lanes.next() else { if self.read_on(now) { continue } else { break } };
            if !self.refill(key, now) {
                unread.push(key);
            }
            if self.divert(key) {
                continue;
            }
            let before = chosen.len();
            while chosen.len() < messages_max && chosen.len() - before < of_one_max {
                let Some(slot) = self.next_of_lane(key, chosen.len() > before) else { break };
                let length = self.items[&slot].entry.pointer().length as usize;
                if bytes + length > poll.bytes_max && !chosen.is_empty() {
                    put_off.push(key);
                    break;
                }
                bytes += length;
                let Order::Lanes(lanes) = &mut self.order else { break };
                let taken = lanes.take(key);
                debug_assert_eq!(taken, slot);
                chosen.push(slot);
            }
            if let Order::Lanes(lanes) = &mut self.order {
                lanes.forget_if_idle(key);
            }
            if bytes >= poll.bytes_max || !put_off.is_empty() {
                break;
            }
        }
        if let Order::Lanes(lanes) = &mut self.order {
            put_off.into_iter().chain(unread).for_each(|key| lanes.list(key));
        }
        chosen
    }

    /// The message that a lane may hand out next. `is_open`: into the batch that is being filled.
    pub(super) fn next_of_lane(&self, key: LaneKey, is_open: bool) -> Option<Slot> {
        let Order::Lanes(lanes) = &self.order else { return None };
        let slot = if is_open { lanes.following(key) } else { lanes.front(key) }?;
        // Restored from a lease and returned: what comes before it in its lane has not been read yet (K2).
        if slot.1 >= self.cursors[usize::from(slot.0.0)] {
            return None;
        }
        let item = self.items.get(&slot)?;
        (item.state == State::Ready && !item.is_settling && !self.ahead.is_under_way(slot)).then_some(slot)
    }

    fn hand_out(&mut self, id: PollId, poll: &Poll, slots: Vec<Slot>, now: Now) {
        let number = self.next_batch;
        self.next_batch += 1;
        self.leased += slots.len();
        self.handed_out(slots.len());
        let mut entries = Vec::with_capacity(slots.len());
        for slot in &slots {
            let item = self.items.get_mut(slot).expect("chosen messages are there");
            item.state = State::Leased;
            item.batch = number;
            item.attempts += 1;
            entries.push(LeaseEntry { queue: slot.0, offset: slot.1, attempt: item.attempts });
        }
        let lease_ms = poll.invisible.map_or(RENEWED_LEASE_MS, ms);
        let is_ordered = self.settings.is_ordered;
        let renewed_until = match poll.invisible {
            Some(_) => None,
            None if is_ordered => Some(u64::MAX),
            None => Some(now.tick + RENEWED_LEASE_MS_MAX),
        };
        let batch = Batch {
            client: poll.client.clone(),
            attempt_id: poll.attempt_id.clone(),
            slots,
            expires: now.tick + lease_ms,
            renewed_until,
            renewals: 0,
            is_out: !is_ordered,
            is_unwanted: false,
            copies: 1,
        };
        self.expiry.insert((batch.expires, number));
        if let Some(attempt) = &poll.attempt_id {
            self.by_attempt.insert((poll.client.clone(), attempt.clone()), number);
        }
        let until = poll.invisible.map(|_| now.wall.plus_ms(lease_ms));
        self.batches.insert(number, batch);
        if is_ordered {
            self.gather.leases.push(Leasing { batch: number, poll: id, client: poll.client.clone(), until, entries });
        } else {
            self.deliver(id, number);
        }
    }

    pub(super) fn deliver(&mut self, poll: PollId, number: u64) {
        let slots = self.batches[&number].slots.clone();
        let messages = slots.into_iter().filter_map(|slot| self.handout(slot, number)).collect();
        self.send(poll, number, messages);
    }

    fn send(&mut self, poll: PollId, batch: u64, messages: Vec<Handout>) {
        let slots: Vec<Slot> = messages.iter().map(|message| (message.receipt.queue, message.receipt.offset)).collect();
        let (bodies, urgency) = self.bodies_of(&slots);
        self.effects.push(Effect::Deliver { poll, batch, messages, bodies, urgency });
    }
}
