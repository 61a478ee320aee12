//! Reading a whole log without changing it: what a recovery would find, step by step, with reasons.
//!
//! It is the recovery's own scan, so both agree about what is sound, damaged and torn. Unlike a recovery it goes on where the
//! log could not be opened, as far as segments can be read.

use std::io;
use std::ops::Range;

use base::LogPosition;

use super::listing::list;
use super::recovery::{self, Found, OpenError, Report, Start};
use super::scan::{self, Scan};
use super::segment::{self, Header};
pub use super::window::Flaw;
use crate::disk::Disk;

/// What is there, in the order of positions.
pub enum Step<'a> {
    Segment(Entered<'a>),
    /// A sound batch.
    Batch(Found<'a>),
    /// Synced bytes that are gone: a recovery quarantines them.
    Hole(Hole<'a>),
}

/// A segment begins.
pub struct Entered<'a> {
    pub name: String,
    pub header: &'a Header,
    /// One of the two copies of its header is damaged; the other one serves.
    pub is_copy_damaged: bool,
}

pub struct Hole<'a> {
    pub range: Range<LogPosition>,
    pub flaw: Flaw,
    /// When the batch's header is sound: its records, of which some may be what they were.
    pub unsound: Option<Found<'a>>,
}

/// What came of a walk.
#[derive(Debug)]
pub struct Walked {
    /// As a recovery's, which would find the same. `torn` begins right behind the last batch, and counts all that is there.
    pub report: Report,
    /// Where the log ends.
    pub end: LogPosition,
    /// Segments that were read.
    pub segments: usize,
    /// Files that a start of the server removes.
    pub prepared: Vec<String>,
    /// Why a server does not start with this log.
    pub refusal: Option<OpenError>,
}

/// Reads the log of `disk` from its beginning to its end. Ends early only where a file cannot be read.
pub fn walk(disk: &dyn Disk, start: Option<&Start>, visit: &mut dyn FnMut(Step<'_>)) -> Result<Walked, OpenError> {
    let listing = list(disk, start)?;
    // What is left of thinned ones has no batches.
    let whole: Vec<_> = listing.segments.iter().filter(|segment| segment.thin.is_none()).cloned().collect();
    let mut scan = Scan::new(&whole);
    if let (Some(start), Some(first)) = (start, whole.first()) {
        // Segments that nobody wanted any more are gone; what is there is read, needed by a recovery or not.
        scan.begin(&Start { from: first.header.base, ..start.clone() });
        scan.has_gaps = true;
        let thinned = listing.segments.iter().filter(|segment| segment.thin.is_some());
        scan.thinned = thinned.map(|segment| (segment.header.base, segment.header.base_index)).collect();
    }
    scan.report.quarantined.clone_from(&listing.missing);
    let mut unread = None;
    scan.run(&mut |step| match step {
        scan::Step::Segment(entered) => {
            let name = segment::name(entered.header.base);
            let mut block = vec![0; segment::HEADER_BLOCK_BYTES];
            match entered.file.read_at(&mut block, 0) {
                Ok(()) => {
                    let is_copy_damaged = !segment::are_copies_sound(&block);
                    visit(Step::Segment(Entered { name, header: &entered.header, is_copy_damaged }));
                }
                Err(source) => drop(unread.get_or_insert(OpenError::Io { operation: "reading", name, source })),
            }
        }
        scan::Step::Batch(found) => visit(Step::Batch(found)),
        scan::Step::Hole { range, flaw, unsound } => visit(Step::Hole(Hole { range, flaw, unsound })),
    })?;
    if let Some(unread) = unread {
        return Err(unread);
    }
    let Scan { state, mut report, .. } = scan;
    if let Some(tail) = listing.segments.last() {
        let torn: io::Result<u64> = recovery::rest(tail, state.end, state.zeros_from, &mut |_, _| Ok(()));
        let name = segment::name(tail.header.base);
        let torn = torn.map_err(|source| OpenError::Io { operation: "reading", name, source })?;
        report.torn = (torn > 0).then_some((state.end, torn));
    }
    let (segments, prepared) = (listing.segments.len(), listing.prepared);
    Ok(Walked { report, end: state.end, segments, prepared, refusal: listing.refusal })
}
