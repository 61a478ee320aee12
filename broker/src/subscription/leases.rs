//! Leases: how they end, are renewed, are restored after a restart, and what comes back with them.
//!
//! U1. A message is with at most one client at a time, and an ordered lane has at most one open batch (F1).

use base::limits::*;
use storage::record::RetryEntry;

use super::core::{Batch, Core, Item, Order, State, lane_of};
use super::*;

impl Core {
    /// Batches that were out when the process ended stay out: their clients may still be at work (U2).
    pub(super) fn restore_leases(&mut self, now: Now) {
        if !self.settings.is_ordered {
            return;
        }
        let shared = self.progress.clone();
        let progress = shared.lock();
        for (number, lease) in progress.leases() {
            let mut slots = Vec::new();
            for leased in &lease.entries {
                let slot = (leased.queue, leased.offset);
                let Some(entry) = self.source.entry(slot).filter(|entry| !entry.is_lost()) else { continue };
                let item = Item { batch: number, ..Item::new(entry, leased.attempt, State::Leased) };
                self.items.insert(slot, item);
                slots.push(slot);
                let key = lane_of(slot, &entry);
                let Order::Lanes(lanes) = &mut self.order else { continue };
                lanes.reopen(key);
            }
            self.leased += slots.len();
            let expires = lease.until.map_or(now.tick + CLIENT_ABSENCE_MS, |until| now.tick_at(until));
            let renewed_until = lease.until.is_none().then_some(u64::MAX);
            self.expiry.insert((expires, number));
            let batch = Batch {
                client: lease.client.clone(),
                attempt_id: None,
                slots,
                expires,
                renewed_until,
                renewals: 0,
                is_out: true,
                is_unwanted: false,
                copies: 1,
            };
            self.batches.insert(number, batch);
        }
    }

    pub(super) fn expire(&mut self, now: Now, alive: &dyn Alive) {
        while let Some(&(at, number)) = self.expiry.first() {
            if at > now.tick {
                break;
            }
            self.expiry.pop_first();
            let Some(batch) = self.batches.get_mut(&number) else { continue };
            let is_renewed = batch.renewed_until.is_some_and(|until| now.tick < until) && alive.is_alive(&batch.client);
            // What is on its way to the log is not out yet, so it cannot come back yet.
            if is_renewed || !batch.is_out {
                batch.expires = now.tick + if is_renewed { RENEWED_LEASE_MS } else { 1_000 };
                self.expiry.insert((batch.expires, number));
                batch.renewals += u32::from(is_renewed);
                if is_renewed && self.settings.is_ordered && batch.renewals == RENEWALS_HELD {
                    self.held += batch.slots.len();
                }
                continue;
            }
            self.return_batch(number, Return::Failed);
        }
    }

    /// What it holds comes to others at once. Its polls are over too: what they would be given, nobody would read.
    pub(super) fn client_gone(&mut self, client: &str) {
        self.end_polls_of(client);
        let gone = self.batches.iter().filter(|(_, batch)| &*batch.client == client && batch.is_out);
        let mut numbers: Vec<u64> = gone.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        for number in numbers {
            self.return_batch(number, Return::Failed);
        }
    }

    /// One reply did not arrive. The client may still hold the batch from another one, and then it stays out (U1).
    pub(super) fn unwritten(&mut self, number: u64) {
        let Some(batch) = self.batches.get_mut(&number) else { return };
        batch.copies = batch.copies.saturating_sub(1);
        if batch.copies == 0 {
            self.return_batch(number, Return::Uncounted);
        }
    }

    /// Takes back what of a batch is still out.
    fn return_batch(&mut self, number: u64, how: Return) {
        let Some(batch) = self.batches.get(&number) else { return };
        let slots: Vec<Slot> = batch.slots.clone();
        for slot in slots {
            let Some(item) = self.items.get_mut(&slot) else { continue };
            if item.batch != number || item.state != State::Leased || item.is_settling {
                continue;
            }
            if how == Return::Uncounted {
                item.attempts -= 1;
            }
            let is_durable = self.settings.is_ordered || how == Return::Failed;
            if is_durable {
                item.is_settling = true;
                let (attempts, next_visible) = (item.attempts, Timestamp::ZERO);
                self.gather.retries.push(RetryEntry { queue: slot.0, offset: slot.1, attempts, next_visible });
                self.gather.returned.insert(slot);
            } else {
                self.unlease(slot);
                self.make_ready_first(slot);
            }
        }
        self.forget_batch_if_done(number);
    }

    /// What comes back unseen goes out first.
    pub(super) fn make_ready_first(&mut self, slot: Slot) {
        self.make_ready(slot);
        if let Order::Standard(ready) = &mut self.order
            && ready.back() == Some(&slot)
        {
            ready.rotate_right(1);
        }
    }

    /// The message is no longer out. Opens its lane when it was the last of its batch.
    pub(super) fn unlease(&mut self, slot: Slot) {
        let item = self.items.get_mut(&slot).expect("a leased message is there");
        if item.state != State::Leased {
            return;
        }
        item.state = State::Ready;
        let (number, key) = (item.batch, lane_of(slot, &item.entry));
        self.leased -= 1;
        if let Order::Lanes(lanes) = &mut self.order {
            lanes.close_one(key);
        }
        if let Some(batch) = self.batches.get_mut(&number) {
            batch.slots.retain(|other| *other != slot);
            if self.settings.is_ordered && batch.renewals >= RENEWALS_HELD {
                self.held -= 1;
            }
        }
        self.forget_batch_if_done(number);
    }

    fn forget_batch_if_done(&mut self, number: u64) {
        let is_done = self.batches.get(&number).is_some_and(|batch| batch.slots.is_empty());
        if !is_done {
            return;
        }
        let batch = self.batches.remove(&number).expect("just seen");
        self.expiry.remove(&(batch.expires, number));
        if let Some(attempt) = batch.attempt_id {
            let key = (batch.client, attempt);
            if self.by_attempt.get(&key) == Some(&number) {
                self.by_attempt.remove(&key);
            }
        }
    }
}

/// A batch that was renewed this often is held: its client is at work on something long, and others go on.
const RENEWALS_HELD: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// The lease ended, or its client went away: the attempt counts.
    Failed,
    /// The client never got it.
    Uncounted,
}
