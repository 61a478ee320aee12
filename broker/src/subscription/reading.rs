//! Reading: the read position of each queue, what of it is kept in memory, and when that may be handed out.
//!
//! U5. Progress is read, never copied: what the log says is done is done.

use base::limits::*;
use storage::record::DeadLetterReason;

use super::core::{Core, Item, Order, State, lane_of};
use super::gather::Dying;
use super::lanes::LaneKey;
use super::*;

impl Core {
    pub(super) fn add_cursors(&mut self) {
        for queue in self.cursors.len()..self.source.queues() {
            let queue = QueueIndex(u16::try_from(queue).expect("topics have at most 1,024 queues"));
            let progress = self.progress.lock();
            self.cursors.push(progress.floor(queue));
            self.generations.push(progress.generation(queue));
        }
    }

    /// Reads one stretch of one queue. False when there is nothing to read, or no room.
    pub(super) fn read_on(&mut self, now: Now) -> bool {
        if self.items.len() >= WINDOW_POINTERS_MAX {
            return false;
        }
        for _ in 0..self.cursors.len() {
            let number = self.next_queue % self.cursors.len();
            self.next_queue = number + 1;
            let queue = QueueIndex(u16::try_from(number).expect("topics have at most 1,024 queues"));
            let mut entries = Vec::new();
            let first = self.source.read(self.cursors[number], queue, READ_STEP, &mut entries);
            if first > self.cursors[number] {
                self.cursors[number] = first;
            }
            if entries.is_empty() {
                continue;
            }
            self.cursors[number] = QueueOffset(first.0 + entries.len() as u64);
            for (index, entry) in entries.into_iter().enumerate() {
                self.read((queue, QueueOffset(first.0 + index as u64)), entry, now);
            }
            return true;
        }
        false
    }

    fn read(&mut self, slot: Slot, entry: Entry, now: Now) {
        let key = lane_of(slot, &entry);
        if let Some(item) = self.items.get(&slot) {
            if item.is_loaded && self.follow(key, slot) {
                // What is behind it waits for what becomes of its settle.
                self.items.get_mut(&slot).expect("just seen").is_loaded = false;
            }
            self.list_if_ready(key);
            return;
        }
        let (is_done, retry) = {
            let progress = self.progress.lock();
            (progress.is_acknowledged(slot), progress.retry(slot))
        };
        if is_done {
            return;
        }
        if entry.is_lost() || !self.filter.may_match(entry.tag_hash) {
            self.skip(slot, now);
            return;
        }
        if !self.follow(key, slot) {
            return;
        }
        let attempts = retry.map_or(0, |retry| retry.attempts);
        let visible = retry.map_or(Timestamp::ZERO, |retry| retry.next_visible);
        let state = if visible > now.wall { State::Waiting(now.tick_at(visible)) } else { State::Ready };
        self.items.insert(slot, Item::new(entry, attempts, state));
        self.ahead.read(slot, &entry);
        match state {
            State::Waiting(at) => drop(self.waiting.insert((at, slot))),
            _ => self.make_ready(slot),
        }
    }

    /// Gives a message that was read its place in its lane. False when there is no room: it is left out.
    fn follow(&mut self, key: LaneKey, slot: Slot) -> bool {
        let followers = if self.items.len() > WINDOW_POINTERS_MAX / 2 { 1 } else { self.keeping.followers };
        match &mut self.order {
            Order::Standard(_) => true,
            Order::Lanes(lanes) => lanes.push(key, slot, followers),
        }
    }

    pub(super) fn skip(&mut self, slot: Slot, now: Now) {
        if self.gather.skipped.is_empty() {
            self.skipped_since = now.tick;
        }
        self.gather.skip(slot, 1);
    }

    /// A new filter: what was read and is not handed out is looked at again, whether it may go now or is in back-off.
    pub(super) fn refilter(&mut self) {
        let mut unwanted: Vec<Slot> = self
            .items
            .iter()
            .filter(|(_, item)| item.state != State::Leased && !item.is_settling)
            .filter(|(_, item)| !self.filter.may_match(item.entry.tag_hash))
            .map(|(slot, _)| *slot)
            .collect();
        unwanted.sort_unstable();
        self.discard(&unwanted);
    }

    pub(super) fn is_wanted(&self, slot: Slot) -> bool {
        self.filter.may_match(self.items[&slot].entry.tag_hash)
    }

    pub(super) fn discard(&mut self, slots: &[Slot]) {
        for slot in slots {
            if let Some(item) = self.items.get_mut(slot).filter(|item| !item.is_settling) {
                item.is_settling = true;
                self.ahead.forget(*slot);
                self.gather.acks.push(*slot);
            }
        }
    }

    /// A message may be handed out from now on, or is not wanted any more, or has no attempts left.
    pub(super) fn make_ready(&mut self, slot: Slot) {
        let attempts_max = self.settings.attempts_max.max(1);
        let item = self.items.get_mut(&slot).expect("a message that becomes ready is there");
        item.state = State::Ready;
        item.is_loaded = false;
        if !self.filter.may_match(item.entry.tag_hash) {
            // It was out while the filter changed, or the log refused to have it skipped.
            self.discard(&[slot]);
            return;
        }
        if item.attempts >= attempts_max {
            self.die(slot, DeadLetterReason::Attempts);
            return;
        }
        let key = lane_of(slot, &item.entry);
        match &mut self.order {
            Order::Standard(ready) => ready.push_back(slot),
            Order::Lanes(_) => self.list_if_ready(key),
        }
    }

    /// The message becomes a dead letter.
    pub(super) fn die(&mut self, slot: Slot, reason: DeadLetterReason) {
        let item = self.items.get_mut(&slot).expect("a dying message is there");
        item.is_settling = true;
        let (entry, attempts) = (item.entry, item.attempts);
        self.ahead.forget(slot);
        self.gather.dying.push(Dying { slot, entry, attempts, reason });
    }

    pub(super) fn list_if_ready(&mut self, key: LaneKey) {
        let is_ready = self.next_of_lane(key, false).is_some();
        let Order::Lanes(lanes) = &mut self.order else { return };
        let wants_more = lanes.front(key).is_none() && lanes.wants_refill(key, 1).is_some();
        if is_ready || wants_more {
            lanes.list(key);
        } else {
            lanes.forget_if_idle(key);
        }
    }

    /// What waited long enough.
    pub(super) fn wake(&mut self, now: Now) {
        while let Some(&(at, slot)) = self.waiting.first() {
            if at > now.tick {
                break;
            }
            self.waiting.pop_first();
            let is_waiting = self.items.get(&slot).is_some_and(|item| item.state == State::Waiting(at));
            if is_waiting && self.items[&slot].is_settling {
                // An append about it is under way; what comes of it decides.
                let item = self.items.get_mut(&slot).expect("just seen");
                item.state = State::Ready;
            } else if is_waiting {
                self.make_ready(slot);
            }
        }
    }
}

/// Entries read at a time: enough for a reply, little enough to leave the rest to the disk.
pub(super) const READ_STEP: usize = 256;
