//! Runs a scenario: threads with a runtime each, one start for all, and the watch over their end.
//!
//! All threads connect first; only then is the time window fixed. The calling thread watches: it shows progress, reads
//! costs at the window's edges, and says when it is over.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base::Chance;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indicatif::ProgressBar;
use tokio::sync::watch;

use super::Load;
use super::cost::{Cost, Meter};
use super::tally::Tally;
use crate::exit::{Exit, Failure};
use crate::runtime;

const LOOK_EVERY: Duration = Duration::from_millis(20);
const SHOW_EVERY: u32 = 10;
/// Timers of the runtime fire on milliseconds, up to one late: a message waits until this much before its time and
/// leaves then, so that the generator's own lateness is no part of what is measured.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// What threads do. Each connects by itself and drives its share.
pub trait Scenario: Send + Sync + 'static {
    type Connected;

    fn connect(&self, seat: Seat) -> impl Future<Output = Result<Self::Connected, Failure>>;
    fn drive(&self, connected: Self::Connected, run: &Run) -> impl Future<Output = ()>;
}

/// One thread's place among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    pub index: usize,
    pub threads: usize,
}

impl Seat {
    /// This thread's part of `total`; with fewer than threads, some get none.
    pub fn share(self, total: usize) -> usize {
        total / self.threads + usize::from(self.index < total % self.threads)
    }
}

/// When it runs and what of it counts.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub start: Instant,
    pub measured_from: Instant,
    pub end: Instant,
}

impl Window {
    fn starting_at(start: Instant, load: &Load) -> Self {
        let measured_from = start + load.warmup;
        Self { start, measured_from, end: measured_from + load.duration }
    }

    pub fn is_measured(&self, at: Instant) -> bool {
        at >= self.measured_from && at <= self.end
    }
}

/// When a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The window ends.
    Window,
    /// So many messages are settled, or none for a while.
    Settled { count: u64, idle: Duration },
    /// The window has ended and all that was sent is settled, or none for a while.
    Drained { idle: Duration },
}

/// What all threads see.
#[derive(Debug)]
pub struct Shared {
    /// Marks the messages of this run.
    pub id: u64,
    /// Stamps count from here.
    pub epoch: Instant,
    pub sent: AtomicU64,
    pub settled: AtomicU64,
    /// Send calls that are under way, or about to find out that the time is over.
    pub sending: AtomicU64,
}

/// A send call that is under way.
pub struct Sending<'a> {
    shared: &'a Shared,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.shared.sending.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One thread's view of the run.
#[derive(Debug)]
pub struct Run {
    pub seat: Seat,
    pub window: Window,
    pub shared: Arc<Shared>,
    pub tally: RefCell<Tally>,
    stop: watch::Receiver<bool>,
}

impl Run {
    /// Resolves when nothing more is to be received.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    pub fn stamp_us(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.shared.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// To be held from before a sender looks at the time until its call was counted: nothing is drained before.
    pub fn sending(&self) -> Sending<'_> {
        self.shared.sending.fetch_add(1, Ordering::SeqCst);
        Sending { shared: &self.shared }
    }

    /// Counts a send call that was meant for `from`, and left when its producer had a hand free.
    pub fn sent(&self, from: Instant, left: Instant, messages: usize) {
        let done = runtime::now();
        self.shared.sent.fetch_add(messages as u64, Ordering::Relaxed);
        let mut tally = self.tally.borrow_mut();
        if from >= self.window.measured_from {
            tally.send.record(done.saturating_duration_since(from), messages as u64);
            tally.send_call.record(done.saturating_duration_since(left), messages as u64);
        }
        if self.window.is_measured(done) {
            tally.send.messages += messages as u64;
        }
    }
}

impl Run {
    /// Counts a send call that the server refused for overload; its latency is the server's, from when it left.
    pub fn refused(&self, left: Instant, messages: usize) {
        let done = runtime::now();
        if self.window.is_measured(done) {
            let mut tally = self.tally.borrow_mut();
            tally.refused.record(done.saturating_duration_since(left), messages as u64);
            tally.refused.messages += messages as u64;
        }
    }
}

/// Whose turn it is to send: at a rate, or as soon as there is a hand free.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    interval: Option<Duration>,
    next: Cell<u64>,
}

impl Pace {
    /// `calls` a second from `start` on.
    pub fn new(start: Instant, calls: Option<f64>) -> Self {
        Self { start, interval: calls.map(|rate| Duration::from_secs_f64(1.0 / rate)), next: Cell::new(0) }
    }

    /// The number of the next call and the time its latency counts from; waits until then.
    pub async fn turn(&self) -> (u64, Instant) {
        let number = self.next.get();
        self.next.set(number + 1);
        let Some(intended) = self.intended(number) else { return (number, runtime::now()) };
        if intended > runtime::now() + TIMER_STEP {
            runtime::wait_until(intended - TIMER_STEP).await;
        }
        // A call that leaves early counts from when it left, a late one from when it should have left.
        (number, intended.min(runtime::now()))
    }

    /// Whether calls leave at a rate, whatever comes back.
    pub fn is_open(&self) -> bool {
        self.interval.is_some()
    }

    /// Calls that should have begun before `end` and did not.
    pub fn missed(&self, end: Instant) -> u64 {
        let Some(interval) = self.interval else { return 0 };
        let due = end.saturating_duration_since(self.start).as_secs_f64() / interval.as_secs_f64();
        // Whole calls; the fraction has not been due.
        (due as u64).saturating_sub(self.next.get())
    }

    fn intended(&self, number: u64) -> Option<Instant> {
        self.interval.map(|interval| self.start + interval.mul_f64(number as f64))
    }
}

/// Runs futures beside each other on this thread until all have ended.
pub async fn all<F: Future<Output = ()>>(lanes: impl Iterator<Item = F>) {
    let mut lanes: FuturesUnordered<F> = lanes.collect();
    while lanes.next().await.is_some() {}
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    pub tally: Tally,
    /// Spent within the window.
    pub cost: Cost,
    pub window: Window,
    pub sent: u64,
    pub settled: u64,
}

/// Runs `scenario` on all threads and gathers what they measured.
pub fn run<S: Scenario>(scenario: S, load: &Load, meter: Meter, until: Until) -> Result<Outcome, Failure> {
    let shared = Arc::new(Shared {
        id: Chance::from_system().next_u64(),
        epoch: runtime::now(),
        sent: AtomicU64::new(0),
        settled: AtomicU64::new(0),
        sending: AtomicU64::new(0),
    });
    run_as(scenario, load, meter, until, shared)
}

/// As [`run`], with the identity of a run whose messages are there already.
pub fn run_as<S: Scenario>(
    scenario: S,
    load: &Load,
    meter: Meter,
    until: Until,
    shared: Arc<Shared>,
) -> Result<Outcome, Failure> {
    let scenario = Arc::new(scenario);
    let (go, went) = watch::channel(None::<Window>);
    let (stop, stopped) = watch::channel(false);
    let (ready_tx, ready_rx) = mpsc::sync_channel(load.threads);
    let mut threads = Vec::with_capacity(load.threads);
    for index in 0..load.threads {
        let seat = Seat { index, threads: load.threads };
        let (scenario, shared, ready) = (Arc::clone(&scenario), Arc::clone(&shared), ready_tx.clone());
        let (went, stopped) = (went.clone(), stopped.clone());
        let work = move || runtime::block_on(work(&*scenario, seat, shared, ready, went, stopped));
        threads.push(runtime::thread(&format!("load-{index}"), work)?);
    }
    for _ in 0..load.threads {
        // On a failure `go` is dropped, which ends the threads that wait for it.
        ready_rx.recv().map_err(|_| Failure::new(Exit::Failed, "a load thread has died"))??;
    }
    let window = Window::starting_at(runtime::now(), load);
    go.send_replace(Some(window));
    let cost = runtime::block_on(watch_over(window, &shared, meter, until));
    stop.send_replace(true);
    let mut tally = Tally::new();
    for thread in threads {
        tally.add(&thread.join().map_err(|_| Failure::new(Exit::Failed, "a load thread has died"))?);
    }
    let (sent, settled) = (shared.sent.load(Ordering::Relaxed), shared.settled.load(Ordering::Relaxed));
    Ok(Outcome { tally, cost, window, sent, settled })
}

async fn work<S: Scenario>(
    scenario: &S,
    seat: Seat,
    shared: Arc<Shared>,
    ready: mpsc::SyncSender<Result<(), Failure>>,
    mut went: watch::Receiver<Option<Window>>,
    stop: watch::Receiver<bool>,
) -> Tally {
    let connected = match scenario.connect(seat).await {
        Ok(connected) => connected,
        Err(failure) => {
            // The receiver is gone when another thread failed first.
            let _is_told_once = ready.send(Err(failure));
            return Tally::new();
        }
    };
    let _is_told_once = ready.send(Ok(()));
    let window = match went.wait_for(Option::is_some).await {
        Ok(window) => window.expect("it was waited for"),
        Err(_) => return Tally::new(),
    };
    let run = Run { seat, window, shared, tally: RefCell::new(Tally::new()), stop };
    scenario.drive(connected, &run).await;
    run.tally.into_inner()
}

/// Waits for the end and gives what the window cost.
async fn watch_over(window: Window, shared: &Shared, mut meter: Meter, until: Until) -> Cost {
    // Hidden by itself when standard error is no terminal.
    let bar = ProgressBar::new_spinner();
    let (mut before, mut after) = (None, None);
    let (mut moved_at, mut last) = (runtime::now(), 0);
    for tick in 0_u32.. {
        runtime::wait(LOOK_EVERY).await;
        let now = runtime::now();
        if before.is_none() && now >= window.measured_from {
            before = Some(meter.read().await);
        }
        if after.is_none() && now >= window.end && !matches!(until, Until::Settled { .. }) {
            after = Some(meter.read().await);
        }
        let is_sending_over = shared.sending.load(Ordering::SeqCst) == 0;
        let (sent, settled) = (shared.sent.load(Ordering::Relaxed), shared.settled.load(Ordering::Relaxed));
        if settled != last {
            (moved_at, last) = (now, settled);
        }
        if tick % SHOW_EVERY == 0 {
            bar.set_message(format!("{} s: {sent} sent, {settled} settled", (now - window.start).as_secs()));
            bar.tick();
        }
        let is_over = match until {
            Until::Window => now >= window.end,
            Until::Settled { count, idle } => settled >= count || now - moved_at > idle,
            Until::Drained { idle } => {
                // Read before what was sent is: a call that ends in between is counted there.
                let is_drained = is_sending_over && settled >= sent;
                now >= window.end && (is_drained || now - moved_at.max(window.end) > idle)
            }
        };
        if is_over {
            break;
        }
    }
    bar.finish_and_clear();
    let after = match after {
        Some(after) => after,
        None => meter.read().await,
    };
    before.map(|before| after.since(&before)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole() {
        for (total, threads) in [(10, 3), (2, 4), (64, 1)] {
            let sum: usize = (0..threads).map(|index| Seat { index, threads }.share(total)).sum();
            assert_eq!(sum, total);
        }
    }

    #[test]
    fn a_late_turn_counts_from_its_intended_time_and_missed_ones_are_known() {
        runtime::block_on(async {
            let start = runtime::now() - Duration::from_secs(1);
            let pace = Pace::new(start, Some(10.0));
            assert_eq!(pace.turn().await, (0, start));
            assert_eq!(pace.turn().await, (1, start + Duration::from_millis(100)));
            assert_eq!(pace.missed(start + Duration::from_millis(950)), 7);
        });
    }

    #[test]
    fn a_turn_without_a_rate_is_now() {
        runtime::block_on(async {
            let before = runtime::now();
            let pace = Pace::new(before, None);
            let (number, from) = pace.turn().await;
            assert_eq!(number, 0);
            assert!(from >= before && pace.missed(from + Duration::from_secs(9)) == 0);
        });
    }

    #[test]
    fn a_turn_ahead_is_waited_for_and_never_counts_from_the_future() {
        runtime::block_on(async {
            let start = runtime::now() + Duration::from_millis(30);
            let pace = Pace::new(start, Some(1.0));
            let (_, from) = pace.turn().await;
            assert!(from <= runtime::now() && from >= start - Duration::from_millis(2));
        });
    }
}
