//! How fast refusals come.
//!
//! To refuse costs up to half of what it costs to do: a worker that refuses all it cannot do, to clients that try again at
//! once, gets to do nothing. So a worker has so many refusals to give in each span of time. When they are given, a
//! connection that would need more of them is read no further until the span is over, and after that in turns that are
//! small and grow slowly: what it asks for waits in its client's buffers, and costs nothing.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base::limits::{REFUSALS_OF_SPAN, SPAN_MS, TURN_BYTES_MAX, TURN_BYTES_MIN};

use crate::runtime;

/// After a pause turns are doubled each time that so many spans have gone by without another.
const SPANS_OF_DOUBLING: u64 = 25;
const DOUBLINGS: u32 = (TURN_BYTES_MAX / TURN_BYTES_MIN).ilog2();

static BEGINNING: LazyLock<Instant> = LazyLock::new(runtime::now);

thread_local! {
    static WORKER: Cell<Given> = const { Cell::new(Given { span: 0, refusals: 0 }) };
}

/// Refusals of a worker in a span.
#[derive(Clone, Copy)]
struct Given {
    span: u64,
    refusals: u32,
}

/// How a connection is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Full,
    /// In small turns, which have been doubled so often.
    Wary(u32),
    /// Not until so much later.
    Paused(Duration),
}

/// The number of the span in which `now` lies; none has 0.
pub(super) fn span(now: Instant) -> u64 {
    1 + ms(now) / SPAN_MS
}

/// The pace of a connection that was paused in a span.
pub(super) fn after(paused_in: u64, now: Instant) -> Pace {
    match span(now).saturating_sub(paused_in) {
        0 => Pace::Paused(Duration::from_millis((paused_in * SPAN_MS).saturating_sub(ms(now)).max(1))),
        spans => match u32::try_from((spans - 1) / SPANS_OF_DOUBLING) {
            Ok(doublings @ ..DOUBLINGS) => Pace::Wary(doublings),
            _ => Pace::Full,
        },
    }
}

/// Whether this worker has a refusal left.
pub fn may_refuse(now: Instant) -> bool {
    given(now).refusals < REFUSALS_OF_SPAN
}

pub(super) fn refuses(now: Instant) {
    let given = given(now);
    WORKER.set(Given { refusals: given.refusals.saturating_add(1), ..given });
}

fn given(now: Instant) -> Given {
    let (given, span) = (WORKER.get(), span(now));
    if given.span == span { given } else { Given { span, refusals: 0 } }
}

fn ms(now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(*BEGINNING).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_has_so_many_refusals_in_a_span_and_as_many_in_the_next() {
        let span_long = Duration::from_millis(SPAN_MS);
        let start = *BEGINNING + span_long;
        for number in 0..3 {
            let now = start + span_long * number;
            let given = (0..1000).take_while(|_| may_refuse(now)).map(|_| refuses(now)).count();
            assert_eq!(given, REFUSALS_OF_SPAN as usize);
            assert!(!may_refuse(now + span_long - Duration::from_millis(1)), "the same span");
        }
    }

    #[test]
    fn a_pause_ends_with_its_span_and_turns_are_small_at_first() {
        let start = *BEGINNING + Duration::from_millis(7 * SPAN_MS + 5);
        let at = |ms| after(span(start), start + Duration::from_millis(ms));
        assert_eq!(at(0), Pace::Paused(Duration::from_millis(SPAN_MS - 5)));
        assert_eq!(at(SPAN_MS - 6), Pace::Paused(Duration::from_millis(1)));
        let doubling = SPANS_OF_DOUBLING * SPAN_MS;
        assert_eq!([at(SPAN_MS - 5), at(doubling - 1), at(doubling + SPAN_MS)], [0, 0, 1].map(Pace::Wary));
        assert_eq!([at(4 * doubling), at(4 * doubling + SPAN_MS)], [Pace::Wary(3), Pace::Full]);
    }
}
