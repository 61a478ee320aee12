//! How a lane that left messages out comes to them again, told to the core of a subscription.

use std::sync::atomic::Ordering::Relaxed;

use base::limits::*;
use storage::record::{AckRange, Fact, Record};

use super::core::Keeping;
use super::story_tests::*;
use super::*;

/// So many messages of another group lie between those of message group 7.
const APART: u64 = 300;
/// More than a lane keeps followers.
const MEMBERS: u64 = LANE_FOLLOWERS_MAX as u64 + 40;

/// Message group 7 with others in between, read to the end: the first message of it is out, in batch `poll` 1, and as many as a
/// lane keeps are in memory. Those of the other group are done.
fn far_apart() -> Story {
    let mut story = Story::new(true, 100);
    for member in 0..MEMBERS {
        story.send(&[7]);
        story.send(&vec![8; APART as usize - 1]);
        let acks = vec![AckRange { queue: Q, first: QueueOffset(member * APART + 1), count: APART - 1 }];
        let Pair { group, topic } = PAIR;
        story.operate(&Record::Fact(Fact::Settle { group, topic, acks, retries: Vec::new() }));
    }
    story.poll_with(1, Poll { messages_max: 1, invisible: None, ..poll_of("a", u64::MAX) });
    story.commit();
    assert_eq!(story.offsets(1), [0]);
    story.poll_with(2, poll_of("b", u64::MAX));
    story.commit();
    assert!(story.offsets(2).is_empty(), "the lane is closed, and nothing else is left");
    story.tell(Event::CancelPoll(2));
    assert_eq!(story.asked.looked_up.load(Relaxed), 0);
    story
}

/// Acknowledges what poll 1 holds, and takes and acknowledges everything that comes then, until nothing does.
fn take_all(story: &mut Story, first_poll: PollId) -> Vec<u64> {
    let (mut got, mut poll) = (Vec::new(), first_poll);
    loop {
        story.poll_with(poll, poll_of("a", u64::MAX));
        story.commit();
        let offsets = story.offsets(poll);
        if offsets.is_empty() {
            story.tell(Event::CancelPoll(poll));
            return got;
        }
        for index in 0..offsets.len() {
            story.settle(poll * 1_000 + index as u64, poll, index, Verdict::Ack);
        }
        story.commit();
        got.extend(offsets);
        poll += 1;
    }
}

fn members(numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.map(|number| number * APART).collect()
}

#[test]
fn a_lane_finds_what_it_left_out_without_walking_what_lies_between() {
    let mut story = far_apart();
    let walked = story.asked.walked.load(Relaxed);
    assert_eq!(walked, MEMBERS * APART, "once, by the read position");
    story.settle(10, 1, 0, Verdict::Ack);
    story.commit();
    assert_eq!(take_all(&mut story, 3), members(1..MEMBERS));
    let walked = story.asked.walked.load(Relaxed) - walked;
    assert!(walked <= REFILL_WALKED_MAX, "{walked} entries were walked");
    let looked_up = story.asked.looked_up.load(Relaxed);
    assert!((1..=4).contains(&looked_up), "{looked_up} look-ups");
}

#[test]
fn what_lies_near_is_walked_and_so_is_a_lane_without_a_message_group() {
    for group in [0, 7] {
        let mut story = Story::new(true, 100);
        let near = if group == 0 { 5_000 } else { REFILL_WALKED_MAX + LANE_FOLLOWERS_MAX as u64 };
        story.send(&vec![group; near as usize]);
        story.poll_with(1, Poll { messages_max: 1, invisible: None, ..poll_of("a", u64::MAX) });
        story.commit();
        story.poll_with(2, poll_of("b", u64::MAX));
        story.commit();
        story.tell(Event::CancelPoll(2));
        story.settle(10, 1, 0, Verdict::Ack);
        story.commit();
        assert_eq!(take_all(&mut story, 3), (1..near).collect::<Vec<_>>());
        assert_eq!(story.asked.looked_up.load(Relaxed), 0);
    }
}

#[test]
fn a_lane_waits_before_what_cannot_be_read_and_passes_nothing_over() {
    let mut story = far_apart();
    let hidden = MEMBERS - 20;
    // Between two members: what comes behind might be read, and must not be.
    story.asked.damage.store((hidden - 1) * APART + 1, Relaxed);
    story.settle(10, 1, 0, Verdict::Ack);
    story.commit();
    assert_eq!(take_all(&mut story, 3), members(1..hidden));
    // Others go on meanwhile.
    story.send(&[9, 7]);
    assert_eq!(take_all(&mut story, 300), [MEMBERS * APART]);
    story.poll_with(500, poll_of("a", u64::MAX));
    story.tell(Event::Ring);
    assert!(story.appends.is_empty());
    story.asked.damage.store(u64::MAX, Relaxed);
    let mut expected = members(hidden..MEMBERS);
    expected.push(MEMBERS * APART + 1);
    story.tell(Event::Ring);
    story.commit();
    let mut got = story.offsets(500);
    for index in 0..got.len() {
        story.settle(9_000 + index as u64, 500, index, Verdict::Ack);
    }
    story.commit();
    got.extend(take_all(&mut story, 600));
    assert_eq!(got, expected);
}

#[test]
fn nothing_behind_the_read_position_is_found_twice() {
    let mut story = far_apart();
    let end = MEMBERS * APART;
    // Not read yet: the one that is out fills its client's hands.
    story.settings.in_flight_max = 1;
    story.tell(Event::SettingsChanged(story.settings.clone()));
    story.send(&[7, 7]);
    story.settings.in_flight_max = 1_000;
    story.tell(Event::SettingsChanged(story.settings.clone()));
    story.settle(10, 1, 0, Verdict::Ack);
    story.commit();
    let mut expected = members(1..MEMBERS);
    expected.extend([end, end + 1]);
    assert_eq!(take_all(&mut story, 3), expected);
}

#[test]
fn what_is_done_is_passed_a_bounded_number_at_a_time() {
    const CALLS: usize = 5;
    let done = (LANE_FOLLOWERS_MAX * REFILL_STEPS_MAX * CALLS) as u64;
    let kept = LANE_FOLLOWERS_MAX as u64 + 1;
    let mut story = Story::new(true, 100);
    // The floor stays at the first message.
    story.send(&[8]);
    story.poll_with(1, Poll { invisible: None, ..poll_of("b", u64::MAX) });
    story.commit();
    story.send(&vec![7; (kept + done) as usize]);
    story.send(&vec![8; REFILL_WALKED_MAX as usize]);
    story.send(&[7]);
    let last = 1 + kept + done + REFILL_WALKED_MAX;
    // As of a group that had no order before.
    let acks = vec![AckRange { queue: Q, first: QueueOffset(1 + kept), count: done }];
    let Pair { group, topic } = PAIR;
    story.operate(&Record::Fact(Fact::Settle { group, topic, acks, retries: Vec::new() }));
    story.poll_with(2, Poll { messages_max: 1, invisible: None, ..poll_of("a", u64::MAX) });
    story.commit();
    story.poll_with(3, poll_of("c", u64::MAX));
    story.tell(Event::CancelPoll(3));
    story.settle(10, 2, 0, Verdict::Ack);
    story.commit();
    let mut got = take_all(&mut story, 4);
    story.poll_with(500, poll_of("a", u64::MAX));
    let mut waits = 0;
    while story.appends.is_empty() {
        assert_eq!(story.core.next_wake(), Some(story.now.tick + 1), "it goes on by itself");
        let before = story.asked.looked_up.load(Relaxed);
        story.pass(1);
        assert!(story.asked.looked_up.load(Relaxed) - before <= REFILL_STEPS_MAX as u64);
        waits += 1;
    }
    story.commit();
    got.extend(story.offsets(500));
    assert!((1..=CALLS).contains(&waits), "{waits}");
    let expected: Vec<u64> = (2..1 + kept).chain([last]).collect();
    assert_eq!(got, expected);
    assert_ne!(story.core.next_wake(), Some(story.now.tick + 1), "nothing is left to do");
}

#[test]
fn what_comes_back_after_a_restart_waits_for_what_was_left_out_before_it() {
    for walked in [0, REFILL_WALKED_MAX] {
        let mut story = Story::new(true, 100);
        story.send(&[7; 6]);
        story.poll(1, "a", 4);
        story.commit();
        let back = Verdict::Return { after: Duration::ZERO, is_suspended: false };
        story.settle(10, 1, 1, back);
        story.settle(11, 1, 2, back);
        story.commit();
        // The first and the fourth are out still; of those between, one finds no room.
        story.restart();
        story.core.keep(Keeping { followers: 1, walked });
        story.poll_with(2, poll_of("b", u64::MAX));
        story.commit();
        assert!(story.offsets(2).is_empty(), "F1");
        story.pass(30_000);
        story.commit();
        let mut got = story.offsets(2);
        for index in 0..got.len() {
            story.settle(20 + index as u64, 2, index, Verdict::Ack);
        }
        story.commit();
        got.extend(take_all(&mut story, 3));
        assert_eq!(got, [0, 1, 2, 3, 4, 5], "walked {walked}");
    }
}
