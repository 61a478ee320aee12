//! The clients of one server: producers and consumers that go on by themselves while the server comes and goes.
//!
//! Every task works until it is told to stop. A call that failed is reported as begun and not as done, never repeated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Chance, Clock, SystemClock, Timestamp};
use client::{Client, Filter, NewMessage, Options, Orphan, Producer, Received, SimpleConsumer, Transaction};
use parking_lot::{Mutex, MutexGuard};
use tests::messages::{name_of, resolution_of};
use tests::server::Server;
use tests::wait::pass;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::ledger::Ledger;

pub const TOPICS: &str = "plain:normal:4,ordered:fifo:4,later:delay:4,halves:transaction:4,distant:delay:1";
pub const CONSUMED: [&str; 4] = ["plain", "ordered", "later", "halves"];
const GROUP: &str = "readers";
const CONSUMERS_PER_TOPIC: usize = 2;
const ORDER_PRODUCERS: usize = 2;
const KEYS_PER_PRODUCER: usize = 4;

/// Kept for the shortest time, nobody's promise, and most of the log of a store that has it.
const BRIEF: &str = "brief";
pub const BRIEF_MADE: [&str; 7] = ["topic", "create", BRIEF, "--queues", "2", "--retention", "1s"];
const BRIEF_BYTES: usize = 128 << 10;
const BRIEF_PRODUCERS: usize = 2;

/// Due long after every test, and nobody's promise: timers wait in runs for as long as it takes until those are merged.
const DISTANT: &str = "distant";
const DISTANT_MS: u64 = 3_600_000;

/// Between the sends of one producer: enough is under way at each kill, and a debug build keeps up.
const PACE: Duration = Duration::from_millis(12);
/// After a call that failed, most often because there is no server.
const RETRY: Duration = Duration::from_millis(20);
const BATCH: usize = 8;
/// The shortest that the protocol allows.
const INVISIBLE: Duration = Duration::from_secs(10);
const POLLING: Duration = Duration::from_secs(1);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const PADDING_BYTES_MAX: u64 = 2_048;
const DELAY_MS_MAX: u64 = 4_000;
/// Messages that a consumer keeps for later, to settle them with a handle from before a kill.
const HELD_MAX: usize = 3;

/// What all tasks of one server share.
pub struct World {
    endpoint: String,
    // Held for single steps: deliveries and acknowledgements of different tasks have to be seen in one order.
    ledger: Mutex<Ledger>,
    is_sending: AtomicBool,
    is_consuming: AtomicBool,
    /// Only what is nobody's promise is sent for a while.
    is_resting: watch::Sender<bool>,
}

pub struct Load {
    world: Arc<World>,
    producers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Connects everybody; the server must be there.
    pub async fn start(endpoint: String, chance: &mut Chance) -> Self {
        let world = World {
            endpoint,
            ledger: Mutex::default(),
            is_sending: AtomicBool::new(true),
            is_consuming: AtomicBool::new(true),
            is_resting: watch::Sender::new(false),
        };
        let world = Arc::new(world);
        let mut fork = || Chance::new(chance.next_u64());
        let mut consumers = Vec::new();
        for topic in CONSUMED {
            for _ in 0..CONSUMERS_PER_TOPIC {
                let consumer = world.consumer(topic).await;
                consumers.push(start(consume(world.clone(), consumer, fork())));
            }
        }
        let mut producers = vec![start(plain(world.clone(), world.producer("plain").await, fork()))];
        for number in 0..ORDER_PRODUCERS {
            producers.push(start(ordered(world.clone(), world.producer("ordered").await, number, fork())));
        }
        producers.push(start(later(world.clone(), world.producer("later").await, fork())));
        let (orphans, asked) = mpsc::channel(64);
        let producer = world.client().await.producer_with_checks(&["halves"], orphans).await;
        let producer = Arc::new(producer.expect("the server is there"));
        producers.push(start(halves(world.clone(), producer.clone(), fork())));
        // Asked as long as there are consumers: what was left open is decided then, too.
        consumers.push(start(decide(world.clone(), producer, asked)));
        Self { world, producers, consumers }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.world.ledger.lock()
    }

    /// Adds what makes segments worth thinning, and in time expire, and runs of timers worth merging. The topic of what is brief
    /// must be there.
    pub async fn add_brief(&mut self) {
        self.producers.push(start(distant(self.world.clone(), self.world.producer(DISTANT).await)));
        for _ in 0..BRIEF_PRODUCERS {
            self.producers.push(start(brief(self.world.clone(), self.world.producer(BRIEF).await)));
        }
    }

    /// Whether producers of what is promised send nothing: segments without any of it come to be.
    pub fn rest(&self, is_resting: bool) {
        self.world.is_resting.send_replace(is_resting);
    }

    /// Ends the producers when their calls in progress have ended.
    pub async fn stop_sending(&mut self) {
        self.world.is_sending.store(false, Ordering::Relaxed);
        self.rest(false);
        join(std::mem::take(&mut self.producers)).await;
    }

    /// Ends the consumers when their polls in progress have ended.
    pub async fn stop_consuming(mut self) -> Arc<World> {
        self.world.is_consuming.store(false, Ordering::Relaxed);
        join(std::mem::take(&mut self.consumers)).await;
        self.world.clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Only when the test fails: tasks must not outlive their server.
        self.producers.iter().chain(&self.consumers).for_each(JoinHandle::abort);
    }
}

impl World {
    async fn client(&self) -> Client {
        let options = Options { request_timeout: REQUEST_TIMEOUT, ..Options::default() };
        Client::connect(&self.endpoint, options).await.expect("the server is there")
    }

    async fn producer(&self, topic: &str) -> Producer {
        self.client().await.producer(&[topic]).await.expect("the server is there")
    }

    async fn consumer(&self, topic: &str) -> SimpleConsumer {
        let consumer = self.client().await.simple_consumer(GROUP, topic, Filter::All).await;
        consumer.expect("the server is there")
    }

    /// Polls each topic until nothing comes, and holds it against the ledger.
    pub async fn look_again(&self) {
        for topic in CONSUMED {
            let consumer = self.consumer(topic).await;
            loop {
                let batch = consumer.receive(BATCH, INVISIBLE, POLLING).await.expect("the server is there");
                self.ledger.lock().received(&batch, SystemClock.now());
                if batch.is_empty() {
                    break;
                }
            }
        }
    }

    /// Everything that was promised to be kept is, wherever it lies by now.
    pub async fn look_at_all(&self, server: &Server) {
        for topic in CONSUMED {
            let shown = ["tail", topic, "--from", "earliest", "--no-follow", "--format", "%q %o %b\\n"];
            let shown = server.administer(&shown).await;
            let seen = shown.lines().map(|line| {
                let mut words = line.split(' ');
                let mut number =
                    || words.next().and_then(|word| word.parse::<u64>().ok()).expect("as it was asked for");
                let place = (u16::try_from(number()).expect("few queues"), number());
                (words.next().unwrap_or_default(), place)
            });
            self.report(|ledger, now| seen.for_each(|(name, place)| ledger.seen(name, place, now)));
        }
        self.report(|ledger, _| ledger.unseen());
    }

    /// Whether what is left of what nobody was promised has no gaps, from where each queue begins to its end. It does not
    /// while it is expiring.
    pub async fn is_rest_whole(&self, server: &Server) -> bool {
        let shown =
            server.administer(&["tail", BRIEF, "--from", "earliest", "--no-follow", "--format", "%q %o\\n"]).await;
        let topic = server.administer(&["topic", "describe", BRIEF, "--json"]).await;
        let topic: serde_json::Value = serde_json::from_str(&topic).expect("JSON");
        let queues = topic["queues"].as_array().expect("a list");
        let told = queues.iter().flat_map(|queue| {
            let number = |name: &str| queue[name].as_u64().expect("a number");
            (number("first")..number("next")).map(move |offset| (number("queue"), offset))
        });
        let parse = |line: &str| {
            let (queue, offset) = line.split_once(' ').expect("as it was asked for");
            (queue.parse().expect("a number"), offset.parse().expect("a number"))
        };
        shown.lines().map(parse).collect::<BTreeSet<(u64, u64)>>() == told.collect()
    }

    pub fn verdict(&self) -> Vec<String> {
        self.ledger.lock().verdict(true)
    }

    fn is_sending(&self) -> bool {
        self.is_sending.load(Ordering::Relaxed)
    }

    /// Returns at once, unless it is a time of rest.
    async fn turn(&self) {
        let _is_over = self.is_resting.subscribe().wait_for(|is_resting| !is_resting).await.is_ok();
    }

    fn report(&self, step: impl FnOnce(&mut Ledger, Timestamp)) {
        step(&mut self.ledger.lock(), SystemClock.now());
    }

    /// Reports one send, and whether it was acknowledged.
    async fn send(
        &self,
        producer: &Producer,
        name: &str,
        message: NewMessage,
        due: Option<Timestamp>,
    ) -> Option<client::Sent> {
        self.report(|ledger, now| ledger.sending(name, due, now));
        match producer.send(message).await {
            Ok(sent) => {
                self.report(|ledger, now| ledger.stored(name, now));
                Some(sent)
            }
            Err(error) => {
                self.report(|ledger, now| ledger.note(name, &format!("send failed: {error}"), now));
                pass(RETRY).await;
                None
            }
        }
    }
}

fn message(topic: &str, name: &str, chance: &mut Chance) -> NewMessage {
    let padding = usize::try_from(chance.below(PADDING_BYTES_MAX)).expect("small");
    NewMessage::new(topic, format!("{name} {}", "x".repeat(padding)))
}

async fn plain(world: Arc<World>, producer: Producer, mut chance: Chance) {
    for number in 0.. {
        world.turn().await;
        if !world.is_sending() {
            return;
        }
        let name = format!("n/{number}");
        world.send(&producer, &name, message("plain", &name, &mut chance), None).await;
        pass(PACE).await;
    }
}

/// The next message of a key is sent when the last one was answered, or failed: their order is known.
async fn ordered(world: Arc<World>, producer: Producer, number: usize, mut chance: Chance) {
    for step in 0..usize::MAX {
        world.turn().await;
        if !world.is_sending() {
            return;
        }
        let key = format!("{number}-{}", step % KEYS_PER_PRODUCER);
        let name = format!("o/{key}/{}", step / KEYS_PER_PRODUCER);
        let message = message("ordered", &name, &mut chance).message_group(key);
        world.send(&producer, &name, message, None).await;
        pass(PACE).await;
    }
}

async fn later(world: Arc<World>, producer: Producer, mut chance: Chance) {
    for number in 0.. {
        world.turn().await;
        if !world.is_sending() {
            return;
        }
        let name = format!("d/{number}");
        let due = SystemClock.now().plus_ms(chance.below(DELAY_MS_MAX));
        let message = message("later", &name, &mut chance).deliver_at(due);
        let sent = world.send(&producer, &name, message, Some(due)).await;
        pass(PACE).await;
        if let Some(handle) = sent.and_then(|sent| sent.recall_handle)
            && chance.one_in(5)
        {
            world.report(|ledger, now| ledger.recalling(&name, now));
            match producer.recall("later", &handle).await {
                Ok(_) => world.report(|ledger, now| ledger.recalled(&name, false, now)),
                Err(client::Error::Refused { .. }) => world.report(|ledger, now| ledger.recalled(&name, true, now)),
                Err(error) => world.report(|ledger, now| ledger.note(&name, &format!("recall failed: {error}"), now)),
            }
        }
    }
}

/// What becomes of it is nobody's business.
async fn brief(world: Arc<World>, producer: Producer) {
    while world.is_sending() {
        if producer.send(NewMessage::new(BRIEF, "b".repeat(BRIEF_BYTES))).await.is_err() {
            pass(RETRY).await;
        }
        // Alone it goes as fast as it can, so that segments fill before something else falls due.
        let is_alone = *world.is_resting.borrow();
        if !is_alone {
            pass(PACE).await;
        }
    }
}

/// What becomes of it is nobody's business either.
async fn distant(world: Arc<World>, producer: Producer) {
    loop {
        world.turn().await;
        if !world.is_sending() {
            return;
        }
        let due = SystemClock.now().plus_ms(DISTANT_MS);
        if producer.send(NewMessage::new(DISTANT, "d").deliver_at(due)).await.is_err() {
            pass(RETRY).await;
        }
        pass(PACE).await;
    }
}

async fn halves(world: Arc<World>, producer: Arc<Producer>, mut chance: Chance) {
    for number in 0.. {
        world.turn().await;
        if !world.is_sending() {
            return;
        }
        let name = format!("t/{number}");
        world.report(|ledger, now| ledger.preparing(&name, now));
        match producer.send_prepared(message("halves", &name, &mut chance)).await {
            Ok(transaction) => {
                world.report(|ledger, now| ledger.prepared(&name, now));
                pass(PACE).await;
                // The others are left to the check.
                if !chance.one_in(4) {
                    end(&world, &producer, &name, &transaction).await;
                }
            }
            Err(_) => pass(RETRY).await,
        }
        pass(PACE).await;
    }
}

/// Answers when the server asks.
async fn decide(world: Arc<World>, producer: Arc<Producer>, mut asked: mpsc::Receiver<Orphan>) {
    while world.is_consuming.load(Ordering::Relaxed) {
        // A bound, because nobody may ask any more.
        let Ok(orphan) = tokio::time::timeout(POLLING, asked.recv()).await else { continue };
        let Some(orphan) = orphan else { return };
        let name = name_of(&orphan.message);
        world.report(|ledger, now| ledger.note(&name, "asked", now));
        end(&world, &producer, &name, &orphan.transaction).await;
    }
}

async fn end(world: &World, producer: &Producer, name: &str, transaction: &Transaction) {
    let resolution = resolution_of(name);
    world.report(|ledger, now| ledger.ending(name, resolution, now));
    match producer.end(transaction, resolution).await {
        Ok(()) => world.report(|ledger, now| ledger.ended(name, resolution, now)),
        Err(error) => {
            world.report(|ledger, now| ledger.note(name, &format!("end failed: {error}"), now));
            pass(RETRY).await;
        }
    }
}

async fn consume(world: Arc<World>, consumer: SimpleConsumer, mut chance: Chance) {
    let mut held: Vec<Received> = Vec::new();
    while world.is_consuming.load(Ordering::Relaxed) {
        // Handles of messages that are held are often from before a kill.
        for message in std::mem::take(&mut held) {
            ack(&world, &consumer, &message).await;
        }
        let Ok(batch) = consumer.receive(BATCH, INVISIBLE, POLLING).await else {
            pass(RETRY).await;
            continue;
        };
        world.report(|ledger, now| ledger.received(&batch, now));
        // In the end nothing is left undone on purpose.
        let is_steady = !world.is_sending();
        for mut message in batch {
            match chance.below(100) {
                _ if is_steady => ack(&world, &consumer, &message).await,
                0..8 => nack(&world, &consumer, &mut message).await,
                8..16 if held.len() < HELD_MAX => held.push(message),
                // Its lease will end.
                16 => world.report(|ledger, now| ledger.note(&name_of(&message), "forgotten", now)),
                _ => ack(&world, &consumer, &message).await,
            }
        }
    }
}

async fn ack(world: &World, consumer: &SimpleConsumer, message: &Received) {
    let name = name_of(message);
    world.report(|ledger, now| ledger.acking(&name, now));
    match consumer.ack(message).await {
        Ok(()) => world.report(|ledger, now| ledger.acked(&name, now)),
        Err(error @ client::Error::Refused { .. }) => {
            world.report(|ledger, now| ledger.ack_refused(&name, &error.to_string(), now));
        }
        Err(error) => world.report(|ledger, now| ledger.note(&name, &format!("ack failed: {error}"), now)),
    }
}

async fn nack(world: &World, consumer: &SimpleConsumer, message: &mut Received) {
    let result = consumer.change_invisible(message, Duration::ZERO).await;
    let name = name_of(message);
    world.report(|ledger, now| ledger.note(&name, &format!("nack: {result:?}"), now));
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        task.await.expect("a task of the load ends without a panic");
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place of this test that starts tasks; `Load` owns them")]
fn start(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(work)
}
