//! The writer: one group at a time, from requests to answers. Run by a thread in servers, step by step in simulations.
//!
//! W1. A record is applied to the views only after its group is committed.
//! W2. Answers, refusals included, leave only when everything they were decided upon is committed.

use std::sync::Arc;

use base::{Clock, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};
use smallvec::SmallVec;

use crate::cache::TailCache;
use crate::disk::Space;
use crate::log::group::Group;
use crate::log::{CommitRule, Log, LogFailure};
use crate::metrics::Metrics;
use crate::record::{Fact, Head, Pointer, Record, Why};
use crate::request::{Answer, AppendError, BodyKind, Change, Done, Placed, ReplySink, Request, Submission};
use crate::sequencer::Sequencer;
use crate::upkeep::Standing;
use crate::view::Views;

pub use crate::view::apply::TimerEvent;

/// Answers on their way to one sink.
pub struct Delivery {
    pub sink: Arc<dyn ReplySink>,
    pub answers: Vec<Answer>,
}

/// Space below which bodies are refused, and what there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reserve {
    pub free: u64,
    pub reserve: u64,
}

impl Reserve {
    pub fn of(space: Space, reserve: u64) -> Self {
        Self { free: space.free, reserve }
    }

    fn check(&self) -> Result<(), AppendError> {
        if self.free < self.reserve {
            return Err(AppendError::DiskFull { free: self.free, reserve: self.reserve });
        }
        Ok(())
    }
}

pub struct Writer {
    log: Log,
    views: Views,
    sequencer: Sequencer,
    cache: Arc<TailCache>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    reserve: Reserve,
    /// Records of the group under construction, with their place in it.
    pending: Vec<(Record, u64, u32)>,
}

impl Writer {
    /// Takes over an opened log and the views that were replayed from it, and begins a term.
    pub fn new(log: Log, views: Views, cache: Arc<TailCache>, clock: Arc<dyn Clock>, metrics: Metrics) -> Self {
        let is_own_master = log.options().commit != CommitRule::External;
        assert!(is_own_master, "W1: this writer applies what it has written; it cannot wait for somebody's word");
        let sequencer = Sequencer::new(views.catalog.clone(), views.transactions.clone());
        metrics.writable.set(1);
        Self { log, views, sequencer, cache, clock, metrics, reserve: Reserve::default(), pending: Vec::new() }
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn views(&self) -> &Views {
        &self.views
    }

    pub fn set_reserve(&mut self, reserve: Reserve) {
        self.reserve = reserve;
        let is_writable = self.log.failure().is_none() && reserve.check().is_ok();
        self.metrics.writable.set(is_writable.into());
    }

    pub fn take_timer_events(&mut self) -> Vec<TimerEvent> {
        self.views.take_timer_events()
    }

    /// Records that belong to no request: the first batch of a store and of a term.
    pub fn append_own(&mut self, records: &[Record]) -> Result<(), LogFailure> {
        let mut group = Group::default();
        self.log.stamp(self.clock.now());
        group.open();
        for record in records {
            self.add(&mut group, record.clone(), &[]);
        }
        group.close();
        let is_mark = records == [Record::Mark];
        self.commit_group(group, is_mark).map(drop)
    }

    /// Proves the last group. Wanted when the inbox has run dry for a moment.
    pub fn mark(&mut self) -> Result<(), LogFailure> {
        self.append_own(&[Record::Mark])
    }

    /// From requests to answers: one group, or more when they would not fit in a segment.
    pub fn commit(&mut self, submissions: &mut Vec<Submission>) -> Vec<Delivery> {
        let mut deliveries: Vec<Delivery> = Vec::new();
        let bytes: usize = submissions.iter().map(|submission| submission.request.bytes() + 64).sum();
        let mut waiting = submissions.drain(..).peekable();
        while waiting.peek().is_some() {
            let group = Group::with_capacity(bytes.min(self.log.options().group_bytes_max()));
            self.commit_some(&mut waiting, group, &mut deliveries);
        }
        deliveries
    }

    /// One group of what is at the front.
    fn commit_some(
        &mut self,
        waiting: &mut dyn Iterator<Item = Submission>,
        mut group: Group,
        deliveries: &mut Vec<Delivery>,
    ) {
        let now = self.log.stamp(self.clock.now());
        let mut outcomes = Vec::new();
        while group.len() < self.log.options().group_bytes_max()
            && let Some(submission) = waiting.next()
        {
            let outcome = match self.log.failure() {
                Some(failure) => Err(failure.clone().into()),
                None => self.sequence(submission.request, &mut group, now),
            };
            outcomes.push((submission.reply, outcome));
        }
        let mut start = if group.is_empty() { Ok(LogPosition(0)) } else { self.commit_group(group, false) };
        let is_standing_asked = outcomes.iter().any(|(_, outcome)| matches!(outcome, Ok(Done::Standing(_))));
        if is_standing_asked && self.log.positions().durable < self.log.positions().appended {
            start = start.and_then(|start| self.sync().map(|()| start));
        }
        let standing = self.standing();
        for (reply, outcome) in outcomes {
            let result = match (&start, outcome) {
                // W2: a refusal may rest on what was decided in this group, so it is void with it.
                (Err(failure), _) => Err(self.explain(failure)),
                (Ok(_), Err(refused)) => Err(refused),
                (Ok(_), Ok(Done::Standing(_))) => Ok(Done::Standing(standing)),
                (Ok(start), Ok(done)) => Ok(relocate(done, *start)),
            };
            let answer = Answer { ticket: reply.ticket, result };
            match deliveries.iter_mut().find(|delivery| Arc::ptr_eq(&delivery.sink, &reply.sink)) {
                Some(delivery) => delivery.answers.push(answer),
                None => deliveries.push(Delivery { sink: reply.sink, answers: vec![answer] }),
            }
        }
    }

    /// Where the log stands; everything applied is durable unless the commit rule says otherwise.
    pub fn standing(&self) -> Standing {
        Standing {
            positions: self.log.positions(),
            next_index: self.log.next_index(),
            term: self.log.term(),
            stored_at: self.log.stored_at(),
        }
    }

    /// Makes durable what was committed by the write alone.
    pub fn sync(&mut self) -> Result<(), LogFailure> {
        let began = self.clock.monotonic_ns();
        let result = self.log.sync();
        self.metrics.sync_duration.observe(seconds(self.clock.monotonic_ns() - began));
        if result.is_err() {
            self.metrics.writable.set(0);
        }
        result
    }

    fn explain(&self, failure: &LogFailure) -> AppendError {
        match self.log.failure() {
            Some(_) => AppendError::Failed(failure.clone()),
            // Only a segment that could not be allocated leaves the log alive.
            None => AppendError::DiskFull { free: 0, reserve: self.log.options().segment_bytes },
        }
    }

    /// Writes, syncs, applies. Gives where the group lies. After an error nothing of it counts.
    fn commit_group(&mut self, group: Group, is_mark: bool) -> Result<LogPosition, LogFailure> {
        let began = self.clock.monotonic_ns();
        let result = self.log.write(group, is_mark).and_then(|appended| {
            self.metrics.write_duration.observe(seconds(self.clock.monotonic_ns() - began));
            if self.log.options().commit == CommitRule::OnSync { self.sync() } else { Ok(()) }?;
            Ok(appended)
        });
        let appended = match result {
            Ok(appended) => appended,
            Err(failure) => {
                self.pending.clear();
                self.sequencer.reset();
                if self.log.failure().is_some() {
                    self.metrics.writable.set(0);
                    tracing::error!(%failure, "writes are disabled; reads go on");
                }
                return Err(failure);
            }
        };
        self.metrics.append_bytes.inc_by(appended.bytes.len() as u64);
        self.metrics.append_batches.inc_by(appended.batches as u64);
        self.metrics.group_batches.observe(appended.batches as f64);
        self.metrics.group_bytes.observe(appended.bytes.len() as f64);
        let start = appended.start;
        self.cache.push(start, appended.bytes);
        self.apply(start);
        self.metrics.writer_busy.inc_by(seconds(self.clock.monotonic_ns() - began));
        Ok(start)
    }

    fn apply(&mut self, start: LogPosition) {
        // Every batch of a group carries the same stamp, so this gives it again.
        let stored_at = self.log.stamp(Timestamp::ZERO);
        for (record, at, length) in self.pending.drain(..) {
            self.views.apply(&record, Pointer { position: start.plus(at), length }, stored_at);
        }
        self.sequencer.committed();
        self.log.applied();
        self.views.ring();
    }

    /// Encodes what one request means as one batch. Refused requests leave nothing behind.
    fn sequence(&mut self, request: Request, group: &mut Group, now: Timestamp) -> Result<Done, AppendError> {
        match request {
            Request::Changes(changes) => self.sequence_changes(changes, group, now),
            Request::CreateTopic(spec) => {
                self.reserve.check()?;
                let (spec, record) = self.sequencer.create_topic(spec)?;
                let is_new = record.is_some();
                record.into_iter().for_each(|record| self.add_batch(group, record));
                Ok(Done::Topic { spec, is_new })
            }
            Request::ChangeTopic(id, change) => {
                self.reserve.check()?;
                let (spec, record) = self.sequencer.change_topic(id, change, now)?;
                record.into_iter().for_each(|record| self.add_batch(group, record));
                Ok(Done::Topic { spec, is_new: false })
            }
            Request::DropTopic(id) => {
                let record = self.sequencer.drop_topic(id, now)?;
                self.add_batch(group, record);
                Ok(Done::Dropped)
            }
            Request::CreateGroup(spec) => {
                let (spec, record) = self.sequencer.create_group(spec)?;
                let is_new = record.is_some();
                record.into_iter().for_each(|record| self.add_batch(group, record));
                Ok(Done::Group { spec, is_new })
            }
            Request::DropGroup(id) => {
                let record = self.sequencer.drop_group(id, now)?;
                self.add_batch(group, record);
                Ok(Done::Dropped)
            }
            Request::AdoptTopic(spec) => {
                if !spec.is_dropped {
                    self.reserve.check()?;
                }
                let (spec, record) = self.sequencer.adopt_topic(spec)?;
                let is_new = record.is_some();
                record.into_iter().for_each(|record| self.add_batch(group, record));
                Ok(Done::Topic { spec, is_new })
            }
            Request::AdoptGroup(spec) => {
                let (spec, record) = self.sequencer.adopt_group(spec)?;
                let is_new = record.is_some();
                record.into_iter().for_each(|record| self.add_batch(group, record));
                Ok(Done::Group { spec, is_new })
            }
            Request::EndTransaction { origin, outcome } => {
                let record = self.sequencer.end_transaction(origin, outcome, now)?;
                record.into_iter().for_each(|record| self.add_batch(group, record));
                Ok(Done::TransactionEnded)
            }
            Request::Barrier => Ok(Done::Passed),
            // Filled in when the group is committed.
            Request::Standing => Ok(Done::Standing(Standing::default())),
        }
    }

    fn sequence_changes(
        &mut self,
        changes: SmallVec<[Change; 1]>,
        group: &mut Group,
        now: Timestamp,
    ) -> Result<Done, AppendError> {
        let mut placed: SmallVec<[Placed; 1]> = SmallVec::new();
        let (records_before, bytes_before) = (self.pending.len(), group.len());
        group.open();
        let mut outcome = if changes.is_empty() { Err(AppendError::TooLarge { size: 0, max: 0 }) } else { Ok(()) };
        for change in changes {
            if outcome.is_ok() {
                outcome = self.change(change, group, now, &mut placed);
            }
        }
        let (size, max) = (group.len() - bytes_before, self.log.options().batch_bytes_max());
        if outcome.is_ok() && size > max {
            outcome = Err(AppendError::TooLarge { size, max });
        }
        match outcome {
            Ok(()) => {
                group.close();
                Ok(Done::Changed(placed))
            }
            Err(refused) => {
                self.take_back(records_before);
                group.cancel();
                Err(refused)
            }
        }
    }

    /// Forgets the records of a refused batch, and the offsets they were given.
    fn take_back(&mut self, records_before: usize) {
        for (record, _, _) in self.pending.drain(records_before..).rev() {
            if let Some((topic, queue, offset)) = visible_place(&record) {
                self.sequencer.unplace(topic, queue, offset);
            }
            if let Some((topic, group)) = operated(&record) {
                self.sequencer.unoperate(topic, group);
            }
        }
    }

    fn change(
        &mut self,
        change: Change,
        group: &mut Group,
        now: Timestamp,
        placed: &mut SmallVec<[Placed; 1]>,
    ) -> Result<(), AppendError> {
        let mut part = None;
        let record = match change {
            Change::Expect { group, topic, operations } => return self.expect(group, topic, operations),
            Change::Body(body) => {
                part = Some(body.part);
                self.body(body.head, body.kind)?
            }
            Change::Publish { origin, head, why } => {
                if matches!(why, Why::Due { .. }) {
                    self.check_not_starving()?;
                }
                self.sequencer.publish(origin, head, why, now)?
            }
            Change::Fact(fact) => {
                self.check_fact(&fact)?;
                Record::Fact(fact)
            }
        };
        if let Some((topic, group)) = operated(&record) {
            self.sequencer.operate(topic, group);
        }
        let is_placed = record.has_body() || matches!(record, Record::Publish { .. });
        let body = part.as_ref().map_or(&[][..], |part| part.as_bytes());
        let (at, length) = self.add(group, record, body);
        if is_placed {
            let (record, _, _) = self.pending.last().expect("just added");
            let (_, queue, offset) = visible_place(record).unwrap_or_default();
            placed.push(Placed { pointer: Pointer { position: LogPosition(at), length }, queue, offset });
        }
        Ok(())
    }

    /// Whether what a fact is about is still there.
    fn check_fact(&self, fact: &Fact) -> Result<(), AppendError> {
        match fact {
            Fact::Move { head, .. } => self.sequencer.check_topic(head.topic),
            Fact::Lease { group, topic, .. } => {
                self.check_not_starving()?;
                self.check_pair(*group, *topic)
            }
            Fact::Settle { group, topic, .. }
            | Fact::Subscribe { group, topic, .. }
            | Fact::Seek { group, topic, .. }
            | Fact::Park { group, topic, .. } => self.check_pair(*group, *topic),
            Fact::Purge { topic, .. } | Fact::Expire { topic, .. } => self.sequencer.check_topic(*topic),
            Fact::Retire { .. } | Fact::Schedule(_) => Ok(()),
        }
    }

    fn body(&mut self, head: Head, kind: BodyKind) -> Result<Record, AppendError> {
        self.reserve.check()?;
        Ok(match kind {
            BodyKind::Visible => {
                let (queue, offset) = self.sequencer.place(&head)?;
                Record::Message { head, queue, offset }
            }
            BodyKind::Delayed { due } => {
                self.sequencer.check_topic(head.topic)?;
                Record::Delayed { head, due }
            }
            BodyKind::Prepared { due, check_after_ms, client } => {
                self.sequencer.check_topic(head.topic)?;
                Record::Prepared { head, due, check_after_ms, client }
            }
        })
    }

    /// Q5: one append of a subscription is under way at a time, but an operator's record may come between.
    fn expect(&self, group: base::GroupId, topic: TopicId, operations: u64) -> Result<(), AppendError> {
        self.check_pair(group, topic)?;
        let applied = self.views.progress_of(group, topic).lock().operations();
        if applied + self.sequencer.operations_ahead(group, topic) == operations {
            return Ok(());
        }
        Err(AppendError::Overtaken { group, topic })
    }

    /// On the last spare segment of a full disk only what lets consumers finish goes on.
    fn check_not_starving(&self) -> Result<(), AppendError> {
        if self.log.is_starving() {
            return Err(AppendError::DiskFull { free: self.reserve.free, reserve: self.reserve.reserve });
        }
        Ok(())
    }

    fn check_pair(&self, group: base::GroupId, topic: TopicId) -> Result<(), AppendError> {
        self.sequencer.check_group(group)?;
        self.sequencer.check_topic(topic)
    }

    fn add_batch(&mut self, group: &mut Group, record: Record) {
        group.open();
        self.add(group, record, &[]);
        group.close();
    }

    fn add(&mut self, group: &mut Group, record: Record, body: &[u8]) -> (u64, u32) {
        let mut length = 0;
        let at = group.record(|out| length = record.encode(out, body));
        self.pending.push((record, at, length));
        (at, length)
    }
}

/// Where a record makes a message visible.
fn visible_place(record: &Record) -> Option<(TopicId, QueueIndex, QueueOffset)> {
    match record {
        Record::Message { head, queue, offset } => Some((head.topic, *queue, *offset)),
        Record::Publish { head, queue, offset, .. } => Some((head.topic, *queue, *offset)),
        _ => None,
    }
}

/// Whose progress an operator's record changes: one consumer group's, or that of all that read the topic.
fn operated(record: &Record) -> Option<(TopicId, Option<base::GroupId>)> {
    match record {
        Record::Fact(Fact::Seek { group, topic, .. } | Fact::Park { group, topic, .. }) => Some((*topic, Some(*group))),
        Record::Fact(Fact::Purge { topic, .. } | Fact::Expire { topic, .. }) => Some((*topic, None)),
        _ => None,
    }
}

/// Places inside a group become places in the log.
fn relocate(mut done: Done, start: LogPosition) -> Done {
    if let Done::Changed(placed) = &mut done {
        for placed in placed {
            placed.pointer.position = start.plus(placed.pointer.position.0);
        }
    }
    done
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
