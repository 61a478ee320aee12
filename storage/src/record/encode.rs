//! From a record to its bytes.

use base::{GroupId, Timestamp, TopicId};

use super::{AckRange, FRAME_BYTES, Fact, Head, Pending, Pointer, Record, RetryEntry, Why};
use crate::codec::Encode;

impl Record {
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
        Record::Fact(fact) => encode_fact(out, fact),
        Record::Topic(spec) => spec.encode(out),
        Record::Group(spec) => spec.encode(out),
        Record::Members { hash_key, voters } => {
            out.extend_from_slice(&hash_key.0);
            out.varint(voters.len() as u64);
            voters.iter().for_each(|voter| out.u64(*voter));
        }
        Record::Epoch { node } => out.u64(*node),
        Record::Mark => {}
    }
}

fn encode_fact(out: &mut Vec<u8>, fact: &Fact) {
    match fact {
        Fact::Retire { origin, pending } => {
            out.varint(origin.0);
            encode_pending(out, pending);
        }
        Fact::Move { origin, head, from, due } => {
            encode_pointer(out, origin);
            encode_head(out, head);
            encode_pending(out, from);
            out.varint(due.0);
        }
        Fact::Settle { group, topic, acks, retries } => encode_settle(out, *group, *topic, acks, retries),
        Fact::Lease { group, topic, batch, client, until, entries } => {
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
        Fact::Subscribe { group, topic, start, filter } => {
            encode_pair(out, *group, *topic);
            out.varint(start.len() as u64);
            for (queue, offset) in start {
                out.varint(queue.0.into());
                out.varint(offset.0);
            }
            out.u8(filter.is_sql.into());
            out.text(&filter.expression);
        }
        Fact::Seek { group, topic, queue, to, generation } => {
            encode_pair(out, *group, *topic);
            out.varint(queue.0.into());
            out.varint(to.0);
            out.varint((*generation).into());
        }
        Fact::Park { group, topic, message_group, is_on } => {
            encode_pair(out, *group, *topic);
            out.u64(*message_group);
            out.u8((*is_on).into());
        }
        Fact::Purge { topic, queue, below } | Fact::Expire { topic, queue, below } => {
            out.varint(topic.0.into());
            out.varint(queue.0.into());
            out.varint(below.0);
        }
        Fact::Schedule(spec) => {
            out.text(&spec.name);
            out.u8(spec.is_dropped.into());
            out.blob(&spec.content);
        }
    }
}

fn encode_head(out: &mut Vec<u8>, head: &Head) {
    out.u32(head.topic.0);
    out.u32(head.tag_hash);
    out.u64(head.group_hash);
    out.u8(head.priority);
}

fn encode_pointer(out: &mut Vec<u8>, pointer: &Pointer) {
    out.varint(pointer.position.0);
    out.varint(pointer.length.into());
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

fn encode_pair(out: &mut Vec<u8>, group: GroupId, topic: TopicId) {
    out.varint(group.0.into());
    out.varint(topic.0.into());
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
