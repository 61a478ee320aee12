//! Drives the writer and the timer: requests go in, answers come out, in the order of the log.

use base::{Clock, Timestamp};
use storage::record::Why;
use storage::request::{AppendError, Change, Done, ReplyTo, Request, Submission};
use storage::timer::Effects;
use storage::view::transactions::Outcome;

use super::super::oracle::{Decision, Fate, Id, Recall, must};
use super::super::snapshot::Snapshot;
use super::{Owner, World, say};

impl World {
    pub(super) fn submit(&mut self, owner: Owner, request: Request) {
        let running = self.run();
        running.next += 1;
        let ticket = running.next;
        running.owners.insert(ticket, owner);
        running.inbox.push_back((ticket, request));
    }

    /// One group of up to `max` requests, and everything that follows from its answers.
    pub fn commit(&mut self, max: usize) {
        let sink = self.sink.clone();
        let is_whole = self.running.as_ref().is_some_and(|running| running.writer.views().index.indexes().is_empty());
        // Index files cannot be read once the machine is gone.
        let before = (self.is_armed && is_whole).then(|| {
            let running = self.running.as_ref().expect("the process lives");
            Snapshot::of(running.writer.views(), &running.timer)
        });
        let running = self.run();
        let count = running.inbox.len().min(max);
        if count == 0 {
            return;
        }
        let mut batch: Vec<Submission> = running
            .inbox
            .drain(..count)
            .map(|(ticket, request)| Submission { request, reply: ReplyTo { sink: sink.clone(), ticket } })
            .collect();
        let deliveries = running.writer.commit(&mut batch);
        let events = running.writer.take_timer_events();
        let positions = running.writer.log().positions();
        must!(positions.applied <= positions.committed && positions.committed <= positions.durable, "{positions:?}");
        let has_failed = running.writer.log().failure().is_some();
        if let Some(before) = before.filter(|_| has_failed) {
            let after = Snapshot::of(running.writer.views(), &running.timer);
            if let Some(difference) = before.difference(&after) {
                panic!("W1: a group that is not committed changed the views: {difference}");
            }
        }
        if self.disk.is_crashed() {
            // Nobody hears the answers: the machine is gone.
            return;
        }
        say!(self, "commit of {count}, failed: {has_failed}");
        let running = self.running.as_mut().expect("the process lives");
        running.timer.apply(&events, positions.applied);
        self.oracle.scan(&running.reader);
        for answer in deliveries.into_iter().flat_map(|delivery| delivery.answers) {
            self.answer(answer.ticket, answer.result);
        }
        self.oracle.check_dead_letters();
        self.ring();
    }

    pub(super) fn answer(&mut self, ticket: u64, result: Result<Done, AppendError>) {
        let owner = self.run().owners.remove(&ticket).expect("every ticket is answered once");
        let is_unknown = matches!(result, Err(AppendError::Failed(_)));
        let now = self.now();
        match owner {
            Owner::Send(ids) => self.sent(&ids, &result, is_unknown),
            Owner::End(id, outcome) => self.ended(id, outcome, &result, is_unknown),
            Owner::Recall(id) => {
                say!(self, "recall of {id}: {result:?}");
                let message = self.oracle.messages.get_mut(&id).expect("known");
                match &result {
                    Ok(_) => {
                        must!(message.slot.is_none(), "message {id} was recalled OK and is visible");
                        message.recall = Recall::Done;
                        message.due = None;
                    }
                    Err(_) if is_unknown => {}
                    Err(_) if message.recall == Recall::Asked => message.recall = Recall::No,
                    Err(_) => {}
                }
            }
            Owner::Move(id, due) => {
                say!(self, "move of {id} to {due:?}: {result:?}");
                let message = self.oracle.messages.get_mut(&id).expect("known");
                if result.is_ok() {
                    must!(message.recall != Recall::Done, "message {id} was recalled and then moved");
                    message.due = Some(due);
                }
                message.is_moving &= is_unknown;
            }
            Owner::Timer(ticket) => {
                let mut effects = Effects::default();
                self.run().timer.answered(ticket, result, now.tick, &mut effects);
                self.timer_effects(effects);
            }
            Owner::Core(index, ticket) => self.append_answered(index, ticket, result),
            Owner::DeadLetterTopic(index) => {
                let topic = result.map(|done| match done {
                    Done::Topic { spec, .. } => spec.id,
                    other => panic!("a topic was asked for, not {other:?}"),
                });
                self.dead_letter_topic(index, topic);
            }
            Owner::Operator(operation) => self.operated(&operation, &result),
            Owner::Nobody => {}
        }
    }

    pub(super) fn sent(&mut self, ids: &[Id], result: &Result<Done, AppendError>, is_unknown: bool) {
        say!(self, "sent {ids:?}: {result:?}");
        match result {
            Ok(Done::Changed(placed)) => {
                must!(placed.len() == ids.len(), "{} messages were sent, {} placed", ids.len(), placed.len());
                for (id, placed) in ids.iter().zip(placed) {
                    self.oracle.sent(*id, placed.pointer, (placed.queue, placed.offset));
                }
            }
            Ok(other) => panic!("a send was answered with {other:?}"),
            Err(_) if is_unknown => {}
            Err(_) => {
                for id in ids {
                    let message = self.oracle.messages.get_mut(id).expect("asked for");
                    must!(message.slot.is_none(), "message {id} was refused and is visible");
                    message.fate = Fate::Nowhere;
                }
            }
        }
    }

    pub(super) fn ended(&mut self, id: Id, outcome: Outcome, result: &Result<Done, AppendError>, is_unknown: bool) {
        say!(self, "end of {id} as {outcome:?}: {result:?}");
        let message = self.oracle.messages.get_mut(&id).expect("asked for");
        match (result, message.decision) {
            (Ok(_), Decision::Ended(earlier)) => {
                must!(earlier == outcome, "message {id} ended as {earlier:?} and {outcome:?}")
            }
            (Ok(_), _) => message.decision = Decision::Ended(outcome),
            (Err(_), _) if is_unknown => {}
            (Err(AppendError::TransactionEndedAs(other)), decision) => {
                let is_right = *other != outcome && decision == Decision::Ended(*other);
                must!(is_right, "the end of {id} as {outcome:?} was refused: it ended as {other:?}, but {decision:?}");
            }
            (Err(_), Decision::Asked(_)) => message.decision = Decision::Open,
            (Err(_), _) => {}
        }
    }

    pub fn timer_due(&mut self) {
        let now = self.now();
        let mut effects = Effects::default();
        self.run().timer.due(now.wall, now.tick, &mut effects);
        self.timer_effects(effects);
    }

    pub(super) fn timer_effects(&mut self, mut effects: Effects) {
        loop {
            let Effects { submit, replies, .. } = effects;
            let wall = self.clock.now();
            for reply in replies {
                self.answer(reply.to.ticket, reply.result);
            }
            effects = Effects::default();
            for (ticket, request) in submit {
                if let Request::Changes(changes) = &request {
                    changes.iter().for_each(|change| self.check_due(change, wall));
                }
                if !self.is_well && self.chance.one_in(40) {
                    let refused = AppendError::InboxFull { what: "the simulated inbox", max: 0 };
                    let tick = self.now().tick;
                    self.run().timer.answered(ticket, Err(refused), tick, &mut effects);
                } else {
                    self.submit(Owner::Timer(ticket), request);
                }
            }
            if effects.submit.is_empty() && effects.replies.is_empty() {
                return;
            }
        }
    }

    /// Nothing is published before it is due, by what its sender was told.
    pub(super) fn check_due(&self, change: &Change, wall: Timestamp) {
        let Change::Publish { origin, why: Why::Due { .. }, .. } = change else { return };
        let Some(id) = self.oracle.by_origin.get(&origin.position) else { return };
        let due = self.oracle.messages[id].due;
        must!(due.is_none_or(|due| due <= wall), "message {id} is due at {due:?} and fires at {wall:?}");
    }
}
