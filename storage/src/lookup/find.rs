//! Bodies by key or id, newest first; entries of a message group, in their order.

use std::ops::{ControlFlow, RangeInclusive};

use base::limits::{LOOK_UP_BODIES_MAX, READ_ENTRIES_MAX};
use base::{LogPosition, QueueOffset, Timestamp, TopicId};

use super::{Body, Gaps, LookUps};
use crate::hash::{HashKey, Lookup};
use crate::index::{self, SegmentIndex};
use crate::message::StoredMessage;
use crate::view::queue::{Entry, Queue};

/// Which bodies.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// Sent to one of these.
    pub topics: &'a [TopicId],
    pub what: Lookup,
    pub text: &'a str,
    /// Only what lies before.
    pub below: Option<LogPosition>,
    /// When it was stored, as far as is known.
    pub stored: RangeInclusive<Timestamp>,
}

/// How far a look-up has come.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// [`Query::below`] of the next one; none when everything was looked through.
    pub next: Option<LogPosition>,
    pub gaps: Gaps,
}

/// Which entries of a message group in one queue.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub group_hash: u64,
    pub from: QueueOffset,
    pub until: QueueOffset,
    /// About so many of them.
    pub max: usize,
    /// Newer entries, which are in no index, are walked: no more than this.
    pub walked_max: usize,
}

/// Entries of a message group in one queue.
#[derive(Debug, Clone, Default)]
pub struct Members {
    pub entries: Vec<(QueueOffset, Entry)>,
    /// Where to go on; none when all that was wanted was looked through.
    pub next: Option<QueueOffset>,
    pub gaps: Gaps,
}

impl LookUps {
    /// Gives each body that is asked for to `visit`, newest first, until it says that it does not want that one any more.
    pub fn find(
        &self,
        query: &Query<'_>,
        applied: LogPosition,
        visit: &mut dyn FnMut(Body) -> ControlFlow<()>,
    ) -> Found {
        let hashes: Vec<u64> =
            query.topics.iter().map(|topic| self.hash_key.lookup(*topic, query.what, query.text)).collect();
        let mut found = Found::default();
        let (sealed, newer) = self.tail.rows(self, &hashes, applied, &mut found.gaps);
        let mut reading = Reading { of: self, query, left: LOOK_UP_BODIES_MAX };
        if reading.bodies(newer, None, visit, &mut found).is_break() {
            return found;
        }
        let is_before = |index: &SegmentIndex| query.below.is_none_or(|below| index.base() < below);
        for index in sealed.iter().rev().filter(|index| is_before(index)) {
            let summary = index.summary();
            let is_outside = summary.newest < *query.stored.start() || summary.oldest > *query.stored.end();
            let of_here = query.topics.iter().zip(&hashes).filter(|(topic, _)| !is_outside && index.has(**topic));
            let mut positions = Vec::new();
            for (_, hash) in of_here {
                match self.sealed.named(index, *hash) {
                    Ok(mut more) => positions.append(&mut more),
                    Err(error) => found.gaps.index(error),
                }
            }
            if reading.bodies(positions, Some(index), visit, &mut found).is_break() {
                return found;
            }
        }
        found
    }
}

/// Entries of a message group in one queue, in order. Reads index files, and of them only what it gives out.
pub fn members(hash_key: &HashKey, queue: &Queue, wanted: &Wanted) -> Members {
    let &Wanted { group_hash, from, until, max, walked_max } = wanted;
    let kept = queue.kept();
    let mut found = Members::default();
    let mut at = from.max(kept.first);
    let sealed = kept.sealed.min(until);
    if at < sealed {
        let of = index::Members { hash_key, id: queue.id(), group_hash, from: at, until: sealed };
        let looked = queue.index().members(&of, max, &mut found.entries);
        at = looked.to;
        if let Some(error) = looked.error {
            // Who keeps an order must not pass over what is missing.
            found.gaps.index(error);
            found.next = Some(at);
            return found;
        }
    }
    let mut left = walked_max;
    let mut entries = Vec::new();
    while found.entries.len() < max && left > 0 && at < until {
        entries.clear();
        let room = usize::try_from(until.0 - at.0).unwrap_or(usize::MAX);
        // What was sealed meanwhile is read from its index file.
        at = queue.read(at, READ_ENTRIES_MAX.min(left).min(room), &mut entries);
        if entries.is_empty() {
            break;
        }
        left -= entries.len();
        for entry in &entries {
            // A purge may have come between.
            if found.entries.len() >= max || at >= until {
                break;
            }
            if entry.group_hash == group_hash {
                found.entries.push((at, *entry));
            }
            at = at.next();
        }
    }
    found.next = Some(at).filter(|at| *at < queue.bounds().next.min(until));
    found
}

/// The reading of what hashes point at.
struct Reading<'a> {
    of: &'a LookUps,
    query: &'a Query<'a>,
    /// Bodies that may still be read.
    left: usize,
}

impl Reading<'_> {
    fn bodies(
        &mut self,
        mut positions: Vec<LogPosition>,
        index: Option<&SegmentIndex>,
        visit: &mut dyn FnMut(Body) -> ControlFlow<()>,
        found: &mut Found,
    ) -> ControlFlow<()> {
        positions.retain(|position| self.query.below.is_none_or(|below| *position < below));
        positions.sort_unstable();
        positions.dedup();
        for position in positions.into_iter().rev() {
            found.next = Some(position.plus(1));
            self.left = match self.left.checked_sub(1) {
                Some(left) => left,
                None => return ControlFlow::Break(()),
            };
            let body = match self.of.body_at(position) {
                Ok(Some((pointer, record, message))) if self.is_it(&message) => {
                    let stored_at = stored_at(&message, index);
                    Body { pointer, record, message, stored_at }
                }
                Ok(_) => continue,
                Err(_) => {
                    found.gaps.bodies.push(position);
                    continue;
                }
            };
            if self.query.stored.contains(&body.stored_at) {
                visit(body)?;
            }
        }
        found.next = None;
        ControlFlow::Continue(())
    }

    /// F2.
    fn is_it(&self, message: &StoredMessage) -> bool {
        let is_text = match self.query.what {
            Lookup::Key => message.envelope.keys.iter().any(|key| key == self.query.text),
            Lookup::Id => message.envelope.message_id == self.query.text,
        };
        is_text && self.query.topics.contains(&message.topic)
    }
}

/// The sender's clock, within what the segment says.
fn stored_at(message: &StoredMessage, index: Option<&SegmentIndex>) -> Timestamp {
    let born = message.envelope.born_at;
    match index.map(SegmentIndex::summary) {
        Some(summary) if summary.oldest <= summary.newest => born.clamp(summary.oldest, summary.newest),
        _ => born,
    }
}
