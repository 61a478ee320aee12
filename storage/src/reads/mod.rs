//! The read pool: cold bodies, read for whoever asks and handed over job by job.
//!
//! A job is a batch of pointers of one asker. [`plan`] makes few reads of it, [`turns`] says whose read is next, threads do
//! it. What a read brings is cut into records without copying, each is checked by its own checksum. Nothing of it enters
//! the tail cache.
//!
//! R1. A job that was taken is answered, once, with a result for each of its pointers, in their order.
//! R2. What is wrong with one record is no other record's fault.

mod plan;
mod turns;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use base::limits::LOOK_UPS_MAX;
use base::{Clock, LogPosition};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::log::{self, ReadError, Segments};
use crate::message::StoredMessage;
use crate::metrics::Metrics;
use crate::record::Pointer;
use crate::store::{FetchError, parse};
use plan::{Span, plan};
use turns::{Amount, Turn, Turns};

pub use turns::{Asker, Urgency};

/// What was fetched, in the order it was asked for.
pub type Fetched = Vec<Result<StoredMessage, FetchError>>;

/// Called on a read thread; must be short.
pub type Done = Box<dyn FnOnce(Fetched) + Send>;

/// Records that somebody wants.
pub struct Job {
    pub asker: Asker,
    pub urgency: Urgency,
    pub pointers: Vec<Pointer>,
    pub done: Done,
}

/// The pool. Its threads call [`Pool::run`].
pub struct Pool {
    segments: Segments,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    /// A mutex, because every worker asks and every read thread looks for work; held for a turn.
    state: Mutex<State>,
    bell: Condvar,
}

struct State {
    turns: Turns<Read>,
    /// What is looked up one after the other: each may read much, and bodies are read meanwhile.
    look_ups: VecDeque<LookUp>,
    is_looking: bool,
    is_closed: bool,
}

/// Runs on a read thread, and may read as much as it wants.
pub type LookUp = Box<dyn FnOnce() + Send>;

/// One turn at the disk.
struct Read {
    job: Arc<Taken>,
    span: Span,
}

/// A job under way. A mutex, because several threads may read parts of it; held to hand in what one read brought.
struct Taken {
    asker: Asker,
    amount: Amount,
    state: Mutex<Progress>,
}

struct Progress {
    results: Vec<Option<Result<StoredMessage, FetchError>>>,
    spans_left: usize,
    done: Option<Done>,
}

impl Pool {
    /// `budget`: bytes a second that those far behind may read, all together.
    pub fn new(segments: Segments, clock: Arc<dyn Clock>, metrics: Metrics, budget: Option<u64>) -> Self {
        let state = Mutex::new(State {
            turns: Turns::new(budget),
            look_ups: VecDeque::new(),
            is_looking: false,
            is_closed: false,
        });
        Self { segments, clock, metrics, state, bell: Condvar::new() }
    }

    /// Takes a job. False, and the job is dropped, when too much is outstanding.
    pub fn take(&self, job: Job) -> bool {
        let Job { asker, urgency, pointers, done } = job;
        let spans = plan(&pointers, |position| end_of_segment(&self.segments, position));
        if spans.is_empty() {
            done(Vec::new());
            return true;
        }
        let bytes = pointers.iter().map(|pointer| u64::from(pointer.length)).sum();
        let amount = Amount { records: pointers.len(), bytes };
        let results = pointers.iter().map(|_| None).collect();
        let is_one = spans.len() == 1;
        let progress = Progress { results, spans_left: spans.len(), done: Some(done) };
        let job = Arc::new(Taken { asker, amount, state: Mutex::new(progress) });
        let mut state = self.state.lock();
        if state.is_closed || !state.turns.admit(asker, amount) {
            return false;
        }
        for span in spans {
            let bytes = span.pointer.length.into();
            state.turns.wait(asker, urgency, bytes, Read { job: job.clone(), span });
        }
        drop(state);
        if is_one {
            self.bell.notify_one();
        } else {
            self.bell.notify_all();
        }
        true
    }

    /// Takes a look-up. False, and it is dropped, when too many wait.
    pub fn look_up(&self, look_up: LookUp) -> bool {
        let mut state = self.state.lock();
        if state.is_closed || state.look_ups.len() >= LOOK_UPS_MAX {
            return false;
        }
        state.look_ups.push_back(look_up);
        drop(state);
        self.bell.notify_one();
        true
    }

    /// Takes no more jobs. What was taken is still answered, whatever the budget.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.turns.lift_budget();
        drop(state);
        self.bell.notify_all();
    }

    /// Reads until the pool is closed and empty.
    pub fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if !state.is_looking
                && let Some(look_up) = state.look_ups.pop_front()
            {
                state.is_looking = true;
                drop(state);
                look_up();
                state = self.state.lock();
                state.is_looking = false;
                continue;
            }
            match state.turns.next(self.clock.monotonic_ns()) {
                Turn::Read(read) => {
                    drop(state);
                    self.read(read);
                    state = self.state.lock();
                }
                Turn::At(at_ns) => {
                    let patience = at_ns.saturating_sub(self.clock.monotonic_ns());
                    self.bell.wait_for(&mut state, Duration::from_nanos(patience));
                }
                Turn::Nothing if state.is_closed => return,
                Turn::Nothing => self.bell.wait(&mut state),
            }
        }
    }

    fn read(&self, Read { job, span }: Read) {
        let began = self.clock.monotonic_ns();
        let records = fetch(&self.segments, &span);
        let seconds = self.clock.monotonic_ns().saturating_sub(began) as f64 / 1e9;
        self.metrics.read_busy.inc_by(seconds);
        let mut progress = job.state.lock();
        for (number, result) in records {
            self.metrics.read_from_disk.observe(seconds);
            if let Err(error) = &result {
                self.metrics.read_failed(error);
            }
            assert!(progress.results[number].replace(result).is_none(), "R1: record {number} came twice");
        }
        progress.spans_left -= 1;
        if progress.spans_left > 0 {
            return;
        }
        let done = progress.done.take().expect("R1: a job is answered once");
        let results = std::mem::take(&mut progress.results);
        drop(progress);
        // Before the answer: whoever has it may ask for more.
        self.state.lock().turns.release(job.asker, job.amount);
        done(results.into_iter().map(|result| result.expect("R1: every record is in one span")).collect());
    }
}

/// Reads a span and what is in it.
fn fetch(segments: &Segments, span: &Span) -> Vec<(usize, Result<StoredMessage, FetchError>)> {
    match log::read(segments, span.pointer) {
        Ok(bytes) => {
            let (bytes, is_dense) = (Bytes::from(bytes), span.is_dense());
            let cut = |pointer: &Pointer| {
                let from = usize::try_from(pointer.position.since(span.pointer.position)).expect("spans are short");
                let slice = bytes.slice(from..from + pointer.length as usize);
                // One body that a slow client keeps must not keep a megabyte that nobody wanted.
                if is_dense { slice } else { Bytes::copy_from_slice(&slice) }
            };
            span.records.iter().map(|(number, pointer)| (*number, parse(*pointer, &cut(pointer)))).collect()
        }
        // One bad sector fails the whole read; which record it is in only reads of each can tell (R2).
        Err(ReadError::Io { .. }) if span.records.len() > 1 => {
            let alone = |pointer: Pointer| parse(pointer, &log::read(segments, pointer)?.into());
            span.records.iter().map(|(number, pointer)| (*number, alone(*pointer))).collect()
        }
        Err(error) => {
            let failed = |pointer: &Pointer| match &error {
                ReadError::Gone(_) => ReadError::Gone(pointer.position),
                io @ ReadError::Io { .. } => io.clone(),
            };
            span.records.iter().map(|(number, pointer)| (*number, Err(failed(pointer).into()))).collect()
        }
    }
}

/// Where the segment that holds a position ends; the position itself when there is none.
fn end_of_segment(segments: &Segments, position: LogPosition) -> LogPosition {
    let all = segments.load();
    let after = all.partition_point(|segment| segment.header.base <= position);
    after.checked_sub(1).map_or(position, |index| all[index].header.end().max(position))
}

#[cfg(test)]
mod reads_tests;
