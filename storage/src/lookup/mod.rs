//! Looking messages up: by key, by id, by message group, and where the body of one became visible.
//!
//! Sealed segments answer from their index files, newer ones from hashes that [`tail`] holds; whoever asks pays for bringing
//! those up to date. Reads files on the calling thread, so it belongs on the read pool.
//!
//! F1. A sealed segment is not read for a look-up, but for the bodies that are given out.
//! F2. What is given out was read and compared: equal hashes prove nothing.
//! F3. A look-up knows everything that was applied when it began.
//! F4. What could not be looked through is told, never passed over in silence.

mod find;
mod state;
mod tail;

use std::sync::Arc;

use base::limits::LOOK_UP_ROWS_MAX;
use base::{LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};

use crate::cache::TailCache;
use crate::hash::HashKey;
use crate::index::Sealed;
use crate::log::{self, ReadError, Segments};
use crate::message::StoredMessage;
use crate::record::{self, FRAME_BYTES, Pointer, Record};
use crate::store::{FetchError, parse_body};
use crate::table::TableError;
use tail::Tail;

pub use find::{Found, Members, Query, Wanted, members};
pub use state::State;
pub(crate) use state::Views;

/// A body that was looked up.
#[derive(Debug, Clone)]
pub struct Body {
    pub pointer: Pointer,
    /// As it was appended: a `Message`, a `Delayed` or a `Prepared`.
    pub record: Record,
    pub message: StoredMessage,
    /// When, as far as can be known without reading its neighbours: the sender's clock, within what its segment says.
    pub stored_at: Timestamp,
}

/// Where a body became visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub queue: QueueIndex,
    pub offset: QueueOffset,
    pub since: Timestamp,
}

/// What a look-up could not look through.
#[derive(Debug, Clone, Default)]
pub struct Gaps {
    /// Segments of which the index could not be read. Those that are damaged are made anew by upkeep.
    pub indexes: Vec<TableError>,
    /// Newer segments that could not be read.
    pub segments: Vec<LogPosition>,
    /// Bodies that may have been what was looked for, and could not be read.
    pub bodies: Vec<LogPosition>,
}

impl Gaps {
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty() && self.segments.is_empty() && self.bodies.is_empty()
    }

    /// Both.
    pub fn add(&mut self, other: Self) {
        other.indexes.into_iter().for_each(|error| self.index(error));
        self.segments.extend(other.segments);
        self.bodies.extend(other.bodies);
        for positions in [&mut self.segments, &mut self.bodies] {
            positions.sort_unstable();
            positions.dedup();
        }
    }

    fn index(&mut self, error: TableError) {
        if self.indexes.iter().all(|known| known.name() != error.name()) {
            self.indexes.push(error);
        }
    }
}

/// Everything that look-ups need of a store.
pub(crate) struct LookUps {
    sealed: Arc<Sealed>,
    segments: Segments,
    cache: Arc<TailCache>,
    hash_key: HashKey,
    tail: Tail,
}

impl LookUps {
    pub fn new(sealed: Arc<Sealed>, segments: Segments, cache: Arc<TailCache>, hash_key: HashKey) -> Self {
        Self { sealed, segments, cache, hash_key, tail: Tail::new(LOOK_UP_ROWS_MAX) }
    }

    /// The record that lies at a position. None when it is there no more.
    fn record_at(&self, position: LogPosition) -> Result<Option<(Pointer, bytes::Bytes)>, ReadError> {
        let frame = Pointer { position, length: FRAME_BYTES as u32 };
        if let Some(length) = self.cache.get(frame).and_then(|frame| record::length(&frame)) {
            let pointer = Pointer { position, length };
            if let Some(bytes) = self.cache.get(pointer) {
                return Ok(Some((pointer, bytes)));
            }
        }
        let Some(bytes) = log::read_record(&self.segments, position)? else { return Ok(None) };
        let length = u32::try_from(bytes.len()).expect("records are bounded");
        Ok(Some((Pointer { position, length }, bytes.into())))
    }

    /// The body that lies at a position. None when it is there no more.
    fn body_at(&self, position: LogPosition) -> Result<Option<(Pointer, Record, StoredMessage)>, FetchError> {
        let Some((pointer, bytes)) = self.record_at(position)? else { return Ok(None) };
        let (record, message) = parse_body(pointer, &bytes)?;
        Ok(Some((pointer, record, message)))
    }

    /// Where the body at `origin` became visible in `topic`, of what is applied now. `since`: not in what is older.
    pub fn published(
        &self,
        topic: TopicId,
        origin: LogPosition,
        since: Timestamp,
        applied: LogPosition,
        gaps: &mut Gaps,
    ) -> Option<Place> {
        let hash = self.hash_key.lookup_origin(topic, origin);
        let (sealed, newer) = self.tail.rows(self, &[hash], applied, gaps);
        let is_later = |base: LogPosition, size: u64| base.plus(size) > origin;
        let found = sealed.iter().filter(|index| {
            let summary = index.summary();
            is_later(summary.base, summary.size) && summary.newest >= since && index.has(topic)
        });
        for index in found {
            match self.sealed.named(index, hash) {
                Ok(positions) => {
                    let place = positions.into_iter().find_map(|at| self.place_at(at, topic, origin, gaps));
                    if place.is_some() {
                        return place;
                    }
                }
                Err(error) => gaps.index(error),
            }
        }
        newer.into_iter().find_map(|at| self.place_at(at, topic, origin, gaps))
    }

    fn place_at(&self, at: LogPosition, topic: TopicId, origin: LogPosition, gaps: &mut Gaps) -> Option<Place> {
        match self.record_at(at) {
            Ok(Some((_, bytes))) => match record::decode(&bytes).ok()?.record {
                Record::Publish { origin: of, head, queue, offset, visible_since, .. } => {
                    let is_it = of.position == origin && head.topic == topic;
                    is_it.then_some(Place { queue, offset, since: visible_since })
                }
                _ => None,
            },
            Ok(None) => None,
            Err(_) => {
                gaps.bodies.push(at);
                None
            }
        }
    }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;

#[cfg(test)]
mod members_tests;
