//! `bench timer`: delayed messages, and how late they reach the consumer.
//!
//! Either each is sent a fixed time before it is due, or all are sent at once (`--preload`) and become due at the rate
//! afterwards. Server and load generator have to share a clock: lateness is told by the wall clock of this machine.

use std::cell::Cell;
use std::time::{Duration, Instant};

use base::Timestamp;
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
use crate::exit::Failure;
use crate::output::Output;
use crate::runtime;
use crate::values::{self, TopicType};

const RATE_DEFAULT: f64 = 1000.0;
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
    /// How long before it is due a message is sent; with --preload: before the first is due.
    #[arg(long, default_value = "5s", value_parser = values::span, value_name = "DURATION")]
    lead: Duration,
    /// Messages in all. Default: the rate times the duration.
    #[arg(long, value_parser = at_least_one, value_name = "N")]
    count: Option<usize>,
    /// Send all of them first, as fast as the server takes them.
    #[arg(long)]
    preload: bool,
}

struct Timer {
    options: Options,
    place: Place,
    rate: f64,
}

pub fn run(mut options: Options, target: &Target, output: &Output) -> Result<(), Failure> {
    options.load.check_stamped()?;
    let rate = *options.load.rate.get_or_insert(RATE_DEFAULT);
    if let Some(count) = options.count {
        options.load.duration = Duration::from_secs_f64(count as f64 / rate);
    }
    if options.preload {
        // All that is sent counts, and nothing is warm before the first is due anyway.
        options.load.warmup = Duration::ZERO;
    }
    let load = options.load.clone();
    let place = prepare(&load, target, (load.topic_or("bench-delay"), TopicType::Delay), Some(&options.receiving))?;
    let meter = Meter::new(load.server_pid, &target.http);
    let idle = options.lead + IDLE;
    let scenario = Timer { options, place: place.clone(), rate };
    let outcome = engine::run(scenario, &load, meter, Until::Drained { idle })?;
    Report::new("timer", &load, &place, &outcome).finish(output)
}

impl Timer {
    /// The due time of message `sequence` of a thread whose first is due at `first_us`.
    fn due(&self, sequence: u64, first_us: u64, threads: usize) -> Timestamp {
        let after_us = sequence as f64 * 1e6 * threads as f64 / self.rate;
        // Servers fire on milliseconds; a whole one is what they can be held to.
        Timestamp((first_us + after_us as u64).div_ceil(1000))
    }

    fn message(&self, bodies: &Bodies, run: &Run, due: Timestamp, is_measured: bool) -> NewMessage {
        let stamp = Stamp { run: run.shared.id, time_us: due.0 * 1000, key: 0, is_measured, sequence: 0 };
        NewMessage::new(self.place.topic.as_str(), bodies.stamped(stamp)).deliver_at(due)
    }

    /// Sends the thread's share of all messages, as fast as answers come.
    async fn preload(&self, producer: &Producer, run: &Run, bodies: &Bodies, next: &Cell<u64>, first_us: u64) {
        let Options { load, .. } = &self.options;
        let total = (self.rate * load.duration.as_secs_f64()).round() as usize;
        let share = run.seat.share(total) as u64;
        let _under_way = run.sending();
        loop {
            let first = next.get();
            let batch = first..(first + load.batch as u64).min(share);
            if batch.is_empty() {
                return;
            }
            next.set(batch.end);
            let messages = |sequence| self.message(bodies, run, self.due(sequence, first_us, run.seat.threads), true);
            let count = (batch.end - batch.start) as usize;
            let from = runtime::now();
            while let Err(error) = fill::call(producer, batch.clone().map(messages).collect()).await {
                run.tally.borrow_mut().error("send", &error);
                runtime::wait(fill::PAUSE).await;
            }
            run.sent(from, from, count);
            if runtime::wall_us() > self.due(batch.start, first_us, run.seat.threads).0 * 1000 {
                run.tally.borrow_mut().scheduled_late += count as u64;
            }
        }
    }
}

impl Scenario for Timer {
    type Connected = (Vec<Producer>, Vec<SimpleConsumer>);

    async fn connect(&self, seat: Seat) -> Result<Self::Connected, Failure> {
        let Options { load, receiving, .. } = &self.options;
        let connections = seat.share(load.connections);
        let consumers = consumers(&self.place, &receiving.consumer_group, connections).await?;
        prime(&consumers[0], receiving).await?;
        Ok((producers(&self.place, connections).await?, consumers))
    }

    async fn drive(&self, (producers, consumers): Self::Connected, run: &Run) {
        let Options { load, receiving, receivers, lead, preload, .. } = &self.options;
        let bodies = Bodies::of(load.size);
        let lead_us = u64::try_from(lead.as_micros()).unwrap_or(u64::MAX);
        let seen = |delivery: &Delivery| {
            let mut tally = run.tally.borrow_mut();
            let due_us = delivery.stamp.time_us;
            match delivery.at_us.checked_sub(due_us) {
                _ if delivery.attempt > 1 => tally.repeated += 1,
                None => tally.early += 1,
                Some(late_us) if delivery.stamp.is_measured => {
                    tally.deliver.record(Duration::from_micros(late_us), 1);
                    tally.deliver.messages += 1;
                }
                Some(_) => {}
            }
        };
        let make = |_: u64, from: Instant| {
            let is_measured = from >= run.window.measured_from;
            let message = |_| {
                let due = Timestamp((runtime::wall_us() + lead_us).div_ceil(1000));
                self.message(&bodies, run, due, is_measured)
            };
            (0..load.batch).map(message).collect()
        };
        let pace = Pace::new(run.window.start, Some(self.rate / load.batch as f64 / run.seat.threads as f64));
        let (next, first_us) = (Cell::new(0), runtime::wall_us() + lead_us);
        let send = async |index: usize| {
            let producer = &producers[index % producers.len()];
            match preload {
                true => self.preload(producer, run, &bodies, &next, first_us).await,
                false => fill::lane(producer, run, &pace, load.batch, &make).await,
            }
        };
        let receive = |index: usize| consume(&consumers[index % consumers.len()], run, receiving, &seen);
        let senders = run.seat.share(load.in_flight()).max(1);
        let receivers = run.seat.share(*receivers).max(1);
        join(all((0..senders).map(send)), all((0..receivers).map(receive))).await;
        if !preload {
            run.tally.borrow_mut().unsent += pace.missed(run.window.end) * load.batch as u64;
        }
    }
}
