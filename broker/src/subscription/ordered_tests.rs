//! Stories of one subscription that keeps order, told to its core.

use std::time::Duration;

use storage::record::Fact;
use storage::request::Change;

use super::story_tests::*;
use super::*;

const NACK: Verdict = Verdict::Return { after: Duration::from_secs(5), is_suspended: false };

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
