//! Reading a log from its beginning to its end, as a recovery does: what is sound, what is damaged, where it ends.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use base::{BatchIndex, LogPosition, Term, Timestamp};

use super::batch::{ALIGNMENT, Header};
use super::listing::Start;
use super::recovery::{Found, OpenError, Report};
use super::segment::{self, Segment};
use super::window::{Flaw, Window};

/// What the scan has come to know.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct State {
    /// The end of the last batch accepted, padding included.
    pub end: LogPosition,
    /// Everything below is proved to have been durable.
    pub proved: LogPosition,
    pub next_index: BatchIndex,
    pub term: Term,
    pub stored_at: Timestamp,
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
    pub is_device_read: bool,
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
