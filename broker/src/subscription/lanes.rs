//! The lanes of an ordered group: one for each message group, with at most one open batch (rule F1).
//!
//! K1. A lane with an open batch hands nothing out, to nobody.
//! K2. A lane hands out from its front only, in order of offsets, and nothing from behind what it left out.
//! K3. A closed lane keeps a bounded number of followers; where it stopped is remembered and read from again when it opens
//!     (see `refill`).

use std::collections::VecDeque;

use base::QueueIndex;
use hashbrown::HashMap;

use super::Slot;

/// Whose order is kept. Messages without a message group are a chain of their queue (F11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LaneKey {
    Group(u64),
    Queue(QueueIndex),
}

#[derive(Debug, Default)]
struct Lane {
    /// What is not handed out, in order.
    waiting: VecDeque<Slot>,
    /// Messages of the open batch that are not settled.
    open: usize,
    /// The first message that was left out for want of room.
    overflow: Option<Slot>,
    is_listed: bool,
}

impl Lane {
    /// What may be handed out. What was restored from a lease and given back may lie behind messages that were left out.
    fn within_reach(&self) -> usize {
        self.overflow.map_or(self.waiting.len(), |from| self.waiting.partition_point(|slot| *slot < from))
    }

    fn front(&self) -> Option<Slot> {
        self.waiting.front().copied().filter(|slot| self.overflow.is_none_or(|from| *slot < from))
    }

    fn is_idle(&self) -> bool {
        self.open == 0 && self.waiting.is_empty() && self.overflow.is_none() && !self.is_listed
    }
}

#[derive(Debug, Default)]
pub struct Lanes {
    lanes: HashMap<LaneKey, Lane>,
    /// Lanes that may hand something out, in turn.
    listed: VecDeque<LaneKey>,
    open: usize,
}

impl Lanes {
    /// Lanes with an open batch.
    pub fn open(&self) -> usize {
        self.open
    }

    /// A message was read. False when there was no room: it will be read again.
    pub fn push(&mut self, key: LaneKey, slot: Slot, followers_max: usize) -> bool {
        let lane = self.lanes.entry(key).or_default();
        if lane.overflow.is_some() || lane.waiting.len() >= followers_max {
            lane.overflow.get_or_insert(slot);
            return false;
        }
        // Nearly always the last one; after a restart a message whose lease was restored may have come back before.
        let at = lane.waiting.partition_point(|other| *other < slot);
        assert!(lane.waiting.get(at) != Some(&slot), "K2: {slot:?} is read twice into {lane:?}");
        lane.waiting.insert(at, slot);
        true
    }

    /// A message that was handed out before, or will not be: it goes where its offset belongs.
    pub fn put_back(&mut self, key: LaneKey, slot: Slot) {
        let lane = self.lanes.entry(key).or_default();
        let at = lane.waiting.partition_point(|other| *other < slot);
        if lane.waiting.get(at) != Some(&slot) {
            lane.waiting.insert(at, slot);
        }
    }

    /// The first message of a lane that may hand something out; none when it has an open batch or nothing.
    pub fn front(&self, key: LaneKey) -> Option<Slot> {
        self.lanes.get(&key).filter(|lane| lane.open == 0).and_then(Lane::front)
    }

    /// What a lane without an open batch may hand out, in order.
    pub fn waiting(&self, key: LaneKey) -> impl Iterator<Item = Slot> + '_ {
        let lane = self.lanes.get(&key).filter(|lane| lane.open == 0);
        lane.into_iter().flat_map(|lane| lane.waiting.iter().copied().take(lane.within_reach()))
    }

    /// The queue is read anew: nothing of it is left out any more.
    pub fn forget_left_out(&mut self, queue: QueueIndex) {
        for lane in self.lanes.values_mut() {
            lane.overflow = lane.overflow.filter(|slot| slot.0 != queue);
        }
        self.lanes.retain(|_, lane| !lane.is_idle());
    }

    /// The lane may hand out now: it takes its turn.
    pub fn list(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(&key).filter(|lane| !lane.is_listed && lane.open == 0) {
            lane.is_listed = true;
            self.listed.push_back(key);
        }
    }

    /// The next lane in turn.
    pub fn next(&mut self) -> Option<LaneKey> {
        let key = self.listed.pop_front()?;
        if let Some(lane) = self.lanes.get_mut(&key) {
            lane.is_listed = false;
        }
        Some(key)
    }

    /// Takes the front message for a batch; the lane is closed from here on.
    pub fn take(&mut self, key: LaneKey) -> Slot {
        let lane = self.lanes.get_mut(&key).expect("a lane that hands out exists");
        let slot = lane.waiting.pop_front().expect("K2: a lane hands out from its front");
        self.open += usize::from(lane.open == 0);
        lane.open += 1;
        slot
    }

    /// The message after the front that a batch took: whether it may follow in the same batch.
    pub fn following(&self, key: LaneKey) -> Option<Slot> {
        self.lanes.get(&key).and_then(Lane::front)
    }

    /// A message of an open batch that was handed out before this process began.
    pub fn reopen(&mut self, key: LaneKey) {
        let lane = self.lanes.entry(key).or_default();
        self.open += usize::from(lane.open == 0);
        lane.open += 1;
    }

    /// A message of the open batch is settled, or returned. True when it was the last one.
    pub fn close_one(&mut self, key: LaneKey) -> bool {
        let lane = self.lanes.get_mut(&key).expect("a lane with an open batch exists");
        assert!(lane.open > 0, "K1: {key:?} has no open batch");
        lane.open -= 1;
        self.open -= usize::from(lane.open == 0);
        lane.open == 0
    }

    /// A waiting message is settled without having been handed out again.
    pub fn remove(&mut self, key: LaneKey, slot: Slot) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        if let Ok(at) = lane.waiting.binary_search(&slot) {
            lane.waiting.remove(at);
        }
    }

    /// Where to read on for a lane that has left messages out and has room again.
    pub fn wants_refill(&self, key: LaneKey, room: usize) -> Option<Slot> {
        let lane = self.lanes.get(&key)?;
        (lane.within_reach() < room).then_some(lane.overflow)?
    }

    /// Whether the message waits behind the point where its lane stopped keeping followers.
    pub fn is_left_out(&self, key: LaneKey, slot: Slot) -> bool {
        self.lanes.get(&key).and_then(|lane| lane.overflow).is_some_and(|from| from.0 == slot.0 && from <= slot)
    }

    /// Reading on reached this far; none when it reached the read position.
    pub fn refilled(&mut self, key: LaneKey, slots: &[Slot], overflow: Option<Slot>) {
        let lane = self.lanes.get_mut(&key).expect("a lane that is refilled exists");
        for slot in slots {
            // Nearly always the end.
            let at = lane.waiting.partition_point(|other| other < slot);
            assert!(lane.waiting.get(at) != Some(slot), "K2: {slot:?} is found twice for {lane:?}");
            lane.waiting.insert(at, *slot);
        }
        lane.overflow = overflow;
    }

    /// An idle lane costs nothing.
    pub fn forget_if_idle(&mut self, key: LaneKey) {
        if self.lanes.get(&key).is_some_and(Lane::is_idle) {
            self.lanes.remove(&key);
        }
    }
}
