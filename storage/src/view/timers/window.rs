//! The window: what of all pending timers is in the wheel, and how it moves on.
//!
//! A step loads what is known of every part and run up to a common key, about a thousand rows of each, so that neither a
//! start nor a jump of the clock keeps the timer thread from its other work.

use base::Timestamp;
use base::limits::WHEEL_WINDOW_MS;

use super::row::{Entry, Key};
use super::run::NotRead;
use super::{Timer, Timers};

/// Rows of a part that one step loads.
const STEP: usize = 1000;
/// More than this is not kept before the window: then it starts over where the first of them is due.
const PAST_MAX: usize = 65_536;

impl Timers {
    /// Moves up to `max` timers that are due to `deciding`.
    pub fn take_due(&mut self, now: Timestamp, max: usize) -> Vec<Timer> {
        self.resolve_strays();
        let mut due = Vec::new();
        self.take_past(now, max, &mut due);
        while due.len() < max {
            match self.wheel.next_due() {
                Some(near) => {
                    // What the window reaches by this lies behind everything in it, so nothing is passed over.
                    self.wheel.advance(self.wheel.start().max(near.min(now.0.saturating_add(1))));
                    if near > now.0 {
                        break;
                    }
                    self.wheel.take(near, max - due.len(), &mut due);
                }
                None if self.reach(now) => {}
                None => break,
            }
        }
        self.fill();
        debug_assert!(due.iter().all(|entry| entry.row.key.due() <= now), "T2");
        for entry in &due {
            let earlier = self.deciding.insert(entry.row.key.origin(), *entry);
            assert!(earlier.is_none(), "T1: {:?} is in two places", entry.row.key);
        }
        due.iter().map(|entry| entry.row.timer()).collect()
    }

    /// When to look again, at the latest; earlier than the next due time when more has to be read to know it.
    pub fn next_due(&self) -> Option<Timestamp> {
        let past = self.past.first_key_value().map(|(key, _)| key.due());
        let near = self.wheel.next_due().map(Timestamp);
        past.into_iter().chain(near).chain(self.first_far().map(Key::due)).min()
    }

    /// Whether the window is still being filled: the sooner it is called again, the better.
    pub fn is_behind(&self) -> bool {
        self.is_filling
    }

    /// Whether anything is due and not being decided; and since when.
    pub fn oldest_overdue(&self, now: Timestamp) -> Option<Timestamp> {
        self.next_due().filter(|due| *due <= now)
    }

    /// Puts a timer where it waits.
    pub(super) fn place(&mut self, entry: Entry) {
        let key = entry.row.key;
        if key.due().0 < self.wheel.start() {
            self.past.insert(key, entry);
            if self.past.len() > PAST_MAX {
                self.start_over();
            }
        } else if key < self.horizon {
            self.wheel.push(entry);
            self.shed();
        }
    }

    /// Takes a timer out of where it waits, if it waits in memory.
    pub(super) fn unplace(&mut self, key: Key) -> Option<Entry> {
        if key.due().0 < self.wheel.start() {
            return self.past.remove(&key);
        }
        if key < self.horizon { self.wheel.remove(key) } else { None }
    }

    /// What could not be read when its time came may be readable now.
    pub(super) fn retry_unreadable(&mut self) {
        let mut found = Vec::new();
        self.runs.iter_mut().for_each(|run| run.retry(self.horizon, &mut found));
        found.into_iter().for_each(|entry| self.place_again(entry));
    }

    /// Puts a timer where it waits, unless it is there or somebody decides about it.
    pub(super) fn place_again(&mut self, entry: Entry) {
        if self.is_waiting(&entry) {
            self.unplace(entry.row.key);
            self.place(entry);
        }
    }

    /// More came than the wheel may hold: its window ends earlier.
    fn shed(&mut self) {
        if self.wheel.len() > self.bounds.wheel
            && let Some(first) = self.wheel.shed(self.bounds.wheel / 2)
        {
            self.horizon = first;
            self.is_filling = false;
            self.runs.iter_mut().for_each(super::run::Run::rewind);
        }
    }

    fn start_over(&mut self) {
        let first = self.past.first_key_value().map_or(self.horizon, |(key, _)| *key);
        self.past.clear();
        self.wheel.reset(first.due().0);
        self.horizon = Key::at(first.due().0);
        self.is_filling = true;
        self.runs.iter_mut().for_each(super::run::Run::rewind);
    }

    /// What the window has passed: all of it comes before anything in the wheel.
    fn take_past(&mut self, now: Timestamp, max: usize, due: &mut Vec<Entry>) {
        while due.len() < max {
            let Some(first) = self.past.first_entry().filter(|first| first.key().due() <= now) else { break };
            due.push(first.remove());
        }
    }

    /// The wheel is empty: moves the window on to `now`, or to what is due first if that is earlier. False when nothing
    /// more can be due.
    fn reach(&mut self, now: Timestamp) -> bool {
        self.runs.iter_mut().for_each(|run| run.prepare(self.horizon));
        let first = self.first_far();
        let reached = first.map_or(now.0.saturating_add(1), |key| key.due().0.min(now.0.saturating_add(1)));
        self.wheel.advance(self.wheel.start().max(reached));
        self.horizon = self.horizon.max(Key::at(self.wheel.start()));
        let end = Key::at(self.wheel.end());
        if first.is_none_or(|first| first >= end) {
            self.horizon = self.horizon.max(end);
            return false;
        }
        self.step();
        true
    }

    /// Brings what the window has reached into the wheel, a step of it.
    fn fill(&mut self) {
        let (wheel, start) = (self.wheel.len(), self.wheel.start());
        if !self.is_filling {
            self.is_filling = self.horizon < Key::at(start + WHEEL_WINDOW_MS / 2) && wheel <= self.bounds.wheel / 4;
        }
        if self.is_filling {
            if self.horizon < Key::at(self.wheel.end()) && wheel < self.bounds.wheel / 2 {
                self.step();
            }
            let is_whole = self.horizon >= Key::at(self.wheel.end());
            self.is_filling = !is_whole && self.wheel.len() < self.bounds.wheel / 2;
        }
    }

    fn step(&mut self) {
        let mut bound = Key::at(self.wheel.end());
        for run in &mut self.runs {
            run.prepare(self.horizon);
            bound = run.known_until().map_or(bound, |known| known.min(bound));
        }
        for part in &self.parts {
            bound = part.key_ahead(self.horizon, STEP).map_or(bound, |key| key.min(bound));
        }
        let mut loaded = Vec::new();
        self.runs.iter_mut().for_each(|run| run.take_below(bound, &mut loaded));
        for part in &self.parts {
            loaded.extend(part.from(self.horizon).take_while(|entry| entry.row.key < bound));
        }
        for entry in loaded {
            if self.is_waiting(&entry) {
                self.wheel.push(entry);
            }
        }
        assert!(bound >= self.horizon, "T1: the horizon goes back");
        self.horizon = bound;
    }

    /// Whether nobody decides about it.
    fn is_waiting(&self, entry: &Entry) -> bool {
        self.deciding.get(&entry.row.key.origin()).is_none_or(|other| other.row.key != entry.row.key)
    }

    /// The first one that is not in the window yet, as far as that is known without reading.
    fn first_far(&self) -> Option<Key> {
        let young = self.parts.iter().filter_map(|part| part.key_ahead(self.horizon, 0));
        let in_runs = self.runs.iter().filter_map(|run| match run.peek() {
            Ok(first) => first,
            Err(NotRead) => Some(self.horizon),
        });
        young.chain(in_runs).min()
    }
}
