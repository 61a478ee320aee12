//! `bench send`: how many messages a server takes, and how long each call lasts.

use client::{NewMessage, Producer};

use super::cost::Meter;
use super::engine::{Pace, Run, Scenario, Seat, Until, all};
use super::report::Report;
use super::setup::{Place, prepare, producers};
use super::stamp::Bodies;
use super::{Load, engine, fill};
use crate::args::Target;
use crate::exit::Failure;
use crate::output::Output;
use crate::values::TopicType;

struct Send {
    load: Load,
    place: Place,
}

pub fn run(load: Load, target: &Target, output: &Output) -> Result<(), Failure> {
    let (name, topic_type) = if load.keys > 0 { ("bench-fifo", TopicType::Fifo) } else { ("bench", TopicType::Normal) };
    let place = prepare(&load, target, (load.topic_or(name), topic_type), None)?;
    let meter = Meter::new(load.server_pid, &target.http);
    let scenario = Send { load: load.clone(), place: place.clone() };
    let outcome = engine::run(scenario, &load, meter, Until::Window)?;
    Report::new("send", &load, &place, &outcome).finish(output)
}

impl Scenario for Send {
    type Connected = Vec<Producer>;

    async fn connect(&self, seat: Seat) -> Result<Vec<Producer>, Failure> {
        producers(&self.place, seat.share(self.load.connections)).await
    }

    async fn drive(&self, producers: Vec<Producer>, run: &Run) {
        let load = &self.load;
        let bodies = Bodies::of(load.size);
        let batch = load.batch as u64;
        let make = |number: u64, _| {
            let message = |sequence: u64| {
                let message = NewMessage::new(self.place.topic.as_str(), bodies.plain());
                match u32::try_from(sequence % u64::from(load.keys.max(1))) {
                    Ok(key) if load.keys > 0 => message.message_group(fill::group(key)),
                    _ => message,
                }
            };
            (number * batch..(number + 1) * batch).map(message).collect()
        };
        let calls = load.rate.map(|rate| rate / load.batch as f64 / run.seat.threads as f64);
        let pace = Pace::new(run.window.start, calls);
        let lanes = run.seat.share(load.in_flight()).max(1);
        let lane = |index: usize| fill::lane(&producers[index % producers.len()], run, &pace, load.batch, &make);
        all((0..lanes).map(lane)).await;
        run.tally.borrow_mut().unsent += pace.missed(run.window.end) * batch;
    }
}
