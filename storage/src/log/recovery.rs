//! Opening a log: which batches are there, which were lost to a crash, which to damage.
//!
//! At the first bad batch there are two explanations. A later batch that was written when the bad place was durable
//! already proves damage: what was synced is gone, so it is named, and the rest is served. Without such a proof it is a torn
//! tail: nobody was told that it is there, so it is cut off. This is sound because group n + 1 is not written before group
//! n is synced.
//!
//! Y1. The page cache proves nothing about the disk after a crash, and less after a failed sync. So what is accepted was read
//!     from the device, and is synced before anything is served. Where the device cannot be read past the page cache, what
//!     lies above the last proved position is written again in place (docs/decisions/0005).
//! Y2. Nothing below a proved position is cut or overwritten.
//! Y3. What proves a hole may itself be of the torn tail. It is cut off only when a mark on the disk proves as much.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, Chance, LogPosition, Term, Timestamp};
use parking_lot::Mutex;

use super::batch::{ALIGNMENT, Header};
use super::group::{Group, Place};
use super::listing::{Listing, list};
use super::segment::{self, HeaderError, Segment};
use super::window::{self, Flaw, WINDOW_BYTES, Window};
use super::{Log, LogOptions, allocate};
use crate::disk::Disk;
use crate::position::Positions;
use crate::record::Record;

pub use super::listing::Start;

/// Why a log cannot be opened. Nothing on the disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{operation} of {name} failed: {source}")]
    Io { operation: &'static str, name: String, source: io::Error },
    #[error("segment {name}: {source}")]
    Version { name: String, source: HeaderError },
    #[error("segment {name} belongs to another store than the first segment")]
    Cluster { name: String },
    #[error("the header of the newest segment, {name}, is damaged; move that file away to open the store without it")]
    NewestDamaged { name: String },
    #[error("segment {name} is missing, and the log went on at {position}")]
    NewestMissing { name: String, position: LogPosition },
    #[error("the log does not begin: its first batch, which holds the store's identity, is damaged in {name}")]
    NoBeginning { name: String },
}

/// What a recovery found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub batches: u64,
    pub bytes: u64,
    /// Where a torn tail was cut off, and how many bytes of it were not zero.
    pub torn: Option<(LogPosition, u64)>,
    /// What was synced and is gone.
    pub quarantined: Vec<Range<LogPosition>>,
    /// Bytes written again because nothing proved them durable.
    pub rewritten: u64,
}

/// A batch that is there.
pub struct Found<'a> {
    pub header: Header,
    /// Its records.
    pub records: &'a [u8],
}

/// Reads the log, giving each batch to `visit` in order, mends its end, and leaves it ready for appending. From the
/// beginning, or from `start`. An empty directory gives an empty log.
pub fn open(
    disk: Arc<dyn Disk>,
    options: LogOptions,
    start: Option<&Start>,
    mut chance: Chance,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<(Log, Report), OpenError> {
    let Listing { segments, prepared, headless, missing, refusal } = list(&*disk, start)?;
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    for name in prepared {
        disk.remove(&name).map_err(|source| OpenError::Io { operation: "removal", name, source })?;
    }
    for header in headless {
        restore_header(&*disk, &header)?;
    }
    let Some(last) = segments.last().cloned() else {
        return create(disk, options, chance);
    };
    if let Some(start) = start.filter(|start| start.durable > last.header.end()) {
        let name = segment::name(last.header.end());
        return Err(OpenError::NewestMissing { name, position: start.durable });
    }
    let old = segments.partition_point(|segment| start.is_some_and(|start| segment.header.base < start.from));
    let mut scan = Scan::new(&segments[old..]);
    scan.report.quarantined = missing;
    if let Some(start) = start {
        scan.begin(start);
    }
    scan.run(&mut |step| {
        if let Step::Batch(found) = step {
            visit(found);
        }
    })?;
    let Scan { state, is_device_read, mut report, .. } = scan;
    let (end, next) = mend(&last, &state, is_device_read, &mut report)?;
    let term = start.map_or(state.term, |start| state.term.max(start.term));
    let stored_at = start.map_or(state.stored_at, |start| state.stored_at.max(start.stored_at));
    let mut positions = Positions::at(end);
    positions.advance_durable(end);
    let log = Log {
        disk,
        options,
        tail: last,
        segments: Arc::new(ArcSwap::from_pointee(segments)),
        positions,
        next_index: next,
        term,
        stored_at,
        prepared: Arc::new(Mutex::new(None)),
        spares: Arc::default(),
        is_on_spare: false,
        chance: Chance::new(chance.next_u64()),
        failure: None,
        is_unproved: false,
    };
    Ok((log, report))
}

/// The next recovery may have a checkpoint that does not know it.
fn restore_header(disk: &dyn Disk, header: &segment::Header) -> Result<(), OpenError> {
    let name = segment::name(header.base);
    let written = disk.open(&name).and_then(|file| {
        file.write_at(&header.encode(), 0)?;
        file.sync_all()
    });
    written.map_err(|source| OpenError::Io { operation: "restoring the header", name, source })
}

fn create(disk: Arc<dyn Disk>, options: LogOptions, mut chance: Chance) -> Result<(Log, Report), OpenError> {
    let fail = |operation| move |source| OpenError::Io { operation, name: segment::name(LogPosition(0)), source };
    let prepared = allocate(&*disk, options.segment_bytes, chance.next_u64()).map_err(fail("creation"))?;
    let header = segment::Header {
        compatible: 0,
        incompatible: 0,
        cluster: cluster_id(&mut chance),
        group: 0,
        random: chance.next_u64(),
        base: LogPosition(0),
        base_index: BatchIndex(0),
        base_term: Term(0),
        size: options.segment_bytes,
    };
    let tail = Arc::new(segment::install(&*disk, prepared, header).map_err(fail("creation"))?);
    let log = Log {
        disk,
        options,
        segments: Arc::new(ArcSwap::from_pointee(vec![tail.clone()])),
        positions: Positions::at(tail.first()),
        tail,
        next_index: BatchIndex(0),
        term: Term(0),
        stored_at: Timestamp::ZERO,
        prepared: Arc::new(Mutex::new(None)),
        spares: Arc::default(),
        is_on_spare: false,
        chance,
        failure: None,
        is_unproved: false,
    };
    Ok((log, Report::default()))
}

/// A store's own id, made once.
fn cluster_id(chance: &mut Chance) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&chance.next_u64().to_le_bytes());
    id[8..].copy_from_slice(&chance.next_u64().to_le_bytes());
    id
}

/// What the scan has come to know.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct State {
    /// The end of the last batch accepted, padding included.
    pub end: LogPosition,
    /// Everything below is proved to have been durable.
    proved: LogPosition,
    next_index: BatchIndex,
    term: Term,
    stored_at: Timestamp,
    /// Behind it, up to the end of the newest segment, there are only zeros.
    pub zeros_from: LogPosition,
}

/// What a scan comes by, in order.
pub(super) enum Step<'a> {
    Segment(&'a Segment),
    Batch(Found<'a>),
    /// Synced bytes that are gone.
    Hole {
        range: Range<LogPosition>,
        flaw: Flaw,
        /// Records that do not have the checksum of their batch, whose header has.
        unsound: Option<Found<'a>>,
    },
}

/// Reads a log from its beginning to its end. Writes nothing.
pub(super) struct Scan<'a> {
    segments: &'a [Arc<Segment>],
    next: BatchIndex,
    pub state: State,
    /// All that was read so far came from the device.
    is_device_read: bool,
    /// Batches below were durable, as a checkpoint knows.
    reached: BatchIndex,
    /// Segments may have been dropped between those that are there.
    pub has_gaps: bool,
    /// Where thinned segments begin, and with which batch: what is left of them is not read.
    pub thinned: BTreeMap<LogPosition, BatchIndex>,
    pub report: Report,
}

impl<'a> Scan<'a> {
    pub fn new(segments: &'a [Arc<Segment>]) -> Self {
        let (state, report, thinned) = (State::default(), Report::default(), BTreeMap::new());
        let (next, reached) = (BatchIndex(0), BatchIndex(0));
        Self { segments, next, state, is_device_read: true, reached, has_gaps: false, thinned, report }
    }

    /// What lies before the first segment that is read is known otherwise.
    pub fn begin(&mut self, start: &Start) {
        let first = start.segments.iter().find(|header| header.base >= start.from);
        self.next = first.map_or(start.next_index, |header| header.base_index);
        self.state.next_index = self.next;
        self.state.end = start.from;
        self.state.proved = start.durable;
        self.reached = start.next_index;
    }

    pub fn run(&mut self, visit: &mut dyn FnMut(Step<'_>)) -> Result<(), OpenError> {
        let mut number = 0;
        while let Some(segment) = self.segments.get(number) {
            let unread =
                |source| OpenError::Io { operation: "reading", name: segment::name(segment.header.base), source };
            if let Some(range) = self.enter(number) {
                visit(Step::Hole { range, flaw: Flaw::NoSegment, unsound: None });
            }
            visit(Step::Segment(segment));
            let mut window = Window::new(segment);
            let mut at = segment.first();
            let is_over = loop {
                match window.batch(at).map_err(unread)? {
                    Some(header) if header.index >= self.next => {
                        let records = window.records(at, &header).map_err(unread)?;
                        self.accept(&header);
                        visit(Step::Batch(Found { header, records }));
                        at = self.state.end;
                    }
                    _ if self.is_end_of(&mut window, number, at).map_err(unread)? => break false,
                    _ => {
                        let (resume, hole) = self.resume(&mut window, number, at).map_err(unread)?;
                        if let Some(range) = hole {
                            let (flaw, unsound) = window.flaw(at).map_err(unread)?;
                            visit(Step::Hole { range, flaw, unsound });
                        }
                        match resume {
                            Resume::Here(later) => at = later,
                            Resume::NextSegment => break false,
                            Resume::Behind(proved) => {
                                at = proved;
                                break true;
                            }
                            // Either there is nothing more, or what there is was never acknowledged.
                            Resume::Nowhere => break true,
                        }
                    }
                }
            };
            self.is_device_read &= window.is_device_read;
            if is_over {
                self.state.end = at;
                self.state.zeros_from = window.zeros_from;
                break;
            }
            number += 1;
        }
        Ok(())
    }

    /// A segment that begins further on than the last one ended shows that something between them is gone. Gives what was
    /// not known to be.
    fn enter(&mut self, number: usize) -> Option<Range<LogPosition>> {
        let segment = &self.segments[number];
        let before = number.checked_sub(1).map(|before| self.segments[before].header.end());
        let was_dropped = self.has_gaps && before.is_some_and(|end| end < segment.header.base);
        let mut gone = None;
        if segment.header.base_index > self.next && !was_dropped {
            let base = segment.header.base;
            match self.report.quarantined.last_mut() {
                Some(hole) if hole.start >= self.state.end => {
                    gone = Some(hole.end..base);
                    hole.end = base;
                }
                _ => {
                    gone = Some(self.state.end..base);
                    self.report.quarantined.push(self.state.end..base);
                }
            }
        }
        self.next = self.next.max(segment.header.base_index);
        self.state.next_index = self.next;
        self.state.term = self.state.term.max(segment.header.base_term);
        // A segment is made only after everything before it was synced.
        self.state.proved = self.state.proved.max(segment.first());
        self.state.end = self.state.end.max(segment.first());
        gone.filter(|gone| !gone.is_empty())
    }

    fn accept(&mut self, header: &Header) {
        self.report.batches += 1;
        self.report.bytes += header.total();
        self.next = BatchIndex(header.index.0 + 1);
        self.state.next_index = self.next;
        self.state.end = header.position.plus(header.total());
        self.state.proved = self.state.proved.max(header.durable());
        self.state.term = self.state.term.max(header.term);
        self.state.stored_at = self.state.stored_at.max(header.stored_at);
    }

    /// Whether the log legitimately goes on in the next segment.
    fn is_end_of(&self, window: &mut Window<'_>, number: usize, at: LogPosition) -> io::Result<bool> {
        let segment = &self.segments[number];
        let end = segment.header.end();
        if at >= end {
            return Ok(true);
        }
        let Some(next) = self.segments.get(number + 1) else { return Ok(false) };
        let thinned = self.thinned.get(&end).copied();
        match Some(next.header.base_index).filter(|_| next.header.base == end).or(thinned) {
            Some(index) => Ok(index == self.next),
            // The one behind it was dropped, so nobody knows any more how many batches there were.
            None => Ok(self.has_gaps && window.flaw(at)?.0 == Flaw::Zeros && window.search(at)?.is_none()),
        }
    }

    /// Where to go on after a bad batch at `bad`, and what of synced bytes is left out.
    fn resume(
        &mut self,
        window: &mut Window<'_>,
        number: usize,
        bad: LogPosition,
    ) -> io::Result<(Resume, Option<Range<LogPosition>>)> {
        let mut from = bad.plus(ALIGNMENT as u64);
        window.zeros_from = from;
        let is_last = self.segments.get(number + 1).is_none();
        let mut is_proved = !is_last || self.state.proved > bad;
        let mut first_later = None;
        while let Some((position, header)) = window.search(from)? {
            first_later.get_or_insert((position, header.index));
            if header.durable() > bad {
                is_proved = true;
                break;
            }
            from = position.plus(ALIGNMENT as u64);
        }
        if !is_proved {
            return Ok((Resume::Nowhere, None));
        }
        // A torn tail that was cut off inside a group leaves zeros up to the next block. Batches are numbered without
        // gaps, so when the next number follows, nothing is missing.
        if let Some((later, _)) = first_later.filter(|(_, index)| *index == self.next) {
            return Ok((Resume::Here(later), None));
        }
        let end = if is_last { self.state.proved } else { self.segments[number].header.end() };
        let first_later = first_later.map(|(position, _)| position);
        let hole = bad..first_later.unwrap_or(end);
        tracing::error!(from = hole.start.0, to = hole.end.0, "synced bytes of the log are damaged and quarantined");
        self.report.quarantined.push(hole.clone());
        if is_last && first_later.is_none() {
            // The numbers of what is gone are not given again.
            self.next = self.next.max(self.reached);
            self.state.next_index = self.next;
            return Ok((Resume::Behind(self.state.proved), Some(hole)));
        }
        Ok((first_later.map_or(Resume::NextSegment, Resume::Here), Some(hole)))
    }
}

enum Resume {
    Here(LogPosition),
    NextSegment,
    /// Everything up to there is gone that a checkpoint knows to have been durable.
    Behind(LogPosition),
    Nowhere,
}

/// Cuts the torn tail off, and makes sure that what was accepted is on the disk (Y1). Gives where the log goes on, and with
/// which batch.
fn mend(
    tail: &Segment,
    state: &State,
    is_device_read: bool,
    report: &mut Report,
) -> Result<(LogPosition, BatchIndex), OpenError> {
    let io = |operation| {
        let name = segment::name(tail.header.base);
        move |source| OpenError::Io { operation, name, source }
    };
    let mut end = LogPosition(state.end.max(tail.first()).0.next_multiple_of(LOG_BLOCK_BYTES));
    let mut next_index = state.next_index;
    let block_of = |position: LogPosition| LogPosition(position.0 / LOG_BLOCK_BYTES * LOG_BLOCK_BYTES);
    // What was accepted may end inside a block of the torn tail. That block is of a group whose sync never came back.
    let last = block_of(state.end);
    let from = if is_device_read { last } else { block_of(state.proved.max(tail.first())) };
    if state.end > from {
        let length = usize::try_from(end.since(from)).expect("what is unproved is about a group");
        let mut bytes = vec![0; length];
        let kept = usize::try_from(state.end.since(from)).expect("as above");
        tail.file.read_at(&mut bytes[..kept], tail.offset(from)).map_err(io("reading"))?;
        tail.file.write_at(&bytes, tail.offset(from)).map_err(io("rewriting"))?;
        report.rewritten = length as u64;
    }
    // Y3: without another proof, what follows the hole would be a torn tail to the next recovery.
    let is_proof_torn = report.quarantined.last().is_some_and(|hole| hole.start >= state.proved);
    if is_proof_torn && state.zeros_from > end {
        tail.file.sync_all().map_err(io("syncing"))?;
        let length = write_mark(tail, state, end).map_err(io("marking"))?;
        tail.file.sync_all().map_err(io("syncing"))?;
        end = end.plus(length);
        next_index = BatchIndex(next_index.0 + 1);
    }
    let torn = zero_rest(tail, end, state.zeros_from).map_err(io("cutting the torn tail"))?;
    if torn > 0 {
        report.torn = Some((end, torn));
        tracing::warn!(
            position = end.0,
            bytes = torn,
            "the torn tail of the log was cut off; nothing in it was acknowledged"
        );
    }
    tail.file.sync_all().map_err(io("syncing"))?;
    Ok((end, next_index))
}

/// Writes a batch that proves everything below `at`. Gives its length.
fn write_mark(tail: &Segment, state: &State, at: LogPosition) -> io::Result<u64> {
    let mut group = Group::default();
    group.open();
    group.record(|out| {
        Record::Mark.encode(out, &[]);
    });
    group.close();
    let bytes = group.seal(Place {
        start: at,
        durable: at,
        first_index: state.next_index,
        term: state.term,
        stored_at: state.stored_at,
        seed: tail.seed,
    });
    tail.file.write_at(&bytes, tail.offset(at))?;
    Ok(bytes.len() as u64)
}

/// Overwrites what lies between two positions with zeros. Gives how many of its bytes were something else.
fn zero_rest(tail: &Segment, from: LogPosition, to: LogPosition) -> io::Result<u64> {
    rest(tail, from, to, &mut |at, length| tail.file.zero_at(tail.offset(at), length))
}

/// Counts the bytes between two positions that are not zero, and gives every part that has such to `found`.
pub(super) fn rest(
    tail: &Segment,
    from: LogPosition,
    to: LogPosition,
    found: &mut dyn FnMut(LogPosition, u64) -> io::Result<()>,
) -> io::Result<u64> {
    let mut torn = 0;
    let mut at = from;
    let mut bytes = Vec::new();
    while at < to {
        let step = (WINDOW_BYTES as u64).min(tail.header.end().since(at));
        bytes.resize(usize::try_from(step).expect("a window is small"), 0);
        window::read_surely(tail, at, &mut bytes)?;
        let count = bytes.iter().filter(|byte| **byte != 0).count() as u64;
        if count > 0 {
            found(at, step)?;
        }
        torn += count;
        at = at.plus(step);
    }
    Ok(torn)
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
