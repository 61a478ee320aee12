//! Sealing: a segment that is full gets an index file, and its entries leave memory.

use base::{BatchIndex, LogPosition};

use super::Upkeep;
use crate::checkpoint::Pair;
use crate::disk::Disk;
use crate::hash::HashKey;
use crate::index::{self, BuildError, SegmentIndex, Site};
use crate::log::sealed;
use crate::log::segment::{self, Segment};
use crate::table::TableError;
use crate::view::SharedViews;

/// A segment cannot be sealed; another try may succeed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Open(#[from] TableError),
}

impl Upkeep {
    /// Seals the oldest segment that is full and was applied up to its end. Gives whether there was one.
    pub fn seal(&mut self, applied: LogPosition) -> Result<bool, SealError> {
        let all = self.segments.load_full();
        let Some(at) = all.iter().position(|segment| segment.header.base >= self.sealed_to) else { return Ok(false) };
        let segment = &all[at];
        if at + 1 == all.len() || applied < segment.header.end() {
            return Ok(false);
        }
        let index = self.index(segment, sealed::next_index(&all, at))?;
        self.views.index.add(index);
        let index = self.views.index.find(segment.header.base).expect("just added");
        let catalog = self.views.catalog.load_full();
        index.queues(&mut |id, stretch| {
            if let Some(queue) = catalog.topic_by_id(id.topic).and_then(|topic| topic.queue(id.queue)) {
                queue.seal(stretch.end());
                self.queues.insert(id);
            }
        })?;
        self.views.references.lock().forget_below(segment.header.end());
        self.sealed_to = segment.header.end();
        tracing::debug!(segment = segment.header.base.0, bytes = index.bytes(), "a segment was sealed");
        Ok(true)
    }

    fn index(&mut self, segment: &Segment, next_index: Option<BatchIndex>) -> Result<SegmentIndex, SealError> {
        let random = self.chance.next_u64();
        open_or_build(&*self.disk, segment, next_index, self.hash_key, random)
    }

    /// Makes index files anew that were found to be damaged. Gives how many.
    pub fn mend_indexes(&mut self) -> Result<usize, SealError> {
        let damaged = self.views.index.damaged();
        let all = self.segments.load_full();
        for base in &damaged {
            let Some(at) = all.iter().position(|segment| segment.header.base == *base) else {
                self.views.index.remove(*base);
                continue;
            };
            let random = self.chance.next_u64();
            let index = build(&*self.disk, &all[at], sealed::next_index(&all, at), self.hash_key, random)?;
            self.views.index.add(index);
            if all[at].thin.is_some() {
                Pair::remove(&*self.disk, &segment::name(*base));
            }
        }
        if !damaged.is_empty() {
            // Who found nothing to read may find something now.
            self.views.catalog.load().topics().for_each(|topic| topic.watchers.ring());
        }
        Ok(damaged.len())
    }
}

/// The index of a sealed segment: the file that is there, or a new one.
fn open_or_build(
    disk: &dyn Disk,
    segment: &Segment,
    next_index: Option<BatchIndex>,
    hash_key: HashKey,
    random: u64,
) -> Result<SegmentIndex, SealError> {
    match SegmentIndex::open(disk, segment.header.base, segment.header.cluster) {
        Ok(index) if index::fits(&index, segment) => Ok(index),
        Err(error) if !error.is_damage() => Err(error.into()),
        _ => build(disk, segment, next_index, hash_key, random),
    }
}

pub(super) fn build(
    disk: &dyn Disk,
    segment: &Segment,
    next_index: Option<BatchIndex>,
    hash_key: HashKey,
    random: u64,
) -> Result<SegmentIndex, SealError> {
    index::build(&Site { disk, segment, next_index, hash_key, random })?;
    Ok(SegmentIndex::open(disk, segment.header.base, segment.header.cluster)?)
}

/// After a start from a checkpoint: the index of every segment below `below`, the damaged and the missing ones made anew.
pub fn open_all(
    disk: &dyn Disk,
    segments: &[std::sync::Arc<Segment>],
    below: LogPosition,
    views: &SharedViews,
    hash_key: HashKey,
    random: &mut dyn FnMut() -> u64,
) -> Result<(), SealError> {
    for (at, segment) in segments.iter().enumerate().filter(|(_, segment)| segment.header.base < below) {
        views.index.add(open_or_build(disk, segment, sealed::next_index(segments, at), hash_key, random())?);
    }
    Ok(())
}
