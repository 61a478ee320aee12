//! Reading one segment that is no longer written, by itself, at once or in parts.

use std::ops::Range;
use std::sync::Arc;

use base::{BatchIndex, LogPosition};

use super::batch::ALIGNMENT;
use super::recovery::{Found, OpenError};
use super::segment::{self, Segment};
use super::window::Window;

/// Which batch the segment behind that at `at` begins with; none where that is gone, or was never made.
pub fn next_index(segments: &[Arc<Segment>], at: usize) -> Option<BatchIndex> {
    let next = segments.get(at + 1).filter(|next| next.header.base == segments[at].header.end());
    next.map(|next| next.header.base_index)
}

/// What a segment that is no longer written holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Behind the last sound batch.
    pub end: LogPosition,
    pub next_index: BatchIndex,
    /// What is damaged.
    pub holes: Vec<Range<LogPosition>>,
}

/// How far the reading of a segment has come.
#[derive(Debug, Clone)]
pub struct Reading {
    content: Content,
    at: LogPosition,
}

impl Reading {
    pub fn new(segment: &Segment) -> Self {
        let content = Content { end: segment.first(), next_index: segment.header.base_index, holes: Vec::new() };
        Self { content, at: segment.first() }
    }

    /// What was found so far.
    pub fn content(&self) -> &Content {
        &self.content
    }

    pub fn at(&self) -> LogPosition {
        self.at
    }

    /// Goes on there, if that is not so far.
    pub fn go_back_to(&mut self, at: LogPosition) {
        self.at = self.at.min(at);
    }

    /// Goes on for about `bytes` bytes, giving every sound batch to `visit`. Gives whether it came to the end.
    pub fn go_on(
        &mut self,
        segment: &Segment,
        next_index: Option<BatchIndex>,
        bytes: u64,
        visit: &mut dyn FnMut(Found<'_>),
    ) -> Result<bool, OpenError> {
        let unread = |source| OpenError::Io { operation: "reading", name: segment::name(segment.header.base), source };
        let mut window = Window::new(segment);
        let content = &mut self.content;
        let until = self.at.0.saturating_add(bytes);
        while self.at.0 < until {
            let at = self.at;
            match window.batch(at).map_err(unread)? {
                Some(header) if header.index >= content.next_index => {
                    // Zeros that a torn tail left are no hole: the numbers go on.
                    if header.index > content.next_index {
                        content.holes.push(content.end..at);
                    }
                    let records = window.records(at, &header).map_err(unread)?;
                    visit(Found { header, records });
                    self.at = at.plus(header.total());
                    content.end = self.at;
                    content.next_index = BatchIndex(header.index.0 + 1);
                }
                _ if next_index == Some(content.next_index) => return Ok(true),
                _ => match window.search(at.plus(ALIGNMENT as u64)).map_err(unread)? {
                    Some((later, _)) => self.at = later,
                    None => {
                        if let Some(next) = next_index {
                            content.holes.push(content.end..segment.header.end());
                            content.next_index = next;
                        }
                        return Ok(true);
                    }
                },
            }
        }
        Ok(false)
    }
}

/// Gives every sound batch of a segment to `visit`, in order. `next_index`: the first one of the segment behind it.
pub fn read(
    segment: &Segment,
    next_index: Option<BatchIndex>,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<Content, OpenError> {
    let mut reading = Reading::new(segment);
    while !reading.go_on(segment, next_index, u64::MAX, visit)? {}
    Ok(reading.content)
}
