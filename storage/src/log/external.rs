//! What a log does for a replica: others decide what is committed, and may take back what is not.
//!
//! X1. Nothing that is committed is taken back.
//! X2. What is taken back goes from its end, one durable step after the other: a crash in between leaves a shorter log,
//!     never a hole in it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, LogPosition, Term, Timestamp};

use super::segment::{self, Header};
use super::{CommitRule, Log, LogFailure, allocate};
use crate::position::Positions;

/// What the last batch of a log leaves to the next one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub next_index: BatchIndex,
    pub term: Term,
    pub stored_at: Timestamp,
}

impl Log {
    /// A replica cannot tell by itself what is committed: after a start nothing is, until it is told.
    pub(crate) fn forget_committed(&mut self) {
        assert_eq!(self.options.commit, CommitRule::External, "only then somebody will tell");
        let Positions { appended, durable, .. } = self.positions;
        let first = self.segments.load()[0].first();
        self.positions = Positions { appended, durable, committed: first, applied: first };
    }

    pub(crate) fn tail_header(&self) -> &Header {
        &self.tail.header
    }

    pub(crate) fn commit(&mut self, to: LogPosition) {
        self.positions.advance_committed(to);
    }

    /// Batches that are sequenced here from now on begin with this index, in this term.
    pub(crate) fn sequence_from(&mut self, index: BatchIndex, term: Term) {
        assert!(term >= self.term, "terms never go back: {term:?} < {:?}", self.term);
        self.next_index = index;
        self.term = term;
    }

    /// Writes whole blocks as another node has sealed them. They count for nothing before [`Log::sync`].
    pub(crate) fn write_blocks(&mut self, bytes: &[u8], end: End) -> Result<(), LogFailure> {
        self.check_alive()?;
        let start = self.positions.appended;
        let length = bytes.len() as u64;
        assert_eq!((start.0 % LOG_BLOCK_BYTES, length % LOG_BLOCK_BYTES), (0, 0), "L1: whole blocks are written");
        assert_eq!(self.positions.durable, start, "L2: what is before it is durable");
        assert!(start.plus(length) <= self.tail.header.end(), "blocks lie in one segment");
        let written = self.tail.file.write_at(bytes, self.tail.offset(start));
        written.map_err(|cause| self.failed("write", cause))?;
        self.positions.advance_appended(start.plus(length));
        self.next_index = end.next_index;
        self.term = end.term;
        self.stored_at = self.stored_at.max(end.stored_at);
        self.is_unproved = true;
        Ok(())
    }

    /// Goes on in a segment that another node has begun, under its header.
    pub(crate) fn follow_into(&mut self, header: Header) -> Result<(), LogFailure> {
        self.check_alive()?;
        assert_eq!(header.base, self.tail.header.end(), "segments follow each other");
        assert_eq!(
            self.positions.durable, self.positions.appended,
            "a segment is made when what is before it is durable"
        );
        self.install(header).map_err(|cause| self.failed("roll", cause))
    }

    /// Forgets everything and begins with this segment: for a replica without batches, and for one whose batches all lie
    /// below what it was given otherwise. A crash in between leaves a shorter log, or none.
    pub(crate) fn begin(&mut self, header: Header) -> Result<(), LogFailure> {
        self.check_alive()?;
        self.begin_durably(header).map_err(|cause| self.failed("beginning", cause))?;
        self.next_index = header.base_index;
        self.term = header.base_term;
        self.is_unproved = false;
        Ok(())
    }

    fn begin_durably(&mut self, header: Header) -> io::Result<()> {
        while self.segments.load().len() > 1 {
            self.drop_tail()?;
        }
        // A segment of the same name is replaced in one step.
        if self.tail.header.base != header.base {
            self.disk.remove(&segment::name(self.tail.header.base))?;
            self.disk.sync_directory()?;
        }
        self.segments.store(Arc::default());
        self.positions = Positions::default();
        self.install(header)?;
        self.positions = Positions::at(self.tail.first());
        Ok(())
    }

    fn install(&mut self, header: Header) -> io::Result<()> {
        let ready = self.prepared.lock().take_if(|prepared| prepared.size == header.size);
        let prepared = match ready {
            Some(prepared) => prepared,
            None => allocate(&*self.disk, header.size, self.chance.next_u64())?,
        };
        self.is_on_spare = false;
        let segment = segment::install(&*self.disk, prepared, header)?;
        self.enter(segment);
        Ok(())
    }

    /// Takes back everything behind `to`, where the batch before `end` ends. `steps` are what is in the segment of `to`:
    /// between them, oldest first, lie syncs, and so do they when they go.
    pub(crate) fn cut(&mut self, to: LogPosition, steps: &[Range<LogPosition>], end: End) -> Result<(), LogFailure> {
        self.check_alive()?;
        assert!(to >= self.positions.committed, "X1: {to:?} is below {:?}", self.positions);
        self.cut_durably(to, steps).map_err(|cause| self.failed("truncation", cause))?;
        self.positions.retreat(to);
        self.next_index = end.next_index;
        self.term = end.term;
        self.is_unproved = false;
        Ok(())
    }

    fn cut_durably(&mut self, to: LogPosition, steps: &[Range<LogPosition>]) -> io::Result<()> {
        if self.positions.durable < self.positions.appended {
            self.tail.file.sync_data()?;
        }
        // What was made ready was for a segment that may never come, or come otherwise.
        let ready = self.prepared.lock().take();
        if let Some(prepared) = ready {
            self.disk.remove(&prepared.name)?;
        }
        while to < self.tail.first() {
            self.drop_tail()?;
        }
        for step in steps.iter().rev() {
            assert!(step.start >= to, "X1: {step:?} is kept");
            self.tail.file.zero_at(self.tail.offset(step.start), step.end.since(step.start))?;
            // X2: the header of a later step says that the earlier ones were durable, so it must be gone before them.
            self.tail.file.sync_data()?;
        }
        Ok(())
    }

    fn drop_tail(&mut self) -> io::Result<()> {
        let mut all = Vec::clone(&self.segments.load());
        let last = all.pop().expect("a log has a segment");
        self.tail = all.last().expect("the first segment stays").clone();
        self.is_on_spare = false;
        self.segments.store(Arc::new(all));
        self.disk.remove(&segment::name(last.header.base))?;
        // X2: removals that no sync separates may survive a crash in any order.
        self.disk.sync_directory()
    }
}
