//! What waits for the writer: two lanes, bounded in count and in bytes. A full inbox refuses at once.
//!
//! Delayed messages wait beside them, and keep nobody else waiting, while there is no room for more young timers.

use std::collections::VecDeque;
use std::time::Duration;

use base::limits::{INBOX_BYTES_MAX, LOG_GROUP_BYTES_MAX};
use parking_lot::{Condvar, Mutex};

use crate::request::{AppendError, Lane, Request, Submission};

/// Of what the inbox may hold, so much more may wait beside the lanes.
const HELD_SHARE: usize = 4;

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
    /// Delayed messages that no group may hold for now, and their bytes.
    held: VecDeque<Submission>,
    held_bytes: usize,
    is_holding: bool,
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
        } else if state.holds(&submission) && state.is_full_of_held(self.requests_max) {
            Some(AppendError::InboxFull {
                what: "the part of the log writer's inbox where delayed messages wait for others to be written",
                max: self.requests_max / HELD_SHARE,
            })
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
        while !state.fill(out) {
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
            if timed_out && !state.fill(out) {
                return if state.is_closed { Drained::Closed } else { Drained::Nothing };
            } else if timed_out {
                break;
            }
        }
        Drained::Some
    }

    /// Whether delayed messages wait from here on.
    pub fn hold(&self, is_holding: bool) {
        let must_wake = {
            let mut state = self.state.lock();
            state.is_holding = is_holding;
            !is_holding && !state.held.is_empty()
        };
        if must_wake {
            self.ring();
        }
    }

    /// Refuses everything from here on; what is in is still drained.
    pub fn close(&self) {
        self.state.lock().is_closed = true;
        self.arrived.notify_one();
    }

    pub fn len(&self) -> usize {
        let state = self.state.lock();
        state.requests.len() + state.background.len() + state.held.len()
    }

    /// Whether there is nothing for the writer to do.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.requests.is_empty() && state.background.is_empty() && (state.is_holding || state.held.is_empty())
    }

    pub fn capacity(&self) -> usize {
        self.requests_max
    }
}

impl State {
    /// Whether it has to wait beside the lanes. What a closed inbox has is drained: nobody makes room any more.
    fn holds(&self, submission: &Submission) -> bool {
        self.is_holding && !self.is_closed && submission.request.is_delayed()
    }

    fn is_full_of_held(&self, requests_max: usize) -> bool {
        self.held.len() >= requests_max / HELD_SHARE || self.held_bytes >= INBOX_BYTES_MAX / HELD_SHARE
    }

    /// At most 1 MiB, or one larger request. Background work gets what clients leave, and never less than half. False when
    /// there is nothing.
    fn fill(&mut self, out: &mut Vec<Submission>) -> bool {
        if self.is_holding && !self.is_closed {
            self.set_aside();
        }
        let before = out.len();
        let background_waits = !self.background.is_empty();
        let for_requests = if background_waits { LOG_GROUP_BYTES_MAX / 2 } else { LOG_GROUP_BYTES_MAX };
        let mut used = 0;
        if !self.is_holding || self.is_closed {
            // They came first.
            take(&mut self.held, &mut used, for_requests, out);
            self.held_bytes -= used;
        }
        let held = used;
        take(&mut self.requests, &mut used, for_requests, out);
        take(&mut self.background, &mut used, LOG_GROUP_BYTES_MAX, out);
        take(&mut self.requests, &mut used, LOG_GROUP_BYTES_MAX, out);
        self.bytes -= used - held;
        out.len() > before
    }

    /// Takes delayed messages out of the lanes.
    fn set_aside(&mut self) {
        for lane in [&mut self.requests, &mut self.background] {
            if !lane.iter().any(|submission| submission.request.is_delayed()) {
                continue;
            }
            for submission in std::mem::take(lane) {
                if submission.request.is_delayed() {
                    self.bytes -= submission.request.bytes();
                    self.held_bytes += submission.request.bytes();
                    self.held.push_back(submission);
                } else {
                    lane.push_back(submission);
                }
            }
        }
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

    use base::{Timestamp, TopicId};

    use super::*;
    use crate::message::{BodyPart, Envelope, MessageKind};
    use crate::record::Head;
    use crate::request::{Answer, BodyKind, Change, NewBody, ReplySink, ReplyTo};

    struct Nowhere;

    impl ReplySink for Nowhere {
        fn deliver(&self, answers: &mut Vec<Answer>) {
            answers.clear();
        }
    }

    fn barrier() -> Submission {
        Submission { request: Request::Barrier, reply: ReplyTo { sink: Arc::new(Nowhere), ticket: 0 } }
    }

    /// Its number is its ticket.
    fn delayed(ticket: u64) -> Submission {
        let part = BodyPart::encode(&Envelope::new(MessageKind::Delay, "m".into(), Timestamp(1), "h".into()), b"x");
        let head = Head { topic: TopicId(0), tag_hash: 0, group_hash: 0, priority: 0 };
        let body = NewBody { head, kind: BodyKind::Delayed { due: Timestamp(9) }, part };
        let reply = ReplyTo { sink: Arc::new(Nowhere), ticket };
        Submission { request: Request::one(Change::Body(body)), reply }
    }

    /// Tickets of what the writer finds within no time.
    fn drained(inbox: &Inbox) -> Vec<u64> {
        let mut out = Vec::new();
        let _ = inbox.drain(Some(Duration::ZERO), &mut out);
        out.iter().map(|submission| submission.reply.ticket).collect()
    }

    #[test]
    fn delayed_messages_that_are_held_wait_in_order_and_nothing_else_waits() {
        let inbox = Inbox::new(8);
        inbox.push(Lane::Request, delayed(1)).expect("room");
        inbox.push(Lane::Request, barrier()).expect("room");
        inbox.hold(true);
        assert_eq!(drained(&inbox), [0]);
        inbox.push(Lane::Background, delayed(2)).expect("room");
        assert_eq!(drained(&inbox), [0; 0]);
        assert!(inbox.is_empty(), "the writer has nothing to do, and syncs");
        let (_, refused) = inbox.push(Lane::Request, delayed(3)).expect_err("two of eight wait");
        assert!(matches!(refused, AppendError::InboxFull { max: 2, .. }), "{refused}");
        (0..8).for_each(|_| inbox.push(Lane::Request, barrier()).expect("they take nobody's room"));
        assert_eq!(drained(&inbox), [0; 8]);
        inbox.hold(false);
        inbox.push(Lane::Request, delayed(4)).expect("room");
        assert_eq!(drained(&inbox), [1, 2, 4]);
        assert_eq!(inbox.len(), 0);
        let state = inbox.state.lock();
        assert_eq!((state.held_bytes, state.bytes), (0, 0));
    }

    #[test]
    fn a_writer_that_waits_gets_what_was_held_once_there_is_room_or_the_inbox_closes() {
        for is_closing in [false, true] {
            let inbox = Arc::new(Inbox::new(8));
            inbox.hold(true);
            inbox.push(Lane::Request, delayed(1)).expect("room");
            let waiting = inbox.clone();
            let writer = std::thread::Builder::new().spawn(move || {
                let mut out = Vec::new();
                (waiting.drain(None, &mut out), out.len())
            });
            while !inbox.state.lock().is_writer_waiting {
                std::thread::yield_now();
            }
            if is_closing {
                inbox.close()
            } else {
                inbox.hold(false)
            }
            let drained = writer.expect("a thread").join().expect("no panic");
            assert_eq!(drained, (Drained::Some, 1));
        }
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
