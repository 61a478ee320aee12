//! What must be true, whatever the disk and the clients do. Knows what was asked and what was answered; reads the views, but
//! trusts them only where they agree with that.
//!
//! An unanswered request at a crash has an unknown outcome: the first recovery after it settles what became of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use base::{GroupId, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};
use broker::subscription::{Handout, Slot};
use storage::record::Pointer;
use storage::store::Reader;
use storage::timer::TimerCore;
use storage::view::catalog::TopicKind;
use storage::view::transactions::Outcome;

pub type Id = u64;

/// Fails the run, saying what was expected and what came.
macro_rules! must {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            panic!($($what)+)
        }
    };
}
pub(crate) use must;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Visible,
    Delayed,
    Prepared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Asked for, not answered.
    Asked,
    Stored,
    /// Refused, or lost with an unanswered request.
    Nowhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Open,
    Asked(Outcome),
    Ended(Outcome),
}

#[derive(Debug, Clone)]
pub struct Message {
    pub topic: TopicId,
    pub lane: u64,
    pub tag: u8,
    pub kind: Kind,
    pub fate: Fate,
    pub pointer: Option<Pointer>,
    pub slot: Option<Slot>,
    /// While it is a timer, when it is due.
    pub due: Option<Timestamp>,
    pub decision: Decision,
    pub recall: Recall,
    /// A reschedule is under way.
    pub is_moving: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recall {
    No,
    Asked,
    Done,
}

/// The body that a message was sent with.
pub fn body_of(id: Id) -> Vec<u8> {
    let length = 16 + usize::try_from(id * 37 % 400).expect("small") + if id.is_multiple_of(23) { 3000 } else { 0 };
    let mut body = format!("message {id}:").into_bytes();
    body.resize(length.max(body.len()), (id % 251) as u8);
    body
}

/// Until when a delivery is its client's.
#[derive(Debug, Clone)]
pub struct Hold {
    pub batch: u64,
    pub client: Arc<str>,
    /// The lease is over, or nobody knows whether it is.
    pub may_end: bool,
    pub until: Until,
}

#[derive(Debug, Clone, Copy)]
pub enum Until {
    Tick {
        tick: u64,
        wall: Timestamp,
    },
    /// Renewed for as long as the client lives, but not looked at before this tick.
    Alive {
        from: u64,
        end: u64,
    },
}

/// One (group, topic).
#[derive(Debug)]
pub struct Pair {
    pub group: GroupId,
    pub topic: TopicId,
    pub is_ordered: bool,
    pub attempts_max: u32,
    pub acked: HashSet<Slot>,
    pub acked_maybe: HashSet<Slot>,
    pub dead: HashSet<Slot>,
    pub forwarded: HashSet<Slot>,
    pub holds: HashMap<Slot, Hold>,
    pub copies: HashMap<u64, u32>,
    pub attempts: HashMap<Slot, u32>,
    /// Every filter there was: none = all tags.
    pub filters: Vec<Option<Vec<u8>>>,
}

impl Pair {
    pub fn may_skip(&self, tag: u8) -> bool {
        self.filters.iter().flatten().any(|tags| !tags.contains(&tag))
    }

    fn is_wanted(&self, tag: u8) -> bool {
        self.filters.iter().any(|filter| filter.as_ref().is_none_or(|tags| tags.contains(&tag)))
    }
}

#[derive(Debug, Default)]
pub struct Oracle {
    pub messages: BTreeMap<Id, Message>,
    pub by_origin: HashMap<LogPosition, Id>,
    pub pairs: Vec<Pair>,
    /// What each queue was seen to hold; none = lost to damage.
    pub queues: BTreeMap<(TopicId, QueueIndex), Vec<Option<Id>>>,
    lanes: HashMap<(TopicId, u64), BTreeSet<Slot>>,
    dead_letters: HashSet<(TopicId, Id)>,
    pub may_lose: bool,
    pub delivered: u64,
}

impl Oracle {
    pub fn sent(&mut self, id: Id, pointer: Pointer, slot: Slot) {
        let message = self.messages.get_mut(&id).expect("asked for");
        must!(message.fate == Fate::Asked, "message {id} was answered twice: {message:?}");
        message.fate = Fate::Stored;
        message.pointer = Some(pointer);
        let earlier = self.by_origin.insert(pointer.position, id);
        must!(earlier.is_none(), "two messages at {pointer:?}: {earlier:?} and {id}");
        if message.kind == Kind::Visible {
            message.slot = Some(slot);
        }
    }

    /// Looks at every queue entry that is new since the last look.
    pub fn scan(&mut self, reader: &Reader) {
        let topics: Vec<_> = reader.catalog().topics().cloned().collect();
        for topic in topics {
            let is_paired = self.pairs.iter().any(|pair| pair.topic == topic.spec.id);
            if !is_paired && topic.spec.kind != TopicKind::DeadLetter {
                continue;
            }
            for (number, queue) in topic.queues.iter().enumerate() {
                let index = QueueIndex(u16::try_from(number).expect("few queues"));
                let key = (topic.spec.id, index);
                let bounds = queue.bounds();
                let known = self.queues.get(&key).map_or(0, Vec::len) as u64;
                must!(bounds.next.0 >= known || self.may_lose, "{key:?} had {known} messages and has {}", bounds.next);
                for offset in known..bounds.next.0 {
                    let Some(entry) = queue.entry(QueueOffset(offset)) else {
                        // Purged.
                        self.queues.entry(key).or_default().push(None);
                        continue;
                    };
                    let id = if entry.is_lost() { None } else { self.identify(reader, entry.pointer()) };
                    must!(id.is_some() || self.may_lose, "{key:?} offset {offset} is lost without damage");
                    self.queues.entry(key).or_default().push(id);
                    let Some(id) = id else { continue };
                    match topic.spec.kind {
                        TopicKind::DeadLetter => {
                            let is_new = self.dead_letters.insert((topic.spec.id, id));
                            must!(is_new, "message {id} is in {} twice", topic.spec.name.as_str());
                        }
                        _ => self.visible(id, topic.spec.id, (index, QueueOffset(offset)), entry.pointer()),
                    }
                }
            }
        }
    }

    /// The message whose body lies at `pointer`, byte for byte.
    fn identify(&self, reader: &Reader, pointer: Pointer) -> Option<Id> {
        match reader.fetch(pointer) {
            Ok(stored) => {
                let id: Id = stored.envelope.message_id.parse().expect("ids are numbers");
                must!(stored.body == body_of(id), "message {id}: other bytes came back than were sent");
                Some(id)
            }
            Err(error) => {
                must!(self.may_lose, "the body at {pointer:?} cannot be read: {error}");
                None
            }
        }
    }

    fn visible(&mut self, id: Id, topic: TopicId, slot: Slot, pointer: Pointer) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        must!(message.topic == topic, "message {id} for {:?} is in {topic:?}", message.topic);
        must!(message.fate != Fate::Nowhere, "message {id} was refused or lost and is visible");
        must!(message.recall != Recall::Done, "message {id} was recalled and is visible at {slot:?}");
        must!(message.pointer.is_none_or(|known| known == pointer), "message {id} lies at {pointer:?}: {message:?}");
        must!(message.slot.is_none_or(|known| known == slot), "message {id} is visible twice: {slot:?}, {message:?}");
        if message.kind == Kind::Prepared {
            let is_right = !matches!(message.decision, Decision::Open | Decision::Ended(Outcome::RolledBack));
            must!(is_right, "prepared message {id} is visible: {message:?}");
        }
        message.slot = Some(slot);
        message.due = None;
        self.lanes.entry((topic, message.lane)).or_default().insert(slot);
    }

    pub fn message_at(&self, topic: TopicId, (queue, offset): Slot) -> Option<Id> {
        let known = self.queues.get(&(topic, queue))?;
        known.get(usize::try_from(offset.0).expect("small")).copied().flatten()
    }

    /// A poll was given messages.
    pub fn deliver(
        &mut self,
        reader: &Reader,
        index: usize,
        client: &Arc<str>,
        batch: u64,
        messages: &[Handout],
        tick: u64,
    ) {
        let progress = reader.progress(self.pairs[index].group, self.pairs[index].topic);
        let progress = progress.lock();
        must!(!messages.is_empty(), "a poll was answered with no messages");
        let mut in_reply: HashSet<Slot> = HashSet::new();
        for handout in messages {
            let slot = (handout.receipt.queue, handout.receipt.offset);
            let attempt = handout.receipt.attempt;
            let topic = self.pairs[index].topic;
            let Some(id) = self.identify(reader, handout.entry.pointer()) else { continue };
            must!(self.message_at(topic, slot) == Some(id), "{slot:?} gave message {id}, the queue says otherwise");
            let message = &self.messages[&id];
            let pair = &self.pairs[index];
            must!(in_reply.insert(slot), "message {id} is twice in one reply");
            must!(
                !pair.acked.contains(&slot),
                "message {id} ({slot:?}) was delivered after its ack was answered OK, pair {index}"
            );
            must!(!pair.dead.contains(&slot), "message {id} ({slot:?}) was delivered after it became a dead letter");
            must!(pair.is_wanted(message.tag), "message {id} with tag {} is not wanted", message.tag);
            must!(
                (1..=pair.attempts_max).contains(&attempt),
                "U4: attempt {attempt} of {} for {id}",
                pair.attempts_max
            );
            let hold = pair.holds.get(&slot);
            if let Some(hold) = hold.filter(|hold| hold.batch != batch) {
                must!(
                    hold.may_end,
                    "U1: message {id} ({slot:?}, pair {index}) went to {client} in batch {batch} at {tick} while {hold:?}"
                );
            }
            if let Some(hold) = hold.filter(|hold| hold.batch == batch) {
                must!(hold.client == *client, "F9: batch {batch} of {} was repeated for {client}", hold.client);
            }
            if pair.is_ordered {
                let is_leased = progress.leases().any(|(number, lease)| {
                    number == batch && lease.entries.iter().any(|entry| (entry.queue, entry.offset) == slot)
                });
                must!(is_leased, "U2: message {id} ({slot:?}) left in batch {batch}, whose lease is not committed");
                let last = pair.attempts.get(&slot).copied().unwrap_or(0);
                must!(attempt + 1 >= last, "attempt {attempt} of {id} after {last}");
                // What is repeated (F9) was given to the client in order before.
                if hold.is_none_or(|hold| hold.batch != batch) {
                    self.check_lane(index, id, slot, batch, &in_reply, &|slot| progress.is_acknowledged(slot));
                }
            }
            self.delivered += 1;
            self.pairs[index].attempts.insert(slot, attempt);
        }
    }

    fn check_lane(
        &self,
        index: usize,
        id: Id,
        slot: Slot,
        batch: u64,
        reply: &HashSet<Slot>,
        is_done: &dyn Fn(Slot) -> bool,
    ) {
        let pair = &self.pairs[index];
        let lane = self.messages[&id].lane;
        for other in &self.lanes[&(pair.topic, lane)] {
            if let Some(hold) = pair.holds.get(other).filter(|hold| hold.batch != batch && !hold.may_end) {
                panic!(
                    "F1: message {id} ({slot:?}) of lane {lane} left in batch {batch} while {other:?} is out: {hold:?}"
                );
            }
            let Some(earlier) = self.message_at(pair.topic, *other) else { continue };
            if *other < slot
                && !reply.contains(other)
                && !is_done(*other)
                && !pair.may_skip(self.messages[&earlier].tag)
            {
                panic!("order: message {id} ({slot:?}) of lane {lane} came before {earlier} ({other:?}), pair {index}");
            }
        }
    }

    /// What is acknowledged in the log is what was asked to be, and everything that was answered OK is.
    pub fn check_progress(&self, reader: &Reader) {
        for (index, pair) in self.pairs.iter().enumerate() {
            let dead_letters = dead_letters_of(reader, pair.group);
            let progress = reader.progress(pair.group, pair.topic);
            let progress = progress.lock();
            for slot in &pair.acked {
                must!(
                    self.may_lose || progress.is_acknowledged(*slot),
                    "the ack of {slot:?} (pair {index}) was answered OK and is gone"
                );
            }
            for ((topic, queue), ids) in self.queues.iter().filter(|((topic, _), _)| *topic == pair.topic) {
                for (offset, id) in ids.iter().enumerate() {
                    let slot = (*queue, QueueOffset(offset as u64));
                    let Some(id) = id else { continue };
                    let is_allowed = pair.acked.contains(&slot)
                        || pair.acked_maybe.contains(&slot)
                        || pair.may_skip(self.messages[id].tag);
                    let is_dead = self.is_dead(dead_letters, *id);
                    let is_done = progress.is_acknowledged(slot);
                    must!(
                        !is_done || is_allowed || is_dead,
                        "message {id} ({topic:?} {slot:?}, pair {index}) is acknowledged, and nobody did it"
                    );
                    must!(
                        !is_dead || is_done || self.may_lose,
                        "message {id} is a dead letter and not acknowledged (pair {index})"
                    );
                }
            }
        }
    }

    fn is_dead(&self, dead_letters: Option<TopicId>, id: Id) -> bool {
        dead_letters.is_some_and(|topic| self.dead_letters.contains(&(topic, id)))
    }

    /// After a recovery: looks at everything anew, finds out what became of unanswered requests, and checks that
    /// everything answered is there.
    pub fn recovered(&mut self, reader: &Reader, timer: &TimerCore, wall: Timestamp, tick: u64) {
        let before = std::mem::take(&mut self.queues);
        self.dead_letters.clear();
        self.scan(reader);
        for (key, known) in &before {
            let Some(found) = self.queues.get(key) else {
                let is_dropped = reader.catalog().topic_by_id(key.0).is_none();
                must!(is_dropped || self.may_lose || known.is_empty(), "the queue {key:?} is gone");
                continue;
            };
            for (offset, (was, is)) in known.iter().zip(found).enumerate() {
                must!(
                    was == is || was.is_none() || is.is_none(),
                    "{key:?} offset {offset} was message {was:?} and is {is:?}"
                );
            }
        }
        let timers: HashMap<LogPosition, _> =
            timer.timers().iter().map(|timer| (timer.pointer.position, *timer)).collect();
        for timer in timers.values() {
            if let Some(id) = self.identify(reader, timer.pointer) {
                self.found(id, timer.pointer);
            }
        }
        let prepared: Vec<Pointer> = reader.transactions().lock().iter().map(|prepared| prepared.pointer).collect();
        for pointer in prepared {
            if let Some(id) = self.identify(reader, pointer) {
                self.found(id, pointer);
            }
        }
        let visible: Vec<(Id, Option<Pointer>)> =
            self.messages.iter().filter(|(_, m)| m.slot.is_some()).map(|(id, m)| (*id, m.pointer)).collect();
        for (id, pointer) in visible {
            let message = self.messages.get_mut(&id).expect("listed");
            message.fate = Fate::Stored;
            if let Some(pointer) = pointer.or_else(|| pointer_of(reader, message)) {
                message.pointer = Some(pointer);
                self.by_origin.insert(pointer.position, id);
            }
        }
        let may_lose = self.may_lose;
        for (id, message) in &mut self.messages {
            let timer = message.pointer.and_then(|pointer| timers.get(&pointer.position));
            settle_unknown(*id, message, timer.map(|timer| timer.due), reader, may_lose);
        }
        self.restarted(wall, tick);
        self.check_progress(reader);
    }

    fn found(&mut self, id: Id, pointer: Pointer) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        must!(message.fate != Fate::Nowhere, "message {id} was refused or lost and is pending");
        must!(message.pointer.is_none_or(|known| known == pointer), "message {id} is stored twice");
        message.fate = Fate::Stored;
        message.pointer = Some(pointer);
        self.by_origin.insert(pointer.position, id);
    }

    fn restarted(&mut self, wall: Timestamp, tick: u64) {
        for pair in &mut self.pairs {
            pair.copies.clear();
            for hold in pair.holds.values_mut() {
                // Standard groups' leases are memory only.
                hold.may_end |= !pair.is_ordered;
                hold.until = match hold.until {
                    Until::Tick { wall: until, .. } => Until::Tick { tick: tick + until.ms_since(wall), wall: until },
                    Until::Alive { end, .. } => Until::Alive { from: tick + base::limits::CLIENT_ABSENCE_MS, end },
                };
            }
        }
    }

    /// Notes which leases may have ended by now.
    pub fn pass(&mut self, tick: u64, told_dead: &HashSet<String>) {
        for pair in &mut self.pairs {
            for hold in pair.holds.values_mut() {
                hold.may_end |= match hold.until {
                    Until::Tick { tick: until, .. } => tick >= until,
                    Until::Alive { from, end } => tick >= end || (tick >= from && told_dead.contains(&*hold.client)),
                };
            }
        }
    }

    /// All is quiet and everybody had all the time in the world.
    pub fn check_end(&self, reader: &Reader, timer: &TimerCore) {
        must!(timer.timers().is_empty(), "{} timers never fired", timer.timers().len());
        self.check_progress(reader);
        let dead: Vec<_> = self.pairs.iter().map(|pair| dead_letters_of(reader, pair.group)).collect();
        for (id, message) in &self.messages {
            if message.fate != Fate::Stored || message.recall == Recall::Done {
                continue;
            }
            let is_open = message.kind == Kind::Prepared && message.decision != Decision::Ended(Outcome::Committed);
            must!(is_open == message.slot.is_none(), "message {id} at the end: {message:?}");
            let Some(slot) = message.slot else { continue };
            for (index, pair) in self.pairs.iter().enumerate().filter(|(_, pair)| pair.topic == message.topic) {
                let dead_letters = dead[index];
                let is_acked = pair.acked.contains(&slot) || pair.acked_maybe.contains(&slot);
                let is_done = is_acked || self.is_dead(dead_letters, *id) || pair.may_skip(message.tag);
                must!(is_done, "message {id} ({slot:?}, lane {}) never came to pair {index}", message.lane);
                let is_acknowledged = reader.progress(pair.group, pair.topic).lock().is_acknowledged(slot);
                must!(is_acknowledged, "message {id} ({slot:?}) is not settled for pair {index} at the end");
                if pair.forwarded.contains(&slot) {
                    let is_dead = self.is_dead(dead_letters, *id);
                    must!(
                        is_dead || pair.acked_maybe.contains(&slot),
                        "message {id} was forwarded OK and is no dead letter"
                    );
                }
            }
        }
    }
}

fn dead_letters_of(reader: &Reader, group: GroupId) -> Option<TopicId> {
    let catalog = reader.catalog();
    let name = base::TopicName::dead_letters_of(&catalog.group_by_id(group)?.name);
    catalog.topic(&name).map(|topic| topic.spec.id)
}

fn pointer_of(reader: &Reader, message: &Message) -> Option<Pointer> {
    let (queue, offset) = message.slot?;
    let catalog = reader.catalog();
    let entry = catalog.topic_by_id(message.topic)?.queue(queue)?.entry(offset)?;
    (!entry.is_lost()).then(|| entry.pointer())
}

/// What a recovery says about one message and what was under way for it.
fn settle_unknown(id: Id, message: &mut Message, timer: Option<Timestamp>, reader: &Reader, may_lose: bool) {
    if message.fate == Fate::Asked {
        message.fate = Fate::Nowhere;
    }
    let (Fate::Stored, Some(pointer)) = (message.fate, message.pointer) else { return };
    let transactions = reader.transactions().lock();
    let is_prepared = transactions.prepared(pointer.position).is_some();
    let is_timer = timer.is_some();
    let is_visible = message.slot.is_some();
    let places = usize::from(is_prepared) + usize::from(is_timer) + usize::from(is_visible);
    must!(places <= 1 || may_lose, "message {id} is prepared {is_prepared}, timer {is_timer}, visible {is_visible}");
    if let Some(due) = timer {
        let is_expected =
            message.is_moving || message.due == Some(due) || message.kind == Kind::Prepared || message.due.is_none();
        must!(is_expected || may_lose, "timer of message {id} is due at {due:?}: {message:?}");
        message.due = Some(due);
    }
    message.is_moving = false;
    if message.recall == Recall::Asked {
        message.recall = if places == 0 { Recall::Done } else { Recall::No };
    }
    must!(message.recall != Recall::Done || places == 0 || may_lose, "recalled message {id} came back");
    if message.kind == Kind::Prepared {
        let found = transactions.outcome(pointer.position);
        if let (Decision::Asked(_), Some(outcome)) = (message.decision, found) {
            message.decision = Decision::Ended(outcome);
        } else if is_prepared && matches!(message.decision, Decision::Asked(_)) {
            message.decision = Decision::Open;
        }
        if let (Decision::Ended(outcome), false) = (message.decision, may_lose) {
            must!(found == Some(outcome), "the transaction of message {id} ended as {outcome:?} and is {found:?}");
        }
    }
    let is_retired = message.recall == Recall::Done || message.decision == Decision::Ended(Outcome::RolledBack);
    must!(places == 1 || is_retired || may_lose, "message {id} was answered OK and is nowhere: {message:?}");
}
