//! Stories of read-ahead: what is fetched before a poll asks for it, and what becomes of it.

use base::limits::*;
use base::{LogPosition, Timestamp};
use storage::message::{Envelope, MessageKind};
use storage::record::{Fact, Record};

use super::room::Room;
use super::story_tests::*;
use super::*;

const ALL_COLD: LogPosition = LogPosition(u64::MAX);
const HALF: usize = READ_AHEAD_ENTRIES_MAX / 2;

/// A subscription with this many messages before it, none of them in the tail cache.
fn behind(is_ordered: bool, messages: usize) -> Story {
    let mut story = Story::new(is_ordered, 3);
    story.core.warm_from(ALL_COLD);
    // Each of a message group of its own.
    story.send(&(1..=messages as u64).collect::<Vec<_>>());
    story
}

fn numbers(pointers: &[Pointer]) -> Vec<u64> {
    pointers.iter().map(|pointer| pointer.position.0 / 100).collect()
}

/// The body of the message that was sent as number `number`.
fn body(number: u64) -> StoredMessage {
    let envelope = Envelope::new(MessageKind::Normal, number.to_string(), Timestamp(1), String::new());
    StoredMessage { topic: PAIR.topic, envelope, md5: [0; 16], body: bytes::Bytes::new() }
}

/// The oldest fetch brings all it was asked for.
fn bring(story: &mut Story) {
    let (ticket, pointers) = story.fetches.remove(0);
    let bodies = numbers(&pointers).into_iter().map(|number| Some(body(number))).collect();
    story.tell(Event::Fetched(ticket, bodies));
}

/// Numbers of the messages of a reply whose bodies were there.
fn ready(story: &Story, poll: PollId) -> Vec<u64> {
    let bodies = story.bodies.get(&poll).into_iter().flatten();
    bodies.flatten().map(|body| body.envelope.message_id.parse().unwrap()).collect()
}

/// Everything is handed out in replies of 32 and acknowledged, with what is fetched brought at once. Gives how many that
/// were, and how many of them came without a body.
fn drain(story: &mut Story, polls: std::ops::RangeFrom<PollId>) -> (usize, usize) {
    let (mut messages, mut missed) = (0, 0);
    for poll in polls {
        story.poll(poll, "a", 32);
        story.commit();
        while !story.fetches.is_empty() {
            bring(story);
            story.commit();
        }
        let offsets = story.offsets(poll);
        if offsets.is_empty() {
            break;
        }
        messages += offsets.len();
        missed += offsets.len() - ready(story, poll).len();
        for index in 0..offsets.len() {
            story.settle(0, poll, index, Verdict::Ack);
        }
        story.commit();
    }
    (messages, missed)
}

#[test]
fn what_comes_next_is_fetched_and_the_next_poll_finds_it_ready() {
    for is_ordered in [false, true] {
        let mut story = behind(is_ordered, 100);
        story.poll(1, "a", 10);
        story.commit();
        assert_eq!(ready(&story, 1), [0; 0], "nothing was there before the first");
        assert_eq!(numbers(&story.fetches[0].1), (10..100).collect::<Vec<_>>());
        bring(&mut story);
        story.poll(2, "a", 10);
        story.commit();
        assert_eq!(ready(&story, 2), (10..20).collect::<Vec<_>>(), "ordered: {is_ordered}");
        assert_eq!(story.offsets(2), (10..20).collect::<Vec<_>>());
    }
}

#[test]
fn a_message_whose_body_is_under_way_goes_out_when_it_has_come() {
    for is_ordered in [false, true] {
        let mut story = behind(is_ordered, 100);
        story.poll(1, "a", 10);
        story.commit();
        story.poll(2, "b", 10);
        story.commit();
        assert!(story.offsets(2).is_empty(), "ordered: {is_ordered}");
        bring(&mut story);
        story.commit();
        assert_eq!((story.offsets(2), ready(&story, 2)), ((10..20).collect(), (10..20).collect()));
    }
}

#[test]
fn what_could_not_be_fetched_is_handed_out_all_the_same() {
    for is_ordered in [false, true] {
        let mut story = behind(is_ordered, 100);
        story.poll(1, "a", 10);
        story.commit();
        let (ticket, _) = story.fetches.remove(0);
        story.tell(Event::Fetched(ticket, vec![None, Some(body(11))]));
        story.poll(2, "b", 3);
        story.commit();
        assert_eq!((story.offsets(2), ready(&story, 2)), (vec![10, 11, 12], vec![11]), "ordered: {is_ordered}");
    }
}

#[test]
fn what_is_in_the_tail_cache_is_not_fetched() {
    let mut story = Story::new(false, 3);
    story.core.warm_from(LogPosition(50 * 100));
    story.send(&[0; 100]);
    story.poll(1, "a", 10);
    assert_eq!(numbers(&story.fetches[0].1), (10..50).collect::<Vec<_>>());
    assert_eq!(story.fetches.len(), 1);
}

#[test]
fn a_long_way_behind_it_reads_on_by_halves_of_what_it_may_hold() {
    for is_ordered in [false, true] {
        let mut story = behind(is_ordered, 3 * READ_AHEAD_ENTRIES_MAX);
        story.poll(1, "a", 32);
        story.commit();
        let jobs: Vec<usize> = story.fetches.iter().map(|(_, pointers)| pointers.len()).collect();
        assert_eq!(jobs, [HALF - 32, HALF], "H1: what it has handed out itself it does not fetch");
        bring(&mut story);
        bring(&mut story);
        let others = 3 * READ_AHEAD_ENTRIES_MAX - 32;
        assert_eq!(drain(&mut story, 2..), (others, 0), "ordered: {is_ordered}");
    }
}

#[test]
fn after_a_seek_nothing_that_was_fetched_before_is_used() {
    for is_ordered in [false, true] {
        let mut story = behind(is_ordered, 100);
        story.poll(1, "a", 10);
        story.commit();
        let late = story.fetches.remove(0).0;
        let Pair { group, topic } = PAIR;
        let seek = Fact::Seek { group, topic, queue: Q, to: QueueOffset(0), generation: 1 };
        story.operate(&Record::Fact(seek));
        story.tell(Event::Fetched(late, (10..100).map(|number| Some(body(number))).collect()));
        story.poll(2, "a", 20);
        story.commit();
        assert_eq!(story.offsets(2), (0..20).collect::<Vec<_>>(), "ordered: {is_ordered}");
        assert_eq!(ready(&story, 2), [0; 0], "H2, ordered: {is_ordered}");
        assert_eq!(numbers(&story.fetches[0].1), (20..100).collect::<Vec<_>>(), "ordered: {is_ordered}");
    }
}

#[test]
fn what_was_fetched_for_one_queue_before_its_seek_is_not_taken_for_what_is_fetched_after_it() {
    let mut story = Story::with_queues(2, false, 3);
    story.core.warm_from(ALL_COLD);
    story.send_to(0, &[0; 50]);
    story.send_to(1, &[0; 50]);
    story.poll(1, "a", 10);
    let (late, pointers) = story.fetches.remove(0);
    assert_eq!(numbers(&pointers), (10..100).collect::<Vec<_>>(), "of both queues");
    let Pair { group, topic } = PAIR;
    let seek = Fact::Seek { group, topic, queue: QueueIndex(1), to: QueueOffset(0), generation: 1 };
    story.operate(&Record::Fact(seek));
    let batch = story.delivered[&1].0;
    story.tell(Event::Unwritten(batch));
    story.poll(2, "a", 10);
    assert_eq!(numbers(&story.fetches[0].1), (50..100).collect::<Vec<_>>(), "of the one that was sought, again");
    story.tell(Event::Fetched(late, (10..100).map(|number| Some(body(number))).collect()));
    story.poll(3, "a", 32);
    story.poll(4, "a", 32);
    assert_eq!(ready(&story, 3), (10..42).collect::<Vec<_>>());
    assert_eq!(story.slots(4), (42..50).map(|offset| (0, offset)).collect::<Vec<_>>(), "H2: the others are under way");
}

#[test]
fn what_is_purged_or_no_longer_wanted_is_dropped() {
    let mut story = behind(false, 100);
    story.poll(1, "a", 10);
    bring(&mut story);
    assert_eq!(story.core.fetched_ahead(), 90);
    story.operate(&Record::Fact(Fact::Purge { topic: PAIR.topic, queue: Q, below: QueueOffset(40) }));
    assert_eq!(story.core.fetched_ahead(), 60, "H2");
    story.want(7);
    assert_eq!(story.core.fetched_ahead(), 0, "H2");
}

#[test]
fn few_messages_are_read_as_live_and_many_as_far_behind() {
    for (messages, urgency) in [(100, Urgency::Live), (1_000, Urgency::Behind)] {
        let mut story = behind(false, messages);
        story.poll(1, "a", 10);
        assert_eq!((story.urgencies[0], story.urgencies[1]), (urgency, urgency), "{messages}: reply and fetch");
    }
}

#[test]
fn bodies_of_lanes_that_stay_closed_make_room_for_others() {
    let mut story = Story::new(true, 3);
    story.core.warm_from(ALL_COLD);
    // The followers of 40 keys fill the read-ahead; what their clients have is never settled.
    let closed: Vec<u64> = (1..=64).flat_map(|_| 1..=40).collect();
    story.send(&closed);
    for poll in 0..40 {
        story.poll_with(poll, Poll { invisible: None, messages_max: 1, ..poll_of("a", u64::MAX) });
        story.commit();
        while !story.fetches.is_empty() {
            bring(&mut story);
        }
    }
    assert_eq!(story.core.fetched_ahead(), 40 * 63, "in the way");
    let others = 4 * READ_AHEAD_ENTRIES_MAX;
    story.send(&(1_000..1_000 + others as u64).collect::<Vec<_>>());
    let (messages, missed) = drain(&mut story, 100..);
    assert_eq!(messages, others);
    assert!(missed > READ_AHEAD_ENTRIES_MAX && missed < 3 * READ_AHEAD_ENTRIES_MAX, "H3: {missed} missed");
}

/// Far behind, with this room for it and others.
fn behind_within(room: &Room, is_ordered: bool, messages: usize) -> Story {
    let mut story = behind(is_ordered, messages);
    story.core.read_ahead_within(room.clone());
    story
}

/// Asks for 32 messages and acknowledges what was handed out, to polls that waited too; bodies come only when the test
/// brings them. Gives how many messages that were, and how many of them came with a body.
fn step(story: &mut Story, poll: PollId) -> (usize, usize) {
    story.poll(poll, "a", 32);
    story.commit();
    let messages: Vec<_> =
        std::mem::take(&mut story.delivered).into_values().flat_map(|(_, messages)| messages).collect();
    messages.iter().for_each(|message| story.settle_with(0, message.receipt, Verdict::Ack));
    story.commit();
    let ready = std::mem::take(&mut story.bodies).into_values().flatten().flatten().count();
    (messages.len(), ready)
}

fn bring_all(story: &mut Story) {
    while !story.fetches.is_empty() {
        bring(story);
        story.commit();
    }
}

#[test]
fn very_many_far_behind_share_what_there_is_and_all_of_them_get_everything() {
    const MESSAGES: usize = 2_000;
    let room = Room::new(16 * READ_AHEAD_BYTES_MIN);
    let mut stories: Vec<Story> = (0..40).map(|number| behind_within(&room, number % 2 == 1, MESSAGES)).collect();
    let (mut messages, mut ready, mut most) = (vec![0; stories.len()], vec![0; stories.len()], 0);
    let mut polls = 1..=MESSAGES as u64;
    while messages.iter().any(|messages| *messages < MESSAGES) {
        let poll = polls.next().expect("each gets all");
        for (number, story) in stories.iter_mut().enumerate() {
            let (more, more_ready) = step(story, poll);
            (messages[number], ready[number]) = (messages[number] + more, ready[number] + more_ready);
            most = most.max(room.used());
            assert!(most <= room.limit(), "H1");
            // The disk serves others meanwhile.
            if (number as u64 + poll).is_multiple_of(3) {
                bring_all(story);
            }
        }
    }
    assert_eq!(messages, vec![MESSAGES; stories.len()], "and nothing twice");
    assert!(most > room.limit() / 2, "there was more to fetch than there is room: {most}");
    assert!(ready.iter().any(|ready| *ready > 0), "some were ready");
    let ready: usize = ready.iter().sum();
    assert!(ready < stories.len() * MESSAGES / 2, "there was no room for most of them: {ready}");
    stories.iter_mut().for_each(bring_all);
    assert_eq!(room.used(), 0, "all of it was handed out");
}

#[test]
fn who_finds_no_room_is_far_behind_all_the_same_and_fetches_ahead_when_there_is_some() {
    let room = Room::new(2 * READ_AHEAD_BYTES_MIN);
    let mut first = behind_within(&room, false, 1_000);
    step(&mut first, 1);
    let mut second = behind_within(&room, false, 1_000);
    for poll in 1..=10 {
        assert_eq!(step(&mut second, poll), (32, 0));
    }
    assert_eq!((second.fetches.len(), second.core.fetched_ahead()), (0, 0), "the first has it");
    assert_eq!(second.urgencies, [Urgency::Behind; 10], "it stands in nobody's way");
    drop(first);
    assert_eq!(room.used(), 0, "given back, what is under way too");
    step(&mut second, 11);
    assert_eq!(numbers(&second.fetches[0].1)[0], 11 * 32);
}

#[test]
fn bodies_that_nobody_asks_for_make_room_and_are_fetched_again_when_they_are() {
    for is_ordered in [false, true] {
        let room = Room::default();
        let mut story = behind_within(&room, is_ordered, 100);
        step(&mut story, 1);
        story.pass(READ_AHEAD_IDLE_MS);
        assert_eq!(story.core.fetched_ahead(), 68, "what is under way stays");
        assert_eq!(story.core.next_wake(), None, "and is waited for");
        bring_all(&mut story);
        assert_eq!(story.core.next_wake(), Some(story.now.tick + READ_AHEAD_IDLE_MS), "H4, ordered: {is_ordered}");
        story.pass(READ_AHEAD_IDLE_MS - 1);
        assert_eq!(story.core.fetched_ahead(), 68);
        story.pass(1);
        assert_eq!((story.core.fetched_ahead(), room.used()), (0, 0), "H4, ordered: {is_ordered}");
        story.poll(2, "a", 8);
        story.commit();
        assert_eq!((story.offsets(2).len(), ready(&story, 2).len(), story.fetches.len()), (8, 0, 0), "as a slow one");
        story.pass(READ_AHEAD_IDLE_MS);
        story.poll(3, "a", 8);
        story.commit();
        assert_eq!(story.fetches.len(), 0, "still slow");
        story.poll(4, "a", 8);
        story.commit();
        assert_eq!(numbers(&story.fetches[0].1), (56..100).collect::<Vec<_>>(), "as fast as before");
        bring_all(&mut story);
        story.poll(5, "a", 8);
        story.commit();
        assert_eq!(ready(&story, 5), (56..64).collect::<Vec<_>>(), "ordered: {is_ordered}");
    }
}
