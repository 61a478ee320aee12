//! How fast refusals come.
//!
//! To refuse costs up to half of what it costs to do: a worker that refuses all it cannot do, to clients that try again at
//! once, gets to do nothing. So a worker has so many refusals to give in each span of time. When they are given, a
//! connection that would need more of them is read no further until the span is over. And the turns in which the worker
//! reads its connections are halved, and grow again slowly, until they bring no more than can be done: what is asked for
//! beyond that waits in the clients' buffers, and costs nothing. Turns are the same for all, so that no connection gets
//! more than another.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base::limits::{REFUSALS_OF_SPAN, SPAN_MS, TURN_BYTES_MAX, TURN_BYTES_MIN};

use crate::runtime;

/// Turns are doubled when for so many spans no connection was paused.
const SPANS_OF_DOUBLING: u64 = 25;
const HALVINGS_MAX: u32 = (TURN_BYTES_MAX / TURN_BYTES_MIN).ilog2();

static BEGINNING: LazyLock<Instant> = LazyLock::new(runtime::now);

thread_local! {
    static WORKER: Cell<Worker> = const { Cell::new(Worker { refused_in: 0, refusals: 0, paused_in: 0, halvings: 0 }) };
}

/// What a worker has refused, and how it reads.
#[derive(Clone, Copy)]
struct Worker {
    refused_in: u64,
    /// In that span.
    refusals: u32,
    /// The last span in which a connection was paused.
    paused_in: u64,
    /// Of turns, as they were then.
    halvings: u32,
}

impl Worker {
    fn halvings(self, span: u64) -> u32 {
        let doublings = span.saturating_sub(self.paused_in) / SPANS_OF_DOUBLING;
        self.halvings.saturating_sub(u32::try_from(doublings).unwrap_or(u32::MAX))
    }

    fn refusals(self, span: u64) -> u32 {
        if self.refused_in == span { self.refusals } else { 0 }
    }
}

/// The number of the span in which `now` lies; none has 0.
pub(super) fn span(now: Instant) -> u64 {
    1 + ms(now) / SPAN_MS
}

/// For how much longer a connection is paused that was so in this span.
pub(super) fn rest(paused_in: u64, now: Instant) -> Option<Duration> {
    let rest = || Duration::from_millis((paused_in * SPAN_MS).saturating_sub(ms(now)).max(1));
    (paused_in >= span(now)).then(rest)
}

/// What a connection reads in a turn at most.
pub(super) fn turn_bytes() -> usize {
    let worker = WORKER.get();
    // Mostly there was never a pause, and no need for the time.
    if worker.halvings == 0 { TURN_BYTES_MAX } else { TURN_BYTES_MAX >> worker.halvings(span(runtime::now())) }
}

/// Whether this worker has a refusal left.
pub fn may_refuse(now: Instant) -> bool {
    WORKER.get().refusals(span(now)) < REFUSALS_OF_SPAN
}

pub(super) fn refuses(now: Instant) {
    let (worker, span) = (WORKER.get(), span(now));
    WORKER.set(Worker { refused_in: span, refusals: worker.refusals(span).saturating_add(1), ..worker });
}

/// Called when a connection is paused.
pub(super) fn pauses(now: Instant) {
    let (worker, span) = (WORKER.get(), span(now));
    if worker.paused_in != span {
        let halvings = (worker.halvings(span) + 1).min(HALVINGS_MAX);
        WORKER.set(Worker { paused_in: span, halvings, ..worker });
    }
}

fn ms(now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(*BEGINNING).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_millis(SPAN_MS);

    #[test]
    fn a_worker_has_so_many_refusals_in_a_span_and_as_many_in_the_next() {
        let start = *BEGINNING + SPAN;
        for number in 0..3 {
            let now = start + SPAN * number;
            let given = (0..1000).take_while(|_| may_refuse(now)).map(|_| refuses(now)).count();
            assert_eq!(given, REFUSALS_OF_SPAN as usize);
            assert!(!may_refuse(now + SPAN - Duration::from_millis(1)), "the same span");
        }
    }

    #[test]
    fn a_pause_ends_with_its_span() {
        let start = *BEGINNING + SPAN * 7 + Duration::from_millis(5);
        let at = |ms| rest(span(start), start + Duration::from_millis(ms));
        assert_eq!(at(0), Some(Duration::from_millis(SPAN_MS - 5)));
        assert_eq!(at(SPAN_MS - 6), Some(Duration::from_millis(1)));
        assert_eq!([at(SPAN_MS - 5), at(3_600_000), rest(0, start)], [None; 3]);
    }

    #[test]
    fn turns_are_halved_once_in_a_span_of_pauses_and_doubled_when_there_were_none_for_long() {
        let halvings = |now| WORKER.get().halvings(span(now));
        let start = *BEGINNING + SPAN;
        let mut now = start;
        for expected in [1, 2, 3, 4, 4, 4] {
            (0..9).for_each(|_| pauses(now));
            assert_eq!(halvings(now), expected);
            now += SPAN;
        }
        let last = now - SPAN;
        let later = |spans: u64| last + SPAN * u32::try_from(spans).unwrap();
        let after = [24, 25, 50, 75, 100, 1000].map(|spans| halvings(later(spans)));
        assert_eq!(after, [4, 3, 2, 1, 0, 0]);
        pauses(later(50));
        assert_eq!(halvings(later(50)), 3, "half of what had grown");
    }
}
