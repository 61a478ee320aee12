//! The log as replication sees it: batches go in and out as they are, their end can be taken back, and somebody else says
//! what is committed. A consensus library drives it (docs/decisions/0010); nothing here knows one.
//!
//! P1. The log of a replica grows and shrinks by whole blocks, so that no write touches a block somebody relies on. A start
//!     takes back the end of a group that is not all there: nobody vouched for it.
//! P2. A batch is written only after everything that its header calls durable is durable here.
//! P3. Batches are stored byte for byte, under the segment headers of whoever sealed them: positions agree everywhere.
//! P4. Indices are dense, terms never go back. Only a log without batches takes another index than the next one: the one
//!     behind what is purged, or any when nothing is.
//! P5. What is committed is never taken back, and `committed` never retreats.
//! P6. A replica never passes over damage: it vouched for those bytes, so it has to be filled anew.

mod answers;
mod piece;
mod read;
mod slots;
mod vote;

use std::ops::Range;
use std::sync::Arc;

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, Chance, LogPosition, Term, Timestamp};

pub use answers::Unanswered;
pub use piece::{Batch, Batches, NoBatch, Piece};
pub use read::{ReadError, Start};
pub use slots::SlotsError;
pub use vote::{BatchId, Vote};

use crate::cache::TailCache;
use crate::disk::Disk;
use crate::log::external::End;
use crate::log::group::Group;
use crate::log::recovery::{self, Found, Report};
use crate::log::segment;
use crate::log::{CommitRule, Log, LogFailure, LogOptions};
use crate::position::Positions;
use piece::{Landmarks, Steps};
use vote::{PurgeFile, VoteFile};

/// Why a replica cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Log(#[from] recovery::OpenError),
    #[error(transparent)]
    Slots(#[from] SlotsError),
    #[error(transparent)]
    Failed(#[from] LogFailure),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// P6. The node must not vote before it was filled anew, under a new id.
    #[error("bytes that this node vouched for are damaged: {ranges:?}; it has to be filled anew")]
    Lost { ranges: Vec<Range<LogPosition>> },
}

/// Why something was not appended. But for `Failed` the log is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("the piece is of another store")]
    OtherStore,
    #[error("the piece is of another segment than the one at {base}")]
    OtherSegment { base: LogPosition },
    #[error("the piece starts at {found}, the log goes on at {expected}")]
    Misplaced { expected: LogPosition, found: LogPosition },
    #[error("batch {found} does not follow; the next one is {expected}")]
    OutOfTurn { expected: BatchIndex, found: BatchIndex },
    #[error("batch {index} is of term {found}, which is before {last}")]
    TermRetreats { index: BatchIndex, last: Term, found: Term },
    #[error("a piece of {bytes} bytes is not made of whole blocks of its segment, or holds no batch")]
    NotWholeBlocks { bytes: usize },
    #[error(transparent)]
    NoBatch(#[from] NoBatch),
    #[error(transparent)]
    Failed(#[from] LogFailure),
}

/// Why nothing was taken back. But for `Failed` the log is as it was.
#[derive(Debug, thiserror::Error)]
pub enum TruncateError {
    #[error("batch {index} at {position} is committed, as is everything below {committed}")]
    Committed { index: BatchIndex, position: LogPosition, committed: LogPosition },
    #[error("batch {index} is purged, as is everything up to {purged}")]
    Purged { index: BatchIndex, purged: BatchIndex },
    /// P1. It cannot be where two logs part: what one write carried is of one term, and travels as a whole.
    #[error("batch {index} at {position} does not begin a block")]
    InsideBlock { index: BatchIndex, position: LogPosition },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Failed(#[from] LogFailure),
}

/// Why `committed` did not move.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("batch {index} is not in the log")]
    NotThere { index: BatchIndex },
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why the purge cursor did not move, or moved and the log is failed.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    #[error(transparent)]
    Slots(#[from] SlotsError),
    #[error(transparent)]
    Failed(#[from] LogFailure),
}

/// The last batch of a log.
#[derive(Debug, Clone, Copy)]
struct Last {
    id: BatchId,
    /// The end of its last block.
    end: LogPosition,
}

/// One store's log in a replicated group. Owned by the thread that writes: log and vote are written in one order.
pub struct ReplicaPort {
    log: Log,
    cache: Arc<TailCache>,
    landmarks: Landmarks,
    last: Option<Last>,
    vote: VoteFile,
    purge: PurgeFile,
    chance: Chance,
}

impl ReplicaPort {
    /// Opens log, vote and purge cursor; makes them in an empty directory. Nothing counts as committed before
    /// [`ReplicaPort::commit`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        mut chance: Chance,
        cache: Arc<TailCache>,
    ) -> Result<(Self, Report), OpenError> {
        assert_eq!(options.commit, CommitRule::External, "a replica is told what is committed");
        let mut scan = Scan::default();
        let mut visit = |found: Found<'_>| scan.visit(&Batch { header: found.header, records: found.records });
        let log_chance = Chance::new(chance.next_u64());
        let (mut log, report) = recovery::open(disk.clone(), options, None, log_chance, &mut visit)?;
        // Where the log begins further on, what is before was purged; that is no damage.
        let first = log.segments().load()[0].header.base;
        let ranges: Vec<_> = report.quarantined.iter().filter(|hole| hole.end > first).cloned().collect();
        if !ranges.is_empty() {
            return Err(OpenError::Lost { ranges });
        }
        log.forget_committed();
        let vote = VoteFile::open(&*disk, &mut chance)?;
        let purge = PurgeFile::open(&*disk, &mut chance)?;
        let Scan { landmarks, whole, last, .. } = scan;
        let mut port = Self { log, cache, landmarks, last: last.map(Last::from), vote, purge, chance };
        port.cut_unvouched(whole)?;
        if let Some(purged) = port.purged().filter(|purged| port.last.is_some_and(|last| last.id <= *purged)) {
            port.begin_after(purged)?;
        }
        Ok((port, report))
    }

    /// P1: the end of a group that is not all there goes, and so does a segment that was made for a group that never came.
    fn cut_unvouched(&mut self, whole: Option<Last>) -> Result<(), OpenError> {
        let first = self.log.segments().load()[0].first();
        let to = whole.map_or(first, |whole| whole.end);
        let is_whole = self.log.positions().appended == to;
        if is_whole {
            return Ok(());
        }
        let torn = self.last.map(|last| to..last.end).filter(|torn| !torn.is_empty());
        // In a later segment it goes with that segment.
        let torn = torn.filter(|torn| self.is_in_one_segment(to, LogPosition(torn.end.0 - 1)));
        let steps: Vec<_> = torn.into_iter().collect();
        self.log.cut(to, &steps, self.end_of(whole, whole.map_or(self.log.next_index(), |whole| whole.next())))?;
        self.landmarks.truncate(to);
        self.last = whole;
        Ok(())
    }

    pub fn positions(&self) -> Positions {
        self.log.positions()
    }

    /// The last batch; where there is none, the last one that was purged.
    pub fn last(&self) -> Option<BatchId> {
        self.last.map(|last| last.id).or(self.purged())
    }

    /// Up to here, inclusive, nothing is given out any more.
    pub fn purged(&self) -> Option<BatchId> {
        self.purge.read()
    }

    pub fn vote(&self) -> Option<Vote> {
        self.vote.read()
    }

    /// Durable when it returns.
    pub fn save_vote(&mut self, vote: Vote) -> Result<(), SlotsError> {
        self.vote.save(vote)
    }

    /// Appends what was sequenced here: a group of batches from `first` on, all of its term. Gives where it lies.
    /// It can be read at once, and is durable after [`ReplicaPort::sync`].
    pub fn sequence(
        &mut self,
        first: BatchId,
        group: Group,
        now: Timestamp,
    ) -> Result<Range<LogPosition>, AppendError> {
        self.check_turn(first)?;
        if self.last.is_none() && self.log.tail_header().base_index != first.index {
            let header = self.own_header(first.index, first.term);
            self.log.begin(header)?;
        }
        self.sync()?;
        self.log.stamp(now);
        self.log.sequence_from(first.index, first.term);
        let tail = self.log.tail_header().base;
        let appended = self.log.write(group, false)?;
        let end = self.log.positions().appended;
        let index = BatchIndex(self.log.next_index().0 - 1);
        let is_first = self.last.is_none() || self.log.tail_header().base != tail;
        self.landmarks.add(first.index, appended.start, is_first);
        self.last = Some(Last { id: BatchId { index, ..first }, end });
        self.cache.push(appended.start, appended.bytes);
        Ok(appended.start..end)
    }

    /// Appends what another node sequenced, as it is. It can be read at once; all of it is durable after
    /// [`ReplicaPort::sync`].
    pub fn append(&mut self, piece: &Piece) -> Result<(), AppendError> {
        let (steps, end) = self.check(piece)?;
        self.sync()?;
        let header = piece.segment;
        let is_new_segment = header != *self.log.tail_header();
        if is_new_segment && self.last.is_none() {
            self.log.begin(header)?;
        } else if is_new_segment {
            self.log.follow_into(header)?;
        }
        for step in steps {
            // P2: each step says that the one before is durable.
            self.sync()?;
            let at = |position: LogPosition| usize::try_from(position.since(piece.start)).expect("inside the piece");
            self.log.write_blocks(&piece.bytes[at(step.start)..at(step.end)], end)?;
        }
        for batch in piece.batches() {
            let batch = batch.expect("checked above");
            if batch.is_at_block() {
                let is_first = self.last.is_none() || (is_new_segment && batch.header.position == piece.start);
                self.landmarks.add(batch.header.index, batch.header.position, is_first);
            }
            self.last = Some(Last::from(batch.last()));
        }
        self.cache.push(piece.start, piece.bytes.clone());
        Ok(())
    }

    /// Makes everything appended durable. It commits nothing.
    pub fn sync(&mut self) -> Result<(), LogFailure> {
        let Positions { durable, appended, .. } = self.log.positions();
        if durable < appended { self.log.sync() } else { Ok(()) }
    }

    /// What is up to this batch, inclusive, will never be taken back. Told less than is known already, it changes nothing.
    pub fn commit(&mut self, index: BatchIndex) -> Result<LogPosition, CommitError> {
        let committed = self.log.positions().committed;
        if self.purged().is_some_and(|purged| index <= purged.index) {
            return Ok(committed);
        }
        let end = match self.last.filter(|last| last.id.index == index) {
            Some(last) => last.end,
            None => {
                let found = self.find(Start::Index(index))?.filter(|found| found.header.index == index);
                found.ok_or(CommitError::NotThere { index })?.end()
            }
        };
        if end > committed {
            self.log.commit(end);
        }
        Ok(end.max(committed))
    }

    /// Takes back this batch and all that follow, durably. Gives the position behind what is left: whoever waits for
    /// something behind it is told that the outcome is unknown.
    pub fn truncate(&mut self, from: BatchIndex) -> Result<LogPosition, TruncateError> {
        if let Some(purged) = self.purged().filter(|purged| from <= purged.index) {
            return Err(TruncateError::Purged { index: from, purged: purged.index });
        }
        let Some(found) = self.find(Start::Index(from))? else {
            return Ok(self.log.positions().appended);
        };
        let (index, position) = (found.header.index, found.header.position);
        let committed = self.log.positions().committed;
        if position < committed {
            return Err(TruncateError::Committed { index, position, committed });
        }
        if found.run != position {
            return Err(TruncateError::InsideBlock { index, position });
        }
        let kept = self.before(index)?;
        let to = kept.map_or(self.log.segments().load()[0].first(), |kept| kept.end);
        let steps = if self.is_in_one_segment(to, position) { self.steps(position)? } else { Vec::new() };
        self.log.cut(to, &steps, self.end_of(kept, index))?;
        self.landmarks.truncate(position);
        self.cache.truncate(position);
        self.last = kept;
        Ok(to)
    }

    /// Notes that nothing up to this batch, inclusive, is wanted any more. It drops nothing by itself: retention drops whole
    /// segments. Beyond the end of the log, what it has is useless: it begins anew behind `purged`.
    pub fn purge(&mut self, purged: BatchId) -> Result<(), PurgeError> {
        if self.purged().is_some_and(|before| before.index >= purged.index) {
            return Ok(());
        }
        // First: a crash in between is finished at the next start.
        self.purge.save(purged)?;
        if self.last.is_some_and(|last| last.id.index <= purged.index) {
            self.begin_after(purged)?;
        }
        Ok(())
    }

    fn begin_after(&mut self, purged: BatchId) -> Result<(), LogFailure> {
        let header = self.own_header(BatchIndex(purged.index.0 + 1), purged.term);
        self.log.begin(header)?;
        self.landmarks = Landmarks::default();
        self.cache.truncate(LogPosition(0));
        self.last = None;
        Ok(())
    }

    /// Of a segment that this node begins its log with. Positions that were used once are not used again.
    fn own_header(&mut self, base_index: BatchIndex, base_term: Term) -> segment::Header {
        let tail = *self.log.tail_header();
        let base = if self.last.is_none() { tail.base } else { tail.end() };
        let size = self.log.options().segment_bytes;
        segment::Header { random: self.chance.next_u64(), base, base_index, base_term, size, ..tail }
    }

    fn check_turn(&self, id: BatchId) -> Result<(), AppendError> {
        if let Some(last) = self.last() {
            let expected = BatchIndex(last.index.0 + 1);
            if id.index != expected {
                return Err(AppendError::OutOfTurn { expected, found: id.index });
            }
            if id.term < last.term {
                return Err(AppendError::TermRetreats { index: id.index, last: last.term, found: id.term });
            }
        }
        Ok(())
    }

    /// Whether a piece goes on where the log ends. Gives where syncs lie in it, and what it leaves to the next one.
    fn check(&self, piece: &Piece) -> Result<(Vec<Range<LogPosition>>, End), AppendError> {
        let (segment, tail) = (&piece.segment, self.log.tail_header());
        let expected = if segment == tail {
            self.log.positions().appended
        } else if self.last.is_none() {
            segment.base.plus(LOG_BLOCK_BYTES)
        } else if segment.cluster != tail.cluster {
            return Err(AppendError::OtherStore);
        } else if segment.base == tail.end() && segment.base_index == self.log.next_index() {
            segment.base.plus(LOG_BLOCK_BYTES)
        } else {
            return Err(AppendError::OtherSegment { base: segment.base });
        };
        if piece.start != expected {
            return Err(AppendError::Misplaced { expected, found: piece.start });
        }
        let bytes = piece.bytes.len();
        if !(bytes as u64).is_multiple_of(LOG_BLOCK_BYTES) || piece.end() > segment.end() {
            return Err(AppendError::NotWholeBlocks { bytes });
        }
        self.check_batches(piece)
    }

    fn check_batches(&self, piece: &Piece) -> Result<(Vec<Range<LogPosition>>, End), AppendError> {
        let mut steps = Steps::default();
        let mut before: Option<Batch<'_>> = None;
        for batch in piece.batches() {
            let batch = batch?;
            match before {
                None => self.check_turn(batch.id())?,
                Some(before) => before.check_next(batch.id())?,
            }
            steps.add(&batch);
            before = Some(batch);
        }
        let last = before.ok_or(AppendError::NotWholeBlocks { bytes: piece.bytes.len() })?;
        if last.end().0.next_multiple_of(LOG_BLOCK_BYTES) != piece.end().0 {
            return Err(AppendError::NotWholeBlocks { bytes: piece.bytes.len() });
        }
        let next_index = BatchIndex(last.header.index.0 + 1);
        let end = End { next_index, term: last.header.term, stored_at: last.header.stored_at };
        Ok((steps.until(piece.end()), end))
    }

    /// The batch before `index`, when the log has it.
    fn before(&self, index: BatchIndex) -> Result<Option<Last>, ReadError> {
        let Some(before) = index.0.checked_sub(1).map(BatchIndex) else { return Ok(None) };
        let found = self.find(Start::Index(before))?.filter(|found| found.header.index == before);
        Ok(found.map(|found| Last::from((found.id(), found.end()))))
    }

    /// What a log that ends with `kept` leaves to its next batch.
    fn end_of(&self, kept: Option<Last>, next_index: BatchIndex) -> End {
        let term = kept.map(|kept| kept.id).or(self.purged()).map_or(Term(0), |id| id.term);
        End { next_index, term, stored_at: Timestamp::ZERO }
    }
}

impl Last {
    fn next(&self) -> BatchIndex {
        BatchIndex(self.id.index.0 + 1)
    }
}

impl From<(BatchId, LogPosition)> for Last {
    fn from((id, end): (BatchId, LogPosition)) -> Self {
        Self { id, end: LogPosition(end.0.next_multiple_of(LOG_BLOCK_BYTES)) }
    }
}

/// What the scan at a start finds out.
#[derive(Default)]
struct Scan {
    landmarks: Landmarks,
    last: Option<(BatchId, LogPosition)>,
    /// The last batch that ends a block, or behind which another begins one.
    whole: Option<Last>,
}

impl Scan {
    fn visit(&mut self, batch: &Batch<'_>) {
        let position = batch.header.position;
        if batch.is_at_block() {
            self.whole = self.last.map(Last::from);
            // Only a segment's header comes between the end of a block and a batch.
            let is_first = self.whole.is_none_or(|whole| position > whole.end);
            self.landmarks.add(batch.header.index, position, is_first);
        }
        self.last = Some(batch.last());
        if batch.end().0.is_multiple_of(LOG_BLOCK_BYTES) {
            self.whole = self.last.map(Last::from);
        }
    }
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
