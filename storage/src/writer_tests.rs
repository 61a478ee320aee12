//! What becomes of requests that meet in one group.

use base::time::ManualClock;
use base::{Chance, GroupId, GroupName, TopicName};
use parking_lot::Mutex;

use super::*;
use crate::disk::sim::SimDisk;
use crate::log::LogOptions;
use crate::record::AckRange;
use crate::request::ReplyTo;
use crate::store::{self, Reader, Recovered};
use crate::view::catalog::{BackoffSpec, GroupSpec, OrderSpec, TopicKind, TopicSpec};
use crate::view::timers::Bounds;

const GROUP: GroupId = GroupId(0);
const TOPIC: TopicId = TopicId(0);
const Q: QueueIndex = QueueIndex(0);

#[derive(Default)]
struct Answers(Mutex<Vec<Answer>>);

impl ReplySink for Answers {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        self.0.lock().append(answers);
    }
}

/// A store with one topic and one group.
struct Store {
    writer: Writer,
    reader: Reader,
}

impl Store {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let log = LogOptions { segment_bytes: 1 << 20, commit: CommitRule::OnSync };
        let options = store::Options { log, node: 1, tail_cache_bytes: 0, timers: Bounds::default() };
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let disk = Arc::new(SimDisk::new(1));
        let Recovered { writer, reader, .. } =
            store::recover(disk, options, clock, Chance::new(1), metrics).unwrap_or_else(|error| panic!("{error}"));
        let mut store = Self { writer, reader };
        let created_at = Timestamp(1_000_000);
        let topic = TopicSpec {
            id: TOPIC,
            name: TopicName::parse("orders").unwrap(),
            kind: TopicKind::Fifo,
            queues: 1,
            created_at,
            is_dropped: false,
            retention: None,
            retention_bytes: None,
        };
        let group = GroupSpec {
            id: GROUP,
            name: GroupName::parse("billing").unwrap(),
            order: OrderSpec::Auto,
            attempts_max: 3,
            backoff: BackoffSpec::Steps(vec![std::time::Duration::from_secs(1)]),
            invisible: std::time::Duration::from_secs(30),
            created_at,
            is_dropped: false,
        };
        let made = store.commit(vec![Request::CreateTopic(topic), Request::CreateGroup(group)]);
        assert!(matches!(&made[..], [Ok(Done::Topic { spec: topic, .. }), Ok(Done::Group { spec: group, .. })]
                if topic.id == TOPIC && group.id == GROUP));
        store
    }

    /// Commits these together.
    fn commit(&mut self, requests: Vec<Request>) -> Vec<Result<Done, AppendError>> {
        let sink = Arc::new(Answers::default());
        let mut submissions: Vec<Submission> = (0..)
            .zip(requests)
            .map(|(ticket, request)| Submission { request, reply: ReplyTo { sink: sink.clone(), ticket } })
            .collect();
        let deliveries = self.writer.commit(&mut submissions);
        deliveries.into_iter().flat_map(|delivery| delivery.answers).map(|answer| answer.result).collect()
    }

    fn floor(&self) -> QueueOffset {
        self.reader.progress(GROUP, TOPIC).lock().floor(Q)
    }
}

fn ack_of_the_first(operations: u64) -> Request {
    let acks = vec![AckRange { queue: Q, first: QueueOffset(0), count: 1 }];
    let settle = Change::Fact(Fact::Settle { group: GROUP, topic: TOPIC, acks, retries: Vec::new() });
    Request::Changes([Change::Expect { group: GROUP, topic: TOPIC, operations }, settle].into_iter().collect())
}

fn seek() -> Change {
    Change::Fact(Fact::Seek { group: GROUP, topic: TOPIC, queue: Q, to: QueueOffset(0), generation: 1 })
}

#[test]
fn what_was_decided_before_an_operators_record_does_not_follow_it() {
    let park = Change::Fact(Fact::Park { group: GROUP, topic: TOPIC, message_group: 7, is_on: true });
    let purge = Change::Fact(Fact::Purge { topic: TOPIC, queue: Q, below: QueueOffset(0) });
    for operation in [seek(), park, purge] {
        let mut store = Store::new();
        // The pair has progress, or a purge would not be about it.
        store.commit(vec![Request::one(seek())]);
        let answers = store.commit(vec![Request::one(operation.clone()), ack_of_the_first(1)]);
        assert!(matches!(answers[..], [Ok(_), Err(AppendError::Overtaken { .. })]), "{operation:?}: {answers:?}");
        let answers = store.commit(vec![ack_of_the_first(1)]);
        assert!(matches!(answers[..], [Err(AppendError::Overtaken { .. })]), "{operation:?}: {answers:?}");
        assert_eq!(store.floor(), QueueOffset(0));
        let answers = store.commit(vec![ack_of_the_first(2)]);
        assert!(matches!(answers[..], [Ok(_)]), "{operation:?}: {answers:?}");
        assert_eq!(store.floor(), QueueOffset(1));
    }
}

#[test]
fn what_comes_before_an_operators_record_in_its_group_is_not_overtaken() {
    let mut store = Store::new();
    let answers = store.commit(vec![ack_of_the_first(0), Request::one(seek())]);
    assert!(matches!(answers[..], [Ok(_), Ok(_)]), "{answers:?}");
    assert_eq!(store.floor(), QueueOffset(0), "the seek came after the ack");
}

#[test]
fn an_operators_record_that_was_refused_overtakes_nothing() {
    let mut store = Store::new();
    let nowhere = Change::Fact(Fact::Purge { topic: TopicId(99), queue: Q, below: QueueOffset(0) });
    let refused = Request::Changes([seek(), nowhere].into_iter().collect());
    let answers = store.commit(vec![refused, ack_of_the_first(0)]);
    assert!(matches!(answers[..], [Err(AppendError::TopicGone(_)), Ok(_)]), "{answers:?}");
}

#[test]
fn a_seek_goes_no_further_than_what_is_there() {
    let mut store = Store::new();
    let ahead =
        Change::Fact(Fact::Seek { group: GROUP, topic: TOPIC, queue: Q, to: QueueOffset(1_000), generation: 1 });
    store.commit(vec![Request::one(ahead)]);
    assert_eq!(store.floor(), QueueOffset(0), "what is sent next would count as acknowledged");
}

#[test]
fn a_seek_goes_no_further_back_than_what_is_there() {
    let mut store = Store::new();
    let head = Head { topic: TOPIC, tag_hash: 0, group_hash: 0, priority: 0 };
    let origin = Pointer { position: LogPosition(0), length: 1 };
    let why = Why::Redrive { group: GROUP };
    let publish = Change::Publish { origin, head, why };
    let purge = Change::Fact(Fact::Purge { topic: TOPIC, queue: Q, below: QueueOffset(2) });
    store.commit(vec![Request::Changes([publish.clone(), publish, purge, seek()].into_iter().collect())]);
    assert_eq!(store.floor(), QueueOffset(2), "nobody could ever acknowledge what was purged");
}
