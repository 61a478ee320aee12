//! What producers and consumers do.

use std::time::Duration;

use base::{Clock, Timestamp};
use broker::subscription::Verdict;
use smallvec::SmallVec;
use storage::message::{BodyPart, Envelope, MessageKind};
use storage::record::Head;
use storage::request::{BodyKind, Change, NewBody, ReplyTo, Request};
use storage::timer::{Ask, Effects, What};
use storage::view::catalog::TopicKind;
use storage::view::transactions::Outcome;

use super::super::oracle::{Decision, Fate, Id, Kind, Message, Recall, body_of};
use super::scene::{CLIENTS, LANES, PAIRS, TAGS, TOPICS};
use super::{Owner, World, say};

impl World {
    pub fn send(&mut self) {
        let count = 1 + self.chance.below(if self.chance.clone().one_in(3) { 8 } else { 2 });
        let which = self.chance.below(if self.is_aging { 2 } else { 3 }) as usize;
        let mut ids = Vec::new();
        let mut changes: SmallVec<[Change; 1]> = SmallVec::new();
        for _ in 0..count {
            let (id, change) = self.message(which);
            ids.push(id);
            changes.push(change);
        }
        say!(self, "send {ids:?} to {}", TOPICS[which].0);
        self.submit(Owner::Send(ids), Request::Changes(changes));
    }

    pub(super) fn message(&mut self, which: usize) -> (Id, Change) {
        let id = self.next_id;
        self.next_id += 1;
        self.tally.messages += 1;
        let topic = self.topics[which];
        let lane = if TOPICS[which].1 == TopicKind::Fifo { *self.chance.pick(&LANES) } else { "" };
        let tag = self.chance.below(TAGS.len() as u64) as u8;
        let wall = self.clock.now();
        let ahead = *self.chance.pick(&[0, 1, 500, 5_000, 70_000, 3_600_000]);
        let ahead = if self.is_aging && self.chance.one_in(2) { 3_600_000 } else { ahead };
        let due = Some(Timestamp((wall.0 + ahead).saturating_sub(5)));
        let kind = match self.chance.below(10) {
            // What waits long keeps old segments.
            _ if self.is_aging && !self.chance.one_in(20) => Kind::Visible,
            0..=4 if self.is_aging && which != 1 => Kind::Delayed,
            0..=1 if which != 1 => Kind::Delayed,
            2 => Kind::Prepared,
            _ if which == 2 => Kind::Delayed,
            _ => Kind::Visible,
        };
        let due = due.filter(|_| kind == Kind::Delayed || (kind == Kind::Prepared && which == 2));
        let key = *self.run().reader.hash_key();
        let group_hash = if lane.is_empty() { 0 } else { key.message_group(lane) };
        let head = Head { topic, tag_hash: key.tag(TAGS[usize::from(tag)]), group_hash, priority: 0 };
        let envelope = Envelope {
            tag: Some(TAGS[usize::from(tag)].into()),
            message_group: (!lane.is_empty()).then(|| lane.to_owned()),
            deliver_at: due,
            ..Envelope::new(MessageKind::Normal, id.to_string(), wall, "simulation".into())
        };
        let body_kind = match kind {
            Kind::Visible => BodyKind::Visible,
            Kind::Delayed => BodyKind::Delayed { due: due.expect("delayed") },
            Kind::Prepared => BodyKind::Prepared { due, check_after_ms: 1000, client: "java".into() },
        };
        // Messages without a lane on other topics than ordered ones have no order: each is a lane of its own.
        let lane = match lane {
            "" if which == 1 => 0,
            "" => 1_000_000 + id,
            lane => u64::from(lane.as_bytes()[0]),
        };
        self.oracle.messages.insert(
            id,
            Message {
                topic,
                lane,
                group_hash,
                tag,
                kind,
                fate: Fate::Asked,
                pointer: None,
                slot: None,
                due,
                decision: Decision::Open,
                recall: Recall::No,
                is_moving: false,
            },
        );
        (id, Change::Body(NewBody { head, kind: body_kind, part: BodyPart::encode(&envelope, &body_of(id)) }))
    }

    pub fn end_transaction(&mut self) {
        let is_prepared = |m: &Message| m.kind == Kind::Prepared && m.fate == Fate::Stored;
        let open: Vec<Id> = self.oracle.messages.iter().filter(|(_, m)| is_prepared(m)).map(|(id, _)| *id).collect();
        if open.is_empty() {
            return;
        }
        let id = *self.chance.pick(&open);
        let outcome = *self.chance.pick(&[Outcome::Committed, Outcome::Committed, Outcome::RolledBack]);
        let message = self.oracle.messages.get_mut(&id).expect("listed");
        if message.decision == Decision::Open {
            message.decision = Decision::Asked(outcome);
        } else if let Decision::Asked(other) = message.decision
            && other != outcome
        {
            return;
        }
        let origin = message.pointer.expect("stored").position;
        self.submit(Owner::End(id, outcome), Request::EndTransaction { origin, outcome });
    }

    pub fn ask_timer(&mut self) {
        let timers: Vec<Id> = self
            .oracle
            .messages
            .iter()
            .filter(|(_, m)| {
                m.fate == Fate::Stored && m.kind == Kind::Delayed && !m.is_moving && m.recall == Recall::No
            })
            .filter(|(_, m)| m.due.is_some())
            .map(|(id, _)| *id)
            .collect();
        if timers.is_empty() {
            return;
        }
        let id = *self.chance.pick(&timers);
        let wall = self.clock.now();
        let message = self.oracle.messages.get_mut(&id).expect("listed");
        let (origin, due) = (message.pointer.expect("stored").position, message.due.expect("waits"));
        let (owner, what) = if self.chance.one_in(2) {
            message.recall = Recall::Asked;
            (Owner::Recall(id), What::Recall)
        } else {
            message.is_moving = true;
            let to = wall.plus_ms(*self.chance.pick(&[0, 2_000, 90_000]));
            (Owner::Move(id, to), What::Reschedule(to))
        };
        let running = self.running.as_mut().expect("the process lives");
        running.next += 1;
        running.owners.insert(running.next, owner);
        let reply = ReplyTo { sink: self.sink.clone(), ticket: running.next };
        let mut effects = Effects::default();
        running.timer.ask(Ask { origin, due, what, reply }, &mut effects);
        self.timer_effects(effects);
    }

    pub fn poll(&mut self) {
        let pair = self.chance.below(PAIRS.len() as u64) as usize;
        let which = self.chance.below(CLIENTS.len() as u64) as usize;
        let messages_max = 1 + self.chance.below(8) as usize;
        let invisible = match self.chance.below(3) {
            0 => None,
            1 => Some(Duration::from_secs(10)),
            _ => Some(Duration::from_secs(60)),
        };
        self.poll_as(pair, which, messages_max, invisible);
    }

    pub fn settle(&mut self) {
        if self.hands.is_empty() {
            return;
        }
        let count = 1 + self.chance.below(4);
        for _ in 0..count {
            if self.hands.is_empty() {
                return;
            }
            let at = self.chance.below(self.hands.len() as u64) as usize;
            // Some handles are used again later.
            let hand = if self.chance.one_in(8) { self.hands[at].clone() } else { self.hands.swap_remove(at) };
            let verdict = match self.chance.below(12) {
                _ if self.is_aging => Verdict::Ack,
                0 => Verdict::Forward,
                1..=2 => Verdict::Return { after: Duration::ZERO, is_suspended: false },
                3 => Verdict::Return { after: Duration::from_secs(7), is_suspended: false },
                4 => Verdict::Return { after: Duration::from_secs(1), is_suspended: true },
                _ => Verdict::Ack,
            };
            self.settle_with(hand, verdict);
        }
    }
}
