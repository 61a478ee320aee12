//! The log: segments, groups, the write and the sync. Knows batches as bytes; what is in them is the writer's.
//!
//! L1. A group starts at a block boundary, and blocks below `durable` are never written again.
//! L2. A group is written only when the one before it is durable, so what follows a torn tail was never acknowledged.
//! L3. After a failed write or sync nothing is written any more: what the disk holds is unknown until a recovery.

pub mod batch;
pub(crate) mod external;
pub mod group;
mod listing;
pub mod recovery;
mod scan;
pub mod sealed;
pub mod segment;
pub(crate) mod single;
pub mod thin;
pub mod walk;
mod window;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, Chance, LogPosition, Term, Timestamp};
use parking_lot::Mutex;

use crate::disk::Disk;
use crate::position::Positions;
use crate::record::{self, Pointer};
use group::{Group, Place};
use segment::{Header, PREPARED_PREFIX, Prepared, Segment};

/// When a group counts as committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitRule {
    /// After the write; an OK does not survive a power cut.
    OnWrite,
    /// After the sync.
    OnSync,
    /// When whoever decides says so: a majority of replicas has it.
    External,
}

#[derive(Debug, Clone, Copy)]
pub struct LogOptions {
    pub segment_bytes: u64,
    pub commit: CommitRule,
}

impl LogOptions {
    /// A group is complete when it has this many bytes: with one more batch it still fits in a segment.
    pub fn group_bytes_max(&self) -> usize {
        usize::try_from(self.segment_bytes / 2).unwrap_or(usize::MAX)
    }

    /// The largest batch that is appended: four of them fit in a segment.
    pub fn batch_bytes_max(&self) -> usize {
        let quarter = usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX);
        quarter.min(base::limits::LOG_BATCH_BYTES_MAX)
    }
}

/// Why the log no longer takes anything.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} failed at {position}: {cause}")]
pub struct LogFailure {
    pub operation: &'static str,
    pub position: LogPosition,
    pub cause: Arc<io::Error>,
}

/// Segments that can be read, oldest first. Shared with readers; replaced whole when one is added.
pub type Segments = Arc<ArcSwap<Vec<Arc<Segment>>>>;

/// A file made ready for the next segment. Shared by the upkeep thread, which fills it, and the writer, which takes it.
pub type Slot = Arc<Mutex<Option<Prepared>>>;

/// Allocated files for the time when the disk is full. Shared by the upkeep thread, which fills it, and the writer.
pub type Spares = Arc<Mutex<Vec<Prepared>>>;

/// Spare segments that are kept: what consumers need to drain a full disk (acks, leases) goes there.
pub const SPARES: usize = 2;

/// A group that was written.
#[derive(Debug)]
pub struct Appended {
    pub start: LogPosition,
    /// What was written, for the tail cache.
    pub bytes: Vec<u8>,
    pub batches: usize,
}

/// The tail end of the log: owned by the writer.
pub struct Log {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    segments: Segments,
    tail: Arc<Segment>,
    positions: Positions,
    next_index: BatchIndex,
    term: Term,
    stored_at: Timestamp,
    prepared: Slot,
    spares: Spares,
    /// The disk had no room for the present segment: it is a spare.
    is_on_spare: bool,
    chance: Chance,
    failure: Option<LogFailure>,
    /// The newest group holds more than a mark, and nothing after it proves that it was synced.
    is_unproved: bool,
}

impl Log {
    pub fn positions(&self) -> Positions {
        self.positions
    }

    pub fn options(&self) -> &LogOptions {
        &self.options
    }

    pub fn segments(&self) -> Segments {
        self.segments.clone()
    }

    pub fn prepared(&self) -> Slot {
        self.prepared.clone()
    }

    pub fn spares(&self) -> Spares {
        self.spares.clone()
    }

    /// The disk is full and half of the spare segments are used: only what frees space may go on.
    pub fn is_starving(&self) -> bool {
        self.is_on_spare && self.spares.lock().len() < SPARES / 2
    }

    pub fn term(&self) -> Term {
        self.term
    }

    /// The newest time that a batch carries.
    pub fn stored_at(&self) -> Timestamp {
        self.stored_at
    }

    /// The store's own id.
    pub fn cluster(&self) -> [u8; 16] {
        self.tail.header.cluster
    }

    pub fn next_index(&self) -> BatchIndex {
        self.next_index
    }

    pub fn failure(&self) -> Option<&LogFailure> {
        self.failure.as_ref()
    }

    /// The last sync is not proved by a later batch yet: a mark is due.
    pub fn is_unproved(&self) -> bool {
        self.is_unproved && self.failure.is_none()
    }

    /// A new reign begins; batches from here on carry its number.
    pub fn begin_term(&mut self) -> Term {
        self.term = Term(self.term.0 + 1);
        self.term
    }

    /// The time that the next group's batches carry: the wall clock, never earlier than before.
    pub fn stamp(&mut self, now: Timestamp) -> Timestamp {
        self.stored_at = self.stored_at.max(now);
        self.stored_at
    }

    /// Writes a group. Nothing of it counts before [`Log::sync`], or before this under [`CommitRule::OnWrite`].
    /// After an error the log is failed (L3), except for [`io::ErrorKind::StorageFull`] while rolling: then it is as it was.
    pub fn write(&mut self, group: Group, is_mark: bool) -> Result<Appended, LogFailure> {
        self.check_alive()?;
        let length = group.padded();
        if self.positions.appended.plus(length) > self.tail.header.end() {
            self.roll().map_err(|cause| self.failed("roll", cause))?;
        }
        let start = self.positions.appended;
        assert!(start.plus(length) <= self.tail.header.end(), "a group of {length} bytes fits in a segment");
        assert_eq!(start.0 % LOG_BLOCK_BYTES, 0, "L1: a group starts at a block boundary");
        assert!(
            self.options.commit == CommitRule::OnWrite || self.positions.durable == start,
            "L2: {:?}",
            self.positions
        );
        let batches = group.batches();
        let bytes = group.seal(Place {
            start,
            durable: self.positions.durable,
            first_index: self.next_index,
            term: self.term,
            stored_at: self.stored_at,
            seed: self.tail.seed,
        });
        let written = self.tail.file.write_at(&bytes, self.tail.offset(start));
        written.map_err(|cause| self.failed("write", cause))?;
        self.next_index = BatchIndex(self.next_index.0 + batches as u64);
        self.positions.advance_appended(start.plus(length));
        self.is_unproved = !is_mark;
        if self.options.commit == CommitRule::OnWrite {
            self.positions.advance_committed(self.positions.appended);
        }
        Ok(Appended { start, bytes, batches })
    }

    /// Makes everything written durable, and, unless somebody else decides, committed.
    pub fn sync(&mut self) -> Result<(), LogFailure> {
        self.check_alive()?;
        self.tail.file.sync_data().map_err(|cause| self.failed("sync", cause))?;
        self.positions.advance_durable(self.positions.appended);
        if self.options.commit != CommitRule::External {
            self.positions.advance_committed(self.positions.appended);
        }
        Ok(())
    }

    /// Everything committed is in the views.
    pub fn applied(&mut self) {
        self.positions.advance_applied(self.positions.committed);
    }

    /// Whether the next segment should be prepared now: half of this one is used.
    pub fn wants_prepared(&self) -> Option<u64> {
        let used = self.tail.offset(self.positions.appended);
        (used * 2 >= self.tail.header.size && self.prepared.lock().is_none()).then_some(self.options.segment_bytes)
    }

    fn check_alive(&self) -> Result<(), LogFailure> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn failed(&mut self, operation: &'static str, cause: io::Error) -> LogFailure {
        let failure = LogFailure { operation, position: self.positions.appended, cause: Arc::new(cause) };
        // A segment that could not be made leaves the log as it was; the next group tries again.
        if !(operation == "roll" && failure.cause.kind() == io::ErrorKind::StorageFull) {
            self.failure = Some(failure.clone());
        }
        failure
    }

    /// Goes on in the next segment: the prepared one, or, when that is not ready, one that is only allocated.
    fn roll(&mut self) -> io::Result<()> {
        // Under OnWrite the old segment may have an unsynced end; a later segment must never be more durable than it.
        if self.positions.durable < self.positions.appended {
            self.tail.file.sync_data()?;
        }
        let (prepared, is_spare) = self.next_file()?;
        self.is_on_spare = is_spare;
        let header = Header {
            compatible: 0,
            incompatible: 0,
            cluster: self.tail.header.cluster,
            group: self.tail.header.group,
            random: self.chance.next_u64(),
            base: self.tail.header.end(),
            base_index: self.next_index,
            base_term: self.term,
            size: prepared.size,
        };
        let segment = segment::install(&*self.disk, prepared, header)?;
        self.enter(segment);
        Ok(())
    }

    /// Everything before the new segment is durable, and there is nothing between.
    fn enter(&mut self, segment: Segment) {
        self.tail = Arc::new(segment);
        // Upkeep may let others go at the same time.
        self.segments.rcu(|all| {
            let mut all = Vec::clone(all);
            all.push(self.tail.clone());
            all
        });
        let first = self.tail.first();
        self.positions.advance_appended(first);
        self.positions.advance_durable(first);
        if self.options.commit != CommitRule::External {
            self.positions.advance_committed(first);
            self.positions.advance_applied(first);
        }
    }
}

impl Log {
    /// The prepared file; else one that is only allocated; else, on a full disk, a spare one.
    fn next_file(&mut self) -> io::Result<(Prepared, bool)> {
        let size = self.options.segment_bytes;
        if let Some(prepared) = self.prepared.lock().take().filter(|prepared| prepared.size == size) {
            return Ok((prepared, false));
        }
        match allocate(&*self.disk, size, self.chance.next_u64()) {
            Ok(allocated) => Ok((allocated, false)),
            Err(full) if full.kind() == io::ErrorKind::StorageFull => {
                let spare = self.spares.lock().pop();
                spare.map(|spare| (spare, true)).ok_or(full)
            }
            Err(error) => Err(error),
        }
    }
}

/// A file for the next segment, allocated but unwritten.
pub fn allocate(disk: &dyn Disk, size: u64, random: u64) -> io::Result<Prepared> {
    let name = format!("{PREPARED_PREFIX}{random:016x}");
    let file = disk.create(&name, size)?;
    Ok(Prepared { name, file, size })
}

/// Makes the next segment ready: allocated and written with zeros, so that later syncs carry no metadata.
/// `pace` is called between steps of 1 MiB and may wait.
pub fn prepare(disk: &dyn Disk, size: u64, random: u64, mut pace: impl FnMut()) -> io::Result<Prepared> {
    const STEP: u64 = 1 << 20;
    let prepared = allocate(disk, size, random)?;
    let mut offset = 0;
    while offset < size {
        let step = STEP.min(size - offset);
        prepared.file.zero_at(offset, step)?;
        offset += step;
        // Small syncs: one large one would stand in the way of the writer's.
        prepared.file.sync_data()?;
        pace();
    }
    prepared.file.sync_all()?;
    Ok(prepared)
}

/// A body could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("position {0} is not in the log: its segment was dropped or is damaged")]
    Gone(LogPosition),
    #[error("reading {length} bytes at {position} failed: {cause}")]
    Io { position: LogPosition, length: u32, cause: Arc<io::Error> },
}

/// The segment that a position lies in; none when it was dropped.
fn segment_of(segments: &[Arc<Segment>], position: LogPosition) -> Option<&Arc<Segment>> {
    let after = segments.partition_point(|segment| segment.header.base <= position);
    after.checked_sub(1).map(|index| &segments[index]).filter(|segment| segment.contains(position))
}

/// Reads the bytes that a pointer names. They are as the disk has them: callers check the checksum.
pub fn read(segments: &Segments, pointer: Pointer) -> Result<Vec<u8>, ReadError> {
    let all = segments.load();
    let segment = segment_of(&all, pointer.position).ok_or(ReadError::Gone(pointer.position))?;
    read_in(segment, pointer)
}

fn read_in(segment: &Segment, pointer: Pointer) -> Result<Vec<u8>, ReadError> {
    let length = usize::try_from(pointer.length).map_err(|_| ReadError::Gone(pointer.position))?;
    let mut bytes = vec![0; length];
    let result = segment.file.read_at(&mut bytes, segment.offset(pointer.position));
    result.map_err(|cause| ReadError::Io {
        position: pointer.position,
        length: pointer.length,
        cause: Arc::new(cause),
    })?;
    Ok(bytes)
}

/// A record is mostly had in one read.
const RECORD_READ_BYTES: u64 = 4096;

/// Reads the record that begins at a position. As the disk has it: callers check the checksum. None: it was dropped, or
/// thinning has left it out.
pub fn read_record(segments: &Segments, position: LogPosition) -> Result<Option<Vec<u8>>, ReadError> {
    let all = segments.load();
    let Some(segment) = segment_of(&all, position) else { return Ok(None) };
    if let Some(thin) = &segment.thin {
        let read = thin.record_at(position);
        return read.map_err(|cause| ReadError::Io { position, length: 0, cause: Arc::new(cause) });
    }
    let rest = segment.header.end().since(position);
    let read_up_to = |length: u64| {
        let length = u32::try_from(length.min(rest)).unwrap_or(u32::MAX);
        read_in(segment, Pointer { position, length })
    };
    let mut bytes = read_up_to(RECORD_READ_BYTES)?;
    let length = record::length(&bytes).filter(|length| u64::from(*length) <= rest);
    if let Some(length) = length.and_then(|length| usize::try_from(length).ok()) {
        if length > bytes.len() {
            bytes = read_up_to(length as u64)?;
        }
        bytes.truncate(length);
    }
    Ok(Some(bytes))
}

/// How soon after the last group a mark proves it.
pub const MARK_AFTER: Duration = Duration::from_millis(5);

#[cfg(test)]
mod torn_tail_tests;
