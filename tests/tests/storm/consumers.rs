//! Consumers: each polls every broker of its route, and does with what it gets what consumers do.

use std::sync::Arc;
use std::time::Duration;

use base::duration::ms;
use base::{Chance, Clock, SystemClock};
use client::{Error, Filter, Received, SimpleConsumer};
use tests::messages::name_of;
use tests::wait::pass;

use super::clients::{GROUPS, HALVES, LATER, PLAIN, RETRY, World, connect, is_definite, ordered_topic};
use super::faults::BROKERS;
use super::ledger::{Delivery, Step};
use super::progress::Line;
use super::routes::{Routes, Seat};

const MEMBERS: usize = 2;
const BATCH: usize = 8;
/// The shortest that the protocol allows.
const INVISIBLE: Duration = Duration::from_secs(10);
const POLLING: Duration = Duration::from_secs(2);
/// How often it is looked whether a consumer is to end, at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages that a consumer keeps for later, to settle them with an old handle.
const HELD_MAX: usize = 3;

/// A member of a group at one broker.
struct Poller {
    world: Arc<World>,
    group: u8,
    topic: String,
    broker: usize,
    routes: Routes,
    line: Line,
    consumer: Option<SimpleConsumer>,
}

pub fn start(world: &Arc<World>, chance: &mut Chance) {
    let spread = [PLAIN, LATER, HALVES].map(|topic| (topic.to_owned(), (0..BROKERS).collect()));
    let kept = (0..BROKERS).map(|broker| (ordered_topic(broker), vec![broker]));
    for (topic, brokers) in spread.into_iter().chain(kept) {
        for (group, member) in (0..GROUPS.len()).flat_map(|group| (0..MEMBERS).map(move |member| (group, member))) {
            let routes = Routes::follow(world, &topic, member);
            for broker in &brokers {
                let line = Line::Poll(format!("{} {member} of {topic} at broker {broker}", GROUPS[group]));
                world.progress().expect(line.clone(), world.ms());
                let poller = Poller {
                    world: world.clone(),
                    group: u8::try_from(group).expect("few"),
                    topic: topic.clone(),
                    broker: *broker,
                    routes: routes.clone(),
                    line,
                    consumer: None,
                };
                world.start(poller.run(Chance::new(chance.next_u64())));
            }
        }
    }
}

impl Poller {
    async fn run(mut self, mut chance: Chance) {
        let mut held: Vec<(Received, Delivery)> = Vec::new();
        while self.world.is_consuming() {
            let Some(seat) = self.routes.seat_of(self.broker, LOOK_EVERY).await else { continue };
            if self.settle(&seat, &mut held, &mut chance).await.is_err() {
                self.routes.ask_again();
                pass(RETRY).await;
            }
        }
    }

    /// Settles what was held, polls once, and does with what comes what chance says.
    async fn settle(
        &mut self,
        seat: &Seat,
        held: &mut Vec<(Received, Delivery)>,
        chance: &mut Chance,
    ) -> Result<(), Error> {
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            none => {
                let client = connect(seat).await?;
                let group = GROUPS[usize::from(self.group)];
                none.insert(client.simple_consumer(group, &self.topic, Filter::All).await?)
            }
        };
        let (world, group) = (&self.world, self.group);
        // Handles of messages that are held are often from before a fault.
        for (message, delivery) in std::mem::take(held) {
            ack(world, group, consumer, &message, &delivery).await;
        }
        let broker = u8::try_from(self.broker).expect("few");
        let leased_until = SystemClock.now().plus_ms(ms(INVISIBLE));
        let messages = consumer.receive(BATCH, INVISIBLE, POLLING).await?;
        let delivery = |message: &Received| Delivery {
            name: name_of(message),
            place: (broker, message.queue.0, message.offset.0),
            attempt: message.attempt,
            leased_until,
        };
        let batch: Vec<_> = messages.iter().map(delivery).collect();
        world.report(|ledger, now| ledger.received(group, &batch, now));
        world.progress().answered(&self.line, world.ms());
        // In the end nothing is left undone on purpose.
        let is_steady = !world.is_sending();
        for (mut message, delivery) in messages.into_iter().zip(batch) {
            let place = delivery.place;
            match chance.below(200) {
                _ if is_steady => ack(world, group, consumer, &message, &delivery).await,
                0..8 => {
                    world.report(|ledger, now| ledger.giving_back(group, &delivery, now));
                    // When it fails, the lease ends.
                    let _is_given_back = consumer.change_invisible(&mut message, Duration::ZERO).await;
                }
                8..20 if held.len() < HELD_MAX => held.push((message, delivery)),
                20 => world.report(|ledger, now| ledger.note(&delivery.name, Step::Forgotten(group, place), now)),
                _ => ack(world, group, consumer, &message, &delivery).await,
            }
        }
        Ok(())
    }
}

async fn ack(world: &World, group: u8, consumer: &SimpleConsumer, message: &Received, delivery: &Delivery) {
    world.report(|ledger, now| ledger.acking(group, delivery, now));
    match consumer.ack(message).await {
        Ok(()) => world.report(|ledger, now| ledger.acked(group, delivery, now)),
        Err(error) if is_definite(&error) => world.report(|ledger, now| ledger.ack_refused(group, delivery, now)),
        Err(_) => {
            let step = Step::AckFailed(group, delivery.place);
            world.report(|ledger, now| ledger.note(&delivery.name, step, now));
        }
    }
}
