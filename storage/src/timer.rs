//! The timer: publishes what is due, and decides about everything that would end a delayed message otherwise.
//!
//! A pure core: told what was committed, what is asked and what time it is, it says what to append. It alone appends what
//! ends a `Delayed`, so such a message ends once.
//!
//! D1. Nothing is published before its due time by the time that was passed in.
//! D2. An origin is in at most one batch under way.

use base::{LogPosition, Timestamp};
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::record::{Fact, Pending, Pointer, Why};
use crate::request::{AppendError, Change, Done, ReplyTo, Request};
use crate::view::apply::TimerEvent;
use crate::view::timers::{Bounds, Claim, Run, Snapshot, Timer, Timers};

/// Publications under way at once; more would only wait in the writer's inbox.
const BATCHES_MAX: usize = 4;
/// How long due timers wait after the writer refused them.
const RETRY_MS: u64 = 100;

/// What somebody wants done with one delayed message.
#[derive(Debug)]
pub struct Ask {
    pub origin: LogPosition,
    pub due: Timestamp,
    pub what: What,
    pub reply: ReplyTo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Recall,
    /// Another due time; now, if it lies in the past.
    Reschedule(Timestamp),
    /// An answer, and no more: it shows that the thread turns over.
    Nothing,
}

#[derive(Debug)]
enum UnderWay {
    Due(Vec<Timer>),
    Asked(Ask, Pointer),
}

/// An answer that leaves the core.
#[derive(Debug)]
pub struct Reply {
    pub to: ReplyTo,
    pub result: Result<Done, AppendError>,
}

/// What the core wants its driver to do.
#[derive(Debug, Default)]
pub struct Effects {
    /// Requests for the writer, by ticket.
    pub submit: Vec<(u64, Request)>,
    pub replies: Vec<Reply>,
    /// Due times of what was published, and is committed.
    pub published: Vec<Timestamp>,
}

#[derive(Debug, Default)]
pub struct TimerCore {
    timers: Timers,
    under_way: HashMap<u64, UnderWay>,
    next_ticket: u64,
    /// Who waits for a decision of somebody else about the same message.
    waiting: HashMap<LogPosition, Vec<Ask>>,
    not_before: u64,
    /// Everything about timers that lies below is in here.
    covers: LogPosition,
}

impl TimerCore {
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// What the writer committed below `through`.
    pub fn apply(&mut self, events: &[TimerEvent], through: LogPosition) {
        self.timers.apply(events);
        self.covers = self.covers.max(through);
    }

    /// Everything about timers that lies below is in here.
    pub fn covers(&self) -> LogPosition {
        self.covers
    }

    pub(crate) fn with_bounds(bounds: Bounds) -> Self {
        Self { timers: Timers::with_bounds(bounds), ..Self::default() }
    }

    /// Takes over what a checkpoint kept.
    pub(crate) fn restore(&mut self, runs: Vec<Run>, covers: LogPosition) {
        self.timers.open_runs(runs);
        self.covers = covers;
    }

    /// What a checkpoint needs of the timers. None while another one is being written.
    pub(crate) fn snapshot(&mut self) -> Option<Snapshot> {
        self.timers.snapshot(self.covers)
    }

    /// For checkpoints and merges.
    pub(crate) fn timers_mut(&mut self) -> &mut Timers {
        &mut self.timers
    }

    pub fn ask(&mut self, ask: Ask, effects: &mut Effects) {
        if matches!(ask.what, What::Nothing) {
            effects.replies.push(Reply { to: ask.reply, result: Ok(Done::Passed) });
            return;
        }
        if matches!(ask.what, What::Reschedule(_)) && self.timers.room() == 0 {
            let what = "the memory of timers that are in no run yet";
            let refused = AppendError::InboxFull { what, max: base::limits::YOUNG_TIMERS_MAX };
            effects.replies.push(Reply { to: ask.reply, result: Err(refused) });
            return;
        }
        match self.timers.claim(ask.due, ask.origin) {
            Claim::Unknown => effects.replies.push(Reply { to: ask.reply, result: Err(AppendError::TimerUnknown) }),
            Claim::Unreadable(error) => {
                tracing::error!(%error, "a delayed message cannot be decided about");
                effects.replies.push(Reply { to: ask.reply, result: Err(AppendError::TimerUnreadable(error)) });
            }
            Claim::Deciding => self.waiting.entry(ask.origin).or_default().push(ask),
            Claim::Taken(timer) => {
                let change = match ask.what {
                    What::Recall => {
                        Change::Fact(Fact::Retire { origin: ask.origin, pending: Pending::Timer { due: timer.due } })
                    }
                    What::Reschedule(due) => Change::Fact(Fact::Move {
                        origin: timer.pointer,
                        head: timer.head,
                        from: Pending::Timer { due: timer.due },
                        due,
                    }),
                    What::Nothing => unreachable!("answered above"),
                };
                self.submit(UnderWay::Asked(ask, timer.pointer), Request::one(change), effects);
            }
        }
    }

    /// Publishes what is due at `now`. `tick`: the monotonic clock, in milliseconds.
    pub fn due(&mut self, now: Timestamp, tick: u64, effects: &mut Effects) {
        if tick < self.not_before {
            return;
        }
        while self.under_way.len() < BATCHES_MAX {
            let due = self.timers.take_due(now, base::limits::BACKGROUND_RECORDS_MAX);
            if due.is_empty() {
                return;
            }
            let publish = |timer: &Timer| {
                assert!(timer.due <= now, "D1: {:?} is due after {now:?}", timer.due);
                Change::Publish { origin: timer.pointer, head: timer.head, why: Why::Due { due: timer.due } }
            };
            let changes: SmallVec<[Change; 1]> = due.iter().map(publish).collect();
            self.submit(UnderWay::Due(due), Request::Changes(changes), effects);
        }
    }

    /// What the writer answered. The events of the same group must have been applied before.
    pub fn answered(&mut self, ticket: u64, result: Result<Done, AppendError>, tick: u64, effects: &mut Effects) {
        let under_way = self.under_way.remove(&ticket).expect("answers are to what was submitted");
        match under_way {
            UnderWay::Due(due) => {
                if let Err(refused) = &result {
                    tracing::warn!(%refused, timers = due.len(), "due messages could not be published and wait");
                    self.not_before = tick + RETRY_MS;
                    self.split_on_gone(refused, &due);
                } else {
                    effects.published.extend(due.iter().map(|timer| timer.due));
                }
                for timer in &due {
                    self.settled(timer.pointer.position, effects);
                }
            }
            UnderWay::Asked(ask, pointer) => {
                let origin = ask.origin;
                let result = result.map(|_| Done::Recalled(pointer));
                effects.replies.push(Reply { to: ask.reply, result });
                self.settled(origin, effects);
            }
        }
    }

    /// When to be called again at the latest, if nothing else happens: a wall clock time, and a monotonic one.
    pub fn wake(&self) -> (Option<Timestamp>, u64) {
        let is_full = self.under_way.len() >= BATCHES_MAX;
        let next = if self.timers.is_behind() { Some(Timestamp::ZERO) } else { self.timers.next_due() };
        (next.filter(|_| !is_full), self.not_before)
    }

    /// When the next message is due that was not published yet; one whose publication is under way counts.
    pub fn next_due(&self) -> Option<Timestamp> {
        let due = |under_way: &UnderWay| match under_way {
            UnderWay::Due(timers) => timers.iter().map(|timer| timer.due).min(),
            UnderWay::Asked(..) => None,
        };
        self.under_way.values().filter_map(due).chain(self.timers.next_due()).min()
    }

    /// A topic that is gone takes its timers with it; the event that says so comes with the same commit or soon after.
    fn split_on_gone(&mut self, refused: &AppendError, due: &[Timer]) {
        if let AppendError::TopicGone(topic) = refused {
            for timer in due.iter().filter(|timer| timer.head.topic == *topic) {
                self.timers.end(timer.due, timer.pointer.position);
            }
        }
    }

    fn settled(&mut self, origin: LogPosition, effects: &mut Effects) {
        // Ended timers are no longer there to be released.
        self.timers.release(origin);
        for ask in self.waiting.remove(&origin).unwrap_or_default() {
            self.ask(ask, effects);
        }
    }

    fn submit(&mut self, under_way: UnderWay, request: Request, effects: &mut Effects) {
        self.next_ticket += 1;
        self.under_way.insert(self.next_ticket, under_way);
        effects.submit.push((self.next_ticket, request));
    }
}

#[cfg(test)]
mod tests {
    use base::TopicId;

    use super::*;
    use crate::record::Head;

    fn timer(due: u64, position: u64) -> Timer {
        let head = Head { topic: TopicId(0), tag_hash: 0, group_hash: 0, priority: 0 };
        Timer { due: Timestamp(due), pointer: Pointer { position: LogPosition(position), length: 1 }, head }
    }

    #[test]
    fn what_is_being_published_is_the_next_due_until_it_is() {
        let mut core = TimerCore::default();
        assert_eq!(core.next_due(), None);
        let events = [timer(1_000, 10), timer(5_000, 20)].map(TimerEvent::Add);
        core.apply(&events, LogPosition(30));
        let mut effects = Effects::default();
        core.due(Timestamp(1_500), 0, &mut effects);
        let [(ticket, _)] = effects.submit[..] else { panic!("one is due: {effects:?}") };
        assert_eq!(core.next_due(), Some(Timestamp(1_000)));
        core.apply(&[TimerEvent::End { due: Timestamp(1_000), origin: LogPosition(10) }], LogPosition(40));
        core.answered(ticket, Ok(Done::Passed), 1, &mut effects);
        assert_eq!(core.next_due(), Some(Timestamp(5_000)));
    }
}
