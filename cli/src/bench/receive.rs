//! `bench receive`: fills a backlog, then measures how fast it is received and settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use client::{NewMessage, SimpleConsumer};

use super::consume::consume;
use super::cost::Meter;
use super::engine::{Run, Scenario, Seat, Shared, Until, all};
use super::report::Report;
use super::setup::{Place, consumers, prepare, prime, producers};
use super::stamp::{Bodies, Stamp};
use super::{Load, Receiving, at_least_one, engine, fill};
use crate::args::Target;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::runtime;
use crate::values::TopicType;

/// Messages of one call while filling, and calls at once: enough to be quick, small enough for any server.
const FILL_BATCH: u64 = 32;
const FILL_LANES: usize = 16;
const FILL_ERRORS_MAX: u64 = 100;
/// Nothing comes any more: what is missing was lost, or is hidden after a failed ack.
const IDLE: Duration = Duration::from_secs(15);
const IN_FLIGHT: usize = 16;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    receiving: Receiving,
    /// Messages in the backlog.
    #[arg(long, default_value = "100000", value_parser = at_least_one, value_name = "N")]
    count: usize,
}

struct Receive {
    load: Load,
    receiving: Receiving,
    place: Place,
}

pub fn run(options: Options, target: &Target, output: &Output) -> Result<(), Failure> {
    let Options { mut load, receiving, count } = options;
    load.check_stamped()?;
    // Everything that is received counts; the time is that from the first poll to the last ack.
    load.warmup = Duration::ZERO;
    load.in_flight = load.in_flight.or(Some(IN_FLIGHT));
    let (name, topic_type) = if load.keys > 0 { ("bench-fifo", TopicType::Fifo) } else { ("bench", TopicType::Normal) };
    let place = prepare(&load, target, (load.topic_or(name), topic_type), Some(&receiving))?;
    let count = count as u64;
    let shared = Arc::new(Shared {
        id: base::Chance::from_system().next_u64(),
        epoch: runtime::now(),
        sent: AtomicU64::new(0),
        settled: AtomicU64::new(0),
        sending: AtomicU64::new(0),
    });
    runtime::block_on(backlog(&load, &receiving, &place, count, &shared))?;
    let meter = Meter::new(load.server_pid, &target.http);
    let scenario = Receive { load: load.clone(), receiving, place: place.clone() };
    let outcome = engine::run_as(scenario, &load, meter, Until::Settled { count, idle: IDLE }, shared)?;
    Report::new("receive", &load, &place, &outcome).finish(output)
}

/// Sends `count` messages as fast as the server takes them. Failed calls are repeated, so there may be more.
async fn backlog(
    load: &Load,
    receiving: &Receiving,
    place: &Place,
    count: u64,
    shared: &Shared,
) -> Result<(), Failure> {
    let consumer = consumers(place, &receiving.consumer_group, 1).await?;
    prime(&consumer[0], receiving).await?;
    let producers = producers(place, load.connections).await?;
    let bodies = Bodies::of(load.size);
    let (next, errors) = (AtomicU64::new(0), AtomicU64::new(0));
    let message = |sequence: u64| {
        let key = u32::try_from(sequence % u64::from(load.keys.max(1))).unwrap_or(0);
        let body = bodies.stamped(Stamp { run: shared.id, time_us: 0, key, is_measured: true, sequence });
        let message = NewMessage::new(place.topic.as_str(), body);
        if load.keys > 0 { message.message_group(fill::group(key)) } else { message }
    };
    let lane = async |index: usize| {
        loop {
            let first = next.fetch_add(FILL_BATCH, Ordering::Relaxed);
            let batch = first.min(count)..(first + FILL_BATCH).min(count);
            if batch.is_empty() || errors.load(Ordering::Relaxed) > FILL_ERRORS_MAX {
                return;
            }
            while let Err(error) =
                fill::call(&producers[index % producers.len()], batch.clone().map(message).collect()).await
            {
                if errors.fetch_add(1, Ordering::Relaxed) > FILL_ERRORS_MAX {
                    eprintln!("filling: {error}");
                    return;
                }
                runtime::wait(fill::PAUSE).await;
            }
            shared.sent.fetch_add(batch.end - batch.start, Ordering::Relaxed);
        }
    };
    all((0..FILL_LANES).map(lane)).await;
    match shared.sent.load(Ordering::Relaxed) == count {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, "the backlog could not be filled")),
    }
}

impl Scenario for Receive {
    type Connected = Vec<SimpleConsumer>;

    async fn connect(&self, seat: Seat) -> Result<Vec<SimpleConsumer>, Failure> {
        consumers(&self.place, &self.receiving.consumer_group, seat.share(self.load.connections)).await
    }

    async fn drive(&self, consumers: Vec<SimpleConsumer>, run: &Run) {
        let seen = |delivery: &super::consume::Delivery| {
            if delivery.attempt > 1 {
                run.tally.borrow_mut().repeated += 1;
            }
        };
        let lanes = run.seat.share(self.load.in_flight()).max(1);
        let lane = |index: usize| consume(&consumers[index % consumers.len()], run, &self.receiving, &seen);
        all((0..lanes).map(lane)).await;
    }
}
