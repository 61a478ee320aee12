//! A store that holds a record of every kind, and of every variant inside.

use std::sync::Arc;
use std::time::Duration;

use base::{
    Backoff, Chance, GroupId, GroupName, GroupOrder, LogPosition, ManualClock, QueueIndex, QueueOffset, Timestamp,
    TopicId, TopicName,
};
use storage::disk::sim::SimDisk;
use storage::log::{CommitRule, LogOptions};
use storage::message::{BodyPart, Envelope, MessageKind};
use storage::metrics::Metrics;
use storage::record::{
    AckRange, DeadLetterReason, Fact, FilterSpec, Head, LeaseEntry, Pending, Pointer, RetryEntry, ScheduleSpec, Why,
};
use storage::request::{Answer, BodyKind, Change, Done, NewBody, Placed, ReplySink, ReplyTo, Request, Submission};
use storage::store::{self, Recovered};
use storage::view::catalog::{GroupSpec, TopicKind, TopicSpec};
use storage::view::transactions::Outcome;

pub const DUE: Timestamp = Timestamp(1_800_000_000_000);
const LATER: Timestamp = Timestamp(DUE.0 + 5);
const GROUP: GroupId = GroupId(0);
const TOPIC: TopicId = TopicId(0);
const LETTERS: TopicId = TopicId(1);
pub const OPTIONS: store::Options = store::Options {
    log: LogOptions { segment_bytes: 64 << 10, commit: CommitRule::OnSync },
    node: 9,
    tail_cache_bytes: 0,
    timers: storage::view::timers::DEFAULT_BOUNDS,
};

struct Silent;

impl ReplySink for Silent {
    fn deliver(&self, _: &mut Vec<Answer>) {}
}

/// A store that is written to, and opened again now and then.
pub struct Story {
    pub disk: SimDisk,
    pub clock: Arc<ManualClock>,
    pub running: Option<Recovered>,
    sent: u64,
}

impl Story {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
        let mut story = Self { disk: SimDisk::new(5), clock, running: None, sent: 0 };
        story.open();
        story
    }

    pub fn open(&mut self) {
        let metrics = Metrics::register(&prometheus::Registry::new()).expect("a fresh registry");
        let disk = Arc::new(self.disk.clone());
        let chance = Chance::new(3);
        self.running =
            Some(store::recover(disk, OPTIONS, self.clock.clone(), chance, metrics).expect("a healthy disk"));
    }

    fn ask_all(&mut self, requests: Vec<Request>) -> Vec<Done> {
        let sink: Arc<dyn ReplySink> = Arc::new(Silent);
        let reply = |ticket| ReplyTo { sink: sink.clone(), ticket };
        let mut batch: Vec<Submission> =
            requests.into_iter().zip(0..).map(|(request, n)| Submission { request, reply: reply(n) }).collect();
        let running = self.running.as_mut().expect("open");
        let deliveries = running.writer.commit(&mut batch);
        let through = running.writer.log().positions().applied;
        running.timer.apply(&running.writer.take_timer_events(), through);
        let answers = deliveries.into_iter().flat_map(|delivery| delivery.answers);
        answers.map(|answer| answer.result.expect("nothing is refused")).collect()
    }

    fn changes(&mut self, changes: Vec<Change>) -> Vec<Placed> {
        match self.ask_all(vec![Request::Changes(changes.into())]).pop() {
            Some(Done::Changed(placed)) => placed.to_vec(),
            other => panic!("changes were answered with {other:?}"),
        }
    }

    fn fact(&mut self, fact: Fact) {
        self.changes(vec![Change::Fact(fact)]);
    }

    fn body(&mut self, kind: BodyKind, group: Option<&str>, body: &[u8]) -> (Pointer, Head) {
        self.sent += 1;
        let key = *self.running.as_ref().expect("open").reader.hash_key();
        let (tag, group_hash) = (format!("tag {}", self.sent), group.map_or(0, |group| key.message_group(group)));
        let head = Head { topic: TOPIC, tag_hash: key.tag(&tag), group_hash, priority: (self.sent % 10) as u8 };
        let has_all = self.sent.is_multiple_of(2);
        let some = |text: &str| has_all.then(|| text.to_owned());
        let envelope = Envelope {
            kind: MessageKind::Priority,
            is_gzip: has_all,
            message_id: format!("id {}", self.sent),
            born_at: Timestamp(1_600_000_000_000 + self.sent),
            born_host: "höst".into(),
            tag: Some(tag),
            keys: vec!["one".into(), "two".into()],
            properties: vec![("ключ".into(), "значение".into()), ("empty".into(), String::new())],
            message_group: group.map(str::to_owned),
            deliver_at: has_all.then_some(DUE),
            trace_context: some("trace"),
            priority: has_all.then_some(3),
            lite_topic: some("lite"),
        };
        let part = BodyPart::encode(&envelope, body);
        let placed = self.changes(vec![Change::Body(NewBody { head, kind, part })]);
        (placed[0].pointer, head)
    }

    /// Topics and groups.
    fn make(&mut self) {
        let created_at = Timestamp(1_650_000_000_000);
        let topic = |name: &str, kind, queues| {
            let name = TopicName::parse(name).expect("legal");
            Request::CreateTopic(TopicSpec::new(name, kind, queues, created_at))
        };
        let steps = Backoff::Steps([1, 300].map(Duration::from_secs).into());
        let (first, max) = (Duration::from_millis(5), Duration::from_secs(9));
        let doubling = Backoff::Exponential { first, factor: 2, max };
        let group = |name: &str, order, backoff| {
            Request::CreateGroup(GroupSpec {
                id: GroupId(0),
                name: GroupName::parse(name).expect("legal"),
                order,
                attempts_max: 17,
                backoff,
                invisible: Duration::from_secs(60),
                created_at,
                changed_at: created_at,
                is_dropped: false,
            })
        };
        self.ask_all(vec![
            topic("topic", TopicKind::Mixed, 300),
            topic("%DLQ%group", TopicKind::DeadLetter, 1),
            topic("gone", TopicKind::Fifo, 2),
            group("group", GroupOrder::Always, steps),
            group("other", GroupOrder::Never, doubling),
        ]);
        self.ask_all(vec![Request::DropTopic(TopicId(2)), Request::DropGroup(GroupId(1))]);
    }

    /// Bodies, and whatever becomes of them.
    fn send(&mut self) {
        for length in [0, 1, 100, 9_000] {
            self.body(BodyKind::Visible, Some("order"), &vec![b'x'; length]);
            self.body(BodyKind::Visible, None, &vec![b'y'; length]);
        }
        let delayed: Vec<_> = (0..4).map(|_| self.body(BodyKind::Delayed { due: DUE }, None, b"delayed")).collect();
        let from = Pending::Timer { due: DUE };
        let [(fired, head), (moved, _), (recalled, _), _] = delayed[..] else { panic!("four were sent") };
        self.changes(vec![Change::Publish { origin: fired, head, why: Why::Due { due: DUE } }]);
        self.fact(Fact::Move { origin: moved, head, from, due: LATER });
        self.fact(Fact::Retire { origin: recalled.position, pending: from });
        let prepared = |due| BodyKind::Prepared { due, check_after_ms: 6_000, client: "client@1".into() };
        let ends = [None, None, Some(DUE), Some(DUE)].map(|due| self.body(prepared(due), None, b"prepared").0.position);
        for (origin, outcome) in ends.into_iter().zip([Outcome::Committed, Outcome::RolledBack, Outcome::Committed]) {
            self.ask_all(vec![Request::EndTransaction { origin, outcome }]);
        }
        self.publish(fired, head);
    }

    fn publish(&mut self, origin: Pointer, head: Head) {
        let letter = |attempts, reason| Change::Publish {
            origin,
            head: Head { topic: LETTERS, ..head },
            why: Why::DeadLetter { group: GROUP, attempts, reason },
        };
        self.changes(vec![
            letter(17, DeadLetterReason::Attempts),
            letter(1, DeadLetterReason::Forwarded),
            letter(0, DeadLetterReason::Operator),
            Change::Publish { origin, head, why: Why::Redrive { group: GROUP } },
        ]);
    }

    /// What groups and operators do.
    fn consume(&mut self) {
        let (group, topic) = (GROUP, TOPIC);
        let (queue, offset) = (QueueIndex(1), QueueOffset(0));
        let filter = |is_sql, expression: &str| FilterSpec { is_sql, expression: expression.into() };
        self.fact(Fact::Subscribe { group, topic, start: vec![(queue, offset)], filter: filter(false, "a || b") });
        self.fact(Fact::Subscribe { group, topic, start: Vec::new(), filter: filter(true, "a > 1") });
        let entries =
            vec![LeaseEntry { queue, offset, attempt: 1 }, LeaseEntry { queue: QueueIndex(299), offset, attempt: 300 }];
        let lease =
            |batch, until| Fact::Lease { group, topic, batch, client: "c".into(), until, entries: entries.clone() };
        self.fact(lease(u64::MAX, None));
        self.fact(lease(1, Some(LATER)));
        let acks = vec![AckRange { queue, first: offset, count: 1 }];
        let retries = vec![RetryEntry { queue: QueueIndex(2), offset, attempts: 2, next_visible: LATER }];
        self.fact(Fact::Settle { group, topic, acks, retries });
        self.fact(Fact::Seek { group, topic, queue, to: offset, generation: 7 });
        self.fact(Fact::Park { group, topic, message_group: u64::MAX, is_on: true });
        self.fact(Fact::Purge { topic, queue: QueueIndex(3), below: QueueOffset(1) });
        self.fact(Fact::Expire { topic, queue: QueueIndex(2), below: QueueOffset(1) });
        let schedule =
            |name: &str, is_dropped| ScheduleSpec { name: name.into(), is_dropped, content: [1, 2, 3].into() };
        self.fact(Fact::Schedule(schedule("nightly", false)));
        self.fact(Fact::Schedule(schedule("weekly", true)));
    }

    /// Everything that a store may hold, over several segments and openings, with batches that share a group and ends that
    /// were torn.
    pub fn live(&mut self) {
        self.make();
        for round in 0..4 {
            self.clock.advance_ms(1_000);
            self.send();
            self.consume();
            self.running.as_mut().expect("open").writer.mark().expect("a healthy disk");
            let create = |n: u64| {
                let name = TopicName::parse(&format!("topic-{round}-{n}")).expect("legal");
                let created_at = Timestamp(n);
                Request::CreateTopic(TopicSpec::new(name, TopicKind::Lite, 1, created_at))
            };
            self.disk.crash_after(1 + round % 2);
            let requests = (0..20).map(create);
            self.torn(requests.collect());
            self.disk.restart();
            self.open();
        }
    }

    /// A group whose write or sync the machine does not survive.
    fn torn(&mut self, requests: Vec<Request>) {
        let sink: Arc<dyn ReplySink> = Arc::new(Silent);
        let submit = |request| Submission { request, reply: ReplyTo { sink: sink.clone(), ticket: 0 } };
        let mut batch: Vec<Submission> = requests.into_iter().map(submit).collect();
        drop(self.running.as_mut().expect("open").writer.commit(&mut batch));
        self.running = None;
    }

    /// Its segments' files, oldest first.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let segments = self.running.as_ref().expect("open").writer.log().segments();
        let names =
            segments.load().iter().map(|segment| storage::log::segment::name(segment.header.base)).collect::<Vec<_>>();
        names.into_iter().map(|name| (name.clone(), self.disk.content(&name).expect("listed"))).collect()
    }

    /// A pointer as numbers.
    pub fn at(position: u64, length: u64) -> Pointer {
        Pointer { position: LogPosition(position), length: u32::try_from(length).expect("records are small") }
    }
}
