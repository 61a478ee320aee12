//! Upkeep between, and in the midst of, everything else.

use std::time::Duration;

use base::{Clock, LogPosition, QueueIndex, QueueOffset, TopicId};
use storage::checkpoint::{self, CheckpointError};
use storage::disk::Disk;
use storage::index;
use storage::record::Fact;
use storage::request::{Change, Done, Request};
use storage::table::Kind;
use storage::upkeep::{Errand, Merged, Owners, Policy, Standing, Upkeep};
use storage::view::catalog::TopicKind;

use super::super::oracle::{Operation, must};
use super::{Owner, World, say};

/// How long messages of most topics are kept.
const RETENTION: Duration = Duration::from_secs(120);

/// The world as upkeep sees it: others go on while it works.
pub(super) struct Others<'a> {
    pub world: &'a mut World,
}

impl Owners for Others<'_> {
    fn standing(&mut self) -> Result<Standing, CheckpointError> {
        self.meanwhile();
        Ok(self.world.run().writer.standing())
    }

    fn timers(&mut self, errand: Errand) {
        errand(&mut self.world.run().timer);
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
    pub fn upkeep(&mut self) {
        let Some(mut upkeep) = self.run().upkeep.take() else { return };
        let applied = self.run().writer.log().positions().applied;
        if self.chance.one_in(2) {
            self.merge_slice(&mut upkeep);
        }
        match self.chance.below(9) {
            0..=1 => {
                let (policy, now) = (self.policy(), self.clock.now());
                let retained = upkeep.retain(&mut Others { world: self }, &policy, now);
                say!(self, "retention: {retained:?}");
                match retained {
                    Ok(retained) => self.tally.dropped += retained.dropped,
                    Err(error) => self.tally.cuts.retention.count(self.disk.is_crashed(), &error.to_string()),
                }
            }
            2 => drop(self.seal(&mut upkeep, applied)),
            4 => {
                let (policy, now) = (self.policy(), self.clock.now());
                let thinned = upkeep.thin(&mut Others { world: self }, &policy, now);
                say!(self, "thinning: {thinned:?}");
                self.tally.thinned += u64::from(matches!(thinned, Ok(Some(_))));
            }
            3 => {
                // A merge goes on in another step, with checkpoints and all else between its slices.
                while self.merge_slice(&mut upkeep) && self.chance.below(3) > 0 {}
            }
            5 => self.scrub(&mut upkeep),
            _ => {
                while !self.disk.is_crashed() && self.chance.below(4) > 0 {
                    self.seal(&mut upkeep, applied);
                }
                if !self.is_armed && self.chance.one_in(4) {
                    self.take_checkpoint_without_room(&mut upkeep);
                }
                self.take_checkpoint(&mut upkeep);
            }
        }
        self.mend_runs(&mut upkeep);
        if let Some(running) = &mut self.running {
            running.upkeep = Some(upkeep);
        }
    }

    /// Whether there is more to do.
    fn merge_slice(&mut self, upkeep: &mut Upkeep) -> bool {
        let merged = upkeep.merge_timers(&mut Others { world: self });
        say!(self, "merge of timers: {merged:?}");
        match &merged {
            Ok(merged) => self.tally.merged += u64::from(*merged == Merged::Runs),
            Err(error) => {
                let before = self.tally.cuts.merge.all();
                self.tally.cuts.merge.count(self.disk.is_crashed(), &error.to_string());
                let is_known = self.tally.cuts.merge.all() > before || self.tally.blows.runs_in_use > 0;
                must!(is_known, "a merge failed on a healthy disk: {error}");
            }
        }
        matches!(merged, Ok(Merged::Slice))
    }

    /// A bit of a file in use flips. Whoever reads there gets nothing, and goes on when the file is made anew.
    pub(super) fn rot(&mut self) {
        if self.is_armed || self.running.as_ref().is_none_or(|running| running.writer.log().failure().is_some()) {
            return;
        }
        let Some(mut upkeep) = self.run().upkeep.take() else { return };
        let indexes = self.run().writer.views().index.indexes().clone();
        let tables: Vec<_> = upkeep.newest().iter().flat_map(|newest| newest.tables()).collect();
        let has_runs = tables.iter().any(|(kind, _)| *kind == Kind::Timers);
        if has_runs && self.chance.one_in(2) {
            self.tally.blows.runs_in_use += u64::from(self.strike_run(&upkeep));
        } else if self.chance.one_in(3) && !tables.is_empty() {
            let (kind, table) = *self.chance.pick(&tables);
            self.rot_in(&checkpoint::copy_name(kind, table.number));
            self.tally.blows.copies_in_use += 1;
        } else if !indexes.is_empty() {
            let base = self.chance.pick(&indexes).base();
            self.rot_in(&index::name(base));
            self.tally.blows.indexes_in_use += 1;
            for _ in 0..6 {
                self.poll();
                self.pump();
            }
            let all = self.run().writer.views().index.clone();
            for index in indexes.iter() {
                index.verify().unwrap_or_else(|error| all.report(index.base(), &error));
            }
            upkeep.mend_indexes().expect("a healthy disk");
        }
        self.run().upkeep = Some(upkeep);
    }

    /// As [`World::rot`], in both halves of a run.
    pub(super) fn rot_in_runs(&mut self) {
        if !self.is_armed
            && let Some(upkeep) = self.run().upkeep.take()
        {
            self.tally.blows.runs_in_use += u64::from(self.strike_run(&upkeep));
            self.run().upkeep = Some(upkeep);
        }
    }

    fn rot_in(&mut self, name: &str) {
        let length = self.disk.content(name).unwrap_or_else(|| panic!("{name} is there")).len() as u64;
        let (byte, bit) = (self.chance.below(length), self.chance.below(8) as u8);
        say!(self, "bit {bit} of byte {byte} of {name} flips");
        must!(self.disk.flip(name, byte, bit), "{name} has {length} bytes");
    }

    /// Everything that can be sealed is, and a checkpoint is taken.
    pub fn seal_and_checkpoint(&mut self) {
        let mut upkeep = self.run().upkeep.take().expect("upkeep is at home");
        let applied = self.run().writer.log().positions().applied;
        while self.seal(&mut upkeep, applied) {}
        self.take_checkpoint(&mut upkeep);
        self.run().upkeep = Some(upkeep);
    }

    /// The disk is full for as long as it takes, somewhere in the midst of it.
    fn take_checkpoint_without_room(&mut self, upkeep: &mut Upkeep) {
        let Ok(space) = self.disk.space() else { return };
        self.disk.set_capacity(space.total - space.free + self.chance.below(60_000));
        self.take_checkpoint(upkeep);
        self.disk.set_capacity(u64::MAX);
    }

    fn take_checkpoint(&mut self, upkeep: &mut Upkeep) {
        let now = self.clock.now();
        let taken = upkeep.checkpoint(&mut Others { world: self }, now).map(|manifest| manifest.number);
        say!(self, "checkpoint: {taken:?}");
        match taken {
            Ok(_) => self.tally.checkpoints += 1,
            Err(error) => self.tally.cuts.checkpoint.count(self.disk.is_crashed(), &error.to_string()),
        }
    }

    fn seal(&mut self, upkeep: &mut Upkeep, applied: LogPosition) -> bool {
        let sealed = upkeep.seal(applied);
        say!(self, "sealing: {sealed:?}");
        if let Err(error) = &sealed {
            self.tally.cuts.sealing.count(self.disk.is_crashed(), &error.to_string());
        }
        let is_sealed = matches!(sealed, Ok(true));
        self.tally.sealed += u64::from(is_sealed);
        is_sealed
    }

    fn policy(&self) -> Policy {
        Policy { time: RETENTION, ..Policy::default() }
    }

    /// Reads some of what is no longer written, or all of it. On a disk that damages nothing nothing is found.
    fn scrub(&mut self, upkeep: &mut Upkeep) {
        let budget = *self.chance.pick(&[1, 10 << 10, 100 << 10, u64::MAX]);
        let scrubbed = upkeep.scrub(budget);
        say!(self, "scrub: {scrubbed:?}");
        let blows = &self.tally.blows;
        let has_rotted = blows.copies_in_use + blows.indexes_in_use + blows.runs_in_use > 0;
        let is_right = scrubbed.found.is_empty() || has_rotted || self.disk.is_crashed();
        must!(is_right, "damage without damage: {scrubbed:?}");
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
            let retention = topic.spec.retention.unwrap_or(RETENTION);
            let is_old = u128::from(age) >= retention.as_millis() && !is_outlier;
            must!(is_old || entry.is_lost(), "offset {offset} of {:?} expires at an age of {age} ms", topic.spec.name);
        }
    }
}
