//! Timers with a disk, a log of what happened to them, and a map that says what must be true.

use super::*;
use crate::disk::Disk;
use crate::view::apply::TimerEvent;

const STORE: [u8; 16] = [3; 16];

/// What the last durable checkpoint says.
#[derive(Default)]
struct Checkpoint {
    covers: usize,
    runs: Vec<(u64, Ledger)>,
}

pub struct Story {
    pub timers: Timers,
    pub has_copies: bool,
    chance: Chance,
    disk: SimDisk,
    /// All that was applied; a position of the log is an index of it.
    events: Vec<TimerEvent>,
    pending: BTreeMap<(u64, u64), Timer>,
    deciding: BTreeMap<u64, u64>,
    checkpoint: Checkpoint,
    snapshot: Option<Snapshot>,
    merge: Option<(Plan, Option<Run>)>,
    now: u64,
    next_origin: u64,
    next_table: u64,
    topics: [u32; 3],
}

const BOUNDS: Bounds = Bounds { wheel: 400, young: 600, merged: 3 };

impl Story {
    pub fn new(seed: u64) -> Self {
        Self {
            timers: Timers::with_bounds(BOUNDS),
            has_copies: false,
            chance: Chance::new(seed),
            disk: SimDisk::new(1),
            events: Vec::new(),
            pending: BTreeMap::new(),
            deciding: BTreeMap::new(),
            checkpoint: Checkpoint::default(),
            snapshot: None,
            merge: None,
            now: 1_000_000,
            next_origin: 4096,
            next_table: 0,
            topics: [1, 2, 3],
        }
    }

    pub fn run(mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
            self.check();
        }
        self.now += 40_000_000;
        self.release_all();
        self.take(usize::MAX, 1);
        assert!(self.timers.is_empty() && self.pending.is_empty(), "{:?} were never due", self.pending);
    }

    fn step(&mut self) {
        match self.chance.below(100) {
            0..=24 => self.add_some(),
            25..=44 => {
                self.now += self.chance.below(30_000);
                let max = 1 + self.choice(300);
                let failing = self.chance.below(10);
                self.take(max, failing);
            }
            45..=56 => self.decide(),
            57..=61 => self.release_all(),
            62..=73 => self.checkpoint_step(),
            74..=85 => self.merge_step(),
            86..=89 => self.reopen(),
            90..=91 => self.now -= self.chance.below(100_000),
            92..=93 => self.now += self.chance.below(3_000_000),
            94..=95 => {
                // Numbers of topics are not used again.
                let topic = self.topics[self.choice(3)];
                self.topics.iter_mut().filter(|id| **id == topic).for_each(|id| *id += 3);
                self.drop_topic(topic);
            }
            _ => self.list(),
        }
    }

    fn choice(&mut self, count: u64) -> usize {
        usize::try_from(self.chance.below(count)).expect("small")
    }

    fn apply(&mut self, event: TimerEvent) {
        self.events.push(event);
        self.timers.apply(&[event]);
    }

    pub fn add(&mut self, timer: Timer) {
        self.pending.insert((timer.due.0, timer.pointer.position.0), timer);
        self.apply(TimerEvent::Add(timer));
    }

    fn add_some(&mut self) {
        let horizon = [10, 2_000, 100_000, 5_000_000][self.choice(4)];
        for _ in 0..1 + self.chance.below(200) {
            let due = (self.now + self.chance.below(horizon)).saturating_sub(self.chance.below(5) * 50);
            self.next_origin += 1 + self.chance.below(1 << 18);
            let topic = self.topics[self.choice(3)];
            self.add(of_topic(topic, due, self.next_origin));
        }
    }

    pub fn drop_topic(&mut self, topic: u32) {
        self.apply(TimerEvent::DropTopic(TopicId(topic)));
        self.pending.retain(|_, timer| timer.head.topic != TopicId(topic));
        let pending = &self.pending;
        self.deciding.retain(|origin, due| pending.contains_key(&(*due, *origin)));
    }

    fn end(&mut self, due: u64, origin: u64) {
        self.apply(TimerEvent::End { due: Timestamp(due), origin: LogPosition(origin) });
        self.pending.remove(&(due, origin)).expect("it was pending");
        self.deciding.remove(&origin);
    }

    /// Takes what is due, `max` at most, and ends it; one in `failing` stays undecided.
    fn take(&mut self, max: usize, failing: u64) -> Vec<Timer> {
        let mut left = max;
        let mut all = Vec::new();
        while left > 0 {
            let due = self.timers.take_due(Timestamp(self.now), left.min(100));
            let waiting = self
                .pending
                .values()
                .filter(|timer| timer.due.0 <= self.now && !self.deciding.contains_key(&timer.pointer.position.0));
            let expected: Vec<Timer> = waiting.take(left.min(100)).copied().collect();
            assert_eq!(due, expected, "at {}", self.now);
            if due.is_empty() {
                break;
            }
            left -= due.len();
            for timer in &due {
                self.deciding.insert(timer.pointer.position.0, timer.due.0);
                if failing <= 1 || !self.chance.one_in(failing) {
                    self.end(timer.due.0, timer.pointer.position.0);
                }
            }
            all.extend(due);
        }
        all
    }

    /// Ends all that is due by `now`; gives the numbers of their due seconds since 1,000.
    pub fn fire(&mut self, now: u64) -> Vec<u64> {
        self.now = now;
        let mut numbers = Vec::new();
        loop {
            let due = self.timers.take_due(Timestamp(now), 100);
            if due.is_empty() {
                return numbers;
            }
            for timer in due {
                assert!(self.timers.end(timer.due, timer.pointer.position));
                numbers.push((timer.due.0 - 1_000_000) / 1_000);
            }
        }
    }

    /// Recalls or moves one that is pending.
    fn decide(&mut self) {
        let number = self.choice(500);
        let Some(timer) = self.pending.values().nth(number).copied() else { return };
        let (due, origin) = (timer.due, timer.pointer.position);
        let claim = self.timers.claim(due, origin);
        if self.deciding.contains_key(&origin.0) {
            assert!(matches!(claim, Claim::Deciding), "{claim:?}");
            return;
        }
        assert!(matches!(claim, Claim::Taken(taken) if taken == timer), "{timer:?}: {claim:?}");
        self.deciding.insert(origin.0, due.0);
        match self.chance.below(3) {
            0 => {}
            1 => {
                self.end(due.0, origin.0);
                let unknown = self.timers.claim(due, origin);
                assert!(matches!(unknown, Claim::Unknown), "{unknown:?}");
            }
            _ => {
                self.end(due.0, origin.0);
                let due = Timestamp(self.now + self.chance.below(200_000));
                self.add(Timer { due, ..timer });
            }
        }
    }

    fn release_all(&mut self) {
        for origin in std::mem::take(&mut self.deciding).into_keys() {
            self.timers.release(LogPosition(origin));
        }
    }

    fn checkpoint_step(&mut self) {
        match self.snapshot.take() {
            None => self.snapshot = self.timers.snapshot(LogPosition(self.events.len() as u64)),
            Some(_) if self.chance.one_in(4) => self.timers.snapshot_failed(),
            Some(snapshot) => self.install(snapshot),
        }
    }

    /// A whole checkpoint.
    pub fn checkpoint(&mut self) {
        let snapshot = self.timers.snapshot(LogPosition(self.events.len() as u64)).expect("none is under way");
        self.install(snapshot);
    }

    fn install(&mut self, snapshot: Snapshot) {
        let mut runs = Vec::new();
        for run in &snapshot.runs {
            let known = || self.checkpoint.runs.iter().find(|(number, _)| *number == run.number);
            let ledger = run.ledger.clone().unwrap_or_else(|| known().expect("written before").1.clone());
            let ledger = self.through_the_disk(&ledger);
            runs.push((run.number, ledger));
        }
        let durable = snapshot.runs.iter().map(|run| (run.number, run.version)).collect();
        let written = snapshot.young.map(|young| {
            let (number, mut table) = self.new_table();
            let written = young.write(&mut table).expect("power");
            table.finish().expect("power");
            runs.push((number, self.through_the_disk(&written.ledger)));
            (self.open_run(number, written.ledger.clone()), written)
        });
        self.timers.installed(Installed { run: written, durable }).free();
        self.checkpoint = Checkpoint { covers: usize::try_from(snapshot.covers.0).expect("small"), runs };
    }

    fn merge_step(&mut self) {
        match self.merge.take() {
            None => self.merge = self.timers.plan_merge().map(|plan| (plan, None)),
            Some(_) if self.chance.one_in(5) => {
                self.timers.merge_failed(&MergeError::Write(std::io::Error::other("no space")));
            }
            Some((mut plan, None)) => {
                let run = self.write(&mut plan);
                self.merge = Some((plan, Some(run)));
            }
            Some((plan, Some(mut run))) if self.chance.one_in(2) => {
                self.timers.take_ended_in_merge().into_iter().for_each(|key| run.end_or_note(key));
                self.merge = Some((plan, Some(run)));
            }
            Some((_, Some(run))) => self.timers.merged(run),
        }
    }

    /// A whole merge, if there is something to merge.
    pub fn merge(&mut self) {
        if let Some(mut plan) = self.timers.plan_merge() {
            let run = self.write(&mut plan);
            self.timers.merged(run);
        }
    }

    /// In slices of any size.
    fn write(&mut self, plan: &mut Plan) -> Run {
        let (number, mut table) = self.new_table();
        let ledger = loop {
            let max = 1 + self.choice(300);
            if let Some(ledger) = plan.write(&mut table, max).expect("power") {
                break ledger;
            }
        };
        table.finish().expect("power");
        self.open_run(number, ledger)
    }

    /// The process ends and starts again.
    pub fn reopen(&mut self) {
        self.timers = Timers::with_bounds(BOUNDS);
        let runs = std::mem::take(&mut self.checkpoint.runs);
        let opened = runs.iter().map(|(number, ledger)| self.open_run(*number, ledger.clone())).collect();
        self.checkpoint.runs = runs;
        self.timers.open_runs(opened);
        let events = self.events[self.checkpoint.covers..].to_vec();
        self.timers.apply(&events);
        self.deciding.clear();
        (self.snapshot, self.merge) = (None, None);
    }

    fn list(&mut self) {
        let all = self.timers.all().expect("readable");
        assert!(all.iter().eq(self.pending.values()), "listed are {} of {}", all.len(), self.pending.len());
        let from = LogPosition(self.chance.below(self.next_origin) >> 20 << 20);
        let range = from..LogPosition(from.0 + (1 << 20));
        let is_pending = self.pending.values().any(|timer| range.contains(&timer.pointer.position));
        assert!(!is_pending || self.timers.has_pending_in(&range), "{range:?} is waited for");
    }

    fn check(&self) {
        let waiting = self.pending.values().find(|timer| !self.deciding.contains_key(&timer.pointer.position.0));
        let next = self.timers.next_due();
        assert!(waiting.is_none_or(|first| next.is_some_and(|next| next <= first.due)), "{next:?} for {waiting:?}");
        assert_eq!(self.timers.len(), self.pending.len());
        let in_memory = self.timers.wheel.len() + self.timers.past.len();
        assert!(self.timers.wheel.len() <= BOUNDS.wheel + 4_000, "{in_memory} are in the wheel");
    }

    fn new_table(&mut self) -> (u64, TableWriter) {
        self.next_table += 1;
        let identity = Identity { kind: Kind::Timers, store: STORE, random: self.next_table, number: self.next_table };
        let table = TableWriter::create(&self.disk, &format!("t{}", self.next_table), identity).expect("space");
        (self.next_table, table)
    }

    fn through_the_disk(&mut self, ledger: &Ledger) -> Ledger {
        let (number, mut table) = self.new_table();
        ledger.write(&mut table).expect("power");
        table.finish().expect("power");
        let name = format!("t{number}");
        let read = Ledger::read(&Table::open(&self.disk, &name, STORE).expect("sound")).expect("sound");
        self.disk.remove(&name).expect("power");
        assert_eq!(read.counts, ledger.counts);
        read
    }

    fn open_run(&self, number: u64, ledger: Ledger) -> Run {
        let open = |name: &str| Arc::new(Table::open(&self.disk, name, STORE).expect("sound"));
        let name = format!("t{number}");
        let copy = self.has_copies.then(|| {
            let copy = format!("{name}.copy");
            let file = self.disk.create(&copy, 0).expect("space");
            file.write_at(&self.disk.content(&name).expect("written"), 0).expect("power");
            open(&copy)
        });
        Run::open(number, RunFile::open(open(&name), copy).expect("sound"), ledger).expect("sound")
    }

    /// Flips a bit in a block of the oldest run.
    pub fn damage_block(&self, block: u64) {
        let number = self.timers.run_numbers().next().expect("a run");
        assert!(self.disk.flip(&format!("t{number}"), (1 + block) * 4096 + 77, 1));
    }

    pub fn heal_block(&self, block: u64) {
        self.damage_block(block);
    }
}
