//! What waits for the writer: two lanes, bounded in count and in bytes. A full inbox refuses at once.

use std::collections::VecDeque;
use std::time::Duration;

use base::limits::{INBOX_BYTES_MAX, LOG_GROUP_BYTES_MAX};
use parking_lot::{Condvar, Mutex};

use crate::request::{AppendError, Lane, Submission};

#[derive(Debug)]
pub struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
    requests_max: usize,
}

#[derive(Debug, Default)]
struct State {
    requests: VecDeque<Submission>,
    background: VecDeque<Submission>,
    bytes: usize,
    is_writer_waiting: bool,
    is_closed: bool,
}

/// What the writer found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    Some,
    /// Nothing came within the time.
    Nothing,
    /// Nothing will come any more.
    Closed,
}

impl Inbox {
    pub fn new(requests_max: usize) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), requests_max }
    }

    /// In order of arrival within its lane. A refused submission comes back with the reason.
    pub fn push(&self, lane: Lane, submission: Submission) -> Result<(), (Box<Submission>, AppendError)> {
        let mut state = self.state.lock();
        let refusal = if state.is_closed {
            Some(AppendError::Closed)
        } else if state.requests.len() + state.background.len() >= self.requests_max {
            Some(AppendError::InboxFull {
                what: "the log writer's inbox (limits.writer_inbox)",
                max: self.requests_max,
            })
        } else if state.bytes >= INBOX_BYTES_MAX {
            Some(AppendError::InboxFull { what: "the log writer's inbox, in bytes", max: INBOX_BYTES_MAX })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Err((Box::new(submission), refusal));
        }
        state.bytes += submission.request.bytes();
        match lane {
            Lane::Request => state.requests.push_back(submission),
            Lane::Background => state.background.push_back(submission),
        }
        let must_wake = std::mem::take(&mut state.is_writer_waiting);
        drop(state);
        if must_wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Moves what one group may hold to `out`; waits up to `patience` when there is nothing.
    pub fn drain(&self, patience: Option<Duration>, out: &mut Vec<Submission>) -> Drained {
        let mut state = self.state.lock();
        while state.requests.is_empty() && state.background.is_empty() {
            if state.is_closed {
                return Drained::Closed;
            }
            state.is_writer_waiting = true;
            let timed_out = match patience {
                Some(patience) => self.arrived.wait_for(&mut state, patience).timed_out(),
                None => {
                    self.arrived.wait(&mut state);
                    false
                }
            };
            state.is_writer_waiting = false;
            if timed_out && state.requests.is_empty() && state.background.is_empty() {
                return if state.is_closed { Drained::Closed } else { Drained::Nothing };
            }
        }
        state.fill(out);
        Drained::Some
    }

    /// Refuses everything from here on; what is in is still drained.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.arrived.notify_one();
    }

    pub fn len(&self) -> usize {
        let state = self.state.lock();
        state.requests.len() + state.background.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn capacity(&self) -> usize {
        self.requests_max
    }
}

impl State {
    /// At most 1 MiB, or one larger request. Background work gets what clients leave, and never less than half.
    fn fill(&mut self, out: &mut Vec<Submission>) {
        let background_waits = !self.background.is_empty();
        let for_requests = if background_waits { LOG_GROUP_BYTES_MAX / 2 } else { LOG_GROUP_BYTES_MAX };
        let mut used = 0;
        take(&mut self.requests, &mut used, for_requests, out);
        take(&mut self.background, &mut used, LOG_GROUP_BYTES_MAX, out);
        take(&mut self.requests, &mut used, LOG_GROUP_BYTES_MAX, out);
        self.bytes -= used;
    }
}

fn take(lane: &mut VecDeque<Submission>, used: &mut usize, max: usize, out: &mut Vec<Submission>) {
    while let Some(next) = lane.front() {
        let bytes = next.request.bytes();
        if *used + bytes > max && !out.is_empty() {
            break;
        }
        *used += bytes;
        out.extend(lane.pop_front());
    }
}
