//! Stories of records that do not fit what is there: what was purged, what is not sent yet, what damage took.

use base::{Backoff, GroupName, GroupOrder, QueueIndex, QueueOffset, TopicName};

use super::*;
use crate::record::FilterSpec;
use crate::view::catalog::{GroupSpec, TopicKind, TopicSpec};

const TOPIC: TopicId = TopicId(0);
const GROUP: GroupId = GroupId(0);
const Q: QueueIndex = QueueIndex(0);
const HEAD: Head = Head { topic: TOPIC, tag_hash: 0, group_hash: 0, priority: 0 };

/// A topic with one queue, a group that reads it from the first message on, and the records that follow.
struct Story {
    views: Views,
    timers: Timers,
    next: u64,
}

impl Story {
    fn new() -> Self {
        let mut story = Self { views: Views::default(), timers: Timers::default(), next: 4096 };
        let created_at = Timestamp(1);
        story.apply(Record::Topic(TopicSpec {
            id: TOPIC,
            ..TopicSpec::new(TopicName::parse("t").expect("legal"), TopicKind::Mixed, 1, created_at)
        }));
        story.apply(Record::Group(GroupSpec {
            id: GROUP,
            name: GroupName::parse("g").expect("legal"),
            order: GroupOrder::Auto,
            attempts_max: 3,
            backoff: Backoff::Steps(Vec::new()),
            invisible: std::time::Duration::from_secs(30),
            created_at,
            changed_at: created_at,
            is_dropped: false,
        }));
        let filter = FilterSpec { is_sql: false, expression: "*".into() };
        story.apply(Record::Fact(Fact::Subscribe { group: GROUP, topic: TOPIC, start: Vec::new(), filter }));
        story
    }

    /// Gives where it lies.
    fn apply(&mut self, record: Record) -> Pointer {
        let pointer = Pointer { position: LogPosition(self.next), length: 64 };
        self.next += 64;
        self.views.apply(&record, pointer, Timestamp(self.next));
        pointer
    }

    fn messages(&mut self, offsets: std::ops::Range<u64>) {
        for offset in offsets {
            self.apply(Record::Message { head: HEAD, queue: Q, offset: QueueOffset(offset) });
        }
    }

    fn seek(&mut self, to: u64) {
        let to = QueueOffset(to);
        self.apply(Record::Fact(Fact::Seek { group: GROUP, topic: TOPIC, queue: Q, to, generation: 1 }));
    }

    /// What waits: timers by due time, and prepared messages.
    fn waiting(&mut self) -> (Vec<u64>, usize) {
        self.timers.apply(&self.views.take_timer_events());
        let timers = self.timers.all().expect("nothing is on the disk");
        let dues = timers.iter().map(|timer| timer.due.0).collect();
        (dues, self.views.transactions.lock().len())
    }

    fn publish(&mut self, origin: Pointer, due: u64) {
        let (visible_since, why) = (Timestamp(due), Why::Due { due: Timestamp(due) });
        self.apply(Record::Publish { origin, head: HEAD, queue: Q, offset: QueueOffset(0), visible_since, why });
    }

    fn move_timer(&mut self, origin: Pointer, from: u64, due: u64) {
        let (from, due) = (Pending::Timer { due: Timestamp(from) }, Timestamp(due));
        self.apply(Record::Fact(Fact::Move { origin, head: HEAD, from, due }));
    }

    fn delayed(&mut self, due: u64) -> Pointer {
        self.apply(Record::Delayed { head: HEAD, due: Timestamp(due) })
    }

    fn prepared(&mut self, due: u64) -> Pointer {
        let due = Some(Timestamp(due));
        self.apply(Record::Prepared { head: HEAD, due, check_after_ms: 0, client: "c".into() })
    }

    fn floor_and_lag(&self) -> (u64, u64) {
        let catalog = self.views.catalog.load();
        let next = catalog.topic_by_id(TOPIC).expect("made").queue(Q).expect("made").bounds().next;
        let progress = self.views.progress_of(GROUP, TOPIC);
        let progress = progress.lock();
        (progress.floor(Q).0, progress.lag(Q, next))
    }
}

#[test]
fn a_seek_below_what_was_purged_waits_for_nothing_that_is_gone() {
    let mut story = Story::new();
    story.messages(0..5);
    story.apply(Record::Fact(Fact::Purge { topic: TOPIC, queue: Q, below: QueueOffset(3) }));
    story.seek(1);
    assert_eq!(story.floor_and_lag(), (3, 2));
}

#[test]
fn a_seek_beyond_the_end_acknowledges_nothing_that_is_not_sent_yet() {
    let mut story = Story::new();
    story.messages(0..5);
    story.seek(9);
    story.messages(5..7);
    assert_eq!(story.floor_and_lag(), (5, 2));
}

#[test]
fn a_timer_whose_move_was_lost_ends_with_the_publication_and_does_not_fire_a_second_time() {
    let mut story = Story::new();
    let origin = story.delayed(100);
    // Damage took the Move from 100 to 200.
    story.publish(origin, 200);
    assert_eq!(story.waiting(), (Vec::new(), 0));
}

#[test]
fn a_timer_whose_move_was_lost_and_that_was_recalled_never_fires() {
    let mut story = Story::new();
    let origin = story.delayed(100).position;
    story.apply(Record::Fact(Fact::Retire { origin, pending: Pending::Timer { due: Timestamp(200) } }));
    assert_eq!(story.waiting(), (Vec::new(), 0));
}

#[test]
fn a_timer_that_was_moved_twice_and_lost_the_first_move_waits_in_one_place() {
    let mut story = Story::new();
    let origin = story.delayed(100);
    story.move_timer(origin, 200, 300);
    assert_eq!(story.waiting(), (vec![300], 0));
    story.timers.take_due(Timestamp(1_000), 10);
    story.publish(origin, 300);
    assert_eq!(story.waiting(), (Vec::new(), 0));
}

#[test]
fn a_transaction_whose_move_to_the_timer_was_lost_ends_with_whatever_ended_the_timer() {
    for end in 0..3 {
        let mut story = Story::new();
        let origin = story.prepared(200);
        let timers = match end {
            0 => {
                story.publish(origin, 200);
                vec![]
            }
            1 => {
                let (origin, pending) = (origin.position, Pending::Timer { due: Timestamp(200) });
                story.apply(Record::Fact(Fact::Retire { origin, pending }));
                vec![]
            }
            _ => {
                story.move_timer(origin, 200, 300);
                vec![300]
            }
        };
        assert_eq!(story.waiting(), (timers, 0));
        assert_eq!(story.views.transactions.lock().outcome(origin.position), Some(Outcome::Committed));
    }
}

#[test]
fn strays_are_found_among_timers_that_came_and_went_since_the_first() {
    let mut story = Story::new();
    let [first, second, third] = [100, 101, 102].map(|due| story.delayed(due));
    story.publish(first, 900);
    let fourth = story.delayed(103);
    assert_eq!(story.waiting().0.len(), 3);
    for (origin, offset) in [(second, 1), (third, 2), (fourth, 3)] {
        let (visible_since, why) = (Timestamp(1), Why::Due { due: Timestamp(901) });
        let offset = QueueOffset(offset);
        story.apply(Record::Publish { origin, head: HEAD, queue: Q, offset, visible_since, why });
    }
    assert_eq!(story.waiting(), (Vec::new(), 0));
}
