//! From bytes to a record. Nothing in the bytes is trusted: what does not fit is [`Malformed`].

use base::limits::LOG_RECORD_BYTES_MAX;
use base::{GroupId, LogPosition, QueueIndex, QueueOffset, Timestamp, TopicId};

use super::{
    AckRange, DeadLetterReason, FRAME_BYTES, Fact, FilterSpec, Head, LeaseEntry, Pending, Pointer, Record, RetryEntry,
    ScheduleSpec, Why, kind,
};
use crate::codec::{Decoder, Malformed};
use crate::hash::HashKey;
use crate::view::catalog::{GroupSpec, TopicSpec};

/// A record read from a batch, with its body part when it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framed<'a> {
    pub record: Record,
    pub body: &'a [u8],
    /// As it lies in the batch, frame included.
    pub bytes: &'a [u8],
    /// Of `bytes`.
    pub length: u32,
}

/// How long the record is that begins with these bytes, frame included; none when they are no frame.
pub fn length(bytes: &[u8]) -> Option<u32> {
    let mut frame = Decoder::new("record frame", bytes);
    let kind = frame.u8().ok()?;
    let is_frame = kind != 0 && frame.take(3).ok()? == [0, 0, 0];
    let length = frame.u32().ok()?.checked_add(FRAME_BYTES as u32)?;
    (is_frame && length as usize <= LOG_RECORD_BYTES_MAX).then_some(length)
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
    let length = payload_length + FRAME_BYTES as u32;
    Ok(Framed { record, body, bytes: &bytes[..length as usize], length })
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
        kind::TOPIC => Record::Topic(TopicSpec::decode(from)?),
        kind::GROUP => Record::Group(GroupSpec::decode(from)?),
        kind::MEMBERS => {
            let hash_key = HashKey(from.bytes16()?);
            let count = from.count()?;
            Record::Members { hash_key, voters: (0..count).map(|_| from.u64()).collect::<Result<_, _>>()? }
        }
        kind::EPOCH => Record::Epoch { node: from.u64()? },
        kind::MARK => Record::Mark,
        _ => Record::Fact(decode_fact(kind, from)?),
    };
    Ok(record)
}

fn decode_fact(kind: u8, from: &mut Decoder<'_>) -> Result<Fact, Malformed> {
    let fact = match kind {
        kind::RETIRE => Fact::Retire { origin: LogPosition(from.varint()?), pending: decode_pending(from)? },
        kind::MOVE => Fact::Move {
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
            Fact::Seek { group, topic, queue, to: QueueOffset(from.varint()?), generation: from.number()? }
        }
        kind::PARK => {
            let (group, topic) = decode_pair(from)?;
            Fact::Park { group, topic, message_group: from.u64()?, is_on: decode_bool(from)? }
        }
        kind::PURGE => Fact::Purge {
            topic: TopicId(from.number()?),
            queue: QueueIndex(from.number()?),
            below: QueueOffset(from.varint()?),
        },
        kind::EXPIRE => Fact::Expire {
            topic: TopicId(from.number()?),
            queue: QueueIndex(from.number()?),
            below: QueueOffset(from.varint()?),
        },
        kind::SCHEDULE => Fact::Schedule(ScheduleSpec {
            name: from.text()?.into(),
            is_dropped: decode_bool(from)?,
            content: from.blob()?.into(),
        }),
        _ => return Err(Malformed { what: "record of an unknown kind" }),
    };
    Ok(fact)
}

fn decode_head(from: &mut Decoder<'_>) -> Result<Head, Malformed> {
    Ok(Head { topic: TopicId(from.u32()?), tag_hash: from.u32()?, group_hash: from.u64()?, priority: from.u8()? })
}

fn decode_pointer(from: &mut Decoder<'_>) -> Result<Pointer, Malformed> {
    Ok(Pointer { position: LogPosition(from.varint()?), length: from.number()? })
}

fn decode_pending(from: &mut Decoder<'_>) -> Result<Pending, Malformed> {
    match from.u8()? {
        1 => Ok(Pending::Transaction),
        2 => Ok(Pending::Timer { due: Timestamp(from.varint()?) }),
        _ => Err(from.malformed()),
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

fn decode_settle(from: &mut Decoder<'_>) -> Result<Fact, Malformed> {
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
    Ok(Fact::Settle { group, topic, acks, retries })
}

fn decode_lease(from: &mut Decoder<'_>) -> Result<Fact, Malformed> {
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
    Ok(Fact::Lease { group, topic, batch, client, until, entries })
}

fn decode_subscribe(from: &mut Decoder<'_>) -> Result<Fact, Malformed> {
    let (group, topic) = decode_pair(from)?;
    let count = from.count()?;
    let mut start = Vec::with_capacity(count);
    for _ in 0..count {
        start.push((QueueIndex(from.number()?), QueueOffset(from.varint()?)));
    }
    let filter = FilterSpec { is_sql: decode_bool(from)?, expression: from.text()?.into() };
    Ok(Fact::Subscribe { group, topic, start, filter })
}
