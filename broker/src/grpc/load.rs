//! How much work there is, and whether more is taken: sends at work by count and bytes, and how long they wait.
//!
//! A burst is taken: it is worked off before anybody notices. A wait that stands means that more is offered than can be
//! done, and then what is taken only makes all of it late: so sends are refused until the wait is short again.
//! Connections with few sends at work are left out of that, so that one client's flood is not another's refusal.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base::limits::{SENDS_BUSY, SENDS_BUSY_BYTES, SENDS_OF_ONE_MIN};
use serve::admission::Overload;

/// A wait stands when it was too long in so many spans in a row, and is over when it was not in as many.
const SPANS: u8 = 5;
const SPAN: Duration = Duration::from_millis(20);

thread_local! {
    static WAITS: RefCell<Waits> = RefCell::default();
}

/// Sends at work, of all connections.
#[derive(Debug)]
pub(super) struct Load {
    sends: AtomicUsize,
    bytes: AtomicUsize,
    sends_max: usize,
    wait_max: Duration,
}

/// Those of one connection.
#[derive(Debug)]
pub(super) struct OfOne {
    load: Arc<Load>,
    sends: AtomicUsize,
}

/// A send at work, until dropped.
#[derive(Debug)]
pub(super) struct Send {
    one: Arc<OfOne>,
    arrived: Instant,
    bytes: usize,
}

/// Waits of one worker: for the worker itself, and for the log writer.
#[derive(Debug, Default)]
struct Waits {
    of_worker: Standing,
    of_writer: Standing,
}

/// Whether a wait is too long for more than a moment.
#[derive(Debug, Default)]
struct Standing {
    span_ends: Option<Instant>,
    most: Duration,
    level: u8,
    is_standing: bool,
}

impl Load {
    pub(super) fn new(sends_max: usize, wait_max: Duration) -> Arc<Self> {
        Arc::new(Self { sends: AtomicUsize::new(0), bytes: AtomicUsize::new(0), sends_max, wait_max })
    }

    pub(super) fn of_one(self: &Arc<Self>) -> Arc<OfOne> {
        Arc::new(OfOne { load: self.clone(), sends: AtomicUsize::new(0) })
    }
}

impl OfOne {
    /// A send that has just arrived. At most as many of one connection as others have left free.
    pub(super) fn send(self: &Arc<Self>, now: Instant) -> Result<Send, Overload> {
        let before = self.load.sends.fetch_add(1, Ordering::AcqRel);
        let mine = self.sends.fetch_add(1, Ordering::AcqRel) + 1;
        // Counted first, so that whoever is refused leaves as everybody does.
        let send = Send { one: self.clone(), arrived: now, bytes: 0 };
        if mine > self.load.sends_max.saturating_sub(before) { Err(Overload::Calls) } else { Ok(send) }
    }
}

impl Send {
    /// Called when the worker comes to it, before it is read.
    pub(super) fn begins(&self, now: Instant) -> Result<(), Overload> {
        let (load, waited) = (&self.one.load, now.saturating_duration_since(self.arrived));
        let is_standing = WAITS.with_borrow_mut(|waits| waits.of_worker.note(waited, load.wait_max, now));
        let is_late = is_standing && waited >= load.wait_max;
        if is_late && self.is_one_of_many() { Err(Overload::Wait) } else { Ok(()) }
    }

    /// Called when its length is known, before more of it is read.
    pub(super) fn weighs(&mut self, bytes: usize) -> Result<(), Overload> {
        let load = &self.one.load;
        let is_writer_busy =
            load.bytes.load(Ordering::Relaxed) >= SENDS_BUSY_BYTES && load.sends.load(Ordering::Relaxed) > SENDS_BUSY;
        if is_writer_busy && self.is_one_of_many() && WAITS.with_borrow(|waits| waits.of_writer.is_standing) {
            return Err(Overload::Wait);
        }
        load.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes = bytes;
        Ok(())
    }

    /// Called when it was answered; `began`: when it was decoded.
    pub(super) fn ends(&self, began: Instant, now: Instant) {
        let waited = now.saturating_duration_since(began);
        WAITS.with_borrow_mut(|waits| waits.of_writer.note(waited, self.one.load.wait_max, now));
    }

    fn is_one_of_many(&self) -> bool {
        self.one.sends.load(Ordering::Relaxed) > SENDS_OF_ONE_MIN
    }
}

impl Drop for Send {
    fn drop(&mut self) {
        self.one.sends.fetch_sub(1, Ordering::AcqRel);
        self.one.load.sends.fetch_sub(1, Ordering::AcqRel);
        self.one.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Standing {
    /// Whether the wait stands, this one included.
    fn note(&mut self, waited: Duration, wait_max: Duration, now: Instant) -> bool {
        let ends = *self.span_ends.get_or_insert(now + SPAN);
        if now >= ends {
            let passed = now.saturating_duration_since(ends).as_millis() / SPAN.as_millis();
            if self.most >= wait_max {
                self.level = (self.level + 1).min(SPANS);
            } else {
                self.level = self.level.saturating_sub(1);
            }
            // Spans in which nothing came were quiet.
            self.level = self.level.saturating_sub(u8::try_from(passed).unwrap_or(u8::MAX));
            self.is_standing = if self.is_standing { self.level > 0 } else { self.level == SPANS };
            (self.span_ends, self.most) = (Some(now + SPAN), Duration::ZERO);
        }
        self.most = self.most.max(waited);
        self.is_standing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::metrics;

    const MAX: Duration = Duration::from_millis(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_taken_and_a_wait_that_stands_is_noticed_and_forgotten_when_it_is_over() {
        let start = metrics::now();
        let mut standing = Standing::default();
        let mut at = 0;
        let mut run = |standing: &mut Standing, span: u64, waited: u64| {
            let until = at + span;
            let mut is_standing = false;
            while at < until {
                at += 5;
                is_standing = standing.note(ms(waited), MAX, start + ms(at));
            }
            is_standing
        };
        assert!(!run(&mut standing, 1000, 4), "short waits");
        assert!(!run(&mut standing, 60, 50), "a burst");
        assert!(!run(&mut standing, 200, 0));
        assert!(run(&mut standing, 200, 50), "it stands");
        assert!(run(&mut standing, 40, 0), "not over at once");
        assert!(!run(&mut standing, 200, 0));
        assert!(run(&mut standing, 200, 50));
        assert!(!standing.note(ms(50), MAX, start + ms(at + 10_000)), "nothing came for long: that was no wait");
    }

    #[test]
    fn one_connection_gets_half_of_the_sends_at_work_and_others_find_room() {
        let load = Load::new(100, MAX);
        let now = metrics::now();
        let (hog, other) = (load.of_one(), load.of_one());
        let sends = |one: &Arc<OfOne>| -> Vec<_> { (0..1000).map_while(|_| one.send(now).ok()).collect() };
        let mut all = sends(&hog);
        assert_eq!(all.len(), 50);
        assert_eq!(hog.send(now).unwrap_err(), Overload::Calls);
        assert_eq!(sends(&other).len(), 25);
        assert_eq!((all[0].weighs(10), load.bytes.load(Ordering::Relaxed)), (Ok(()), 10));
        drop(all);
        assert_eq!((load.sends.load(Ordering::Relaxed), load.bytes.load(Ordering::Relaxed)), (0, 0));
        // The smallest inbox takes one.
        assert!(Load::new(1, MAX).of_one().send(now).is_ok());
    }

    #[test]
    fn while_the_wait_stands_those_with_many_sends_are_refused_and_those_with_few_are_not() {
        let load = Load::new(1000, MAX);
        let start = metrics::now();
        let (hog, other) = (load.of_one(), load.of_one());
        let of_hog: Vec<_> = (0..100).map(|_| hog.send(start).unwrap()).collect();
        let late = start + ms(300);
        for at in (10..300).step_by(10) {
            assert!(hog.send(start + ms(at)).unwrap().begins(start + ms(at + 6)).is_ok() || at > 100);
        }
        assert_eq!(of_hog[0].begins(late), Err(Overload::Wait));
        assert_eq!(hog.send(late).unwrap().begins(late + ms(1)), Ok(()), "this one did not wait");
        assert_eq!(other.send(start).unwrap().begins(late + ms(2)), Ok(()));
        drop(of_hog);
    }

    #[test]
    fn a_slow_writer_is_kept_busy_and_no_more() {
        let load = Load::new(1000, MAX);
        let start = metrics::now();
        let hog = load.of_one();
        let mut many: Vec<_> = (0..SENDS_BUSY * 2).map(|_| hog.send(start).unwrap()).collect();
        for at in (0..300).step_by(10) {
            many[0].ends(start, start + ms(at + 10));
        }
        let mut taken = 0;
        while taken < 100 && many[1].weighs(SENDS_BUSY_BYTES / 4).is_ok() {
            // Only the last one's bytes are given back by this test's drops.
            taken += 1;
            many[1].bytes = 0;
        }
        assert_eq!(taken, 4);
        assert!(load.of_one().send(start).unwrap().weighs(1).is_ok(), "others have few");
    }
}
