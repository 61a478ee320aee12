//! Every kind of record, there and back.

use base::{Backoff, GroupOrder};
use proptest::prelude::*;

use super::*;
use crate::view::catalog::TopicKind;

fn head() -> Head {
    Head { topic: TopicId(7), tag_hash: 9, group_hash: 11, priority: 3 }
}

/// One of every kind, and of every variant inside.
fn samples() -> Vec<Record> {
    let (group, topic) = (GroupId(300), TopicId(70_000));
    let (queue, offset) = (QueueIndex(5), QueueOffset(1 << 40));
    let origin = Pointer { position: LogPosition(123_456_789_012), length: 4_000_000 };
    let due = Timestamp(1_800_000_000_000);
    let publish = |why| Record::Publish { origin, head: head(), queue, offset, visible_since: due, why };
    let name = |name: &str| base::TopicName::parse(name).expect("legal");
    let backoffs = [
        Backoff::Steps([1, 300].map(std::time::Duration::from_secs).into()),
        Backoff::Exponential {
            first: std::time::Duration::from_millis(5),
            factor: 2,
            max: std::time::Duration::from_secs(9),
        },
    ];
    let group_spec = |backoff| {
        Record::Group(GroupSpec {
            id: group,
            name: base::GroupName::parse("g").expect("legal"),
            order: GroupOrder::Always,
            attempts_max: 17,
            backoff,
            invisible: std::time::Duration::from_secs(60),
            created_at: due,
            changed_at: due.plus_ms(1),
            is_dropped: false,
        })
    };
    let facts = [
        Fact::Retire { origin: origin.position, pending: Pending::Transaction },
        Fact::Retire { origin: origin.position, pending: Pending::Timer { due } },
        Fact::Move { origin, head: head(), from: Pending::Transaction, due },
        Fact::Settle {
            group,
            topic,
            acks: vec![AckRange { queue, first: offset, count: 65_536 }],
            retries: vec![RetryEntry { queue, offset, attempts: 2, next_visible: due }],
        },
        Fact::Lease {
            group,
            topic,
            batch: u64::MAX,
            client: "client".into(),
            until: None,
            entries: vec![LeaseEntry { queue, offset, attempt: 1 }],
        },
        Fact::Lease { group, topic, batch: 1, client: "client".into(), until: Some(due), entries: vec![] },
        Fact::Subscribe {
            group,
            topic,
            start: vec![(queue, offset)],
            filter: FilterSpec { is_sql: true, expression: "a > 1".into() },
        },
        Fact::Seek { group, topic, queue, to: offset, generation: 2 },
        Fact::Park { group, topic, message_group: u64::MAX, is_on: true },
        Fact::Purge { topic, queue, below: offset },
        Fact::Expire { topic, queue, below: offset },
        Fact::Schedule(ScheduleSpec { name: "nightly".into(), is_dropped: false, content: [1, 2, 3].into() }),
    ];
    let mut all = vec![
        Record::Message { head: head(), queue, offset },
        Record::Delayed { head: head(), due },
        Record::Prepared { head: head(), due: Some(due), check_after_ms: 6000, client: "c@1".into() },
        Record::Prepared { head: head(), due: None, check_after_ms: 0, client: "".into() },
        publish(Why::Due { due }),
        publish(Why::Commit),
        publish(Why::DeadLetter { group, attempts: 17, reason: DeadLetterReason::Attempts }),
        publish(Why::DeadLetter { group, attempts: 1, reason: DeadLetterReason::Forwarded }),
        publish(Why::DeadLetter { group, attempts: 1, reason: DeadLetterReason::Operator }),
        publish(Why::Redrive { group }),
        Record::Topic(TopicSpec {
            id: topic,
            is_dropped: true,
            ..TopicSpec::new(name("%DLQ%g"), TopicKind::DeadLetter, 1024, due)
        }),
        Record::Members { hash_key: HashKey([7; 16]), voters: vec![1, 2, 3] },
        Record::Epoch { node: 9 },
        Record::Mark,
    ];
    all.extend(backoffs.map(group_spec));
    all.extend(facts.map(Record::Fact));
    all
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = record.encode(&mut bytes, if record.has_body() { b"body part" } else { b"" });
    assert_eq!(length as usize, bytes.len());
    bytes
}

#[test]
fn every_kind_of_record_comes_back_as_it_was() {
    let samples = samples();
    let kinds: std::collections::BTreeSet<u8> = samples.iter().map(Record::kind).collect();
    assert_eq!(kinds, (1..=19).collect(), "a sample of every kind");
    for record in samples {
        let mut bytes = encoded(&record);
        bytes.extend_from_slice(b"the next record");
        let framed = decode(&bytes).expect("just encoded");
        assert_eq!(framed.record, record);
        assert_eq!(framed.body, if record.has_body() { &b"body part"[..] } else { b"" });
        assert_eq!(framed.length as usize, bytes.len() - b"the next record".len());
    }
}

#[test]
fn a_cut_record_is_malformed_at_every_length() {
    for record in samples() {
        let bytes = encoded(&record);
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{record:?} cut to {length}");
        }
    }
}

#[test]
fn an_unknown_kind_is_an_error() {
    assert!(decode(&[99, 0, 0, 0, 0, 0, 0, 0]).is_err());
}

proptest! {
    #[test]
    fn no_payload_makes_decoding_panic(kind in 0u8..24, payload: Vec<u8>) {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        let _ = decode(&bytes);
    }
}
