//! Thinning: of a sealed segment of which less than half is wanted, only that is kept. One topic that is kept for long beside
//! much that is not then costs what it is, not the segments it lies in.
//!
//! Positions never change, so no pointer, handle or index entry is told. What goes has expired by a record before, as with
//! a whole segment.
//!
//! N1. A record goes only when no entry that can be read, no timer and no transaction points to it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use base::{BatchIndex, LogPosition, Timestamp, TopicId};
use hashbrown::HashSet;

use super::retention::{Asked, Policy, RetentionError};
use super::{Owners, SealError, Upkeep, at_timers, seal};
use crate::checkpoint::Pair;
use crate::index::{BuildError, STRETCH_BYTES, SegmentIndex};
use crate::log::sealed;
use crate::log::segment::{self, Segment};
use crate::log::thin::{Kept, Thin, ThinWriter};
use crate::record::{self, Record};

/// Positions that are asked about together whether anything in them waits.
const WAITING_STRETCH: u64 = 1 << 20;

/// Thinning cannot go on; another try may succeed.
#[derive(Debug, thiserror::Error)]
pub enum ThinError {
    #[error(transparent)]
    Retention(#[from] RetentionError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Write(#[from] BuildError),
}

/// What one segment was and is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinned {
    pub before: u64,
    pub after: u64,
}

impl Upkeep {
    /// Thins the oldest segment of which less than half is wanted; none when there is no such.
    pub fn thin(
        &mut self,
        owners: &mut dyn Owners,
        policy: &Policy,
        now: Timestamp,
    ) -> Result<Option<Thinned>, ThinError> {
        let Some(below) = self.behind_checkpoints() else { return Ok(None) };
        let all = self.segments.load_full();
        let limits = self.topic_limits(policy);
        let asked = Asked { policy, now, is_over: false, limits: &limits };
        for (at, segment) in all.iter().enumerate().filter(|(_, segment)| segment.header.end() <= below) {
            let base = segment.header.base;
            let Some(index) = self.views.index.find(base) else { continue };
            let wanted = self.wanted_topics(&index, &asked, base);
            let bytes: u64 = index.topics().iter().filter(|(id, _)| wanted.contains(id)).map(|(_, s)| s.bytes).sum();
            // What waits, or is pointed to, may keep it as large as it was.
            let is_stubborn = segment.thin.as_ref().is_some_and(|thin| bytes * 4 >= thin.wanted() * 3);
            if bytes * 2 >= segment.bytes() || is_stubborn {
                continue;
            }
            let next_index = sealed::next_index(&all, at);
            self.expire(owners, segment, &index, &|topic| !wanted.contains(&topic), &asked)?;
            return self.replace(owners, segment, next_index, (&wanted, bytes), &asked).map(Some);
        }
        Ok(None)
    }

    fn wanted_topics(&self, index: &SegmentIndex, asked: &Asked<'_>, base: LogPosition) -> HashSet<TopicId> {
        let catalog = self.views.catalog.load();
        let is_wanted = |topic: TopicId, newest| asked.is_wanted(&catalog, topic, newest, base);
        index.topics().iter().filter(|(id, share)| is_wanted(*id, share.newest)).map(|(id, _)| *id).collect()
    }

    /// Writes what is wanted, topics with so many bytes, and puts it in the segment's place.
    fn replace(
        &mut self,
        owners: &mut dyn Owners,
        segment: &Arc<Segment>,
        next_index: Option<BatchIndex>,
        (wanted, wanted_bytes): (&HashSet<TopicId>, u64),
        asked: &Asked<'_>,
    ) -> Result<Thinned, ThinError> {
        let range = segment.header.base..segment.header.end();
        // N1: asked after the expiry is in the log, and in the order that a body takes: prepared, waiting, visible. So
        // nothing can come to point here that is not known.
        let prepared = self.prepared_in(&range);
        let waiting = self.waiting_stretches(owners, &range)?;
        let stretches = self.pointed_stretches(&range, asked)?;
        let origins = self.origins(segment, next_index, wanted)?;
        let keeping = Keeping { topics: wanted, stretches, waiting, prepared, origins };
        let index = self.views.index.find(range.start).expect("it was found before");
        tracing::debug!(segment = range.start.0, "a segment is being thinned");
        let random = self.chance.next_u64();
        let created = ThinWriter::create(&*self.disk, &segment.header, index.summary(), wanted_bytes, random);
        let mut writer = created.map_err(BuildError::Write)?;
        let mut failed = None;
        each_record(segment, next_index, &mut |kept, record| {
            if failed.is_none() && keeping.is_kept(&kept, record) {
                failed = writer.keep(&kept).err();
            }
        })?;
        if let Some(error) = failed {
            return Err(BuildError::Write(error).into());
        }
        writer.finish(&*self.disk).map_err(BuildError::Write)?;
        let thinned = Thin::open(&*self.disk, range.start).map_err(SealError::Open)?;
        thinned.thin.as_ref().expect("just opened as such").verify().map_err(SealError::Open)?;
        let done = Thinned { before: segment.bytes(), after: thinned.bytes() };
        let thinned = Arc::new(thinned);
        self.segments.rcu(|all| {
            let replaced = |old: &Arc<Segment>| if old.header.base == range.start { &thinned } else { old }.clone();
            all.iter().map(replaced).collect::<Vec<_>>()
        });
        let random = self.chance.next_u64();
        self.views.index.add(seal::build(&*self.disk, &thinned, None, self.hash_key, random)?);
        Pair::remove(&*self.disk, &segment::name(range.start));
        tracing::info!(segment = range.start.0, before = done.before, after = done.after, "a segment was thinned");
        Ok(done)
    }

    /// Stretches of a segment that entries elsewhere point into, and that somebody may still read.
    fn pointed_stretches(
        &self,
        range: &Range<LogPosition>,
        asked: &Asked<'_>,
    ) -> Result<BTreeSet<u64>, RetentionError> {
        let catalog = self.views.catalog.load();
        let mut found = BTreeSet::new();
        self.each_pointing_into(range, &mut |stretch, topic, newest| {
            if asked.is_wanted(&catalog, topic, newest, range.start) {
                found.insert(stretch);
            }
        })?;
        Ok(found)
    }

    /// Parts of a segment in which something waits for its time.
    fn waiting_stretches(
        &self,
        owners: &mut dyn Owners,
        range: &Range<LogPosition>,
    ) -> Result<BTreeSet<u64>, RetentionError> {
        // What the writer has applied, the timers know afterwards.
        owners.standing()?;
        let range = range.clone();
        Ok(at_timers(owners, move |core| {
            let parts = range.start.0 / WAITING_STRETCH..range.end.0.div_ceil(WAITING_STRETCH);
            let is_waiting = |part: &u64| {
                let start = LogPosition(part * WAITING_STRETCH);
                let positions = start.max(range.start)..start.plus(WAITING_STRETCH).min(range.end);
                core.timers().has_pending_in(&positions)
            };
            parts.filter(is_waiting).collect()
        }))
    }

    fn prepared_in(&self, range: &Range<LogPosition>) -> HashSet<LogPosition> {
        self.views.transactions.lock().positions_in(range).collect()
    }

    /// Bodies of a segment that became visible in the same one, in topics that are wanted.
    fn origins(
        &self,
        segment: &Segment,
        next_index: Option<BatchIndex>,
        wanted: &HashSet<TopicId>,
    ) -> Result<HashSet<LogPosition>, SealError> {
        let mut origins = HashSet::new();
        each_record(segment, next_index, &mut |_, record| {
            if let Record::Publish { origin, head, .. } = record
                && wanted.contains(&head.topic)
            {
                origins.insert(origin.position);
            }
        })?;
        Ok(origins)
    }
}

/// What is kept of a segment.
struct Keeping<'a> {
    topics: &'a HashSet<TopicId>,
    stretches: BTreeSet<u64>,
    waiting: BTreeSet<u64>,
    prepared: HashSet<LogPosition>,
    origins: HashSet<LogPosition>,
}

impl Keeping<'_> {
    fn is_kept(&self, kept: &Kept<'_>, record: &Record) -> bool {
        let at = kept.position;
        let is_pointed_to = self.origins.contains(&at) || self.stretches.contains(&(at.0 / STRETCH_BYTES));
        match record {
            Record::Message { head, .. } => is_pointed_to || self.topics.contains(&head.topic),
            // A prepared one whose transaction was committed may wait for its time.
            Record::Delayed { .. } | Record::Prepared { .. } => {
                let is_waiting = self.waiting.contains(&(at.0 / WAITING_STRETCH));
                is_pointed_to || is_waiting || self.prepared.contains(&at)
            }
            // Its entry, for the index.
            Record::Publish { head, .. } => self.topics.contains(&head.topic),
            _ => false,
        }
    }
}

/// Every record of a segment, whole or thinned. A recovery has read them before, and would have refused what cannot be read.
fn each_record(
    segment: &Segment,
    next_index: Option<BatchIndex>,
    visit: &mut dyn FnMut(Kept<'_>, &Record),
) -> Result<(), SealError> {
    if let Some(thin) = &segment.thin {
        let _damaged = thin.each(&mut |kept| {
            if let Ok(framed) = record::decode(kept.bytes) {
                visit(kept, &framed.record);
            }
        })?;
        return Ok(());
    }
    let read = sealed::read(segment, next_index, &mut |found| {
        let stored_at = found.header.stored_at;
        let _is_read = record::each(&found, &mut |position, framed| {
            visit(Kept { position, stored_at, bytes: framed.bytes }, &framed.record);
        });
    });
    read.map(drop).map_err(|error| BuildError::Segment(error).into())
}

#[cfg(test)]
#[path = "thin_tests.rs"]
mod tests;
