//! Merges between checkpoints.

use base::{Timestamp, TopicId};

use super::super::aged_tests::Aged;
use super::*;
use crate::message::{BodyPart, Envelope, MessageKind};
use crate::record::{Fact, Head, Pending};
use crate::request::{BodyKind, Change, NewBody, Request};
use crate::salvage::Alone;
use crate::store::Recovered;
use crate::view::timers::{MERGED_RUNS, Timer};

/// More than one block of rows in each run.
const COUNT: u64 = 150;

fn delay(aged: &mut Aged, count: u64) {
    let bodies = (0..count).map(|number| {
        let envelope = Envelope::new(MessageKind::Delay, format!("late{number}"), Timestamp(1), "host".into());
        let head = Head { topic: TopicId(0), tag_hash: 0, group_hash: number, priority: 0 };
        let due = Timestamp(5_000_000 + number);
        Change::Body(NewBody { head, kind: BodyKind::Delayed { due }, part: BodyPart::encode(&envelope, b"body") })
    });
    aged.commit(Request::Changes(bodies.collect()));
}

fn all(aged: &mut Aged) -> Vec<Timer> {
    aged.recovered.timer.timers().all().unwrap()
}

fn runs(aged: &Aged) -> usize {
    aged.recovered.timer.timers().run_numbers().count()
}

fn merge(aged: &mut Aged) -> Merged {
    let Recovered { writer, timer, upkeep, .. } = &mut aged.recovered;
    upkeep.merge_timers(&mut Alone { writer, timer }).unwrap()
}

fn aged() -> Aged {
    let mut aged = Aged::new();
    for _ in 0..MERGED_RUNS {
        delay(&mut aged, COUNT);
        aged.checkpoint();
    }
    aged
}

#[test]
fn young_timers_become_runs_between_the_slices_of_a_merge() {
    let mut aged = aged();
    let mut slices = 0;
    while merge(&mut aged) == Merged::Slice {
        slices += 1;
        assert!(aged.recovered.upkeep.is_merging());
        // What is merged ends, and what is young is written, twice: no kept checkpoint is older than the merge.
        let ended = all(&mut aged)[slices * 7];
        let pending = Pending::Timer { due: ended.due };
        aged.commit(Request::one(Change::Fact(Fact::Retire { origin: ended.pointer.position, pending })));
        for _ in 0..2 {
            delay(&mut aged, 1);
            let before = runs(&aged);
            aged.checkpoint();
            assert_eq!(runs(&aged), before + 1, "nothing is young any more");
        }
    }
    assert!(slices > 1, "checkpoints came between");
    assert_eq!(runs(&aged), 1 + 2 * slices);
    aged.checkpoint();
    let before = all(&mut aged);
    assert_eq!(before.len() as u64, MERGED_RUNS as u64 * COUNT + slices as u64);
    aged.restart().unwrap();
    assert_eq!(all(&mut aged), before);
}

#[test]
fn what_a_merge_reads_stays_though_all_of_it_ends_meanwhile() {
    let mut aged = aged();
    assert_eq!(merge(&mut aged), Merged::Slice);
    for timer in all(&mut aged) {
        let pending = Pending::Timer { due: timer.due };
        aged.commit(Request::one(Change::Fact(Fact::Retire { origin: timer.pointer.position, pending })));
    }
    (0..3).for_each(|_| aged.checkpoint());
    while merge(&mut aged) == Merged::Slice {}
    (0..3).for_each(|_| aged.checkpoint());
    assert!(all(&mut aged).is_empty());
    assert!(aged.names().iter().all(|name| !name.contains("timers-")), "{:?}", aged.names());
    aged.restart().unwrap();
    assert!(all(&mut aged).is_empty());
}

#[test]
fn a_merge_that_is_given_up_leaves_the_runs_as_they_were_and_no_file() {
    let mut aged = aged();
    let before = all(&mut aged);
    assert_eq!(merge(&mut aged), Merged::Slice);
    let Recovered { writer, timer, upkeep, .. } = &mut aged.recovered;
    upkeep.give_up_merge(&mut Alone { writer, timer });
    assert!(!upkeep.is_merging());
    aged.checkpoint();
    assert!(aged.names().iter().all(|name| !name.starts_with("writing-")), "{:?}", aged.names());
    assert_eq!((runs(&aged), all(&mut aged)), (MERGED_RUNS, before.clone()));
    while merge(&mut aged) == Merged::Slice {}
    assert_eq!((runs(&aged), all(&mut aged)), (1, before), "they can be merged another time");
}
