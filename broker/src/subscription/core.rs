//! The pure state machine of one subscription: `now` in, effects out.
//!
//! U1. A message is with at most one client at a time, and an ordered lane has at most one open batch (F1).
//! U2. An ordered batch leaves only when its lease is committed.
//! U3. A settle is answered only when it is committed.
//! U4. Attempts never exceed the group's maximum; then the message becomes a dead letter, once.
//! U5. Progress is read, never copied: what the log says is done is done.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use base::limits::*;
use base::{QueueIndex, QueueOffset, Timestamp, TopicId};
use hashbrown::HashMap;
use storage::record::{DeadLetterReason, LeaseEntry, RetryEntry};
use storage::request::{AppendError, Done};
use storage::view::progress::Shared;
use storage::view::queue::Entry;

use super::gather::{Dying, Gather, Leasing};
use super::lanes::{LaneKey, Lanes};
use super::*;
use crate::filter::Filter;

/// A message that was read and is not settled.
#[derive(Debug, Clone, Copy)]
struct Item {
    entry: Entry,
    /// Deliveries that count, the present one included.
    attempts: u32,
    /// The batch it was handed out in last; 0 = not by this process.
    batch: u64,
    state: State,
    /// Something about it is being appended.
    is_settling: bool,
    /// Known from a handle only: in no lane, and read again if nothing comes of the settle.
    is_loaded: bool,
}

impl Item {
    fn new(entry: Entry, attempts: u32, state: State) -> Self {
        Self { entry, attempts, batch: 0, state, is_settling: false, is_loaded: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// May be handed out, as soon as its lane allows.
    Ready,
    Leased,
    /// Visible again at this tick.
    Waiting(u64),
}

/// What was handed out in one reply.
#[derive(Debug)]
struct Batch {
    client: Arc<str>,
    attempt_id: Option<Arc<str>>,
    slots: Vec<Slot>,
    expires: u64,
    /// Prolonged while the client lives, until then at most.
    renewed_until: Option<u64>,
    /// Its lease is committed, or it needs none.
    is_out: bool,
    /// The call ended before the reply could be written.
    is_unwanted: bool,
    /// Replies with this batch that may have been written: a repeated attempt gets another one (F9).
    copies: u32,
}

/// How ready messages are kept.
#[derive(Debug)]
enum Order {
    Standard(VecDeque<Slot>),
    Lanes(Lanes),
}

/// Numbers that operators see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub in_flight: u64,
    pub retry_wait: u64,
    pub open_lanes: u64,
    pub parked_polls: u64,
}

pub struct Core {
    pair: Pair,
    settings: Settings,
    filter: Filter,
    source: Box<dyn Source>,
    progress: Shared,
    cursors: Vec<QueueOffset>,
    next_queue: usize,
    items: HashMap<Slot, Item>,
    order: Order,
    waiting: BTreeSet<(u64, Slot)>,
    batches: HashMap<u64, Batch>,
    expiry: BTreeSet<(u64, u64)>,
    by_attempt: HashMap<(Arc<str>, Arc<str>), u64>,
    leased: usize,
    polls: BTreeMap<PollId, Poll>,
    poll_ends: BTreeSet<(u64, PollId)>,
    gather: Gather,
    under_way: Option<(Ticket, Gather)>,
    /// Settles of messages about which an append is under way.
    deferred: Vec<(SettleId, Settle)>,
    next_batch: u64,
    next_ticket: Ticket,
    dead_letter_topic: Option<TopicId>,
    is_dead_letter_topic_asked: bool,
    skipped_since: u64,
    /// After a refused append: not before this.
    retry_at: u64,
    effects: Vec<Effect>,
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
        let mut core = Self {
            pair,
            settings,
            filter,
            source,
            progress,
            cursors: Vec::new(),
            next_queue: 0,
            items: HashMap::new(),
            order,
            waiting: BTreeSet::new(),
            batches: HashMap::new(),
            expiry: BTreeSet::new(),
            by_attempt: HashMap::new(),
            leased: 0,
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
            Event::Ring | Event::SourceChanged => self.add_cursors(),
            Event::ClientGone(client) => self.client_gone(&client),
            Event::SettingsChanged(settings) => self.change_settings(settings),
            Event::FilterChanged(filter, spec) => {
                self.filter = filter;
                self.gather.filter = Some(spec);
                self.refilter();
            }
            Event::Discard(slots) => self.discard(&slots),
        }
    }

    /// Does everything that is due, serves polls, and gives the effects of all since the last call.
    pub fn finish(&mut self, now: Now, alive: &dyn Alive) -> Vec<Effect> {
        self.expire(now, alive);
        self.wake(now);
        self.serve(now);
        self.end_polls(now);
        self.flush(now);
        std::mem::take(&mut self.effects)
    }

    /// The dead-letter topic, or why it could not be made: then what gathered is refused, and what is dying tries later.
    pub fn dead_letter_topic(&mut self, topic: Result<TopicId, AppendError>, now: Now) {
        self.is_dead_letter_topic_asked = false;
        match topic {
            Ok(topic) => self.dead_letter_topic = Some(topic),
            Err(refused) => {
                let gathered = std::mem::take(&mut self.gather);
                self.refused(gathered, &refused, now);
                for dying in std::mem::take(&mut self.gather.dying) {
                    let at = now.tick + DEAD_LETTER_RETRY_MS;
                    let Some(item) = self.items.get_mut(&dying.slot) else { continue };
                    item.is_settling = false;
                    if item.state != State::Leased {
                        item.state = State::Waiting(at);
                        self.waiting.insert((at, dying.slot));
                    }
                }
            }
        }
    }

    /// When [`Core::finish`] has to be called at the latest.
    pub fn next_wake(&self) -> Option<u64> {
        let is_held = self.under_way.is_some() || self.is_dead_letter_topic_asked;
        // Not before the answer, or the end of the wait after a refusal: until then nothing could be done about it.
        let skipped = (!is_held && !self.gather.skipped.is_empty())
            .then_some((self.skipped_since + SKIPPED_MS_MAX).max(self.retry_at));
        let retry = (!is_held && self.gather.is_urgent()).then_some(self.retry_at);
        [
            self.expiry.first().map(|(at, _)| *at),
            self.waiting.first().map(|(at, _)| *at),
            self.poll_ends.first().map(|(at, _)| *at),
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

    pub fn counts(&self) -> Counts {
        let open_lanes = match &self.order {
            Order::Standard(_) => 0,
            Order::Lanes(lanes) => lanes.open() as u64,
        };
        Counts {
            in_flight: self.leased as u64,
            retry_wait: self.waiting.len() as u64,
            open_lanes,
            parked_polls: self.polls.len() as u64,
        }
    }

    // --- polls ---

    fn poll(&mut self, id: PollId, poll: Poll) {
        if self.polls.len() >= PARKED_POLLS_MAX {
            let refusal = Refusal::Overloaded { limit: "polls parked at one subscription" };
            self.effects.push(Effect::Refuse { poll: id, refusal });
            return;
        }
        if !self.repeat(id, &poll) {
            self.poll_ends.insert((poll.until, id));
            self.polls.insert(id, poll);
        }
    }

    fn cancel_poll(&mut self, id: PollId) {
        if let Some(poll) = self.polls.remove(&id) {
            self.poll_ends.remove(&(poll.until, id));
            return;
        }
        // Its batch may be on the way to the log: it goes nowhere from there.
        let leasing = self.gather.leases.iter().chain(self.under_way.iter().flat_map(|(_, gather)| &gather.leases));
        let batches: Vec<u64> = leasing.filter(|leasing| leasing.poll == id).map(|leasing| leasing.batch).collect();
        for batch in batches {
            if let Some(batch) = self.batches.get_mut(&batch) {
                batch.is_unwanted = true;
            }
        }
    }

    fn end_polls(&mut self, now: Now) {
        while let Some(&(at, id)) = self.poll_ends.first() {
            if at > now.tick {
                break;
            }
            self.poll_ends.pop_first();
            self.polls.remove(&id);
            self.effects.push(Effect::Empty { poll: id });
        }
    }

    /// Gives ready messages to parked polls, oldest first.
    fn serve(&mut self, now: Now) {
        while let Some((&id, poll)) = self.polls.first_key_value() {
            if self.leased >= self.settings.in_flight_max {
                return;
            }
            let poll = poll.clone();
            let slots = match &self.order {
                Order::Standard(_) => self.choose_standard(&poll, now),
                Order::Lanes(_) => self.choose_ordered(&poll, now),
            };
            if slots.is_empty() {
                // What is not ready for the first is not for those behind it.
                return;
            }
            self.end_poll(id, &poll);
            self.hand_out(id, &poll, slots, now);
        }
    }

    fn end_poll(&mut self, id: PollId, poll: &Poll) {
        self.polls.remove(&id);
        self.poll_ends.remove(&(poll.until, id));
    }

    /// The same attempt again gets the open rest of its batch again (F9, D20): the reply was lost.
    fn repeat(&mut self, id: PollId, poll: &Poll) -> bool {
        let Some(attempt) = &poll.attempt_id else { return false };
        let Some(&number) = self.by_attempt.get(&(poll.client.clone(), attempt.clone())) else { return false };
        let Some(batch) = self.batches.get(&number).filter(|batch| batch.is_out && !batch.is_unwanted) else {
            return false;
        };
        let messages: Vec<Handout> = batch.slots.iter().filter_map(|slot| self.handout(*slot, number)).collect();
        if messages.is_empty() {
            return false;
        }
        self.batches.get_mut(&number).expect("just seen").copies += 1;
        self.effects.push(Effect::Deliver { poll: id, batch: number, messages });
        true
    }

    fn handout(&self, slot: Slot, batch: u64) -> Option<Handout> {
        let item = self.items.get(&slot)?;
        if item.batch != batch || item.state != State::Leased || item.is_settling {
            return None;
        }
        let receipt = handle::Receipt {
            group: self.pair.group,
            topic: self.pair.topic,
            queue: slot.0,
            offset: slot.1,
            attempt: item.attempts,
            batch,
        };
        Some(Handout { entry: item.entry, receipt })
    }

    fn choose_standard(&mut self, poll: &Poll, now: Now) -> Vec<Slot> {
        let mut chosen = Vec::new();
        let mut bytes = 0;
        let room = self.settings.in_flight_max.saturating_sub(self.leased);
        while chosen.len() < poll.messages_max.min(room) {
            let Order::Standard(ready) = &mut self.order else { break };
            let Some(slot) = ready.pop_front() else { if self.read_on(now) { continue } else { break } };
            let is_ready = |item: &&Item| item.state == State::Ready && !item.is_settling;
            let Some(item) = self.items.get(&slot).filter(is_ready).filter(|_| !chosen.contains(&slot)) else {
                // Settled with an old handle in the meantime, or listed again after a settle that was refused.
                continue;
            };
            bytes += item.entry.pointer().length as usize;
            if bytes > RECEIVE_BYTES_MAX && !chosen.is_empty() {
                let Order::Standard(ready) = &mut self.order else { break };
                ready.push_front(slot);
                break;
            }
            chosen.push(slot);
        }
        chosen
    }

    fn choose_ordered(&mut self, poll: &Poll, now: Now) -> Vec<Slot> {
        let messages_max = poll.messages_max.min(poll.language.ordered_batch_max());
        let of_one_max = poll.language.messages_of_one_group_max();
        let mut chosen = Vec::new();
        let mut bytes = 0;
        let mut put_off = Vec::new();
        while chosen.len() < messages_max {
            let Order::Lanes(lanes) = &mut self.order else { break };
            let Some(key) = lanes.next() else { if self.read_on(now) { continue } else { break } };
            self.refill(key, now);
            let before = chosen.len();
            while chosen.len() < messages_max && chosen.len() - before < of_one_max {
                let Some(slot) = self.next_of_lane(key, chosen.len() > before) else { break };
                let length = self.items[&slot].entry.pointer().length as usize;
                if bytes + length > RECEIVE_BYTES_MAX && !chosen.is_empty() {
                    put_off.push(key);
                    break;
                }
                bytes += length;
                let Order::Lanes(lanes) = &mut self.order else { break };
                let taken = lanes.take(key);
                debug_assert_eq!(taken, slot);
                chosen.push(slot);
            }
            if let Order::Lanes(lanes) = &mut self.order {
                lanes.forget_if_idle(key);
            }
            if bytes >= RECEIVE_BYTES_MAX || !put_off.is_empty() {
                break;
            }
        }
        if let Order::Lanes(lanes) = &mut self.order {
            put_off.into_iter().for_each(|key| lanes.list(key));
        }
        chosen
    }

    /// The message that a lane may hand out next. `is_open`: into the batch that is being filled.
    fn next_of_lane(&self, key: LaneKey, is_open: bool) -> Option<Slot> {
        let Order::Lanes(lanes) = &self.order else { return None };
        let slot = if is_open { lanes.following(key) } else { lanes.front(key) }?;
        // Restored from a lease and returned: what comes before it in its lane has not been read yet (K2).
        if slot.1 >= self.cursors[usize::from(slot.0.0)] {
            return None;
        }
        let item = self.items.get(&slot)?;
        (item.state == State::Ready && !item.is_settling).then_some(slot)
    }

    fn hand_out(&mut self, id: PollId, poll: &Poll, slots: Vec<Slot>, now: Now) {
        let number = self.next_batch;
        self.next_batch += 1;
        self.leased += slots.len();
        let mut entries = Vec::with_capacity(slots.len());
        for slot in &slots {
            let item = self.items.get_mut(slot).expect("chosen messages are there");
            item.state = State::Leased;
            item.batch = number;
            item.attempts += 1;
            entries.push(LeaseEntry { queue: slot.0, offset: slot.1, attempt: item.attempts });
        }
        let lease_ms = poll.invisible.map_or(RENEWED_LEASE_MS, ms);
        let is_ordered = self.settings.is_ordered;
        let renewed_until = match poll.invisible {
            Some(_) => None,
            None if is_ordered => Some(u64::MAX),
            None => Some(now.tick + RENEWED_LEASE_MS_MAX),
        };
        let batch = Batch {
            client: poll.client.clone(),
            attempt_id: poll.attempt_id.clone(),
            slots,
            expires: now.tick + lease_ms,
            renewed_until,
            is_out: !is_ordered,
            is_unwanted: false,
            copies: 1,
        };
        self.expiry.insert((batch.expires, number));
        if let Some(attempt) = &poll.attempt_id {
            self.by_attempt.insert((poll.client.clone(), attempt.clone()), number);
        }
        let until = poll.invisible.map(|_| now.wall.plus_ms(lease_ms));
        self.batches.insert(number, batch);
        if is_ordered {
            self.gather.leases.push(Leasing { batch: number, poll: id, client: poll.client.clone(), until, entries });
        } else {
            self.deliver(id, number);
        }
    }

    fn deliver(&mut self, poll: PollId, number: u64) {
        let slots = self.batches[&number].slots.clone();
        let messages = slots.into_iter().filter_map(|slot| self.handout(slot, number)).collect();
        self.effects.push(Effect::Deliver { poll, batch: number, messages });
    }

    // --- reading ---

    fn add_cursors(&mut self) {
        for queue in self.cursors.len()..self.source.queues() {
            let queue = QueueIndex(u16::try_from(queue).expect("topics have at most 1,024 queues"));
            let floor = self.progress.lock().floor(queue);
            self.cursors.push(floor);
        }
    }

    /// Batches that were out when the process ended stay out: their clients may still be at work (U2).
    fn restore_leases(&mut self, now: Now) {
        if !self.settings.is_ordered {
            return;
        }
        let shared = self.progress.clone();
        let progress = shared.lock();
        for (number, lease) in progress.leases() {
            let mut slots = Vec::new();
            for leased in &lease.entries {
                let slot = (leased.queue, leased.offset);
                let Some(entry) = self.source.entry(slot).filter(|entry| !entry.is_lost()) else { continue };
                let item = Item { batch: number, ..Item::new(entry, leased.attempt, State::Leased) };
                self.items.insert(slot, item);
                slots.push(slot);
                let key = lane_of(slot, &entry);
                let Order::Lanes(lanes) = &mut self.order else { continue };
                lanes.reopen(key);
            }
            self.leased += slots.len();
            let expires = lease.until.map_or(now.tick + CLIENT_ABSENCE_MS, |until| now.tick_at(until));
            let renewed_until = lease.until.is_none().then_some(u64::MAX);
            self.expiry.insert((expires, number));
            let batch = Batch {
                client: lease.client.clone(),
                attempt_id: None,
                slots,
                expires,
                renewed_until,
                is_out: true,
                is_unwanted: false,
                copies: 1,
            };
            self.batches.insert(number, batch);
        }
    }

    /// Reads one stretch of one queue. False when there is nothing to read, or no room.
    fn read_on(&mut self, now: Now) -> bool {
        if self.items.len() >= WINDOW_POINTERS_MAX {
            return false;
        }
        for _ in 0..self.cursors.len() {
            let number = self.next_queue % self.cursors.len();
            self.next_queue = number + 1;
            let queue = QueueIndex(u16::try_from(number).expect("topics have at most 1,024 queues"));
            let mut entries = Vec::new();
            let first = self.source.read(self.cursors[number], queue, READ_STEP, &mut entries);
            if first > self.cursors[number] {
                self.cursors[number] = first;
            }
            if entries.is_empty() {
                continue;
            }
            self.cursors[number] = QueueOffset(first.0 + entries.len() as u64);
            for (index, entry) in entries.into_iter().enumerate() {
                self.read((queue, QueueOffset(first.0 + index as u64)), entry, now);
            }
            return true;
        }
        false
    }

    fn read(&mut self, slot: Slot, entry: Entry, now: Now) {
        if self.items.contains_key(&slot) {
            self.list_if_ready(lane_of(slot, &entry));
            return;
        }
        let (is_done, retry) = {
            let progress = self.progress.lock();
            (progress.is_acknowledged(slot), progress.retry(slot))
        };
        if is_done {
            return;
        }
        if entry.is_lost() || !self.filter.may_match(entry.tag_hash) {
            self.skip(slot, now);
            return;
        }
        let key = lane_of(slot, &entry);
        if self.settings.is_ordered {
            let followers = if self.items.len() > WINDOW_POINTERS_MAX / 2 { 1 } else { LANE_FOLLOWERS_MAX };
            let Order::Lanes(lanes) = &mut self.order else { return };
            if !lanes.push(key, slot, followers) {
                return;
            }
        }
        let attempts = retry.map_or(0, |retry| retry.attempts);
        let visible = retry.map_or(Timestamp::ZERO, |retry| retry.next_visible);
        let state = if visible > now.wall { State::Waiting(now.tick_at(visible)) } else { State::Ready };
        self.items.insert(slot, Item::new(entry, attempts, state));
        match state {
            State::Waiting(at) => drop(self.waiting.insert((at, slot))),
            _ => self.make_ready(slot),
        }
    }

    /// Reads on for a lane that had to leave messages out.
    fn refill(&mut self, key: LaneKey, now: Now) {
        let Order::Lanes(lanes) = &self.order else { return };
        let Some((queue, from)) = lanes.wants_refill(key, LANE_FOLLOWERS_MAX / 2) else { return };
        let until = self.cursors[usize::from(queue.0)];
        let mut found = Vec::new();
        let mut at = from;
        let mut entries = Vec::new();
        while at < until && found.len() < LANE_FOLLOWERS_MAX {
            entries.clear();
            let first = self.source.read(at, queue, READ_STEP, &mut entries);
            if entries.is_empty() {
                at = until;
                break;
            }
            at = first;
            for entry in &entries {
                let slot = (queue, at);
                if at >= until || found.len() >= LANE_FOLLOWERS_MAX {
                    break;
                }
                at = at.next();
                // Only what is still wanted counts, so that a lane with messages left always gets one.
                let is_done = self.items.contains_key(&slot) || self.progress.lock().is_acknowledged(slot);
                if lane_of(slot, entry) != key || entry.is_lost() || is_done {
                    continue;
                }
                if self.filter.may_match(entry.tag_hash) {
                    found.push((slot, *entry));
                } else {
                    // The filter has changed since it was left out.
                    self.skip(slot, now);
                }
            }
        }
        let mut slots = Vec::new();
        for (slot, entry) in found {
            let retry = self.progress.lock().retry(slot);
            let visible = retry.map_or(Timestamp::ZERO, |retry| retry.next_visible);
            let state = if visible > now.wall { State::Waiting(now.tick_at(visible)) } else { State::Ready };
            if let State::Waiting(at) = state {
                self.waiting.insert((at, slot));
            }
            let attempts = retry.map_or(0, |retry| retry.attempts);
            self.items.insert(slot, Item::new(entry, attempts, state));
            slots.push(slot);
        }
        let overflow = (at < until).then_some((queue, at));
        let Order::Lanes(lanes) = &mut self.order else { return };
        lanes.refilled(key, &slots, overflow);
        for slot in slots {
            if self.items[&slot].state == State::Ready && self.items[&slot].attempts >= self.settings.attempts_max {
                // A restart came between its last attempt and its end (U4).
                self.make_ready(slot);
            }
        }
    }

    fn skip(&mut self, slot: Slot, now: Now) {
        if self.gather.skipped.is_empty() {
            self.skipped_since = now.tick;
        }
        self.gather.skip(slot, 1);
    }

    /// A new filter: what was read and not handed out is looked at again.
    fn refilter(&mut self) {
        let mut unwanted: Vec<Slot> = self
            .items
            .iter()
            .filter(|(_, item)| item.state == State::Ready && !item.is_settling)
            .filter(|(_, item)| !self.filter.may_match(item.entry.tag_hash))
            .map(|(slot, _)| *slot)
            .collect();
        unwanted.sort_unstable();
        self.discard(&unwanted);
    }

    fn discard(&mut self, slots: &[Slot]) {
        for slot in slots {
            if let Some(item) = self.items.get_mut(slot).filter(|item| !item.is_settling) {
                item.is_settling = true;
                self.gather.acks.push(*slot);
            }
        }
    }

    // --- readiness ---

    /// A message may be handed out from now on, or has no attempts left.
    fn make_ready(&mut self, slot: Slot) {
        let attempts_max = self.settings.attempts_max.max(1);
        let item = self.items.get_mut(&slot).expect("a message that becomes ready is there");
        item.state = State::Ready;
        item.is_loaded = false;
        if item.attempts >= attempts_max {
            item.is_settling = true;
            let (entry, attempts) = (item.entry, item.attempts);
            self.gather.dying.push(Dying { slot, entry, attempts, reason: DeadLetterReason::Attempts });
            return;
        }
        let key = lane_of(slot, &item.entry);
        match &mut self.order {
            Order::Standard(ready) => ready.push_back(slot),
            Order::Lanes(_) => self.list_if_ready(key),
        }
    }

    fn list_if_ready(&mut self, key: LaneKey) {
        let is_ready = self.next_of_lane(key, false).is_some();
        let Order::Lanes(lanes) = &mut self.order else { return };
        let wants_more = lanes.front(key).is_none() && lanes.wants_refill(key, 1).is_some();
        if is_ready || wants_more {
            lanes.list(key);
        } else {
            lanes.forget_if_idle(key);
        }
    }

    /// What waited long enough.
    fn wake(&mut self, now: Now) {
        while let Some(&(at, slot)) = self.waiting.first() {
            if at > now.tick {
                break;
            }
            self.waiting.pop_first();
            let is_waiting = self.items.get(&slot).is_some_and(|item| item.state == State::Waiting(at));
            if is_waiting && self.items[&slot].is_settling {
                // An append about it is under way; what comes of it decides.
                let item = self.items.get_mut(&slot).expect("just seen");
                item.state = State::Ready;
            } else if is_waiting {
                self.make_ready(slot);
            }
        }
    }

    // --- leases ---

    fn expire(&mut self, now: Now, alive: &dyn Alive) {
        while let Some(&(at, number)) = self.expiry.first() {
            if at > now.tick {
                break;
            }
            self.expiry.pop_first();
            let Some(batch) = self.batches.get_mut(&number) else { continue };
            let is_renewed = batch.renewed_until.is_some_and(|until| now.tick < until) && alive.is_alive(&batch.client);
            // What is on its way to the log is not out yet, so it cannot come back yet.
            if is_renewed || !batch.is_out {
                batch.expires = now.tick + if is_renewed { RENEWED_LEASE_MS } else { 1_000 };
                self.expiry.insert((batch.expires, number));
                continue;
            }
            self.return_batch(number, Return::Failed);
        }
    }

    fn client_gone(&mut self, client: &str) {
        let gone = self.batches.iter().filter(|(_, batch)| &*batch.client == client && batch.is_out);
        let mut numbers: Vec<u64> = gone.map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        for number in numbers {
            self.return_batch(number, Return::Failed);
        }
    }

    /// One reply did not arrive. The client may still hold the batch from another one, and then it stays out (U1).
    fn unwritten(&mut self, number: u64) {
        let Some(batch) = self.batches.get_mut(&number) else { return };
        batch.copies = batch.copies.saturating_sub(1);
        if batch.copies == 0 {
            self.return_batch(number, Return::Uncounted);
        }
    }

    /// Takes back what of a batch is still out.
    fn return_batch(&mut self, number: u64, how: Return) {
        let Some(batch) = self.batches.get(&number) else { return };
        let slots: Vec<Slot> = batch.slots.clone();
        for slot in slots {
            let Some(item) = self.items.get_mut(&slot) else { continue };
            if item.batch != number || item.state != State::Leased || item.is_settling {
                continue;
            }
            if how == Return::Uncounted {
                item.attempts -= 1;
            }
            let is_durable = self.settings.is_ordered || how == Return::Failed;
            if is_durable {
                item.is_settling = true;
                let (attempts, next_visible) = (item.attempts, Timestamp::ZERO);
                self.gather.retries.push(RetryEntry { queue: slot.0, offset: slot.1, attempts, next_visible });
                self.gather.returned.insert(slot);
            } else {
                self.unlease(slot);
                self.make_ready_first(slot);
            }
        }
        self.forget_batch_if_done(number);
    }

    /// What comes back unseen goes out first.
    fn make_ready_first(&mut self, slot: Slot) {
        let item = self.items.get_mut(&slot).expect("a returned message is there");
        item.state = State::Ready;
        match &mut self.order {
            Order::Standard(ready) => ready.push_front(slot),
            Order::Lanes(_) => self.make_ready(slot),
        }
    }

    /// The message is no longer out. Opens its lane when it was the last of its batch.
    fn unlease(&mut self, slot: Slot) {
        let item = self.items.get_mut(&slot).expect("a leased message is there");
        if item.state != State::Leased {
            return;
        }
        item.state = State::Ready;
        let (number, key) = (item.batch, lane_of(slot, &item.entry));
        self.leased -= 1;
        if let Order::Lanes(lanes) = &mut self.order {
            lanes.close_one(key);
        }
        if let Some(batch) = self.batches.get_mut(&number) {
            batch.slots.retain(|other| *other != slot);
        }
        self.forget_batch_if_done(number);
    }

    fn forget_batch_if_done(&mut self, number: u64) {
        let is_done = self.batches.get(&number).is_some_and(|batch| batch.slots.is_empty());
        if !is_done {
            return;
        }
        let batch = self.batches.remove(&number).expect("just seen");
        self.expiry.remove(&(batch.expires, number));
        if let Some(attempt) = batch.attempt_id {
            let key = (batch.client, attempt);
            if self.by_attempt.get(&key) == Some(&number) {
                self.by_attempt.remove(&key);
            }
        }
    }

    // --- settling ---

    fn settle(&mut self, id: SettleId, settle: Settle, now: Now) {
        let receipt = settle.receipt;
        let slot = (receipt.queue, receipt.offset);
        if self.progress.lock().is_acknowledged(slot) {
            // Settled before: repeating it is fine (D11, D12).
            self.effects.push(Effect::Settled { settle: id, result: Ok(()) });
            return;
        }
        if !self.load(slot) {
            let problem = "names a message that is not there";
            self.effects.push(Effect::Settled { settle: id, result: Err(Refusal::InvalidHandle { problem }) });
            return;
        }
        let item = self.items[&slot];
        if item.is_loaded && matches!(settle.verdict, Verdict::Return { .. }) && !item.is_settling {
            // It is not out, and comes in its turn; there is nothing to put off.
            self.items.remove(&slot);
            self.effects.push(Effect::Settled { settle: id, result: Ok(()) });
            return;
        }
        if item.is_settling {
            self.deferred.push((id, settle));
            return;
        }
        let is_last = if item.batch == 0 { receipt.attempt >= item.attempts } else { item.batch == receipt.batch };
        if !is_last {
            if item.is_loaded {
                // Kept, it would pass for read when its turn comes, and go to nobody.
                self.items.remove(&slot);
            }
            let problem = "belongs to an earlier delivery; the message was delivered again since";
            self.effects.push(Effect::Settled { settle: id, result: Err(Refusal::InvalidHandle { problem }) });
            return;
        }
        self.judge(slot, settle.verdict, receipt.attempt, now);
        self.gather.waiters.push(id);
    }

    fn judge(&mut self, slot: Slot, verdict: Verdict, attempt: u32, now: Now) {
        let item = self.items.get_mut(&slot).expect("a message that is settled is there");
        item.is_settling = true;
        item.attempts = item.attempts.max(attempt);
        match verdict {
            Verdict::Ack => self.gather.acks.push(slot),
            Verdict::Forward => {
                let (entry, attempts) = (item.entry, item.attempts);
                self.gather.dying.push(Dying { slot, entry, attempts, reason: DeadLetterReason::Forwarded });
            }
            Verdict::Return { after, is_suspended } => {
                let attempts = if is_suspended { item.attempts.saturating_sub(1) } else { item.attempts };
                let next_visible = now.wall.plus_ms(ms(after));
                if !after.is_zero() {
                    self.gather.visible_at.insert(slot, now.tick.saturating_add(ms(after)));
                }
                self.gather.retries.push(RetryEntry { queue: slot.0, offset: slot.1, attempts, next_visible });
            }
        }
    }

    /// Makes sure the message is in memory. A handle may name one that was not read since the start.
    fn load(&mut self, slot: Slot) -> bool {
        if self.items.contains_key(&slot) {
            return true;
        }
        let Some(entry) = self.source.entry(slot).filter(|entry| !entry.is_lost()) else { return false };
        let attempts = self.progress.lock().retry(slot).map_or(0, |retry| retry.attempts);
        let item = Item { is_loaded: true, ..Item::new(entry, attempts, State::Ready) };
        self.items.insert(slot, item);
        true
    }

    // --- appending ---

    /// Appends what has gathered, unless an append is under way.
    fn flush(&mut self, now: Now) {
        if self.under_way.is_some() || now.tick < self.retry_at {
            return;
        }
        let is_skipped_due = !self.gather.skipped.is_empty()
            && (self.gather.skipped_entries >= SKIPPED_ENTRIES_MAX || now.tick >= self.skipped_since + SKIPPED_MS_MAX);
        if !self.gather.is_urgent() && !is_skipped_due {
            return;
        }
        if !self.gather.dying.is_empty() && self.dead_letter_topic.is_none() {
            if !std::mem::replace(&mut self.is_dead_letter_topic_asked, true) {
                self.effects.push(Effect::NeedDeadLetterTopic);
            }
            return;
        }
        let gathered = std::mem::take(&mut self.gather);
        self.append(gathered);
    }

    fn append(&mut self, gather: Gather) {
        self.next_ticket += 1;
        let changes = gather.changes(self.pair, self.dead_letter_topic);
        self.effects.push(Effect::Append { ticket: self.next_ticket, changes });
        self.under_way = Some((self.next_ticket, gather));
    }

    fn answered(&mut self, ticket: Ticket, result: Result<Done, AppendError>, now: Now) {
        let (expected, gather) = self.under_way.take().expect("answers are to what is under way");
        assert_eq!(expected, ticket, "one append is under way at a time");
        match result {
            Ok(_) => self.committed(gather, now),
            Err(refused) => self.refused(gather, &refused, now),
        }
        for (id, settle) in std::mem::take(&mut self.deferred) {
            self.settle(id, settle, now);
        }
    }

    fn committed(&mut self, gather: Gather, now: Now) {
        for slot in gather.acks.iter().chain(gather.dying.iter().map(|dying| &dying.slot)) {
            self.done(*slot);
        }
        for retry in &gather.retries {
            let visible_at = gather.visible_at.get(&(retry.queue, retry.offset)).copied();
            self.returned(retry, visible_at.unwrap_or(0), now);
        }
        for leasing in gather.leases {
            self.leased_durably(&leasing);
        }
        for settle in gather.waiters {
            self.effects.push(Effect::Settled { settle, result: Ok(()) });
        }
    }

    fn done(&mut self, slot: Slot) {
        let Some(item) = self.items.get(&slot) else { return };
        let key = lane_of(slot, &item.entry);
        if let State::Waiting(at) = item.state {
            self.waiting.remove(&(at, slot));
        }
        self.unlease(slot);
        self.items.remove(&slot);
        if let Order::Lanes(lanes) = &mut self.order {
            lanes.remove(key, slot);
            self.list_if_ready(key);
        }
    }

    fn returned(&mut self, retry: &RetryEntry, at: u64, now: Now) {
        let slot = (retry.queue, retry.offset);
        let Some(item) = self.items.get_mut(&slot) else { return };
        item.is_settling = false;
        item.attempts = retry.attempts;
        let key = lane_of(slot, &item.entry);
        if let State::Waiting(at) = item.state {
            self.waiting.remove(&(at, slot));
        }
        self.unlease(slot);
        if let Order::Lanes(lanes) = &mut self.order {
            lanes.put_back(key, slot);
        }
        if at > now.tick {
            self.items.get_mut(&slot).expect("just seen").state = State::Waiting(at);
            self.waiting.insert((at, slot));
            if self.settings.is_ordered {
                self.list_if_ready(key);
            }
        } else {
            self.make_ready(slot);
        }
    }

    fn leased_durably(&mut self, leasing: &Leasing) {
        let Some(batch) = self.batches.get_mut(&leasing.batch) else { return };
        batch.is_out = true;
        if batch.is_unwanted {
            self.unwritten(leasing.batch);
        } else {
            self.deliver(leasing.poll, leasing.batch);
        }
    }

    /// Nothing of it is in the log: everything is as it was before.
    fn refused(&mut self, gather: Gather, refused: &AppendError, now: Now) {
        self.retry_at = now.tick + APPEND_RETRY_MS;
        let refusal = crate::store_refusal(refused);
        for slot in &gather.acks {
            self.unsettle(*slot);
        }
        for retry in gather.retries {
            let slot = (retry.queue, retry.offset);
            // Nobody else would take the message back: a client that lives keeps its lease, even of what it never got.
            if refused.is_retryable() && gather.returned.contains(&slot) {
                self.gather.retries.push(retry);
                self.gather.returned.insert(slot);
            } else {
                self.unsettle(slot);
            }
        }
        for leasing in gather.leases {
            if let Some(batch) = self.batches.get_mut(&leasing.batch) {
                batch.is_out = true;
            }
            self.cancel_lease(leasing.batch);
            self.effects.push(Effect::Refuse { poll: leasing.poll, refusal: refusal.clone() });
        }
        for settle in gather.waiters {
            self.effects.push(Effect::Settled { settle, result: Err(refusal.clone()) });
        }
        for dying in gather.dying {
            match dying.reason {
                // Whoever asked was told that nothing happened.
                DeadLetterReason::Forwarded => self.unsettle(dying.slot),
                DeadLetterReason::Attempts | DeadLetterReason::Operator => self.gather.dying.push(dying),
            }
        }
        // The end of a lease and a skip are the server's own business: they are tried again.
        for range in gather.skipped {
            self.gather.skip((range.queue, range.first), range.count);
        }
        if gather.filter.is_some() && self.gather.filter.is_none() {
            self.gather.filter = gather.filter;
        }
        let mut expired: Vec<u64> =
            self.batches.iter().filter(|(_, b)| b.expires <= now.tick).map(|(n, _)| *n).collect();
        expired.sort_unstable();
        for number in expired {
            let batch = self.batches.get_mut(&number).expect("just seen");
            batch.expires = self.retry_at;
            self.expiry.insert((self.retry_at, number));
        }
    }

    fn unsettle(&mut self, slot: Slot) {
        let Some(item) = self.items.get_mut(&slot) else { return };
        item.is_settling = false;
        let key = lane_of(slot, &item.entry);
        let is_left_out = match &self.order {
            Order::Standard(_) => false,
            Order::Lanes(lanes) => lanes.is_left_out(key, slot),
        };
        if item.is_loaded && (slot.1 >= self.cursors[usize::from(slot.0.0)] || is_left_out) {
            // It will be read in its turn.
            self.items.remove(&slot);
            return;
        }
        if item.is_loaded
            && let Order::Lanes(lanes) = &mut self.order
        {
            lanes.put_back(key, slot);
        }
        if self.items[&slot].state == State::Ready {
            self.make_ready(slot);
        }
    }

    /// A batch whose lease is not in the log was handed to nobody.
    fn cancel_lease(&mut self, number: u64) {
        let Some(batch) = self.batches.get(&number) else { return };
        for slot in batch.slots.clone() {
            let Some(item) = self.items.get_mut(&slot) else { continue };
            item.attempts -= 1;
            let key = lane_of(slot, &item.entry);
            self.unlease(slot);
            if let Order::Lanes(lanes) = &mut self.order {
                lanes.put_back(key, slot);
            }
            self.make_ready_first(slot);
        }
    }

    fn change_settings(&mut self, settings: Settings) {
        // The driver starts anew when the order changes; everything else takes effect as it is.
        assert_eq!(settings.is_ordered, self.settings.is_ordered, "order is fixed for a subscription's life");
        self.settings = settings;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Return {
    /// The lease ended, or its client went away: the attempt counts.
    Failed,
    /// The client never got it.
    Uncounted,
}

/// Entries read at a time: enough for a reply, little enough to leave the rest to the disk.
const READ_STEP: usize = 256;
/// How long a refused append waits.
const APPEND_RETRY_MS: u64 = 250;
/// How long a dead letter waits for a topic that could not be made.
const DEAD_LETTER_RETRY_MS: u64 = 5_000;

fn lane_of((queue, _): Slot, entry: &Entry) -> LaneKey {
    if entry.group_hash == 0 { LaneKey::Queue(queue) } else { LaneKey::Group(entry.group_hash) }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
