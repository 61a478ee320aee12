//! The threads of a store: writer, timer, upkeep, read pool. Short drivers around the cores, which do the work.
//!
//! docs/threads.md says who owns what and who waits for whom. Nobody here waits for the network.

mod finder;
mod headroom;
mod upkeep;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use base::{Clock, LogPosition, Timestamp, TopicId};
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};

use crate::disk::Disk;
use crate::inbox::{Drained, Inbox};
use crate::log::{CommitRule, MARK_AFTER};
use crate::message::StoredMessage;
use crate::metrics::Metrics;
use crate::position::Positions;
use crate::reads::{Job, Pool};
use crate::record::Pointer;
use crate::request::{Answer, AppendError, Lane, ReplySink, ReplyTo, Request, Submission};
use crate::store::{FetchError, Reader, Recovered, parse};
use crate::timer::{Ask, Effects, TimerCore};
use crate::upkeep::Errand;
use crate::view::apply::TimerEvent;
use crate::writer::{Reserve, Writer};
use upkeep::{Driver, Others, Upkeep};

pub use finder::Finder;
pub use upkeep::{Figures, ReserveRule, Schedule};

/// A timer thread with something pending looks at the wall clock at least this often: it may jump.
const CLOCK_CHECK_MS: u64 = 100;
/// Unsynced bytes under `flush = "write"` before the writer syncs although it has more to do.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// What the threads need beyond the store itself.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub inbox_requests_max: usize,
    pub read_threads: usize,
    /// Bytes a second that groups behind the tail cache may read, all together; none = as fast as they can.
    pub behind_bytes_per_second: Option<u64>,
    pub reserve: ReserveRule,
    pub upkeep: Schedule,
}

/// A running store. Cheap to clone; [`Store::stop`] ends it for all clones.
#[derive(Clone)]
pub struct Store {
    reader: Reader,
    inbox: Arc<Inbox>,
    timer: Arc<TimerInbox>,
    reads: Arc<Pool>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    upkeep: Arc<Upkeep>,
    /// Ends before the others: its last work needs them.
    upkeep_thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Store {
    /// Starts the threads.
    pub fn start(
        recovered: Recovered,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        options: Options,
    ) -> io::Result<Self> {
        let Recovered { writer, timer, reader, upkeep: core, .. } = recovered;
        let budget = options.behind_bytes_per_second;
        let reads = Pool::new(reader.segments.clone(), clock.clone(), metrics.clone(), budget);
        let upkeep: Arc<Upkeep> = Arc::default();
        let store = Self {
            reader,
            inbox: Arc::new(Inbox::new(options.inbox_requests_max)),
            timer: Arc::new(TimerInbox::new(timer.timers().room(), upkeep.clone())),
            reads: Arc::new(reads),
            clock: clock.clone(),
            metrics: metrics.clone(),
            upkeep,
            upkeep_thread: Arc::default(),
            threads: Arc::default(),
        };
        store.upkeep.check_space(&*disk, options.reserve);
        *store.upkeep.positions.lock() = writer.log().positions();
        let (inbox, timer_inbox, upkeep) = (store.inbox.clone(), store.timer.clone(), store.upkeep.clone());
        let threads = &store.threads;
        let writer_metrics = metrics.clone();
        spawn(threads, "log-writer", move || run_writer(writer, &inbox, &timer_inbox, &upkeep, &writer_metrics))?;
        let (inbox, timer_inbox) = (store.inbox.clone(), store.timer.clone());
        let (timer_clock, timer_metrics) = (clock.clone(), metrics.clone());
        spawn(threads, "timer", move || run_timer(timer, &inbox, &timer_inbox, &*timer_clock, &timer_metrics))?;
        for number in 0..options.read_threads.max(1) {
            let reads = store.reads.clone();
            spawn(threads, &format!("read-{number}"), move || reads.run())?;
        }
        let owners = Others { inbox: store.inbox.clone(), timer: store.timer.clone() };
        let driver = Driver::new(disk, core, owners, clock, metrics, options, store.upkeep.clone());
        let only = Mutex::default();
        spawn(&only, "upkeep", move || driver.run())?;
        *store.upkeep_thread.lock() = only.into_inner().pop();
        Ok(store)
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Hands a request to the writer; the answer goes to `reply` unless the inbox refuses.
    pub fn submit(&self, lane: Lane, request: Request, reply: ReplyTo) -> Result<(), AppendError> {
        self.inbox.push(lane, Submission { request, reply }).map_err(|(_, refused)| refused)
    }

    /// As [`Store::submit`], for those who have more to say: a writer that waits is not woken before [`Store::ring`].
    pub fn submit_silently(&self, lane: Lane, request: Request, reply: ReplyTo) -> Result<(), AppendError> {
        self.inbox.push_silently(lane, Submission { request, reply }).map_err(|(_, refused)| refused)
    }

    /// Whether both are handles of one store.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inbox, &other.inbox)
    }

    /// Wakes the writer if it waits.
    pub fn ring(&self) {
        self.inbox.ring();
    }

    /// Asks the timer thread to decide about a delayed message; the answer goes to the ask's reply.
    pub fn ask_timer(&self, ask: Ask) {
        self.timer.push(|work| work.asks.push(ask));
    }

    /// The message, when it is still in memory.
    pub fn fetch_now(&self, pointer: Pointer) -> Option<Result<StoredMessage, FetchError>> {
        let began = self.clock.monotonic_ns();
        let bytes = self.reader.cached(pointer)?;
        let result = parse(pointer, &bytes);
        let ns = self.clock.monotonic_ns().saturating_sub(began);
        self.metrics.read_from_cache.observe(ns as f64 / 1e9);
        Some(result)
    }

    /// Fetches messages on the read pool, and hands them over there. False, and nothing happens, when too much waits.
    pub fn fetch_later(&self, job: Job) -> bool {
        self.reads.take(job)
    }

    /// Pending timers by topic, as of a moment ago.
    pub fn timers_pending(&self, topic: TopicId) -> u64 {
        self.timer.pending.lock().get(&topic).copied().unwrap_or(0)
    }

    /// For how long the oldest delayed message that is due has not been published; 0 when none is due. It grows too when the
    /// timer's thread does not turn over any more.
    pub fn timers_overdue_ms(&self, now: Timestamp) -> u64 {
        now.ms_since(Timestamp(self.timer.next_due.load(Ordering::Relaxed)))
    }

    /// Requests that wait for the writer, and how many may.
    pub fn inbox_depth(&self) -> (usize, usize) {
        (self.inbox.len(), self.inbox.capacity())
    }

    /// Why nothing can be written, if so.
    pub fn failure(&self) -> Option<String> {
        self.upkeep.failure.lock().clone()
    }

    /// Free space and reserve of the file system.
    pub fn reserve(&self) -> Reserve {
        *self.upkeep.reserve.lock()
    }

    /// How far the log has come.
    pub fn positions(&self) -> Positions {
        *self.upkeep.positions.lock()
    }

    /// What is on the disk, as of a moment ago.
    pub fn figures(&self) -> Figures {
        self.upkeep.figures.lock().clone()
    }

    /// Refuses new requests, finishes what is in the inbox, marks the log's end, and waits for the threads.
    pub fn stop(&self) {
        self.upkeep.is_closed.store(true, Ordering::Release);
        self.upkeep.bell.notify_all();
        let upkeep = self.upkeep_thread.lock().take();
        upkeep.into_iter().for_each(join);
        self.timer.push(|work| work.is_closed = true);
        self.inbox.close();
        self.reads.close();
        let threads = std::mem::take(&mut *self.threads.lock());
        threads.into_iter().for_each(join);
    }
}

fn join(thread: JoinHandle<()>) {
    let name = thread.thread().name().unwrap_or("").to_owned();
    if thread.join().is_err() {
        tracing::error!(thread = name, "a thread of the store has panicked");
    }
}

fn spawn(threads: &Mutex<Vec<JoinHandle<()>>>, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let guarded = || {
        let guard = AbortOnPanic;
        body();
        std::mem::forget(guard);
    };
    threads.lock().push(Builder::new().name(name.into()).spawn(guarded)?);
    Ok(())
}

/// A store without one of its threads would hang its callers, and one whose invariant is broken must write nothing more:
/// the process ends, and the next one recovers what was acknowledged.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        std::process::abort();
    }
}

fn run_writer(mut writer: Writer, inbox: &Inbox, timer: &TimerInbox, upkeep: &Upkeep, metrics: &Metrics) {
    let mut batch = Vec::new();
    let mut unsynced_since = writer.log().positions().appended;
    let mut is_failed = false;
    let publish = |writer: &Writer| *upkeep.positions.lock() = writer.log().positions();
    loop {
        let patience = if writer.log().is_unproved() { Some(MARK_AFTER) } else { None };
        match inbox.drain(patience, &mut batch) {
            Drained::Some => {
                writer.set_reserve(*upkeep.reserve.lock());
                let deliveries = writer.commit(&mut batch);
                let events = writer.take_timer_events();
                if !events.is_empty() {
                    // Before the answers: who was told of a timer may recall it at once.
                    let through = writer.log().positions().applied;
                    timer.push(|work| {
                        work.room = work.room.saturating_sub(events.len());
                        inbox.hold(work.room == 0);
                        work.events.extend(events);
                        work.through = through;
                    });
                }
                // Before the answers too: who was told that a message is stored may look it up at once.
                publish(&writer);
                for mut delivery in deliveries {
                    delivery.sink.deliver(&mut delivery.answers);
                }
            }
            Drained::Nothing => {
                drop(writer.mark());
                publish(&writer);
            }
            Drained::Closed => break,
        }
        if writer.log().options().commit == CommitRule::OnWrite {
            let appended = writer.log().positions().appended;
            if inbox.is_empty() || appended.since(unsynced_since) > UNSYNCED_BYTES_MAX {
                drop(writer.sync());
                publish(&writer);
                unsynced_since = appended;
            }
        }
        if let Some(size) = writer.log().wants_prepared() {
            upkeep.want(size, writer.log().prepared(), writer.log().spares());
        }
        if !is_failed && let Some(failure) = writer.log().failure() {
            is_failed = true;
            metrics.log_failed(failure);
            *upkeep.failure.lock() = Some(failure.to_string());
        }
    }
    if let Err(failure) = writer.mark() {
        tracing::error!(%failure, "the log could not be marked as cleanly closed");
    }
}

/// What waits for the timer thread.
struct TimerInbox {
    work: Mutex<TimerWork>,
    bell: Condvar,
    pending: Mutex<HashMap<TopicId, u64>>,
    /// So many timers are young that a checkpoint should not wait.
    wants_run: AtomicBool,
    /// Who takes it.
    upkeep: Arc<Upkeep>,
    /// Some of a run could not be read.
    has_damaged_runs: AtomicBool,
    /// When the next message is due, in milliseconds; it is overdue when that has passed.
    next_due: AtomicU64,
}

#[derive(Default)]
struct TimerWork {
    events: Vec<TimerEvent>,
    /// Where the log had come to with the newest of them.
    through: LogPosition,
    /// How many more timers may be young, these events counted. At 0 delayed messages wait in the writer's inbox.
    room: usize,
    asks: Vec<Ask>,
    /// What upkeep wants done.
    errands: Vec<Errand>,
    answers: Vec<Answer>,
    is_closed: bool,
}

impl TimerInbox {
    fn new(room: usize, upkeep: Arc<Upkeep>) -> Self {
        Self {
            work: Mutex::new(TimerWork { room, ..TimerWork::default() }),
            bell: Condvar::new(),
            pending: Mutex::default(),
            wants_run: AtomicBool::new(false),
            upkeep,
            has_damaged_runs: AtomicBool::new(false),
            next_due: AtomicU64::new(u64::MAX),
        }
    }

    /// Tells how the timers stand, to those who act upon it.
    fn show(&self, core: &TimerCore, inbox: &Inbox) {
        {
            // One lock for both: what the writer adds is counted before or after, and never lost.
            let mut work = self.work.lock();
            work.room = core.timers().room().saturating_sub(work.events.len());
            inbox.hold(work.room == 0);
        }
        let wants_run = core.timers().wants_run();
        if wants_run && !self.wants_run.swap(wants_run, Ordering::Relaxed) {
            self.upkeep.ring();
        }
        self.wants_run.store(wants_run, Ordering::Relaxed);
        self.has_damaged_runs.store(!core.timers().damaged_runs().is_empty(), Ordering::Relaxed);
        self.next_due.store(core.next_due().map_or(u64::MAX, |due| due.0), Ordering::Relaxed);
    }

    fn push(&self, add: impl FnOnce(&mut TimerWork)) {
        add(&mut self.work.lock());
        self.bell.notify_one();
    }
}

impl ReplySink for TimerInbox {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        self.push(|work| work.answers.append(answers));
    }
}

fn run_timer(mut core: TimerCore, inbox: &Inbox, own: &Arc<TimerInbox>, clock: &dyn Clock, metrics: &Metrics) {
    let mut counted_at = 0;
    *own.pending.lock() = core.timers().pending_by_topic();
    loop {
        let work = wait_for_work(&core, own, clock);
        let began = clock.monotonic_ns();
        let mut effects = Effects::default();
        let has_news = !work.events.is_empty();
        core.apply(&work.events, work.through);
        work.errands.into_iter().for_each(|errand| errand(&mut core));
        for answer in work.answers {
            core.answered(answer.ticket, answer.result, clock.monotonic_ms(), &mut effects);
        }
        work.asks.into_iter().for_each(|ask| core.ask(ask, &mut effects));
        if !work.is_closed {
            core.due(clock.now(), clock.monotonic_ms(), &mut effects);
        }
        // Refusals come back as answers, and may cause further effects.
        while !effects.submit.is_empty() || !effects.replies.is_empty() {
            effects = carry_out(effects, &mut core, inbox, own, clock, metrics);
        }
        observe(&effects.published, clock.now(), metrics);
        if has_news && clock.monotonic_ms() > counted_at + CLOCK_CHECK_MS {
            counted_at = clock.monotonic_ms();
            *own.pending.lock() = core.timers().pending_by_topic();
        }
        own.show(&core, inbox);
        metrics.timers_unreadable.set(i64::try_from(core.timers().unreadable_blocks()).unwrap_or(i64::MAX));
        metrics.timer_busy.inc_by((clock.monotonic_ns() - began) as f64 / 1e9);
        if work.is_closed {
            return;
        }
    }
}

/// Sleeps until something is due or somebody rings.
fn wait_for_work(core: &TimerCore, own: &TimerInbox, clock: &dyn Clock) -> TimerWork {
    let (due, not_before) = core.wake();
    let mut work = own.work.lock();
    let is_idle = |work: &TimerWork| {
        work.events.is_empty()
            && work.asks.is_empty()
            && work.answers.is_empty()
            && work.errands.is_empty()
            && !work.is_closed
    };
    if is_idle(&work) {
        match due {
            None => own.bell.wait(&mut work),
            Some(due) => {
                let until_due = due.ms_since(clock.now());
                let until_allowed = not_before.saturating_sub(clock.monotonic_ms());
                let wait = until_due.max(until_allowed).min(CLOCK_CHECK_MS);
                if wait > 0 {
                    own.bell.wait_for(&mut work, Duration::from_millis(wait));
                }
            }
        }
    }
    let TimerWork { is_closed, room, .. } = *work;
    // Who comes later has to see them.
    std::mem::replace(&mut *work, TimerWork { is_closed, room, ..TimerWork::default() })
}

fn carry_out(
    effects: Effects,
    core: &mut TimerCore,
    inbox: &Inbox,
    own: &Arc<TimerInbox>,
    clock: &dyn Clock,
    metrics: &Metrics,
) -> Effects {
    observe(&effects.published, clock.now(), metrics);
    for reply in effects.replies {
        reply.to.sink.deliver(&mut vec![Answer { ticket: reply.to.ticket, result: reply.result }]);
    }
    let mut caused = Effects::default();
    for (ticket, request) in effects.submit {
        let reply = ReplyTo { sink: own.clone(), ticket };
        if let Err((_, refused)) = inbox.push(Lane::Background, Submission { request, reply }) {
            core.answered(ticket, Err(refused), clock.monotonic_ms(), &mut caused);
        }
    }
    caused
}

fn observe(published: &[Timestamp], now: Timestamp, metrics: &Metrics) {
    for due in published {
        metrics.timer_lateness.observe(now.ms_since(*due) as f64 / 1e3);
        if *due > now {
            metrics.timer_early.inc();
        }
    }
}

#[cfg(test)]
#[path = "threads_tests.rs"]
mod tests;
