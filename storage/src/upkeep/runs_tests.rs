//! What becomes of pending timers when their run is damaged.

use std::collections::BTreeSet;

use base::{Timestamp, TopicId};

use super::super::Scrubbed;
use super::super::aged_tests::Aged;
use super::*;
use crate::log::batch::MAGIC;
use crate::message::{BodyPart, Envelope, MessageKind};
use crate::record::{Fact, Head, Pending};
use crate::request::{BodyKind, Change, Done, NewBody, Request};
use crate::salvage::Alone;
use crate::store::Recovered;
use crate::table::{BLOCK, PAYLOAD};
use crate::view::timers::Timer;

const DUE: u64 = 5_000_000;
const COUNT: u64 = 600;
/// Rows of a block of a run, and blocks of all rows and of all keys.
const PER_BLOCK: u64 = (PAYLOAD / 32) as u64;
const ROW_BLOCKS: u64 = COUNT.div_ceil(PER_BLOCK);

/// A store with one run of 600 timers, of which each seventh has ended since, and one was moved before.
struct Waiting {
    aged: Aged,
    timers: Vec<Timer>,
    number: u64,
}

fn at_timers_of<T: Send + 'static>(
    aged: &mut Aged,
    errand: impl FnOnce(&mut crate::timer::TimerCore) -> T + Send + 'static,
) -> T {
    let Recovered { writer, timer, .. } = &mut aged.recovered;
    at_timers(&mut Alone { writer, timer }, errand)
}

fn all(aged: &mut Aged) -> Vec<Timer> {
    at_timers_of(aged, |core| core.timers().all().unwrap())
}

fn mend(aged: &mut Aged) -> Result<Vec<Damage>, CheckpointError> {
    let Recovered { writer, timer, upkeep, .. } = &mut aged.recovered;
    let mut done = Vec::new();
    upkeep.mend_runs(&mut Alone { writer, timer }, &mut done).map(|()| done)
}

fn scrub(aged: &mut Aged) -> Vec<Damage> {
    aged.scrub(1 << 20).into_iter().flat_map(|Scrubbed { found, .. }| found).collect()
}

/// Many in one batch, so that its header lies far in front of most, behind what looks like headers.
fn delay(aged: &mut Aged, numbers: std::ops::Range<u64>) {
    let bodies = numbers.map(|number| {
        let envelope = Envelope::new(MessageKind::Delay, format!("late{number}"), Timestamp(1), "host".into());
        let part = BodyPart::encode(&envelope, &MAGIC.to_le_bytes().repeat(100));
        let head = Head { topic: TopicId(0), tag_hash: 7, group_hash: number, priority: 3 };
        // Not in the order of their positions.
        let due = Timestamp(DUE + number * 7919 % COUNT);
        Change::Body(NewBody { head, kind: BodyKind::Delayed { due }, part })
    });
    let done = aged.commit(Request::Changes(bodies.collect()));
    assert!(matches!(done, Done::Changed(_)), "{done:?}");
}

impl Waiting {
    fn new() -> Self {
        let mut aged = Aged::new();
        (0..COUNT / 30).for_each(|part| delay(&mut aged, part * 30..part * 30 + 30));
        let moved = all(&mut aged)[300];
        let from = Pending::Timer { due: moved.due };
        let due = Timestamp(DUE + COUNT);
        aged.commit(Request::one(Change::Fact(Fact::Move { origin: moved.pointer, head: moved.head, from, due })));
        aged.checkpoint();
        for timer in all(&mut aged).iter().step_by(7) {
            let pending = Pending::Timer { due: timer.due };
            aged.commit(Request::one(Change::Fact(Fact::Retire { origin: timer.pointer.position, pending })));
        }
        aged.checkpoint();
        let runs: Vec<u64> = at_timers_of(&mut aged, |core| core.timers().run_numbers().collect());
        let timers = all(&mut aged);
        assert_eq!((runs.len(), timers.len() as u64), (1, COUNT - COUNT.div_ceil(7)));
        Self { aged, timers, number: runs[0] }
    }

    fn halves(&self) -> [String; 2] {
        [checkpoint::data_name(Kind::Timers, self.number), checkpoint::copy_name(Kind::Timers, self.number)]
    }

    fn blocks(&self) -> u64 {
        (self.aged.disk.content(&self.halves()[0]).unwrap().len() / BLOCK) as u64
    }

    /// Bits of a block in both halves.
    fn damage(&self, block: u64) {
        for (name, byte) in self.halves().iter().zip([100, 2000]) {
            assert!(self.aged.disk.flip(name, block * BLOCK as u64 + byte, 5));
        }
    }

    /// The position in the log of a timer that waits in a block of rows.
    fn timer_in(&self, block: u64) -> Timer {
        let first = usize::try_from(block * PER_BLOCK * 6 / 7).unwrap();
        self.timers[first + 20]
    }
}

#[test]
fn a_run_that_is_damaged_in_both_halves_is_rebuilt_whatever_block_it_is() {
    let blocks = Waiting::new().blocks();
    assert_eq!(blocks, 1 + ROW_BLOCKS + 2 + 1, "a header, rows, keys, fences");
    for block in 0..blocks {
        let mut waiting = Waiting::new();
        waiting.damage(block);
        waiting.aged.restart().unwrap_or_else(|error| panic!("block {block}: {error}"));
        let found = scrub(&mut waiting.aged);
        assert!(matches!(found[..], [Damage::Pair { .. }, Damage::Pair { .. }]), "block {block}: {found:?}");
        let done = mend(&mut waiting.aged).unwrap();
        let [Damage::Run { number, recovered, lost: 0 }] = done[..] else { panic!("block {block}: {done:?}") };
        assert_eq!(number, waiting.number);
        let is_row = (1..=ROW_BLOCKS).contains(&block);
        assert_eq!(recovered > 0, is_row, "block {block} has {recovered} rows");
        assert_eq!(all(&mut waiting.aged), waiting.timers, "block {block}");
        assert!(waiting.aged.recovered.upkeep.wants_checkpoint());
        waiting.aged.checkpoint();
        let newest = waiting.aged.recovered.upkeep.newest().unwrap();
        assert!(newest.tables().all(|(_, table)| table.number != waiting.number));
        assert!(!waiting.aged.recovered.upkeep.wants_checkpoint());
        waiting.aged.restart().unwrap();
        assert_eq!(all(&mut waiting.aged), waiting.timers, "block {block}, after a restart");
        assert!(mend(&mut waiting.aged).unwrap().is_empty());
    }
}

#[test]
fn halves_that_are_damaged_in_different_blocks_make_each_other_whole() {
    let mut waiting = Waiting::new();
    let sound = waiting.aged.disk.content(&waiting.halves()[0]).unwrap();
    for (name, block) in waiting.halves().iter().zip([0, 2]) {
        assert!(waiting.aged.disk.flip(name, block * BLOCK as u64 + 9, 0));
    }
    waiting.aged.restart().unwrap();
    let found = scrub(&mut waiting.aged);
    assert!(matches!(found[..], [Damage::Table { .. }]), "{found:?}");
    assert!(mend(&mut waiting.aged).unwrap().is_empty(), "nothing has to be rebuilt");
    assert!(waiting.halves().iter().all(|name| waiting.aged.disk.content(name).unwrap() == sound));
    // What is in use are the new files: damage of one half is no damage.
    assert!(waiting.aged.disk.flip(&waiting.halves()[1], BLOCK as u64 + 9, 0));
    assert_eq!(all(&mut waiting.aged), waiting.timers);
}

#[test]
fn what_a_cursor_or_a_recall_meets_is_rebuilt_and_due_once() {
    let mut waiting = Waiting::new();
    waiting.aged.restart().unwrap();
    waiting.damage(2);
    let recalled = waiting.timer_in(1);
    let claim =
        at_timers_of(&mut waiting.aged, move |core| core.timers_mut().claim(recalled.due, recalled.pointer.position));
    assert!(matches!(claim, crate::view::timers::Claim::Unreadable(_)), "{claim:?}");
    let mut fired = Vec::new();
    for round in 0..2 {
        let due = at_timers_of(&mut waiting.aged, |core| {
            let due = core.timers_mut().take_due(Timestamp(DUE * 2), 10_000);
            for timer in &due {
                assert!(core.timers_mut().end(timer.due, timer.pointer.position));
            }
            due
        });
        fired.extend(due);
        if round == 0 {
            assert!(fired.len() < waiting.timers.len(), "those of the block wait");
            assert_eq!(at_timers_of(&mut waiting.aged, |core| core.timers().damaged_runs()), [waiting.number]);
            let done = mend(&mut waiting.aged).unwrap();
            assert!(matches!(done[..], [Damage::Run { lost: 0, .. }]), "{done:?}");
            assert_eq!(all(&mut waiting.aged).len() + fired.len(), waiting.timers.len());
        }
    }
    let order = |timer: &Timer| (timer.due, timer.pointer.position);
    fired.sort_unstable_by_key(order);
    assert_eq!(fired, waiting.timers);
    assert!(at_timers_of(&mut waiting.aged, |core| core.timers().is_empty()));
}

#[test]
fn a_timer_whose_record_is_damaged_too_is_lost_by_name_and_the_others_are_not() {
    let mut waiting = Waiting::new();
    waiting.damage(2);
    let lost = waiting.timer_in(1);
    let segment = waiting.aged.recovered.writer.log().segments().load_full();
    let segment = segment.iter().find(|segment| segment.contains(lost.pointer.position)).unwrap().clone();
    let name = crate::log::segment::name(segment.header.base);
    assert!(waiting.aged.disk.flip(&name, segment.offset(lost.pointer.position) + 9, 1));
    let found = mend_after_scrub(&mut waiting);
    let [Damage::Run { recovered, lost: 1.., .. }] = found[..] else { panic!("{found:?}") };
    assert!(recovered > 0, "only the batch of the record is damaged");
    let left: BTreeSet<_> = all(&mut waiting.aged).iter().map(|timer| timer.pointer.position).collect();
    assert!(!left.contains(&lost.pointer.position));
    let gone = waiting.timers.iter().filter(|timer| !left.contains(&timer.pointer.position));
    let holes = waiting.aged.recovered.upkeep.holes();
    for timer in gone {
        assert!(holes.iter().any(|hole| hole.contains(&timer.pointer.position)), "{timer:?} is not named: {holes:?}");
    }
    assert!(mend(&mut waiting.aged).unwrap().is_empty(), "it is no news");
}

fn mend_after_scrub(waiting: &mut Waiting) -> Vec<Damage> {
    // What is known from the log's damage alone is not what this is about.
    while waiting.aged.recovered.upkeep.scrub(64 << 10).found.is_empty() {}
    mend(&mut waiting.aged).unwrap()
}

#[test]
fn rows_without_their_keys_are_counted_as_lost_and_the_others_are_not() {
    let mut waiting = Waiting::new();
    waiting.damage(1);
    waiting.damage(1 + ROW_BLOCKS);
    waiting.aged.restart().unwrap();
    scrub(&mut waiting.aged);
    let done = mend(&mut waiting.aged).unwrap();
    let [Damage::Run { recovered: 0, lost, .. }] = done[..] else { panic!("{done:?}") };
    let first = PER_BLOCK - PER_BLOCK.div_ceil(7);
    assert_eq!(lost, first);
    assert_eq!(all(&mut waiting.aged), waiting.timers[usize::try_from(first).unwrap()..]);
}

#[test]
fn nothing_is_lost_to_a_disk_that_cannot_be_read_for_a_while() {
    let mut waiting = Waiting::new();
    waiting.damage(2);
    waiting.aged.restart().unwrap();
    scrub(&mut waiting.aged);
    waiting.aged.disk.crash_after(0);
    mend(&mut waiting.aged).unwrap_err();
    assert!(waiting.aged.recovered.upkeep.has_doubtful_runs(), "it is tried again");
    waiting.aged.disk.restart();
    waiting.aged.restart().unwrap();
    scrub(&mut waiting.aged);
    mend(&mut waiting.aged).unwrap();
    assert_eq!(all(&mut waiting.aged), waiting.timers);
}

#[test]
fn what_ended_while_nobody_could_read_it_does_not_come_back() {
    let mut waiting = Waiting::new();
    waiting.aged.restart().unwrap();
    waiting.damage(2);
    let ended = waiting.timer_in(1);
    let pending = Pending::Timer { due: ended.due };
    waiting.aged.commit(Request::one(Change::Fact(Fact::Retire { origin: ended.pointer.position, pending })));
    // Told of it, and then of the damage.
    mend(&mut waiting.aged).unwrap();
    scrub(&mut waiting.aged);
    mend(&mut waiting.aged).unwrap();
    let left: Vec<Timer> = waiting.timers.iter().filter(|timer| **timer != ended).copied().collect();
    assert_eq!(all(&mut waiting.aged), left);
}

#[test]
fn ledgers_that_are_damaged_in_both_halves_are_written_anew() {
    let mut waiting = Waiting::new();
    let newest = waiting.aged.recovered.upkeep.newest().unwrap().clone();
    let [ledger] = newest.chain(Kind::Ledgers).tables[..] else { panic!("there is one run") };
    for name in
        [checkpoint::data_name(Kind::Ledgers, ledger.number), checkpoint::copy_name(Kind::Ledgers, ledger.number)]
    {
        assert!(waiting.aged.disk.flip(&name, 4100, 0));
    }
    scrub(&mut waiting.aged);
    assert!(waiting.aged.recovered.upkeep.is_adrift());
    mend(&mut waiting.aged).unwrap();
    waiting.aged.checkpoint();
    let next = waiting.aged.recovered.upkeep.newest().unwrap().clone();
    assert!(next.chain(Kind::Ledgers).tables.iter().all(|table| table.number != ledger.number));
    waiting.aged.restart().unwrap();
    assert_eq!(waiting.aged.recovered.upkeep.newest().unwrap().number, next.number);
    assert_eq!(all(&mut waiting.aged), waiting.timers);
}

#[test]
fn runs_are_read_first_after_a_start() {
    let mut waiting = Waiting::new();
    waiting.damage(1);
    waiting.aged.restart().unwrap();
    let mut bytes = 0;
    let found = loop {
        let scrubbed = waiting.aged.recovered.upkeep.scrub(4 << 10);
        bytes += scrubbed.bytes;
        if !scrubbed.found.is_empty() {
            break scrubbed.found;
        }
    };
    assert!(matches!(&found[..], [Damage::Pair { name }, ..] if *name == waiting.halves()[0]), "{found:?}");
    assert!(bytes <= waiting.blocks() * BLOCK as u64, "{bytes} bytes were read before");
}
