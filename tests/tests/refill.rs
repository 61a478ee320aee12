//! A lane that is far behind in a real store: what it left out is found through the index files of sealed segments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use base::limits::{LANE_FOLLOWERS_MAX, REFILL_WALKED_MAX};
use base::{
    Backoff, Chance, GroupId, GroupName, GroupOrder, ManualClock, QueueIndex, QueueOffset, Timestamp, TopicId,
    TopicName,
};
use broker::api::Language;
use broker::filter::Filter;
use broker::subscription::core::Core;
use broker::subscription::{
    Alive, Effect, Event, Handout, Now, Pair, Poll, Queues, Settings, Settle, Slot, Source, Stretch, Verdict,
};
use storage::disk::sim::SimDisk;
use storage::index;
use storage::log::{CommitRule, LogOptions};
use storage::lookup::Wanted;
use storage::message::{BodyPart, Envelope, MessageKind};
use storage::metrics::Metrics;
use storage::record::{AckRange, Fact, FilterSpec, Head};
use storage::request::{Answer, BodyKind, Change, Done, NewBody, ReplySink, ReplyTo, Request, Submission};
use storage::store::{self, Recovered};
use storage::view::catalog::{GroupSpec, TopicKind, TopicSpec};
use storage::view::queue::{Bounds, Entry};

/// As a new store numbers them.
const PAIR: Pair = Pair { group: GroupId(0), topic: TopicId(0) };
const Q: QueueIndex = QueueIndex(0);
const START: Timestamp = Timestamp(1_000_000);
/// So many messages of another group lie between those of the one that waits.
const APART: u64 = 100;
const MEMBERS: u64 = 2 * LANE_FOLLOWERS_MAX as u64;

struct Everybody;

impl Alive for Everybody {
    fn is_alive(&self, _: &str) -> bool {
        true
    }
}

struct Silent;

impl ReplySink for Silent {
    fn deliver(&self, _: &mut Vec<Answer>) {}
}

/// Counts the entries that a subscription is given.
struct Counted {
    queues: Queues,
    entries: Arc<AtomicU64>,
}

impl Source for Counted {
    fn queues(&self) -> usize {
        self.queues.queues()
    }

    fn bounds(&self, queue: QueueIndex) -> Bounds {
        self.queues.bounds(queue)
    }

    fn read(&self, from: QueueOffset, queue: QueueIndex, max: usize, out: &mut Vec<Entry>) -> QueueOffset {
        let before = out.len();
        let first = self.queues.read(from, queue, max, out);
        self.entries.fetch_add((out.len() - before) as u64, Relaxed);
        first
    }

    fn entry(&self, slot: Slot) -> Option<Entry> {
        self.queues.entry(slot)
    }

    fn members(&self, queue: QueueIndex, wanted: &Wanted) -> Stretch {
        let stretch = self.queues.members(queue, wanted);
        self.entries.fetch_add(stretch.entries.len() as u64, Relaxed);
        stretch
    }
}

/// A store, and one subscription; its clock stands still.
struct Story {
    disk: SimDisk,
    parts: Recovered,
    core: Core,
    entries: Arc<AtomicU64>,
    now: Now,
    polls: u64,
}

fn commit(parts: &mut Recovered, request: Request) -> Done {
    let reply = ReplyTo { sink: Arc::new(Silent), ticket: 1 };
    let deliveries = parts.writer.commit(&mut vec![Submission { request, reply }]);
    let answer = deliveries.into_iter().flat_map(|delivery| delivery.answers).next();
    answer.expect("one request, one answer").result.expect("a healthy disk")
}

fn recover(disk: &SimDisk) -> Recovered {
    let log = LogOptions { segment_bytes: 256 << 10, commit: CommitRule::OnSync };
    let options = store::Options { log, node: 1, tail_cache_bytes: 0, timers: Default::default() };
    let metrics = Metrics::register(&prometheus::Registry::new()).expect("a fresh registry");
    let clock = Arc::new(ManualClock::at(START));
    store::recover(Arc::new(disk.clone()), options, clock, Chance::new(1), metrics).expect("a sound disk")
}

fn set_up(parts: &mut Recovered) {
    let name = TopicName::parse("orders").expect("legal");
    let topic = TopicSpec { id: PAIR.topic, ..TopicSpec::new(name, TopicKind::Fifo, 1, START) };
    let group = GroupSpec {
        id: PAIR.group,
        name: GroupName::parse("billing").expect("legal"),
        order: GroupOrder::Auto,
        attempts_max: 9,
        backoff: Backoff::Steps(vec![Duration::from_secs(1)]),
        invisible: Duration::from_secs(30),
        created_at: START,
        changed_at: START,
        is_dropped: false,
    };
    commit(parts, Request::CreateTopic(topic));
    commit(parts, Request::CreateGroup(group));
    let Pair { group, topic } = PAIR;
    let filter = FilterSpec { is_sql: false, expression: "*".into() };
    commit(parts, Request::one(Change::Fact(Fact::Subscribe { group, topic, start: Vec::new(), filter })));
}

/// Each message of group "hot", and those behind it of another group, which are done.
fn fill(parts: &mut Recovered) {
    let key = *parts.reader.hash_key();
    let message = |number: u64| {
        let name = if number == 0 { "hot" } else { "other" };
        let envelope = Envelope {
            message_group: Some(name.into()),
            ..Envelope::new(MessageKind::Fifo, number.to_string(), START, "host".into())
        };
        let head = Head { topic: PAIR.topic, tag_hash: 0, group_hash: key.message_group(name), priority: 0 };
        let part = BodyPart::encode(&envelope, &[7; 200]);
        Change::Body(NewBody { head, kind: BodyKind::Visible, part })
    };
    for member in 0..MEMBERS {
        commit(parts, Request::Changes((0..APART).map(message).collect()));
        let acks = vec![AckRange { queue: Q, first: QueueOffset(member * APART + 1), count: APART - 1 }];
        let Pair { group, topic } = PAIR;
        commit(parts, Request::one(Change::Fact(Fact::Settle { group, topic, acks, retries: Vec::new() })));
    }
    let applied = parts.writer.log().positions().applied;
    while parts.upkeep.seal(applied).expect("room") {}
}

impl Story {
    /// The first message of the group is out, and the queue is read to its end.
    fn new() -> Self {
        let disk = SimDisk::new(1);
        let mut parts = recover(&disk);
        set_up(&mut parts);
        fill(&mut parts);
        let settings = Settings {
            is_ordered: true,
            attempts_max: 9,
            backoff: Backoff::Steps(vec![Duration::from_secs(1)]),
            invisible: Duration::from_secs(30),
            in_flight_max: 1_000,
        };
        let now = Now { wall: START, tick: 5_000 };
        let topic = parts.reader.catalog().topic_by_id(PAIR.topic).expect("just made").clone();
        let queues = Queues { topic, hash_key: *parts.reader.hash_key() };
        let entries = Arc::default();
        let source = Box::new(Counted { queues, entries: Arc::clone(&entries) });
        let progress = parts.reader.progress(PAIR.group, PAIR.topic);
        let core = Core::new(PAIR, settings, Filter::All, source, progress, 1, now);
        let mut story = Self { disk, parts, core, entries, now, polls: 0 };
        let first = story.poll(1);
        assert_eq!(offsets(&first), [0]);
        assert!(story.poll(32).is_empty(), "the lane is closed, and everything else is done");
        assert_eq!(story.entries.load(Relaxed), MEMBERS * APART, "once each");
        story.settle(&first);
        story
    }

    fn tell(&mut self, event: Event) -> Vec<Handout> {
        self.core.handle(event, self.now);
        let mut delivered = Vec::new();
        loop {
            let effects = self.core.finish(self.now, &Everybody);
            if effects.is_empty() {
                return delivered;
            }
            for effect in effects {
                match effect {
                    Effect::Append { ticket, changes } => {
                        let changes = changes.into_iter().filter(|change| !matches!(change, Change::Expect { .. }));
                        let done = commit(&mut self.parts, Request::Changes(changes.collect()));
                        self.core.handle(Event::Answer(ticket, Ok(done)), self.now);
                    }
                    Effect::Deliver { messages, .. } => delivered.extend(messages),
                    Effect::Fetch { ticket, .. } => self.core.handle(Event::Fetched(ticket, Vec::new()), self.now),
                    Effect::Settled { result, .. } => assert_eq!(result, Ok(())),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// What there is now.
    fn poll(&mut self, messages_max: usize) -> Vec<Handout> {
        self.polls += 1;
        let poll = Poll {
            client: "a".into(),
            language: Language::Java,
            messages_max,
            bytes_max: base::limits::RECEIVE_BYTES_MAX,
            invisible: None,
            attempt_id: None,
            until: u64::MAX,
        };
        let delivered = self.tell(Event::Poll(self.polls, poll));
        self.tell(Event::CancelPoll(self.polls));
        delivered
    }

    fn settle(&mut self, messages: &[Handout]) {
        for message in messages {
            let settle = Settle { client: "a".into(), receipt: message.receipt, verdict: Verdict::Ack };
            self.tell(Event::Settle(1, settle));
        }
    }

    /// Takes and acknowledges until nothing comes.
    fn take_all(&mut self) -> Vec<u64> {
        let mut got = Vec::new();
        loop {
            let messages = self.poll(32);
            if messages.is_empty() {
                return got;
            }
            got.extend(offsets(&messages));
            self.settle(&messages);
        }
    }
}

fn offsets(messages: &[Handout]) -> Vec<u64> {
    messages.iter().map(|message| message.receipt.offset.0).collect()
}

fn members(numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.map(|number| number * APART).collect()
}

#[test]
fn a_lane_is_refilled_across_sealed_segments_without_walking_them() {
    let mut story = Story::new();
    let segments = story.parts.writer.views().index.indexes().len();
    assert!(segments >= 10, "{segments} segments are sealed");
    let (entries, reads) = (story.entries.load(Relaxed), story.disk.reads().count);
    assert_eq!(story.take_all(), members(1..MEMBERS));
    let entries = story.entries.load(Relaxed) - entries;
    assert!(entries < REFILL_WALKED_MAX + MEMBERS, "{entries} entries");
    let reads = story.disk.reads().count - reads;
    assert!(reads < 16 * segments as u64, "{reads} blocks of {segments} segments");
}

#[test]
fn a_lane_waits_for_a_damaged_index_and_nothing_is_missing_when_it_is_made_anew() {
    let mut story = Story::new();
    let bases: Vec<_> = story.parts.writer.views().index.indexes().iter().map(|index| index.base()).collect();
    // In the midst of what the lane has left out.
    let name = index::name(bases[bases.len() * 3 / 4]);
    let blocks = story.disk.content(&name).expect("it is there").len() as u64 / 4096;
    for block in 1..blocks {
        assert!(story.disk.flip(&name, block * 4096 + 1, 0));
    }
    let mut got = story.take_all();
    assert!(got.len() as u64 >= LANE_FOLLOWERS_MAX as u64 && (got.len() as u64) < MEMBERS - 1, "{} came", got.len());
    assert_eq!(story.parts.upkeep.mend_indexes().expect("room"), 1);
    story.tell(Event::Ring);
    got.extend(story.take_all());
    assert_eq!(got, members(1..MEMBERS));
}
