//! `bench e2e`: sends and receives at once; latency is from the intended send to the consumer's hands.

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
use crate::exit::Failure;
use crate::output::Output;
use crate::values::TopicType;

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

struct EndToEnd {
    options: Options,
    place: Place,
}

pub fn run(options: Options, target: &Target, output: &Output) -> Result<(), Failure> {
    options.load.check_stamped()?;
    let load = options.load.clone();
    let (name, topic_type) = if load.keys > 0 { ("bench-fifo", TopicType::Fifo) } else { ("bench", TopicType::Normal) };
    let place = prepare(&load, target, (load.topic_or(name), topic_type), Some(&options.receiving))?;
    let meter = Meter::new(load.server_pid, &target.http);
    let scenario = EndToEnd { options, place: place.clone() };
    let outcome = engine::run(scenario, &load, meter, Until::Drained { idle: IDLE })?;
    Report::new("e2e", &load, &place, &outcome).finish(output)
}

impl Scenario for EndToEnd {
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
        let batch = load.batch as u64;
        let make = |number: u64, from: std::time::Instant| {
            let message = |sequence: u64| {
                let key = u32::try_from(sequence % u64::from(load.keys.max(1))).unwrap_or(0);
                let (time_us, is_measured) = (run.stamp_us(from), from >= run.window.measured_from);
                let body = bodies.stamped(Stamp { run: run.shared.id, time_us, key, is_measured, sequence });
                let message = NewMessage::new(self.place.topic.as_str(), body);
                if load.keys > 0 { message.message_group(fill::group(key)) } else { message }
            };
            (number * batch..(number + 1) * batch).map(message).collect()
        };
        let seen = |delivery: &Delivery| {
            let mut tally = run.tally.borrow_mut();
            let latency_us = run.stamp_us(delivery.at).saturating_sub(delivery.stamp.time_us);
            if delivery.attempt > 1 {
                tally.repeated += 1;
            }
            if delivery.stamp.is_measured {
                tally.deliver.record(Duration::from_micros(latency_us), 1);
            }
            if run.window.is_measured(delivery.at) {
                tally.deliver.messages += 1;
            }
        };
        let calls = load.rate.map(|rate| rate / load.batch as f64 / run.seat.threads as f64);
        let pace = Pace::new(run.window.start, calls);
        let send = |index: usize| fill::lane(&producers[index % producers.len()], run, &pace, load.batch, &make);
        let receive = |index: usize| consume(&consumers[index % consumers.len()], run, receiving, &seen);
        let senders = run.seat.share(load.in_flight()).max(1);
        let receivers = run.seat.share(*receivers).max(1);
        join(all((0..senders).map(send)), all((0..receivers).map(receive))).await;
        run.tally.borrow_mut().unsent += pace.missed(run.window.end) * batch;
    }
}
