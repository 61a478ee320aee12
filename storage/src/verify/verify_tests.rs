//! What is said of sound and of damaged directories.

use std::sync::Arc;

use base::time::ManualClock;
use base::{Chance, Timestamp, TopicName};
use parking_lot::Mutex;

use super::*;
use crate::disk::sim::SimDisk;
use crate::log::batch::HEADER_BYTES;
use crate::log::walk::Flaw;
use crate::log::{CommitRule, LogOptions};
use crate::message::{BodyPart, Envelope, MessageKind};
use crate::metrics::Metrics;
use crate::record::{Head, Pointer};
use crate::request::{Answer, BodyKind, Change, Done, NewBody, Placed, ReplySink, ReplyTo, Request, Submission};
use crate::store::{self, Recovered};
use crate::view::catalog::{TopicKind, TopicSpec};

#[derive(Default)]
struct Answers(Mutex<Vec<Answer>>);

impl ReplySink for Answers {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        self.0.lock().append(answers);
    }
}

/// A store on a simulated disk, with the topic "orders".
struct Store {
    disk: SimDisk,
    recovered: Recovered,
}

impl Store {
    fn new() -> Self {
        let disk = SimDisk::new(1);
        let mut store = Self { recovered: Self::open(&disk), disk };
        let spec = TopicSpec::new(TopicName::parse("orders").unwrap(), TopicKind::Fifo, 1, Timestamp(1));
        store.commit(Request::CreateTopic(spec));
        store
    }

    fn open(disk: &SimDisk) -> Recovered {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let log = LogOptions { segment_bytes: 1 << 20, commit: CommitRule::OnSync };
        let options = store::Options { log, node: 1, tail_cache_bytes: 0, timers: Default::default() };
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let recovered = store::recover(Arc::new(disk.clone()), options, clock, Chance::new(1), metrics);
        recovered.unwrap_or_else(|error| panic!("{error}"))
    }

    fn commit(&mut self, request: Request) -> Done {
        let sink = Arc::new(Answers::default());
        let mut one = vec![Submission { request, reply: ReplyTo { sink, ticket: 0 } }];
        let mut deliveries = self.recovered.writer.commit(&mut one);
        deliveries.pop().unwrap().answers.pop().unwrap().result.unwrap_or_else(|error| panic!("{error}"))
    }

    /// One message of a group, alone in its batch and group.
    fn send(&mut self, group: &str, part: &BodyPart) -> Placed {
        let group_hash = self.recovered.reader.hash_key().message_group(group);
        let head = Head { topic: TopicId(0), tag_hash: 0, group_hash, priority: 0 };
        let body = NewBody { head, kind: BodyKind::Visible, part: part.clone() };
        match self.commit(Request::one(Change::Body(body))) {
            Done::Changed(placed) => placed[0],
            other => panic!("{other:?}"),
        }
    }

    fn flip(&self, at: u64) {
        assert!(self.disk.flip(&segment::name(LogPosition(0)), at, 3));
    }

    /// Verifies, and holds it to having changed nothing and to finding what a recovery finds.
    fn verify(self) -> Verified {
        drop(self.recovered);
        let before = self.disk.operations();
        let verified = directory(&self.disk).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(self.disk.operations(), before, "nothing was changed");
        let report = Self::open(&self.disk).report;
        assert_eq!(verified.walked.report.quarantined, report.quarantined);
        assert_eq!(verified.walked.report.batches, report.batches);
        assert_eq!(verified.walked.report.torn.is_some(), report.torn.is_some());
        verified
    }
}

fn part(group: &str) -> BodyPart {
    let envelope = Envelope {
        message_group: Some(group.into()),
        ..Envelope::new(MessageKind::Fifo, "id".into(), Timestamp(1), "host".into())
    };
    BodyPart::encode(&envelope, &[b'x'; 5000])
}

/// Messages of groups "a", "b" and "c", with where they lie.
fn three() -> (Store, [Pointer; 3]) {
    let mut store = Store::new();
    let pointers = ["a", "b", "c"].map(|group| store.send(group, &part(group)).pointer);
    (store, pointers)
}

fn middle(pointer: Pointer) -> u64 {
    pointer.position.0 + u64::from(pointer.length) / 2
}

fn batch_of(pointer: Pointer) -> LogPosition {
    LogPosition(pointer.position.0 - HEADER_BYTES as u64)
}

#[test]
fn a_sound_store_is_counted_and_found_sound() {
    let (store, _) = three();
    let verified = store.verify();
    assert!(verified.is_sound(), "{verified:?}");
    let [segment] = &verified.segments[..] else { panic!("{verified:?}") };
    // The first batch of the store, the topic, three messages; Members and Epoch share the first.
    assert_eq!((segment.batches, segment.records, segment.bodies), (5, 6, 3));
}

#[test]
fn damage_names_range_queue_offset_and_message_group() {
    let (store, [_, b, c]) = three();
    store.flip(middle(b));
    let verified = store.verify();
    let [hole] = &verified.losses.holes[..] else { panic!("{verified:?}") };
    assert_eq!(hole.range, batch_of(b)..batch_of(c));
    assert_eq!((&hole.flaw, hole.batches), (&Flaw::Records { index: base::BatchIndex(3) }, Some(1)));
    let loss = Loss {
        topic: TopicId(0),
        queue: QueueIndex(0),
        offsets: 1..2,
        message_groups: vec!["b".into()],
        is_elsewhere_possible: false,
    };
    assert_eq!(hole.losses, [loss]);
    assert_eq!(verified.losses.topic(TopicId(0)), "orders");
    assert!(!verified.is_sound());
}

#[test]
fn without_its_header_a_lost_batch_is_named_by_its_neighbours() {
    let (store, [a, b, c]) = three();
    store.flip(batch_of(a).0 + 30);
    store.flip(batch_of(b).0 + 30);
    let verified = store.verify();
    let [hole] = &verified.losses.holes[..] else { panic!("{verified:?}") };
    assert_eq!((hole.range.clone(), &hole.flaw), (batch_of(a)..batch_of(c), &Flaw::HeaderChecksum));
    assert_eq!(hole.batches, Some(2));
    assert!(matches!(&hole.losses[..], [loss] if loss.offsets == (0..2) && loss.message_groups.is_empty()));
}

#[test]
fn the_last_message_of_a_queue_is_missed_although_nothing_follows_it() {
    let (mut store, [_, _, c]) = three();
    store.recovered.writer.mark().expect("space and power");
    store.flip(middle(c));
    let verified = store.verify();
    let [hole] = &verified.losses.holes[..] else { panic!("{verified:?}") };
    assert!(matches!(&hole.losses[..], [loss] if loss.offsets == (2..3) && loss.message_groups == ["c"]));
}

#[test]
fn a_torn_tail_is_no_damage() {
    let (store, [_, _, c]) = three();
    store.flip(middle(c));
    let verified = store.verify();
    assert!(verified.is_sound(), "{verified:?}");
    assert!(verified.walked.report.torn.is_some_and(|(position, _)| position == batch_of(c)));
}

#[test]
fn a_body_that_was_wrong_before_it_was_written_is_found_by_its_own_checksums() {
    let mut store = Store::new();
    let (crc_wrong, md5_wrong) = (part("a").damaged(|bytes| bytes[200] ^= 1), {
        part("a").damaged(|bytes| {
            bytes[20] ^= 1;
            let crc = crc32c::crc32c(&bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
        })
    });
    let first = store.send("a", &crc_wrong).pointer.position;
    let second = store.send("a", &md5_wrong).pointer.position;
    let verified = store.verify();
    let place = |offset| Some((TopicId(0), Some((QueueIndex(0), QueueOffset(offset)))));
    let [one, other] = &verified.wrong[..] else { panic!("{verified:?}") };
    assert!(matches!(one.flaw, RecordFlaw::Body(BodyError::Checksum { .. })), "{one:?}");
    assert_eq!((one.position, one.place), (first, place(0)));
    assert_eq!(other, &WrongRecord { position: second, flaw: RecordFlaw::Digest, place: place(1) });
}

#[test]
fn one_damaged_copy_of_a_segment_header_and_strange_files_are_named() {
    let (store, _) = three();
    store.disk.create("note.txt", 1).expect("space");
    store.flip(2048 + 40);
    let verified = store.verify();
    assert!(verified.segments[0].is_copy_damaged && !verified.is_sound());
    assert_eq!(verified.unknown, ["note.txt"]);
}
