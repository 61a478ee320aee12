//! One run: a store in parts, clients, faults. Every step is one choice of a seeded generator.

mod cold;
mod ending;
mod faults;
mod life;
mod load;
mod operators;
mod queues;
mod requests;
mod runs;
mod scene;
mod subscriptions;
mod upkeep;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use base::{Chance, Clock, ManualClock, Timestamp, TopicId};
use broker::handle::Receipt;
use broker::subscription::core::{Core, Keeping};
use broker::subscription::room::Room;
use broker::subscription::{Alive, Now, Settle, Slot};
use storage::disk::sim::SimDisk;
use storage::log::{CommitRule, LogOptions};
use storage::record::Pointer;
use storage::request::{Answer, Change, ReplySink, Request};
use storage::store::{self, Reader};
use storage::timer::TimerCore;
use storage::upkeep::Upkeep;
use storage::view::timers::Bounds;
use storage::view::transactions::Outcome;
use storage::writer::Writer;

use super::Tally;
use super::oracle::{Id, Operation, Oracle, must};
pub(super) use runs::Quiet;
use scene::PAIRS;

pub const START: u64 = 1_700_000_000_000;

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
    Operator(Operation),
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
    settles: HashMap<u64, Asked>,
    /// Under way to the log, by ticket.
    appends: HashMap<u64, Append>,
    /// When a batch was put together.
    leased_at: HashMap<u64, Now>,
}

/// A settle without an answer.
struct Asked {
    settle: Settle,
    at: Now,
    /// Its queue was sought since: what it says of the message may be void.
    is_old: bool,
}

impl Asked {
    fn slot(&self) -> Slot {
        (self.settle.receipt.queue, self.settle.receipt.offset)
    }
}

/// What a subscription wants appended.
struct Append {
    changes: Vec<Change>,
    is_old: bool,
}

/// The store's parts while the process lives.
pub struct Running {
    pub writer: Writer,
    pub timer: TimerCore,
    pub reader: Reader,
    /// Away while it works.
    pub(super) upkeep: Option<Upkeep>,
    subs: Vec<Sub>,
    /// What was fetched ahead and has not come yet: pair, ticket, records.
    fetches: Vec<(usize, u64, Vec<Pointer>)>,
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
    /// Nothing goes wrong any more.
    is_well: bool,
    is_loud: bool,
    /// A store that grows old: much is sent and acknowledged, little waits, and segments go.
    is_aging: bool,
    /// A fault is armed, so what a failed commit leaves behind is looked at.
    is_armed: bool,
    /// The number of the newest checkpoint whose manifest was lost.
    lost_checkpoint: u64,
    /// The wall clock was never set to an earlier time.
    earliest: Timestamp,
    sink: Arc<dyn ReplySink>,
    pub tally: Tally,
    next_batch: Vec<u64>,
    keeping: Keeping,
    room: Room,
    look_ups: Arc<queues::LookUps>,
    /// Numbers seeks and contents of schedules.
    next_generation: u32,
    /// A client's last attempt at each pair.
    attempts: HashMap<(usize, usize), Arc<str>>,
}

/// Prints an event of a run that is replayed.
macro_rules! say {
    ($world:expr, $($what:tt)+) => {
        if $world.is_loud {
            println!("[{:>9}] {}", base::Clock::monotonic_ms(&*$world.clock), format!($($what)+));
        }
    };
}
use say;

impl World {
    pub fn new(seed: u64, is_loud: bool) -> Self {
        let mut chance = Chance::new(seed);
        let disk = SimDisk::new(chance.next_u64());
        let disk = if chance.one_in(2) { disk.without_device_reads() } else { disk };
        let segment_bytes = *chance.pick(&[64, 96, 256]) << 10;
        let log = LogOptions { segment_bytes, commit: CommitRule::OnSync };
        // Small, so that a few timers fill the wheel, and a few runs are merged.
        let timers = Bounds { wheel: *chance.pick(&[4, 16, 1000]), young: 1000, merged: *chance.pick(&[2, 3, 10]) };
        let tail_cache_bytes = *chance.pick(&[0, 16 << 10, 1 << 20]);
        Self {
            chance,
            clock: Arc::new(ManualClock::at(Timestamp(START))),
            disk,
            options: store::Options { log, node: 1, tail_cache_bytes, timers },
            running: None,
            oracle: Oracle::default(),
            presence: Presence::default(),
            hands: Vec::new(),
            next_id: 1,
            next_poll: 0,
            topics: Vec::new(),
            is_well: false,
            is_loud,
            is_aging: seed % 4 == 1,
            is_armed: false,
            lost_checkpoint: 0,
            earliest: Timestamp(START),
            sink: Arc::new(Silent),
            tally: Tally::default(),
            next_batch: vec![0; PAIRS.len()],
            keeping: queues::keeping(seed),
            room: queues::room(seed),
            look_ups: Arc::default(),
            next_generation: 0,
            attempts: HashMap::new(),
        }
    }

    /// Of a store that grows old, whatever its seed.
    pub fn growing_old(mut self) -> Self {
        self.is_aging = true;
        self
    }

    /// The whole life of a store, to the point where everything was delivered.
    pub fn live(mut self) -> Tally {
        self.begin();
        let steps = if self.is_aging { 300 + self.chance.below(400) } else { 60 + self.chance.below(160) };
        for _ in 0..steps {
            self.step();
        }
        self.finish_well();
        self.tally
    }

    pub fn now(&self) -> Now {
        Now { wall: self.clock.now(), tick: self.clock.monotonic_ms() }
    }

    pub fn run(&mut self) -> &mut Running {
        self.running.as_mut().expect("the process lives")
    }

    pub fn step(&mut self) {
        match self.chance.below(100) {
            0..=14 if self.is_aging => {
                if self.chance.one_in(12) {
                    self.arm();
                }
                self.upkeep();
            }
            0..=19 => self.send(),
            20..=37 => self.poll(),
            38..=59 => self.settle(),
            60..=62 => self.end_transaction(),
            63..=65 => self.ask_timer(),
            66..=72 => self.advance(),
            73..=74 => self.upkeep(),
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
            93..=95 => self.operate(),
            96..=97 => self.upkeep(),
            98 if self.is_aging => self.rot(),
            98 => self.rot_in_runs(),
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

    pub fn pointers(&self) -> Vec<(Id, Pointer)> {
        self.oracle.messages.iter().filter_map(|(id, m)| m.pointer.map(|pointer| (*id, pointer))).collect()
    }
}
