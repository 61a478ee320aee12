//! What a process holds in memory for its clients: one budget, and a fair share of it for each connection.
//!
//! Requests that are being received or worked on, and answers that clients have not taken, are paid for before they are held;
//! what does not fit is refused at once. A connection may hold at most what is still free, so one alone gets half of the
//! budget, `n` that want all get an (n + 1)th each, and who comes next finds as much: nobody can take all of it.
//!
//! A1. What is held never exceeds the limit.
//! A2. Everything held is given back exactly once, by a drop.
//!
//! No locks: a call costs a few additions to counters that all workers share.

mod answered;
pub mod body;
pub mod commands;
mod flow;
mod metrics;
pub mod pace;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base::ByteSize;
use base::limits::{CALL_BYTES, SMALL_HOLD_BYTES, TURN_BYTES_MIN};
use tokio::sync::Notify;

pub use answered::Answered;
pub use flow::Flow;
pub use metrics::POOLS;

use crate::runtime;

/// The memory of a process for what its clients make it hold.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    limit: usize,
    used: AtomicUsize,
    connections: AtomicUsize,
    refused: metrics::Refused,
}

/// One connection's part.
#[derive(Debug, Clone)]
pub struct Share(Arc<Account>);

#[derive(Debug)]
struct Account {
    budget: Budget,
    held: AtomicUsize,
    /// The client takes nothing at the moment.
    is_blocked: AtomicBool,
    /// What was given back while the client took nothing: the answer still waits in the connection. Part of `held`.
    stuck: AtomicUsize,
    /// Answers that are being taken.
    answers: AtomicUsize,
    /// Goes up whenever the client takes something.
    progress: AtomicU64,
    /// Rings when something begins to wait for the client.
    waits: Notify,
    /// Goes up whenever something comes from the client.
    heard: AtomicU64,
    /// Calls in progress: an answer is not in HTTP/2's hands altogether.
    calls: AtomicUsize,
    /// The last span in which it was paused.
    paused_in: AtomicU64,
}

/// Memory that is paid for, until dropped.
#[derive(Debug)]
pub struct Held {
    account: Arc<Account>,
    bytes: usize,
}

/// An answer that its client has to take, until dropped.
#[derive(Debug)]
pub struct Answer(Arc<Account>);

/// A call in progress, until dropped.
#[derive(Debug)]
pub struct Call(Arc<Account>);

/// Why something is refused for overload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.limit())]
pub enum Overload {
    Memory,
    Share,
    /// Of sends only, as is [`Overload::Wait`].
    Calls,
    Wait,
}

impl Overload {
    pub const ALL: [Self; 4] = [Self::Memory, Self::Share, Self::Calls, Self::Wait];

    /// The limit, in words.
    pub fn limit(self) -> &'static str {
        match self {
            Self::Memory => "the memory for requests and answers (limits.memory)",
            Self::Share => "a connection's share of the memory for requests and answers (limits.memory)",
            Self::Calls => "a connection's share of the sends that may be at work (limits.writer_inbox)",
            Self::Wait => "sends wait for longer than they should (limits.send_wait)",
        }
    }

    /// As `carillon_overload_refusals_total` counts it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Share => "share",
            Self::Calls => "calls",
            Self::Wait => "wait",
        }
    }
}

impl Budget {
    /// Shown by `registry`.
    pub fn new(limit: ByteSize, registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let refused = metrics::Refused::register(registry)?;
        let limit = usize::try_from(limit.0).unwrap_or(usize::MAX);
        let pool = Pool { limit, used: AtomicUsize::new(0), connections: AtomicUsize::new(0), refused };
        let budget = Self(Arc::new(pool));
        metrics::State::register(registry, &budget)?;
        Ok(budget)
    }

    /// For a new connection.
    pub fn share(&self) -> Share {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Share(Arc::new(Account {
            budget: self.clone(),
            held: AtomicUsize::new(0),
            is_blocked: AtomicBool::new(false),
            stuck: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
            waits: Notify::new(),
            heard: AtomicU64::new(0),
            calls: AtomicUsize::new(0),
            paused_in: AtomicU64::new(0),
        }))
    }

    pub fn limit(&self) -> usize {
        self.0.limit
    }

    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// What a connection reads before calls, and other connections, have their turn: it is paid for by nobody until they
    /// have read it. An eighth of the limit for all connections together, but never too little to go on with.
    fn turn_bytes(&self) -> usize {
        let connections = self.0.connections.load(Ordering::Relaxed).max(1);
        (self.0.limit / 8 / connections).min(pace::turn_bytes()).max(TURN_BYTES_MIN)
    }
}

impl Share {
    /// Pays for `bytes`, at once or not at all.
    pub fn hold(&self, bytes: usize) -> Result<Held, Overload> {
        self.0.take(bytes)?;
        Ok(Held { account: self.0.clone(), bytes })
    }

    /// Pays for a call of which the head is there.
    pub fn hold_call<B>(&self, request: &http::Request<B>) -> Result<Held, Overload> {
        let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
        self.hold(CALL_BYTES + path + headers.sum::<usize>())
    }

    /// What could be held more, as things are.
    pub fn room(&self) -> usize {
        let free = self.0.budget.limit().saturating_sub(self.0.budget.used());
        // One that takes `more` of it leaves as much less to compare with.
        free.saturating_sub(self.0.held.load(Ordering::Relaxed))
    }

    pub fn budget(&self) -> &Budget {
        &self.0.budget
    }

    /// Says that an answer waits for the client.
    pub fn answer(&self) -> Answer {
        if self.0.answers.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0.waits.notify_one();
        }
        Answer(self.0.clone())
    }

    /// Says that a call has begun.
    pub fn call(&self) -> Call {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        Call(self.0.clone())
    }

    /// Says that a call of this connection is refused, which was decided elsewhere.
    pub fn refused(&self, overload: Overload, now: Instant) {
        self.0.refused(overload, now);
    }

    /// Nothing more of this connection is read in the span of time in which `now` lies.
    pub fn pause(&self, now: Instant) {
        self.0.pause(now);
    }

    /// For how much longer the connection is paused.
    fn paused(&self) -> Option<Duration> {
        match self.0.paused_in.load(Ordering::Relaxed) {
            0 => None,
            paused_in => pace::rest(paused_in, runtime::now()),
        }
    }

    /// Ends when for all of `patience` no call was in progress, and nothing came from the client or waited for it.
    pub async fn rests(&self, patience: Duration) {
        let account = &self.0;
        // Whatever ends a call leaves its mark.
        let marks = || (account.heard.load(Ordering::Relaxed), account.progress.load(Ordering::Relaxed));
        let is_busy = || account.calls.load(Ordering::Relaxed) > 0 || account.is_blocked.load(Ordering::Relaxed);
        loop {
            let before = marks();
            tokio::time::sleep(patience).await;
            if !is_busy() && marks() == before {
                return;
            }
        }
    }

    /// Ends when answers have waited for `patience` and the client took nothing of anything.
    pub async fn stalls(&self, patience: Duration) {
        let account = &self.0;
        let is_waited_for =
            || account.answers.load(Ordering::Relaxed) > 0 || account.is_blocked.load(Ordering::Relaxed);
        loop {
            while !is_waited_for() {
                account.waits.notified().await;
            }
            let before = account.progress.load(Ordering::Relaxed);
            tokio::time::sleep(patience).await;
            if is_waited_for() && account.progress.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

impl Account {
    fn take(&self, bytes: usize) -> Result<(), Overload> {
        let pool = &self.budget.0;
        let used = pool.used.fetch_add(bytes, Ordering::AcqRel);
        let held = self.held.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let free = pool.limit.saturating_sub(used);
        // What is small gets through where large things do not any more: acks of a client that has its share in answers.
        let allowed = if bytes <= SMALL_HOLD_BYTES { free.saturating_mul(2) } else { free };
        let overload = if bytes > free {
            Overload::Memory
        } else if held > allowed {
            Overload::Share
        } else {
            return Ok(());
        };
        // Taken first, so that A1 holds however many ask at a time: some may be refused that would just have fitted.
        self.give(bytes);
        self.refused(overload, runtime::now());
        Err(overload)
    }

    /// Beyond what a worker has to give, a connection that is refused is paused.
    fn refused(&self, overload: Overload, now: Instant) {
        self.budget.0.refused.count(overload);
        pace::refuses(now);
        if !pace::may_refuse(now) {
            self.pause(now);
        }
    }

    fn pause(&self, now: Instant) {
        let span = pace::span(now);
        if self.paused_in.swap(span, Ordering::Relaxed) != span {
            pace::pauses(now);
            self.budget.0.refused.count_pause();
        }
    }

    fn give(&self, bytes: usize) {
        let held = self.held.fetch_sub(bytes, Ordering::AcqRel);
        let used = self.budget.0.used.fetch_sub(bytes, Ordering::AcqRel);
        assert!(held >= bytes && used >= bytes, "A2: {bytes} given back of {held}, of all {used}");
    }

    fn heard(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// The client has taken something.
    fn moved(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
        if self.is_blocked.swap(false, Ordering::AcqRel) {
            self.give(self.stuck.swap(0, Ordering::AcqRel));
        }
    }

    /// The client takes nothing.
    fn blocked(&self) {
        if !self.is_blocked.swap(true, Ordering::AcqRel) {
            self.waits.notify_one();
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let stuck = *self.stuck.get_mut();
        self.give(stuck);
        self.budget.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    /// Pays for more, or leaves it as it was.
    pub fn grow(&mut self, more: usize) -> Result<(), Overload> {
        self.account.take(more)?;
        self.bytes += more;
        Ok(())
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        if bytes < self.bytes {
            self.account.give(self.bytes - bytes);
            self.bytes = bytes;
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Whatever this was for has become an answer that stands in line.
        if self.account.is_blocked.load(Ordering::Acquire) {
            self.account.stuck.fetch_add(self.bytes, Ordering::AcqRel);
            if !self.account.is_blocked.load(Ordering::Acquire) {
                self.account.give(self.account.stuck.swap(0, Ordering::AcqRel));
            }
        } else {
            self.account.give(self.bytes);
        }
    }
}

impl Answer {
    /// Some of it was taken.
    pub fn moves(&self) {
        self.0.progress.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.moves();
        self.0.answers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "../admission_tests.rs"]
mod tests;
