//! What all clients of a storm share, and the producers: they follow routes, and try another broker when one fails.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::{Chance, Clock, SystemClock, Timestamp};
use client::{Client, Error, NewMessage, Options, Orphan, Producer, Sent, Transaction};
use parking_lot::{Mutex, MutexGuard};
use tests::messages::{name_of, resolution_of};
use tests::wait::pass;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::faults::BROKERS;
use super::ledger::{Ledger, Step};
use super::progress::{Line, Progress};
use super::routes::{Routes, Seat};

/// Each of them gets every message.
pub const GROUPS: [&str; 2] = ["readers", "auditors"];
pub const PLAIN: &str = "plain";
pub const LATER: &str = "later";
pub const HALVES: &str = "halves";

const PLAIN_PRODUCERS: usize = 2;
const KEYS_PER_TOPIC: usize = 4;
/// Between the sends of one producer.
const PACE: Duration = Duration::from_millis(50);
/// After a call that failed, most often because nobody is there.
pub const RETRY: Duration = Duration::from_millis(100);
/// As official clients.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 3;
/// A broker that failed is not asked for so long while there are others.
const AVOIDED_MS: u64 = 5_000;
const PADDING_BYTES_MAX: u64 = 1_024;
const DELAY_MS_MAX: u64 = 8_000;
const ORPHANS_MAX: usize = 64;

/// What all clients of a storm share.
pub struct World {
    /// Access points, as clients are given them.
    pub nameservers: Vec<String>,
    began_ms: u64,
    // Held for single steps: what different tasks see has to be in one order.
    ledger: Mutex<Ledger>,
    progress: Mutex<Progress>,
    is_sending: AtomicBool,
    is_consuming: AtomicBool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The topic in which order is kept that lives on this broker.
pub fn ordered_topic(broker: usize) -> String {
    format!("ordered-{broker}")
}

impl World {
    pub fn new(nameservers: Vec<String>) -> Arc<Self> {
        let groups = u8::try_from(GROUPS.len()).expect("few");
        Arc::new(Self {
            nameservers,
            began_ms: SystemClock.monotonic_ms(),
            ledger: Mutex::new(Ledger::new(groups, SystemClock.now())),
            progress: Mutex::default(),
            is_sending: AtomicBool::new(true),
            is_consuming: AtomicBool::new(true),
            tasks: Mutex::default(),
        })
    }

    /// Starts all producers; consumers are started by [`super::consumers`].
    pub fn start_producers(self: &Arc<Self>, chance: &mut Chance) {
        let mut fork = || Chance::new(chance.next_u64());
        for number in 0..PLAIN_PRODUCERS {
            let sender = Sender::new(self, PLAIN, number, Line::Spread(format!("plain {number}")));
            self.start(plain(sender, number, fork()));
        }
        for broker in 0..BROKERS {
            let topic = ordered_topic(broker);
            let sender = Sender::new(self, &topic, broker, Line::Kept(broker, topic.clone()));
            self.start(ordered(sender, fork()));
        }
        self.start(later(Sender::new(self, LATER, 1, Line::Spread(LATER.into())), fork()));
        self.start(halves(Sender::new(self, HALVES, 0, Line::Spread(HALVES.into())), fork()));
    }

    /// Since the storm began.
    pub fn ms(&self) -> u64 {
        SystemClock.monotonic_ms() - self.began_ms
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    pub fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }

    /// Deliveries and acknowledgements of different tasks are reported one after the other, at the time that it is
    /// then.
    pub fn report<T>(&self, step: impl FnOnce(&mut Ledger, Timestamp) -> T) -> T {
        let mut ledger = self.ledger.lock();
        step(&mut ledger, SystemClock.now())
    }

    pub fn is_sending(&self) -> bool {
        self.is_sending.load(Ordering::Relaxed)
    }

    pub fn is_consuming(&self) -> bool {
        self.is_consuming.load(Ordering::Relaxed)
    }

    /// Producers end what they have begun, and begin nothing more.
    pub fn stop_sending(&self) {
        self.is_sending.store(false, Ordering::Relaxed);
    }

    pub fn stop_consuming(&self) {
        self.is_consuming.store(false, Ordering::Relaxed);
    }

    #[expect(clippy::disallowed_methods, reason = "the one place of this test that starts tasks; `World` owns them")]
    pub fn start(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().push(tokio::spawn(work));
    }

    /// Ends all tasks. One that panicked makes the test fail.
    pub async fn end(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.iter().for_each(JoinHandle::abort);
        for task in tasks {
            if let Err(error) = task.await {
                assert!(error.is_cancelled(), "a client panicked: {error}");
            }
        }
    }

    /// Tasks that panicked meanwhile.
    pub fn has_broken_down(&self) -> bool {
        // Clients end only when they are told to, and others outlive them.
        self.is_sending() && self.tasks.lock().iter().any(JoinHandle::is_finished)
    }
}

pub async fn connect(seat: &Seat) -> Result<Client, Error> {
    let options = Options { request_timeout: REQUEST_TIMEOUT, ..Options::default() };
    Client::connect(&seat.address, options).await
}

/// A producer of one topic that has one for each broker of its route.
struct Sender {
    world: Arc<World>,
    topic: String,
    routes: Routes,
    line: Line,
    producers: HashMap<usize, Arc<Producer>>,
    /// Until when a broker is asked only if there is no other.
    avoided: [u64; BROKERS],
    turn: usize,
}

impl Sender {
    fn new(world: &Arc<World>, topic: &str, first: usize, line: Line) -> Self {
        world.progress().expect(line.clone(), world.ms());
        let routes = Routes::follow(world, topic, first);
        let producers = HashMap::new();
        Self { world: world.clone(), topic: topic.into(), routes, line, producers, avoided: [0; BROKERS], turn: first }
    }

    /// Where the next message goes: brokers in turn, those that failed lately last.
    fn seat(&mut self) -> Option<Seat> {
        self.turn += 1;
        let (turn, now) = (self.turn, self.world.ms());
        let seats = self.routes.seats();
        let seats = seats.iter().filter(|seat| seat.is_writable);
        seats.min_by_key(|seat| (self.avoided[seat.broker] > now, (seat.broker + turn) % BROKERS)).cloned()
    }

    /// The producer of a broker. Whoever transacts is asked by brokers to which nothing was sent lately, too.
    async fn producer(&mut self, seat: &Seat) -> Result<Arc<Producer>, Error> {
        if let Some(producer) = self.producers.get(&seat.broker) {
            return Ok(producer.clone());
        }
        let client = connect(seat).await?;
        let producer = if self.topic == HALVES {
            let (orphans, asked) = mpsc::channel(ORPHANS_MAX);
            let producer = Arc::new(client.producer_with_checks(&[&self.topic], orphans).await?);
            self.world.start(decide(self.world.clone(), producer.clone(), seat.broker, asked));
            producer
        } else {
            Arc::new(client.producer(&[&self.topic]).await?)
        };
        self.producers.insert(seat.broker, producer.clone());
        Ok(producer)
    }

    fn failed(&mut self, broker: usize) {
        self.world.progress().send_failures += 1;
        self.avoided[broker] = self.world.ms() + AVOIDED_MS;
        self.routes.ask_again();
    }

    fn succeeded(&mut self) {
        let (mut progress, now) = (self.world.progress(), self.world.ms());
        progress.sends += 1;
        progress.answered(&self.line, now);
    }

    /// Tries one broker after another. The broker that took it.
    async fn send(
        &mut self,
        name: &str,
        due: Option<Timestamp>,
        message: &NewMessage,
    ) -> Option<(Arc<Producer>, Sent)> {
        for _ in 0..ATTEMPTS {
            let Some(seat) = self.seat() else {
                self.routes.ask_again();
                pass(RETRY).await;
                continue;
            };
            let broker = u8::try_from(seat.broker).expect("few");
            let Ok(producer) = self.producer(&seat).await else {
                self.failed(seat.broker);
                continue;
            };
            self.world.report(|ledger, now| ledger.sending(name, broker, due, now));
            match producer.send(message.clone()).await {
                Ok(sent) => {
                    self.world.report(|ledger, now| ledger.stored(name, broker, now));
                    self.succeeded();
                    return Some((producer, sent));
                }
                Err(error) => {
                    let is_refused = is_definite(&error);
                    self.world.report(|ledger, now| ledger.send_failed(name, broker, is_refused, now));
                    self.failed(seat.broker);
                }
            }
        }
        pass(RETRY).await;
        None
    }

    fn message(&self, name: &str, chance: &mut Chance) -> NewMessage {
        let padding = usize::try_from(chance.below(PADDING_BYTES_MAX)).expect("small");
        NewMessage::new(self.topic.clone(), format!("{name} {}", "x".repeat(padding)))
    }
}

/// Whether a server said that nothing was done, and that trying again helps nobody.
pub fn is_definite(error: &Error) -> bool {
    matches!(error, Error::Refused { .. }) && !error.is_retryable()
}

async fn plain(mut sender: Sender, producer: usize, mut chance: Chance) {
    for number in 0.. {
        if !sender.world.is_sending() {
            return;
        }
        let name = format!("p/{producer}-{number}");
        let message = sender.message(&name, &mut chance);
        sender.send(&name, None, &message).await;
        pass(PACE).await;
    }
}

/// The next message of a key is sent when the last one was acknowledged: their order is known.
async fn ordered(mut sender: Sender, mut chance: Chance) {
    for step in 0..usize::MAX {
        if !sender.world.is_sending() {
            return;
        }
        let key = format!("{}-{}", sender.topic, step % KEYS_PER_TOPIC);
        let name = format!("o/{key}/{}", step / KEYS_PER_TOPIC);
        let message = sender.message(&name, &mut chance).message_group(key);
        while sender.send(&name, None, &message).await.is_none() {}
        pass(PACE).await;
    }
}

async fn later(mut sender: Sender, mut chance: Chance) {
    for number in 0.. {
        if !sender.world.is_sending() {
            return;
        }
        let name = format!("d/{number}");
        let due = SystemClock.now().plus_ms(chance.below(DELAY_MS_MAX));
        let message = sender.message(&name, &mut chance).deliver_at(due);
        let sent = sender.send(&name, Some(due), &message).await;
        pass(PACE).await;
        let Some((taker, sent)) = sent.filter(|_| chance.one_in(5)) else { continue };
        // Any broker finds the one that has it.
        let others: Vec<_> = sender.producers.values().cloned().collect();
        let producer = if chance.one_in(2) { &taker } else { chance.pick(&others) };
        let handle = sent.recall_handle.expect("delayed messages have one");
        let world = &sender.world;
        world.report(|ledger, now| ledger.recalling(&name, now));
        match producer.recall(LATER, &handle).await {
            Ok(_) => world.report(|ledger, now| ledger.recalled(&name, now)),
            Err(error) if is_definite(&error) => world.report(|ledger, now| ledger.recall_refused(&name, now)),
            Err(_) => world.report(|ledger, now| ledger.note(&name, Step::RecallFailed, now)),
        }
    }
}

/// One attempt for each: what nobody answered is asked about later, if it is there.
async fn halves(mut sender: Sender, mut chance: Chance) {
    for number in 0.. {
        if !sender.world.is_sending() {
            return;
        }
        pass(PACE).await;
        let name = format!("t/{number}");
        let Some(seat) = sender.seat() else { continue };
        let Ok(producer) = sender.producer(&seat).await else {
            sender.failed(seat.broker);
            continue;
        };
        let broker = u8::try_from(seat.broker).expect("few");
        let message = sender.message(&name, &mut chance);
        sender.world.report(|ledger, now| ledger.preparing(&name, broker, now));
        match producer.send_prepared(message).await {
            Ok(transaction) => {
                sender.world.report(|ledger, now| ledger.stored(&name, broker, now));
                sender.succeeded();
                // The others are left to the check.
                if !chance.one_in(4) {
                    let others: Vec<_> = sender.producers.values().cloned().collect();
                    let ends = if chance.one_in(2) { &producer } else { chance.pick(&others) };
                    end(&sender.world, ends, &name, &transaction).await;
                }
            }
            Err(error) => {
                let is_refused = is_definite(&error);
                sender.world.report(|ledger, now| ledger.send_failed(&name, broker, is_refused, now));
                sender.failed(seat.broker);
            }
        }
    }
}

/// Answers when a broker asks.
async fn decide(world: Arc<World>, producer: Arc<Producer>, broker: usize, mut asked: mpsc::Receiver<Orphan>) {
    let broker = u8::try_from(broker).expect("few");
    while let Some(orphan) = asked.recv().await {
        let name = name_of(&orphan.message);
        world.report(|ledger, now| ledger.note(&name, Step::AskedAbout(broker), now));
        end(&world, &producer, &name, &orphan.transaction).await;
    }
}

async fn end(world: &World, producer: &Producer, name: &str, transaction: &Transaction) {
    let resolution = resolution_of(name);
    world.report(|ledger, now| ledger.ending(name, resolution, now));
    match producer.end(transaction, resolution).await {
        Ok(()) => world.report(|ledger, now| ledger.ended(name, resolution, now)),
        Err(_) => world.report(|ledger, now| ledger.note(name, Step::EndFailed, now)),
    }
}
