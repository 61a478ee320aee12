//! What operators do to the progress of a running subscription: seeks, parks, purges.
//!
//! They come from the log, not from the subscription's own appends: the topic rings, and what has changed is read again.
//! One append of the subscription may be under way at that moment. Either it came first, and then the operator's record
//! has the last word; or it is refused as overtaken, and what of it is still meant is appended once more.
//!
//! O1. After a seek nothing of its queue is left: what was out is out no more, and old handles settle nothing.
//! O2. The messages of a parked key become dead letters in their order, after what was out when it was parked.

use base::QueueIndex;
use base::limits::READ_ENTRIES_MAX;
use hashbrown::HashSet;
use storage::record::DeadLetterReason;
use storage::view::progress::Progress;

use super::core::{Core, Order, State};
use super::gather::Gather;
use super::lanes::LaneKey;
use super::settling::APPEND_RETRY_MS;
use super::*;

impl Core {
    /// Looks at what operators have done since the last look.
    pub(super) fn notice(&mut self, now: Now) {
        let operations = self.progress.lock().operations();
        if operations == self.operations {
            return;
        }
        self.operations = operations;
        let sought = self.sought();
        sought.iter().for_each(|queue| self.start_anew(*queue));
        // Purged, or acknowledged by an append whose answer is on its way.
        let done = self.slots_that(|slot, _, progress| progress.is_acknowledged(slot));
        let is_done: HashSet<Slot> = done.iter().copied().collect();
        self.void(&sought, &is_done);
        done.into_iter().for_each(|slot| self.done(slot));
        self.look_at_parked();
        self.settle_deferred(now);
    }

    /// An operator's record came first. What of the append is still meant goes with the next one.
    pub(super) fn overtaken(&mut self, gather: Gather, now: Now) {
        let known = gather.operations;
        self.gather.resume(gather);
        self.notice(now);
        if self.operations == known {
            // Not by anything that is applied, so far.
            self.retry_at = now.tick + APPEND_RETRY_MS;
        }
    }

    /// Queues with a new generation.
    fn sought(&mut self) -> Vec<QueueIndex> {
        let progress = self.progress.lock();
        let mut sought = Vec::new();
        for (number, known) in self.generations.iter_mut().enumerate() {
            let queue = QueueIndex(u16::try_from(number).expect("topics have at most 1,024 queues"));
            let generation = progress.generation(queue);
            if std::mem::replace(known, generation) != generation {
                self.cursors[number] = progress.floor(queue);
                sought.push(queue);
            }
        }
        sought
    }

    /// O1. Reads the queue as if for the first time.
    fn start_anew(&mut self, queue: QueueIndex) {
        match &mut self.order {
            Order::Standard(ready) => ready.retain(|slot| slot.0 != queue),
            Order::Lanes(lanes) => lanes.forget_left_out(queue),
        }
        let mut slots: Vec<Slot> = self.items.keys().filter(|slot| slot.0 == queue).copied().collect();
        slots.sort_unstable();
        slots.into_iter().for_each(|slot| self.done(slot));
    }

    /// Takes out of what gathers and of what is under way what has no meaning any more.
    fn void(&mut self, queues: &[QueueIndex], done: &HashSet<Slot>) {
        let is_void = |slot: Slot| queues.contains(&slot.0) || done.contains(&slot);
        let mut polls = self.gather.void(queues, is_void);
        if let Some((_, under_way)) = &mut self.under_way {
            polls.extend(under_way.void(queues, is_void));
        }
        self.effects.extend(polls.into_iter().map(|poll| Effect::Empty { poll }));
        if !self.gather.is_urgent() {
            // They wait for nothing that is appended.
            let waiters = std::mem::take(&mut self.gather.waiters);
            self.effects.extend(waiters.into_iter().map(|settle| Effect::Settled { settle, result: Ok(()) }));
        }
    }

    /// Keys were parked or opened.
    fn look_at_parked(&mut self) {
        for dying in std::mem::take(&mut self.gather.dying) {
            if dying.reason == DeadLetterReason::Operator && !self.is_parked(dying.entry.group_hash) {
                self.unsettle(dying.slot);
            } else {
                self.gather.dying.push(dying);
            }
        }
        self.keep_back_parked();
        // There is no next attempt to wait for.
        let parked = self.slots_that(|_, item, progress| {
            matches!(item.state, State::Waiting(_)) && !item.is_settling && progress.is_parked(item.entry.group_hash)
        });
        for slot in parked {
            if let State::Waiting(at) = self.items[&slot].state {
                self.waiting.remove(&(at, slot));
                self.make_ready(slot);
            }
        }
    }

    /// What was to leave as soon as its lease is committed stays.
    fn keep_back_parked(&mut self) {
        let progress = self.progress.clone();
        let leasing = self.gather.leases.iter().flat_map(|leasing| &leasing.entries);
        let slots = leasing.map(|entry| (entry.queue, entry.offset));
        let parked: HashSet<Slot> =
            slots.filter(|slot| progress.lock().is_parked(self.items[slot].entry.group_hash)).collect();
        let polls = self.gather.unlease(|slot| parked.contains(&slot));
        self.effects.extend(polls.into_iter().map(|poll| Effect::Empty { poll }));
        let mut parked: Vec<Slot> = parked.into_iter().collect();
        parked.sort_unstable();
        // The last one first: each goes to the front of what is ready.
        parked.into_iter().rev().for_each(|slot| self.take_back(slot));
    }

    pub(super) fn is_parked(&self, group_hash: u64) -> bool {
        group_hash != 0 && self.progress.lock().is_parked(group_hash)
    }

    /// Whether the message comes back only after its back-off.
    pub(super) fn may_wait(&self, slot: Slot) -> bool {
        self.is_wanted(slot) && !self.is_parked(self.items[&slot].entry.group_hash)
    }

    /// O2. Makes dead letters of what a parked lane holds. False when it is not parked. A lane that nobody polls keeps
    /// its messages: they are in nobody's way, and go out in order should it be opened again.
    pub(super) fn divert(&mut self, key: LaneKey) -> bool {
        let LaneKey::Group(group_hash) = key else { return false };
        if !self.is_parked(group_hash) {
            return false;
        }
        let Order::Lanes(lanes) = &self.order else { return false };
        let waiting: Vec<Slot> = lanes.waiting(key).collect();
        for slot in waiting {
            let is_read = slot.1 < self.cursors[usize::from(slot.0.0)];
            let item = &self.items[&slot];
            if !is_read || item.is_settling || item.state != State::Ready {
                // What follows it has to wait for what becomes of it.
                break;
            }
            self.die(slot, DeadLetterReason::Operator);
        }
        if let Order::Lanes(lanes) = &mut self.order {
            lanes.forget_if_idle(key);
        }
        true
    }

    /// Messages in memory of which this is true, in order. Progress is locked for a bounded number of them at a time.
    fn slots_that(&self, is_so: impl Fn(Slot, &super::core::Item, &Progress) -> bool) -> Vec<Slot> {
        let mut found = Vec::new();
        let mut items = self.items.iter().peekable();
        while items.peek().is_some() {
            let progress = self.progress.lock();
            let some = items.by_ref().take(READ_ENTRIES_MAX);
            found.extend(some.filter(|(slot, item)| is_so(**slot, item, &progress)).map(|(slot, _)| *slot));
        }
        found.sort_unstable();
        found
    }
}
