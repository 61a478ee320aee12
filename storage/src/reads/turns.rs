//! Whose read comes next. Pure: the time is told, reads are whatever they are.
//!
//! Two lines: those who keep up, and those far behind. In each, askers take turns, one read at a time, whatever the number
//! of reads that one of them waits for.
//!
//! T1. Whoever waits is served: an asker's next read comes after at most one read of every other asker of its line, and of
//!     `READS_LIVE_IN_A_ROW_MAX + 1` reads at least one is of the line behind, when its budget allows.
//! T2. Those far behind read no more than their budget, all of them together.
//! T3. What is admitted is counted until it is released.

use std::collections::VecDeque;

use base::limits::*;
use base::{GroupId, TopicId};
use hashbrown::HashMap;

/// Who wants to read: the unit of fairness and of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// Peeks, recalls, checks of transactions.
    LookUp,
    /// A group that consumes a topic.
    Subscription(GroupId, TopicId),
}

/// Which line an asker waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A few records, and somebody waits for them.
    Live,
    /// Many records that left the tail cache long ago.
    Behind,
}

/// Records and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub records: usize,
    pub bytes: u64,
}

#[derive(Debug)]
pub struct Turns<R> {
    live: Line<R>,
    behind: Line<R>,
    /// Reads of `live` since the last one of `behind` that could have been one of `behind`.
    live_in_a_row: u32,
    /// Bytes a second that those behind may read; none = as fast as they can.
    budget: Option<u64>,
    /// When the budget allows the next read.
    behind_at_ns: u64,
    outstanding: HashMap<Asker, Amount>,
    all: Amount,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<R> {
    Read(R),
    /// Nothing before this time.
    At(u64),
    Nothing,
}

#[derive(Debug)]
struct Line<R> {
    askers: VecDeque<Asker>,
    /// Reads with their bytes.
    reads: HashMap<Asker, VecDeque<(u64, R)>>,
}

impl<R> Line<R> {
    fn push(&mut self, asker: Asker, bytes: u64, read: R) {
        let reads = self.reads.entry(asker).or_default();
        if reads.is_empty() {
            self.askers.push_back(asker);
        }
        reads.push_back((bytes, read));
    }

    fn pop(&mut self) -> Option<(u64, R)> {
        let asker = self.askers.pop_front()?;
        let reads = self.reads.get_mut(&asker).expect("who has a turn waits for a read");
        let read = reads.pop_front().expect("who has a turn waits for a read");
        if reads.is_empty() {
            self.reads.remove(&asker);
        } else {
            self.askers.push_back(asker);
        }
        Some(read)
    }
}

impl<R> Turns<R> {
    pub fn new(budget: Option<u64>) -> Self {
        let line = || Line { askers: VecDeque::new(), reads: HashMap::new() };
        let (live, behind) = (line(), line());
        let (outstanding, all) = (HashMap::new(), Amount::default());
        Self { live, behind, live_in_a_row: 0, budget, behind_at_ns: 0, outstanding, all }
    }

    /// Counts a job in. False when the asker, or all together, have as much outstanding as they may.
    pub fn admit(&mut self, asker: Asker, job: Amount) -> bool {
        let own = self.outstanding.get(&asker).copied().unwrap_or_default();
        let is_full = own.records >= READS_OF_ONE_MAX
            || own.bytes >= READS_OF_ONE_BYTES_MAX
            || self.all.records >= READS_MAX
            || self.all.bytes >= READS_BYTES_MAX;
        if is_full {
            return false;
        }
        let own = self.outstanding.entry(asker).or_default();
        for amount in [own, &mut self.all] {
            amount.records += job.records;
            amount.bytes += job.bytes;
        }
        true
    }

    /// A job that was admitted is over.
    pub fn release(&mut self, asker: Asker, job: Amount) {
        let own = self.outstanding.get_mut(&asker).expect("T3: what is released was admitted");
        for amount in [&mut *own, &mut self.all] {
            assert!(amount.records >= job.records && amount.bytes >= job.bytes, "T3: {amount:?} without {job:?}");
            amount.records -= job.records;
            amount.bytes -= job.bytes;
        }
        if *own == Amount::default() {
            self.outstanding.remove(&asker);
        }
    }

    /// One read of an admitted job waits for its turn.
    pub fn wait(&mut self, asker: Asker, urgency: Urgency, bytes: u64, read: R) {
        match urgency {
            Urgency::Live => self.live.push(asker, bytes, read),
            Urgency::Behind => self.behind.push(asker, bytes, read),
        }
    }

    pub fn next(&mut self, now_ns: u64) -> Turn<R> {
        let may_behind = !self.behind.askers.is_empty() && self.behind_at_ns <= now_ns;
        let is_their_turn = self.live.askers.is_empty() || self.live_in_a_row >= READS_LIVE_IN_A_ROW_MAX;
        if may_behind && is_their_turn {
            return self.next_behind(now_ns);
        }
        if let Some((_, read)) = self.live.pop() {
            self.live_in_a_row = if may_behind { self.live_in_a_row + 1 } else { 0 };
            return Turn::Read(read);
        }
        if self.behind.askers.is_empty() { Turn::Nothing } else { Turn::At(self.behind_at_ns) }
    }

    fn next_behind(&mut self, now_ns: u64) -> Turn<R> {
        self.live_in_a_row = 0;
        let (bytes, read) = self.behind.pop().expect("somebody behind waits");
        if let Some(budget) = self.budget {
            // A read is paid for afterwards, so that one that is larger than any savings goes too.
            let ns = u128::from(bytes) * 1_000_000_000 / u128::from(budget.max(1));
            self.behind_at_ns = now_ns.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX));
        }
        Turn::Read(read)
    }

    /// Nobody saves anything any more: what waits is to be over soon.
    pub fn lift_budget(&mut self) {
        (self.budget, self.behind_at_ns) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Urgency::{Behind, Live};

    fn group(number: u32) -> Asker {
        Asker::Subscription(GroupId(number), TopicId(1))
    }

    fn all(turns: &mut Turns<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| match turns.next(0) {
            Turn::Read(read) => Some(read),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn askers_take_turns_however_much_one_of_them_wants() {
        let mut turns = Turns::new(None);
        for read in ["a1", "a2", "a3"] {
            turns.wait(group(1), Behind, 1, read);
        }
        turns.wait(group(2), Behind, 1, "b1");
        turns.wait(group(3), Behind, 1, "c1");
        assert_eq!(all(&mut turns), ["a1", "b1", "c1", "a2", "a3"], "T1");
    }

    #[test]
    fn who_keeps_up_goes_before_those_behind_but_not_for_ever() {
        let mut turns = Turns::new(None);
        turns.wait(group(1), Behind, 1, "behind");
        turns.wait(group(1), Behind, 1, "behind");
        for _ in 0..READS_LIVE_IN_A_ROW_MAX + 1 {
            turns.wait(group(2), Live, 1, "live");
        }
        let order = all(&mut turns);
        let expected = [vec!["live"; READS_LIVE_IN_A_ROW_MAX as usize], vec!["behind", "live", "behind"]].concat();
        assert_eq!(order, expected, "T1");
    }

    #[test]
    fn those_behind_keep_their_budget_and_it_holds_nobody_else_up() {
        let mut turns = Turns::new(Some(1_000));
        turns.wait(group(1), Behind, 500, "first");
        turns.wait(group(2), Behind, 10, "second");
        assert_eq!(turns.next(7), Turn::Read("first"));
        let allowed = 7 + 500_000_000;
        assert_eq!(turns.next(7), Turn::At(allowed), "T2: of all of them together");
        turns.wait(group(3), Live, 1 << 20, "live");
        assert_eq!(turns.next(8), Turn::Read("live"));
        assert_eq!(turns.next(allowed - 1), Turn::At(allowed), "T2");
        assert_eq!(turns.next(allowed), Turn::Read("second"));
        assert_eq!(turns.next(allowed), Turn::Nothing);
    }

    #[test]
    fn a_lifted_budget_holds_nothing_back() {
        let mut turns = Turns::new(Some(1));
        turns.wait(group(1), Behind, 500, "first");
        turns.wait(group(1), Behind, 500, "second");
        assert_eq!(turns.next(0), Turn::Read("first"));
        turns.lift_budget();
        assert_eq!(turns.next(0), Turn::Read("second"));
    }

    #[test]
    fn an_asker_that_has_all_it_may_is_refused_and_others_are_not_until_all_is_used() {
        let (half, tiny) = (Amount { records: READS_OF_ONE_MAX / 2, bytes: 1 }, Amount { records: 1, bytes: 1 });
        let mut turns = Turns::<()>::new(None);
        for asker in (1..=4).map(group) {
            assert!(turns.admit(asker, half) && turns.admit(asker, half));
            assert!(!turns.admit(asker, tiny), "its own limit");
        }
        assert!(!turns.admit(group(5), tiny), "everybody's limit");
        turns.release(group(1), half);
        assert!(turns.admit(group(5), tiny) && turns.admit(group(1), tiny));
        let large = Amount { records: 1, bytes: READS_OF_ONE_BYTES_MAX };
        turns.release(group(2), half);
        assert!(
            turns.admit(group(2), large) && !turns.admit(group(2), tiny),
            "bytes count too, and one job may exceed"
        );
    }
}
