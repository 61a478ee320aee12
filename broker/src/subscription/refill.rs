//! Refilling lanes: what a lane left out for want of room is found again when it has room.
//!
//! K4. A lane is refilled in order of offsets up to the read position, and nothing is passed over: where something cannot be
//!     read now, the lane waits.
//! K5. What lies between costs little: the message group is looked up in the index, not searched for in the queue.

use base::limits::*;

use super::core::{Core, Item, Order, State, lane_of};
use super::lanes::LaneKey;
use super::reading::READ_STEP;
use super::*;

impl Core {
    /// Reads on for a lane that had to leave messages out. False when that is not done: what comes next cannot be read now, or
    /// others have their turn first.
    pub(super) fn refill(&mut self, key: LaneKey, now: Now) -> bool {
        let followers = self.keeping.followers;
        let Order::Lanes(lanes) = &self.order else { return true };
        let Some((queue, from)) = lanes.wants_refill(key, (followers / 2).max(1)) else { return true };
        let until = self.cursors[usize::from(queue.0)];
        // Everything below the floor is done.
        let mut at = from.max(self.progress.lock().floor(queue)).min(until);
        let mut found = Vec::new();
        let mut is_done = true;
        for step in 0.. {
            if at >= until || found.len() >= followers {
                break;
            }
            if step == REFILL_STEPS_MAX {
                self.refill_at = Some(now.tick + 1);
                is_done = false;
                break;
            }
            let stretch = self.look_on(key, (queue, at), until, followers - found.len());
            at = stretch.to;
            for (offset, entry) in stretch.entries {
                if found.len() >= followers {
                    at = offset;
                    break;
                }
                self.find((queue, offset), entry, &mut found, now);
            }
            if stretch.is_stuck && found.len() < followers {
                is_done = false;
                break;
            }
        }
        self.follow_on(key, found, (at < until).then_some((queue, at)), now);
        is_done
    }

    /// What comes next for a lane, below the read position `until`; of a message group about `max`.
    fn look_on(&self, key: LaneKey, (queue, from): Slot, until: QueueOffset, max: usize) -> Stretch {
        if let LaneKey::Group(group_hash) = key
            && until.0 - from.0 > self.keeping.walked
        {
            let wanted = Wanted { group_hash, from, until, max, walked_max: REFILL_UNSEALED_MAX };
            return self.source.members(queue, &wanted);
        }
        let mut entries = Vec::new();
        let step = usize::try_from(until.0 - from.0).unwrap_or(READ_STEP).min(READ_STEP);
        let first = self.source.read(from, queue, step, &mut entries);
        let is_stuck = entries.is_empty() && first == from;
        // Later than `from` when a purge has come between.
        let to = QueueOffset(first.0 + entries.len() as u64).min(until);
        let offsets = (first.0..until.0).map(QueueOffset);
        let entries = offsets.zip(entries).filter(|(offset, entry)| lane_of((queue, *offset), entry) == key);
        Stretch { entries: entries.collect(), to, is_stuck }
    }

    /// Only what is still wanted counts, so that a lane with messages left always gets one.
    fn find(&mut self, slot: Slot, entry: Entry, found: &mut Vec<(Slot, Entry)>, now: Now) {
        let is_done = self.items.contains_key(&slot) || self.progress.lock().is_acknowledged(slot);
        if is_done || entry.is_lost() {
            return;
        }
        if self.filter.may_match(entry.tag_hash) {
            found.push((slot, entry));
        } else {
            // The filter has changed since it was left out.
            self.skip(slot, now);
        }
    }

    /// The lane takes in what was found.
    fn follow_on(&mut self, key: LaneKey, found: Vec<(Slot, Entry)>, overflow: Option<Slot>, now: Now) {
        let mut slots = Vec::with_capacity(found.len());
        for (slot, entry) in found {
            let retry = self.progress.lock().retry(slot);
            let visible = retry.map_or(Timestamp::ZERO, |retry| retry.next_visible);
            let state = if visible > now.wall { State::Waiting(now.tick_at(visible)) } else { State::Ready };
            if let State::Waiting(at) = state {
                self.waiting.insert((at, slot));
            }
            let attempts = retry.map_or(0, |retry| retry.attempts);
            self.items.insert(slot, Item::new(entry, attempts, state));
            self.ahead.read(slot, &entry);
            slots.push(slot);
        }
        let Order::Lanes(lanes) = &mut self.order else { return };
        lanes.refilled(key, &slots, overflow);
        for slot in slots {
            if self.items[&slot].state == State::Ready && self.items[&slot].attempts >= self.settings.attempts_max {
                // A restart came between its last attempt and its end (U4).
                self.make_ready(slot);
            }
        }
    }
}
