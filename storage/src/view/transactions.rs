//! Prepared messages, and how ended ones ended.
//!
//! The writer decides: it alone appends what ends a prepared message, and it does so only for one that is in here and not
//! being decided already.
//!
//! X1. A prepared message ends once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{LogPosition, Timestamp};

use crate::codec::{Decoder, Encode, Malformed};
use crate::record::{Head, Pointer};

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    Committed,
    RolledBack,
}

/// A prepared message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub pointer: Pointer,
    pub head: Head,
    /// When it may become visible at the earliest.
    pub due: Option<Timestamp>,
    pub prepared_at: Timestamp,
    pub check_after_ms: u32,
    /// Who sent it, and is asked first.
    pub client: Arc<str>,
}

/// How many ends are remembered, so that a repeated call is answered as the first was: 24 B each.
const ENDED_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Default)]
pub struct Transactions {
    prepared: BTreeMap<LogPosition, Prepared>,
    ended: BTreeMap<LogPosition, Outcome>,
    /// What no checkpoint has noted yet.
    changed: BTreeSet<LogPosition>,
    /// Everything that lies below is in here.
    covers: LogPosition,
}

impl PartialEq for Transactions {
    /// Whether both mean the same; how far either has come in the log is another question.
    fn eq(&self, other: &Self) -> bool {
        self.prepared == other.prepared && self.ended == other.ended
    }
}

impl Eq for Transactions {}

/// What a checkpoint notes of one transaction; none when it is forgotten.
pub(crate) type Row = (LogPosition, Option<Vec<u8>>);

impl Transactions {
    /// Everything that lies below is in here.
    pub fn covers(&self) -> LogPosition {
        self.covers
    }

    pub(crate) fn cover(&mut self, below: LogPosition) {
        self.covers = self.covers.max(below);
    }

    /// Whether any prepared body lies in `range`.
    pub fn is_any_in(&self, range: &std::ops::Range<LogPosition>) -> bool {
        self.prepared.range(range.clone()).next().is_some()
    }

    pub fn positions_in(&self, range: &std::ops::Range<LogPosition>) -> impl Iterator<Item = LogPosition> + '_ {
        self.prepared.range(range.clone()).map(|(position, _)| *position)
    }

    /// What changed since this was called before, by origin; everything, when `is_complete`.
    pub(crate) fn take_changed(&mut self, is_complete: bool) -> Vec<Row> {
        let mut changed = std::mem::take(&mut self.changed);
        if is_complete {
            changed = self.prepared.keys().chain(self.ended.keys()).copied().collect();
        }
        changed.into_iter().map(|origin| (origin, self.encode(origin))).collect()
    }

    fn encode(&self, origin: LogPosition) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        if let Some(prepared) = self.prepared.get(&origin) {
            out.u8(0);
            out.varint(prepared.pointer.length.into());
            let head = &prepared.head;
            out.u32(head.topic.0);
            out.u32(head.tag_hash);
            out.u64(head.group_hash);
            out.u8(head.priority);
            out.varint(prepared.due.unwrap_or_default().0);
            out.varint(prepared.prepared_at.0);
            out.varint(prepared.check_after_ms.into());
            out.text(&prepared.client);
            return Some(out);
        }
        out.u8(match self.ended.get(&origin)? {
            Outcome::Committed => 1,
            Outcome::RolledBack => 2,
        });
        Some(out)
    }

    pub(crate) fn restore(&mut self, origin: LogPosition, value: &[u8]) -> Result<(), Malformed> {
        let mut from = Decoder::new("row of a transaction", value);
        let outcome = match from.u8()? {
            0 => None,
            1 => Some(Outcome::Committed),
            2 => Some(Outcome::RolledBack),
            _ => return Err(from.malformed()),
        };
        if let Some(outcome) = outcome {
            self.ended.insert(origin, outcome);
            return from.end();
        }
        let pointer = Pointer { position: origin, length: from.number()? };
        let head = Head {
            topic: base::TopicId(from.u32()?),
            tag_hash: from.u32()?,
            group_hash: from.u64()?,
            priority: from.u8()?,
        };
        let due = Some(Timestamp(from.varint()?)).filter(|due| *due != Timestamp::ZERO);
        let prepared_at = Timestamp(from.varint()?);
        let check_after_ms = from.number()?;
        let client = from.text()?.into();
        self.prepared.insert(origin, Prepared { pointer, head, due, prepared_at, check_after_ms, client });
        from.end()
    }

    pub fn prepared(&self, origin: LogPosition) -> Option<&Prepared> {
        self.prepared.get(&origin)
    }

    /// None when it never was prepared, is still open, or ended too long ago.
    pub fn outcome(&self, origin: LogPosition) -> Option<Outcome> {
        self.ended.get(&origin).copied()
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Prepared> {
        self.prepared.values()
    }

    pub fn len(&self) -> usize {
        self.prepared.len()
    }

    pub fn is_empty(&self) -> bool {
        self.prepared.is_empty()
    }

    pub(crate) fn prepare(&mut self, prepared: Prepared) {
        self.changed.insert(prepared.pointer.position);
        let earlier = self.prepared.insert(prepared.pointer.position, prepared);
        assert!(earlier.is_none(), "two records lie at one position");
    }

    /// False when there was nothing to end, which only damage explains.
    pub(crate) fn end(&mut self, origin: LogPosition, outcome: Outcome) -> bool {
        let was_there = self.prepared.remove(&origin).is_some();
        assert!(was_there || !self.ended.contains_key(&origin), "X1: the transaction at {origin} ends twice");
        self.ended.insert(origin, outcome);
        self.changed.insert(origin);
        if self.ended.len() > ENDED_MAX
            && let Some((forgotten, _)) = self.ended.pop_first()
        {
            self.changed.insert(forgotten);
        }
        was_there
    }

    /// Ends it if it is open. True when it was.
    pub(crate) fn end_if_prepared(&mut self, origin: LogPosition, outcome: Outcome) -> bool {
        self.prepared.contains_key(&origin) && self.end(origin, outcome)
    }

    pub(crate) fn drop_topic(&mut self, topic: base::TopicId) {
        let changed = &mut self.changed;
        self.prepared.retain(|origin, prepared| {
            let is_kept = prepared.head.topic != topic;
            if !is_kept {
                changed.insert(*origin);
            }
            is_kept
        });
    }
}
