//! How much work there is, and whether more is taken: sends at work by count and bytes, and how long they wait.
//!
//! A burst is taken: it is worked off before anybody notices. A wait that stands means that more is offered than can be
//! done, and then what is taken only makes all of it late: so while it stands, no more than a worker does in such a wait
//! stands in its line. What comes beyond that is refused before it waits, as many as a worker has to give
//! (`serve::admission::pace`), and then not read. Of the line, too, a connection gets what all others leave free.
//! Connections with few sends at work are left out of that, so that one client's flood is not another's refusal.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base::limits::{LINE_MIN, SENDS_BUSY, SENDS_BUSY_BYTES, SENDS_OF_ONE_MIN, SPAN_MS};
use serve::admission::{Overload, Share, pace};

/// A wait stands when it was too long in so many spans in a row, and is over when it was not in as many.
const SPANS: u8 = 5;
const SPAN: Duration = Duration::from_millis(SPAN_MS);

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
    share: Share,
    sends: AtomicUsize,
    /// Those of them that stand in line.
    in_line: AtomicUsize,
}

/// A send at work, until dropped.
#[derive(Debug)]
pub(super) struct Send {
    one: Arc<OfOne>,
    arrived: Instant,
    is_in_line: bool,
    bytes: usize,
}

/// Waits of one worker: for the worker itself, and for the log writer.
#[derive(Debug, Default)]
struct Waits {
    of_worker: Standing,
    of_writer: Standing,
    line: Line,
}

/// Sends that stand before one worker.
#[derive(Debug, Default)]
struct Line {
    length: usize,
    /// How many it has come to in this span, and in the one before.
    done: usize,
    done_before: usize,
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

    pub(super) fn of_one(self: &Arc<Self>, share: Share) -> Arc<OfOne> {
        Arc::new(OfOne { load: self.clone(), share, sends: AtomicUsize::new(0), in_line: AtomicUsize::new(0) })
    }
}

impl OfOne {
    /// A send that has just arrived. At most as many of one connection as others have left free.
    pub(super) fn send(self: &Arc<Self>, now: Instant) -> Result<Send, Overload> {
        let before = self.load.sends.fetch_add(1, Ordering::AcqRel);
        let mine = self.sends.fetch_add(1, Ordering::AcqRel) + 1;
        // Counted first, so that whoever is refused leaves as everybody does.
        let mut send = Send { one: self.clone(), arrived: now, is_in_line: false, bytes: 0 };
        if mine > self.load.sends_max.saturating_sub(before) {
            return Err(self.refuses(Overload::Calls, now));
        }
        let in_line = self.in_line.load(Ordering::Relaxed);
        let has_its_share = |waits: &mut Waits| waits.is_line_full(in_line, self.load.wait_max, now);
        if mine > SENDS_OF_ONE_MIN && WAITS.with_borrow_mut(has_its_share) {
            if pace::may_refuse(now) {
                return Err(self.refuses(Overload::Wait, now));
            }
            // It is here already, so it is taken; those behind it have to wait.
            self.share.pause(now);
        }
        send.is_in_line = true;
        self.in_line.fetch_add(1, Ordering::Relaxed);
        WAITS.with_borrow_mut(|waits| waits.line.length += 1);
        Ok(send)
    }

    fn refuses(&self, overload: Overload, now: Instant) -> Overload {
        self.share.refused(overload, now);
        overload
    }
}

impl Send {
    /// Called when the worker comes to it, before it is read.
    pub(super) fn begins(&mut self, now: Instant) -> Result<(), Overload> {
        self.leave_line();
        let (load, waited) = (&self.one.load, now.saturating_duration_since(self.arrived));
        let is_standing = WAITS.with_borrow_mut(|waits| {
            waits.observe(waited, load.wait_max, now);
            waits.line.done += 1;
            waits.of_worker.is_standing
        });
        let is_late = is_standing && waited >= load.wait_max;
        if is_late && self.is_one_of_many() && pace::may_refuse(now) {
            return Err(self.one.refuses(Overload::Wait, now));
        }
        Ok(())
    }

    /// Called when its length is known, before more of it is read. Only a refusal needs to know what time it is.
    pub(super) fn weighs(&mut self, bytes: usize, now: impl FnOnce() -> Instant) -> Result<(), Overload> {
        let load = &self.one.load;
        let is_writer_busy =
            load.bytes.load(Ordering::Relaxed) >= SENDS_BUSY_BYTES && load.sends.load(Ordering::Relaxed) > SENDS_BUSY;
        if is_writer_busy && self.is_one_of_many() && WAITS.with_borrow(|waits| waits.of_writer.is_standing) {
            return Err(self.one.refuses(Overload::Wait, now()));
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

    fn leave_line(&mut self) {
        if std::mem::take(&mut self.is_in_line) {
            self.one.in_line.fetch_sub(1, Ordering::Relaxed);
            // A worker that ends has no line any more.
            let _has_ended = WAITS.try_with(|waits| waits.borrow_mut().line.length -= 1);
        }
    }

    fn is_one_of_many(&self) -> bool {
        self.one.sends.load(Ordering::Relaxed) > SENDS_OF_ONE_MIN
    }
}

impl Drop for Send {
    fn drop(&mut self) {
        self.leave_line();
        self.one.sends.fetch_sub(1, Ordering::AcqRel);
        self.one.load.sends.fetch_sub(1, Ordering::AcqRel);
        self.one.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Waits {
    fn observe(&mut self, waited: Duration, wait_max: Duration, now: Instant) {
        if self.of_worker.note(waited, wait_max, now) {
            self.line.done_before = std::mem::take(&mut self.line.done);
        }
    }

    /// Whether the wait stands, and a connection that has so many sends in line has its share of it. That a line is full
    /// keeps the wait standing, although nobody has waited for as long.
    fn is_line_full(&mut self, in_line: usize, wait_max: Duration, now: Instant) -> bool {
        self.observe(Duration::ZERO, wait_max, now);
        // One that gets half of it has to have a span's work.
        let wait_ms = usize::try_from(wait_max.max(2 * SPAN).as_millis()).unwrap_or(usize::MAX);
        let longest = (self.line.done_before.saturating_mul(wait_ms) / SPAN.as_millis() as usize).max(LINE_MIN);
        let is_full = self.of_worker.is_standing && in_line >= longest.saturating_sub(self.line.length);
        if is_full {
            self.observe(wait_max, wait_max, now);
        }
        is_full
    }
}

impl Standing {
    /// Whether a new span has begun with it.
    fn note(&mut self, waited: Duration, wait_max: Duration, now: Instant) -> bool {
        let ends = *self.span_ends.get_or_insert(now + SPAN);
        let is_over = now >= ends;
        if is_over {
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
        is_over
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use base::ByteSize;
    use base::limits::REFUSALS_OF_SPAN;
    use serve::admission::Budget;

    use super::*;
    use crate::grpc::metrics;

    const MAX: Duration = Duration::from_millis(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn share() -> Share {
        Budget::new(ByteSize(64 << 20), &prometheus::Registry::new()).unwrap().share()
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
                standing.note(ms(waited), MAX, start + ms(at));
                is_standing = standing.is_standing;
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
        standing.note(ms(50), MAX, start + ms(at + 10_000));
        assert!(!standing.is_standing, "nothing came for long: that was no wait");
    }

    #[test]
    fn one_connection_gets_half_of_the_sends_at_work_and_others_find_room() {
        let load = Load::new(100, MAX);
        let now = metrics::now();
        let (hog, other) = (load.of_one(share()), load.of_one(share()));
        let sends = |one: &Arc<OfOne>| -> Vec<_> { (0..1000).map_while(|_| one.send(now).ok()).collect() };
        let mut all = sends(&hog);
        assert_eq!(all.len(), 50);
        assert_eq!(hog.send(now).unwrap_err(), Overload::Calls);
        assert_eq!(sends(&other).len(), 25);
        assert_eq!((all[0].weighs(10, || now), load.bytes.load(Ordering::Relaxed)), (Ok(()), 10));
        drop(all);
        assert_eq!((load.sends.load(Ordering::Relaxed), load.bytes.load(Ordering::Relaxed)), (0, 0));
        // The smallest inbox takes one.
        assert!(Load::new(1, MAX).of_one(share()).send(now).is_ok());
    }

    #[test]
    fn while_the_wait_stands_those_with_many_sends_are_refused_and_those_with_few_are_not() {
        let load = Load::new(1000, MAX);
        let start = metrics::now();
        let (hog, other) = (load.of_one(share()), load.of_one(share()));
        let mut of_hog: Vec<_> = (0..20).map(|_| hog.send(start).unwrap()).collect();
        let late = start + ms(300);
        for at in (10..300).step_by(10) {
            assert!(hog.send(start + ms(at)).unwrap().begins(start + ms(at + 6)).is_ok() || at >= 100);
        }
        assert_eq!(of_hog[0].begins(late), Err(Overload::Wait));
        assert_eq!(hog.send(late).unwrap().begins(late + ms(1)), Ok(()), "this one did not wait");
        assert_eq!(other.send(start).unwrap().begins(late + ms(2)), Ok(()));
        drop(of_hog);
    }

    #[test]
    fn a_line_that_stands_is_not_made_longer_than_what_is_done_in_time_and_refusals_are_rationed() {
        let registry = prometheus::Registry::new();
        let budget = Budget::new(ByteSize(64 << 20), &registry).unwrap();
        let pauses = || {
            let families = registry.gather();
            let pauses = families.iter().find(|family| family.name() == "carillon_overload_pauses_total").unwrap();
            pauses.get_metric()[0].get_counter().get_value()
        };
        let (load, start) = (Load::new(100_000, MAX), metrics::now());
        let [hog, second, other] = [(); 3].map(|()| load.of_one(budget.share()));
        let mut line: VecDeque<Send> = (0..2000).map(|_| hog.send(start).unwrap()).collect();
        let mut at = start;
        let mut work = |line: &mut VecDeque<Send>, count| {
            let mut refused = 0;
            for mut first in line.drain(..count) {
                at += Duration::from_micros(100);
                refused += u32::from(first.begins(at).is_err());
            }
            (at, refused)
        };
        assert_eq!(
            (line.len(), pauses(), work(&mut line, 900).1),
            (2000, 0.0, 0),
            "nobody knows yet that it will stand"
        );
        let (_, refused) = work(&mut line, 800);
        assert!((3 * REFUSALS_OF_SPAN..=5 * REFUSALS_OF_SPAN).contains(&refused), "{refused} late ones in four spans");
        // 300 are left, and 200 are done in a span.
        let now = at + SPAN;
        let before = pauses();
        let offered: Vec<_> = (0..200).map(|_| hog.send(now)).collect();
        let refused = offered.iter().filter(|sent| sent.is_err()).count();
        assert_eq!((refused, pauses() - before), (REFUSALS_OF_SPAN as usize, 1.0), "the others had been read already");
        let of_second: Vec<_> = (0..=SENDS_OF_ONE_MIN).map(|_| second.send(now).unwrap()).collect();
        assert_eq!((of_second.len(), pauses() - before), (SENDS_OF_ONE_MIN + 1, 2.0), "taken, and not read further");
        let now = now + SPAN;
        assert_eq!(second.send(now).unwrap_err(), Overload::Wait);
        assert!(other.send(now).is_ok(), "others have few");
        drop((line, offered, of_second));
        assert!(hog.send(now).is_ok(), "the line is not full");
    }

    #[test]
    fn a_line_that_is_full_keeps_a_wait_standing_until_it_is_not() {
        let (mut waits, start) = (Waits::default(), metrics::now());
        let mut at = start;
        let mut span = |waits: &mut Waits, waited: Duration| {
            at += SPAN;
            waits.observe(waited, MAX, at);
            waits.is_line_full(LINE_MIN, MAX, at)
        };
        assert!((0..20).any(|_| span(&mut waits, MAX)), "it stands");
        assert!((0..20).all(|_| span(&mut waits, Duration::ZERO)), "nobody waits, because nobody is let in");
        waits.line.length = 0;
        let mut spans = (0..20).map(|_| {
            at += SPAN;
            waits.is_line_full(0, MAX, at)
        });
        assert!(!spans.any(|is_full| is_full), "there is room");
        assert!(!waits.of_worker.is_standing);
    }

    #[test]
    fn a_slow_writer_is_kept_busy_and_no_more() {
        let load = Load::new(1000, MAX);
        let start = metrics::now();
        let hog = load.of_one(share());
        let mut many: Vec<_> = (0..SENDS_BUSY * 2).map(|_| hog.send(start).unwrap()).collect();
        for at in (0..300).step_by(10) {
            many[0].ends(start, start + ms(at + 10));
        }
        let mut taken = 0;
        while taken < 100 && many[1].weighs(SENDS_BUSY_BYTES / 4, || start).is_ok() {
            // Only the last one's bytes are given back by this test's drops.
            taken += 1;
            many[1].bytes = 0;
        }
        assert_eq!(taken, 4);
        assert!(load.of_one(share()).send(start).unwrap().weighs(1, || start).is_ok(), "others have few");
    }
}
