//! What is found, where it lies, and what that costs.

use std::cell::RefCell;
use std::ops::ControlFlow;

use base::{LogPosition, QueueOffset, Timestamp, TopicId};

use super::*;
use crate::checkpoint::old_store::{OldStore, Q, TOPIC};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::hash::{HashKey, Lookup};
use crate::index::{self, SegmentIndex, Site};
use crate::log::{sealed, segment};
use crate::message::{BodyPart, Envelope, MessageKind};
use crate::record::{Fact, Head, Pending, Pointer, Why};
use crate::request::{BodyKind, Change, Done, NewBody, Request};
use crate::store::Recovered;
use crate::timer::TimerCore;
use crate::upkeep::aged_tests::Aged;
use crate::view::transactions::{Outcome, Transactions};

const ALWAYS: std::ops::RangeInclusive<Timestamp> = Timestamp::ZERO..=Timestamp::MAX;

fn query<'a>(topics: &'a [TopicId], what: Lookup, text: &'a str) -> Query<'a> {
    Query { topics, what, text, below: None, stored: ALWAYS }
}

/// Members of a message group from there on, however many lie behind.
pub(super) fn wanted(group_hash: u64, from: u64, max: usize) -> Wanted {
    Wanted { group_hash, from: QueueOffset(from), until: QueueOffset(u64::MAX), max, walked_max: usize::MAX }
}

/// Everything that a query finds, and how far it came.
fn find(parts: &Recovered, query: &Query<'_>) -> (Vec<Body>, Found) {
    let mut bodies = Vec::new();
    let found = parts.reader.look_ups().find(query, parts.writer.log().positions().applied, &mut |body| {
        bodies.push(body);
        ControlFlow::Continue(())
    });
    (bodies, found)
}

fn ids(parts: &Recovered, what: Lookup, text: &str) -> Vec<String> {
    let (bodies, found) = find(parts, &query(&[TOPIC], what, text));
    assert!(found.gaps.is_empty() && found.next.is_none(), "{found:?}");
    bodies.into_iter().map(|body| body.message.envelope.message_id).collect()
}

/// Owners of views, all on one thread.
struct Owners<'a> {
    applied: LogPosition,
    timer: RefCell<&'a mut TimerCore>,
    reader: &'a crate::store::Reader,
}

impl Views for Owners<'_> {
    fn applied(&self) -> LogPosition {
        self.applied
    }

    fn is_waiting(&self, due: Timestamp, origin: LogPosition) -> Option<bool> {
        self.timer.borrow_mut().timers_mut().is_pending(due, origin).ok()
    }

    fn with_transactions<T>(&self, look: impl FnOnce(&Transactions) -> T) -> T {
        look(&self.reader.transactions().lock())
    }
}

fn state(store: &mut OldStore, id: &str) -> State {
    let Recovered { writer, timer, reader, .. } = store.parts();
    let applied = writer.log().positions().applied;
    let mut bodies = Vec::new();
    let looks = reader.look_ups();
    looks.find(&query(&[TOPIC], Lookup::Id, id), applied, &mut |body| {
        bodies.push(body);
        ControlFlow::Continue(())
    });
    let [body] = &bodies[..] else { panic!("{id}: {bodies:?}") };
    let topic = reader.catalog().topic_by_id(TOPIC).expect("made").clone();
    let mut gaps = Gaps::default();
    let state = looks.state(body, &topic, &Owners { applied, timer: RefCell::new(timer), reader }, &mut gaps);
    assert!(gaps.is_empty(), "{gaps:?}");
    state
}

/// A message of message group "b", with the key "shared".
pub(super) fn send(store: &mut OldStore, id: &str, kind: BodyKind) -> (Pointer, Head) {
    let group_hash = store.parts().reader.hash_key().message_group("b");
    let envelope = Envelope {
        keys: vec!["shared".into(), "shared".into()],
        message_group: Some("b".into()),
        ..Envelope::new(MessageKind::Fifo, id.into(), Timestamp(7), "host".into())
    };
    let head = Head { topic: TOPIC, tag_hash: 0, group_hash, priority: 0 };
    let body = NewBody { head, kind, part: BodyPart::encode(&envelope, b"body") };
    match store.commit(Request::one(Change::Body(body))) {
        Ok(Done::Changed(placed)) => (placed[0].pointer, head),
        other => panic!("{other:?}"),
    }
}

fn delayed(due: u64) -> BodyKind {
    BodyKind::Delayed { due: Timestamp(due) }
}

fn prepared(due: Option<u64>) -> BodyKind {
    BodyKind::Prepared { due: due.map(Timestamp), check_after_ms: 1000, client: "c".into() }
}

fn publish(store: &mut OldStore, (origin, head): (Pointer, Head), due: u64) {
    let why = Why::Due { due: Timestamp(due) };
    store.commit(Request::one(Change::Publish { origin, head, why })).expect("room");
}

#[test]
fn keys_and_ids_are_found_newest_first_wherever_they_lie_and_after_every_start() {
    let mut store = OldStore::grown();
    // One in each: sealed, not sealed but full, and the newest segment.
    send(&mut store, "x0", BodyKind::Visible);
    store.fill_segments(1);
    send(&mut store, "x1", BodyKind::Visible);
    store.seal_all();
    store.fill_segments(2);
    send(&mut store, "x2", BodyKind::Visible);
    store.parts().writer.mark().expect("power");
    let newest = store.with_queue(|queue| queue.bounds().next.0);
    let sent = newest - 3;
    let check = |store: &mut OldStore| {
        let parts = store.parts();
        assert_eq!(ids(parts, Lookup::Key, "shared"), ["x2", "x1", "x0"]);
        assert_eq!(ids(parts, Lookup::Id, "x1"), ["x1"]);
        for number in 0..sent {
            let id = format!("id {number}");
            assert_eq!(ids(parts, Lookup::Id, &id), std::slice::from_ref(&id));
            assert_eq!(ids(parts, Lookup::Key, &format!("key {number}")), [id]);
        }
        assert!(ids(parts, Lookup::Key, "x1").is_empty(), "an id is no key");
        assert!(ids(parts, Lookup::Id, "nobody's").is_empty());
        assert!(find(parts, &query(&[TopicId(7)], Lookup::Id, "x1")).0.is_empty(), "another topic's");
    };
    check(&mut store);
    store.seal_all();
    check(&mut store);
    store.open().expect("sound");
    check(&mut store);
    let names: Vec<String> = store.disk.list().expect("power");
    let indexes: Vec<_> = names.iter().filter(|name| index::parse_name(name).is_some()).collect();
    assert!(indexes.len() >= 5, "{names:?}");
    indexes.iter().for_each(|name| store.disk.remove(name).expect("it is there"));
    store.open().expect("they are made anew");
    check(&mut store);
    store.send();
    assert_eq!(ids(store.parts(), Lookup::Id, &format!("id {sent}")).len(), 1, "what came after the last look-up");
}

#[test]
fn a_look_up_goes_on_where_the_last_one_stopped() {
    let mut store = OldStore::grown();
    for number in 0..7 {
        send(&mut store, &format!("x{number}"), BodyKind::Visible);
        if number % 3 == 2 {
            store.fill_segments(1);
            store.seal_all();
        }
    }
    let parts = store.parts();
    let applied = parts.writer.log().positions().applied;
    let (mut below, mut pages) = (None, Vec::new());
    loop {
        let query = Query { below, ..query(&[TOPIC], Lookup::Key, "shared") };
        let mut page: Vec<String> = Vec::new();
        let found = parts.reader.look_ups().find(&query, applied, &mut |body| {
            if page.len() == 2 {
                return ControlFlow::Break(());
            }
            page.push(body.message.envelope.message_id);
            ControlFlow::Continue(())
        });
        pages.push(page);
        below = found.next;
        if below.is_none() {
            break;
        }
    }
    assert_eq!(pages, [vec!["x6", "x5"], vec!["x4", "x3"], vec!["x2", "x1"], vec!["x0"]]);
}

#[test]
fn only_what_was_stored_in_time_is_found_and_other_segments_are_not_looked_at() {
    let mut store = OldStore::grown();
    store.seal_all();
    let index = store.parts().writer.views().index.indexes()[1].clone();
    let (oldest, newest) = (index.summary().oldest, index.summary().newest);
    // Its sender's clock stands still at 1: what its segment says is nearer.
    let mut in_time = |stored| {
        let before = store.disk.reads().count;
        let (bodies, _) = find(store.parts(), &Query { stored, ..query(&[TOPIC], Lookup::Id, "id 12") });
        (bodies.len(), store.disk.reads().count - before)
    };
    in_time(ALWAYS);
    let (there, with) = in_time(oldest..=newest);
    assert_eq!(there, 1);
    assert_eq!(in_time(Timestamp(0)..=Timestamp(oldest.0 - 1)).0, 0);
    let (absent, without) = in_time(Timestamp(u64::MAX - 1)..=Timestamp::MAX);
    assert!(absent == 0 && without == 0 && with > 0, "{without} and {with} reads");
}

#[test]
fn a_look_up_reads_few_blocks_of_each_sealed_segment_and_the_newest_ones_once() {
    let mut store = OldStore::new();
    for number in 0..2_000 {
        send(&mut store, &format!("x{number}"), BodyKind::Visible);
    }
    store.parts().writer.mark().expect("power");
    store.seal_all();
    let segments = store.parts().writer.views().index.indexes().len() as u64;
    assert!(segments >= 10, "{segments} segments");
    let reads = |store: &mut OldStore, id: &str| {
        let before = store.disk.reads();
        let found = ids(store.parts(), Lookup::Id, id).len();
        let after = store.disk.reads();
        (found, after.count - before.count, after.bytes - before.bytes)
    };
    let (_, _, first) = reads(&mut store, "nobody's");
    let (found, count, bytes) = reads(&mut store, "nobody's");
    assert!(first > bytes, "the newest segment was read, once");
    // A block of fences, a block of keys, and the one or two that may have the key.
    assert!(found == 0 && count <= 3 * segments && bytes <= 4 * 4096 * segments, "{count} reads, {bytes} bytes");
    let (found, count, _) = reads(&mut store, "x5");
    assert!(found == 1 && count <= 3 * segments + 1, "{count} reads");
    store.send();
    let (found, _, bytes) = reads(&mut store, "id 0");
    assert_eq!(found, 1);
    assert!(bytes < 4 * 4096 * segments + 2 * crate::checkpoint::old_store::SEGMENT_BYTES, "{bytes} bytes");
}

#[test]
fn hashes_of_what_is_sealed_leave_memory_and_what_finds_no_room_is_found_all_the_same() {
    let mut store = OldStore::grown();
    store.fill_segments(2);
    assert_eq!(ids(store.parts(), Lookup::Id, "id 40").len(), 0);
    let full = store.parts().reader.look_ups().tail.len();
    store.seal_all();
    assert_eq!(ids(store.parts(), Lookup::Id, "id 40").len(), 0);
    let left = store.parts().reader.look_ups().tail.len();
    assert!(left < full, "{left} of {full} rows");

    store.fill_segments(2);
    let newest = store.with_queue(|queue| queue.bounds().next.0) - 1;
    let parts = store.parts();
    let log = parts.writer.log();
    let cache = Arc::new(TailCache::new(0));
    let small = LookUps {
        tail: Tail::new(7),
        ..LookUps::new(parts.writer.views().index.clone(), log.segments(), cache, *parts.reader.hash_key())
    };
    for number in [newest, newest - 1, newest - 9, 3, newest] {
        let (text, mut found) = (format!("key {number}"), Vec::new());
        let looked = small.find(&query(&[TOPIC], Lookup::Key, &text), log.positions().applied, &mut |body| {
            found.push(body.message.envelope.message_id);
            ControlFlow::Continue(())
        });
        assert_eq!((found, looked.gaps.is_empty()), (vec![format!("id {number}")], true));
        assert!(small.tail.len() <= 7, "H2: {} rows", small.tail.len());
    }
}

#[test]
fn hashes_that_agree_by_chance_give_nobody_anothers_message() {
    let mut store = OldStore::grown();
    for number in 0..4 {
        send(&mut store, &format!("x{number}"), BodyKind::Visible);
    }
    let newest = store.with_queue(|queue| queue.bounds().next.0);
    let disk = SimDisk::new(9);
    let parts = store.parts();
    let (all, sealed_ones) = (parts.writer.log().segments(), crate::index::Sealed::nowhere());
    let all_segments = all.load_full();
    for (at, segment) in all_segments.iter().enumerate().take(3) {
        let next_index = sealed::next_index(&all_segments, at);
        index::build(&Site { disk: &disk, segment, next_index, hash_key: HashKey::COLLIDING, random: 3 })
            .expect("room");
        let index = SegmentIndex::open(&disk, segment.header.base, segment.header.cluster).expect("just made");
        sealed_ones.add(index);
    }
    let sealed_ones = Arc::new(sealed_ones);
    let looks = LookUps::new(sealed_ones.clone(), all, Arc::new(TailCache::new(0)), HashKey::COLLIDING);
    let applied = parts.writer.log().positions().applied;
    let found = |what, text: &str| {
        let mut found = Vec::new();
        looks.find(&query(&[TOPIC], what, text), applied, &mut |body| {
            found.push(body.message.envelope.message_id);
            ControlFlow::Continue(())
        });
        found
    };
    for number in 0..newest - 4 {
        let id = format!("id {number}");
        assert_eq!(
            (found(Lookup::Id, &id), found(Lookup::Key, &format!("key {number}"))),
            (vec![id.clone()], vec![id])
        );
    }
    assert_eq!(found(Lookup::Key, "shared"), ["x3", "x2", "x1", "x0"]);
    assert!(found(Lookup::Id, "nobody's").is_empty() && found(Lookup::Key, "x1").is_empty());
    // Both message groups have one hash in the index files.
    let group = |name: &str| {
        let group_hash = parts.reader.hash_key().message_group(name);
        let (id, until) = (crate::view::queue::QueueId { topic: TOPIC, queue: Q }, QueueOffset(newest));
        let of = index::Members { hash_key: &HashKey::COLLIDING, id, group_hash, from: QueueOffset(0), until };
        let mut entries = Vec::new();
        assert!(sealed_ones.members(&of, 1_000, &mut entries).error.is_none());
        entries.len()
    };
    assert!(group("a") > 15);
    assert_eq!((group("b"), group("nobody's")), (0, 0));
}

#[test]
fn the_state_of_a_message_is_what_the_views_say() {
    let mut store = OldStore::grown();
    send(&mut store, "plain", BodyKind::Visible);
    let waiting = send(&mut store, "waiting", delayed(9_000_000));
    let due = send(&mut store, "due", delayed(2_000_000));
    let recalled = send(&mut store, "recalled", delayed(9_000_000));
    let open = send(&mut store, "open", prepared(None));
    let committed = send(&mut store, "committed", prepared(None));
    let back = send(&mut store, "rolled back", prepared(None));
    let later = send(&mut store, "committed for later", prepared(Some(9_000_000)));
    for (origin, outcome) in [
        (committed.0.position, Outcome::Committed),
        (back.0.position, Outcome::RolledBack),
        (later.0.position, Outcome::Committed),
    ] {
        store.commit(Request::EndTransaction { origin, outcome }).expect("prepared");
    }
    let retire = Fact::Retire { origin: recalled.0.position, pending: Pending::Timer { due: Timestamp(9_000_000) } };
    store.commit(Request::one(Change::Fact(retire))).expect("pending");
    store.fill_segments(1);
    publish(&mut store, due, 2_000_000);
    let check = |store: &mut OldStore| {
        let place = |state| match state {
            State::Visible(place) => (place.queue, place.offset),
            other => panic!("{other:?}"),
        };
        let at = |store: &mut OldStore, pointer: Pointer| {
            let next = store.with_queue(|queue| queue.bounds().next.0);
            let mut offsets = (0..next).map(QueueOffset);
            let is_it = |offset: &QueueOffset| {
                store.with_queue(|queue| queue.entry(*offset)).is_some_and(|entry| entry.pointer() == pointer)
            };
            (Q, offsets.find(is_it).expect("it is in the queue"))
        };
        for (id, pointer) in [("due", due.0), ("committed", committed.0)] {
            assert_eq!(place(state(store, id)), at(store, pointer), "{id}");
        }
        assert!(matches!(state(store, "plain"), State::Visible(_)));
        for (id, expected) in [
            ("waiting", State::Scheduled { due: Timestamp(9_000_000) }),
            ("committed for later", State::Scheduled { due: Timestamp(9_000_000) }),
            ("recalled", State::Ended),
            ("open", State::Prepared),
            ("rolled back", State::RolledBack),
        ] {
            assert_eq!(state(store, id), expected, "{id}");
        }
    };
    assert_ne!(waiting.0, open.0);
    check(&mut store);
    store.fill_segments(1);
    store.seal_all();
    check(&mut store);
    store.checkpoint().expect("room");
    store.open().expect("sound");
    check(&mut store);
    let below = store.with_queue(|queue| queue.bounds().next);
    store.commit(Request::one(Change::Fact(Fact::Purge { topic: TOPIC, queue: Q, below }))).expect("room");
    for id in ["plain", "due", "committed", "id 3"] {
        assert_eq!(state(&mut store, id), State::Expired, "{id}");
    }
    assert_eq!(state(&mut store, "waiting"), State::Scheduled { due: Timestamp(9_000_000) });
}

#[test]
fn a_damaged_index_is_told_of_and_what_it_hid_is_found_when_it_is_made_anew() {
    let mut store = OldStore::grown();
    let name = index::name(LogPosition(0));
    let blocks = store.disk.content(&name).expect("it is there").len() as u64 / 4096;
    for block in 1..blocks {
        assert!(store.disk.flip(&name, block * 4096 + 1, 0));
    }
    let (bodies, found) = find(store.parts(), &query(&[TOPIC], Lookup::Id, "id 1"));
    assert!(bodies.is_empty() && found.next.is_none());
    assert_eq!(found.gaps.indexes.iter().map(TableError::name).collect::<Vec<_>>(), [name.as_str()]);
    let (bodies, found) = find(store.parts(), &query(&[TOPIC], Lookup::Id, "id 12"));
    assert_eq!((bodies.len(), found.gaps.indexes.len()), (1, 1), "a part of the answer, and a word about the rest");
    let hash_key = *store.parts().reader.hash_key();
    let group = hash_key.message_group("a");
    let halted = store.with_queue(|queue| members(&hash_key, queue, &wanted(group, 0, 5)));
    assert_eq!((halted.entries.len(), halted.next, halted.gaps.indexes.len()), (0, Some(QueueOffset(0)), 1));
    assert_eq!(store.parts().upkeep.mend_indexes().expect("room"), 1);
    assert_eq!(ids(store.parts(), Lookup::Id, "id 1"), ["id 1"]);
}

#[test]
fn what_damage_took_from_the_newest_segment_hides_nothing_else() {
    let mut store = OldStore::grown();
    store.fill_segments(1);
    for number in 0..3 {
        send(&mut store, &format!("x{number}"), BodyKind::Visible);
    }
    let (bodies, _) = find(store.parts(), &query(&[TOPIC], Lookup::Id, "x1"));
    let hit = bodies[0].pointer.position;
    let base = store.parts().writer.log().segments().load().last().expect("one").header.base;
    assert!(store.disk.flip(&segment::name(base), hit.since(base) + 60, 3));
    let (bodies, found) = find(store.parts(), &query(&[TOPIC], Lookup::Key, "shared"));
    assert_eq!((bodies.len(), &found.gaps.bodies[..]), (2, &[hit][..]), "it may have been what was looked for");
    store.open().expect("the rest is served");
    send(&mut store, "x3", BodyKind::Visible);
    assert_eq!(ids(store.parts(), Lookup::Key, "shared"), ["x3", "x2", "x0"]);
}

#[test]
fn what_thinning_left_out_is_not_found_and_what_it_kept_is() {
    let mut aged = Aged::mixed();
    let ids = |aged: &Aged, topic: u32| {
        let parts = &aged.recovered;
        let applied = parts.writer.log().positions().applied;
        let mut found = 0;
        for number in 0..aged.placed.len() {
            let (topics, text) = ([TopicId(topic)], format!("id{number}"));
            let looked = parts.reader.look_ups().find(&query(&topics, Lookup::Id, &text), applied, &mut |_| {
                found += 1;
                ControlFlow::Continue(())
            });
            assert!(looked.gaps.is_empty(), "{:?}", looked.gaps);
        }
        found
    };
    let wanted = aged.placed.len();
    assert_eq!(ids(&aged, 0), wanted);
    let fleeting = ids(&aged, 1);
    let thinned = std::iter::from_fn(|| aged.thin()).count();
    assert!(thinned > 0);
    assert_eq!(ids(&aged, 0), wanted);
    let left = ids(&aged, 1);
    assert!(left < fleeting, "{left} of {fleeting}");
    aged.restart().expect("sound");
    assert_eq!((ids(&aged, 0), ids(&aged, 1)), (wanted, left));
}
