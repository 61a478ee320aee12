//! Very many pending timers, without the log that they would lie in.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;
use std::time::Duration;

use base::duration::ms;
use base::limits::YOUNG_TIMERS_MAX;
use base::{Chance, Clock, LogPosition, SystemClock, Timestamp, TopicId};
use storage::disk::{Disk, real::RealDisk};
use storage::record::{Head, Pointer};
use storage::table::{Identity, Kind, Table, TableWriter};
use storage::view::apply::TimerEvent;
use storage::view::timers::{Installed, Ledger, MergeError, Plan, Retired, Run, RunFile, Snapshot, Timer, Timers};

use crate::resources::memory;

const STORE: [u8; 16] = [1; 16];
/// A body of a kilobyte, more or less.
const STRIDE: u64 = 1024;
const BATCH: u64 = 1000;

enum Job {
    Checkpoint(Snapshot),
    Merge(Plan),
    /// A slice of the merge that is under way.
    GoOn,
}

enum Finished {
    Checkpoint(Box<Installed>),
    Slice,
    Merge(Box<Run>),
}

/// Rows that a merge writes at a time, as the server's does.
const SLICE: usize = 1 << 16;

/// What the upkeep thread of a store does.
struct Upkeep {
    disk: Arc<RealDisk>,
    next: u64,
    ledgers: HashMap<u64, u64>,
    merge: Option<(Plan, u64, TableWriter)>,
    bytes: u64,
}

impl Upkeep {
    fn table(&mut self) -> (u64, TableWriter) {
        self.next += 1;
        let identity = Identity { kind: Kind::Timers, store: STORE, random: self.next, number: self.next };
        (self.next, TableWriter::create(&*self.disk, &format!("{}.table", self.next), identity).expect("space"))
    }

    fn ledger(&mut self, run: u64, ledger: &Ledger) {
        let (number, mut table) = self.table();
        ledger.write(&mut table).expect("space");
        self.bytes += table.finish().expect("space");
        if let Some(old) = self.ledgers.insert(run, number) {
            self.disk.remove(&format!("{old}.table")).expect("listed");
        }
    }

    fn open(&self, number: u64, ledger: Ledger) -> Run {
        let table = Arc::new(Table::open(&*self.disk, &format!("{number}.table"), STORE).expect("sound"));
        Run::open(number, RunFile::open(table, None).expect("sound"), ledger).expect("sound")
    }

    fn checkpoint(&mut self, snapshot: Snapshot) -> Installed {
        let live: Vec<u64> = snapshot.runs.iter().map(|run| run.number).collect();
        let gone: Vec<u64> = self.ledgers.keys().copied().filter(|number| !live.contains(number)).collect();
        for run in &snapshot.runs {
            run.ledger.iter().for_each(|ledger| self.ledger(run.number, ledger));
        }
        for number in gone {
            let ledger = self.ledgers.remove(&number).expect("listed");
            self.disk.remove(&format!("{ledger}.table")).expect("listed");
            self.disk.remove(&format!("{number}.table")).expect("listed");
        }
        let durable = snapshot.runs.iter().map(|run| (run.number, run.version)).collect();
        let run = snapshot.young.map(|young| {
            let (number, mut table) = self.table();
            let written = young.write(&mut table).expect("space");
            self.bytes += table.finish().expect("space");
            self.ledger(number, &written.ledger);
            (self.open(number, written.ledger.clone()), written)
        });
        Installed { run, durable }
    }

    fn merge(&mut self) -> Result<Finished, MergeError> {
        let (mut plan, number, mut table) = self.merge.take().expect("a merge is under way");
        let Some(ledger) = plan.write(&mut table, SLICE)? else {
            self.merge = Some((plan, number, table));
            return Ok(Finished::Slice);
        };
        self.bytes += table.finish()?;
        Ok(Finished::Merge(Box::new(self.open(number, ledger))))
    }

    fn run(&mut self, jobs: &Receiver<Job>, finished: &Sender<Finished>, attic: &Receiver<Retired>) {
        while let Ok(job) = jobs.recv() {
            attic.try_iter().for_each(Retired::free);
            let done = match job {
                Job::Checkpoint(snapshot) => Finished::Checkpoint(Box::new(self.checkpoint(snapshot))),
                Job::Merge(plan) => {
                    let (number, table) = self.table();
                    self.merge = Some((plan, number, table));
                    self.merge().expect("sound")
                }
                Job::GoOn => self.merge().expect("sound"),
            };
            finished.send(done).expect("somebody waits");
        }
    }
}

/// The timer thread's side.
struct Scale {
    timers: Timers,
    retired: Sender<Retired>,
    jobs: Sender<Job>,
    finished: Receiver<Finished>,
    is_busy: bool,
    is_merging: bool,
    pauses: Vec<u64>,
    /// The most that were young, and for how long they had to wait to be, in microseconds.
    young: usize,
    waited: u64,
}

impl Scale {
    fn new(retired: Sender<Retired>, jobs: Sender<Job>, finished: Receiver<Finished>) -> Self {
        let (timers, pauses) = (Timers::default(), Vec::new());
        Self { timers, retired, jobs, finished, is_busy: false, is_merging: false, pauses, young: 0, waited: 0 }
    }

    fn turn(&mut self, work: impl FnOnce(&mut Timers)) {
        let began = SystemClock.monotonic_ns();
        work(&mut self.timers);
        match self.finished.try_recv() {
            Ok(Finished::Checkpoint(installed)) => {
                let retired = self.timers.installed(*installed);
                self.retired.send(retired).expect("the thread lives");
                self.is_busy = false;
            }
            Ok(Finished::Slice) => self.is_busy = false,
            Ok(Finished::Merge(run)) => {
                self.timers.merged(*run);
                (self.is_busy, self.is_merging) = (false, false);
            }
            Err(_) => {}
        }
        if !self.is_busy {
            if self.timers.wants_run() {
                self.checkpoint();
            } else if self.is_merging {
                self.send(Job::GoOn);
            } else if let Some(plan) = self.timers.plan_merge() {
                self.is_merging = true;
                self.send(Job::Merge(plan));
            }
        }
        self.young = self.young.max(YOUNG_TIMERS_MAX - self.timers.room());
        self.pauses.push((SystemClock.monotonic_ns() - began) / 1000);
    }

    fn checkpoint(&mut self) {
        let snapshot = self.timers.snapshot(LogPosition(0)).expect("none is under way");
        self.send(Job::Checkpoint(snapshot));
    }

    fn send(&mut self, job: Job) {
        self.is_busy = true;
        self.jobs.send(job).expect("the thread lives");
    }

    /// As delayed messages do that come when too many timers are young.
    fn wait_for_room(&mut self) {
        let began = SystemClock.monotonic_ns();
        while self.timers.room() == 0 {
            self.idle();
        }
        self.waited += (SystemClock.monotonic_ns() - began) / 1000;
    }

    /// A turn without work, which is not counted.
    fn idle(&mut self) {
        self.turn(|_| ());
        self.pauses.pop();
        std::thread::yield_now();
    }

    fn settle(&mut self) {
        while self.is_busy || self.is_merging {
            self.idle();
        }
    }

    fn report(&mut self, what: &str, count: u64, since: u64) {
        let seconds = (SystemClock.monotonic_ns() - since) as f64 / 1e9;
        self.pauses.sort_unstable();
        let at = |share: usize| self.pauses.get(self.pauses.len() * share / 1000).copied().unwrap_or(0);
        println!(
            "{what}: {count} in {seconds:.1} s, {:.0}/s; a turn takes p50 {} us, p99 {} us, p99.9 {} us, max {} us; {}",
            count as f64 / seconds,
            at(500),
            at(990),
            at(999),
            self.pauses.last().copied().unwrap_or(0),
            memory()
        );
        self.pauses.clear();
    }
}

pub fn measure(directory: &Path, count: u64, within: Duration) {
    let window_ms = ms(within);
    let disk = Arc::new(RealDisk::open(directory).expect("space"));
    let mut upkeep = Upkeep { disk: disk.clone(), next: 0, ledgers: HashMap::new(), merge: None, bytes: 0 };
    let ((jobs, inbox), (outbox, finished), (retired, attic)) = (channel(), channel(), channel::<Retired>());
    let thread = Builder::new().spawn(move || {
        upkeep.run(&inbox, &outbox, &attic);
        upkeep
    });
    let thread = thread.expect("threads are to be had");
    let now = 1_700_000_000_000;
    let first = now + 600_000;
    let mut scale = Scale::new(retired, jobs, finished);
    let mut chance = Chance::new(7);
    let began = SystemClock.monotonic_ns();
    for batch in 0..count / BATCH {
        let add = |number| {
            let head = Head { topic: TopicId(1), tag_hash: 0, group_hash: number, priority: 0 };
            let pointer = Pointer { position: LogPosition(number * STRIDE), length: 1000 };
            TimerEvent::Add(Timer { due: Timestamp(first + chance.below(window_ms)), pointer, head })
        };
        let events: Vec<TimerEvent> = (batch * BATCH..(batch + 1) * BATCH).map(add).collect();
        scale.wait_for_room();
        scale.turn(|timers| {
            timers.apply(&events);
            assert!(timers.take_due(Timestamp(now), 1000).is_empty());
        });
    }
    scale.report("inserts", count, began);
    println!("{} young at most; {} ms waited for room", scale.young, scale.waited / 1000);
    scale.settle();
    scale.checkpoint();
    scale.settle();
    println!("{} runs, {}", scale.timers.run_numbers().count(), memory());
    let numbers: Vec<u64> = scale.timers.run_numbers().collect();
    fire(&mut scale, first, window_ms, count);
    drop(scale);
    let upkeep = thread.join().expect("it ends when nobody asks for anything");
    println!("{} MiB written", upkeep.bytes >> 20);
    reopen(&upkeep, &numbers);
}

/// Publishes the first twentieth of them.
fn fire(scale: &mut Scale, first: u64, window_ms: u64, count: u64) {
    let (mut now, mut fired) = (first, 0);
    let began = SystemClock.monotonic_ns();
    scale.pauses.clear();
    while fired < count / 20 && now < first + window_ms + 1000 {
        let mut due = Vec::new();
        scale.turn(|timers| {
            due = timers.take_due(Timestamp(now), 1000);
            for timer in &due {
                assert!(timers.end(timer.due, timer.pointer.position));
            }
        });
        fired += due.len() as u64;
        now += u64::from(due.is_empty());
    }
    scale.report("publications", fired, began);
    scale.settle();
    scale.checkpoint();
    scale.settle();
}

fn reopen(upkeep: &Upkeep, numbers: &[u64]) {
    let began = SystemClock.monotonic_ns();
    let open = |number: &u64| {
        let name = format!("{}.table", upkeep.ledgers.get(number)?);
        let ledger = Ledger::read(&Table::open(&*upkeep.disk, &name, STORE).expect("sound")).expect("sound");
        Some(upkeep.open(*number, ledger))
    };
    let mut timers = Timers::default();
    timers.open_runs(numbers.iter().filter_map(open).collect());
    let opened = SystemClock.monotonic_ns();
    let due = timers.take_due(Timestamp(u64::MAX >> 20), 1000);
    println!(
        "restart with {} pending: {:.1} ms, and {:.1} ms to the first {}; {}",
        timers.len(),
        (opened - began) as f64 / 1e6,
        (SystemClock.monotonic_ns() - opened) as f64 / 1e6,
        due.len(),
        memory()
    );
}
