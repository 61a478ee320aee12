//! What waits for the writer: two lanes, bounded in count and in bytes. A full inbox refuses at once.

use std::collections::VecDeque;
use std::time::Duration;

use base::limits::{INBOX_BYTES_MAX, LOG_GROUP_BYTES_MAX};
use parking_lot::{Condvar, Mutex};

use crate::request::{AppendError, Lane, Request, Submission};

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
        self.push_silently(lane, submission)?;
        self.ring();
        Ok(())
    }

    /// As [`Inbox::push`], for those who have more to say: a writer that waits is not woken before [`Inbox::ring`].
    pub fn push_silently(&self, lane: Lane, submission: Submission) -> Result<(), (Box<Submission>, AppendError)> {
        let mut state = self.state.lock();
        // The store's own question is one, and has to get through.
        let is_bounded = !matches!(submission.request, Request::Standing);
        let refusal = if state.is_closed {
            Some(AppendError::Closed)
        } else if !is_bounded {
            None
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
        Ok(())
    }

    /// Wakes a writer that waits.
    pub fn ring(&self) {
        let must_wake = std::mem::take(&mut self.state.lock().is_writer_waiting);
        if must_wake {
            self.arrived.notify_one();
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::request::{Answer, ReplySink, ReplyTo};

    struct Nowhere;

    impl ReplySink for Nowhere {
        fn deliver(&self, answers: &mut Vec<Answer>) {
            answers.clear();
        }
    }

    fn barrier() -> Submission {
        Submission { request: Request::Barrier, reply: ReplyTo { sink: Arc::new(Nowhere), ticket: 0 } }
    }

    #[test]
    fn a_writer_that_waits_hears_of_silent_requests_when_it_is_rung_for() {
        let inbox = Arc::new(Inbox::new(8));
        let waiting = inbox.clone();
        let writer = std::thread::Builder::new().spawn(move || {
            let mut out = Vec::new();
            (waiting.drain(None, &mut out), out.len())
        });
        while !inbox.state.lock().is_writer_waiting {
            std::thread::yield_now();
        }
        inbox.push_silently(Lane::Request, barrier()).expect("room");
        inbox.push_silently(Lane::Request, barrier()).expect("room");
        assert!(inbox.state.lock().is_writer_waiting, "it sleeps on");
        inbox.ring();
        let drained = writer.expect("a thread").join().expect("no panic");
        assert_eq!(drained, (Drained::Some, 2), "both in one group");
    }

    #[test]
    fn a_full_inbox_refuses_at_once_and_gives_the_request_back() {
        let inbox = Inbox::new(1);
        inbox.push(Lane::Request, barrier()).expect("room");
        let (_, refused) = inbox.push(Lane::Background, barrier()).expect_err("it is full");
        assert!(matches!(refused, AppendError::InboxFull { max: 1, .. }));
        inbox.close();
        let mut out = Vec::new();
        assert_eq!(inbox.drain(None, &mut out), Drained::Some, "what is in is still drained");
        assert_eq!(inbox.drain(None, &mut out), Drained::Closed);
    }
}
