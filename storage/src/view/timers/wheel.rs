//! The wheel: a slot for each millisecond of the window. Pure.
//!
//! W1. Every entry is due within `[start, start + window)` and lies in the slot of its millisecond.
//! W2. `take` gives entries in order of their keys.

use base::limits::WHEEL_WINDOW_MS;

use super::row::{Entry, Key};

const SLOTS: usize = WHEEL_WINDOW_MS as usize;
/// Slots of a page: the bits of a word of `occupied`.
const PAGE: usize = 64;
const _: () = assert!(SLOTS.is_multiple_of(PAGE));
/// Slots up to this size are searched from end to end.
const SEARCHED: usize = 64;

#[derive(Debug, Clone)]
pub struct Wheel {
    /// Slots in pages of 64; a page without timers is not allocated, so an idle wheel is 24 KiB and not 1.5 MiB.
    pages: Vec<Vec<Vec<Entry>>>,
    /// A bit for each slot that is not empty, so that a minute of nothing is passed in a thousand steps, not in 65,536.
    occupied: Vec<u64>,
    /// A bit for each slot whose entries do not descend: a full slot is sorted once, not each time some are taken.
    unsorted: Vec<u64>,
    length: usize,
    start: u64,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            pages: vec![Vec::new(); SLOTS / PAGE],
            occupied: vec![0; SLOTS / PAGE],
            unsorted: vec![0; SLOTS / PAGE],
            length: 0,
            start: 0,
        }
    }
}

impl Wheel {
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    /// Behind the last millisecond that has a slot.
    pub fn end(&self) -> u64 {
        self.start + WHEEL_WINDOW_MS
    }

    /// The window starts here from now on. Nothing in it is passed over.
    pub fn advance(&mut self, start: u64) {
        debug_assert!(self.next_due().is_none_or(|due| due >= start), "W1");
        assert!(start >= self.start, "W1: the window goes back from {} to {start}", self.start);
        self.start = start;
    }

    pub fn push(&mut self, entry: Entry) {
        let due = entry.row.key.due().0;
        assert!((self.start..self.end()).contains(&due), "W1: {due} is outside of the window from {}", self.start);
        let slot = slot_of(due);
        let entries = self.slot_mut(slot);
        let is_unsorted = entries.last().is_some_and(|last| last.row.key < entry.row.key);
        entries.push(entry);
        if is_unsorted {
            self.unsorted[slot / PAGE] |= 1 << (slot % PAGE);
        }
        self.note(slot);
        self.length += 1;
    }

    /// Takes one out. None when it is not here.
    pub fn remove(&mut self, key: Key) -> Option<Entry> {
        let due = key.due().0;
        if !(self.start..self.end()).contains(&due) {
            return None;
        }
        let slot = slot_of(due);
        let entries = self.pages[slot / PAGE].get(slot % PAGE)?;
        let index = if entries.len() <= SEARCHED {
            entries.iter().position(|entry| entry.row.key == key)?
        } else {
            self.sort(slot);
            let entries = self.slot_mut(slot);
            entries.binary_search_by(|entry| key.cmp(&entry.row.key)).ok()?
        };
        let entry = self.slot_mut(slot).remove(index);
        self.length -= 1;
        self.note(slot);
        Some(entry)
    }

    /// The first due time in here.
    pub fn next_due(&self) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let first = slot_of(self.start);
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
                return Some(self.start + ahead as u64);
            }
        }
        None
    }

    /// Takes up to `max` of those due at `due`, first ones first.
    pub fn take(&mut self, due: u64, max: usize, out: &mut Vec<Entry>) {
        let slot = slot_of(due);
        self.sort(slot);
        let entries = self.slot_mut(slot);
        let count = entries.len().min(max);
        out.extend(entries.drain(entries.len() - count..).rev());
        if entries.is_empty() {
            // A burst's buffer is not kept for the day the wheel comes round again.
            *entries = Vec::new();
        }
        self.note(slot);
        self.length -= count;
    }

    /// Drops what is due last until at most `keep` are left. Gives the first key that was dropped.
    pub fn shed(&mut self, keep: usize) -> Option<Key> {
        let mut first = None;
        let mut due = self.end();
        while self.length > keep && due > self.start {
            due -= 1;
            let slot = slot_of(due);
            if self.occupied[slot / PAGE] & (1 << (slot % PAGE)) == 0 {
                continue;
            }
            let excess = self.length - keep;
            self.sort(slot);
            let entries = self.slot_mut(slot);
            // They descend: the last ones stand in front.
            let count = entries.len().min(excess);
            first = Some(entries[count - 1].row.key);
            entries.drain(..count);
            entries.shrink_to_fit();
            self.length -= count;
            self.note(slot);
        }
        first
    }

    /// Drops everything and starts anew.
    pub fn reset(&mut self, start: u64) {
        *self = Self { start, ..Self::default() };
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) {
        for slot in 0..SLOTS {
            if self.occupied[slot / PAGE] & (1 << (slot % PAGE)) != 0 {
                self.slot_mut(slot).retain(&mut keep);
                self.note(slot);
            }
        }
        self.length = self.pages.iter().flatten().map(Vec::len).sum();
    }

    fn sort(&mut self, slot: usize) {
        let bit = 1 << (slot % PAGE);
        if self.unsorted[slot / PAGE] & bit != 0 {
            self.slot_mut(slot).sort_unstable_by_key(|entry| std::cmp::Reverse(entry.row.key));
            self.unsorted[slot / PAGE] &= !bit;
        }
    }

    fn slot_mut(&mut self, slot: usize) -> &mut Vec<Entry> {
        let page = &mut self.pages[slot / PAGE];
        if page.is_empty() {
            page.resize_with(PAGE, Vec::new);
        }
        &mut page[slot % PAGE]
    }

    /// Notes whether a slot that was changed holds something.
    fn note(&mut self, slot: usize) {
        let (index, bit) = (slot / PAGE, 1 << (slot % PAGE));
        if self.pages[index].get(slot % PAGE).is_none_or(Vec::is_empty) {
            self.occupied[index] &= !bit;
            self.unsorted[index] &= !bit;
        } else {
            self.occupied[index] |= bit;
        }
        if self.occupied[index] == 0 {
            self.pages[index] = Vec::new();
        }
    }
}

fn slot_of(due: u64) -> usize {
    usize::try_from(due % WHEEL_WINDOW_MS).expect("a slot is below the window")
}
