//! Prepared messages, and how ended ones ended.
//!
//! The writer decides: it alone appends what ends a prepared message, and it does so only for one that is in here and not
//! being decided already.
//!
//! X1. A prepared message ends once.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{LogPosition, Timestamp};

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

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transactions {
    prepared: BTreeMap<LogPosition, Prepared>,
    ended: BTreeMap<LogPosition, Outcome>,
}

impl Transactions {
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
        let earlier = self.prepared.insert(prepared.pointer.position, prepared);
        assert!(earlier.is_none(), "two records lie at one position");
    }

    /// False when there was nothing to end, which only damage explains.
    pub(crate) fn end(&mut self, origin: LogPosition, outcome: Outcome) -> bool {
        let was_there = self.prepared.remove(&origin).is_some();
        assert!(was_there || !self.ended.contains_key(&origin), "X1: the transaction at {origin} ends twice");
        self.ended.insert(origin, outcome);
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_first();
        }
        was_there
    }

    /// Ends it if it is open. True when it was.
    pub(crate) fn end_if_prepared(&mut self, origin: LogPosition, outcome: Outcome) -> bool {
        self.prepared.contains_key(&origin) && self.end(origin, outcome)
    }

    pub(crate) fn drop_topic(&mut self, topic: base::TopicId) {
        self.prepared.retain(|_, prepared| prepared.head.topic != topic);
    }
}
