//! Records: what a batch says happened. A pointer record carries all that its view needs, so applying one never reads
//! another. Byte layout: docs/formats.md, "Records".
//!
//! R1. Decoding what was encoded gives the same record; nothing is left over.
//! R2. An unknown kind is an error, never skipped: a later version sets a feature bit before it writes one.

use std::sync::Arc;

use base::{GroupId, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};

use crate::codec::{Decoder, Encode, Malformed};
use crate::hash::HashKey;
use crate::view::catalog::{GroupSpec, TopicSpec};

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
    Topic(TopicSpec),
    Group(GroupSpec),
    Schedule(ScheduleSpec),
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

/// Kinds as they are stored.
mod kind {
    pub const MESSAGE: u8 = 1;
    pub const DELAYED: u8 = 2;
    pub const PREPARED: u8 = 3;
    pub const PUBLISH: u8 = 4;
    pub const RETIRE: u8 = 5;
    pub const MOVE: u8 = 6;
    pub const SETTLE: u8 = 7;
    pub const LEASE: u8 = 8;
    pub const SUBSCRIBE: u8 = 9;
    pub const SEEK: u8 = 10;
    pub const PARK: u8 = 11;
    pub const PURGE: u8 = 12;
    pub const TOPIC: u8 = 13;
    pub const GROUP: u8 = 14;
    pub const SCHEDULE: u8 = 15;
    pub const MEMBERS: u8 = 16;
    pub const EPOCH: u8 = 17;
    pub const MARK: u8 = 18;
}

impl Record {
    pub fn kind(&self) -> u8 {
        match self {
            Self::Message { .. } => kind::MESSAGE,
            Self::Delayed { .. } => kind::DELAYED,
            Self::Prepared { .. } => kind::PREPARED,
            Self::Publish { .. } => kind::PUBLISH,
            Self::Retire { .. } => kind::RETIRE,
            Self::Move { .. } => kind::MOVE,
            Self::Settle { .. } => kind::SETTLE,
            Self::Lease { .. } => kind::LEASE,
            Self::Subscribe { .. } => kind::SUBSCRIBE,
            Self::Seek { .. } => kind::SEEK,
            Self::Park { .. } => kind::PARK,
            Self::Purge { .. } => kind::PURGE,
            Self::Topic(_) => kind::TOPIC,
            Self::Group(_) => kind::GROUP,
            Self::Schedule(_) => kind::SCHEDULE,
            Self::Members { .. } => kind::MEMBERS,
            Self::Epoch { .. } => kind::EPOCH,
            Self::Mark => kind::MARK,
        }
    }

    /// Whether a body part follows the payload's own fields.
    pub fn has_body(&self) -> bool {
        matches!(self, Self::Message { .. } | Self::Delayed { .. } | Self::Prepared { .. })
    }

    /// Appends frame, payload and body part. Gives the bytes appended.
    pub fn encode(&self, out: &mut Vec<u8>, body: &[u8]) -> u32 {
        assert_eq!(self.has_body(), !body.is_empty(), "a body belongs to body records, and to no others");
        let start = out.len();
        out.extend_from_slice(&[self.kind(), 0, 0, 0, 0, 0, 0, 0]);
        encode_payload(out, self);
        out.extend_from_slice(body);
        let payload =
            u32::try_from(out.len() - start - FRAME_BYTES).expect("records are bounded by LOG_RECORD_BYTES_MAX");
        out[start + 4..start + FRAME_BYTES].copy_from_slice(&payload.to_le_bytes());
        payload + FRAME_BYTES as u32
    }
}

/// A record read from a batch, with its body part when it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framed<'a> {
    pub record: Record,
    pub body: &'a [u8],
    /// Frame included.
    pub length: u32,
}

/// Reads the record at the front of `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Framed<'_>, Malformed> {
    let mut frame = Decoder::new("record frame", bytes);
    let kind = frame.u8()?;
    if frame.take(3)? != [0, 0, 0] {
        return Err(frame.malformed());
    }
    let payload_length = frame.u32()?;
    let payload = frame.take(usize::try_from(payload_length).map_err(|_| frame.malformed())?)?;
    let mut decoder = Decoder::new("record payload", payload);
    let record = decode_payload(kind, &mut decoder)?;
    let body = decoder.rest();
    if record.has_body() == body.is_empty() {
        return Err(decoder.malformed());
    }
    Ok(Framed { record, body, length: payload_length + FRAME_BYTES as u32 })
}

fn encode_payload(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Message { head, queue, offset } => {
            encode_head(out, head);
            out.u16(queue.0);
            out.u64(offset.0);
        }
        Record::Delayed { head, due } => {
            encode_head(out, head);
            out.u64(due.0);
        }
        Record::Prepared { head, due, check_after_ms, client } => {
            encode_head(out, head);
            out.u64(due.unwrap_or(Timestamp::ZERO).0);
            out.u32(*check_after_ms);
            out.text(client);
        }
        Record::Publish { origin, head, queue, offset, visible_since, why } => {
            encode_pointer(out, origin);
            encode_head(out, head);
            out.u16(queue.0);
            out.u64(offset.0);
            out.varint(visible_since.0);
            encode_why(out, why);
        }
        Record::Retire { origin, pending } => {
            out.varint(origin.0);
            encode_pending(out, pending);
        }
        Record::Move { origin, head, from, due } => {
            encode_pointer(out, origin);
            encode_head(out, head);
            encode_pending(out, from);
            out.varint(due.0);
        }
        Record::Settle { group, topic, acks, retries } => encode_settle(out, *group, *topic, acks, retries),
        Record::Lease { group, topic, batch, client, until, entries } => {
            encode_pair(out, *group, *topic);
            out.varint(*batch);
            out.text(client);
            out.varint(until.unwrap_or(Timestamp::ZERO).0);
            out.varint(entries.len() as u64);
            for entry in entries {
                out.varint(entry.queue.0.into());
                out.varint(entry.offset.0);
                out.varint(entry.attempt.into());
            }
        }
        Record::Subscribe { group, topic, start, filter } => {
            encode_pair(out, *group, *topic);
            out.varint(start.len() as u64);
            for (queue, offset) in start {
                out.varint(queue.0.into());
                out.varint(offset.0);
            }
            out.u8(filter.is_sql.into());
            out.text(&filter.expression);
        }
        Record::Seek { group, topic, queue, to, generation } => {
            encode_pair(out, *group, *topic);
            out.varint(queue.0.into());
            out.varint(to.0);
            out.varint((*generation).into());
        }
        Record::Park { group, topic, message_group, is_on } => {
            encode_pair(out, *group, *topic);
            out.u64(*message_group);
            out.u8((*is_on).into());
        }
        Record::Purge { topic, queue, below } => {
            out.varint(topic.0.into());
            out.varint(queue.0.into());
            out.varint(below.0);
        }
        Record::Topic(spec) => spec.encode(out),
        Record::Group(spec) => spec.encode(out),
        Record::Schedule(spec) => {
            out.text(&spec.name);
            out.u8(spec.is_dropped.into());
            out.blob(&spec.content);
        }
        Record::Members { hash_key, voters } => {
            out.extend_from_slice(&hash_key.0);
            out.varint(voters.len() as u64);
            voters.iter().for_each(|voter| out.u64(*voter));
        }
        Record::Epoch { node } => out.u64(*node),
        Record::Mark => {}
    }
}

fn decode_payload(kind: u8, from: &mut Decoder<'_>) -> Result<Record, Malformed> {
    let record = match kind {
        kind::MESSAGE => Record::Message {
            head: decode_head(from)?,
            queue: QueueIndex(from.u16()?),
            offset: QueueOffset(from.u64()?),
        },
        kind::DELAYED => Record::Delayed { head: decode_head(from)?, due: Timestamp(from.u64()?) },
        kind::PREPARED => Record::Prepared {
            head: decode_head(from)?,
            due: Some(Timestamp(from.u64()?)).filter(|due| *due != Timestamp::ZERO),
            check_after_ms: from.u32()?,
            client: from.text()?.into(),
        },
        kind::PUBLISH => Record::Publish {
            origin: decode_pointer(from)?,
            head: decode_head(from)?,
            queue: QueueIndex(from.u16()?),
            offset: QueueOffset(from.u64()?),
            visible_since: Timestamp(from.varint()?),
            why: decode_why(from)?,
        },
        kind::RETIRE => Record::Retire { origin: LogPosition(from.varint()?), pending: decode_pending(from)? },
        kind::MOVE => Record::Move {
            origin: decode_pointer(from)?,
            head: decode_head(from)?,
            from: decode_pending(from)?,
            due: Timestamp(from.varint()?),
        },
        kind::SETTLE => decode_settle(from)?,
        kind::LEASE => decode_lease(from)?,
        kind::SUBSCRIBE => decode_subscribe(from)?,
        kind::SEEK => {
            let (group, topic) = decode_pair(from)?;
            let queue = QueueIndex(from.number()?);
            Record::Seek { group, topic, queue, to: QueueOffset(from.varint()?), generation: from.number()? }
        }
        kind::PARK => {
            let (group, topic) = decode_pair(from)?;
            Record::Park { group, topic, message_group: from.u64()?, is_on: decode_bool(from)? }
        }
        kind::PURGE => Record::Purge {
            topic: TopicId(from.number()?),
            queue: QueueIndex(from.number()?),
            below: QueueOffset(from.varint()?),
        },
        kind::TOPIC => Record::Topic(TopicSpec::decode(from)?),
        kind::GROUP => Record::Group(GroupSpec::decode(from)?),
        kind::SCHEDULE => Record::Schedule(ScheduleSpec {
            name: from.text()?.into(),
            is_dropped: decode_bool(from)?,
            content: from.blob()?.into(),
        }),
        kind::MEMBERS => {
            let hash_key = HashKey(from.bytes16()?);
            let count = from.count()?;
            Record::Members { hash_key, voters: (0..count).map(|_| from.u64()).collect::<Result<_, _>>()? }
        }
        kind::EPOCH => Record::Epoch { node: from.u64()? },
        kind::MARK => Record::Mark,
        _ => return Err(Malformed { what: "record of an unknown kind" }),
    };
    Ok(record)
}

fn encode_head(out: &mut Vec<u8>, head: &Head) {
    out.u32(head.topic.0);
    out.u32(head.tag_hash);
    out.u64(head.group_hash);
    out.u8(head.priority);
}

fn decode_head(from: &mut Decoder<'_>) -> Result<Head, Malformed> {
    Ok(Head { topic: TopicId(from.u32()?), tag_hash: from.u32()?, group_hash: from.u64()?, priority: from.u8()? })
}

fn encode_pointer(out: &mut Vec<u8>, pointer: &Pointer) {
    out.varint(pointer.position.0);
    out.varint(pointer.length.into());
}

fn decode_pointer(from: &mut Decoder<'_>) -> Result<Pointer, Malformed> {
    Ok(Pointer { position: LogPosition(from.varint()?), length: from.number()? })
}

fn encode_pending(out: &mut Vec<u8>, pending: &Pending) {
    match pending {
        Pending::Transaction => out.u8(1),
        Pending::Timer { due } => {
            out.u8(2);
            out.varint(due.0);
        }
    }
}

fn decode_pending(from: &mut Decoder<'_>) -> Result<Pending, Malformed> {
    match from.u8()? {
        1 => Ok(Pending::Transaction),
        2 => Ok(Pending::Timer { due: Timestamp(from.varint()?) }),
        _ => Err(from.malformed()),
    }
}

fn encode_why(out: &mut Vec<u8>, why: &Why) {
    match why {
        Why::Due { due } => {
            out.u8(1);
            out.varint(due.0);
        }
        Why::Commit => out.u8(2),
        Why::DeadLetter { group, attempts, reason } => {
            out.u8(3);
            out.varint(group.0.into());
            out.varint((*attempts).into());
            out.u8(*reason as u8);
        }
        Why::Redrive { group } => {
            out.u8(4);
            out.varint(group.0.into());
        }
    }
}

fn decode_why(from: &mut Decoder<'_>) -> Result<Why, Malformed> {
    Ok(match from.u8()? {
        1 => Why::Due { due: Timestamp(from.varint()?) },
        2 => Why::Commit,
        3 => Why::DeadLetter {
            group: GroupId(from.number()?),
            attempts: from.number()?,
            reason: match from.u8()? {
                1 => DeadLetterReason::Attempts,
                2 => DeadLetterReason::Forwarded,
                3 => DeadLetterReason::Operator,
                _ => return Err(from.malformed()),
            },
        },
        4 => Why::Redrive { group: GroupId(from.number()?) },
        _ => return Err(from.malformed()),
    })
}

fn encode_pair(out: &mut Vec<u8>, group: GroupId, topic: TopicId) {
    out.varint(group.0.into());
    out.varint(topic.0.into());
}

fn decode_pair(from: &mut Decoder<'_>) -> Result<(GroupId, TopicId), Malformed> {
    Ok((GroupId(from.number()?), TopicId(from.number()?)))
}

fn decode_bool(from: &mut Decoder<'_>) -> Result<bool, Malformed> {
    match from.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(from.malformed()),
    }
}

fn encode_settle(out: &mut Vec<u8>, group: GroupId, topic: TopicId, acks: &[AckRange], retries: &[RetryEntry]) {
    encode_pair(out, group, topic);
    out.varint(acks.len() as u64);
    for range in acks {
        out.varint(range.queue.0.into());
        out.varint(range.first.0);
        out.varint(range.count);
    }
    out.varint(retries.len() as u64);
    for retry in retries {
        out.varint(retry.queue.0.into());
        out.varint(retry.offset.0);
        out.varint(retry.attempts.into());
        out.varint(retry.next_visible.0);
    }
}

fn decode_settle(from: &mut Decoder<'_>) -> Result<Record, Malformed> {
    let (group, topic) = decode_pair(from)?;
    let count = from.count()?;
    let mut acks = Vec::with_capacity(count);
    for _ in 0..count {
        let (queue, first) = (QueueIndex(from.number()?), QueueOffset(from.varint()?));
        acks.push(AckRange { queue, first, count: from.varint()? });
    }
    let count = from.count()?;
    let mut retries = Vec::with_capacity(count);
    for _ in 0..count {
        let (queue, offset) = (QueueIndex(from.number()?), QueueOffset(from.varint()?));
        let (attempts, next_visible) = (from.number()?, Timestamp(from.varint()?));
        retries.push(RetryEntry { queue, offset, attempts, next_visible });
    }
    Ok(Record::Settle { group, topic, acks, retries })
}

fn decode_lease(from: &mut Decoder<'_>) -> Result<Record, Malformed> {
    let (group, topic) = decode_pair(from)?;
    let batch = from.varint()?;
    let client = from.text()?.into();
    let until = Some(Timestamp(from.varint()?)).filter(|until| *until != Timestamp::ZERO);
    let count = from.count()?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let (queue, offset) = (QueueIndex(from.number()?), QueueOffset(from.varint()?));
        entries.push(LeaseEntry { queue, offset, attempt: from.number()? });
    }
    Ok(Record::Lease { group, topic, batch, client, until, entries })
}

fn decode_subscribe(from: &mut Decoder<'_>) -> Result<Record, Malformed> {
    let (group, topic) = decode_pair(from)?;
    let count = from.count()?;
    let mut start = Vec::with_capacity(count);
    for _ in 0..count {
        start.push((QueueIndex(from.number()?), QueueOffset(from.varint()?)));
    }
    let filter = FilterSpec { is_sql: decode_bool(from)?, expression: from.text()?.into() };
    Ok(Record::Subscribe { group, topic, start, filter })
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
