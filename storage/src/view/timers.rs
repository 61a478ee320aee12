//! Pending timers: which delayed messages are due, and when.
//!
//! A wheel with one slot a millisecond holds what is due within its window; what is further off waits in an ordered map.
//! Reads no clock and does no IO: the timer thread passes `now` in and carries results out.
//!
//! T1. Each live origin is in exactly one place: a slot, the far map, or `deciding`.
//! T2. `take_due(now)` gives nothing later than `now`, in order of (due, position).
//! T3. An origin ends once: what a record ends, it ends wherever it waits. The due time in the record says where that is,
//!     unless damage took the record that moved it there.

use std::collections::BTreeMap;

use base::limits::WHEEL_WINDOW_MS;
use base::{LogPosition, Timestamp, TopicId};
use hashbrown::HashMap;

use crate::record::{Head, Pointer};

/// A delayed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer {
    pub due: Timestamp,
    pub pointer: Pointer,
    pub head: Head,
}

/// What a decision about one timer meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is the caller's now, in `deciding`.
    Taken(Timer),
    /// Somebody decides about it already.
    Deciding,
    /// It has ended, or never was.
    Unknown,
}

const SLOTS: usize = WHEEL_WINDOW_MS as usize;
/// Slots of a page: the bits of a word of `occupied`.
const PAGE: usize = 64;
const _: () = assert!(SLOTS.is_multiple_of(PAGE));

#[derive(Debug, Clone)]
pub struct Timers {
    /// Slots in pages of 64; a page without timers is not allocated, so an idle wheel is 24 KiB and not 1.5 MiB.
    pages: Vec<Vec<Vec<Timer>>>,
    /// A bit for each slot that is not empty, so that a minute of nothing is passed in a thousand steps, not in 65,536.
    occupied: Vec<u64>,
    in_wheel: usize,
    /// The wheel holds due times in `[start, start + window)`; each slot those of one millisecond.
    start: u64,
    /// Due times beyond the window, and those before it: overdue when they came, or the wall clock was set back.
    far: BTreeMap<(Timestamp, LogPosition), Timer>,
    deciding: HashMap<LogPosition, Timer>,
    pending_by_topic: HashMap<TopicId, u64>,
    /// When each origin is due. Made when one ends that does not wait where its record says, which only damage explains:
    /// a healthy store does without.
    dues: Option<HashMap<LogPosition, Timestamp>>,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            pages: vec![Vec::new(); SLOTS / PAGE],
            occupied: vec![0; SLOTS / PAGE],
            in_wheel: 0,
            start: 0,
            far: BTreeMap::new(),
            deciding: HashMap::new(),
            pending_by_topic: HashMap::new(),
            dues: None,
        }
    }
}

impl Timers {
    pub fn len(&self) -> usize {
        self.in_wheel + self.far.len() + self.deciding.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn pending_of(&self, topic: TopicId) -> u64 {
        self.pending_by_topic.get(&topic).copied().unwrap_or(0)
    }

    pub fn pending_by_topic(&self) -> impl Iterator<Item = (TopicId, u64)> + '_ {
        self.pending_by_topic.iter().map(|(topic, count)| (*topic, *count))
    }

    /// Everything that waits, in no order; for oracles and listings.
    pub fn iter(&self) -> impl Iterator<Item = &Timer> {
        let near = self.pages.iter().flatten().flatten();
        near.chain(self.far.values()).chain(self.deciding.values())
    }

    /// Whether any body in `range` waits.
    pub fn is_any_in(&self, range: &std::ops::Range<LogPosition>) -> bool {
        self.iter().any(|timer| range.contains(&timer.pointer.position))
    }

    pub fn add(&mut self, timer: Timer) {
        *self.pending_by_topic.entry(timer.head.topic).or_default() += 1;
        if let Some(dues) = &mut self.dues {
            dues.insert(timer.pointer.position, timer.due);
        }
        self.place(timer);
    }

    /// Moves up to `max` timers that are due from the wheel to `deciding`.
    pub fn take_due(&mut self, now: Timestamp, max: usize) -> Vec<Timer> {
        let mut due = Vec::new();
        self.take_past(now, max, &mut due);
        while due.len() < max {
            if self.in_wheel == 0 {
                // Nothing in between: the wheel may jump to the next far timer, or to now.
                let next = self.first_ahead().map_or(now.0 + 1, |due| due.0);
                self.start = self.start.max(next.min(now.0 + 1));
                self.fill();
                if self.in_wheel == 0 {
                    break;
                }
            }
            let near = self.next_in_wheel().expect("the wheel holds something");
            // What the window reaches by this lies behind everything in it, so nothing is passed over.
            let next = near.0.min(now.0.saturating_add(1));
            if next > self.start {
                self.start = next;
                self.fill();
            }
            if self.start > now.0 {
                break;
            }
            self.take_slot(self.slot_of(near.0), max - due.len(), &mut due);
        }
        debug_assert!(due.iter().all(|timer| timer.due <= now), "T2");
        for timer in &due {
            let earlier = self.deciding.insert(timer.pointer.position, *timer);
            assert!(earlier.is_none(), "T1: {} is in two places", timer.pointer.position);
        }
        due
    }

    /// Takes one timer out for a decision about it alone.
    pub fn claim(&mut self, due: Timestamp, origin: LogPosition) -> Claim {
        if self.deciding.contains_key(&origin) {
            return Claim::Deciding;
        }
        match self.unplace(due, origin) {
            Some(timer) => {
                self.deciding.insert(origin, timer);
                Claim::Taken(timer)
            }
            None => Claim::Unknown,
        }
    }

    /// The decision did not come to be: it waits again.
    pub fn release(&mut self, origin: LogPosition) {
        if let Some(timer) = self.deciding.remove(&origin) {
            self.place(timer);
        }
    }

    /// Published or retired; committed. False when it was not there, which only damage explains.
    pub fn end(&mut self, due: Timestamp, origin: LogPosition) -> bool {
        let Some(timer) = self.deciding.remove(&origin).or_else(|| self.unplace(due, origin)) else { return false };
        self.uncount(timer.head.topic);
        if let Some(dues) = &mut self.dues {
            dues.remove(&origin);
        }
        true
    }

    /// As [`Timers::end`], for an origin that waits for another due time than its record says.
    pub fn end_stray(&mut self, origin: LogPosition) -> bool {
        if self.dues.is_none() {
            self.dues = Some(self.iter().map(|timer| (timer.pointer.position, timer.due)).collect());
        }
        let due = self.dues.as_ref().and_then(|dues| dues.get(&origin)).copied();
        due.is_some_and(|due| self.end(due, origin))
    }

    /// Everything of a dropped topic is gone.
    pub fn drop_topic(&mut self, topic: TopicId) {
        for slot in 0..SLOTS {
            if self.occupied[slot / PAGE] & (1 << (slot % PAGE)) != 0 {
                self.slot_mut(slot).retain(|timer| timer.head.topic != topic);
                self.note(slot);
            }
        }
        self.in_wheel = self.pages.iter().flatten().map(Vec::len).sum();
        self.far.retain(|_, timer| timer.head.topic != topic);
        self.deciding.retain(|_, timer| timer.head.topic != topic);
        self.pending_by_topic.remove(&topic);
        self.dues = None;
    }

    /// When to look again.
    pub fn next_due(&self) -> Option<Timestamp> {
        let far = self.far.first_key_value().map(|((due, _), _)| *due);
        self.next_in_wheel().into_iter().chain(far).min()
    }

    /// Whether anything is due and not being decided; and since when.
    pub fn oldest_overdue(&self, now: Timestamp) -> Option<Timestamp> {
        self.next_due().filter(|due| *due <= now)
    }

    fn slot_of(&self, at: u64) -> usize {
        usize::try_from(at % WHEEL_WINDOW_MS).expect("a slot is below the window")
    }

    /// The first due time in the wheel.
    fn next_in_wheel(&self) -> Option<Timestamp> {
        if self.in_wheel == 0 {
            return None;
        }
        let first = self.slot_of(self.start);
        let words = self.occupied.len();
        // The first word is looked at twice: its slots before `first` are the last ones of the window.
        for step in 0..=words {
            let index = (first / PAGE + step) % words;
            let mask = match step {
                0 => u64::MAX << (first % PAGE),
                step if step == words => !(u64::MAX << (first % PAGE)),
                _ => u64::MAX,
            };
            let word = self.occupied[index] & mask;
            if word != 0 {
                let slot = index * PAGE + word.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - first) % SLOTS;
                return Some(Timestamp(self.start + ahead as u64));
            }
        }
        None
    }

    fn slot_mut(&mut self, slot: usize) -> &mut Vec<Timer> {
        let page = &mut self.pages[slot / PAGE];
        if page.is_empty() {
            page.resize_with(PAGE, Vec::new);
        }
        &mut page[slot % PAGE]
    }

    /// Notes whether a slot that was changed holds something.
    fn note(&mut self, slot: usize) {
        let (index, bit) = (slot / PAGE, 1 << (slot % PAGE));
        if self.pages[index][slot % PAGE].is_empty() {
            self.occupied[index] &= !bit;
        } else {
            self.occupied[index] |= bit;
        }
        if self.occupied[index] == 0 {
            self.pages[index] = Vec::new();
        }
    }

    fn is_in_window(&self, due: Timestamp) -> bool {
        (self.start..self.start + WHEEL_WINDOW_MS).contains(&due.0)
    }

    fn place(&mut self, timer: Timer) {
        if self.is_in_window(timer.due) {
            let slot = self.slot_of(timer.due.0);
            self.slot_mut(slot).push(timer);
            self.note(slot);
            self.in_wheel += 1;
        } else {
            self.far.insert((timer.due, timer.pointer.position), timer);
        }
    }

    fn unplace(&mut self, due: Timestamp, origin: LogPosition) -> Option<Timer> {
        if !self.is_in_window(due) {
            return self.far.remove(&(due, origin));
        }
        let slot = self.slot_of(due.0);
        let timers = self.pages[slot / PAGE].get_mut(slot % PAGE)?;
        let index = timers.iter().position(|timer| timer.pointer.position == origin)?;
        let timer = timers.swap_remove(index);
        self.in_wheel -= 1;
        self.note(slot);
        Some(timer)
    }

    /// The first due time of the far map that is not before the wheel.
    fn first_ahead(&self) -> Option<Timestamp> {
        let from = (Timestamp(self.start), LogPosition(0));
        self.far.range(from..).next().map(|((due, _), _)| *due)
    }

    /// Brings what the window has reached from the far map into the wheel.
    fn fill(&mut self) {
        while let Some(due) = self.first_ahead().filter(|due| self.is_in_window(*due)) {
            let range = (due, LogPosition(0))..=(due, LogPosition(u64::MAX));
            let reached: Vec<_> = self.far.range(range).map(|(key, _)| *key).collect();
            for key in reached {
                let timer = self.far.remove(&key).expect("just found");
                self.place(timer);
            }
        }
    }

    /// What the wheel has passed: all of it comes before anything in the wheel.
    fn take_past(&mut self, now: Timestamp, max: usize, due: &mut Vec<Timer>) {
        while due.len() < max {
            let Some(first) = self.far.first_entry() else { break };
            let at = first.key().0;
            if at > now || at.0 >= self.start {
                break;
            }
            due.push(first.remove());
        }
    }

    fn take_slot(&mut self, slot: usize, max: usize, due: &mut Vec<Timer>) {
        let timers = self.slot_mut(slot);
        timers.sort_unstable_by_key(|timer| (timer.due, timer.pointer.position));
        let count = timers.len().min(max);
        due.extend(timers.drain(..count));
        if timers.is_empty() {
            // A burst's buffer is not kept for the day the wheel comes round again.
            *timers = Vec::new();
        }
        self.note(slot);
        self.in_wheel -= count;
    }

    fn uncount(&mut self, topic: TopicId) {
        let count = self.pending_by_topic.get_mut(&topic).expect("a timer is counted while it is pending");
        *count -= 1;
        if *count == 0 {
            self.pending_by_topic.remove(&topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timer(due: u64, position: u64) -> Timer {
        let head = Head { topic: TopicId(1), tag_hash: 0, group_hash: 0, priority: 0 };
        Timer { due: Timestamp(due), pointer: Pointer { position: LogPosition(position), length: 1 }, head }
    }

    proptest! {
        #[test]
        fn every_timer_is_due_once_in_order_and_never_early(
            dues in proptest::collection::vec(0u64..400_000, 1..200),
            steps in proptest::collection::vec(1u64..50_000, 1..40),
            recalled in 0usize..50,
        ) {
            let mut timers = Timers::default();
            let start = 1_000_000;
            timers.take_due(Timestamp(start), 1);
            let mut waiting = std::collections::BTreeSet::new();
            for (position, due) in dues.iter().enumerate() {
                timers.add(timer(start + due, position as u64));
                waiting.insert((start + due, position as u64));
            }
            if let Some(due) = dues.get(recalled) {
                let claimed = timers.claim(Timestamp(start + due), LogPosition(recalled as u64));
                prop_assert!(matches!(claimed, Claim::Taken(_)));
                prop_assert!(timers.end(Timestamp(start + due), LogPosition(recalled as u64)));
                waiting.remove(&(start + due, recalled as u64));
            }
            let mut now = start;
            for step in steps.into_iter().chain([500_000]) {
                now += step;
                loop {
                    let due = timers.take_due(Timestamp(now), 7);
                    if due.is_empty() {
                        break;
                    }
                    for fired in due {
                        let first = waiting.pop_first().expect("only what waits fires");
                        prop_assert_eq!((fired.due.0, fired.pointer.position.0), first);
                        prop_assert!(fired.due.0 <= now);
                        prop_assert!(timers.end(fired.due, fired.pointer.position));
                    }
                }
                prop_assert_eq!(timers.next_due().map(|due| due.0), waiting.first().map(|(due, _)| *due));
            }
            prop_assert!(timers.is_empty() && waiting.is_empty());
        }
    }

    #[test]
    fn a_decision_that_failed_lets_the_timer_wait_again_and_one_under_way_keeps_others_out() {
        let mut timers = Timers::default();
        timers.add(timer(5, 1));
        assert_eq!(timers.take_due(Timestamp(5), 10).len(), 1);
        assert_eq!(timers.claim(Timestamp(5), LogPosition(1)), Claim::Deciding);
        timers.release(LogPosition(1));
        assert_eq!(timers.take_due(Timestamp(6), 10).len(), 1, "overdue, it is due at once");
        assert!(timers.end(Timestamp(5), LogPosition(1)));
        assert_eq!(timers.claim(Timestamp(5), LogPosition(1)), Claim::Unknown);
    }

    #[test]
    fn a_wall_clock_that_is_set_back_fires_nothing_twice_and_nothing_early() {
        let mut timers = Timers::default();
        assert!(timers.take_due(Timestamp(100_000), 10).is_empty());
        timers.add(timer(40_000, 1));
        timers.add(timer(50_000, 2));
        let fired = timers.take_due(Timestamp(45_000), 10);
        assert_eq!(fired.iter().map(|timer| timer.due.0).collect::<Vec<_>>(), [40_000]);
    }
}
