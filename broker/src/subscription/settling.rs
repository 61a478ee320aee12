//! Settling: what clients want done with a delivery, and what becomes of it once the log has it, or refused it.
//!
//! U3. A settle is answered only when it is committed.
//! U4. Attempts never exceed the group's maximum; then the message becomes a dead letter, once.

use base::duration::ms;
use base::limits::*;
use storage::record::{DeadLetterReason, RetryEntry};

use super::core::{Core, Item, Order, State, lane_of};
use super::gather::{Dying, Gather, Leasing};
use super::*;

impl Core {
    pub(super) fn settle(&mut self, id: SettleId, settle: Settle, now: Now) {
        let receipt = settle.receipt;
        let slot = (receipt.queue, receipt.offset);
        let is_over = {
            let progress = self.progress.lock();
            // Settled before: repeating it is fine (D11, D12). Sought since: it settles nothing, and nobody minds.
            progress.is_acknowledged(slot) || progress.generation(receipt.queue) != receipt.generation
        };
        if is_over {
            self.effects.push(Effect::Settled { settle: id, result: Ok(()) });
            return;
        }
        if !self.load(slot) {
            let problem = "names a message that is not there";
            self.effects.push(Effect::Settled { settle: id, result: Err(Refusal::InvalidHandle { problem }) });
            return;
        }
        let item = self.items[&slot];
        if item.is_loaded && matches!(settle.verdict, Verdict::Return { .. }) && !item.is_settling {
            // It is not out, and comes in its turn; there is nothing to put off.
            self.items.remove(&slot);
            self.effects.push(Effect::Settled { settle: id, result: Ok(()) });
            return;
        }
        if item.is_settling {
            self.deferred.push((id, settle));
            return;
        }
        let is_last = if item.batch == 0 { receipt.attempt >= item.attempts } else { item.batch == receipt.batch };
        if !is_last {
            if item.is_loaded {
                // Kept, it would pass for read when its turn comes, and go to nobody.
                self.items.remove(&slot);
            }
            let problem = "belongs to an earlier delivery; the message was delivered again since";
            self.effects.push(Effect::Settled { settle: id, result: Err(Refusal::InvalidHandle { problem }) });
            return;
        }
        self.judge(slot, settle.verdict, receipt.attempt, now);
        self.gather.waiters.push(id);
    }

    fn judge(&mut self, slot: Slot, verdict: Verdict, attempt: u32, now: Now) {
        let item = self.items.get_mut(&slot).expect("a message that is settled is there");
        item.is_settling = true;
        item.attempts = item.attempts.max(attempt);
        match verdict {
            Verdict::Ack => self.gather.acks.push(slot),
            Verdict::Forward => {
                let (entry, attempts) = (item.entry, item.attempts);
                self.gather.dying.push(Dying { slot, entry, attempts, reason: DeadLetterReason::Forwarded });
            }
            Verdict::Return { after, is_suspended } => {
                let attempts = if is_suspended { item.attempts.saturating_sub(1) } else { item.attempts };
                let next_visible = now.wall.plus_ms(ms(after));
                if !after.is_zero() {
                    self.gather.visible_at.insert(slot, now.tick.saturating_add(ms(after)));
                }
                self.gather.retries.push(RetryEntry { queue: slot.0, offset: slot.1, attempts, next_visible });
            }
        }
    }

    /// Makes sure the message is in memory. A handle may name one that was not read since the start.
    fn load(&mut self, slot: Slot) -> bool {
        if self.items.contains_key(&slot) {
            return true;
        }
        let Some(entry) = self.source.entry(slot).filter(|entry| !entry.is_lost()) else { return false };
        let attempts = self.progress.lock().retry(slot).map_or(0, |retry| retry.attempts);
        let item = Item { is_loaded: true, ..Item::new(entry, attempts, State::Ready) };
        self.items.insert(slot, item);
        true
    }

    /// The dead-letter topic, or why it could not be made: then what gathered is refused, and what is dying tries later.
    pub fn dead_letter_topic(&mut self, topic: Result<TopicId, AppendError>, now: Now) {
        self.is_dead_letter_topic_asked = false;
        match topic {
            Ok(topic) => self.dead_letter_topic = Some(topic),
            Err(refused) => {
                let gathered = std::mem::take(&mut self.gather);
                self.refused(gathered, &refused, now);
                for dying in std::mem::take(&mut self.gather.dying) {
                    let at = now.tick + DEAD_LETTER_RETRY_MS;
                    let Some(item) = self.items.get_mut(&dying.slot) else { continue };
                    item.is_settling = false;
                    if item.state != State::Leased {
                        item.state = State::Waiting(at);
                        self.waiting.insert((at, dying.slot));
                    }
                }
                self.settle_deferred(now);
            }
        }
    }

    /// Appends what has gathered, unless an append is under way.
    pub(super) fn flush(&mut self, now: Now) {
        if self.under_way.is_some() || now.tick < self.retry_at {
            return;
        }
        let is_skipped_due = !self.gather.skipped.is_empty()
            && (self.gather.skipped_entries >= SKIPPED_ENTRIES_MAX || now.tick >= self.skipped_since + SKIPPED_MS_MAX);
        if !self.gather.is_urgent() && !is_skipped_due {
            return;
        }
        if !self.gather.dying.is_empty() && self.dead_letter_topic.is_none() {
            if !std::mem::replace(&mut self.is_dead_letter_topic_asked, true) {
                self.effects.push(Effect::NeedDeadLetterTopic);
            }
            return;
        }
        let gathered = std::mem::take(&mut self.gather);
        self.append(gathered);
    }

    fn append(&mut self, mut gather: Gather) {
        gather.operations = self.operations;
        self.next_ticket += 1;
        let changes = gather.changes(self.pair, self.dead_letter_topic);
        self.effects.push(Effect::Append { ticket: self.next_ticket, changes });
        self.under_way = Some((self.next_ticket, gather));
    }

    pub(super) fn answered(&mut self, ticket: Ticket, result: Result<Done, AppendError>, now: Now) {
        let (expected, gather) = self.under_way.take().expect("answers are to what is under way");
        assert_eq!(expected, ticket, "one append is under way at a time");
        match result {
            Ok(_) => self.committed(gather, now),
            Err(AppendError::Overtaken { .. }) => self.overtaken(gather, now),
            Err(refused) => self.refused(gather, &refused, now),
        }
        self.settle_deferred(now);
    }

    /// What they waited for is decided, or about to be decided anew.
    pub(super) fn settle_deferred(&mut self, now: Now) {
        for (id, settle) in std::mem::take(&mut self.deferred) {
            self.settle(id, settle, now);
        }
    }

    fn committed(&mut self, gather: Gather, now: Now) {
        for slot in gather.acks.iter().chain(gather.dying.iter().map(|dying| &dying.slot)) {
            self.done(*slot);
        }
        for retry in &gather.retries {
            let visible_at = gather.visible_at.get(&(retry.queue, retry.offset)).copied();
            self.returned(retry, visible_at.unwrap_or(0), now);
        }
        for leasing in gather.leases {
            self.leased_durably(&leasing);
        }
        for settle in gather.waiters {
            self.effects.push(Effect::Settled { settle, result: Ok(()) });
        }
    }

    pub(super) fn done(&mut self, slot: Slot) {
        let Some(item) = self.items.get(&slot) else { return };
        let key = lane_of(slot, &item.entry);
        if let State::Waiting(at) = item.state {
            self.waiting.remove(&(at, slot));
        }
        self.unlease(slot);
        self.items.remove(&slot);
        self.ahead.forget(slot);
        if let Order::Lanes(lanes) = &mut self.order {
            lanes.remove(key, slot);
            self.list_if_ready(key);
        }
    }

    fn returned(&mut self, retry: &RetryEntry, at: u64, now: Now) {
        let slot = (retry.queue, retry.offset);
        let Some(item) = self.items.get_mut(&slot) else { return };
        item.is_settling = false;
        item.attempts = retry.attempts;
        let key = lane_of(slot, &item.entry);
        if let State::Waiting(at) = item.state {
            self.waiting.remove(&(at, slot));
        }
        self.unlease(slot);
        if let Order::Lanes(lanes) = &mut self.order {
            lanes.put_back(key, slot);
        }
        if at > now.tick && self.may_wait(slot) {
            self.items.get_mut(&slot).expect("just seen").state = State::Waiting(at);
            self.waiting.insert((at, slot));
            if self.settings.is_ordered {
                self.list_if_ready(key);
            }
        } else {
            self.make_ready(slot);
        }
    }

    fn leased_durably(&mut self, leasing: &Leasing) {
        let Some(batch) = self.batches.get_mut(&leasing.batch) else { return };
        batch.is_out = true;
        if batch.is_unwanted {
            self.unwritten(leasing.batch);
        } else {
            self.deliver(leasing.poll, leasing.batch);
        }
    }

    /// Nothing of it is in the log: everything is as it was before.
    fn refused(&mut self, gather: Gather, refused: &AppendError, now: Now) {
        self.retry_at = now.tick + APPEND_RETRY_MS;
        let refusal = crate::store_refusal(refused);
        for slot in &gather.acks {
            self.unsettle(*slot);
        }
        for retry in gather.retries {
            let slot = (retry.queue, retry.offset);
            // Nobody else would take the message back: a client that lives keeps its lease, even of what it never got.
            if refused.is_retryable() && gather.returned.contains(&slot) {
                self.gather.retries.push(retry);
                self.gather.returned.insert(slot);
            } else {
                self.unsettle(slot);
            }
        }
        for leasing in gather.leases {
            if let Some(batch) = self.batches.get_mut(&leasing.batch) {
                batch.is_out = true;
            }
            self.cancel_lease(leasing.batch);
            self.effects.push(Effect::Refuse { poll: leasing.poll, refusal: refusal.clone() });
        }
        for settle in gather.waiters {
            self.effects.push(Effect::Settled { settle, result: Err(refusal.clone()) });
        }
        for dying in gather.dying {
            match dying.reason {
                // Whoever asked was told that nothing happened.
                DeadLetterReason::Forwarded => self.unsettle(dying.slot),
                DeadLetterReason::Attempts | DeadLetterReason::Operator => self.gather.dying.push(dying),
            }
        }
        // The end of a lease and a skip are the server's own business: they are tried again.
        for range in gather.skipped {
            self.gather.skip((range.queue, range.first), range.count);
        }
        if gather.filter.is_some() && self.gather.filter.is_none() {
            self.gather.filter = gather.filter;
        }
        let mut expired: Vec<u64> =
            self.batches.iter().filter(|(_, b)| b.expires <= now.tick).map(|(n, _)| *n).collect();
        expired.sort_unstable();
        for number in expired {
            let batch = self.batches.get_mut(&number).expect("just seen");
            batch.expires = self.retry_at;
            self.expiry.insert((self.retry_at, number));
        }
    }

    pub(super) fn unsettle(&mut self, slot: Slot) {
        let Some(item) = self.items.get_mut(&slot) else { return };
        item.is_settling = false;
        let key = lane_of(slot, &item.entry);
        let is_left_out = match &self.order {
            Order::Standard(_) => false,
            Order::Lanes(lanes) => lanes.is_left_out(key, slot),
        };
        if item.is_loaded && (slot.1 >= self.cursors[usize::from(slot.0.0)] || is_left_out) {
            // It will be read in its turn.
            self.items.remove(&slot);
            return;
        }
        if item.is_loaded
            && let Order::Lanes(lanes) = &mut self.order
        {
            lanes.put_back(key, slot);
        }
        match self.items[&slot].state {
            State::Ready => self.make_ready(slot),
            State::Waiting(_) if !self.is_wanted(slot) => self.discard(&[slot]),
            State::Waiting(_) | State::Leased => {}
        }
    }

    /// A batch whose lease is not in the log was handed to nobody.
    fn cancel_lease(&mut self, number: u64) {
        let Some(batch) = self.batches.get(&number) else { return };
        for slot in batch.slots.clone() {
            self.take_back(slot);
        }
    }

    /// A message whose lease is not in the log.
    pub(super) fn take_back(&mut self, slot: Slot) {
        let Some(item) = self.items.get_mut(&slot) else { return };
        item.attempts -= 1;
        let key = lane_of(slot, &item.entry);
        self.unlease(slot);
        if let Order::Lanes(lanes) = &mut self.order {
            lanes.put_back(key, slot);
        }
        self.make_ready_first(slot);
    }
}

/// How long a refused append waits.
pub(super) const APPEND_RETRY_MS: u64 = 250;
/// How long a dead letter waits for a topic that could not be made.
const DEAD_LETTER_RETRY_MS: u64 = 5_000;
