//! Stories of one subscription, told to its core.

use std::time::Duration;

use storage::request::{AppendError, Done};

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
fn polls_of_a_client_that_leaves_are_answered_and_those_of_others_wait() {
    let mut story = Story::new(false, 3);
    story.poll(1, "a", 1);
    story.poll(2, "b", 1);
    story.tell(Event::ClientGone("a".into()));
    assert_eq!(story.empty, [1]);
    story.send(&[0]);
    assert_eq!((story.offsets(1), story.offsets(2)), (vec![], vec![0]));
    story.pass(5_000);
    assert_eq!(story.empty, [1], "nothing is answered twice");
}

#[test]
fn polls_of_a_client_that_has_left_are_over_and_get_nothing() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 3);
        story.poll(1, "a", 1);
        story.tell(Event::ClientGone("a".into()));
        assert_eq!(story.empty, [1], "ordered: {is_ordered}");
        story.send(&[0]);
        story.poll(2, "b", 1);
        story.commit();
        assert_eq!((story.offsets(2), story.attempts(2)), (vec![0], vec![1]), "ordered: {is_ordered}");
    }
}

#[test]
fn a_lease_that_is_on_its_way_to_the_log_when_its_client_leaves_holds_nobody_up() {
    let mut story = Story::new(true, 3);
    story.send(&[0]);
    story.poll(1, "a", 1);
    story.tell(Event::ClientGone("a".into()));
    story.commit();
    assert_eq!((story.empty.as_slice(), story.offsets(1)), (&[1][..], vec![]));
    story.poll(2, "b", 1);
    story.commit();
    assert_eq!((story.offsets(2), story.attempts(2)), (vec![0], vec![1]));
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
