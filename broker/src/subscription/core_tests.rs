//! Stories of one subscription, told to its core.

use std::time::Duration;

use storage::record::Fact;
use storage::request::{AppendError, Change, Done};

use super::story_tests::*;
use super::*;

const NACK: Verdict = Verdict::Return { after: Duration::from_secs(5), is_suspended: false };

#[test]
fn a_message_is_with_one_client_at_a_time_and_an_empty_poll_ends_in_time() {
    let mut story = Story::new(false, 3);
    story.send(&[0, 0]);
    assert_eq!(story.poll(1, "a", 1), [0]);
    assert_eq!(story.poll(2, "b", 9), [1]);
    assert!(story.poll(3, "c", 9).is_empty());
    story.pass(4_999);
    assert!(story.empty.is_empty());
    story.pass(1);
    assert_eq!(story.empty, [3]);
}

#[test]
fn an_ack_is_answered_when_it_is_committed_and_not_before() {
    let mut story = Story::new(false, 3);
    story.send(&[0]);
    story.poll(1, "a", 1);
    story.settle(10, 1, 0, Verdict::Ack);
    assert!(story.settled.is_empty(), "U3");
    story.commit();
    assert_eq!(story.settled[&10], Ok(()));
}

#[test]
fn acks_that_come_while_an_append_is_under_way_share_the_next_one() {
    let mut story = Story::new(false, 3);
    story.send(&[0; 5]);
    story.poll(1, "a", 5);
    for index in 0..5 {
        story.settle(index as u64, 1, index, Verdict::Ack);
    }
    assert_eq!(story.appends.len(), 1);
    let (ticket, _) = story.appends.remove(0);
    story.tell(Event::Answer(ticket, Ok(Done::Changed(Default::default()))));
    assert_eq!((story.settled.len(), story.appends.len()), (1, 1), "four acks wait for one append");
    story.commit();
    assert_eq!(story.settled.len(), 5);
}

#[test]
fn an_ordered_batch_leaves_only_when_its_lease_is_committed() {
    let mut story = Story::new(true, 3);
    story.send(&[7, 7]);
    assert!(story.poll(1, "a", 1).is_empty(), "U2");
    story.commit();
    assert_eq!(story.offsets(1), [0]);
}

#[test]
fn an_open_batch_closes_its_message_group_and_no_other() {
    let mut story = Story::new(true, 3);
    story.send(&[7, 7, 8]);
    story.poll(1, "a", 1);
    story.commit();
    story.poll(2, "b", 9);
    story.commit();
    assert_eq!(story.offsets(2), [2], "F1, F2");
    story.poll(3, "b", 9);
    story.settle(10, 1, 0, Verdict::Ack);
    story.commit();
    assert_eq!(story.offsets(3), [1], "F13: the ack opens the group and wakes the poll");
}

#[test]
fn a_group_whose_order_is_changed_keeps_the_old_one_until_it_starts_anew() {
    let mut story = Story::new(true, 3);
    story.tell(Event::SettingsChanged(Settings { is_ordered: false, ..story.settings.clone() }));
    story.send(&[7, 7]);
    story.poll(1, "a", 1);
    story.commit();
    assert!(story.poll_with(2, poll_of("b", 99_000)).is_empty(), "the first of its message group is out");
    story.settle(10, 1, 0, Verdict::Ack);
    story.commit();
    assert_eq!(story.offsets(2), [1]);
}

#[test]
fn a_nacked_message_keeps_its_group_closed_until_it_is_visible_and_comes_first() {
    let mut story = Story::new(true, 3);
    story.send(&[7, 7]);
    story.poll(1, "a", 1);
    story.commit();
    story.settle(10, 1, 0, NACK);
    story.commit();
    assert!(story.poll_with(2, poll_of("b", 99_000)).is_empty());
    story.pass(4_999);
    story.commit();
    assert!(story.offsets(2).is_empty(), "F6");
    story.pass(1);
    story.commit();
    assert_eq!((story.offsets(2), story.attempts(2)), (vec![0, 1], vec![2, 1]));
}

#[test]
fn only_what_was_not_acknowledged_of_an_expired_batch_comes_again() {
    let mut story = Story::new(true, 3);
    story.send(&[7, 7, 7]);
    story.poll(1, "a", 3);
    story.commit();
    story.settle(10, 1, 1, Verdict::Ack);
    story.commit();
    story.pass(30_000);
    story.commit();
    story.poll(2, "b", 9);
    story.commit();
    assert_eq!((story.offsets(2), story.attempts(2)), (vec![0, 2], vec![2, 2]), "F8");
}

#[test]
fn a_message_without_attempts_left_becomes_a_dead_letter_and_opens_its_group() {
    let mut story = Story::new(true, 1);
    story.send(&[7, 7]);
    story.poll(1, "a", 1);
    story.commit();
    story.settle(10, 1, 0, Verdict::Return { after: Duration::ZERO, is_suspended: false });
    story.commit();
    assert_eq!(story.dead, [0], "U4");
    story.poll(2, "b", 9);
    story.commit();
    assert_eq!(story.offsets(2), [1], "F7");
}

#[test]
fn the_same_attempt_gets_the_open_rest_of_its_batch_and_no_other_client_does() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 3);
        story.send(&[7, 7, 7]);
        let attempt = |client: &str, until| Poll { attempt_id: Some("x".into()), ..poll_of(client, until) };
        story.poll_with(1, Poll { messages_max: 2, ..attempt("a", 99_000) });
        story.commit();
        story.settle(10, 1, 0, Verdict::Ack);
        story.commit();
        story.poll_with(2, attempt("a", 99_000));
        assert_eq!((story.offsets(2), story.attempts(2)), (vec![1], vec![1]), "F9");
        story.poll_with(3, attempt("b", 99_000));
        story.commit();
        assert!(!story.offsets(3).contains(&1));
    }
}

#[test]
fn a_reply_that_was_not_written_comes_again_at_once_and_its_attempt_does_not_count() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 3);
        story.send(&[7, 7]);
        story.poll(1, "a", 9);
        story.commit();
        let (batch, _) = story.delivered[&1];
        story.tell(Event::Unwritten(batch));
        story.commit();
        story.poll(2, "b", 9);
        story.commit();
        let mut offsets = story.offsets(2);
        offsets.sort_unstable();
        assert_eq!((offsets, story.attempts(2)), (vec![0, 1], vec![1, 1]), "F10, ordered: {is_ordered}");
    }
}

#[test]
fn a_poll_that_is_cancelled_while_its_lease_is_written_holds_nothing() {
    let mut story = Story::new(true, 3);
    story.send(&[7]);
    story.poll(1, "a", 1);
    story.tell(Event::CancelPoll(1));
    story.commit();
    assert!(story.offsets(1).is_empty());
    story.poll(2, "b", 1);
    story.commit();
    assert_eq!((story.offsets(2), story.attempts(2)), (vec![0], vec![1]));
}

#[test]
fn an_old_handle_settles_nothing_once_the_message_was_delivered_again() {
    let mut story = Story::new(false, 3);
    story.send(&[0]);
    story.poll(1, "a", 1);
    story.pass(30_000);
    story.commit();
    story.poll(2, "b", 1);
    assert_eq!(story.attempts(2), [2]);
    story.settle(10, 1, 0, Verdict::Ack);
    assert!(matches!(story.settled[&10], Err(Refusal::InvalidHandle { .. })));
    story.settle(11, 2, 0, Verdict::Ack);
    story.commit();
    assert_eq!(story.settled[&11], Ok(()));
}

#[test]
fn a_lease_is_renewed_while_its_client_lives_and_ends_when_it_does_not() {
    for (client, comes_again) in [("alive", false), ("dead", true)] {
        let mut story = Story::new(true, 3);
        story.send(&[7]);
        story.poll_with(1, Poll { invisible: None, ..poll_of(client, 99_000) });
        story.commit();
        for _ in 0..5 {
            story.pass(60_000);
            story.commit();
        }
        story.poll_with(2, poll_of("b", story.now.tick + 1_000));
        story.commit();
        assert_eq!(!story.offsets(2).is_empty(), comes_again, "F14: {client}");
    }
}

#[test]
fn one_hot_key_that_fails_does_not_stop_the_others_however_long_its_backlog() {
    let mut story = Story::new(true, 100);
    story.send(&[7; 5_000]);
    story.send(&[8, 9]);
    story.poll_with(1, Poll { messages_max: 1, invisible: None, ..poll_of("a", u64::MAX) });
    story.commit();
    assert_eq!(story.offsets(1), [0]);
    story.poll_with(2, poll_of("b", u64::MAX));
    story.commit();
    assert_eq!(story.offsets(2), [5_000, 5_001]);
    // And the rest of the hot one comes in order, once it opens.
    story.settle(10, 1, 0, Verdict::Ack);
    story.commit();
    let mut got = Vec::new();
    for poll in 3..203 {
        story.poll_with(poll, poll_of("a", u64::MAX));
        story.commit();
        for index in 0..story.offsets(poll).len() {
            got.push(story.offsets(poll)[index]);
            story.settle(poll * 1_000 + index as u64, poll, index, Verdict::Ack);
        }
        story.commit();
    }
    assert_eq!(got, (1..5_000).collect::<Vec<_>>());
}

#[test]
fn a_refused_append_leaves_the_message_with_its_client_and_says_so() {
    let mut story = Story::new(false, 3);
    story.send(&[0]);
    story.poll(1, "a", 1);
    story.settle(10, 1, 0, Verdict::Ack);
    let (ticket, _) = story.appends.remove(0);
    story.tell(Event::Answer(ticket, Err(AppendError::Closed)));
    assert_eq!(story.settled[&10], Err(Refusal::Draining));
    story.pass(1_000);
    story.settle(11, 1, 0, Verdict::Ack);
    story.commit();
    assert_eq!(story.settled[&11], Ok(()));
}

#[test]
fn what_a_client_held_when_it_left_comes_to_others_at_once() {
    let mut story = Story::new(false, 3);
    story.send(&[0]);
    story.poll(1, "a", 1);
    story.tell(Event::ClientGone("a".into()));
    story.commit();
    story.poll(2, "b", 1);
    assert_eq!((story.offsets(2), story.attempts(2)), (vec![0], vec![2]));
}

#[test]
fn what_was_renewed_twice_is_held_and_no_longer_counts_as_in_flight() {
    let mut story = Story::new(true, 3);
    story.tell(Event::SettingsChanged(Settings { in_flight_max: 2, ..story.settings.clone() }));
    story.send(&[7, 8, 9]);
    story.poll_with(1, Poll { messages_max: 9, invisible: None, ..poll_of("a", u64::MAX) });
    story.commit();
    assert_eq!(story.offsets(1), [0, 1], "no more than two at a time");
    story.poll_with(2, poll_of("b", u64::MAX));
    story.pass(60_000);
    story.commit();
    assert!(story.offsets(2).is_empty(), "renewed once");
    assert_eq!((story.core.counts().in_flight, story.core.counts().held), (2, 0));
    story.pass(60_000);
    story.commit();
    assert_eq!(story.offsets(2), [2], "renewed twice");
    assert_eq!((story.core.counts().in_flight, story.core.counts().held), (1, 2));
    story.settle(10, 1, 0, Verdict::Ack);
    story.settle(11, 1, 1, Verdict::Return { after: Duration::ZERO, is_suspended: false });
    story.commit();
    assert_eq!((story.core.counts().in_flight, story.core.counts().held), (1, 0), "what came back is not held");
}

#[test]
fn a_standard_group_counts_what_is_renewed_for_as_long_as_it_is_out() {
    let mut story = Story::new(false, 3);
    story.tell(Event::SettingsChanged(Settings { in_flight_max: 1, ..story.settings.clone() }));
    story.send(&[0, 0]);
    story.poll_with(1, Poll { invisible: None, ..poll_of("a", u64::MAX) });
    for _ in 0..5 {
        story.pass(60_000);
    }
    assert!(story.poll_with(2, poll_of("b", u64::MAX)).is_empty());
    assert_eq!((story.core.counts().in_flight, story.core.counts().held), (1, 0));
}

#[test]
fn a_new_filter_applies_to_what_waits_for_its_next_attempt() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 3);
        story.send_tagged(1);
        story.send_tagged(2);
        story.poll(1, "a", 1);
        story.commit();
        story.settle(10, 1, 0, Verdict::Return { after: Duration::from_secs(3600), is_suspended: false });
        story.commit();
        assert_eq!(story.core.counts().retry_wait, 1);
        story.want(2);
        story.commit();
        assert_eq!(story.core.counts().retry_wait, 0, "ordered: {is_ordered}");
        story.poll(2, "a", 9);
        story.commit();
        assert_eq!(story.offsets(2), [1], "what it held up goes on, ordered: {is_ordered}");
    }
}

#[test]
fn what_was_out_while_the_filter_changed_is_skipped_when_it_comes_back() {
    for (is_ordered, after) in [(false, 0), (false, 60), (true, 0), (true, 60)] {
        let mut story = Story::new(is_ordered, 3);
        story.send_tagged(1);
        story.poll(1, "a", 1);
        story.commit();
        story.want(2);
        story.commit();
        story.settle(10, 1, 0, Verdict::Return { after: Duration::from_secs(after), is_suspended: false });
        story.commit();
        assert_eq!(story.core.counts(), Default::default(), "ordered: {is_ordered}, after {after} s");
        story.pass(60_000);
        story.commit();
        story.poll(2, "b", 9);
        story.commit();
        assert!(story.offsets(2).is_empty(), "ordered: {is_ordered}, after {after} s");
    }
}

#[test]
fn a_reply_that_was_not_written_does_not_bring_back_what_the_filter_left_out() {
    let mut story = Story::new(false, 3);
    story.send_tagged(1);
    story.poll(1, "a", 1);
    story.want(2);
    story.commit();
    let (batch, _) = story.delivered[&1];
    story.tell(Event::Unwritten(batch));
    story.commit();
    assert!(story.poll(2, "b", 9).is_empty());
}

#[test]
fn a_new_filter_applies_although_the_log_refused_it_at_first() {
    for waits in [false, true] {
        let mut story = Story::new(true, 3);
        story.send_tagged(1);
        story.poll(1, "a", 1);
        story.commit();
        let after = Duration::from_secs(if waits { 3600 } else { 0 });
        story.settle(10, 1, 0, Verdict::Return { after, is_suspended: false });
        story.commit();
        story.want(2);
        story.refuse();
        assert!(story.poll_with(2, poll_of("b", u64::MAX)).is_empty());
        story.pass(1_000);
        let (_, changes) = &story.appends[0];
        let is_both =
            matches!(changes[..], [_, Change::Fact(Fact::Subscribe { .. }), Change::Fact(Fact::Settle { .. })]);
        assert!(is_both, "{changes:?}");
        story.commit();
        assert!(story.offsets(2).is_empty());
        assert_eq!(story.core.counts().retry_wait, 0, "waits: {waits}");
    }
}

#[test]
fn an_old_handle_settles_its_message_after_a_restart_until_it_is_handed_out_again() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 3);
        story.send(&[7, 8]);
        story.poll(1, "a", 9);
        story.commit();
        story.restart();
        story.settle(10, 1, 0, Verdict::Ack);
        story.commit();
        assert_eq!(story.settled[&10], Ok(()), "ordered: {is_ordered}");
        // The lease of an ordered batch is in the log; a standard group's messages come again at once.
        story.pass(if is_ordered { 30_000 } else { 0 });
        story.commit();
        story.poll(2, "b", 9);
        story.commit();
        assert_eq!(story.offsets(2), [1], "ordered: {is_ordered}");
        story.settle(11, 1, 1, Verdict::Ack);
        assert!(matches!(story.settled[&11], Err(Refusal::InvalidHandle { .. })), "ordered: {is_ordered}");
    }
}

#[test]
fn an_ordered_batch_stays_out_over_a_restart_until_its_client_settles_it() {
    let mut story = Story::new(true, 3);
    story.send(&[7, 7]);
    story.poll_with(1, Poll { messages_max: 1, invisible: None, ..poll_of("a", u64::MAX) });
    story.commit();
    story.restart();
    story.poll_with(2, poll_of("b", u64::MAX));
    story.commit();
    assert!(story.offsets(2).is_empty(), "F1");
    story.settle(10, 1, 0, Verdict::Ack);
    story.commit();
    assert_eq!((story.offsets(2), story.attempts(2)), (vec![1], vec![1]));
}

#[test]
fn a_message_that_an_old_handle_is_settling_is_not_overtaken_by_those_behind_it() {
    let mut story = Story::new(true, 9);
    story.two_of_three_come_back();
    story.restart();
    story.settle(12, 1, 1, Verdict::Ack);
    story.poll(2, "b", 9);
    story.refuse();
    assert!(story.settled[&12].is_err());
    story.pass(1_000);
    story.commit();
    assert_eq!(story.offsets(2), [0], "F3: without gaps");
    story.poll(3, "b", 9);
    story.settle(13, 2, 0, Verdict::Ack);
    story.commit();
    assert_eq!(story.offsets(3), [1, 2]);
}

#[test]
fn a_refused_append_puts_everything_back() {
    let mut story = Story::new(true, 9);
    story.send(&[1, 2, 3, 4]);
    story.poll(1, "a", 3);
    story.commit();
    story.settle(10, 1, 0, Verdict::Ack);
    story.refuse();
    story.settle(11, 1, 1, NACK);
    story.settle(12, 1, 2, Verdict::Forward);
    story.poll(2, "b", 9);
    story.pass(1_000);
    story.wants_dead_letter_topic = false;
    story.core.dead_letter_topic(Ok(base::TopicId(9)), story.now);
    story.finish();
    assert_eq!(story.appends.len(), 1, "the nack, the forward and the lease go together");
    story.refuse();
    assert!((10..13).all(|settle| story.settled[&settle].is_err()), "{:?}", story.settled);
    assert!(story.refused.contains_key(&2) && story.offsets(2).is_empty());
    let counts = story.core.counts();
    assert_eq!(
        (counts.in_flight, counts.open_lanes, counts.retry_wait),
        (3, 3, 0),
        "the client has its messages still"
    );
    story.pass(1_000);
    (0..3).for_each(|index| story.settle(20 + index as u64, 1, index, Verdict::Ack));
    story.poll(3, "b", 9);
    story.commit();
    assert!((20..23).all(|settle| story.settled[&settle].is_ok()), "its handles are good");
    assert_eq!((story.offsets(3), story.attempts(3), story.dead.clone()), (vec![3], vec![1], vec![]));
}

#[test]
fn a_settle_that_is_on_its_way_when_the_lease_ends_decides() {
    for is_ordered in [false, true] {
        for (verdict, comes_again) in [(Verdict::Ack, false), (NACK, true)] {
            let mut story = Story::new(is_ordered, 9);
            story.send(&[7]);
            story.poll(1, "a", 1);
            story.commit();
            story.pass(29_999);
            story.settle(10, 1, 0, verdict);
            story.pass(1);
            let impatient = poll_of("b", story.now.tick);
            assert!(story.poll_with(2, impatient.clone()).is_empty(), "U1: ordered: {is_ordered}, {verdict:?}");
            story.commit();
            assert_eq!(story.settled[&10], Ok(()));
            story.poll_with(4, impatient);
            story.commit();
            assert!(story.offsets(4).is_empty(), "it asked for more time, ordered: {is_ordered}, {verdict:?}");
            story.pass(5_000);
            story.poll(3, "b", 1);
            story.commit();
            assert_eq!(!story.offsets(3).is_empty(), comes_again, "ordered: {is_ordered}, {verdict:?}");
            assert!(!comes_again || story.attempts(3) == [2], "the lease's end does not count as well");
        }
    }
}

#[test]
fn a_lease_that_ended_while_its_settle_was_refused_ends_after_all() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 9);
        story.send(&[7]);
        story.poll(1, "a", 1);
        story.commit();
        story.settle(10, 1, 0, Verdict::Ack);
        story.pass(30_000);
        story.refuse();
        assert!(story.settled[&10].is_err());
        story.pass(1_000);
        story.commit();
        story.poll(2, "b", 1);
        story.commit();
        assert_eq!((story.offsets(2), story.attempts(2)), (vec![0], vec![2]), "ordered: {is_ordered}");
    }
}

#[test]
fn a_message_is_a_dead_letter_exactly_once_although_the_log_refused_it_at_first() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 1);
        story.send(&[7, 7]);
        story.poll(1, "a", 1);
        story.commit();
        story.core.dead_letter_topic(Ok(base::TopicId(9)), story.now);
        story.pass(30_000);
        // That the attempt was used is in the log first.
        let (ticket, result) = story.write_first();
        story.tell(Event::Answer(ticket, result));
        for _ in 0..3 {
            assert_eq!(story.appends.len(), 1);
            story.refuse();
            story.pass(1_000);
        }
        assert!(story.dead.is_empty());
        story.poll(2, "b", 1);
        story.commit();
        story.pass(120_000);
        story.commit();
        assert_eq!(story.dead, [0, 1], "ordered: {is_ordered}");
        assert_eq!((story.offsets(2), story.core.counts().in_flight), (vec![1], 0), "ordered: {is_ordered}");
    }
}

#[test]
fn a_dead_letter_waits_for_its_topic_and_those_who_settle_it_are_answered() {
    let mut story = Story::new(false, 9);
    story.send(&[7]);
    story.poll(1, "a", 1);
    story.settle(10, 1, 0, Verdict::Forward);
    assert!(story.wants_dead_letter_topic);
    story.settle(11, 1, 0, Verdict::Ack);
    assert!(story.settled.is_empty());
    story.wants_dead_letter_topic = false;
    story.core.dead_letter_topic(Err(AppendError::CatalogFull { what: "topics", max: 1 }), story.now);
    story.finish();
    assert!(story.settled[&10].is_err(), "nothing came of it");
    story.pass(1_000);
    story.commit();
    assert_eq!(story.settled[&11], Ok(()), "so the ack that waited for it is on its own");
    assert!(story.dead.is_empty());
}

#[test]
fn messages_without_a_message_group_are_one_chain_in_each_queue() {
    let mut story = Story::with_queues(2, true, 9);
    story.send_to(0, &[0, 0]);
    story.send_to(1, &[0, 0]);
    story.poll_with(1, Poll { language: Language::Go, ..poll_of("a", u64::MAX) });
    story.commit();
    assert_eq!(story.slots(1), [(0, 0), (1, 0)], "F11");
    story.poll_with(2, poll_of("b", u64::MAX));
    story.settle(10, 1, 1, Verdict::Ack);
    story.commit();
    assert_eq!(story.slots(2), [(1, 1)], "the other queue's chain is closed still");
}

#[test]
fn a_batch_holds_what_its_language_can_take() {
    let cases = [
        (Language::Java, vec![0, 1, 2]),
        (Language::Rust, vec![0, 1, 2]),
        (Language::Python, vec![0, 1, 2]),
        (Language::NodeJs, vec![0, 1, 2]),
        (Language::Go, vec![0, 2]),
        (Language::DotNet, vec![0, 2]),
        (Language::Cpp, vec![0]),
    ];
    for (language, expected) in cases {
        let mut story = Story::new(true, 3);
        story.send(&[7, 7, 8]);
        story.poll_with(1, Poll { language, ..poll_of("a", u64::MAX) });
        story.commit();
        assert_eq!(story.offsets(1), expected, "F4, F5: {language:?}");
        // What only one of may be in a batch of an ordered group may be many in one of a standard group.
        let mut story = Story::new(false, 3);
        story.send(&[7, 7, 8]);
        assert_eq!(story.poll_with(1, Poll { language, ..poll_of("a", u64::MAX) }), [0, 1, 2], "{language:?}");
    }
}

#[test]
fn an_attempt_that_is_repeated_before_its_lease_is_committed_gets_nothing_of_it() {
    let mut story = Story::new(true, 9);
    story.send(&[7]);
    let attempt = Poll { attempt_id: Some("x".into()), ..poll_of("a", u64::MAX) };
    story.poll_with(1, attempt.clone());
    assert!(story.poll_with(2, attempt).is_empty(), "U2");
    story.commit();
    assert_eq!((story.offsets(1), story.offsets(2)), (vec![0], vec![]));
}

#[test]
fn an_attempt_that_is_repeated_while_its_lease_is_written_is_a_new_attempt() {
    let mut story = Story::new(true, 9);
    story.send(&[7]);
    let attempt = Poll { attempt_id: Some("x".into()), ..poll_of("a", u64::MAX) };
    story.poll_with(1, attempt.clone());
    story.tell(Event::CancelPoll(1));
    story.poll_with(2, attempt);
    story.commit();
    assert!(story.offsets(1).is_empty(), "nobody waits for it any more");
    assert_eq!((story.offsets(2), story.attempts(2)), (vec![0], vec![1]), "F10");
}

#[test]
fn a_repeated_attempt_that_is_not_written_leaves_the_batch_with_the_client_of_the_first_reply() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 9);
        story.send(&[7]);
        let attempt = Poll { attempt_id: Some("x".into()), ..poll_of("a", u64::MAX) };
        story.poll_with(1, attempt.clone());
        story.commit();
        story.poll_with(2, attempt);
        let (batch, _) = story.delivered[&2];
        assert_eq!(batch, story.delivered[&1].0);
        story.tell(Event::Unwritten(batch));
        story.commit();
        assert!(story.poll(3, "b", 1).is_empty(), "U1, ordered: {is_ordered}");
        story.tell(Event::Unwritten(batch));
        story.commit();
        assert_eq!((story.offsets(3), story.attempts(3)), (vec![0], vec![1]), "ordered: {is_ordered}");
    }
}

#[test]
fn an_attempt_whose_messages_are_all_settled_gets_new_ones() {
    let mut story = Story::new(false, 9);
    story.send(&[0, 0]);
    let attempt = Poll { messages_max: 1, attempt_id: Some("x".into()), ..poll_of("a", u64::MAX) };
    story.poll_with(1, attempt.clone());
    story.settle(10, 1, 0, Verdict::Ack);
    story.commit();
    assert_eq!(story.poll_with(2, attempt), [1]);
}

#[test]
fn closed_keys_fill_at_most_half_of_the_window() {
    const KEYS: u64 = 4_096;
    let mut story = Story::new(true, 100);
    let impatient = poll_of("a", story.now.tick);
    // One of each is out; then more of each than all the window holds, at 64 for each.
    story.send(&(1..=KEYS).collect::<Vec<_>>());
    story.tell(Event::SettingsChanged(Settings { in_flight_max: usize::MAX, ..story.settings.clone() }));
    for poll in 0..KEYS / 32 {
        story.poll_with(poll, Poll { invisible: None, ..impatient.clone() });
        story.commit();
    }
    for _ in 0..65 {
        story.send(&(1..=KEYS).collect::<Vec<_>>());
    }
    story.send(&[KEYS + 1, KEYS + 2]);
    let kept_before = story.core.items.len();
    story.poll_with(1_000_000, impatient);
    story.commit();
    assert_eq!(story.offsets(1_000_000), [KEYS * 66, KEYS * 66 + 1], "none of the closed ones stops the others");
    let kept = story.core.items.len();
    assert!(
        kept_before == KEYS as usize && kept <= base::limits::WINDOW_POINTERS_MAX / 2 + KEYS as usize + 3,
        "{kept}"
    );
}
