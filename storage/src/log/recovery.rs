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

use std::io;
use std::ops::Range;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, Chance, LogPosition, Term, Timestamp};
use parking_lot::Mutex;

use super::batch::Header;
use super::group::{Group, Place};
use super::listing::{Listing, list};
use super::scan::{Scan, State, Step};
use super::segment::{self, HeaderError, Segment};
use super::window::{self, WINDOW_BYTES};
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
