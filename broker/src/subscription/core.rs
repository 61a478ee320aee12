//! The pure state machine of one subscription: `now` in, effects out.
//!
//! Here are its state, its events and what it says of itself; its rules are with what they are about: `polls`, `reading`,
//! `refill`, `ahead`, `leases`, `settling`, `operated`.
//!
//! U1. A message is with at most one client at a time, and an ordered lane has at most one open batch (F1).
//! U2. An ordered batch leaves only when its lease is committed.
//! U3. A settle is answered only when it is committed.
//! U4. Attempts never exceed the group's maximum; then the message becomes a dead letter, once.
//! U5. Progress is read, never copied: what the log says is done is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use base::TopicId;
use base::limits::*;
use hashbrown::HashMap;
use storage::view::progress::Shared;
use storage::view::queue::Entry;

use super::ahead::Ahead;
use super::gather::Gather;
use super::lanes::{LaneKey, Lanes};
use super::*;
use crate::filter::Filter;

/// A message that was read and is not settled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) entry: Entry,
    /// Deliveries that count, the present one included.
    pub(super) attempts: u32,
    /// The batch it was handed out in last; 0 = not by this process.
    pub(super) batch: u64,
    pub(super) state: State,
    /// Something about it is being appended.
    pub(super) is_settling: bool,
    /// Known from a handle only, and not read yet: in no lane, and read again if nothing comes of the settle.
    pub(super) is_loaded: bool,
}

impl Item {
    pub(super) fn new(entry: Entry, attempts: u32, state: State) -> Self {
        Self { entry, attempts, batch: 0, state, is_settling: false, is_loaded: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// May be handed out, as soon as its lane allows.
    Ready,
    Leased,
    /// Visible again at this tick.
    Waiting(u64),
}

/// What was handed out in one reply.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) client: Arc<str>,
    pub(super) attempt_id: Option<Arc<str>>,
    pub(super) slots: Vec<Slot>,
    pub(super) expires: u64,
    /// Prolonged while the client lives, until then at most.
    pub(super) renewed_until: Option<u64>,
    pub(super) renewals: u32,
    /// Its lease is committed, or it needs none.
    pub(super) is_out: bool,
    /// The call ended before the reply could be written.
    pub(super) is_unwanted: bool,
    /// Replies with this batch that may have been written: a repeated attempt gets another one (F9).
    pub(super) copies: u32,
}

/// How ready messages are kept.
#[derive(Debug)]
pub(super) enum Order {
    Standard(VecDeque<Slot>),
    Lanes(Lanes),
}

/// What lanes keep in memory, and how what they left out is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Followers of one closed lane.
    pub followers: usize,
    /// Where more entries lie between, they are looked up.
    pub walked: u64,
}

impl Default for Keeping {
    fn default() -> Self {
        Self { followers: LANE_FOLLOWERS_MAX, walked: REFILL_WALKED_MAX }
    }
}

/// Numbers that operators see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed out and not settled, without those that are held.
    pub in_flight: u64,
    /// Handed out in order and renewed so often that others need not wait for them.
    pub held: u64,
    pub retry_wait: u64,
    pub open_lanes: u64,
    pub parked_polls: u64,
}

pub struct Core {
    pub(super) pair: Pair,
    pub(super) settings: Settings,
    pub(super) filter: Filter,
    pub(super) source: Box<dyn Source>,
    pub(super) progress: Shared,
    pub(super) cursors: Vec<QueueOffset>,
    /// Of each queue, as they were when the cursors were set.
    pub(super) generations: Vec<u32>,
    /// Operators' records about the pair that are noticed.
    pub(super) operations: u64,
    pub(super) next_queue: usize,
    pub(super) keeping: Keeping,
    /// A lane has not been refilled yet, and goes on at this tick.
    pub(super) refill_at: Option<u64>,
    pub(super) items: HashMap<Slot, Item>,
    pub(super) ahead: Ahead,
    pub(super) order: Order,
    pub(super) waiting: BTreeSet<(u64, Slot)>,
    pub(super) batches: HashMap<u64, Batch>,
    pub(super) expiry: BTreeSet<(u64, u64)>,
    pub(super) by_attempt: HashMap<(Arc<str>, Arc<str>), u64>,
    pub(super) leased: usize,
    /// Those of `leased` that do not count against `in_flight_max`.
    pub(super) held: usize,
    pub(super) polls: BTreeMap<PollId, Poll>,
    pub(super) poll_ends: BTreeSet<(u64, PollId)>,
    pub(super) gather: Gather,
    pub(super) under_way: Option<(Ticket, Gather)>,
    /// Settles of messages about which an append is under way.
    pub(super) deferred: Vec<(SettleId, Settle)>,
    pub(super) next_batch: u64,
    pub(super) next_ticket: Ticket,
    pub(super) dead_letter_topic: Option<TopicId>,
    pub(super) is_dead_letter_topic_asked: bool,
    pub(super) skipped_since: u64,
    /// After a refused append: not before this.
    pub(super) retry_at: u64,
    pub(super) effects: Vec<Effect>,
}

impl Core {
    /// For a pair that is subscribed in the log. `first_batch`: hand-outs are numbered from here; never used before.
    pub fn new(
        pair: Pair,
        settings: Settings,
        filter: Filter,
        source: Box<dyn Source>,
        progress: Shared,
        first_batch: u64,
        now: Now,
    ) -> Self {
        let order = if settings.is_ordered { Order::Lanes(Lanes::default()) } else { Order::Standard(VecDeque::new()) };
        // Before anything else is read: what an operator does from here on is noticed.
        let operations = progress.lock().operations();
        let mut core = Self {
            pair,
            settings,
            filter,
            source,
            progress,
            cursors: Vec::new(),
            generations: Vec::new(),
            operations,
            next_queue: 0,
            keeping: Keeping::default(),
            refill_at: None,
            items: HashMap::new(),
            ahead: Ahead::default(),
            order,
            waiting: BTreeSet::new(),
            batches: HashMap::new(),
            expiry: BTreeSet::new(),
            by_attempt: HashMap::new(),
            leased: 0,
            held: 0,
            polls: BTreeMap::new(),
            poll_ends: BTreeSet::new(),
            gather: Gather::default(),
            under_way: None,
            deferred: Vec::new(),
            next_batch: first_batch,
            next_ticket: 0,
            dead_letter_topic: None,
            is_dead_letter_topic_asked: false,
            skipped_since: now.tick,
            retry_at: 0,
            effects: Vec::new(),
        };
        core.add_cursors();
        core.restore_leases(now);
        core
    }

    /// Other bounds than [`base::limits`] says, so that few messages reach them.
    pub fn keep(&mut self, keeping: Keeping) {
        self.keeping = keeping;
    }

    /// Takes one event. Effects come with [`Core::finish`].
    pub fn handle(&mut self, event: Event, now: Now) {
        match event {
            Event::Poll(id, poll) => self.poll(id, poll),
            Event::CancelPoll(id) => self.cancel_poll(id),
            Event::Settle(id, settle) => self.settle(id, settle, now),
            // It stays leased until the client settles it or the lease ends; nothing changes.
            Event::Written(_) => {}
            Event::Unwritten(batch) => self.unwritten(batch),
            Event::Answer(ticket, result) => self.answered(ticket, result, now),
            Event::SourceChanged(queues) => {
                self.source = Box::new(queues);
                self.add_cursors();
                self.notice(now);
            }
            Event::Ring => {
                self.add_cursors();
                self.notice(now);
            }
            Event::ClientGone(client) => self.client_gone(&client),
            Event::SettingsChanged(settings) => self.change_settings(settings),
            Event::FilterChanged(filter, spec) => {
                self.filter = filter;
                self.gather.filter = Some(spec);
                self.refilter();
            }
            Event::Discard(slots) => self.discard(&slots),
            Event::Fetched(ticket, bodies) => self.fetched(ticket, bodies, now),
            Event::Look(slot, reply) => {
                let seen = self.items.get(&slot).map(|item| Seen {
                    attempts: item.attempts,
                    client: (item.state == State::Leased)
                        .then(|| self.batches.get(&item.batch).map(|batch| batch.client.clone()))
                        .flatten(),
                    waits_until: if let State::Waiting(at) = item.state { Some(at) } else { None },
                });
                self.effects.push(Effect::Seen(reply, seen));
            }
        }
    }

    /// Does everything that is due, serves polls, and gives the effects of all since the last call.
    pub fn finish(&mut self, now: Now, alive: &dyn Alive) -> Vec<Effect> {
        self.ahead.it_is(now.tick);
        self.expire(now, alive);
        self.wake(now);
        self.serve(now);
        self.look_ahead(now);
        self.end_polls(now);
        self.flush(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Core::finish`] has to be called at the latest.
    pub fn next_wake(&self) -> Option<u64> {
        let is_held = self.under_way.is_some() || self.is_dead_letter_topic_asked;
        // Not before the answer, or the end of the wait after a refusal: until then nothing could be done about it.
        let skipped = (!is_held && !self.gather.skipped.is_empty())
            .then_some((self.skipped_since + SKIPPED_MS_MAX).max(self.retry_at));
        let retry = (!is_held && self.gather.is_urgent()).then_some(self.retry_at);
        [
            self.refill_at,
            self.expiry.first().map(|(at, _)| *at),
            self.waiting.first().map(|(at, _)| *at),
            self.poll_ends.first().map(|(at, _)| *at),
            self.ahead.next_wake(),
            skipped,
            retry,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Nothing is out, nothing waits: the subscription may end, and be started again by the next poll.
    pub fn is_idle(&self) -> bool {
        self.polls.is_empty()
            && self.batches.is_empty()
            && self.waiting.is_empty()
            && self.under_way.is_none()
            && self.deferred.is_empty()
            && self.gather.skipped.is_empty()
            && !self.gather.is_urgent()
    }

    /// The number of the next hand-out.
    pub fn next_batch(&self) -> u64 {
        self.next_batch
    }

    /// What counts against `in_flight_max`.
    pub(super) fn in_flight(&self) -> usize {
        self.leased - self.held
    }

    pub fn counts(&self) -> Counts {
        let open_lanes = match &self.order {
            Order::Standard(_) => 0,
            Order::Lanes(lanes) => lanes.open() as u64,
        };
        Counts {
            in_flight: self.in_flight() as u64,
            held: self.held as u64,
            retry_wait: self.waiting.len() as u64,
            open_lanes,
            parked_polls: self.polls.len() as u64,
        }
    }

    fn change_settings(&mut self, settings: Settings) {
        // Order is fixed for a subscription's life: another one takes effect when it starts anew. All else does as it is.
        self.settings = Settings { is_ordered: self.settings.is_ordered, ..settings };
    }
}

pub(super) fn lane_of((queue, _): Slot, entry: &Entry) -> LaneKey {
    if entry.group_hash == 0 { LaneKey::Queue(queue) } else { LaneKey::Group(entry.group_hash) }
}
