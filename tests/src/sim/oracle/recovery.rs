//! Recoveries: everything that was answered is there, and what was unanswered becomes known.

use std::collections::HashMap;

use base::{LogPosition, Timestamp};
use broker::subscription::Now;
use storage::record::Pointer;
use storage::store::Reader;
use storage::timer::TimerCore;
use storage::view::transactions::Outcome;

use super::{Decision, Fate, Id, Kind, Message, Oracle, Recall, Until, must};

impl Oracle {
    /// After a recovery: looks at everything anew, finds out what became of unanswered requests, and checks that
    /// everything answered is there.
    pub fn recovered(&mut self, reader: &Reader, timer: &TimerCore, now: Now, next_batches: &[u64]) {
        let before = std::mem::take(&mut self.queues);
        self.dead_letters.clear();
        self.redriven.clear();
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
        let timers: HashMap<LogPosition, _> = timer
            .timers()
            .all()
            .expect("its runs can be read")
            .into_iter()
            .map(|timer| (timer.pointer.position, timer))
            .collect();
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
        self.know_deaths();
        self.know_operations(reader, next_batches);
        self.restarted(now);
        self.check_progress(reader);
    }

    pub(super) fn found(&mut self, id: Id, pointer: Pointer) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        must!(message.fate != Fate::Nowhere, "message {id} was refused or lost and is pending");
        must!(message.pointer.is_none_or(|known| known == pointer), "message {id} is stored twice");
        message.fate = Fate::Stored;
        message.pointer = Some(pointer);
        self.by_origin.insert(pointer.position, id);
    }

    pub(super) fn restarted(&mut self, now: Now) {
        let Now { wall, tick } = now;
        for pair in &mut self.pairs {
            pair.attempts.restarted();
            pair.restore_waits(now);
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
