//! What becomes of requests that meet in one group.

use base::time::ManualClock;
use base::{Backoff, Chance, GroupId, GroupName, GroupOrder, TopicName};
use parking_lot::Mutex;

use super::*;
use crate::disk::sim::SimDisk;
use crate::log::LogOptions;
use crate::record::AckRange;
use crate::request::{ReplyTo, TopicChange};
use crate::store::{self, Reader, Recovered};
use crate::view::catalog::{GroupSpec, TopicKind, TopicSpec};
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
    disk: Arc<SimDisk>,
    writer: Writer,
    reader: Reader,
}

fn topic(name: &str, kind: TopicKind) -> TopicSpec {
    TopicSpec { id: TOPIC, ..TopicSpec::new(TopicName::parse(name).unwrap(), kind, 1, Timestamp(1_000_000)) }
}

impl Store {
    fn on(disk: Arc<SimDisk>) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let log = LogOptions { segment_bytes: 1 << 20, commit: CommitRule::OnSync };
        let options = store::Options { log, node: 1, tail_cache_bytes: 0, timers: Bounds::default() };
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let Recovered { writer, reader, .. } = store::recover(disk.clone(), options, clock, Chance::new(1), metrics)
            .unwrap_or_else(|error| panic!("{error}"));
        Self { disk, writer, reader }
    }

    fn new() -> Self {
        let mut store = Self::on(Arc::new(SimDisk::new(1)));
        let created_at = Timestamp(1_000_000);
        let topic = topic("orders", TopicKind::Fifo);
        let group = GroupSpec {
            id: GROUP,
            name: GroupName::parse("billing").unwrap(),
            order: GroupOrder::Auto,
            attempts_max: 3,
            backoff: Backoff::Steps(vec![std::time::Duration::from_secs(1)]),
            invisible: std::time::Duration::from_secs(30),
            created_at,
            changed_at: created_at,
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

const PLAIN: TopicId = TopicId(1);

fn publish_to(topic: TopicId) -> Request {
    let head = Head { topic, tag_hash: 0, group_hash: 0, priority: 0 };
    let origin = Pointer { position: LogPosition(0), length: 1 };
    Request::one(Change::Publish { origin, head, why: Why::Redrive { group: GROUP } })
}

#[test]
fn changes_of_a_topic_add_up_in_one_group_and_survive_a_restart() {
    let mut store = Store::new();
    store.commit(vec![Request::CreateTopic(topic("plain", TopicKind::Normal))]);
    let day = std::time::Duration::from_secs(86_400);
    let more = TopicChange { queues: Some(3), ..TopicChange::default() };
    let longer = TopicChange { retention: Some(Some(day)), ..TopicChange::default() };
    let smaller = TopicChange { retention_bytes: Some(Some(7)), ..TopicChange::default() };
    let changes = [more, longer, smaller].map(|change| Request::ChangeTopic(PLAIN, change));
    let created = Request::CreateTopic(topic("plain", TopicKind::Normal));
    let answers = store.commit(changes.into_iter().chain([created]).collect());
    let expected = TopicSpec {
        id: PLAIN,
        queues: 3,
        retention: Some(day),
        retention_bytes: Some(7),
        // The clock stands still, and each change is newer than the one before.
        changed_at: Timestamp(1_000_003),
        ..topic("plain", TopicKind::Normal)
    };
    for answer in &answers[2..] {
        assert!(matches!(answer, Ok(Done::Topic { spec, is_new: false }) if *spec == expected), "{answer:?}");
    }
    let unset = TopicChange { retention: Some(None), ..TopicChange::default() };
    store.commit(vec![Request::ChangeTopic(PLAIN, unset)]);
    let again = Store::on(store.disk.clone());
    let catalog = again.reader.catalog();
    let found = catalog.topic_by_id(PLAIN).unwrap();
    assert_eq!(found.spec, TopicSpec { retention: None, changed_at: Timestamp(1_000_004), ..expected });
    assert_eq!(found.queues.len(), 3);
}

#[test]
fn messages_behind_a_change_in_its_group_go_to_the_new_queues() {
    let mut store = Store::new();
    store.commit(vec![Request::CreateTopic(topic("plain", TopicKind::Normal)), publish_to(PLAIN)]);
    let more = TopicChange { queues: Some(2), ..TopicChange::default() };
    store.commit(vec![publish_to(PLAIN), Request::ChangeTopic(PLAIN, more), publish_to(PLAIN), publish_to(PLAIN)]);
    store.commit(vec![publish_to(PLAIN), publish_to(PLAIN)]);
    let catalog = store.reader.catalog();
    let next: Vec<u64> = catalog.topic_by_id(PLAIN).unwrap().queues.iter().map(|queue| queue.bounds().next.0).collect();
    assert_eq!(next.iter().sum::<u64>(), 5, "the first one found no topic: {next:?}");
    assert_eq!(next[1], 2);
}

#[test]
fn queues_only_grow_and_only_where_order_does_not_follow_from_their_number() {
    let mut store = Store::new();
    store.commit(vec![Request::CreateTopic(topic("plain", TopicKind::Normal))]);
    let queues = |queues| TopicChange { queues: Some(queues), ..TopicChange::default() };
    for (id, asked) in [(TOPIC, 2), (TOPIC, 0), (PLAIN, 0)] {
        let answers = store.commit(vec![Request::ChangeTopic(id, queues(asked))]);
        assert!(matches!(answers[..], [Err(AppendError::QueuesStay { queues: 1, .. })]), "{answers:?}");
    }
    let answers =
        store.commit(vec![Request::ChangeTopic(TOPIC, queues(1)), Request::ChangeTopic(TopicId(9), queues(1))]);
    assert!(matches!(answers[..], [Ok(_), Err(AppendError::TopicGone(_))]), "{answers:?}");
}

fn theirs(changed_at: u64, queues: u16) -> TopicSpec {
    TopicSpec { queues, changed_at: Timestamp(changed_at), ..topic("plain", TopicKind::Normal) }
}

fn dropped(changed_at: u64) -> TopicSpec {
    TopicSpec { is_dropped: true, ..theirs(changed_at, 1) }
}

impl Store {
    /// Whether something is made of what another broker says.
    fn adopt(&mut self, spec: TopicSpec) -> bool {
        match self.commit(vec![Request::AdoptTopic(spec)]).pop() {
            Some(Ok(Done::Topic { is_new, .. })) => is_new,
            other => panic!("{other:?}"),
        }
    }

    /// Queues and the time of the last change.
    fn plain(&self) -> Option<(u16, u64)> {
        let name = TopicName::parse("plain").unwrap();
        self.reader.catalog().topic(&name).map(|topic| (topic.spec.queues, topic.spec.changed_at.0))
    }

    fn buried(&self, kind: TopicKind) -> Option<u64> {
        self.reader.catalog().topic_buried(&TopicName::parse("plain").unwrap(), kind).map(|at| at.0)
    }
}

#[test]
fn what_another_broker_says_of_a_topic_holds_unless_what_is_known_is_newer() {
    let mut store = Store::new();
    assert!(store.adopt(theirs(500_000, 2)));
    assert!(!store.adopt(theirs(500_000, 2)), "it is so already");
    assert!(!store.adopt(theirs(400_000, 9)) && !store.adopt(dropped(400_000)), "that is older");
    assert!(store.adopt(theirs(600_000, 1)));
    assert_eq!(store.plain(), Some((2, 600_000)), "queues only become more");
    assert!(store.adopt(dropped(600_000)), "of equally new words the drop holds");
    assert_eq!((store.plain(), store.buried(TopicKind::Normal)), (None, Some(600_000)));
    assert!(!store.adopt(dropped(600_000)) && !store.adopt(theirs(600_000, 1)), "a broker that was away brings it");
    assert!(store.adopt(theirs(600_001, 1)), "it was made anew");
    assert_eq!((store.plain(), store.buried(TopicKind::Normal)), (Some((1, 600_001)), None));

    let delay = |is_dropped| TopicSpec { kind: TopicKind::Delay, is_dropped, ..theirs(700_000, 1) };
    assert!(!store.adopt(delay(false)), "one name, one topic");
    assert!(store.adopt(delay(true)) && !store.adopt(delay(true)));
    assert_eq!((store.plain(), store.buried(TopicKind::Delay)), (Some((1, 600_001)), Some(700_000)));
    let again = Store::on(store.disk.clone());
    assert_eq!((again.plain(), again.buried(TopicKind::Delay)), (Some((1, 600_001)), Some(700_000)));
}

#[test]
fn what_is_said_here_is_newer_than_all_that_was_said_before_wherever_clocks_stand() {
    let (now, far) = (1_000_000, 9_000_000);
    let mut store = Store::new();
    assert!(store.adopt(dropped(far)), "a topic that was never here");
    assert_eq!(store.buried(TopicKind::Normal), Some(far));
    store.commit(vec![Request::CreateTopic(theirs(now, 1))]);
    assert_eq!(store.plain(), Some((1, far + 1)));
    let id = store.reader.catalog().topic(&TopicName::parse("plain").unwrap()).unwrap().spec.id;
    store.commit(vec![Request::ChangeTopic(id, TopicChange { queues: Some(2), ..TopicChange::default() })]);
    assert_eq!(store.plain(), Some((2, far + 2)));
    store.commit(vec![Request::DropTopic(id), Request::CreateTopic(theirs(now, 1))]);
    assert_eq!(store.plain(), Some((1, far + 4)), "in one group, too");
    assert_eq!(store.buried(TopicKind::Normal), None);
}

#[test]
fn words_of_other_brokers_that_share_a_group_follow_each_other() {
    let mut store = Store::new();
    let words = [theirs(5, 1), theirs(6, 3), dropped(6), theirs(6, 9), theirs(7, 2), dropped(5)];
    let answers = store.commit(words.map(Request::AdoptTopic).into());
    let made: Vec<bool> = answers.iter().map(|answer| matches!(answer, Ok(Done::Topic { is_new: true, .. }))).collect();
    assert_eq!(made, [true, true, true, false, true, false]);
    assert_eq!(store.plain(), Some((2, 7)));
    let next = store.reader.catalog().next_topic();
    assert_eq!(next, TopicId(TOPIC.0 + 3), "one that was dropped does not come back under its number");
    let again = Store::on(store.disk.clone());
    assert_eq!((again.plain(), again.reader.catalog().next_topic()), (Some((2, 7)), next));
}

#[test]
fn what_another_broker_says_of_a_group_holds_unless_what_is_known_is_newer() {
    let mut store = Store::new();
    let known = GroupSpec::clone(store.reader.catalog().group_by_id(GROUP).unwrap());
    let theirs = |changed_at: u64, attempts_max, is_dropped| {
        let changed_at = Timestamp(changed_at);
        Request::AdoptGroup(GroupSpec { id: GroupId(77), attempts_max, changed_at, is_dropped, ..known.clone() })
    };
    let now = known.changed_at.0;
    let older = store.commit(vec![theirs(now - 1, 9, false), theirs(now - 1, 9, true)]);
    assert!(older.iter().all(|answer| matches!(answer, Ok(Done::Group { is_new: false, .. }))), "{older:?}");
    store.commit(vec![theirs(now + 1, 9, false), Request::CreateGroup(known.clone())]);
    let attempts = |store: &Store| store.reader.catalog().group_by_id(GROUP).map(|group| group.attempts_max);
    assert_eq!(attempts(&store), Some(9), "with the number that it has here");
    store.commit(vec![theirs(now + 2, 9, true), theirs(now + 2, 5, false)]);
    assert_eq!((attempts(&store), store.reader.catalog().groups().count()), (None, 0));
    assert_eq!(store.reader.catalog().group_buried(&known.name), Some(Timestamp(now + 2)));
    store.commit(vec![Request::CreateGroup(known.clone())]);
    let again = Store::on(store.disk.clone());
    let made = again.reader.catalog().group(&known.name).cloned().unwrap();
    assert_eq!((made.changed_at.0, again.reader.catalog().buried_groups().count()), (now + 3, 0));
    store.commit(vec![Request::DropGroup(made.id)]);
    assert_eq!(store.reader.catalog().group_buried(&known.name), Some(Timestamp(now + 4)));
}
