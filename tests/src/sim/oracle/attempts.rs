//! How many deliveries of a message counted, by what was answered.
//!
//! Exact while everything is answered. After a crash, and for handles that are older than the present delivery, a range.

use std::collections::HashMap;

use base::QueueIndex;
use broker::subscription::Slot;

use super::must;

/// At least and at most this many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub min: u32,
    pub max: u32,
}

impl Count {
    fn exactly(number: u32) -> Self {
        Self { min: number, max: number }
    }

    fn contains(self, number: u32) -> bool {
        (self.min..=self.max).contains(&number)
    }

    fn or(self, number: u32) -> Self {
        Self { min: self.min.min(number), max: self.max.max(number) }
    }
}

#[derive(Debug, Default)]
pub struct Attempts {
    /// What the subscription counts.
    used: HashMap<Slot, Count>,
    /// What it counts after a restart: what is committed.
    durable: HashMap<Slot, Count>,
}

impl Attempts {
    pub fn used(&self, slot: Slot) -> Count {
        self.used.get(&slot).copied().unwrap_or_default()
    }

    /// Handed out, in a new batch.
    pub fn delivered(&mut self, slot: Slot, attempt: u32) {
        let used = self.used(slot);
        must!(attempt >= 1 && used.contains(attempt - 1), "attempt {attempt} of {slot:?}, of which {used:?} counted");
        self.used.insert(slot, Count::exactly(attempt));
    }

    /// Handed out again in the batch it was in (F9).
    pub fn repeated(&self, slot: Slot, attempt: u32) {
        let used = self.used(slot);
        must!(used.contains(attempt), "F9: attempt {attempt} of {slot:?} is repeated, {used:?} counted");
    }

    /// The reply was not written: the delivery does not count. Not certain when it may have ended otherwise before.
    pub fn uncounted(&mut self, slot: Slot, is_certain: bool) {
        let Count { min, max } = self.used(slot);
        let lower = min.saturating_sub(1);
        self.used.insert(slot, Count { min: lower, max: if is_certain { max.saturating_sub(1) } else { max } });
    }

    /// A handle of this attempt is used; when the process that gave it is gone, it is what is known.
    pub fn claimed(&mut self, slot: Slot, attempt: u32) {
        let used = self.used(slot);
        self.used.insert(slot, Count { max: used.max.max(attempt), ..used });
    }

    /// What is appended about a message has to be what counted, or what one of the settles under way (`claims`) says.
    pub fn check_appended(&self, slot: Slot, attempts: u32, claims: &[u32]) {
        let used = self.used(slot);
        let is_right = used.contains(attempts) || claims.contains(&attempts);
        must!(is_right, "{attempts} attempts of {slot:?} are appended; {used:?} counted, claimed are {claims:?}");
    }

    pub fn check_leased(&self, slot: Slot, attempt: u32) {
        let used = self.used(slot);
        must!(attempt >= 1 && used.contains(attempt - 1), "attempt {attempt} of {slot:?} is leased, {used:?} counted");
    }

    /// A return is committed. `is_old`: it was under way when the queue was sought.
    pub fn returned(&mut self, slot: Slot, attempts: u32, is_old: bool) {
        let count = if is_old { Count { min: 0, max: attempts } } else { Count::exactly(attempts) };
        self.used.insert(slot, count);
        self.durable.insert(slot, count);
    }

    /// A lease is committed.
    pub fn leased(&mut self, slot: Slot, attempt: u32) {
        self.durable.insert(slot, Count::exactly(attempt));
    }

    /// Nobody knows whether a return or a lease is committed.
    pub fn unknown(&mut self, slot: Slot, attempts: u32) {
        let durable = self.durable.get(&slot).copied().unwrap_or_default();
        self.durable.insert(slot, durable.or(attempts));
    }

    pub fn restarted(&mut self) {
        self.used = self.durable.clone();
    }

    /// A queue was sought: its messages begin anew.
    pub fn forget(&mut self, queue: QueueIndex) {
        self.used.retain(|(of, _), _| *of != queue);
        self.durable.retain(|(of, _), _| *of != queue);
    }
}
