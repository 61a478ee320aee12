//! Stories of operators: seeks, parks and purges while a subscription runs.

use std::time::Duration;

use storage::record::{Fact, Record};

use super::story_tests::*;
use super::*;

const NACK: Verdict = Verdict::Return { after: Duration::from_secs(3600), is_suspended: false };

fn seek(queue: u16, to: u64) -> Record {
    let Pair { group, topic } = PAIR;
    Record::Fact(Fact::Seek { group, topic, queue: QueueIndex(queue), to: QueueOffset(to), generation: 1 })
}

fn park(message_group: u64, is_on: bool) -> Record {
    let Pair { group, topic } = PAIR;
    Record::Fact(Fact::Park { group, topic, message_group, is_on })
}

fn purge(below: u64) -> Record {
    Record::Fact(Fact::Purge { topic: PAIR.topic, queue: Q, below: QueueOffset(below) })
}

fn floor(story: &Story, queue: u16) -> u64 {
    story.views.progress_of(PAIR.group, PAIR.topic).lock().floor(QueueIndex(queue)).0
}

fn leases(story: &Story) -> usize {
    story.views.progress_of(PAIR.group, PAIR.topic).lock().leases().count()
}

// --- seeks ---

#[test]
fn after_a_seek_back_everything_comes_again_and_attempts_start_anew() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 2);
        story.send(&[7, 7, 7]);
        story.poll(1, "a", 2);
        story.commit();
        story.settle(10, 1, 0, Verdict::Ack);
        story.settle(11, 1, 1, NACK);
        story.commit();
        assert_eq!(story.core.counts().retry_wait, 1);
        story.operate(&seek(0, 0));
        story.poll(2, "a", 9);
        story.commit();
        assert_eq!((story.offsets(2), story.attempts(2)), (vec![0, 1, 2], vec![1, 1, 1]), "ordered: {is_ordered}");
        assert_eq!(story.core.counts().retry_wait, 0, "ordered: {is_ordered}");
    }
}

#[test]
fn a_seek_forward_passes_over_what_was_read_already() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 2);
        story.send(&[7, 7, 7, 7]);
        story.poll(1, "a", 1);
        story.commit();
        story.operate(&seek(0, 3));
        story.poll(2, "b", 9);
        story.commit();
        assert_eq!(story.offsets(2), [3], "ordered: {is_ordered}");
    }
}

#[test]
fn a_seek_voids_open_batches_at_once() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 2);
        story.send(&[7, 7]);
        story.poll_with(1, Poll { invisible: None, ..poll_of("a", u64::MAX) });
        story.commit();
        story.poll_with(2, poll_of("b", u64::MAX));
        story.operate(&seek(0, 0));
        story.commit();
        assert_eq!((story.offsets(2), story.attempts(2)), (vec![0, 1], vec![1, 1]), "ordered: {is_ordered}");
        assert_eq!(story.core.counts().in_flight, 2, "ordered: {is_ordered}");
    }
}

#[test]
fn an_ack_of_a_delivery_before_the_seek_is_ok_and_does_nothing() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 2);
        story.send(&[7]);
        story.poll(1, "a", 9);
        story.commit();
        let old = story.receipt(1, 0);
        story.operate(&seek(0, 0));
        story.settle_with(10, old, Verdict::Ack);
        assert_eq!(story.settled[&10], Ok(()), "ordered: {is_ordered}");
        story.restart();
        story.settle_with(11, old, Verdict::Ack);
        story.settle_with(12, old, Verdict::Forward);
        story.settle_with(13, old, NACK);
        assert_eq!((&story.settled[&11], &story.settled[&12], &story.settled[&13]), (&Ok(()), &Ok(()), &Ok(())));
        story.poll(2, "b", 9);
        story.commit();
        assert_eq!((story.offsets(2), floor(&story, 0)), (vec![0], 0), "ordered: {is_ordered}");
        story.settle_with(14, old, Verdict::Ack);
        story.commit();
        assert_eq!(floor(&story, 0), 0, "nor once the message is out again, ordered: {is_ordered}");
        story.settle(15, 2, 0, Verdict::Ack);
        story.commit();
        assert_eq!(floor(&story, 0), 1, "the new handle settles it, ordered: {is_ordered}");
    }
}

#[test]
fn an_ack_that_a_seek_overtakes_on_its_way_to_the_log_is_ok_and_does_nothing() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 2);
        story.send(&[7, 7]);
        story.poll(1, "a", 9);
        story.commit();
        story.settle(10, 1, 0, Verdict::Ack);
        story.settle(11, 1, 1, Verdict::Ack);
        story.overtake(&seek(0, 0));
        story.commit();
        assert_eq!((&story.settled[&10], &story.settled[&11]), (&Ok(()), &Ok(())), "ordered: {is_ordered}");
        assert_eq!(floor(&story, 0), 0, "ordered: {is_ordered}");
        story.poll(2, "b", 9);
        story.commit();
        assert_eq!((story.offsets(2), story.attempts(2)), (vec![0, 1], vec![1, 1]), "ordered: {is_ordered}");
    }
}

#[test]
fn an_ack_that_is_committed_before_the_seek_says_nothing_about_the_message_after_it() {
    let mut story = Story::new(true, 2);
    story.send(&[7]);
    story.poll(1, "a", 9);
    story.commit();
    story.settle(10, 1, 0, Verdict::Ack);
    let (ticket, result) = story.write_first();
    story.operate(&seek(0, 0));
    story.poll(2, "b", 9);
    story.tell(Event::Answer(ticket, result));
    assert_eq!(story.settled[&10], Ok(()));
    story.commit();
    assert_eq!((story.offsets(2), story.attempts(2)), (vec![0], vec![1]));
    assert_eq!((story.core.counts().in_flight, leases(&story)), (1, 1), "the answer is not about the new delivery");
}

#[test]
fn a_seek_leaves_the_other_queues_as_they_are() {
    let mut story = Story::with_queues(2, true, 2);
    story.send_to(0, &[7]);
    story.send_to(1, &[8, 8]);
    story.poll(1, "a", 9);
    story.commit();
    assert_eq!(story.slots(1), [(0, 0), (1, 0), (1, 1)]);
    (0..2).for_each(|index| story.settle(10 + index as u64, 1, index, Verdict::Ack));
    story.overtake(&seek(0, 0));
    story.commit();
    assert_eq!((floor(&story, 0), floor(&story, 1)), (0, 1), "the ack in the other queue goes on");
    assert_eq!((&story.settled[&10], &story.settled[&11]), (&Ok(()), &Ok(())));
    story.poll(2, "b", 9);
    story.commit();
    assert_eq!(story.slots(2), [(0, 0)], "the rest of the batch is out");
}

#[test]
fn a_batch_that_a_seek_overtakes_goes_to_nobody() {
    for is_written in [false, true] {
        let mut story = Story::new(true, 2);
        story.send(&[7]);
        story.poll_with(1, poll_of("a", u64::MAX));
        let written = is_written.then(|| story.write_first());
        story.operate(&seek(0, 0));
        if let Some((ticket, result)) = written {
            story.tell(Event::Answer(ticket, result));
        }
        story.commit();
        assert_eq!((story.offsets(1), story.empty.clone()), (vec![], vec![1]), "the poll hears at once");
        assert_eq!((story.core.counts(), leases(&story)), (Default::default(), 0), "nothing is out");
        story.poll(2, "b", 9);
        story.commit();
        assert_eq!((story.offsets(2), story.attempts(2)), (vec![0], vec![1]));
    }
}

#[test]
fn what_a_closed_key_left_out_comes_in_its_order_after_a_seek() {
    let mut story = Story::with_queues(2, true, 2);
    let impatient = poll_of("b", story.now.tick);
    story.send_to(1, &[7]);
    story.poll_with(1, Poll { invisible: None, ..impatient.clone() });
    story.commit();
    story.send_to(0, &[7; 200]);
    assert!(story.poll_with(2, impatient.clone()).is_empty());
    story.operate(&seek(0, 0));
    assert!(story.poll_with(3, impatient.clone()).is_empty());
    story.settle(10, 1, 0, Verdict::Ack);
    story.commit();
    let mut got = Vec::new();
    for poll in 4..54 {
        story.poll_with(poll, impatient.clone());
        story.commit();
        for (index, offset) in story.offsets(poll).into_iter().enumerate() {
            got.push(offset);
            story.settle(poll * 100 + index as u64, poll, index, Verdict::Ack);
        }
        story.commit();
    }
    assert_eq!(got, (0..200).collect::<Vec<_>>());
}

#[test]
fn settles_that_wait_for_one_another_are_all_answered_when_a_seek_voids_them() {
    let mut story = Story::new(false, 2);
    story.send(&[7, 7]);
    story.poll(1, "a", 9);
    story.settle(10, 1, 0, Verdict::Ack);
    story.refuse();
    story.settle(11, 1, 1, Verdict::Ack);
    story.settle(12, 1, 1, NACK);
    assert!(story.appends.is_empty(), "after a refusal appends wait");
    story.operate(&seek(0, 0));
    assert_eq!((story.settled.get(&11), story.settled.get(&12)), (Some(&Ok(())), Some(&Ok(()))));
}

// --- parks ---

#[test]
fn the_messages_of_a_parked_key_become_dead_letters_in_order_and_others_go_on() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 3);
        story.operate(&park(7, true));
        story.send(&[7, 8, 7, 0, 7]);
        story.poll(1, "a", 9);
        story.commit();
        assert_eq!((story.offsets(1), story.dead.clone()), (vec![1, 3], vec![0, 2, 4]), "ordered: {is_ordered}");
        story.settle(10, 1, 0, Verdict::Ack);
        story.settle(11, 1, 1, Verdict::Ack);
        story.commit();
        assert_eq!(floor(&story, 0), 5, "ordered: {is_ordered}");
    }
}

#[test]
fn a_long_backlog_of_a_parked_key_is_diverted_to_its_end_in_order() {
    let mut story = Story::new(true, 3);
    story.send(&[7; 1_000]);
    story.operate(&park(7, true));
    story.poll_with(1, poll_of("a", u64::MAX));
    story.commit();
    assert_eq!(story.dead, (0..1_000).collect::<Vec<_>>());
    assert!(story.offsets(1).is_empty());
}

#[test]
fn what_waits_for_its_next_attempt_when_its_key_is_parked_waits_no_longer() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 3);
        story.send(&[7, 7]);
        story.poll(1, "a", 1);
        story.commit();
        story.settle(10, 1, 0, NACK);
        story.commit();
        story.operate(&park(7, true));
        story.poll(2, "a", 9);
        story.commit();
        let mut dead = story.dead.clone();
        dead.sort_unstable();
        assert_eq!((story.offsets(2), dead), (vec![], vec![0, 1]), "ordered: {is_ordered}");
        assert!(!is_ordered || story.dead == [0, 1]);
    }
}

#[test]
fn what_is_out_when_its_key_is_parked_stays_with_its_client_and_the_rest_waits_for_it() {
    let mut story = Story::new(true, 3);
    story.send(&[7, 7, 7]);
    story.poll(1, "a", 2);
    story.commit();
    story.operate(&park(7, true));
    story.poll_with(2, poll_of("b", u64::MAX));
    story.commit();
    assert!(story.dead.is_empty() && story.offsets(2).is_empty());
    story.settle(10, 1, 0, Verdict::Ack);
    story.settle(11, 1, 1, NACK);
    story.commit();
    assert_eq!(story.dead, [1, 2], "what failed has no next attempt, and comes before what followed it");
}

#[test]
fn what_is_just_being_acknowledged_is_not_overtaken_by_what_follows_it() {
    for (is_refused, dead) in [(false, vec![0, 2]), (true, vec![0, 1, 2])] {
        let mut story = Story::new(true, 3);
        story.two_of_three_come_back();
        let handle = story.receipt(1, 1);
        story.restart();
        story.operate(&park(7, true));
        story.settle_with(12, handle, Verdict::Ack);
        story.poll_with(2, poll_of("a", u64::MAX));
        if is_refused {
            story.refuse();
            story.pass(1_000);
        }
        story.commit();
        assert_eq!((story.dead.clone(), story.settled[&12].is_err()), (dead, is_refused));
    }
}

#[test]
fn an_opened_key_goes_on_where_it_was() {
    let mut story = Story::new(true, 3);
    story.send(&[7]);
    story.operate(&park(7, true));
    story.poll_with(1, poll_of("a", u64::MAX));
    story.commit();
    assert_eq!(story.dead, [0]);
    story.operate(&park(7, false));
    story.send(&[7, 7]);
    story.commit();
    assert_eq!((story.offsets(1), story.dead.clone()), (vec![1, 2], vec![0]));
}

#[test]
fn nothing_is_diverted_after_the_record_that_opens_its_key() {
    let mut story = Story::new(true, 3);
    story.send(&[7]);
    story.operate(&park(7, true));
    story.poll_with(1, poll_of("a", u64::MAX));
    story.commit();
    story.send(&[7, 7]);
    assert_eq!(story.appends.len(), 1, "it is on its way");
    story.overtake(&park(7, false));
    story.commit();
    assert_eq!((story.offsets(1), story.dead.clone()), (vec![1, 2], vec![0]));
}

#[test]
fn nothing_leaves_after_the_record_that_parks_its_key() {
    let mut story = Story::new(true, 3);
    story.send(&[7, 8, 7]);
    story.poll_with(1, poll_of("a", u64::MAX));
    story.overtake(&park(7, true));
    story.commit();
    assert_eq!(story.offsets(1), [1], "the rest of the batch leaves");
    story.poll_with(2, poll_of("a", u64::MAX));
    story.commit();
    assert_eq!((story.offsets(2), story.dead.clone()), (vec![], vec![0, 2]));
}

#[test]
fn a_diverted_message_is_a_dead_letter_once_although_the_log_refused_it_at_first() {
    let mut story = Story::new(true, 3);
    story.operate(&park(7, true));
    story.send(&[7, 7]);
    story.poll_with(1, poll_of("a", u64::MAX));
    story.wants_dead_letter_topic = false;
    story.core.dead_letter_topic(Ok(base::TopicId(9)), story.now);
    story.finish();
    story.refuse();
    story.send(&[7]);
    story.pass(1_000);
    story.commit();
    assert_eq!((story.offsets(1), story.dead.clone()), (vec![], vec![0, 1, 2]));
}

// --- purges ---

#[test]
fn purged_messages_are_gone_whether_they_were_read_or_out_or_waiting() {
    for is_ordered in [false, true] {
        let mut story = Story::new(is_ordered, 3);
        story.send(&[7, 8, 9, 9, 9]);
        story.poll(1, "a", 2);
        story.commit();
        story.settle(10, 1, 0, NACK);
        story.commit();
        story.operate(&purge(4));
        assert_eq!(story.core.counts(), Default::default(), "ordered: {is_ordered}");
        story.poll(2, "b", 9);
        story.commit();
        assert_eq!(story.offsets(2), [4], "ordered: {is_ordered}");
        story.settle(11, 1, 1, Verdict::Ack);
        assert_eq!(story.settled[&11], Ok(()), "a late ack, ordered: {is_ordered}");
        story.settle(12, 2, 0, Verdict::Ack);
        story.commit();
        assert_eq!(floor(&story, 0), 5, "ordered: {is_ordered}");
    }
}

#[test]
fn a_purge_opens_the_key_of_what_was_out() {
    let mut story = Story::new(true, 3);
    story.send(&[7, 7]);
    story.poll_with(1, Poll { messages_max: 1, invisible: None, ..poll_of("a", u64::MAX) });
    story.commit();
    story.poll_with(2, poll_of("b", u64::MAX));
    story.commit();
    assert!(story.offsets(2).is_empty());
    story.operate(&purge(1));
    story.commit();
    assert_eq!(story.offsets(2), [1]);
}

#[test]
fn a_purged_message_does_not_become_a_dead_letter_any_more() {
    let mut story = Story::new(true, 3);
    story.send(&[7, 8]);
    story.poll(1, "a", 9);
    story.commit();
    story.settle(10, 1, 0, Verdict::Forward);
    story.wants_dead_letter_topic = false;
    story.core.dead_letter_topic(Ok(base::TopicId(9)), story.now);
    story.finish();
    assert_eq!(story.appends.len(), 1, "it is on its way");
    story.overtake(&purge(1));
    story.commit();
    assert_eq!((story.dead.clone(), &story.settled[&10]), (vec![], &Ok(())));
}

// --- everything at once ---

/// Clients, operators, the log and the clock do what they like.
fn disturb(story: &mut Story, chance: &mut base::Chance, id: u64, answer: &mut Option<(Ticket, Answered)>) {
    let message_group = chance.below(4);
    let offset = chance.below(30);
    match chance.below(16) {
        0..=1 => story.send_to(chance.below(2) as u16, &[message_group, message_group]),
        2..=4 => {
            let client = *chance.pick(&["a", "b", "dead"]);
            let invisible = chance.one_in(2).then_some(Duration::from_secs(30));
            let attempt_id = chance.one_in(2).then(|| "again".into());
            let messages_max = 1 + chance.below(4) as usize;
            let until = story.now.tick + 5_000;
            story.poll_with(id, Poll { messages_max, invisible, attempt_id, ..poll_of(client, until) });
        }
        5..=8 if !story.delivered.is_empty() => {
            let polls: Vec<PollId> = story.delivered.keys().copied().collect();
            let poll = *chance.pick(&polls);
            let index = chance.below(story.offsets(poll).len() as u64) as usize;
            let after = Duration::from_secs(*chance.pick(&[0, 7]));
            let verdict = match chance.below(4) {
                0 => Verdict::Forward,
                1 => Verdict::Return { after, is_suspended: chance.one_in(2) },
                _ => Verdict::Ack,
            };
            story.settle(id, poll, index, verdict);
        }
        9 if answer.is_none() && !story.appends.is_empty() => *answer = Some(story.write_first()),
        10 if answer.is_none() && !story.appends.is_empty() => story.refuse(),
        11 => match answer.take() {
            Some((ticket, result)) => story.tell(Event::Answer(ticket, result)),
            None => story.commit(),
        },
        12 => story.pass(*chance.pick(&[1, 300, 8_000, 31_000, 61_000])),
        13 => match chance.below(4) {
            0 => story.tell(Event::CancelPoll(id - 1)),
            1 => story.tell(Event::ClientGone("a".into())),
            _ => {
                if let Some((_, (batch, _))) = story.delivered.pop_last() {
                    story.tell(Event::Unwritten(batch));
                }
            }
        },
        14 => {
            let record = match chance.below(3) {
                0 => seek(chance.below(2) as u16, offset),
                1 => park(message_group, chance.one_in(2)),
                _ => purge(offset / 2),
            };
            if chance.one_in(2) { story.operate(&record) } else { story.overtake(&record) }
        }
        _ => {}
    }
    assert!(story.core.next_wake().is_none_or(|wake| wake > story.now.tick), "it wants to wake in the past");
}

type Answered = Result<storage::request::Done, storage::request::AppendError>;

#[test]
fn whatever_operators_and_clients_do_everything_is_settled_in_the_end() {
    for seed in 0..400 {
        let mut chance = base::Chance::new(seed);
        let mut story = Story::with_queues(2, chance.one_in(2), 3);
        let mut answer = None;
        for id in 1..200 {
            disturb(&mut story, &mut chance, id, &mut answer);
        }
        if let Some((ticket, result)) = answer {
            story.tell(Event::Answer(ticket, result));
        }
        (0..4).for_each(|message_group| story.operate(&park(message_group, false)));
        story.pass(5_000);
        story.commit();
        ["a", "b"].into_iter().for_each(|client| story.tell(Event::ClientGone(client.into())));
        for id in 1_000..1_200 {
            story.commit();
            story.pass(61_000);
            story.commit();
            story.poll(id, "end", 32);
            story.commit();
            (0..story.offsets(id).len())
                .for_each(|index| story.settle(id * 100 + index as u64, id, index, Verdict::Ack));
        }
        story.pass(61_000);
        story.commit();
        for queue in 0..2 {
            let next = story.next_offset(QueueIndex(queue));
            assert_eq!(floor(&story, queue), next.0, "seed {seed}, queue {queue}");
        }
        let counts = story.core.counts();
        assert_eq!(counts, Default::default(), "seed {seed}");
        assert!(story.core.is_idle(), "seed {seed}");
        assert_eq!(leases(&story), 0, "seed {seed}");
    }
}
