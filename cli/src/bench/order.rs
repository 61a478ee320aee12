//! `bench order`: messages of many keys in order, and a check of every one.
//!
//! A key belongs to one lane of one thread, which sends its next message when the one before was answered: the order of
//! sending is beyond doubt. What comes back is checked in one place for all threads, before it is settled.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use client::{NewMessage, Producer, SimpleConsumer};
use futures_util::future::join;

use super::consume::{Delivery, consume};
use super::cost::Meter;
use super::engine::{Pace, Run, Scenario, Seat, Until, all};
use super::report::Report;
use super::setup::{Place, consumers, prepare, prime, producers};
use super::stamp::{Bodies, Stamp};
use super::{Load, Receiving, at_least_one, engine, fill};
use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::runtime;
use crate::values::TopicType;

const KEYS_DEFAULT: u32 = 1000;
const IDLE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    receiving: Receiving,
    /// Receive calls at once, in all.
    #[arg(long, default_value = "8", value_parser = at_least_one, value_name = "N")]
    receivers: usize,
}

/// The next sequence number that each key must bring.
#[derive(Debug)]
struct Expected(Vec<u64>);

/// What a delivery means for the order of its key.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    InOrder,
    /// Seen before.
    Repeated,
    /// One before it was left out.
    OutOfOrder,
}

impl Expected {
    fn see(&mut self, key: u32, sequence: u64) -> Verdict {
        let expected = &mut self.0[key as usize];
        if sequence < *expected {
            return Verdict::Repeated;
        }
        let verdict = if sequence == *expected { Verdict::InOrder } else { Verdict::OutOfOrder };
        // One gap is told once.
        *expected = sequence + 1;
        verdict
    }
}

struct Order {
    options: Options,
    place: Place,
    /// Receive loops of all threads check here, and a key may be received by any of them: a mutex, held for a batch's
    /// worth of comparisons.
    expected: Arc<Mutex<Expected>>,
}

pub fn run(mut options: Options, target: &Target, output: &Output) -> Result<(), Failure> {
    options.load.check_stamped()?;
    if options.load.keys == 0 {
        options.load.keys = KEYS_DEFAULT;
    }
    let load = options.load.clone();
    let place = prepare(&load, target, (load.topic_or("bench-fifo"), TopicType::Fifo), Some(&options.receiving))?;
    let meter = Meter::new(load.server_pid, &target.http);
    let expected = Arc::new(Mutex::new(Expected(vec![0; load.keys as usize])));
    let scenario = Order { options, place: place.clone(), expected };
    let outcome = engine::run(scenario, &load, meter, Until::Drained { idle: IDLE })?;
    let wrong = outcome.tally.out_of_order;
    Report::new("order", &load, &place, &outcome).finish(output)?;
    match wrong {
        0 => Ok(()),
        _ => Err(Failure::new(Exit::Failed, format!("{wrong} messages were out of order"))),
    }
}

impl Order {
    /// Sends the keys of one lane in turn until the window ends. A call that failed is repeated as it was: what comes
    /// twice is known by its number.
    async fn send(&self, producer: &Producer, run: &Run, pace: &Pace, bodies: &Bodies, keys: Vec<u32>) {
        let load = &self.options.load;
        let mut next: Vec<(u32, u64)> = keys.into_iter().map(|key| (key, 0)).collect();
        for turn in 0.. {
            let lane_key = turn % next.len();
            let (key, first) = next[lane_key];
            let (_, from) = pace.turn().await;
            let _under_way = run.sending();
            if runtime::now() >= run.window.end {
                return;
            }
            let (time_us, is_measured) = (run.stamp_us(from), from >= run.window.measured_from);
            let message = |sequence: u64| {
                let stamp = Stamp { run: run.shared.id, time_us, key, is_measured, sequence };
                NewMessage::new(self.place.topic.as_str(), bodies.stamped(stamp)).message_group(fill::group(key))
            };
            let batch = first..first + load.batch as u64;
            let mut left = runtime::now();
            while let Err(error) = fill::call(producer, batch.clone().map(message).collect()).await {
                run.tally.borrow_mut().error("send", &error);
                if runtime::now() >= run.window.end {
                    return;
                }
                runtime::wait(fill::PAUSE).await;
                left = runtime::now();
            }
            run.sent(from, left, load.batch);
            next[lane_key].1 = batch.end;
        }
    }

    fn see(&self, run: &Run, delivery: &Delivery) {
        let stamp = delivery.stamp;
        let verdict = self.expected.lock().expect("no thread died while it compared").see(stamp.key, stamp.sequence);
        let mut tally = run.tally.borrow_mut();
        match verdict {
            Verdict::InOrder => {}
            Verdict::Repeated => tally.repeated += 1,
            Verdict::OutOfOrder => tally.out_of_order += 1,
        }
        if stamp.is_measured {
            let latency_us = run.stamp_us(delivery.at).saturating_sub(stamp.time_us);
            tally.deliver.record(Duration::from_micros(latency_us), 1);
        }
        if run.window.is_measured(delivery.at) {
            tally.deliver.messages += 1;
        }
    }
}

/// The keys of each lane of a thread: every key is in exactly one lane of all threads.
fn keys_of_lanes(seat: Seat, in_flight: usize, keys: u32) -> Vec<Vec<u32>> {
    let lanes = in_flight.min(keys as usize).max(1);
    let of_lane = |lane: usize| (0..keys).filter(|&key| key as usize % lanes == lane).collect();
    (0..lanes).filter(|lane| lane % seat.threads == seat.index).map(of_lane).collect()
}

impl Scenario for Order {
    type Connected = (Vec<Producer>, Vec<SimpleConsumer>);

    async fn connect(&self, seat: Seat) -> Result<Self::Connected, Failure> {
        let Options { load, receiving, .. } = &self.options;
        let connections = seat.share(load.connections);
        let consumers = consumers(&self.place, &receiving.consumer_group, connections).await?;
        prime(&consumers[0], receiving).await?;
        Ok((producers(&self.place, connections).await?, consumers))
    }

    async fn drive(&self, (producers, consumers): Self::Connected, run: &Run) {
        let Options { load, receiving, receivers } = &self.options;
        let bodies = Bodies::of(load.size);
        let calls = load.rate.map(|rate| rate / load.batch as f64 / run.seat.threads as f64);
        let pace = Pace::new(run.window.start, calls);
        let seen = |delivery: &Delivery| self.see(run, delivery);
        let lanes = keys_of_lanes(run.seat, load.in_flight(), load.keys);
        let send = |(index, keys): (usize, Vec<u32>)| {
            self.send(&producers[index % producers.len()], run, &pace, &bodies, keys)
        };
        let receive = |index: usize| consume(&consumers[index % consumers.len()], run, receiving, &seen);
        let receivers = run.seat.share(*receivers).max(1);
        join(all(lanes.into_iter().enumerate().map(send)), all((0..receivers).map(receive))).await;
        run.tally.borrow_mut().unsent += pace.missed(run.window.end) * load.batch as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_told_once_and_a_repetition_is_no_gap() {
        let mut expected = Expected(vec![0; 2]);
        let verdicts = [(0, 0), (1, 0), (0, 1), (0, 1), (0, 3), (0, 4), (0, 2)].map(|(k, s)| expected.see(k, s));
        use Verdict::{InOrder, OutOfOrder, Repeated};
        assert_eq!(verdicts, [InOrder, InOrder, InOrder, Repeated, OutOfOrder, InOrder, Repeated]);
    }

    #[test]
    fn every_key_is_in_one_lane_of_one_thread() {
        for (threads, in_flight, keys) in [(1, 64, 10), (3, 7, 100), (4, 2, 9)] {
            let mut all: Vec<u32> = (0..threads)
                .flat_map(|index| keys_of_lanes(Seat { index, threads }, in_flight, keys))
                .flatten()
                .collect();
            all.sort_unstable();
            assert_eq!(all, (0..keys).collect::<Vec<_>>());
        }
    }
}
