//! Stories of records that do not fit what is there: what was purged, what is not sent yet, what damage took.

use base::{GroupName, QueueIndex, QueueOffset, TopicName};

use super::*;
use crate::record::FilterSpec;
use crate::view::catalog::{BackoffSpec, GroupSpec, OrderSpec, TopicKind, TopicSpec};

const TOPIC: TopicId = TopicId(0);
const GROUP: GroupId = GroupId(0);
const Q: QueueIndex = QueueIndex(0);
const HEAD: Head = Head { topic: TOPIC, tag_hash: 0, group_hash: 0, priority: 0 };

/// A topic with one queue, a group that reads it from the first message on, and the records that follow.
struct Story {
    views: Views,
    next: u64,
}

impl Story {
    fn new() -> Self {
        let mut story = Self { views: Views::default(), next: 4096 };
        let created_at = Timestamp(1);
        story.apply(Record::Topic(TopicSpec {
            id: TOPIC,
            name: TopicName::parse("t").expect("legal"),
            kind: TopicKind::Mixed,
            queues: 1,
            created_at,
            is_dropped: false,
        }));
        story.apply(Record::Group(GroupSpec {
            id: GROUP,
            name: GroupName::parse("g").expect("legal"),
            order: OrderSpec::Auto,
            attempts_max: 3,
            backoff: BackoffSpec::Steps(Vec::new()),
            invisible: std::time::Duration::from_secs(30),
            created_at,
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
