//! What a run measured. Each thread has its own; they are added at the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// An hour: what takes longer is shown as that.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Different texts of errors that are kept; a run has few.
const ERRORS_MAX: usize = 32;

/// How many, and how long each took.
#[derive(Debug, Clone)]
pub struct Measure {
    /// Within the time that is measured.
    pub messages: u64,
    pub latency_us: Histogram<u64>,
}

impl Measure {
    pub fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("bounds and digits are legal");
        Self { messages: 0, latency_us }
    }

    /// The same latency for each message of a call.
    pub fn record(&mut self, latency: Duration, messages: u64) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record_n(latency_us.min(LATENCY_US_MAX), messages);
    }

    fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.latency_us.add(&other.latency_us).expect("all have the same bounds");
    }
}

#[derive(Debug, Clone)]
pub struct Tally {
    /// From when they were meant to be sent.
    pub send: Measure,
    /// The same from when they were sent: without the line of a generator that is at its `--in-flight`.
    pub send_call: Measure,
    /// Messages that the server refused because it had too much to do, and how long it took to say so.
    pub refused: Measure,
    /// From the intended send, or the due time, to the hands of the consumer.
    pub deliver: Measure,
    /// Of the receive call that brought a message.
    pub receive: Measure,
    /// Of the ack call.
    pub ack: Measure,
    pub errors: BTreeMap<String, u64>,
    /// Meant to be sent and not, as answers were too slow.
    pub unsent: u64,
    /// Delivered before they were due.
    pub early: u64,
    /// Scheduled when their time had passed: not counted in the lateness.
    pub scheduled_late: u64,
    /// Delivered although an earlier one of their key was not.
    pub out_of_order: u64,
    /// Delivered more than once.
    pub repeated: u64,
    /// Of other runs, settled and not counted.
    pub stale: u64,
    /// When the last message was settled.
    pub settled_at: Option<Instant>,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            send: Measure::new(),
            send_call: Measure::new(),
            refused: Measure::new(),
            deliver: Measure::new(),
            receive: Measure::new(),
            ack: Measure::new(),
            errors: BTreeMap::new(),
            unsent: 0,
            early: 0,
            scheduled_late: 0,
            out_of_order: 0,
            repeated: 0,
            stale: 0,
            settled_at: None,
        }
    }

    pub fn error(&mut self, what: &str, error: &client::Error) {
        let text = format!("{what}: {error}");
        let key = if self.errors.len() < ERRORS_MAX || self.errors.contains_key(&text) { text } else { what.into() };
        *self.errors.entry(key).or_default() += 1;
    }

    /// A receive call that brought messages of this run.
    pub fn receive_call(&mut self, latency: Duration, messages: u64) {
        self.receive.record(latency, messages);
        self.receive.messages += messages;
    }

    pub fn add(&mut self, other: &Self) {
        self.send.add(&other.send);
        self.send_call.add(&other.send_call);
        self.refused.add(&other.refused);
        self.deliver.add(&other.deliver);
        self.receive.add(&other.receive);
        self.ack.add(&other.ack);
        for (text, count) in &other.errors {
            *self.errors.entry(text.clone()).or_default() += count;
        }
        self.unsent += other.unsent;
        self.early += other.early;
        self.scheduled_late += other.scheduled_late;
        self.out_of_order += other.out_of_order;
        self.repeated += other.repeated;
        self.stale += other.stale;
        self.settled_at = self.settled_at.max(other.settled_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_of_threads_add_up() {
        let mut one = Tally::new();
        let mut other = Tally::new();
        one.send.record(Duration::from_millis(1), 3);
        other.send.record(Duration::from_millis(9), 1);
        (one.send.messages, other.send.messages) = (3, 1);
        (one.early, other.repeated) = (1, 2);
        other.error("send", &client::Error::Refused { code: 40_402, text: "no".into() });
        one.add(&other);
        assert_eq!((one.send.messages, one.send.latency_us.len(), one.early, one.repeated), (4, 4, 1, 2));
        assert_eq!(one.errors.into_iter().collect::<Vec<_>>(), [("send: TOPIC_NOT_FOUND: no".into(), 1)]);
    }

    #[test]
    fn a_latency_beyond_the_scale_is_the_end_of_the_scale() {
        let mut measure = Measure::new();
        measure.record(Duration::from_secs(1 << 40), 1);
        assert!(measure.latency_us.max() >= LATENCY_US_MAX);
    }
}
