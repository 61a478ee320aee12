//! Upkeep between, and in the midst of, everything else.

use std::ops::Range;
use std::time::Duration;

use base::{Clock, LogPosition, QueueIndex, QueueOffset, TopicId};
use storage::checkpoint::{CheckpointError, Timers};
use storage::record::Fact;
use storage::request::{Change, Done, Request};
use storage::upkeep::{Owners, Policy, Standing, Upkeep};
use storage::view::catalog::TopicKind;

use super::super::oracle::{Operation, must};
use super::{Owner, World, say};

/// How long messages are kept.
const RETENTION: Duration = Duration::from_secs(120);

/// The world as upkeep sees it: others go on while it works.
struct Others<'a> {
    world: &'a mut World,
}

impl Owners for Others<'_> {
    fn standing(&mut self) -> Result<Standing, CheckpointError> {
        self.meanwhile();
        Ok(self.world.run().writer.standing())
    }

    fn timers(&mut self) -> Result<Timers, CheckpointError> {
        let timer = &self.world.run().timer;
        Ok(Timers { pending: timer.pending(), covers: timer.covers() })
    }

    fn is_any_waiting_in(&mut self, range: &Range<LogPosition>) -> Result<bool, CheckpointError> {
        self.meanwhile();
        Ok(self.world.run().timer.timers().is_any_in(range))
    }

    fn append(&mut self, request: Request) -> Result<Done, CheckpointError> {
        let Request::Changes(changes) = request else { panic!("upkeep appends nothing else") };
        let mut expired = Vec::new();
        for change in changes {
            let Change::Fact(Fact::Expire { topic, queue, below }) = change else { panic!("{change:?}") };
            self.world.check_age(topic, queue, below);
            expired.push((topic, queue, below));
            let request = Request::one(change);
            match self.world.topics.iter().position(|known| *known == topic) {
                Some(0..=2) => self.world.ask(Operation::Purge { topic, queue, below }, request),
                _ => self.world.submit(Owner::Nobody, request),
            }
        }
        self.world.commit(usize::MAX);
        // Refused, on a full disk, or lost with the machine.
        let catalog = self.world.run().reader.catalog();
        let is_done = expired.iter().all(|(topic, queue, below)| {
            let queue = catalog.topic_by_id(*topic).and_then(|topic| topic.queue(*queue));
            queue.is_none_or(|queue| queue.bounds().first >= *below)
        });
        if is_done { Ok(Done::Passed) } else { Err(CheckpointError::Closed) }
    }

    fn meanwhile(&mut self) {
        if self.world.chance.one_in(2) {
            self.world.commit(2);
            self.world.pump();
        }
    }
}

impl World {
    /// One thing that upkeep does. What fails is tried again some other time.
    pub(super) fn upkeep(&mut self) {
        let Some(mut upkeep) = self.run().upkeep.take() else { return };
        let applied = self.run().writer.log().positions().applied;
        match self.chance.below(7) {
            0..=1 => {
                let policy = Policy { time: RETENTION, ..Policy::default() };
                let now = self.clock.now();
                let retained = upkeep.retain(&mut Others { world: self }, &policy, now);
                say!(self, "retention: {retained:?}");
                self.tally.dropped += retained.map_or(0, |retained| retained.dropped);
            }
            2 => self.seal(&mut upkeep, applied),
            3 => self.scrub(&mut upkeep),
            _ => {
                while !self.disk.is_crashed() && self.chance.below(4) > 0 {
                    self.seal(&mut upkeep, applied);
                }
                let now = self.clock.now();
                let taken = upkeep.checkpoint(&mut Others { world: self }, now).map(|manifest| manifest.number);
                say!(self, "checkpoint: {taken:?}");
                self.tally.checkpoints += u64::from(taken.is_ok());
            }
        }
        if let Some(running) = &mut self.running {
            running.upkeep = Some(upkeep);
        }
    }

    fn seal(&mut self, upkeep: &mut Upkeep, applied: LogPosition) {
        let sealed = upkeep.seal(applied);
        say!(self, "sealing: {sealed:?}");
        self.tally.sealed += u64::from(matches!(sealed, Ok(true)));
    }

    /// Reads some of what is no longer written, or all of it. On a disk that damages nothing nothing is found.
    fn scrub(&mut self, upkeep: &mut Upkeep) {
        let budget = *self.chance.pick(&[1, 10 << 10, 100 << 10, u64::MAX]);
        let scrubbed = upkeep.scrub(budget);
        say!(self, "scrub: {scrubbed:?}");
        must!(scrubbed.found.is_empty() || self.disk.is_crashed(), "damage without damage: {scrubbed:?}");
        self.tally.scrubbed += scrubbed.bytes;
        // A budget is kept, but for the batch or block that it ends in.
        must!(budget == u64::MAX || scrubbed.bytes <= budget + (64 << 10), "{} of {budget}", scrubbed.bytes);
    }

    /// Nothing expires before its time.
    fn check_age(&self, topic: TopicId, queue: QueueIndex, below: QueueOffset) {
        let running = self.running.as_ref().expect("the process lives");
        let catalog = running.reader.catalog();
        let Some(topic) = catalog.topic_by_id(topic) else { return };
        let Some(queue) = topic.queue(queue) else { return };
        let is_outlier = matches!(topic.spec.kind, TopicKind::DeadLetter | TopicKind::Retry);
        for offset in queue.bounds().first.0..below.0 {
            let entry = queue.entry(QueueOffset(offset)).expect("it is there");
            let age = self.clock.now().ms_since(entry.visible_since);
            let is_old = u128::from(age) >= RETENTION.as_millis() && !is_outlier;
            must!(is_old || entry.is_lost(), "offset {offset} of {:?} expires at an age of {age} ms", topic.spec.name);
        }
    }
}
