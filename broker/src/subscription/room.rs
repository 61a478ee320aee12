//! What all subscriptions together may hold ahead of their polls: one pool, and a fair share of it for each.
//!
//! A subscription may hold at most as much as is still free, as connections do with `limits.memory`: one alone gets all
//! that it may hold, `n` that want more than there is get an (n + 1)th each, and who comes next finds as much. Who gets
//! nothing has its messages read when they are handed out, and asks again with the next ones: nobody waits for room.
//!
//! R1. What is held never exceeds the limit.
//! R2. Everything held is given back exactly once, by a drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::limits::*;

/// A handle of the pool. No lock: workers share one counter.
#[derive(Debug, Clone)]
pub struct Room(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    limit: u64,
    used: AtomicU64,
}

/// Room that is taken, until dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: Room,
    bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self::new(READ_AHEAD_OF_ALL_BYTES_MAX)
    }
}

impl Room {
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Pool { limit, used: AtomicU64::new(0) }))
    }

    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// How much one that holds `own` may hold in all, as things are; 0: so little that it is not worth a read.
    pub(super) fn share(&self, own: u64) -> u64 {
        self.share_beside(own, self.used())
    }

    fn share_beside(&self, own: u64, used: u64) -> u64 {
        // Of what is free and its own, half: then it holds as much as is left.
        let share = (self.0.limit.saturating_sub(used) + own) / 2;
        if share < READ_AHEAD_BYTES_MIN { 0 } else { share.min(READ_AHEAD_BYTES_MAX) }
    }

    /// Takes what is left of its share to one that holds `own`, if there is any.
    pub(super) fn take(&self, own: u64) -> Option<Held> {
        let left = |used| self.share_beside(own, used).saturating_sub(own);
        let taken = |used| Some(left(used)).filter(|left| *left > 0).map(|left| used + left);
        let before = self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        let bytes = left(before);
        assert!(before + bytes <= self.0.limit, "R1: {bytes} beside {before}");
        Some(Held { room: self.clone(), bytes })
    }

    fn give_back(&self, bytes: u64) {
        let before = self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "R2: {bytes} of {before} are given back");
    }
}

impl Held {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the others back.
    pub(super) fn keep(&mut self, bytes: u64) {
        assert!(bytes <= self.bytes, "R1: {bytes} of {}", self.bytes);
        self.room.give_back(self.bytes - bytes);
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of `count` takes all that it may, in turns, until nobody gets any more: what each has then.
    fn shares(room: &Room, count: usize) -> Vec<u64> {
        let mut held: Vec<Vec<Held>> = (0..count).map(|_| Vec::new()).collect();
        let mut taken = 0;
        loop {
            let own = |of: &[Held]| of.iter().map(Held::bytes).sum::<u64>();
            for of in &mut held {
                if let Some(mut more) = room.take(own(of)) {
                    // Little by little, as jobs do.
                    more.keep(more.bytes().min(READ_AHEAD_BYTES_MIN / 4));
                    of.push(more);
                }
                assert!(room.used() <= room.limit(), "R1");
            }
            if room.used() == taken {
                return held.iter().map(|of| own(of)).collect();
            }
            taken = room.used();
        }
    }

    #[test]
    fn one_alone_gets_all_that_it_may_hold_and_many_get_equal_parts_which_leave_one_for_the_next() {
        let room = Room::new(4 * READ_AHEAD_BYTES_MAX);
        assert_eq!(shares(&room, 1), [READ_AHEAD_BYTES_MAX]);
        assert_eq!(shares(&room, 3), [READ_AHEAD_BYTES_MAX; 3], "as if they were alone");
        assert_eq!(room.used(), 0, "R2");
        let part = room.limit() / 10;
        let of_nine = shares(&room, 9);
        assert!(
            of_nine.iter().all(|share| share.abs_diff(part) <= READ_AHEAD_BYTES_MIN),
            "{of_nine:?}, not {part} each"
        );
    }

    #[test]
    fn very_many_never_hold_more_than_the_limit_and_who_gets_too_little_gets_nothing() {
        let room = Room::new(2 * READ_AHEAD_BYTES_MAX);
        let of_all = shares(&room, 1000);
        assert!(of_all.iter().all(|share| *share <= 2 * READ_AHEAD_BYTES_MIN), "{of_all:?}");
        assert!(of_all.contains(&0), "less than a read each");
        let held = of_all.iter().sum::<u64>();
        assert!(held <= room.limit() && held > room.limit() - 2 * READ_AHEAD_BYTES_MIN, "{held} of {}", room.limit());
        assert_eq!(room.used(), 0, "R2");
    }
}
