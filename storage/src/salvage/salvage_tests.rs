//! Stores of which no checkpoint is left.

use std::ops::ControlFlow;

use base::time::ManualClock;
use base::{GroupId, QueueIndex, QueueOffset, Timestamp, TopicId};

use base::LogPosition;

use super::*;
use crate::checkpoint;
use crate::disk::sim::SimDisk;
use crate::hash::Lookup;
use crate::index;
use crate::lookup::Query;
use crate::record::{AckRange, Record};
use crate::upkeep::aged_tests::{Aged, open as open_sim};
use crate::verify::directory;

/// Without its first segment, and with all manifests garbled: where they say what the hashes are made with, or elsewhere.
fn ruined(at: u64) -> Aged {
    let aged = Aged::new();
    aged.disk.remove(&segment::name(LogPosition(0))).unwrap();
    aged.disk.remove(&index::name(LogPosition(0))).unwrap();
    for number in checkpoint::numbers(&aged.names()) {
        assert!(aged.disk.flip(&checkpoint::manifest_name(number), at, 1));
    }
    aged
}

/// No half of a table can be read either.
fn without_tables(aged: Aged) -> Aged {
    let names = aged.names();
    let tables = names.iter().filter(|name| checkpoint::parse_data_name(name).is_some());
    tables.for_each(|name| assert!(aged.disk.flip(name, 4100, 1)));
    aged
}

fn begin(disk: &SimDisk) -> Result<(), SalvageError> {
    let remains = look(disk)?;
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(2_000_000)));
    begin_anew(&disk, &clock, Chance::new(5), &remains)
}

#[test]
fn a_store_without_checkpoints_opens_with_what_is_left_and_says_before_what_that_is() {
    let mut aged = without_tables(ruined(60));
    let error = open_sim(&aged.disk).err().unwrap();
    assert!(matches!(error, OpenError::NothingLeft { .. }) && error.to_string().contains("carillon doctor --fix"));
    let before = aged.disk.operations();
    let remains = look(&aged.disk).unwrap();
    assert_eq!(aged.disk.operations(), before, "nothing was changed");
    let first = aged.placed.iter().position(|placed| placed.pointer.position >= remains.begins()).unwrap() as u64;
    assert!(first > 0 && remains.messages == 60 - first, "{remains:?}");
    assert_eq!((remains.key, remains.topics[&TopicId(0)].spec.is_none()), (KeyRemains::Known, true));
    assert_eq!(remains.missing.first().map(|gone| gone.end), Some(remains.begins()));

    let twin = aged.disk.image();
    remains.write_beginning(&twin, &mut Chance::new(1), Timestamp(1)).unwrap();
    assert_eq!(open_sim(&twin).unwrap().writer.views().lost_entries, 0, "what lies before the beginning takes no room");

    let key = *aged.recovered.reader.hash_key();
    begin(&aged.disk).unwrap();
    assert!(directory(&aged.disk).unwrap().is_whole());
    aged.restart().unwrap();
    assert_eq!(*aged.recovered.reader.hash_key(), key, "one flipped bit elsewhere does not lose the key");
    let catalog = aged.recovered.reader.catalog().clone();
    let topic = catalog.topic_by_id(TopicId(0)).unwrap();
    assert_eq!(topic.spec.name.as_str(), "recovered-topic-0");
    let bounds = topic.queue(QueueIndex(0)).unwrap().bounds();
    assert_eq!((bounds.first, bounds.next), (QueueOffset(first), QueueOffset(60)));
    for offset in first..60 {
        assert!(matches!(aged.fetch(offset), Some(Ok(5000))), "{offset}");
    }
    assert_eq!((catalog.next_topic(), aged.recovered.upkeep.holes().len()), (TopicId(1), 0));
}

#[test]
fn a_key_that_is_damaged_in_every_manifest_is_lost_and_the_messages_are_not() {
    // Byte 40 lies in the key.
    let mut aged = ruined(40);
    let remains = look(&aged.disk).unwrap();
    assert_eq!(remains.key, KeyRemains::Lost);
    begin(&aged.disk).unwrap();
    aged.restart().unwrap();
    assert!(matches!(aged.fetch(59), Some(Ok(5000))));
    // Index files are made with the new key: a message is found by its id.
    let (reader, topic) = (&aged.recovered.reader, TopicId(0));
    let query = Query {
        topics: &[topic],
        what: Lookup::Id,
        text: "id20",
        below: None,
        stored: Timestamp::ZERO..=Timestamp::MAX,
    };
    let (mut found, applied) = (Vec::new(), aged.recovered.writer.log().positions().applied);
    reader.look_ups().find(&query, applied, &mut |body| {
        found.push(body.pointer);
        ControlFlow::Continue(())
    });
    assert_eq!(found, [aged.placed[20].pointer]);
}

#[test]
fn what_the_rest_of_the_log_says_about_topics_and_orphaned_groups_is_used_and_told() {
    let mut aged = Aged::new();
    let acks = vec![AckRange { queue: QueueIndex(0), first: QueueOffset(58), count: 2 }];
    let settle = Fact::Settle { group: GroupId(3), topic: TopicId(0), acks, retries: Vec::new() };
    let spec = aged.recovered.reader.catalog().topic_by_id(TopicId(0)).unwrap().spec.clone();
    aged.recovered.writer.append_own(&[Record::Fact(settle), Record::Topic(spec)]).unwrap();
    let mut aged = without_tables(aged);
    aged.disk.remove(&segment::name(LogPosition(0))).unwrap();
    for number in checkpoint::numbers(&aged.names()) {
        aged.disk.remove(&checkpoint::manifest_name(number)).unwrap();
    }
    let remains = look(&aged.disk).unwrap();
    assert_eq!(remains.name_of(TopicId(0)).as_str(), "orders");
    assert!(remains.groups[&GroupId(3)].spec.is_none(), "{remains:?}");
    begin(&aged.disk).unwrap();
    aged.restart().unwrap();
    let catalog = aged.recovered.reader.catalog().clone();
    assert_eq!(catalog.topic_by_id(TopicId(0)).unwrap().spec.name.as_str(), "orders");
    assert_eq!(catalog.next_group(), GroupId(4), "its number is not given to another");
    assert!(matches!(aged.fetch(59), Some(Ok(5000))));
}

#[test]
fn a_table_of_the_catalog_says_what_topics_are_called_though_no_manifest_names_it() {
    let mut aged = ruined(60);
    let remains = look(&aged.disk).unwrap();
    assert!(remains.is_catalog_left);
    begin(&aged.disk).unwrap();
    aged.restart().unwrap();
    let catalog = aged.recovered.reader.catalog().clone();
    let topic = catalog.topic_by_id(TopicId(0)).unwrap();
    assert_eq!((topic.spec.name.as_str(), topic.spec.kind), ("orders", crate::view::catalog::TopicKind::Fifo));
    assert!(matches!(aged.fetch(59), Some(Ok(5000))));
}

#[test]
fn a_store_that_is_tended_has_no_stray_and_no_damaged_file() {
    let mut aged = Aged::new();
    let names = aged.names();
    let indexes: Vec<&String> = names.iter().filter(|name| name.ends_with(".index")).collect();
    assert!(aged.disk.flip(indexes[0], 5000, 1));
    aged.disk.remove(indexes[1]).unwrap();
    let copy = names.iter().find(|name| name.starts_with("progress-") || name.starts_with("queues-")).unwrap();
    assert!(aged.disk.flip(copy, 4100, 1));
    let strays = [checkpoint::data_name(crate::table::Kind::Queues, 999), index::name(LogPosition(1 << 40))];
    strays.iter().for_each(|name| drop(aged.disk.create(name, 10).unwrap()));
    assert!(!directory(&aged.disk).unwrap().is_whole());
    let disk: Arc<dyn Disk> = Arc::new(aged.disk.clone());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(2_000_000)));
    tend(&disk, &clock, Chance::new(5)).unwrap();
    let verified = directory(&aged.disk).unwrap();
    assert!(verified.is_whole(), "{:?}", verified.beside);
    assert!(strays.iter().all(|name| !aged.names().contains(name)), "{:?}", aged.names());
    aged.restart().unwrap();
    assert!((0..60).all(|offset| matches!(aged.fetch(offset), Some(Ok(5000)))));
}
