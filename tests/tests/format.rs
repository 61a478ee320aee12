//! docs/formats.md against the bytes: a reader that follows the document finds in a store's files what the store says it
//! wrote, for every kind of record.

#[path = "format/expected.rs"]
mod expected;
#[path = "format/reader.rs"]
mod reader;
#[path = "format/story.rs"]
mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::{Chance, LogPosition, QueueIndex, QueueOffset};
use reader::{Batch, Record, Segment, Value};
use storage::log::recovery;
use storage::record::decode;
use story::{OPTIONS, Story};

/// What the document's reader finds, and the store that it was found in.
fn read() -> (Story, Vec<Batch>) {
    let mut story = Story::new();
    story.live();
    let mut next = 0;
    let mut batches = Vec::new();
    let mut end = 0;
    let mut store_id = None;
    for (name, file) in story.files() {
        let segment = Segment::read(&file).expect("a sound header");
        assert_eq!(name, format!("{:020}.log", segment.base));
        assert_eq!((segment.base, segment.size), (end, file.len() as u64), "segments follow each other");
        assert_eq!(*store_id.get_or_insert(segment.store_id), segment.store_id);
        end += segment.size;
        batches.extend(segment.batches(&file, &mut next));
    }
    assert!(end > OPTIONS.log.segment_bytes, "the story fills more than one segment");
    (story, batches)
}

fn records(batches: &[Batch]) -> impl Iterator<Item = &Record> {
    batches.iter().flat_map(|batch| &batch.records)
}

#[test]
fn a_reader_that_follows_the_document_finds_every_batch_and_every_record_of_every_kind() {
    let (story, batches) = read();
    let kinds: BTreeSet<u8> = records(&batches).map(|record| record.kind).collect();
    assert_eq!(kinds, (1..=19).collect(), "a record of every kind");
    let whys = records(&batches).filter_map(|record| match record.get("why") {
        Some(Value::Fields(why)) => Some((number(why, "code"), if why.len() == 4 { number(why, "reason") } else { 0 })),
        _ => None,
    });
    let every_why = [(1, 0), (2, 0), (3, 1), (3, 2), (3, 3), (4, 0)];
    assert_eq!(whys.collect::<BTreeSet<_>>(), every_why.into(), "a publication for every reason");
    let mut found = batches.iter();
    let mut visit = |stored: recovery::Found<'_>| {
        let batch = found.next().expect("as many batches");
        let header = stored.header;
        let ours = (batch.position, batch.index, batch.term, batch.stored_at, batch.durable);
        let theirs = (header.position.0, header.index.0, header.term.0, header.stored_at.0, header.durable().0);
        assert_eq!(ours, theirs);
        let mut rest = stored.records;
        for record in &batch.records {
            let framed = decode(rest).expect("what the store wrote");
            assert_eq!((record.kind, record.length), (framed.record.kind(), framed.length.into()));
            assert_eq!(record.fields, expected::fields(&framed.record), "at {}", record.position);
            rest = &rest[framed.length as usize..];
        }
        assert!(rest.is_empty());
    };
    let disk = Arc::new(story.disk.image());
    recovery::open(disk, OPTIONS.log, None, Chance::new(1), &mut visit).expect("a healthy disk");
    assert!(found.next().is_none(), "as many batches");
}

#[test]
fn bodies_and_their_digests_are_those_that_the_store_gives_out() {
    let (story, batches) = read();
    let reader = &story.running.as_ref().expect("open").reader;
    let mut count = 0;
    for record in records(&batches) {
        let Some(body) = &record.body else { continue };
        let stored = reader.fetch(Story::at(record.position, record.length)).expect("a healthy disk");
        assert_eq!(body.md5, stored.md5);
        assert_eq!(body.md5, storage::message::digest(&body.body));
        assert_eq!(body.body, stored.body);
        assert_eq!(body.envelope, expected::envelope(&stored.envelope));
        count += 1;
    }
    assert!(count > 60, "{count} bodies");
}

#[test]
fn hashes_are_what_the_document_says_of_tags_and_message_groups() {
    let (_, batches) = read();
    let Some(Value::Bytes(key)) = batches[0].records[0].get("hash key") else {
        panic!("the first record holds the key")
    };
    let key: [u8; 16] = key[..].try_into().expect("sixteen bytes");
    for record in records(&batches) {
        let (Some(body), Some(Value::Fields(head))) = (&record.body, record.get("head")) else { continue };
        let text = |name: &str| {
            let field = body.envelope.iter().find(|(known, _)| *known == name);
            field.map(|(_, value)| match value {
                Value::Text(text) => text.clone().into_bytes(),
                other => panic!("{name} is {other:?}"),
            })
        };
        let tag = text("tag").map_or(0, |tag| {
            let hash = reader::siphash(&key, &tag);
            ((hash ^ hash >> 32) & 0xFFFF_FFFF).max(1)
        });
        let group = text("message group").map_or(0, |group| reader::siphash(&key, &group).max(1));
        assert!(head.contains(&("tag hash", Value::Number(tag))), "{record:?}");
        assert!(head.contains(&("group hash", Value::Number(group))), "{record:?}");
    }
}

/// What becomes visible, by the document's words on what each kind is applied to.
#[test]
fn queues_timers_and_transactions_that_follow_from_the_records_are_those_of_the_store() {
    let (story, batches) = read();
    let mut queues: BTreeMap<(u64, u64), Vec<(u64, u64)>> = BTreeMap::new();
    let mut timers: BTreeMap<u64, u64> = BTreeMap::new();
    let mut prepared: BTreeSet<u64> = BTreeSet::new();
    for record in records(&batches) {
        let origin = match record.get("origin") {
            Some(Value::Fields(pointer)) => number(pointer, "position"),
            Some(Value::Number(position)) => *position,
            _ => record.position,
        };
        if let (1 | 4, Some(Value::Fields(head))) = (record.kind, record.get("head")) {
            let queue = queues.entry((number(head, "topic"), record.number("queue"))).or_default();
            assert_eq!(queue.len() as u64, record.number("offset"), "offsets are dense");
            let length = match record.get("origin") {
                Some(Value::Fields(pointer)) => number(pointer, "length"),
                _ => record.length,
            };
            queue.push((origin, length));
        }
        match record.kind {
            2 => drop(timers.insert(origin, record.number("due"))),
            3 => drop(prepared.insert(origin)),
            4 if matches!(record.get("why"), Some(Value::Fields(why)) if number(why, "code") <= 2) => {
                timers.remove(&origin);
                prepared.remove(&origin);
            }
            5 | 6 => {
                timers.remove(&origin);
                prepared.remove(&origin);
                if record.kind == 6 {
                    timers.insert(origin, record.number("due"));
                }
            }
            _ => {}
        }
    }
    let running = story.running.as_ref().expect("open");
    for ((topic, queue), entries) in &queues {
        let catalog = running.reader.catalog();
        let topic = catalog.topic_by_id(base::TopicId(u32::try_from(*topic).expect("small"))).expect("made");
        let queue = topic.queue(QueueIndex(u16::try_from(*queue).expect("small"))).expect("made");
        assert_eq!(queue.bounds().next.0, entries.len() as u64);
        for (offset, entry) in (queue.bounds().first.0..).zip(entries.iter().skip(queue.bounds().first.0 as usize)) {
            let stored = queue.entry(QueueOffset(offset)).expect("inside its bounds");
            assert_eq!(stored.pointer(), Story::at(entry.0, entry.1));
        }
    }
    let stored = running.timer.timers().all().expect("its runs can be read");
    let stored = stored.iter().map(|timer| (timer.pointer.position.0, timer.due.0));
    assert_eq!(stored.collect::<BTreeMap<_, _>>(), timers);
    let transactions = running.reader.transactions().lock();
    assert_eq!(transactions.iter().map(|prepared| prepared.pointer.position.0).collect::<BTreeSet<_>>(), prepared);
    assert!(prepared.iter().all(|origin| transactions.prepared(LogPosition(*origin)).is_some()));
}

fn number(fields: &reader::Fields, name: &str) -> u64 {
    match fields.iter().find(|(known, _)| *known == name) {
        Some((_, Value::Number(number))) => *number,
        other => panic!("{name} is {other:?}"),
    }
}
