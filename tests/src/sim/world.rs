//! One run: a store in parts, clients, faults. Every step is one choice of a seeded generator.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{Chance, Clock, GroupId, GroupName, ManualClock, QueueIndex, QueueOffset, Timestamp, TopicId, TopicName};
use broker::api::{FilterKind, FilterText, Language};
use broker::filter::Filter;
use broker::handle::Receipt;
use broker::subscription::core::Core;
use broker::subscription::{self, Alive, Effect, Event, Now, Poll, Settings, Settle, Verdict};
use smallvec::SmallVec;
use storage::disk::Disk;
use storage::disk::sim::SimDisk;
use storage::log::{CommitRule, LogOptions};
use storage::message::{BodyPart, Envelope, MessageKind};
use storage::metrics::Metrics;
use storage::record::{AckRange, Fact, FilterSpec, Head, LeaseEntry, Pending, Pointer, RetryEntry, ScheduleSpec, Why};
use storage::request::{Answer, AppendError, BodyKind, Change, Done, NewBody, ReplySink, ReplyTo, Request, Submission};
use storage::store::{self, Reader, Recovered};
use storage::timer::{Ask, Effects, TimerCore, What};
use storage::view::catalog::{BackoffSpec, GroupSpec, OrderSpec, TopicKind, TopicSpec};
use storage::view::transactions::Outcome;
use storage::writer::{Reserve, Writer};

use super::Tally;
use super::oracle::{Decision, Fate, Hold, Id, Kind, Message, Oracle, Pair, Recall, Until, body_of, must};
use super::snapshot::Snapshot;

pub const START: u64 = 1_700_000_000_000;
const CLIENTS: [(&str, Language); 4] =
    [("java", Language::Java), ("go", Language::Go), ("cpp", Language::Cpp), ("rust", Language::Rust)];
const TOPICS: [(&str, TopicKind, u16); 4] = [
    ("normal", TopicKind::Normal, 2),
    ("fifo", TopicKind::Fifo, 3),
    ("delay", TopicKind::Mixed, 1),
    ("cold", TopicKind::Mixed, 2),
];
/// Group, order, attempts, topic.
const PAIRS: [(&str, OrderSpec, u32, usize); 5] = [
    ("standard", OrderSpec::Auto, 3, 0),
    ("ordered", OrderSpec::Auto, 3, 1),
    ("later", OrderSpec::Never, 2, 2),
    ("strict", OrderSpec::Auto, 2, 1),
    ("always", OrderSpec::Always, 4, 0),
];
const LANES: [&str; 4] = ["", "a", "b", "c"];
const TAGS: [&str; 3] = ["red", "green", "blue"];

/// Whose answer a ticket is.
#[derive(Debug, Clone)]
enum Owner {
    Send(Vec<Id>),
    End(Id, Outcome),
    Recall(Id),
    Move(Id, Timestamp),
    Timer(u64),
    Core(usize, u64),
    DeadLetterTopic(usize),
    Nobody,
}

struct Silent;

impl ReplySink for Silent {
    fn deliver(&self, _: &mut Vec<Answer>) {}
}

/// A subscription and what its driver would know.
struct Sub {
    core: Core,
    polls: HashMap<u64, (Arc<str>, Option<Duration>)>,
    settles: HashMap<u64, (Settle, subscription::Slot)>,
    /// When a batch was put together.
    leased_at: HashMap<u64, Now>,
}

/// The store's parts while the process lives.
pub struct Running {
    pub writer: Writer,
    pub timer: TimerCore,
    pub reader: Reader,
    subs: Vec<Sub>,
    inbox: VecDeque<(u64, Request)>,
    owners: HashMap<u64, Owner>,
    next: u64,
}

#[derive(Default)]
struct Presence {
    away: BTreeSet<String>,
    told_dead: RefCell<HashSet<String>>,
}

impl Alive for Presence {
    fn is_alive(&self, client: &str) -> bool {
        let is_alive = !self.away.contains(client);
        if !is_alive {
            self.told_dead.borrow_mut().insert(client.to_owned());
        }
        is_alive
    }
}

/// A delivery in a client's hands, or that was once.
#[derive(Debug, Clone)]
struct Hand {
    pair: usize,
    client: Arc<str>,
    receipt: Receipt,
}

pub struct World {
    pub chance: Chance,
    pub clock: Arc<ManualClock>,
    pub disk: SimDisk,
    pub options: store::Options,
    pub running: Option<Running>,
    pub oracle: Oracle,
    presence: Presence,
    hands: Vec<Hand>,
    next_id: Id,
    next_poll: u64,
    topics: Vec<TopicId>,
    dead: HashSet<usize>,
    is_loud: bool,
    /// A fault is armed, so what a failed commit leaves behind is looked at.
    is_armed: bool,
    sink: Arc<dyn ReplySink>,
    pub tally: Tally,
    next_batch: Vec<u64>,
    /// A client's last attempt at each pair.
    attempts: HashMap<(usize, usize), Arc<str>>,
}

macro_rules! say {
    ($world:expr, $($what:tt)+) => {
        if $world.is_loud {
            println!("[{:>9}] {}", $world.clock.monotonic_ms(), format!($($what)+));
        }
    };
}

impl World {
    pub fn new(seed: u64, is_loud: bool) -> Self {
        let mut chance = Chance::new(seed);
        let disk = SimDisk::new(chance.next_u64());
        let segment_bytes = *chance.pick(&[64, 96, 256]) << 10;
        let log = LogOptions { segment_bytes, commit: CommitRule::OnSync };
        let tail_cache_bytes = *chance.pick(&[0, 16 << 10, 1 << 20]);
        Self {
            chance,
            clock: Arc::new(ManualClock::at(Timestamp(START))),
            disk,
            options: store::Options { log, node: 1, tail_cache_bytes },
            running: None,
            oracle: Oracle::default(),
            presence: Presence::default(),
            hands: Vec::new(),
            next_id: 1,
            next_poll: 0,
            topics: Vec::new(),
            dead: HashSet::new(),
            is_loud,
            is_armed: false,
            sink: Arc::new(Silent),
            tally: Tally::default(),
            next_batch: vec![0; PAIRS.len()],
            attempts: HashMap::new(),
        }
    }

    /// The whole life of a store, to the point where everything was delivered.
    pub fn live(mut self) -> Tally {
        self.begin();
        let steps = 60 + self.chance.below(160);
        for _ in 0..steps {
            self.step();
        }
        self.finish_well();
        self.tally
    }

    pub fn now(&self) -> Now {
        Now { wall: self.clock.now(), tick: self.clock.monotonic_ms() }
    }

    fn run(&mut self) -> &mut Running {
        self.running.as_mut().expect("the process lives")
    }

    // --- life and death ---

    /// Opens the store; the first time also makes topics and groups.
    pub fn begin(&mut self) {
        self.recover();
        for (name, kind, queues) in TOPICS {
            let name = TopicName::parse(name).expect("legal");
            let spec =
                TopicSpec { id: TopicId(0), name, kind, queues, created_at: self.clock.now(), is_dropped: false };
            self.submit(Owner::Nobody, Request::CreateTopic(spec));
        }
        for (name, order, attempts_max, _) in PAIRS {
            let request = Request::CreateGroup(self.group(name, order, attempts_max));
            self.submit(Owner::Nobody, request);
        }
        self.commit(usize::MAX);
        self.topics = TOPICS
            .iter()
            .map(|(name, ..)| {
                let name = TopicName::parse(name).expect("legal");
                self.running.as_ref().expect("just begun").reader.catalog().topic(&name).expect("just made").spec.id
            })
            .collect();
        for (index, (name, order, attempts_max, topic)) in PAIRS.into_iter().enumerate() {
            let name = GroupName::parse(name).expect("legal");
            let group = self.run().reader.catalog().group(&name).expect("just made").id;
            let topic_id = self.topics[topic];
            self.oracle.pairs.push(Pair {
                group,
                topic: topic_id,
                is_ordered: broker::subscription::task::is_ordered(order, TOPICS[topic].1),
                attempts_max,
                acked: HashSet::new(),
                acked_maybe: HashSet::new(),
                dead: HashSet::new(),
                forwarded: HashSet::new(),
                holds: HashMap::new(),
                copies: HashMap::new(),
                attempts: HashMap::new(),
                filters: vec![None],
            });
            let filter = FilterSpec { is_sql: false, expression: "*".into() };
            let change = Change::Fact(Fact::Subscribe { group, topic: topic_id, start: Vec::new(), filter });
            self.submit(Owner::Nobody, Request::one(change));
            must!(self.oracle.pairs.len() == index + 1, "pairs are numbered");
        }
        self.commit(usize::MAX);
        self.start_cores();
        self.pump();
    }

    fn group(&self, name: &str, order: OrderSpec, attempts_max: u32) -> GroupSpec {
        GroupSpec {
            id: GroupId(0),
            name: GroupName::parse(name).expect("legal"),
            order,
            attempts_max,
            backoff: BackoffSpec::Steps(vec![Duration::from_secs(1), Duration::from_secs(5)]),
            invisible: Duration::from_secs(30),
            created_at: self.clock.now(),
            is_dropped: false,
        }
    }

    /// Recovers the store from the disk as it is.
    pub fn recover(&mut self) {
        let chance = Chance::new(self.chance.next_u64());
        let recovered = self.open(&self.disk.clone(), chance);
        let recovered = recovered.unwrap_or_else(|error| panic!("a disk without damage does not open: {error}"));
        say!(self, "recovered: {:?}", recovered.report);
        must!(recovered.report.quarantined.is_empty(), "damage without damage: {:?}", recovered.report);
        self.take_over(recovered);
    }

    pub fn open(&self, disk: &SimDisk, chance: Chance) -> Result<Recovered, store::OpenError> {
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("a fresh registry");
        store::recover(Arc::new(disk.clone()), self.options, self.clock.clone(), chance, metrics)
    }

    fn take_over(&mut self, recovered: Recovered) {
        let Recovered { writer, timer, reader, .. } = recovered;
        self.tally.segments = self.tally.segments.max(writer.log().segments().load().len() as u64);
        self.running = Some(Running {
            writer,
            timer,
            reader,
            subs: Vec::new(),
            inbox: VecDeque::new(),
            owners: HashMap::new(),
            next: 0,
        });
    }

    fn start_cores(&mut self) {
        let now = self.now();
        let running = self.running.as_mut().expect("the process lives");
        for (index, pair) in self.oracle.pairs.iter().enumerate() {
            let key = subscription::Pair { group: pair.group, topic: pair.topic };
            let settings = Settings {
                is_ordered: pair.is_ordered,
                attempts_max: pair.attempts_max,
                backoff: BackoffSpec::Steps(vec![Duration::from_secs(1)]),
                invisible: Duration::from_secs(30),
                in_flight_max: 64,
            };
            let progress = running.reader.progress(pair.group, pair.topic);
            let spec = progress.lock().filter.clone().expect("subscribed in the beginning");
            let filter = Filter::of(&spec, running.reader.hash_key());
            let topic = running.reader.catalog().topic_by_id(pair.topic).expect("topics of pairs stay").clone();
            let first = ((running.reader.term().0 << 40) + 1).max(self.next_batch[index]);
            let core = Core::new(key, settings, filter, Box::new(topic), progress, first, now);
            let sub = Sub { core, polls: HashMap::new(), settles: HashMap::new(), leased_at: HashMap::new() };
            running.subs.push(sub);
        }
    }

    /// The process is gone: by a crash of the machine, or killed. Whatever was unanswered stays so.
    fn restart(&mut self, is_power_lost: bool) {
        let running = self.running.take().expect("the process lives");
        let is_quiet = !self.disk.is_crashed() && running.writer.log().failure().is_none();
        let before = is_quiet.then(|| Snapshot::of(running.writer.views(), &running.timer));
        self.unanswered(&running);
        drop(running);
        if is_power_lost || self.disk.is_crashed() {
            say!(self, "power loss");
            self.disk.restart();
        } else {
            say!(self, "killed");
            self.disk.restart_process();
        }
        self.is_armed = false;
        self.disk.set_capacity(u64::MAX);
        self.tally.restarts += 1;
        // Half of the time the recovery itself is cut short once.
        if self.chance.one_in(3) {
            self.disk.crash_after(self.chance.below(8));
            let chance = Chance::new(self.chance.next_u64());
            if let Err(error) = self.open(&self.disk.clone(), chance) {
                say!(self, "the recovery was cut short: {error}");
            }
            self.disk.restart();
        }
        let twin = self.disk.image();
        self.recover();
        let twin = self.open(&twin, Chance::new(1)).unwrap_or_else(|error| panic!("the twin does not open: {error}"));
        let running = self.running.as_ref().expect("just recovered");
        let after = Snapshot::of(running.writer.views(), &running.timer);
        let of_twin = Snapshot::of(twin.writer.views(), &twin.timer);
        if let Some(difference) = after.difference(&of_twin) {
            panic!("two recoveries of one disk differ: {difference}");
        }
        if let Some(difference) = before.and_then(|before| before.difference(&after)) {
            panic!("committed before the restart and otherwise after it: {difference}");
        }
        let now = self.now();
        let running = self.running.as_ref().expect("just recovered");
        self.oracle.recovered(&running.reader, &running.timer, now.wall, now.tick);
        self.start_cores();
        self.pump();
    }

    /// What nobody was told about has an unknown outcome.
    fn unanswered(&mut self, running: &Running) {
        for (index, sub) in running.subs.iter().enumerate() {
            for (settle, slot) in sub.settles.values() {
                let pair = &mut self.oracle.pairs[index];
                match settle.verdict {
                    Verdict::Ack | Verdict::Forward => drop(pair.acked_maybe.insert(*slot)),
                    Verdict::Return { .. } => {}
                }
                if let Some(hold) = pair.holds.get_mut(slot) {
                    hold.may_end = true;
                }
            }
        }
    }

    // --- requests and answers ---

    fn submit(&mut self, owner: Owner, request: Request) {
        let running = self.run();
        running.next += 1;
        let ticket = running.next;
        running.owners.insert(ticket, owner);
        running.inbox.push_back((ticket, request));
    }

    /// One group of up to `max` requests, and everything that follows from its answers.
    pub fn commit(&mut self, max: usize) {
        let sink = self.sink.clone();
        let before = self.is_armed.then(|| {
            let running = self.running.as_ref().expect("the process lives");
            Snapshot::of(running.writer.views(), &running.timer)
        });
        let running = self.run();
        let count = running.inbox.len().min(max);
        if count == 0 {
            return;
        }
        let mut batch: Vec<Submission> = running
            .inbox
            .drain(..count)
            .map(|(ticket, request)| Submission { request, reply: ReplyTo { sink: sink.clone(), ticket } })
            .collect();
        let deliveries = running.writer.commit(&mut batch);
        let events = running.writer.take_timer_events();
        let positions = running.writer.log().positions();
        must!(positions.applied <= positions.committed && positions.committed <= positions.durable, "{positions:?}");
        let has_failed = running.writer.log().failure().is_some();
        if let Some(before) = before.filter(|_| has_failed) {
            let after = Snapshot::of(running.writer.views(), &running.timer);
            if let Some(difference) = before.difference(&after) {
                panic!("W1: a group that is not committed changed the views: {difference}");
            }
        }
        if self.disk.is_crashed() {
            // Nobody hears the answers: the machine is gone.
            return;
        }
        say!(self, "commit of {count}, failed: {has_failed}");
        let running = self.running.as_mut().expect("the process lives");
        running.timer.apply(&events);
        self.oracle.scan(&running.reader);
        for answer in deliveries.into_iter().flat_map(|delivery| delivery.answers) {
            self.answer(answer.ticket, answer.result);
        }
        for index in 0..self.run().subs.len() {
            let now = self.now();
            self.run().subs[index].core.handle(Event::Ring, now);
        }
    }

    fn answer(&mut self, ticket: u64, result: Result<Done, AppendError>) {
        let owner = self.run().owners.remove(&ticket).expect("every ticket is answered once");
        let is_unknown = matches!(result, Err(AppendError::Failed(_)));
        let now = self.now();
        match owner {
            Owner::Send(ids) => self.sent(&ids, &result, is_unknown),
            Owner::End(id, outcome) => self.ended(id, outcome, &result, is_unknown),
            Owner::Recall(id) => {
                say!(self, "recall of {id}: {result:?}");
                let message = self.oracle.messages.get_mut(&id).expect("known");
                match &result {
                    Ok(_) => {
                        must!(message.slot.is_none(), "message {id} was recalled OK and is visible");
                        message.recall = Recall::Done;
                        message.due = None;
                    }
                    Err(_) if is_unknown => {}
                    Err(_) if message.recall == Recall::Asked => message.recall = Recall::No,
                    Err(_) => {}
                }
            }
            Owner::Move(id, due) => {
                say!(self, "move of {id} to {due:?}: {result:?}");
                let message = self.oracle.messages.get_mut(&id).expect("known");
                if result.is_ok() {
                    must!(message.recall != Recall::Done, "message {id} was recalled and then moved");
                    message.due = Some(due);
                }
                message.is_moving &= is_unknown;
            }
            Owner::Timer(ticket) => {
                let mut effects = Effects::default();
                self.run().timer.answered(ticket, result, now.tick, &mut effects);
                self.timer_effects(effects);
            }
            Owner::Core(index, ticket) => self.run().subs[index].core.handle(Event::Answer(ticket, result), now),
            Owner::DeadLetterTopic(index) => {
                let topic = result.map(|done| match done {
                    Done::Topic { spec, .. } => spec.id,
                    other => panic!("a topic was asked for, not {other:?}"),
                });
                self.run().subs[index].core.dead_letter_topic(topic, now);
            }
            Owner::Nobody => {}
        }
    }

    fn sent(&mut self, ids: &[Id], result: &Result<Done, AppendError>, is_unknown: bool) {
        say!(self, "sent {ids:?}: {result:?}");
        match result {
            Ok(Done::Changed(placed)) => {
                must!(placed.len() == ids.len(), "{} messages were sent, {} placed", ids.len(), placed.len());
                for (id, placed) in ids.iter().zip(placed) {
                    self.oracle.sent(*id, placed.pointer, (placed.queue, placed.offset));
                }
            }
            Ok(other) => panic!("a send was answered with {other:?}"),
            Err(_) if is_unknown => {}
            Err(_) => {
                for id in ids {
                    let message = self.oracle.messages.get_mut(id).expect("asked for");
                    must!(message.slot.is_none(), "message {id} was refused and is visible");
                    message.fate = Fate::Nowhere;
                }
            }
        }
    }

    fn ended(&mut self, id: Id, outcome: Outcome, result: &Result<Done, AppendError>, is_unknown: bool) {
        say!(self, "end of {id} as {outcome:?}: {result:?}");
        let message = self.oracle.messages.get_mut(&id).expect("asked for");
        match (result, message.decision) {
            (Ok(_), Decision::Ended(earlier)) => {
                must!(earlier == outcome, "message {id} ended as {earlier:?} and {outcome:?}")
            }
            (Ok(_), _) => message.decision = Decision::Ended(outcome),
            (Err(_), _) if is_unknown => {}
            (Err(AppendError::TransactionEndedAs(other)), decision) => {
                let is_right = *other != outcome && decision == Decision::Ended(*other);
                must!(is_right, "the end of {id} as {outcome:?} was refused: it ended as {other:?}, but {decision:?}");
            }
            (Err(_), Decision::Asked(_)) => message.decision = Decision::Open,
            (Err(_), _) => {}
        }
    }

    fn timer_effects(&mut self, mut effects: Effects) {
        loop {
            let Effects { submit, replies, .. } = effects;
            let wall = self.clock.now();
            for reply in replies {
                self.answer(reply.to.ticket, reply.result);
            }
            effects = Effects::default();
            for (ticket, request) in submit {
                if let Request::Changes(changes) = &request {
                    changes.iter().for_each(|change| self.check_due(change, wall));
                }
                if self.chance.one_in(40) {
                    let refused = AppendError::InboxFull { what: "the simulated inbox", max: 0 };
                    let tick = self.now().tick;
                    self.run().timer.answered(ticket, Err(refused), tick, &mut effects);
                } else {
                    self.submit(Owner::Timer(ticket), request);
                }
            }
            if effects.submit.is_empty() && effects.replies.is_empty() {
                return;
            }
        }
    }

    /// Nothing is published before it is due, by what its sender was told.
    fn check_due(&self, change: &Change, wall: Timestamp) {
        let Change::Publish { origin, why: Why::Due { .. }, .. } = change else { return };
        let Some(id) = self.oracle.by_origin.get(&origin.position) else { return };
        let due = self.oracle.messages[id].due;
        must!(due.is_none_or(|due| due <= wall), "message {id} is due at {due:?} and fires at {wall:?}");
    }

    // --- subscriptions ---

    /// Lets every subscription and the timer do what is due, until nothing more follows.
    pub fn pump(&mut self) {
        for _ in 0..50 {
            let mut is_quiet = true;
            for index in 0..self.running.as_ref().map_or(0, |running| running.subs.len()) {
                let now = self.now();
                let presence = &self.presence;
                let core = &mut self.running.as_mut().expect("the process lives").subs[index].core;
                let effects = core.finish(now, presence);
                let wake = core.next_wake();
                must!(
                    wake.is_none_or(|wake| wake > now.tick),
                    "pair {index} wants to wake at {wake:?}, it is {} already",
                    now.tick
                );
                let made = self.next_batch[index]..core.next_batch();
                self.next_batch[index] = made.end;
                let leased_at = &mut self.running.as_mut().expect("the process lives").subs[index].leased_at;
                leased_at.extend(made.rev().take(64).map(|batch| (batch, now)));
                self.oracle.pass(now.tick, &self.presence.told_dead.borrow());
                self.presence.told_dead.borrow_mut().clear();
                is_quiet &= effects.is_empty();
                for effect in effects {
                    self.effect(index, effect);
                }
            }
            if is_quiet {
                return;
            }
        }
        panic!("the subscriptions never come to rest");
    }

    fn effect(&mut self, index: usize, effect: Effect) {
        let now = self.now();
        match effect {
            Effect::Deliver { poll, batch, messages } => self.delivered(index, poll, batch, &messages),
            Effect::Empty { poll } | Effect::Refuse { poll, .. } => {
                // Cancelled polls may still be refused; nobody listens.
                self.run().subs[index].polls.remove(&poll);
            }
            Effect::Settled { settle, result } => self.settled(index, settle, result.is_ok()),
            Effect::Append { ticket, changes } => {
                say!(self, "pair {index}: append {ticket} {changes:?}");
                self.check_append(index, &changes);
                if self.chance.one_in(40) {
                    let refused = AppendError::InboxFull { what: "the simulated inbox", max: 0 };
                    self.run().subs[index].core.handle(Event::Answer(ticket, Err(refused)), now);
                } else {
                    self.submit(Owner::Core(index, ticket), Request::Changes(changes.into()));
                }
            }
            Effect::NeedDeadLetterTopic => {
                let name = GroupName::parse(PAIRS[index].0).expect("legal");
                let name = TopicName::dead_letters_of(&name);
                let existing = self.run().reader.catalog().topic(&name).map(|topic| topic.spec.id);
                match existing {
                    Some(id) => self.run().subs[index].core.dead_letter_topic(Ok(id), now),
                    None => {
                        let (kind, created_at) = (TopicKind::DeadLetter, now.wall);
                        let spec = TopicSpec { id: TopicId(0), name, kind, queues: 1, created_at, is_dropped: false };
                        self.submit(Owner::DeadLetterTopic(index), Request::CreateTopic(spec));
                    }
                }
            }
        }
    }

    fn check_append(&mut self, index: usize, changes: &[Change]) {
        let max = self.oracle.pairs[index].attempts_max;
        for change in changes {
            if let Change::Publish { why: Why::DeadLetter { attempts, reason, .. }, .. } = change {
                let is_forced = *reason != storage::record::DeadLetterReason::Attempts;
                must!(is_forced || *attempts >= max, "U4: a dead letter after {attempts} of {max} attempts");
                self.tally.dead_letters += 1;
            }
        }
    }

    fn delivered(&mut self, index: usize, poll: u64, batch: u64, messages: &[subscription::Handout]) {
        let now = self.now();
        let running = self.running.as_mut().expect("the process lives");
        let Some((client, invisible)) = running.subs[index].polls.remove(&poll) else {
            say!(self, "pair {index}: batch {batch} for a poll that is gone");
            running.subs[index].core.handle(Event::Unwritten(batch), now);
            return;
        };
        let slots: Vec<_> = messages.iter().map(|m| (m.receipt.queue, m.receipt.offset, m.receipt.attempt)).collect();
        say!(self, "pair {index}: batch {batch} for {client}: {slots:?}");
        self.oracle.deliver(&running.reader, index, &client, batch, messages, now.tick);
        let started = running.subs[index].leased_at.get(&batch).copied().unwrap_or(now);
        let pair = &mut self.oracle.pairs[index];
        *pair.copies.entry(batch).or_default() += 1;
        for message in messages {
            let slot = (message.receipt.queue, message.receipt.offset);
            // A repeated delivery does not prolong its lease.
            if pair.holds.get(&slot).is_none_or(|hold| hold.batch != batch) {
                let Now { wall, tick } = started;
                let until = match invisible {
                    Some(invisible) => {
                        let ms = u64::try_from(invisible.as_millis()).expect("small");
                        Until::Tick { tick: tick + ms, wall: wall.plus_ms(ms) }
                    }
                    None if pair.is_ordered => Until::Alive { from: tick + 60_000, end: u64::MAX },
                    None => Until::Alive { from: tick + 60_000, end: tick + base::limits::RENEWED_LEASE_MS_MAX },
                };
                pair.holds.insert(slot, Hold { batch, client: client.clone(), may_end: false, until });
            }
            self.hands.push(Hand { pair: index, client: client.clone(), receipt: message.receipt });
        }
        // Some replies are not written to their end.
        if self.chance.one_in(12) && self.dead.is_empty() {
            self.unwritten(index, batch);
        }
    }

    fn unwritten(&mut self, index: usize, batch: u64) {
        say!(self, "pair {index}: batch {batch} was not written");
        let now = self.now();
        let pair = &mut self.oracle.pairs[index];
        let copies = pair.copies.entry(batch).or_insert(1);
        *copies = copies.saturating_sub(1);
        if *copies == 0 {
            pair.holds.values_mut().filter(|hold| hold.batch == batch).for_each(|hold| hold.may_end = true);
        }
        self.run().subs[index].core.handle(Event::Unwritten(batch), now);
    }

    fn settled(&mut self, index: usize, id: u64, is_ok: bool) {
        let (settle, slot) = self.run().subs[index].settles.remove(&id).expect("settles are answered once");
        say!(self, "pair {index}: {:?} of {slot:?} in batch {}: ok {is_ok}", settle.verdict, settle.receipt.batch);
        let is_unknown = self.run().writer.log().failure().is_some();
        let pair = &mut self.oracle.pairs[index];
        if !is_ok {
            if let Some(hold) = pair.holds.get_mut(&slot).filter(|_| is_unknown) {
                hold.may_end = true;
            }
            return;
        }
        let is_own = pair.holds.get(&slot).is_some_and(|hold| hold.batch == settle.receipt.batch);
        match settle.verdict {
            Verdict::Ack => {
                pair.acked.insert(slot);
                pair.holds.remove(&slot);
            }
            Verdict::Forward => {
                pair.acked.insert(slot);
                pair.forwarded.insert(slot);
                pair.holds.remove(&slot);
            }
            Verdict::Return { .. } => {
                if is_own {
                    pair.holds.remove(&slot);
                }
            }
        }
    }

    // --- steps ---

    pub fn step(&mut self) {
        match self.chance.below(100) {
            0..=19 => self.send(),
            20..=37 => self.poll(),
            38..=59 => self.settle(),
            60..=62 => self.end_transaction(),
            63..=65 => self.ask_timer(),
            66..=74 => self.advance(),
            75..=80 => self.cold(),
            81 => self.filter(),
            82..=83 => self.cancel_poll(),
            84..=85 => self.client_comes_or_goes(),
            86..=87 => self.unwritten_late(),
            88 => self.prepare_segment(),
            89..=91 => self.arm(),
            92 => {
                self.commit(usize::MAX);
                let is_power_lost = self.chance.one_in(2);
                self.restart(is_power_lost);
            }
            _ => drop(self.run().writer.mark()),
        }
        if self.disk.is_crashed() {
            self.restart(true);
            return;
        }
        self.timer_due();
        self.pump();
        if self.chance.one_in(3) {
            return;
        }
        let max = if self.chance.one_in(4) { usize::MAX } else { 1 + self.chance.below(6) as usize };
        self.commit(max);
        if self.disk.is_crashed() {
            self.restart(true);
            return;
        }
        self.pump();
        if self.run().writer.log().failure().is_some() {
            // Reads go on, nothing is appended: some more steps, then somebody restarts it.
            let position = self.run().writer.log().positions().appended;
            self.send();
            self.commit(usize::MAX);
            self.pump();
            must!(self.run().writer.log().positions().appended == position, "L3: an append after a failed sync");
            let is_power_lost = self.chance.one_in(2);
            self.restart(is_power_lost);
        }
    }

    pub fn timer_due(&mut self) {
        let now = self.now();
        let mut effects = Effects::default();
        self.run().timer.due(now.wall, now.tick, &mut effects);
        self.timer_effects(effects);
    }

    pub fn send(&mut self) {
        let count = 1 + self.chance.below(if self.chance.clone().one_in(3) { 8 } else { 2 });
        let which = self.chance.below(3) as usize;
        let mut ids = Vec::new();
        let mut changes: SmallVec<[Change; 1]> = SmallVec::new();
        for _ in 0..count {
            let (id, change) = self.message(which);
            ids.push(id);
            changes.push(change);
        }
        say!(self, "send {ids:?} to {}", TOPICS[which].0);
        self.submit(Owner::Send(ids), Request::Changes(changes));
    }

    fn message(&mut self, which: usize) -> (Id, Change) {
        let id = self.next_id;
        self.next_id += 1;
        self.tally.messages += 1;
        let topic = self.topics[which];
        let lane = if TOPICS[which].1 == TopicKind::Fifo { *self.chance.pick(&LANES) } else { "" };
        let tag = self.chance.below(TAGS.len() as u64) as u8;
        let wall = self.clock.now();
        let ahead = *self.chance.pick(&[0, 1, 500, 5_000, 70_000, 3_600_000]);
        let due = Some(Timestamp((wall.0 + ahead).saturating_sub(5)));
        let kind = match self.chance.below(10) {
            0..=1 if which != 1 => Kind::Delayed,
            2 => Kind::Prepared,
            _ if which == 2 => Kind::Delayed,
            _ => Kind::Visible,
        };
        let due = due.filter(|_| kind == Kind::Delayed || (kind == Kind::Prepared && which == 2));
        let key = *self.run().reader.hash_key();
        let group_hash = if lane.is_empty() { 0 } else { key.message_group(lane) };
        let head = Head { topic, tag_hash: key.tag(TAGS[usize::from(tag)]), group_hash, priority: 0 };
        let envelope = Envelope {
            kind: MessageKind::Normal,
            is_gzip: false,
            message_id: id.to_string(),
            born_at: wall,
            born_host: "simulation".into(),
            tag: Some(TAGS[usize::from(tag)].into()),
            keys: Vec::new(),
            properties: Vec::new(),
            message_group: (!lane.is_empty()).then(|| lane.to_owned()),
            deliver_at: due,
            trace_context: None,
            priority: None,
            lite_topic: None,
        };
        let body_kind = match kind {
            Kind::Visible => BodyKind::Visible,
            Kind::Delayed => BodyKind::Delayed { due: due.expect("delayed") },
            Kind::Prepared => BodyKind::Prepared { due, check_after_ms: 1000, client: "java".into() },
        };
        // Messages without a lane on other topics than ordered ones have no order: each is a lane of its own.
        let lane = match lane {
            "" if which == 1 => 0,
            "" => 1_000_000 + id,
            lane => u64::from(lane.as_bytes()[0]),
        };
        self.oracle.messages.insert(
            id,
            Message {
                topic,
                lane,
                tag,
                kind,
                fate: Fate::Asked,
                pointer: None,
                slot: None,
                due,
                decision: Decision::Open,
                recall: Recall::No,
                is_moving: false,
            },
        );
        (id, Change::Body(NewBody { head, kind: body_kind, part: BodyPart::encode(&envelope, &body_of(id)) }))
    }

    fn end_transaction(&mut self) {
        let is_prepared = |m: &Message| m.kind == Kind::Prepared && m.fate == Fate::Stored;
        let open: Vec<Id> = self.oracle.messages.iter().filter(|(_, m)| is_prepared(m)).map(|(id, _)| *id).collect();
        if open.is_empty() {
            return;
        }
        let id = *self.chance.pick(&open);
        let outcome = *self.chance.pick(&[Outcome::Committed, Outcome::Committed, Outcome::RolledBack]);
        let message = self.oracle.messages.get_mut(&id).expect("listed");
        if message.decision == Decision::Open {
            message.decision = Decision::Asked(outcome);
        } else if let Decision::Asked(other) = message.decision
            && other != outcome
        {
            return;
        }
        let origin = message.pointer.expect("stored").position;
        self.submit(Owner::End(id, outcome), Request::EndTransaction { origin, outcome });
    }

    fn ask_timer(&mut self) {
        let timers: Vec<Id> = self
            .oracle
            .messages
            .iter()
            .filter(|(_, m)| {
                m.fate == Fate::Stored && m.kind == Kind::Delayed && !m.is_moving && m.recall == Recall::No
            })
            .filter(|(_, m)| m.due.is_some())
            .map(|(id, _)| *id)
            .collect();
        if timers.is_empty() {
            return;
        }
        let id = *self.chance.pick(&timers);
        let wall = self.clock.now();
        let message = self.oracle.messages.get_mut(&id).expect("listed");
        let (origin, due) = (message.pointer.expect("stored").position, message.due.expect("waits"));
        let (owner, what) = if self.chance.one_in(2) {
            message.recall = Recall::Asked;
            (Owner::Recall(id), What::Recall)
        } else {
            message.is_moving = true;
            let to = wall.plus_ms(*self.chance.pick(&[0, 2_000, 90_000]));
            (Owner::Move(id, to), What::Reschedule(to))
        };
        let running = self.running.as_mut().expect("the process lives");
        running.next += 1;
        running.owners.insert(running.next, owner);
        let reply = ReplyTo { sink: self.sink.clone(), ticket: running.next };
        let mut effects = Effects::default();
        running.timer.ask(Ask { origin, due, what, reply }, &mut effects);
        self.timer_effects(effects);
    }

    pub fn advance(&mut self) {
        let ms = *self.chance.pick(&[1, 20, 1_000, 6_000, 31_000, 130_000]);
        if self.chance.one_in(12) {
            let wall = self.clock.now().0;
            let back = *self.chance.pick(&[1_000, 40_000, 200_000]);
            let to = if self.chance.one_in(2) { wall + back } else { wall - back };
            say!(self, "the wall clock is set from {wall} to {to}");
            self.clock.set_wall(Timestamp(to));
        }
        self.clock.advance_ms(ms);
    }

    pub fn poll(&mut self) {
        let pair = self.chance.below(PAIRS.len() as u64) as usize;
        let which = self.chance.below(CLIENTS.len() as u64) as usize;
        let messages_max = 1 + self.chance.below(8) as usize;
        let invisible = match self.chance.below(3) {
            0 => None,
            1 => Some(Duration::from_secs(10)),
            _ => Some(Duration::from_secs(60)),
        };
        self.poll_as(pair, which, messages_max, invisible);
    }

    fn poll_as(&mut self, pair: usize, which: usize, messages_max: usize, invisible: Option<Duration>) {
        let now = self.now();
        let (client, language) = CLIENTS[which];
        self.presence.away.remove(client);
        self.next_poll += 1;
        let id = self.next_poll;
        let earlier = self.attempts.get(&(pair, which)).filter(|_| self.chance.one_in(3)).cloned();
        let attempt: Arc<str> = earlier.unwrap_or_else(|| format!("attempt {id}").into());
        self.attempts.insert((pair, which), attempt.clone());
        let attempt_id = (!self.chance.one_in(4)).then_some(attempt);
        let client: Arc<str> = client.into();
        let until = now.tick + *self.chance.pick(&[0, 1_000, 20_000]);
        say!(self, "pair {pair}: poll {id} of {client} for {messages_max}, {invisible:?}, {attempt_id:?}");
        let poll = Poll { client: client.clone(), language, messages_max, invisible, attempt_id, until };
        let sub = &mut self.run().subs[pair];
        sub.polls.insert(id, (client, invisible));
        sub.core.handle(Event::Poll(id, poll), now);
    }

    pub fn settle(&mut self) {
        if self.hands.is_empty() {
            return;
        }
        let count = 1 + self.chance.below(4);
        for _ in 0..count {
            if self.hands.is_empty() {
                return;
            }
            let at = self.chance.below(self.hands.len() as u64) as usize;
            // Some handles are used again later.
            let hand = if self.chance.one_in(8) { self.hands[at].clone() } else { self.hands.swap_remove(at) };
            let verdict = match self.chance.below(12) {
                0 => Verdict::Forward,
                1..=2 => Verdict::Return { after: Duration::ZERO, is_suspended: false },
                3 => Verdict::Return { after: Duration::from_secs(7), is_suspended: false },
                4 => Verdict::Return { after: Duration::from_secs(1), is_suspended: true },
                _ => Verdict::Ack,
            };
            self.settle_with(hand, verdict);
        }
    }

    fn settle_with(&mut self, hand: Hand, verdict: Verdict) {
        let now = self.now();
        let Hand { pair: index, client, receipt } = hand;
        self.next_poll += 1;
        let id = self.next_poll;
        let slot = (receipt.queue, receipt.offset);
        let settle = Settle { client, receipt, verdict };
        if !matches!(verdict, Verdict::Return { .. }) {
            // What was refused once may have been asked for twice.
            self.oracle.pairs[index].acked_maybe.insert(slot);
        }
        let sub = &mut self.run().subs[index];
        sub.settles.insert(id, (settle.clone(), slot));
        sub.core.handle(Event::Settle(id, settle), now);
    }

    fn cancel_poll(&mut self) {
        let now = self.now();
        let index = self.chance.below(PAIRS.len() as u64) as usize;
        let Some(id) = self.run().subs[index].polls.keys().min().copied() else { return };
        say!(self, "pair {index}: poll {id} is cancelled");
        let sub = &mut self.run().subs[index];
        sub.polls.remove(&id);
        sub.core.handle(Event::CancelPoll(id), now);
    }

    fn client_comes_or_goes(&mut self) {
        let (client, _) = *self.chance.pick(&CLIENTS);
        if self.chance.one_in(2) {
            say!(self, "{client} falls silent");
            self.presence.away.insert(client.into());
            return;
        }
        self.says_good_bye(client);
    }

    fn says_good_bye(&mut self, client: &str) {
        say!(self, "{client} says good-bye");
        let now = self.now();
        self.presence.away.insert(client.into());
        for pair in &mut self.oracle.pairs {
            pair.holds.values_mut().filter(|hold| &*hold.client == client).for_each(|hold| hold.may_end = true);
        }
        for sub in &mut self.run().subs {
            sub.core.handle(Event::ClientGone(client.into()), now);
        }
    }

    /// A reply's failure may be noticed late, when the client has asked again already.
    fn unwritten_late(&mut self) {
        let index = self.chance.below(PAIRS.len() as u64) as usize;
        let mut batches: Vec<u64> = self.oracle.pairs[index]
            .copies
            .iter()
            .filter(|(_, copies)| **copies > 0)
            .map(|(batch, _)| *batch)
            .collect();
        batches.sort_unstable();
        if !batches.is_empty() {
            let batch = *self.chance.pick(&batches);
            self.unwritten(index, batch);
        }
    }

    fn filter(&mut self) {
        let now = self.now();
        let index = self.chance.below(2) as usize;
        let tags: Option<Vec<u8>> = match self.chance.below(3) {
            0 => None,
            1 => Some(vec![0, 1]),
            _ => Some(vec![1, 2]),
        };
        let names =
            tags.as_ref().map(|tags| tags.iter().map(|tag| TAGS[usize::from(*tag)]).collect::<Vec<_>>().join("||"));
        let text = FilterText { kind: FilterKind::Tag, expression: names.unwrap_or_else(|| "*".into()) };
        let key = *self.run().reader.hash_key();
        let (filter, spec) = Filter::parse(&text, &key).expect("legal");
        say!(self, "pair {index}: filter {:?}", spec.expression);
        self.oracle.pairs[index].filters.push(tags);
        self.run().subs[index].core.handle(Event::FilterChanged(filter, spec), now);
    }

    fn prepare_segment(&mut self) {
        let (disk, size, random) = (self.disk.clone(), self.options.log.segment_bytes, self.chance.next_u64());
        let slot = self.run().writer.log().prepared();
        if slot.lock().is_none()
            && let Ok(prepared) = storage::log::prepare(&disk, size, random, || ())
        {
            *slot.lock() = Some(prepared);
        }
        if self.disk.is_crashed() {
            self.restart(true);
        }
    }

    fn arm(&mut self) {
        self.is_armed = true;
        match self.chance.below(8) {
            0..=3 => {
                let operations = self.chance.below(16);
                say!(self, "the power will fail in {operations} operations");
                self.disk.crash_after(operations);
            }
            4..=5 => {
                let syncs = self.chance.below(4);
                say!(self, "a sync will fail in {syncs}");
                self.disk.fail_sync_after(syncs);
            }
            6 => {
                let space = self.disk.space().expect("power");
                let used = space.total - space.free;
                self.disk.set_capacity(used);
                say!(self, "the disk is full at {used}");
            }
            _ => {
                let reserve = Reserve { free: self.chance.below(2) * 100, reserve: 10 };
                say!(self, "reserve: {reserve:?}");
                self.run().writer.set_reserve(reserve);
                if self.chance.one_in(2) {
                    self.disk.set_capacity(u64::MAX);
                }
            }
        }
    }

    /// Every kind of record that no client of this run causes. Nobody consumes the cold topic; its state must come back.
    pub fn cold(&mut self) {
        let topic = self.topics[3];
        let pair = self.chance.below(PAIRS.len() as u64) as usize;
        let group = self.oracle.pairs[pair].group;
        let queue = QueueIndex(self.chance.below(2) as u16);
        let mut offset = || QueueOffset(self.chance.below(20));
        let (one, two) = (offset(), offset());
        let wall = self.clock.now();
        let number = self.chance.below(4);
        let request = match self.chance.below(14) {
            0 => Request::one(Change::Fact(Fact::Seek { group, topic, queue, to: one, generation: number as u32 })),
            1 => Request::one(Change::Fact(Fact::Park {
                group,
                topic,
                message_group: number,
                is_on: self.chance.one_in(2),
            })),
            2 => Request::one(Change::Fact(Fact::Purge { topic, queue, below: one })),
            3 => {
                let is_dropped = self.chance.one_in(3);
                let content: Arc<[u8]> = vec![number as u8; 9].into();
                Request::one(Change::Fact(Fact::Schedule(ScheduleSpec {
                    name: format!("job {number}").into(),
                    is_dropped,
                    content,
                })))
            }
            4 => {
                let filter = FilterSpec { is_sql: self.chance.one_in(2), expression: format!("tag{number}").into() };
                Request::one(Change::Fact(Fact::Subscribe { group, topic, start: vec![(queue, one)], filter }))
            }
            5 => {
                let acks = vec![AckRange { queue, first: one, count: number + 1 }];
                let retries = vec![RetryEntry { queue, offset: two, attempts: number as u32, next_visible: wall }];
                Request::one(Change::Fact(Fact::Settle { group, topic, acks, retries }))
            }
            6 => {
                let entries = vec![LeaseEntry { queue, offset: two, attempt: 1 }];
                let until = self.chance.one_in(2).then_some(wall);
                self.next_poll += 1;
                let batch = self.next_poll;
                Request::one(Change::Fact(Fact::Lease { group, topic, batch, client: "cold".into(), until, entries }))
            }
            7..=8 => {
                // Redrive: a body that lies elsewhere becomes visible here, and the dead letter is settled with it.
                let stored = self.oracle.messages.values().filter(|m| m.slot.is_some()).find_map(|m| m.pointer);
                let Some(origin) = stored else { return };
                let head = Head { topic, tag_hash: 1, group_hash: number, priority: 3 };
                let publish = Change::Publish { origin, head, why: Why::Redrive { group } };
                let acks = vec![AckRange { queue, first: two, count: 1 }];
                let settle = Change::Fact(Fact::Settle { group, topic, acks, retries: Vec::new() });
                Request::Changes([publish, settle].into_iter().collect())
            }
            9 => self.named_topic(number),
            10 => {
                let name = TopicName::parse(&format!("extra{number}")).expect("legal");
                let found = self.run().reader.catalog().topic(&name).map(|topic| topic.spec.id);
                match found {
                    Some(id) => {
                        // Dropped and made anew, in one group or in two.
                        self.submit(Owner::Nobody, Request::DropTopic(id));
                        if self.chance.one_in(2) {
                            let request = self.named_topic(number);
                            self.submit(Owner::Nobody, request);
                        }
                        return;
                    }
                    None => self.named_topic(number),
                }
            }
            11 => {
                let name = GroupName::parse(&format!("extra{number}")).expect("legal");
                let found = self.run().reader.catalog().group(&name).map(|group| group.id);
                match found {
                    Some(id) => {
                        self.submit(Owner::Nobody, Request::DropGroup(id));
                        Request::CreateGroup(self.group(name.as_str(), OrderSpec::Auto, 5))
                    }
                    None => Request::CreateGroup(self.group(name.as_str(), OrderSpec::Never, 4)),
                }
            }
            12 => {
                // Timers and transactions that die with their topic.
                let name = TopicName::parse(&format!("extra{number}")).expect("legal");
                let found = self.run().reader.catalog().topic(&name).map(|topic| topic.spec.id);
                let Some(id) = found else { return };
                let head = Head { topic: id, tag_hash: 0, group_hash: 0, priority: 0 };
                let part = BodyPart::encode(&self.plain_envelope(), &body_of(0));
                let kind = if self.chance.one_in(2) {
                    BodyKind::Delayed { due: wall.plus_ms(50_000) }
                } else {
                    BodyKind::Visible
                };
                Request::one(Change::Body(NewBody { head, kind, part }))
            }
            _ => Request::one(Change::Fact(Fact::Retire {
                origin: base::LogPosition(u64::MAX >> 20),
                pending: Pending::Timer { due: wall },
            })),
        };
        self.submit(Owner::Nobody, request);
    }

    fn named_topic(&self, number: u64) -> Request {
        let name = TopicName::parse(&format!("extra{number}")).expect("legal");
        let (kind, created_at) = (TopicKind::Mixed, self.clock.now());
        Request::CreateTopic(TopicSpec { id: TopicId(0), name, kind, queues: 2, created_at, is_dropped: false })
    }

    fn plain_envelope(&self) -> Envelope {
        Envelope {
            kind: MessageKind::Normal,
            is_gzip: false,
            message_id: "0".into(),
            born_at: self.clock.now(),
            born_host: String::new(),
            tag: None,
            keys: Vec::new(),
            properties: Vec::new(),
            message_group: None,
            deliver_at: None,
            trace_context: None,
            priority: None,
            lite_topic: None,
        }
    }

    // --- the end ---

    /// Heals everything and lets everybody finish: every message must come to its end.
    fn finish_well(&mut self) {
        self.disk.set_capacity(u64::MAX);
        self.restart(false);
        self.dead.insert(0);
        say!(self, "everything is well from here on");
        // Leases of clients that live have no end; these say good-bye, and one comes back.
        self.hands.clear();
        for (client, _) in CLIENTS {
            self.says_good_bye(client);
        }
        for round in 0..200 {
            let next = self.run().timer.timers().next_due();
            self.clock.advance_ms(61_000);
            if let Some(due) = next.filter(|due| *due > self.clock.now()) {
                self.clock.set_wall(due);
            }
            for _ in 0..4 {
                self.timer_due();
                self.pump();
                self.commit(usize::MAX);
            }
            for index in 0..PAIRS.len() {
                self.poll_as(index, 3, 8, Some(Duration::from_secs(60)));
            }
            self.pump();
            self.commit(usize::MAX);
            self.pump();
            for hand in std::mem::take(&mut self.hands) {
                // One lane never works: it must not stop the others, and ends as dead letters.
                let id = self
                    .oracle
                    .message_at(self.oracle.pairs[hand.pair].topic, (hand.receipt.queue, hand.receipt.offset));
                let is_bad = id.is_some_and(|id| self.oracle.messages[&id].lane == u64::from(b'a'));
                let verdict = if is_bad && hand.pair == 1 {
                    Verdict::Return { after: Duration::ZERO, is_suspended: false }
                } else {
                    Verdict::Ack
                };
                self.settle_with(hand, verdict);
            }
            self.pump();
            self.commit(usize::MAX);
            self.pump();
            if round > 5 && self.is_done() {
                break;
            }
        }
        self.clock.advance_ms(6_000);
        self.pump();
        self.commit(usize::MAX);
        let running = self.running.as_ref().expect("the process lives");
        self.oracle.check_end(&running.reader, &running.timer);
        self.restart(false);
        let running = self.running.as_ref().expect("the process lives");
        self.oracle.check_end(&running.reader, &running.timer);
        self.tally.delivered = self.oracle.delivered;
    }

    fn is_done(&self) -> bool {
        let running = self.running.as_ref().expect("the process lives");
        let is_settled = self.oracle.pairs.iter().all(|pair| {
            let catalog = running.reader.catalog();
            let topic = catalog.topic_by_id(pair.topic).expect("topics of pairs stay");
            let progress = running.reader.progress(pair.group, pair.topic);
            let progress = progress.lock();
            topic.queues.iter().enumerate().all(|(number, queue)| {
                let index = QueueIndex(u16::try_from(number).expect("few"));
                progress.lag(index, queue.bounds().next) == 0
            })
        });
        is_settled && running.timer.timers().is_empty() && running.inbox.is_empty()
    }

    pub fn pointers(&self) -> Vec<(Id, Pointer)> {
        self.oracle.messages.iter().filter_map(|(id, m)| m.pointer.map(|pointer| (*id, pointer))).collect()
    }
}
