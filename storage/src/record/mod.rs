//! Records: what a batch says happened. A pointer record carries all that its view needs, so applying one never reads
//! another. Byte layout: docs/formats.md, "Records".
//!
//! R1. Decoding what was encoded gives the same record; nothing is left over.
//! R2. An unknown kind is an error, never skipped: a later version sets a feature bit before it writes one.

mod batch;
mod decode;
mod encode;
mod kind;

use std::sync::Arc;

use base::{GroupId, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};

use crate::hash::HashKey;
use crate::view::catalog::{GroupSpec, TopicSpec};

pub use batch::each;
pub use decode::{Framed, decode, length};

/// Bytes of the frame in front of each record: kind, three bytes zero, length of the payload.
pub const FRAME_BYTES: usize = 8;

/// Where a body record lies: its first byte and its length, frame included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    pub position: LogPosition,
    pub length: u32,
}

/// What an index needs to know of a body: where it belongs and how it is filtered, ordered and ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub topic: TopicId,
    /// 0 = no tag.
    pub tag_hash: u32,
    /// 0 = no message group.
    pub group_hash: u64,
    pub priority: u8,
}

/// What a body waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    Timer { due: Timestamp },
    Transaction,
}

/// Why a body becomes visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Due { due: Timestamp },
    Commit,
    DeadLetter { group: GroupId, attempts: u32, reason: DeadLetterReason },
    Redrive { group: GroupId },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DeadLetterReason {
    /// Its attempts are used up.
    Attempts = 1,
    /// The client forwarded it.
    Forwarded = 2,
    /// An operator did, or its key is parked.
    Operator = 3,
}

/// Neighbouring offsets of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckRange {
    pub queue: QueueIndex,
    pub first: QueueOffset,
    pub count: u64,
}

/// A delivery that was given back: the attempts used so far and when the next may be. No attempts and no time mean that
/// the delivery did not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryEntry {
    pub queue: QueueIndex,
    pub offset: QueueOffset,
    pub attempts: u32,
    pub next_visible: Timestamp,
}

/// One message of a batch that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseEntry {
    pub queue: QueueIndex,
    pub offset: QueueOffset,
    /// The number of this delivery, from 1.
    pub attempt: u32,
}

/// A filter as it is stored; parsing it is the broker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterSpec {
    pub is_sql: bool,
    pub expression: Arc<str>,
}

/// A recurring job by name; what it does is the broker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleSpec {
    pub name: Arc<str>,
    pub is_dropped: bool,
    pub content: Arc<[u8]>,
}

/// What whoever asks for it says completely: the writer adds nothing, and appends it as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// The body at `origin` will never be delivered.
    Retire {
        origin: LogPosition,
        pending: Pending,
    },
    /// The body at `origin` waits for `due` from now on.
    Move {
        origin: Pointer,
        head: Head,
        from: Pending,
        due: Timestamp,
    },
    Settle {
        group: GroupId,
        topic: TopicId,
        acks: Vec<AckRange>,
        retries: Vec<RetryEntry>,
    },
    /// An ordered batch was handed out. No `until`: renewed for as long as the client lives.
    Lease {
        group: GroupId,
        topic: TopicId,
        batch: u64,
        client: Arc<str>,
        until: Option<Timestamp>,
        entries: Vec<LeaseEntry>,
    },
    /// First contact of a group with a topic, or a new filter. Queues that are not named start at 0.
    Subscribe {
        group: GroupId,
        topic: TopicId,
        start: Vec<(QueueIndex, QueueOffset)>,
        filter: FilterSpec,
    },
    Seek {
        group: GroupId,
        topic: TopicId,
        queue: QueueIndex,
        to: QueueOffset,
        generation: u32,
    },
    Park {
        group: GroupId,
        topic: TopicId,
        message_group: u64,
        is_on: bool,
    },
    Purge {
        topic: TopicId,
        queue: QueueIndex,
        below: QueueOffset,
    },
    /// As a purge, by retention: what a group had not read is counted.
    Expire {
        topic: TopicId,
        queue: QueueIndex,
        below: QueueOffset,
    },
    Schedule(ScheduleSpec),
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A body, visible at once.
    Message {
        head: Head,
        queue: QueueIndex,
        offset: QueueOffset,
    },
    /// A body with a due time.
    Delayed {
        head: Head,
        due: Timestamp,
    },
    /// A body, half of a transaction. `due`: when it may become visible at the earliest, once committed.
    Prepared {
        head: Head,
        due: Option<Timestamp>,
        check_after_ms: u32,
        client: Arc<str>,
    },
    /// The body at `origin` becomes visible in `head.topic`.
    Publish {
        origin: Pointer,
        head: Head,
        queue: QueueIndex,
        offset: QueueOffset,
        visible_since: Timestamp,
        why: Why,
    },
    Topic(TopicSpec),
    Group(GroupSpec),
    Fact(Fact),
    /// Who votes, and the key of stored hashes, which never changes.
    Members {
        hash_key: HashKey,
        voters: Vec<u64>,
    },
    /// A leader's reign starts here.
    Epoch {
        node: u64,
    },
    /// Nothing: its batch header proves the group before it.
    Mark,
}

#[cfg(test)]
mod record_tests;
