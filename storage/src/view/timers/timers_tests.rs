use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::Chance;
use proptest::prelude::*;

use super::*;
use crate::disk::sim::SimDisk;
use crate::table::{Identity, Kind, Table, TableWriter};

#[path = "story_tests.rs"]
mod story;

use story::Story;

fn timer(due: u64, position: u64) -> Timer {
    of_topic(1, due, position)
}

fn of_topic(topic: u32, due: u64, position: u64) -> Timer {
    let head = Head { topic: TopicId(topic), tag_hash: 0, group_hash: position * 3, priority: 0 };
    Timer { due: Timestamp(due), pointer: Pointer { position: LogPosition(position), length: 1 }, head }
}

proptest! {
    #[test]
    fn every_timer_is_due_once_in_order_and_never_early(
        dues in proptest::collection::vec(0u64..400_000, 1..200),
        steps in proptest::collection::vec(1u64..50_000, 1..40),
        recalled in 0usize..50,
        wheel in 4usize..300,
    ) {
        let mut timers = Timers::with_bounds(Bounds { wheel, young: 100, merged: 10 });
        let start = 1_000_000;
        timers.take_due(Timestamp(start), 1);
        let mut waiting = BTreeSet::new();
        for (position, due) in dues.iter().enumerate() {
            timers.add(timer(start + due, position as u64));
            waiting.insert((start + due, position as u64));
        }
        if let Some(due) = dues.get(recalled) {
            let claimed = timers.claim(Timestamp(start + due), LogPosition(recalled as u64));
            prop_assert!(matches!(claimed, Claim::Taken(_)));
            prop_assert!(timers.end(Timestamp(start + due), LogPosition(recalled as u64)));
            waiting.remove(&(start + due, recalled as u64));
        }
        let mut now = start;
        for step in steps.into_iter().chain([500_000]) {
            now += step;
            loop {
                let due = timers.take_due(Timestamp(now), 7);
                if due.is_empty() {
                    break;
                }
                for fired in due {
                    let first = waiting.pop_first().expect("only what waits fires");
                    prop_assert_eq!((fired.due.0, fired.pointer.position.0), first);
                    prop_assert!(fired.due.0 <= now);
                    prop_assert!(timers.end(fired.due, fired.pointer.position));
                }
            }
            prop_assert_eq!(timers.next_due().map(|due| due.0), waiting.first().map(|(due, _)| *due));
        }
        prop_assert!(timers.is_empty() && waiting.is_empty());
    }

    #[test]
    fn checkpoints_merges_and_restarts_change_nothing_about_what_is_due(seed: u64) {
        Story::new(seed).run(400);
    }
}

#[test]
fn what_is_being_written_counts_as_young_until_it_is_a_run_even_if_it_has_ended() {
    let mut story = Story::new(1);
    let room = story.timers.room();
    (0..200).for_each(|number| story.add(timer(2_000_000 + number, 4096 + number)));
    assert!(story.timers.wants_run());
    let snapshot = story.timers.snapshot(LogPosition(200)).expect("none is under way");
    assert!(!story.timers.wants_run(), "one is being written");
    (0..150).for_each(|number| assert!(story.timers.end(Timestamp(2_000_000 + number), LogPosition(4096 + number))));
    assert_eq!(story.timers.room(), room - 200, "memory is taken for all of them");
    story.timers.snapshot_failed();
    drop(snapshot);
    assert!(story.timers.wants_run());
    story.checkpoint();
    assert_eq!(story.timers.room(), room);
    (0..1_000).for_each(|number| story.add(timer(3_000_000 + number, 9_000 + number)));
    assert_eq!((story.timers.room(), story.timers.len()), (0, 1_050), "what the log says is never refused");
}

#[test]
fn a_decision_that_failed_lets_the_timer_wait_again_and_one_under_way_keeps_others_out() {
    let mut timers = Timers::default();
    timers.add(timer(5, 1));
    assert_eq!(timers.take_due(Timestamp(5), 10).len(), 1);
    assert!(matches!(timers.claim(Timestamp(5), LogPosition(1)), Claim::Deciding));
    timers.release(LogPosition(1));
    assert_eq!(timers.take_due(Timestamp(6), 10).len(), 1, "overdue, it is due at once");
    assert!(timers.end(Timestamp(5), LogPosition(1)));
    assert!(matches!(timers.claim(Timestamp(5), LogPosition(1)), Claim::Unknown));
}

#[test]
fn a_wall_clock_that_is_set_back_fires_nothing_twice_and_nothing_early() {
    let mut timers = Timers::default();
    assert!(timers.take_due(Timestamp(100_000), 10).is_empty());
    timers.add(timer(40_000, 1));
    timers.add(timer(50_000, 2));
    let fired = timers.take_due(Timestamp(45_000), 10);
    assert_eq!(fired.iter().map(|timer| timer.due.0).collect::<Vec<_>>(), [40_000]);
}

#[test]
fn a_wheel_that_is_full_has_a_window_that_ends_earlier_within_one_millisecond_if_need_be() {
    let mut timers = Timers::with_bounds(Bounds { wheel: 100, young: 100, merged: 10 });
    timers.take_due(Timestamp(1_000), 1);
    (0..5_000).rev().for_each(|position| timers.add(timer(2_000, position)));
    assert!(timers.wheel.len() <= 100, "{} are in the wheel", timers.wheel.len());
    assert!(timers.take_due(Timestamp(1_999), 10_000).is_empty());
    let fired = timers.take_due(Timestamp(2_000), 10_000);
    assert!(fired.iter().map(|timer| timer.pointer.position.0).eq(0..5_000));
}

#[test]
fn a_window_that_a_clock_set_back_has_left_full_of_timers_starts_over() {
    let mut timers = Timers::default();
    timers.take_due(Timestamp(10_000_000), 1);
    (0..70_000).for_each(|position| timers.add(timer(1_000_000 + position, position)));
    assert!(timers.past.len() < 70_000, "{} wait before the window", timers.past.len());
    let mut fired = Vec::new();
    while fired.len() < 70_000 {
        let due = timers.take_due(Timestamp(2_000_000), 1_000);
        assert!(!due.is_empty());
        fired.extend(due.iter().map(|timer| timer.pointer.position.0));
    }
    assert!(fired.into_iter().eq(0..70_000));
}

/// A run of a thousand timers, a second apart, on a disk.
fn story_with_a_run() -> Story {
    let mut story = Story::new(1);
    (0..1_000).for_each(|position| story.add(timer(1_000_000 + position * 1_000, position << 15)));
    story.checkpoint();
    assert_eq!(story.timers.run_numbers().count(), 1);
    story
}

#[test]
fn a_far_timer_is_found_by_one_block_and_a_block_that_cannot_be_read_is_an_error_and_not_unknown() {
    let mut story = story_with_a_run();
    let far = (Timestamp(1_500_000), LogPosition(500 << 15));
    assert!(matches!(story.timers.claim(far.0, LogPosition(7)), Claim::Unknown));
    assert!(matches!(story.timers.claim(far.0, far.1), Claim::Taken(_)));
    story.timers.release(far.1);
    story.reopen();
    story.damage_block(500 / 127);
    assert!(matches!(story.timers.claim(far.0, far.1), Claim::Unreadable(_)));
    story.heal_block(500 / 127);
    assert!(matches!(story.timers.claim(far.0, far.1), Claim::Taken(_)));
}

#[test]
fn timers_of_a_block_that_cannot_be_read_are_passed_told_of_and_due_once_it_can_be() {
    let mut story = story_with_a_run();
    story.reopen();
    story.damage_block(1);
    // One of them ends while nobody can read it.
    assert!(story.timers.end(Timestamp(1_130_000), LogPosition(130 << 15)));
    let fired = story.fire(10_000_000);
    assert!(fired.into_iter().eq((0..127).chain(254..1_000)));
    assert_eq!((story.timers.unreadable_blocks(), story.timers.len()), (1, 127));
    story.checkpoint();
    story.reopen();
    assert!(story.fire(10_000_000).is_empty());
    story.heal_block(1);
    story.checkpoint();
    let fired = story.fire(10_000_000);
    assert!(fired.into_iter().eq((127..254).filter(|number| *number != 130)));
    assert_eq!((story.timers.unreadable_blocks(), story.timers.len()), (0, 0));
}

#[test]
fn what_becomes_readable_again_while_half_of_it_is_near_is_due_in_full() {
    let mut story = story_with_a_run();
    story.reopen();
    story.damage_block(1);
    // The window ends at 150 seconds, in the midst of the block.
    assert!(story.fire(1_000_000 + 85_000).into_iter().eq(0..86));
    assert_eq!(story.timers.unreadable_blocks(), 1);
    story.heal_block(1);
    story.checkpoint();
    assert!(story.fire(10_000_000).into_iter().eq(86..1_000));
}

#[test]
fn a_run_of_dropped_topics_is_written_anew_so_that_their_bodies_may_go() {
    let mut story = Story::new(1);
    (0..100).for_each(|number| story.add(of_topic(1 + u32::from(number < 90), 5_000_000, number << 20)));
    story.checkpoint();
    story.drop_topic(2);
    let mib = |number: u64| LogPosition(number << 20);
    assert!(story.timers.has_pending_in(&(mib(0)..mib(90))), "nobody has looked where they lie");
    (0..4).for_each(|_| story.merge());
    story.checkpoint();
    assert!(!story.timers.has_pending_in(&(mib(0)..mib(90))));
    assert!(story.timers.has_pending_in(&(mib(90)..mib(91))));
}

#[test]
fn a_damaged_block_is_read_from_the_copy() {
    let mut story = story_with_a_run();
    story.has_copies = true;
    story.reopen();
    story.damage_block(1);
    assert!(story.fire(10_000_000).into_iter().eq(0..1_000));
}

#[test]
fn retention_learns_where_bodies_lie_that_are_waited_for_and_when_nothing_waits_there_any_more() {
    let mut story = story_with_a_run();
    let mib = |number: u64| LogPosition(number << 20);
    story.reopen();
    assert!(story.timers.has_pending_in(&(mib(0)..mib(1))));
    assert!(!story.timers.has_pending_in(&(mib(32)..mib(40))), "a thousand bodies every 32 KiB end before 32 MiB");
    assert_eq!(story.fire(1_000_000 + 32 * 10_000).len(), 321);
    assert!(!story.timers.has_pending_in(&(mib(0)..mib(10))));
    assert!(story.timers.has_pending_in(&(mib(10)..mib(11))));
    assert_eq!(story.timers.first_pending(), Some(mib(10)));
}

#[test]
fn a_timer_that_ends_under_another_due_time_is_looked_for_in_the_runs_too() {
    let mut story = story_with_a_run();
    assert!(!story.timers.end(Timestamp(5), LogPosition(700 << 15)));
    assert!(story.timers.end_stray(LogPosition(700 << 15)));
    assert!(!story.timers.end_stray(LogPosition(1 << 40)), "nothing waits near there");
    assert!(story.timers.all().expect("readable").iter().all(|timer| timer.pointer.position.0 != 700 << 15));
    assert!(story.fire(10_000_000).into_iter().eq((0..1_000).filter(|number| *number != 700)));
    assert!(story.timers.is_empty());
}

#[test]
fn pages_list_by_due_time_and_topic() {
    let mut story = Story::new(1);
    (0..300).for_each(|number| story.add(of_topic(number % 3, 1_000 + u64::from(number), u64::from(number))));
    story.checkpoint();
    (300..400).for_each(|number| story.add(of_topic(number % 3, 1_000 + u64::from(number), u64::from(number))));
    let mut found = Vec::new();
    let mut from = Some((Timestamp(1_100), LogPosition(0)));
    while let Some(start) = from {
        let page = story.timers.page(start, Some(TopicId(1)), 7).expect("readable");
        assert!(page.timers.len() <= 7);
        found.extend(page.timers.iter().map(|timer| timer.due.0 - 1_000));
        from = page.next;
    }
    assert!(found.into_iter().eq((100..400).filter(|number| number % 3 == 1)));
}
